"""The slow obvious continuous-time simulator: one sample, event by event, with numbers of 50 digits.

It imports nothing of the engine. `plain` reads the dataclasses of a network into lists of mpmath numbers (addresses
come from `naive`), `run` simulates them, `replay` takes spikes that somebody else found for granted and looks at the
membranes behind them. Times are microseconds, as in the engine; every number is taken at its exact binary value.

An engine with float64 cannot know the outcome of a test that is decided in the 17th digit. So the reference says with
every test how close it was (`Margin`), and how well float64 can know the time of a spike (`conditions`).
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import mpmath
import numpy as np
from naive import Path, longest_paths, per_unit

from eventsnn.network import Network
from eventsnn.neurons import IF, LIF, Input, Integrator, Relay

mp = mpmath.MPContext()
mp.dps = 50
mpf = mp.mpf
ZERO, ONE = mpf(0), mpf(1)
EPS = 2.0**-52
GRAZING = 1e-9
FINE = mpf(2) ** -20  # microseconds
GRAIN = mpf(2) ** -100  # microseconds: all times are multiples of it, so that sums of times and delays are exact
TINY = mpf("1e-20")  # a rounding error, when `conditions` makes some
INFINITE = float("inf")


class Time(NamedTuple):
    """An instant. value: microseconds.

    key: two instants of the same key come out of the same sum of floats, so they are bit-equal in an engine too; what
    is only equal in real arithmetic has another key. It is (where it started, what was added since).
    """

    value: Any
    key: tuple[Hashable, Any]

    def plus(self, delay: Any) -> Time:
        """Later by a delay, as far as float64 knows: its addition of t + delay may round."""
        value = self.value + delay
        start, added = self.key
        if delay == 0:
            return self
        if start == "whole" and is_float(value):
            return whole_time(value)
        # A delay that is a multiple of FINE takes no digit from t. When the sum needs one binary place more than t, it
        # loses a digit, rounding half to even; what is added is even, so that all ways to one sum round it alike.
        places = math.frexp(value)[1] - math.frexp(self.value)[1]
        if start != "whole" and places <= 1 and mp.isint(delay / FINE):
            return Time(value, (start, added + delay))
        return Time(value, ((self.key, "rounded", delay), ZERO))


def is_float(value: Any) -> bool:
    return mpf(float(value)) == value


def magnitude(value: Any) -> float:
    return abs(float(value))


def whole_time(value: Any) -> Time:
    """A time that float64 holds exactly."""
    return Time(mpf(value), ("whole", mpf(value)))


@dataclass
class Cell:
    """The parameters of one neuron. tau: None for no leak. drive: potential per microsecond, gain included.

    threshold: None for an integrator. amount: what a soft reset subtracts, None for a hard one to reset_value. t_ref: 0
    for none. integrates: what arrives in the refractory time counts.
    """

    threshold: Any = None
    strict: bool = False
    tau: Any = None
    rest: Any = ZERO
    gain: Any = ONE
    drive: Any = ZERO
    v0: Any = ZERO
    v_min: Any = None
    amount: Any = None
    reset_value: Any = ZERO
    t_ref: Any = ZERO
    integrates: bool = False


@dataclass
class Group:
    """A population. kind: "input", "neurons" or "relay"; only neurons have cells."""

    name: str
    kind: str
    cells: list[Cell]


@dataclass
class Plain:
    """A network in plain numbers.

    order: groups from first to last within an instant. synapses: (group, unit) -> list of (group, unit, weight, delay).
    currents: drives that start later, (microseconds, group, unit, potential per microsecond), gain included.
    """

    groups: list[Group]
    order: list[int]
    synapses: dict[tuple[int, int], list[tuple[int, int, Any, Any]]]
    currents: list[tuple[Any, int, int, Any]]


class Spike(NamedTuple):
    """An event. cause: "arrival", "crossing", "expiry" (of a refractory time), or "given" by somebody else."""

    time: Any
    group: int
    unit: int
    value: Any
    cause: str


class Margin(NamedTuple):
    """How far a decision was from another outcome, as a fraction of the numbers that made it.

    kind: "test" (membrane and threshold), "level" (where the membrane drifts to and threshold), "gap" (two things that
    happen to one neuron, one of them perhaps called off by the other), "order" (two spikes), "end" (of the run).
    """

    kind: str
    size: float
    time: float
    group: int
    unit: int


@dataclass
class Result:
    """What a run left behind. spikes: in order. probes: one dict (group, unit) -> potential for each time asked for.

    dropped: arrivals discarded. cut: a limit on spikes ended it at this time.
    """

    spikes: list[Spike] = field(default_factory=list)
    margins: list[Margin] = field(default_factory=list)
    probes: list[dict[tuple[int, int], Any]] = field(default_factory=list)
    dropped: int = 0
    cut: Any = None

    @property
    def closest(self) -> float:
        return min((m.size for m in self.margins), default=INFINITE)


class Membrane:
    """One neuron on its way: V since the last thing that happened to it, and what it will do if nothing else does."""

    def __init__(self, cell: Cell, place: tuple[int, int], result: Result, rounding: Callable[[], Any]) -> None:
        self.cell, self.place, self.result, self.rounding = cell, place, result, rounding
        self.since = whole_time(0)
        self.v = self.bounded(cell.v0)
        self.terms = magnitude(cell.v0)  # sum of |terms| that V was summed from, leaked like V
        self.drive = cell.drive
        self.until: Time | None = None  # end of the refractory time it is in
        self.crossings = 0
        self.due = self.predict()

    # ------------------------------------------------------------------------------------------------- the equation

    def bounded(self, v: Any) -> Any:
        """V, at least the lower bound: between arrivals V is monotonic, so a look when it is asked for is enough."""
        return v if self.cell.v_min is None else max(v, self.cell.v_min)

    def driven(self) -> Any:
        """The drive that acts now: none while arrivals are discarded."""
        return ZERO if self.until is not None and not self.cell.integrates else self.drive

    def level(self) -> Any:
        """Where the membrane drifts to, for a leaky one."""
        return self.cell.rest + self.cell.tau * self.driven()

    def slope(self, v: Any) -> Any:
        """dV/dt at V."""
        if self.cell.tau is None:
            return self.driven()
        return (self.level() - v) / self.cell.tau

    def at(self, time: Any) -> Any:
        """V at a time up to which nothing more happens."""
        elapsed = time - self.since.value
        if self.cell.tau is None:
            return self.bounded(self.v + self.driven() * elapsed)
        return self.bounded(self.level() + (self.v - self.level()) * mp.exp(-elapsed / self.cell.tau))

    def advance(self, time: Time) -> None:
        elapsed = time.value - self.since.value
        if elapsed > 0:
            self.v = self.at(time.value)
            if self.cell.tau is None:
                self.terms += magnitude(self.driven() * elapsed)
            else:
                left = math.exp(-elapsed / self.cell.tau)
                levels = magnitude(self.cell.rest) + magnitude(self.cell.tau * self.driven())
                self.terms = left * self.terms + (1 - left) * levels
            self.v += self.rounding() * self.terms
        self.since = time

    # ------------------------------------------------------------------------------------------------------ decisions

    def margin(self, kind: str, distance: Any, scale: float) -> None:
        size = magnitude(distance) / scale if scale > 0 else INFINITE
        self.result.margins.append(Margin(kind, size, float(self.since.value), *self.place))

    def apart(self, a: Time, b: Time) -> None:
        """Notes how far two instants at this neuron are apart, unless an engine knows that they are one."""
        if a.key != b.key:
            self.margin("gap", a.value - b.value, float(max(a.value, b.value)))

    def reaches(self) -> bool:
        """Whether it fires now. With > it does so at the threshold if it is rising: inf{t: V(t) > threshold} is now."""
        over = self.v - self.cell.threshold
        self.margin("test", over, self.terms + magnitude(self.cell.threshold))
        return over > 0 or (over == 0 and (not self.cell.strict or self.slope(self.v) > 0))

    def predict(self) -> Time | None:
        """When it does something by itself: the end of its refractory time, or a crossing. None for never."""
        cell = self.cell
        if self.until is not None:
            return self.until
        if cell.threshold is None:
            return None
        slope, missing = self.slope(cell.threshold), cell.threshold - self.v
        if missing < 0 or (missing == 0 and (not cell.strict or slope > 0)):
            return self.since  # only from v0: whatever else brings it there tests it
        if cell.tau is not None:
            scale = magnitude(self.level()) + magnitude(cell.threshold)
            self.margin("level", self.level() - cell.threshold, scale)
        if slope <= 0:
            return None
        if cell.tau is None:
            value = self.since.value + missing / slope
        else:
            value = self.since.value + cell.tau * mp.log1p(missing / (self.level() - cell.threshold))
        self.crossings += 1
        value = mp.nint(value * (1 + self.rounding()) / GRAIN) * GRAIN
        return Time(value, (("crossing", self.place, self.crossings), ZERO))

    # --------------------------------------------------------------------------------------------- what happens to it

    def happens(self, time: Time, jumps: Sequence[Any], currents: Sequence[Any]) -> tuple[int, str]:
        """One instant: arrivals (gain included), changes of the drive, whatever is due. How often it fires, and why."""
        cell, due = self.cell, self.due
        self.apart(self.since, time)
        if due is not None:
            self.apart(due, time)
        ours = due is not None and due.value == time.value
        self.advance(time)
        crossing = (
            ours and self.until is None and cell.threshold is not None and (time.value > 0 or self.v <= cell.threshold)
        )
        if crossing:
            self.v, self.terms = cell.threshold, magnitude(cell.threshold)
        discards = self.until is not None and not cell.integrates
        self.result.dropped += len(jumps) if discards else 0
        accepted = [] if discards else list(jumps)
        if accepted:
            self.v += sum(accepted, ZERO)
            self.terms += sum(magnitude(jump) for jump in accepted)
            self.v += self.rounding() * self.terms
            self.v = self.bounded(self.v)
        self.drive += sum(currents, ZERO)
        expired = ours and self.until is not None
        if expired:
            self.until = None
        fired = 0
        if self.until is None and cell.threshold is not None and (accepted or ours):
            fired = self.fire(time, certain=crossing and not accepted)
        self.due = self.predict()
        return fired, "arrival" if accepted else "expiry" if expired else "crossing"

    def fire(self, time: Time, certain: bool) -> int:
        """Fires and resets: until below, or once if it is refractory then.

        certain: a predicted crossing, which is no matter of rounding.
        """
        cell, fired = self.cell, 0
        while (fired == 0 or cell.t_ref == 0) and (certain or self.reaches()):
            certain = False
            fired += 1
            if cell.amount is None:
                self.v, self.terms = cell.reset_value, magnitude(cell.reset_value)
                break
            self.v -= cell.amount
            self.terms += magnitude(cell.amount)
        if fired:
            self.v = self.bounded(self.v)
        if fired and cell.t_ref > 0:
            self.until = time.plus(cell.t_ref)
        return fired


# ---------------------------------------------------------------------------------------------------------------- a run


def run(
    net: Plain,
    inputs: Iterable[tuple[Any, int]],
    duration: Any,
    pulse: Any = None,
    probes: Sequence[Any] = (),
    limit: int | None = None,
    rounding: Callable[[], Any] = lambda: ZERO,
) -> Result:
    """Everything that happens before `duration`.

    inputs: (microseconds, unit) of the input group, each an event. pulse: an event acts as a current for so long.
    probes: rising times at which to look at the membranes, before what happens then. limit: give up after so many
    spikes of neurons. rounding: the relative error of the next operation on a membrane.
    """
    result = Result()
    cells = {
        (g, u): Membrane(c, (g, u), result, rounding)
        for g, group in enumerate(net.groups)
        for u, c in enumerate(group.cells)
    }
    waiting: list[tuple[Any, int, Time, int, int, str, Any]] = []
    pushed = 0

    def push(time: Time, group: int, unit: int, what: str, amount: Any) -> None:
        nonlocal pushed
        pushed += 1
        heapq.heappush(waiting, (time.value, pushed, time, group, unit, what, amount))

    source = next(g for g, group in enumerate(net.groups) if group.kind == "input")
    for time, unit in inputs:
        push(whole_time(time), source, unit, "jump", mpf(1))
    for time, group, unit, amount in net.currents:
        push(whole_time(time), group, unit, "current", amount)

    asked, fired_last, spiked = list(probes), None, 0
    while True:
        times = [m.due.value for m in cells.values() if m.due is not None] + [w[0] for w in waiting[:1]]
        now = min(times, default=duration)
        while asked and asked[0] <= min(now, duration):
            moment = asked.pop(0)
            result.probes.append({place: m.at(moment) for place, m in cells.items()})
        if now >= duration:
            for last in [now, *(s.time for s in result.spikes[-1:])] if times else []:
                result.margins.append(Margin("end", float(abs(last / duration - 1)), float(last), -1, -1))
            return result
        here: dict[int, dict[int, list[tuple[Time, str, Any]]]] = {g: {} for g in net.order}
        while waiting and waiting[0][0] == now:
            _, _, time, group, unit, what, amount = heapq.heappop(waiting)
            here[group].setdefault(unit, []).append((time, what, amount))

        for g in net.order:
            due = [u for u in range(len(net.groups[g].cells)) if cells[g, u].due and cells[g, u].due.value == now]
            for u in sorted({*here[g], *due}):
                for time, value, cause in one_unit(
                    net.groups[g], cells.get((g, u)), here[g].get(u, []), pulse, push, g, u
                ):
                    result.spikes.append(Spike(now, g, u, value, cause))
                    if net.groups[g].kind == "neurons":
                        spiked += int(value)
                        if fired_last is not None and fired_last.key != time.key:
                            gap = float((now - fired_last.value) / now) if now else 0.0
                            result.margins.append(Margin("order", gap, float(now), g, u))
                        fired_last = time
                    for group, unit, weight, delay in net.synapses.get((g, u), ()):
                        jump = value * weight
                        if net.groups[group].cells:
                            jump *= net.groups[group].cells[unit].gain
                        if delay == 0:
                            here[group].setdefault(unit, []).append((time, "jump", jump))
                        else:
                            push(time.plus(delay), group, unit, "jump", jump)
        if limit is not None and spiked > limit:
            result.cut = now
            return result


def one_unit(group, membrane, arrivals, pulse, push, g, u) -> list[tuple[Time, Any, str]]:
    """What one unit emits in one instant, (time, value, cause) each."""
    if group.kind == "input":
        return [(time, amount, "arrival") for time, _, amount in arrivals]
    if group.kind == "relay":
        return [(arrivals[0][0], sum((amount for _, _, amount in arrivals), ZERO), "arrival")]
    times = [time for time, _, _ in arrivals]
    for a, b in itertools.pairwise(times):
        membrane.apart(a, b)
    time = times[0] if times else membrane.due
    jumps = [amount for _, what, amount in arrivals if what == "jump"]
    currents = [amount for _, what, amount in arrivals if what == "current"]
    if pulse is not None:
        currents += [jump / pulse for jump in jumps]
        for jump in jumps:
            push(time.plus(pulse), g, u, "current", -jump / pulse)
        jumps = []
    fired, cause = membrane.happens(time, jumps, currents)
    return [(time, mpf(fired), cause)] if fired else []


def conditions(net: Plain, inputs: Iterable[tuple[Any, int]], duration: Any, found: Result, seed: int) -> list[float]:
    """The condition number kappa of every spike's time: how many rounding errors it is off by after rounding errors.

    Runs twice again, with an error of TINY, of random sign, in every sum that makes a membrane and in every predicted
    crossing; infinite where that makes another list of spikes.
    """
    worst = [1.0] * len(found.spikes)
    for repeat in range(2):
        rng = random.Random(2 * seed + repeat)
        again = run(net, inputs, duration, rounding=lambda: rng.choice((TINY, -TINY)))  # noqa: B023
        if [s[1:4] for s in again.spikes] != [s[1:4] for s in found.spikes]:
            return [INFINITE] * len(worst)
        moved = [
            float(abs(a.time - b.time) / b.time / TINY) if b.time else 0.0 for a, b in zip(again.spikes, found.spikes)
        ]
        worst = [max(pair) for pair in zip(worst, moved)]
    return worst


# ------------------------------------------------------------------------------------------------------------- a replay


class Residual(NamedTuple):
    """A spike somebody reported, against the membrane behind it.

    excess: V - threshold just before the reset. terms: the sum of |terms| behind it, of which the time itself is one:
    a float64 time is off by up to eps x time, and V by the slope times that. left: V - threshold after the reset.
    """

    spike: Spike
    cause: str
    excess: float
    terms: float
    left: float


def replay(net: Plain, events: Sequence[Spike], tolerance: float = 1e-11) -> list[Residual]:
    """For every spike of a neuron among `events`, the membrane it came from, if all the other events are true.

    events: of all groups, inputs included, in order of time. tolerance: relative distance below which two times are
    one, because `events` were rounded (to seconds, say); margins of the run they come from must be larger.
    """
    result, found = Result(), []
    arrivals: dict[tuple[int, int], list[tuple[Any, Any]]] = {}
    own: dict[tuple[int, int], list[Spike]] = {}
    for event in events:
        own.setdefault((event.group, event.unit), []).append(event)
        for group, unit, weight, delay in net.synapses.get((event.group, event.unit), ()):
            arrivals.setdefault((group, unit), []).append((event.time + delay, event.value * weight))
    for (g, u), spikes in own.items():
        if net.groups[g].kind == "neurons":
            found += replay_one(net, (g, u), arrivals.get((g, u), []), spikes, result, tolerance)
    return found


def replay_one(net, place, arrivals, spikes, result, tolerance) -> list[Residual]:
    cell = net.groups[place[0]].cells[place[1]]
    membrane, found = Membrane(cell, place, result, lambda: ZERO), []
    happenings = [(time, cell.gain * amount, None) for time, amount in arrivals]
    happenings += [(spike.time, None, spike) for spike in spikes]
    happenings += [(time, amount, "current") for time, g, u, amount in net.currents if (g, u) == place]
    happenings.sort(key=lambda h: h[0])
    while happenings:
        first = happenings[0][0]
        same = lambda t: abs(t - first) <= tolerance * first  # noqa: B023, E731
        until = membrane.until
        if until is not None and (until.value < first and not same(until.value)):
            membrane.advance(until)
            membrane.until = None
            continue
        together = [h for h in happenings if same(h[0])]
        happenings = happenings[len(together) :]
        spike = next((h[2] for h in together if isinstance(h[2], Spike)), None)
        time = whole_time(spike.time if spike else first)
        membrane.advance(Time(max(time.value, membrane.since.value), time.key))
        rising = magnitude(membrane.slope(membrane.v))
        jumps = [h[1] for h in together if h[2] is None]
        accepted = [] if membrane.until is not None and not cell.integrates else jumps
        for jump in accepted:
            membrane.v += jump
            membrane.terms += magnitude(jump)
        membrane.v = membrane.bounded(membrane.v)
        membrane.drive += sum((h[1] for h in together if h[2] == "current"), ZERO)
        expired = until is not None and same(until.value)
        if expired:
            membrane.until = None
        if spike is None:
            continue
        assert membrane.until is None, f"{spike} lies in a refractory time that ends at {membrane.until}"
        cause = "arrival" if accepted else "expiry" if expired or time.value == 0 else "crossing"
        excess, terms = membrane.v - cell.threshold, membrane.terms + magnitude(cell.threshold)
        if cause == "crossing":
            membrane.v, membrane.terms = cell.threshold, magnitude(cell.threshold)
        if cell.amount is None:
            membrane.v, membrane.terms = cell.reset_value, magnitude(cell.reset_value)
        else:
            membrane.v -= spike.value * cell.amount
            membrane.terms += magnitude(spike.value * cell.amount)
        left = membrane.v
        membrane.v = membrane.bounded(left)
        found.append(
            Residual(
                spike,
                cause,
                float(excess),
                terms + rising * float(time.value),
                float(left - cell.threshold),
            )
        )
        if cell.t_ref > 0:
            membrane.until = time.plus(cell.t_ref)
    return found


# ------------------------------------------------------------------------------------------------------ from a network


def microseconds(seconds: float) -> Any:
    """The float64 number of microseconds in which an engine counts: a whole one where seconds were rounded from it."""
    found = float(seconds) * 1e6
    return mpf(round(found) if abs(found - round(found)) <= 1e-14 * found else found)


def plain(network: Network, image=None) -> Plain:
    """A network in plain numbers. image: what a "direct" network is fed, an array of the input's shape."""
    numbers = {p.name: g for g, p in enumerate(network.populations)}
    tick = microseconds(network.tick_seconds)
    bias = {name: [ZERO] * network[name].size for name in numbers}
    synapses: dict[tuple[int, int], list] = {}
    delays = {}
    for c in network.connections:
        assert (c.scale, c.shift) == (None, None), "per-tick tables have no meaning in continuous time"
        seconds = getattr(c, "delay_seconds", None)
        delay = mpf(c.delay) * tick if seconds is None else microseconds(seconds)
        delays[c.label] = delay
        path = Path(network, c)
        for unit in range(network[c.source].size):
            for target, weight in path.walk(unit)[0]:
                place = (numbers[c.source], unit)
                synapses.setdefault(place, []).append((numbers[c.target], target, mpf(weight), delay))
        if c.bias is not None:
            bias[c.target] = [a + mpf(b) for a, b in zip(bias[c.target], per_unit(c.bias, network[c.target].shape))]
    depth = longest_paths(network, delays)
    groups = [group_of(p, tick, bias[p.name]) for p in network.populations]
    order = sorted(range(len(groups)), key=lambda g: (depth[network.populations[g].name], g))
    net = Plain(groups, order, synapses, [])
    if image is not None:
        pixels = np.asarray(image, np.float64).ravel()
        for (g, unit), rows in synapses.items():
            if groups[g].kind == "input":
                for group, target, weight, delay in rows:
                    amount = groups[group].cells[target].gain * weight * mpf(pixels[unit]) / tick
                    net.currents.append((delay, group, target, amount))
    return net


def group_of(population, tick, bias) -> Group:
    neuron, size = population.neuron, population.size
    if isinstance(neuron, Input | Relay):
        assert not any(bias), "a relay with a bias has no meaning in continuous time"
        return Group(population.name, "input" if isinstance(neuron, Input) else "relay", [])
    if isinstance(neuron, Integrator):
        return Group(population.name, "neurons", [Cell(drive=b / tick) for b in bias])
    assert isinstance(neuron, IF)
    assert neuron.reset != "none"
    assert not neuron.reset_delay

    def values(name: str) -> list:
        given = getattr(neuron, name, None)
        return [None] * size if given is None else [mpf(x) for x in per_unit(given, population.shape)]

    fields = {name: values(name) for name in ("threshold", "gain", "v0", "v_min", "reset_value")}
    fields["drive"] = [gain * b / tick for gain, b in zip(fields["gain"], bias)]
    if neuron.reset == "subtract":
        fields["amount"] = values("threshold" if neuron.reset_amount is None else "reset_amount")
    if isinstance(neuron, LIF):
        fields["rest"] = values("rest")
        alpha, tau = values("alpha"), values("tau")
        euler = neuron.alpha_from == "euler"
        fields["tau"] = [
            t * 10**6 if t is not None else None if a == 1 else tick / (1 - a) if euler else -tick / mp.log(a)
            for a, t in zip(alpha, tau)
        ]
    common = {
        "strict": neuron.comparator == "gt",
        "t_ref": neuron.refractory * tick,
        "integrates": neuron.refractory_input == "integrate",
    }
    return Group(
        population.name, "neurons", [Cell(**common, **{k: v[u] for k, v in fields.items()}) for u in range(size)]
    )
