"""Settings of attribution: queries, removals and baselines."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, model_validator

from engine.recipes.descent import DescentRecipe, OuterSettings
from engine.recipes.metaparameters import MetaparameterName, MetaparametersSettings
from engine.recipes.settings import Settings, digest
from engine.recipes.smoothness import descent_of
from engine.recipes.training import Retraining


class AttributionBaseline(StrEnum):
    """Scores made without a metagradient, judged by the same trainings."""

    FINAL_GRADIENT = "final-gradient"
    """Dot product of the gradients of query and example at the trained model."""

    TRAK = "trak"
    """TRAK with one model, by the package ``traker``; classifiers only."""


class QuerySplit(StrEnum):
    """Held-out split that the queries are taken from."""

    OBJECTIVE = "objective"
    VALIDATION = "validation"
    TEST = "test"


class Queries(Settings):
    """The examples whose losses are attributed: the first ones of a held-out split."""

    split: QuerySplit = QuerySplit.TEST
    """Held-out split from which the queries are taken."""

    number: Annotated[int, Field(ge=1)] = 20
    """K; one reverse sweep serves them all, and takes 1 + 2 K plain steps a step."""


class Removals(Settings):
    """Random subsets that are left out of a training."""

    percent: Annotated[float, Field(gt=0, lt=100)]
    """Share of the training examples that is left out."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seeds the subsets."""


class AttributionSettings(Settings):
    """Settings of what is attributed, and of how the scores are judged."""

    num_queries: Annotated[int, Field(ge=1, le=100_000)] = 20
    """K, queries; one reverse sweep serves them all, and takes 1 + 2 K plain steps a step."""

    query_split: QuerySplit = QuerySplit.TEST
    """Held-out split whose first examples are the queries."""

    basis: Annotated[int, Field(ge=1)] | None = None
    """K directions of the trained parameters that are swept in place of the queries, those that
    explain most of the queries' derivatives; scores of a query lack what its derivative has outside
    of them. Empty sweeps every query by itself, which is exact."""

    basis_checked: Annotated[int, Field(ge=1)] = 2
    """Queries that are swept by themselves beside a basis: the report shows its error on them."""

    drops: tuple[Annotated[float, Field(gt=0, lt=100)], ...] = (1, 5, 10, 20)
    """Percentages of the training examples to leave out; empty skips the judging."""

    num_subsets: Annotated[int, Field(ge=3, le=100_000)] = 60
    """Random subsets, and so trainings, for each percentage."""

    trainings_per_stage: Annotated[int, Field(ge=1)] = 30
    """Trainings that one stage carries out."""

    retraining: Retraining = Retraining.BATCHED
    """Whether the trainings of a stage go one after the other, or as one batched run, which refuses
    a model that couples its examples."""

    baselines: tuple[AttributionBaseline, ...] | None = None
    """What else is judged; empty means everything that can be, which is TRAK for classifiers only.
    Without the package ``traker`` TRAK is left out. The report says what is left out and why."""

    trak_dimension: Annotated[int, Field(gt=100)] = 256
    """Dimension of TRAK's random projection; traker's own fails on a CPU at 100 or less."""

    trial_subsets: Annotated[int, Field(ge=0)] = 12
    """Trainings of a trial before the sweep, with two queries and 5 % left out; 0 skips it."""

    seed: Annotated[int, Field(ge=0, lt=2**62)] = 0
    """Seeds the subsets and the projection."""

    @property
    def queries(self) -> Queries:
        """Examples whose losses are attributed: the first ones of the split in the recipe."""
        return Queries(split=self.query_split, number=self.num_queries)

    @property
    def trial(self) -> tuple[Queries, Removals]:
        """Queries and removals of the trial; other subsets than those that judge."""
        few = Queries(split=self.query_split, number=min(self.num_queries, 2))
        return few, Removals(percent=5, seed=self.seed + 1)

    @property
    def removals(self) -> list[Removals]:
        """The subsets that judge the scores, one kind for each percentage left out."""
        return [Removals(percent=percent, seed=self.seed) for percent in self.drops]


class AttributionRecipe(DescentRecipe):
    """Attribution of several outputs of one training to its examples."""

    takes_none_of = frozenset({"outer"})

    kind: Literal["attribution"] = "attribution"  # pyright: ignore[reportIncompatibleVariableOverride]
    """Which flow runs this recipe."""

    metaparameters: MetaparametersSettings = MetaparametersSettings(name=MetaparameterName.WEIGHTS)
    """Attribution is to the examples' weights."""

    outer: OuterSettings = OuterSettings()
    """Of descents alone: attribution moves nothing, and takes none of these settings."""

    attribution: AttributionSettings = AttributionSettings()
    """Settings of what is attributed, and of how the scores are judged."""

    @model_validator(mode="after")
    def _attributes_to_weights(self) -> "AttributionRecipe":
        if self.metaparameters.name is not MetaparameterName.WEIGHTS:
            raise ValueError(
                f"metaparameters.name is {self.metaparameters.name.value}, but attribution is to "
                "the weights of the examples. Use weights."
            )
        return self

    @model_validator(mode="after")
    def _has_a_smaller_basis(self) -> "AttributionRecipe":
        settings, plain = self.attribution, AttributionSettings()
        if settings.basis is None:
            if settings.basis_checked != plain.basis_checked:
                raise ValueError(
                    "attribution.basis_checked is set, but without attribution.basis there is no "
                    "error of a basis to check. Set attribution.basis, or leave "
                    "attribution.basis_checked out."
                )
        elif self.num_outputs >= settings.num_queries:
            raise ValueError(
                f"attribution.basis is {settings.basis} beside {settings.basis_checked} queries by "
                f"themselves, which is no less work than sweeping all {settings.num_queries} "
                "queries. Use a smaller basis, or leave it out."
            )
        return self

    @model_validator(mode="after")
    def _moves_nothing(self) -> "AttributionRecipe":
        plain = OuterSettings()
        given = [
            n for n in OuterSettings.model_fields if getattr(self.outer, n) != getattr(plain, n)
        ]
        if given:
            raise ValueError(
                f"outer.{given[0]} is set, but attribution moves no weights, so nothing would read "
                "it. Leave outer out, or use kind: descent."
            )
        return self

    @property
    def num_outputs(self) -> int:
        """Number of outputs: one for each query, or for each direction of a basis."""
        settings = self.attribution
        if settings.basis is None:
            return settings.num_queries
        return settings.basis + settings.basis_checked

    @property
    def descent(self) -> DescentRecipe:
        """The recipe of a descent with the same training, under the name of this attribution."""
        settings = self.attribution.model_dump(mode="json")
        if self.attribution.basis is None:  # as it always was
            del settings["basis"], settings["basis_checked"]
        return descent_of(self, f"{self.name}-{digest(settings)[:4]}")
