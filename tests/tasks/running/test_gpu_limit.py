"""Stages on a GPU are counted by Prefect's limit on the tag ``gpu``; others are not."""

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client

from engine.progress.board import Course
from engine.progress.time_left import Work
from engine.recipes.descent import DescentRecipe
from engine.recipes.files import load_recipe
from engine.stages.references import Ref
from tasks.running.progress import Progress
from tasks.running.runner import GPU_TAG, StageRunner

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


@task
def stand_in(recipe: DescentRecipe, store: str) -> Ref:
    """Stand in for a stage, which would need the device."""
    return Ref(stage="train", key="0" * 32, content="0" * 16)


@pytest.mark.parametrize(("device", "tags"), [("cuda:1", {GPU_TAG}), ("cpu", set())])
def test_stage_carries_the_tag_of_its_device(device, tags, tmp_path):
    """Without the tag, as many stages as there are runs would share one GPU."""
    recipe = load_recipe("digits-selection", [f"training.device={device}"])
    name = f"stage on {device}"

    @flow
    def one_stage():
        store = str(tmp_path)
        progress = Progress(recipe, store, Course("a run", [Work("train", 1.0)]))
        StageRunner(recipe, store, progress).run(stand_in, name)

    one_stage()

    with get_client(sync_client=True) as client:
        (found,) = (run for run in client.read_task_runs() if run.name == name)
    assert set(found.tags) == tags
