"""Empty stores for tests of runs."""

import uuid

import pytest

from engine.runs.store_mark import mark_store


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    """An empty store on each kind of filesystem that needs no server."""
    place = str(tmp_path) if request.param == "local" else f"memory://{uuid.uuid4().hex}"
    mark_store(place)
    return place


@pytest.fixture
def local(tmp_path):
    """An empty store in a folder, where files can be made old."""
    mark_store(str(tmp_path))
    return str(tmp_path)
