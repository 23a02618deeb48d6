"""Small data shipped with the package."""
