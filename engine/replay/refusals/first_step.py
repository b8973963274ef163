"""Checks of a routine that take one training step, made before any run.

Each check finds a cause that would make a metagradient wrong without making it look wrong.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from traceback import extract_tb

import torch
from torch import Tensor

from engine.errors import (
    ConfigurationError,
    EngineError,
    NonFiniteError,
    NonFiniteStartError,
    UndifferentiableError,
    words_of,
)
from engine.numerics.determinism import deterministic, filling
from engine.recipes.replay import StepPath
from engine.replay.interpreter import check_losses, path_difference
from engine.replay.plain_training import refuse_reader
from engine.replay.refusals.parameters_read import (
    ParametersRead,
    find_reads,
    noting_reads,
    refuse_detached,
)
from engine.replay.seeding import seed_adjoint
from engine.routine.coupled_loss import coupled
from engine.routine.outputs import parts_of
from engine.routine.routine import Routine
from engine.step.coupling import compares
from engine.step.gradient import check_twice_differentiable
from engine.step.missing_derivatives import cure_of_operations, named_refusals
from engine.step.nonfinite import refuse_nonfinite_product, refuse_nonfinite_step
from engine.step.reference import step_vjp
from engine.step.step import StepGraph, open_step, plain_step
from engine.types import Metaparams, Output, State
from engine.witness.lines import failing_line, raising_line
from engine.witness.repeated import refuse_another


def check_routine(
    routine: Routine, outputs: Sequence[Output], z: Metaparams, *, twice: bool = True
) -> list[Tensor]:
    """Try the first step, its product and the outputs once.

    Args:
        routine: The run.
        outputs: phi_1 .. phi_K, at least one.
        z: Metaparameters.
        twice: Whether the step is run twice, and compared with itself; not needed where
            ``testify`` does so at a later one.

    Returns:
        Each output at the start of the run, or its first part, a scalar, to be compared with what
        it is there after the training.

    Raises:
        ConfigurationError: If there is no metaparameter, z does not fit, or a step is not a pure
            function.
        WitnessError: If a step changes a parameter or a buffer that is in no state.
        UndifferentiableError: If the step has no second derivative, a parameter has no part in the
            loss, or an output does not depend on the model.
        NonFiniteStartError: If the first loss, its step, the derivative of that or an output is
            not finite.

    Cost:
        One product of a step, and each output with its gradient. With ``twice``, pieces, shards or
        compiled steps, also a gradient that is differentiated once more, and two plain steps.
        Pieces, shards and compiled steps take one more gradient, which shows what the loss reads.
    """
    _check_point(routine, z)
    told = _line_told(routine, z)
    with filling(), deterministic(), _before_training(), told, named_refusals(0):
        state = routine.initial_state(z)
        for name, row in state.items():
            if not row.dtype.is_floating_point:
                raise ConfigurationError(
                    f"The optimizer keeps {name!r} as {row.dtype}, and the adjoint of an integer "
                    "does not exist. Derive counters from the step number, which update gets."
                )
        in_pieces, reads = routine.piece is not None or routine.shards > 1, ParametersRead()
        twice = twice or in_pieces
        if in_pieces or routine.compile:
            find_reads(routine, state["params"], reads)
        if twice:
            _check_pure(routine, z, reads)
        _check_coupling(routine)
        value, cotangent = _check_output(routine, outputs[0], state)
        # The product is linear in the cotangent, so that of one output tells of the others.
        values = [value, *(_check_output(routine, each, state)[0] for each in outputs[1:])]
        with _any_failure_told():
            if twice:
                refuse_detached(routine, reads, state, outputs)
                product = step_vjp(routine, state, z, 0, cotangent)
            else:
                graph = _checked_graph(routine, state, z, reads)
                refuse_detached(routine, reads, state, outputs)
                product = graph.pull(cotangent, every_node=True)
            if routine.first_step == 0:  # else this step is never reversed
                refuse_nonfinite_product(routine, z, state, cotangent, product)
            if twice or routine.compile:  # a compiled graph has nodes of its own
                check_twice_differentiable(routine, state["params"], z, 0)
    return values


def check_unroll(routine: Routine, unroll: int) -> None:
    """Refuse kept graphs (``unroll``) if a step with its graph does not make the bits of the run.

    Raises:
        ConfigurationError: If graphs are kept of a batch in shards, or step 0 with its graph makes
            other bits than the routine's own path.

    Cost:
        Two plain steps, where there is something to compare.
    """
    if unroll > 1 and routine.shards > 1:
        raise ConfigurationError(
            f"unroll is {unroll}, which keeps the graphs of whole steps, but shards is "
            f"{routine.shards}. Leave one of them out.",
            settings=("replay.unroll", "training.shards"),
        )
    if unroll > 1 and routine.path is StepPath.PLAIN:
        point = routine.point()
        difference = path_difference(routine, routine.initial_state(point), point, 0)
        if difference:
            raise ConfigurationError(difference)


def _check_point(routine: Routine, z: Metaparams) -> None:
    if not routine.metaparameters:
        raise ConfigurationError(
            "The routine has no metaparameters, so there is nothing to differentiate with respect "
            "to. Give it some, e.g. metaparameters={'weights': ExampleWeights(torch.ones(n))}."
        )
    expected = routine.point()
    if z.keys() != expected.keys():
        raise ConfigurationError(
            f"z has {sorted(z)}, but the routine's metaparameters are {sorted(expected)}. "
            "Give one tensor for each."
        )
    for name, tensor in z.items():
        if tensor.shape != expected[name].shape or not tensor.is_floating_point():
            raise ConfigurationError(
                f"z[{name!r}] is {tensor.dtype} of shape {tuple(tensor.shape)}, but the routine "
                f"reads floating point of shape {tuple(expected[name].shape)}. Convert it."
            )


@contextmanager
def _before_training() -> Iterator[None]:
    """Let what is not finite be a refusal: nothing was trained, and the same run never goes on."""
    try:
        yield
    except NonFiniteError as error:
        raise NonFiniteStartError(str(error), settings=error.settings) from error


@contextmanager
def _any_failure_told() -> Iterator[None]:
    """Refuse a step that cannot be reversed, in whatever words: a custom backward has its own."""
    try:
        with named_refusals(0):
            yield
    except (EngineError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        again = "backward through the graph a second time" in str(error)  # has words of its own
        from_backward = any(
            frame.name == "_engine_run_backward" for frame in extract_tb(error.__traceback__)
        )
        if again or not from_backward:
            raise
        words = words_of(error).splitlines()[0].rstrip(".")
        raise UndifferentiableError(
            f"Step 0 cannot be reversed: {type(error).__name__}: {words}. A metagradient needs the "
            "second derivative of every operation of the model and the loss, and this is raised "
            "where one of them is differentiated. Write what it is called for with other "
            "operations, or a custom backward pass with differentiable ones."
        ) from error


@contextmanager
def _line_told(routine: Routine, z: Metaparams) -> Iterator[None]:
    """Add the user's line to a refusal of an operation that torch itself refuses."""
    try:
        yield
    except UndifferentiableError as error:
        words, cause = str(error), error.__cause__
        if not words.startswith("Step 0 ") or not isinstance(cause, Exception):
            raise
        params = routine.initial_state(z)["params"]
        line, way = raising_line(cause), ""
        if not line:
            line, way = failing_line(lambda: check_twice_differentiable(routine, params, z, 0))
        if not line:  # it lies on no way to the parameters, as what moves a buffer
            line, way = failing_line(lambda: _pull_every_node(routine, z))
        if not line:
            raise
        if "distributions/dirichlet.py" in way.replace("\\", "/"):  # without a name of its own
            unknown, known = map(cure_of_operations, ([str(cause)], ["dirichlet"]))
            words = words.replace(unknown, known)
        raise UndifferentiableError(f"{words} It is called at {line}.") from cause


def _pull_every_node(routine: Routine, z: Metaparams) -> None:
    state = routine.initial_state(z)
    cotangent = {name: torch.ones_like(row) for name, row in state.items()}
    open_step(routine, state, z, 0).pull(cotangent, every_node=True)


def _checked_graph(
    routine: Routine, state: State, z: Metaparams, reads: ParametersRead
) -> StepGraph:
    """Return the graph of step 0, and refuse the step that it is made with as a plain one.

    Every node of it is run later, so that nothing need be differentiated twice once more.
    """
    with noting_reads(routine, reads, state["params"]):
        graph = open_step(routine, state, z, 0)
        check_losses({0: graph.loss}, 0, 1)
        refuse_nonfinite_step(routine, z, 0, state, graph.following())
    return graph


def _check_pure(routine: Routine, z: Metaparams, reads: ParametersRead) -> None:
    state = routine.initial_state(z)
    with noting_reads(routine, reads, state["params"]):
        first, loss = plain_step(routine, state, z, 0)
        check_losses({0: loss}, 0, 1)
        # Before the comparison: NaN is not equal to itself, and would be told as randomness.
        refuse_nonfinite_step(routine, z, 0, routine.initial_state(z), first)
    second, _ = plain_step(routine, routine.initial_state(z), z, 0)
    refuse_another(routine, 0, first, second)


def _check_coupling(routine: Routine) -> None:
    """Refuse losses that depend on which examples go through a step together, where that matters.

    Running statistics are left out: an injected chunk is normalized by its own.
    """
    kinds, step = routine.metaparameters.values(), routine.first_step
    injects = any(kind.injected(kind.point(), step) is not None for kind in kinds)
    joined = coupled(routine.loss) is not None
    if routine.statistics is not None or not (injects or joined) or not compares(routine):
        return
    if joined:
        raise ConfigurationError(
            "The embeddings of some examples are others than those of the same examples in two "
            "halves, so embed compares examples. Write what compares them into couple and join, "
            "and use group or layer normalization."
        )
    raise ConfigurationError(
        "The losses of some examples are others than those of the same examples in two halves, so "
        "the loss of an example depends on its batch, and counts do not say in which batch a "
        "candidate's loss is injected. Write the loss as a CoupledLoss of "
        "engine.routine.coupled_loss."
    )


def _check_output(routine: Routine, output: Output, state: State) -> tuple[Tensor, State]:
    """Return the first part of an output, without its graph, and the output's adjoint."""
    first: list[Tensor] = []

    def look(value: object) -> None:
        if first:
            return
        if not isinstance(value, Tensor) or value.shape != ():
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ConfigurationError(
                f"The output returned {shape}, but a metagradient is that of one scalar tensor. "
                "Return the mean of the losses, and leave out item() and float()."
            )
        if value.is_complex():
            raise ConfigurationError(
                "The output is complex, and only a real number can grow or shrink. Return its real "
                "part or its size: .real or .abs()."
            )
        if not value.requires_grad:
            raise UndifferentiableError(
                "The output does not depend on the model's parameters. Look for a detach(), a "
                "no_grad() or an argmax in it: accuracy has no derivative, use a loss."
            )
        first.append(value.detach())

    _, adjoint = seed_adjoint(routine, state, output, look)
    refuse_reader(routine, next(parts_of(output)), state)
    return first[0], adjoint
