"""What ``prefect deploy`` would send to a server, as far as no server is needed to check it."""

import asyncio
import re

import pytest
import yaml
from prefect.cli.deploy._models import DeploymentConfig
from prefect.deployments.steps import run_shell_script
from prefect.exceptions import ParameterTypeError
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate

from deployments import make
from engine.recipes.files import list_recipes, load_recipe
from flows import registry

CONTENT = yaml.safe_load(make.PREFECT_YAML.read_text())
DEPLOYMENTS = {deployment["name"]: deployment for deployment in CONTENT["deployments"]}
SOME_RECIPE = "digits-selection"

RECIPES = {name: each for name, each in DEPLOYMENTS.items() if "recipe" in each["parameters"]}
HOUSEKEEPING = {name: each for name, each in DEPLOYMENTS.items() if name not in RECIPES}

each_recipe = pytest.mark.parametrize("deployment", RECIPES.values(), ids=RECIPES)
each_housekeeping = pytest.mark.parametrize("deployment", HOUSEKEEPING.values(), ids=HOUSEKEEPING)
each_deployment = pytest.mark.parametrize("deployment", DEPLOYMENTS.values(), ids=DEPLOYMENTS)


def templates(deployment):
    """Return the environment variables that Prefect would fill in."""
    return set(re.findall(r"{{\s*\$(\w+)\s*}}", yaml.safe_dump(deployment)))


def refusals():
    """Return (kind of pool, variable) of each variable that a kind of pool needs."""
    needed = {kind: templates(DEPLOYMENTS[f"{SOME_RECIPE}-{kind}"]) for kind in make.POOLS}
    return [(kind, variable) for kind, names in needed.items() for variable in sorted(names)]


def check(kind):
    """Run the step that ``prefect deploy`` runs before it deploys."""
    (step,) = DEPLOYMENTS[f"{SOME_RECIPE}-{kind}"]["build"]
    asyncio.run(run_shell_script(**step["prefect.deployments.steps.run_shell_script"]))


@pytest.fixture
def variables(monkeypatch):
    """Everything that ``prefect.yaml`` reads, set to something right."""
    monkeypatch.setenv("MGD_STORE", "s3://bucket/folder")
    monkeypatch.setenv("MGD_IMAGE", "registry/mgd:0.1.0")


def test_file_is_what_the_recipes_make():
    """A recipe changed without ``python -m deployments.make`` would run as it was before."""
    assert make.PREFECT_YAML.read_text() == make.text()


def test_every_recipe_is_on_every_kind_of_pool():
    """Who looks for a recipe in the UI finds it wherever it can run."""
    names = [*list_recipes(), f"{make.MAIN}-replicas"]
    assert set(RECIPES) == {f"{name}-{kind}" for name in names for kind in make.POOLS}


def test_every_flow_is_deployed():
    """A flow that is added to the registry and to no deployment cannot be scheduled."""
    expected = {f"{name}-{kind}" for name in registry.HOUSEKEEPING for kind in make.POOLS}
    entrypoints = {each["entrypoint"] for each in DEPLOYMENTS.values()}

    assert set(HOUSEKEEPING) == expected
    kinds = {each.kind for each in list_recipes().values()}
    flows = [*(registry.FLOWS[kind] for kind in kinds), *registry.REPLICAS.values()]
    flows += registry.HOUSEKEEPING.values()
    assert {make.entrypoint(flow) for flow in flows} == entrypoints


@each_deployment
def test_prefect_knows_every_key(deployment):
    """Prefect ignores a key that it does not know, so a misspelt one would do nothing."""
    assert set(deployment) <= set(DeploymentConfig.model_fields)
    assert DeploymentConfig.model_validate(deployment).name == deployment["name"]


@each_deployment
def test_parameters_fit_the_flow(deployment):
    """The server checks the schema when a run is triggered; the flow checks all when it starts."""
    flow = load_flow_from_entrypoint(deployment["entrypoint"])

    schema = parameter_schema(flow).model_dump_for_openapi()
    assert validate(deployment["parameters"], schema) == []  # it raises nothing by itself
    flow.validate_parameters(deployment["parameters"])


@each_recipe
def test_parameters_are_the_recipe_on_the_pools_device(deployment):
    """What runs from the UI is what ``mgd run`` runs."""
    flow = load_flow_from_entrypoint(deployment["entrypoint"])

    validated = flow.validate_parameters(deployment["parameters"])

    shipped = load_recipe(validated["recipe"].name)
    kind = deployment["name"].rsplit("-", 1)[1]
    device = make.POOLS[kind].device or shipped.training.device
    training = shipped.training.model_copy(update={"device": device})
    assert validated["recipe"] == shipped.model_copy(update={"training": training})


@each_deployment
@pytest.mark.parametrize("store", ["", "  "])
def test_empty_store_is_refused_when_a_run_is_triggered(deployment, store):
    """The form sends an empty text for a field that somebody has cleared; it names no folder."""
    flow = load_flow_from_entrypoint(deployment["entrypoint"])
    parameters = deployment["parameters"] | {"store": store}

    assert validate(parameters, parameter_schema(flow).model_dump_for_openapi())
    with pytest.raises(ParameterTypeError, match="store"):
        flow.validate_parameters(parameters)


@each_housekeeping
def test_cleaning_deletes_on_schedule_only(deployment):
    """Who tries a deployment by hand must not lose a run by it."""
    (schedule,) = deployment["schedules"]

    assert deployment["parameters"]["delete"] is False
    assert schedule["parameters"] == {"delete": True}


@each_deployment
def test_no_schedule_is_active(deployment):
    """A deployment must not start to spend money before somebody says so."""
    schedules = deployment["schedules"]

    assert schedules
    assert not any(schedule["active"] for schedule in schedules)


@each_deployment
def test_nothing_is_pulled_and_no_path_of_a_machine_is_named(deployment):
    """Runs start on other machines, where code is installed and the store named from outside."""
    assert CONTENT["pull"] == []
    assert "pull" not in deployment
    assert not re.search(r"(^|\s)/\w+/", yaml.safe_dump(deployment))


@each_deployment
def test_every_template_is_checked(deployment):
    """Prefect fills in nothing for a variable that is unset, without a word."""
    kind = deployment["name"].rsplit("-", 1)[1]

    assert deployment["build"] == DEPLOYMENTS[f"{SOME_RECIPE}-{kind}"]["build"]
    assert templates(deployment) == set(make.POOLS[kind].variables)


@pytest.mark.usefixtures("variables")
@pytest.mark.parametrize(("kind", "variable"), refusals())
def test_unset_variable_stops_the_deployment(kind, variable, monkeypatch):
    """Runs without a store would write to a folder that nobody finds, those without image fail."""
    monkeypatch.delenv(variable)

    with pytest.raises(RuntimeError, match=variable):
        check(kind)


@pytest.mark.parametrize("store", ["", "mgd-store", "./store", "~/store"])
def test_store_below_a_working_folder_is_refused(store, monkeypatch):
    """A worker gives each run a folder of its own and deletes it, results and all."""
    monkeypatch.setenv("MGD_STORE", store)

    with pytest.raises(RuntimeError, match="s3://bucket/folder"):
        check("process")


@pytest.mark.usefixtures("variables")
@pytest.mark.parametrize("kind", make.POOLS)
def test_variables_that_are_set_are_accepted(kind):
    """The check must not stand in the way of a deployment that is right."""
    check(kind)


def test_local_folder_is_accepted(monkeypatch):
    """One person's worker and files are on one machine."""
    monkeypatch.setenv("MGD_STORE", "/data/mgd")

    check("process")
