"""Compiled loops of the clocked discipline: the event queue, delivery, the turn to fire, the stop.

`run` takes one sample through its ticks in a single call. Everything it needs comes in flat arrays: a read-only `Plan`
made by `wiring`, and a `State` that one worker reuses from sample to sample. No Python object is touched, the
interpreter lock is released, and no floating-point shortcut is taken (`fastmath` stays off), so results do not depend
on the block widths chosen below: each membrane receives its additions in the order of the queue.

Every compiled function lives in this one file: Numba's cache does not notice an edit to a callee in another file.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

# Python's error model would test every divisor. Without Numba's runtime (`_nrt`) no array's references are counted,
# which cost more than the work itself at every call.
_compiled = njit(nogil=True, error_model="numpy", _nrt=False)
# A call hands over every array of every tuple, some 400 numbers: what is called for each event or batch is inlined.
_inlined = njit(nogil=True, error_model="numpy", _nrt=False, forceinline=True)


def _entry(function: Any) -> Any:
    """What Python calls, compiled and cached: beside this file, else in the user's cache folder, else not at all."""
    options = {"nogil": True, "error_model": "numpy", "_nrt": False}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # neither folder can be written
        return njit(**options)(function)


# ------------------------------------------------------------------------------------------- layout of the tables

# Columns of `Plan.pop`, one row per population. Units are numbered channels last inside their population.
(
    P_KIND,  # what a turn does, see KIND_*
    P_UNIT,  # first unit in `Cells.v`
    P_SIZE,
    P_CHANNELS,
    P_RANK,  # 2 x depth + 1
    P_REGISTER,  # first entry in `Cells.register`
    P_CONST,  # its constant input (biases, shifts) in `Plan.real`, -1 for none
    P_CONST_LENGTH,  # units the constant covers before it repeats
    P_CONST_STRIDE,  # entries from one tick's constant to the next, 0 when it never changes
    P_DRIVEN,  # 1: takes a turn every tick
    P_FLAGS,  # FLAG_* of the neuron
    P_REFRACTORY,
    P_FIRST_OUT,  # its outgoing connections: Plan.whole[first:last]
    P_LAST_OUT,
    P_FIRST_IN,  # incoming connections that add at the turn (tables, images): Plan.whole[first:last]
    P_LAST_IN,
    P_SLOTS,  # how many emitted batches it keeps
    P_FIRST_SLOT,
    P_SLOT_GROUP,  # first group of its batches
    P_SLOT_EVENT,  # first event of its batches
    P_RECORD,  # 1: its events are recorded
    P_POTENTIAL,  # first column in Books.potential, -1 for none
    P_EXTRA,  # first unit in Cells.extra, which only some populations need; -1 for none
    P_TOUCH,  # first mark in Cells.touched; -1 where nobody needs to know which neurons were reached
    P_TOUCH_WHOLE,  # not 0: all channels of a position are reached together, and a mark is a bit in Cells.spots; the
    # number is 2^32 / channels, rounded up, which makes a unit a position without a division
    P_CONST_UNITS,  # in Plan.whole: units with a constant that is not 0, one number per entry of the constant
    P_IMAGE_FROM,  # the tick from which an analog image drives every unit; NEVER without one
    P_RECEPTORS,  # synaptic currents of a neuron
    P_CURRENT,  # first of them in Cells.current, one block of units after the other
    P_LISTED,  # 1: the units of its events are listed, too
    P_SELDOM,  # 1: a turn need only look at the positions that something arrived at
    # Neuron parameters, two columns each: where in Plan.real, and 0 for one number or 1 for one per unit.
    Q_ALPHA,
    _,
    Q_REST,
    _,
    Q_GAIN,
    _,
    Q_FIRE,  # the smallest membrane that fires: the threshold for >=, the next larger float for >
    _,
    Q_AMOUNT,  # KIND_FAST resets by u <- RESET u - AMOUNT, KIND_GENERAL by subtracting AMOUNT or setting RESET
    _,
    Q_RESET,
    _,
    Q_FLOOR,
    _,
    Q_V0,
    _,
    Q_THRESHOLD,
    _,
    Q_CURRENT,  # of the first current: factor it keeps, gain of arrivals, gain of the current before the turn, start
    _,
    _,
    _,
    _,
    _,
    _,
    _,
    Q_CURRENT_1,  # the same of the second
    _,
    _,
    _,
    _,
    _,
    _,
    _,
    P_COLUMNS,
) = range(66)
SYN_ALPHA, SYN_GAIN, SYN_OLD, SYN_START, SYN_COLUMNS = 0, 2, 4, 6, 8  # columns from Q_CURRENT on

NEVER = 2**62
FOREVER = 2**31 - 1  # ticks: the refractory time of a neuron that fires once
KIND_INPUT, KIND_FAST, KIND_GENERAL, KIND_INTEGRATOR, KIND_RELAY, KIND_GATE = range(6)

FLAG_HARD, FLAG_NO_RESET, FLAG_MULTI, FLAG_LATE_RESET, FLAG_LEAKS, FLAG_LEAK_AFTER = 1, 2, 4, 8, 16, 32
FLAG_DISCARD, FLAG_FLOOR, FLAG_GRADED, FLAG_HOLD, FLAG_READOUT = 64, 128, 256, 512, 1024

# Columns of `Plan.con`, one row per connection.
(
    C_SOURCE,
    C_TARGET,
    C_DELAY,
    C_OP,  # OP_*
    C_REGISTER,  # where its contributions are added, in Cells.register
    C_POINTER,  # in Plan.whole: first run (tap, synapse) of every source position (unit), numbers of Plan.runs rows
    C_WEIGHT,  # first weight in Plan.real
    C_ROW,  # weights of one source channel (OP_RUNS)
    C_GROUP_IN,  # channels in a convolution group, 0 for no groups
    C_GROUP_OUT,  # target channels in a convolution group
    C_CHANNELS_OUT,  # channels of the target grid (OP_UNITS)
    C_CHANNEL_SHIFT,  # silent channels put in front of the source's
    C_FAN,  # in Plan.whole: structural taps of one event, per position (per unit for OP_SPARSE)
    C_EFFECTIVE,  # in Plan.whole: taps of non-zero weight per unit, -1: as structural
    C_POOL_FAN,  # in Plan.whole: pool taps beside the weight, per position (unit for OP_SPARSE), -1 for none
    C_REACH,  # what `_distinct` reads, in Plan.whole: pointers to the positions before the weight, by source position
    C_INNER,  # in Plan.whole: taps of non-zero weight of every unit before the weight, channels last
    C_INNER_CHANNELS,  # channels before the weight
    C_STAMP,  # in Cells.stamp: the units before the weight
    C_PLAIN,  # 1: all kinds of taps are the additions its delivery makes, and are booked then
    C_BY_TABLE,  # 1: delivered taps are read off the table, because a map behind the weight changes the additions
    C_COEFFICIENT,  # in Plan.real: one number per row of its part of Plan.runs, -1: folded into the weights
    C_CAREFUL,  # 1: the target may drop arrivals
    C_TOUCH,  # 1: the target wants to know which units something arrived at
    C_SCALE,  # in Plan.real: its per-tick table (ticks, channels), -1 for none
    C_ANALOG,  # 1: carries an analog image, a constant current
    C_SYNOPS,  # 1: its taps are SynOps (class ac or mac)
    C_BOOK,  # the connection of the network it is part of: synapses of different delays have a row for each
    C_RECEPTOR,  # which input of the target's neurons it feeds
    C_ALIKE,  # in Plan.whole (OP_RUNS): by source position, the length of its two or three runs if it is the same
    # multiple of 48, minus the length if it is one of 32, else 0
    C_SAME,  # 1: an event reaches the unit of its own number, and its source lists them
    C_COLUMNS,
) = range(32)

OP_RUNS, OP_UNITS, OP_SPARSE = range(3)
REACH_ONCE, REACH_ITSELF = -1, -2  # C_REACH: no unit before the weight is reached twice; the source's own units are
R_TARGET, R_FIRST, R_LENGTH = range(3)  # columns of Plan.runs
M_RANKS, M_RING, M_OUTPUT, M_INPUT, M_COLUMNS = range(5)

MAIN, POOL = range(2)
STRUCTURAL, UNITS, EFFECTIVE, PER_TICK, DELIVERED, DROPPED, KINDS = range(7)
EVENTS, EVENT_UNITS, UPDATES, BIASES, POPULATION_COUNTS = range(5)  # last axis of Books.events
REFRACTORY_UNTIL, OWED, TOUCHED = range(3)  # rows of Cells.extra
LAST_TURN, SCHEDULED, BUSY = range(3)  # rows of Queue.clock
LINK, WHAT, SLOT = range(3)  # columns of Queue.entries
HEAD, TAIL = range(2)
G_POSITION, G_FIRST = range(2)  # columns of Batch.groups
# Columns of Queue.at: where the run stands, and what the queue itself has done.
(A_TICK, A_RANK, A_BEGUN, A_FREE, A_PENDING, A_PEAK, A_RECORDED, A_SPENT, A_PUSHED, A_POPPED, A_COLUMNS) = range(11)

(
    POLICY_FIXED,
    POLICY_SPIKE_GAP,
    POLICY_TOPK,
    POLICY_CONFIDENCE,
    POLICY_ENTROPY,
    POLICY_FIRST,
    POLICY_BUDGET,
    POLICY_CONFORMAL,
    POLICY_CROSSING,
) = range(9)

RUNNING, STOPPED, HORIZON, FULL, RUNAWAY = range(5)
MAX_MULTIPLICITY = 1_000_000
BLOCK, HALF = 16, 8  # neurons that `_fire_blocks` takes at once; its populations have a multiple of HALF channels


class Plan(NamedTuple):
    """A network as flat read-only arrays, shared by all workers."""

    pop: Any  # (populations, P_COLUMNS) int64
    con: Any  # (connections, C_COLUMNS) int64
    misc: Any  # (M_COLUMNS,) int64
    whole: Any  # int64 lists: connection numbers, pointers, fan-out
    runs: Any  # (n, 3) int32: first target unit (position for OP_UNITS), first weight in the row, units
    real: Any  # all numbers of the run's dtype: weights, coefficients, biases, tables, neuron parameters


class Cells(NamedTuple):
    """Membranes and what arrives at them."""

    v: Any  # membranes (readout: sums; relays, gates: unused)
    register: Any  # input of the tick (of each current), and one more per connection with a table or an image
    current: Any  # synaptic currents
    mask: Any  # uint8 per unit: fired in this turn
    words: Any  # the same bytes, eight at a time
    extra: Any  # (3, n) int32: end of refractoriness, owed reset, something arrived in this tick
    touched: Any  # uint8 per unit, for the account: something arrived in this tick
    spots: Any  # int64, a bit per position: the same where all channels of a position are reached together
    stamp: Any  # int32 per unit before a weight, for the account: the last tick in which an event reached it


class Queue(NamedTuple):
    """Entries waiting, first in first out in buckets of (tick, rank); ticks go round a ring."""

    buckets: Any  # (ring, ranks, 2) int64: head and tail
    entries: Any  # (n, 3) int64: next entry, connection or population, the batch a delivery carries
    waiting: Any  # (ring,) int64: entries per tick
    clock: Any  # (3, populations) int64: last turn, latest turn queued, 0 if nothing but arrivals can change a neuron
    at: Any  # (A_COLUMNS,) int64: where the run stands, so that it can be left and entered again


class Batch(NamedTuple):
    """Events grouped by position; a batch is a range of groups."""

    groups: Any  # (n, 2) int64: position, first event; the next row's first event is the end
    channel: Any  # int32
    unit: Any  # int32, where they are listed (P_LISTED)
    value: Any  # of graded and multiple events


class Books(NamedTuple):
    """What a sample leaves behind. All int64 but outputs, margins and potentials.

    `taps` and `sources` may be left out: they are empty arrays then.
    """

    events: Any  # (populations, ticks, POPULATION_COUNTS): emitted; the same with multiplicity; neurons updated; biases
    taps: Any  # (connections, 2, ticks, KINDS)
    sources: Any  # (2, units): events of every neuron, and the same with multiplicity
    in_flight: Any  # (connections, 2)
    synops: Any  # (ticks,) delivered
    counts: Any  # (classes,) output spikes so far, channels last
    outputs: Any  # (ticks, classes)
    margins: Any  # (ticks, classes), spiking readout: membrane - threshold
    potential: Any  # (ticks, columns)


class Record(NamedTuple):
    """Recorded events, until they are fetched."""

    place: Any  # (n, 3) int32: tick, population, unit
    value: Any  # float64


class State(NamedTuple):
    """All that changes during a sample; one worker owns one."""

    cells: Any
    queue: Any
    batch: Any  # emitted events; a population's batches go round its slots
    slot_groups: Any  # (slots,) int64: groups in each
    books: Any
    record: Any


class Feed(NamedTuple):
    """One sample: input events by tick, or an analog image as one batch of graded events."""

    tick_group: Any  # (ticks + 1,) int64: first group of each tick
    batch: Any
    analog: Any  # bool


# --------------------------------------------------------------------------------------------------- vector blocks


def _accumulate(width: int, count: int, graded: bool = False, runs: int = 1) -> Any:
    """An intrinsic: `target[at : at + width * count] += sum over events of weights`, kept in vector registers.

    All events of one position meet the same target units. Holding these in registers while the events' weight rows are
    added saves the load and store of the target for every event but one; Numba cannot see that target and weights do
    not overlap, so a plain loop would go through memory each time. Additions happen event by event, as in that loop.

    at, offset: tuples, one number for each of the `runs` that are added in the same loop. How many events a position
    has is hard for the processor to guess; so it guesses once for all kernel rows.
    """

    @intrinsic
    def accumulate(typing_context, target, at, weight, channel, value, first, last, row, offset):
        def generate(context, builder, signature, arguments):
            arrays = {
                i: context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (0, 2, 3, 4)
            }
            first, last, row = arguments[5:8]
            at, offset = ([builder.extract_value(arguments[i], k) for k in range(runs)] for i in (1, 8))
            element = context.get_data_type(signature.args[0].dtype)
            align = 4 if isinstance(element, ir.FloatType) else 8
            vector, word = ir.VectorType(element, width), ir.IntType(64)

            def places(base, starts):
                steps = [builder.add(start, word(width * k)) for start in starts for k in range(count)]
                return [builder.bitcast(builder.gep(base, [step]), vector.as_pointer()) for step in steps]

            def load(place):
                found = builder.load(place)
                found.align = align
                return found

            targets = places(arrays[0], at)
            start = [load(place) for place in targets]
            before = builder.block
            body, after = (builder.append_basic_block(name) for name in ("events", "done"))
            builder.branch(body)  # the caller has at least one event
            builder.position_at_end(body)
            event = builder.phi(word)
            event.add_incoming(first, before)
            sums = [builder.phi(vector) for _ in start]
            number = builder.sext(builder.load(builder.gep(arrays[3], [event])), word)
            source = builder.mul(number, row)
            rows = [load(place) for place in places(arrays[2], [builder.add(source, own) for own in offset])]
            if graded:
                lane = builder.load(builder.gep(arrays[4], [event]))
                single = builder.insert_element(ir.Constant(vector, ir.Undefined), lane, ir.IntType(32)(0))
                zeros = ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width)
                spread = builder.shuffle_vector(single, ir.Constant(vector, ir.Undefined), zeros)
                rows = [builder.fmul(spread, weights) for weights in rows]
            total = [builder.fadd(old, weights) for old, weights in zip(sums, rows)]
            following = builder.add(event, word(1))
            event.add_incoming(following, body)
            for old, begun, new in zip(sums, start, total):
                old.add_incoming(begun, before)
                old.add_incoming(new, body)
            builder.cbranch(builder.icmp_signed("<", following, last), body, after)
            builder.position_at_end(after)
            for place, new in zip(targets, total):
                builder.store(new, place).align = align
            return context.get_dummy_value()

        index = types.intp
        several = types.UniTuple(index, runs)
        return types.void(target, several, weight, channel, value, index, index, index, several), generate

    return accumulate


# Few widths: every one is compiled into every function that delivers. 96 and 48 are the kernel rows of 16, 32 and 64
# channels.
_add_96, _add_48, _add_16 = (_accumulate(16, count) for count in (6, 3, 1))
_add_4, _add_1 = (_accumulate(width, 1) for width in (4, 1))
_mac_16, _mac_1 = (_accumulate(width, 1, graded=True) for width in (16, 1))
_add_3x48, _add_3x32, _add_2x48, _add_2x32 = (_accumulate(16, count, runs=runs) for runs in (3, 2) for count in (3, 2))


def _fire_block(width: int, driven: bool) -> Any:
    """An intrinsic: `width` neurons take their input, fire and reset. Gives the bits of those that fired.

    u = max(alpha v + gain (register + constant), floor); v <- keep u - less where u >= fire, else u; register <- 0.
    Without the constant where `driven` is not. A plain loop has to leave bytes for another one to gather.
    """

    @intrinsic
    def fire(typing_context, v, at, register, arrived_at, real, constant_at, alpha, gain, floor, least, keep, less):
        def generate(context, builder, signature, arguments):
            data = {i: context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (0, 2, 4)}
            element = context.get_data_type(signature.args[0].dtype)
            align = 4 if isinstance(element, ir.FloatType) else 8
            vector, half = ir.VectorType(element, width), ir.IntType(32)
            undefined = ir.Constant(vector, ir.Undefined)

            def place(array, index):
                return builder.bitcast(builder.gep(data[array], [arguments[index]]), vector.as_pointer())

            def load(pointer):
                found = builder.load(pointer)
                found.align = align
                return found

            def spread(number):
                single = builder.insert_element(undefined, number, half(0))
                return builder.shuffle_vector(single, undefined, ir.Constant(ir.VectorType(half, width), [0] * width))

            alpha, gain, floor, least, keep, less = (spread(number) for number in arguments[6:])
            membrane, arrived = place(0, 1), place(2, 3)
            income = load(arrived)
            if driven:
                income = builder.fadd(income, load(place(4, 5)))
            u = builder.fadd(builder.fmul(alpha, load(membrane)), builder.fmul(gain, income))
            u = builder.select(builder.fcmp_ordered("<", u, floor), floor, u)
            fired = builder.fcmp_ordered(">=", u, least)
            after = builder.select(fired, builder.fsub(builder.fmul(keep, u), less), u)
            builder.store(after, membrane).align = align
            builder.store(ir.Constant(vector, None), arrived).align = align
            return builder.zext(builder.bitcast(fired, ir.IntType(width)), ir.IntType(64))

        i, number = types.intp, v.dtype
        return types.int64(v, i, register, i, real, i, number, number, number, number, number, number), generate

    return fire


_fire_driven, _fire_free = _fire_block(BLOCK, True), _fire_block(BLOCK, False)
_fire_driven_8, _fire_free_8 = _fire_block(HALF, True), _fire_block(HALF, False)


@intrinsic
def _lowest(typing_context, word):
    """The number of the lowest bit that is set, of a word that is not 0."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), generate


@intrinsic
def _unpack_byte(typing_context, channel, event, table, pattern, base):
    """`channel[event : event + 8] = table[8 * pattern : ...] + base`, as one vector."""

    def generate(context, builder, signature, arguments):
        target, source = (context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (0, 2))
        vector, word, half = ir.VectorType(ir.IntType(32), 8), ir.IntType(64), ir.IntType(32)
        at = builder.gep(source, [builder.mul(arguments[3], word(8))])
        load = builder.load(builder.bitcast(at, vector.as_pointer()))
        load.align = 4
        undefined = ir.Constant(vector, ir.Undefined)
        single = builder.insert_element(undefined, builder.trunc(arguments[4], half), half(0))
        spread = builder.shuffle_vector(single, undefined, ir.Constant(vector, [0] * 8))
        place = builder.bitcast(builder.gep(target, [arguments[1]]), vector.as_pointer())
        store = builder.store(builder.add(load, spread), place)
        store.align = 4
        return context.get_dummy_value()

    index = types.intp
    return types.void(channel, index, table, index, index), generate


PACK_SLACK = 8  # `_pack` writes eight channels at a time and keeps those that fired
# Of every byte, the numbers of its set bits, lowest first, and how many there are.
_BITS = np.zeros((256, 8), np.int32)
_COUNT = np.zeros(256, np.int64)
for _byte in range(256):
    _set = [bit for bit in range(8) if _byte >> bit & 1]
    _BITS[_byte, : len(_set)] = _set
    _COUNT[_byte] = len(_set)
_BITS = _BITS.ravel()
_GATHER = np.uint64(0x0102040810204080)  # times eight bytes of 0 or 1: their bits, in order, in the top byte


@_compiled
def _add_rows(register, start, weight, channel, value, first, last, row, offset, length):
    """Add the weight rows of binary events first..last of one position onto `length` target units."""
    i = 0
    while length - i >= 96:
        _add_96(register, (start + i,), weight, channel, value, first, last, row, (offset + i,))
        i += 96
    if length - i >= 48:
        _add_48(register, (start + i,), weight, channel, value, first, last, row, (offset + i,))
        i += 48
    while length - i >= 16:
        _add_16(register, (start + i,), weight, channel, value, first, last, row, (offset + i,))
        i += 16
    while length - i >= 4:
        _add_4(register, (start + i,), weight, channel, value, first, last, row, (offset + i,))
        i += 4
    while i < length:
        _add_1(register, (start + i,), weight, channel, value, first, last, row, (offset + i,))
        i += 1


@_compiled
def _mac_rows(register, start, weight, channel, value, first, last, row, offset, length):
    """As `_add_rows`, every row multiplied by its event's value."""
    i = 0
    while length - i >= 16:
        _mac_16(register, (start + i,), weight, channel, value, first, last, row, (offset + i,))
        i += 16
    while i < length:
        _mac_1(register, (start + i,), weight, channel, value, first, last, row, (offset + i,))
        i += 1


# -------------------------------------------------------------------------------------------------------- delivery


@_compiled
def _add_alike(register, base, weight, weights, channel, value, first, last, row, runs, r, count, alike):
    """`_add_rows` on two or three runs of one length, see C_ALIKE."""
    t0, t1 = base + runs[r, R_TARGET], base + runs[r + 1, R_TARGET]
    w0, w1 = weights + runs[r, R_FIRST], weights + runs[r + 1, R_FIRST]
    if count == 2:
        if alike > 0:
            for i in range(0, alike, 48):
                _add_2x48(register, (t0 + i, t1 + i), weight, channel, value, first, last, row, (w0 + i, w1 + i))
        else:
            for i in range(0, -alike, 32):
                _add_2x32(register, (t0 + i, t1 + i), weight, channel, value, first, last, row, (w0 + i, w1 + i))
        return
    t2, w2 = base + runs[r + 2, R_TARGET], weights + runs[r + 2, R_FIRST]
    if alike > 0:
        for i in range(0, alike, 48):
            at, of = (t0 + i, t1 + i, t2 + i), (w0 + i, w1 + i, w2 + i)
            _add_3x48(register, at, weight, channel, value, first, last, row, of)
    else:
        for i in range(0, -alike, 32):
            at, of = (t0 + i, t1 + i, t2 + i), (w0 + i, w1 + i, w2 + i)
            _add_3x32(register, at, weight, channel, value, first, last, row, of)


@_inlined
def _deliver_runs(plan, cells, c, graded, batch, g0, g1):
    """Convolutions and dense weights. Returns the additions made.

    The taps of a position are stored as runs: neighbouring target units whose weights are neighbours too. At stride 1
    the kernel columns are stored flipped, so that a whole kernel row is one run.
    """
    con, whole = plan.con[c], plan.whole
    real, runs, register, channel, value = plan.real, plan.runs, cells.register, batch.channel, batch.value
    base, weights, row, group_in = con[C_REGISTER], con[C_WEIGHT], con[C_ROW], con[C_GROUP_IN]
    pointer, touching, extra = con[C_POINTER], con[C_TOUCH] != 0, plan.pop[con[C_TARGET], P_EXTRA]
    together, lengths = not graded and not touching, con[C_ALIKE]
    added = 0
    for g in range(g0, g1):
        place = pointer + batch.groups[g, G_POSITION]
        r0, r1 = whole[place], whole[place + 1]
        first, end = batch.groups[g, G_FIRST], batch.groups[g + 1, G_FIRST]
        alike = whole[lengths + batch.groups[g, G_POSITION]] if together else 0
        while first < end:
            # Events of one convolution group share their target channels; without groups that is all of them.
            shift, last = 0, end
            if group_in > 0:
                group = (channel[first] + con[C_CHANNEL_SHIFT]) // group_in
                last = first + 1
                while last < end and (channel[last] + con[C_CHANNEL_SHIFT]) // group_in == group:
                    last += 1
                shift = group * con[C_GROUP_OUT]
            if alike != 0:
                count = r1 - r0
                at = base + shift
                _add_alike(register, at, real, weights, channel, value, first, last, row, runs, r0, count, alike)
                added += count * abs(alike) * (last - first)
                first = last
                continue
            for r in range(r0, r1):
                start = shift + runs[r, R_TARGET]
                offset = weights + runs[r, R_FIRST]
                length = np.int64(runs[r, R_LENGTH])
                if graded:
                    _mac_rows(register, base + start, real, channel, value, first, last, row, offset, length)
                else:
                    _add_rows(register, base + start, real, channel, value, first, last, row, offset, length)
                added += length * (last - first)
                if touching:
                    cells.extra[TOUCHED, extra + start : extra + start + length] = 1
            first = last
    return added


@_inlined
def _deliver_units(plan, cells, c, batch, g0, g1):
    """Identity connections and pools for spikes that nothing can drop. Returns the additions made."""
    con, whole, runs = plan.con[c], plan.whole, plan.runs
    register, groups, channel = cells.register, batch.groups, batch.channel
    pointer, weight, channels = con[C_POINTER], plan.real[con[C_WEIGHT] :], con[C_CHANNELS_OUT]
    base = con[C_REGISTER] + con[C_CHANNEL_SHIFT]
    if con[C_SAME]:  # how many events a position has is hard for the processor to guess: one loop over all of them
        unit, first, last = batch.unit, groups[g0, G_FIRST], groups[g1, G_FIRST]
        for event in range(first, last):
            register[base + unit[event]] += weight[channel[event]]
        return last - first
    added = 0
    for g in range(g0, g1):
        place = pointer + groups[g, G_POSITION]
        first, last = groups[g, G_FIRST], groups[g + 1, G_FIRST]
        for r in range(whole[place], whole[place + 1]):
            start = base + runs[r, R_TARGET] * channels
            for event in range(first, last):
                register[start + channel[event]] += weight[channel[event]]
            added += last - first
    return added


@_compiled
def _deliver_singly(plan, cells, c, graded, batch, g0, g1, tick):
    """Any connection, one unit at a time: identity, pools, synapse lists, differing coefficients, refractory targets.

    Returns (added, dropped).
    """
    con = plan.con[c]
    op = con[C_OP]
    extra = plan.pop[con[C_TARGET], P_EXTRA]
    channels = plan.pop[con[C_SOURCE], P_CHANNELS]
    origin = plan.whole[con[C_POINTER]]
    added = dropped = 0
    for g in range(g0, g1):
        position = batch.groups[g, G_POSITION]
        for event in range(batch.groups[g, G_FIRST], batch.groups[g + 1, G_FIRST]):
            number = np.int64(batch.channel[event])
            place = con[C_POINTER] + (position * channels + number if op == OP_SPARSE else position)
            for r in range(plan.whole[place], plan.whole[place + 1]):
                unit, weight, length = np.int64(plan.runs[r, R_TARGET]), con[C_WEIGHT], 1
                if op == OP_RUNS:
                    if con[C_GROUP_IN] > 0:
                        unit += (number + con[C_CHANNEL_SHIFT]) // con[C_GROUP_IN] * con[C_GROUP_OUT]
                    weight += number * con[C_ROW] + plan.runs[r, R_FIRST]
                    length = np.int64(plan.runs[r, R_LENGTH])
                elif op == OP_UNITS:
                    unit = unit * con[C_CHANNELS_OUT] + number + con[C_CHANNEL_SHIFT]
                    weight += number
                else:
                    weight += r - origin
                for i in range(length):
                    if con[C_CAREFUL] and cells.extra[REFRACTORY_UNTIL, extra + unit + i] >= tick:
                        dropped += 1
                        continue
                    amount = plan.real[weight + i]
                    if con[C_COEFFICIENT] >= 0:
                        amount *= plan.real[con[C_COEFFICIENT] + r - origin]
                    if graded:
                        amount *= batch.value[event]
                    cells.register[con[C_REGISTER] + unit + i] += amount
                    added += 1
                    if con[C_TOUCH]:
                        cells.extra[TOUCHED, extra + unit + i] = 1
    return added, dropped


@_compiled
def _deliver(plan, cells, c, graded, batch, g0, g1, tick):
    """Apply a batch to the target's register. Returns (added, dropped)."""
    con = plan.con[c]
    if con[C_CAREFUL] or con[C_COEFFICIENT] >= 0 or con[C_OP] == OP_SPARSE:
        return _deliver_singly(plan, cells, c, graded, batch, g0, g1, tick)
    if con[C_OP] == OP_RUNS:
        return _deliver_runs(plan, cells, c, graded, batch, g0, g1), 0
    if graded or con[C_TOUCH]:
        return _deliver_singly(plan, cells, c, graded, batch, g0, g1, tick)
    return _deliver_units(plan, cells, c, batch, g0, g1), 0


@_compiled
def _fan(plan, c, batch, g0, g1):
    """Taps of a batch, from the fan-out tables: (structural, effective, pool)."""
    con, whole = plan.con[c], plan.whole
    channels = plan.pop[con[C_SOURCE], P_CHANNELS]
    by_unit, by_weight = con[C_OP] == OP_SPARSE, con[C_EFFECTIVE] >= 0
    structural = effective = pool = 0
    for g in range(g0, g1):
        position, first, last = batch.groups[g, G_POSITION], batch.groups[g, G_FIRST], batch.groups[g + 1, G_FIRST]
        if by_unit or by_weight:
            for event in range(first, last):
                unit = position * channels + batch.channel[event]
                structural += whole[con[C_FAN] + unit] if by_unit else whole[con[C_FAN] + position]
                effective += whole[con[C_EFFECTIVE] + unit] if by_weight else whole[con[C_FAN] + unit]
        else:
            structural += (last - first) * whole[con[C_FAN] + position]
        if con[C_POOL_FAN] >= 0:
            if by_unit:
                for event in range(first, last):
                    pool += whole[con[C_POOL_FAN] + position * channels + batch.channel[event]]
            else:
                pool += (last - first) * whole[con[C_POOL_FAN] + position]
    return structural, effective if by_unit or by_weight else structural, pool


# ----------------------------------------------------------------------------------------------------- the account


@_compiled
def _fan_units(plan, c, batch, g0, g1):
    """As `_fan`, with every event counted as often as its neuron fired: (structural, pool)."""
    con, whole = plan.con[c], plan.whole
    channels = plan.pop[con[C_SOURCE], P_CHANNELS]
    main = pool = 0
    for g in range(g0, g1):
        position = batch.groups[g, G_POSITION]
        for event in range(batch.groups[g, G_FIRST], batch.groups[g + 1, G_FIRST]):
            place = position * channels + batch.channel[event] if con[C_OP] == OP_SPARSE else position
            times = np.int64(batch.value[event])
            main += times * whole[con[C_FAN] + place]
            if con[C_POOL_FAN] >= 0:
                pool += times * whole[con[C_POOL_FAN] + place]
    return main, pool


@_compiled
def _distinct(plan, cells, c, tick, graded, batch, g0, g1):
    """Taps of non-zero weight, the events that reach one unit before the weight counted as one, those of value 0 not.

    Asked only where that may differ from the effective taps: events that can share a pixel, pools, graded events.
    """
    con, whole = plan.con[c], plan.whole
    taps = 0
    for g in range(g0, g1):
        position = batch.groups[g, G_POSITION]
        for event in range(batch.groups[g, G_FIRST], batch.groups[g + 1, G_FIRST]):
            if graded and batch.value[event] == 0:
                continue
            if con[C_REACH] == REACH_ITSELF:
                unit = position * con[C_INNER_CHANNELS] + batch.channel[event]
                if cells.stamp[con[C_STAMP] + unit] != tick:
                    cells.stamp[con[C_STAMP] + unit] = tick
                    taps += whole[con[C_EFFECTIVE] + unit] if con[C_EFFECTIVE] >= 0 else whole[con[C_FAN] + position]
                continue
            place = con[C_REACH] + position
            channel = batch.channel[event] + con[C_CHANNEL_SHIFT]
            for k in range(whole[place], whole[place + 1]):
                unit = whole[k] * con[C_INNER_CHANNELS] + channel
                if cells.stamp[con[C_STAMP] + unit] != tick:
                    cells.stamp[con[C_STAMP] + unit] = tick
                    taps += whole[con[C_INNER] + unit]
    return taps


@_compiled
def _book_emitted(plan, cells, books, c, tick, batch, g0, g1):
    """Book the taps of a batch when it is emitted."""
    con = plan.con[c]
    flags = plan.pop[con[C_SOURCE], P_FLAGS]
    structural, effective, pool = _fan(plan, c, batch, g0, g1)
    units, pool_units, per_tick = structural, pool, effective
    if flags & FLAG_MULTI:
        units, pool_units = _fan_units(plan, c, batch, g0, g1)
    if con[C_REACH] != REACH_ONCE:
        per_tick = _distinct(plan, cells, c, tick, flags & FLAG_GRADED != 0, batch, g0, g1)
    main, side = books.taps[con[C_BOOK], MAIN, tick], books.taps[con[C_BOOK], POOL, tick]
    main[STRUCTURAL] += structural
    main[UNITS] += units
    main[EFFECTIVE] += effective
    main[PER_TICK] += per_tick
    side[STRUCTURAL] += pool
    side[UNITS] += pool_units
    side[EFFECTIVE] += pool
    side[PER_TICK] += pool


@_compiled
def _book_sources(plan, books, p, batch, g0, g1):
    """Book a batch on the neurons that emitted it."""
    pop = plan.pop[p]
    multiple = pop[P_FLAGS] & FLAG_MULTI
    for g in range(g0, g1):
        base = pop[P_UNIT] + batch.groups[g, G_POSITION] * pop[P_CHANNELS]
        for event in range(batch.groups[g, G_FIRST], batch.groups[g + 1, G_FIRST]):
            unit = base + batch.channel[event]
            books.sources[0, unit] += 1
            books.sources[1, unit] += np.int64(batch.value[event]) if multiple else 1


@_inlined
def _book_arrived(plan, cells, queue, books, c, tick, batch, g0, g1, added, dropped):
    """Book a delivery: what was applied, what was dropped, and which neurons it reached."""
    con = plan.con[c]
    taps = books.taps[con[C_BOOK]]
    if con[C_BY_TABLE] or con[C_POOL_FAN] >= 0:
        structural, _, pool = _fan(plan, c, batch, g0, g1)
        if con[C_BY_TABLE]:
            added = structural
        taps[POOL, tick, DELIVERED] += pool
    if con[C_PLAIN]:
        for kind in range(DELIVERED):
            taps[MAIN, tick - con[C_DELAY], kind] += added
    taps[MAIN, tick, DELIVERED] += added
    taps[MAIN, tick, DROPPED] += dropped
    if con[C_SYNOPS]:
        books.synops[tick] += added
        queue.at[A_SPENT] += added
    if plan.pop[con[C_TARGET], P_TOUCH] >= 0:
        _touch(plan, cells, c, batch, g0, g1, tick)


@_compiled
def _touch(plan, cells, c, batch, g0, g1, tick):
    """Mark the neurons that a batch reached."""
    con = plan.con[c]
    op, target, channels = con[C_OP], plan.pop[con[C_TARGET]], plan.pop[con[C_SOURCE], P_CHANNELS]
    if target[P_TOUCH_WHOLE]:  # the same positions for every channel of the source
        base, per_unit = target[P_TOUCH], target[P_TOUCH_WHOLE]
        for g in range(g0, g1):
            place = con[C_POINTER] + batch.groups[g, G_POSITION]
            for r in range(plan.whole[place], plan.whole[place + 1]):
                first = (plan.runs[r, R_TARGET] * per_unit) >> 32
                bits = (1 << ((plan.runs[r, R_LENGTH] * per_unit) >> 32)) - 1
                word = base + (first >> 6)
                cells.spots[word] |= bits << (first & 63)
                cells.spots[word + 1] |= bits >> (63 - (first & 63)) >> 1  # a shift by 64 would be none
        return
    base, extra = target[P_TOUCH], target[P_EXTRA]
    for g in range(g0, g1):
        position = batch.groups[g, G_POSITION]
        place = con[C_POINTER] + position
        for event in range(batch.groups[g, G_FIRST], batch.groups[g + 1, G_FIRST]):
            number = np.int64(batch.channel[event])
            if op == OP_SPARSE:
                place = con[C_POINTER] + position * channels + number
            for r in range(plan.whole[place], plan.whole[place + 1]):
                start, length = np.int64(plan.runs[r, R_TARGET]), 1
                if op == OP_RUNS:
                    length = np.int64(plan.runs[r, R_LENGTH])
                    if con[C_GROUP_IN] > 0:
                        start += (number + con[C_CHANNEL_SHIFT]) // con[C_GROUP_IN] * con[C_GROUP_OUT]
                elif op == OP_UNITS:
                    start = start * con[C_CHANNELS_OUT] + number + con[C_CHANNEL_SHIFT]
                for unit in range(start, start + length):
                    if not con[C_CAREFUL] or cells.extra[REFRACTORY_UNTIL, extra + unit] < tick:
                        cells.touched[base + unit] = 1


@_compiled
def _reached(cells, touch, unit):
    """Whether something was delivered to a unit in this tick, its mark taken away; never where no marks are kept."""
    if touch < 0:
        return False
    found = cells.touched[touch + unit] != 0
    cells.touched[touch + unit] = 0
    return found


@_inlined
def _book_turn(plan, cells, books, p, tick, batch, g0, g1):
    """Book the neurons that a turn has updated and the constants it has added. `_fire_general` does so itself.

    A neuron is updated when a tap was delivered to it, a constant or an image drives it, or it fires.
    """
    pop = plan.pop[p]
    size, channels, whole = pop[P_SIZE], pop[P_CHANNELS], pop[P_TOUCH_WHOLE] != 0
    constant, length, biases = pop[P_CONST] + pop[P_CONST_STRIDE] * tick, pop[P_CONST_LENGTH], 0
    if pop[P_CONST] >= 0:
        biases = plan.whole[pop[P_CONST_UNITS] + (tick if pop[P_CONST_STRIDE] > 0 else 0)]
        books.events[p, tick, BIASES] += biases
    if pop[P_KIND] != KIND_FAST and pop[P_KIND] != KIND_INTEGRATOR:
        return
    updates = size
    if biases < size and tick < pop[P_IMAGE_FROM]:
        updates = 0
        if biases > 0:
            for unit in range(size):
                reached = _is_reached(cells, pop, unit, unit // channels)
                updates += reached or plan.real[constant + unit % length] != 0
        elif whole:
            for word in range(pop[P_TOUCH], pop[P_TOUCH] + _words(pop)):
                updates += channels * _bits(cells.spots[word])
        else:
            for mark in range(pop[P_TOUCH], pop[P_TOUCH] + size):
                updates += cells.touched[mark]
        for g in range(g0, g1):  # a soft reset may leave a neuron at threshold, which fires again by itself
            position = batch.groups[g, G_POSITION]
            if whole and _is_reached(cells, pop, 0, position):
                continue
            for event in range(batch.groups[g, G_FIRST], batch.groups[g + 1, G_FIRST]):
                unit = position * channels + batch.channel[event]
                driven = biases > 0 and plan.real[constant + unit % length] != 0
                updates += not driven and not _is_reached(cells, pop, unit, position)
    if pop[P_TOUCH] >= 0:
        if whole:
            for word in range(pop[P_TOUCH], pop[P_TOUCH] + _words(pop)):
                cells.spots[word] = 0
        else:
            for mark in range(pop[P_TOUCH], pop[P_TOUCH] + size):
                cells.touched[mark] = 0
    books.events[p, tick, UPDATES] += updates


@_compiled
def _words(pop):
    """Words of a population's marks, a bit a position and one word more, which `_touch` may write zeros to."""
    return pop[P_SIZE] // pop[P_CHANNELS] // 64 + 2


@_compiled
def _is_reached(cells, pop, unit, position):
    """Whether a unit at a position is marked."""
    if pop[P_TOUCH_WHOLE]:
        return (cells.spots[pop[P_TOUCH] + (position >> 6)] >> (position & 63)) & 1 != 0
    return cells.touched[pop[P_TOUCH] + unit] != 0


@_compiled
def _bits(word):
    """How many bits of a word are set."""
    x = np.uint64(word)
    x -= (x >> np.uint64(1)) & np.uint64(0x5555555555555555)
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@_compiled
def _book_left(plan, books, c, emitted, batch, g0, g1):
    """Book a delivery that is still queued at the stop. emitted: the tick in which it was."""
    structural, _, pool = _fan(plan, c, batch, g0, g1)
    book = plan.con[c, C_BOOK]
    if plan.con[c, C_PLAIN]:
        for kind in range(DELIVERED):
            books.taps[book, MAIN, emitted, kind] += structural
    books.in_flight[book, MAIN] += structural
    books.in_flight[book, POOL] += pool


# ------------------------------------------------------------------------------------------------------- the queue


@_compiled
def _push(queue, ring, rank, what, slot):
    """Queue a delivery (even rank) or a turn (odd rank) behind what already waits at (tick, rank)."""
    at, entries = queue.at, queue.entries
    entry = at[A_FREE]
    at[A_FREE] = entries[entry, LINK]
    entries[entry, LINK], entries[entry, WHAT], entries[entry, SLOT] = -1, what, slot
    if queue.buckets[ring, rank, HEAD] < 0:
        queue.buckets[ring, rank, HEAD] = entry
    else:
        entries[queue.buckets[ring, rank, TAIL], LINK] = entry
    queue.buckets[ring, rank, TAIL] = entry
    queue.waiting[ring] += 1
    at[A_PUSHED] += 1
    at[A_PENDING] += 1
    at[A_PEAK] = max(at[A_PEAK], at[A_PENDING])


@_compiled
def _push_turn(queue, ring, rank, p, tick):
    """Queue a population's turn, unless it already waits."""
    if queue.clock[SCHEDULED, p] < tick:
        queue.clock[SCHEDULED, p] = tick
        _push(queue, ring, rank, p, 0)


@_inlined
def _announce(plan, cells, queue, books, p, tick, slot, batch, g0, g1):
    """Book a batch that was just emitted and queue it on every outgoing connection."""
    if g1 == g0:
        return
    if books.sources.size > 0:
        _book_sources(plan, books, p, batch, g0, g1)
    for k in range(plan.pop[p, P_FIRST_OUT], plan.pop[p, P_LAST_OUT]):
        c = plan.whole[k]
        if books.taps.size > 0 and not plan.con[c, C_PLAIN]:
            _book_emitted(plan, cells, books, c, tick, batch, g0, g1)
        ring = (tick + plan.con[c, C_DELAY]) % plan.misc[M_RING]
        _push(queue, ring, plan.pop[plan.con[c, C_TARGET], P_RANK] - 1, c, slot)


@_compiled
def _slot_group(plan, p, slot):
    """First group of a population's slot, which has room for one group per position and the end of the last."""
    positions = plan.pop[p, P_SIZE] // plan.pop[p, P_CHANNELS]
    return plan.pop[p, P_SLOT_GROUP] + (slot - plan.pop[p, P_FIRST_SLOT]) * (positions + 1)


@_compiled
def _slot_event(plan, p, slot):
    """First event of a population's slot."""
    return plan.pop[p, P_SLOT_EVENT] + (slot - plan.pop[p, P_FIRST_SLOT]) * (plan.pop[p, P_SIZE] + PACK_SLACK)


@_inlined
def _arrive(plan, cells, queue, books, c, batch, g0, g1, tick):
    """A delivery's moment: apply the batch, book what was delivered and dropped, and call the target to its turn."""
    con = plan.con[c]
    graded = (plan.pop[con[C_SOURCE], P_FLAGS] & FLAG_GRADED) != 0
    added, dropped = _deliver(plan, cells, c, graded, batch, g0, g1, tick)
    if books.taps.size > 0:
        _book_arrived(plan, cells, queue, books, c, tick, batch, g0, g1, added, dropped)
    target = con[C_TARGET]
    _push_turn(queue, tick % plan.misc[M_RING], plan.pop[target, P_RANK], target, tick)


# ---------------------------------------------------------------------------------------------------------- a turn


@_compiled
def _gather(plan, cells, p, tick):
    """Add the connections that have a register of their own: per-tick scales and analog images."""
    pop = plan.pop[p]
    for k in range(pop[P_FIRST_IN], pop[P_LAST_IN]):
        con = plan.con[plan.whole[k]]
        first = pop[P_REGISTER] + con[C_RECEPTOR] * pop[P_SIZE]
        own = cells.register[first : first + pop[P_SIZE]]
        other = cells.register[con[C_REGISTER] : con[C_REGISTER] + pop[P_SIZE]]
        if con[C_ANALOG] and tick < con[C_DELAY]:
            continue
        if con[C_SCALE] < 0:
            for i in range(pop[P_SIZE]):
                own[i] += other[i]
        else:
            channels = pop[P_CHANNELS]
            factor = plan.real[con[C_SCALE] + tick * channels : con[C_SCALE] + (tick + 1) * channels]
            for i in range(pop[P_SIZE]):
                own[i] += factor[i % channels] * other[i]
        if not con[C_ANALOG]:
            other[:] = 0


@_inlined
def _fire_position(cells, batch, real, position, constant, event, place, numbers):
    """A position's neurons fire, sixteen and eight at a time. Returns the next event, or -1 when a neuron runs away.

    constant: where theirs begins in `Plan.real`, or -1. How often a neuron fired is left in its register.
    """
    v, register, channel = cells.v, cells.register, batch.channel
    channels, unit, arrived, listed, several = place  # read once: to the compiler every store may change a table
    own, before = position * channels, event
    unit, arrived = unit + own, arrived + own
    alpha, gain, floor, fire, keep, less = numbers
    for k in range(0, channels - HALF, BLOCK):
        if constant >= 0:
            bits = _fire_driven(
                v, unit + k, register, arrived + k, real, constant + k, alpha, gain, floor, fire, keep, less
            )
        else:
            bits = _fire_free(v, unit + k, register, arrived + k, real, 0, alpha, gain, floor, fire, keep, less)
        low, high = bits & 255, bits >> 8
        middle = event + _COUNT[low]
        _unpack_byte(channel, event, _BITS, low, k)
        _unpack_byte(channel, middle, _BITS, high, k + HALF)
        if listed:
            _unpack_byte(batch.unit, event, _BITS, low, own + k)
            _unpack_byte(batch.unit, middle, _BITS, high, own + k + HALF)
        event = middle + _COUNT[high]
    if channels % BLOCK != 0:
        k = channels - HALF
        if constant >= 0:
            bits = _fire_driven_8(
                v, unit + k, register, arrived + k, real, constant + k, alpha, gain, floor, fire, keep, less
            )
        else:
            bits = _fire_free_8(v, unit + k, register, arrived + k, real, 0, alpha, gain, floor, fire, keep, less)
        _unpack_byte(channel, event, _BITS, bits, k)
        if listed:
            _unpack_byte(batch.unit, event, _BITS, bits, own + k)
        event += _COUNT[bits]
    if several:
        for n in range(before, event):
            times, u = 1, v[unit + channel[n]]
            while u >= fire:
                u -= less
                times += 1
                if times > MAX_MULTIPLICITY:
                    return -1
            v[unit + channel[n]], register[arrived + channel[n]] = u, times
    return event


@_inlined
def _fire_blocks(plan, cells, batch, p, tick, g0, e0, reached):
    """`_fire_fast` and `_pack` in one pass, with a floor and several spikes in a turn.

    reached: only positions that something arrived at, which is enough where nothing else changes a neuron. Returns
    (groups, events), or (-1, 0) when a neuron runs away.
    """
    pop, real, groups = plan.pop[p], plan.real, batch.groups
    numbers = (
        real[pop[Q_ALPHA]],
        real[pop[Q_GAIN]],
        real[pop[Q_FLOOR]],
        real[pop[Q_FIRE]],
        real[pop[Q_RESET]],
        real[pop[Q_AMOUNT]],
    )
    channels, listed, several = pop[P_CHANNELS], pop[P_LISTED] != 0, pop[P_FLAGS] & FLAG_MULTI != 0
    place = (channels, pop[P_UNIT], pop[P_REGISTER], listed, several)
    group, event = g0, e0
    if reached:
        for word in range(_words(pop)):
            marks = cells.spots[pop[P_TOUCH] + word]
            while marks != 0:
                position = 64 * word + _lowest(marks)
                marks &= marks - 1
                before = event
                event = _fire_position(cells, batch, real, position, -1, before, place, numbers)
                if event < 0:
                    return -1, 0
                groups[group, G_POSITION], groups[group, G_FIRST] = position, before
                group += event > before
    else:
        constant = pop[P_CONST] + pop[P_CONST_STRIDE] * tick if pop[P_CONST] >= 0 else -1
        step = 0  # every position has the same
        if pop[P_CONST] >= 0 and pop[P_CONST_LENGTH] == pop[P_SIZE]:
            step = channels
        for position in range(pop[P_SIZE] // channels):
            before = event
            event = _fire_position(cells, batch, real, position, constant, before, place, numbers)
            if event < 0:
                return -1, 0
            groups[group, G_POSITION], groups[group, G_FIRST] = position, before
            group += event > before
            constant += step
    groups[group, G_FIRST] = event
    return group - g0, event - e0


@_compiled
def _leak(plan, cells, p, elapsed):
    """Leaks of the ticks in which the population had no turn."""
    pop = plan.pop[p]
    alpha = plan.real[pop[Q_ALPHA]]
    v = cells.v[pop[P_UNIT] : pop[P_UNIT] + pop[P_SIZE]]
    for _ in range(elapsed - 1):
        for i in range(len(v)):
            v[i] *= alpha


@_compiled
def _fire_fast(plan, cells, p, tick):
    """IF and LIF with one parameter set for the population, at most one spike, reset at once: a vector loop.

    Multiplying by alpha = 1, gain = 1 or keep = 1 changes no bit, so one loop serves them all.
    """
    pop, real = plan.pop[p], plan.real
    size = pop[P_SIZE]
    alpha, gain, fire = real[pop[Q_ALPHA]], real[pop[Q_GAIN]], real[pop[Q_FIRE]]
    keep, less = real[pop[Q_RESET]], real[pop[Q_AMOUNT]]  # reset: u <- keep u - less
    v = cells.v[pop[P_UNIT] : pop[P_UNIT] + size]
    register = cells.register[pop[P_REGISTER] : pop[P_REGISTER] + size]
    mask = cells.mask[pop[P_UNIT] : pop[P_UNIT] + size]
    if pop[P_CONST] < 0:
        for i in range(size):
            u = alpha * v[i] + gain * register[i]
            fired = u >= fire
            v[i] = keep * u - less if fired else u
            mask[i] = fired
            register[i] = 0
        return
    length = pop[P_CONST_LENGTH]
    constant = plan.real[pop[P_CONST] + pop[P_CONST_STRIDE] * tick :]
    for begin in range(0, size, length):
        n = min(length, size - begin)
        v_part, register_part, mask_part = v[begin : begin + n], register[begin : begin + n], mask[begin : begin + n]
        for i in range(n):
            u = alpha * v_part[i] + gain * (register_part[i] + constant[i])
            fired = u >= fire
            v_part[i] = keep * u - less if fired else u
            mask_part[i] = fired
            register_part[i] = 0


@_compiled
def _current(plan, cells, p, receptor, i, gain, arrived):
    """A synaptic current of one neuron through a tick. Returns what the membrane takes of it."""
    pop, real = plan.pop[p], plan.real
    column, place = Q_CURRENT + SYN_COLUMNS * receptor, pop[P_CURRENT] + receptor * pop[P_SIZE] + i
    alpha = real[pop[column + SYN_ALPHA] + pop[column + SYN_ALPHA + 1] * i]
    taken = real[pop[column + SYN_GAIN] + pop[column + SYN_GAIN + 1] * i]
    of_old = real[pop[column + SYN_OLD] + pop[column + SYN_OLD + 1] * i]
    old = cells.current[place]
    new = alpha * old + taken * arrived
    cells.current[place] = new
    return gain * new + of_old * old


@_compiled
def _fire_general(plan, cells, books, p, tick, elapsed):
    """Every neuron flag there is, one neuron at a time. Returns False when a multi-spike neuron runs away."""
    pop, real = plan.pop[p], plan.real
    flags, extra, length = pop[P_FLAGS], pop[P_EXTRA], pop[P_CONST_LENGTH]
    imaged = tick >= pop[P_IMAGE_FROM]
    updates = biases = 0
    leaks = elapsed - 1 if flags & FLAG_LEAK_AFTER else elapsed
    for i in range(pop[P_SIZE]):
        u = cells.v[pop[P_UNIT] + i]
        arrived = cells.register[pop[P_REGISTER] + i]
        cells.register[pop[P_REGISTER] + i] = 0
        constant = False
        if pop[P_CONST] >= 0:
            amount = real[pop[P_CONST] + pop[P_CONST_STRIDE] * tick + i % length]
            arrived += amount
            constant = amount != 0
        alpha = real[pop[Q_ALPHA] + pop[Q_ALPHA + 1] * i]
        rest = real[pop[Q_REST] + pop[Q_REST + 1] * i]
        fire = real[pop[Q_FIRE] + pop[Q_FIRE + 1] * i]
        amount = real[pop[Q_AMOUNT] + pop[Q_AMOUNT + 1] * i]
        refractory = pop[P_REFRACTORY] > 0 and cells.extra[REFRACTORY_UNTIL, extra + i] >= tick
        held = refractory and flags & FLAG_HOLD != 0
        if flags & FLAG_LEAKS and not held:
            for _ in range(leaks):
                u = rest + alpha * (u - rest)
        updated = _reached(cells, pop[P_TOUCH], i)
        gain = real[pop[Q_GAIN] + pop[Q_GAIN + 1] * i]
        if pop[P_RECEPTORS] > 0:
            updated |= constant or imaged
            biases += constant
            before = u
            for r in range(pop[P_RECEPTORS]):
                if r > 0:
                    arrived = cells.register[pop[P_REGISTER] + r * pop[P_SIZE] + i]
                    cells.register[pop[P_REGISTER] + r * pop[P_SIZE] + i] = 0
                u += _current(plan, cells, p, r, i, gain, arrived)
            u = before if held else u
        elif not (refractory and flags & FLAG_DISCARD):
            updated |= constant or imaged
            biases += constant
            if not held:
                u += gain * arrived
        if flags & FLAG_FLOOR and not held:
            u = max(u, real[pop[Q_FLOOR] + pop[Q_FLOOR + 1] * i])
        if flags & FLAG_LATE_RESET and cells.extra[OWED, extra + i]:
            cells.extra[OWED, extra + i] = 0
            updated = True
            u = real[pop[Q_RESET] + pop[Q_RESET + 1] * i] if flags & FLAG_HARD else u - amount
        fired = 0
        if not refractory and u >= fire:
            fired = 1
            updated = True
            if flags & FLAG_LATE_RESET:
                cells.extra[OWED, extra + i] = 1
            elif flags & FLAG_HARD:
                u = real[pop[Q_RESET] + pop[Q_RESET + 1] * i]
            elif not flags & FLAG_NO_RESET:
                u -= amount
                while flags & FLAG_MULTI and u >= fire:
                    u -= amount
                    fired += 1
                    if fired > MAX_MULTIPLICITY:
                        return False
            if pop[P_REFRACTORY] > 0:
                cells.extra[REFRACTORY_UNTIL, extra + i] = min(tick + pop[P_REFRACTORY], FOREVER)
        if flags & FLAG_LEAKS and flags & FLAG_LEAK_AFTER and not held:
            u = rest + alpha * (u - rest)
        cells.v[pop[P_UNIT] + i] = u
        cells.mask[pop[P_UNIT] + i] = fired > 0
        if flags & FLAG_MULTI:
            cells.register[pop[P_REGISTER] + i] = fired  # the multiplicity, until it is packed
        updates += updated
    books.events[p, tick, UPDATES] += updates
    books.events[p, tick, BIASES] += biases
    return True


@_compiled
def _forward(plan, cells, p, tick):
    """A readout adds up; a relay or a gate marks the units that forward, with a relay's values left in its register."""
    pop = plan.pop[p]
    size, length = pop[P_SIZE], pop[P_CONST_LENGTH]
    register = cells.register[pop[P_REGISTER] : pop[P_REGISTER] + size]
    mask = cells.mask[pop[P_UNIT] : pop[P_UNIT] + size]
    if pop[P_CONST] >= 0:
        start = pop[P_CONST] + pop[P_CONST_STRIDE] * tick
        for i in range(size):
            register[i] += plan.real[start + i % length]
    if pop[P_KIND] == KIND_INTEGRATOR:
        for i in range(size):
            cells.v[pop[P_UNIT] + i] += register[i]
            register[i] = 0
    elif pop[P_KIND] == KIND_GATE:
        for i in range(size):
            mask[i] = register[i] > 0
            register[i] = 0
    else:
        touched = cells.extra[TOUCHED, pop[P_EXTRA] : pop[P_EXTRA] + size]
        for i in range(size):
            mask[i] = touched[i] or pop[P_DRIVEN]
            touched[i] = 0


@_compiled
def _pack(plan, cells, batch, p, g0, e0):
    """Turn the mask into a batch from group g0 and event e0 on. Returns (groups, events)."""
    pop = plan.pop[p]
    channels, groups, channel = pop[P_CHANNELS], batch.groups, batch.channel
    group, event = g0, e0
    for position in range(pop[P_SIZE] // channels):
        before = event
        unit = pop[P_UNIT] + position * channels
        if channels % 8 == 0:  # populations start at multiples of 8 in the mask, so whole words can be read
            for k in range(channels // 8):
                pattern = np.int64((cells.words[unit // 8 + k] * _GATHER) >> np.uint64(56))
                _unpack_byte(channel, event, _BITS, pattern, 8 * k)
                event += _COUNT[pattern]
        else:
            for k in range(channels):
                if cells.mask[unit + k]:
                    channel[event] = k
                    event += 1
        groups[group, G_POSITION], groups[group, G_FIRST] = position, before
        group += event > before
    groups[group, G_FIRST] = event
    return group - g0, event - e0


@_compiled
def _log(plan, record, at, p, tick, batch, g0, g1, valued):
    """Copy a batch to the record."""
    n = at[A_RECORDED]
    for g in range(g0, g1):
        base = batch.groups[g, G_POSITION] * plan.pop[p, P_CHANNELS]
        for event in range(batch.groups[g, G_FIRST], batch.groups[g + 1, G_FIRST]):
            record.place[n, 0], record.place[n, 1], record.place[n, 2] = tick, p, base + batch.channel[event]
            record.value[n] = batch.value[event] if valued else 1
            n += 1
    at[A_RECORDED] = n


@_compiled
def _value_events(plan, cells, batch, p, g0, g1):
    """Fetch the values that relays and multi-spike neurons left in their register. Returns their sum, as a count."""
    pop = plan.pop[p]
    register = cells.register[pop[P_REGISTER] : pop[P_REGISTER] + pop[P_SIZE]]
    total = 0
    for g in range(g0, g1):
        base = batch.groups[g, G_POSITION] * pop[P_CHANNELS]
        for event in range(batch.groups[g, G_FIRST], batch.groups[g + 1, G_FIRST]):
            batch.value[event] = register[base + batch.channel[event]]
            if pop[P_FLAGS] & FLAG_MULTI:
                total += np.int64(batch.value[event])
    register[:] = 0
    return total


@_compiled
def _still_busy(plan, cells, batch, p, tick, g0, g1):
    """Whether an undriven population needs a turn in the next tick whatever arrives.

    A neuron at threshold, or below its bound, after its turn has just fired, so only those need a look, the refractory
    ones, and those with a current that is not over.
    """
    pop, real = plan.pop[p], plan.real
    for place in range(pop[P_CURRENT], pop[P_CURRENT] + pop[P_RECEPTORS] * pop[P_SIZE]):
        if cells.current[place] != 0:
            return True
    bounded = pop[P_FLAGS] & FLAG_FLOOR
    if pop[P_FLAGS] & FLAG_LATE_RESET and g1 > g0:
        return True
    if 0 < pop[P_REFRACTORY] < FOREVER:
        for i in range(pop[P_SIZE]):
            if cells.extra[REFRACTORY_UNTIL, pop[P_EXTRA] + i] >= tick:
                return True
    for g in range(g0, g1):
        base = batch.groups[g, G_POSITION] * pop[P_CHANNELS]
        for event in range(batch.groups[g, G_FIRST], batch.groups[g + 1, G_FIRST]):
            i = base + batch.channel[event]
            u = cells.v[pop[P_UNIT] + i]
            if u >= real[pop[Q_FIRE] + pop[Q_FIRE + 1] * i]:
                return True
            if bounded and u < real[pop[Q_FLOOR] + pop[Q_FLOOR + 1] * i]:
                return True
    return False


@_inlined
def _turn(plan, state, p, tick):
    """A population's turn: take the tick's input, fire, emit. Returns False when a neuron runs away."""
    cells, queue, books, batch = state.cells, state.queue, state.books, state.batch
    pop = plan.pop[p]
    kind, flags = pop[P_KIND], pop[P_FLAGS]
    elapsed = tick - queue.clock[LAST_TURN, p]
    queue.clock[LAST_TURN, p] = tick
    if pop[P_LAST_IN] > pop[P_FIRST_IN]:
        _gather(plan, cells, p, tick)
    blocks = kind == KIND_FAST and pop[P_CHANNELS] % HALF == 0
    if kind == KIND_FAST:
        if flags & FLAG_LEAKS and elapsed > 1:
            _leak(plan, cells, p, elapsed)
        if not blocks:
            _fire_fast(plan, cells, p, tick)
    elif kind == KIND_GENERAL:
        if not _fire_general(plan, cells, books, p, tick, elapsed):
            return False
    else:
        _forward(plan, cells, p, tick)
    again = pop[P_DRIVEN] != 0
    g0 = g1 = 0
    if kind != KIND_INTEGRATOR:
        slot = pop[P_FIRST_SLOT] + tick % pop[P_SLOTS]
        g0 = _slot_group(plan, p, slot)
        e0 = _slot_event(plan, p, slot)
        if blocks:
            reached = books.taps.size > 0 and pop[P_SELDOM] != 0 and queue.clock[BUSY, p] == 0
            groups, events = _fire_blocks(plan, cells, batch, p, tick, g0, e0, reached)
            if groups < 0:
                return False
        else:
            groups, events = _pack(plan, cells, batch, p, g0, e0)
        g1 = g0 + groups
        state.slot_groups[slot] = groups
        valued = (flags & FLAG_GRADED) != 0
        total = _value_events(plan, cells, batch, p, g0, g1) if valued else 0
        books.events[p, tick, EVENTS] += events
        books.events[p, tick, EVENT_UNITS] += total if flags & FLAG_MULTI else events
        if p == plan.misc[M_OUTPUT]:
            for g in range(g0, g1):
                base = batch.groups[g, G_POSITION] * pop[P_CHANNELS]
                for event in range(batch.groups[g, G_FIRST], batch.groups[g + 1, G_FIRST]):
                    books.counts[base + batch.channel[event]] += np.int64(batch.value[event]) if valued else 1
        if pop[P_RECORD]:
            _log(plan, state.record, queue.at, p, tick, batch, g0, g1, valued)
        _announce(plan, cells, queue, books, p, tick, slot, batch, g0, g1)
        if not again and kind in (KIND_FAST, KIND_GENERAL):
            again = _still_busy(plan, cells, batch, p, tick, g0, g1)
            queue.clock[BUSY, p] = again
    if pop[P_POTENTIAL] >= 0:
        for i in range(pop[P_SIZE]):
            books.potential[tick, pop[P_POTENTIAL] + i] = cells.v[pop[P_UNIT] + i]
    if books.taps.size > 0 and kind != KIND_GENERAL:
        _book_turn(plan, cells, books, p, tick, batch, g0, g1)
    if again:
        _push_turn(queue, (tick + 1) % plan.misc[M_RING], pop[P_RANK], p, tick + 1)
    return True


# ---------------------------------------------------------------------------------------------------- the watchdog


@_entry
def best_class(outputs, margins):
    """(class of the largest output, whether it was tied). Ties: larger margin, then lower index."""
    best, tied = 0, False
    for k in range(1, outputs.size):
        if outputs[k] > outputs[best]:
            best, tied = k, False
        elif outputs[k] == outputs[best]:
            tied = True
            if margins.size and margins[k] > margins[best]:
                best = k
    return best, tied


@_compiled
def _nonconformity(value, first, total, scale):
    """SpikeCP's score of a class: -log(softmax + 1e-5). first: the largest output. total: sum of exponentials."""
    return -math.log(math.exp((np.float64(value) - first) / scale) / total + 1e-5)


@_compiled
def _nth_largest(outputs, n):
    """The n-th largest output, counted from 1; NaN where so many are not numbers."""
    bound, left = math.inf, n
    while True:
        largest, times = -math.inf, 0
        for k in range(outputs.size):
            value = np.float64(outputs[k])
            if value < bound:
                if value > largest:
                    largest, times = value, 1
                elif value == largest:
                    times += 1
        left -= times
        if left <= 0 or times == 0:
            return largest if times else math.nan
        bound = largest


@_compiled
def _evidence(policy, scale, size, outputs, synops):
    """The number that a policy holds against its threshold, in float64. size: of the largest conformal set that stops.

    A conformal set has at most `size` classes as long as the next one's score stays out, so that is its number.
    """
    if policy == POLICY_FIXED:
        return 0.0
    if policy == POLICY_BUDGET:
        return np.float64(synops)
    first = second = -math.inf
    for k in range(outputs.size):
        value = np.float64(outputs[k])
        if value > first:
            first, second = value, first
        elif value > second:
            second = value
    if policy in (POLICY_FIRST, POLICY_CROSSING):
        return first
    if policy in (POLICY_SPIKE_GAP, POLICY_TOPK):
        return first - second
    total = 0.0
    for k in range(outputs.size):
        total += math.exp((np.float64(outputs[k]) - first) / scale)
    if policy == POLICY_CONFIDENCE:
        return 1.0 / total
    if policy == POLICY_CONFORMAL:
        return _nonconformity(_nth_largest(outputs, size + 1), first, total, scale)
    entropy = 0.0
    for k in range(outputs.size):
        x = (np.float64(outputs[k]) - first) / scale
        entropy += math.exp(x) / total * (math.log(total) - x)
    return entropy / math.log(outputs.size)


@_compiled
def _enough(policy, evidence, threshold):
    """Whether the evidence reaches the threshold, in the policy's own sense. What is no number never does."""
    if policy == POLICY_FIXED:
        return threshold > 0
    if policy == POLICY_FIRST:
        return evidence > 0
    if policy in (POLICY_BUDGET, POLICY_SPIKE_GAP, POLICY_CONFORMAL, POLICY_CROSSING):
        return evidence >= threshold
    if policy == POLICY_ENTROPY:
        return evidence < threshold
    return evidence > threshold


@_compiled
def should_stop(policy, threshold, scale, size, outputs, synops):
    """Whether a policy stops, given this tick's outputs and the SynOps delivered so far.

    A replay weighs and decides with the same two functions, on the same stored values, so that one weighing serves
    every threshold.
    """
    return _enough(policy, _evidence(policy, scale, size, outputs, synops), threshold)


@_entry
def weigh(policy, scale, size, outputs, synops, evidence):
    """The evidence of recorded traces: outputs (samples, ticks, classes), synops (samples, ticks) per question."""
    for n in range(outputs.shape[0]):
        spent = 0
        for t in range(outputs.shape[1]):
            spent += synops[n, t]
            evidence[n, t] = _evidence(policy, scale, size, outputs[n, t], spent)


@_entry
def decide(policy, thresholds, evidence, stop, reason):
    """The first tick of every sample in which the evidence is enough, else the last one."""
    ticks = evidence.shape[1]
    for n in range(evidence.shape[0]):
        stop[n], reason[n] = ticks, HORIZON
        for t in range(ticks):
            if _enough(policy, evidence[n, t], thresholds[t]):
                stop[n], reason[n] = t + 1, STOPPED
                break


@_entry
def lead(outputs, margins, prediction, tied):
    """`best_class` of every sample in every tick."""
    for n in range(outputs.shape[0]):
        for t in range(outputs.shape[1]):
            prediction[n, t], tied[n, t] = best_class(outputs[n, t], margins[n, t])


@_entry
def nonconformity(outputs, labels, scale, found):
    """The score of every sample's true class in every tick, to calibrate by; the one `should_stop` compares."""
    for n in range(outputs.shape[0]):
        for t in range(outputs.shape[1]):
            first, total = -math.inf, 0.0
            for k in range(outputs.shape[2]):
                first = max(first, np.float64(outputs[n, t, k]))
            for k in range(outputs.shape[2]):
                total += math.exp((np.float64(outputs[n, t, k]) - first) / scale)
            found[n, t] = _nonconformity(outputs[n, t, labels[n]], first, total, scale)


# ------------------------------------------------------------------------------------------------------- the input


@_entry
def group_events(tick, unit, channels, tick_group, groups, channel):
    """Fill a feed with events in their order; neighbours at one position in one tick share a group.

    tick, unit: of every event, channels last, ticks rising. tick_group: (ticks + 1,). groups: (events + 1, 2).
    """
    group, last_position, last_tick = 0, -1, -1
    for n in range(len(tick)):
        position = unit[n] // channels
        channel[n] = unit[n] - position * channels
        if tick[n] != last_tick or position != last_position:
            for t in range(last_tick + 1, tick[n] + 1):
                tick_group[t] = group
            groups[group, G_POSITION], groups[group, G_FIRST] = position, n
            group, last_position, last_tick = group + 1, position, tick[n]
    for t in range(last_tick + 1, len(tick_group)):
        tick_group[t] = group
    groups[group, G_POSITION], groups[group, G_FIRST] = 0, len(tick)


@_entry
def group_pixels(image, taps, groups, channel, value):
    """Fill a batch with an image's values that are not 0, (channels, positions). Returns (groups, their taps).

    taps: of every unit, channels last.
    """
    group, event, found = 0, 0, 0
    channels, positions = image.shape
    for position in range(positions):
        first = event
        for c in range(channels):
            if image[c, position] != 0:
                channel[event], value[event] = c, image[c, position]
                found += taps[position * channels + c]
                event += 1
        groups[group, G_POSITION], groups[group, G_FIRST] = position, first
        group += event > first
    groups[group, G_FIRST] = event
    return group, found


# --------------------------------------------------------------------------------------------------------- the run


@_compiled
def _begin(plan, state, feed):
    """Bring a state to tick 0 of a new sample; pass an analog image through its connections, once."""
    cells, queue, books = state.cells, state.queue, state.books
    cells.register[:] = 0
    cells.extra[:] = 0
    cells.extra[REFRACTORY_UNTIL] = -1
    queue.clock[:] = -1
    queue.buckets[:] = -1
    queue.waiting[:] = 0
    queue.at[:] = 0
    for entry in range(len(queue.entries)):
        queue.entries[entry, LINK] = entry + 1
    cells.touched[:] = 0
    cells.spots[:] = 0
    cells.stamp[:] = -1
    books.events[:] = 0
    books.taps[:] = 0
    books.sources[:] = 0
    books.in_flight[:] = 0
    books.synops[:] = 0
    books.counts[:] = 0
    books.outputs[:] = np.nan
    books.margins[:] = np.nan
    books.potential[:] = np.nan
    for p in range(len(plan.pop)):
        pop = plan.pop[p]
        v = cells.v[pop[P_UNIT] : pop[P_UNIT] + pop[P_SIZE]]
        v[:] = 0
        if pop[P_KIND] in (KIND_FAST, KIND_GENERAL):
            ready = False
            if pop[Q_V0 + 1] == 0 and pop[Q_FIRE + 1] == 0:
                v[:] = plan.real[pop[Q_V0]]
                ready = v[0] >= plan.real[pop[Q_FIRE]]
            else:
                for i in range(pop[P_SIZE]):
                    v[i] = plan.real[pop[Q_V0] + pop[Q_V0 + 1] * i]
                    ready |= v[i] >= plan.real[pop[Q_FIRE] + pop[Q_FIRE + 1] * i]
            for r in range(pop[P_RECEPTORS]):
                start = Q_CURRENT + SYN_COLUMNS * r + SYN_START
                for i in range(pop[P_SIZE]):
                    current = plan.real[pop[start] + pop[start + 1] * i]
                    cells.current[pop[P_CURRENT] + r * pop[P_SIZE] + i] = current
                    ready |= current != 0
            if ready:
                _push_turn(queue, 0, pop[P_RANK], p, 0)
        if pop[P_DRIVEN]:
            _push_turn(queue, 0, pop[P_RANK], p, 0)
    if feed.analog:
        pop = plan.pop[plan.misc[M_INPUT]]
        for k in range(pop[P_FIRST_OUT], pop[P_LAST_OUT]):
            g0, g1 = feed.tick_group[0], feed.tick_group[1]
            _deliver(plan, cells, plan.whole[k], feed.analog, feed.batch, g0, g1, queue.at[A_TICK])


@_compiled
def _observe(plan, cells, books, tick):
    """Store the output of a tick in the trace."""
    pop = plan.pop[plan.misc[M_OUTPUT]]
    positions = pop[P_SIZE] // pop[P_CHANNELS]
    for k in range(pop[P_SIZE]):
        unit = k % positions * pop[P_CHANNELS] + k // positions  # an output grid is read channels first
        if pop[P_KIND] == KIND_INTEGRATOR or pop[P_FLAGS] & FLAG_READOUT:
            books.outputs[tick, k] = cells.v[pop[P_UNIT] + unit]
        else:
            threshold = plan.real[pop[Q_THRESHOLD] + pop[Q_THRESHOLD + 1] * unit]
            books.outputs[tick, k] = books.counts[unit]
            books.margins[tick, k] = cells.v[pop[P_UNIT] + unit] - threshold


@_compiled
def _left_in_flight(plan, state, feed):
    """Count the taps of every delivery still queued."""
    queue = state.queue
    for ring in range(queue.buckets.shape[0]):
        for rank in range(0, queue.buckets.shape[1], 2):
            entry = queue.buckets[ring, rank, HEAD]
            while entry >= 0:
                c, slot = queue.entries[entry, WHAT], queue.entries[entry, SLOT]
                batch, g0, g1 = _carried(plan, state, feed, c, slot)
                if state.books.taps.size > 0:
                    due = queue.at[A_TICK] + (ring - queue.at[A_TICK]) % plan.misc[M_RING]
                    _book_left(plan, state.books, c, due - plan.con[c, C_DELAY], batch, g0, g1)
                entry = queue.entries[entry, LINK]


@_compiled
def _carried(plan, state, feed, c, slot):
    """The batch a delivery carries: (batch, first group, end). Input events are found by tick, others by slot."""
    p = plan.con[c, C_SOURCE]
    if plan.pop[p, P_KIND] == KIND_INPUT:
        return feed.batch, feed.tick_group[slot], feed.tick_group[slot + 1]
    g0 = _slot_group(plan, p, slot)
    return state.batch, g0, g0 + state.slot_groups[slot]


@_compiled
def _room(plan, state, feed, p, tick):
    """Whether the record can take whatever this turn may emit."""
    if not plan.pop[p, P_RECORD]:
        return True
    most = plan.pop[p, P_SIZE]
    if p == plan.misc[M_INPUT]:
        most = feed.batch.groups[feed.tick_group[tick + 1], G_FIRST] - feed.batch.groups[feed.tick_group[tick], G_FIRST]
    return state.queue.at[A_RECORDED] + most <= len(state.record.value)


@_inlined
def _pop(plan, state, feed, ring, rank, tick):
    """Take the first entry of a bucket and let it happen. Returns RUNNING, or FULL or RUNAWAY."""
    queue, books = state.queue, state.books
    entry = queue.buckets[ring, rank, HEAD]
    what, slot = queue.entries[entry, WHAT], queue.entries[entry, SLOT]
    if rank % 2 == 1 and not _room(plan, state, feed, what, tick):
        return FULL
    queue.buckets[ring, rank, HEAD] = queue.entries[entry, LINK]
    queue.entries[entry, LINK] = queue.at[A_FREE]
    queue.at[A_FREE] = entry
    queue.at[A_PENDING] -= 1
    queue.at[A_POPPED] += 1
    queue.waiting[ring] -= 1
    if rank % 2 == 0:
        batch, g0, g1 = _carried(plan, state, feed, what, slot)
        _arrive(plan, state.cells, queue, books, what, batch, g0, g1, tick)
    elif what == plan.misc[M_INPUT]:
        g0, g1 = feed.tick_group[tick], feed.tick_group[tick + 1]
        count = feed.batch.groups[g1, G_FIRST] - feed.batch.groups[g0, G_FIRST]
        books.events[what, tick, EVENTS] += count
        books.events[what, tick, EVENT_UNITS] += count
        if plan.pop[what, P_RECORD]:
            _log(plan, state.record, queue.at, what, tick, feed.batch, g0, g1, False)
        _announce(plan, state.cells, queue, books, what, tick, tick, feed.batch, g0, g1)
    elif not _turn(plan, state, what, tick):
        return RUNAWAY
    return RUNNING


@_entry
def run(plan, state, feed, ticks, policy, thresholds, scale, size, fresh):
    """Take a sample to its stop, its horizon, or until the record is full.

    fresh: start a new sample; else go on where the state stands. Returns STOPPED or HORIZON when the sample is done,
    FULL when recorded events must be fetched before it can go on (call again, not fresh), RUNAWAY when a neuron fired
    more than MAX_MULTIPLICITY times in one turn.
    """
    if fresh:
        _begin(plan, state, feed)
    queue, at = state.queue, state.queue.at
    watched = plan.pop[plan.misc[M_OUTPUT], P_RANK]
    while at[A_TICK] < ticks:
        tick = at[A_TICK]
        ring = tick % plan.misc[M_RING]
        if not at[A_BEGUN]:
            at[A_BEGUN] = 1
            if not feed.analog and feed.tick_group[tick + 1] > feed.tick_group[tick]:
                p = plan.misc[M_INPUT]
                _push_turn(queue, ring, plan.pop[p, P_RANK], p, tick)
        while at[A_RANK] < plan.misc[M_RANKS]:
            rank = at[A_RANK]
            while queue.buckets[ring, rank, HEAD] >= 0:
                status = _pop(plan, state, feed, ring, rank, tick)
                if status != RUNNING:
                    return status
            if rank == watched:
                _observe(plan, state.cells, state.books, tick)
                if should_stop(policy, thresholds[tick], scale, size, state.books.outputs[tick], at[A_SPENT]):
                    _left_in_flight(plan, state, feed)
                    return STOPPED
            at[A_RANK] += 1
            if queue.waiting[ring] == 0:
                if at[A_RANK] > watched:
                    break
                at[A_RANK] = watched  # nothing waits in this tick: straight to the watchdog
        at[A_RANK] = 0
        at[A_BEGUN] = 0
        at[A_TICK] += 1
    _left_in_flight(plan, state, feed)
    return HORIZON
