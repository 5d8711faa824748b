"""A network written in the vocabulary of NIR, the Neuromorphic Intermediate Representation.

NIR nodes are linear maps and neurons in continuous time; its graph adds what several edges bring to a node. `lower`
says in these terms everything about a `Network` that they can say, one tick being one NIR time unit; `faithful` lists
what they cannot, so that another reader would run a different network. Shapes are chosen such that `nir.read` of
nir 1.0.8 opens every lowering with its type checks, which compute the output of a convolution from one side of the
kernel and know no groups, no one-sided padding and no ceil mode.

| in the network | in NIR |
|---|---|
| residual | two edges; two bare edges between the same nodes: one, through a `Scale` of 2 |
| relay | nothing: its arrivals meet at the node behind it |
| option-A shortcut (`Subsample`) | 1x1 `Conv2d` with stride and 0/1 weights |
| grouped convolution | one group, block-diagonal weights |
| oblong kernel, one-sided padding | a square kernel with zeros around; where parities differ, a second one that crops |
| pools | `AvgPool2d`, `SumPool2d` and `Scale`; in ceil mode, dilated, or of one dimension: a convolution of ones |
| max-pool (`Gate`) | `SumPool2d`, then `Threshold` 0 |
| sparse synapses, uneven adaptive pool | the dense matrix, as `Linear` or as a convolution of the flattened source |
| bias of a whole grid | `Affine` with one identity matrix for each row |
| summed readout | the sum at `Output` |
| LIF | alpha = exp(-1/tau), or 1 - 1/tau if it came by Euler; r = gain / (1 - alpha): a spike is a pulse of a tick |
| per-tick tables | constant ones exactly, others as they are in tick 0 |
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eventsnn import hdf5
from eventsnn.network import (
    AdaptivePool,
    AddressMap,
    Connection,
    Conv,
    Dense,
    Flatten,
    Identity,
    Network,
    Pool,
    Population,
    Shape,
    Subsample,
    Taps,
    positions,
)
from eventsnn.neurons import IF, LIF, Gate, Input, Integrator, Relay

NIR_VERSION = "1.0.8"  # of the library whose reading of the format this was measured against
LARGEST = 2**27  # weights of one node; a dense stand-in for something sparse can outgrow any file

Node = dict[str, Any]


class Lowering(NamedTuple):
    """nodes: name -> {"type": ..., fields}. edges: pairs of node names. notes: what a reader may stumble over."""

    nodes: dict[str, Node]
    edges: list[tuple[str, str]]
    notes: list[str]

    def tree(self) -> hdf5.Tree:
        """The content of the file's `/node` group."""
        edges = np.asarray(self.edges, dtype=object).reshape(-1, 2)
        return {"type": "NIRGraph", "nodes": self.nodes, "edges": edges}


def lower(network: Network) -> Lowering:
    """The network as NIR nodes and edges; raises ValueError, naming it, for what cannot be written in NIR at all."""
    names = _Names(p.name for p in network.populations)
    reached = _reached(network)
    relays = {p.name for p in network.populations if isinstance(p.neuron, Relay)}
    relays &= {c.source for c in network.connections}  # one that nobody listens to becomes a node of its own
    nodes: dict[str, Node] = {p.name: _population(p) for p in network.populations if p.name not in relays}
    out = network[network.output]
    node_of = {p.name: p.name for p in network.populations}
    if isinstance(out.neuron, Integrator):
        nodes[out.name] = {"type": "Output", "shape": np.array(out.shape)}

    counts: dict[tuple[str, str], int] = {}
    notes: list[str] = []
    chains: dict[str, list[str]] = {}
    for c in network.connections:
        try:
            steps, stumbling = _steps(c, network[c.source].shape, network[c.target].shape, c.source in reached)
        except ValueError as error:
            raise ValueError(f"connection {c.label!r} cannot be written as NIR: {error}") from None
        chains[c.label] = [names.new(f"{c.source}_{c.target}_{step['type'].lower()}") for step in steps]
        nodes.update(zip(chains[c.label], steps))
        for edge in zip(chains[c.label], chains[c.label][1:]):
            counts[edge] = 1
        notes += [f"{note}: {c.label}" for note in stumbling]

    heads = _heads(network, relays, chains)
    for c in network.connections:
        first, *_ = chain = [*chains[c.label], node_of[c.target]]
        if c.target in relays and len(chain) == 1:
            continue
        for head, times in heads[c.source].items():
            counts[head, first] = counts.get((head, first), 0) + times
        if c.target not in relays and len(chain) > 1:
            counts[chain[-2], chain[-1]] = 1
    if not isinstance(out.neuron, Integrator):
        sink = names.new("output")
        nodes[sink] = {"type": "Output", "shape": np.array(out.shape)}
        counts[out.name, sink] = 1
    if not any(head == network.input.name for head, _ in counts):
        raise ValueError(f"the input population {network.input.name!r} feeds nothing; NIR wants a graph behind it")

    edges = []
    shapes = {p.name: p.shape for p in network.populations}
    shapes.update((chains[c.label][-1], shapes[c.target]) for c in network.connections if chains[c.label])
    for (head, tail), times in counts.items():
        if times == 1:
            edges.append((head, tail))
        else:  # NIR has one edge between two nodes at most
            twice = names.new(f"{head}_{tail}_scale")
            nodes[twice] = {"type": "Scale", "scale": np.full(shapes[head], times, np.float32)}
            edges += [(head, twice), (twice, tail)]
    return Lowering(nodes, edges, notes)


class _Names:
    """Hands out node names that were not used before."""

    def __init__(self, taken: Iterable[str]) -> None:
        self.taken = set(taken)

    def new(self, wanted: str) -> str:
        name, count = wanted, 1
        while name in self.taken:
            count += 1
            name = f"{wanted}_{count}"
        self.taken.add(name)
        return name


def _reached(network: Network) -> set[str]:
    """Populations that events of the input can reach: only there does `nir.read` infer shapes."""
    after: dict[str, list[str]] = {p.name: [] for p in network.populations}
    for c in network.connections:
        after[c.source].append(c.target)
    found, waiting = {network.input.name}, [network.input.name]
    while waiting:
        for name in after[waiting.pop()]:
            if name not in found:
                found.add(name)
                waiting.append(name)
    return found


def _heads(network: Network, relays: set[str], chains: dict[str, list[str]]) -> dict[str, dict[str, int]]:
    """For each population, the nodes its events come from in NIR, and how many times each.

    A relay has no node: its events come from whatever arrives at it.
    """
    depth = network.depths()
    incoming: dict[str, list[Connection]] = {p.name: [] for p in network.populations}
    for c in network.connections:
        incoming[c.target].append(c)
    heads: dict[str, dict[str, int]] = {}
    for p in sorted(network.populations, key=lambda p: depth[p.name]):  # an empty chain has no delay: its source first
        heads[p.name] = {} if p.name in relays else {p.name: 1}
        for c in incoming[p.name] if p.name in relays else ():
            chain = chains[c.label]
            for head, times in ({chain[-1]: 1} if chain else heads[c.source]).items():
                heads[p.name][head] = heads[p.name].get(head, 0) + times
    return heads


# ------------------------------------------------------------------------------------------------------ populations


def _population(p: Population) -> Node:
    neuron = p.neuron
    if isinstance(neuron, Input):
        return {"type": "Input", "shape": np.array(p.shape)}
    if isinstance(neuron, Integrator):
        return {"type": "I", "r": np.ones(p.shape, np.float32)}
    if isinstance(neuron, Relay):
        return {"type": "Scale", "scale": np.ones(p.shape, np.float32)}
    if isinstance(neuron, Gate):
        return {"type": "Threshold", "threshold": np.zeros(p.shape, np.float32)}
    gain, alpha = _full(neuron.gain, p.shape), _full(getattr(neuron, "alpha", 1.0), p.shape)
    node = {
        "v_threshold": _short(_full(neuron.threshold, p.shape)),
        "v_reset": _short(_full(neuron.reset_value if neuron.reset == "value" else 0.0, p.shape)),
    }
    if not isinstance(neuron, LIF) or np.all(alpha == 1):
        return {"type": "IF", "r": _short(gain), **node}
    # tau must be positive and finite: alpha 0 has its Euler form, alpha 1 a time constant beyond any run
    alpha = np.minimum(alpha, 1 - 2.0**-40)
    euler = (alpha == 0) | (neuron.alpha_from == "euler")
    tau = np.where(euler, 1 / (1 - alpha), -1 / np.log(np.where(euler, 0.5, alpha)))
    rest = _short(_full(neuron.rest, p.shape))
    return {"type": "LIF", "tau": _short(tau), "r": _short(gain / (1 - alpha)), "v_leak": rest, **node}


def _full(value: Any, shape: Shape) -> np.ndarray:
    """A neuron parameter for every unit, float64."""
    value = np.asarray(value, np.float64)
    if value.ndim and value.shape != shape:
        value = value.reshape(value.shape + (1,) * (len(shape) - 1))
    return np.array(np.broadcast_to(value, shape))


def _short(value: np.ndarray) -> np.ndarray:
    """As float32 where that loses nothing, which is what most readers expect."""
    small = value.astype(np.float32)
    return small if np.array_equal(small, value) else value


# ------------------------------------------------------------------------------------------------------ connections


def _steps(c: Connection, shape: Shape, target: Shape, typed: bool) -> tuple[list[Node], list[str]]:
    """The nodes a connection becomes, in order, and notes on them. typed: whether `nir.read` will know the shapes."""
    steps: list[Node] = []
    notes: list[str] = []
    if c.delay:
        steps.append({"type": "Delay", "delay": np.full(shape, float(c.delay), np.float32)})
    scale = None if c.scale is None else c.scale[0]
    bias = c.bias if c.shift is None else c.shift[0]
    if bias is not None and not np.any(bias):
        bias = None
    if bias is not None and bias.shape == target and len(target) > 1:
        flat = bias.reshape(target[0], -1)
        bias = flat[:, 0] if np.all(flat == flat[:, :1]) else bias
    shapes = c.shapes(shape)

    for map_, here in zip(c.before, shapes):
        steps += _map(map_, here, typed, notes)
    here, after_op = shapes[len(c.before)], shapes[len(c.before) + 1]
    if not c.after:  # a scale and a bias of the channels fit into the operation
        op_bias = bias if bias is not None and bias.ndim == 1 else None
        steps += _operation(c.op, here, after_op, scale, op_bias, notes)
        scale, bias = None, None if op_bias is not None else bias
    else:
        steps += _operation(c.op, here, after_op, None, None, notes)
    for map_, here in zip(c.after, shapes[len(c.before) + 1 :]):
        steps += _map(map_, here, typed, notes)
    if scale is not None and np.any(scale != 1):
        steps.append({"type": "Scale", "scale": _short(_full(scale, target))})
    if bias is not None:
        steps += _identity(target, None, bias)
        if bias.ndim > 1:
            notes.append("a bias for each position is an Affine of more than one dimension, which few readers know")
    return steps, notes


def _operation(
    op: Any, shape: Shape, out: Shape, scale: np.ndarray | None, bias: np.ndarray | None, notes: list[str]
) -> list[Node]:
    """Nodes of the weight operation with the output's channels scaled and a bias (C,) added."""
    if isinstance(op, Identity):
        weight = np.asarray(op.weight, np.float64) * (1.0 if scale is None else scale)
        return _identity(shape, None if np.all(weight == 1) else weight, bias)
    if isinstance(op, Dense):
        return [_linear(_scaled(op.weight, scale), bias)]
    if isinstance(op, Conv):
        weight = _ungrouped(_scaled(op.weight, scale), op.groups)
        before = tuple(a for a, _ in op.padding)
        return _convolution(weight, op.stride, before, op.dilation, shape[1:], out[1:], bias)
    _fits(math.prod(out) * math.prod(shape), f"its {op.weight.size} synapses as a dense matrix")
    matrix = np.zeros((math.prod(out), math.prod(shape)), np.result_type(op.weight.dtype, np.float32))
    source = np.repeat(np.arange(math.prod(shape)), np.diff(op.indptr))
    np.add.at(matrix, (op.target, source), op.weight)
    matrix *= 1 if scale is None else np.repeat(scale, positions(out))[:, None].astype(matrix.dtype)
    return _matrix(matrix, shape, out, bias, notes)


def _map(map_: AddressMap, shape: Shape, typed: bool, notes: list[str]) -> list[Node]:
    out = map_.out_shape(shape)
    if isinstance(map_, Flatten):
        return _flatten(shape)
    if isinstance(map_, Subsample):
        front, behind = map_.channels
        weight = np.pad(np.eye(shape[0], dtype=np.float32), ((front, behind), (0, 0)))
        ones = (1,) * (len(shape) - 1)
        return _convolution(
            weight.reshape(*weight.shape, *ones), map_.stride, (0,) * len(ones), ones, shape[1:], out[1:]
        )
    if isinstance(map_, AdaptivePool):
        if any(n % m for n, m in zip(shape[1:], out[1:])):
            return _uneven(map_.taps(shape), shape, out, notes)
        kernel = tuple(n // m for n, m in zip(shape[1:], out[1:]))
        map_ = Pool(kernel=kernel, stride=kernel, padding=(0,) * len(kernel))
    coefficient = _coefficients(map_.taps(shape), out)
    dilation = map_.dilation or (1,) * len(map_.kernel)
    rows = zip(shape[1:], out[1:], map_.kernel, map_.stride, map_.padding)
    plain = all((n + 2 * p - k) // s + 1 == m for n, m, k, s, p in rows) and set(dilation) == {1}
    if plain and typed and len(shape) == 3:
        window = {name: np.array(getattr(map_, name)) for name in ("stride", "padding")}
        window["kernel_size"] = np.array(map_.kernel)
        if not any(map_.padding) and np.all(coefficient == 1 / math.prod(map_.kernel)):
            return [{"type": "AvgPool2d", **window}]
        steps: list[Node] = [{"type": "SumPool2d", **window}]
    else:
        _fits(shape[0] ** 2 * math.prod(map_.kernel), f"a pool of {shape[0]} channels as a convolution")
        weight = np.multiply.outer(np.eye(shape[0], dtype=np.float32), np.ones(map_.kernel, np.float32))
        steps = _convolution(weight, map_.stride, map_.padding, dilation, shape[1:], out[1:])
    if np.any(coefficient != 1):
        steps.append({"type": "Scale", "scale": _short(np.array(np.broadcast_to(coefficient, out)))})
    return steps


def _coefficients(taps: Taps, out: Shape) -> np.ndarray:
    """The coefficient of each pooled position; a pool's depends on nothing else. Positions without a tap have 1."""
    coefficient = np.ones(positions(out))
    coefficient[taps.target] = taps.coefficient
    return coefficient.reshape(out[1:])


def _flatten(shape: Shape) -> list[Node]:
    if len(shape) == 1:
        return []
    return [{"type": "Flatten", "input_type": np.array(shape), "start_dim": 0, "end_dim": -1}]


def _identity(shape: Shape, weight: np.ndarray | None, bias: np.ndarray | None) -> list[Node]:
    """Unit to unit, times a weight (number or (C,)), plus a bias of (C,) or of the whole shape."""
    if bias is None:
        return [] if weight is None else [{"type": "Scale", "scale": _short(_full(weight, shape))}]
    if bias.ndim > 1:
        _fits(math.prod(shape) * shape[-1], "a bias for each position")
        scale = [] if weight is None else [{"type": "Scale", "scale": _short(_full(weight, shape))}]
        rows = np.array(np.broadcast_to(np.eye(shape[-1], dtype=np.float32), (*shape, shape[-1])))
        return [*scale, {"type": "Affine", "weight": rows, "bias": _weights(bias)}]
    _fits(shape[0] ** 2, f"a bias of {shape[0]} channels")
    diagonal = np.diag(_short(_full(1.0 if weight is None else weight, shape[:1])))
    if len(shape) == 1:
        return [_linear(diagonal, bias)]
    ones = (1,) * (len(shape) - 1)
    kernel = diagonal.reshape(*diagonal.shape, *ones)
    return _convolution(kernel, ones, (0,) * len(ones), ones, shape[1:], shape[1:], bias)


def _linear(weight: np.ndarray, bias: np.ndarray | None) -> Node:
    if bias is None:
        return {"type": "Linear", "weight": _weights(weight)}
    return {"type": "Affine", "weight": _weights(weight), "bias": _weights(bias)}


def _uneven(taps: Taps, shape: Shape, out: Shape, notes: list[str]) -> list[Node]:
    """A channel-wise map whose windows differ, which no NIR pool says."""
    channels, sources, targets = shape[0], positions(shape), positions(out)
    _fits(channels**2 * sources * targets, f"a pool of uneven windows from {shape} to {out}")
    matrix = np.zeros((channels, targets, channels, sources))
    for channel in range(channels):
        np.add.at(matrix[channel, :, channel], (taps.target, taps.source), taps.coefficient)
    return _matrix(_short(matrix.reshape(channels * targets, channels * sources)), shape, out, None, notes)


def _matrix(matrix: np.ndarray, shape: Shape, out: Shape, bias: np.ndarray | None, notes: list[str]) -> list[Node]:
    """Any linear map (units of out, units of shape); a grid is reached by convolving the source as a 1x1 image."""
    steps = _flatten(shape)
    if len(out) == 1:
        return [*steps, _linear(matrix, bias)]
    units = math.prod(shape)
    for ones in range(len(out) - 1):  # keeps the leading dimensions and merges the none that follow: appends a 1
        vector = np.array((units,) + (1,) * ones)
        steps.append({"type": "Flatten", "input_type": vector, "start_dim": ones + 1, "end_dim": -1})
    notes.append("a vector becomes a grid through Flatten nodes that append dimensions of size 1")
    kernel = matrix.reshape(*out, units)[(slice(None), *(slice(None, None, -1),) * (len(out) - 1))]
    kernel = np.moveaxis(kernel, -1, 1)
    ones_ = (1,) * (len(out) - 1)
    return [*steps, *_convolution(kernel, ones_, tuple(n - 1 for n in out[1:]), ones_, ones_, out[1:], bias)]


def _fits(size: int, what: str) -> None:
    if size > LARGEST:
        raise ValueError(f"{what} needs {size} numbers, at most {LARGEST} are written")


def _scaled(weight: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    return weight if scale is None else weight * scale.reshape(-1, *(1,) * (weight.ndim - 1))


def _weights(weight: np.ndarray) -> np.ndarray:
    """float32 or float64, whichever holds the numbers."""
    return weight if weight.dtype in (np.float32, np.float64) else _short(weight.astype(np.float64))


def _ungrouped(weight: np.ndarray, groups: int) -> np.ndarray:
    """The weights of one group that do the same: block-diagonal. nir takes (C_in / groups) for the input's channels."""
    if groups == 1:
        return weight
    out, inside = weight.shape[0] // groups, weight.shape[1]
    _fits(weight.size * groups, f"a convolution of {groups} groups, without groups,")
    whole = np.zeros((weight.shape[0], inside * groups, *weight.shape[2:]), weight.dtype)
    for g in range(groups):
        whole[g * out : (g + 1) * out, g * inside : (g + 1) * inside] = weight[g * out : (g + 1) * out]
    return whole


# ----------------------------------------------------------------------------------------------------- convolutions


def _convolution(
    weight: np.ndarray,
    stride: Shape,
    before: Shape,
    dilation: Shape,
    size: Shape,
    out: Shape,
    bias: np.ndarray | None = None,
) -> list[Node]:
    """Nodes that convolve with ungrouped weights, `before` silent positions in front, to an output of size `out`.

    A NIR reader pads both sides alike, and nir takes the kernel for square. So the kernel is embedded in a square one
    with zeros. Where the output's sides want kernels of different parity, it is made larger by one row and two columns,
    which a second convolution, dilated by (1, 2), crops.
    """
    weight = _weights(weight)
    found = _embedded(weight.shape[2:], stride, before, dilation, size, out)
    if found is None:  # without dilation every distance from the kernel to the padding can be had
        kernel = tuple(d * (k - 1) + 1 for d, k in zip(dilation, weight.shape[2:]))
        spread = np.zeros((*weight.shape[:2], *kernel), weight.dtype)
        spread[(slice(None), slice(None), *(slice(None, None, d) for d in dilation))] = weight
        weight, dilation = spread, (1,) * len(dilation)
        found = _embedded(weight.shape[2:], stride, before, dilation, size, out)
    crop: list[Node] = []
    if found is None:
        larger = (out[0] + 1, out[1] + 2)
        channels = weight.shape[0]
        _fits(4 * channels**2, f"cropping {channels} channels")
        corner = np.zeros((channels, channels, 2, 2), np.float32)
        corner[:, :, 0, 0] = np.eye(channels)
        crop = [_conv_node(corner, (1, 1), (0, 0), (1, 2), larger, None)]
        found = _embedded(weight.shape[2:], stride, before, dilation, size, larger)
        assert found is not None, "one parity too many"
    zeros, padding = found
    if any(a or b for a, b in zeros):
        _fits(math.prod(weight.shape[:2]) * (weight.shape[2] + sum(zeros[0])) ** len(zeros), "a kernel made square")
        weight = np.pad(weight, ((0, 0), (0, 0), *zeros))
    return [_conv_node(weight, stride, padding, dilation, size, bias), *crop]


def _embedded(
    kernel: Shape, stride: Shape, before: Shape, dilation: Shape, size: Shape, out: Shape
) -> tuple[tuple[tuple[int, int], ...], Shape] | None:
    """Zeros around the kernel and the padding that give `out` with one side for all axes; None if there are none."""
    rows = list(zip(kernel, stride, before, dilation, size, out))
    longest = max(kernel)
    # beyond this side, zeros in front (m) and behind only grow together and reach no other size
    reach = max(abs(n + 2 * a - d * (k - 1) - 1 - s * (m - 1)) // d + s + 2 for k, s, a, d, n, m in rows)
    for side in range(longest, longest + reach + 1):
        found = [_axis(side, *row) for row in rows]
        if all(found):
            return tuple(f[0] for f in found if f), tuple(f[1] for f in found if f)
    return None


def _axis(side: int, k: int, s: int, a: int, d: int, n: int, m: int) -> tuple[tuple[int, int], int] | None:
    """Zeros in front of and behind k taps, to `side` taps, and the padding on either side."""
    for front in range(side - k + 1):
        padding = a + d * front
        left = n + 2 * padding - d * (side - 1) - 1 - s * (m - 1)
        if 0 <= left < s:
            return (front, side - k - front), padding
    return None


def _conv_node(
    weight: np.ndarray, stride: Shape, padding: Shape, dilation: Shape, size: Shape, bias: np.ndarray | None
) -> Node:
    bias = np.zeros(weight.shape[0], weight.dtype) if bias is None else _weights(bias)
    node = {"weight": np.ascontiguousarray(weight), "bias": bias, "groups": 1}
    if len(size) == 1:
        one = {"stride": int(stride[0]), "padding": int(padding[0]), "dilation": int(dilation[0])}
        return {"type": "Conv1d", "input_shape": int(size[0]), **one, **node}
    two = {"stride": np.array(stride), "padding": np.array(padding), "dilation": np.array(dilation)}
    return {"type": "Conv2d", "input_shape": np.array(size), **two, **node}


# ----------------------------------------------------------------------------------------------------- faithfulness


def faithful(network: Network, lowering: Lowering | None = None) -> list[str]:
    """Why another reader of the NIR nodes would not run this network; empty when the nodes say all there is.

    NIR's own meaning is taken for granted: a spike when v > v_threshold, then v = v_reset; v = 0 at first; inputs are
    events; one time unit is one tick. lowering: that of the network, where it is at hand.
    """
    found: dict[str, list[str]] = {}

    def note(reason: str, name: str) -> None:
        found.setdefault(reason, []).append(name)

    if network.encoding != "events":
        note(f"NIR does not say that the input is encoded as {network.encoding!r}", network.input.name)
    for p in network.populations:
        if isinstance(p.neuron, IF):
            for reason in _unsaid(p.neuron):
                note(reason, p.name)
    for c in network.connections:
        for name in ("scale", "shift"):
            table = getattr(c, name)
            if table is not None and np.any(table != table[:1]):
                note(f"NIR has no {name} that changes from tick to tick; the nodes hold that of tick 0", c.label)
    try:
        for text in (lowering or lower(network)).notes:
            note(*text.split(": ", 1))
    except ValueError as error:
        found[str(error)] = []
    return [f"{reason}: {_listed(names)}" if names else reason for reason, names in found.items()]


def _unsaid(neuron: IF) -> list[str]:
    """What NIR's neuron nodes do not say about this one."""
    reasons = []
    if neuron.comparator != "gt":
        reasons.append("fires at u >= threshold, NIR at u > threshold")
    if neuron.reset != "value":
        does = "is not reset" if neuron.reset == "none" else "is reset by subtraction"
        reasons.append(f"{does}, in NIR to a value")
    if np.any(np.asarray(neuron.v0) != 0):
        reasons.append("starts at another potential than 0")
    if neuron.v_min is not None:
        reasons.append("has a lower bound of the potential")
    if neuron.refractory:
        reasons.append("has a refractory time")
    if neuron.multi_spike:
        reasons.append("may spike several times in a tick")
    if neuron.reset_delay:
        reasons.append("is reset one tick late")
    if isinstance(neuron, LIF) and np.any(np.asarray(neuron.alpha) != 1):
        kept = "1 - 1/tau" if neuron.alpha_from == "euler" else "exp(-1/tau)"
        reasons.append(f"leaks: tau is written for a decay of {kept} in a tick, and readers differ in how they decay")
    return reasons


def _listed(names: list[str], most: int = 4) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def export_nir(network: Network, path: str | Path, lossy: bool = False) -> None:
    """Write the network as a plain NIR file, for other tools.

    Raises ValueError, with the reasons, when another reader would run it differently and `lossy` is not set.
    """
    reasons = faithful(network)
    if reasons and not lossy:
        raise ValueError(
            f"{path}: NIR cannot say everything about this network ({'; '.join(reasons)}); "
            "set lossy (--lossy) to write what it can say"
        )
    check_names(network)
    lowering = lower(network)
    with hdf5.written(path) as file:
        hdf5.write_tree(file, {"version": NIR_VERSION, "node": lowering.tree()})


def check_names(network: Network) -> None:
    """Raise ValueError for a population whose name cannot be an HDF5 group."""
    for p in network.populations:
        try:
            p.name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"population name {p.name!r}: wanted a name that can be written as UTF-8") from None
        if "\0" in p.name:
            raise ValueError(f"population name {p.name!r}: wanted a name without NUL characters")
