"""Networks from NIR files of other tools, read with h5py alone.

NIR says the weights and the graph; it leaves open how a neuron compares and resets, how long a tick is, and how a spike
enters the membrane. A profile says so, by the habits of one tool (`neurons.preset` has its comparator and reset)::

    profile       dt     decay in a tick   a spike w moves an IF by   and an LIF by
    nir           1      exp(-dt/tau)      r dt w                     r (1 - exp(-dt/tau)) w
    sinabs        1      exp(-dt/tau)      w                          w
    snntorch      1e-4   1 - dt/tau        w (r must be 1)            r dt/tau w
    norse         1e-3   1 - dt/tau        w                          dt/tau w
    spikingjelly  1e-4   1 - dt/tau        r dt w                     r dt/tau w
    snncutoff     1      exp(-dt/tau)      w                          w
    lava          1e-4   1 - dt/tau        w (r must be 1)            dt/tau w

dt is in NIR's time unit, seconds where a tool says so. The file's v_reset is used by nir and spikingjelly; the others
reset to 0 or by subtraction. (From the tools' own importers, except snncutoff, which has none. snnTorch's importer
resets to 0, unlike snnTorch's own neurons, whose habits are meant here.)

Between two neurons the linear nodes become one connection: maps, one weight operation, maps; a scale is multiplied
into the weights. Where two weight operations follow each other, or several signals meet before one, a `Relay` is put.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eventsnn import hdf5
from eventsnn.network import (
    AddressMap,
    Connection,
    Conv,
    Dense,
    Flatten,
    Identity,
    Network,
    Operation,
    Pool,
    Population,
    Shape,
    Sparse,
    positions,
)
from eventsnn.neurons import IF, LIF, Gate, Input, Integrator, Neuron, Parameter, Relay, preset


class Profile(NamedTuple):
    """What a tool adds to a NIR file.

    dt: NIR time units per tick. seconds: whether that unit is the second. decay: "exp" or "euler". spike: "pulse" (a
    current held for one tick) or "impulse" (the weight is added as it is). if_r: the resistance of an IF is "scaled" by
    dt, "dropped", or must be "one". lif_r, v_reset, v_leak: whether the tool heeds that field; a v_leak that it does
    not heed must be 0.
    """

    dt: float
    seconds: bool
    decay: str
    spike: str
    if_r: str
    lif_r: bool
    v_reset: bool
    v_leak: bool


PROFILES = {
    "nir": Profile(1.0, False, "exp", "pulse", "scaled", True, True, True),
    "sinabs": Profile(1.0, False, "exp", "impulse", "dropped", False, False, False),
    "snntorch": Profile(1e-4, True, "euler", "pulse", "one", True, False, False),
    "norse": Profile(1e-3, True, "euler", "pulse", "dropped", False, False, True),
    "spikingjelly": Profile(1e-4, True, "euler", "pulse", "scaled", True, True, True),
    "snncutoff": Profile(1.0, False, "exp", "impulse", "dropped", False, False, True),
    "lava": Profile(1e-4, True, "euler", "pulse", "one", False, False, False),
}

WEIGHTS = ("Affine", "Linear", "Conv1d", "Conv2d")
LINEAR = (*WEIGHTS, "Scale", "SumPool2d", "AvgPool2d", "Flatten", "Delay", "Pass")
STATEFUL = ("IF", "LIF", "I", "Threshold")
LATER = ("LI", "CubaLI", "CubaLIF")

Edges = list[tuple[str, str]]


def from_nir(
    path: str | Path, assume: str | None = None, *, dt: float | None = None, tick_seconds: float | None = None
) -> Network:
    """The network of a NIR file, fed with events (for images: `dataclasses.replace(network, encoding="direct")`).

    assume: the name of a profile. dt: NIR time units per tick; None for the profile's. tick_seconds: what a tick means
    in time; None for dt where NIR's time unit is the second (the profile says so, or dt was given), else unknown.

    Raises ValueError, in one sentence that names the file and the node, for what is not NIR or not supported.
    """
    with hdf5.opened(path) as file:
        try:
            if not hdf5.is_here(file, "node"):
                raise ValueError("HDF5, but neither a network of eventsnn (/eventsnn) nor NIR (/node)")
            tree = hdf5.read_tree(file)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    try:
        if assume is None:
            raise ValueError(
                "a NIR file, which does not say how its neurons compare, reset and keep time; "
                f"choose a profile: --assume {'|'.join(PROFILES)}"
            )
        if assume not in PROFILES:
            raise ValueError(f"there is no profile {assume!r} to assume; choose one of {', '.join(PROFILES)}")
        for name, value in (("dt", dt), ("tick_seconds", tick_seconds)):
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}, wanted a positive number")
        return _network(tree, Path(path).name, assume, dt, tick_seconds)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _network(tree: hdf5.Tree, file_name: str, assume: str, dt: float | None, tick_seconds: float | None) -> Network:
    profile = PROFILES[assume]
    if tick_seconds is None and (dt is not None or profile.seconds):
        tick_seconds = dt or profile.dt
    if dt is not None:
        profile = profile._replace(dt=dt)

    nodes, edges = _graph(tree["node"], "")
    walk = _Walk(nodes, edges, profile)
    walk.run()
    neurons = {name: _neuron(name, walk, assume, profile) for name in walk.shapes}
    return Network(
        populations=tuple(Population(name, shape, neurons[name]) for name, shape in walk.shapes.items()),
        connections=tuple(_connection(c, target) for c, target in walk.found),
        output=walk.output,
        encoding="events",
        tick_seconds=tick_seconds,
        origin={
            "format": "NIR",
            "version": str(tree.get("version", "unknown")),
            "file": file_name,
            "node_sha256": hdf5.tree_hash(tree["node"]),
            "assume": assume,
            "dt": profile.dt,
        },
    )


# -------------------------------------------------------------------------------------------------------- the graph


def _graph(graph: Any, above: str) -> tuple[dict[str, hdf5.Tree], Edges]:
    """Nodes and edges with the graphs inside the graph taken apart; their inputs and outputs become `Pass` nodes."""
    here = f"graph {above!r}" if above else "the NIR graph"
    kind = graph.get("type") if isinstance(graph, dict) else None
    if kind != "NIRGraph" or not isinstance(graph.get("nodes"), dict) or "edges" not in graph:
        raise ValueError(f"{here} is {f'a {kind}' if kind else 'not a node'}; wanted a NIRGraph with nodes and edges")
    pairs = np.asarray(graph["edges"])
    if pairs.size and (pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "OUS"):
        raise ValueError(f"the edges of {here} have shape {pairs.shape} and dtype {pairs.dtype}; wanted pairs of names")

    nodes: dict[str, hdf5.Tree] = {}
    edges: Edges = []
    entry: dict[str, str] = {}
    leave: dict[str, str] = {}
    for name, node in graph["nodes"].items():
        if not isinstance(node, dict) or not isinstance(node.get("type"), str):
            raise ValueError(f"node {above + name!r} has no type")
        full = above + name
        entry[name] = leave[name] = full
        if node["type"] != "NIRGraph":
            nodes[full] = node
            continue
        inner, inner_edges = _graph(node, f"{full}.")
        ends = {
            kind: [n for n in node["nodes"] if node["nodes"][n]["type"] == kind and f"{full}.{n}" in inner]
            for kind in ("Input", "Output")
        }
        for kind, found in ends.items():
            if len(found) != 1:
                raise ValueError(f"graph {full!r} has {len(found)} {kind} nodes; wanted exactly one in a nested graph")
            inner[f"{full}.{found[0]}"] = {"type": "Pass"}
        entry[name], leave[name] = f"{full}.{ends['Input'][0]}", f"{full}.{ends['Output'][0]}"
        for other in inner.keys() & nodes.keys():
            raise ValueError(f"two nodes are called {other!r} once nested graphs are taken apart; rename one")
        nodes |= inner
        edges += inner_edges
    for source, target in pairs.reshape(-1, 2):
        for end in (source, target):
            if end not in entry:
                raise ValueError(f"the edge from {source!r} to {target!r} names the node {end!r}, which is not there")
        edges.append((leave[source], entry[target]))
    return nodes, list(dict.fromkeys(edges))  # a duplicate edge is a slip of an exporter, not a second synapse


@dataclass(frozen=True)
class _Chain:
    """Linear nodes since a population, as far as they fit one connection; shape: of what comes out.

    scale: not yet part of an operation; a number, (C,), or of the shape. bias: (C,) or of the shape.
    """

    source: str
    shape: Shape
    delay: int = 0
    before: tuple[AddressMap, ...] = ()
    op: Operation | None = None
    after: tuple[AddressMap, ...] = ()
    scale: np.ndarray | None = None
    bias: np.ndarray | None = None


class _Walk:
    """Follows the graph from its input and collects populations (name -> shape) and the chains between them."""

    def __init__(self, nodes: dict[str, hdf5.Tree], edges: Edges, profile: Profile) -> None:
        self.nodes, self.profile = nodes, profile
        self.after: dict[str, list[str]] = {name: [] for name in nodes}
        self.into: dict[str, list[str]] = {name: [] for name in nodes}
        for source, target in edges:
            self.after[source].append(target)
            self.into[target].append(source)
        self.shapes: dict[str, Shape] = {}
        self.relays: set[str] = set()
        self.found: list[tuple[_Chain, str]] = []
        self.start, self.sink, self.output = self._ends()

    def type(self, name: str) -> str:
        return self.nodes[name]["type"]

    def _ends(self) -> tuple[str, str, str]:
        """Names of the input node, the output node, and the population that is read."""
        for name in self.nodes:
            kind = self.type(name)
            if kind in LATER:
                raise ValueError(f"node {name!r} is a {kind}, which is not supported yet; IF and LIF neurons are")
            if kind not in (*LINEAR, *STATEFUL, "Input", "Output"):
                raise ValueError(f"node {name!r} has the type {kind!r}, which is not a NIR node known here")
            if kind != "Input" and not self.into[name]:
                raise ValueError(f"node {name!r} ({kind}) has no incoming edge; nothing feeds it")
            if (kind == "Input" and self.into[name]) or (kind == "Output" and self.after[name]):
                raise ValueError(f"node {name!r} ({kind}) stands in the middle of the graph; wanted it at the end")
        inputs, outputs = ([n for n in self.nodes if self.type(n) == kind] for kind in ("Input", "Output"))
        for kind, found in (("Input", inputs), ("Output", outputs)):
            if len(found) != 1:
                raise ValueError(f"the graph has {len(found)} {kind} nodes ({', '.join(found)}); wanted exactly one")
        last = self.into[outputs[0]]
        for name in self.nodes:
            if self.type(name) == "I" and (last != [name] or self.after[name] != outputs):
                raise ValueError(
                    f"node {name!r} (I) is not the only one before the output; a potential is only read out"
                )
        alone = len(last) == 1 and self.type(last[0]) in STATEFUL
        return inputs[0], outputs[0], last[0] if alone else outputs[0]

    def run(self) -> None:
        shape = _shape(_field(self.nodes, self.start, "shape"), self.start)
        self.shapes[self.start] = shape
        waiting = deque((_Chain(self.start, shape), name) for name in self.after[self.start])
        while waiting:
            chain, name = waiting.popleft()
            waiting.extend(self._step(chain, name))
        for name in self.nodes:
            if self.type(name) in STATEFUL and name not in self.shapes:
                raise ValueError(f"node {name!r} ({self.type(name)}) cannot be reached from the input")
        if self.output not in self.shapes:
            raise ValueError(f"the output {self.output!r} cannot be reached from the input")

    def _step(self, chain: _Chain, name: str) -> list[tuple[_Chain, str]]:
        """Go on to the node `name`; what comes next."""
        kind = self.type(name)
        if name == self.sink and self.output != name:  # the population before it is read
            return []
        if kind in (*STATEFUL, "Output"):
            if kind == "I":
                gain = _resistance(self.nodes, name, chain.shape, self.profile)
                chain = self._fit(chain, name, lambda c: _times(c, gain))
            return [] if not self._arrive(chain, name) else self._go(_Chain(name, chain.shape), name)
        if len(self.into[name]) > 1:  # several signals meet before a linear node
            relay = f"{name}.sum"
            if not self._arrive(chain, relay, relay=True):
                return []
            chain = _Chain(relay, chain.shape)
        chain = self._fit(chain, name, lambda c: _append(c, name, self.nodes, self.profile, self.after[name]))
        if kind in WEIGHTS and len(self.after[name]) > 1:  # computed once, used by several
            relay = f"{name}.out"
            self._arrive(chain, relay, relay=True)
            chain = _Chain(relay, chain.shape)
        return self._go(chain, name)

    def _go(self, chain: _Chain, name: str) -> list[tuple[_Chain, str]]:
        return [(chain, target) for target in self.after[name]]

    def _arrive(self, chain: _Chain, target: str, relay: bool = False) -> bool:
        """End a chain in a population; whether that population is new."""
        self.found.append((chain, target))
        new = target not in self.shapes
        if new:
            if relay and target in self.nodes:
                raise ValueError(f"a node is called {target!r}, which is needed for a relay; rename it")
            self.shapes[target] = chain.shape
            self.relays |= {target} if relay else set()
        return new

    def _fit(self, chain: _Chain, name: str, extend: Any) -> _Chain:
        """The chain with one node more; when it does not fit, it ends in a relay and a new one begins there."""
        longer = extend(chain)
        if longer is None:
            relay, count = f"{name}.in", 1
            while relay in self.shapes or relay in self.nodes:
                count += 1
                relay = f"{name}.in{count}"
            self._arrive(chain, relay, relay=True)
            longer = extend(_Chain(relay, chain.shape))
        return longer


# ------------------------------------------------------------------------------------------------ nodes in a chain


def _append(
    chain: _Chain, name: str, nodes: dict[str, hdf5.Tree], profile: Profile, following: list[str]
) -> _Chain | None:
    """The chain with a linear node appended; None when they need a relay between them."""
    node = nodes[name]
    kind = node["type"]
    try:
        if kind == "Pass":
            return chain
        if kind == "Delay":
            ticks = _ticks(_field(nodes, name, "delay"), profile.dt)
            # a bias acts from tick 0 in the connection, behind a delay it does not
            return None if ticks and chain.bias is not None else replace(chain, delay=chain.delay + ticks)
        if kind == "Scale":
            return _times(chain, _spread(_numbers(nodes, name, "scale"), chain.shape))
        if kind == "Flatten":
            return _flattened(chain, node, [nodes[f] for f in following])
        if kind in ("SumPool2d", "AvgPool2d"):
            kernel, stride, padding = (
                _integers(_field(nodes, name, field), 2, field) for field in ("kernel_size", "stride", "padding")
            )
            return _pooled(chain, Pool(kernel, stride, padding, "sum" if kind == "SumPool2d" else "average"))
        weight = _numbers(nodes, name, "weight")
        bias = _numbers(nodes, name, "bias") if "bias" in node else None
        if kind in ("Affine", "Linear"):
            return _affine(chain, weight, bias)
        return _convolved(chain, node, weight, bias)
    except ValueError as error:
        raise ValueError(f"node {name!r} ({kind}): {error}") from None


def _flattened(chain: _Chain, node: hdf5.Tree, following: list[hdf5.Tree]) -> _Chain | None:
    dims = len(chain.shape)
    if dims == 1:
        return chain
    first, last = (int(np.asarray(node.get(k, d))) for k, d in (("start_dim", 0), ("end_dim", -1)))
    whole = first in (0, -dims) and last in (-1, dims - 1)
    if not whole:
        # torch counts the batch as dimension 0, NIR does not; some exporters forget
        wanted = {np.shape(n.get("weight", 0))[-1:] for n in following}
        whole = first == 1 and last in (-1, dims) and wanted == {(math.prod(chain.shape),)}
    if not whole:
        raise ValueError(f"flattens dimensions {first} to {last} of {chain.shape}; wanted all of them, 0 to -1")
    if chain.op is not None or chain.bias is not None:
        return None
    scale = None if chain.scale is None else _compact(_full(chain.scale, chain.shape).reshape(-1))
    return replace(chain, before=(*chain.before, Flatten()), shape=Flatten().out_shape(chain.shape), scale=scale)


def _pooled(chain: _Chain, pool: Pool) -> _Chain | None:
    out = pool.out_shape(chain.shape)
    if chain.op is None and chain.bias is None:
        if chain.scale is not None and chain.scale.ndim > 1:
            return None
        return replace(chain, before=(*chain.before, pool), shape=out)
    bias = chain.bias
    if bias is not None:
        taps = pool.taps(chain.shape)
        full = _full(bias, chain.shape).reshape(chain.shape[0], -1)
        pooled = np.zeros((positions(out), out[0]))
        np.add.at(pooled, taps.target, (taps.coefficient * full[:, taps.source]).T)
        bias = _compact(pooled.T.reshape(out), number=False).astype(bias.dtype)
    return replace(chain, op=chain.op or Identity(), after=(*chain.after, pool), shape=out, bias=bias)


def _affine(chain: _Chain, weight: np.ndarray, bias: np.ndarray | None) -> _Chain | None:
    if weight.ndim < 2:
        raise ValueError(f"weight has shape {weight.shape}; wanted (out, in)")
    if bias is not None and bias.shape != weight.shape[:-1]:
        raise ValueError(f"bias has shape {bias.shape}; wanted {weight.shape[:-1]}")
    if weight.ndim > 2:
        return _rows(chain, weight, bias)
    if chain.op is not None or chain.bias is not None:
        return None
    if math.prod(chain.shape) != weight.shape[1]:
        raise ValueError(f"weight has shape {weight.shape}, the source gives {chain.shape}")
    if len(chain.shape) > 1:
        chain = _flattened(chain, {}, []) or chain
    if chain.scale is not None:
        weight = (weight * chain.scale).astype(weight.dtype)
    return replace(chain, op=Dense(weight), shape=weight.shape[:1], scale=None, bias=bias)


def _rows(chain: _Chain, weight: np.ndarray, bias: np.ndarray | None) -> _Chain | None:
    """An Affine of more than one dimension: a matrix of its own for each row of the grid."""
    if chain.shape != (*weight.shape[:-2], weight.shape[-1]):
        raise ValueError(f"weight has shape {weight.shape}, the source gives {chain.shape}")
    if weight.shape[-1] == weight.shape[-2] and np.all(weight == np.eye(weight.shape[-1])):
        if bias is None or chain.bias is None:
            return replace(chain, op=_operation(chain), scale=None, bias=chain.bias if bias is None else bias)
        return replace(chain, bias=_compact(_full(chain.bias, chain.shape) + bias, number=False))
    if chain.op is not None or chain.bias is not None or chain.scale is not None:
        return None
    row, source, target = np.nonzero(np.moveaxis(weight, -1, -2).reshape(-1, weight.shape[-1], weight.shape[-2]))
    units = row * weight.shape[-1] + source  # ascending: one row of the CSR list after the other
    counts = np.bincount(units, minlength=math.prod(chain.shape))
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    values = weight.reshape(-1, *weight.shape[-2:])[row, target, source]
    op = Sparse(indptr, row * weight.shape[-2] + target, values, weight.shape[:-1])
    return replace(chain, op=op, shape=op.shape, bias=bias)


def _convolved(chain: _Chain, node: hdf5.Tree, weight: np.ndarray, bias: np.ndarray | None) -> _Chain | None:
    dims = int(node["type"][4])
    if weight.ndim != dims + 2 or len(chain.shape) != dims + 1:
        raise ValueError(f"weight has shape {weight.shape}, the source gives {chain.shape}")
    if chain.op is not None or chain.bias is not None or (chain.scale is not None and chain.scale.ndim > 1):
        return None
    stride, dilation = (_integers(node.get(k, 1), dims, k) for k in ("stride", "dilation"))
    declared = node.get("input_shape")
    if declared is not None and _integers(declared, dims, "input_shape") != chain.shape[1:]:
        raise ValueError(f"input_shape is {declared}, the source gives {chain.shape}")
    padding = _padding(node.get("padding", 0), stride, dilation, weight.shape[2:])
    (groups,) = _integers(node.get("groups", 1), 1, "groups")
    op = Conv(weight, stride, padding, dilation, groups)
    shape = op.out_shape(chain.shape)
    if bias is not None and bias.shape != shape[:1]:
        raise ValueError(f"bias has shape {bias.shape}; wanted {shape[:1]}")
    if chain.scale is not None:  # of the input's channels: each group has its own
        scale = _full(chain.scale, chain.shape[:1]).reshape(groups, 1, -1)
        parts = weight.reshape(groups, -1, weight.shape[1], math.prod(weight.shape[2:])) * scale[..., None]
        op = replace(op, weight=parts.reshape(weight.shape).astype(weight.dtype))
    return replace(chain, op=op, shape=shape, scale=None, bias=bias)


def _padding(value: Any, stride: Shape, dilation: Shape, kernel: Shape) -> tuple[tuple[int, int], ...]:
    if not isinstance(value, str):
        return tuple((p, p) for p in _integers(value, len(kernel), "padding"))
    if value == "valid":
        return ((0, 0),) * len(kernel)
    if value != "same" or set(stride) != {1}:
        raise ValueError(f"padding is {value!r} with stride {stride}; wanted numbers, 'valid', or 'same' with stride 1")
    both = [d * (k - 1) for d, k in zip(dilation, kernel)]
    return tuple((b // 2, b - b // 2) for b in both)


def _times(chain: _Chain, factor: np.ndarray) -> _Chain | None:
    """The chain with every unit multiplied; a factor for each position passes no convolution."""
    if np.all(factor == 1):
        return chain
    if chain.op is None and chain.bias is None:
        scale = factor if chain.scale is None else _full(chain.scale, chain.shape) * _full(factor, chain.shape)
        return replace(chain, scale=_compact(scale))
    if factor.ndim > 1:
        return None
    channels = _full(factor, chain.shape[:1])
    bias = chain.bias
    if bias is not None:
        bias = (bias * channels.reshape(-1, *(1,) * (bias.ndim - 1))).astype(bias.dtype)
    op = chain.op or Identity()
    if isinstance(op, Identity):
        changed: Operation = Identity(_number(_compact(op.weight * channels)))
    elif isinstance(op, Sparse):
        units = np.repeat(channels, positions(chain.shape))
        changed = replace(op, weight=(op.weight * units[op.target]).astype(op.weight.dtype))
    else:
        rows = channels.reshape(-1, *(1,) * (op.weight.ndim - 1))
        changed = replace(op, weight=(op.weight * rows).astype(op.weight.dtype))
    return replace(chain, op=changed, bias=bias)


def _operation(chain: _Chain) -> Operation:
    """The chain's weight operation, a pending scale included."""
    if chain.op is not None:
        return chain.op
    if chain.scale is None:
        return Identity()
    if chain.scale.ndim < 2:
        return Identity(_number(chain.scale))
    units = np.arange(math.prod(chain.shape) + 1, dtype=np.int64)
    return Sparse(units, units[:-1], chain.scale.reshape(-1), chain.shape)


def _connection(chain: _Chain, target: str) -> Connection:
    bias = chain.bias
    if bias is not None:
        bias = _compact(bias, number=False) if np.any(bias) else None
    return Connection(
        chain.source,
        target,
        op=_operation(chain),
        before=chain.before,
        after=chain.after,
        delay=chain.delay,
        bias=bias,
    )


# ---------------------------------------------------------------------------------------------------------- neurons


def _neuron(name: str, walk: _Walk, assume: str, profile: Profile) -> Neuron:
    if name in walk.relays:
        return Relay()
    kind, shape, nodes = walk.type(name), walk.shapes[name], walk.nodes
    if kind == "Input":
        return Input()
    if kind in ("Output", "I"):
        return Integrator()
    if kind == "Threshold":
        threshold = _parameter(nodes, name, "threshold", shape)
        if np.all(threshold == 0) and name != walk.output and _pools_spikes(name, walk, assume):
            return Gate()
        # without memory from tick to tick, an LIF is NIR's step function
        return LIF(threshold=_number(threshold), comparator="gt", reset="value", alpha=0.0)

    threshold = _parameter(nodes, name, "v_threshold", shape)
    changes: dict[str, Any] = {}
    habit = preset(assume)
    if habit.reset == "value" and profile.v_reset and "v_reset" in nodes[name]:
        changes["reset_value"] = _number(_parameter(nodes, name, "v_reset", shape))
    if kind == "IF":
        changes["gain"] = _number(_resistance(nodes, name, shape, profile))
        return _tidy(preset(assume, _number(threshold), **changes))

    tau = _parameter(nodes, name, "tau", shape)
    rest = _parameter(nodes, name, "v_leak", shape)
    r = _parameter(nodes, name, "r", shape)
    if not np.all(tau > 0):
        raise ValueError(f"node {name!r} (LIF): tau is {tau.min()}; wanted a positive time")
    if np.any(rest != 0) and not profile.v_leak:
        raise ValueError(f"node {name!r} (LIF): v_leak is not 0, and {assume} knows no leak potential")
    alpha = np.exp(-profile.dt / tau) if profile.decay == "exp" else 1 - profile.dt / tau
    if np.any(alpha < 1e-9 if profile.decay == "exp" else alpha < 0):  # else seconds were taken for ticks
        raise ValueError(
            f"node {name!r} (LIF): tau is {tau.min()}, and nothing of that is left after a tick of {profile.dt}; "
            "give the tick in the file's time unit (dt)"
        )
    gain = (r if profile.lif_r else np.ones(())) * (1 - alpha if profile.spike == "pulse" else 1.0)
    changes |= {"alpha": _number(alpha), "rest": _number(rest), "gain": _number(_compact(_full(gain, shape)))}
    if assume == "sinabs":
        changes["v_min"] = None  # it clamps its IF neurons only
    if assume == "snncutoff":
        changes["leak"] = "after"
    return _tidy(preset(assume, _number(threshold), alpha_from=profile.decay, **changes))


def _tidy(neuron: IF) -> IF:
    """Numpy's 0-d numbers as Python's."""
    return replace(neuron, v0=_number(neuron.v0), v_min=None if neuron.v_min is None else _number(neuron.v_min))


def _resistance(nodes: dict[str, hdf5.Tree], name: str, shape: Shape, profile: Profile) -> np.ndarray:
    """What an IF or I node multiplies its input with in a tick."""
    r = _parameter(nodes, name, "r", shape)
    if profile.if_r == "one" and np.any(r != 1):
        raise ValueError(f"node {name!r} ({nodes[name]['type']}): r is not 1, which this profile's tool does not know")
    return r * profile.dt if profile.if_r == "scaled" else np.ones(())


def _pools_spikes(name: str, walk: _Walk, assume: str) -> bool:
    """Whether only sums of binary events arrive, so that a threshold of 0 is a spiking max-pool."""
    for chain, target in walk.found:
        if target != name:
            continue
        if chain.op is not None or chain.scale is not None or chain.bias is not None or chain.source in walk.relays:
            return False
        if not all(isinstance(m, Pool) and m.kind == "sum" for m in chain.before):
            return False
        if walk.type(chain.source) in ("IF", "LIF") and preset(assume).multi_spike:
            return False
    return True


# ----------------------------------------------------------------------------------------------------------- fields


def _field(nodes: dict[str, hdf5.Tree], name: str, field: str) -> Any:
    if field not in nodes[name]:
        raise ValueError(f"node {name!r} ({nodes[name]['type']}) has no field {field!r}")
    return nodes[name][field]


def _numbers(nodes: dict[str, hdf5.Tree], name: str, field: str) -> np.ndarray:
    value = _field(nodes, name, field)
    if isinstance(value, str | dict) or np.asarray(value).dtype.kind not in "fiu":
        raise ValueError(f"field {field!r} holds no numbers")
    value = np.asarray(value)
    if not np.all(np.isfinite(value)):
        raise ValueError(f"field {field!r} holds NaN or infinity")
    return value


def _parameter(nodes: dict[str, hdf5.Tree], name: str, field: str, shape: Shape) -> np.ndarray:
    """A neuron's parameter, float64: 0-d, (channels,) or of the population's shape, whichever is enough.

    Files hold scalars (snnTorch), one number for all, channels, or a leading batch dimension (older sinabs).
    """
    try:
        return _spread(_numbers(nodes, name, field).astype(np.float64), shape)
    except ValueError as error:
        raise ValueError(f"node {name!r} ({nodes[name]['type']}), {field!r}: {error}") from None


def _spread(value: np.ndarray, shape: Shape) -> np.ndarray:
    if value.size == 1:
        return _compact(value.reshape(()))
    if value.size == math.prod(shape) and tuple(n for n in value.shape if n > 1) == tuple(n for n in shape if n > 1):
        return _compact(value.reshape(shape))
    if value.size == shape[0] and (
        value.ndim == 1 or value.shape[-len(shape) :] == (shape[0],) + (1,) * len(shape[1:])
    ):
        return _compact(value.reshape(-1))
    raise ValueError(f"has shape {value.shape}, what arrives has shape {shape}")


def _compact(value: np.ndarray, number: bool = True) -> np.ndarray:
    """The same values in the smallest of a 0-d array (where allowed), (C,), or the whole shape."""
    value = np.asarray(value)
    if value.ndim > 1:
        rows = value.reshape(value.shape[0], -1)
        if np.all(rows == rows[:, :1]):
            value = rows[:, 0]
    if number and value.ndim == 1 and np.all(value == value[0]):
        value = value[0]
    return np.array(value)


def _number(value: Parameter) -> Parameter:
    """A Python number instead of a 0-d array."""
    return float(value) if np.ndim(value) == 0 else value


def _full(value: np.ndarray, shape: Shape) -> np.ndarray:
    value = np.asarray(value)
    if value.ndim == 1 and len(shape) > 1:
        value = value.reshape(-1, *(1,) * (len(shape) - 1))
    return np.array(np.broadcast_to(value, shape))


def _integers(value: Any, count: int, what: str) -> tuple[int, ...]:
    array = np.asarray(value)
    if array.dtype.kind not in "iuf" or array.size not in (1, count) or np.any(array != np.round(array)):
        raise ValueError(f"{what} is {value!r}; wanted {count} whole numbers")
    return tuple(int(n) for n in np.broadcast_to(array.reshape(-1), (count,)))


def _shape(value: Any, name: str) -> Shape:
    array = np.asarray(value)
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise ValueError(f"node {name!r}: shape is {value!r}; wanted the sizes of its dimensions")
    return tuple(int(n) for n in array)


def _ticks(delay: Any, dt: float) -> int:
    """A delay node's ticks; one number for all its units."""
    array = np.asarray(delay)
    if array.dtype.kind not in "fiu" or not array.size or np.any(array != array.flat[0]):
        raise ValueError("delays differ from unit to unit, which is not supported; wanted one number")
    ticks = float(array.flat[0]) / dt
    whole = round(ticks) if math.isfinite(ticks) else -1
    if whole < 0 or abs(ticks - whole) > 1e-6 * max(1, whole):
        raise ValueError(f"the delay is {array.flat[0]}, {ticks} ticks of {dt}; wanted a whole number of ticks")
    return whole
