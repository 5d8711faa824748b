"""Hypothesis strategies: small random networks and inputs whose every number is exactly representable.

Structure and options are drawn by hypothesis, so they shrink; the weights come from a drawn seed. With whole or dyadic
values no sum rounds, whatever its order, and two simulators are compared with `==`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st
from naive import fan_out

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
from eventsnn.neurons import IF, LI, LIF, CubaLI, CubaLIF, Gate, Input, Integrator, Neuron, Relay, Synapse


@dataclass(frozen=True)
class Case:
    """A network and what to feed it.

    samples: for "direct" arrays of the input's shape, for "events" lists of (tick, unit), sorted by tick. ticks: length
    of the run.
    """

    network: Network
    samples: tuple
    ticks: int


def chance(draw, percent: int) -> bool:
    """True in about so many of a hundred draws; shrinks to False."""
    return draw(st.integers(0, 99)) >= 100 - percent


def integers(draw, shape, low: int, high: int) -> np.ndarray:
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    return rng.integers(low, high + 1, shape).astype(np.float64)


def spread(draw, shape: tuple[int, ...], values: list[float]):
    """A parameter: one number, or an array by channel or by unit."""
    how = draw(st.sampled_from(["number", "number", "channel", "unit"]))
    if how == "number":
        return draw(st.sampled_from(values))
    size = shape[:1] if how == "channel" else shape
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    return rng.choice(np.array(values), size)


# ------------------------------------------------------------------------------------------------------------ neurons


def neurons(draw, shape: tuple[int, ...], multi_spike: bool, full: bool = False) -> IF:
    """An IF or LIF with any flags; with `full` also a CubaLIF, and neurons that are held or fire once."""
    options: dict = {
        "threshold": spread(draw, shape, [1.0, 2.0, 0.5, 3.0, 1.5]),
        "comparator": draw(st.sampled_from(["ge", "gt"])),
        "reset": draw(st.sampled_from(["subtract", "value", "none"])),
    }
    if chance(draw, 10):
        options["threshold"] = spread(draw, shape, [0.0, -1.0, 1.0])
    if options["reset"] == "subtract" and (chance(draw, 40) or np.any(np.asarray(options["threshold"]) <= 0)):
        options["reset_amount"] = spread(draw, shape, [1.0, 2.0, 0.5, 4.0])
    if chance(draw, 30):
        options["reset_value"] = spread(draw, shape, [0.0, -1.0, 0.5, -3.0])
    if chance(draw, 30):
        options["v0"] = spread(draw, shape, [0.5, -1.0, 1.0, 2.0, -4.0])
    if chance(draw, 30):
        options["v_min"] = spread(draw, shape, [0.0, -1.0, -0.5, -2.0])
    if chance(draw, 20):
        options["gain"] = spread(draw, shape, [0.5, 2.0, 1.0, -1.0])
    current_based = full and chance(draw, 35)
    if options["reset"] == "subtract" and multi_spike and chance(draw, 50):
        options["multi_spike"] = True
    else:
        if not current_based:
            options["reset_delay"] = chance(draw, 20)
        if chance(draw, 30):
            options["refractory"] = draw(st.integers(1, 3))
            options["refractory_input"] = draw(st.sampled_from(["discard", "integrate"]))
            if full and chance(draw, 30):
                options["refractory"] = math.inf
            held = current_based or options["refractory_input"] == "discard"
            if full and held and ((current_based and options["refractory"] != math.inf) or chance(draw, 50)):
                options["hold"] = True
    if current_based:
        return CubaLIF(**options, **leaks(draw, shape), **currents(draw, shape))
    if not chance(draw, 60):
        return IF(**options)
    return LIF(**options, leak=draw(st.sampled_from(["before", "after"])), **leaks(draw, shape))


def leaks(draw, shape: tuple[int, ...]) -> dict:
    """Where a membrane decays to, and how fast."""
    options = {"alpha": spread(draw, shape, [0.5, 0.25, 0.75, 1.0, 0.0])}
    if chance(draw, 30):
        options["rest"] = spread(draw, shape, [1.0, -1.0, 0.5, 4.0])
    return options


def currents(draw, shape: tuple[int, ...]) -> dict:
    """One synaptic current or two. What is not a tuple holds for both."""
    receptors = draw(st.sampled_from([1, 1, 2]))

    def by_receptor(values: list[float]):
        if receptors == 1 or chance(draw, 30):
            return spread(draw, shape, values)
        return tuple(spread(draw, shape, values) for _ in range(receptors))

    options = {"alpha_syn": by_receptor([0.5, 0.5, 0.0, 1.0, 0.75])}
    if chance(draw, 30):
        options["gain_syn"] = by_receptor([0.5, 2.0, 1.0, -1.0])
    if chance(draw, 30):
        options["gain_old"] = by_receptor([0.0, 0.5, 1.0, -1.0])
    if chance(draw, 20):
        options["i0"] = by_receptor([0.0, 0.5, 1.0, -1.0])
    if receptors == 2 and not any(isinstance(v, tuple) for v in options.values()):
        options["gain_syn"] = (1.0, -1.0)
    return options


def readouts(draw, shape: tuple[int, ...], readout: str, multi_spike: bool, full: bool) -> Neuron:
    """An output population: spikes, sums, or leaky potentials."""
    if readout == "spikes":
        return neurons(draw, shape, multi_spike, full)
    if readout == "sum":
        return Integrator()
    options = leaks(draw, shape)
    if chance(draw, 30):
        options["v0"] = spread(draw, shape, [0.5, -1.0, 1.0])
    if chance(draw, 30):
        options["gain"] = spread(draw, shape, [0.5, 2.0, -1.0])
    return CubaLI(**options, **currents(draw, shape)) if chance(draw, 50) else LI(**options)


# -------------------------------------------------------------------------------------------- maps and operations


def whole(step, shape: tuple[int, ...]) -> bool:
    """Whether a pool's coefficients are powers of two."""
    return all(math.frexp(k)[0] == 0.5 for row in fan_out(step, shape)[1].values() for _, k in row)


def fits(step, shape: tuple[int, ...]) -> bool:
    try:
        return min(step.out_shape(shape)) > 0
    except ValueError:
        return False


def pools(draw, shape: tuple[int, ...], kinds: tuple[str, ...] = ("sum", "average")) -> Pool:
    """A pool that fits the shape, with whole coefficients; the identity window when the draw does not fit."""
    dims = len(shape) - 1
    kernel = tuple(draw(st.integers(1, 4)) for _ in range(dims))
    stride = tuple(draw(st.integers(1, 3)) for _ in range(dims))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    kind = draw(st.sampled_from(kinds))
    dilation = tuple(draw(st.integers(1, 2)) for _ in range(dims)) if kind == "sum" and chance(draw, 20) else ()
    step = Pool(kernel, stride, padding, kind, draw(st.booleans()), draw(st.booleans()), dilation)
    if fits(step, shape) and whole(step, shape):
        return step
    return Pool((1,) * dims, stride, (0,) * dims, kind)


def spatial_maps(draw, shape: tuple[int, ...], percent: int) -> tuple[list, tuple[int, ...]]:
    """Zero to two maps of a grid, and the shape behind them."""
    steps: list = []
    for _ in range(2 if chance(draw, 20) else 1):
        if len(shape) == 1 or not chance(draw, percent):
            break
        kind = draw(st.sampled_from(["pool", "pool", "adaptive", "subsample"]))
        step: Pool | AdaptivePool | Subsample = pools(draw, shape)
        if kind == "adaptive":
            adaptive = AdaptivePool(tuple(draw(st.integers(1, n)) for n in shape[1:]))
            step = adaptive if whole(adaptive, shape) else step
        elif kind == "subsample":
            pads = (draw(st.integers(0, 1)), draw(st.integers(0, 1)))
            step = Subsample(tuple(draw(st.integers(1, 2)) for _ in shape[1:]), pads)
        steps.append(step)
        shape = step.out_shape(shape)
    return steps, shape


def convolutions(draw, shape: tuple[int, ...]) -> Conv:
    """A convolution that fits the shape."""
    groups = draw(st.sampled_from([g for g in range(1, shape[0] + 1) if shape[0] % g == 0]))
    kernel, stride, padding, dilation = [], [], [], []
    for n in shape[1:]:
        a, b = draw(st.integers(0, 2)), draw(st.integers(0, 2))
        k = draw(st.integers(1, min(5, n + a + b)))
        d = draw(st.integers(1, 2))
        dilation.append(d if d * (k - 1) < n + a + b else 1)
        kernel.append(k)
        padding.append((a, b))
        stride.append(draw(st.integers(1, 3)))
    outputs = groups * draw(st.integers(1, 2))
    weight = integers(draw, (outputs, shape[0] // groups, *kernel), -2, 3)
    return Conv(weight, tuple(stride), tuple(padding), tuple(dilation), groups)


def synapses(draw, source: tuple[int, ...], target: tuple[int, ...], full: bool = False) -> Sparse:
    """A random list of synapses, zero weights and repeated pairs included; with `full` also delays of their own."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    rows = rng.integers(0, 4, math.prod(source))
    n = int(rows.sum())
    weight = rng.integers(-2, 4, n).astype(np.float64)
    target_unit = rng.integers(0, math.prod(target), n)
    delay = None
    if full and chance(draw, 50):
        quickest = draw(st.integers(0, 1))
        delay = rng.integers(quickest, 4, n) * draw(st.sampled_from([1.0, 1]))
    return Sparse(np.concatenate([[0], np.cumsum(rows)]), target_unit, weight, target, delay)


def identities(draw, channels: int) -> Identity:
    if chance(draw, 40):
        return Identity(integers(draw, (channels,), -1, 3))
    return Identity(draw(st.sampled_from([1.0, 2.0, -1.0, 0.5])))


def routes(draw, shape: tuple[int, ...], plain: bool, full: bool = False) -> tuple[list, object, list, tuple[int, ...]]:
    """Maps before, operation, maps after, and the shape they lead to. plain: nothing after the operation."""
    if len(shape) > 1:
        kind = draw(st.sampled_from(["conv", "conv", "conv", "identity", "dense", "sparse"]))
    else:
        kind = draw(st.sampled_from(["dense", "identity", "sparse"]))
    before, inner = spatial_maps(draw, shape, 30)
    if kind == "conv":
        op = convolutions(draw, inner)
    elif kind == "identity":
        op = identities(draw, inner[0])
    elif kind == "dense":
        if len(inner) > 1:
            before = [*before, Flatten()]
            inner = (math.prod(inner),)
        op = Dense(integers(draw, (draw(st.integers(1, 5)), inner[0]), -2, 3))
    else:
        dims = draw(st.integers(0, 2))
        grid = (draw(st.integers(1, 3)), *(draw(st.integers(1, 4)) for _ in range(dims)))
        op = synapses(draw, inner, grid, full and not any(isinstance(m, Pool | AdaptivePool) for m in before))
    shape = op.out_shape(inner)
    plain = plain or (isinstance(op, Sparse) and op.delay is not None)
    after, shape = ([], shape) if plain else spatial_maps(draw, shape, 15)
    if isinstance(op, Sparse) and (after or any(isinstance(step, Pool | AdaptivePool) for step in before)):
        op = replace(op, delay=None)
    return before, op, after, shape


def bridges(draw, source: tuple[int, ...], target: tuple[int, ...], full: bool = False) -> tuple[list, object]:
    """Maps and an operation from one given shape to another."""
    kinds = ["sparse"]
    if source == target:
        kinds += ["identity", "identity"]
    if len(target) == 1:
        kinds += ["dense"]
    strides: tuple[int, ...] = ()
    if len(source) == len(target) > 1:
        options = [[s for s in (1, 2, 3) if -(-n // s) == m] for n, m in zip(source[1:], target[1:], strict=True)]
        if all(options):
            strides = tuple(draw(st.sampled_from(o)) for o in options)
            kinds += ["conv", "conv"] + (["subsample"] if source[0] <= target[0] else [])
    kind = draw(st.sampled_from(kinds))
    if kind == "identity":
        return [], identities(draw, source[0])
    if kind == "dense":
        size = math.prod(source)
        return ([Flatten()] if len(source) > 1 else []), Dense(integers(draw, (target[0], size), -2, 2))
    if kind == "subsample":
        front = draw(st.integers(0, target[0] - source[0]))
        return [Subsample(strides, (front, target[0] - source[0] - front))], Identity()
    if kind == "conv":
        kernel = tuple(draw(st.sampled_from([1, 3, 5])) for _ in strides)
        weight = integers(draw, (target[0], source[0], *kernel), -1, 2)
        return [], Conv(weight, strides, tuple((k // 2, k // 2) for k in kernel), (1,) * len(strides))
    return [], synapses(draw, source, target, full)


def extras(draw, shape: tuple[int, ...], ticks: int) -> dict:
    """Bias or per-tick tables of a connection."""
    found = {}
    if chance(draw, 20):
        found["scale"] = integers(draw, (ticks, shape[0]), -2, 4) / 2
    if chance(draw, 30):
        found["bias"] = integers(draw, shape[:1] if draw(st.booleans()) else shape, -1, 2) / 2
    elif chance(draw, 20):
        found["shift"] = integers(draw, (ticks + draw(st.integers(0, 1)), shape[0]), -2, 2)
    return found


def delays(draw) -> int:
    return draw(st.integers(1, 3)) if chance(draw, 25) else 0


# ----------------------------------------------------------------------------------------------------- whole networks


@st.composite
def cases(draw, encoding: str | None = None, readout: str | None = None, full: bool = False) -> Case:
    """A network with its samples.

    readout: "sum", "spikes", "potential" (which implies `full`) or None for any. full: everything there is, also what
    some readers of networks refuse or run otherwise: current-based neurons, leaky readouts, neurons that are held while
    refractory or fire once, delays by synapse.
    """
    full = full or readout == "potential"
    ticks = draw(st.integers(1, 6)) if not chance(draw, 10) else draw(st.integers(7, 30))
    encoding = encoding or draw(st.sampled_from(["direct", "events"]))
    recurrent = chance(draw, 35)
    shape = draw(
        st.one_of(
            st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6)),
            st.tuples(st.integers(1, 4), st.integers(1, 9)),
            st.tuples(st.integers(1, 6)),
        )
    )
    populations = [Population("input", shape, Input())]
    connections: list[Connection] = []
    several = not recurrent  # several spikes a tick multiply through a loop: one such population, and no loops
    for index in range(draw(st.integers(1, 3))):
        source = populations[-1] if chance(draw, 75) else draw(st.sampled_from(populations))
        kind = draw(st.sampled_from(["spiking"] * 6 + ["relay", "relay", "gate"]))
        name = f"p{index}"
        if kind == "gate" and len(source.shape) > 1 and is_binary(source, encoding):
            step = pools(draw, source.shape, ("sum",))
            level = draw(st.sampled_from([None, None, 1.0]))  # a maximum, or an AND
            populations.append(Population(name, step.out_shape(source.shape), Gate(threshold=level)))
            connections.append(Connection(source.name, name, before=(step,), delay=delays(draw)))
            same = [p for p in populations[:-1] if p.shape == populations[-1].shape and is_binary(p, encoding)]
            if same and chance(draw, 50):
                second, weight = draw(st.sampled_from(same)).name, draw(st.sampled_from([1.0, -1.0]))
                connections.append(Connection(second, name, Identity(weight), delay=delays(draw)))
            continue
        before, op, after, shape = routes(draw, source.shape, chance(draw, 50), full)
        neuron = Relay() if kind == "relay" else neurons(draw, shape, several, full)
        if isinstance(neuron, IF) and neuron.multi_spike:
            several = False
        if isinstance(neuron, IF) and neuron.discards:
            after, shape = [], op.out_shape(shape_before(before, source.shape))
            neuron = refitted(neuron, shape)
        populations.append(Population(name, shape, neuron))
        more = feeds(draw, neuron, shape, ticks)
        connections.append(Connection(source.name, name, op, tuple(before), tuple(after), delays(draw), **more))
        if chance(draw, 35):
            connections.append(bridge(draw, draw(st.sampled_from(populations[:-1])), populations[-1], ticks, 0, full))

    shape = (draw(st.integers(2, 4)),)
    readout = readout or draw(st.sampled_from(["sum", "spikes", "spikes", *(["potential"] if full else [])]))
    populations.append(Population("out", shape, readouts(draw, shape, readout, several, full)))
    connections.append(bridge(draw, populations[-2], populations[-1], ticks, 0, full))
    if chance(draw, 30):
        connections.append(bridge(draw, draw(st.sampled_from(populations[:-1])), populations[-1], ticks, 0, full))
    if readout == "spikes" and chance(draw, 25):
        populations.append(Population("beyond", (2,), neurons(draw, (2,), False, full)))
        connections.append(bridge(draw, populations[-2], populations[-1], ticks, 0, full))
    if recurrent:
        spiking = [p for p in populations if isinstance(p.neuron, IF)]
        for _ in range(draw(st.integers(1, 2)) if spiking else 0):
            ends = draw(st.sampled_from(spiking)), draw(st.sampled_from(spiking))
            connections.append(bridge(draw, *ends, ticks, 1, full))

    options: dict = {"encoding": encoding, "ticks": ticks, "tick_seconds": 1e-3}
    inputs = populations[0].shape
    if encoding == "direct" and chance(draw, 30):
        options["mean"], options["std"] = (1.0,), tuple(integers(draw, inputs[:1], 1, 2))
    network = Network(populations=tuple(populations), connections=tuple(connections), output="out", **options)
    count = draw(st.integers(1, 3))
    if encoding == "direct":
        samples = tuple(integers(draw, inputs, -1, 3) for _ in range(count))
    else:
        one = st.tuples(st.integers(0, ticks), st.integers(0, math.prod(inputs) - 1))
        samples = tuple(sorted(draw(st.lists(one, max_size=12))) for _ in range(count))
    return Case(network, samples, ticks)


def is_binary(population: Population, encoding: str) -> bool:
    neuron = population.neuron
    if isinstance(neuron, Input):
        return encoding == "events"
    return isinstance(neuron, Gate) or (isinstance(neuron, IF) and not neuron.multi_spike)


def shape_before(steps: list, shape: tuple[int, ...]) -> tuple[int, ...]:
    for step in steps:
        shape = step.out_shape(shape)
    return shape


def refitted(neuron: IF, shape: tuple[int, ...]) -> IF:
    """The neuron for another shape: an array parameter falls back to its first number."""

    def fitted(value):
        if isinstance(value, tuple):
            return tuple(fitted(v) for v in value)
        return (
            float(value.flat[0]) if isinstance(value, np.ndarray) and value.shape not in (shape, shape[:1]) else value
        )

    return type(neuron)(**{name: fitted(getattr(neuron, name)) for name in neuron.__dataclass_fields__})


def feeds(draw, neuron: Neuron, shape: tuple[int, ...], ticks: int) -> dict:
    """Which of its currents a connection feeds, and what else it brings: only the first takes a bias or a table."""
    if isinstance(neuron, Synapse) and neuron.receptors == 2 and chance(draw, 50):
        return {"receptor": 1}
    return extras(draw, shape, ticks) | ({"receptor": 0} if isinstance(neuron, Synapse) and chance(draw, 10) else {})


def bridge(
    draw, source: Population, target: Population, ticks: int, least_delay: int, full: bool = False
) -> Connection:
    """One more connection between two populations that are there already."""
    if isinstance(target.neuron, Gate):
        raise AssertionError("a gate takes only windows of binary events")
    before, op = bridges(draw, source.shape, target.shape, full)
    own = op.delay if isinstance(op, Sparse) else None
    slow = own is not None and own.size > 0 and own.min() > 0  # no loop needs another delay then
    delay = max(0 if slow else least_delay, delays(draw))
    more = feeds(draw, target.neuron, target.shape, ticks) if chance(draw, 40) else {}
    return Connection(source.name, target.name, op, tuple(before), (), delay, **more)
