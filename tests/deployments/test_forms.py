"""The form of a deployment: what people see, what it refuses, and what a run then does.

Whatever is sent is merged as Prefect merges it: key by key, and no deeper.
"""

import json
import re
from functools import cache

import pytest
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.schema_tools.validation import validate

from engine.errors import ConfigurationError
from engine.recipes.files import changes_of_shipped, list_recipes, load_recipe
from engine.recipes.forms.fields import _SAYS_ALL, FIELDS, filled_in, in_words
from engine.recipes.forms.schemas import setting_schemas
from engine.recipes.titles import run_title
from flows import registry
from flows.deploying import deployment_alone, recipe_deployment
from tests.deployments.targets import target
from tests.helpers.runs.kinds import recipe_of

SHIPPED = list_recipes()
ALONE = [*registry.TRUST, *registry.HOUSEKEEPING]
SOME = "digits-selection"
MOST_FIELDS = 12
SAYS_ALL = {*_SAYS_ALL, "Store, a folder or URL for results"}

each_recipe = pytest.mark.parametrize("name", SHIPPED)
each_name = pytest.mark.parametrize("name", [*SHIPPED, *ALONE])


@cache
def deployed(name):
    """Return a deployment on a pool of processes."""
    if name in ALONE:
        return deployment_alone(name, target("process"))
    return recipe_deployment(name, target("process"))


@cache
def schema(name):
    """Return the schema of a form as the server gets it."""
    return deployed(name)._parameter_openapi_schema.model_dump(exclude_unset=True)


def shown(properties):
    """Return the fields of a form, those of its groups among them."""
    found = {}
    for name, field in properties.items():
        found |= shown(field["properties"]) if "properties" in field else {name: field}
    return found


def refusals(name, **given):
    """Return what the server says of parameters."""
    return [error.message for error in validate(deployed(name).parameters | given, schema(name))]


def run_of(name, **given):
    """Return the recipe of a run of a deployment, given what a form or a schedule sends."""
    made = deployed(name)
    flow = load_flow_from_entrypoint(made.entrypoint)
    sent = json.loads(json.dumps(made.parameters | given))
    taken = flow.validate_parameters(sent)
    fields = {each: taken[each] for each in FIELDS if each in taken}
    return filled_in(taken["recipe"], taken.get("settings"), taken.get("arguments"), **fields)


@pytest.mark.slow
@each_name
def test_form_is_short_and_in_words(name):
    """People read it; a class name or a hundred settings is what they do not read."""
    fields = shown(schema(name)["properties"])

    assert 4 <= len(fields) <= MOST_FIELDS

    for field in fields.values():
        title, in_json, names = field["title"].partition(" in JSON")
        assert re.fullmatch(r"(URL|[A-Z][a-z]*)(,? (URL|[a-z]+))*", title), field["title"]
        assert names.startswith(": ") or not in_json
        assert in_json or field.get("description") or field["title"] in SAYS_ALL
        assert "type" in field


@pytest.mark.slow
@each_name
def test_form_is_one_that_both_uis_can_draw(name):
    """The first one shows JSON for all but an object; the second draws unions wrongly."""
    form = schema(name)

    assert form["type"] == "object"
    assert form["required"] == (["run"] if name == "verify" else [])
    assert "anyOf" not in json.dumps(form)
    assert "$ref" not in json.dumps(form)


@pytest.mark.slow
@each_recipe
def test_form_as_it_stands_runs_the_recipe(name):
    """Fields that nobody has touched change nothing."""
    assert refusals(name) == []
    assert run_of(name) == SHIPPED[name]


@pytest.mark.slow
@each_recipe
def test_fields_that_are_left_empty_change_nothing(name):
    """Some forms send nothing for them, some null; a choice always sends one of its words."""

    def nulls(properties):
        return {
            each: nulls(field["properties"]) if "properties" in field else None
            for each, field in properties.items()
            if "enum" not in field and each != "store"
        }

    empty = nulls(schema(name)["properties"])

    assert refusals(name, **empty) == []
    assert run_of(name, **empty) == SHIPPED[name]


@pytest.mark.parametrize(
    ("override", "setting"),
    [
        ({"outer_steps": 3}, "outer.num_steps=3"),
        ({"seed": 7}, "training.seed=7"),
        ({"max_seconds": 60}, "budget.max_seconds=60"),
        ({"arguments": {"flip_fraction": 0.3}}, "arguments.flip_fraction=0.3"),
        ({"arguments": {"model": {"width": 8}}}, "arguments.model.width=8"),
        ({"settings": ["outer.probability=0.1"]}, "outer.probability=0.1"),
    ],
)
def test_schedule_that_changes_one_field_changes_that_one(override, setting):
    """And the run says so in its name."""
    assert refusals(SOME, **override) == []

    run = run_of(SOME, **override)

    assert run == load_recipe(SOME, [setting])
    assert setting.replace("=60", "=60.0") in run_title(run)
    assert len(changes_of_shipped(run)) == 1


@pytest.mark.slow
@each_recipe
def test_every_setting_may_be_in_the_list(name):
    """Each with the value that the recipe has anyway, written as JSON."""
    content = SHIPPED[name].model_dump(mode="json")

    settings = []
    for key in setting_schemas(SHIPPED[name]):
        value = content
        for part in key.split("."):
            value = value[part]
        settings.append(f"{key}={json.dumps(value)}")

    assert refusals(name, settings=settings) == []


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("outer.num_step=3", "outer.num_steps=..., outer.update=..."),
        ("outter.num_steps=3", "begins with one of arguments, optimizer, training"),
        ("num_steps=3", "begins with one of"),
        ("outer.num_steps", "outer.num_steps=..."),
        ("outer.num_steps=many", "outer.num_steps= and a whole number"),
        ("outer.update=sgn", "one of sign, masked-sign"),
        ("training.compile=maybe", "true or false"),
        ("training.learning_rate=fast", "a number"),
    ],
)
def test_list_refuses_what_is_no_setting(setting, expected):
    """Before a worker is asked, and in words: the server shows what it had expected."""
    (message, *_) = refusals(SOME, settings=[setting])

    assert expected in message
    assert message.endswith("was expected")


@pytest.mark.parametrize(
    "setting",
    [
        " outer.num_steps = 3",
        "arguments.model.width=8",
        "training.learning_rate=1e-3",
        "reruns=[{training.seed: 1}]",
        "training.threads=null",
        "outer.update='sign' # as text",
    ],
)
def test_list_takes_what_the_command_line_takes(setting):
    """It is YAML in both."""
    assert refusals(SOME, settings=[setting]) == []


def test_wrong_value_of_a_field_is_told_in_words():
    """And not by the regular expression that it does not match."""
    assert refusals(SOME, device="gpu") == ["'Torch device: cpu, cuda or cuda:N.' was expected"]


@pytest.mark.parametrize("setting", ["outer.num_steps=4", "outer={num_steps: 4}", " outer = {}"])
def test_field_and_list_that_contradict_each_other_are_refused(setting):
    """One of the two would be dropped in silence, also where the list sets a whole group."""
    with pytest.raises(ConfigurationError, match="Say it once"):
        run_of(SOME, outer_steps=3, settings=[setting])


@pytest.mark.parametrize("text", ["\U0001f600/a", "a\u2028b", "null", "1e-7", " a: #b "])
def test_field_is_taken_as_it_was_typed(text):
    """It is no YAML: an emoji would become two halves of one."""
    recipe = SHIPPED["fashion-selection"]

    assert filled_in(recipe, arguments={"url": text}).arguments["url"] == text


@pytest.mark.parametrize(
    ("name", "given", "setting"),
    [
        ("digits-mixture", {"target_classes": [1, 2]}, "arguments.target_classes=[1, 2]"),
        ("text-selection", {"sources": ["mine.txt"]}, "arguments.sources=[mine.txt]"),
        ("text-selection", {"language": {"lora_rank": 4}}, "arguments.language.lora_rank=4"),
        ("datacomp-small", {"contrastive": {"context": 9}}, "arguments.contrastive.context=9"),
        ("fashion-selection", {"url": "here"}, "arguments.url=here"),
    ],
)
def test_lists_and_groups_of_arguments_are_fields(name, given, setting):
    """A group says what it says and no more: what it leaves out stays as the recipe has it."""
    (field,) = given
    assert field in schema(name)["properties"]["arguments"]["properties"]
    assert refusals(name, arguments=given) == []

    assert run_of(name, arguments=given) == load_recipe(name, [setting])


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"widht": 8}, r"'widht' is not one of \['name', 'width'"),
        ({"width": "wide"}, "'wide' is not of type 'integer'"),
        ({"width": 0}, "0 is less than the minimum of 1"),
        ({"activation": "gelou"}, r"'gelou' is not one of \['gelu'"),
    ],
)
def test_field_in_json_refuses_what_is_no_setting(model, expected):
    """The server does, before a worker is asked; a form that does not check asks the flow."""
    (message, *_) = refusals(SOME, arguments={"model": model})
    assert re.search(expected, message)

    with pytest.raises(ConfigurationError, match=re.escape(f"arguments.model.{next(iter(model))}")):
        filled_in(SHIPPED[SOME], arguments={"model": model})


def test_list_comes_before_a_field_that_nobody_has_touched():
    """It still says what the deployment has."""
    assert run_of(SOME, settings=["outer.num_steps=4"]).outer.num_steps == 4


@pytest.mark.parametrize(
    ("settings", "meant"),
    [
        (["outer.num_step=3"], "Did you mean outer.num_steps?"),
        (["outer.steps=3"], "Did you mean outer.num_steps?"),  # not outer.step_size
        (["num_steps=3"], "Did you mean training.num_steps or outer.num_steps?"),
        (["arguments.flip_fractoin=0.1"], "Did you mean arguments.flip_fraction?"),
    ],
)
def test_misspelt_setting_is_asked_about(settings, meant):
    """Where a form does not check it, the flow does in its first second."""
    with pytest.raises(ConfigurationError, match=re.escape(meant)):
        filled_in(SHIPPED[SOME], settings)


def test_fields_of_several_seeds_are_those_of_one_but_for_the_seed():
    """It would contradict the list of seeds."""
    made = recipe_deployment(SOME, target("process"), seeds=[0, 1])

    names = set(made._parameter_openapi_schema.properties)
    assert names == {
        "seeds",
        "outer_steps",
        "device",
        "max_seconds",
        "arguments",
        "settings",
        "store",
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [("flip_fraction", "Flip fraction"), ("older_than_days", "Older than days")]
    + [
        ("target_url", "Target URL"),
        ("num_heads", "Number of heads"),
        ("ModelSettings", "Model"),
        ("masked-sign", "Masked sign"),
    ],
)
def test_names_become_words(name, words):
    """Whatever a stranger calls the arguments of a function."""
    assert in_words(name) == words


@pytest.mark.parametrize("kind", sorted(registry.FLOWS))
def test_marks_of_a_form_that_a_schedule_leaves_are_taken_away(kind):
    """A field in JSON that nobody filled in comes as a mark, and one that was, as a text."""
    flow, recipe = registry.FLOWS[kind], recipe_of(kind)
    sent = {"model": {"__prefect_kind": "json"}, "num_train": 50}
    filled = {"model": {"__prefect_kind": "json", "value": '{"width": 7}'}}

    empty, given = (
        flow.validate_parameters({"recipe": recipe, "arguments": each})["arguments"]
        for each in (sent, filled)
    )

    assert empty == {"num_train": 50}
    assert given == {"model": {"width": 7}}
    assert filled_in(recipe, arguments=given).arguments["model"]["width"] == 7


def test_what_is_marked_as_json_and_is_none_is_refused():
    """In the run's first second, and with the place of the error in it."""
    sent = {"model": {"__prefect_kind": "json", "value": "{width: 7}"}}

    with pytest.raises(Exception, match=r"Invalid JSON: .*a field of a form"):
        registry.FLOWS["descent"].validate_parameters(
            {"recipe": recipe_of("descent"), "arguments": sent}
        )
