"""``python -m tests.handed_in NAMES`` prints what became of forms, as a JSON object.

A process of its own, because the tests check every type hint at run time, and a notebook does not.
"""

import json
import sys
import traceback
import warnings

import torch

from engine.errors import EngineError
from tests.handed_in.plain import FORTY, run
from tests.handed_in.rightly import WORK
from tests.handed_in.wrongly import REFUSED
from tests.helpers.trainings import routines


def outcome(changes):
    """Return what became of a case: its numbers, the engine's message, or a raw error."""
    changes = dict(changes)
    try:
        make = changes.pop("make", None)
        found = run(**changes) if make is None else make()
        return ["value", found.tolist() if isinstance(found, torch.Tensor) else repr(found)]
    except EngineError as error:
        return ["refused", str(error)]
    except Exception:
        return ["raw", traceback.format_exc()]


def main():
    """Print a JSON object: what became of each case that is named, and the plain form's numbers."""
    warnings.simplefilter("ignore")
    cases = WORK | {name: changes for name, (changes, _) in REFUSED.items()}
    found = {name: outcome(cases[name]) for name in json.loads(sys.argv[1])}
    found["plain"] = outcome({})
    found["Subset, plain"] = outcome(
        {**FORTY, "examples": tuple(column[:40] for column in routines.examples(60))}
    )
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
