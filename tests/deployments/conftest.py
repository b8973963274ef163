"""One site for each database, shared by the tests that deploy."""

import pytest

from tests.deployments.site import open_site

DATABASES = ["sqlite", "postgresql"]


@pytest.fixture(scope="session", params=DATABASES)
def site(request, tmp_path_factory):
    """A server on a database, its worker, its deployments and their store."""
    with open_site(tmp_path_factory.mktemp(request.param), request.param) as site:
        yield site
