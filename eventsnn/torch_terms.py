"""A traced PyTorch module read as populations and the terms that drive them.

Every value in the graph is a sum of *terms*, each of them the events of one population on their way through address
maps and one weight operation: exactly what a `Connection` can say. A neuron ends a sum: it becomes a population with
one connection for each term. A weight on top of a sum or of another weight needs a `Relay`; batch norm is folded into
the term it follows, and a per-tick norm becomes the tables of its terms. What has no such reading is refused by its
name in the module.

Weights, biases and thresholds are in the module's own unit here; `import_torch` brings them to that of the spikes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from eventsnn.network import (
    AdaptivePool,
    AddressMap,
    Connection,
    Conv,
    Dense,
    Flatten,
    Identity,
    Operation,
    Pool,
    Shape,
    Subsample,
)
from eventsnn.neurons import IF, Gate, Input, Integrator, Neuron, Relay
from eventsnn.torch_trace import (
    ALIASES,
    ARGUMENTS,
    DEFAULTS,
    TickNorm,
    at_tick,
    converter_of,
    describe,
    first_line,
    forward,
    in_place,
    label_of,
    operation,
    tick_norms,
    trace,
)

# ------------------------------------------------------------------------------------------- reading the graph as terms


@dataclass(frozen=True, eq=False)
class Term:
    """One summand of a value: the events of `source` through maps and one weight; values in the module's unit.

    Weights and biases are float64 here and multiply the value that the source has in the module, not its spikes.
    scale, shift: per-tick tables (ticks, channels) applied last, as in a `Connection`; a shift takes the bias's place.
    """

    source: str
    before: tuple[AddressMap, ...] = ()
    op: Operation = field(default_factory=Identity)
    after: tuple[AddressMap, ...] = ()
    bias: np.ndarray | None = None
    scale: np.ndarray | None = None
    shift: np.ndarray | None = None
    path: str | None = None  # of the layer that made the weight

    @property
    def open(self) -> bool:
        """Whether nothing but maps and a plain factor was applied, so that a weight can still follow."""
        plain = isinstance(self.op, Identity) and np.ndim(self.op.weight) == 0
        return plain and not self.after and self.bias is None and self.scale is None and self.shift is None

    @property
    def bare(self) -> bool:
        """Whether nothing but maps was applied."""
        return self.open and bool(self.op.weight == 1)


@dataclass(frozen=True, eq=False)
class Signal:
    """A value of the graph: the sum of its terms, on a grid of `shape`. flat: PyTorch sees it as one vector."""

    terms: tuple[Term, ...]
    shape: Shape
    flat: bool = False


@dataclass(eq=False)
class _Cell:
    """Where a tensor's signal is kept. Operations in place write the cell that earlier nodes share."""

    signal: Signal | None
    refusal: str = ""


@dataclass(eq=False)
class Layer:
    """A population in the making. kind: input, relu, activation, spiking, relay, gate, sum or scores (spiking readout).

    at: the graph node that gives out what the layer does (a neuron, a max-pool, the output). current: its input in the
    sampled pass, a tensor. unit: what the current is divided by; amplitude: what one spike stands for in the module.
    multi_step: whether a spiking module takes all ticks in one call, so that only the neuron can be stepped.
    """

    name: str
    shape: Shape
    kind: str
    terms: tuple[Term, ...]
    at: Any
    current: Any
    neuron: Neuron | None = None
    unit: float = 1.0
    amplitude: float = 1.0
    multi_step: bool = False


@dataclass(eq=False)
class Plan:
    """Everything known about a traced module on its way to a `Network`."""

    root: Any
    graph: Any
    dtype: Any
    layers: dict[str, Layer]
    cells: dict[Any, _Cell]
    values: dict[Any, Any]  # of every node, for a random input and random neuron outputs
    inputs: dict[Any, Any]  # first argument of every node, the same
    norms: dict[Any, TickNorm] = field(default_factory=dict)  # in the random pass they are those of tick 0
    folded: list[str] = field(default_factory=list)
    stepped: set[str] = field(default_factory=set)
    output: str = ""

    def signal(self, node: Any) -> Signal:
        """The signal of a node; raises the refusal of a node that has none."""
        cell = self.cells.get(node)
        if cell is None or cell.signal is None:
            raise _Refused(cell.refusal if cell else f"{describe(self.root, node)} does not depend on the input")
        return cell.signal


class _Refused(ValueError):
    """What a node cannot do; it is raised for the user only when something needs the node."""


def draw(module: Any, example_shape: Shape, readout: str) -> Plan:
    """Trace a module and read its graph as populations and terms."""
    if len(example_shape) < 2:
        raise ValueError(f"the example has shape {tuple(example_shape)}, wanted (N, channels, ...)")
    import torch

    root, graph = trace(module)
    dtype = next((p.dtype for p in root.parameters() if p.dtype.is_floating_point), torch.float32)
    generator = torch.Generator().manual_seed(0)
    norms = tick_norms(root, graph)
    values, inputs = _sample(root, graph, norms, torch.randn(tuple(example_shape), generator=generator, dtype=dtype))
    entrance = Layer("input", tuple(int(n) for n in example_shape[1:]), "input", (), None, None, Input())
    plan = Plan(root, graph, dtype, {"input": entrance}, {}, values, inputs, norms)

    for node in graph.nodes:
        if node.op == "placeholder":
            plan.cells[node] = _Cell(Signal((Term("input"),), entrance.shape))
        elif node.op == "output":
            _end(plan, node, readout)
        elif any(source in plan.cells for source in node.all_input_nodes):
            try:
                cell = _read(plan, node)
            except _Refused as refusal:
                cell = _Cell(None, str(refusal))
            if cell is not None:
                plan.cells[node] = cell
    used = _needed(plan)
    plan.layers = {name: layer for name, layer in plan.layers.items() if name in used}
    return plan


def _sample(root: Any, graph: Any, norms: dict[Any, TickNorm], x: Any) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Value and first argument of every node for one input, with random values in place of every neuron's output.

    So no spiking module is run and its state stays fresh, and every later layer sees values that are all different.
    Per-tick norms are those of tick 0.
    """
    import torch

    values: dict[Any, Any] = {}
    inputs: dict[Any, Any] = {}
    generator = torch.Generator().manual_seed(1)

    def random(node: Any, args: tuple[Any, ...]) -> Any:
        value = torch.rand(args[0].shape, generator=generator, dtype=args[0].dtype)
        pair = any(operation(root, user) == "getitem" and isinstance(user.args[1], int) for user in node.users)
        return (value, value.clone()) if pair and node.op == "call_module" else value

    neurons = [node for node in graph.nodes if operation(root, node) in ("relu", "neuron")]
    instead = at_tick(norms, 0) | {node: functools.partial(random, node) for node in neurons}
    keep = lambda value: value.clone() if isinstance(value, torch.Tensor) else value  # noqa: E731
    try:
        forward(
            root,
            graph,
            x,
            instead,
            before=lambda node, first: inputs.__setitem__(node, keep(first)),
            after=lambda node, value: values.__setitem__(node, keep(value)),
        )
    except Exception as error:  # whatever the user's module raises on an input it was not made for
        name = type(root.net).__name__
        raise ValueError(f"{name} does not run on an input of shape {tuple(x.shape)}: {first_line(error)}") from None
    return values, inputs


def _read(plan: Plan, node: Any) -> _Cell | None:
    """The cell of one node; None for a plain number, such as a size. Raises _Refused."""
    import torch

    name = operation(plan.root, node)
    value = plan.values[node]
    for source in node.all_input_nodes:
        if source in plan.cells:
            plan.signal(source)  # what is refused further up is the reason to name
    if name == "constant" and not isinstance(value, torch.Tensor):
        return None
    if name in (None, "constant"):
        hint = "only ReLU and classes known through register() become neurons, and only linear layers, pooling, "
        raise _Refused(
            f"cannot carry over {describe(plan.root, node)}: {hint}flattening and additions stand between them"
        )
    assert name is not None
    if name == "getitem" and not isinstance(plan.inputs[node], torch.Tensor):
        if operation(plan.root, node.args[0]) != "neuron":
            return None
        if node.args[1] != 0:
            raise _Refused(f"cannot carry over {describe(plan.root, node)}: it reads the state of a spiking module")
        return plan.cells[node.args[0]]
    varying = [source for source in node.all_input_nodes if source in plan.cells]
    first = node.all_input_nodes[0]
    if first not in plan.cells or (len(varying) > 1 and name not in ("add", "subtract", "multiply")):
        raise _Refused(f"cannot carry over {describe(plan.root, node)}: wanted the layer first and constants behind it")
    arguments = _arguments(plan, node, name)
    if name == "pass" or (name == "dropout" and arguments["training"] is False):
        copied = node.op == "call_method" and node.target == "clone"
        return _Cell(plan.signal(first)) if copied else plan.cells[first]
    if name in ("dropout", "softmax"):
        why = "it is active in evaluation mode" if name == "dropout" else "it is not the last operation"
        raise _Refused(f"cannot carry over {describe(plan.root, node)}: {why}")
    if not isinstance(value, torch.Tensor | tuple):
        raise _Refused(f"cannot carry over {describe(plan.root, node)}: it gives a {type(value).__name__}")
    try:
        signal = _HANDLERS[name](plan, node, arguments)
    except _Refused as refusal:
        what = str(refusal)
        if not what.startswith("cannot"):
            what = f"cannot carry over {describe(plan.root, node)}: {what}"
        raise _Refused(what) from None
    if _readers(plan, node) > 1 and (len(signal.terms) > 1 or not signal.terms[0].open):
        signal = _relay(plan, node, signal, value)  # else the weight would be applied, and counted, once per reader
    if in_place(plan.root, node):
        plan.cells[first].signal = signal
        return plan.cells[first]
    return _Cell(signal)


def _arguments(plan: Plan, node: Any, name: str) -> dict[str, Any]:
    """Every argument of an operation by name, from the module's attributes or the call; None where there is none."""
    from torch.fx.node import map_arg

    wanted = ARGUMENTS[name]
    if node.op == "call_module":
        module = plan.root.get_submodule(node.target)
        return {argument: getattr(module, argument, DEFAULTS.get(argument)) for argument in wanted}
    given = map_arg(node.args[1:], plan.values.__getitem__)
    found: dict[str, Any] = {argument: DEFAULTS.get(argument) for argument in wanted}
    found.update(zip(wanted, given))
    for key, value in map_arg(node.kwargs, plan.values.__getitem__).items():
        if ALIASES.get(key, key) in found:
            found[ALIASES.get(key, key)] = value
    return found


def _only(plan: Plan, node: Any) -> tuple[Term, Signal]:
    """The one open term that a weight operation at `node` acts on; that of a relay where there is none."""
    first = node.all_input_nodes[0]
    signal = plan.signal(first)
    if len(signal.terms) == 1 and signal.terms[0].open:
        return signal.terms[0], signal
    relayed = _relay(plan, first, signal, plan.inputs[node])
    plan.cells[first].signal = relayed  # whoever reads this value later reads the relay
    return relayed.terms[0], relayed


def _readers(plan: Plan, node: Any) -> int:
    """How many operations read this value; after one that changes it in place, they read another."""
    count = 0
    for user in node.users:
        count += operation(plan.root, user) != "constant"
        if in_place(plan.root, user) and user.all_input_nodes[0] is node:
            break
    return count


def _relay(plan: Plan, node: Any, signal: Signal, current: Any) -> Signal:
    """A relay that sums a signal, called after the operation that made it."""
    while operation(plan.root, node) in ("reshape", "pass", "dropout", "avg_pool", "adaptive_avg_pool", "mean"):
        node = node.all_input_nodes[0]
    name = _fresh(plan, label_of(plan.root, node))
    plan.layers[name] = Layer(name, signal.shape, "relay", signal.terms, None, current, Relay())
    return Signal((Term(name),), signal.shape, signal.flat)


def _fresh(plan: Plan, name: str) -> str:
    taken, count = name, 1
    while taken in plan.layers:
        count += 1
        taken = f"{name}_{count}"
    return taken


# ------------------------------------------------------------------------------------------------ one operation each


def _conv(plan: Plan, node: Any, a: dict[str, Any]) -> Signal:
    weight = _array(a["weight"])
    dimensions = weight.ndim - 2
    if a["padding_mode"] not in (None, "zeros"):
        raise _Refused(f"padding_mode is {a['padding_mode']!r}, only 'zeros' is supported")
    term, signal = _only(plan, node)
    if len(signal.shape) != dimensions + 1 or signal.flat:
        raise _Refused(f"its input has shape {signal.shape}, wanted (channels, and {dimensions} dimensions)")
    dilation = _each(a["dilation"], dimensions)
    if a["padding"] == "same":  # PyTorch puts the odd one behind
        spare = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:])]
        padding = tuple((n // 2, n - n // 2) for n in spare)
    else:
        padding = tuple((n, n) for n in _each(0 if a["padding"] == "valid" else a["padding"], dimensions))
    op = Conv(weight * float(term.op.weight), _each(a["stride"] or 1, dimensions), padding, dilation, int(a["groups"]))
    term = replace(term, op=op, bias=_array(a["bias"]), path=label_of(plan.root, node))
    return Signal((term,), op.out_shape(signal.shape))


def _linear(plan: Plan, node: Any, a: dict[str, Any]) -> Signal:
    term, signal = _only(plan, node)
    if len(signal.shape) > 1 and not signal.flat:
        raise _Refused(f"its input has shape {signal.shape}, wanted a vector: flatten it first")
    before = (*term.before, Flatten()) if len(signal.shape) > 1 else term.before
    op = Dense(_array(a["weight"]) * float(term.op.weight))
    term = replace(term, before=before, op=op, bias=_array(a["bias"]), path=label_of(plan.root, node))
    return Signal((term,), (len(op.weight),))


def _batch_norm(plan: Plan, node: Any, a: dict[str, Any]) -> Signal:
    """y = (x - mean) gamma / sqrt(var + eps) + beta, as a factor and a shift for each channel."""
    if a["running_mean"] is None or a["running_var"] is None:
        raise _Refused("it keeps no running statistics, so its output depends on the batch")
    if node.op == "call_function" and a["training"]:
        raise _Refused("it is in training mode")
    signal = plan.signal(node.all_input_nodes[0])
    channels = signal.shape[0]
    if signal.flat and math.prod(signal.shape) != channels:
        raise _Refused("it stands behind a flattening and has one factor per position; normalise before flattening")
    ones = np.ones(channels)
    gamma = ones if a["weight"] is None else _array(a["weight"])
    beta = 0 * ones if a["bias"] is None else _array(a["bias"])
    scale = gamma / np.sqrt(_array(a["running_var"]) + float(a["eps"]))
    plan.folded.append(label_of(plan.root, node))
    return _affine(plan, node, scale, beta - _array(a["running_mean"]) * scale)


def _affine(plan: Plan, node: Any, scale: np.ndarray, shift: np.ndarray) -> Signal:
    """scale[c] x + shift[c], folded into every term (the shift into the first); a table of shifts holds the bias."""
    signal = plan.signal(node.all_input_nodes[0])
    if any(isinstance(m, Subsample) and sum(m.channels) for term in signal.terms for m in term.after):
        _, signal = _only(plan, node)
    terms = []
    for term in signal.terms:
        column = scale.reshape(-1, *(1,) * (np.ndim(term.op.weight) - 1))
        if isinstance(term.op, Identity):
            op: Operation = Identity(np.asarray(term.op.weight) * scale)
            term = replace(term, path=term.path or label_of(plan.root, node))
        else:
            op = replace(term.op, weight=term.op.weight * column)
        bias = None if term.bias is None else term.bias * scale.reshape(-1, *(1,) * (term.bias.ndim - 1))
        moved = None if term.shift is None else term.shift * scale
        terms.append(replace(term, op=op, bias=bias, shift=moved))
    if np.any(shift):
        terms[0] = _shifted(terms[0], shift)
    return replace(signal, terms=tuple(terms))


def _shifted(term: Term, shift: np.ndarray) -> Term:
    """The term plus shift[c], in its bias; or in its table of shifts, where it has tables."""
    if term.shift is not None:
        return replace(term, shift=term.shift + shift)
    if term.scale is not None:
        return replace(term, shift=np.broadcast_to(shift, term.scale.shape).copy())
    new = shift if term.bias is None else term.bias + shift.reshape(-1, *(1,) * (term.bias.ndim - 1))
    return replace(term, bias=new)


def _tick_norm(plan: Plan, node: Any, a: dict[str, Any]) -> Signal:
    """scale[t, c] x + shift[t, c] in tick t, as the tables of every term (the shift into the first)."""
    norm = plan.norms[node]
    signal = plan.signal(node.all_input_nodes[0])
    if signal.flat and math.prod(signal.shape) != signal.shape[0]:
        raise _Refused("it stands behind a flattening and has one factor per position; normalise before flattening")
    if any(term.bias is not None and term.bias.ndim > 1 for term in signal.terms):  # a table has one row per channel
        _, signal = _only(plan, node)
    plan.folded.append(label_of(plan.root, node))
    terms = []
    for term in signal.terms:
        if term.scale is not None and len(term.scale) != len(norm.scale):
            raise _Refused(
                f"its tables have {len(norm.scale)} ticks, those of the norm in front of it {len(term.scale)}; wanted "
                "as many"
            )
        scale = norm.scale if term.scale is None else term.scale * norm.scale
        constant = term.bias if term.shift is None else term.shift
        shift = None if constant is None else constant * norm.scale
        path = term.path or label_of(plan.root, node)
        terms.append(replace(term, bias=None, scale=scale, shift=shift, path=path))
    if np.any(norm.shift):
        terms[0] = _shifted(terms[0], norm.shift)
    return replace(signal, terms=tuple(terms))


def _mapped(plan: Plan, node: Any, step: AddressMap) -> Signal:
    """The signal behind one more address map, by linearity in front of or behind each term's weight and its tables."""
    signal = plan.signal(node.all_input_nodes[0])
    if signal.flat:
        raise _Refused("it stands behind a flattening")
    shape = step.out_shape(signal.shape)
    terms = []
    for term in signal.terms:
        if term.open:
            terms.append(replace(term, before=_merged(term.before, step)))
            continue
        bias, scale, shift = term.bias, term.scale, term.shift
        if bias is not None:
            full = np.broadcast_to(bias.reshape(*bias.shape, *(1,) * (len(signal.shape) - bias.ndim)), signal.shape)
            bias = _per_channel(_move(step, full[None]))[0]
        if shift is not None:
            full = np.broadcast_to(shift.reshape(*shift.shape, *(1,) * (len(shape) - 1)), (len(shift), *signal.shape))
            shift = _per_channel(_move(step, full))
            if shift.ndim > 2:  # at the rim, where padding counts, the shift is a smaller one
                _only(plan, node)  # so a relay emits the normed value, and the map stands behind it
                return _mapped(plan, node, step)
        if scale is not None and isinstance(step, Subsample):
            scale = np.pad(scale, ((0, 0), step.channels), constant_values=1)
        terms.append(replace(term, after=_merged(term.after, step), bias=bias, scale=scale, shift=shift))
    return replace(signal, terms=tuple(terms), shape=shape)


def _per_channel(values: np.ndarray) -> np.ndarray:
    """Constants (rows, channels, ...) as (rows, channels) where they are the same at all positions."""
    flat = values.reshape(*values.shape[:2], -1)
    same = np.ptp(flat, axis=2).max() <= 1e-12 * np.abs(flat).max()
    return flat[:, :, 0].copy() if same else values


def _merged(steps: tuple[AddressMap, ...], step: AddressMap) -> tuple[AddressMap, ...]:
    """Add a map; striding and then padding channels is one `Subsample`, the option-A shortcut."""
    if steps and isinstance(step, Subsample) and isinstance(steps[-1], Subsample):
        last = steps[-1]
        stride = tuple(a * b for a, b in zip(last.stride, step.stride))
        padding = (last.channels[0] + step.channels[0], last.channels[1] + step.channels[1])
        return (*steps[:-1], Subsample(stride, padding))
    return (*steps, step)


def _move(step: AddressMap, x: np.ndarray) -> np.ndarray:
    """x (N, *shape) through one address map, in float64."""
    if isinstance(step, Flatten):
        return x.reshape(len(x), -1)
    shape = step.out_shape(x.shape[1:])
    taps = step.taps(x.shape[1:])
    flat = x.reshape(len(x), x.shape[1], -1)
    moved = np.zeros((math.prod(shape[1:]), len(x), x.shape[1]))
    np.add.at(moved, taps.target, np.moveaxis(flat[:, :, taps.source] * taps.coefficient, 2, 0))
    result = np.moveaxis(moved, 0, 2)
    if isinstance(step, Subsample):
        result = np.pad(result, ((0, 0), step.channels, (0, 0)))
    return result.reshape(len(x), *shape)


def _avg_pool(plan: Plan, node: Any, a: dict[str, Any]) -> Signal:
    if a["divisor_override"] is not None:
        raise _Refused("divisor_override is not supported")
    signal = plan.signal(node.all_input_nodes[0])
    return _mapped(plan, node, _window(signal, a, kind="average", count_include_pad=bool(a["count_include_pad"])))


def _window(signal: Signal, a: dict[str, Any], **options: Any) -> Pool:
    dimensions = len(signal.shape) - 1
    kernel = _each(a["kernel_size"], dimensions)
    stride = kernel if a["stride"] in (None, (), []) else _each(a["stride"], dimensions)
    return Pool(kernel, stride, _each(a["padding"], dimensions), ceil_mode=bool(a["ceil_mode"]), **options)


def _adaptive_avg_pool(plan: Plan, node: Any, a: dict[str, Any]) -> Signal:
    signal = plan.signal(node.all_input_nodes[0])
    return _mapped(plan, node, AdaptivePool(_sizes(signal, a["output_size"])))


def _sizes(signal: Signal, wanted: Any) -> tuple[int, ...]:
    pair = wanted if isinstance(wanted, tuple | list) else (wanted,) * (len(signal.shape) - 1)
    return tuple(int(n if m is None else m) for n, m in zip(signal.shape[1:], pair))


def _mean(plan: Plan, node: Any, a: dict[str, Any]) -> Signal:
    signal = plan.signal(node.all_input_nodes[0])
    rank = plan.inputs[node].ndim
    given = a["dim"] if isinstance(a["dim"], tuple | list) else (a["dim"],)
    axes = {int(axis) % rank for axis in given} if None not in given else set(range(rank))
    if signal.flat or axes != set(range(2, rank)) or rank < 3:
        raise _Refused(f"it averages over dimensions {sorted(axes)}, only over all positions is supported")
    pooled = _mapped(plan, node, AdaptivePool((1,) * (rank - 2)))
    return pooled if a["keepdim"] else replace(pooled, flat=True)


def _max_pool(plan: Plan, node: Any, a: dict[str, Any]) -> Signal:
    if a["return_indices"]:
        raise _Refused("return_indices is not supported")
    signal = plan.signal(node.all_input_nodes[0])
    term = signal.terms[0]
    source = plan.layers[term.source]
    spikes = source.kind in ("relu", "activation", "spiking", "gate") and not getattr(source.neuron, "multi_spike", 0)
    if len(signal.terms) != 1 or not term.bare or term.before or not spikes or signal.flat:
        raise _Refused(
            "max-pooling of graded values is not supported, only of spikes: put it directly behind a neuron, or in "
            "front of a ReLU"
        )
    if "output_size" in a:
        out = _sizes(signal, a["output_size"])
        if any(n % m for n, m in zip(signal.shape[1:], out)):
            raise _Refused(f"the output size {out} does not divide {signal.shape[1:]}")
        kernel = tuple(n // m for n, m in zip(signal.shape[1:], out))
        window = Pool(kernel, kernel, (0,) * len(kernel), kind="sum")
    else:
        dilation = _each(a["dilation"], len(signal.shape) - 1)
        window = _window(signal, a, kind="sum", dilation=dilation if max(dilation) > 1 else ())
    name = _fresh(plan, label_of(plan.root, node))
    shape = window.out_shape(signal.shape)
    into = Term(term.source, before=(window,))
    plan.layers[name] = Layer(name, shape, "gate", (into,), node, None, Gate(), amplitude=source.amplitude)
    return Signal((Term(name),), shape)


def _reshape(plan: Plan, node: Any, a: dict[str, Any]) -> Signal:
    """Only flattening everything but the samples, and doing nothing."""
    signal = plan.signal(node.all_input_nodes[0])
    old, new = tuple(plan.inputs[node].shape), tuple(plan.values[node].shape)
    if old == new:
        return signal
    if len(new) == 2 and new == (old[0], math.prod(old[1:])):
        return replace(signal, flat=True)
    raise _Refused(f"it turns {old} into {new}; only flattening to (N, {math.prod(old[1:])}) is supported")


def _operands(node: Any) -> list[Any]:
    return [*node.args[:2], *(node.kwargs[k] for k in ("input", "other") if k in node.kwargs)]


def _add(plan: Plan, node: Any, a: dict[str, Any]) -> Signal:
    """A sum or, with the second operand negated, a difference."""
    operands = _operands(node)
    numbers = [value for value in operands if not hasattr(value, "op")]
    sign = -1.0 if operation(plan.root, node) == "subtract" else 1.0
    alpha = float(a["alpha"] if a["alpha"] is not None else 1)
    if numbers:
        if alpha != 1 or not isinstance(numbers[0], int | float):
            raise _Refused(f"it adds {numbers[0]!r}, wanted another layer or a number")
        ones = np.ones(plan.signal(node.all_input_nodes[0]).shape[0])
        first, second = (1.0, sign) if numbers[0] is operands[0] else (sign, 1.0)  # of the number, of the layer
        return _affine(plan, node, second * ones, first * float(numbers[0]) * ones)
    if not all(operand in plan.cells for operand in operands):
        raise _Refused("it adds a constant tensor, wanted another layer or a number")
    one, other = (plan.signal(operand) for operand in operands)
    if one.shape != other.shape or one.flat != other.flat:
        raise _Refused(f"it adds shapes {one.shape} and {other.shape}, wanted the same shape on both sides")
    if sign * alpha != 1:
        other = _scaled(other, sign * alpha)
    return replace(one, terms=one.terms + other.terms)


def _join(plan: Plan, node: Any) -> Signal:
    """The product of two layers' spikes, as a gate: a * b or (1 - a) * b, AND and IAND of SEW (Fang et al. 2021)."""
    one, other = (plan.signal(operand) for operand in _operands(node))
    if one.shape != other.shape or one.flat != other.flat:
        raise _Refused(f"it multiplies shapes {one.shape} and {other.shape}, wanted the same shape on both sides")
    terms, negated = [], 0
    for signal in (one, other):
        term = signal.terms[0]
        layer = plan.layers[term.source]
        binary = (
            layer.kind in ("spiking", "gate") and layer.amplitude == 1 and not getattr(layer.neuron, "multi_spike", 0)
        )
        plain = isinstance(term.op, Identity) and not (term.before or term.after or term.scale is not None)
        weight, bias = np.asarray(term.op.weight), 0.0 if term.bias is None else term.bias
        sign = float(weight.flat[0])
        if len(signal.terms) > 1 or not (binary and plain and abs(sign) == 1 and np.all(weight == sign)):
            raise _Refused("only spikes are multiplied, a * b or (1 - a) * b: put it directly behind neurons")
        if not np.all(np.asarray(bias) == (sign < 0)):
            raise _Refused("a layer is multiplied with others only as it is or as 1 - layer")
        terms.append(Term(term.source, op=Identity(sign)))
        negated += sign < 0
    if negated == 2:
        raise _Refused("(1 - a) * (1 - b) is 1 where nothing spikes, which no event can bring")
    name = _fresh(plan, label_of(plan.root, node))
    neuron = Gate(threshold=None if negated else 1.0)
    plan.layers[name] = Layer(name, one.shape, "gate", tuple(terms), node, None, neuron)
    return Signal((Term(name),), one.shape, one.flat)


def _scaled(signal: Signal, factor: float) -> Signal:
    terms = []
    for term in signal.terms:
        bias = None if term.bias is None else term.bias * factor
        shift = None if term.shift is None else term.shift * factor
        terms.append(replace(term, op=scaled(term.op, factor), bias=bias, shift=shift))
    return replace(signal, terms=tuple(terms))


def scaled(op: Operation, factor: float) -> Operation:
    """The operation with its weight, float64, times a factor."""
    weight: Any = np.asarray(op.weight, np.float64) * factor
    return replace(op, weight=weight)


def _scale(plan: Plan, node: Any, a: dict[str, Any]) -> Signal:
    if all(operand in plan.cells for operand in _operands(node)):
        return _join(plan, node)
    divides = operation(plan.root, node) == "divide"
    turned = not divides and isinstance(node.args[0], int | float)  # 2 * x
    number = node.args[0] if turned else a["other"]
    if not isinstance(number, int | float) or not (turned or node.args[0] in plan.cells):
        raise _Refused("only a layer times or divided by a number is supported; neurons of your own need register()")
    factor = float(number)
    return _scaled(plan.signal(node.all_input_nodes[0]), 1 / factor if divides else factor)


def _getitem(plan: Plan, node: Any, a: dict[str, Any]) -> Signal:
    """x[:, :, ::s, ::s], the stride of an option-A shortcut."""
    index = a["index"] if isinstance(a["index"], tuple) else (a["index"],)
    rank = plan.inputs[node].ndim
    whole = [i if isinstance(i, slice) else None for i in index] + [slice(None)] * (rank - len(index))
    strides = []
    for place, part in enumerate(whole):
        if part is None or part.start not in (None, 0) or part.stop is not None or (part.step or 1) < 1:
            raise _Refused(f"it picks {index}, only every n-th position (x[:, :, ::n, ::n]) is supported")
        strides.append(int(part.step or 1))
        if place < 2 and strides[-1] != 1:
            raise _Refused(f"it picks {index}, only every n-th position (x[:, :, ::n, ::n]) is supported")
    return _mapped(plan, node, Subsample(tuple(strides[2:])))


def _pad(plan: Plan, node: Any, a: dict[str, Any]) -> Signal:
    """F.pad of channels with zeros, the other half of an option-A shortcut. PyTorch lists the last dimension first."""
    signal = plan.signal(node.all_input_nodes[0])
    rank = len(signal.shape)
    pad = [int(n) for n in a["pad"]] + [0] * (2 * rank - len(a["pad"]))
    channels = (pad[2 * rank - 2], pad[2 * rank - 1])
    if a["mode"] not in (None, "constant") or a["value"] not in (None, 0) or min(channels) < 0:
        raise _Refused("only padding of channels with zeros is supported")
    if any(pad[: 2 * rank - 2]) or len(pad) > 2 * rank:
        raise _Refused("only padding of channels is supported; pad positions in the convolution")
    return _mapped(plan, node, Subsample((1,) * (rank - 1), channels))


def _relu(plan: Plan, node: Any, a: dict[str, Any]) -> Signal:
    return _neuron_layer(plan, node, plan.signal(node.all_input_nodes[0]), "relu", None, 1.0)


def _neuron(plan: Plan, node: Any, a: dict[str, Any]) -> Signal:
    module = plan.root.get_submodule(node.target)
    entry = converter_of(module)
    assert entry is not None
    if not entry.activation and node.target in plan.stepped:
        raise _Refused("a spiking module is called twice in one forward; trace a module that makes one time step")
    plan.stepped.add(node.target)
    try:
        given = entry.convert(module)
    except ValueError as error:
        raise _Refused(str(error)) from None
    neuron, amplitude = given if isinstance(given, tuple) else (given, 1.0)
    if not isinstance(neuron, IF):
        raise _Refused(f"its converter gave a {type(neuron).__name__}, wanted an IF or a LIF")
    problems = neuron.problems()
    if problems or np.size(amplitude) != 1 or not math.isfinite(float(amplitude)) or float(amplitude) == 0:
        what = problems[0] if problems else f"the amplitude is {amplitude!r}, wanted one number, not 0"
        raise _Refused(f"its converter gave a neuron that cannot be run ({what})")
    signal = plan.signal(node.all_input_nodes[0])
    kind = "activation" if entry.activation else "spiking"
    made = _neuron_layer(plan, node, signal, kind, neuron, float(amplitude))
    plan.layers[made.terms[0].source].multi_step = entry.multi_step
    return made


def _neuron_layer(plan: Plan, node: Any, signal: Signal, kind: str, neuron: IF | None, amplitude: float) -> Signal:
    name = _fresh(plan, _driver(plan, signal.terms) or label_of(plan.root, node))
    plan.layers[name] = Layer(
        name, signal.shape, kind, signal.terms, node, plan.inputs[node], neuron, amplitude=amplitude
    )
    return Signal((Term(name),), signal.shape, signal.flat)


def _driver(plan: Plan, terms: Iterable[Term]) -> str | None:
    """The layer a sum is named after: of its weighted terms the one with the latest source, so not the shortcut."""
    order = list(plan.layers)
    weighted = [term for term in terms if term.path is not None]
    return max(weighted, key=lambda term: order.index(term.source)).path if weighted else None


_HANDLERS: dict[str, Callable[[Plan, Any, dict[str, Any]], Signal]] = {
    "conv": _conv,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "tick_norm": _tick_norm,
    "avg_pool": _avg_pool,
    "adaptive_avg_pool": _adaptive_avg_pool,
    "max_pool": _max_pool,
    "adaptive_max_pool": _max_pool,
    "mean": _mean,
    "reshape": _reshape,
    "add": _add,
    "subtract": _add,
    "multiply": _scale,
    "divide": _scale,
    "getitem": _getitem,
    "pad": _pad,
    "relu": _relu,
    "neuron": _neuron,
}


def _array(tensor: Any) -> Any:
    return None if tensor is None else tensor.detach().cpu().double().numpy()


def _each(value: Any, dimensions: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, tuple | list) else (value,)
    return tuple(int(n) for n in (values * dimensions if len(values) == 1 else values))


# ------------------------------------------------------------------------------------------------ the end of the graph


def _end(plan: Plan, node: Any, readout: str) -> None:
    """Make the output population, or take the neurons the module ends in."""
    try:
        signal = plan.signal(node.args[0])
    except _Refused as refusal:
        raise ValueError(str(refusal)) from None
    term = signal.terms[0]
    layer = plan.layers[term.source]
    if len(signal.terms) == 1 and term.bare and not term.before:
        if layer.kind not in ("relu", "activation", "spiking"):
            raise ValueError(f"the module ends in a {layer.kind} layer, wanted a weighted layer or neurons")
        plan.output = layer.name
        return
    name = _fresh(plan, _driver(plan, signal.terms) or "output")
    kind, neuron = ("sum", Integrator()) if readout == "sum" else ("scores", None)
    plan.layers[name] = Layer(name, signal.shape, kind, signal.terms, node, plan.inputs[node], neuron)
    plan.output = name


def _needed(plan: Plan) -> set[str]:
    """Names of the layers the output depends on; a branch that is computed and thrown away makes no population."""
    found, waiting = {"input"}, [plan.output]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(term.source for term in plan.layers[name].terms)
    return found


def carry(term: Term | Connection, x: Any) -> Any:
    """x (N, *source shape), float64, through one term or connection in tick 0, bias included; numpy in and out."""
    import torch
    import torch.nn.functional as F

    for step in term.before:
        x = _move(step, x)
    if isinstance(term.op, Identity):
        x = x * np.asarray(term.op.weight).reshape(-1, *(1,) * (x.ndim - 2))
    elif isinstance(term.op, Dense):
        x = x @ np.asarray(term.op.weight, np.float64).T
    elif isinstance(term.op, Conv):
        sides = [side for pair in reversed(term.op.padding) for side in pair]
        convolve = F.conv1d if term.op.weight.ndim == 3 else F.conv2d
        weight = torch.from_numpy(np.asarray(term.op.weight, np.float64))
        padded = F.pad(torch.from_numpy(np.ascontiguousarray(x)), sides)
        x = convolve(padded, weight, None, term.op.stride, 0, term.op.dilation, term.op.groups).numpy()
    for step in term.after:
        x = _move(step, x)
    if term.scale is not None:
        x = x * term.scale[0].reshape(-1, *(1,) * (x.ndim - 2))
    constant = term.bias if term.shift is None else term.shift[0]
    return x if constant is None else x + constant.reshape(*constant.shape, *(1,) * (x.ndim - 1 - constant.ndim))


def check_currents(plan: Plan) -> None:
    """Refuse a plan that does not reproduce the module.

    The current of every layer, carried from its sources through the folded terms, must be the one the module itself
    computed for the same (random) values of the sources.
    """
    for layer in plan.layers.values():
        if layer.kind in ("input", "gate"):
            continue
        wanted = _array(layer.current)
        given = sum(carry(term, _value(plan, term.source)) for term in layer.terms).reshape(wanted.shape)
        error = float(np.max(np.abs(given - wanted), initial=0))
        if not error <= 1e-4 * max(float(np.max(np.abs(wanted), initial=0)), 1e-3):
            raise ValueError(
                f"the converted layer {layer.name!r} does not reproduce the module: on a random input its current is "
                f"off by {error:.2g}, so the module does something this converter misreads; please report it"
            )


def _value(plan: Plan, name: str) -> np.ndarray:
    """What a layer gave out in the sampled pass, (N, *shape) float64."""
    layer = plan.layers[name]
    if layer.kind == "input":
        node = next(node for node in plan.graph.nodes if node.op == "placeholder")
        value = plan.values[node]
    else:
        value = layer.current if layer.kind == "relay" else plan.values[layer.at]
    value = value[0] if isinstance(value, tuple) else value
    return _array(value).reshape(-1, *layer.shape)
