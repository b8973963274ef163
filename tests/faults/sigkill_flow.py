"""Fault: the process of a flow is killed (SIGKILL) at a random moment, again and again.

The same run is started anew until it is done. It must end with the bits of an undisturbed run, and
no record that was committed before a kill may be written again. All runs share one Prefect server;
each is a fork of one process, which has imported what takes seconds to import.
"""

import importlib
import os
import random
import signal
import time
from pathlib import Path
from typing import NamedTuple

from engine.recipes.files import load_recipe
from tests.helpers.machine.servers import PrefectServer
from tests.helpers.runs import tiny_recipe

SMALL = [*tiny_recipe.SMALL, "training.threads=1", "outer.num_steps=1"]
NUM_STAGES = 14
SLOW_IMPORTS = ["matplotlib.backends.backend_agg", "sklearn.datasets", "sympy", "flows.descent"]
"""What every run needs: imported before the forks, it takes three seconds off each."""

LOOKAHEAD = ["metaparameters.injection_step=4", "workers.lookahead=2"]
RUN_SECONDS = 3600
"""Longest wait for a run: so long that a busy machine cannot be taken for one that hangs."""


class Trial(NamedTuple):
    """What became of one run that was killed."""

    number: int
    """Of the trial."""

    kills: int
    """Processes killed while the run was not done; those that were done first do not count."""

    committed: list[int]
    """Stages that were committed at each kill."""

    finished: bool
    """Whether the last process was done."""

    same_bits: bool
    """Whether all references and the digest are those of the undisturbed run."""

    rewritten: int
    """Records that were there at a kill and were written again later."""

    @property
    def holds(self):
        """Whether nothing was lost, changed or done twice."""
        return self.finished and self.same_bits and self.rewritten == 0


def recipe(number):
    """Return the settings of a trial; every second one looks ahead, in one process."""
    return load_recipe("digits-selection", SMALL + (LOOKAHEAD if number % 2 else LOOKAHEAD[:1]))


def fork_run(number, store, environment):
    """Start the flow in a child process, and return its pid."""
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        temporary_settings,
    )

    from flows.descent import descent

    pid = os.fork()
    if pid:
        return pid
    try:
        log = os.open(f"{store}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(environment)
        # A heartbeat makes every run wait for a second at its end.
        settings = {
            PREFECT_API_URL: environment["PREFECT_API_URL"],
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
        }
        with temporary_settings(settings):
            record = descent(recipe(number), str(store))
        Path(f"{store}.done").write_text(record.model_dump_json(include={"digest", "iterates"}))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(0)  # what pytest or the parent would do at exit is theirs
    return 0


def wait(pid, seconds):
    """Wait for a child; return whether it ended by itself, and kill it if not."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return True
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


def kill_between(pid, store, moment, delay):
    """Kill a child some time after a number of stages is committed; return whether it was done."""
    end = time.monotonic() + RUN_SECONDS
    while len(records(store)) < moment and time.monotonic() < end:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return True
        time.sleep(0.002)
    return wait(pid, delay)


def records(store):
    """Return when each record of a committed stage was written; trajectories come and go."""
    return {
        path: path.stat().st_mtime_ns
        for path in Path(store).glob("stages/*/*/record.json")
        if path.parts[-3] != "replay"
    }


def once(number, store, environment, expected, draw):
    """Kill a run once or twice at random moments of its work, then let it finish."""
    seen, kills, committed, rewritten = {}, 0, [], 0
    for _ in range(draw.randint(1, 2)):
        if len(seen) == NUM_STAGES:
            break
        moment = draw.randrange(len(seen), NUM_STAGES)  # up to the last stage's work
        child = fork_run(number, store, environment)
        # A run that starts reads its data and what is there, and tries its twins: longer than most
        # stages take, and to be hit as well.
        if kill_between(child, store, moment, draw.uniform(0, 0.1 if moment > len(seen) else 2.5)):
            break
        now = records(store)
        rewritten += sum(now.get(path) != written for path, written in seen.items())
        seen, kills = now, kills + 1
        committed.append(len(now))
    done = Path(f"{store}.done")
    if not done.exists():
        wait(fork_run(number, store, environment), RUN_SECONDS)
    now = records(store)
    rewritten += sum(now.get(path) != written for path, written in seen.items())
    same = done.exists() and done.read_text() == expected
    return Trial(number, kills, committed, done.exists(), same, rewritten)


def trials(folder, count, seed=0):
    """Yield trials, all on one server; the first two runs of all are undisturbed."""
    draw = random.Random(seed)
    for name in SLOW_IMPORTS:
        importlib.import_module(name)
    with PrefectServer(folder) as server:
        expected = []
        for number in range(2):
            store = folder / f"undisturbed-{number}"
            if not wait(fork_run(number, store, server.environment), RUN_SECONDS):
                raise TimeoutError(Path(f"{store}.log").read_text())
            expected.append(Path(f"{store}.done").read_text())
            assert len(records(store)) == NUM_STAGES
        assert expected[0] == expected[1]  # looking ahead changes nothing
        for number in range(1, count + 1):
            yield once(number, folder / f"store-{number}", server.environment, expected[0], draw)
