"""Artifacts and pages of Prefect's UI: found again to be rewritten, and where people see them."""

from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
)
from prefect.context import FlowRunContext
from prefect.logging.loggers import flow_run_logger
from prefect.settings import get_current_settings

from engine.secret_urls import without_login


def earlier_artifact(key: str, description: str | None = None) -> UUID | None:
    """Return the artifact of this flow run that a process before this one has made.

    Args:
        key: Key of the artifact.
        description: Its own too, where several of one flow run have the same key.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or context.flow_run.run_count <= 1:
        return None
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(
                flow_run_id=ArtifactFilterFlowRunId(any_=[context.flow_run.id]),
                key=ArtifactFilterKey(any_=[key]),
            )
        )
    same = [each for each in found if description in (None, each.description)]
    return same[0].id if same else None


def ui_address(path: str) -> str | None:
    """Return the address of a page of the UI, the second one; None where no UI is served.

    Args:
        path: Path of the page, e.g. ``/runs/flow-run/ID``.
    """
    settings = get_current_settings()
    api = settings.api.url or ""
    root = without_login(settings.ui_url or api.removesuffix("/api"))  # it is kept and shown
    if not root or not settings.server.ui.enabled:
        return None
    hosted = api.startswith(settings.cloud.api_url)  # Prefect's own, which has one UI
    return f"{root.rstrip('/').removesuffix('/v2')}{'' if hosted else '/v2'}{path}"


def say_in_ui(sentence: str) -> None:
    """Say something in the log of the flow run, also from a task, whose own log shows warnings."""
    context = FlowRunContext.get()
    if context is not None and context.flow_run is not None:
        flow_run_logger(context.flow_run).info("%s", sentence)
