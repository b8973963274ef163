"""Where things lie in a store: the one module that knows its folders and what its files are called.

Layout::

    <store>/store.json                         the mark of a store
    <store>/stages/<stage>/<key>/record.json   what commits a stage
                                 leases/       who is, and was, at work on it
                                 attempts/     rows, a folder for each attempt
    <store>/results/<stage>-<key>              of an earlier version; nothing reads it
    <store>/code/<digest>.json                 source of problems, where a start asks for that
                 <digest>-deployed.json        says that a deployment asks for it
    <store>/runs/<run>/recipe.json             what was asked for
                       data.json               digests of the data that it began with
                       plan.json               what it was predicted to cost
                       budget.json             what it has spent
                       run.json                what it found, once it is finished
                       certificate.json        what ``mgd verify`` found
                       parts.json              the runs that are parts of it
                       stages/                 its claims, one for each stage that it uses
                       starts/                 its starts
                       at-work/                the process that carries out each flow run
                       progress/               how far stages on other machines are
"""

from engine.storage.location import join

STAGES, RUNS, RESULTS, CODE = "stages", "runs", "results", "code"
"""Folders of a store."""

LEASES, ATTEMPTS = "leases", "attempts"
"""Folders of a stage."""

CLAIMS, STARTS, AT_WORK, PROGRESS = "stages", "starts", "at-work", "progress"
"""Folders of a run."""

MARK = "store.json"
"""File directly in a store."""

RECORD = "record.json"
"""File directly in a stage's folder."""

RECIPE, DATA, PLAN, BUDGET, RUN, CERTIFICATE, PARTS = (
    "recipe.json",
    "data.json",
    "plan.json",
    "budget.json",
    "run.json",
    "certificate.json",
    "parts.json",
)
"""Files directly in a run's folder, besides what it writes for people."""


def stages_folder(store: str) -> str:
    """Return the folder of all stages."""
    return join(store, STAGES)


def stage_folder(store: str, stage: str, key: str) -> str:
    """Return ``<store>/stages/<stage>/<key>``, with a stage's record, leases and attempts."""
    return join(store, STAGES, stage, key)


def stage_record_url(store: str, stage: str, key: str) -> str:
    """Return where the record lies that commits a stage."""
    return join(store, STAGES, stage, key, RECORD)


def runs_folder(store: str) -> str:
    """Return the folder of all runs."""
    return join(store, RUNS)


def run_folder(store: str, run: str) -> str:
    """Return ``<store>/runs/<run>``, with a run's recipe, claims, record and report."""
    return join(store, RUNS, run)


def run_file(store: str, run: str, name: str) -> str:
    """Return where a file, or a folder, of a run lies."""
    return join(store, RUNS, run, name)


def claims_folder(store: str, run: str) -> str:
    """Return the folder of what a run says that it uses."""
    return join(store, RUNS, run, CLAIMS)


def results_folder(store: str) -> str:
    """Return the folder in which an earlier version kept Prefect's records of stages."""
    return join(store, RESULTS)


def code_folder(store: str) -> str:
    """Return the folder of the source of problems."""
    return join(store, CODE)


def kept_code_url(store: str, digest: str) -> str:
    """Return where the source of a problem lies, by the digest of its files' digests."""
    return join(store, CODE, f"{digest}.json")


def deployed_code_url(store: str, digest: str) -> str:
    """Return where it is noted that a deployment asks for the source of a problem."""
    return join(store, CODE, f"{digest}-deployed.json")
