"""Counts what the run of a pairs recipe would cost, on a machine where it cannot be measured.

A recipe for many GPUs is planned on machines that have neither the pairs nor a GPU. Its towers are
built, and one piece of a batch goes through them on torch's device ``meta``, which knows shapes and
no numbers: that counts operations and bytes exactly. A batch is so many pieces, up to the
comparison of all embeddings, which is less than a percent. Seconds are operations by an assumed
rate, and the plan says so.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from engine.errors import DataError
from engine.metaparameters.counts import Counts, first_subset
from engine.planning.choice import MeasuredRun
from engine.problems.built import BuiltProblem
from engine.problems.data.splits import DataSet
from engine.problems.pairs.loss import ContrastiveLoss
from engine.problems.pairs.scores import retrieval_scores
from engine.problems.pairs.shards import list_files
from engine.problems.pairs.towers import build_towers
from engine.recipes.arguments.model import ModelSettings
from engine.recipes.arguments.pairs import ContrastiveSettings
from engine.recipes.descent import DescentRecipe
from engine.recipes.metaparameters import at_steps
from engine.replay.step_costs import StepCosts
from engine.replay.sweep_costs import Memory
from engine.routine.optimizers import make_optimizer
from engine.routine.outputs import MeanLoss
from engine.routine.rates import learning_rates
from engine.routine.routine import Routine
from engine.step.coupled_pieces import gradient_in_pieces, pull_in_pieces
from engine.step.products import PARAMS, LossPart, Product, entering
from engine.types import Batch

RATE = 1e14
"""Operations a second: about what one H100 does of matrices in TF32, a fifth of its peak."""

STORE_RATE = 5e8
"""Bytes a second to and from the store."""

DEVICE_BYTES, HOST_BYTES = 80_000_000_000, 128_000_000_000
"""Memory where the recipe does not say."""


def must_be_counted(recipe: DescentRecipe) -> str:
    """Say why a recipe's step cannot be measured here; empty if it can."""
    if recipe.problem != "pairs" or isinstance(recipe.arguments["model"], str):
        return ""  # nobody knows what code of one's own does on shapes without numbers
    url = recipe.arguments["url"]
    if recipe.training.device.startswith("cuda") and not torch.cuda.is_available():
        return f"there is no {recipe.training.device} here"
    try:
        list_files("arguments.url", url)
    except (DataError, OSError) as error:
        return str(error).split(". ", maxsplit=1)[0]
    return ""


@dataclass(frozen=True)
class _Shapes:
    """Pairs of which only the shapes are known."""

    number: int
    image_size: int
    context: int

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, indices: Tensor) -> Batch:
        side, count = self.image_size, len(indices)
        return (
            torch.empty(count, 3, side, side, device="meta"),
            torch.empty(count, self.context, dtype=torch.int64, device="meta"),
        )


def counted_run(recipe: DescentRecipe, why: str) -> tuple[MeasuredRun, str]:
    """Return a run whose steps were counted, and the words that say so."""
    problem = _problem(recipe)
    operations, graph = _count(problem.routine, recipe.training.piece)
    batch, data = recipe.training.batch_size, recipe.arguments
    settings = ContrastiveSettings(**data["contrastive"])
    routine = problem.routine
    image_bytes = 4 * 3 * settings.image_size**2
    largest = max((len(term.indices) for term in routine.terms(routine.first_step)), default=0)
    state = sum(row.nbytes for row in routine.initial_state().values())
    held_out = data["num_objective"] + data["num_validation"] + (data["num_test"] or 0)
    injected = 0.0
    if isinstance(problem.kind, Counts):
        chunks = -(-len(routine) // largest)
        times = len(problem.kind.steps)
        injected = operations["injected"] * (len(routine) + chunks * batch) * times
    costs = StepCosts(
        plain=operations["plain"] * batch / RATE,
        product=(operations["product"]) * batch / RATE,
        traced=operations["plain"] * batch / RATE,
        pulled=operations["product"] * batch / RATE,
        injected=injected / RATE,
        seed=operations["plain"] * data["num_objective"] / RATE,
        copied=state / 1e12,
        moved=state / 1e10,
        saved=state / STORE_RATE,
        loaded=state / STORE_RATE,
        state_bytes=state,
        graph_bytes=graph + (batch + largest) * image_bytes,
        paths_agree=False,
    )
    replay = recipe.replay
    memory = Memory(
        replay.max_device_bytes or DEVICE_BYTES,
        replay.max_host_bytes or HOST_BYTES,
        replay.max_store_bytes,
    )
    note = (
        f"Counted, not measured, because {why}: {operations['plain'] * batch:.2e} operations a "
        f"step, {operations['product'] * batch:.2e} for its product and {injected:.2e} for the "
        f"losses injected at {at_steps(recipe.injection_steps)}, at an assumed {RATE:.0e} a "
        f"second, with {memory.device / 1e9:.0f} GB on the device. Reading and decoding images is "
        "not in it."
    )
    evaluation = operations["plain"] / 3 * held_out / RATE
    return MeasuredRun(recipe, problem, costs, memory, evaluation), note


def _problem(recipe: DescentRecipe) -> BuiltProblem:
    """Return the problem of a recipe without its pairs, on the device meta."""
    settings = ContrastiveSettings(**recipe.arguments["contrastive"])
    model = ModelSettings(**recipe.arguments["model"])
    dtype = getattr(torch, recipe.training.dtype.value)
    shapes = _Shapes(recipe.arguments["num_train"], settings.image_size, settings.context)
    towers = build_towers(
        model,
        settings,
        (3, settings.image_size, settings.image_size),
        settings.vocabulary,
        seed=0,
        dtype=dtype,
    ).to("meta")
    loss = ContrastiveLoss()
    counts = first_subset(recipe.metaparameters, len(shapes), dtype)
    routine = Routine(
        model=towers,
        loss=loss,
        examples=shapes,
        optimizer=make_optimizer(recipe.optimizer),
        learning_rate=learning_rates(recipe.training),
        num_steps=recipe.training.num_steps,
        batch_size=recipe.training.batch_size,
        metaparameters={"counts": Counts(counts, injection_steps=recipe.injection_steps)},
        piece=recipe.training.piece,
    )
    few = shapes[torch.arange(2)]
    data = DataSet({}, settings.vocabulary, torch.zeros(0, dtype=torch.bool), "", None, None)
    score = partial(retrieval_scores, batch_size=2)
    return BuiltProblem(data, routine, MeanLoss(loss, few), {}, score, loss, lambda _: towers)


def _count(routine: Routine, piece: int | None) -> tuple[dict[str, float], int]:
    """Return operations of one pair, plain, in a product and injected; and a graph's bytes."""
    size = piece or routine.batch_size
    small = replace(routine, batch_size=size, piece=size)
    state = small.initial_state()
    params, step = state["params"], small.first_step
    z = entering(small, small.point(), step)
    (batch,), injected = small.batch_terms(step), list(small.injected_terms(step))
    direction = torch.empty_like(params)
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor  # pyright: ignore[reportPrivateUsage] (meta tensors have no address)
        return tensor

    def pull(term_wanted: frozenset[str], joining: bool) -> None:
        product = Product({"params": torch.zeros_like(params)}, direction, {})
        term = injected[0].cut(size)[0] if joining else batch
        pull_in_pieces(small, params, LossPart(term, step, term_wanted), z, [product])

    found = {
        "plain": _operations(lambda: gradient_in_pieces(small, params, batch, z, step)) / size,
        "product": _operations(lambda: pull(frozenset({PARAMS}), False)) / size,
        "injected": 0.0,
    }
    if injected:
        found["injected"] = _operations(lambda: pull(frozenset(z), True)) / (2 * size)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        pull(frozenset({PARAMS}), False)
    return found, sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _operations(action: Callable[[], object]) -> float:
    """Return the operations of an action; a multiplication and an addition are two."""
    with FlopCounterMode(display=False) as counter:
        action()
    return float(counter.get_total_flops())
