"""What every test may rely on: the same random numbers in any order, and as much time as a busy machine takes."""

import os
import random
import tempfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

# A run of the suite must not depend on luck or on how busy the machine is. To look for new counterexamples:
# pytest --hypothesis-profile=default
settings.register_profile(
    "repeatable", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")


def pytest_configure(config):
    """Keep encoded words in a folder of this run: neither what lies in the user's cache nor another run may matter."""
    folder = tempfile.TemporaryDirectory()
    config.add_cleanup(folder.cleanup)
    os.environ["MMSEG_PLUGINS_CACHE"] = folder.name


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Seed before the fixtures, those of whole modules too, whichever tests ran before."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
