"""Outer steps of an unfinished descent, found by the inputs of its committed stages.

The record of a run names its iterates from its end on. Before it, the claims say which stages the
run uses, and the record of each stage says what it was made from; no name of a stage is read, and
no tensor.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from engine.stages.claims import read_claims
from engine.stages.references import Ref
from engine.storage.places import stage_record_url
from engine.storage.records import read_records


@dataclass(frozen=True)
class OuterStepRefs:
    """One outer step that has been scored.

    Attributes:
        value: z_n.
        final: s_T.
        gradient: Metagradient at z_n; None where no step has been taken from there yet.
        scores: Split to scores, as the stage recorded them.
    """

    value: Ref
    final: Ref
    gradient: Ref | None
    scores: dict[str, Any]


class OuterSteps:
    """Outer steps of an unfinished run; each call reads only what is new since the last one.

    Args:
        store: fsspec URL of the store.
        run: Full name of the run.
    """

    def __init__(self, store: str, run: str) -> None:
        self._store, self._run = store, run
        self._claims: dict[str, dict[str, Any] | None] = {}
        self._records: dict[str, dict[str, Any] | None] = {}

    def so_far(self) -> list[OuterStepRefs]:
        """Return the outer steps that have been scored, in order; may be empty.

        Cost:
            Lists the claims of the run, and reads those that are new, and a small record of each
            stage that has been committed since.
        """
        made = _Made(self._new_records())
        found: list[OuterStepRefs] = []
        value, seen = made.first, set[Ref]()
        while value is not None and value not in seen:  # a forged store may lead in a circle
            seen.add(value)
            scored = made.scored(value)
            if scored is None:
                return found
            after, gradient = made.moved(value)
            found.append(OuterStepRefs(value, scored[0], gradient, scored[1]))
            value = after
        return found

    def _new_records(self) -> list[dict[str, Any] | None]:
        """Return the records of all stages that the run has claimed, in the order of the claims."""
        claims = read_claims(self._store, self._run, self._claims)
        urls = [stage_record_url(self._store, each.stage, each.key) for each in claims]
        # What is committed under a key stays what it is; one that is damaged may be made again.
        self._records |= read_records([url for url in urls if self._records.get(url) is None])
        return [self._records[url] for url in urls if url in self._records]


def outer_steps(store: str, run: str) -> list[OuterStepRefs]:
    """Return the outer steps that have been scored, in order, as ``OuterSteps`` at first look."""
    return OuterSteps(store, run).so_far()


class _Made:
    """References, inputs and scalars of the committed stages of a run, by kind."""

    def __init__(self, records: list[dict[str, Any] | None]) -> None:
        self._by_kind: dict[str, list[tuple[Ref, dict[str, Any], dict[str, Any]]]] = defaultdict(
            list
        )
        for record in records:
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
        """Return the z after this one and the metagradient that moved it; None until made."""
        for ref, inputs, _ in self._by_kind["update"]:
            if _ref(inputs.get("value")) == value:
                return ref, _ref(inputs.get("gradient"))
        return None, None


def _ref(content: Any) -> Ref | None:  # noqa: ANN401 (any JSON value)
    try:
        return Ref.model_validate(content)
    except ValidationError:
        return None
