"""Runs sent while they go on: each number once, in rising steps, and never at the run's expense."""

import sys
import threading
from types import SimpleNamespace

import pytest

from engine.applications import trackers
from engine.applications.trackers import TRACKERS, check_target, whole_target
from engine.errors import ConfigurationError
from engine.progress.board import Board, Course
from engine.progress.meter import Meter, heard_by
from engine.reports.curves import Curve
from flows.cli import sending
from flows.cli.sending import Sender
from tests.helpers.runs.made_records import make_record
from tests.helpers.runs.watched_run import WORKS, scores

RUN, STORE = "tiny-12ab34cd", "/nowhere"


class Tracker:
    """A stand-in: it notes what it is given."""

    def __init__(self, fails_at=None):
        self.logged, self.closed, self._fails_at = [], 0, fails_at

    def settings(self, values):
        """Note them."""
        self.values = values

    def log(self, values, step):
        """Note them, or fail."""
        if step == self._fails_at:
            raise OSError("away")
        self.logged.append((step, dict(values)))

    def close(self):
        """Note it."""
        self.closed += 1


class Going:
    """A run that scores an outer step whenever it is told to, and its board."""

    def __init__(self, monkeypatch, tracker):
        self.losses, self.quantities, self.meter = [], {}, Meter()
        self.board = Board(Course("a run", WORKS, in_seconds=True), self.meter)
        monkeypatch.setattr(sending, "open_run", self.open)
        monkeypatch.setattr(sending, "_LOOK_SECONDS", 600.0)  # the tests look themselves
        monkeypatch.setitem(TRACKERS, "paper", lambda place, run: tracker)

    def open(self, store, name):
        """Return the run as it is now."""
        if not self.losses and not self.quantities:
            raise ConfigurationError("No run is named so.")
        points = [(float(n), loss) for n, loss in enumerate(self.losses)]
        curves = [Curve("validation loss", "outer step", points)]
        recipe = make_record().recipe
        return SimpleNamespace(
            name=name,
            recipe=recipe,
            curves=curves,
            quantities=dict(self.quantities),
            again=lambda: self.open(store, name),
        )

    def score(self, loss):
        """Score one more outer step."""
        self.losses.append(loss)
        self.board.scored(len(self.losses) - 1, scores(loss))


def test_each_outer_step_is_sent_when_it_is_scored_and_the_rest_at_the_end(monkeypatch, capsys):
    """Nobody waits for the end of a run of hours to see its curve."""
    tracker = Tracker()
    going, sender = Going(monkeypatch, tracker), Sender("paper")
    seen = []
    with heard_by(going.meter), sender.following([RUN], STORE):
        for loss in (0.9, 0.7):
            going.score(loss)
            sender._look(going.meter, STORE)
            seen.append(list(tracker.logged))
        sender._look(going.meter, STORE)
    going.quantities = {"auc": 0.93}
    sender.finish(RUN, STORE)

    assert seen[0] == [(0, {"validation loss": 0.9})]
    assert seen[1] == [*seen[0], (1, {"validation loss": 0.7})]
    assert tracker.logged == [*seen[1], (1, {"result/auc": 0.93})]
    assert tracker.closed == 1
    assert "training.num_steps" in tracker.values
    assert f"3 numbers of run {RUN} were sent to paper." in capsys.readouterr().out


def test_a_tracker_that_fails_stops_no_run_and_is_told_at_the_end(monkeypatch):
    """It is asked no more, and the run can be sent again."""
    tracker = Tracker(fails_at=1)
    going, sender = Going(monkeypatch, tracker), Sender("paper")
    with heard_by(going.meter), sender.following([RUN], STORE):
        for loss in (0.9, 0.7, 0.5):
            going.score(loss)
            sender._look(going.meter, STORE)

    with pytest.raises(ConfigurationError, match=f"OSError: away.*mgd send {RUN} --to paper"):
        sender.finish(RUN, STORE)

    assert [step for step, _ in tracker.logged] == [0]


def test_a_slow_tracker_is_given_each_number_once(monkeypatch):
    """A look that still waits for it at the end of the run, and what is sent then, take turns."""
    begun, may_go_on = threading.Event(), threading.Event()

    class Slow(Tracker):
        def log(self, values, step):
            begun.set()
            assert may_go_on.wait(60)
            super().log(values, step)

    tracker = Slow()
    going, sender = Going(monkeypatch, tracker), Sender("paper")
    with heard_by(going.meter), sender.following([RUN], STORE):
        going.score(0.9)
        looks = threading.Thread(target=sender._look, args=(going.meter, STORE))
        looks.start()
        assert begun.wait(60)
    ends = threading.Thread(target=sender.finish, args=(RUN, STORE))
    ends.start()
    may_go_on.set()
    looks.join()
    ends.join()

    assert tracker.logged == [(0, {"validation loss": 0.9})]
    assert tracker.closed == 1


def test_a_run_that_stops_leaves_its_tracker_closed(monkeypatch):
    """What was scored before is there."""
    tracker = Tracker()
    going, sender = Going(monkeypatch, tracker), Sender("paper")

    def carry_out():
        with heard_by(going.meter), sender.following([RUN], STORE):
            going.score(0.9)
            sender._look(going.meter, STORE)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out()

    assert tracker.closed == 1
    assert tracker.logged


def test_a_package_that_is_not_installed_is_told_before_anything_is_trained(monkeypatch):
    """Not after hours."""
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    monkeypatch.setattr(trackers, "load", absent)

    with pytest.raises(ConfigurationError, match="Writing for wandb needs wandb"):
        Sender("wandb:mine")


def absent(package, purpose, extra):
    raise ConfigurationError(f"{purpose} needs {package}")


@pytest.mark.parametrize(
    ("target", "place"),
    [
        ("tensorboard", "tensorboard:runs"),
        ("tensorboard:here", "tensorboard:here"),
        ("mlflow", "mlflow"),
        ("trackio", "trackio:metagradient-descent"),
    ],
)
def test_people_are_told_where_to_look(target, place):
    """Also where they have named no place."""
    assert whole_target(target) == place


def test_wrong_tracker_is_asked_about():
    """By one letter."""
    with pytest.raises(ConfigurationError, match=r"Did you mean tensorboard\?"):
        check_target("tensorbord:here")
