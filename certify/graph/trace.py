"""Tracing: `torch.export` before decomposition, then one translation per operator.

Before decomposition, because afterwards a circular pad or an attention can no longer be recognised. What does not
depend on the input (a reparametrised weight, a normalised kernel, a position embedding that is cut to size) is
computed once, here, and stored as the effective weight. Everything outside the tables is refused by name, with the path
of its module, even where its result is unused.
"""

from __future__ import annotations

import logging
import operator
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export
from torch.export.graph_signature import InputKind
from torch.fx import Node

from certify.errors import CertifyError, InputError, NoRuleError
from certify.graph.apart import check_examples_apart
from certify.graph.computing import COMPUTING
from certify.graph.freeze import frozen
from certify.graph.graph import Graph, Operation
from certify.graph.moving import ALIASES, MOVING
from certify.graph.passes import drop_unused, recognise
from certify.graph.run import run
from certify.graph.site import Builder, Constant, Shape, Site, Traced, Translation, Value

TRACE_BATCH = 3
NAME = re.compile(r"[^A-Za-z0-9_.-]")
CREATORS = frozenset(
    f"aten.{name}"
    for name in (
        *("arange.default", "arange.start", "arange.start_step", "zeros.default", "ones.default", "full.default"),
        *("eye.default", "eye.m", "linspace.default", "scalar_tensor.default"),
    )
)
"""Operators that make a constant from nothing; any other operator without a tensor argument is refused."""
CHECKS = frozenset({"aten._assert_tensor_metadata.default"})
"""Operators that compute nothing: export adds them to check dtypes."""

TRANSLATIONS: Mapping[str, Translation] = MappingProxyType({**COMPUTING, **MOVING})
Known: TypeAlias = "Traced | tuple[Traced, ...] | tuple[Tensor, ...]"


def trace(
    module: nn.Module,
    input_shape: Sequence[int],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Graph:
    """Return the graph of a module, as it computes in evaluation mode with its effective weights.

    The graph computes what the module computes, bit for bit, with ``(x - mean) / std`` in front when these are given.
    (One exception: a product ``x @ W`` with a stored W becomes `linear` with the transposed weight, whose sums may run
    in another order. And the reference is the plain attention path: PyTorch's fused encoder kernel, which a
    `nn.TransformerEncoder` may pick by itself, rounds differently.) The module is not modified.

    Args:
        module: Takes one batch ``[N, *input_shape]`` and returns logits ``[N, classes]``.
        input_shape: Shape of one input, without the batch.
        mean: Per channel (the first dimension of the input), in the space of the data.
        std: Per channel, non-zero; given together with ``mean``.

    Raises:
        NoRuleError: If the module has an operation outside the vocabulary, hooks, data-dependent control flow, in-place
            writes to shared values, or mixes examples of a batch.
        InputError: If weights are not finite floats, or the shapes do not fit.

    Example:
        >>> graph = trace(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), (3,))
        >>> [operation.kind for operation in graph]
        ['input', 'linear', 'relu']
    """
    fixed = frozen(module)
    dtype = next((p.dtype for p in [*fixed.parameters(), *fixed.buffers()] if p.is_floating_point()), torch.float32)
    example = torch.rand(TRACE_BATCH, *input_shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    program = _exported(fixed, example)
    graph = recognise(drop_unused(_Translator(program, tuple(input_shape), dtype).graph()))
    check_examples_apart(graph)
    _compare(fixed, graph, example)
    return graph if mean is None and std is None else normalized(graph, mean, std)


def normalized(graph: Graph, mean: Sequence[float] | None, std: Sequence[float] | None) -> Graph:
    """Return the graph with ``(x - mean) / std`` per channel in front of it.

    Raises:
        InputError: If only one is given, lengths differ from the channels, values are not finite, or a std is zero.
    """
    channels = graph.input_shape[0]
    if mean is None or std is None or len(mean) != channels or len(std) != channels:
        raise InputError(f"expected mean and std with {channels} entries each (one a channel), got {mean} and {std}")
    dtype = next((t.dtype for t in graph.tensors.values() if t.is_floating_point()), torch.float32)
    shape = (channels, *[1] * (len(graph.input_shape) - 1))
    tensors = {"input.mean": torch.tensor(list(mean), dtype=dtype), "input.std": torch.tensor(list(std), dtype=dtype)}
    tensors = {name: tensor.reshape(shape) for name, tensor in tensors.items()}
    if not all(bool(torch.isfinite(t).all()) for t in tensors.values()) or bool((tensors["input.std"] == 0).any()):
        raise InputError(f"expected finite mean and finite non-zero std, got {mean} and {std}")
    if clash := tensors.keys() & graph.tensors.keys():
        raise InputError(f"expected no weights named {sorted(clash)}; rename them")
    front = Operation(
        name="normalized_input",
        kind="normalize",
        inputs=(graph.input,),
        weights={"mean": "input.mean", "std": "input.std"},
        module="input",
    )
    renamed = {graph.input: front.name}
    rest = [_reading(operation, renamed) for operation in graph.operations[1:]]
    output = renamed.get(graph.output, graph.output)
    return Graph((graph.operations[0], front, *rest), output, graph.input_shape, {**tensors, **graph.tensors})


def _reading(operation: Operation, renamed: Mapping[str, str]) -> Operation:
    inputs = tuple(renamed.get(name, name) for name in operation.inputs)
    return Operation(
        name=operation.name,
        kind=operation.kind,
        inputs=inputs,
        weights=operation.weights,
        attributes=operation.attributes,
        module=operation.module,
    )


@contextmanager
def _silence() -> Iterator[None]:
    """Keep back torch's log while tracing: what it says of a failure is in the exception, and becomes one message."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Switch off the fused encoder kernel, which hides its parts from tracing."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _exported(module: nn.Module, example: Tensor) -> ExportedProgram:
    try:
        with torch.no_grad(), _plain_attention(), _silence(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = export(module, (example,), dynamic_shapes=({0: Dim("batch")},), strict=False)
    except CertifyError:
        raise
    except (Exception, SystemExit) as error:  # many types for one fact, or the module's own: it cannot be traced
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise NoRuleError(
            "expected a forward pass that can be traced for any batch size (no control flow that depends on data, no"
            f" fixed batch size, one tensor in and one out), got: {reason}"
        ) from error
    _refuse_side_effects(program)
    return program


def _refuse_side_effects(program: ExportedProgram) -> None:
    signature = program.graph_signature
    if signature.buffers_to_mutate:
        names = sorted(signature.buffers_to_mutate.values())
        raise NoRuleError(f"expected a forward pass that writes no buffer, got writes to {names}")
    if len(signature.user_inputs) != 1 or len(signature.user_outputs) != 1:
        raise NoRuleError(
            f"expected one input and one output, got {len(signature.user_inputs)} and {len(signature.user_outputs)};"
            " wrap the model so that it takes x and returns logits"
        )


class _Translator:
    """Walks the exported nodes once, keeping what each one became."""

    def __init__(self, program: ExportedProgram, input_shape: Shape, dtype: torch.dtype) -> None:
        self.program = program
        self.dtype = dtype
        self.input_shape = input_shape
        self.builder = Builder()
        self.known: dict[Node, Known] = {}
        self.input_name = ""
        self.output_name = ""

    def graph(self) -> Graph:
        stored = self._stored_tensors()
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node, stored)
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                self._output(node)
            else:
                raise NoRuleError(f"{node.target}: expected a plain operator, got {node.op}")
        used = {name for operation in self.builder.operations for name in operation.weights.values()}
        tensors = {name: tensor for name, tensor in self.builder.tensors.items() if name in used}
        return Graph(tuple(self.builder.operations), self.output_name, self.input_shape, tensors)

    def _stored_tensors(self) -> dict[str, Constant]:
        """Return the tensor behind each placeholder that is a parameter, a buffer or a lifted constant."""
        program, found = self.program, {}
        for spec in program.graph_signature.input_specs:
            if spec.kind == InputKind.USER_INPUT or spec.target is None:
                continue
            tensor = program.state_dict.get(spec.target)
            tensor = program.constants.get(spec.target) if tensor is None else tensor
            if not isinstance(tensor, Tensor):
                raise NoRuleError(f"{spec.target}: expected a tensor, got {type(tensor).__name__}")
            found[spec.arg.name] = Constant(_file_name(spec.target), tensor.detach())
        return found

    def _placeholder(self, node: Node, stored: Mapping[str, Constant]) -> None:
        if node.name in stored:
            self.known[node] = stored[node.name]
            return
        self.input_name = self.builder.add(Operation(name=node.name, kind="input"))
        self.known[node] = Value(node.name, _shape(node))

    def _output(self, node: Node) -> None:
        traced = self.known.get(node.all_input_nodes[0])
        if not isinstance(traced, Value):
            raise NoRuleError("expected an output that depends on the input, got a constant")
        self.output_name = traced.name

    def _call(self, node: Node) -> None:
        if isinstance(node.meta.get("val"), int | torch.SymInt | bool | torch.SymBool):
            return  # sizes: read from the shapes of the tensors they shape
        target = str(node.target)
        if target in CHECKS and not node.users:
            return
        if node.target is operator.getitem:
            if node.users:  # export lists the unused results of an operator too
                self.known[node] = self._item(node)
        elif self._depends_on_input(node):
            self.known[node] = self._translated(node, target)
        else:
            self.known[node] = self._computed(node, target)

    def _item(self, node: Node) -> Traced:
        parts, position = self.known[node.args[0]], node.args[1]  # type: ignore[index]
        if not isinstance(parts, tuple) or not isinstance(position, int) or position >= len(parts):
            raise NoRuleError(f"{node.name}: the indices of a sort or a maximum have no rule")
        part = parts[position]
        return Constant(_file_name(f"constant.{node.name}"), part) if isinstance(part, Tensor) else part

    def _depends_on_input(self, node: Node) -> bool:
        sources = (self.known.get(source) for source in node.all_input_nodes)
        return any(
            isinstance(known, Value) or (isinstance(known, tuple) and any(isinstance(k, Value) for k in known))
            for known in sources
        )

    def _translated(self, node: Node, target: str) -> Known:
        site = self._site(node, target)
        translation = TRANSLATIONS.get(target)
        if translation is None:
            raise site.refuse("is outside the vocabulary of certify; rewrite the module with supported operations")
        if node.target._schema.is_mutable:  # type: ignore[union-attr]
            _refuse_shared_write(node, site)
        self._refuse_other_dtype(node, site)
        result = translation(site)
        if isinstance(result, str):
            return Value(result, site.shapes[0])
        return tuple(Value(name, shape) for name, shape in zip(result, site.shapes, strict=False))

    def _refuse_other_dtype(self, node: Node, site: Site) -> None:
        value = node.meta["val"]
        first = value[0] if isinstance(value, list | tuple) else value
        if first.dtype != self.dtype:
            raise site.refuse(f"changes the dtype from {self.dtype} to {first.dtype}, which has no rule")

    def _site(self, node: Node, target: str) -> Site:
        schema = getattr(node.target, "_schema", None)
        arguments = {} if schema is None else self._arguments(node, schema)
        return Site(self.builder, node.name, target, _module_path(node), arguments, _shapes(node))

    def _arguments(self, node: Node, schema: Any) -> dict[str, Any]:  # noqa: ANN401 - torch's schema type is private
        bound = {}
        for position, argument in enumerate(schema.arguments):
            if position < len(node.args):
                given = node.args[position]
            else:
                given = node.kwargs.get(argument.name, argument.default_value)
            bound[argument.name] = self._resolved(given)
        return bound

    def _resolved(self, given: Any) -> Any:  # noqa: ANN401 - any traced argument
        if isinstance(given, Node):
            return self.known.get(given, given)
        if isinstance(given, list | tuple):
            return [self._resolved(entry) for entry in given]
        return given

    def _computed(self, node: Node, target: str) -> Known:
        """Evaluate an operator whose arguments are all stored tensors: its result is an effective weight."""
        site = self._site(node, target)
        overload = node.target
        if not isinstance(overload, torch._ops.OpOverload) or overload.namespace != "aten":
            raise site.refuse("is outside the vocabulary of certify")
        if torch.Tag.nondeterministic_seeded in overload.tags or overload._schema.is_mutable:
            raise site.refuse("is random or writes to a stored tensor")
        tensors = [source for source in node.all_input_nodes if source in self.known]
        if (not tensors and target not in CREATORS) or any(size < 0 for shape in site.shapes for size in shape):
            if target != "aten.expand.default":
                raise site.refuse("makes a tensor whose shape or content depends on the batch")
            return self._translated_constant(site)
        evaluated = overload(*self._tensors(list(node.args)), **self._tensors(dict(node.kwargs)))
        if isinstance(evaluated, Tensor):
            return Constant(_file_name(f"{site.module}.{node.name}" if site.module else node.name), evaluated)
        return tuple(evaluated)

    def _translated_constant(self, site: Site) -> Value:
        return Value(str(TRANSLATIONS[site.operator](site)), site.shapes[0])

    def _tensors(self, arguments: Any) -> Any:  # noqa: ANN401 - any traced argument
        if isinstance(arguments, Node):
            known = self.known[arguments]
            return known.tensor if isinstance(known, Constant) else known
        if isinstance(arguments, list | tuple):
            return [self._tensors(entry) for entry in arguments]
        if isinstance(arguments, dict):
            return {name: self._tensors(entry) for name, entry in arguments.items()}
        return arguments


def _refuse_shared_write(node: Node, site: Site) -> None:
    """Refuse an in-place write unless this call is the only reader of the memory it writes to."""
    written = node.args[0]
    while isinstance(written, Node):
        if len(written.users) > 1 or written.op == "placeholder":
            raise site.refuse(f"writes in place to {written.name}, which is read elsewhere; use inplace=False")
        if str(written.target) not in ALIASES and written.target is not operator.getitem:
            return
        written = written.args[0]


def _dim(size: Any) -> int:  # noqa: ANN401 - int or SymInt
    """Return a size, with k times the batch size as -k."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    symbols = list(expression.free_symbols)
    if len(symbols) == 1:
        multiple = expression / symbols[0]
        if multiple.is_Integer and int(multiple) >= 1:
            return -int(multiple)
    raise NoRuleError(f"expected every size to be a constant or a multiple of the batch size, got {expression}")


def _shape(node: Node) -> Shape:
    return tuple(_dim(size) for size in node.meta["val"].shape)


def _shapes(node: Node) -> tuple[Shape, ...]:
    value = node.meta.get("val")
    results = value if isinstance(value, list | tuple) else [value]
    return tuple(tuple(_dim(size) for size in result.shape) for result in results if isinstance(result, Tensor))


def _module_path(node: Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    path = list(stack.values())[-1][0] if stack else ""
    return re.sub(r"@\d+", "", path).removeprefix("L['self'].")


def _file_name(name: str) -> str:
    return NAME.sub("_", name)[:256]


def _compare(module: nn.Module, graph: Graph, example: Tensor) -> None:
    """Refuse a graph that does not compute what the module computes: a last guard, never the proof."""
    with torch.no_grad(), _plain_attention():
        expected, got = module(example), run(graph, example)
    difference = float((expected - got).abs().max()) if expected.shape == got.shape else float("inf")
    if not difference <= 1e-4 * (1.0 + float(expected.abs().max())):
        raise NoRuleError(f"expected the traced graph to give the module's outputs, got a difference of {difference}")
