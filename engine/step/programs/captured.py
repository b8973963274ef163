"""Functions of named tensors as graphs of torch's operations, and programs compiled of them.

Torch's Dynamo captures a function once and notes in guards what the graph depends on besides
tensors: attributes of modules, closures, globals, modes. Each call checks the guards, and captures
the function again if one has changed. Here Dynamo captures only the loss and the update, which are
plain forward code. The engine's own code that differentiates them needs no guards, and is put
around their graphs when a program is made. Capturing all of it took several times as long.

A program is kept between processes by torch's own cache, under a key of everything that it is made
of: the graphs as this process has read them, with each number in them, the forms of the inputs, the
source of what is put around them, torch, its settings, the machine. So no process runs what another
one has captured: it captures anew, and saves only the compilation that follows.
"""

import hashlib
import operator
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule

from engine.errors import EngineError
from engine.models import attention_operations
from engine.models.attention import fused, let_compilers_take_it
from engine.step.programs.programs_folder import keep_programs, repaired

Named = dict[str, Any]
"""Tensors by name, and for a function that is captured anything else that it reads."""

Part = Callable[[Named], Named]
"""A function that is captured."""

Whole = Callable[[Mapping[str, Part], Named], Named]
"""A function of parts and tensors, defined at the top of a module; it is compiled with the parts'
graphs in it."""

_OUTSIDE = "outside of "

_NAMESPACES = {"aten", "prims", "prim", attention_operations.NAMESPACE}
"""Operations whose derivatives nobody edits between two processes."""

_NOTED: ContextVar[list[tuple["Capture", tuple[Any, ...]]]] = ContextVar("_NOTED")


class Capture:
    """The graph of one reading of a part, which is not run here.

    Attributes:
        graph: Maps tensors to a list of tensors.
        reads: The names of the tensors that it maps. What is no input of the part (a buffer of a
            module, a tensor in a closure) has a name that says so.
        makes: The name of each result, and its place in the list, or the name of the input it is.
        marks: What a call returns in the place of the list.
        programs: What was compiled of it.
        says_all: Whether it shows all that a program of it is made of.
    """

    def __init__(self, graph: GraphModule) -> None:
        self.graph = GraphModule(graph, graph.graph)  # without what Dynamo notes for itself
        (output,) = graph.graph.find_nodes(op="output")
        self.reads: tuple[str, ...] = ()
        self.makes: dict[str, int | str] = {}
        self.programs: dict[Hashable, Program] = {}
        self.says_all = _says_all(graph)
        self.marks = [torch.empty(0) for _ in output.args[0]]

    def inputs_by_name(
        self, part: str, tensors: Sequence[Any], inputs: Named, results: Named
    ) -> dict[str, Tensor]:
        """Return the inputs of the graph, by name.

        Args:
            part: Name of the part.
            tensors: What the graph was given.
            inputs: What the part was called with, and what else it reads and has a name.
            results: What it returned, with marks for what the graph computes.

        Raises:
            RuntimeError: If the part does more than to map its inputs to its results.
        """
        if not self.makes:
            names = {id(value): name for name, value in inputs.items() if _is_tensor(value)}
            if not all(map(_is_tensor, tensors)):
                raise RuntimeError(f"The {part} of a step reads numbers that change.")
            self.reads = tuple(
                names.get(id(tensor), f"{_OUTSIDE}{part} {i}") for i, tensor in enumerate(tensors)
            )
            places: dict[int, int | str] = {id(mark): i for i, mark in enumerate(self.marks)}
            places = names | places
            found = {name: places.get(id(value)) for name, value in results.items()}
            if None in found.values() or not {*range(len(self.marks))} <= {*found.values()}:
                raise RuntimeError(
                    f"The {part} of a step keeps tensors in other places than in its result."
                )
            self.makes = {name: place for name, place in found.items() if place is not None}
        return dict(zip(self.reads, tensors, strict=True))


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _noting(graph: GraphModule, _examples: Sequence[object]) -> Callable[..., list[Tensor]]:
    """Take a compiler's place: what it returns notes what it is given, and computes nothing."""
    capture = Capture(graph)

    def note(*tensors: Any) -> list[Tensor]:  # noqa: ANN401 (what the graph is given)
        _NOTED.get().append((capture, tensors))
        return capture.marks

    return note


class Captured:
    """A part whose calls return its graph, as of now.

    Args:
        name: What messages call it.
        function: Maps named tensors, and what else they are called with, to named tensors.
        is_settled: Whether it is the engine's own and depends on nothing besides tensors of one
            form, so that its first graph is that of every call: a look at its guards costs a small
            step a tenth.
    """

    def __init__(self, name: str, function: Part, *, is_settled: bool = False) -> None:
        let_compilers_take_it()
        self.name = name
        self._call = torch.compile(function, backend=_noting, fullgraph=True, dynamic=False)
        self._is_settled = is_settled
        self._settled: Capture | None = None

    def __call__(
        self, inputs: Named, held: Mapping[str, Tensor] | None = None
    ) -> tuple[Capture, dict[str, Tensor]]:
        """Return the graph, and what it reads by name.

        Args:
            inputs: What the function is called with; what is differentiated requires gradients.
            held: What else it reads, by the names that this has.

        Raises:
            RuntimeError: If it cannot be captured.
        """
        if self._settled is not None:
            return self._settled, {name: inputs[name] for name in self._settled.reads}
        noted: list[tuple[Capture, tuple[Any, ...]]] = []
        token = _NOTED.set(noted)
        try:
            with torch.enable_grad(), many_programs():
                results = self._call(inputs)
        finally:
            _NOTED.reset(token)
        if len(noted) != 1:
            raise RuntimeError(f"The {self.name} of a step computes nothing with tensors.")
        ((capture, given),) = noted
        tensors = capture.inputs_by_name(self.name, given, {**inputs, **(held or {})}, results)
        if self._is_settled and inputs.keys() >= tensors.keys():
            self._settled = capture
        return capture, tensors


@cache
def many_programs() -> AbstractContextManager[None]:
    """Let one process hold the programs of many routines; torch's own limit is 8 in all.

    Torch makes a class for each new patch, and one can be entered as often as one likes.
    """
    return torch._dynamo.config.patch(recompile_limit=64)  # pyright: ignore[reportPrivateUsage]


class Program:
    """A compiled function of named tensors, all of them in the forms of those it was made with.

    Args:
        function: Maps tensors to a tuple of tensors.
        results: Their names.
    """

    def __init__(self, function: Callable[..., Sequence[Tensor]], results: Sequence[str]) -> None:
        self._function, self._results = repaired(function), results

    def __call__(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run it; the tensors' order is that of those it was made with."""
        return dict(zip(self._results, self._function(*given.values()), strict=True))


class CapturedProgram:
    """Programs of one function, one for each reading of its parts and each form of its inputs.

    Args:
        whole: The function.
        parts: Parts of the program by name.
        options: Options of torch's compiler.
        settled: Names of parts of the engine's own, see ``Captured``.
    """

    def __init__(
        self,
        whole: Whole,
        parts: Mapping[str, Part],
        options: dict[str, Any],
        settled: Collection[str] = (),
    ) -> None:
        self._whole, self._options = whole, options
        self._parts = {
            name: Captured(name, part, is_settled=name in settled) for name, part in parts.items()
        }

    def __call__(
        self,
        read: Mapping[str, Named],
        held: Mapping[str, Tensor],
        values: Named,
        results: Sequence[str],
    ) -> tuple[dict[str, Tensor], Program]:
        """Run the program, which is made if there is none yet; also return it.

        Gradients are those of the mode that is on: a program that is made while they are wanted
        can be differentiated.

        Args:
            read: What each part is called with.
            held: What else they read, by name: parameters in the place of a module's own.
            values: What the function is called with.
            results: The names of its results that are wanted.

        Raises:
            RuntimeError: If a part cannot be captured, or the whole not compiled.
            OSError: If there is no compiler that works.
            ImportError: Likewise.
        """
        captures, given = {}, {name: value for name, value in values.items() if _is_tensor(value)}
        for name, part in self._parts.items():
            captures[name], tensors = part(read[name], held)
            for each, tensor in tensors.items():
                if each.startswith(_OUTSIDE):
                    given[each] = tensor.detach()
        forms = tuple((name, *_form(tensor)) for name, tensor in given.items())
        key = (self._whole, torch.is_grad_enabled(), *captures.values(), *forms, *results)
        known = next(iter(captures.values())).programs
        if key not in known:
            module = _Whole(self._whole, captures, tuple(given), tuple(results))
            is_kept = all(capture.says_all for capture in captures.values())
            made = _compiled(module, list(given.values()), self._options, is_kept=is_kept)
            known[key] = Program(made, results)
        return known[key](given), known[key]


def _form(tensor: Tensor) -> tuple[Hashable, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device, tensor.requires_grad


class _Graph(nn.Module):
    """A part by its graph."""

    def __init__(self, capture: Capture) -> None:
        super().__init__()
        self.graph, self.reads, self.makes = capture.graph, capture.reads, capture.makes

    def forward(self, values: Named) -> Named:
        made = self.graph(*(values[name] for name in self.reads))
        return {
            name: values[place] if isinstance(place, str) else made[place]
            for name, place in self.makes.items()
        }


class _Whole(nn.Module):
    """A function with its parts' graphs in it, of tensors in order.

    What it holds is the key of what torch keeps of it, the digest of its source included.
    """

    def __init__(
        self,
        function: Whole,
        captures: Mapping[str, Capture],
        inputs: tuple[str, ...],
        results: tuple[str, ...],
    ) -> None:
        super().__init__()
        self.function, self.inputs, self.results = function, inputs, results
        self.names = tuple(captures)
        self.graphs = nn.ModuleList(map(_Graph, captures.values()))
        self.source = _source()

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        parts = dict(zip(self.names, self.graphs, strict=True))
        found = self.function(parts, dict(zip(self.inputs, tensors, strict=True)))
        return tuple(found[name] for name in self.results)


def _compiled(
    module: _Whole, tensors: list[Tensor], options: dict[str, Any], *, is_kept: bool
) -> Callable[..., Sequence[Tensor]]:
    """Compile, or find in torch's cache what was compiled of the same."""
    from torch._guards import TracingContext, tracing
    from torch._inductor.compile_fx import compile_fx  # loads the compiler
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    keep_programs()
    graph = Graph()
    inputs = tuple(graph.placeholder(f"input_{i}") for i in range(len(tensors)))
    made = graph.call_module("whole", inputs)
    outputs = range(len(module.results))
    graph.output(tuple(graph.call_function(operator.getitem, (made, i)) for i in outputs))
    whole, told = GraphModule({"whole": module}, graph), options | _cacheable()
    context = TracingContext(FakeTensorMode(shape_env=ShapeEnv()))  # torch's caches want one
    compile_whole = partial(compile_fx, config_patches=told, ignore_shape_env=True)
    devices = sorted({each.device.index for each in tensors if each.device.type == "cuda"})
    with (
        torch.random.fork_rng(devices),  # what is compiled draws as if it had been there before
        tracing(context),
        torch._functorch.config.patch(enable_autograd_cache=is_kept),  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    ):
        try:
            return repaired(compile_whole)(whole, tensors)
        except (EngineError, RuntimeError, OSError, ImportError):
            raise
        except Exception as error:
            raise RuntimeError(f"{type(error).__name__}: {error}") from error


def _says_all(graph: GraphModule) -> bool:
    """Say whether a graph shows all that a program of it is made of; asked while Dynamo has it."""
    from torch._functorch._aot_autograd.autograd_cache import (  # loads the compiler
        BypassAOTAutogradCache,
        check_cacheable,
    )
    from torch._inductor import config

    graphs = [each for each in graph.modules() if isinstance(each, GraphModule)]
    if any(True for each in graphs for _ in (*each.parameters(), *each.buffers())):
        return False  # numbers that no key has
    for node in (node for each in graphs for node in each.graph.nodes):
        target = node.target
        is_operation = isinstance(target, torch._ops.OpOverload | torch._ops.OpOverloadPacket)
        if is_operation and str(target).partition(".")[0] not in _NAMESPACES:
            return False  # its derivative is somebody's code
    with config.patch(_cacheable()):
        try:
            for each in graphs:
                check_cacheable(each)
        except (BypassAOTAutogradCache, AssertionError, AttributeError):
            return False
    return True


def _cacheable() -> dict[str, Any]:
    """Return the setting that makes torch cache graphs with this function of ours, by its name."""
    return {
        "unsafe_marked_cacheable_functions": {f"{fused.__module__}.{fused.__name__}": _source()}
    }


@cache
def _source() -> str:
    """Return the digest of the code that is put around graphs, or stands in them by name."""
    digest = hashlib.sha256()
    for folder in (Path(__file__).parent, Path(attention_operations.__file__).parent):
        for path in sorted(folder.glob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()
