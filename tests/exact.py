"""The slow obvious continuous-time simulator: one sample, event by event, with numbers of 50 digits.

It imports nothing of the engine. `plain` reads the dataclasses of a network into lists of mpmath numbers (addresses
come from `naive`), `run` simulates them, `replay` takes spikes that somebody else found for granted and looks at the
membranes behind them. Times are microseconds, as in the engine; every number is taken at its exact binary value.

A membrane with or without currents solves linear equations, so between two arrivals it is a `Curve`. It may rise and
fall several times there, and touch the threshold without an arrival; its extrema tell.

An engine with float64 cannot know the outcome of a test that is decided in the 17th digit. So the reference says with
every test how close it was (`Margin`), and how well float64 can know the time of a spike (`conditions`).
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple

import mpmath
import numpy as np
from naive import Path, longest_paths, per_unit

from eventsnn.network import Connection, Network, Sparse
from eventsnn.neurons import IF, LI, LIF, Input, Integrator, Relay, Synapse

mp = mpmath.MPContext()
mp.dps = 50
mpf = mp.mpf
ZERO, ONE = mpf(0), mpf(1)
EPS = 2.0**-52
GRAZING = 1e-9
FINE = mpf(2) ** -20  # microseconds
GRAIN = mpf(2) ** -100  # microseconds: all times are multiples of it, so that sums of times and delays are exact
TINY = mpf("1e-20")  # a rounding error, when `conditions` makes some
SOLVED = mpf("1e-30")  # relative step that ends a search: of 50 digits, time constants alike to 1e-16 take 16
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


# --------------------------------------------------------------------------------------------------- linear equations


@lru_cache(1024)
def decay(rate: Any, t: Any) -> Any:
    return mp.exp(-rate * t)


class Curve:
    """A sum of c t^p exp(-l t) from t = 0 on. terms: (l, p) -> c."""

    def __init__(self, terms: Iterable[tuple[tuple[Any, int], Any]]) -> None:
        self.terms: dict[tuple[Any, int], Any] = {}
        for power, c in terms:
            before = self.terms.get(power)
            self.terms[power] = c if before is None else before + c
        for power in [power for power, c in self.terms.items() if not c]:
            del self.terms[power]

    def __call__(self, t: Any) -> Any:
        found = ZERO
        for (rate, p), c in self.terms.items():
            part = c * t**p if p else c
            found += part * decay(rate, t) if rate else part
        return found

    def __add__(self, other: Curve) -> Curve:
        return Curve([*self.terms.items(), *other.terms.items()])

    def __rmul__(self, factor: Any) -> Curve:
        return Curve((power, factor * c) for power, c in self.terms.items())

    def slope(self) -> Curve:
        falls = [((rate, p), -rate * c) for (rate, p), c in self.terms.items()]
        return Curve([*falls, *(((rate, p - 1), p * c) for (rate, p), c in self.terms.items() if p)])

    def limit(self) -> Any:
        """What it tends to."""
        lasting = {p: c for (rate, p), c in self.terms.items() if not rate}
        highest = max(lasting, default=0)
        return mp.inf * lasting[highest] if highest else lasting.get(0, ZERO)

    def written(self) -> list[Any] | None:
        """The t > 0 at which it changes sign where a formula says so, else None."""
        if len(self.terms) < 2:
            return []
        (first, base), ((rate, p), c) = sorted(self.terms.items())[:2]
        if len(self.terms) == 2 and first == (0, 0) and p == 0:
            return [mp.log(-c / base) / rate] if -c / base > 1 else []
        if len(self.terms) == 2 and first == (0, 0) and p == 1 and not rate:
            return [-base / c] if -base / c > 0 else []
        return None

    def turns(self) -> list[Any]:
        """Every t > 0 at which it changes sign, in order.

        A factor exp(l t) moves none of them, and with the smallest l it leaves a polynomial among the terms, which goes
        away with slopes. By Rolle, the sign changes of that simpler curve are the ends of pieces on which this one only
        rises or only falls.
        """
        lowest = min((rate for rate, _ in self.terms), default=ZERO)
        curve = Curve(((rate - lowest, p), c) for (rate, p), c in self.terms.items())
        written = curve.written()
        if written is not None:
            return written
        edges = [ZERO, *curve.slope().turns()]
        heights = [*map(curve, edges), curve.limit()]
        pieces = zip(edges, [*edges[1:], None], heights, heights[1:], strict=False)
        return [curve.zero(a, b) for a, b, left, right in pieces if left * right < 0]

    def guess(self, a: Any, b: Any, positive: bool) -> Any:
        """About where between a and b it ceases to be positive, or negative; to save digits, in float64."""
        terms = [(float(rate), p, float(c)) for (rate, p), c in self.terms.items()]
        low, high = float(a), float(b)
        for _ in range(40):
            t = (low + high) / 2
            same = (sum(c * t**p * math.exp(-rate * t) for rate, p, c in terms) > 0) == positive
            low, high = (t, high) if same else (low, t)
        return mpf(t) if a < t < b else (a + b) / 2

    def zero(self, a: Any, b: Any | None) -> Any:
        """The zero between a and b (None: infinity) of a piece that only rises or only falls: Newton's in brackets."""
        written = self.written()
        if written is not None:
            return written[0]
        slope, left = self.slope(), self(a)
        if b is None:
            step = ONE
            while self(a + step) * left > 0:
                step *= 2
            b = a + step
        t = self.guess(a, b, left > 0)
        for attempt in itertools.count():
            height, steep = self(t), slope(t)
            a, b = (t, b) if height * left > 0 else (a, t)
            after = t - height / steep if steep and attempt < 100 else (a + b) / 2
            if abs(after - t) <= SOLVED * t:
                return after
            t = after if a < after < b else (a + b) / 2


def constant(c: Any) -> Curve:
    return Curve([((ZERO, 0), c)])


def response(rate: Any, source: Curve, start: Any) -> Curve:
    """The y with dy/dt = -rate y + source and y(0) = start."""
    terms = []
    for (own, power), c in source.terms.items():
        if own == rate:
            terms.append(((own, power + 1), c / (power + 1)))
            continue
        for p in range(power, -1, -1):
            c /= rate - own
            terms.append(((own, p), c))
            c *= -p
    return Curve([*terms, ((rate, 0), start - sum((c for (_, p), c in terms if p == 0), ZERO))])


# ------------------------------------------------------------------------------------------------- what there is to run


@dataclass
class Receptor:
    """Where arrivals enter: the membrane itself, or a current that feeds it.

    jump: what an arrival of 1 adds. flow: what a steady input of 1 adds in a microsecond. drive: what the steady input
    from the start adds in a microsecond. Of a current, leak: 1 / tau; pull: dV/dt of a current of 1; i0: at the start.
    """

    jump: Any = ONE
    flow: Any = ONE
    drive: Any = ZERO
    leak: Any = ZERO
    pull: Any = ZERO
    i0: Any = ZERO


@dataclass
class Cell:
    """The parameters of one neuron. leak: 1 / tau, 0 for none.

    receptors: one, the membrane itself, or where current is True as many currents. threshold: None for a readout.
    amount: what a soft reset subtracts, None for a hard one to reset_value. t_ref: 0 for none, or infinite.
    integrates: what arrives in the refractory time counts. hold: the membrane does not move in the refractory time.
    """

    receptors: list[Receptor]
    current: bool = False
    threshold: Any = None
    strict: bool = False
    leak: Any = ZERO
    rest: Any = ZERO
    v0: Any = ZERO
    v_min: Any = None
    amount: Any = None
    reset_value: Any = ZERO
    t_ref: Any = ZERO
    integrates: bool = False
    hold: bool = False


@dataclass
class Group:
    """A population. kind: "input", "neurons" or "relay"; only neurons have cells."""

    name: str
    kind: str
    cells: list[Cell]


class Contact(NamedTuple):
    """One synapse, seen from its source. delay: microseconds."""

    group: int
    unit: int
    receptor: int
    weight: Any
    delay: Any


class Arrival(NamedTuple):
    """What reaches a unit. amount: before any gain. steady: from now on there is so much more steady input."""

    receptor: int
    amount: Any
    steady: bool = False


@dataclass
class Plain:
    """A network in plain numbers.

    order: groups from first to last within an instant. tick: microseconds. synapses: of every (group, unit).
    later: steady inputs that start later, (microseconds, group, unit, what).
    """

    groups: list[Group]
    order: list[int]
    tick: Any
    synapses: dict[tuple[int, int], list[Contact]]
    later: list[tuple[Any, int, int, Arrival]]


class Spike(NamedTuple):
    """An event. cause: "arrival", "crossing", "expiry" (of a refractory time), or "given" by somebody else."""

    time: Any
    group: int
    unit: int
    value: Any
    cause: str


class Margin(NamedTuple):
    """How far a decision was from another outcome, as a fraction of the numbers that made it.

    kind: "test" (membrane and threshold), "level" (where the membrane turns or drifts to and threshold), "gap" (two
    things that happen to one neuron, one of them perhaps called off by the other), "order" (two spikes), "end" (of the
    run).
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
    """One neuron on its way: V and its currents since the last thing that happened, and what it will do by itself."""

    def __init__(self, cell: Cell, place: tuple[int, int], result: Result, rounding: Callable[[], Any]) -> None:
        self.cell, self.place, self.result, self.rounding = cell, place, result, rounding
        self.since = whole_time(0)
        self.v, self.i = self.bounded(cell.v0), [r.i0 for r in cell.receptors]
        # sums of |terms| that these were summed from, on their way as they are
        self.terms, self.i_terms = abs(cell.v0), [abs(r.i0) for r in cell.receptors]
        self.drives = [r.drive for r in cell.receptors]
        self.until: Time | None = None  # end of the refractory time it is in
        self.crossings = 0
        self.due = self.predict()

    # ------------------------------------------------------------------------------------------------- the equation

    def bounded(self, v: Any) -> Any:
        """V, at least the lower bound; only neurons without currents have one, which are monotonic between arrivals."""
        return v if self.cell.v_min is None else max(v, self.cell.v_min)

    @property
    def discards(self) -> bool:
        return self.until is not None and not self.cell.integrates

    @property
    def held(self) -> bool:
        return self.until is not None and self.cell.hold

    def drive(self) -> Any:
        """The drive of the membrane itself: none while arrivals are discarded."""
        return ZERO if self.cell.current or self.discards else self.drives[0]

    def ahead(self, v: Any, i: Sequence[Any], size: Callable[[Any], Any] = lambda x: x) -> tuple[Curve, list[Curve]]:
        """V and the currents from now on, if nothing more happens. size: `abs` makes sums of |terms|."""
        cell, currents = self.cell, []
        if cell.current:
            each = zip(cell.receptors, self.drives, i, strict=True)
            currents = [response(r.leak, constant(size(drive)), own) for r, drive, own in each]
        if self.held:
            return constant(v), currents
        source = constant(size(cell.leak * cell.rest) + size(self.drive()))
        for r, current in zip(cell.receptors, currents, strict=False):
            source += size(r.pull) * current
        return response(cell.leak, source, v), currents

    def slope(self, v: Any) -> Any:
        """dV/dt at V."""
        found = self.cell.leak * (self.cell.rest - v) + self.drive()
        if self.cell.current:
            found += sum(r.pull * i for r, i in zip(self.cell.receptors, self.i, strict=True))
        return found

    def at(self, time: Any) -> Any:
        """V at a time up to which nothing more happens."""
        return self.bounded(self.ahead(self.v, self.i)[0](time - self.since.value))

    def advance(self, time: Time) -> None:
        elapsed = time.value - self.since.value
        if elapsed > 0:
            (v, i), (terms, i_terms) = self.ahead(self.v, self.i), self.ahead(self.terms, self.i_terms, abs)
            self.terms, self.i_terms = terms(elapsed), [curve(elapsed) for curve in i_terms]
            self.v = self.bounded(v(elapsed))
            if not self.held:
                self.v += self.rounding() * self.terms
            self.i = [curve(elapsed) + self.rounding() * t for curve, t in zip(i, self.i_terms, strict=True)]
        self.since = time

    def accept(self, arrivals: Iterable[Arrival]) -> None:
        """Adds jumps to the currents, or to a membrane that is not held."""
        for receptor, amount, _ in arrivals:
            jump = self.cell.receptors[receptor].jump * amount
            if self.cell.current:
                self.i_terms[receptor] += abs(jump)
                self.i[receptor] += jump + self.rounding() * self.i_terms[receptor]
            elif not self.held:
                self.terms += abs(jump)
                self.v += jump + self.rounding() * self.terms
        self.v = self.bounded(self.v)

    def flow(self, arrivals: Iterable[Arrival]) -> None:
        """Changes the drives."""
        for receptor, amount, _ in arrivals:
            self.drives[receptor] += self.cell.receptors[receptor].flow * amount

    # ------------------------------------------------------------------------------------------------------ decisions

    def margin(self, kind: str, distance: Any, scale: Any) -> None:
        size = float(abs(distance) / scale) if scale > 0 else INFINITE
        self.result.margins.append(Margin(kind, size, float(self.since.value), *self.place))

    def apart(self, a: Time, b: Time) -> None:
        """Notes how far two instants at this neuron are apart, unless an engine knows that they are one."""
        if a.key != b.key:
            self.margin("gap", a.value - b.value, max(a.value, b.value))

    def reaches(self) -> bool:
        """Whether it fires now. With > it does so at the threshold if it is rising: inf{t: V(t) > threshold} is now."""
        over = self.v - self.cell.threshold
        self.margin("test", over, self.terms + abs(self.cell.threshold))
        return over > 0 or (over == 0 and (not self.cell.strict or self.slope(self.v) > 0))

    def predict(self) -> Time | None:
        """When it does something by itself: the end of its refractory time, or a crossing. None for never."""
        cell = self.cell
        if self.until is not None:
            return self.until if self.until.value < mp.inf else None
        if cell.threshold is None:
            return None
        missing = cell.threshold - self.v
        if missing < 0 or (missing == 0 and (not cell.strict or self.slope(self.v) > 0)):
            return self.since  # from v0, or standing at its threshold; whatever else brings it there tests it
        after = self.first_rise(self.ahead(self.v, self.i)[0] + constant(-cell.threshold), -missing)
        if after is None:
            return None
        self.crossings += 1
        value = mp.nint((self.since.value + after) * (1 + self.rounding()) / GRAIN) * GRAIN
        return Time(value, (("crossing", self.place, self.crossings), ZERO))

    def first_rise(self, over: Curve, height: Any) -> Any:
        """Where V - threshold first rises above 0, with >= to 0; notes how near its maxima come. height: now."""
        start = ZERO
        for end in [*over.slope().turns(), None]:
            top = over.limit() if end is None else over(end)
            if top > height:
                if end is not None:
                    terms = self.ahead(self.terms, self.i_terms, abs)[0](end)
                    self.margin("level", top, terms + abs(self.cell.threshold))
                elif top < mp.inf:
                    self.margin("level", top, abs(top + self.cell.threshold) + abs(self.cell.threshold))
                if top > 0:
                    return over.zero(start, end)
                if top == 0 and end is not None and not self.cell.strict:
                    return end
            start, height = end, top
        return None

    # --------------------------------------------------------------------------------------------- what happens to it

    def happens(self, time: Time, arrivals: Sequence[Arrival]) -> tuple[int, str]:
        """One instant: arrivals, and whatever is due. How often it fires, and why."""
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
            self.v, self.terms = cell.threshold, abs(cell.threshold)
        jumps = [a for a in arrivals if not a.steady]
        accepted = [] if self.discards else jumps
        self.result.dropped += len(jumps) - len(accepted)
        self.accept(accepted)
        self.flow(a for a in arrivals if a.steady)
        expired = ours and self.until is not None
        if expired:
            self.until = None
        moved = accepted and not cell.current  # an arrival that a current takes leaves the membrane where it is
        fired = 0
        if self.until is None and cell.threshold is not None and (moved or ours):
            fired = self.fire(time, certain=crossing and not accepted)
        self.due = self.predict()
        return fired, "arrival" if moved else "expiry" if expired else "crossing"

    def fire(self, time: Time, certain: bool) -> int:
        """Fires and resets: until below, or once if it is refractory then.

        certain: a predicted crossing, which is no matter of rounding.
        """
        cell, fired = self.cell, 0
        while (fired == 0 or cell.t_ref == 0) and (certain or self.reaches()):
            certain = False
            fired += 1
            if cell.amount is None:
                self.v, self.terms = cell.reset_value, abs(cell.reset_value)
                break
            self.v -= cell.amount
            self.terms += abs(cell.amount)
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

    inputs: (microseconds, unit) of the input group, each an event. pulse: an event is a steady input for so long.
    probes: rising times at which to look at the membranes, before what happens then. limit: give up after so many
    spikes of neurons. rounding: the relative error of the next operation on a membrane.
    """
    result = Result()
    cells = {
        (g, u): Membrane(c, (g, u), result, rounding)
        for g, group in enumerate(net.groups)
        for u, c in enumerate(group.cells)
    }
    waiting: list[tuple[Any, int, Time, int, int, Arrival]] = []
    pushed = 0

    def push(time: Time, group: int, unit: int, arrival: Arrival) -> None:
        nonlocal pushed
        pushed += 1
        heapq.heappush(waiting, (time.value, pushed, time, group, unit, arrival))

    source = next(g for g, group in enumerate(net.groups) if group.kind == "input")
    for time, unit in inputs:
        push(whole_time(time), source, unit, Arrival(0, ONE))
    for time, group, unit, arrival in net.later:
        push(whole_time(time), group, unit, arrival)

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
        here: dict[int, dict[int, list[tuple[Time, Arrival]]]] = {g: {} for g in net.order}
        while waiting and waiting[0][0] == now:
            _, _, time, group, unit, arrival = heapq.heappop(waiting)
            here[group].setdefault(unit, []).append((time, arrival))

        for g in net.order:
            due = [u for u in range(len(net.groups[g].cells)) if cells[g, u].due and cells[g, u].due.value == now]
            for u in sorted({*here[g], *due}):
                happening = here[g].get(u, [])
                if pulse is not None and net.groups[g].kind == "neurons":
                    happening = pulses(net, g, u, happening, pulse, push)
                for time, value, cause in one_unit(net.groups[g], cells.get((g, u)), happening):
                    result.spikes.append(Spike(now, g, u, value, cause))
                    if net.groups[g].kind == "neurons":
                        spiked += int(value)
                        if fired_last is not None and fired_last.key != time.key:
                            gap = float((now - fired_last.value) / now) if now else 0.0
                            result.margins.append(Margin("order", gap, float(now), g, u))
                        fired_last = time
                    for group, unit, receptor, weight, delay in net.synapses.get((g, u), ()):
                        arrival = Arrival(receptor, value * weight)
                        if delay == 0:
                            here[group].setdefault(unit, []).append((time, arrival))
                        else:
                            push(time.plus(delay), group, unit, arrival)
        if limit is not None and spiked > limit:
            result.cut = now
            return result


def one_unit(group, membrane, arrivals) -> list[tuple[Time, Any, str]]:
    """What one unit emits in one instant, (time, value, cause) each."""
    if group.kind == "input":
        return [(time, arrival.amount, "arrival") for time, arrival in arrivals]
    if group.kind == "relay":
        return [(arrivals[0][0], sum((arrival.amount for _, arrival in arrivals), ZERO), "arrival")]
    for (a, _), (b, _) in itertools.pairwise(arrivals):
        membrane.apart(a, b)
    time = arrivals[0][0] if arrivals else membrane.due
    fired, cause = membrane.happens(time, [arrival for _, arrival in arrivals])
    return [(time, mpf(fired), cause)] if fired else []


def pulses(net, g, u, arrivals, pulse, push) -> list[tuple[Time, Arrival]]:
    """Steady inputs in the place of events: each begins now and ends a pulse later, and amounts to the event."""
    found = []
    for time, arrival in arrivals:
        if not arrival.steady:
            arrival = Arrival(arrival.receptor, arrival.amount * net.tick / pulse, steady=True)
            push(time.plus(pulse), g, u, arrival._replace(amount=-arrival.amount))
        found.append((time, arrival))
    return found


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
    arrivals: dict[tuple[int, int], list[tuple[Any, Arrival]]] = {}
    own: dict[tuple[int, int], list[Spike]] = {}
    for event in events:
        own.setdefault((event.group, event.unit), []).append(event)
        for group, unit, receptor, weight, delay in net.synapses.get((event.group, event.unit), ()):
            arrivals.setdefault((group, unit), []).append((event.time + delay, Arrival(receptor, event.value * weight)))
    for (g, u), spikes in own.items():
        if net.groups[g].kind == "neurons":
            found += replay_one(net, (g, u), arrivals.get((g, u), []), spikes, result, tolerance)
    return found


def replay_one(net, place, arrivals, spikes, result, tolerance) -> list[Residual]:
    cell = net.groups[place[0]].cells[place[1]]
    membrane, found = Membrane(cell, place, result, lambda: ZERO), []
    happenings = [*arrivals, *((spike.time, spike) for spike in spikes)]
    happenings += [(time, arrival) for time, g, u, arrival in net.later if (g, u) == place]
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
        spike = next((what for _, what in together if isinstance(what, Spike)), None)
        time = whole_time(spike.time if spike else first)
        membrane.advance(Time(max(time.value, membrane.since.value), time.key))
        rising = magnitude(membrane.slope(membrane.v))
        here = [what for _, what in together if isinstance(what, Arrival)]
        accepted = [] if membrane.discards else [a for a in here if not a.steady]
        membrane.accept(accepted)
        membrane.flow(a for a in here if a.steady)
        expired = until is not None and same(until.value)
        if expired:
            membrane.until = None
        if spike is None:
            continue
        assert membrane.until is None, f"{spike} lies in a refractory time that ends at {membrane.until}"
        moved = accepted and not cell.current
        cause = "arrival" if moved else "expiry" if expired or time.value == 0 else "crossing"
        excess, terms = membrane.v - cell.threshold, float(membrane.terms + abs(cell.threshold))
        if cause == "crossing":
            membrane.v, membrane.terms = cell.threshold, abs(cell.threshold)
        if cell.amount is None:
            membrane.v, membrane.terms = cell.reset_value, abs(cell.reset_value)
        else:
            membrane.v -= spike.value * cell.amount
            membrane.terms += abs(spike.value * cell.amount)
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
    synapses: dict[tuple[int, int], list[Contact]] = {}
    least = {}
    for c in network.connections:
        assert (c.scale, c.shift) == (None, None), "per-tick tables have no meaning in continuous time"
        ways = by_delay(c, tick)
        least[c.label] = min((delay for _, delay in ways), default=ZERO)
        for way, delay in ways:
            path = Path(network, way)
            for unit in range(network[c.source].size):
                for target, weight in path.walk(unit)[0]:
                    contact = Contact(numbers[c.target], target, c.receptor or 0, mpf(weight), delay)
                    synapses.setdefault((numbers[c.source], unit), []).append(contact)
        if c.bias is not None:
            bias[c.target] = [a + mpf(b) for a, b in zip(bias[c.target], per_unit(c.bias, network[c.target].shape))]
    depth = longest_paths(network, least)
    groups = [group_of(p, tick, bias[p.name]) for p in network.populations]
    order = sorted(range(len(groups)), key=lambda g: (depth[network.populations[g].name], g))
    net = Plain(groups, order, tick, synapses, [])
    if image is not None:
        pixels = np.asarray(image, np.float64).ravel()
        for (g, unit), contacts in synapses.items():
            if groups[g].kind == "input":
                for group, target, receptor, weight, delay in contacts:
                    amount = weight * mpf(pixels[unit])
                    net.later.append((delay, group, target, Arrival(receptor, amount, steady=True)))
    return net


def by_delay(c: Connection, tick: Any) -> list[tuple[Connection, Any]]:
    """The connection as connections whose synapses all take the same time, and that time, in microseconds.

    The delay of a synapse is a sum of float64 numbers of microseconds, like all sums of times.
    """
    seconds = c.delay_seconds
    common = mpf(c.delay) * tick if seconds is None else microseconds(seconds)
    op = c.op
    if not isinstance(op, Sparse) or op.delay is None:
        return [(c, common)]
    source, found = np.repeat(np.arange(len(op.indptr) - 1), np.diff(op.indptr)), []
    for own in np.unique(op.delay):
        chosen = op.delay == own
        rows = np.bincount(source[chosen], minlength=len(op.indptr) - 1)
        indptr = np.concatenate([[0], np.cumsum(rows)])
        alike = Sparse(indptr, op.target[chosen], op.weight[chosen], op.shape)
        found.append((replace(c, op=alike), mpf(float(common) + float(own) * float(tick))))
    return found


def group_of(population, tick, bias) -> Group:
    neuron, size = population.neuron, population.size
    if isinstance(neuron, Input | Relay):
        assert not any(bias), "a relay with a bias has no meaning in continuous time"
        return Group(population.name, "input" if isinstance(neuron, Input) else "relay", [])

    def values(given) -> list:
        return [None] * size if given is None else [mpf(x) for x in per_unit(given, population.shape)]

    def named(name: str) -> list:
        return values(getattr(neuron, name, None))

    def leaks(alpha, tau) -> list:
        """1 / tau in microseconds, or what alpha makes of a tick."""
        euler = neuron.alpha_from == "euler"
        return [
            1 / (t * 10**6) if t is not None else (1 - a if euler else -mp.log(a)) / tick
            for a, t in zip(values(alpha), values(tau), strict=True)
        ]

    fields: dict[str, list] = {name: named(name) for name in ("v0", "rest") if hasattr(neuron, name)}
    if isinstance(neuron, LIF | LI):
        fields["leak"] = leaks(neuron.alpha, neuron.tau)
    pulls = [None if r is None else r / 10**6 for r in named("input_rate")]  # of a steady input, or of a current, of 1
    gains = named("gain") if hasattr(neuron, "gain") else [ONE] * size
    if isinstance(neuron, Synapse):
        receptors = [[] for _ in range(size)]
        for number in range(neuron.receptors):
            own = neuron.current(number)
            jumps, flows, olds = values(own.gain_syn), values(own.syn_rate), values(own.gain_old)
            leak, start = leaks(own.alpha_syn, own.tau_syn), values(own.i0)
            for u, to in enumerate(receptors):
                flow = jumps[u] / tick if flows[u] is None else flows[u] / 10**6
                pull = (gains[u] + olds[u]) / tick if pulls[u] is None else pulls[u]
                drive = flow * bias[u] if number == 0 else ZERO
                to.append(Receptor(jumps[u], flow, drive, leak[u], pull, start[u]))
    else:
        flows = [gain / tick if pull is None else pull for gain, pull in zip(gains, pulls, strict=True)]
        receptors = [[Receptor(*numbers)] for numbers in zip(gains, flows, [f * b for f, b in zip(flows, bias)])]
    fields["receptors"] = receptors
    common: dict[str, Any] = {"current": isinstance(neuron, Synapse)}
    if not isinstance(neuron, Integrator):
        assert isinstance(neuron, IF)
        assert neuron.reset != "none"
        assert not neuron.reset_delay
        fields |= {name: named(name) for name in ("threshold", "v_min", "reset_value")}
        if neuron.reset == "subtract":
            fields["amount"] = values(neuron.subtracts)
        common |= {
            "strict": neuron.comparator == "gt",
            "t_ref": neuron.refractory * tick,
            "integrates": neuron.refractory_input == "integrate",
            "hold": bool(neuron.hold) or neuron.refractory == INFINITE or common["current"],
        }
    cells = [Cell(**common, **{name: of_all[u] for name, of_all in fields.items()}) for u in range(size)]
    return Group(population.name, "neurons", cells)
