"""A password that is typed where it does not belong is neither printed nor kept."""

import os

import pytest
from typer.testing import CliRunner

from flows.cli.app import app

SECRET = "S3CRETpw"
TYPED = [
    f"http:/user:{SECRET}@host/x.yaml",
    f"//user:{SECRET}@host/x",
    f"s3://AKIA:{SECRET}@bucket/x",
    f"https:{SECRET}@host/x",
    f"s3:/bucket/x?X-Amz-Signature={SECRET}",
    f"ftp://user:{SECRET}@host/x.safetensors",
]
RUN, STORE = "some-run", ["--store", "store"]
COMMANDS = {
    "run RECIPE": ["run", "{}"],
    "check RECIPE": ["check", "{}"],
    "recipes RECIPE": ["recipes", "{}"],
    "run --store": ["run", "--store", "{}"],
    "run --set": ["run", "--set", "{}"],
    "run --set key": ["run", "--set", "{}=1"],
    "run --set kind": ["run", "--set", "kind={}"],
    "run --set name": ["run", "--set", "name={}"],
    "run --set description": ["run", "--set", "description={}"],
    "run --set folder": ["run", "--set", "folder={}"],
    "run --set problem": ["run", "--set", "problem={}"],
    "run --set unknown": ["run", "--set", "arguments.unknown={}"],
    "run --set group": ["run", "--set", "arguments={{num_train: 9, unknown: '{}'}}"],
    "run --set device": ["run", "--set", "training.device={}"],
    "run --set address": ["run", "--set", "workers.address={}"],
    "run --seeds": ["run", "--seeds", "{}"],
    "run --log-to": ["run", "--log-to", "{}"],
    "run --log-to mlflow": ["run", "--log-to", "mlflow:{}"],
    "resume --store": ["resume", RUN, "--store", "{}"],
    "show --store": ["show", "--store", "{}"],
    "show RUN": ["show", "{}", *STORE],
    "clean --store": ["clean", "--store", "{}", "--yes"],
    "clean --run": ["clean", "--run", "{}", *STORE],
    "clean --older-than": ["clean", "--older-than", "{}", *STORE],
    "export FILE": ["export", RUN, "{}", *STORE],
    "compare --page": ["compare", RUN, RUN, "--page", "{}", *STORE],
    "send --to": ["send", RUN, "--to", "{}", *STORE],
    "new NAME": ["new", "{}"],
    "new --folder": ["new", "flowers", "--folder", "{}"],
    "new --from": ["new", "flowers", "--from", "{}"],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("typed", TYPED, ids=lambda typed: typed[:6])
def test_a_password_is_refused_wherever_it_is_typed(tmp_path, monkeypatch, typed, command):
    """What is printed ends in logs, and what is made of it in names of folders and in stores."""
    monkeypatch.chdir(tmp_path)

    done = CliRunner().invoke(app, [word.format(typed) for word in command])

    assert done.exit_code == 2, done.output
    assert isinstance(done.exception, SystemExit)
    assert SECRET not in done.output
    assert os.listdir() == []
