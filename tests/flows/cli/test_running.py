"""What a start says of a store that it cannot use."""

import pytest

from engine.errors import ConfigurationError, StoreUnavailableError
from engine.storage.places import RUN, run_file
from engine.storage.records import write_record
from flows.cli.running import _told_finished


def refused(names, store, error):
    """Return what is said of an error that a start meets."""
    with pytest.raises(type(error)) as found, _told_finished(names, store):
        raise error
    return str(found.value)


def test_runs_that_are_in_a_store_that_cannot_be_written_are_named(tmp_path):
    """Who starts a run again on a disk for reading wants to see what came of it."""
    store, error = str(tmp_path / "a store"), StoreUnavailableError("Cannot write.")
    for name in ("done-1", "done-2"):
        write_record(run_file(store, name, RUN), {"run": name})

    assert refused(["done-1", "new-1"], store, error) == (
        "Cannot write. What came of the run that is there is shown by `mgd show done-1 --store "
        f"'{store}'`."
    )
    assert "`mgd show done-2 " in refused(["done-1", "done-2"], store, error)
    assert refused(["new-1"], store, error) == "Cannot write."
    assert refused(["done-1"], "nonesuch://store", error) == "Cannot write."


def test_other_refusals_stay_as_they_are(tmp_path):
    """A recipe that is wrong is wrong whatever is in the store."""
    write_record(run_file(str(tmp_path), "done-1", RUN), {"run": "done-1"})

    assert refused(["done-1"], str(tmp_path), ConfigurationError("Wrong.")) == "Wrong."
