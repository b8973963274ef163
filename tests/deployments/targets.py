"""Work pools of this project as a server would have them, without a server."""

import json

from prefect.client.schemas.objects import WorkPool

from deployments import pools
from flows.deploying import DeployTarget, housekeeping_deployment, recipe_deployment

TEMPLATES = {path.stem: json.loads(path.read_text()) for path in pools.TEMPLATES.glob("*.json")}
"""Kind of pool to its base job template."""


def pool(kind, template=None):
    """Return a work pool of a kind."""
    return WorkPool(
        name=f"mgd-{kind}", type=kind, base_job_template=template or TEMPLATES[kind]
    )  # fmt: skip


def target(kind, store="s3://bucket/folder", image="registry/mgd:0.1.0", suffix=""):
    """Return where deployments on a kind of pool go."""
    return DeployTarget.of(pool(kind), store, image, suffix)


def job_variables(kind):
    """Return what a run of a shipped recipe is given on a kind of pool."""
    return recipe_deployment("digits-selection", target(kind)).job_variables


def job_variables_without_gpu(kind):
    """Return what a flow that computes nothing is given on a kind of pool."""
    return housekeeping_deployment("clean", target(kind)).job_variables
