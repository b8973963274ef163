"""Settings of privacy canaries: how many, and how the gap is audited."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from engine.recipes.descent import DescentRecipe, OuterSettings, OuterUpdate
from engine.recipes.metaparameters import MetaparameterName, MetaparametersSettings
from engine.recipes.settings import Settings, digest
from engine.recipes.smoothness import descent_of
from engine.recipes.training import Retraining


class CanariesSettings(Settings):
    """Settings of the canaries, and of the audit of their gap."""

    num_canaries: Annotated[int, Field(ge=2)] = 100
    """m; the first training candidates, which are drawn at random from the data."""

    num_audits: Annotated[int, Field(ge=2, le=100_000)] = 16
    """Trainings of an audit, each with another half of the canaries, start and order."""

    retraining: Retraining = Retraining.BATCHED
    """How they are carried out."""

    seed: Annotated[int, Field(ge=0, lt=2**62)] = 0
    """Seeds halves, starts and orders; steps and audits have none in common."""


class CanariesRecipe(DescentRecipe):
    """Canaries whose pixels are optimized so that a model tells whether it was trained on them."""

    kind: Literal["canaries"] = "canaries"  # pyright: ignore[reportIncompatibleVariableOverride]
    """Which flow runs this recipe."""

    metaparameters: MetaparametersSettings = MetaparametersSettings(name=MetaparameterName.WEIGHTS)
    """Who is in and who is out is a weight of 1 or 0; the pixels are added to that."""

    outer: OuterSettings = OuterSettings(update=OuterUpdate.ADAM, num_steps=30, step_size=0.3)
    """How the pixels move."""

    canaries: CanariesSettings = CanariesSettings()
    """Settings of the canaries, and of the audit of their gap."""

    @model_validator(mode="after")
    def _has_room(self) -> "CanariesRecipe":
        if self.metaparameters.name is not MetaparameterName.WEIGHTS:
            raise ValueError(
                f"metaparameters.name is {self.metaparameters.name.value}, but canaries are taken "
                "in and left out by their weights. Use weights."
            )
        if self.outer.choose_by != "loss" or self.outer.choose is not None:
            raise ValueError(
                f"outer.choose_by is {self.outer.choose_by} and outer.choose {self.outer.choose}, "
                "but canaries are those of the last outer step. Leave both out."
            )
        for name in ("steps_per_segment", "max_store_bytes"):
            value = getattr(self.replay, name)
            if value != type(self.replay).model_fields[name].default:
                raise ValueError(
                    f"replay.{name} is {value}, but each training with canaries is reversed in "
                    "memory, as one segment. Leave it out; replay.max_device_bytes bounds the "
                    "memory."
                )
        return self

    @property
    def descent(self) -> DescentRecipe:
        """The recipe of a descent with the same training, under the name of these canaries."""
        return descent_of(self, f"{self.name}-{digest(self.canaries.model_dump(mode='json'))[:4]}")
