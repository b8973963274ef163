"""Arguments and options that several commands have."""

from typing import Annotated

import typer

from flows.cli.completing import complete_change, complete_recipe, complete_run

RecipeArgument = Annotated[
    str,
    typer.Argument(
        help="Name of a shipped recipe, or path of a YAML file.", autocompletion=complete_recipe
    ),
]
RunArgument = Annotated[
    str,
    typer.Argument(help="Name of a run, or the beginning of it.", autocompletion=complete_run),
]


def each_once(context: typer.Context, changes: list[str] | None) -> list[str] | None:
    """Refuse two changes of one setting, of which the first would be lost."""
    if changes and not context.resilient_parsing:
        from engine.errors import ConfigurationError
        from engine.recipes.reading.yaml import refuse_repeated

        try:
            refuse_repeated(changes)
        except ConfigurationError as error:
            raise typer.BadParameter(str(error)) from error
    return changes


ChangesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change a setting: dotted.key=value; mgd recipes RECIPE shows them all. May be "
        "repeated.",
        autocompletion=complete_change,
        callback=each_once,
    ),
]
StoreOption = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="MGD_STORE",
        help="Folder for checkpoints, results and reports: a path, or a URL such as s3://bucket/folder.",
    ),
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show tracebacks and all log lines.")]
SecondsOption = Annotated[
    float | None,
    typer.Option(
        "--max-seconds", help="Stop after so much computing time; sets budget.max_seconds."
    ),
]
BytesOption = Annotated[
    int | None,
    typer.Option("--max-bytes", help="Stop when its stages take so much; sets budget.max_bytes."),
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-store",
        help="Read and connect to the places (arguments.url, arguments.sources, ...), and load the "
        "code, that the store's recipe names; without it, only those of a recipe that you have "
        "started on this machine, or that ships.",
    ),
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Show only warnings, and what came of it.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="End with one JSON object on stdout.")]
AgeOption = Annotated[
    str | None,
    typer.Option(help="Free runs that wrote nothing for so long: 90s, 30m, 12h, 7d, 2w."),
]
IntermediateOption = Annotated[
    bool,
    typer.Option(
        "--intermediate", help="Free what finished runs keep only to be repeated or continued."
    ),
]
KeepOption = Annotated[
    int | None, typer.Option(help="Free all but so many runs, those active last.")
]
RunsOption = Annotated[
    list[str] | None,
    typer.Option("--run", help="Free this run. May be repeated.", autocompletion=complete_run),
]
GraceOption = Annotated[
    str, typer.Option(help="What wrote something within this time is left alone.")
]
LogOption = Annotated[
    str | None,
    typer.Option(
        "--log-to",
        help="Send the run, after each outer step and at its end, to tensorboard:DIR, mlflow:URI, "
        "wandb:PROJECT or trackio:PROJECT.",
    ),
]
