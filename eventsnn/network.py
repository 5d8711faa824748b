"""What can be simulated: populations, the connections between them, and the checked graph they form.

A population is a grid of neurons of one model, shape (C,), (C, L) or (C, H, W), channels first as in PyTorch. A
connection carries every event of its source through address maps and at most one weight operation to its target::

    contribution(t) = scale[t, c] * after(op(before(events at t - delay))) + (shift[t, c] or bias)

A residual is a second connection into the same population; a recurrent connection is a delayed one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from eventsnn.neurons import IF, LATER, LI, Gate, Input, Integrator, Neuron, Parameter, Relay, Synapse

Shape = tuple[int, ...]
ENCODINGS = ("direct", "rate", "latency", "events")


class Taps(NamedTuple):
    """A channel-wise map of positions as a sparse list: value at `target` += `coefficient` x value at `source`.

    source, target: (n,) int64, row-major positions of the two grids. coefficient: (n,) float64.
    """

    source: np.ndarray
    target: np.ndarray
    coefficient: np.ndarray


def positions(shape: Shape) -> int:
    """Number of grid positions of a population or intermediate shape: everything but the channels."""
    return math.prod(shape[1:])


def spread(parameter: Parameter, shape: Shape) -> np.ndarray:
    """A parameter or bias (one number, one per channel or one per unit) in a shape that broadcasts to `shape`."""
    array = np.asarray(parameter, np.float64)
    return array.reshape(-1, *(1,) * (len(shape) - 1)) if array.ndim == 1 else array


# --------------------------------------------------------------------------------------------------- address maps


@dataclass(frozen=True)
class Pool:
    """Average or sum pooling over windows, as PyTorch's AvgPool1d/2d (Sum: the average without its division).

    kernel, stride, padding: one number for each spatial dimension. padding counts in the divisor of an average when
    `count_include_pad`; `ceil_mode` keeps windows that hang over the end. Coefficient of a tap: 1 / what PyTorch
    divides by; 1 for kind "sum", which is also the window of a spiking max-pool into a `Gate`.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    kind: str = "average"
    ceil_mode: bool = False
    count_include_pad: bool = True
    dilation: tuple[int, ...] = ()

    def out_shape(self, shape: Shape) -> Shape:
        """Shape of the pooled grid; raises ValueError when the window does not fit."""
        return (shape[0], *(len(axis) for axis in self._windows(shape)))

    def taps(self, shape: Shape) -> Taps:
        """Every (position, pooled position, coefficient) of a grid of this shape."""
        return _outer([_axis_taps(axis) for axis in self._windows(shape)], shape[1:])

    def _windows(self, shape: Shape) -> list[list[tuple[range, int]]]:
        if self.kind not in ("average", "sum"):
            raise ValueError(f"pool kind is {self.kind!r}, wanted 'average' or 'sum'")
        _same_length("pool", shape, self.kernel, self.stride, self.padding)
        dilation = self.dilation or (1,) * len(self.kernel)
        axes = []
        for size, k, s, p, d in zip(shape[1:], self.kernel, self.stride, self.padding, dilation, strict=True):
            if k < 1 or s < 1 or p < 0 or d < 1 or 2 * p > k:
                raise ValueError(
                    f"pool window {k}, stride {s}, padding {p}, dilation {d}: "
                    "wanted positive sizes and padding of at most half the window"
                )
            span = size + 2 * p - d * (k - 1) - 1
            count = (-(-span // s) if self.ceil_mode else span // s) + 1
            if self.ceil_mode and (count - 1) * s >= size + p:
                count -= 1  # PyTorch drops a last window that would start inside the right padding
            if count < 1:
                raise ValueError(f"pool window {k} (dilation {d}) does not fit a size of {size} with padding {p}")
            windows = []
            for i in range(count):
                start = i * s - p
                inside = range(start + (-(start // d) * d if start < 0 else 0), min(start + d * (k - 1) + 1, size), d)
                padded = min(start + d * (k - 1) + 1, size + p) - start
                divisor = (padded if self.count_include_pad else len(inside)) if self.kind == "average" else 1
                windows.append((inside, divisor))
            axes.append(windows)
        return axes


@dataclass(frozen=True)
class AdaptivePool:
    """Average pooling to a given output size, as PyTorch's AdaptiveAvgPool; size 1 is global average pooling."""

    size: tuple[int, ...]

    def out_shape(self, shape: Shape) -> Shape:
        """(channels, *size)."""
        _same_length("adaptive pool", shape, self.size)
        if min(self.size) < 1:
            raise ValueError(f"adaptive pool has size {self.size}, wanted 1 or more")
        return (shape[0], *self.size)

    def taps(self, shape: Shape) -> Taps:
        """Every (position, pooled position, coefficient) of a grid of this shape."""
        self.out_shape(shape)
        axes = []
        for n, m in zip(shape[1:], self.size, strict=True):
            bins = [range(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]
            axes.append([(b, len(b)) for b in bins])
        return _outer([_axis_taps(axis) for axis in axes], shape[1:])


@dataclass(frozen=True)
class Subsample:
    """Keeps every `stride`-th position and pads channels with silence: the option-A shortcut of a CIFAR ResNet.

    stride: one number per spatial dimension, starting at position 0. channels: (before, after), silent channels put in
    front of and behind the source's.
    """

    stride: tuple[int, ...]
    channels: tuple[int, int] = (0, 0)

    def out_shape(self, shape: Shape) -> Shape:
        """Shape after subsampling and channel padding."""
        _same_length("subsample", shape, self.stride)
        if min(self.stride) < 1 or min(self.channels) < 0:
            raise ValueError(
                f"subsample has stride {self.stride} and channels {self.channels}, wanted 1 or more, 0 or more"
            )
        return (shape[0] + sum(self.channels), *(-(-n // s) for n, s in zip(shape[1:], self.stride, strict=True)))

    def taps(self, shape: Shape) -> Taps:
        """Every kept (position, new position, 1.0)."""
        self.out_shape(shape)
        axes = [[(range(i, i + 1), 1) for i in range(0, n, s)] for n, s in zip(shape[1:], self.stride, strict=True)]
        return _outer([_axis_taps(axis) for axis in axes], shape[1:])


@dataclass(frozen=True)
class Flatten:
    """(C, H, W) read as one vector of C*H*W units in PyTorch's order. Only as the last map before an operation."""

    def out_shape(self, shape: Shape) -> Shape:
        """(product of the shape,)."""
        return (math.prod(shape),)


AddressMap = Pool | AdaptivePool | Subsample | Flatten


def _same_length(what: str, shape: Shape, *options: tuple[int, ...]) -> None:
    if len(shape) < 2 or any(len(option) != len(shape) - 1 for option in options):
        raise ValueError(f"{what} of {options} does not fit a population of shape {shape}: one number per dimension")


def _axis_taps(windows: list[tuple[range, int]]) -> tuple[list[tuple[int, int, int]], int]:
    return [(i, o, divisor) for o, (inside, divisor) in enumerate(windows) for i in inside], len(windows)


def _outer(axes: list[tuple[list[tuple[int, int, int]], int]], sizes: Shape) -> Taps:
    """Combine per-axis taps (in, out, divisor) into taps of row-major positions, ordered by source then target."""
    source, target, divisor = (np.zeros(1, np.int64) for _ in range(3))
    divisor += 1
    for (entries, out_size), in_size in zip(axes, sizes, strict=True):
        table = np.asarray(entries, np.int64).reshape(-1, 3)
        source = (source[:, None] * in_size + table[:, 0]).ravel()
        target = (target[:, None] * out_size + table[:, 1]).ravel()
        divisor = (divisor[:, None] * table[:, 2]).ravel()
    order = np.lexsort((target, source))
    return Taps(source[order], target[order], 1.0 / divisor[order])


# ----------------------------------------------------------------------------------------------- weight operations


@dataclass(frozen=True, eq=False)
class Identity:
    """Unit to unit, with one weight for all or (C,) weights. Its taps are of class `identity`, never SynOps."""

    weight: float | np.ndarray = 1.0

    def out_shape(self, shape: Shape) -> Shape:
        """The same shape."""
        if np.ndim(self.weight) and np.shape(self.weight) != (shape[0],):
            raise ValueError(f"identity weight has shape {np.shape(self.weight)}, wanted one number or ({shape[0]},)")
        return shape


@dataclass(frozen=True, eq=False)
class Dense:
    """Every unit to every unit. weight: (out, in), as PyTorch's Linear; the source is a vector (see `Flatten`)."""

    weight: np.ndarray

    def out_shape(self, shape: Shape) -> Shape:
        """(out,)."""
        if len(shape) != 1:
            raise ValueError(f"dense weight wants a vector, source gives {shape}; put Flatten() before it")
        if self.weight.ndim != 2 or self.weight.shape[1] != shape[0]:
            raise ValueError(f"dense weight has shape {self.weight.shape}, wanted (out, {shape[0]})")
        return (self.weight.shape[0],)


@dataclass(frozen=True, eq=False)
class Conv:
    """Convolution (correlation, as PyTorch) over one or two dimensions.

    weight: (C_out, C_in / groups, K) or (C_out, C_in / groups, K_h, K_w). stride, dilation: one number per dimension.
    padding: ((before, after), ...) per dimension, filled with silence.
    """

    weight: np.ndarray
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int = 1

    def out_shape(self, shape: Shape) -> Shape:
        """(C_out, *spatial); raises ValueError when source and kernel do not fit."""
        kernel = self.weight.shape[2:]
        if self.weight.ndim not in (3, 4) or len(shape) != self.weight.ndim - 1:
            raise ValueError(f"source gives {shape}, kernel of shape {self.weight.shape} wants (channels, *spatial)")
        _same_length("convolution", shape, self.stride, self.dilation, tuple(2 for _ in self.padding))
        if self.groups < 1 or shape[0] % self.groups or self.weight.shape[0] % self.groups:
            raise ValueError(f"groups is {self.groups}, wanted a divisor of {shape[0]} and {self.weight.shape[0]}")
        if self.weight.shape[1] * self.groups != shape[0]:
            raise ValueError(f"source gives {shape}, kernel wants {self.weight.shape[1] * self.groups} channels")
        out = []
        for size, k, s, (a, b), d in zip(shape[1:], kernel, self.stride, self.padding, self.dilation, strict=True):
            if s < 1 or d < 1 or a < 0 or b < 0:
                raise ValueError(f"stride {s}, dilation {d}, padding ({a}, {b}): wanted positive and not negative")
            out.append((size + a + b - d * (k - 1) - 1) // s + 1)
            if out[-1] < 1:
                raise ValueError(f"kernel {k} (dilation {d}) does not fit a size of {size} with padding ({a}, {b})")
        return (self.weight.shape[0], *out)


@dataclass(frozen=True, eq=False)
class Sparse:
    """A list of synapses in CSR form, one row per source unit in channels-first order.

    indptr: (source units + 1,) int64. target: (n,) int64, target unit in channels-first order. weight: (n,).
    shape: of the target. delay: None, or (n,) ticks, each synapse's own beside that of the connection; whole numbers
    for the clocked discipline.
    """

    indptr: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    shape: Shape
    delay: np.ndarray | None = field(default=None, metadata=LATER)

    def out_shape(self, shape: Shape) -> Shape:
        """The target's shape."""
        if self.indptr.shape != (math.prod(shape) + 1,):
            raise ValueError(f"sparse indptr has {self.indptr.size} entries, wanted {math.prod(shape) + 1}")
        steps = np.diff(self.indptr)
        ends = {int(self.indptr[-1]), self.target.size, self.weight.size}
        if self.indptr[0] != 0 or np.any(steps < 0) or len(ends) != 1:
            raise ValueError("sparse indptr must rise from 0 to the number of synapses")
        if self.target.size and not (self.target.min() >= 0 and self.target.max() < math.prod(self.shape)):
            raise ValueError(f"sparse targets reach outside the {math.prod(self.shape)} units of {self.shape}")
        if self.delay is not None:
            if self.delay.shape != self.target.shape:
                raise ValueError(f"sparse delay has shape {self.delay.shape}, wanted {self.target.shape}")
            if not np.all(np.isfinite(self.delay) & (np.asarray(self.delay) >= 0)):
                raise ValueError("sparse delay holds what is no time; wanted ticks, 0 or more")
        return self.shape


Operation = Identity | Dense | Conv | Sparse

# ------------------------------------------------------------------------------------------------------- the graph


@dataclass(frozen=True, eq=False)
class Population:
    """A grid of neurons of one model. shape: (C,), (C, L) or (C, H, W)."""

    name: str
    shape: Shape
    neuron: Neuron

    @property
    def size(self) -> int:
        """Number of neurons."""
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class Connection:
    """How events travel from `source` to `target`.

    op: the one weight operation (`Identity()` for none). before, after: address maps on either side of it.
    delay: whole ticks. bias: None, (C,) or the target's shape, added every tick. scale, shift: per-tick tables (T, C)
    or None; a shift takes the place of the bias. name: unique; None takes "source->target". delay_seconds: the delay in
    continuous time; None: the ticks' length. receptor: which of the currents of a target that has two of them
    (`neurons.Synapse`) it feeds; None for the first.
    """

    source: str
    target: str
    op: Operation = field(default_factory=Identity)
    before: tuple[AddressMap, ...] = ()
    after: tuple[AddressMap, ...] = ()
    delay: int = 0
    bias: np.ndarray | None = None
    scale: np.ndarray | None = None
    shift: np.ndarray | None = None
    name: str | None = None
    delay_seconds: float | None = field(default=None, metadata=LATER)
    receptor: int | None = field(default=None, metadata=LATER)

    @property
    def least_delay(self) -> float:
        """Ticks that the quickest of its synapses takes."""
        own = self.op.delay if isinstance(self.op, Sparse) else None
        return self.delay + (float(np.min(own)) if own is not None and own.size else 0.0)

    def shapes(self, shape: Shape) -> list[Shape]:
        """The shape before, between and after every map and the operation, for a source of `shape`."""
        found = [shape]
        for step in (*self.before, self.op, *self.after):
            found.append(step.out_shape(found[-1]))
        return found

    @property
    def label(self) -> str:
        """The connection's name."""
        return self.name or f"{self.source}->{self.target}"


@dataclass(frozen=True, eq=False, kw_only=True)
class Network:
    """A checked graph of populations and connections, and how to feed and read it.

    populations, connections: in any order; names are unique. The one population with an `Input` neuron is fed, the one
    called `output` is read (an `Integrator`: summed logits; `LI`, `CubaLI`: potentials; spiking: counts).
    encoding: how samples enter: "direct", "rate", "latency" or "events". mean, std: per input channel, subtracted and
    divided after 8-bit images were brought to 0..1; None for none. ticks: default run length. tick_seconds: what a tick
    means in time. labels: class names. cutoff: default policy as text. origin: what is known about where the network
    came from (checkpoint, hash, what was folded, thresholds), any JSON values.

    Raises ValueError, naming the thing, what it was and what was wanted, when the graph cannot be run.
    """

    populations: tuple[Population, ...]
    connections: tuple[Connection, ...]
    output: str
    encoding: str = "direct"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    ticks: int | None = None
    tick_seconds: float | None = None
    labels: tuple[str, ...] | None = None
    cutoff: str | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "populations", tuple(self.populations))
        object.__setattr__(self, "connections", _named(self.connections))
        _check(self)

    def __getitem__(self, name: str) -> Population:
        for population in self.populations:
            if population.name == name:
                return population
        raise KeyError(name)

    @property
    def input(self) -> Population:
        """The population that is fed."""
        return next(p for p in self.populations if isinstance(p.neuron, Input))

    @property
    def readout(self) -> str:
        """ "sum" when the output integrates logits, "potential" when it leaks, "spikes" when its spikes are counted."""
        neuron = self[self.output].neuron
        return "potential" if isinstance(neuron, LI) else "sum" if isinstance(neuron, Integrator) else "spikes"

    @property
    def max_ticks(self) -> int | None:
        """The most ticks the per-tick tables allow; None without tables."""
        lengths = [len(table) for c in self.connections for table in (c.scale, c.shift) if table is not None]
        return min(lengths, default=None)

    def depths(self) -> dict[str, int]:
        """Longest path over zero-delay connections, per population; raises ValueError naming a cycle without delay."""
        return _depths(self)

    def with_layer_delay(self, ticks: int) -> Network:
        """The same network with every connection taking at least `ticks`, as on Loihi-style chips (`layer_delay`)."""
        least = ticks * (self.tick_seconds or 0.0)
        slower = (
            replace(
                c,
                delay=max(c.delay, ticks),
                delay_seconds=None if c.delay_seconds is None else max(c.delay_seconds, least),
            )
            for c in self.connections
        )
        return replace(self, connections=tuple(slower))

    def graded(self, name: str) -> bool:
        """Whether the events of this population carry a value other than a count of spikes."""
        neuron = self[name].neuron
        return isinstance(neuron, Relay) or (isinstance(neuron, Input) and self.encoding == "direct")


def _named(connections: Iterable[Connection]) -> tuple[Connection, ...]:
    """Give every connection its label; a second one between the same two populations becomes "a->b#2"."""
    seen: dict[str, int] = {}
    named = []
    for connection in connections:
        label = connection.label
        seen[label] = seen.get(label, 0) + 1
        if seen[label] > 1 and connection.name is None:
            label = f"{label}#{seen[label]}"
        named.append(replace(connection, name=label))
    return tuple(named)


def _depths(network: Network) -> dict[str, int]:
    feeds: dict[str, list[str]] = {p.name: [] for p in network.populations}
    for c in network.connections:
        if c.least_delay == 0:
            feeds[c.target].append(c.source)
    depth: dict[str, int] = {}
    for start in feeds:  # depth-first, without recursion: networks can be deeper than Python's stack
        trail, branches = [start], [iter(feeds[start])]
        on_trail = {start}
        while trail:
            for source in branches[-1]:
                if source in on_trail:
                    cycle = [*trail[trail.index(source) :], source][::-1]
                    raise ValueError(
                        f"cycle without delay: {' -> '.join(cycle)}; give one of its connections a delay of 1 tick"
                    )
                if source not in depth:
                    trail.append(source)
                    on_trail.add(source)
                    branches.append(iter(feeds[source]))
                    break
            else:
                name = trail.pop()
                branches.pop()
                on_trail.discard(name)
                depth.setdefault(name, max((depth[s] + 1 for s in feeds[name]), default=0))
    return depth


def _check(network: Network) -> None:
    names = [p.name for p in network.populations]
    for kind, labels in (("population", names), ("connection", [c.label for c in network.connections])):
        twice = sorted({n for n in labels if labels.count(n) > 1})
        if twice:
            raise ValueError(f"two {kind}s are called {twice[0]!r}; names must be unique")
    for name in names:
        if not name or "/" in name or name in (".", ".."):
            raise ValueError(f"population name {name!r}: wanted a name without '/' (it becomes an HDF5 group)")
    inputs = [p.name for p in network.populations if isinstance(p.neuron, Input)]
    if len(inputs) != 1:
        raise ValueError(f"the network has {len(inputs)} input populations ({', '.join(inputs)}), wanted exactly one")
    if network.output not in names:
        raise ValueError(f"output {network.output!r} is not a population; there are {', '.join(names)}")
    if not isinstance(network[network.output].neuron, IF | Integrator):
        raise ValueError(f"output {network.output!r} must be a spiking population or an Integrator")
    if network.encoding not in ENCODINGS:
        raise ValueError(f"encoding is {network.encoding!r}, wanted one of {', '.join(ENCODINGS)}")
    if network.ticks is not None and network.ticks < 1:
        raise ValueError(f"ticks is {network.ticks}, wanted 1 or more")
    if network.tick_seconds is not None and not network.tick_seconds > 0:
        raise ValueError(f"tick_seconds is {network.tick_seconds}, wanted a positive number of seconds")
    for name, value in (("mean", network.mean), ("std", network.std)):
        if value is not None and len(value) not in (1, network.input.shape[0]):
            raise ValueError(f"{name} has {len(value)} values, the input has {network.input.shape[0]} channels")
    if network.std is not None and not all(s > 0 for s in network.std):
        raise ValueError(f"std is {network.std}, wanted positive numbers")
    if network.labels is not None and len(network.labels) != network[network.output].size:
        raise ValueError(f"{len(network.labels)} labels for {network[network.output].size} output units")
    for population in network.populations:
        _check_population(population)
    for connection in network.connections:
        _check_connection(network, connection)
    fed = {c.target for c in network.connections}
    for population in network.populations:
        if population.name not in fed and not isinstance(population.neuron, Input):
            raise ValueError(f"population {population.name!r} has no incoming connection; nobody feeds it")
    if network.max_ticks is not None and network.ticks is not None and network.ticks > network.max_ticks:
        raise ValueError(f"ticks is {network.ticks}, but the per-tick tables end after {network.max_ticks}")
    network.depths()


def _check_population(population: Population) -> None:
    name, shape, neuron = population.name, population.shape, population.neuron
    if not 1 <= len(shape) <= 3 or any(n < 1 for n in shape):
        raise ValueError(f"population {name!r} has shape {shape}, wanted (C,), (C, L) or (C, H, W) of positive sizes")
    if not isinstance(neuron, IF | LI | Gate):
        return
    for problem in neuron.problems():
        raise ValueError(f"population {name!r}: {problem}")
    for parameter in (*neuron.__dataclass_fields__,):
        given = getattr(neuron, parameter)
        for value in given if isinstance(given, tuple) else (given,):
            if isinstance(value, np.ndarray) and value.ndim and value.shape not in ((shape[0],), shape):
                raise ValueError(
                    f"population {name!r}: {parameter} has shape {value.shape}, wanted one number, ({shape[0]},) or "
                    f"{shape}"
                )


def _check_connection(network: Network, c: Connection) -> None:
    names = {p.name for p in network.populations}
    for end in (c.source, c.target):
        if end not in names:
            raise ValueError(f"connection {c.label!r}: there is no population {end!r}")
    if isinstance(network[c.target].neuron, Input):
        raise ValueError(f"connection {c.label!r} ends in the input population; samples are its only source")
    if isinstance(network[c.source].neuron, Integrator):
        raise ValueError(f"connection {c.label!r} starts at the readout {c.source!r}, which emits no events")
    if isinstance(c.delay, bool) or not isinstance(c.delay, int | np.integer) or c.delay < 0:
        raise ValueError(f"connection {c.label!r}: delay is {c.delay!r}, wanted a whole number of ticks, 0 or more")
    if c.delay_seconds is not None and not (
        math.isfinite(c.delay_seconds) and c.delay_seconds >= (c.delay > 0) * 1e-12
    ):
        raise ValueError(
            f"connection {c.label!r}: delay_seconds is {c.delay_seconds!r}, wanted 0 or more, and more than 0 "
            "where the delay in ticks is"
        )
    target_neuron = network[c.target].neuron
    receptors = target_neuron.receptors if isinstance(target_neuron, Synapse) else 1
    if c.receptor is not None and not 0 <= c.receptor < receptors:
        raise ValueError(
            f"connection {c.label!r}: receptor is {c.receptor!r}, its target {c.target!r} has {receptors}, counted "
            "from 0"
        )
    if c.receptor and (c.bias is not None or c.scale is not None or c.shift is not None):
        raise ValueError(f"connection {c.label!r}: a bias or a table belongs to the first current, not to receptor 1")
    if any(isinstance(m, Flatten) for m in (*c.before[:-1], *c.after)):
        raise ValueError(f"connection {c.label!r}: Flatten must be the last map before the operation")
    try:
        shapes = c.shapes(network[c.source].shape)
    except ValueError as error:
        raise ValueError(f"connection {c.label!r}: {error}") from None
    mapped = c.after or any(isinstance(m, Pool | AdaptivePool) for m in c.before)
    if isinstance(c.op, Sparse) and c.op.delay is not None and mapped:
        raise ValueError(
            f"connection {c.label!r} has delays by synapse and a pool before or a map behind them; put a Relay between"
        )
    target = network[c.target]
    if shapes[-1] != target.shape:
        raise ValueError(f"connection {c.label!r} gives {shapes[-1]}, its target {c.target!r} has shape {target.shape}")
    weight = np.asarray(c.op.weight)
    if weight.dtype.kind not in "fiu":
        raise ValueError(f"connection {c.label!r}: weights have dtype {weight.dtype}, wanted numbers")
    if not np.all(np.isfinite(weight)):
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(weight))[0])
        raise ValueError(f"connection {c.label!r}: the weight at {where} is {weight[where]}, wanted finite numbers")
    if c.bias is not None:
        if c.bias.shape not in ((target.shape[0],), target.shape):
            raise ValueError(
                f"connection {c.label!r}: bias has shape {c.bias.shape}, wanted ({target.shape[0]},) or {target.shape}"
            )
        if c.shift is not None:
            raise ValueError(f"connection {c.label!r} has a bias and a shift table; a shift takes the bias's place")
    for name in ("bias", "scale", "shift"):
        table = getattr(c, name)
        if table is None:
            continue
        if not np.all(np.isfinite(table)):
            raise ValueError(f"connection {c.label!r}: {name} holds NaN or infinity")
        if name != "bias" and (table.ndim != 2 or table.shape[1] != target.shape[0] or len(table) < 1):
            raise ValueError(
                f"connection {c.label!r}: {name} has shape {table.shape}, wanted (ticks, {target.shape[0]})"
            )
    if isinstance(target.neuron, Gate):
        source = network[c.source].neuron
        pooled = all(isinstance(m, Pool) and m.kind == "sum" for m in (*c.before, *c.after))
        unit = isinstance(c.op, Identity) and np.ndim(c.op.weight) == 0 and abs(c.op.weight) == 1
        binary = isinstance(source, Gate) or (isinstance(source, IF) and not source.multi_spike)
        binary = binary or (isinstance(source, Input) and network.encoding != "direct")
        if not (pooled and unit and binary) or c.bias is not None or c.scale is not None or c.shift is not None:
            raise ValueError(
                f"connection {c.label!r} into the gate {c.target!r}: wanted binary events through sum windows, weight "
                "1 or -1; max-pooling of graded values is not supported"
            )
    discards = (
        isinstance(target.neuron, IF) and target.neuron.refractory and target.neuron.refractory_input == "discard"
    )
    if discards and c.after:
        raise ValueError(
            f"connection {c.label!r}: a map after the operation into refractory neurons that discard input is not "
            "supported; use refractory_input='integrate' or put a Relay between"
        )
