"""What compiling a product took and what it saved, noted beside the programs for later processes.

A note only spares a later process the same measurement. No result depends on a note.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.utils._pytree import tree_leaves

from engine.numerics.environment import machine
from engine.routine.routine import Routine
from engine.step.programs.programs_folder import keep_programs


@dataclass(frozen=True)
class CompileNote:
    """What is known of the compiled product of a routine on this machine.

    Attributes:
        seconds: The least that a process waited for it.
        share: Time of the program over that of the reference.
        times: Processes that waited; all but the first found programs in torch's cache.
    """

    seconds: float
    share: float
    times: int = 1


def read_note(routine: Routine) -> CompileNote | None:
    """Return the note of earlier processes; None if there is none that can be understood."""
    try:
        found = CompileNote(**json.loads(_place(routine).read_text(encoding="utf-8")))
        sound = all(math.isfinite(each) and each > 0 for each in asdict(found).values())
    except (OSError, ValueError, TypeError):
        return None
    return found if sound else None


def keep_note(routine: Routine, seconds: float, share: float) -> None:
    """Note that this process waited for a product, unless the folder cannot be written."""
    known, place = read_note(routine), _place(routine)
    note = CompileNote(seconds, share)
    if known is not None:
        note = CompileNote(min(seconds, known.seconds), share, known.times + 1)
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.write_text(json.dumps(asdict(note)), encoding="utf-8")
    except OSError:
        return


def _place(routine: Routine) -> Path:
    """Return the note of routines of this model, loss, optimizer and batch."""
    loss, optimizer = routine.loss, routine.optimizer
    batch = tree_leaves(routine.batch_of(routine.order.batch(0)))
    facts = [
        torch.__version__,
        machine(),
        str(routine.device),
        torch.get_num_threads(),
        repr(routine.model),
        routine.layout.shapes,
        str(routine.layout.dtype),
        getattr(loss, "__module__", ""),
        getattr(loss, "__qualname__", type(loss).__qualname__),
        optimizer.name,
        sorted(optimizer.hyperparameters),
        sorted((name, type(kind).__name__) for name, kind in routine.metaparameters.items()),
        [(str(c.dtype), tuple(c.shape)) for c in batch if isinstance(c, torch.Tensor)],
    ]
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:32]
    return keep_programs() / "notes" / f"{digest}.json"
