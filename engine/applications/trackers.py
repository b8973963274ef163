"""Sends runs to experiment trackers: TensorBoard, MLflow, Weights & Biases, trackio.

A run of a store is read and sent as it stands, finished or not, once or again and again while it
goes on. So nothing that is sent, and no tracker that fails, can change what a stage makes or what
it is called.
"""

import os
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

from engine.errors import ConfigurationError, did_you_mean
from engine.extras import load
from engine.secret_urls import redacted, secret_in

if TYPE_CHECKING:
    from engine.applications.open_run import OpenRun

PROJECT = "metagradient-descent"
"""What runs are gathered under where nobody names a project."""


class Tracker(Protocol):
    """Takes one run. A new one is a class with these three, and a row in ``TRACKERS``."""

    def settings(self, values: Mapping[str, str]) -> None:
        """Take the settings of the run that differ from the defaults, by dotted key."""
        ...

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Take numbers by name; steps come in rising order, each once."""
        ...

    def close(self) -> None:
        """Write what has not been written yet."""
        ...


class TensorBoard:
    """Writes a folder of events, one folder for each run.

    What an earlier sending of the run has put there is hidden: TensorBoard reads all files of a
    folder as one run, and would show each number as often as it was sent.

    Args:
        place: Folder that ``tensorboard --logdir`` is given.
        run: Name of the run.
    """

    def __init__(self, place: str, run: str) -> None:
        load("tensorboard", "Writing for TensorBoard", _EXTRAS["tensorboard"])
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(os.path.join(place or _EVENTS, run), purge_step=0)

    def settings(self, values: Mapping[str, str]) -> None:
        """See ``Tracker``; shown as a text."""
        lines = [f"| {key} | {value} |" for key, value in values.items()]
        self._writer.add_text("settings", "\n".join(["| setting | value |", "|---|---|", *lines]))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """See ``Tracker``."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """See ``Tracker``."""
        self._writer.close()


class MLflow:
    """Makes a run in an experiment that is called like the project.

    Args:
        place: Tracking URI, e.g. ``sqlite:///mlflow.db`` or the address of a server; what MLflow's
            variables say if empty. A folder is taken by MLflow 2, and by MLflow 3 only where
            ``MLFLOW_ALLOW_FILE_STORE=true`` says so.
        run: Name of the run.
    """

    def __init__(self, place: str, run: str) -> None:
        tracking = load("mlflow.tracking", "Writing for MLflow", _EXTRAS["mlflow"])
        self._client = tracking.MlflowClient(tracking_uri=place or None)
        found = self._client.get_experiment_by_name(PROJECT)
        experiment = (
            self._client.create_experiment(PROJECT) if found is None else found.experiment_id
        )
        made = self._client.create_run(experiment, tags={"mlflow.runName": run})
        self._run = made.info.run_id

    def settings(self, values: Mapping[str, str]) -> None:
        """See ``Tracker``."""
        for key, value in values.items():
            self._client.log_param(self._run, _allowed(key), value[:500])

    def log(self, values: Mapping[str, float], step: int) -> None:
        """See ``Tracker``."""
        for name, value in values.items():
            self._client.log_metric(self._run, _allowed(name), value, step=step)

    def close(self) -> None:
        """See ``Tracker``."""
        self._client.set_terminated(self._run)


class LikeWandb:
    """Makes a run by the calls of Weights & Biases, which trackio has too.

    Args:
        package: ``wandb`` or ``trackio``.
        place: Name of the project; ``PROJECT`` if empty.
        run: Name of the run.
    """

    def __init__(self, package: str, place: str, run: str) -> None:
        self._module: Any = load(package, f"Writing for {package}", _EXTRAS[package])
        self._names = {"project": place or PROJECT, "name": run}
        self._run: Any = None  # not the package's current one, which trackio has for each thread
        with suppress(ImportError):
            # trackio looks whether a number is a figure, and leaves it out with a warning where
            # another thread, which draws the report, is about to load what figures are.
            import_module("matplotlib.figure")

    def settings(self, values: Mapping[str, str]) -> None:
        """See ``Tracker``."""
        self._run = self._module.init(**self._names, config=dict(values))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """See ``Tracker``."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """See ``Tracker``."""
        if self._run is not None:
            self._run.finish()


TRACKERS: dict[str, Callable[[str, str], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": lambda place, run: LikeWandb("wandb", place, run),
    "trackio": lambda place, run: LikeWandb("trackio", place, run),
}
"""Name of a tracker to what makes one of a place and the name of a run."""


_EVENTS = "runs"
"""Folder of events where none is named, which TensorBoard's own writer takes too."""

_EXTRAS = {"tensorboard": "tracking", "mlflow": None, "wandb": None, "trackio": None}
"""Package of a tracker to the extra that brings it."""


def whole_target(target: str) -> str:
    """Return a target with the place that is taken where none is named."""
    name, _, place = target.partition(":")
    named = {"tensorboard": _EVENTS, "wandb": PROJECT, "trackio": PROJECT}
    taken = place or named.get(name, "")
    return f"{name}:{taken}" if taken else name


def check_target(target: str) -> tuple[str, str]:
    """Return tracker and place of a target as it is typed, ``tensorboard:DIR`` or ``wandb``.

    Raises:
        ConfigurationError: If there is no such tracker, its package is not installed, or its
            address holds a secret.
    """
    name, _, place = target.partition(":")
    if name not in TRACKERS:
        raise ConfigurationError(
            f"{redacted(target)!r} is not a tracker. Use one of {', '.join(TRACKERS)}, with a "
            "place after a colon: tensorboard:DIR, mlflow:URI (such as "
            "mlflow:sqlite:///mlflow.db), wandb:PROJECT, trackio:PROJECT."
            + did_you_mean(name, TRACKERS)
        )
    secret = secret_in(place, is_place=True)
    if secret is not None:
        raise ConfigurationError(
            f"The address of the tracker {name} holds {secret}, and what is typed is kept by "
            "shells and shown in messages. Leave it out, and put it where the tracker looks for "
            "it, e.g. in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
        )
    if name in _EXTRAS and name not in sys.modules and find_spec(name) is None:
        load(name, f"Writing for {name}", _EXTRAS[name])
    return name, place


class Sending:
    """A run on its way to a tracker, in as many parts as there are looks at it.

    Args:
        target: As of ``check_target``.

    Attributes:
        number: How many numbers were sent.
    """

    def __init__(self, target: str) -> None:
        self._name, self._place = check_target(target)
        self._tracker: Tracker | None = None
        self._sent: dict[int, set[str]] = {}
        self.number = 0

    def send(self, run: "OpenRun") -> None:
        """Send what is new of a run since the last time: a number is sent once.

        Args:
            run: As it is now.

        Raises:
            ConfigurationError: If the tracker's package is not installed.
            Exception: Whatever that package raises.
        """
        from engine.reports.settings_rows import changed_rows

        steps = _by_step(run)
        if self._tracker is None:
            self._tracker = TRACKERS[self._name](self._place, run.name)
            self._tracker.settings({key: value for key, value, _ in changed_rows(run.recipe)})
        for step, values in sorted(steps.items()):
            sent = self._sent.setdefault(step, set())
            new = {name: value for name, value in values.items() if name not in sent}
            if new:
                self._tracker.log(new, step)
                self.number += len(new)
                sent.update(new)

    def close(self) -> None:
        """Write what has not been written yet; nothing is sent after it."""
        if self._tracker is not None:
            self._tracker.close()


def send(run: "OpenRun", target: str) -> int:
    """Send a run as it stands to a tracker; sent again, it is another run there.

    But for TensorBoard, where it takes the place of the one that is there.

    Settings that differ from the defaults, every curve by its step, and at the last step the
    numbers of the result as ``result/<name>``.

    Args:
        run: Finished or not.
        target: As of ``check_target``.

    Returns:
        How many numbers were sent.

    Raises:
        ConfigurationError: If there is no such tracker, or its package is not installed.
    """
    sending = Sending(target)
    try:
        sending.send(run)
    finally:
        sending.close()
    return sending.number


def _by_step(run: "OpenRun") -> dict[int, dict[str, float]]:
    """Return the numbers of a run by step: of what is not counted in steps, by its place."""
    found: dict[int, dict[str, float]] = {}
    for curve in run.curves:
        whole = all(float(at).is_integer() and at >= 0 for at, _ in curve.points)
        for place, (at, value) in enumerate(curve.points):
            found.setdefault(int(at) if whole else place, {})[curve.name] = value
    results = {f"result/{name}": value for name, value in run.quantities.items()}
    if results:
        found.setdefault(max(found, default=0), {}).update(results)
    return found


def _allowed(name: str) -> str:
    """Return a name with the signs that MLflow takes."""
    return re.sub(r"[^\w\-. /]", "_", name, flags=re.ASCII)
