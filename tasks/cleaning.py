"""The house-keeping of a store as a Prefect task, and what users see of it."""

from prefect import task
from prefect.artifacts import create_table_artifact
from rich.filesize import decimal

from engine.runs.clean.clean_plan import CleanReport, CleanRules
from engine.runs.clean.cleaning import plan_clean
from engine.runs.clean.freeing import carry_out
from tasks.running.artifacts import say_in_ui

SHOWN = 200
"""Rows of the artifact: the largest."""


@task(task_run_name="clean")
def clean(store: str, rules: CleanRules, delete: bool) -> CleanReport:
    """Say what no run needs, and delete it if asked; see ``engine.runs.clean.cleaning``."""
    plan = plan_clean(store, rules)
    report = carry_out(plan) if delete else plan.report
    largest = sorted(report.freed, key=lambda each: each.bytes, reverse=True)[:SHOWN]
    rows = [each.model_dump(mode="json") for each in largest]
    verb = "Freed" if delete else "Would free"
    text = f"{verb} {decimal(report.bytes)} in {len(report.freed)} places of {store}"
    create_table_artifact(rows, key="clean", description=text)
    say_in_ui(f"{text}; {decimal(report.kept_bytes)} stay")
    return report
