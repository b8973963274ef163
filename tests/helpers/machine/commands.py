"""The command line on machines of their own, and what it leaves in a store."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.helpers.runs.tiny_recipe import SMALL, as_options


def mgd(home, *arguments):
    """Start a command on a machine of its own: another home, another server, another folder."""
    home.mkdir(exist_ok=True)
    names = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = names | {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli.app", *arguments],
        env=environment, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(child):
    """Wait for a command that must end well, and return its JSON object."""
    output, errors = child.communicate(timeout=580)
    assert child.returncode == 0, errors
    return json.loads(output.splitlines()[-1])


def run(home, store, *changes):
    options = as_options([*SMALL, *changes])
    return mgd(home, "run", *options, "--store", str(store), "--json")


def attempts(store):
    """Return which attempt committed each stage."""
    records = sorted(store.glob("stages/*/*/record.json"))
    return {path.parent.name: json.loads(path.read_text())["attempt"] for path in records}


def at_work(store, stage):
    """Return the key of a stage that is begun and not committed, or None."""
    begun = store.glob(f"stages/{stage}/*/leases/*.json")
    keys = [path.parents[1] for path in begun if not (path.parents[1] / "record.json").exists()]
    return keys[0].name if keys else None


# Segments of some seconds, so that a signal meets one.
LONG = ["outer.num_steps=1", "training.num_steps=800", "replay.steps_per_segment=400",
        "metaparameters.injection_step=750", "replay.arity=8", "training.threads=1",
        "preflight=advise"]  # fmt: skip
