"""From a checked `Network` to the flat arrays the compiled loops read.

Every connection becomes a list of taps per source position: which target position, which weights, which coefficient.
Pools and other maps are composed into that list here, so the kernels know none of them. Populations are stored channels
last, because a convolution event adds whole rows of target channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy import sparse

from eventsnn import kernels_sync as k
from eventsnn.network import (
    AdaptivePool,
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
    Subsample,
    Taps,
    positions,
    spread,
)
from eventsnn.neurons import IF, LI, LIF, Gate, Input, Integrator, Parameter, Relay, Synapse

LINE = 64  # bytes
TILE = 256  # units a constant is repeated over, so that the fire pass runs in long vector loops


class Wiring(NamedTuple):
    """A plan and what is needed to size a state and to read its results."""

    plan: k.Plan
    units: int  # length of State.v
    registers: int
    currents: int
    extras: int
    touched: int
    marked: int
    stamps: int
    slots: int
    group_entries: int
    event_entries: int
    queue_entries: int
    potentials: dict[str, int]  # first column of each recorded population
    potential_columns: int
    tap_class: tuple[str, ...]  # per connection: ac, mac, identity, pool
    macs_input: int  # taps of one analog image on weights
    image_taps: np.ndarray  # (input size,) those of each unit whose weight is not zero, channels last
    synapse_delays: dict[
        int, np.ndarray
    ]  # by connection whose synapses have their own: ticks, in the order of its runs


def _receptors(population: Population) -> int:
    """How many inputs its neurons have."""
    return population.neuron.receptors if isinstance(population.neuron, Synapse) else 1


def channels_last(shape: Shape) -> np.ndarray:
    """(size,) int64: entry i is the channels-first index of channels-last unit i."""
    return np.arange(math.prod(shape)).reshape(shape[0], -1).T.ravel()


def by_unit(value: Parameter, shape: Shape) -> np.ndarray:
    """(size,) a parameter or bias of every unit, channels last."""
    return np.broadcast_to(spread(value, shape), shape).ravel()[channels_last(shape)]


def levels(neuron: IF, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray, Parameter]:
    """The threshold in `dtype`, the smallest membrane that fires, and the lower bound."""
    threshold = np.asarray(neuron.threshold, dtype)
    fire = threshold if neuron.comparator == "ge" else np.nextafter(threshold, dtype.type(np.inf))
    return threshold, fire, -np.inf if neuron.v_min is None else neuron.v_min


def wire(
    network: Network,
    ticks: int,
    dtype: np.dtype,
    record: Iterable[str],
    potentials: Iterable[str],
    clocked: bool = True,
) -> Wiring:
    """Flatten a network for runs of up to `ticks` ticks in `dtype`.

    record: populations whose events are recorded. potentials: populations whose membranes are recorded. clocked: make
    of a connection whose synapses have delays of their own a row of the plan for each delay, in whole ticks.
    """
    parts = [(j, part) for j, c in enumerate(network.connections) for part in (_by_delay(c) if clocked else (c,))]
    return _Builder(network, parts, ticks, dtype, set(record), set(potentials)).build()


def _by_delay(c: Connection) -> list[Connection]:
    """A connection as several, each with the synapses of one delay."""
    if not isinstance(c.op, Sparse) or c.op.delay is None:
        return [c]
    own = np.asarray(c.op.delay)
    found: list[Connection] = []
    row = np.repeat(np.arange(len(c.op.indptr) - 1), np.diff(c.op.indptr))
    for ticks in np.unique(own) if own.size else np.zeros(1):
        here = own == ticks
        ends = np.concatenate([[0], np.cumsum(np.bincount(row[here], minlength=len(c.op.indptr) - 1))])
        op = replace(c.op, indptr=ends, target=c.op.target[here], weight=c.op.weight[here], delay=None)
        first = not found  # of a bias or a table there is but one
        found.append(
            replace(
                c,
                op=op,
                delay=int(c.delay + ticks),
                bias=c.bias if first else None,
                shift=c.shift if first else None,
                delay_seconds=None,
            )
        )
    return found


def whole_microseconds(seconds: float) -> float:
    """Seconds as microseconds: 0.000123 s are 123, although 0.000123 * 1e6 is 123.00000000000001 in floating point."""
    found = seconds * 1e6
    whole = float(round(found))
    return whole if abs(found - whole) <= 1e-12 * whole else found


def placed(real: Pile, shape: Shape, value: Parameter) -> tuple[int, int]:
    """Where a parameter is kept, and how far apart two units' are. A flat array of all units is channels last."""
    value = np.asarray(value)
    if value.ndim == 0:
        return real.add(value), 0
    return real.add(value if value.shape == (math.prod(shape),) else by_unit(value, shape)), 1


def fan_out(network: Network, kind: str = "structural") -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Per connection: the taps of one event of each source unit, channels first (source size,); and the taps' class.

    kind: "structural", or "effective" for taps whose weight is not zero.
    """
    wiring = wire(network, 1, np.dtype(np.float32), (), (), clocked=False)
    found = {}
    for j, c in enumerate(network.connections):
        found[c.label] = np.empty(network[c.source].size, np.int64)
        found[c.label][channels_last(network[c.source].shape)] = _unit_taps(wiring.plan, j, kind)
    return found, {c.label: kind for c, kind in zip(network.connections, wiring.tap_class, strict=True)}


def _unit_taps(plan: k.Plan, j: int, kind: str) -> np.ndarray:
    """(source size,) taps of one event of each source unit of connection j, channels last, from the kernels' tables."""
    row = plan.con[j]
    source = plan.pop[row[k.C_SOURCE]]
    size, channels = source[k.P_SIZE], source[k.P_CHANNELS]
    if kind == "effective" and row[k.C_EFFECTIVE] >= 0:
        return plan.whole[row[k.C_EFFECTIVE] : row[k.C_EFFECTIVE] + size]
    if row[k.C_OP] == k.OP_SPARSE:
        return plan.whole[row[k.C_FAN] : row[k.C_FAN] + size]
    return np.repeat(plan.whole[row[k.C_FAN] : row[k.C_FAN] + size // channels], channels)


def aligned(size: int, dtype: np.dtype | type) -> np.ndarray:
    """Zeros that begin where a line of the cache does: a vector across two lines takes twice as long to fetch."""
    dtype = np.dtype(dtype)
    room = np.zeros(size + LINE // dtype.itemsize, dtype)
    begin = -room.ctypes.data % LINE // dtype.itemsize
    return room[begin : begin + size]


def _in_blocks(size: int) -> int:
    """A number of units rounded up, so that what comes behind them begins a block."""
    return -(-size // k.BLOCK) * k.BLOCK


class Pile:
    """Arrays laid end to end; of numbers those of a block and more begin at a block."""

    def __init__(self, dtype: np.dtype | type):
        self.parts: list[np.ndarray] = []
        self.size = 0
        self.dtype = np.dtype(dtype)

    def add(self, values: np.ndarray) -> int:
        """Append and return where the values begin."""
        part = np.ascontiguousarray(values, self.dtype).ravel()
        if self.dtype.kind == "f" and part.size >= k.BLOCK:
            self._append(np.zeros(_in_blocks(self.size) - self.size, self.dtype))
        self._append(part)
        return self.size - part.size

    def _append(self, part: np.ndarray) -> None:
        self.parts.append(part)
        self.size += part.size

    def array(self) -> np.ndarray:
        """Everything and one more zero, so that no array is empty."""
        whole = aligned(self.size + 1, self.dtype)
        np.concatenate([*self.parts, np.zeros(1, self.dtype)], out=whole)
        return whole


class _Builder:
    def __init__(
        self,
        network: Network,
        parts: list[tuple[int, Connection]],
        ticks: int,
        dtype: np.dtype,
        record: set[str],
        potentials: set[str],
    ):
        self.network, self.ticks, self.dtype = network, ticks, np.dtype(dtype)
        self.book, self.connections = [j for j, _ in parts], [c for _, c in parts]
        self.record, self.recorded_potentials = record, potentials
        self.number = {p.name: i for i, p in enumerate(network.populations)}
        self.depth = network.depths()
        self.pop = np.zeros((len(network.populations), k.P_COLUMNS), np.int64)
        self.con = np.zeros((len(parts), k.C_COLUMNS), np.int64)
        floating = self.dtype.type
        self.real, self.whole, self.runs = Pile(floating), Pile(np.int64), Pile(np.int32)
        self.currents = self.extras = self.lasting = self.touched = self.marked = self.stamps = 0
        self.claimed: dict[int, int] = {}  # register entries by depth
        self.synapse_delays: dict[int, np.ndarray] = {}
        self.whole_positions = np.zeros(len(parts), bool)  # an event reaches all channels or none

    def build(self) -> Wiring:
        network, connections = self.network, self.connections
        units = slots = group_entries = event_entries = columns = 0
        potentials = {}
        for i, population in enumerate(network.populations):
            row = self.pop[i]
            outgoing = [j for j, c in enumerate(connections) if c.source == population.name]
            row[k.P_UNIT], row[k.P_SIZE], row[k.P_CHANNELS] = units, population.size, population.shape[0]
            units += _in_blocks(population.size)  # masks are read eight units at a time, membranes by blocks
            row[k.P_RANK] = 2 * self.depth[population.name] + 1
            row[k.P_REGISTER] = self._claim(population)
            row[k.P_FIRST_OUT] = self.whole.add(np.array(outgoing))
            row[k.P_LAST_OUT] = self.whole.size
            slot_count = max((int(connections[j].delay) for j in outgoing), default=0) + 1
            row[k.P_SLOTS], row[k.P_FIRST_SLOT] = slot_count, slots
            row[k.P_SLOT_GROUP], row[k.P_SLOT_EVENT] = group_entries, event_entries
            if not isinstance(population.neuron, Input):
                slots += slot_count
                group_entries += slot_count * (positions(population.shape) + 1)
                event_entries += slot_count * (population.size + k.PACK_SLACK)
            row[k.P_RECORD] = population.name in self.record
            row[k.P_POTENTIAL] = -1
            if population.name in self.recorded_potentials:
                row[k.P_POTENTIAL], potentials[population.name] = columns, columns
                columns += population.size
            self._neuron(row, population)
        classes = [self._connection(j, c) for j, c in enumerate(connections)]
        shared = max(self.claimed.values())
        self.con[self.con[:, k.C_ANALOG] != 0, k.C_REGISTER] += shared
        for i, population in enumerate(network.populations):
            own = [
                j
                for j, c in enumerate(connections)
                if c.target == population.name and (self.con[j, k.C_SCALE] >= 0 or self.con[j, k.C_ANALOG])
            ]
            self.pop[i, k.P_FIRST_IN] = self.whole.add(np.array(own))
            self.pop[i, k.P_LAST_IN] = self.whole.size
            self._marks(self.pop[i], population, self._constant(self.pop[i], population))
        delays = [int(c.delay) for c in connections]
        misc = np.zeros(k.M_COLUMNS, np.int64)
        misc[k.M_RANKS] = self.pop[:, k.P_RANK].max() + 1
        misc[k.M_RING] = max([1, *delays]) + 1
        misc[k.M_OUTPUT], misc[k.M_INPUT] = self.number[network.output], self.number[network.input.name]
        plan = k.Plan(
            pop=self.pop,
            con=self.con,
            misc=misc,
            whole=self.whole.array(),
            runs=self.runs.array()[:-1].reshape(-1, 3),
            real=self.real.array(),
        )
        images = [j for j, kind in enumerate(classes) if self.con[j, k.C_ANALOG] and kind in ("ac", "mac")]
        return Wiring(
            plan=plan,
            units=units,
            registers=shared + self.lasting,
            currents=self.currents,
            extras=self.extras,
            touched=self.touched,
            marked=self.marked,
            stamps=self.stamps,
            slots=slots,
            group_entries=group_entries,
            event_entries=event_entries,
            queue_entries=sum(delays) + len(delays) + 2 * len(network.populations) + 1,
            potentials=potentials,
            potential_columns=columns,
            tap_class=tuple(classes[self.book.index(j)] for j in range(len(network.connections))),
            macs_input=sum(int(_unit_taps(plan, j, "structural").sum()) for j in images),
            synapse_delays=self.synapse_delays,
            image_taps=sum((_unit_taps(plan, j, "effective") for j in images), np.zeros(network.input.size, np.int64)),
        )

    def _claim(self, target: Population) -> int:
        """Room for the input of one tick.

        Whatever reaches a population in a tick is delivered at the rank just before its turn, which empties it again.
        So populations of different depth share one piece of memory, which stays in the processor's nearest cache.
        """
        depth = self.depth[target.name]
        start = self.claimed.get(depth, 0)
        self.claimed[depth] = start + _in_blocks(target.size * _receptors(target))
        return start

    # ---------------------------------------------------------------------------------------------- populations

    def _neuron(self, row: np.ndarray, population: Population) -> None:
        neuron = population.neuron
        row[k.P_EXTRA] = -1
        if isinstance(neuron, Input):
            row[k.P_KIND] = k.KIND_INPUT
        elif isinstance(neuron, LI):
            self._dynamic(row, population, neuron)
        elif isinstance(neuron, Integrator):
            row[k.P_KIND] = k.KIND_INTEGRATOR
        elif isinstance(neuron, Gate):
            row[k.P_KIND] = k.KIND_GATE
        elif isinstance(neuron, Relay):
            row[k.P_KIND], row[k.P_FLAGS] = k.KIND_RELAY, k.FLAG_GRADED
            row[k.P_EXTRA], self.extras = self.extras, self.extras + population.size
        elif isinstance(neuron, IF):
            self._dynamic(row, population, neuron)
        if isinstance(neuron, IF | Integrator) and row[k.P_POTENTIAL] >= 0:
            row[k.P_DRIVEN] = 1  # a membrane is recorded every tick

    def _dynamic(self, row: np.ndarray, population: Population, cell: IF | LI) -> None:
        leaky = cell if isinstance(cell, LIF | LI) else None
        # a leaky readout is a neuron with a threshold that is never reached
        neuron = cell if isinstance(cell, IF) else IF(threshold=np.inf, reset="none", v0=cell.v0, gain=cell.gain)
        threshold, fire, floor = levels(neuron, self.dtype)
        alpha, rest = (leaky.alpha, leaky.rest) if leaky else (1.0, 0.0)
        flags = (
            (k.FLAG_HARD if neuron.reset == "value" else 0)
            | (k.FLAG_NO_RESET if neuron.reset == "none" else 0)
            | (k.FLAG_MULTI | k.FLAG_GRADED if neuron.multi_spike else 0)
            | (k.FLAG_LATE_RESET if neuron.reset_delay and neuron.reset != "none" else 0)
            | (k.FLAG_LEAKS if leaky else 0)
            | (k.FLAG_LEAK_AFTER if isinstance(cell, LIF) and cell.leak == "after" else 0)
            | (k.FLAG_HOLD if neuron.holds else 0)
            | (k.FLAG_READOUT if isinstance(cell, LI) else 0)
            | (k.FLAG_DISCARD if neuron.discards else 0)
            | (k.FLAG_FLOOR if neuron.v_min is not None else 0)
        )
        subtract, value = neuron.subtracts, neuron.reset_value
        one_set = all(np.ndim(x) == 0 for x in (threshold, subtract, value, neuron.v0, neuron.gain, alpha))
        unusual = k.FLAG_LATE_RESET | k.FLAG_LEAK_AFTER | k.FLAG_READOUT
        if population.shape[0] % k.HALF or neuron.reset != "subtract":
            unusual |= k.FLAG_MULTI | k.FLAG_FLOOR  # only blocks know them
        plain = neuron.refractory == 0 and not np.any(rest) and not isinstance(cell, Synapse)
        fast = one_set and np.ndim(floor) == 0 and not flags & unusual and plain
        if fast:  # u <- keep u - less
            value, subtract = {
                "subtract": (1.0, subtract),
                "value": (0.0, -np.asarray(value)),
                "none": (1.0, 0.0),
            }[neuron.reset]
        row[k.P_KIND] = k.KIND_FAST if fast else k.KIND_GENERAL
        row[k.P_FLAGS], row[k.P_REFRACTORY] = flags, min(neuron.refractory, k.FOREVER)
        if not fast:
            row[k.P_EXTRA], self.extras = self.extras, self.extras + population.size
        parameters = (alpha, rest, neuron.gain, fire, subtract, value, floor, neuron.v0, threshold)
        row[k.Q_ALPHA : k.Q_CURRENT] = [n for x in parameters for n in placed(self.real, population.shape, x)]
        if isinstance(cell, Synapse):
            row[k.P_RECEPTORS], row[k.P_CURRENT] = cell.receptors, self.currents
            self.currents += cell.receptors * population.size
            for r in range(cell.receptors):
                one, column = cell.current(r), k.Q_CURRENT + k.SYN_COLUMNS * r
                values = (one.alpha_syn, one.gain_syn, one.gain_old, one.i0)
                row[column : column + k.SYN_COLUMNS] = [
                    n for x in values for n in placed(self.real, population.shape, x)
                ]
        # Silent ticks may be made up later only if nothing can happen in them: without input a membrane must stay
        # below threshold and above its bound. Decay towards 0 does; towards another rest, rounding may not.
        spontaneous = [
            leaky is not None and (np.any(rest) or np.any(fire <= 0)),
            np.any(spread(floor, population.shape) >= spread(fire, population.shape)),
            np.any(spread(neuron.v0, population.shape) < spread(floor, population.shape)),
            leaky is not None and population.name == self.network.output,  # its membranes break ties, every tick
        ]
        if any(spontaneous):
            row[k.P_DRIVEN] = 1

    def _constant(self, row: np.ndarray, population: Population) -> bool:
        """Sum the biases and shifts that flow into a population, once for every tick that differs.

        Returns whether every unit gets a constant other than 0 in every tick.
        """
        shape, size, channels = population.shape, population.size, population.shape[0]
        incoming = [c for c in self.connections if c.target == population.name]
        biases = [c.bias for c in incoming if c.bias is not None]
        shifts = [c.shift for c in incoming if c.shift is not None]
        row[k.P_CONST], row[k.P_CONST_LENGTH] = -1, size
        images = any(self.con[j, k.C_ANALOG] for j, c in enumerate(self.connections) if c.target == population.name)
        if images:
            row[k.P_DRIVEN] = 1
        if isinstance(population.neuron, Gate) and population.neuron.level:
            # a gate forwards what is above 0; for this constant alone it takes no turn
            row[k.P_CONST], row[k.P_CONST_LENGTH] = self.real.add(np.array([-population.neuron.level])), 1
        if not biases and not shifts:
            return False
        per_unit = any(b.shape == shape and len(shape) > 1 for b in biases)
        length = size if per_unit else min(size, channels * max(1, TILE // channels))
        total = np.zeros((self.ticks if shifts else 1, length))
        for bias in biases:
            if per_unit:
                total += by_unit(bias, shape)
            else:
                total += np.resize(np.asarray(bias, np.float64), length)
        for shift in shifts:
            total += np.resize(np.asarray(shift[: self.ticks], np.float64), (self.ticks, channels))[
                :, np.arange(length) % channels
            ]
        if isinstance(population.neuron, Relay) or np.any(total):
            row[k.P_DRIVEN] = 1
            row[k.P_CONST], row[k.P_CONST_LENGTH] = self.real.add(total), length
            row[k.P_CONST_STRIDE] = length if shifts else 0
            present = total.astype(self.dtype)[:, np.arange(size) % length] != 0
            counts = present.sum(1)
            row[k.P_CONST_UNITS] = self.whole.add(counts)
            return bool(np.all(counts == size))
        return False

    def _marks(self, row: np.ndarray, population: Population, constant: bool) -> None:
        """How the account learns which neurons of a population were updated in a tick."""
        incoming = [j for j, c in enumerate(self.connections) if c.target == population.name]
        images = [int(self.con[j, k.C_DELAY]) for j in incoming if self.con[j, k.C_ANALOG]]
        row[k.P_IMAGE_FROM], row[k.P_TOUCH], row[k.P_TOUCH_WHOLE] = min(images, default=k.NEVER), -1, 0
        if row[k.P_KIND] not in (k.KIND_FAST, k.KIND_GENERAL, k.KIND_INTEGRATOR):
            return
        if constant or row[k.P_IMAGE_FROM] == 0:
            return  # every neuron, every tick, unless it is refractory
        arriving = [j for j in incoming if not self.con[j, k.C_ANALOG]]
        if row[k.P_KIND] != k.KIND_GENERAL and all(self.whole_positions[j] for j in arriving):
            row[k.P_TOUCH_WHOLE], row[k.P_TOUCH] = -(-(2**32) // population.shape[0]), self.marked
            self.marked += positions(population.shape) // 64 + 2
        else:
            row[k.P_TOUCH], self.touched = self.touched, self.touched + population.size
        steady = row[k.P_CONST] >= 0 or row[k.P_DRIVEN] or row[k.P_IMAGE_FROM] != k.NEVER
        changing = row[k.P_FLAGS] & k.FLAG_LEAKS or row[k.P_FIRST_IN] < row[k.P_LAST_IN]
        row[k.P_SELDOM] = row[k.P_TOUCH_WHOLE] > 0 and not steady and not changing

    # ---------------------------------------------------------------------------------------------- connections

    def _connection(self, j: int, c: Connection) -> str:
        network, row = self.network, self.con[j]
        source, target = network[c.source], network[c.target]
        row[k.C_SOURCE], row[k.C_TARGET] = self.number[c.source], self.number[c.target]
        row[k.C_DELAY], row[k.C_EFFECTIVE], row[k.C_POOL_FAN], row[k.C_SCALE] = c.delay, -1, -1, -1
        row[k.C_COEFFICIENT], row[k.C_REACH], row[k.C_CHANNELS_OUT] = -1, k.REACH_ONCE, target.shape[0]
        row[k.C_ANALOG] = isinstance(source.neuron, Input) and network.encoding == "direct"
        row[k.C_TOUCH] = isinstance(target.neuron, Relay)
        row[k.C_CAREFUL] = isinstance(target.neuron, IF) and target.neuron.discards and not row[k.C_ANALOG]
        row[k.C_REGISTER] = self.pop[row[k.C_TARGET], k.P_REGISTER] + (c.receptor or 0) * target.size
        row[k.C_BOOK], row[k.C_RECEPTOR] = self.book[j], c.receptor or 0
        if c.scale is not None:
            row[k.C_SCALE] = self.real.add(c.scale[: self.ticks])
        if row[k.C_ANALOG]:
            row[k.C_REGISTER], self.lasting = self.lasting, self.lasting + _in_blocks(target.size)
        elif c.scale is not None:
            row[k.C_REGISTER] = self._claim(target)
        pools = any(isinstance(m, Pool | AdaptivePool) for m in (*c.before, *c.after))
        if isinstance(c.op, Identity) and not any(isinstance(m, Flatten) for m in c.before):
            self._units(row, c, source)
            differs, kind = False, "pool" if pools else "identity"
        elif isinstance(c.op, Identity | Sparse):
            differs = self._sparse(j, c, source, target)
            kind = ("pool" if pools else "identity") if isinstance(c.op, Identity) else "ac"
        else:
            differs = self._runs(j, c, source)
            kind = "ac"
        multiple = isinstance(source.neuron, IF) and source.neuron.multi_spike
        special = row[k.C_CAREFUL] or row[k.C_BY_TABLE] or row[k.C_OP] == k.OP_SPARSE
        listed = row[k.C_EFFECTIVE] >= 0 or row[k.C_POOL_FAN] >= 0 or row[k.C_REACH] != k.REACH_ONCE
        row[k.C_PLAIN] = not (multiple or special or listed)
        if kind == "ac":
            row[k.C_SYNOPS] = not row[k.C_ANALOG]
            if network.graded(c.source) or differs:
                return "mac"
        return kind

    def _units(self, row: np.ndarray, c: Connection, source: Population) -> None:
        """Identity and pooling: position to position, one weight per channel."""
        before = _compose(c.before, source.shape)
        after = _compose(c.after, before.shape)
        chain = _join(before.taps, after.taps)
        weight = np.broadcast_to(np.asarray(c.op.weight, np.float64), (before.shape[0],))
        weight = weight[before.channel_shift : before.channel_shift + source.shape[0]]
        common = _common(chain.coefficient)
        row[k.C_OP], row[k.C_CHANNEL_SHIFT] = k.OP_UNITS, before.channel_shift + after.channel_shift
        if common is None:
            row[k.C_COEFFICIENT] = self.real.add(chain.coefficient)
        row[k.C_WEIGHT] = self.real.add(weight if common is None else weight * common)
        fan = np.bincount(chain.source, minlength=positions(source.shape))
        self._pointers(row, fan, chain.target)
        every = np.arange(positions(source.shape))
        itself = before.shape == after.shape == source.shape and all(np.array_equal(a, every) for a in chain[:2])
        origin = self.pop[row[k.C_SOURCE]]
        if itself and origin[k.P_KIND] == k.KIND_FAST and origin[k.P_CHANNELS] % k.HALF == 0:
            row[k.C_SAME] = origin[k.P_LISTED] = 1
        row[k.C_FAN] = self.whole.add(fan)
        if np.any(weight == 0):
            row[k.C_EFFECTIVE] = self.whole.add(fan[:, None] * (weight != 0))

    def _runs(self, j: int, c: Connection, source: Population) -> bool:
        """Convolution or dense weights as runs of neighbouring target units. Returns whether a pool is uneven."""
        row = self.con[j]
        before = _compose(c.before, source.shape)
        rows, shape, taps, slots, groups = _weight_taps(c.op, before)
        paths = sparse.coo_array(
            (np.ones(slots.size, np.int64), (taps.source, slots)), shape=(positions(before.grid), rows.shape[1])
        ).tocsr()
        inner = paths @ np.count_nonzero(rows, axis=2).T.astype(np.int64)
        self._reach(row, source, before, inner, by_unit=False)
        rows = rows[before.channel_shift : before.channel_shift + source.shape[0]]  # silent channels have no events
        out = rows.shape[2]
        row[k.C_OP], row[k.C_ROW] = k.OP_RUNS, rows.shape[1] * out
        row[k.C_GROUP_IN], row[k.C_GROUP_OUT] = before.shape[0] // groups if groups > 1 else 0, out
        row[k.C_CHANNEL_SHIFT] = before.channel_shift
        # main: source position -> position of the operation's result, with the weight slot carried along
        main, slot = _join_labelled(before.taps, taps, slots)
        after = _compose(c.after, shape)
        final, final_slot = _join_labelled(main, after.taps, slot, carry_first=True)
        common = _common(final.coefficient)
        whole = self.whole_positions[j] = groups == 1 and out == after.shape[0]
        start, first, length, coefficient, counts = _merge(
            final, final_slot, out, after.shape[0], positions(source.shape), whole
        )
        start = start + after.channel_shift
        self.whole_positions[j] &= length.max(initial=0) < 64 * out  # a run is marked in two words at most
        row[k.C_WEIGHT] = self.real.add(rows if common is None else rows * common)
        if common is None:
            row[k.C_COEFFICIENT] = self.real.add(coefficient)
        self._pointers(row, counts, start, first, length)
        row[k.C_ALIKE] = self.whole.add(_alike(counts, length))
        source_positions = positions(source.shape)
        fan = np.bincount(main.source, minlength=source_positions) * out
        row[k.C_FAN] = self.whole.add(fan)
        if np.any(rows == 0):
            reached = sparse.coo_array(
                (np.ones(before.taps.source.size, np.int64), (before.taps.source, before.taps.target)),
                shape=(source_positions, len(inner)),
            ).tocsr()
            channels = slice(before.channel_shift, before.channel_shift + source.shape[0])
            row[k.C_EFFECTIVE] = self.whole.add(reached @ inner[:, channels])
        pool = before.forwarded.copy()
        if any(isinstance(m, Pool | AdaptivePool) for m in c.after):
            np.add.at(pool, main.source, after.forwarded[main.target] * out)
        if pool.any():
            row[k.C_POOL_FAN] = self.whole.add(pool)
        row[k.C_BY_TABLE] = bool(c.after)
        return before.uneven

    def _reach(self, row: np.ndarray, source: Population, before: _Chain, inner: np.ndarray, by_unit: bool) -> None:
        """List which units before the weight an event reaches, where several events can reach one in a tick.

        inner: (positions, channels) taps of non-zero weight of every unit before the weight. by_unit: the connection's
        fan-out is stored by unit, not by position.
        """
        shared = np.bincount(before.taps.target).max(initial=0) > 1
        forwarded = isinstance(source.neuron, Input | Relay)  # a pixel can fire twice in a tick, a relay with value 0
        if row[k.C_ANALOG] or not (shared or forwarded):
            return
        row[k.C_STAMP], row[k.C_INNER_CHANNELS], self.stamps = self.stamps, inner.shape[1], self.stamps + inner.size
        row[k.C_CHANNEL_SHIFT] = before.channel_shift
        every = np.arange(positions(source.shape))
        itself = before.grid == source.shape and all(np.array_equal(a, every) for a in before.taps[:2])
        if itself and not by_unit:
            row[k.C_REACH] = k.REACH_ITSELF
            return
        counts = np.bincount(before.taps.source, minlength=positions(source.shape))
        order = np.argsort(before.taps.source, kind="stable")
        base = self.whole.add(before.taps.target[order])
        row[k.C_REACH] = self.whole.add(base + np.concatenate([[0], np.cumsum(counts)]))
        row[k.C_INNER] = self.whole.add(inner)

    def _sparse(self, j: int, c: Connection, source: Population, target: Population) -> bool:
        """A list of synapses per source unit, from a `Sparse` operation or an identity behind `Flatten`.

        Those with delays of their own are sorted by them, so that a spike meets them in time.
        """
        row = self.con[j]
        before = _compose(c.before, source.shape)
        if isinstance(c.op, Sparse):
            shape, weight, ends = c.op.shape, np.asarray(c.op.weight, np.float64), c.op.target
            inner = Taps(np.repeat(np.arange(len(c.op.indptr) - 1), np.diff(c.op.indptr)), ends, np.ones(ends.size))
            present = np.bincount(inner.source[weight != 0], minlength=len(c.op.indptr) - 1)
            self._reach(row, source, before, present.reshape(before.grid[0], -1).T, by_unit=True)
        else:
            shape, every = before.shape, np.arange(math.prod(before.shape))
            weight = np.broadcast_to(np.asarray(c.op.weight, np.float64), every.shape)
            inner = Taps(every, every, np.ones(every.size))
        # units, channels last, to units of the operation's source, channels first
        channels, spatial = source.shape[0], positions(before.grid)
        path = np.repeat(np.arange(before.taps.source.size), channels)
        channel = np.tile(np.arange(channels), before.taps.source.size)
        reach = Taps(
            before.taps.source[path] * channels + channel,
            (channel + before.channel_shift) * spatial + before.taps.target[path],
            before.taps.coefficient[path],
        )
        order = np.argsort(reach.source, kind="stable")
        main, synapse = _join_labelled(Taps(*(a[order] for a in reach)), inner, np.arange(inner.source.size))
        # and on through the maps behind the operation
        after = _compose(c.after, shape)
        width = positions(shape)
        behind, which = _join_labelled(
            Taps(np.arange(main.source.size), main.target % width, main.coefficient),
            after.taps,
            np.arange(main.source.size),
            carry_first=True,
        )
        if isinstance(c.op, Sparse) and c.op.delay is not None:
            own = np.asarray(c.op.delay, np.float64)[synapse[which]]
            order = np.lexsort((own, main.source[which]))
            self.synapse_delays[j], which = own[order], which[order]
            behind = Taps(*(a[order] for a in behind))
        ends = (main.target[which] // width + after.channel_shift) * positions(after.shape) + behind.target
        common = _common(behind.coefficient)
        amounts = weight[synapse[which]]
        row[k.C_OP], row[k.C_BY_TABLE] = k.OP_SPARSE, bool(c.after)
        row[k.C_WEIGHT] = self.real.add(amounts if common is None else amounts * common)
        if common is None:
            row[k.C_COEFFICIENT] = self.real.add(behind.coefficient)
        counts = np.bincount(main.source[which], minlength=source.size)
        self._pointers(row, counts, np.argsort(channels_last(target.shape))[ends])
        row[k.C_FAN] = self.whole.add(np.bincount(main.source, minlength=source.size))
        if np.any(weight == 0):
            row[k.C_EFFECTIVE] = self.whole.add(np.bincount(main.source[weight[synapse] != 0], minlength=source.size))
        pool = np.repeat(before.forwarded, channels)
        if any(isinstance(m, Pool | AdaptivePool) for m in c.after):
            np.add.at(pool, main.source, after.forwarded[main.target % width])
        if pool.any() and isinstance(c.op, Sparse):
            row[k.C_POOL_FAN] = self.whole.add(pool)
        return before.uneven

    def _pointers(
        self,
        row: np.ndarray,
        counts: np.ndarray,
        targets: np.ndarray,
        first: np.ndarray | int = 0,
        length: np.ndarray | int = 1,
    ) -> None:
        """Store a list of runs and, for every source position (or unit), where its part begins."""
        runs = np.empty((len(targets), 3), np.int64)
        runs[:, k.R_TARGET], runs[:, k.R_FIRST], runs[:, k.R_LENGTH] = targets, first, length
        base = self.runs.size // 3
        row[k.C_POINTER] = self.whole.add(base + np.concatenate([[0], np.cumsum(counts)]))
        self.runs.add(runs)


def _alike(counts: np.ndarray, length: np.ndarray) -> np.ndarray:
    """What C_ALIKE says of every source position. counts: runs of each; length: of every run."""
    found = np.zeros(len(counts), np.int64)
    begin = np.cumsum(counts) - counts
    for few in (2, 3):
        places = np.flatnonzero(counts == few)
        own = length[begin[places, None] + np.arange(few)]
        same = np.all(own == own[:, :1], axis=1)
        by_48, by_32 = own[:, 0] * (own[:, 0] % 48 == 0), -own[:, 0] * (own[:, 0] % 32 == 0)
        found[places] = same * np.where(by_48 > 0, by_48, by_32)
    return found


# ---------------------------------------------------------------------------------------------------- tap lists


class _Chain(NamedTuple):
    taps: Taps  # from source position to the last grid's position, every path kept apart
    shape: Shape  # after the last map; flattened if that is what the last map does
    grid: Shape  # the same before flattening
    channel_shift: int
    forwarded: np.ndarray  # per source position: events that pools forward for one event
    uneven: bool  # whether a pool among them has coefficients that differ


def _compose(maps: tuple[AddressMap, ...], shape: Shape) -> _Chain:
    every = np.arange(positions(shape))
    taps, grid, shift = Taps(every, every, np.ones(every.size)), shape, 0
    forwarded, uneven = np.zeros(every.size, np.int64), False
    for step in maps:
        if isinstance(step, Flatten):
            return _Chain(taps, step.out_shape(grid), grid, shift, forwarded, uneven)
        own = step.taps(grid)
        taps, grid = _join(taps, own), step.out_shape(grid)
        uneven |= _common(own.coefficient) is None
        if isinstance(step, Subsample):
            shift += step.channels[0]
        else:
            forwarded += np.bincount(taps.source, minlength=every.size)
    return _Chain(taps, grid, grid, shift, forwarded, uneven)


def _join(first: Taps, second: Taps) -> Taps:
    """All paths source -> middle -> target, kept apart, ordered by the first list."""
    taps, _ = _join_labelled(first, second, np.zeros(second.source.size, np.int64))
    return taps


def _join_labelled(first: Taps, second: Taps, label: np.ndarray, carry_first: bool = False) -> tuple[Taps, np.ndarray]:
    """`_join`, handing on a label of the second list's taps, or of the first's."""
    order = np.argsort(second.source, kind="stable")
    sorted_source = second.source[order]
    lo = np.searchsorted(sorted_source, first.target, "left")
    count = np.searchsorted(sorted_source, first.target, "right") - lo
    one = np.repeat(np.arange(first.source.size), count)
    offset = np.arange(one.size) - np.repeat(np.cumsum(count) - count, count)
    two = order[lo[one] + offset]
    taps = Taps(first.source[one], second.target[two], first.coefficient[one] * second.coefficient[two])
    return taps, label[one if carry_first else two]


def _common(coefficient: np.ndarray) -> float | None:
    """The one value all coefficients have, or None."""
    if coefficient.size == 0:
        return 1.0
    return float(coefficient[0]) if np.all(coefficient == coefficient[0]) else None


def _weight_taps(op: Operation, before: _Chain) -> tuple[np.ndarray, Shape, Taps, np.ndarray, int]:
    """Weights as (source channels, slots, target channels) and the taps (position, result position, slot)."""
    if isinstance(op, Dense):
        grid = before.grid
        spatial = positions(grid)
        rows = op.weight.astype(np.float64).reshape(-1, grid[0], spatial).transpose(1, 2, 0)
        every = np.arange(spatial)
        taps = Taps(every, np.zeros(spatial, np.int64), np.ones(spatial))
        return rows, (op.weight.shape[0],), taps, every, 1
    assert isinstance(op, Conv)
    shape = op.out_shape(before.shape)
    kernel = op.weight.shape[2:]
    source = target = np.zeros(1, np.int64)
    index: list[np.ndarray] = []
    for size, result, n, s, (pad, _), d in zip(
        before.shape[1:], shape[1:], kernel, op.stride, op.padding, op.dilation, strict=True
    ):
        o, tap = (a.ravel() for a in np.meshgrid(np.arange(result), np.arange(n), indexing="ij"))
        i = o * s - pad + tap * d
        inside = (i >= 0) & (i < size)
        o, tap, i = o[inside], tap[inside], i[inside]
        source = (source[:, None] * size + i).ravel()
        target = (target[:, None] * result + o).ravel()
        index = [np.repeat(a, o.size) for a in index] + [np.tile(tap, target.size // max(o.size, 1))]
    # Columns of the kernel in the order in which they reach rising target columns: flipped, and apart by stride.
    width, s, d = kernel[-1], op.stride[-1], op.dilation[-1]
    columns = np.lexsort((-np.arange(width), np.arange(width) * d % s))
    rank = np.argsort(columns)
    slot = rank[index[-1]]
    if len(index) == 2:
        slot = index[0] * width + slot
    weight = op.weight.astype(np.float64)[..., columns]
    grouped = weight.reshape(op.groups, shape[0] // op.groups, weight.shape[1], -1).transpose(0, 2, 3, 1)
    rows = grouped.reshape(before.shape[0], -1, shape[0] // op.groups)
    return rows, shape, Taps(source, target, np.ones(source.size)), slot, op.groups


def _merge(
    taps: Taps, slot: np.ndarray, out: int, target_channels: int, source_positions: int, whole: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Join taps that are neighbours in target and weights into runs.

    Returns (first target unit, first weight, units, coefficient) per run and the number of runs per source position.
    whole: a tap reaches all channels of its target position, so that neighbouring positions are neighbouring units.
    """
    order = np.lexsort((slot, taps.source))
    source, target, slot, coefficient = (a[order] for a in (taps.source, taps.target, slot, taps.coefficient))
    starts = np.ones(source.size, bool)
    if whole and source.size:
        starts[1:] = (
            (np.diff(source) != 0) | (np.diff(target) != 1) | (np.diff(slot) != 1) | (np.diff(coefficient) != 0)
        )
    begin = np.flatnonzero(starts)
    length = np.diff(np.append(begin, source.size)) * out
    counts = np.bincount(source[begin], minlength=source_positions)
    return target[begin] * target_channels, slot[begin] * out, length, coefficient[begin], counts
