"""The outer steps that a descent has taken so far, found by what its stages were made from.

The record of a run names its iterates from its end on. Before it, the claims say which stages the
run uses, and the record of each stage says what it was made from; no name of a stage is read.
"""

from collections import defaultdict
from typing import Any

from pydantic import ValidationError

from engine.applications.descent.record import Iterate
from engine.stages.claims import read_claims
from engine.stages.references import Ref
from engine.storage.places import stage_record_url
from engine.storage.records import read_records


def iterates_so_far(store: str, run: str) -> list[Iterate]:
    """Return the outer steps that have been scored, in order; none if there is none.

    Args:
        store: fsspec URL of the store.
        run: Its whole name.

    Cost:
        Reads the claims of the run, and one small record for each.
    """
    made = _Made(store, run)
    found: list[Iterate] = []
    value, seen = made.first, set[Ref]()
    while value is not None and value not in seen:  # a forged store may lead in a circle
        seen.add(value)
        scored = made.scored(value)
        if scored is None:
            return found
        final, scores = scored
        after, gradient = made.moved(value)
        try:
            found.append(
                Iterate(
                    outer_step=len(found),
                    value=value,
                    final=final,
                    gradient=gradient,
                    scores=scores,
                )
            )
        except ValidationError:  # a record of another version says something else
            return found
        value = after
    return found


class _Made:
    """What the committed stages of a run were made from."""

    def __init__(self, store: str, run: str) -> None:
        claims = read_claims(store, run)
        urls = [stage_record_url(store, each.stage, each.key) for each in claims]
        self._by_kind: dict[str, list[tuple[Ref, dict[str, Any], dict[str, Any]]]] = defaultdict(
            list
        )
        for record in read_records(urls).values():
            ref = _ref((record or {}).get("ref"))
            if ref is not None and record is not None:
                inputs, scalars = record.get("inputs"), record.get("scalars")
                self._by_kind[ref.stage].append(
                    (
                        ref,
                        inputs if isinstance(inputs, dict) else {},
                        scalars if isinstance(scalars, dict) else {},
                    )
                )

    @property
    def first(self) -> Ref | None:
        """z_0."""
        return next((ref for ref, _, _ in self._by_kind["initial"]), None)

    def scored(self, value: Ref) -> tuple[Ref, dict[str, Any]] | None:
        """Return the final state that was trained at z, and its scores; None if there are none."""
        trained = {
            (ref.stage, ref.key)
            for ref, inputs, _ in self._by_kind["train"]
            if _ref(inputs.get("value")) == value
        }
        for _, inputs, scalars in self._by_kind["evaluate"]:
            final = _ref(inputs.get("final"))
            if final is not None and (final.stage, final.key) in trained:
                return final, scalars
        return None

    def moved(self, value: Ref) -> tuple[Ref | None, Ref | None]:
        """Return the z after this one and the metagradient that moved it, as far as there are."""
        for ref, inputs, _ in self._by_kind["update"]:
            if _ref(inputs.get("value")) == value:
                return ref, _ref(inputs.get("gradient"))
        return None, None


def _ref(content: Any) -> Ref | None:  # noqa: ANN401 (any JSON value)
    try:
        return Ref.model_validate(content)
    except ValidationError:
        return None
