"""Build the package; the compiled ops are optional and join in when torch and a compiler are there."""

from setuptools import setup

setup()
