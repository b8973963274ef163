"""What ``mgd deploy`` sends to a server, as far as no server is needed to check it."""

import copy
import json
import re
from functools import cache

import pytest
import yaml
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound, ParameterTypeError
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.schema_tools.validation import validate

from engine.errors import ConfigurationError
from engine.recipes.files import RECIPES, changed, list_recipes, load_recipe
from flows import registry
from flows.cli import deploying as command
from flows.deploying import DeployTarget, apply, deployment_alone, recipe_deployment
from tests.deployments.targets import TEMPLATES, pool, target

SHIPPED = list_recipes()
ALONE = [*registry.TRUST, *registry.HOUSEKEEPING]
SOME = "digits-selection"

each_kind = pytest.mark.parametrize("kind", TEMPLATES)
each_recipe = pytest.mark.parametrize("name", SHIPPED)
each_name = pytest.mark.parametrize("name", [*SHIPPED, *ALONE])

FLOWERS = """
import torch
import engine

def flowers(width: int = 4, seed: int = 0) -> engine.Problem:
    '''Which flowers.

    Args:
        width: Of the net.
    '''
    raise AssertionError("nothing is trained here")
"""


def deployed(name, kind="process", **options):
    """Return the deployment of a recipe or a flow of house-keeping on a kind of pool."""
    if name in ALONE:
        return deployment_alone(name, target(kind))
    return recipe_deployment(name, target(kind), **options)


@cache
def plain(name, kind="process"):
    """Return the deployment without options, which tests read and do not change."""
    return deployed(name, kind)


def schema(made):
    """Return the JSON schema of a deployment's parameters as the server gets it."""
    return made._parameter_openapi_schema.model_dump(exclude_unset=True)


@pytest.fixture
def flowers(tmp_path):
    """The recipe of a problem of one's own, with its file beside it."""
    (tmp_path / "flowers.py").write_text(FLOWERS)
    recipe = tmp_path / "flowers.yaml"
    recipe.write_text("problem: flowers.py:flowers\narguments: {width: 6}\n")
    return recipe


@pytest.mark.slow
def test_names_of_the_command_are_those_of_the_registry():
    """The command knows them without loading Prefect."""
    assert list(command.WITHOUT_RECIPE) == ALONE
    assert command.shipped() == [*SHIPPED, *ALONE]


@pytest.mark.slow
@each_kind
@each_name
def test_parameters_fit_the_flow(name, kind):
    """The server checks the schema when a run is triggered; the flow checks all when it starts."""
    made = plain(name, kind)
    flow = load_flow_from_entrypoint(made.entrypoint)

    sent = json.loads(made.model_dump_json())["parameters"]
    sent |= {"run": "digits-selection"} if name == "verify" else {}  # whoever starts it says which
    assert validate(sent, schema(made)) == []  # it raises nothing by itself
    flow.validate_parameters(sent)


@each_kind
@each_recipe
def test_parameters_are_the_recipe_on_the_pools_device(name, kind):
    """What runs from the UI is what ``mgd run`` runs."""
    made = plain(name, kind)
    flow = load_flow_from_entrypoint(made.entrypoint)

    validated = flow.validate_parameters(made.parameters)

    shipped = SHIPPED[name]
    device = shipped.training.device if kind == "process" else "cuda"
    training = shipped.training.model_copy(update={"device": device})
    assert made.name == name
    assert validated["recipe"] == shipped.model_copy(update={"training": training})


@pytest.mark.slow
@each_recipe
def test_only_what_the_file_says_becomes_a_parameter(name):
    """Defaults stay those of the code that runs, which may be newer than the deployment."""
    written = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())

    assert plain(name).parameters["recipe"] == written | {"name": name}


@each_kind
@each_name
def test_job_variables_are_of_the_pools_template(name, kind):
    """The server refuses others."""
    made = plain(name, kind)

    assert set(made.job_variables) <= set(TEMPLATES[kind]["variables"]["properties"])
    assert made.job_variables.get("image") == (None if kind == "process" else "registry/mgd:0.1.0")
    assert made.work_pool_name == f"mgd-{kind}"


@pytest.mark.parametrize(
    ("kind", "changes", "gpus"),
    [
        ("kubernetes", [], {"gpus": 1}),
        ("kubernetes", ["training.device=cpu"], {"gpus": 0}),
        ("docker", ["training.device=cpu"], {"device_requests": []}),
        ("process", ["training.device=cuda"], {}),
    ],
)
def test_job_gets_a_gpu_if_the_recipe_runs_on_one(kind, changes, gpus):
    """A GPU that nothing uses costs as much as one that is used."""
    made = deployed(SOME, kind, changes=changes)

    found = {n: v for n, v in made.job_variables.items() if n in ("gpus", "device_requests")}
    on_gpu = made.parameters["recipe"]["training"].get("device", "cpu") == "cuda"
    assert found == gpus
    assert ("gpu" in made.tags) == on_gpu


def test_pool_of_another_kind_is_read_by_its_template():
    """Sites have pools of their own, such as ECS, with an image and other names for the rest."""
    template = {"variables": {"properties": {"env": {}, "image": {}, "cpu": {}}}}

    made = recipe_deployment(SOME, DeployTarget.of(pool("ecs", template), "s3://b/f", "mgd:1"))

    assert set(made.job_variables) == {"env", "image"}
    assert made.parameters["recipe"]["training"].get("device") is None


@pytest.mark.parametrize("name", [SOME, "digits-attribution", "fashion-canaries", "clean"])
@pytest.mark.parametrize("store", ["", "  "])
def test_empty_store_is_refused_when_a_run_is_triggered(name, store):
    """The form sends an empty text for a field that somebody has cleared; it names no folder."""
    made = plain(name)
    flow = load_flow_from_entrypoint(made.entrypoint)
    parameters = made.parameters | {"store": store}

    assert validate(parameters, schema(made))
    with pytest.raises(ParameterTypeError, match="store"):
        flow.validate_parameters(parameters)


def test_cleaning_deletes_on_schedule_only():
    """Who tries a deployment by hand must not lose a run by it."""
    made = deployed("clean")
    (schedule,) = made.schedules

    assert made.parameters["delete"] is False
    assert schedule.parameters == {"delete": True}


@each_name
def test_no_schedule_is_active(name):
    """A deployment must not start to spend money before somebody says so."""
    schedules = plain(name).schedules

    assert len(schedules) == (name not in registry.TRUST)
    assert not any(schedule.active for schedule in schedules)
    assert all(schedule.schedule.timezone == "UTC" for schedule in schedules)


@each_kind
@each_name
def test_nothing_is_pulled_and_no_path_of_a_machine_is_named(name, kind):
    """Runs start on other machines, where code is installed and the store named from outside."""
    made = plain(name, kind)

    assert ":" not in made.entrypoint  # a module, which needs no pull step
    assert made.storage is None
    assert not re.search(r"(^|\s)/\w+/", yaml.safe_dump(made.model_dump(mode="json")))


@each_name
def test_one_run_of_a_deployment_at_a_time(name):
    """Two runs of one recipe share a store and would only wait for each other."""
    made = plain(name)

    waits = "CANCEL_NEW" if name in registry.HOUSEKEEPING else "ENQUEUE"
    assert made.concurrency_limit == 1
    assert made.concurrency_options.collision_strategy.value == waits


def test_several_seeds_are_one_run_each():
    """The same words as `mgd run --seeds`."""
    made = deployed(SOME, seeds=[0, 1, 2])
    flow = load_flow_from_entrypoint(made.entrypoint)

    assert made.full_name == f"replicas/{SOME}"
    assert flow.validate_parameters(made.parameters)["seeds"] == [0, 1, 2]


def test_several_seeds_of_a_kind_that_has_none_are_refused():
    """It would run for one seed, and say nothing."""
    with pytest.raises(ConfigurationError, match=r"--set training\.seed=N"):
        deployed("digits-attribution", seeds=[0, 1])


def test_changes_are_those_of_the_command_line():
    """What is tried by `mgd run --set` is deployed by the same words."""
    made = deployed(SOME, changes=["outer.num_steps=3"])
    flow = load_flow_from_entrypoint(made.entrypoint)

    assert flow.validate_parameters(made.parameters)["recipe"] == load_recipe(
        SOME, ["outer.num_steps=3"]
    )


def test_settings_of_a_run_change_the_recipe_of_its_deployment():
    """Prefect merges parameters shallowly: a schedule that changes one key leaves the others."""
    made = deployed(SOME)
    flow = load_flow_from_entrypoint(made.entrypoint)
    override = {"settings": ["outer.num_steps=3"]}
    merged = made.parameters | override

    assert validate(merged, schema(made)) == []
    given = flow.validate_parameters(merged)
    assert changed(given["recipe"], given["settings"]) == load_recipe(SOME, ["outer.num_steps=3"])


@pytest.mark.parametrize(
    ("settings", "reason"),
    [(["outer.num_step=3"], "num_step"), (["outer.num_steps"], "not an assignment")],
)
def test_settings_that_cannot_be_are_refused(settings, reason):
    """A misspelt one would run something else under the name of the recipe."""
    with pytest.raises(ConfigurationError, match=reason):
        changed(load_recipe(SOME), settings)


def test_settings_do_not_make_another_kind():
    """The flow of this kind would run what it does not know."""
    with pytest.raises(ConfigurationError, match="another flow"):
        changed(load_recipe("digits-attribution"), ["kind=descent"])


def test_problem_of_ones_own_is_deployed_with_its_digests(flowers):
    """Its worker loads the file beside the recipe, and nothing else under its name."""
    made = recipe_deployment(str(flowers), target("process"))
    flow = load_flow_from_entrypoint(made.entrypoint)

    recipe = flow.validate_parameters(json.loads(made.model_dump_json())["parameters"])["recipe"]

    assert recipe == load_recipe(str(flowers))
    assert recipe.arguments == {"width": 6, "seed": 0}
    assert recipe.folder == str(flowers.parent)
    assert recipe.code


def test_folder_of_the_workers_may_be_another(flowers):
    """An image has the files where somebody has put them."""
    made = recipe_deployment(str(flowers), target("docker"), folder="/srv/flowers")

    assert made.parameters["recipe"]["folder"] == "/srv/flowers"


def test_people_are_told_what_workers_need(flowers):
    """Whoever starts the worker is not always whoever deploys."""
    made = recipe_deployment(str(flowers), target("process"))

    told = "\n".join(command._instructions([made], "mgd-process"))

    assert "flowers.py" in told
    assert str(flowers.parent) in told
    assert "`cd / && prefect worker start --pool mgd-process`" in told
    assert "prefect deployment run 'descent/flowers' --watch" in told


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_pool_of_containers_needs_an_image(kind):
    """A job without one fails on its machine, where nobody looks."""
    with pytest.raises(ConfigurationError, match="MGD_IMAGE"):
        target(kind, image=None)


@pytest.mark.parametrize("store", ["mgd-store", "./store", "~/store"])
def test_folder_of_this_machine_is_refused_for_containers(store):
    """It would be written inside of the container, and lost with it."""
    with pytest.raises(ConfigurationError, match="s3://bucket/folder"):
        target("kubernetes", store=store)


def test_folder_of_a_process_is_the_one_that_was_typed(monkeypatch, tmp_path):
    """A worker gives each run a folder of its own and deletes it, results and all."""
    monkeypatch.chdir(tmp_path)

    assert target("process", store="mgd-store").store == str(tmp_path / "mgd-store")


class Server:
    """A client of a server that has one deployment."""

    def __init__(self, name, pool):
        self.name, self.pool = name, pool

    def read_deployment_by_name(self, name):
        """Return what is there."""
        if name != self.name:
            raise ObjectNotFound(Exception(name))
        found = copy.copy(self)
        found.work_pool_name = self.pool
        found.schedules = copy.deepcopy(plain(SOME).schedules)
        found.schedules[0].active = True
        return found


@pytest.fixture
def applied(monkeypatch):
    """The deployments that would have gone to a server."""
    sent = []
    monkeypatch.setattr(RunnerDeployment, "apply", lambda made: sent.append(made))
    return sent


def test_deployment_does_not_move_to_another_pool(applied):
    """Who deploys for a second pool has two then, not one that has moved."""
    two = [deployed("digits-exchange", "kubernetes"), deployed(SOME, "kubernetes")]

    with pytest.raises(ConfigurationError, match="--suffix"):
        apply(two, Server(f"descent/{SOME}", "mgd-process"))

    assert applied == []
    second = recipe_deployment(SOME, target("kubernetes", suffix="gpu"))
    apply([second], Server(f"descent/{SOME}", "mgd-process"))
    assert [each.name for each in applied] == [f"{SOME}-gpu"]


def test_schedules_that_are_there_stay(applied):
    """Deploying again must not switch off what somebody has switched on."""
    apply([deployed(SOME), deployed("clean")], Server(f"descent/{SOME}", "mgd-process"))

    assert [each.active for made in applied for each in made.schedules] == [True, False]


@pytest.mark.parametrize(
    ("names", "reason"), [([], "--all"), (["digits-selectoin"], "There is no recipe")]
)
def test_order_of_nothing_is_refused(names, reason):
    """All of it by default would fill a server with what nobody has asked for."""
    with pytest.raises(ConfigurationError, match=reason):
        command.check(command.DeployRequest(names))
