"""A finished run of every kind, shown, cleaned with each option, and started again.

What keeps house must name no kind: a new one has to work here without a change there.
"""

import html
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engine.applications.kinds import read_finished
from engine.recipes.files import KINDS
from engine.runs.clean.clean_plan import CleanRules
from engine.runs.clean.cleaning import plan_clean
from engine.runs.clean.freeing import carry_out
from engine.runs.inventory import stored_run, stored_runs, take_inventory
from engine.storage.names import is_run_file
from engine.storage.places import MARK
from engine.storage.records import read_record
from flows.clean import clean
from flows.cli.app import app
from flows.registry import FLOWS
from tests.helpers.machine.measured_pages import NO_FAULTS, faults, open_browser, pages_on_paper
from tests.helpers.runs.kinds import recipe_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),  # the first test waits for a run of every kind
    pytest.mark.usefixtures("prefect_server"),
]

cli = CliRunner()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, prefect_server):
    """A store with a finished run of each kind, and their records."""
    store = str(tmp_path_factory.mktemp("store"))
    return store, {kind: FLOWS[kind](recipe_of(kind), store) for kind in KINDS}


@pytest.fixture
def store(finished, tmp_path):
    """A copy of it, without the times, as that of a bucket or of a backup."""
    copy = str(tmp_path / "store")
    shutil.copytree(finished[0], copy, copy_function=shutil.copyfile)
    return copy


def files(store):
    return {str(path.relative_to(store)) for path in Path(store).rglob("*") if path.is_file()}


def result(record):
    """Return what a run says, but for where its files are."""
    return [line for line in record.ending.summary if not line.startswith("Recipe: ")]


@pytest.mark.slow
def test_every_kind_ends_what_it_claimed_and_leaves_only_known_files(finished):
    """A file that the engine does not know for its own stays for ever."""
    store, records = finished

    found = take_inventory(store)

    assert [run.name for run in found.runs if not run.finished] == []
    assert found.foreign == []
    assert {record.run for record in records.values()} <= {run.name for run in found.runs}
    for record in records.values():
        run = stored_run(store, record.run)
        folder = Path(store, "runs", record.run)
        left = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
        assert all(map(is_run_file, left))
        assert run.claims
        assert record.ending.keeps
        assert record.ending.summary
        assert record.ending.computing_seconds > 0
        assert not list(folder.glob("starts/*"))
    named = {path for path in os.listdir(store)}
    assert named == {MARK, "stages", "runs"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_shown_with_what_it_took(finished, kind):
    """By the sentences that its own record has."""
    store, records = finished
    record = records[kind]

    shown = cli.invoke(app, ["show", record.run, "--store", store], env={"COLUMNS": "200"})
    told = json.loads(cli.invoke(app, ["show", record.run, "--store", store, "--json"]).stdout)

    assert shown.exit_code == 0
    assert record.ending.summary[0] in shown.stdout
    assert "of its own computing" in shown.stdout
    assert told["standing"] == "finished"
    assert told["work"]["spent"]["seconds"] == pytest.approx(record.seconds)
    assert told["work"]["spent"]["computing_seconds"] == record.ending.computing_seconds
    assert told["run"] == record.run


OPTIONS = {
    "nothing": {},
    "age": {"older_than_seconds": 30 * 86400},
    "count": {"keep": 100},
    "intermediate": {"intermediate": True},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_kind_keeps_what_its_result_needs(store, finished, option):
    """And loses nothing at all unless it is asked to."""
    before = files(store)
    notes = [Path(store, "runs", each.run, "notes.md") for each in finished[1].values()]
    for note in notes:
        note.write_text("mine")
        report = note.with_name("report.html")
        report.write_text(report.read_text() + "<!-- mine -->")

    rules = CleanRules(**OPTIONS[option], grace_seconds=0)
    carry_out(plan_clean(store, rules))

    assert all(note.read_text() == "mine" for note in notes)
    gone = before - files(store)
    assert bool(gone) == (option == "intermediate")
    for run in stored_runs(store):
        assert run.finished
        kept = [Path(store, "stages", name, "record.json") for name in run.ending.keeps]
        assert all(path.exists() for path in kept)
        assert Path(store, "runs", run.name, "report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_made_again_after_a_clean(store, finished, kind):
    """What was freed is computed again, with the same bits; a second time nothing is."""
    record = finished[1][kind]
    carry_out(plan_clean(store, CleanRules(intermediate=True, grace_seconds=0)))
    url = f"{store}/runs/{record.run}/run.json"

    again = FLOWS[kind](recipe_of(kind), store)
    made = read_record(url)
    page = Path(store, "runs", record.run, "report.html").read_bytes()
    FLOWS[kind](recipe_of(kind), store)
    repeated = read_record(url)

    assert result(again) == result(record)
    assert again.ending.table == record.ending.table
    assert again.ending.computing_seconds >= record.ending.computing_seconds
    assert [run.name for run in stored_runs(store) if not run.finished] == []
    for each in (made, repeated):
        each["ending"].pop("claims")
        each.pop("seal")  # of all of it, claims among it
    assert repeated == made
    assert Path(store, "runs", record.run, "report.html").read_bytes() == page


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_freed_by_name(store, finished, kind):
    """Nothing of it is left, and nothing of another run is gone."""
    record = finished[1][kind]
    others = [run for run in stored_runs(store) if run.name != record.run]

    asked = ["clean", "--store", store, "--run", record.run, "--yes", "--json"]
    told = json.loads(cli.invoke(app, asked).stdout)

    assert told["deleted"]
    assert not Path(store, "runs", record.run).exists()
    assert sorted(told["kept_runs"]) == sorted(run.name for run in others)
    assert all(stored_run(store, run.name).finished for run in others)
    for run in others:
        assert all(Path(store, "stages", n, "record.json").exists() for n in run.ending.keeps)


def test_the_scheduled_flow_cleans_a_store_with_every_kind(store, finished):
    """It runs at night, when nobody sees that it fails."""
    looked = clean(store, intermediate=True, grace_hours=0)
    freed = clean(store, intermediate=True, grace_hours=0, delete=True)

    assert looked.bytes == freed.bytes > 0
    assert len(freed.kept_runs) == len(stored_runs(store))
    gone = clean(store, keep=0, grace_hours=0, delete=True)
    assert gone.kept_runs == []
    assert files(store) == {MARK}


@pytest.mark.parametrize("name", ["", " ", "tiny", "*"])
def test_empty_and_partial_names_are_refused(store, name):
    """``mgd clean --run "$RUN" --yes`` with a variable that is not set."""
    before = files(store)

    cleaned = cli.invoke(app, ["clean", "--store", store, "--run", name, "--yes"])

    assert cleaned.exit_code == 2
    assert "--store" in cleaned.stderr
    assert files(store) == before


def test_resume_and_show_refuse_an_empty_name(store):
    """The beginning of every name is no name."""
    for command in ("resume", "show"):
        asked = cli.invoke(app, [command, "", "--store", store])
        assert asked.exit_code == 2
        assert "names no run" in asked.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_opened_as_the_object_that_it_was(finished, kind):
    """By its name alone; and what its result needs is in the store."""
    store, records = finished
    record = records[kind]

    found = read_finished(store, record.run)

    assert found == record
    refs = [f"{ref.stage}/{ref.key}" for ref in found.refs_to_keep(store)]
    assert set(refs) <= set(found.ending.keeps)
    assert all(Path(store, "stages", name, "record.json").exists() for name in refs)
    bulky = [name for name in found.ending.keeps if name.split("/")[0] in found.bulky]
    assert set(bulky) <= set(refs)


def test_a_clean_keeps_exactly_what_the_records_say(store):
    """A stage more would cost what nobody needs; one less would lose a result."""
    carry_out(plan_clean(store, CleanRules(intermediate=True, grace_seconds=0)))

    left = Path(store, "stages").glob("*/*/record.json")
    names = {str(path.parent.relative_to(f"{store}/stages")) for path in left}
    assert names == {name for run in stored_runs(store) for name in run.ending.keeps}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_tells_programs_and_people_the_same(finished, kind):
    """One JSON object with the same names for all; one page with the same order for all."""
    store, records = finished
    record = records[kind]

    content = record.content(store)
    page = Path(store, "runs", record.run, "report.html").read_text()

    assert content.keys() >= {"run", "recipe", "store", "seconds", "stages", "report"}
    json.dumps(content)
    assert Path(content["report"]).exists()
    titles = re.findall(r"\n<h2>([^<]+)</h2>", page)
    last = ["What it cost", "How sure it is", "How to repeat it, and what next"]
    assert (titles[0], titles[-3:]) == ("Settings of the run", last)
    assert len(titles) > 4
    assert html.escape(record.headline()).replace(" %", "\u00a0%") in page
    assert 1 <= len(record.numbers()) <= 3
    drawn = re.findall(r'<div class="on-(page|phone)" role="img" aria-label="[^"]{10,}"><svg', page)
    assert len(drawn) == page.count("<svg ") >= 2
    images = re.findall("<img[^>]*", page)
    assert all('alt="' in image and 'alt=""' not in image for image in images)
    # A report is mailed and read offline; the one address is the name of SVG.
    assert set(re.findall(r"https?://[^\"]*", page)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"url\((?!#)|@import|<script|<link", page)
    beside = {path.name for path in Path(store, "runs", record.run).iterdir()}
    assert set(record.ending.files) <= beside


@pytest.mark.servers  # a browser, whose fonts are those of the machine
@pytest.mark.parametrize("kind", KINDS)
def test_the_report_of_every_kind_is_read_on_a_screen_a_phone_and_paper(finished, kind):
    """No column is cut, no text is too small, and none lies over another, unfolded as well."""
    store, records = finished
    address = Path(store, "runs", records[kind].run, "report.html").as_uri()

    with open_browser() as page:
        found = faults(page, address)
        pages = pages_on_paper(page, address)

    assert found == NO_FAULTS
    assert pages <= 5
