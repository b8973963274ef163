"""Checks of a routine that take one training step, made before any run.

Each finds a cause of a wrong metagradient that would still look like a number.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from traceback import extract_tb

import torch
from torch import Tensor, nn

from engine.errors import ConfigurationError, EngineError, UndifferentiableError
from engine.numerics.determinism import deterministic, filling
from engine.recipes.replay import StepPath
from engine.replay.interpreter import check_losses, path_difference, seed_adjoint
from engine.replay.plain_training import refuse_reader
from engine.routine.coupled_loss import coupled
from engine.routine.idle import refuse_moved
from engine.routine.module.batch_norm import BUFFERS
from engine.routine.outputs import parts_of
from engine.routine.own_state import OWN
from engine.routine.routine import Routine
from engine.step.gradient import check_twice_differentiable
from engine.step.nonfinite import refuse_nonfinite_product, refuse_nonfinite_step
from engine.step.products import named_refusals
from engine.step.reference import step_vjp
from engine.step.step import open_step, plain_step
from engine.types import Metaparams, Output, State
from engine.witness.in_place import Frozen, nothing_moves
from engine.witness.leaves import refuse_leaves
from engine.witness.lines import failing_line, raising_line
from engine.witness.repeated import refuse_another

_FEW = 8
"""Examples on which coupling is looked for."""


def check_routine(routine: Routine, output: Output, z: Metaparams, *, twice: bool = True) -> Tensor:
    """Try the first step, its product and the output once.

    Args:
        routine: The run.
        output: phi.
        z: Metaparameters.
        twice: Whether the step is run twice, and compared with itself; not needed where
            ``testify`` does so at a later one.

    Returns:
        The output at the start of the run, or its first part, a scalar, to be compared with what it
        is there after the training.

    Raises:
        ConfigurationError: If there is no metaparameter, z does not fit, or a step is not a pure
            function.
        WitnessError: If a step changes a parameter or a buffer that is in no state.
        UndifferentiableError: If the step has no second derivative, a parameter has no part in the
            loss, or the output does not depend on the model.
        NonFiniteError: If the first loss or the output is not finite.

    Cost:
        One product, a gradient, two evaluations of the output and its gradient; and for ``twice``,
        pieces, shards and compiled steps a gradient that is differentiated once more, and two plain
        steps.
    """
    _check_point(routine, z)
    with filling(), deterministic(), _line_told(routine, z), named_refusals(0):
        state = routine.initial_state(z)
        for name, row in state.items():
            if not row.dtype.is_floating_point:
                raise ConfigurationError(
                    f"The optimizer keeps {name!r} as {row.dtype}, and the adjoint of an integer "
                    "does not exist. Derive counters from the step number, which update gets."
                )
        unused, idle = _unused_parameters(routine, state["params"])
        in_pieces = routine.piece is not None or routine.shards > 1
        if twice or in_pieces:
            _check_pure(routine, z)
        _check_coupling(routine, state)
        value = _check_output(routine, output, state)
        _refuse_detached(routine, unused, idle, state, output)
        _, cotangent = seed_adjoint(routine, state, output)
        with _any_failure_told():
            if twice or in_pieces:
                product = step_vjp(routine, state, z, 0, cotangent)
            else:
                product = _checked_product(routine, state, z, cotangent)
            if routine.first_step == 0:  # else this step is never reversed
                refuse_nonfinite_product(routine, z, state, cotangent, product)
            if twice or in_pieces or routine.compile:  # a compiled graph has nodes of its own
                check_twice_differentiable(routine, state["params"], z, 0)
    return value


def check_unroll(routine: Routine, unroll: int) -> None:
    """Refuse to keep graphs where they would lead away from the states that training makes.

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
        words = (str(error).strip() or "without a word").splitlines()[0].rstrip(".")
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
        line = raising_line(cause) or failing_line(
            lambda: check_twice_differentiable(routine, params, z, 0)
        )
        if not line:
            raise
        raise UndifferentiableError(f"{words} It is called at {line}.") from cause


def _unused_parameters(routine: Routine, params: Tensor) -> tuple[list[str], list[str]]:
    """Return the parameters that have no part in the loss: of modules that were called, and others.

    Another one may be that of an expert that had nothing to do: its gradient is zero in this step,
    and need not be in others.
    """
    # By name: the views of a flat vector always get a gradient, of zeros where they are not read.
    leaves = {
        name: view.detach().requires_grad_() for name, view in routine.layout.views(params).items()
    }
    called: set[str] = set()
    unmoved = nothing_moves(routine.model, routine, params)  # nor by a first call alone
    with unmoved, torch.enable_grad(), routine.binding.kept(), _noting_calls(routine.model, called):
        first = routine.first_piece(next(routine.terms(0)))
        loss = routine.term_loss(leaves, first, routine.point(), 0)
        if not loss.requires_grad:
            raise UndifferentiableError(
                "The loss does not depend on the parameters, so there is nothing to train. Look "
                "for a detach(), a .data or a no_grad() in the model or the loss."
            )
        check_losses({0: loss.detach()}, 0, 1)
        gradients = torch.autograd.grad(
            loss, list(leaves.values()), allow_unused=True, retain_graph=True
        )
        if any(gradient is None for gradient in gradients):  # perhaps it reads others
            point = routine.point()
            refuse_leaves(
                routine.given,
                "loss",
                lambda: routine.term_loss(leaves, first, point, 0),
                [*leaves.values(), *point.values()],
            )
    without = [name for name, g in zip(leaves, gradients, strict=True) if g is None]
    unused = [name for name in without if name.rpartition(".")[0] in called]
    return unused, [name for name in without if name not in unused]


def _refuse_detached(
    routine: Routine, unused: list[str], idle: list[str], state: State, output: Output
) -> None:
    """Refuse a parameter that has no part in the gradient, where loss or output read its value.

    One that nobody reads, such as a pooling layer that a model brings along, may stay. Of one that
    is read, the optimizer's decay would move what the user's own training leaves as it is. An
    output may read that of an expert which had nothing to do so far.
    """
    evaluated, first = routine.optimizer.evaluated, routine.first_piece(next(routine.terms(0)))
    parts = list(parts_of(output))

    def loss(params: Tensor) -> list[Tensor]:
        params = params.requires_grad_()  # a loss may take derivatives
        with torch.enable_grad(), routine.reading(state), routine.binding.kept():
            return [routine.term_loss(params, first, routine.point(), 0).detach()]

    def outputs(params: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return [routine.evaluate(part, {**state, evaluated: params}) for part in parts]

    for read, row, names in (
        (loss, state["params"], [*unused, *idle]),
        (outputs, state[evaluated], unused),
        (outputs, state[evaluated], idle),
    ):
        if not names:
            continue
        moved = row.detach().clone()
        for name in names:
            routine.layout.views(moved)[name].mul_(1.25).add_(0.1)
        if not all(map(torch.equal, read(row.detach().clone()), read(moved))):
            if names is idle:
                refuse_moved(routine, idle)
                return
            raise UndifferentiableError(
                f"Parameter {names[0]!r} has no part in the loss of step 0 that has a derivative, "
                "so its gradient is None, but its value is read. Freeze it with "
                "requires_grad_(False), or look for a detach() before the loss."
            )


@contextmanager
def _noting_calls(model: nn.Module, called: set[str]) -> Iterator[None]:
    """Collect the names of the modules that are called inside the block."""
    with ExitStack() as stack:
        for name, module in model.named_modules():
            # Those without parameters of their own have none to answer for.
            if isinstance(module, torch.jit.ScriptModule):
                called.add(name)  # takes no hook
            elif any(tensor is not None for tensor in module._parameters.values()):
                handle = module.register_forward_pre_hook(lambda *_, n=name: called.add(n))
                stack.callback(handle.remove)
        yield


def _checked_product(
    routine: Routine, state: State, z: Metaparams, cotangent: State
) -> tuple[State, Metaparams]:
    """Return the product of step 0, and refuse the step that it is made with as a plain one.

    Every node of its graph is run, so that nothing need be differentiated twice once more.
    """
    frozen = Frozen(routine.model, routine)
    graph = open_step(routine, state, z, 0)
    refuse_nonfinite_step(routine, z, 0, state, graph.following())
    frozen.refuse_moved()
    return graph.pull(cotangent, every_node=True)


def _check_pure(routine: Routine, z: Metaparams) -> None:
    frozen = Frozen(routine.model, routine)
    first, loss = plain_step(routine, routine.initial_state(z), z, 0)
    check_losses({0: loss}, 0, 1)
    # Before the comparison: NaN is not equal to itself, and would be told as randomness.
    refuse_nonfinite_step(routine, z, 0, routine.initial_state(z), first)
    frozen.refuse_moved()
    second, _ = plain_step(routine, routine.initial_state(z), z, 0)
    refuse_another(routine, 0, first, second)


def _check_coupling(routine: Routine, state: State) -> None:
    """Refuse losses that depend on which examples go through a step together, where that matters.

    Running statistics are left out: an injected chunk is normalized by its own.
    """
    kinds, step = routine.metaparameters.values(), routine.first_step
    injects = any(kind.injected(kind.point(), step) is not None for kind in kinds)
    joined, first = coupled(routine.loss), next(routine.terms(0))
    parted = injects or joined or routine.shards > 1
    if routine.statistics is not None or len(first.indices) < 2 or not parted:
        return
    indices = first.indices[:_FEW]
    apart = indices.split((len(indices) + 1) // 2)

    def rows(indices: Tensor) -> Tensor:
        batch, given = routine.loss_inputs(first.at(indices), routine.point(), 0)

        def losses(model: nn.Module) -> Tensor:
            if joined is not None:
                return joined.embed(model, batch)
            return routine.loss(model, batch, **given)  # pyright: ignore[reportCallIssue] (checked when made)

        return routine.call(losses, state["params"].detach(), training=False)

    with torch.enable_grad():  # a loss may differentiate inside
        whole, parts = rows(indices), torch.cat([rows(part) for part in apart])
    if (whole - parts).norm() <= torch.finfo(whole.dtype).eps ** 0.5 * whole.norm():
        return
    if joined is not None:
        raise ConfigurationError(
            f"The embeddings of {len(indices)} examples are others than those of the same examples "
            "in two halves, so embed compares examples. Write what compares them into couple and "
            "join, and use group or layer normalization."
        )
    if routine.shards > 1:
        raise ConfigurationError(
            f"The losses of {len(indices)} examples are others than those of the same examples in "
            f"two halves, so the loss of an example depends on its batch, but shards is "
            f"{routine.shards}. Leave shards out, or write the loss example by example.",
            settings=("training.shards",),
        )
    raise ConfigurationError(
        f"The losses of {len(indices)} examples are others than those of the same examples in two "
        "halves, so the loss of an example depends on its batch, and counts do not say in which "
        "batch a candidate's loss is injected. Write the loss as a CoupledLoss of "
        "engine.routine.coupled_loss."
    )


def _check_output(routine: Routine, output: Output, state: State) -> Tensor:
    evaluated = routine.optimizer.evaluated
    # A teacher that is evaluated follows the parameters, and is no function of them.
    own = {name: state[name].detach().requires_grad_() for name in (OWN, BUFFERS) if name in state}
    leaf = state[evaluated].detach().requires_grad_()
    with torch.enable_grad():
        part = next(parts_of(output))
        value = routine.evaluate(part, {**state, **own, evaluated: leaf})
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
    refuse_reader(routine, part, {**state, **own})
    if not value.requires_grad:
        raise UndifferentiableError(
            "The output does not depend on the model's parameters. Look for a detach(), a "
            "no_grad() or an argmax in it: accuracy has no derivative, use a loss."
        )
    return value.detach()
