"""Artifacts that another process of a flow run has made, found again to be rewritten."""

from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
)
from prefect.context import FlowRunContext


def earlier_artifact(key: str, description: str | None = None) -> UUID | None:
    """Return the artifact of this flow run that a process before this one has made.

    Args:
        key: Of the artifact.
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
