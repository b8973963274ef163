"""Stages that are being computed now, told by leases that are renewed while we look.

An owner on this machine is asked for directly. One on another machine is watched: it renews its
lease every few seconds, however long its stage takes, so a file that does not change is nobody's.
Clocks are not compared.
"""

import time
from collections.abc import Iterable
from typing import Any

from engine.runs.inventory import StageName, StoredStage
from engine.stages.lease import is_held, renewal_seconds
from engine.storage.location import join
from engine.storage.places import LEASES, stage_folder
from engine.storage.records import SMALL, read_records

PATIENCE = 2.5
"""Renewals that a lease is watched for: the second one may come late."""

_LOOKS = 10
"""Looks at it within that time."""


def stages_at_work(store: str, stages: Iterable[StoredStage]) -> set[StageName]:
    """Return those of the given stages that are being computed now.

    Cost:
        Reads a small file for each stage. Waits for some seconds if a lease is neither given up
        nor of a process on this machine.
    """
    newest = {
        join(stage_folder(store, *stage.name), LEASES, _newest(stage)): stage.name
        for stage in stages
        if stage.leases
    }
    seen = read_records(list(newest), largest=SMALL)
    found = {url: _is_held(content) for url, content in seen.items()}
    doubtful = {url for url, held in found.items() if held is None}
    pause = PATIENCE * renewal_seconds() / _LOOKS
    for _ in range(_LOOKS if doubtful else 0):
        time.sleep(pause)
        now = read_records(sorted(doubtful), largest=SMALL)
        # A file that went was freed with its stage: nobody's.
        changed = {url for url, content in now.items() if content != seen[url]}
        for url in changed:
            found[url] = _is_held(now[url]) is not False
        doubtful -= changed
        if not doubtful:
            break
    return {newest[url] for url, held in found.items() if held}


def _newest(stage: StoredStage) -> str:
    names = [file.path.rsplit("/", 1)[-1] for file in stage.leases]
    tokens = [name for name in names if name[0] != "."]  # else not written to its end
    return max(tokens or names, key=lambda name: (len(name), name))


def _is_held(content: dict[str, Any] | None) -> bool | None:
    if content is not None and not isinstance(content.get("owner"), dict):
        return None  # damaged: its owner, if there is one, writes it again
    return is_held(content)
