"""Stages that are handed in: futures as inputs, and what is handed in again."""

import pytest
import torch
from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from engine.errors import MemoryExhaustedError, NonFiniteError
from engine.planning import plan as planning
from engine.problems.segments import segments
from engine.progress.board import Course
from engine.stages import commits
from engine.stages import training as stages
from flows.descent import descent
from tasks import training
from tasks.running.progress import Progress
from tasks.running.runner import StageRunner
from tasks.running.workers import Workers
from tests.helpers.runs.tiny_recipe import COARSE, small

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


@flow
def chain(recipe, store, workers):
    """Hand in a chain of stages before any of them has finished."""
    with workers.runner:
        course = Course("a chain")
        runner = StageRunner(recipe, store, Progress(recipe, store, course), workers)
        value = runner.submit(training.initial_value, "initial")
        state = None
        for part in segments(recipe):
            state = runner.submit(
                training.train_segment, "train", segment=part, value=value, start=state
            )
        scores = runner.submit(training.evaluate, "evaluate", final=state)
        return [state.result(), scores.result()], runner.counts


def on_a_thread():
    return Workers(ThreadPoolTaskRunner(max_workers=1))


def test_stage_may_be_handed_in_before_what_it_reads(tmp_path):
    """Independent chains need no thread of ours: a future stands for the reference."""
    recipe, store = small("training.threads=1"), str(tmp_path)

    (final, scores), counts = chain(recipe, store, on_a_thread())

    assert commits.read_rows(store, final)["params"].isfinite().all()
    assert commits.read_scalars(store, scores).keys() == {"objective", "validation", "test"}
    assert counts.total == 5


def test_error_is_that_of_the_stage_that_failed_first(tmp_path):
    """What reads a failed stage fails for want of it, which explains nothing."""
    recipe = small("training.threads=1", "training.learning_rate=1e30")

    with pytest.raises(NonFiniteError, match="step"):
        chain(recipe, str(tmp_path), on_a_thread())


def test_nan_is_not_tried_again(tmp_path, monkeypatch):
    """The same NaN six times later would be two minutes of waiting for nothing."""
    tried = []
    train = stages.train_segment.compute
    monkeypatch.setattr(planning, "keep_plan", lambda *_: None)  # would train some steps itself
    monkeypatch.setattr(
        stages.train_segment, "compute", lambda *a, **k: tried.append(a) or train(*a, **k)
    )

    with pytest.raises(NonFiniteError, match="step 1") as error:
        descent(small(*COARSE, "training.learning_rate=1e30", "preflight=advise"), str(tmp_path))

    assert error.value.settings
    assert len(tried) == 1


def limited(monkeypatch, most):
    """Let reverse stages fit only if at most ``most`` examples are reversed at a time."""
    sizes, reverse = [], stages.reverse_segment.compute

    def on_a_small_device(run, *inputs, **options):
        recipe = run.recipe
        sizes.append(recipe.replay.micro_batch)
        if (recipe.replay.micro_batch or recipe.training.batch_size) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return reverse(run, *inputs, **options)

    monkeypatch.setattr(stages.reverse_segment, "compute", on_a_small_device)
    return sizes


def test_stage_that_does_not_fit_is_halved_and_the_rest_of_the_run_with_it(tmp_path, monkeypatch):
    """A smaller piece is another sum, so it is handed in as another stage; then it is kept."""
    sizes = limited(monkeypatch, 3)
    recipe = small("outer.num_steps=2", "replay.steps_per_segment=12")

    record = descent(recipe, str(tmp_path))

    assert sizes == [None, 5, 2, 2]
    assert record.stages.retried == 1
    assert record.recipe == recipe


def test_stage_that_cannot_be_made_smaller_names_what_can(tmp_path, monkeypatch):
    """One example at a time is the end of it."""
    limited(monkeypatch, 0)

    with pytest.raises(MemoryExhaustedError, match=r"reverse\[0\].*training.batch_size"):
        descent(small(*COARSE), str(tmp_path))
