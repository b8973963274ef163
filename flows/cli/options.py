"""Arguments and options that several commands have, each declared once.

An option group is a frozen dataclass of options that belong together. A command takes the group as
one parameter, and ``flows.cli.commands.declaring.command`` shows its fields as options of the
command. Code below the commands takes the group whole, so that an option which is added to a group
passes through no parameter list.
"""

from dataclasses import dataclass
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
    typer.Argument(
        help="Name of a run, or the beginning of its name.", autocompletion=complete_run
    ),
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
        help="Change a setting: dotted.key=value. Can be repeated; mgd recipes RECIPE lists all "
        "settings.",
        autocompletion=complete_change,
        callback=each_once,
    ),
]
SeedsOption = Annotated[
    str | None,
    typer.Option("--seeds", help="One run for each of these training seeds, e.g. 0,1,2."),
]
StoreOption = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="MGD_STORE",
        help="Folder for checkpoints, results and reports: a path, or a URL such as s3://bucket/folder.",
    ),
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

DEFAULT_STORE = "mgd-store"
"""Where runs keep what they make if neither ``--store`` nor ``MGD_STORE`` names a place."""


@dataclass(frozen=True, kw_only=True)
class OptionGroup:
    """Options that belong together; a field is an option, and its default is the option's."""


@dataclass(frozen=True, kw_only=True)
class ErrorOptions(OptionGroup):
    """How a command shows errors. Every command has these."""

    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and all log lines.")] = (
        False
    )


@dataclass(frozen=True, kw_only=True)
class ResultOptions(ErrorOptions):
    """How a command that returns a result shows it."""

    as_json: Annotated[bool, typer.Option("--json", help="End with one JSON object on stdout.")] = (
        False
    )


@dataclass(frozen=True, kw_only=True)
class OutputOptions(ResultOptions):
    """How a command that works for a while shows its progress and its result."""

    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Show only warnings and the result.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class RunOptions(OptionGroup):
    """Where a run keeps what it makes, what it may spend, and where its curves are sent."""

    store: StoreOption = DEFAULT_STORE
    max_seconds: Annotated[
        float | None,
        typer.Option(
            "--max-seconds",
            help="Stop after this many seconds of computing; sets budget.max_seconds.",
        ),
    ] = None
    max_bytes: Annotated[
        int | None,
        typer.Option(
            "--max-bytes",
            help="Stop when the stages of the run take this many bytes; sets budget.max_bytes.",
        ),
    ] = None
    log_to: Annotated[
        str | None,
        typer.Option(
            "--log-to",
            help="Send the results, after each outer step and at the end, to tensorboard:DIR, "
            "mlflow:URI, wandb:PROJECT or trackio:PROJECT.",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class DirectionOptions(OptionGroup):
    """How the smoothness of a training is measured; None leaves it to the recipe."""

    directions: Annotated[
        int | None, typer.Option(help="Number of random directions; each takes two trainings.")
    ] = None
    step: Annotated[float | None, typer.Option(help="Distance h by which z is moved.")] = None
    by: Annotated[
        str | None, typer.Option(help="Kind of direction: example, group or coordinate.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class PoolOptions(OptionGroup):
    """Where deployments go, and what their jobs find there."""

    pool: Annotated[str, typer.Option("--pool", help="Work pool whose workers carry out the runs.")]
    store: StoreOption = DEFAULT_STORE
    image: Annotated[
        str | None,
        typer.Option(
            "--image",
            envvar="MGD_IMAGE",
            help="Container image of the jobs, for a pool that starts containers.",
        ),
    ] = None
    folder: Annotated[
        str | None,
        typer.Option(
            "--folder",
            help="Folder in which workers find your files, if it is another one than here.",
        ),
    ] = None
    suffix: Annotated[
        str,
        typer.Option(
            "--suffix",
            help="Suffix of each deployment's name (with gpu: digits-selection-gpu), so that "
            "deployments on another pool are kept.",
        ),
    ] = ""


@dataclass(frozen=True, kw_only=True)
class CleanOptions(OptionGroup):
    """Which runs are freed, and what is left alone."""

    older_than: Annotated[
        str | None,
        typer.Option(
            help="Free runs that have written nothing for this long: 90s, 30m, 12h, 7d, 2w."
        ),
    ] = None
    keep: Annotated[
        int | None, typer.Option(help="Free all runs but this many, the most recently active.")
    ] = None
    run: Annotated[
        list[str] | None,
        typer.Option("--run", help="Free this run. Can be repeated.", autocompletion=complete_run),
    ] = None
    intermediate: Annotated[
        bool,
        typer.Option(
            "--intermediate",
            help="Free the stages of finished runs that only a repetition or continuation needs.",
        ),
    ] = False
    grace: Annotated[
        str, typer.Option(help="Leave alone everything that was written within this time.")
    ] = "1d"
