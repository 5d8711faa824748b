"""Compiled loops of the asynchronous discipline: a heap in real time, exact membranes, predicted crossings, the stop.

`run` takes one sample through an interval of time in a single call, one instant after the other. What it needs comes
from the `Plan` of the clocked discipline (addresses, weights, fan-out tables), from a `Timing` (what continuous time
adds) and in a `State` that one worker owns. Times are float64 microseconds, in which the whole microseconds of event
files and delays add without rounding, so that arrivals that should coincide do.

Entries of the heap are ordered by (time, rank, first in first out): deliveries, and pulses of biases, at rank
2 x order of the target, crossings and turns at 2 x order + 1, where the order numbers the populations so that every
connection without delay leads upwards. A neuron that can cross its threshold by itself has at most one live alarm in
the heap, at or before its predicted crossing; an alarm that comes too early is set again, and one that was replaced is
known by its generation and swept out when such entries outnumber the others.

Numba's cache notices an edit to this file, but not one to `kernels_sync`, whose tables and watchdog are used here. The
compiled code therefore carries a digest of that file, and `run` answers STALE where it is not today's.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eventsnn import kernels_sync
from eventsnn.kernels_sync import (
    BIASES,
    C_BY_TABLE,
    C_CAREFUL,
    C_CHANNEL_SHIFT,
    C_CHANNELS_OUT,
    C_COEFFICIENT,
    C_EFFECTIVE,
    C_FAN,
    C_GROUP_IN,
    C_GROUP_OUT,
    C_OP,
    C_PLAIN,
    C_POINTER,
    C_POOL_FAN,
    C_ROW,
    C_SOURCE,
    C_SYNOPS,
    C_TARGET,
    C_WEIGHT,
    DELIVERED,
    DROPPED,
    EFFECTIVE,
    EVENT_UNITS,
    EVENTS,
    M_INPUT,
    M_OUTPUT,
    MAIN,
    MAX_MULTIPLICITY,
    OP_RUNS,
    OP_SPARSE,
    OP_UNITS,
    P_CHANNELS,
    P_FIRST_OUT,
    P_LAST_OUT,
    P_POTENTIAL,
    P_RECORD,
    P_SIZE,
    P_UNIT,
    PER_TICK,
    POOL,
    R_FIRST,
    R_LENGTH,
    R_TARGET,
    STRUCTURAL,
    UNITS,
    UPDATES,
    _add_rows,
    _compiled,
    _entry,
    _inlined,
    _mac_rows,
    should_stop,
)

STAMP = int.from_bytes(hashlib.sha256(Path(kernels_sync.__file__).read_bytes()).digest()[:7], "big")

# ------------------------------------------------------------------------------------------- layout of the tables

# Columns of `Timing.pop`, one row per population.
(
    T_ORDER,
    T_FLAGS,  # FLAG_*
    T_DRIVE,  # first unit in Cells.drive, -1 for none
    T_ALARM,  # first unit in Cells.alarm, -1 for neurons that cannot cross by themselves
    T_UNTIL,  # first unit in Cells.until, -1 for neurons without refractory time
    T_SIZE,
    T_RECEPTORS,  # synaptic currents of a neuron
    T_CURRENT,  # first of them in Cells.current, one block of units after the other; drives lie alike
    T_SPREAD,  # outgoing connections whose synapses have delays of their own
    # Parameters, two columns each: where in Timing.real, and 0 for one number or 1 for one per unit.
    T_TAU,  # infinite without a leak
    _,
    T_REST,
    _,
    T_GAIN,
    _,
    T_RATE,  # what a steady input of 1 makes in a tick: of the membrane, or of the first current
    _,
    T_FIRE,  # the smallest membrane that fires: the threshold for >=, the next larger float for >
    _,
    T_THRESHOLD,
    _,
    T_AMOUNT,
    _,
    T_RESET,
    _,
    T_FLOOR,
    _,
    T_V0,
    _,
    T_CONSTANT,  # drive of the biases, per microsecond
    _,
    T_REFRACTORY,
    _,
    T_LOOK,  # how far crossings are looked for ahead
    _,
    T_SYNAPSE,  # of the first current: decay and reach (dV/dt of a current of 1) per microsecond, jump, rate, start
    _,
    _,
    _,
    _,
    _,
    _,
    _,
    _,
    _,
    T_SYNAPSE_1,  # the same of the second
    _,
    _,
    _,
    _,
    _,
    _,
    _,
    _,
    _,
    T_COLUMNS,
) = range(56)
SYN_DECAY, SYN_REACH, SYN_JUMP, SYN_RATE, SYN_START, SYN_COLUMNS = 0, 2, 4, 6, 8, 10  # columns from T_SYNAPSE on

FLAG_SPIKES, FLAG_INTEGRATES, FLAG_FORWARDS = 1, 2, 4
FLAG_PLAIN = 8  # spikes; one parameter set, nothing between arrivals: a vector loop
FLAG_ALIKE = 16  # spikes and leaks; one parameter set, never refractory
FLAG_HARD, FLAG_DISCARD = 32, 64
FLAG_CURRENT = 128  # arrivals are currents that last for a pulse
FLAG_BIAS_PULSES = 256  # constants come as pulses of a stated period
FLAG_SYNAPSE = 512  # arrivals reach the membrane through synaptic currents
FLAG_HOLD = 1024  # the membrane stays where it is while refractory
FLAG_WATCHED = 2048  # a readout whose crossing of a threshold ends the run
FLAG_MODES = 4096  # one parameter set, reset to a value, no steady input: kept as decaying modes, see `_turn_modes`

# Columns of Queue.entry. What is below BIAS is a delivery: 2 x connection, + 1 for the end of its pulse.
H_KEY, H_WHAT, H_ARG, H_COLUMNS = range(4)
BIAS, LOOK, CROSSING = 2**40, 2**40 + 2**32, 2**41  # + population, + population, + alarm
SEQUENCE_BITS = 44
# B_BIN: -1 if emitted in an earlier interval. B_NEXT: of a spike whose synapses have delays of their own, the next.
B_HEAD, B_TAIL, B_COUNT, B_REFERENCES, B_BIN, B_NEXT, B_COLUMNS = range(7)
E_UNIT, E_NEXT, E_COLUMNS = range(3)
X_TIME, X_START, X_END, X_LAST, X_COLUMNS = range(5)  # State.clock; X_LAST: the last bin
(
    A_HEAP,  # entries in the heap
    A_STALE,  # of them alarms that were replaced
    A_SEQUENCE,
    A_FREE_ENTRY,
    A_FREE_EVENT,
    A_FREE_EVENTS,
    A_FREE_BATCH,
    A_FREE_BATCHES,
    A_BIN,
    A_INPUT,  # next event of the feed
    A_INSIDE,  # 1: in the middle of an instant
    A_SEGMENTS,
    A_CROSSED,
    A_LOW,  # no population below this order waits for its turn
    A_ASK,  # 1: the output has changed in this instant
    A_FIRED,  # spikes of this instant
    A_SPENT,
    A_RECORDED,
    A_STAMPED,
    A_PUSHED,
    A_POPPED,
    A_PEAK,
    A_COLUMNS,
) = range(23)

RUNNING, STOPPED, HORIZON, FULL, RUNAWAY, GROW, STALE = range(7)
INFINITE = np.inf
LOOK_TOGETHER = 16  # neurons kept as modes that are looked at in one vector
COMPACT_FROM = 64  # alarms are swept out of heaps that hold more than this


class Timing(NamedTuple):
    """What continuous time adds to a `Plan`; read-only, shared by all workers."""

    pop: Any  # (populations, T_COLUMNS) int64
    by_order: Any  # (populations,) int64: the population of each order
    delay: Any  # (connections,) float64 microseconds
    own: Any  # (connections,) int64: where in `real` the delays of its synapses are, in the order of its runs; -1
    lane: Any  # (connections,) int64: where in the register its contributions are added
    real: Any  # float64 parameters
    tick: Any  # float64, length of a bin of the account
    pulse: Any  # float64, length of a pulse, 0 for none
    period: Any  # float64, of bias pulses, 0 for none
    serial: Any  # bool: neurons are tested after each event, not after all of an instant
    stamp: Any  # STAMP


class Cells(NamedTuple):
    """Neurons, and what has arrived at one population in this instant."""

    v: Any  # membranes at `last`, units as in the plan
    current: Any  # synaptic currents at `last`
    last: Any  # float64; below 0: never touched
    drive: Any  # float64 per microsecond
    until: Any  # float64, end of refractoriness
    alarm: Any  # float64, time of the live alarm
    cross: Any  # float64, predicted crossing; -1 while it happens
    generation: Any  # int64, of the live alarm
    register: Any  # of the population whose arrivals are being delivered
    span: Any  # int64 by unit: length of the segment that starts there, 0 for none
    starts: Any  # int64, first units of the segments that something arrived at
    channel: Any  # int32, and
    value: Any  # of the events of one position that are being delivered
    fired: Any  # (n, 2) int64: unit, multiplicity; the spikes of this turn
    crossed: Any  # int64, units whose alarm rang
    waiting: Any  # uint8 by order: a turn is due
    epoch: Any  # float64 by population: when its modes had the size they are kept in
    ahead: Any  # float64 by population: crossings are known until then; below 0: none can come without an arrival


class Queue(NamedTuple):
    """The heap, and the spikes its entries point at."""

    times: Any  # (n,) float64, a binary heap
    references: Any  # (n,) int64, the entry of each time
    entry: Any  # (n, H_COLUMNS) int64, free ones linked by H_KEY
    batch: Any  # (n, B_COLUMNS) int64, free ones linked by B_HEAD
    event: Any  # (n, E_COLUMNS) int64, free ones linked by E_NEXT
    value: Any  # (n,) of graded and multiple events
    since: Any  # (batches,) float64: when a spike set out whose synapses have delays of their own


class Books(NamedTuple):
    """What a sample leaves behind; a bin stands where the clocked discipline has a tick."""

    events: Any  # (populations, bins, POPULATION_COUNTS)
    taps: Any  # (connections, 2, bins, KINDS), or empty where they are not counted
    sources: Any  # (2, units), or empty
    in_flight: Any  # (connections, 2)
    synops: Any  # (bins,)
    counts: Any  # (classes,) output spikes so far, channels last
    outputs: Any  # (bins, classes) at the end of each bin
    margins: Any
    potential: Any  # (bins, columns)
    pending: Any  # (bins,) most entries in the queue


class Record(NamedTuple):
    """Recorded events and answers, until they are fetched."""

    time: Any  # float64
    place: Any  # (n, 2) int32: population, unit
    value: Any  # float64
    asked: Any  # float64: instants in which the output has changed
    bin: Any  # int64: where they lie
    spent: Any  # int64: SynOps delivered until then
    outputs: Any  # (n, classes)
    margins: Any


class State(NamedTuple):
    """All that changes during a sample; one worker owns one."""

    cells: Any
    queue: Any
    at: Any  # (A_COLUMNS,) int64
    clock: Any  # (X_COLUMNS,) float64: the instant, start and end of the interval, its last bin
    books: Any
    record: Any


class Feed(NamedTuple):
    """Input of an interval: events by time, and an image as events with values."""

    time: Any  # (n,) float64, never decreasing
    unit: Any  # (n,) int64, channels last
    pixel: Any  # (m,) int64 units of an image, m = 0 for none
    value: Any  # (m,)


# -------------------------------------------------------------------------------------------------------- the heap


@_compiled
def _put(queue, n, time, reference):
    """Sift an entry up from place n. Only times and references move; where times are equal the keys decide."""
    times, references, entry = queue.times, queue.references, queue.entry
    key, i = entry[reference, H_KEY], n
    while i > 0:
        parent = (i - 1) >> 1
        above = times[parent]
        if above < time or (above == time and entry[references[parent], H_KEY] < key):
            break
        times[i], references[i] = above, references[parent]
        i = parent
    times[i], references[i] = time, reference


@_compiled
def _sink(queue, i, n, time, reference):
    """Sift an entry down from place i in a heap of n."""
    times, references, entry = queue.times, queue.references, queue.entry
    key = entry[reference, H_KEY]
    while True:
        least = 2 * i + 1
        if least >= n:
            break
        first, other = times[least], least + 1
        if other < n:
            second = times[other]
            if second < first or (
                second == first and entry[references[other], H_KEY] < entry[references[least], H_KEY]
            ):
                least, first = other, second
        if time < first or (time == first and key < entry[references[least], H_KEY]):
            break
        times[i], references[i] = first, references[least]
        i = least
    times[i], references[i] = time, reference


@_compiled
def _push(queue, at, time, rank, what, arg):
    """Queue an entry behind all that wait at (time, rank)."""
    reference = at[A_FREE_ENTRY]
    row = queue.entry[reference]
    at[A_FREE_ENTRY] = row[H_KEY]
    row[H_KEY], row[H_WHAT], row[H_ARG] = (rank << SEQUENCE_BITS) + at[A_SEQUENCE], what, arg
    at[A_SEQUENCE] += 1
    _put(queue, at[A_HEAP], time, reference)
    at[A_HEAP] += 1
    at[A_PUSHED] += 1
    at[A_PEAK] = max(at[A_PEAK], at[A_HEAP])


@_compiled
def _pop(queue, at):
    """Take the first entry: (what, arg)."""
    reference = queue.references[0]
    row = queue.entry[reference]
    n = at[A_HEAP] - 1
    at[A_HEAP] = n
    at[A_POPPED] += 1
    if n > 0:
        _sink(queue, 0, n, queue.times[n], queue.references[n])
    row[H_KEY] = at[A_FREE_ENTRY]
    at[A_FREE_ENTRY] = reference
    return row[H_WHAT], row[H_ARG]


@_entry
def exercise(queue, at, times, pairs):
    """Push every time given, then pop and push again `pairs` times, later by one of them; for the benchmark."""
    for i in range(len(queue.entry)):
        queue.entry[i, H_KEY] = i + 1
    for i in range(len(times)):
        _push(queue, at, times[i], 1, 0, 0)
    for i in range(pairs):
        now = queue.times[0]
        _pop(queue, at)
        _push(queue, at, now + times[i % len(times)], 1, 0, 0)


@_compiled
def _sweep(queue, cells, at):
    """Throw stale alarms out and make a heap of the rest. What is left keeps its keys, so its order."""
    times, references = queue.times, queue.references
    kept = 0
    for i in range(at[A_HEAP]):
        row = queue.entry[references[i]]
        if row[H_WHAT] >= CROSSING and cells.generation[row[H_WHAT] - CROSSING] != row[H_ARG]:
            row[H_KEY] = at[A_FREE_ENTRY]
            at[A_FREE_ENTRY] = references[i]
            continue
        times[kept], references[kept] = times[i], references[i]
        kept += 1
    at[A_HEAP], at[A_STALE] = kept, 0
    for i in range(kept // 2 - 1, -1, -1):
        _sink(queue, i, kept, times[i], references[i])


# ------------------------------------------------------------------------------------------------- batches of spikes


@_compiled
def _new_batch(queue, at, b):
    """An empty batch emitted in bin b."""
    batch = at[A_FREE_BATCH]
    row = queue.batch[batch]
    at[A_FREE_BATCH] = row[B_HEAD]
    at[A_FREE_BATCHES] -= 1
    row[B_HEAD], row[B_TAIL], row[B_COUNT], row[B_REFERENCES], row[B_BIN], row[B_NEXT] = -1, -1, 0, 0, b, 0
    return batch


@_compiled
def _append(queue, at, batch, unit, value):
    """Add a spike to a batch."""
    event, row = at[A_FREE_EVENT], queue.batch[batch]
    at[A_FREE_EVENT] = queue.event[event, E_NEXT]
    at[A_FREE_EVENTS] -= 1
    queue.event[event, E_UNIT], queue.event[event, E_NEXT] = unit, -1
    queue.value[event] = value
    if row[B_HEAD] < 0:
        row[B_HEAD] = event
    else:
        queue.event[row[B_TAIL], E_NEXT] = event
    row[B_TAIL] = event
    row[B_COUNT] += 1


@_compiled
def _release(queue, at, batch):
    """Give a batch back when its last delivery is over."""
    row = queue.batch[batch]
    row[B_REFERENCES] -= 1
    if row[B_REFERENCES] > 0:
        return
    queue.event[row[B_TAIL], E_NEXT] = at[A_FREE_EVENT]
    at[A_FREE_EVENT] = row[B_HEAD]
    at[A_FREE_EVENTS] += row[B_COUNT]
    row[B_HEAD] = at[A_FREE_BATCH]
    at[A_FREE_BATCH] = batch
    at[A_FREE_BATCHES] += 1


# ------------------------------------------------------------------------------------------------------- membranes


@_compiled
def _parameter(timing, p, column, unit):
    return timing.real[timing.pop[p, column] + timing.pop[p, column + 1] * unit]


@_compiled
def _driven(timing, cells, p, unit):
    """The constant drive of a neuron, per microsecond; none where it comes in pulses."""
    place = timing.pop[p, T_DRIVE]
    return cells.drive[place + unit] if place >= 0 and not timing.pop[p, T_FLAGS] & FLAG_BIAS_PULSES else 0.0


@_compiled
def _evolved(timing, p, unit, v, drive, elapsed):
    """A membrane after `elapsed` microseconds without arrivals: the closed form, each of its terms to rounding."""
    if elapsed <= 0:
        return v
    tau = _parameter(timing, p, T_TAU, unit)
    if tau < INFINITE:
        x, rest = elapsed / tau, _parameter(timing, p, T_REST, unit)
        if drive == 0 and rest == 0:
            return v * math.exp(-x)
        return v * math.exp(-x) - (rest + drive * tau) * math.expm1(-x)
    return v + drive * elapsed if drive != 0 else v


@_compiled
def _drift(timing, cells, p, unit):
    """Where a membrane is led: tau, and how far beyond the threshold it ends; without a leak, how fast it goes."""
    drive, tau = _driven(timing, cells, p, unit), _parameter(timing, p, T_TAU, unit)
    if tau < INFINITE:
        return tau, _parameter(timing, p, T_REST, unit) + drive * tau - _parameter(timing, p, T_THRESHOLD, unit)
    return tau, drive


@_compiled
def _membrane(plan, timing, cells, p, unit, now):
    """The membrane (readout: the sum) of a neuron at `now`, without what arrives in this instant."""
    at = plan.pop[p, P_UNIT] + unit
    since = max(cells.last[at], 0.0)
    v, drive = np.float64(cells.v[at]), _driven(timing, cells, p, unit)
    flags, until = timing.pop[p, T_FLAGS], timing.pop[p, T_UNTIL]
    if flags & FLAG_MODES:
        if until >= 0 and cells.until[until + unit] > now:
            return _parameter(timing, p, T_RESET, unit)
        return _sum_of_modes(plan, timing, cells, p, unit, now)[0]
    if flags & FLAG_SYNAPSE:
        return _state_of(plan, timing, cells, p, unit, now)[0]
    if flags & FLAG_INTEGRATES:
        return _evolved(timing, p, unit, v, drive, now - since)
    floor = _parameter(timing, p, T_FLOOR, unit)  # each piece is monotonic, so its end tells
    if until >= 0 and flags & (FLAG_DISCARD | FLAG_HOLD) and cells.until[until + unit] > since:
        rested = min(cells.until[until + unit], now)
        if not flags & FLAG_HOLD:
            v = max(_evolved(timing, p, unit, v, 0.0, rested - since), floor)
        since = rested
    return max(_evolved(timing, p, unit, v, drive, now - since), floor)


@_compiled
def _crossing(plan, timing, cells, p, unit, now):
    """When a neuron that nothing arrives at reaches its threshold; it stands at `now` and has `last` = now."""
    v = np.float64(cells.v[plan.pop[p, P_UNIT] + unit])
    fire, threshold = _parameter(timing, p, T_FIRE, unit), _parameter(timing, p, T_THRESHOLD, unit)
    until = timing.pop[p, T_UNTIL]
    if until >= 0 and cells.until[until + unit] > now:
        end = cells.until[until + unit]
        if end == INFINITE:
            return INFINITE
        if not timing.pop[p, T_FLAGS] & FLAG_SYNAPSE:
            v = _membrane(plan, timing, cells, p, unit, end)
        now = end
    if timing.pop[p, T_FLAGS] & FLAG_SYNAPSE:
        state = _state_of(plan, timing, cells, p, unit, now)
        return (
            now if state[0] >= fire else now + _first_crossing(_curve(timing, cells, p, unit, state), threshold, fire)
        )
    if v >= fire:
        return now
    tau, beyond = _drift(timing, cells, p, unit)
    if beyond <= 0:
        return INFINITE
    return now + (tau * math.log1p((threshold - v) / beyond) if tau < INFINITE else (threshold - v) / beyond)


@_compiled
def _set_alarm(plan, timing, state, p, unit, now):
    """Predict a neuron's crossing."""
    _predict(timing, state, p, unit, _crossing(plan, timing, state.cells, p, unit, now))


@_compiled
def _predict(timing, state, p, unit, time):
    """Take note of a neuron's next crossing and see to it that an alarm rings no later."""
    cells, at = state.cells, state.at
    place = timing.pop[p, T_ALARM] + unit
    cells.cross[place] = time
    if time < cells.alarm[place]:
        at[A_STALE] += cells.alarm[place] < INFINITE
        cells.alarm[place] = time
        cells.generation[place] += 1
        _push(state.queue, at, time, 2 * timing.pop[p, T_ORDER] + 1, CROSSING + place, cells.generation[place])


@_compiled
def _ring(timing, state, p, place, generation, now):
    """An alarm rings: a crossing, a false alarm that is set again, or a stale one."""
    cells, at = state.cells, state.at
    if cells.generation[place] != generation:
        at[A_STALE] -= 1
        return
    cells.alarm[place] = INFINITE
    unit = place - timing.pop[p, T_ALARM]
    if cells.cross[place] > now:
        _predict(timing, state, p, unit, cells.cross[place])
        return
    cells.cross[place] = -1.0
    cells.crossed[at[A_CROSSED]] = unit
    at[A_CROSSED] += 1
    _due(timing, state, p)


@_compiled
def _due(timing, state, p):
    """A population takes its turn in this instant."""
    order = timing.pop[p, T_ORDER]
    state.cells.waiting[order] = 1
    state.at[A_LOW] = min(state.at[A_LOW], order)


# ------------------------------------------------------------------------------------------ membranes behind currents
#
# Between arrivals such a membrane is V(t) = V e^(-m t) + level (1 - e^(-m t)) + ramp t + sum_r a_r I_r(t), where m is
# the rate of its leak, a_r what the current r makes of dV/dt beyond its steady part, l_r the rate that it decays with,
# and I_r(t) = (e^(-m t) - e^(-l_r t)) / (l_r - m), or t e^(-m t) where the rates are equal. A curve is (V, m, level,
# ramp, l_0, a_0, l_1, a_1): level is the value it ends at, ramp 0; without a leak level is 0, ramp the steady dV/dt.


@_compiled
def _currents(timing, cells, p, unit):
    """The synaptic currents of a neuron as they are kept, 0 where there is no second one."""
    pop = timing.pop[p]
    place = pop[T_CURRENT] + unit
    second = np.float64(cells.current[place + pop[T_SIZE]]) if pop[T_RECEPTORS] > 1 else 0.0
    return np.float64(cells.current[place]), second


@_compiled
def _steady(timing, cells, p, unit, receptor):
    """What a synaptic current is led to by a constant input or by pulses; 0 without them."""
    pop = timing.pop[p]
    if pop[T_DRIVE] < 0 or pop[T_FLAGS] & FLAG_BIAS_PULSES:
        return 0.0
    drive = cells.drive[pop[T_DRIVE] + receptor * pop[T_SIZE] + unit]
    return drive / _parameter(timing, p, T_SYNAPSE + SYN_COLUMNS * receptor + SYN_DECAY, unit) if drive != 0 else 0.0


@_compiled
def _curve(timing, cells, p, unit, state):
    """The curve of a membrane that stands at `state`: V and two currents."""
    v, i_0, i_1 = state
    two = timing.pop[p, T_RECEPTORS] > 1
    tau, rest = _parameter(timing, p, T_TAU, unit), _parameter(timing, p, T_REST, unit)
    l_0 = _parameter(timing, p, T_SYNAPSE + SYN_DECAY, unit)
    reach = _parameter(timing, p, T_SYNAPSE + SYN_REACH, unit)
    led = _steady(timing, cells, p, unit, 0)
    steady, a_0, l_1, a_1 = reach * led, reach * (i_0 - led), l_0, 0.0
    if two:
        l_1 = _parameter(timing, p, T_SYNAPSE_1 + SYN_DECAY, unit)
        reach, led = _parameter(timing, p, T_SYNAPSE_1 + SYN_REACH, unit), _steady(timing, cells, p, unit, 1)
        steady, a_1 = steady + reach * led, reach * (i_1 - led)
    if tau < INFINITE:
        return v, 1 / tau, rest + steady * tau, 0.0, l_0, a_0, l_1, a_1
    return v, 0.0, 0.0, steady, l_0, a_0, l_1, a_1


@_compiled
def _overlap(elapsed, x, y, decay_x, decay_y):
    """I_r of the curve, with x = m t, y = l_r t, decay_x = e^-x and decay_y = e^-y; no digits cancel."""
    d = y - x
    if d > 0.5 or d < -0.5:
        return elapsed * ((decay_x - decay_y) / d)
    return elapsed * decay_x * (-math.expm1(-d) / d if d != 0 else 1.0)


@_compiled
def _along(curve, elapsed):
    """V and dV/dt of a curve."""
    v, m, level, ramp, l_0, a_0, l_1, a_1 = curve
    x, y = m * elapsed, l_0 * elapsed
    decay = math.exp(-x)
    over_0 = _overlap(elapsed, x, y, decay, math.exp(-y))
    value, slope = a_0 * over_0, -l_0 * a_0 * over_0
    if a_1 != 0:
        y = l_1 * elapsed
        over_1 = _overlap(elapsed, x, y, decay, math.exp(-y))
        value, slope = value + a_1 * over_1, slope - l_1 * a_1 * over_1
    value += v * decay + ramp * elapsed
    if level != 0:
        value -= level * math.expm1(-x)
    return value, slope + _slope(curve) * decay


@_compiled
def _slope(curve):
    """dV/dt where a curve begins."""
    v, m, level, ramp, _, a_0, _, a_1 = curve
    return m * (level - v) + ramp + a_0 + a_1


@_compiled
def _turning(curve):
    """Where V has its extrema: (how many, first, second). One current makes one at most, two make two."""
    _, m, _, _, l_0, a_0, l_1, a_1 = curve
    slope, b_0, b_1 = _slope(curve), l_0 * a_0, l_1 * a_1
    if b_0 == 0 or b_1 == 0 or l_0 == l_1:
        rate, b = (l_1, b_1) if b_0 == 0 else (l_0, b_0 + b_1 if l_0 == l_1 else b_0)
        time = _single_turning(slope, b, rate - m)
        return (1, time, INFINITE) if time < INFINITE else (0, INFINITE, INFINITE)
    # dV/dt e^(m t) is monotonic on either side of the point where the two currents' decays balance
    split = 0.0
    if (b_0 < 0) != (b_1 < 0):
        split = max(math.log(-b_0 / b_1) / (l_0 - l_1), 0.0)
    count, first, second, here = 0, INFINITE, INFINITE, slope
    if split > 0:  # perhaps far out, where nothing is left of dV/dt: a change of its sign before that is nearer
        end = min(split, 1 / max(m, l_0, l_1))
        while True:
            here = _along(curve, end)[1]
            if here * slope <= 0 or end == split:
                break
            end = min(2 * end, split)
        if slope * here < 0:
            count, first = 1, _zero_of_slope(curve, 0.0, end)
        if here == 0:
            return count, first, second
    if here * _last_slope(curve) < 0:
        end = 2 * max(split, 1 / max(m, l_0, l_1))
        while _scaled_slope(curve, end) * here > 0 and end < 1e18:
            end *= 2
        time = _zero_of_slope(curve, split, end)
        first, second = (time, second) if count == 0 else (first, time)
        count += 1
    return count, first, second


@_compiled
def _scaled_slope(curve, elapsed):
    """dV/dt relative to the slowest exponential: its sign is known where dV/dt itself is 0 to the smallest number."""
    _, m, _, _, l_0, a_0, l_1, a_1 = curve
    slow, x, y_0, y_1 = min(m, l_0, l_1) * elapsed, m * elapsed, l_0 * elapsed, l_1 * elapsed
    decay = math.exp(slow - x)
    found = _slope(curve) * decay - l_0 * a_0 * _overlap(elapsed, x, y_0, decay, math.exp(slow - y_0))
    return found - l_1 * a_1 * _overlap(elapsed, x, y_1, decay, math.exp(slow - y_1))


@_compiled
def _single_turning(slope, b, d):
    """The zero of slope - b (1 - e^(-d t)) / d: the extremum with one current, in closed form."""
    if b == 0 or slope / b <= 0:
        return INFINITE
    q = slope / b
    if d == 0:
        return q
    return -math.log1p(-d * q) / d if d * q < 1 else INFINITE


@_compiled
def _last_slope(curve):
    """A number with the sign that dV/dt ends with: of its slowest exponential."""
    v, m, level, ramp, l_0, a_0, l_1, a_1 = curve
    own = ramp if m == 0 else m * (level - v)
    slowest, sign = m, 0.0
    for rate, a in ((l_0, a_0), (l_1, a_1)):
        d = rate - m
        if d != 0:
            own -= m * a / d
            if rate < slowest:
                slowest, sign = rate, rate * a / d
        elif rate <= slowest:
            slowest, sign = rate, -rate * a
    return sign if sign != 0 else own


@_compiled
def _zero_of_slope(curve, low, high):
    """Where dV/dt is 0 between two times at which its signs differ: Newton's steps, halving where one leads out."""
    _, m, _, _, l_0, a_0, l_1, a_1 = curve
    rising = _scaled_slope(curve, high) > 0
    time = 0.5 * (low + high)
    for _ in range(200):
        slope = _along(curve, time)[1]
        if (_scaled_slope(curve, time) > 0) == rising:
            high = time
        else:
            low = time
        bend = -m * slope - l_0 * a_0 * math.exp(-l_0 * time) - l_1 * a_1 * math.exp(-l_1 * time)
        following = time - slope / bend if bend != 0 else low
        if not low < following < high:
            following = 0.5 * (low + high)
        if abs(following - time) <= 1e-15 * time:
            break
        time = following
    return time


@_compiled
def _first_crossing(curve, threshold, fire):
    """Time until a curve that begins below `fire` first reaches it; infinite for never.

    V is monotonic between its extrema, so the first rising part that ends at or above `fire` holds the crossing.
    """
    v, m, level, ramp, l_0, a_0, l_1, a_1 = curve
    if v == threshold and _slope(curve) > 0:
        return 0.0
    count, first, second = _turning(curve)
    begin = 0.0
    for k in range(count):
        end = first if k == 0 else second
        if _along(curve, end)[0] >= fire:
            return _root(curve, begin, end, threshold)
        begin = end
    limit, drift = level if m > 0 else v, ramp
    for rate, a in ((l_0, a_0), (l_1, a_1)):
        if a != 0 and rate == 0 and m == 0:
            drift += a
        elif a != 0 and (rate == 0 or m == 0):
            limit += a / max(m, rate)
    if drift < 0 or (drift == 0 and limit <= threshold):
        return INFINITE
    slowest = m if m > 0 else max(l_0, l_1)
    for rate, a in ((l_0, a_0), (l_1, a_1)):
        slowest = min(slowest, rate) if a != 0 and rate > 0 else slowest
    end = begin + (1 / slowest if slowest > 0 else 1.0)
    while _along(curve, end)[0] < threshold:
        if end > 1e18:
            return INFINITE  # no nearer than rounding
        begin, end = end, 2 * end
    return _root(curve, begin, end, threshold)


@_compiled
def _root(curve, low, high, threshold):
    """Where a curve that rises from `low` to `high` has the threshold: Newton's steps, halving where one leads out."""
    time = _guess(curve, threshold)
    if not low < time < high:
        time = low
    for _ in range(200):
        value, slope = _along(curve, time)
        if value >= threshold:
            high = time
        else:
            low = time
        following = time + (threshold - value) / slope if slope > 0 else -1.0
        if not low <= following <= high:
            following = 0.5 * (low + high)
        if abs(following - time) <= 2e-16 * time:
            break
        time = following
    return time


@_compiled
def _guess(curve, threshold):
    """The crossing in closed form, where there is one: no leak, or one time constant twice the other; else -1."""
    v, m, level, ramp, rate, a, _, other = curve
    if other != 0 or ramp != 0:
        return -1.0
    missing = threshold - v
    if m == 0:
        return -math.log1p(-missing * rate / a) / rate if rate > 0 and missing * rate < a else -1.0
    slow, fast = min(m, rate), max(m, rate)
    if abs(fast - 2 * slow) > 1e-9 * fast:
        return -1.0
    # with z = e^(-slow t) the curve is level + of_m z^(m/slow) - of_rate z^(rate/slow)
    of_rate = a / (rate - m)
    of_m = v - level + of_rate
    linear, square = (of_m, -of_rate) if m < rate else (-of_rate, of_m)
    constant = level - threshold
    under = linear * linear - 4 * square * constant
    if under < 0:
        return -1.0
    # the first crossing is a rising one: dV/dt = -slow z (linear + 2 square z) > 0, the root where that sum is -sqrt
    root = math.sqrt(under)
    z = (-linear - root) / (2 * square) if linear > 0 else 2 * constant / (-linear + root)
    return -math.log(z) / slow if z > 0 else -1.0


@_compiled
def _state_of(plan, timing, cells, p, unit, now):
    """V and the currents of a neuron at `now`, without what arrives in this instant."""
    at = plan.pop[p, P_UNIT] + unit
    since = max(cells.last[at], 0.0)
    v, (i_0, i_1) = np.float64(cells.v[at]), _currents(timing, cells, p, unit)
    until = timing.pop[p, T_UNTIL]
    if until >= 0 and cells.until[until + unit] > since:  # it holds its membrane so long
        rested = min(cells.until[until + unit], now)
        i_0, i_1 = _decayed(timing, cells, p, unit, i_0, i_1, rested - since)
        since = rested
    if now <= since:
        return v, i_0, i_1
    after = _along(_curve(timing, cells, p, unit, (v, i_0, i_1)), now - since)[0]
    i_0, i_1 = _decayed(timing, cells, p, unit, i_0, i_1, now - since)
    return after, i_0, i_1


@_compiled
def _decayed(timing, cells, p, unit, i_0, i_1, elapsed):
    """The currents of a neuron after `elapsed` microseconds without arrivals."""
    led = _steady(timing, cells, p, unit, 0)
    x = elapsed * _parameter(timing, p, T_SYNAPSE + SYN_DECAY, unit)
    i_0 = i_0 * math.exp(-x) - (led * math.expm1(-x) if led != 0 else 0.0)
    if timing.pop[p, T_RECEPTORS] > 1:
        led = _steady(timing, cells, p, unit, 1)
        x = elapsed * _parameter(timing, p, T_SYNAPSE_1 + SYN_DECAY, unit)
        i_1 = i_1 * math.exp(-x) - (led * math.expm1(-x) if led != 0 else 0.0)
    return i_0, i_1


@_compiled
def _settle(plan, timing, cells, p, unit, now):
    """Bring a neuron's membrane and currents to `now`. Returns V; the caller says when it was (`_is_first`)."""
    v, i_0, i_1 = _state_of(plan, timing, cells, p, unit, now)
    pop = timing.pop[p]
    cells.v[plan.pop[p, P_UNIT] + unit] = v
    cells.current[pop[T_CURRENT] + unit] = i_0
    if pop[T_RECEPTORS] > 1:
        cells.current[pop[T_CURRENT] + pop[T_SIZE] + unit] = i_1
    return v


# -------------------------------------------------------------------------------------------------------- delivery


@_compiled
def _touch(cells, at, start, length):
    """Note that something arrived at a segment of the population."""
    if cells.span[start] == 0:
        cells.starts[at[A_SEGMENTS]] = start
        at[A_SEGMENTS] += 1
    cells.span[start] = max(cells.span[start], length)


@_compiled
def _taken(cells, s):
    """A segment that something arrived at, no longer noted: (first unit, length)."""
    start = cells.starts[s]
    length = cells.span[start]
    cells.span[start] = 0
    return start, length


@_compiled
def _is_first(cells, place, now):
    """Whether a neuron is updated for the first time in this instant; it is, from now on."""
    first = cells.last[place] != now
    cells.last[place] = now
    return first


@_compiled
def _apply_rows(plan, timing, state, c, position, count):
    """Add `count` events of one position, channels and values in scratch, by whole rows. Returns the additions."""
    con, cells, at, real, runs = plan.con[c], state.cells, state.at, plan.real, plan.runs
    channel, value, lane = cells.channel, cells.value, timing.lane[c]
    place = con[C_POINTER] + position
    r0, r1 = plan.whole[place], plan.whole[place + 1]
    added = first = 0
    while first < count:
        shift, last = 0, count
        if con[C_GROUP_IN] > 0:  # events of one convolution group share their target channels
            group = (channel[first] + con[C_CHANNEL_SHIFT]) // con[C_GROUP_IN]
            last = first + 1
            while last < count and (channel[last] + con[C_CHANNEL_SHIFT]) // con[C_GROUP_IN] == group:
                last += 1
            shift = group * con[C_GROUP_OUT]
        single = True
        for n in range(first, last):
            single &= value[n] == 1
        for r in range(r0, r1):
            start, offset = shift + np.int64(runs[r, R_TARGET]), con[C_WEIGHT] + np.int64(runs[r, R_FIRST])
            length = np.int64(runs[r, R_LENGTH])
            if single:
                _add_rows(cells.register, lane + start, real, channel, value, first, last, con[C_ROW], offset, length)
            else:
                _mac_rows(cells.register, lane + start, real, channel, value, first, last, con[C_ROW], offset, length)
            _touch(cells, at, start, length)
            added += length * (last - first)
        first = last
    return added


@_compiled
def _apply_singly(plan, timing, state, c, unit, value, now):
    """Add one event to the target's register, unit by unit. Returns (added, dropped)."""
    con = plan.con[c]
    place = con[C_POINTER] + (unit if con[C_OP] == OP_SPARSE else unit // plan.pop[con[C_SOURCE], P_CHANNELS])
    return _apply_part(plan, timing, state, c, unit, value, now, plan.whole[place], plan.whole[place + 1])


@_compiled
def _apply_part(plan, timing, state, c, unit, value, now, first, end):
    """`_apply_singly` for the runs from `first` to `end` of those of the unit."""
    con, cells, at, real, runs = plan.con[c], state.cells, state.at, plan.real, plan.runs
    channels = plan.pop[con[C_SOURCE], P_CHANNELS]
    number = unit % channels
    op, careful, lane = con[C_OP], con[C_CAREFUL] and timing.pulse == 0, timing.lane[c]
    origin = plan.whole[con[C_POINTER]]
    until = timing.pop[con[C_TARGET], T_UNTIL]
    added = dropped = 0
    if op == OP_SPARSE and con[C_COEFFICIENT] < 0:
        weight, targets = real[con[C_WEIGHT] - origin + first :], runs[first:end, R_TARGET]
        register, span, starts = cells.register[lane:], cells.span, cells.starts
        deaf_until, segments = cells.until[max(until, 0) :], at[A_SEGMENTS]
        for k in range(end - first):
            target = np.int64(targets[k])
            if careful and deaf_until[target] >= now:
                continue
            register[target] += weight[k] * value
            if span[target] == 0:
                span[target] = 1
                starts[segments] = target
                segments += 1
            added += 1
        at[A_SEGMENTS] = segments
        return added, end - first - added
    for r in range(first, end):
        start, weight, length = np.int64(runs[r, R_TARGET]), con[C_WEIGHT], 1
        if op == OP_RUNS:
            if con[C_GROUP_IN] > 0:
                start += (number + con[C_CHANNEL_SHIFT]) // con[C_GROUP_IN] * con[C_GROUP_OUT]
            weight += number * con[C_ROW] + runs[r, R_FIRST]
            length = np.int64(runs[r, R_LENGTH])
        elif op == OP_UNITS:
            start = start * con[C_CHANNELS_OUT] + number + con[C_CHANNEL_SHIFT]
            weight += number
        else:
            weight += r - origin
        for i in range(length):
            if careful and cells.until[until + start + i] >= now:
                dropped += 1
                continue
            amount = real[weight + i]
            if con[C_COEFFICIENT] >= 0:
                amount *= real[con[C_COEFFICIENT] + r - origin]
            cells.register[lane + start + i] += amount if value == 1 else value * amount
            added += 1
            _touch(cells, at, start + i, 1)
    return added, dropped


@_inlined
def _apply(plan, timing, state, c, event, ending, now):
    """Add an event, and the following ones that share its position, to the target's register.

    Returns (added, dropped, the event behind them). ending: see `_deliver`.
    """
    con, queue, cells = plan.con[c], state.queue, state.cells
    unit = queue.event[event, E_UNIT]
    if con[C_OP] != OP_RUNS or con[C_COEFFICIENT] >= 0 or (con[C_CAREFUL] and timing.pulse == 0):
        value = queue.value[event]
        added, dropped = _apply_singly(plan, timing, state, c, unit, -value if ending else value, now)
        return added, dropped, queue.event[event, E_NEXT]
    channels = plan.pop[con[C_SOURCE], P_CHANNELS]
    position = unit // channels
    first, count = position * channels, 0
    while True:
        cells.channel[count] = unit - first
        cells.value[count] = -queue.value[event] if ending else queue.value[event]
        count += 1
        event = queue.event[event, E_NEXT]
        if event < 0 or timing.serial or count == len(cells.channel):
            break
        unit = queue.event[event, E_UNIT]
        if unit < first or unit >= first + channels:
            break
    return _apply_rows(plan, timing, state, c, position, count), 0, event


@_compiled
def _fan(plan, c, unit):
    """Taps of one event, from the fan-out tables: (structural, effective, pool)."""
    con, whole = plan.con[c], plan.whole
    position = unit // plan.pop[con[C_SOURCE], P_CHANNELS]
    place = unit if con[C_OP] == OP_SPARSE else position
    structural = whole[con[C_FAN] + place]
    effective = whole[con[C_EFFECTIVE] + unit] if con[C_EFFECTIVE] >= 0 else structural
    pool = whole[con[C_POOL_FAN] + place] if con[C_POOL_FAN] >= 0 else 0
    return structural, effective, pool


@_compiled
def _book_emitted(plan, books, c, b, unit, times):
    """Book the taps of an event when it is emitted, or found in flight. Every instant is a tick of its own."""
    structural, effective, pool = _fan(plan, c, unit)
    main, side = books.taps[c, MAIN, b], books.taps[c, POOL, b]
    main[STRUCTURAL] += structural
    main[UNITS] += structural * times
    main[EFFECTIVE] += effective
    main[PER_TICK] += effective
    side[STRUCTURAL] += pool
    side[UNITS] += pool * times
    side[EFFECTIVE] += pool
    side[PER_TICK] += pool


@_inlined
def _deliver(plan, timing, state, c, batch, ending, now):
    """A delivery's moment. ending: of its pulse, which takes back the current the batch has brought.

    Returns False when a neuron that is tested at once runs away.
    """
    con, queue, books = plan.con[c], state.queue, state.books
    row = queue.batch[batch]
    p = con[C_SOURCE]
    spikes = timing.pop[p, T_FLAGS] & FLAG_SPIKES
    counting = books.taps.size > 0 and not ending
    added = dropped = pools = structural = repeated = 0
    event, left = row[B_HEAD], False
    if timing.own[c] >= 0:
        added, dropped, left = _deliver_next(plan, timing, state, c, batch, ending, now)
        event = -1
    while event >= 0:
        got, lost, following = _apply(plan, timing, state, c, event, ending, now)
        added += got
        dropped += lost
        if counting and (con[C_BY_TABLE] or con[C_POOL_FAN] >= 0 or (con[C_PLAIN] and spikes)):
            while event != following:
                if not con[C_PLAIN] or queue.value[event] != 1:
                    taps, _, pool = _fan(plan, c, queue.event[event, E_UNIT])
                    structural += taps
                    pools += pool
                    repeated += taps * (np.int64(queue.value[event]) - 1) if spikes else 0
                event = queue.event[event, E_NEXT]
        event = following
        if timing.serial and not _turn(plan, timing, state, con[C_TARGET], now):
            return False
    if counting and con[C_PLAIN] and row[B_BIN] >= 0:
        main = books.taps[c, MAIN, row[B_BIN]]
        main[STRUCTURAL] += added
        main[UNITS] += added + repeated
        main[EFFECTIVE] += added
        main[PER_TICK] += added
    if con[C_BY_TABLE]:
        added = structural
    if not ending:
        b = state.at[A_BIN]
        if counting:
            books.taps[c, MAIN, b, DELIVERED] += added
            books.taps[c, MAIN, b, DROPPED] += dropped
            books.taps[c, POOL, b, DELIVERED] += pools
        if con[C_SYNOPS]:
            books.synops[b] += added
            state.at[A_SPENT] += added
    if not left:
        _release(queue, state.at, batch)
    if timing.serial and timing.own[c] >= 0 and not _turn(plan, timing, state, con[C_TARGET], now):
        return False
    if state.at[A_SEGMENTS] > 0:
        _due(timing, state, con[C_TARGET])
    return True


@_compiled
def _deliver_next(plan, timing, state, c, batch, ending, now):
    """Deliver a spike to the synapses of one delay, and queue it for the next. Returns (added, dropped, any left)."""
    queue = state.queue
    row, con = queue.batch[batch], plan.con[c]
    event = row[B_HEAD]
    unit, value = queue.event[event, E_UNIT], queue.value[event]
    place = con[C_POINTER] + unit
    first, end = plan.whole[place] + row[B_NEXT], plan.whole[place + 1]
    own = timing.own[c] - plan.whole[con[C_POINTER]]
    behind = first
    while behind < end and timing.real[own + behind] == timing.real[own + first]:
        behind += 1
    added, dropped = _apply_part(plan, timing, state, c, unit, -value if ending else value, now, first, behind)
    row[B_NEXT] += behind - first
    if behind < end:
        time = queue.since[batch] + (timing.delay[c] + timing.real[own + behind])
        time += timing.pulse if ending else 0.0
        _push(queue, state.at, time, 2 * timing.pop[con[C_TARGET], T_ORDER], 2 * c + ending, batch)
    return added, dropped, behind < end


@_compiled
def _has_synapses(plan, queue, c, batch):
    """Whether any spike of a batch has a synapse in a list of them: a population may have several such lists."""
    event = queue.batch[batch, B_HEAD]
    while event >= 0:
        place = plan.con[c, C_POINTER] + queue.event[event, E_UNIT]
        if plan.whole[place] < plan.whole[place + 1]:
            return True
        event = queue.event[event, E_NEXT]
    return False


@_compiled
def _send_singly(plan, timing, state, c, batch, ending):
    """Queue every spike of a batch by itself, on a connection whose synapses have delays of their own.

    ending: microseconds that its pulse lasts, for the end of that pulse; else 0.
    """
    queue, at, con = state.queue, state.at, plan.con[c]
    event = queue.batch[batch, B_HEAD]
    while event >= 0:
        unit = queue.event[event, E_UNIT]
        place = con[C_POINTER] + unit
        if plan.whole[place] < plan.whole[place + 1]:
            single = _new_batch(queue, at, queue.batch[batch, B_BIN])
            _append(queue, at, single, unit, queue.value[event])
            queue.batch[single, B_REFERENCES] = 1
            queue.since[single] = state.clock[X_TIME]
            first = timing.own[c] + plan.whole[place] - plan.whole[con[C_POINTER]]
            what = 2 * c + (ending > 0)
            # summed like the delay of a connection, so that equal ones arrive together
            time = state.clock[X_TIME] + (timing.delay[c] + timing.real[first]) + ending
            _push(queue, at, time, 2 * timing.pop[con[C_TARGET], T_ORDER], what, single)
        event = queue.event[event, E_NEXT]


@_inlined
def _announce(plan, timing, state, p, batch, now):
    """Book a batch that was just emitted, record it, and queue it on every outgoing connection."""
    queue, books, at = state.queue, state.books, state.at
    row = queue.batch[batch]
    b = at[A_BIN]
    spikes = timing.pop[p, T_FLAGS] & FLAG_SPIKES
    units = 0
    event = row[B_HEAD]
    while event >= 0:
        unit = queue.event[event, E_UNIT]
        times = np.int64(queue.value[event]) if spikes else 1
        units += times
        if books.sources.size > 0:
            books.sources[0, plan.pop[p, P_UNIT] + unit] += 1
            books.sources[1, plan.pop[p, P_UNIT] + unit] += times
        if p == plan.misc[M_OUTPUT]:
            books.counts[unit] += times
        if plan.pop[p, P_RECORD]:
            n = at[A_RECORDED]
            state.record.time[n] = now
            state.record.place[n, 0], state.record.place[n, 1] = p, unit
            state.record.value[n] = queue.value[event]
            at[A_RECORDED] = n + 1
        if books.taps.size > 0:
            for k in range(plan.pop[p, P_FIRST_OUT], plan.pop[p, P_LAST_OUT]):
                if not plan.con[plan.whole[k], C_PLAIN]:
                    _book_emitted(plan, books, plan.whole[k], b, unit, times)
        event = queue.event[event, E_NEXT]
    books.events[p, b, EVENTS] += row[B_COUNT]
    books.events[p, b, EVENT_UNITS] += units
    row[B_REFERENCES] = 1
    for k in range(plan.pop[p, P_FIRST_OUT], plan.pop[p, P_LAST_OUT]):
        c = plan.whole[k]
        target = timing.pop[plan.con[c, C_TARGET]]
        # where a map follows the synapses, those that it leads nowhere are made and counted all the same
        mapped = plan.con[c, C_POOL_FAN] >= 0 or plan.con[c, C_BY_TABLE]
        if plan.con[c, C_OP] == OP_SPARSE and not mapped and not _has_synapses(plan, queue, c, batch):
            continue
        if timing.own[c] >= 0:
            _send_singly(plan, timing, state, c, batch, 0.0)
            if target[T_FLAGS] & FLAG_CURRENT:
                _send_singly(plan, timing, state, c, batch, timing.pulse)
            continue
        row[B_REFERENCES] += 1
        _push(queue, at, now + timing.delay[c], 2 * target[T_ORDER], 2 * c, batch)
        if target[T_FLAGS] & FLAG_CURRENT:
            row[B_REFERENCES] += 1
            end = now + timing.delay[c] + timing.pulse
            _push(queue, at, end, 2 * target[T_ORDER], 2 * c + 1, batch)
    _release(queue, at, batch)


# ---------------------------------------------------------------------------------------------------------- a turn


@_compiled
def _fires(timing, cells, p, unit, v):
    """Whether a membrane fires where it stands: at or above the threshold, or above it, as the comparator says.

    At the threshold and on its way up inf {t : V(t) > threshold} is now.
    """
    if v >= _parameter(timing, p, T_FIRE, unit):
        return True
    if v != _parameter(timing, p, T_THRESHOLD, unit):
        return False
    if timing.pop[p, T_FLAGS] & FLAG_SYNAPSE:  # kept as they are: the reset of modes is to a value, below
        currents = _currents(timing, cells, p, unit)
        return _slope(_curve(timing, cells, p, unit, (v, currents[0], currents[1]))) > 0
    return _drift(timing, cells, p, unit)[1] > 0


@_compiled
def _fire(plan, timing, state, p, unit, v, now):
    """A spike, and the reset: again and again until the membrane is below threshold. Returns False on a runaway."""
    cells, at = state.cells, state.at
    flags, times, until = timing.pop[p, T_FLAGS], 1, timing.pop[p, T_UNTIL]
    if flags & FLAG_HARD:
        v = _parameter(timing, p, T_RESET, unit)
    else:
        amount = _parameter(timing, p, T_AMOUNT, unit)
        v -= amount
        while until < 0 and _fires(timing, cells, p, unit, v):
            v -= amount
            times += 1
            if times > MAX_MULTIPLICITY:
                return False
    if until >= 0:
        cells.until[until + unit] = now + _parameter(timing, p, T_REFRACTORY, unit)
    cells.v[plan.pop[p, P_UNIT] + unit] = max(v, _parameter(timing, p, T_FLOOR, unit))
    n = at[A_FIRED]
    cells.fired[n, 0], cells.fired[n, 1] = unit, times
    at[A_FIRED] = n + 1
    return True


@_inlined
def _turn_plain(plan, timing, state, p, now):
    """Neurons that do nothing between arrivals, all of one kind: add, clamp, test. Returns (updated, sound)."""
    cells, base = state.cells, plan.pop[p, P_UNIT]
    v, last, register = cells.v, cells.last, cells.register
    kind = v.dtype.type
    gain, fire = kind(_parameter(timing, p, T_GAIN, 0)), kind(_parameter(timing, p, T_FIRE, 0))
    floor = kind(_parameter(timing, p, T_FLOOR, 0))
    updated = 0
    for s in range(state.at[A_SEGMENTS]):
        start, length = _taken(cells, s)
        first, end = base + start, base + start + length
        membrane, arrived, touched = v[first:end], register[start : start + length], last[first:end]
        over = 0
        for i in range(length):
            u = membrane[i] + gain * arrived[i]
            u = u if u > floor else floor
            membrane[i] = u
            arrived[i] = 0
            over |= u >= fire
        for i in range(length):
            updated += touched[i] != now
            touched[i] = now
        if over:
            for i in range(length):
                if membrane[i] >= fire and not _fire(plan, timing, state, p, start + i, np.float64(membrane[i]), now):
                    return updated, False
    return updated, True


@_compiled
def _turn_general(plan, timing, state, p, now):
    """Every neuron there is, one at a time: its exact membrane, what arrived, the test, the next crossing.

    Returns (updated, sound).
    """
    cells, at, base = state.cells, state.at, plan.pop[p, P_UNIT]
    flags, alarmed, until = timing.pop[p, T_FLAGS], timing.pop[p, T_ALARM], timing.pop[p, T_UNTIL]
    updated = 0
    for s in range(at[A_SEGMENTS]):
        start, length = _taken(cells, s)
        for i in range(start, start + length):
            u = _membrane(plan, timing, cells, p, i, now)
            if flags & FLAG_CURRENT:
                cells.drive[timing.pop[p, T_DRIVE] + i] += (
                    _parameter(timing, p, T_RATE, i) * cells.register[i] / timing.pulse
                )
            elif not (flags & FLAG_HOLD and until >= 0 and cells.until[until + i] > now):
                u = max(u + _parameter(timing, p, T_GAIN, i) * cells.register[i], _parameter(timing, p, T_FLOOR, i))
            cells.register[i] = 0
            updated += _is_first(cells, base + i, now)
            cells.v[base + i] = u
            free = until < 0 or cells.until[until + i] <= now
            if free and _fires(timing, cells, p, i, u) and not _fire(plan, timing, state, p, i, u, now):
                return updated, False
            if alarmed >= 0:
                _set_alarm(plan, timing, state, p, i, now)
    return updated, True


@_compiled
def _turn_crossed(plan, timing, state, p, now):
    """Neurons whose alarm has rung, and that nothing arrived at, fire. Returns (updated, sound)."""
    cells, at, base = state.cells, state.at, plan.pop[p, P_UNIT]
    alarmed, until = timing.pop[p, T_ALARM], timing.pop[p, T_UNTIL]
    updated = 0
    for n in range(at[A_CROSSED]):
        i = cells.crossed[n]
        if cells.cross[alarmed + i] != -1.0:
            continue  # something arrived in the same instant, and came first
        u = _parameter(timing, p, T_THRESHOLD, i)
        since = max(cells.last[base + i], 0.0)
        if timing.pop[p, T_FLAGS] & FLAG_SYNAPSE:
            v = _settle(plan, timing, cells, p, i, now)
            if since == now or (until >= 0 and cells.until[until + i] == now):
                u = max(u, v)
        elif since == now or (until >= 0 and cells.until[until + i] == now):  # it was there before it could fire
            u = max(u, _membrane(plan, timing, cells, p, i, now))
        updated += _is_first(cells, base + i, now)
        if not _fire(plan, timing, state, p, i, u, now):
            return updated, False
        _set_alarm(plan, timing, state, p, i, now)
    return updated, True


@_inlined
def _turn_leaky(plan, timing, state, p, now):
    """`_turn_general` for leaky neurons of one kind that are never refractory, to the same bits.

    Neurons that were reached together before have decayed alike, so an exponential serves until the time differs.
    """
    cells, at, base = state.cells, state.at, plan.pop[p, P_UNIT]
    v, last, register = cells.v, cells.last, cells.register
    alarmed, driven = timing.pop[p, T_ALARM], timing.pop[p, T_DRIVE]
    if timing.pop[p, T_FLAGS] & FLAG_BIAS_PULSES:
        driven = -1
    tau, rest = _parameter(timing, p, T_TAU, 0), _parameter(timing, p, T_REST, 0)
    gain, fire = _parameter(timing, p, T_GAIN, 0), _parameter(timing, p, T_FIRE, 0)
    floor, threshold = _parameter(timing, p, T_FLOOR, 0), _parameter(timing, p, T_THRESHOLD, 0)
    known, decay, rise = -1.0, 1.0, 0.0
    updated = 0
    for s in range(at[A_SEGMENTS]):
        start, length = _taken(cells, s)
        for i in range(start, start + length):
            elapsed = now - max(last[base + i], 0.0)
            drive = cells.drive[driven + i] if driven >= 0 else 0.0
            u = np.float64(v[base + i])
            if elapsed > 0:
                if elapsed != known:
                    known, decay, rise = elapsed, math.exp(-(elapsed / tau)), math.expm1(-(elapsed / tau))
                u *= decay
                if drive != 0 or rest != 0:
                    u -= (rest + drive * tau) * rise
                u = max(u, floor)
            u = max(u + gain * register[i], floor)
            register[i] = 0
            updated += _is_first(cells, base + i, now)
            v[base + i] = u
            beyond = rest + drive * tau - threshold
            if (u >= fire or (u == threshold and beyond > 0)) and not _fire(plan, timing, state, p, i, u, now):
                return updated, False
            if alarmed >= 0:
                u = np.float64(v[base + i])
                time = now + tau * math.log1p((threshold - u) / beyond) if beyond > 0 else INFINITE
                _predict(timing, state, p, i, now if u >= fire else time)
    return updated, True


@_compiled
def _turn_currents(plan, timing, state, p, now):
    """Neurons with synaptic currents that something arrived at. Returns (updated, sound)."""
    cells, at, base = state.cells, state.at, plan.pop[p, P_UNIT]
    alarmed, until = timing.pop[p, T_ALARM], timing.pop[p, T_UNTIL]
    updated = 0
    for s in range(at[A_SEGMENTS]):
        start, length = _taken(cells, s)
        for i in range(start, start + length):
            u = _settle(plan, timing, cells, p, i, now)
            if alarmed >= 0 and cells.cross[alarmed + i] == -1.0:  # it crosses in this very instant
                u = max(u, _parameter(timing, p, T_THRESHOLD, i))
                cells.v[base + i] = u
            _take_in(timing, cells, p, i)
            updated += _is_first(cells, base + i, now)
            free = until < 0 or cells.until[until + i] <= now
            if free and _fires(timing, cells, p, i, u) and not _fire(plan, timing, state, p, i, u, now):
                return updated, False
            _set_alarm(plan, timing, state, p, i, now)
    return updated, True


@_compiled
def _take_in(timing, cells, p, unit):
    """Add what arrived at a neuron to its synaptic currents, or to what drives them for a pulse."""
    pop = timing.pop[p]
    size = pop[T_SIZE]
    for r in range(pop[T_RECEPTORS]):
        arrived = cells.register[r * size + unit]
        cells.register[r * size + unit] = 0
        column = T_SYNAPSE + SYN_COLUMNS * r
        if pop[T_FLAGS] & FLAG_CURRENT:
            rate = _parameter(timing, p, column + SYN_RATE, unit)
            cells.drive[pop[T_DRIVE] + r * size + unit] += rate * arrived / timing.pulse
        else:
            cells.current[pop[T_CURRENT] + r * size + unit] += _parameter(timing, p, column + SYN_JUMP, unit) * arrived


# ----------------------------------------------------------------------------------------------------- decaying modes
#
# Neurons of one kind without steady input: V(t) = rest + M e^(-m t) + sum_r k_r g_r e^(-l_r t), with k_r = reach / (m -
# l_r), is a sum of modes that decay by themselves. Each is kept as it would have been at `epoch`, so that it changes at
# arrivals alone, and one exponential for each mode serves all neurons of an instant. Nor is a crossing predicted at
# every arrival: up to `ahead` each mode lies between its values now and then, so a sum of the larger ones below
# threshold rules it out. Only where it does not, the crossing is computed; at `ahead` all neurons are looked at anew.
# The modes of a refractory neuron are those it will have when that time is over.


@_compiled
def _rates(timing, p):
    """Decay of the membrane and of two currents, and k_r: what V has of the currents; 0 where there is none."""
    tau, count = _parameter(timing, p, T_TAU, 0), timing.pop[p, T_RECEPTORS]
    m = 1 / tau if tau < INFINITE else 0.0
    l_0 = l_1 = k_0 = k_1 = 0.0
    if count > 0:
        l_0 = _parameter(timing, p, T_SYNAPSE + SYN_DECAY, 0)
        k_0 = _parameter(timing, p, T_SYNAPSE + SYN_REACH, 0) / (m - l_0)
    if count > 1:
        l_1 = _parameter(timing, p, T_SYNAPSE_1 + SYN_DECAY, 0)
        k_1 = _parameter(timing, p, T_SYNAPSE_1 + SYN_REACH, 0) / (m - l_1)
    return m, l_0, l_1, k_0, k_1


@_compiled
def _modes(plan, timing, cells, p, unit):
    """The modes of a neuron as they are kept: of the membrane, and the currents."""
    g_0 = g_1 = 0.0
    if timing.pop[p, T_RECEPTORS] > 0:
        g_0, g_1 = _currents(timing, cells, p, unit)
    return np.float64(cells.v[plan.pop[p, P_UNIT] + unit]), g_0, g_1


@_compiled
def _sum_of_modes(plan, timing, cells, p, unit, time):
    """V, the membrane's mode and the currents of a neuron at a time from which on its modes hold."""
    m, l_0, l_1, k_0, k_1 = _rates(timing, p)
    own, g_0, g_1 = _modes(plan, timing, cells, p, unit)
    elapsed = time - cells.epoch[p]
    own = own * math.exp(-m * elapsed)
    if l_0 != 0:
        g_0 *= math.exp(-l_0 * elapsed)
    if l_1 != 0:
        g_1 *= math.exp(-l_1 * elapsed)
    return _parameter(timing, p, T_REST, 0) + own + k_0 * g_0 + k_1 * g_1, own, g_0, g_1


@_compiled
def _begin_modes(plan, timing, state, p):
    """Turn membranes and currents at time 0 into modes, and look ahead from there."""
    cells = state.cells
    _, _, _, k_0, k_1 = _rates(timing, p)
    rest = _parameter(timing, p, T_REST, 0)
    for i in range(plan.pop[p, P_SIZE]):
        v, g_0, g_1 = _modes(plan, timing, cells, p, i)
        cells.v[plan.pop[p, P_UNIT] + i] = v - rest - k_0 * g_0 - k_1 * g_1
    cells.ahead[p] = 0
    _push(state.queue, state.at, 0.0, 2 * timing.pop[p, T_ORDER], LOOK + p, 0)


@_compiled
def _renew(plan, timing, cells, p, now):
    """Keep the modes as they are now, when they have decayed so far that exponentials of the time would lose digits."""
    m, l_0, l_1, _, _ = _rates(timing, p)
    elapsed = now - cells.epoch[p]
    if elapsed * max(m, l_0, l_1) < 8:
        return
    cells.epoch[p] = now
    size, base = plan.pop[p, P_SIZE], plan.pop[p, P_UNIT]
    decay = math.exp(-m * elapsed)
    for i in range(size):
        cells.v[base + i] *= decay
    for r in range(timing.pop[p, T_RECEPTORS]):
        decay = math.exp(-(l_0 if r == 0 else l_1) * elapsed)
        first = timing.pop[p, T_CURRENT] + r * size
        for i in range(first, first + size):
            cells.current[i] *= decay


@_compiled
def _look_ahead(plan, timing, state, p, now):
    """Find the crossings of the next stretch of time, and look again at its end if one may come later by itself."""
    cells, size, base = state.cells, plan.pop[p, P_SIZE], plan.pop[p, P_UNIT]
    _renew(plan, timing, cells, p, now)
    m, l_0, l_1, k_0, k_1 = _rates(timing, p)
    step = _parameter(timing, p, T_LOOK, 0)
    missing = _parameter(timing, p, T_THRESHOLD, 0) - _parameter(timing, p, T_REST, 0)
    elapsed = now - cells.epoch[p]
    here, here_0, here_1 = math.exp(-m * elapsed), k_0 * math.exp(-l_0 * elapsed), k_1 * math.exp(-l_1 * elapsed)
    later, later_0, later_1 = here * math.exp(-m * step), here_0 * math.exp(-l_0 * step), here_1 * math.exp(-l_1 * step)
    cells.ahead[p] = now + step
    own, receptors = cells.v[base : base + size], timing.pop[p, T_RECEPTORS]
    first = max(timing.pop[p, T_CURRENT], 0)
    g_0 = cells.current[first : first + size * (receptors > 0)]
    g_1 = cells.current[first + size * (receptors > 1) : first + 2 * size * (receptors > 1)]
    awake = False
    for begin in range(0, size, LOOK_TOGETHER):
        end = min(begin + LOOK_TOGETHER, size)
        over, ever = False, False
        if receptors == 0:
            for i in range(begin, end):
                mode = own[i] * (here if own[i] > 0 else later)  # the larger of both
                over |= mode >= missing
                ever |= (mode if mode > 0 else 0.0) >= missing
        elif receptors == 1:
            for i in range(begin, end):
                mode = own[i] * (here if own[i] > 0 else later)
                current = g_0[i] * (here_0 if k_0 * g_0[i] > 0 else later_0)
                over |= mode + current >= missing
                ever |= (mode if mode > 0 else 0.0) + (current if current > 0 else 0.0) >= missing
        else:
            for i in range(begin, end):
                mode = own[i] * (here if own[i] > 0 else later)
                current = g_0[i] * (here_0 if k_0 * g_0[i] > 0 else later_0)
                other = g_1[i] * (here_1 if k_1 * g_1[i] > 0 else later_1)
                over |= mode + current + other >= missing
                ever |= (
                    (mode if mode > 0 else 0.0) + (current if current > 0 else 0.0) + (other if other > 0 else 0.0)
                ) >= missing
        awake |= ever
        if over:
            for i in range(begin, end):
                bound = own[i] * (here if own[i] > 0 else later)
                if receptors > 0:
                    bound += g_0[i] * (here_0 if k_0 * g_0[i] > 0 else later_0)
                if receptors > 1:
                    bound += g_1[i] * (here_1 if k_1 * g_1[i] > 0 else later_1)
                if bound >= missing:
                    _foresee(plan, timing, state, p, i, now)
    if awake:
        _push(state.queue, state.at, now + step, 2 * timing.pop[p, T_ORDER], LOOK + p, 0)
    else:
        cells.ahead[p] = -1


@_compiled
def _foresee(plan, timing, state, p, unit, now):
    """Compute a neuron's crossing; one that lies beyond `ahead` will be found again."""
    cells = state.cells
    until, begin = timing.pop[p, T_UNTIL], now
    if until >= 0 and cells.until[until + unit] > now:
        begin = cells.until[until + unit]
    time = INFINITE
    if begin <= cells.ahead[p]:
        v, own, g_0, g_1 = _sum_of_modes(plan, timing, cells, p, unit, begin)
        threshold, fire = _parameter(timing, p, T_THRESHOLD, 0), _parameter(timing, p, T_FIRE, 0)
        if v >= fire:
            time = begin
        elif timing.pop[p, T_FLAGS] & FLAG_SYNAPSE:
            m, l_0, l_1, k_0, k_1 = _rates(timing, p)
            rest = _parameter(timing, p, T_REST, 0)
            time = _in_quarters(m, l_0, l_1, own, k_0 * g_0, k_1 * g_1, threshold - rest, cells.ahead[p] - begin)
            if time < 0:
                time = _first_crossing(_curve(timing, cells, p, unit, (v, g_0, g_1)), threshold, fire)
            time += begin
        else:
            tau, beyond = _drift(timing, cells, p, unit)
            if beyond > 0:
                time = begin + tau * math.log1p((threshold - v) / beyond)
    _predict(timing, state, p, unit, time if time <= cells.ahead[p] else INFINITE)


@_compiled
def _in_quarters(m, l_0, l_1, own, first, second, missing, span):
    """Time until three modes sum up to `missing`, from below; infinite if they do not within a span.

    -1 where that cannot be told from the modes at both ends of a quarter of it: each lies between its values there, and
    so does its slope.
    """
    step = 0.25 * span
    decay, decay_0, decay_1 = math.exp(-m * step), math.exp(-l_0 * step), math.exp(-l_1 * step) if second != 0 else 1.0
    for k in range(4):
        end, end_0, end_1 = own * decay, first * decay_0, second * decay_1
        most = (own if own > end else end) + (first if first > end_0 else end_0)
        most += second if second > end_1 else end_1
        if most >= missing:
            least = -m * (own if own > end else end) - l_0 * (first if first > end_0 else end_0)
            least -= l_1 * (second if second > end_1 else end_1)
            if least <= 0:
                return -1.0
            if end + end_0 + end_1 >= missing:
                return k * step + _rising_root(m, l_0, l_1, own, first, second, missing, step)
        own, first, second = end, end_0, end_1
    return INFINITE


@_compiled
def _rising_root(m, l_0, l_1, own, first, second, missing, span):
    """Where three modes that rise all the time sum up to `missing`, within a span."""
    low, high, time = 0.0, span, 0.0
    total, slope = own + first + second, -m * own - l_0 * first - l_1 * second
    for _ in range(100):
        following = time + (missing - total) / slope
        if not low <= following <= high:
            following = 0.5 * (low + high)
        if abs(following - time) <= 2e-16 * (span + following):
            break
        time = following
        one, two, three = own * math.exp(-m * time), first * math.exp(-l_0 * time), 0.0
        if second != 0:
            three = second * math.exp(-l_1 * time)
        total, slope = one + two + three, -m * one - l_0 * two - l_1 * three
        if total >= missing:
            high = time
        else:
            low = time
    return time


@_compiled
def _turn_modes(plan, timing, state, p, now):
    """Neurons kept as modes that something arrived at. Returns the neurons updated."""
    cells, at, base, size = state.cells, state.at, plan.pop[p, P_UNIT], plan.pop[p, P_SIZE]
    if at[A_SEGMENTS] == 0:
        return 0
    _renew(plan, timing, cells, p, now)
    step = _parameter(timing, p, T_LOOK, 0)
    if cells.ahead[p] < 0:
        cells.ahead[p] = (math.floor(now / step) + 1) * step
        _push(state.queue, at, cells.ahead[p], 2 * timing.pop[p, T_ORDER], LOOK + p, 0)
    m, l_0, l_1, k_0, k_1 = _rates(timing, p)
    receptors, alarmed, until = timing.pop[p, T_RECEPTORS], timing.pop[p, T_ALARM], timing.pop[p, T_UNTIL]
    rest, fire = _parameter(timing, p, T_REST, 0), _parameter(timing, p, T_FIRE, 0)
    threshold, gain = _parameter(timing, p, T_THRESHOLD, 0), _parameter(timing, p, T_GAIN, 0)
    jump_0 = _parameter(timing, p, T_SYNAPSE + SYN_JUMP, 0) if receptors > 0 else 0.0
    jump_1 = _parameter(timing, p, T_SYNAPSE_1 + SYN_JUMP, 0) if receptors > 1 else 0.0
    elapsed, left = now - cells.epoch[p], cells.ahead[p] - now
    here, here_0, here_1 = math.exp(-m * elapsed), math.exp(-l_0 * elapsed), math.exp(-l_1 * elapsed)
    later, later_0, later_1 = here * math.exp(-m * left), here_0 * math.exp(-l_0 * left), here_1 * math.exp(-l_1 * left)
    grown, grown_0, grown_1 = 1 / here, 1 / here_0, 1 / here_1
    v, last, register = cells.v[base : base + size], cells.last[base : base + size], cells.register
    cross, rested_until = cells.cross[alarmed : alarmed + size], cells.until[max(until, 0) :]
    first = max(timing.pop[p, T_CURRENT], 0)
    current = cells.current[first:]
    updated = 0
    for s in range(at[A_SEGMENTS]):
        start, length = _taken(cells, s)
        for i in range(start, start + length):
            updated += last[i] != now
            last[i] = now
            refractory = until >= 0 and rested_until[i] > now
            own, g_0, g_1, arrived = np.float64(v[i]), 0.0, 0.0, register[i]
            register[i] = 0
            if refractory and (receptors == 0 or rested_until[i] == INFINITE):
                if receptors > 1:
                    register[size + i] = 0
                continue  # discarded, or it will never fire again
            if receptors == 0:
                own += gain * arrived * grown
                reached, top = own * here, own * (here if own > 0 else later)
            else:
                own_grown, at_0, at_1 = grown, k_0, k_1
                if refractory:  # it holds its membrane: what arrives is in it when that is over
                    rested = rested_until[i] - now
                    own_grown = grown * math.exp(m * rested)
                    at_0, at_1 = k_0 * math.exp(-l_0 * rested), k_1 * math.exp(-l_1 * rested)
                g_0 = np.float64(current[i])
                jump = jump_0 * arrived
                g_0 += jump * grown_0
                own -= at_0 * jump * own_grown
                part = k_0 * g_0
                reached, top = part * here_0, part * (here_0 if part > 0 else later_0)
                current[i] = g_0
                if receptors > 1:
                    g_1 = np.float64(current[size + i])
                    jump = jump_1 * register[size + i]
                    register[size + i] = 0
                    g_1 += jump * grown_1
                    own -= at_1 * jump * own_grown
                    part = k_1 * g_1
                    reached += part * here_1
                    top += part * (here_1 if part > 0 else later_1)
                    current[size + i] = g_1
                reached += own * here
                top += own * (here if own > 0 else later)
            v[i] = own
            crosses = cross[i]
            fires = rest + reached >= fire
            if crosses == -1.0 and receptors > 0:  # it crosses in this very instant, and stands at the threshold
                slope = -m * own * here - l_0 * k_0 * g_0 * here_0 - l_1 * k_1 * g_1 * here_1
                fires = fires or fire == threshold or slope > 0
            if fires and not refractory:
                _fire_modes(plan, timing, state, p, i, now)
            elif rest + top >= threshold:
                _foresee(plan, timing, state, p, i, now)
            elif crosses < INFINITE:
                cross[i] = INFINITE
    return updated


@_compiled
def _turn_modes_crossed(plan, timing, state, p, now):
    """Neurons kept as modes whose crossing has come, and that nothing arrived at, fire. Returns the neurons updated."""
    cells, alarmed = state.cells, timing.pop[p, T_ALARM]
    updated = 0
    for n in range(state.at[A_CROSSED]):
        i = cells.crossed[n]
        if cells.cross[alarmed + i] == -1.0:
            updated += _is_first(cells, plan.pop[p, P_UNIT] + i, now)
            _fire_modes(plan, timing, state, p, i, now)
    return updated


@_compiled
def _fire_modes(plan, timing, state, p, unit, now):
    """A spike, and the reset to a value that the membrane keeps until it is no longer refractory."""
    cells, at, until = state.cells, state.at, timing.pop[p, T_UNTIL]
    begin = now
    if until >= 0:
        begin = cells.until[until + unit] = now + _parameter(timing, p, T_REFRACTORY, 0)
    if begin == INFINITE:  # its modes are done with, no sum of them comes near the threshold again
        cells.v[plan.pop[p, P_UNIT] + unit] = -INFINITE
    else:
        m, l_0, l_1, k_0, k_1 = _rates(timing, p)
        _, g_0, g_1 = _modes(plan, timing, cells, p, unit)
        elapsed = begin - cells.epoch[p]
        left = _parameter(timing, p, T_RESET, 0) - _parameter(timing, p, T_REST, 0)
        left -= k_0 * g_0 * math.exp(-l_0 * elapsed) + k_1 * g_1 * math.exp(-l_1 * elapsed)
        cells.v[plan.pop[p, P_UNIT] + unit] = left * math.exp(m * elapsed)
    n = at[A_FIRED]
    cells.fired[n, 0], cells.fired[n, 1] = unit, 1
    at[A_FIRED] = n + 1
    _foresee(plan, timing, state, p, unit, now)


@_compiled
def _add_up(plan, timing, state, p, now):
    """A readout takes what arrived. Returns the units updated."""
    cells, base, flags = state.cells, plan.pop[p, P_UNIT], timing.pop[p, T_FLAGS]
    updated = 0
    for s in range(state.at[A_SEGMENTS]):
        start, length = _taken(cells, s)
        for i in range(start, start + length):
            if flags & FLAG_SYNAPSE:
                _settle(plan, timing, cells, p, i, now)
                _take_in(timing, cells, p, i)
            else:
                u = _membrane(plan, timing, cells, p, i, now)
                if flags & FLAG_CURRENT:
                    drive = _parameter(timing, p, T_RATE, i) * cells.register[i] / timing.pulse
                    cells.drive[timing.pop[p, T_DRIVE] + i] += drive
                else:
                    u += _parameter(timing, p, T_GAIN, i) * cells.register[i]
                cells.v[base + i] = u
                cells.register[i] = 0
            updated += _is_first(cells, base + i, now)
            if flags & FLAG_WATCHED:
                _set_alarm(plan, timing, state, p, i, now)
    return updated


@_compiled
def _reach_threshold(plan, timing, state, p, now):
    """Readouts whose crossing is watched and has come: they stand at the threshold, exactly."""
    cells, base = state.cells, plan.pop[p, P_UNIT]
    for n in range(state.at[A_CROSSED]):
        i = cells.crossed[n]
        if cells.cross[timing.pop[p, T_ALARM] + i] == -1.0:
            u = _parameter(timing, p, T_THRESHOLD, i)
            if max(cells.last[base + i], 0.0) == now:  # it stood there, or beyond, when the run began
                u = max(u, _membrane(plan, timing, cells, p, i, now))
            if timing.pop[p, T_FLAGS] & FLAG_SYNAPSE:
                _settle(plan, timing, cells, p, i, now)
            cells.last[base + i] = now
            cells.v[base + i] = u


@_compiled
def _reached(state):
    """The units of all segments in rising order, each once, in `fired`. Returns how many."""
    cells, at = state.cells, state.at
    for k in range(1, at[A_SEGMENTS]):  # they come nearly sorted
        start, j = cells.starts[k], k - 1
        while j >= 0 and cells.starts[j] > start:
            cells.starts[j + 1] = cells.starts[j]
            j -= 1
        cells.starts[j + 1] = start
    n, end = 0, 0
    for s in range(at[A_SEGMENTS]):
        start, length = _taken(cells, s)
        for unit in range(max(start, end), start + length):
            cells.fired[n, 0] = unit
            n += 1
        end = max(end, start + length)
    return n


@_compiled
def _turn(plan, timing, state, p, now):
    """A population's turn: take what arrived in this instant, fire, emit. Returns False when a neuron runs away."""
    cells, queue, at = state.cells, state.queue, state.at
    flags = timing.pop[p, T_FLAGS]
    at[A_FIRED] = 0
    updated, sound = 0, True
    if flags & FLAG_FORWARDS:
        at[A_FIRED] = _reached(state)
    elif flags & FLAG_INTEGRATES:
        updated = _add_up(plan, timing, state, p, now)
        _reach_threshold(plan, timing, state, p, now)
    else:
        if flags & FLAG_PLAIN:
            updated, sound = _turn_plain(plan, timing, state, p, now)
        elif flags & FLAG_ALIKE:
            updated, sound = _turn_leaky(plan, timing, state, p, now)
        elif flags & FLAG_MODES:
            updated = _turn_modes(plan, timing, state, p, now)
        elif flags & FLAG_SYNAPSE:
            updated, sound = _turn_currents(plan, timing, state, p, now)
        else:
            updated, sound = _turn_general(plan, timing, state, p, now)
        if sound and at[A_CROSSED] > 0 and flags & FLAG_MODES:
            updated += _turn_modes_crossed(plan, timing, state, p, now)
        elif sound and at[A_CROSSED] > 0:
            rang, sound = _turn_crossed(plan, timing, state, p, now)
            updated += rang
    at[A_SEGMENTS] = at[A_CROSSED] = 0
    state.books.events[p, at[A_BIN], UPDATES] += updated
    n = at[A_FIRED]
    if n > 0:
        if n > 1 and not flags & FLAG_FORWARDS:
            _sort(cells.fired, n)
        batch = _new_batch(queue, at, at[A_BIN])
        for k in range(n):
            unit, value = cells.fired[k, 0], np.float64(cells.fired[k, 1])
            if flags & FLAG_FORWARDS:
                value = np.float64(cells.register[unit])
                cells.register[unit] = 0
            _append(queue, at, batch, unit, value)
        _announce(plan, timing, state, p, batch, now)
    if p == plan.misc[M_OUTPUT] and (n > 0 or flags & FLAG_INTEGRATES):
        at[A_ASK] = 1
    return sound


@_compiled
def _sort(fired, n):
    """Spikes by unit: they come nearly sorted, in runs."""
    for k in range(1, n):
        unit, times = fired[k, 0], fired[k, 1]
        j = k - 1
        while j >= 0 and fired[j, 0] > unit:
            fired[j + 1, 0], fired[j + 1, 1] = fired[j, 0], fired[j, 1]
            j -= 1
        fired[j + 1, 0], fired[j + 1, 1] = unit, times


@_compiled
def _bias_pulse(plan, timing, state, p, now):
    """What a period's constant drive brings, at its end; and the next one."""
    cells, size = state.cells, plan.pop[p, P_SIZE]
    drive, added = cells.drive[timing.pop[p, T_DRIVE] :], 0  # without the gain: the turn applies it
    flags = timing.pop[p, T_FLAGS]
    deaf = timing.pop[p, T_UNTIL] if flags & FLAG_DISCARD and not flags & FLAG_SYNAPSE else -1
    for i in range(size):
        if deaf < 0 or cells.until[deaf + i] < now:
            cells.register[i] += drive[i] * timing.period
            added += drive[i] != 0
            if deaf >= 0:
                _touch(cells, state.at, i, 1)
    if deaf < 0:
        _touch(cells, state.at, 0, size)
    state.books.events[p, state.at[A_BIN], BIASES] += added
    _due(timing, state, p)
    _push(state.queue, state.at, now + timing.period, 2 * timing.pop[p, T_ORDER], BIAS + p, 0)


# --------------------------------------------------------------------------------------------------------- the run


@_compiled
def _answers(plan, timing, state, now, outputs, margins):
    """The output of every class at `now`."""
    p = plan.misc[M_OUTPUT]
    pop = plan.pop[p]
    places = pop[P_SIZE] // pop[P_CHANNELS]
    for k in range(pop[P_SIZE]):
        unit = k % places * pop[P_CHANNELS] + k // places  # an output grid is read channels first
        if timing.pop[p, T_FLAGS] & FLAG_INTEGRATES:
            outputs[k] = _membrane(plan, timing, state.cells, p, unit, now)
        else:
            outputs[k] = state.books.counts[unit]
            v = _membrane(plan, timing, state.cells, p, unit, now)
            margins[k] = v - _parameter(timing, p, T_THRESHOLD, unit)


@_compiled
def _close_bin(plan, timing, state, now):
    """What the account and the plots know of a bin at its end, or at the stop."""
    books, b = state.books, state.at[A_BIN]
    _answers(plan, timing, state, now, books.outputs[b], books.margins[b])
    books.pending[b] = state.at[A_PEAK]
    if books.potential.shape[1] > 0:
        for p in range(len(plan.pop)):
            first = plan.pop[p, P_POTENTIAL]
            if first >= 0:
                for unit in range(plan.pop[p, P_SIZE]):
                    books.potential[b, first + unit] = _membrane(plan, timing, state.cells, p, unit, now)


@_compiled
def _advance(plan, timing, state, b):
    """Close the bins before bin b, or before the last one."""
    at, clock = state.at, state.clock
    while at[A_BIN] < min(b, clock[X_LAST]):
        _close_bin(plan, timing, state, clock[X_START] + (at[A_BIN] + 1) * timing.tick)
        at[A_BIN] += 1
        at[A_PEAK] = at[A_HEAP]


@_compiled
def _begin(plan, timing, state, feed):
    """Bring a state to time 0 of a new sample."""
    cells, queue, at = state.cells, state.queue, state.at
    at[:] = 0
    state.clock[X_TIME] = 0
    cells.v[:] = 0
    cells.current[:] = 0
    cells.last[:] = -1
    cells.drive[:] = 0
    cells.until[:] = -1
    cells.alarm[:] = INFINITE
    cells.cross[:] = INFINITE
    cells.generation[:] = 0
    cells.register[:] = 0
    cells.span[:] = 0
    cells.waiting[:] = 0
    cells.epoch[:] = 0
    cells.ahead[:] = -1
    state.books.counts[:] = 0
    for i in range(len(queue.entry)):
        queue.entry[i, H_KEY] = i + 1
    for i in range(len(queue.event)):
        queue.event[i, E_NEXT] = i + 1
    for i in range(len(queue.batch)):
        queue.batch[i, B_HEAD] = i + 1
    at[A_FREE_EVENTS], at[A_FREE_BATCHES] = len(queue.event), len(queue.batch)
    at[A_LOW] = len(timing.pop)
    for p in range(len(plan.pop)):
        if timing.pop[p, T_DRIVE] >= 0:
            for i in range(plan.pop[p, P_SIZE]):
                cells.drive[timing.pop[p, T_DRIVE] + i] = _parameter(timing, p, T_CONSTANT, i)
    if len(feed.pixel) > 0:
        p = plan.misc[M_INPUT]
        for k in range(plan.pop[p, P_FIRST_OUT], plan.pop[p, P_LAST_OUT]):
            _image(plan, timing, state, plan.whole[k], feed)
    for p in range(len(plan.pop)):
        if timing.pop[p, T_FLAGS] & (FLAG_SPIKES | FLAG_INTEGRATES):
            for i in range(plan.pop[p, P_SIZE]):
                v = max(_parameter(timing, p, T_V0, i), _parameter(timing, p, T_FLOOR, i))
                cells.v[plan.pop[p, P_UNIT] + i] = v
                for r in range(timing.pop[p, T_RECEPTORS]):
                    start = _parameter(timing, p, T_SYNAPSE + SYN_COLUMNS * r + SYN_START, i)
                    cells.current[timing.pop[p, T_CURRENT] + r * plan.pop[p, P_SIZE] + i] = start
                if timing.pop[p, T_ALARM] >= 0 and not timing.pop[p, T_FLAGS] & FLAG_MODES:
                    _set_alarm(plan, timing, state, p, i, 0.0)
            if timing.pop[p, T_FLAGS] & FLAG_MODES:
                _begin_modes(plan, timing, state, p)
        if timing.pop[p, T_FLAGS] & FLAG_BIAS_PULSES:
            _push(queue, at, timing.period, 2 * timing.pop[p, T_ORDER], BIAS + p, 0)


@_compiled
def _image(plan, timing, state, c, feed):
    """Pass an image through a connection: a constant drive of the target."""
    cells, target = state.cells, plan.con[c, C_TARGET]
    for n in range(len(feed.pixel)):
        _apply_singly(plan, timing, state, c, feed.pixel[n], feed.value[n], 0.0)
    place = timing.pop[target, T_DRIVE]
    flags = timing.pop[target, T_FLAGS]
    lane = timing.lane[c]
    column = T_SYNAPSE_1 + SYN_RATE if lane > 0 else T_RATE
    for i in range(plan.pop[target, P_SIZE]):
        rate = _parameter(timing, target, column, i) if not flags & FLAG_BIAS_PULSES else 1.0
        cells.drive[place + lane + i] += rate * cells.register[lane + i] / timing.tick
        cells.register[lane + i] = 0
        cells.span[i] = 0
    state.at[A_SEGMENTS] = 0


@_compiled
def _room(plan, timing, state, p, emitted):
    """Whether a turn of population p that emits so many events fits into queue and record: RUNNING, FULL or GROW."""
    at, queue = state.at, state.queue
    singly = 2 * emitted * timing.pop[p, T_SPREAD]  # a spike by itself, and the end of its pulse
    entries = 2 * (plan.pop[p, P_LAST_OUT] - plan.pop[p, P_FIRST_OUT]) + emitted + singly + 2
    short = at[A_FREE_EVENTS] <= emitted + singly or at[A_FREE_BATCHES] <= 1 + singly
    if short or at[A_HEAP] + entries > len(queue.times):
        return GROW
    if plan.pop[p, P_RECORD] and at[A_RECORDED] + emitted > len(state.record.value):
        return FULL
    return RUNNING


@_compiled
def _feed_in(plan, timing, state, feed, now):
    """The input's events of this instant. Returns RUNNING, FULL or GROW."""
    at, p = state.at, plan.misc[M_INPUT]
    first = last = at[A_INPUT]
    while last < len(feed.time) and feed.time[last] == now:
        last += 1
    if last == first:
        return RUNNING
    status = _room(plan, timing, state, p, last - first)
    if status != RUNNING:
        return status
    batch = _new_batch(state.queue, at, at[A_BIN])
    for n in range(first, last):
        _append(state.queue, at, batch, feed.unit[n], 1)
    _announce(plan, timing, state, p, batch, now)
    at[A_INPUT] = last
    return RUNNING


@_inlined
def _instant(plan, timing, state, policy, thresholds, scale, size):
    """What happens in this instant, from where it stands. Returns RUNNING when it is over."""
    cells, queue, at, now = state.cells, state.queue, state.at, state.clock[X_TIME]
    orders, watched = len(timing.pop), 2 * timing.pop[plan.misc[M_OUTPUT], T_ORDER] + 1
    while True:
        while at[A_LOW] < orders and cells.waiting[at[A_LOW]] == 0:
            at[A_LOW] += 1
        due = 2 * at[A_LOW] + 1
        queued = 2 * orders + 1  # nothing
        if at[A_HEAP] > 0 and queue.times[0] <= now:
            queued = queue.entry[queue.references[0], H_KEY] >> SEQUENCE_BITS
        if at[A_ASK] and min(due, queued) > watched:
            if at[A_STAMPED] == len(state.record.asked):
                return FULL
            at[A_ASK] = 0
            n = at[A_STAMPED]
            _answers(plan, timing, state, now, state.record.outputs[n], state.record.margins[n])
            state.record.asked[n], state.record.bin[n], state.record.spent[n] = now, at[A_BIN], at[A_SPENT]
            at[A_STAMPED] = n + 1
            if should_stop(policy, thresholds[at[A_BIN]], scale, size, state.record.outputs[n], at[A_SPENT]):
                return STOPPED
        if queued <= due:
            if queued > 2 * orders:
                return RUNNING
            target = timing.by_order[queued >> 1]
            if timing.serial:  # its events are tested one by one
                first = queue.entry[queue.references[0]]
                left = queue.batch[first[H_ARG], B_COUNT] if first[H_WHAT] < BIAS else 1
                status = _room(plan, timing, state, target, left * plan.pop[target, P_SIZE])
                if status != RUNNING:
                    return status
            elif at[A_HEAP] + 2 + plan.pop[target, P_SIZE] * (timing.pop[target, T_FLAGS] & FLAG_MODES > 0) > len(
                queue.times
            ):
                return GROW
            what, arg = _pop(queue, at)
            if what < BIAS:
                if not _deliver(plan, timing, state, what >> 1, arg, what & 1 != 0, now):
                    return RUNAWAY
            elif what < LOOK:
                _bias_pulse(plan, timing, state, what - BIAS, now)
            elif what < CROSSING:
                _look_ahead(plan, timing, state, what - LOOK, now)
            else:
                _ring(timing, state, target, what - CROSSING, arg, now)
            continue
        p = timing.by_order[at[A_LOW]]
        status = _room(plan, timing, state, p, plan.pop[p, P_SIZE])
        if status != RUNNING:
            return status
        cells.waiting[at[A_LOW]] = 0
        if not _turn(plan, timing, state, p, now):
            return RUNAWAY
        if at[A_STALE] > COMPACT_FROM and 2 * at[A_STALE] > at[A_HEAP]:
            _sweep(queue, cells, at)


@_compiled
def _left_in_flight(plan, timing, state):
    """Count the taps of every delivery still queued."""
    queue, books = state.queue, state.books
    books.in_flight[:] = 0
    if books.taps.size == 0:
        return
    for i in range(state.at[A_HEAP]):
        what, batch = queue.entry[queue.references[i], H_WHAT], queue.entry[queue.references[i], H_ARG]
        if what >= BIAS or what & 1:
            continue
        c = what >> 1
        spikes = timing.pop[plan.con[c, C_SOURCE], T_FLAGS] & FLAG_SPIKES
        event = queue.batch[batch, B_HEAD]
        while event >= 0:
            unit = queue.event[event, E_UNIT]
            structural, _, pool = _fan(plan, c, unit)
            structural -= queue.batch[batch, B_NEXT]
            books.in_flight[c, MAIN] += structural
            books.in_flight[c, POOL] += pool
            if plan.con[c, C_PLAIN] and queue.batch[batch, B_BIN] >= 0:
                times = np.int64(queue.value[event]) if spikes else 1
                _book_emitted(plan, books, c, queue.batch[batch, B_BIN], unit, times)
            event = queue.event[event, E_NEXT]


@_entry
def run(plan, timing, state, feed, policy, thresholds, scale, size, fresh):
    """Take a sample from where it stands to its stop or to the end of its interval, `state.clock`.

    fresh: a new sample at time 0. Returns STOPPED or HORIZON when the interval is done; FULL when recorded events or
    answers must be fetched, GROW when the queue needs more room, before it can go on (call again, not fresh); RUNAWAY
    when a neuron fired more than MAX_MULTIPLICITY times in one instant; STALE when the code was compiled with another
    version of `kernels_sync`.
    """
    if timing.stamp != STAMP:
        return STALE
    if fresh:
        _begin(plan, timing, state, feed)
    at, clock, queue = state.at, state.clock, state.queue
    while True:
        if not at[A_INSIDE]:
            now = clock[X_END]
            if at[A_HEAP] > 0:
                now = min(now, queue.times[0])
            if at[A_INPUT] < len(feed.time):
                now = min(now, feed.time[at[A_INPUT]])
            if now >= clock[X_END]:
                break
            _advance(plan, timing, state, math.floor((now - clock[X_START]) / timing.tick))
            at[A_INSIDE], at[A_LOW] = 1, len(timing.pop)
            clock[X_TIME] = now
        status = _feed_in(plan, timing, state, feed, clock[X_TIME])
        if status == RUNNING:
            status = _instant(plan, timing, state, policy, thresholds, scale, size)
        if status == STOPPED:
            _close_bin(plan, timing, state, clock[X_TIME])
            _left_in_flight(plan, timing, state)
        if status != RUNNING:
            return status
        at[A_INSIDE] = 0
    _advance(plan, timing, state, clock[X_LAST])
    _close_bin(plan, timing, state, clock[X_END])
    clock[X_TIME] = clock[X_END]
    _left_in_flight(plan, timing, state)
    return HORIZON
