"""Recipes: frozen models of everything a run is made from, and their digest.

The same models validate a YAML file, make the form in the Prefect UI and name the stages.
They stay flat, with enums instead of unions, because the UI's form cannot edit a union.
This module does not know torch.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from engine.errors import ConfigurationError
from engine.recipes.code.signatures import read_arguments
from engine.recipes.comparisons import BaselineName, check_baselines, rerun_content
from engine.recipes.execution import BudgetSettings, PreflightMode, RunnerName, WorkersSettings
from engine.recipes.metaparameters import (
    KINDS,
    GroupName,
    MetaparametersSettings,
    ScalarName,
    default_injection_step,
)
from engine.recipes.optimizer import OptimizerSettings
from engine.recipes.problem_functions import (
    CODE_IS_CONFIRMED,
    DEFAULT_PROBLEM,
    find_function,
    names_code,
    sources,
)
from engine.recipes.rate_search import SchedulesSettings
from engine.recipes.reading.explain import NamedError
from engine.recipes.replay import ReplaySettings, VjpMode
from engine.recipes.settings import Settings, digest
from engine.recipes.training import RateSchedule, TrainingSettings

__all__ = ["GroupName", "ScalarName", "Settings", "digest"]


_MANY_STAGES = 200_000
"""Stages that train, in one run, at most: each is a folder of the store and a task of a server."""


class OuterUpdate(StrEnum):
    """How metaparameters move along the metagradient; all but the first three are torch.optim's."""

    SIGN = "sign"
    MASKED_SIGN = "masked-sign"
    RANKED_EXCHANGE = "ranked-exchange"
    SGD = "SGD"
    ADAM = "Adam"
    ADAMW = "AdamW"
    RMSPROP = "RMSprop"
    ADAGRAD = "Adagrad"
    ADADELTA = "Adadelta"
    ADAMAX = "Adamax"
    NADAM = "NAdam"
    RADAM = "RAdam"
    ASGD = "ASGD"
    RPROP = "Rprop"


RISING = frozenset({"accuracy", "hits", "text_to_image"})
"""Measures of shipped problems of which more is better."""

FALLING = frozenset({"loss", "absolute_error"})
"""Those of which less is better; of a problem's own nobody knows it but whoever wrote it."""


class OuterSettings(Settings):
    """Metagradient descent: how often and how far z moves."""

    num_steps: Annotated[int, Field(ge=1, le=100_000)] = 5
    """Outer steps; each trains the model once and reverses the run once."""

    update: OuterUpdate | None = None
    """Rule of the move; empty means masked-sign for counts, and sign for every other kind."""

    maximize: bool = False
    """Move uphill: how much can this part of the set-up hurt?"""

    step_size: Annotated[float | None, Field(gt=0)] = None
    """Length of a sign step, or learning rate of the torch optimizer, in units of z; for a ranked
    exchange, the share of the examples that is replaced. Empty means 1 for counts, which is one
    use of an example, and 0.1 for an exchange and for every other kind."""

    step_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the step size after every outer step."""

    probability: Annotated[float, Field(gt=0, le=1)] = 0.2
    """p, share of the coordinates that a masked sign step or a ranked exchange may move."""

    max_count: Annotated[int | None, Field(ge=1)] = None
    """Largest count that a ranked exchange gives; 1 makes the counts a subset."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seeds the mask, that is, which coordinates may move."""

    choose_by: str = "loss"
    """What chooses the iterate, measured on the validation split: loss, or the name of a metric of
    the problem. It is read after the descent, and never differentiated."""

    choose: Literal["highest", "lowest"] | None = None
    """Whether the highest or the lowest of it is chosen; empty means the best for measures that
    are known (the worst if the run maximizes), and is refused for a metric of a problem's own."""

    @property
    def chooses_highest(self) -> bool:
        """Whether the iterate with the highest measure is chosen.

        Raises:
            ConfigurationError: If nobody has said it, of a metric of a problem's own.
        """
        if self.choose is not None:
            return self.choose == "highest"
        if self.choose_by not in RISING | FALLING:
            raise ConfigurationError(
                f"outer.choose_by is {self.choose_by!r}, a metric that the problem defines, so it "
                "is not known whether a higher value is better. Set outer.choose to highest or "
                "lowest."
            )
        return (self.choose_by in RISING) != self.maximize

    def best(self, values: Sequence[float]) -> int:
        """Return the place of the value that is chosen, the earliest of equals.

        What is not a number (a ratio whose denominator is 0) is never chosen; where nothing is
        one, the first is kept.
        """
        known = [value for value in values if value == value]
        if not known:
            return 0
        return list(values).index(max(known) if self.chooses_highest else min(known))

    def rule(self, *, by_whole: bool) -> "OuterRule":
        """Return the same settings with nothing left open.

        Args:
            by_whole: Whether z moves by whole examples, as counts do.

        Raises:
            ConfigurationError: If the update does not suit such a z.
        """
        update = self.update or (OuterUpdate.MASKED_SIGN if by_whole else OuterUpdate.SIGN)
        if update in (OuterUpdate.MASKED_SIGN, OuterUpdate.RANKED_EXCHANGE) and not by_whole:
            raise ConfigurationError(
                f"outer.update is {update.value}, which moves counts by whole examples. Leave it "
                "out, which means sign, or use a torch.optim optimizer."
            )
        exchanges = update is OuterUpdate.RANKED_EXCHANGE
        step_size = self.step_size or (1.0 if by_whole and not exchanges else 0.1)
        if exchanges and step_size > 1:
            raise ConfigurationError(
                f"outer.step_size is {step_size:g}, but a ranked exchange replaces that share of "
                "the examples. Use 1 or less, e.g. 0.1."
            )
        return OuterRule(**{**dict(self), "update": update, "step_size": step_size})


class OuterRule(OuterSettings):
    """What moves z: settings of the outer descent whose defaults are filled in by what z is."""

    update: OuterUpdate  # pyright: ignore[reportIncompatibleVariableOverride]
    """Rule of the move."""

    step_size: Annotated[float, Field(gt=0)]  # pyright: ignore[reportIncompatibleVariableOverride]
    """Length of a step, or share of an exchange."""


def _refused(arguments: Any) -> Any:  # noqa: ANN401 (arguments, or why there are none)
    """Refuse arguments in their turn, so that other wrong settings are told at the same time."""
    if isinstance(arguments, NamedError):
        raise arguments
    return arguments


class DescentRecipe(Settings):
    """Metagradient descent on one set-up."""

    takes_none_of: ClassVar[frozenset[str]] = frozenset()
    """Groups of settings that a kind refuses, because nothing would read them."""

    kind: Literal["descent"] = "descent"
    """Which flow runs this recipe."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=100)]
    """Name in run names and reports: lower-case letters, digits and hyphens, 100 at most."""

    description: str = ""
    """One sentence, for messages and the page of a run."""

    problem: str = DEFAULT_PROBLEM
    """What is trained on what: a problem that ships, e.g. digits; a function in a file beside the
    recipe, e.g. my_images.py:flowers; or one of an installed package, e.g.
    package.module:function."""

    arguments: Annotated[dict[str, Any], BeforeValidator(_refused)] = {}
    """Arguments of the problem's function, by name."""

    folder: str | None = None
    """Folder of the recipe's file, where files of a problem are looked for; no part of a
    run's name."""

    code: dict[str, str] = {}
    """Digests of the problem's source by file, or of its package; filled in, and compared whenever
    the recipe is read again."""

    optimizer: OptimizerSettings = OptimizerSettings()
    """Inner optimizer."""

    training: TrainingSettings = TrainingSettings()
    """Inner run."""

    metaparameters: MetaparametersSettings = MetaparametersSettings()
    """What is optimized."""

    outer: OuterSettings = OuterSettings()
    """Outer descent."""

    replay: ReplaySettings = ReplaySettings()
    """Cost of the reverse sweep."""

    budget: BudgetSettings = BudgetSettings()
    """What the run may spend."""

    workers: WorkersSettings = WorkersSettings()
    """Where the stages run."""

    preflight: PreflightMode = PreflightMode.ENFORCE
    """Whether a run that the preflight refuses is stopped (enforce), or only says so (advise)."""

    baselines: tuple[BaselineName, ...] = ()
    """Set-ups made without a metagradient, trained and scored in the same run and report."""

    schedules: SchedulesSettings = SchedulesSettings()
    """Searches that a descent on the learning rate is compared with."""

    reruns: tuple[dict[str, Any], ...] = ()
    """Other routines that the first and the chosen z are trained by, to see what carries over:
    settings of arguments, optimizer and training, e.g. {training.seed: 1}."""

    @model_validator(mode="before")
    @classmethod
    def _takes_its_arguments(cls, content: Any, info: Any) -> Any:  # noqa: ANN401 (whatever was written)
        """Check the arguments against the function's signature, and note the digests of its source.

        Code that does not ship is loaded only where a person has just named it (the context
        ``CODE_IS_CONFIRMED``, see ``engine.recipes.files``), because recipes stand in records of
        stores as well. A recipe that has digests was checked when it got them; they are compared
        when the function is called.
        """
        if not isinstance(content, dict):
            return content
        name, folder = content.get("problem", DEFAULT_PROBLEM), content.get("folder")
        confirmed = bool((info.context or {}).get(CODE_IS_CONFIRMED)) and not content.get("code")
        if names_code(name, content.get("arguments")) and not confirmed:
            return content
        if not isinstance(folder, str | None):
            return content  # refused in its turn
        try:
            function = find_function(name, folder)
            arguments = read_arguments(function, content.get("arguments", {}))
            code = sources(name, folder, arguments)
        except ConfigurationError as error:
            return {**content, "arguments": NamedError(str(error))}
        return {**content, "arguments": arguments, "code": code}

    @model_validator(mode="after")
    def _fits_together(self) -> "DescentRecipe":
        kind, steps = self.metaparameters, self.training.num_steps
        if kind.injection_step is not None and kind.injection_steps:
            raise ValueError(
                f"metaparameters.injection_step is {kind.injection_step}, and injection_steps "
                f"names {len(kind.injection_steps)} steps. Use one of the two."
            )
        if len(set(kind.injection_steps)) < len(kind.injection_steps):
            raise ValueError(
                f"metaparameters.injection_steps names a step twice: "
                f"{', '.join(map(str, kind.injection_steps))}. Name each once."
            )
        beyond = [step for step in self.injection_steps if step >= steps]
        if beyond:
            name = "injection_steps" if kind.injection_steps else "injection_step"
            raise ValueError(
                f"metaparameters.{name} is {beyond[0]}, but the run has only "
                f"{steps} steps, so the counts would never enter it. Use a step below "
                "training.num_steps."
            )
        if kind.about.sets_rates and self.training.rate_schedule is not RateSchedule.FLAT:
            raise ValueError(
                f"metaparameters.name is {kind.name.value}, which starts flat and sets the "
                f"rate of every step, but training.rate_schedule is "
                f"{self.training.rate_schedule.value}, which would be ignored. Use flat."
            )
        if kind.about.sets_rates and self.training.warmup_steps:
            raise ValueError(
                f"metaparameters.name is {kind.name.value}, which starts flat and sets the "
                f"rate of every step, but training.warmup_steps is {self.training.warmup_steps}, "
                "which would be ignored. Use 0."
            )
        try:
            _ = self.rule
        except ConfigurationError as error:
            raise ValueError(f"metaparameters.name is {kind.name.value}, but {error}") from None
        check_baselines(kind.name.value, kind.about.baselines, self.baselines)
        searched = self.schedules.grid or self.schedules.optuna
        if searched and not kind.about.sets_rates:
            fitting = " or ".join(name for name, about in KINDS.items() if about.sets_rates)
            raise ValueError(
                f"schedules asks for other learning rates, but metaparameters.name is "
                f"{kind.name.value}. Use {fitting}, or schedules.grid=0 and "
                "schedules.optuna=false."
            )
        return self

    @model_validator(mode="after")
    def _can_be_listed(self) -> "DescentRecipe":
        """Refuse a run of more stages than a plan, a store and a server can hold."""
        steps, each = self.training.num_steps, self.replay.steps_per_segment
        stages = (self.outer.num_steps + 1) * -(-steps // each)
        if stages > _MANY_STAGES:
            least = -(-steps * (self.outer.num_steps + 1) // _MANY_STAGES)
            raise ValueError(
                f"replay.steps_per_segment is {each}, so the run would be trained in {stages:,} "
                f"stages. Use at least {least}, or fewer steps."
            )
        return self

    @model_validator(mode="after")
    def _can_be_rerun(self) -> "DescentRecipe":
        for changes in self.reruns:
            _ = self.rerun(changes)
        return self

    @model_validator(mode="after")
    def _workers_agree(self) -> "DescentRecipe":
        shards, replay = self.training.shards, self.replay
        if shards > 1 and (replay.unroll > 1 or replay.vjp is VjpMode.COMPILED):
            raise ValueError(
                f"training.shards is {shards}, but replay.unroll is {replay.unroll} and replay.vjp "
                f"{replay.vjp.value}, which need whole steps. Use unroll=1 and "
                "reverse-over-reverse, or leave shards out."
            )
        if self.workers.runner is not RunnerName.LOCAL and self.training.threads is None:
            raise ValueError(
                f"workers.runner is {self.workers.runner.value}, but training.threads is empty, "
                "which leaves the number of CPU threads, and so the last digits, to each worker. "
                "Set training.threads."
            )
        return self

    @property
    def descent(self) -> "DescentRecipe":
        """The recipe that stages are given: itself, or that of a kind with more settings."""
        return self

    @property
    def num_outputs(self) -> int:
        """Outputs that one reverse sweep differentiates."""
        return 1

    def trainings(self) -> "list[DescentRecipe]":
        """Return the set-ups whose training is asked for: one, but for a kind that tries some."""
        return [self.descent]

    def changes_to_try(self) -> list[tuple[str, Any]]:
        """Return settings that are tried beside its own, with their values; places among them."""
        return []

    def rerun(self, changes: dict[str, Any]) -> "DescentRecipe":
        """Return the recipe with the routine of a rerun.

        Raises:
            ValueError: If there is no such routine.
        """
        shared = self.model_dump(mode="json", include=set(DescentRecipe.model_fields) - {"kind"})
        return DescentRecipe.model_validate(rerun_content(shared, changes))

    @property
    def rule(self) -> OuterRule:
        """How z moves, with the defaults of its kind filled in."""
        return self.outer.rule(by_whole=self.metaparameters.about.moves_by_whole)

    @property
    def injection_steps(self) -> tuple[int, ...]:
        """Steps k of Algorithm 1 in order, with the default filled in."""
        kind = self.metaparameters
        if kind.injection_steps:
            return tuple(sorted(kind.injection_steps))
        if kind.injection_step is not None:
            return (kind.injection_step,)
        return (default_injection_step(self.training.num_steps),)

    @property
    def injection_step(self) -> int:
        """The first of them, at which the reverse sweep ends."""
        return self.injection_steps[0]
