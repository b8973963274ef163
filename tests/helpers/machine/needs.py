"""Packages that tests of an extra need, looked for without importing them in every worker."""

from importlib.util import find_spec

import pytest


def needs(package, reason):
    """Skip the test file that calls this where a package is not installed."""
    if find_spec(package) is None:
        pytest.skip(reason, allow_module_level=True)
