"""A network written in the vocabulary of NIR, the Neuromorphic Intermediate Representation.

NIR nodes are linear maps and neurons in continuous time; its graph adds what several edges bring to a node. `lower`
says in these terms everything about a `Network` that they can say, one tick being one NIR time unit, or dt of them in a
network that came from a NIR file with that dt; `faithful` lists what they cannot, so that another reader would run a
different network. Shapes are chosen such that `nir.read` of nir 1.0.8 opens every lowering with its type checks, which
compute the output of a convolution from one side of the kernel and know no groups, no one-sided padding and no ceil
mode.

| in the network | in NIR |
|---|---|
| residual | two edges; two bare edges between the same nodes: one, through a `Scale` of 2 |
| relay | nothing: its arrivals meet at the node behind it |
| option-A shortcut (`Subsample`) | 1x1 `Conv2d` with stride and 0/1 weights |
| grouped convolution | one group, block-diagonal weights |
| oblong kernel, one-sided padding | a square kernel with zeros around; where parities differ, a second one that crops |
| pools | `AvgPool2d`, `SumPool2d` and `Scale`; in ceil mode, dilated, or of one dimension: a convolution of ones |
| max-pool, AND, IAND (`Gate`) | `SumPool2d` or weights of 1 and -1, then `Threshold` |
| sparse synapses, uneven adaptive pool | the dense matrix, as `Linear` or as a convolution of the flattened source |
| one weight for each unit | `Scale` |
| bias of a whole grid | `Affine` with one identity matrix for each row |
| summed readout | the sum at `Output` |
| delay | `Delay` in front of the weights |
| delay by synapse | one for each source unit, or behind the weights for each target unit; else left out |
| LIF, LI | alpha = exp(-1/tau), or 1 - 1/tau if it came by Euler; r = gain / (1 - alpha): a spike lasts a tick |
| LIF with alpha 0 | `Threshold` |
| CubaLIF, CubaLI | likewise; w_in = gain_syn / (1 - alpha_syn), r = (gain + gain_old) / (1 - alpha) |
| tau, input_rate, tau_syn, syn_rate | if given: tau, r = input_rate tau, tau_syn, w_in = syn_rate tau_syn |
| CubaLIF without a leak (alpha 1) | tau_mem beyond any run |
| two receptors | the constants of the first, for both |
| per-tick tables | constant ones exactly, others as they are in tick 0 |
| comparator "ge", reset by subtraction or none or late, refractory time (with or without end), hold | left out |
| v0, i0, v_min, several spikes in a tick | left out |

A network that came from a NIR file goes back as it came where it says the same: a cycle that was given a tick because
it had no `Delay` is written without one, an `I` with its r, a bias of zeros as `Affine`, a `Delay` behind the weights,
and nodes keep their names where their number and types are the file's. A `Scale` that was multiplied into weights stays
there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eventsnn import hdf5
from eventsnn.import_nir import held
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
    Sparse,
    Subsample,
    Taps,
    positions,
)
from eventsnn.neurons import IF, LI, LIF, CubaLI, CubaLIF, Gate, Input, Relay

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
    spelling = _Spelling(network)
    reached = _reached(network)
    relays = {p.name for p in network.populations if isinstance(p.neuron, Relay)}
    relays &= {c.source for c in network.connections}  # one that nobody listens to becomes a node of its own
    nodes: dict[str, Node] = {p.name: _population(p, spelling) for p in network.populations if p.name not in relays}
    out = network[network.output]
    node_of = {p.name: p.name for p in network.populations}
    summed = network.readout == "sum" and spelling.r is None
    if summed:
        nodes[out.name] = {"type": "Output", "shape": np.array(out.shape)}
    elif network.readout == "sum":
        nodes[out.name] = {"type": "I", "r": _short(_full(spelling.r, out.shape))}

    counts: dict[tuple[str, str], int] = {}
    notes: list[str] = []
    chains: dict[str, list[str]] = {}
    for c in network.connections:
        shape, target = network[c.source].shape, network[c.target].shape
        if c.target == out.name and spelling.r is not None:
            c = spelling.without_r(c)
        try:
            steps, stumbling = _steps(c, shape, target, c.source in reached, spelling)
        except ValueError as error:
            raise ValueError(f"connection {c.label!r} cannot be written as NIR: {error}") from None
        wanted = [f"{c.source}_{c.target}_{step['type'].lower()}" for step in steps]
        path = spelling.nodes.get(c.label, [])
        if [step["type"] for step in steps] == [kind for kind, _ in path] and all(_can_be_named(n) for _, n in path):
            wanted = [name for _, name in path]
        chains[c.label] = [names.new(name) for name in wanted]
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
    if not summed:
        sink = names.new(spelling.output if _can_be_named(spelling.output) else "output")
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


class _Spelling:
    """How a NIR file spelled what a network from it says, by what `from_nir` left in its `origin`.

    dt: NIR time units per tick. unit: seconds of a NIR time unit, None where a tick has no length. nodes: of a
    connection, by its label: (type, name) of the linear nodes. closing: labels of connections with a tick that closes a
    cycle. output: name of the output node. r: of the `I` node before it, None for none.
    """

    def __init__(self, network: Network) -> None:
        origin = network.origin if network.origin.get("format") == "NIR" else {}
        try:
            self.dt = float(origin.get("dt", 1.0))
            said = dict(origin.get("spelling", {}))
            self.nodes = {str(c): [(str(kind), str(name)) for kind, name in p] for c, p in said["nodes"].items()}
            self.closing, self.output = set(map(str, said["closing"])), str(said["output"])
            r = None if said.get("r") is None else np.asarray(said["r"], np.float64)
        except (TypeError, ValueError, KeyError, AttributeError):  # a network of our own, or edited
            self.dt, self.nodes, self.closing, self.output, r = 1.0, {}, set(), "output", None
        if not 0 < self.dt < math.inf:
            self.dt = 1.0
        self.unit = None if network.tick_seconds is None else network.tick_seconds / self.dt
        out = network[network.output]
        into = [c for c in network.connections if c.target == out.name]
        fits = r is not None and r.shape in ((), out.shape[:1]) and np.all(np.isfinite(r) & (r != 0))
        self.r = r if fits and network.readout == "sum" and not any(c.after for c in into) else None

    def types(self, c: Connection) -> list[str]:
        return [kind for kind, _ in self.nodes.get(c.label, [])]

    def without_r(self, c: Connection) -> Connection:
        """A connection into the `I` node with the weights in front of it: r dt, what a tick makes of r, is in ours."""
        assert self.r is not None
        gain, op = self.r * self.dt, c.op
        rows = gain if gain.ndim == 0 or isinstance(op, Identity) else gain.reshape(-1, *(1,) * (op.weight.ndim - 1))
        if isinstance(op, Sparse) and gain.ndim:
            rows = np.repeat(gain, positions(op.shape))[op.target]
        weight = np.asarray(op.weight) / rows
        weight = weight.astype(np.result_type(np.asarray(op.weight), np.float32))
        bias = None if c.bias is None else c.bias / _full(gain, c.bias.shape)
        return replace(c, op=replace(op, weight=weight), bias=bias)


def _can_be_named(name: str) -> bool:
    """Whether an HDF5 group can be called that."""
    return name.isprintable() and "/" not in name and name not in ("", ".", "..")


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


def _population(p: Population, spelling: _Spelling) -> Node:
    neuron = p.neuron
    if isinstance(neuron, Input):
        return {"type": "Input", "shape": np.array(p.shape)}
    if isinstance(neuron, Relay):
        return {"type": "Scale", "scale": np.ones(p.shape, np.float32)}
    if isinstance(neuron, Gate):
        return {"type": "Threshold", "threshold": np.full(p.shape, neuron.level, np.float32)}
    node: Node = {}
    if isinstance(neuron, IF):
        node = {
            "v_threshold": _short(_full(neuron.threshold, p.shape)),
            "v_reset": _short(_full(neuron.reset_value if neuron.reset == "value" else 0.0, p.shape)),
        }
        if _steps_only(neuron):
            return {"type": "Threshold", "threshold": node["v_threshold"]}
    elif not isinstance(neuron, LI):
        return {"type": "I", "r": np.ones(p.shape, np.float32)}
    unit, dt = spelling.unit, spelling.dt
    rate = None if unit is None or neuron.input_rate is None else _full(neuron.input_rate, p.shape) * unit
    gain = _full(neuron.gain, p.shape)
    alpha = _full(getattr(neuron, "alpha", 1.0), p.shape)
    if not isinstance(neuron, LIF | LI) or (type(neuron) is LIF and np.all(alpha == 1)):
        return {"type": "IF", "r": _short(gain / dt if rate is None else rate), **node}

    tau, kept = _time_constant(alpha, neuron, neuron.tau, spelling)
    node["v_leak"] = _short(_full(neuron.rest, p.shape))
    if not isinstance(neuron, CubaLIF | CubaLI):
        kind = "LIF" if isinstance(neuron, LIF) else "LI"
        r = gain / (1 - kept) if rate is None else rate * tau
        return {"type": kind, "tau": _short(tau), "r": _short(r), **node}
    current = neuron.current(0)
    tau_syn, kept_syn = _time_constant(_full(current.alpha_syn, p.shape), neuron, current.tau_syn, spelling)
    gain = gain + _full(current.gain_old, p.shape)
    r = gain / (1 - kept) if rate is None else rate * tau
    w_in = _full(current.gain_syn, p.shape) / (1 - kept_syn)
    if unit is not None and current.syn_rate is not None:
        w_in = _full(current.syn_rate, p.shape) * unit * tau_syn
    node |= {"tau_mem": _short(tau), "tau_syn": _short(tau_syn), "r": _short(r), "w_in": _short(w_in)}
    return {"type": type(neuron).__name__, **node}


def _steps_only(neuron: IF) -> bool:
    """Whether nothing is left of the membrane after a tick, so that it is a step function of what arrives."""
    return (
        type(neuron) is LIF
        and neuron.leak == "before"
        and all(
            np.all(np.asarray(getattr(neuron, name)) == value)
            for name, value in (("alpha", 0), ("rest", 0), ("gain", 1))
        )
    )


def _time_constant(
    alpha: np.ndarray, neuron: LIF | LI, seconds: Any, spelling: _Spelling
) -> tuple[np.ndarray, np.ndarray]:
    """A time constant in NIR's unit, from seconds where they are given, and alpha such that both make sense."""
    # tau must be positive and finite: alpha 0 has its Euler form, alpha 1 a time constant beyond any run
    alpha = np.minimum(alpha, 1 - 2.0**-40)
    if seconds is not None and spelling.unit is not None:
        return _full(seconds, alpha.shape) / spelling.unit, alpha
    euler = (alpha == 0) | (neuron.alpha_from == "euler")
    return spelling.dt * np.where(euler, 1 / (1 - alpha), -1 / np.log(np.where(euler, 0.5, alpha))), alpha


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


def _steps(
    c: Connection, shape: Shape, target: Shape, typed: bool, spelling: _Spelling
) -> tuple[list[Node], list[str]]:
    """The nodes a connection becomes, in order, and notes on them. typed: whether `nir.read` will know the shapes."""
    steps: list[Node] = []
    notes: list[str] = []
    types = spelling.types(c)
    shapes = c.shapes(shape)
    here, after_op = shapes[len(c.before)], shapes[len(c.before) + 1]
    first, early, late = _delays(c, here, after_op, spelling, notes)
    if first and types[-1:] == ["Delay"] and c.bias is None and not c.after:
        first, late = 0.0, np.full(after_op, first)
    scale = None if c.scale is None else c.scale[0]
    bias = c.bias if c.shift is None else c.shift[0]
    if bias is not None and not np.any(bias):
        bias = None
    if bias is None and "Affine" in types and isinstance(c.op, Dense) and late is None and not c.after:
        bias = np.zeros(target[0], np.float32)
    if bias is not None and bias.shape == target and len(target) > 1:
        flat = bias.reshape(target[0], -1)
        bias = flat[:, 0] if np.all(flat == flat[:, :1]) else bias

    steps += _delay(None if first == 0 else np.full(shape, first), spelling)
    for map_, size in zip(c.before, shapes):
        steps += _map(map_, size, typed, types, notes)
    steps += _delay(early, spelling)
    if not c.after and late is None:  # a scale and a bias of the channels fit into the operation
        op_bias = bias if bias is not None and bias.ndim == 1 else None
        steps += _operation(c.op, here, after_op, scale, op_bias, notes)
        scale, bias = None, None if op_bias is not None else bias
    else:
        steps += _operation(c.op, here, after_op, None, None, notes)
    steps += _delay(late, spelling)
    for map_, size in zip(c.after, shapes[len(c.before) + 1 :]):
        steps += _map(map_, size, typed, types, notes)
    if scale is not None and np.any(scale != 1):
        steps.append({"type": "Scale", "scale": _short(_full(scale, target))})
    if bias is not None:
        steps += _identity(target, None, bias)
        if bias.ndim > 1:
            notes.append("a bias for each position is an Affine of more than one dimension, which few readers know")
    return steps, notes


def _delay(ticks: np.ndarray | None, spelling: _Spelling) -> list[Node]:
    return [] if ticks is None else [{"type": "Delay", "delay": _short(ticks * spelling.dt)}]


def _delays(
    c: Connection, shape: Shape, out: Shape, spelling: _Spelling, notes: list[str]
) -> tuple[float, np.ndarray | None, np.ndarray | None]:
    """Ticks of a connection: for all its events; or by unit in front of its operation; or by unit behind it."""
    ticks, unit = float(c.delay), spelling.unit
    if c.delay_seconds is not None and (unit is None or not math.isclose(c.delay_seconds, ticks * unit * spelling.dt)):
        notes.append("its delay in continuous time is not that in ticks, which the nodes have")
    if c.label in spelling.closing and ticks == 1:
        ticks = 0.0
        notes.append("closes a cycle without a Delay; readers differ in when its events arrive")
    if not isinstance(c.op, Sparse) or c.op.delay is None or not c.op.delay.size:
        return ticks, None, None
    own = np.asarray(c.op.delay, np.float64)
    if np.all(own == own[0]):
        return ticks + float(own[0]), None, None
    source = np.repeat(np.arange(math.prod(shape)), np.diff(c.op.indptr))
    found: list[np.ndarray | None] = [None, None]
    for side, (units, size) in enumerate(((source, shape), (c.op.target, out))):
        by_unit = np.zeros(math.prod(size))
        by_unit[units] = own
        if np.array_equal(by_unit[units], own):
            found[side] = by_unit.reshape(size) + ticks
            return 0.0, found[0], found[1]
    notes.append("its delays differ from synapse to synapse, and the nodes leave them out")
    return ticks, None, None


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
    units = np.arange(math.prod(shape))
    if out == shape and np.array_equal(op.indptr[1:] - 1, units) and np.array_equal(op.target, units):
        weight = _full(op.weight.reshape(shape), shape) * (1.0 if scale is None else _full(scale, shape))
        diagonal: list[Node] = [] if np.all(weight == 1) else [{"type": "Scale", "scale": _short(weight)}]
        return diagonal + ([] if bias is None else _identity(shape, None, bias))
    _fits(math.prod(out) * math.prod(shape), f"its {op.weight.size} synapses as a dense matrix")
    matrix = np.zeros((math.prod(out), math.prod(shape)), np.result_type(op.weight.dtype, np.float32))
    source = np.repeat(np.arange(math.prod(shape)), np.diff(op.indptr))
    np.add.at(matrix, (op.target, source), op.weight)
    matrix *= 1 if scale is None else np.repeat(scale, positions(out))[:, None].astype(matrix.dtype)
    return _matrix(matrix, shape, out, bias, notes)


def _map(map_: AddressMap, shape: Shape, typed: bool, types: list[str], notes: list[str]) -> list[Node]:
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
        # of a padded average NIR does not say what it divides by; a sum and a Scale do
        if (not any(map_.padding) or "AvgPool2d" in types) and np.all(coefficient == 1 / math.prod(map_.kernel)):
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

    NIR's own meaning is taken for granted: a spike when v > v_threshold, then v = v_reset; v = 0 and no current at
    first; inputs are events, each a current that lasts for a tick; one time unit is one tick, or dt as in the NIR file
    that the network came from. lowering: that of the network, where it is at hand.
    """
    found: dict[str, list[str]] = {}
    dt = _Spelling(network).dt

    def note(reason: str, name: str) -> None:
        found.setdefault(reason, []).append(name)

    if network.encoding != "events":
        note(f"NIR does not say that the input is encoded as {network.encoding!r}", network.input.name)
    for p in network.populations:
        for reason in _unsaid(p, dt):
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


def _unsaid(p: Population, dt: float) -> list[str]:
    """What NIR's neuron nodes do not say about these."""
    neuron = p.neuron
    reasons = []
    if isinstance(neuron, IF):
        if neuron.comparator != "gt":
            reasons.append("fires at u >= threshold, NIR at u > threshold")
        if _steps_only(neuron):  # it has no state
            return [*reasons, "may spike several times in a tick"] if neuron.multi_spike else reasons
        if neuron.reset != "value":
            does = "is not reset" if neuron.reset == "none" else "is reset by subtraction"
            reasons.append(f"{does}, in NIR to a value")
        if neuron.v_min is not None:
            reasons.append("has a lower bound of the potential")
        if neuron.refractory:
            reasons.append("fires once, then never again" if neuron.refractory == math.inf else "has a refractory time")
        if neuron.hold:
            reasons.append("has its membrane held while it is refractory")
        if neuron.multi_spike:
            reasons.append("may spike several times in a tick")
        if neuron.reset_delay:
            reasons.append("is reset one tick late")
    if isinstance(neuron, IF | LI) and np.any(np.asarray(neuron.v0) != 0):
        reasons.append("starts at another potential than 0")
    if isinstance(neuron, CubaLIF | CubaLI):
        reasons += _unsaid_currents(p)
    if isinstance(neuron, LIF | LI) and (type(neuron) is not LIF or np.any(np.asarray(neuron.alpha) != 1)):
        kept = f"1 - {dt:g}/tau" if neuron.alpha_from == "euler" else f"exp(-{dt:g}/tau)"
        reasons.append(f"leaks: tau is written for a decay of {kept} in a tick, and readers differ in how they decay")
    return reasons


def _unsaid_currents(p: Population) -> list[str]:
    """What NIR's nodes do not say about synaptic currents."""
    neuron = p.neuron
    assert isinstance(neuron, CubaLIF | CubaLI)
    reasons, current = [], neuron.current(0)
    if neuron.receptors > 1:
        reasons.append("has two synaptic currents; the node has the constants of the first for both")
    if any(np.any(np.asarray(neuron.current(k).i0) != 0) for k in range(neuron.receptors)):
        reasons.append("starts with another current than 0")
    if np.any(np.asarray(neuron.alpha) == 1):
        reasons.append("does not leak; the node's tau_mem is beyond any run")
    new, old, alpha, alpha_syn = (
        _full(v, p.shape) for v in (neuron.gain, current.gain_old, neuron.alpha, current.alpha_syn)
    )
    # an Euler step moves the membrane by the new current alone; the exact solution for a constant input shares
    share = np.ones(p.shape)
    if neuron.alpha_from != "euler":
        alpha, alpha_syn = (np.clip(v, 1e-9, 1 - 2.0**-40) for v in (alpha, alpha_syn))
        kept, driven = held(-np.log(alpha), -np.log(alpha_syn))
        share = driven / (1 - alpha_syn) / (kept + driven)
    if not np.allclose(new, share * (new + old), rtol=1e-9):
        reasons.append("takes other parts of the new and the old current than NIR's equations do in a tick")
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
