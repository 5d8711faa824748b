"""A plain PyTorch stepper of any `Network`: a loop over time, dense tensors, a batch at once.

It is what a user would write to run the same folded weights in PyTorch, and is compared with the engine spike for spike
in `test_torch_oracle.py`. `first_differences` says of every difference whether rounding can explain it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from eventsnn.network import AdaptivePool, Connection, Conv, Dense, Flatten, Identity, Network, Pool, Sparse, Subsample
from eventsnn.neurons import IF, LI, LIF, Gate, Input, Integrator, Neuron, Relay, Synapse


@dataclass
class Stepped:
    """What the stepper saw; every tensor is (ticks, N, *shape) of a population.

    emitted: spikes (multiplicities of multi-spike neurons, values of relays). potentials: membranes at the end of each
    tick. tested: the membrane that was compared with the threshold, minus the threshold. outputs: (ticks, N, classes).
    """

    emitted: dict[str, torch.Tensor]
    potentials: dict[str, torch.Tensor]
    tested: dict[str, torch.Tensor]
    outputs: torch.Tensor


# ---------------------------------------------------------------------------------------------------- one connection


def pool(x: torch.Tensor, step: Pool) -> torch.Tensor:
    two = len(step.kernel) == 2
    dilated = any(d > 1 for d in step.dilation)
    if step.kind == "average":
        average = F.avg_pool2d if two else F.avg_pool1d
        return average(x, step.kernel, step.stride, step.padding, step.ceil_mode, step.count_include_pad)
    if not dilated:
        x, step = (x, step) if two else (x[..., None, :], raised(step))
        x = F.avg_pool2d(x, step.kernel, step.stride, step.padding, step.ceil_mode, divisor_override=1)
        return x if two else x.squeeze(-2)
    # a dilated window of ones, as a convolution of every channel by itself; spare padding stands in for ceil_mode
    size = step.out_shape((1, *x.shape[2:]))[1:]
    spare = [s if step.ceil_mode else 0 for s in step.stride]
    pads = [n for p, extra in zip(reversed(step.padding), reversed(spare)) for n in (p, p + extra)]
    ones = torch.ones((x.shape[1], 1, *step.kernel), dtype=x.dtype)
    convolve = F.conv2d if two else F.conv1d
    x = convolve(F.pad(x, pads), ones, None, step.stride, 0, step.dilation, x.shape[1])
    return x[(..., *(slice(n) for n in size))]


def raised(step: Pool) -> Pool:
    """A one-dimensional pool as a two-dimensional one of height 1."""
    return Pool(
        (1, *step.kernel), (1, *step.stride), (0, *step.padding), step.kind, step.ceil_mode, step.count_include_pad
    )


def apply_map(x: torch.Tensor, step: Pool | AdaptivePool | Subsample | Flatten) -> torch.Tensor:
    if isinstance(step, Pool):
        return pool(x, step)
    if isinstance(step, AdaptivePool):
        return (F.adaptive_avg_pool2d if len(step.size) == 2 else F.adaptive_avg_pool1d)(x, step.size)
    if isinstance(step, Flatten):
        return x.flatten(1)
    x = x[(..., *(slice(None, None, s) for s in step.stride))]
    return F.pad(x, (*(0,) * 2 * (x.ndim - 2), *step.channels))


def apply_op(x: torch.Tensor, op, absolute: bool = False, ones: bool = False) -> torch.Tensor:
    """The weight operation on (N, *shape); for error bounds with |weights|, or with ones in place of the weights."""

    def weights(array) -> torch.Tensor:
        w = torch.as_tensor(np.asarray(array), dtype=x.dtype)
        return (w != 0).to(x.dtype) if ones else w.abs() if absolute else w

    if isinstance(op, Identity):
        w = weights(op.weight)
        return x * (w.reshape(-1, *(1,) * (x.ndim - 2)) if w.ndim else w)
    if isinstance(op, Dense):
        return F.linear(x, weights(op.weight))
    if isinstance(op, Conv):
        x = F.pad(x, [n for pair in reversed(op.padding) for n in pair])
        convolve = F.conv2d if len(op.stride) == 2 else F.conv1d
        return convolve(x, weights(op.weight), None, op.stride, 0, op.dilation, op.groups)
    source = np.repeat(np.arange(len(op.indptr) - 1), np.diff(op.indptr))
    terms = x.flatten(1)[:, torch.as_tensor(source)] * weights(op.weight)
    out = torch.zeros((len(x), int(np.prod(op.shape))), dtype=x.dtype)
    return out.index_add(1, torch.as_tensor(op.target), terms).reshape(-1, *op.shape)


def through(x: torch.Tensor, c: Connection, absolute: bool = False, ones: bool = False) -> torch.Tensor:
    for step in c.before:
        x = apply_map(x, counted(step, x) if ones else step)
    x = apply_op(x, c.op, absolute, ones)
    for step in c.after:
        x = apply_map(x, counted(step, x) if ones else step)
    return x


def lanes(c: Connection) -> list[tuple[int, Connection]]:
    """The connection by the ticks it takes: once, or once for each delay that synapses have of their own."""
    if not isinstance(c.op, Sparse) or c.op.delay is None:
        return [(c.delay, c)]
    found = []
    for own in np.unique(c.op.delay):
        op = replace(c.op, weight=np.where(c.op.delay == own, c.op.weight, 0.0), delay=None)
        found.append((c.delay + int(own), replace(c, op=op)))
    return found


def counted(step, x: torch.Tensor):
    """An average that counts its terms is a sum; an adaptive one is widened to windows that reach at least as far."""
    if isinstance(step, AdaptivePool):
        n = tuple(x.shape[2:])
        stride = tuple(size // m for size, m in zip(n, step.size, strict=True))
        kernel = tuple(size - (m - 1) * s for size, m, s in zip(n, step.size, stride, strict=True))
        return Pool(kernel, stride, (0,) * len(n), "sum")
    return replace(step, kind="sum") if isinstance(step, Pool) else step


def pools_maximum(network: Network, gate: str) -> bool:
    """Whether a gate is the OR of all that reaches it, and so a maximum."""
    into = (c for c in network.connections if c.target == gate)
    return not network[gate].neuron.level and all(c.op.weight == 1 for c in into)


def window_maximum(x: torch.Tensor, c: Connection) -> torch.Tensor:
    """Spiking max-pool of a connection into a gate."""
    for step in (*c.before, *c.after):
        dilation = step.dilation or (1,) * len(step.kernel)
        maximum = F.max_pool2d if len(step.kernel) == 2 else F.max_pool1d
        x = maximum(x, step.kernel, step.stride, step.padding, dilation, step.ceil_mode).clamp(min=0)
    return x


def per_channel(values, dims: int, dtype: torch.dtype) -> torch.Tensor:
    """A number, (C,) or (C, ...) array, ready to meet (N, C, ...)."""
    t = torch.as_tensor(np.asarray(values), dtype=dtype)
    return t if t.ndim in (0, dims) else t.reshape(-1, *(1,) * (dims - 1))


# -------------------------------------------------------------------------------------------------------- populations


def start(neuron: Neuron, zeros: torch.Tensor) -> dict:
    """The state of a layer before the first tick."""
    dims, dtype = zeros.ndim - 1, zeros.dtype
    state = {"u": zeros + per_channel(getattr(neuron, "v0", 0.0), dims, dtype), "refractory": zeros, "last": zeros}
    if isinstance(neuron, Synapse):
        state["i"] = [zeros + per_channel(neuron.current(r).i0, dims, dtype) for r in range(neuron.receptors)]
    return state


def drive(neuron: Neuron, state: dict, inputs: list[torch.Tensor]) -> torch.Tensor:
    """What a tick adds to the membranes; synaptic currents take up the input of their receptor."""
    dims, dtype = inputs[0].ndim - 1, inputs[0].dtype
    gain = per_channel(getattr(neuron, "gain", 1.0), dims, dtype)
    if not isinstance(neuron, Synapse):
        return gain * inputs[0]
    taken = torch.zeros_like(inputs[0])
    for r, came in enumerate(inputs):
        alpha, add, of_old = (
            per_channel(getattr(neuron.current(r), name), dims, dtype) for name in ("alpha_syn", "gain_syn", "gain_old")
        )
        old = state["i"][r]
        state["i"][r] = alpha * old + add * came
        taken = taken + gain * state["i"][r] + of_old * old
    return taken


def readout_step(neuron: Integrator, state: dict, inputs: list[torch.Tensor]) -> None:
    """One tick of a layer that only adds up."""
    u, dims = state["u"], inputs[0].ndim - 1
    if isinstance(neuron, LI):
        alpha, rest = (per_channel(x, dims, u.dtype) for x in (neuron.alpha, neuron.rest))
        u = rest + alpha * (u - rest)
    state["u"] = u + drive(neuron, state, inputs)


def neuron_step(neuron: IF, state: dict, arrived: list[torch.Tensor], constant: list[torch.Tensor]) -> torch.Tensor:
    """One tick of a layer of neurons; returns its spikes. arrived: events, constant: biases and images, by receptor."""
    dims, dtype = arrived[0].ndim - 1, arrived[0].dtype

    def p(name: str) -> torch.Tensor:
        return per_channel(getattr(neuron, name), dims, dtype)

    if neuron.reset_amount is None:
        amount = p("threshold")
    else:
        amount = p("reset_amount")

    def reset(u: torch.Tensor, spikes: torch.Tensor) -> torch.Tensor:
        if neuron.reset == "subtract":
            return u - amount * spikes
        if neuron.reset == "value":
            return torch.where(spikes > 0, p("reset_value"), u)
        return u

    def at_threshold(u: torch.Tensor) -> torch.Tensor:
        return u > p("threshold") if neuron.comparator == "gt" else u >= p("threshold")

    u, resting = state["u"], state["refractory"] > 0
    held, before = resting & (bool(neuron.hold) or neuron.refractory == float("inf")), u
    if neuron.refractory_input == "discard":
        arrived = [torch.where(resting, 0.0, x) for x in arrived]
        if not isinstance(neuron, Synapse):  # a current takes up what is constant
            constant = [torch.where(resting, 0.0, x) for x in constant]
    if isinstance(neuron, LIF) and neuron.leak == "before":
        u = p("rest") + p("alpha") * (u - p("rest"))
    u = u + drive(neuron, state, [a + b for a, b in zip(arrived, constant, strict=True)])
    if neuron.v_min is not None:
        u = torch.maximum(u, p("v_min"))
    u = torch.where(held, before, u)
    if neuron.reset_delay:
        u = reset(u, state["last"])
    state["tested"] = u - p("threshold")
    spikes = (at_threshold(u) & ~resting).to(dtype)
    if not neuron.reset_delay:
        u = reset(u, spikes)
    again = spikes
    while neuron.multi_spike and again.any():
        again = again * at_threshold(u).to(dtype)
        u = reset(u, again)
        spikes = spikes + again
    state["refractory"] = torch.where(spikes > 0, neuron.refractory, torch.clamp(state["refractory"] - 1, min=0))
    state["last"] = spikes
    if isinstance(neuron, LIF) and neuron.leak == "after":
        u = torch.where(held, u, p("rest") + p("alpha") * (u - p("rest")))
    state["u"] = u
    return spikes


def cascade(network: Network) -> list[str]:
    """Populations in an order in which every connection without delay goes forward."""
    order: list[str] = []
    waiting = [p.name for p in network.populations]
    while waiting:
        for name in waiting:
            if all(c.source in order for c in network.connections if c.target == name and c.least_delay == 0):
                order.append(name)
                waiting.remove(name)
                break
    return order


def step(network: Network, inputs: np.ndarray, ticks: int, dtype: torch.dtype = torch.float64) -> Stepped:
    """Run a batch for some ticks.

    inputs: images (N, *input shape) for "direct", before mean and std; event counts (ticks, N, *input shape) for
    "events".
    """
    direct = network.encoding == "direct"
    x = torch.as_tensor(np.asarray(inputs), dtype=dtype)
    if direct and network.mean is not None:
        x = x - per_channel(network.mean, x.ndim - 1, dtype)
    if direct and network.std is not None:
        x = x / per_channel(network.std, x.ndim - 1, dtype)
    batch = len(x) if direct else x.shape[1]
    zeros = {p.name: torch.zeros((batch, *p.shape), dtype=dtype) for p in network.populations}
    states = {p.name: start(p.neuron, zeros[p.name]) for p in network.populations}
    emitted: dict[str, list[torch.Tensor]] = {p.name: [] for p in network.populations}
    potentials: dict[str, list[torch.Tensor]] = {}
    tested: dict[str, list[torch.Tensor]] = {}

    with torch.no_grad():
        for t in range(ticks):
            for name in cascade(network):
                neuron = network[name].neuron
                if isinstance(neuron, Input):
                    emitted[name].append(x if direct else x[t])
                    continue
                dims, receptors = zeros[name].ndim - 1, neuron.receptors if isinstance(neuron, Synapse) else 1
                arrived, constant = [zeros[name]] * receptors, [zeros[name]] * receptors
                for c in network.connections:
                    if c.target != name:
                        continue
                    for ticks, lane in lanes(c):
                        if t < ticks:
                            continue
                        past = emitted[c.source][t - ticks]
                        if isinstance(neuron, Gate) and pools_maximum(network, name):
                            arrived[0] = torch.maximum(arrived[0], window_maximum(past, c))
                            continue
                        arriving = through(past, lane)
                        if c.scale is not None:
                            arriving = arriving * per_channel(c.scale[t], dims, dtype)
                        into = constant if direct and c.source == network.input.name else arrived
                        into[c.receptor or 0] = into[c.receptor or 0] + arriving
                    if c.shift is not None:
                        constant[0] = constant[0] + per_channel(c.shift[t], dims, dtype)
                    if c.bias is not None:
                        constant[0] = constant[0] + per_channel(c.bias, dims, dtype)
                if isinstance(neuron, Relay):
                    emitted[name].append(arrived[0] + constant[0])
                elif isinstance(neuron, Gate):
                    emitted[name].append((arrived[0] > neuron.level).to(dtype))
                elif isinstance(neuron, Integrator):
                    readout_step(neuron, states[name], [a + b for a, b in zip(arrived, constant, strict=True)])
                    emitted[name].append(zeros[name])
                else:
                    emitted[name].append(neuron_step(neuron, states[name], arrived, constant))
                    tested.setdefault(name, []).append(states[name]["tested"])
                if isinstance(neuron, IF | Integrator):
                    potentials.setdefault(name, []).append(states[name]["u"])

    seen = {name: torch.stack(values) for name, values in emitted.items()}
    membranes = {name: torch.stack(values) for name, values in potentials.items()}
    output = network.output
    outputs = seen[output].cumsum(0) if network.readout == "spikes" else membranes[output]
    return Stepped(seen, membranes, {n: torch.stack(v) for n, v in tested.items()}, outputs.flatten(2))


# --------------------------------------------------------------------------------------------------------- differences


class Difference(NamedTuple):
    """A neuron that fired in one run and not in the other, for the first time and with the same spikes at its inputs.

    margin: |membrane - threshold| in the stepper. bound: 8 n eps sum|terms|, what rounding can do to that membrane.
    """

    sample: int
    tick: int
    population: str
    neuron: int
    margin: float
    bound: float

    @property
    def is_rounding_tie(self) -> bool:
        return self.margin <= self.bound


def first_differences(network: Network, recorded: dict[str, np.ndarray], stepped: Stepped) -> list[Difference]:
    """Where two runs part for the first time: differences that no earlier difference explains.

    recorded: population -> (ticks, N, *shape) of what spiking populations and gates emitted. The bound walks the
    network a second time with magnitudes instead of values.
    """
    eps = torch.finfo(stepped.outputs.dtype).eps
    differs = {}
    for name, values in stepped.emitted.items():
        differs[name] = torch.zeros_like(values, dtype=torch.bool)
        if isinstance(network[name].neuron, IF | Gate):
            differs[name] = torch.as_tensor(np.asarray(recorded[name])).to(values.dtype) != values
    terms = membrane_terms(network, stepped)

    found = []
    explained = {name: torch.zeros_like(values[0]) for name, values in differs.items()}
    for t in range(len(stepped.outputs)):
        for name in cascade(network):
            neuron = network[name].neuron
            reached = torch.zeros_like(explained[name])
            for c in network.connections:
                for ticks, lane in lanes(bare(c)) if c.target == name else ():
                    if t >= ticks:
                        came = differs[c.source][t - ticks].to(torch.float64)
                        reached |= through(came, lane, ones=True) > 0
            if isinstance(neuron, Relay):
                differs[name][t] = reached  # its sum differs where a term of it does
            if isinstance(neuron, IF):
                reached |= explained[name]
                explained[name] = reached | differs[name][t]
            elif not isinstance(neuron, Gate):
                continue
            for where in torch.nonzero(differs[name][t] & ~reached).tolist():
                margin, bound = float("inf"), 0.0  # a gate does not round
                if isinstance(neuron, IF):
                    size, count = (values[(t, *where)].item() for values in terms[name])
                    margin, bound = stepped.tested[name][(t, *where)].abs().item(), 8 * count * eps * size
                unit = int(np.ravel_multi_index(where[1:], network[name].shape))
                found.append(Difference(where[0], t, name, unit, margin, bound))
    return found


def bare(c: Connection) -> Connection:
    """The connection without bias and tables, for questions of who reaches whom."""
    return Connection(c.source, c.target, c.op, c.before, c.after, c.delay, name=c.label)


def membrane_terms(network: Network, stepped: Stepped) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Sum of |terms| in every membrane when it was tested, and the number of these terms: (ticks, N, *shape) each.

    A term is one weight times one event, a bias or shift, the rest, a reset, v0 or the threshold. A relay hands the
    terms of its sum on to its targets; a spike is exact.
    """
    emitted: dict[str, list] = {p.name: [] for p in network.populations}  # (sum of |terms|, number of terms) per tick
    membrane: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    currents: dict[tuple[str, int], tuple[torch.Tensor, torch.Tensor]] = {}
    tested: dict[str, list] = {}
    for t in range(len(stepped.outputs)):
        for name in cascade(network):
            neuron, dims = network[name].neuron, len(network[name].shape)
            spikes = stepped.emitted[name][t].to(torch.float64)
            zero = torch.zeros_like(spikes)

            def p(value, dims: int = dims) -> torch.Tensor:
                return per_channel(np.abs(value), dims, torch.float64)

            receptors = neuron.receptors if isinstance(neuron, Synapse) else 1
            sizes, counts = [zero] * receptors, [zero] * receptors
            for c in network.connections:
                if c.target != name:
                    continue
                r = c.receptor or 0
                for ticks, lane in lanes(c):
                    if t < ticks:
                        continue
                    past, behind = emitted[c.source][t - ticks]
                    scale = 1.0 if c.scale is None else p(c.scale[t])
                    sizes[r] = sizes[r] + scale * through(past, lane, absolute=True)
                    counts[r] = counts[r] + through((past != 0).to(torch.float64), lane, ones=True) + behind.max()
                for table in (c.bias, None if c.shift is None else c.shift[t]):
                    if table is not None:
                        sizes[r], counts[r] = sizes[r] + p(table), counts[r] + 1
            size, count = sizes[0], counts[0]
            emitted[name].append((size, count) if isinstance(neuron, Relay) else (spikes.abs(), zero))
            if not isinstance(neuron, IF):
                continue
            gain = p(neuron.gain)
            if isinstance(neuron, Synapse):  # the terms of its currents, now and before, are those of the membrane
                size, count, gain = zero, zero, 1.0
                for r in range(receptors):
                    one = neuron.current(r)
                    before, terms = currents.get((name, r), (zero + p(one.i0), zero + 1))
                    now = p(one.alpha_syn) * before + p(one.gain_syn) * sizes[r], terms + counts[r] + 1
                    size = size + p(neuron.gain) * now[0] + p(one.gain_old) * before
                    count = count + now[1] + terms
                    currents[name, r] = now
            size_before, count_before = membrane.get(name, (zero + p(neuron.v0), zero + 1))
            if isinstance(neuron, LIF):
                size_before, count_before = p(neuron.alpha) * size_before + 2 * p(neuron.rest), count_before + 2
            size, count = size_before + gain * size, count_before + count
            tested.setdefault(name, []).append((size + p(neuron.threshold), count + 1))
            if neuron.reset == "value":  # a hard reset forgets
                size = torch.where(spikes > 0, p(neuron.reset_value), size)
                count = torch.where(spikes > 0, 1.0, count)
            if neuron.reset == "subtract":
                size, count = size + p(neuron.subtracts) * spikes, count + spikes
            membrane[name] = (size, count)
    return {name: tuple(torch.stack(x) for x in zip(*pairs, strict=True)) for name, pairs in tested.items()}
