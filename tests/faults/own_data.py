"""Fault: a run on a stranger's data is killed (SIGKILL) in mid-run, resumed, and run on Dask.

Five questions about each of three kinds of data (``tests.helpers.data.own_data``): every run is
made in one process, made again and killed at a random moment, and made once more on Dask workers.
All three have to hold the same bits, and the report has to show the examples by what people call
them.
``python -m tests.faults.own_data`` tries all of them and writes the record of it.
"""

import argparse
import html
import importlib
import json
import os
import random
import re
import sys
import tempfile
import time
import traceback
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from tests.faults.sigkill_flow import RUN_SECONDS, wait
from tests.faults.sigkill_worker import Dask
from tests.helpers.data import own_data
from tests.helpers.machine.servers import PrefectServer
from tests.helpers.runs.tiny_recipe import as_options

SLOW_IMPORTS = {
    "photographs": ["PIL.Image"],
    "table": ["pyarrow.parquet", "sklearn.datasets"],
    "instructions": ["transformers", "tokenizers", "transformers.models.gpt2.modeling_gpt2"],
}
"""What runs need: imported before the forks, it takes some seconds off each."""

EXAMPLES = 3
"""Least number of examples that a report has to show by name."""

ALL = [(data, question) for data in own_data.PLAIN for question in own_data.QUESTIONS]
"""What the record is made of."""

EVERY = [
    (data, question) for data in own_data.MAKERS for question in own_data.questions_about(data)
]
"""The same, and strangers' code: see ``tests.helpers.data.own_code``."""


class Trial(NamedTuple):
    """What became of one question about one kind of data."""

    data: str
    """What it is about."""

    question: str
    """What was asked."""

    stages: int
    """Stages of the undisturbed run."""

    killed_at: int | None
    """Stages that were committed when the run was killed; none if it was done before that."""

    kept: bool
    """Whether no stage that was committed then was made again."""

    resumed: bool
    """Whether the resumed run has the bits of the undisturbed one."""

    dask: bool
    """Whether the run on Dask workers has them."""

    examples: int
    """Examples that the report shows by what people call them."""

    pictures: int
    """Pictures in the report; its figures are none."""

    @property
    def holds(self):
        """Whether all of it is as it has to be."""
        shown = self.examples >= EXAMPLES and (
            self.data not in own_data.WITH_PICTURES or self.pictures
        )
        return bool(self.killed_at and self.kept and self.resumed and self.dask and shown)


def fork(log, call):
    """Call a function in a child process, and return its pid; what it says is in the log."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        call()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # what pytest or the parent would do at exit is theirs


def runner(recipe, store, server, changes=()):
    """Return what runs a recipe, or lets a run go on, as the command line does."""

    def call():
        from prefect.settings import (
            PREFECT_API_URL,
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
            temporary_settings,
        )

        from flows.cli.app import app

        sets = as_options(changes)
        # The same user has started it here, so what the stored recipe names needs no confirmation.
        command = ["run"] if recipe.endswith(".yaml") else ["resume"]
        # A heartbeat makes every run wait for a second at its end.
        settings = {PREFECT_API_URL: server, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
        with temporary_settings(settings):
            app([*command, recipe, "--store", str(store), *sets], standalone_mode=False)

    return call


def finish(recipe, store, server, changes=()):
    """Run a recipe, or let a run go on, to its end."""
    log = f"{store}.log"
    child = fork(log, runner(recipe, store, server, changes))
    assert wait(child, RUN_SECONDS), Path(log).read_text()
    finished = list(Path(store).glob("runs/*/run.json"))
    assert len(finished) == 1, Path(log).read_text()
    return finished[0].parent


def kill_after(child, store, moment, delay):
    """Kill a run some time after so many stages are committed; return whether it was done."""
    end = time.monotonic() + RUN_SECONDS
    while len(attempts(store)) < moment and time.monotonic() < end:
        if os.waitpid(child, os.WNOHANG)[0]:
            return True
        time.sleep(0.03)  # a look costs as much as a small stage
    return wait(child, delay)


def bits(store):
    """Return what each committed stage holds, read without the engine: arrays and numbers."""
    import zarr

    found = {}
    for path in Path(store).glob("stages/*/*/record.json"):
        record, folder = json.loads(path.read_text()), path.parent
        arrays = {}
        for described in (folder / "attempts" / record["attempt"]).glob("*/zarr.json"):
            if json.loads(described.read_text())["node_type"] == "array":
                array = zarr.open_array(str(described.parent), mode="r")
                arrays[described.parent.name] = (array.dtype.str, array.shape, array[:].tobytes())
        own = {} if folder.parent.name == "preflight" else record["scalars"]  # it has seconds
        found[f"{folder.parent.name}/{folder.name}"] = record["ref"], own, arrays
    return {name: each for name, each in found.items() if not name.startswith("replay/")}


def attempts(store):
    """Return the attempt that each committed stage has."""
    return {
        str(path.parent): json.loads(path.read_text())["attempt"]
        for path in Path(store).glob("stages/*/*/record.json")
        if path.parts[-3] != "replay"
    }


def shown(report, data, path):
    """Return how many examples a report names, and how many pictures it has."""
    page = html.unescape(report.read_text().replace("<wbr>", ""))  # where a name may be broken
    words = " ".join(re.sub(r"<[^>]*>", " ", page).split())
    names = sum(name in words for name in own_data.NAMES[data](path))
    return names, len(re.findall(r"<img [^>]*data:image/png", page))


class Place(NamedTuple):
    """Where trials run."""

    folder: Path
    """Of their stores."""

    server: str
    """URL of the Prefect server's API."""

    dask: str
    """Address of the scheduler."""


def once(data, question, path, place, draw):
    """Run one question about some data: undisturbed, killed and resumed, and on Dask."""
    recipe = str(own_data.write_recipe(place.folder, data, question, path))
    names = ("quiet", "hit", "spread")
    quiet, hit, spread = (place.folder / f"{data}-{question}-{name}" for name in names)
    run = finish(recipe, quiet, place.server)
    expected = bits(quiet)

    moment = draw.randrange(1, len(expected) - 1)
    child = fork(f"{hit}.log", runner(recipe, hit, place.server))
    done = kill_after(child, hit, moment, draw.uniform(0, 0.1))
    before = attempts(hit)
    resumed = finish(run.name, hit, place.server)
    kept = attempts(hit).items() >= before.items()

    workers = ("workers.runner=dask", f"workers.address={place.dask}")
    finish(recipe, spread, place.server, workers)
    examples, pictures = shown(resumed / "report.html", data, path)
    return Trial(
        data, question, len(expected), None if done else len(before), kept,
        bits(hit) == expected, bits(spread) == expected, examples, pictures,
    )  # fmt: skip


def trials(folder, asked=None, seed=0):
    """Yield trials, all on one Prefect server and one pair of Dask workers."""
    asked = ALL if asked is None else asked
    for name in ["matplotlib.backends.backend_agg", "sympy", "zarr", "flows.registry"]:
        importlib.import_module(name)
    for data in dict.fromkeys(data for data, _ in asked):
        for name in SLOW_IMPORTS.get(data, ()):
            importlib.import_module(name)
    with ExitStack() as stack:
        server = stack.enter_context(PrefectServer(folder))
        workers = stack.enter_context(Dask(folder))
        draw, place = random.Random(seed), Place(folder, server.url, workers.address)
        paths = {data: own_data.MAKERS[data](folder) for data in {data for data, _ in asked}}
        for data, question in asked:
            yield once(data, question, paths[data], place, draw)


def row(trial):
    """Return a row of the record."""
    yes = {True: "yes", False: "**no**"}
    killed = "was done first" if trial.killed_at is None else f"{trial.killed_at} of {trial.stages}"
    pictures = f", {trial.pictures} pictures" if trial.pictures else ""
    return (
        f"| {trial.data} | {trial.question} | yes | {killed} | {yes[trial.kept]} | "
        f"{yes[trial.resumed]} | {yes[trial.dask]} | {trial.examples} named{pictures} |"
    )


def main():
    """Try all of it, and write the record."""
    from tests.bench.record import write_record

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--date", default=f"{datetime.now(UTC):%Y%m%d}")
    parser.add_argument("--only", nargs="*", default=[], help="data, or questions")
    options = parser.parse_args()
    asked = [each for each in EVERY if {*each} & {*options.only}] if options.only else ALL
    for data in {data for data, _ in asked}:
        if reason := own_data.why_not(data):
            parser.error(f"{data}: {reason}.")
    lines, holds = [], True
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        for trial in trials(Path(name), asked, options.seed):
            lines.append(row(trial))
            holds = holds and trial.holds
            sys.stdout.write(f"{lines[-1]}{'' if trial.holds else ' FAILS'}\n")
            sys.stdout.flush()
    if asked == ALL:
        command = "python -m tests.faults.own_data"
        write_record("own_data", TITLE, command, [*ABOUT, *HEAD, *lines], options.date)
    return 0 if holds else 1


TITLE = "Five questions about three kinds of a stranger's data"
ABOUT = [
    "Question: do all of them finish, killed and resumed and on Dask workers, with the same bits, "
    "and with reports that show the examples?",
    "",
    "Photographs are 103 of Debian's package `tuxpaint-stamps-default`, in four folders; the table "
    "is a Parquet file of 180 patients of scikit-learn's breast cancer study, with words, dates "
    "and missing values; the instructions are 100 questions about the standard library as JSON "
    "lines. Each is read by a problem that ships, without a line of Python; the recipes are in "
    "`tests/helpers/data/own_data.py`.",
    "Every run is made by `mgd run` in one process; made again, ended by SIGKILL at a random "
    "moment and let go on by `mgd resume`; and made on two Dask workers. Then all arrays and "
    "numbers of all stages are read without the engine and compared byte by byte, but for the "
    "preflight's, which holds seconds.",
    "",
]
HEAD = [
    "| data | question | finished | killed after so many stages | none made again "
    "| resumed: same bits | Dask: same bits | examples in the report |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
]


if __name__ == "__main__":
    os.environ.pop("PREFECT_API_URL", None)
    os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp()  # nothing of the user's
    raise SystemExit(main())
