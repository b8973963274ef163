"""Commands about what can be run: recipes, new, deploy."""

from typing import Annotated

import typer

from flows.cli.completing import complete_recipe
from flows.cli.options import (
    ChangesOption,
    DebugOption,
    JsonOption,
    StoreOption,
)
from flows.cli.terminal.one_message import one_message


def recipes(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Name of a recipe, or path of a YAML file: shows its settings. None lists all.",
            autocompletion=complete_recipe,
        ),
    ] = None,
    changes: ChangesOption = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Say what every setting of NAME means.")
    ] = False,
    group: Annotated[
        str | None,
        typer.Option("--group", help="Say what the settings of a group mean, e.g. training."),
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List the recipes that ship, or show one: its settings, and what they mean."""
    with one_message(debug):
        if name is None:
            from flows.cli.recipe_list import show_recipes

            show_recipes(as_json=as_json)
        else:
            from flows.cli.recipe_view import show_recipe

            show_recipe(name, changes or [], as_json=as_json, everything=everything, group=group)


def new(
    name: Annotated[str, typer.Argument(help="Of the problem: a name in Python, e.g. flowers.")],
    start: Annotated[
        str,
        typer.Option(
            "--from",
            help="What it begins from: script, image_folder, table, texts, instructions, "
            "pairs, hf_dataset.",
        ),
    ] = "script",
    folder: Annotated[str, typer.Option("--folder", help="Where the files go.")] = ".",
    debug: DebugOption = False,
) -> None:
    """Begin a problem of your own: a file, its recipe, and a test that passes as written."""
    with one_message(debug):
        from pathlib import Path

        from engine.errors import ConfigurationError, did_you_mean
        from flows.cli.new import Start, begin, tell

        if start not in list(Start):
            raise ConfigurationError(
                f"--from {start!r} is nothing to begin from. Use one of {', '.join(Start)}."
                + did_you_mean(start, list(Start))
            )
        tell(begin(name, Start(start), Path(folder)), Start(start))


def deploy(  # noqa: PLR0913 (the options of one command)
    pool: Annotated[str, typer.Option("--pool", help="Work pool whose workers run it.")],
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RECIPE",
            help="Shipped recipes, paths of YAML files, check, plan, verify, smoothness or clean.",
            autocompletion=complete_recipe,
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every recipe that ships, check, plan ...")
    ] = False,
    changes: ChangesOption = None,
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", help="One run for each of these training seeds, e.g. 0,1,2."),
    ] = None,
    store: StoreOption = "mgd-store",
    image: Annotated[
        str | None,
        typer.Option(
            "--image", envvar="MGD_IMAGE", help="Image of the containers that the pool starts."
        ),
    ] = None,
    folder: Annotated[
        str | None,
        typer.Option(
            "--folder", help="Folder in which workers have your files, if not in the same as here."
        ),
    ] = None,
    suffix: Annotated[
        str,
        typer.Option(
            "--suffix",
            help="Added to the name of each deployment (with gpu: digits-selection-gpu), so that "
            "those of another pool stay beside it.",
        ),
    ] = "",
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Deploy recipes to a Prefect server, to be started from its UI, on a schedule, or anywhere."""
    with one_message(debug):
        from engine.recipes.files import read_seeds
        from flows.cli.deploying import DeployRequest, deploy, shipped
        from flows.cli.terminal.watching import prepare_process

        prepare_process(debug)
        request = DeployRequest(
            shipped() if everything else names or [],
            changes or [],
            None if seeds is None else read_seeds(seeds),
            folder,
        )
        deploy(request, pool, store, image, suffix, as_json=as_json)
