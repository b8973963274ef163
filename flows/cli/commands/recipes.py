"""Commands about what can be run: recipes, new, deploy."""

from typing import Annotated

import typer

from flows.cli.commands.declaring import command
from flows.cli.completing import complete_recipe
from flows.cli.options import ChangesOption, PoolOptions, ResultOptions, SeedsOption


@command
def recipes(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Name of a recipe, or path of a YAML file, whose settings are shown; without one, "
            "all recipes are listed.",
            autocompletion=complete_recipe,
        ),
    ] = None,
    changes: ChangesOption = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Explain every setting of NAME.")
    ] = False,
    group: Annotated[
        str | None,
        typer.Option("--group", help="Explain the settings of a group, e.g. training."),
    ] = None,
    *,
    output: ResultOptions,
) -> None:
    """List the shipped recipes, or show one with its settings and their meaning."""
    if name is None:
        from flows.cli.recipe_list import show_recipes

        show_recipes(as_json=output.as_json)
    else:
        from flows.cli.recipe_view import show_recipe

        show_recipe(name, changes or [], as_json=output.as_json, everything=everything, group=group)


@command
def new(
    name: Annotated[
        str, typer.Argument(help="Name of the problem, an identifier in Python, e.g. flowers.")
    ],
    start: Annotated[
        str,
        typer.Option(
            "--from",
            help="Starting point: script, image_folder, table, texts, instructions, pairs, "
            "hf_dataset.",
        ),
    ] = "script",
    folder: Annotated[
        str, typer.Option("--folder", help="Folder that the files are written to.")
    ] = ".",
) -> None:
    """Start a problem of your own: a file, its recipe, and a test that passes as written."""
    from pathlib import Path

    from engine.errors import ConfigurationError, did_you_mean
    from flows.cli.new import StartingPoint, begin, tell

    if start not in list(StartingPoint):
        raise ConfigurationError(
            f"--from {start!r} is not a starting point. Use one of {', '.join(StartingPoint)}."
            + did_you_mean(start, list(StartingPoint))
        )
    tell(begin(name, StartingPoint(start), Path(folder)), StartingPoint(start))


@command
def deploy(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RECIPE",
            help="Shipped recipes, paths of YAML files, check, plan, verify, smoothness or clean.",
            autocompletion=complete_recipe,
        ),
    ] = None,
    everything: Annotated[
        bool,
        typer.Option(
            "--all", help="Deploy every shipped recipe, check, plan, verify, smoothness and clean."
        ),
    ] = False,
    changes: ChangesOption = None,
    seeds: SeedsOption = None,
    *,
    where: PoolOptions,
    output: ResultOptions,
) -> None:
    """Deploy recipes to a Prefect server, which starts them from its UI or on a schedule."""
    from engine.recipes.files import read_seeds
    from flows.cli.deploying import DeployRequest, deploy, shipped
    from flows.cli.terminal.watching import prepare_process

    prepare_process(output.debug)
    request = DeployRequest(
        shipped() if everything else names or [],
        changes or [],
        None if seeds is None else read_seeds(seeds),
    )
    deploy(request, where, as_json=output.as_json)
