"""Certificates: an honest run passes, a number that was changed afterwards does not."""

import errno
import os
import shutil
import tempfile

import pytest

from engine.applications import verifying
from engine.applications.made_again import stages as made_again
from engine.applications.verifying import verify_run
from engine.errors import CheckpointCorruptError, ConfigurationError, StoreFullError
from engine.preflight.verdict import Verdict
from engine.problems.segments import segments
from engine.runs.certificates import read_certificate
from engine.runs.endings import sealed
from engine.stages import commits
from engine.storage.location import join
from engine.storage.places import run_folder
from engine.storage.records import read_bytes, read_record, write_record
from tests.helpers.runs.finished import finish
from tests.helpers.runs.forgery import forge, moved, settings

NAMES = ["train-segment", "reverse-segment", "central-difference"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One finished run of one outer step and one segment, so that there is one thing to draw."""
    store = str(tmp_path_factory.mktemp("store"))
    return store, finish(settings(), store)


@pytest.fixture
def own(finished, tmp_path):
    """A copy of it, to be changed."""
    store, record = finished
    shutil.copytree(store, tmp_path / "own")
    return str(tmp_path / "own"), record


def accept(store, record, gradient):
    """Let the record of the run name the forged gradient."""
    first = record.iterates[0].model_copy(update={"gradient": gradient})
    forged = record.model_copy(update={"iterates": [first, *record.iterates[1:]]})
    write_record(join(run_folder(store, record.run), "run.json"), forged.model_dump(mode="json"))


def test_an_honest_run_passes_and_keeps_its_certificate(own):
    """The same bits, a difference within rounding, and a file beside the result that says so."""
    store, record = own
    assert read_certificate(store, record.run) is None
    before = read_bytes(join(run_folder(store, record.run), "report.html")).decode()
    assert "Not verified yet" in before

    certificate = verify_run(store, "tiny", seed=5)

    assert certificate.verdict is Verdict.PASS
    assert [check.name for check in certificate.checks] == NAMES
    assert [check.value for check in certificate.checks[:2]] == [0, 0]
    difference = certificate.checks[2]
    assert difference.value < difference.limit < 1e-2
    assert (certificate.seed, certificate.outer_step) == (5, 0)
    assert certificate.segment == segments(settings())[0]
    assert read_certificate(store, record.run) == certificate
    assert read_certificate(store, record.run).environment["threads"] == 1
    page = read_bytes(join(run_folder(store, record.run), "report.html")).decode()
    assert "Verified at" in page
    assert "Not verified yet" not in page
    assert page.count("<svg ") == before.count("<svg ")


def test_a_changed_metagradient_is_refused(own):
    """Record, fingerprints and digest were rewritten to agree; the second run does not."""
    store, record = own
    gradient = forge(store, record.iterates[0].gradient, moved("metagradient_weights", 1e-12))
    accept(store, record, gradient)

    certificate = verify_run(store, record.run, seed=0)

    verdicts = {check.name: check.verdict for check in certificate.checks}
    assert certificate.verdict is Verdict.REFUSE
    assert verdicts["reverse-segment"] is Verdict.REFUSE
    assert verdicts["train-segment"] is Verdict.PASS
    found = next(check for check in certificate.checks if check.name == "reverse-segment")
    assert "element 3 of metagradient_weights was" in found.cause


def test_a_changed_metagradient_is_refused_by_the_difference_too(own):
    """Two trainings know nothing of the reverse sweep, and contradict it where it matters."""
    store, record = own
    gradient = forge(
        store,
        record.iterates[0].gradient,
        lambda rows: {
            **rows,
            "metagradient_weights": rows["metagradient_weights"].flip(0).neg(),
        },
    )
    accept(store, record, gradient)

    certificate = verify_run(store, record.run, seed=0)

    difference = certificate.checks[2]
    assert difference.verdict is Verdict.REFUSE
    assert difference.value > difference.limit
    assert "mgd check" in difference.remedy


def test_a_changed_state_is_refused_although_later_stages_name_the_old_one(own):
    """What the run says it was made from is compared with what is stored there now."""
    store, record = own
    forge(store, record.iterates[0].final, moved("exp_avg", 1e-12))

    certificate = verify_run(store, record.run, seed=0)

    verdicts = {check.name: check.verdict for check in certificate.checks}
    assert verdicts["train-segment"] is Verdict.REFUSE
    assert verdicts["reverse-segment"] is Verdict.REFUSE  # it was made from another end
    assert "what is stored there now has" in certificate.checks[1].cause
    assert "element 3 of exp_avg" in certificate.checks[0].cause
    assert read_certificate(store, record.run).verdict is Verdict.REFUSE


def test_a_run_of_another_machine_says_so(own):
    """Other bits are expected there; the certificate names the reason and not a forger."""
    store, record = own
    accept(
        store, record, forge(store, record.iterates[0].gradient, moved("metagradient_weights", 1))
    )
    elsewhere = record.environment | {"processor": "Another Processor 9000"}
    content = read_record(join(run_folder(store, record.run), "run.json"))
    write_record(
        join(run_folder(store, record.run), "run.json"),
        sealed({**content, "environment": elsewhere}),
    )

    certificate = verify_run(store, record.run, seed=0)

    assert "processor was Another Processor 9000" in certificate.checks[1].cause


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EIO])
def test_a_verdict_is_told_where_it_cannot_be_kept(number, own, monkeypatch):
    """A colleague's store may only be read; what was found took minutes, and holds."""
    store, record = own

    def refuse(*arguments):
        raise OSError(number, os.strerror(number), "certificate.json")

    monkeypatch.setattr(verifying, "write_record", refuse)

    certificate = verify_run(store, record.run, seed=5)

    assert certificate.verdict is Verdict.PASS
    assert store in certificate.unkept
    assert os.strerror(number) in certificate.unkept
    assert "unkept" not in certificate.model_dump()
    assert read_certificate(store, record.run) is None


def full(*arguments):
    """What a disk without room raises."""
    raise OSError(errno.ENOSPC, "No space left on device")


def full_store(*arguments):
    """What a stage makes of it."""
    raise StoreFullError("There is no space left in the store.")


@pytest.mark.parametrize(
    ("where", "write"),
    [("copy_folder", full), ("train_segment", full), ("train_segment", full_store)],
)
def test_no_room_for_what_is_made_again_is_none_in_the_temporary_folder(
    where, write, own, monkeypatch
):
    """The store was blamed, which `mgd clean` would have emptied."""
    store, record = own
    monkeypatch.setattr(made_again, where, write)

    with pytest.raises(StoreFullError, match="TMPDIR") as raised:
        verify_run(store, record.run, seed=5)

    assert f"left in {tempfile.gettempdir()}," in str(raised.value)
    assert "clean" not in str(raised.value)


def test_damage_is_no_verdict(own):
    """Rows that do not fit their record are found by every reader; there is nothing to certify."""
    store, record = own
    ref = record.iterates[0].final
    folder = commits.committed_rows(store, ref).url
    shutil.rmtree(join(folder, "params"))

    with pytest.raises(CheckpointCorruptError, match="mgd resume"):
        verify_run(store, record.run, seed=0)


def test_a_run_that_has_not_finished_is_not_verified(own):
    """There is no result that a certificate could stand beside."""
    store, record = own
    os.remove(join(run_folder(store, record.run), "run.json"))

    with pytest.raises(ConfigurationError, match="has not finished"):
        verify_run(store, record.run)
