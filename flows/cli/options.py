"""Arguments and options that several commands have."""

from typing import Annotated

import typer

RecipeArgument = Annotated[
    str, typer.Argument(help="Name of a shipped recipe, or path of a YAML file.")
]
ChangesOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a setting: dotted.key=value. May be repeated."),
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
        help="Read and connect to the places (arguments.url, arguments.sources, ...) that the "
        "store's recipe "
        "names; without it, only to those of the shipped recipe of that name.",
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
    list[str] | None, typer.Option("--run", help="Free this run. May be repeated.")
]
GraceOption = Annotated[
    str, typer.Option(help="What wrote something within this time is left alone.")
]
