"""Makes the work pools and the limits; run again, it brings them up to date.

Usage: ``python -m deployments.pools --gpus 4``, with ``PREFECT_API_URL`` set.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectNotFound

from flows.cli.terminal.screen import say
from tasks.running.runner import GPU_TAG

TEMPLATES = Path(__file__).with_name("pools")
"""One base job template for each kind of pool, named by the kind."""


def make_pool(client: SyncPrefectClient, template: Path, limit: int) -> None:
    """Create a work pool of a template's kind, or give the pool that is there the template.

    Args:
        client: Of the server.
        template: Base job template, named by the kind of pool.
        limit: Flow runs at a time.
    """
    name, kind = f"mgd-{template.stem}", template.stem
    settings = {
        "base_job_template": json.loads(template.read_text(encoding="utf-8")),
        "concurrency_limit": limit,
    }
    try:
        # Not create_work_pool(overwrite=True), which would resume a pool that somebody paused.
        client.update_work_pool(name, WorkPoolUpdate(**settings))
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=name, type=kind, **settings))
    say(f"work pool {name}: {limit} flow run(s) at a time")


def main(arguments: Sequence[str] | None = None) -> None:
    """Make all pools, and let as many stages run as there are GPUs."""
    parser = argparse.ArgumentParser(
        prog="python -m deployments.pools", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--gpus", type=int, default=1, help="GPUs that all pools share; default 1")
    gpus = parser.parse_args(arguments).gpus
    with get_client(sync_client=True) as client:
        for template in sorted(TEMPLATES.glob("*.json")):
            # A process has no GPU of its own: two runs would share what the machine has.
            make_pool(client, template, 1 if template.stem == "process" else gpus)
        client.create_concurrency_limit(GPU_TAG, gpus)
    say(f"task runs tagged {GPU_TAG}: {gpus} at a time")


if __name__ == "__main__":
    main()
