"""Continuous time against the reference of `exact.py`, against closed forms, against published spike times.

What the engine promises (`docs/semantics.md`): the spikes of exact arithmetic, in their order and multiplicity, at times
within max(1e-12, 100 kappa eps) relative, kappa being the condition number of the time; |V - threshold| <= 64 eps
sum|terms| at every one of them. Where exact arithmetic itself decides by less than a billionth, or float64 cannot know a
time to a billionth, a case is drawn again and counted.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import exact
import numpy as np
import pytest
from exact import EPS, GRAZING, Spike, mpf

import eventsnn as es
from eventsnn.inputs import Events
from eventsnn.network import Connection, Dense, Identity, Network, Population
from eventsnn.neurons import IF, LIF, Input, Integrator, Relay

CHUNKS, CHUNK = 10, 50
MOST_SPIKES = 50


# ------------------------------------------------------------------------------------------------------ random networks


@dataclass(frozen=True)
class Case:
    """A network, its input events (microseconds, unit), and seconds to run."""

    network: Network
    events: list[tuple[int, int]]
    duration: float


def chance(rng, percent: int) -> bool:
    return rng.random() * 100 < percent


def random_case(rng) -> Case:
    """A recurrent network of up to three spiking populations, driven by events on whole microseconds and by biases."""
    tick = float(rng.choice([5e-4, 2.5e-4, 1.3e-4]))
    length = float(rng.uniform(0.008, 0.05))
    inputs = int(rng.integers(1, 5))
    populations = [Population("input", (inputs,), Input())]
    connections: list[Connection] = []
    for index in range(int(rng.choice([1, 2, 3], p=[0.2, 0.4, 0.4]))):
        before = populations[-1]
        size = int(rng.integers(1, 7))
        if index and chance(rng, 15):
            populations.append(Population(f"relay{index}", (before.shape[0],), Relay()))
            weight = Identity(rng.normal(1, 0.3, before.shape[0]))
            connections.append(Connection(before.name, f"relay{index}", weight, **random_delay(rng, 0, tick)))
            before = populations[-1]
        neuron, bias = random_neuron(rng, size, length, tick)
        populations.append(Population(f"p{index}", (size,), neuron))
        connections.append(random_connection(rng, before, populations[-1], 0, tick, bias))
        if index and chance(rng, 40):
            connections.append(random_connection(rng, populations[int(rng.integers(0, 2))], populations[-1], 0, tick))
    spiking = [p for p in populations if isinstance(p.neuron, IF)]
    for _ in range(int(rng.choice(3, p=[0.3, 0.65, 0.05]))):
        source, target = (spiking[int(rng.integers(len(spiking)))] for _ in range(2))
        connections.append(random_connection(rng, source, target, 1, tick))
    output = populations[-1].name
    if chance(rng, 30):
        populations.append(Population("sum", (2,), Integrator()))
        connections.append(random_connection(rng, populations[-2], populations[-1], 0, tick, rng.normal(0, 1, 2)))
        output = "sum"
    network = Network(
        populations=tuple(populations),
        connections=tuple(connections),
        output=output,
        encoding="events",
        tick_seconds=tick,
    )
    count = int(rng.integers(0, 30))
    times = rng.integers(0, math.floor(length * 1e6), count)
    if chance(rng, 50):  # many arrivals in few instants
        times = rng.choice(times[: count // 4 + 1], count) if count else times
    if chance(rng, 10):
        times[: count // 5] = 0
    units = rng.integers(0, inputs, count)
    return Case(network, sorted(zip(times.tolist(), units.tolist())), length)


def random_delay(rng, least: int, tick: float) -> dict:
    """No delay, ticks, or (mostly) a real number of seconds.

    Two ways of the same length, a + b and b + a, bring arrivals together in real arithmetic, but perhaps not in float64.
    Most delays are therefore multiples of 2^-20 microseconds, which seldom make a sum of times round.
    """
    if not least and chance(rng, 50):
        return {}
    delay = int(rng.integers(1, 4))
    if chance(rng, 20):
        return {"delay": delay}
    seconds = float(rng.uniform(1e-4, 2e-3))
    while least or chance(rng, 90):
        fine = round(seconds * 1e6 * 2**20) / 2**20
        if fine / 1e6 * 1e6 == fine:
            return {"delay": delay, "delay_seconds": fine / 1e6}
        seconds = float(rng.uniform(1e-4, 2e-3))
    return {"delay": delay, "delay_seconds": seconds}


def random_connection(rng, source, target, least, tick, bias=None) -> Connection:
    inputs, outputs = source.shape[0], target.shape[0]
    if inputs == outputs and chance(rng, 25):
        op = Identity(rng.normal(0.3, 0.8, inputs))
    else:
        weight = rng.normal(0.25, 0.7, (outputs, inputs)) * (rng.random((outputs, inputs)) < 0.8)
        op = Dense(weight)
    return Connection(source.name, target.name, op, bias=bias, **random_delay(rng, least, tick))


def random_neuron(rng, size: int, length: float, tick: float) -> tuple[IF, np.ndarray | None]:
    """Neurons of any options, and biases that make some of them fire by themselves."""

    def each(low: float, high: float):
        return float(rng.uniform(low, high)) if chance(rng, 50) else rng.uniform(low, high, size)

    options: dict = {"threshold": each(0.5, 2), "comparator": str(rng.choice(["ge", "gt"]))}
    options["reset"] = str(rng.choice(["subtract", "subtract", "subtract", "value"]))
    if options["reset"] == "subtract" and chance(rng, 40):
        options["reset_amount"] = each(0.3, 2)
    if options["reset"] == "value":
        options["reset_value"] = each(-0.5, 0.4)
    if chance(rng, 40):
        options["refractory"] = int(rng.integers(1, 5))
        options["refractory_input"] = str(rng.choice(["discard", "integrate"]))
    if chance(rng, 30):
        options["v0"] = each(-1, 2.5)
    if chance(rng, 20):
        options["gain"] = each(0.5, 1.5) if chance(rng, 70) else rng.normal(0, 1, size)
    if chance(rng, 25):
        options["v_min"] = each(-1, 0)
    leaky, driven = chance(rng, 60), chance(rng, 60)
    bias = None
    if driven and not leaky:
        bias = rng.uniform(-1, 5, size) * tick / length
    if not leaky:
        return IF(**options), bias
    options["alpha"] = each(0.5, 0.98)
    slowest = -tick / np.log(np.max(options["alpha"]))
    if chance(rng, 40):
        slowest = options["tau"] = float(rng.uniform(2e-3, 3e-2))
    if chance(rng, 30):
        # neurons that fire by themselves, all alike, would do so in step as far as rounding lets them
        options["rest"] = each(-0.5, 0.5) if chance(rng, 70) else rng.uniform(0.5, 3, size)
    if driven:
        bias = rng.uniform(-0.5, 3, size) * tick / slowest
    return LIF(**options), bias


class Drawn(NamedTuple):
    """A case and its reference. kappa: of each spike. grazing: how many draws before it were too close to call."""

    case: Case
    net: exact.Plain
    found: exact.Result
    kappa: list[float]
    grazing: int


@cache
def drawn(seed: int) -> Drawn:
    """The case of a seed, cut after 50 spikes, and what exact arithmetic makes of it."""
    grazing = 0
    for attempt in range(20):
        case = random_case(np.random.default_rng([seed, attempt]))
        net = exact.plain(case.network)
        found = exact.run(net, case.events, mpf(case.duration) * 10**6, limit=MOST_SPIKES)
        if found.cut == 0:
            continue  # too much happens at the start
        if found.cut is not None:
            earlier = [0, *(s.time for s in found.spikes if s.time < found.cut)]
            case = replace(case, duration=float((earlier[-1] + found.cut) / 2) / 1e6)
            found = exact.run(net, case.events, mpf(case.duration) * 10**6)
        if found.closest >= GRAZING:
            kappa = exact.conditions(net, case.events, mpf(case.duration) * 10**6, found, seed)
            if found.closest > 1000 * EPS * max(kappa, default=0):
                return Drawn(case, net, found, kappa, grazing)
        grazing += 1
    raise AssertionError(f"seed {seed}: nothing but close calls")


# ------------------------------------------------------------------------------------------------- the reference itself


def fine_steps(network: Network, events, duration_us: int, h: float) -> dict[tuple[str, int], list[tuple[float, int]]]:
    """Spikes of every neuron by stepping: whatever happens within a step of h microseconds happens at its end.

    Shares nothing with the reference: dense matrices, numpy floats, no queue, no predicted crossing.
    """
    tick = network.tick_seconds * 1e6
    depth = network.depths()
    order = sorted((p for p in network.populations), key=lambda p: depth[p.name])
    steps = math.ceil(duration_us / h)
    buffer = {p.name: {} for p in order}  # population -> step -> sum of what arrives
    matrices = []
    for c in network.connections:
        n = network[c.source].shape[0]
        weight = c.op.weight if isinstance(c.op, Dense) else np.diag(np.broadcast_to(c.op.weight, n))
        delay = c.delay * tick if c.delay_seconds is None else c.delay_seconds * 1e6
        matrices.append((c, weight, round(delay / h)))
    state = {}
    for p in order:
        m, size = p.neuron, p.shape[0]
        bias = sum((c.bias for c in network.connections if c.target == p.name and c.bias is not None), np.zeros(size))
        if isinstance(m, IF):
            tau = None
            if isinstance(m, LIF):
                tau = m.tau * 1e6 if m.tau is not None else -tick / np.log(m.alpha)
            level = (m.rest + tau * m.gain * bias / tick) if tau is not None else None
            off = m.rest * np.ones(size) if tau is not None else None
            state[p.name] = [np.ones(size) * m.v0, tau, level, off, m.gain * bias / tick, np.full(size, -1.0)]
    spikes: dict = {}
    fed = Counter((math.ceil(t / h), u) for t, u in events)
    for step in range(steps):
        for p in order:
            m, size = p.neuron, p.shape[0]
            arrived = buffer[p.name].pop(step, None)
            if isinstance(m, Input):
                out = np.array([fed.get((step, u), 0) for u in range(size)], float)
            elif isinstance(m, Relay):
                out = np.zeros(size) if arrived is None else arrived
            elif isinstance(m, IF):
                v, tau, level, off, slope, until = state[p.name]
                resting = (step <= until) if m.refractory and m.refractory_input == "discard" else np.zeros(size, bool)
                if step and tau is None:
                    v = v + np.where(resting, 0, slope * h)
                elif step:
                    to = np.where(resting, off, level)
                    v = to + (v - to) * np.exp(-h / tau)
                if arrived is not None:
                    hit = (arrived != 0) & ~resting
                    v = np.where(hit, v + m.gain * arrived, v)
                    v = v if m.v_min is None else np.where(hit, np.maximum(v, m.v_min), v)
                able = step >= until
                out = np.zeros(size)
                while np.any(over := able & (v >= m.threshold) & ((out == 0) | (m.refractory == 0))):
                    out += over
                    v = np.where(over, v - m.subtracts if m.reset == "subtract" else m.reset_value, v)
                until = np.where(out > 0, step + round(m.refractory * tick / h), until)
                state[p.name][0], state[p.name][5] = v, until
                for u in np.flatnonzero(out):
                    spikes.setdefault((p.name, int(u)), []).append((step * h, int(out[u])))
            else:
                continue
            if np.any(out):
                for c, weight, delay in matrices:
                    if c.source == p.name:
                        old = buffer[c.target].get(step + delay, 0)
                        buffer[c.target][step + delay] = old + weight @ out
    return spikes
