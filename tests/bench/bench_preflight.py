"""Does the preflight find what is broken, with its cause, and leave alone what is sound?

Question: of the routines in ``tests/helpers/trainings/broken_routines.py``, how many does it refuse
or warn of with the right cause, and how many sound ones pass? Required: 19 of 20 each.

    python -m tests.bench.bench_preflight --date 20261124
"""

import argparse

from engine.numerics.determinism import deterministic
from engine.numerics.process import keep_freed_memory
from engine.preflight.checkup import check
from engine.preflight.verdict import Verdict
from tests.bench.record import write_record
from tests.helpers.trainings.broken_routines import BROKEN
from tests.helpers.trainings.routines import output
from tests.helpers.trainings.sound_routines import SOUND


def _broken() -> tuple[list[str], int]:
    lines, found = (
        ["| broken routine | verdict | found by | cause |", "| --- | --- | --- | --- |"],
        0,
    )
    for name, broken in BROKEN.items():
        report = check(broken.make(), output)
        by = broken.found_by(report)
        found += by is not None
        cause = "not found" if by is None else by.cause.replace("|", "/")
        lines.append(f"| {name} | {report.verdict} | {by.name if by else '-'} | {cause} |")
    return lines, found


def _sound() -> tuple[list[str], int]:
    lines, passed = ["| sound routine | verdict | what did not pass |", "| --- | --- | --- |"], 0
    for name, make in SOUND.items():
        report = check(make(), output)
        passed += report.verdict is Verdict.PASS
        lines.append(f"| {name} | {report.verdict} | {' '.join(report.sentences()) or '-'} |")
    return lines, passed


def main() -> None:
    """Check all of them and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--date", required=True, help="YYYYMMDD, for the name of the record")
    date = parser.parse_args().date
    keep_freed_memory()
    with deterministic(1):
        broken, found = _broken()
        sound, passed = _sound()
    write_record(
        "preflight",
        "What the preflight finds",
        "python -m tests.bench.bench_preflight --date 20261124",
        [
            f"{found} of {len(BROKEN)} broken routines are refused or warned of with the right "
            f"cause, and {passed} of {len(SOUND)} sound ones pass; required: 19 of 20 each.",
            "",
            *broken,
            "",
            *sound,
        ],
        date,
    )


if __name__ == "__main__":
    main()
