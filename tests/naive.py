"""The slow obvious simulator: `docs/semantics.md` in plain Python, one sample, one unit, one synapse at a time.

It imports nothing of the engine, only the dataclasses that describe a network, and does its own address arithmetic from
the output side: for every unit of a grid, which units of the grid before it does it read? Every population takes a turn
in every tick, so there is no skipped leak to make up. All numbers are Python's.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from eventsnn.network import (
    AdaptivePool,
    Connection,
    Conv,
    Dense,
    Flatten,
    Identity,
    Network,
    Pool,
    Population,
    Sparse,
    Subsample,
)
from eventsnn.neurons import IF, LI, LIF, Gate, Input, Integrator, Relay, Synapse


@dataclass
class Result:
    """One sample's run.

    events: (tick, population, unit, value) in the order they were emitted. outputs: one list of class values per tick,
    accumulated. potentials: population -> one list of membranes per tick it took a turn in. taps:
    (connection, class) -> kind -> count per tick; kind "in_flight" is one number. operations: (population, operation)
    -> count, as far as it is not 0. reason: "horizon" or "cutoff".
    bits: a float with a mantissa of this many bits holds every number of the run, partial sums included, exactly.
    """

    events: list[tuple[int, str, int, float]] = field(default_factory=list)
    outputs: list[list[float]] = field(default_factory=list)
    potentials: dict[str, list[list[float]]] = field(default_factory=dict)
    taps: dict[tuple[str, str], dict] = field(default_factory=dict)
    main_class: dict[str, str] = field(default_factory=dict)
    operations: Counter = field(default_factory=Counter)
    macs_input: int = 0
    input_events: int = 0
    stop_time: int = 0
    reason: str = "horizon"
    prediction: int = -1
    tied: bool = False
    bits: int = 0

    def spikes(self, population: str) -> int:
        return sum(name == population for _, name, _, _ in self.events)

    def spike_units(self, population: str) -> float:
        return sum(value for _, name, _, value in self.events if name == population)


# ------------------------------------------------------------------------------------------------ address arithmetic


def unit_of(shape: tuple[int, ...], channel: int, position: tuple[int, ...]) -> int:
    index = channel
    for size, p in zip(shape[1:], position, strict=True):
        index = index * size + p
    return index


def grid(sizes: tuple[int, ...]):
    return itertools.product(*(range(n) for n in sizes))


def pool_windows(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> list[int]:
    """Where the windows of one axis start, in input coordinates."""
    starts = []
    reach = dilation * (kernel - 1)
    hanging = stride - 1 if ceil_mode else 0
    i = 0
    while i * stride + reach < size + 2 * padding + hanging and not (ceil_mode and i * stride >= size + padding):
        starts.append(i * stride - padding)
        i += 1
    return starts


def pool_fan_out(pool: Pool, shape: tuple[int, ...]) -> tuple[tuple[int, ...], dict[int, list]]:
    dilations = pool.dilation or (1,) * len(pool.kernel)
    axes = [
        pool_windows(n, k, s, p, d, pool.ceil_mode)
        for n, k, s, p, d in zip(shape[1:], pool.kernel, pool.stride, pool.padding, dilations, strict=True)
    ]
    out = (shape[0], *(len(a) for a in axes))
    fan = {u: [] for u in range(math.prod(shape))}
    for channel in range(shape[0]):
        for q in grid(out[1:]):
            inside, padded = [], 1
            for axis, i in enumerate(q):
                start, size = axes[axis][i], shape[1 + axis]
                reached = [start + dilations[axis] * j for j in range(pool.kernel[axis])]
                inside.append([x for x in reached if 0 <= x < size])
                padded *= sum(x < size + pool.padding[axis] for x in reached)
            members = list(itertools.product(*inside))
            divisor = 1
            if pool.kind == "average":
                divisor = padded if pool.count_include_pad else len(members)
            for position in members:
                fan[unit_of(shape, channel, position)].append((unit_of(out, channel, q), 1 / divisor))
    return out, fan


def adaptive_fan_out(pool: AdaptivePool, shape: tuple[int, ...]) -> tuple[tuple[int, ...], dict[int, list]]:
    out = (shape[0], *pool.size)
    fan = {u: [] for u in range(math.prod(shape))}
    for channel in range(shape[0]):
        for q in grid(out[1:]):
            bins = []
            for i, n, m in zip(q, shape[1:], pool.size, strict=True):
                bins.append(range(math.floor(i * n / m), math.ceil((i + 1) * n / m)))
            members = list(itertools.product(*bins))
            for position in members:
                fan[unit_of(shape, channel, position)].append((unit_of(out, channel, q), 1 / len(members)))
    return out, fan


def subsample_fan_out(step: Subsample, shape: tuple[int, ...]) -> tuple[tuple[int, ...], dict[int, list]]:
    sizes = tuple(len(range(0, n, s)) for n, s in zip(shape[1:], step.stride, strict=True))
    out = (step.channels[0] + shape[0] + step.channels[1], *sizes)
    fan = {u: [] for u in range(math.prod(shape))}
    for channel in range(shape[0]):
        for q in grid(sizes):
            position = tuple(i * s for i, s in zip(q, step.stride, strict=True))
            fan[unit_of(shape, channel, position)].append((unit_of(out, step.channels[0] + channel, q), 1.0))
    return out, fan


def conv_fan_out(conv: Conv, shape: tuple[int, ...]) -> tuple[tuple[int, ...], dict[int, list]]:
    kernel = conv.weight.shape[2:]
    sizes = []
    for n, k, s, (a, b), d in zip(shape[1:], kernel, conv.stride, conv.padding, conv.dilation, strict=True):
        sizes.append(len([start for start in range(0, n + a + b, s) if start + d * (k - 1) < n + a + b]))
    out = (conv.weight.shape[0], *sizes)
    inputs, outputs = shape[0] // conv.groups, out[0] // conv.groups
    fan = {u: [] for u in range(math.prod(shape))}
    for o in range(out[0]):
        for q in grid(out[1:]):
            for j in range(inputs):
                for tap in grid(kernel):
                    position = tuple(
                        i * s - a + t * d
                        for i, s, (a, _), t, d in zip(q, conv.stride, conv.padding, tap, conv.dilation, strict=True)
                    )
                    if all(0 <= x < n for x, n in zip(position, shape[1:], strict=True)):
                        source = unit_of(shape, o // outputs * inputs + j, position)
                        fan[source].append((unit_of(out, o, q), float(conv.weight[(o, j, *tap)])))
    return out, fan


def fan_out(step, shape: tuple[int, ...]) -> tuple[tuple[int, ...], dict[int, list]]:
    """The shape behind a map or operation, and for every unit before it its list of (unit behind it, weight)."""
    if isinstance(step, Pool):
        return pool_fan_out(step, shape)
    if isinstance(step, AdaptivePool):
        return adaptive_fan_out(step, shape)
    if isinstance(step, Subsample):
        return subsample_fan_out(step, shape)
    if isinstance(step, Conv):
        return conv_fan_out(step, shape)
    if isinstance(step, Flatten):
        return (math.prod(shape),), {u: [(u, 1.0)] for u in range(math.prod(shape))}
    if isinstance(step, Dense):
        outputs, inputs = step.weight.shape
        return (outputs,), {u: [(o, float(step.weight[o, u])) for o in range(outputs)] for u in range(inputs)}
    if isinstance(step, Sparse):
        fan = {}
        for u in range(math.prod(shape)):
            row = range(int(step.indptr[u]), int(step.indptr[u + 1]))
            fan[u] = [(int(step.target[i]), float(step.weight[i])) for i in row]
        return step.shape, fan
    assert isinstance(step, Identity)
    weights = per_unit(step.weight, shape)
    return shape, {u: [(u, weights[u])] for u in range(math.prod(shape))}


def per_unit(value, shape: tuple[int, ...]) -> list[float]:
    """A parameter of one number, one per channel or one per unit, as a list with one number for each unit."""
    array = np.asarray(value)
    if array.ndim == 0:
        return [float(array)] * math.prod(shape)
    if array.shape == shape:
        return [float(x) for x in array.ravel()]
    repeats = math.prod(shape[1:])
    return [float(x) for x in array for _ in range(repeats)]


# ---------------------------------------------------------------------------------------------------- one connection


class Taps:
    """Taps of one event, in one class: how many, how many of a weight other than 0, and how many by own delay."""

    def __init__(self) -> None:
        self.structural, self.effective, self.by_delay = 0, 0, Counter()

    def add(self, effective: bool, late: int) -> None:
        self.structural += 1
        self.effective += effective
        self.by_delay[late] += 1


class Path:
    """What one event of each source unit does on its way through a connection."""

    def __init__(self, network: Network, connection: Connection) -> None:
        self.connection = connection
        steps = [*connection.before, connection.op, *connection.after]
        self.place = len(connection.before)
        shape = network[connection.source].shape
        self.fans, self.pools = [], []
        for step in steps:
            shape, fan = fan_out(step, shape)
            self.fans.append(fan)
            self.pools.append(isinstance(step, Pool | AdaptivePool))
        assert shape == network[connection.target].shape
        self.weighted = not isinstance(connection.op, Identity)
        differ = any(
            len({k for row in fan.values() for _, k in row}) > 1
            for fan, pool in zip(self.fans[: self.place], self.pools, strict=False)
            if pool
        )
        if self.weighted:
            self.main = "mac" if differ or network.graded(connection.source) else "ac"
        else:
            self.main = "pool" if any(self.pools) else "identity"
        self.graded = network.graded(connection.source)
        self.multiple = getattr(network[connection.source].neuron, "multi_spike", False)
        self.known: dict[int, tuple] = {}

    def reached(self, unit: int) -> set[int]:
        """The units in front of the operation that one event reaches."""
        here = {unit}
        for fan in self.fans[: self.place]:
            here = {target for u in here for target, _ in fan[u]}
        return here

    def walk(self, unit: int) -> tuple[list[tuple[int, float]], dict[str, Taps], list[int]]:
        """Arrivals (target unit, weight) of one event, its taps by class, and the own delay of every arrival."""
        if unit not in self.known:
            here = [(unit, 1.0, 0)]
            main, pooled = Taps(), Taps()
            for index, (fan, pool) in enumerate(zip(self.fans, self.pools, strict=True)):
                synaptic = index == self.place
                behind = []
                for u, value, late in here:
                    for i, (target, weight) in enumerate(fan[u]):
                        own = self.own_delay(u, i) if synaptic else 0
                        behind.append((target, value * weight, late + own))
                        if synaptic and self.weighted:
                            main.add(weight != 0, late + own)
                        if pool:
                            pooled.add(True, late + own)
                here = behind
            if not self.weighted:
                # without a weight the maps are one map: its taps are the pairs it connects
                for _, weight, late in here:
                    main.add(weight != 0, late)
            taps = {self.main: main}
            if self.weighted and any(self.pools):
                taps["pool"] = pooled
            self.known[unit] = ([(u, w) for u, w, _ in here], taps, [late for _, _, late in here])
        return self.known[unit]

    def own_delay(self, unit: int, synapse: int) -> int:
        """Ticks that a synapse of a unit in front of the operation takes, beside the connection's."""
        op = self.connection.op
        if not isinstance(op, Sparse) or op.delay is None:
            return 0
        ticks = op.delay[int(op.indptr[unit]) + synapse]
        assert ticks == int(ticks)
        return int(ticks)

    def own_delays(self) -> set[int]:
        """The delays that its synapses have beside the connection's."""
        op = self.connection.op
        return {int(d) for d in op.delay} or {0} if isinstance(op, Sparse) and op.delay is not None else {0}


def longest_paths(network: Network, delays: dict[str, int]) -> dict[str, int]:
    depth = {p.name: 0 for p in network.populations}
    for _ in network.populations:  # relaxing once per population is enough: a path visits each at most once
        for c in network.connections:
            own = c.op.delay if isinstance(c.op, Sparse) else None
            if delays[c.label] == 0 and (own is None or not len(own) or min(own) == 0):
                depth[c.target] = max(depth[c.target], depth[c.source] + 1)
    return depth


class Exactness:
    """Keeps the largest magnitude and the finest binary digit met, to say how many bits exact arithmetic takes."""

    def __init__(self) -> None:
        self.largest, self.denominator = 1.0, 1

    def term(self, value: float) -> float:
        self.denominator = max(self.denominator, float(value).as_integer_ratio()[1])
        self.largest = max(self.largest, abs(value))
        return value

    def total(self, terms: list[float]) -> float:
        """Their sum; its partial sums, in any order, are at most the sum of the magnitudes."""
        self.largest = max(self.largest, sum(abs(self.term(x)) for x in terms))
        return sum(terms)

    @property
    def bits(self) -> int:
        return math.ceil(math.log2(self.largest)) + self.denominator.bit_length()


# -------------------------------------------------------------------------------------------------------- populations


class Cell:
    """The neurons of one population: membranes, synaptic currents, refractory times, resets owed."""

    def __init__(self, population: Population, exact: Exactness, result: Result) -> None:
        self.population, self.neuron, self.exact, self.result = population, population.neuron, exact, result
        n, shape = population.size, population.shape
        self.until = [-1] * n  # last tick in which the neuron is refractory
        self.owes = [False] * n
        self.u = [0.0] * n
        self.parameter: dict[str, list[float]] = {}
        self.leaks = isinstance(self.neuron, LIF | LI)
        names = ["threshold", "reset_value", "gain"] if isinstance(self.neuron, IF) else []
        names += ["gain", "v0"] if isinstance(self.neuron, LI) else []
        names += ["alpha", "rest"] if self.leaks else []
        for name in names:
            self.parameter[name] = per_unit(getattr(self.neuron, name), shape)
        if isinstance(self.neuron, LI):
            self.u = list(self.parameter["v0"])
        self.current: list[list[float]] = []  # by receptor and unit
        self.synapse: list[dict[str, list[float]]] = []  # by receptor: parameters of the current
        if isinstance(self.neuron, Synapse):
            for receptor in range(self.neuron.receptors):
                values = self.neuron.current(receptor)
                names = ["alpha_syn", "gain_syn", "gain_old", "i0"]
                self.synapse.append({name: per_unit(getattr(values, name), shape) for name in names})
                self.current.append(list(self.synapse[receptor]["i0"]))
        if isinstance(self.neuron, IF):
            if self.neuron.v_min is not None:
                self.parameter["v_min"] = per_unit(self.neuron.v_min, shape)
            amount = self.neuron.reset_amount
            self.parameter["amount"] = per_unit(self.neuron.threshold if amount is None else amount, shape)
            self.u = per_unit(self.neuron.v0, shape)

    def refractory(self, unit: int, tick: int) -> bool:
        return tick <= self.until[unit]

    def drops(self, unit: int, tick: int) -> bool:
        neuron = self.neuron
        return isinstance(neuron, IF) and neuron.refractory_input == "discard" and self.refractory(unit, tick)

    def held(self, unit: int, tick: int) -> bool:
        """Whether the membrane is left alone in this tick: no leak, no input, no bound."""
        return self.refractory(unit, tick) and (bool(self.neuron.hold) or self.neuron.refractory == math.inf)

    def decaying(self) -> int:
        """How many state variables of a neuron leak: its membrane, and its currents."""
        return self.leaks + len(self.current)

    def did(self, operation: str, times: int = 1) -> None:
        self.result.operations[self.population.name, operation] += times

    def leak(self, unit: int) -> None:
        rest, alpha = self.parameter["rest"][unit], self.parameter["alpha"][unit]
        kept = self.exact.term(alpha * self.exact.term(self.u[unit] - rest))
        self.u[unit] = self.exact.term(rest + kept)

    def reset(self, unit: int) -> None:
        if self.neuron.reset != "none":
            self.did("reset")
        if self.neuron.reset == "subtract":
            self.u[unit] = self.exact.term(self.u[unit] - self.parameter["amount"][unit])
        elif self.neuron.reset == "value":
            self.u[unit] = self.parameter["reset_value"][unit]

    def reaches(self, unit: int) -> bool:
        threshold = self.exact.term(self.parameter["threshold"][unit])
        return self.u[unit] > threshold if self.neuron.comparator == "gt" else self.u[unit] >= threshold

    def drive(self, unit: int, inputs: list[float], tick: int) -> list[float]:
        """What the inputs of a tick, by receptor, add to the membrane; the currents of a `Synapse` take them up."""
        gain = self.parameter["gain"][unit]
        if not isinstance(self.neuron, Synapse):
            return [] if self.drops(unit, tick) else [self.exact.term(gain * inputs[0])]
        parts = []
        for current, synapse, came in zip(self.current, self.synapse, inputs, strict=True):
            old = current[unit]
            kept = self.exact.term(synapse["alpha_syn"][unit] * old)
            current[unit] = self.exact.total([kept, self.exact.term(synapse["gain_syn"][unit] * came)])
            parts.append(self.exact.term(gain * current[unit]))
            parts.append(self.exact.term(synapse["gain_old"][unit] * old))
        return parts

    def fire(self, unit: int, inputs: list[float], tick: int, driven: bool) -> int:
        """One turn of one spiking neuron; returns how often it fired. driven: something came in."""
        updated = driven or (self.owes[unit] and self.neuron.reset != "none")
        spikes = self.take_turn(unit, inputs, tick)
        if updated or spikes:
            self.did("neuron_update")
            self.did("threshold_test", 1 + (spikes if self.neuron.multi_spike else 0))
            self.did("decay", self.decaying())
        return spikes

    def read(self, unit: int, inputs: list[float], tick: int, driven: bool) -> None:
        """One turn of a readout that does not fire."""
        if not isinstance(self.neuron, LI):
            self.u[unit] = self.exact.term(self.u[unit] + inputs[0])
        else:
            self.leak(unit)
            self.u[unit] = self.exact.total([self.u[unit], *self.drive(unit, inputs, tick)])
        if driven:
            self.did("neuron_update")
            self.did("decay", self.decaying())

    def take_turn(self, unit: int, inputs: list[float], tick: int) -> int:
        neuron, leaky, held = self.neuron, isinstance(self.neuron, LIF), self.held(unit, tick)
        driven = self.drive(unit, inputs, tick)  # a current goes on while its membrane is held
        if not held:
            if leaky and neuron.leak == "before":
                self.leak(unit)
            self.u[unit] = self.exact.total([self.u[unit], *driven])
            if neuron.v_min is not None:
                self.u[unit] = max(self.u[unit], self.parameter["v_min"][unit])
        if self.owes[unit]:
            self.reset(unit)
            self.owes[unit] = False
        spikes = 0
        if self.reaches(unit) and not self.refractory(unit, tick):
            spikes = 1
            if neuron.reset_delay:
                self.owes[unit] = True
            else:
                self.reset(unit)
            while neuron.multi_spike and self.reaches(unit):
                spikes += 1
                self.reset(unit)
            self.until[unit] = tick + neuron.refractory
        if leaky and neuron.leak == "after" and not held:
            self.leak(unit)
        return spikes


# ----------------------------------------------------------------------------------------------------------- policies


def softmax(values: list[float], scale: float) -> list[float]:
    top = max(values) / scale
    powers = [math.exp(v / scale - top) for v in values]
    return [p / sum(powers) for p in powers]


def decides(policy: tuple, tick: int, output: list[float], fired: bool, synops: int) -> bool:
    """Whether the policy stops now. policy: (name, argument[, scale]), names as in docs/semantics.md."""
    name = policy[0]
    if name == "fixed":
        return False
    if name == "first-spike":
        return fired
    if name == "budget":
        return synops >= policy[1]
    if name in ("spike-gap", "topk"):
        top, second = sorted(output, reverse=True)[:2]
        if name == "spike-gap":
            return top - second >= policy[1]
        beta = policy[1] if isinstance(policy[1], int | float) else policy[1][tick]
        return top - second > beta
    shares = softmax(output, policy[2] if len(policy) > 2 else 1.0)
    if name == "confidence":
        return max(shares) > policy[1]
    assert name == "entropy"
    return -sum(p * math.log(p) for p in shares if p > 0) / math.log(len(shares)) < policy[1]


# -------------------------------------------------------------------------------------------------------------- a run


def simulate(network: Network, sample, ticks: int, policy: tuple = ("fixed",), layer_delay: int = 0) -> Result:
    """Run one sample.

    sample: for "direct" an array of the input's shape, before mean and std; for "events" pairs (tick, input unit).
    policy: a tuple, see `decides`.
    """
    result, exact = Result(), Exactness()
    delays = {c.label: max(c.delay, layer_delay) for c in network.connections}
    depth = longest_paths(network, delays)
    paths = {c.label: Path(network, c) for c in network.connections}
    cells = {p.name: Cell(p, exact, result) for p in network.populations}
    counts = [0.0] * network[network.output].size
    open_account(network, paths, ticks, result)
    images = image_currents(network, paths, sample, exact, result) if network.encoding == "direct" else {}

    waiting: dict[tuple[int, str], list] = {}  # (tick, target) -> deliveries (connection, events, own delay)
    stopped = False
    for tick in range(ticks):
        image_now = {}  # connection -> by synaptic delay, the currents that flow already
        for (label, late), current in images.items():
            if tick >= delays[label] + late:
                image_now.setdefault(label, []).append(current)
        for level in range(max(depth.values()) + 1):
            here = [p for p in network.populations if depth[p.name] == level]
            arrived = {p.name: {} for p in here}  # population -> connection -> unit -> list of contributions
            for p in here:
                for c, events, late in waiting.pop((tick, p.name), []):
                    deliver(paths[c.label], cells[p.name], events, late, tick, arrived[p.name], result)
            for p in here:
                emitted = turn(network, p, cells[p.name], tick, arrived[p.name], image_now, sample)
                result.events += [(tick, p.name, unit, value) for unit, value in emitted]
                result.input_events += len(emitted) if isinstance(p.neuron, Input) else 0
                if p.name in result.potentials:
                    result.potentials[p.name].append(list(cells[p.name].u))
                if p.name == network.output:
                    for unit, value in emitted:
                        counts[unit] += value
                for c in network.connections:
                    if c.source == p.name and emitted:
                        book_emitted(paths[c.label], emitted, tick, result)
                        for late in sorted(paths[c.label].own_delays()):
                            due = tick + delays[c.label] + late
                            waiting.setdefault((due, c.target), []).append((c, emitted, late))
            if level == depth[network.output]:
                output = list(counts) if network.readout == "spikes" else list(cells[network.output].u)
                result.outputs.append(output)
                result.stop_time = tick + 1
                fired = network.readout == "spikes" and any(counts)
                spent = sum(synops(result, t) for t in range(tick + 1))
                stopped = decides(policy, tick, output, fired, spent)
                if stopped:
                    break
        if stopped:
            result.reason = "cutoff"
            break

    for deliveries in waiting.values():
        for c, events, late in deliveries:
            for unit, _ in events:
                for kind, taps in paths[c.label].walk(unit)[1].items():
                    result.taps[c.label, kind]["in_flight"] += taps.by_delay[late]

    leaders = [k for k, value in enumerate(output) if value == max(output)]
    if network.readout == "spikes":
        u, threshold = cells[network.output].u, cells[network.output].parameter["threshold"]
        leaders.sort(key=lambda k: (-(u[k] - threshold[k]), k))
    result.prediction, result.tied = leaders[0], len(leaders) > 1
    result.bits = exact.bits
    return result


def open_account(network: Network, paths: dict[str, Path], ticks: int, result: Result) -> None:
    for label, path in paths.items():
        result.main_class[label] = path.main
        for kind in {path.main, "pool"} if any(path.pools) else {path.main}:
            result.taps[label, kind] = {k: [0] * ticks for k in (*EMITTED, "delivered", "dropped")}
            result.taps[label, kind]["in_flight"] = 0
    result.potentials = {p.name: [] for p in network.populations if isinstance(p.neuron, IF | Integrator)}


EMITTED = ("structural", "units", "effective", "effective_per_tick")


def synops(result: Result, tick: int) -> int:
    """Delivered SynOps of one tick, as far as it went."""
    return sum(taps["delivered"][tick] for (_, kind), taps in result.taps.items() if kind in ("ac", "mac"))


def image_currents(network: Network, paths: dict[str, Path], image, exact: Exactness, result: Result) -> dict:
    """The constant currents of the connections the image enters by, by own delay; books its multiplications."""
    shape = network.input.shape
    mean = per_unit(np.broadcast_to(network.mean if network.mean is not None else 0.0, shape[:1]), shape)
    std = per_unit(np.broadcast_to(network.std if network.std is not None else 1.0, shape[:1]), shape)
    pixels = [(float(x) - m) / s for x, m, s in zip(np.asarray(image).reshape(-1), mean, std, strict=True)]
    currents = {}
    for c in network.connections:
        if c.source != network.input.name:
            continue
        path = paths[c.label]
        terms = {late: [[] for _ in range(network[c.target].size)] for late in path.own_delays()}
        for unit, pixel in enumerate(pixels):
            arrivals, taps, delays = path.walk(unit)
            for (target, weight), late in zip(arrivals, delays, strict=True):
                terms[late][target].append(exact.term(weight * exact.term(pixel)))
            if path.weighted:
                result.macs_input += taps[path.main].structural
        for late, by_unit in terms.items():
            currents[c.label, late] = [exact.total(t) for t in by_unit]
    return currents


def book_emitted(path: Path, events: list[tuple[int, float]], tick: int, result: Result) -> None:
    label = path.connection.label
    for unit, value in events:
        for kind, taps in path.walk(unit)[1].items():
            counts = result.taps[label, kind]
            counts["structural"][tick] += taps.structural
            counts["units"][tick] += taps.structural * (int(value) if path.multiple else 1)
            counts["effective"][tick] += taps.effective
            if not (path.weighted and kind == path.main):
                counts["effective_per_tick"][tick] += taps.effective
    if path.weighted:
        distinct = {u for unit, value in events if value != 0 for u in path.reached(unit)}
        present = sum(w != 0 for u in distinct for _, w in path.fans[path.place][u])
        result.taps[label, path.main]["effective_per_tick"][tick] += present


def deliver(path: Path, cell: Cell, events: list, late: int, tick: int, arrived: dict, result: Result) -> None:
    """Add events to what arrived at the target, over synapses of one own delay, unless a refractory neuron drops it."""
    label = path.connection.label
    register = arrived.setdefault(label, {})
    for unit, value in events:
        arrivals, taps, delays = path.walk(unit)
        dropped = 0
        for (target, weight), own in zip(arrivals, delays, strict=True):
            if own != late:
                continue
            if cell.drops(target, tick):
                dropped += 1
            else:
                register.setdefault(target, []).append(cell.exact.term(weight * value))
        for kind, found in taps.items():
            lost = dropped if kind == path.main else 0  # a pool in front of a weight ends before the refractory neuron
            result.taps[label, kind]["delivered"][tick] += found.by_delay[late] - lost
            result.taps[label, kind]["dropped"][tick] += lost


def turn(network, population, cell, tick, arrived, image_now, sample) -> list[tuple[int, float]]:
    """The events a population emits in its turn: (unit, value)."""
    neuron, units = population.neuron, range(population.size)
    if isinstance(neuron, Input):
        return [] if network.encoding == "direct" else [(int(unit), 1.0) for t, unit in sample if t == tick]

    incoming = [c for c in network.connections if c.target == population.name]
    came = {u for register in arrived.values() for u in register}
    imaged = any(c.label in image_now for c in incoming)
    if isinstance(neuron, IF | Integrator):
        cell.did("neuron_update_clocked", population.size)
        cell.did("decay_clocked", population.size * cell.decaying())
    receptors = range(max(1, len(cell.current)))
    terms: list[list[list[float]]] = [[[] for _ in receptors] for _ in units]  # by unit and receptor
    constants = [0.0] * population.size
    for c in incoming:
        scale = per_unit(1.0 if c.scale is None else c.scale[tick], population.shape)
        constant = per_unit(c.bias if c.bias is not None else 0.0, population.shape)
        if c.shift is not None:
            constant = per_unit(c.shift[tick], population.shape)
        for u in units:
            sums = list(arrived.get(c.label, {}).get(u, ()))
            sums += [flowing[u] for flowing in image_now.get(c.label, ())]
            terms[u][c.receptor or 0] += [cell.exact.term(scale[u] * cell.exact.total(sums)), constant[u]]
            constants[u] += constant[u]
    inputs = [[cell.exact.total(terms[u][r]) for r in receptors] for u in units]
    current = [inputs[u][0] for u in units]
    # a constant does not arrive: the current of a refractory neuron takes it up, a membrane that discards does not
    hears = [isinstance(neuron, Synapse) or not cell.drops(u, tick) for u in units]
    present = [constants[u] != 0 and hears[u] for u in units]
    cell.did("bias", sum(present))
    driven = [u in came or present[u] or (imaged and hears[u]) for u in units]

    if isinstance(neuron, Relay):
        tables = [c for c in incoming if c.bias is not None or c.shift is not None]
        images = network.encoding == "direct" and any(c.source == network.input.name for c in incoming)
        return [(u, current[u]) for u in units if tables or images or u in came]
    if isinstance(neuron, Gate):
        return [(u, 1.0) for u in units if current[u] > neuron.level]
    if isinstance(neuron, Integrator):
        for u in units:
            cell.read(u, inputs[u], tick, driven[u])
        return []
    fired = [(u, float(cell.fire(u, inputs[u], tick, driven[u]))) for u in units]
    return [(u, spikes) for u, spikes in fired if spikes]
