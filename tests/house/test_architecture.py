"""The rules about the repository itself: who imports whom, sizes, public names, set-up commands."""

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import engine
from engine.recipes.files import load_recipe
from tests.bench import bench_show

ROOT = Path(__file__).parents[2]
PACKAGES = ("engine", "tasks", "flows")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
RECIPES = sorted((ROOT / "deployments" / "recipes").glob("*.yaml"))

SET_UP = "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e "
RUN_COMMAND = SET_UP + "'.[pipeline]' && .venv/bin/mgd run"
TEST_COMMAND = SET_UP + "'.[test]' && .venv/bin/pytest"


def relative(path):
    return str(path.relative_to(ROOT))


@pytest.fixture(scope="module")
def modules_that_engine_loads():
    """A fresh process, because this one has loaded everything; shared, because torch is slow."""
    code = "import sys, engine; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(run.stdout.split())


@pytest.mark.parametrize("package", ["prefect", "sklearn", "matplotlib"])
def test_importing_engine_does_not_load(package, modules_that_engine_loads):
    """A notebook with the engine alone starts fast and needs none of the pipeline's packages."""
    assert package not in modules_that_engine_loads


_CHECKED = """
import sys, torch, engine
from torch.nn.functional import cross_entropy
drawn = torch.randn(20, 3), torch.randint(0, 2, (20,))
own = engine.Routine(
    torch.nn.Linear(3, 2),
    lambda model, batch: cross_entropy(model(batch[0]), batch[1], reduction="none"),
    drawn, engine.sgd(0.9), learning_rate=0.1, num_steps=4, batch_size=5,
    metaparameters={"w": engine.ExampleWeights(torch.ones(20))},
)
engine.metagradient(own, lambda model: cross_entropy(model(drawn[0]), drawn[1]))
print(*sys.modules)
"""


@pytest.mark.slow
def test_a_metagradient_with_its_witness_loads_no_compiler_and_no_algebra():
    """Each takes longer to load than a small run takes to be checked."""
    run = subprocess.run(
        [sys.executable, "-c", _CHECKED], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert not {"sympy", "torch._dynamo", "sklearn", "pandas"} & set(run.stdout.split())


RUN = "bench-0badcafe"
LIGHT = {
    ("--version",): 0,
    ("recipes",): 0,
    ("recipes", "digits-selection"): 0,
    ("show",): 0,
    ("show", RUN): 0,
    ("show", RUN, "--json"): 0,
    ("clean",): 0,
    ("clean", "--run", "of-nobody"): 2,
    ("run", "--set", "training.num_steps=-1"): 2,
    ("run", "of-nobody"): 2,
    ("run", "--seeds", "one"): 2,
    ("check", "--set", "nothing=1"): 2,
    ("plan", "--set", "nothing=1"): 2,
    ("smoothness", "--by", "nothing"): 2,
    ("resume", "of-nobody"): 2,
    ("open", "of-nobody"): 2,
}
"""Commands that compute nothing, and how they end."""


@pytest.fixture(scope="module")
def small_store(tmp_path_factory):
    """A finished run of few stages, none of which was computed."""
    store = tmp_path_factory.mktemp("store")
    bench_show.add_run(store, RUN, 5, is_finished=True)
    return store


@pytest.mark.slow
@pytest.mark.parametrize("command", LIGHT, ids=" ".join)
def test_a_command_that_computes_nothing_loads_no_torch(command, small_store):
    """Whoever looks at a run or mistypes a setting waits for neither torch nor a server."""
    code = """
import sys
from flows.cli.app import app

try:
    app(sys.argv[1:])
except SystemExit as end:
    heavy = {"torch", "zarr", "prefect", "sklearn", "matplotlib"} & sys.modules.keys()
    print("loaded:", *sorted(heavy), file=sys.stderr)
    raise
"""
    place = [] if command[0] in ("--version", "recipes") else ["--store", str(small_store)]

    run = subprocess.run(
        [sys.executable, "-c", code, *command, *place], cwd=ROOT, capture_output=True, text=True
    )

    assert run.returncode == LIGHT[command], run.stderr
    assert run.stderr.splitlines()[-1] == "loaded:"


def test_import_contracts_hold():
    """Importing downwards only lets each layer be read, tested and used without those above."""
    linter = Path(sys.executable).with_name("lint-imports")

    run = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stdout + run.stderr


OPENERS = re.compile(r"(open|os\.fdopen|.*\.(read_text|write_text))")
"""What opens a file by Python's own means, for text unless told otherwise."""


def opens_text_of_a_locale(call):
    """Say whether a call reads or writes text in the encoding of whoever's locale it is."""
    mode = [each.value for each in call.args[1:2] if isinstance(each, ast.Constant)]
    return (
        bool(OPENERS.fullmatch(ast.unparse(call.func)))
        and not any("b" in each for each in mode)
        and "encoding" not in {each.arg for each in call.keywords}
    )


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_texts_are_of_one_encoding_in_every_locale(path):
    """Jobs run without a locale: a file that a workstation reads would end them, or be another."""
    calls = [each for each in ast.walk(ast.parse(path.read_text())) if isinstance(each, ast.Call)]

    assert [each.lineno for each in calls if opens_text_of_a_locale(each)] == []


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_module_is_read_in_one_sitting(path):
    """Above 400 lines a module holds more than one concept."""
    assert len(path.read_text().splitlines()) <= 400


def test_folder_is_read_at_a_glance():
    """Above twenty files nobody knows any more what lies in it."""
    files = Counter(path.parent for path in MODULES if path.name != "__init__.py")

    assert [relative(folder) for folder, number in files.items() if number > 20] == []


def test_nothing_lies_at_the_top_of_the_tests():
    """Helpers lie beside what they help with; among forty files nobody finds one."""
    assert [path.name for path in (ROOT / "tests").glob("*.py")] == ["conftest.py"]


@pytest.mark.parametrize("path", TESTS, ids=relative)
def test_every_test_says_why(path):
    """Its name is a claim; the sentence is the reason, without which nobody dares to change it."""
    tests = [
        each
        for each in ast.walk(ast.parse(path.read_text()))
        if isinstance(each, ast.FunctionDef) and each.name.startswith("test_")
    ]

    assert [each.name for each in tests if not ast.get_docstring(each)] == []


def test_every_public_name_has_a_docstring():
    """help() is a notebook user's manual; a dataclass's generated signature does not count."""
    documents = {name: getattr(engine, name).__doc__ for name in engine.__all__}

    assert [name for name, doc in documents.items() if not doc or doc.startswith(f"{name}(")] == []


def test_public_names_are_few():
    """More than 25 names are not learnt in a sitting; these are known from torch and from JAX."""
    known = {"adam", "adamw", "muon", "rmsprop", "sgd", "stop_gradient", "update_bn"}
    assert len(set(engine.__all__) - known) <= 25


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=relative)
def test_shipped_recipe_is_valid(path):
    """A recipe that a user copies must not be refused at once."""
    load_recipe(path.stem)


@pytest.mark.parametrize("command", [RUN_COMMAND, TEST_COMMAND], ids=["run", "test"])
def test_readme_has_the_set_up_command_once(command):
    """Both commands start from nothing with pinned versions, so they work wherever CI does."""
    assert (ROOT / "README.md").read_text().splitlines().count(command) == 1


def test_ci_runs_the_test_command_of_the_readme():
    """Two copies would drift apart, so CI reads the README's and has no install of its own."""
    script = (ROOT / ".ci" / "run").read_text()
    (pattern,) = [line for line in script.splitlines() if "README.md ||" in line]

    extracted = subprocess.run(
        ["bash", "-c", f"{pattern}; echo $test_command"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert extracted.stdout.strip() == TEST_COMMAND
    assert "pip install" not in script


def test_no_module_imports_a_module_of_tests():
    """What two of them need lies in a module beside them: else one test changes what another is."""
    lines = {
        path: re.findall(r"^(?:from|import) tests\.(?:\w+\.)*test_\w+.*$", path.read_text(), re.M)
        for path in (ROOT / "tests").rglob("*.py")
    }

    assert {relative(path): found for path, found in lines.items() if found} == {}


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_no_module_imports_a_private_name(path):
    """Whoever changes a name that begins with an underscore looks for it in its own file."""
    own = [
        f"{each.module}.{alias.name}"
        for each in ast.walk(ast.parse(path.read_text()))
        if isinstance(each, ast.ImportFrom) and (each.module or "").startswith(PACKAGES)
        for alias in each.names
        if alias.name.startswith("_")
    ]

    assert own == []
