"""The account: int64 counts of spikes and synaptic operations, per sample, population, connection and tick.

What each count means is written in `docs/semantics.md`. Nothing here is a float, a rate or a mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from eventsnn.neurons import IF, LI, LIF, Integrator, Neuron, Synapse

KINDS = ("structural", "units", "effective", "effective_per_tick", "delivered", "dropped")
CLASSES = ("ac", "mac", "identity", "pool")
OPERATIONS = ("neuron_update", "neuron_update_clocked", "threshold_test", "reset", "decay", "decay_clocked", "bias")
Z_95 = 1.959963984540054  # 97.5 % of a normal distribution lies below


@dataclass(frozen=True, eq=False)
class Ledger:
    """Counts of one run. Ask by name; every answer is int64.

    populations, connections: names in the network's order; neurons, sizes: of the populations. tap_class: per
    connection, the class of its main taps. input_name: the input population. counted: "spikes", "connections" or
    "sources", how much was counted.
    events, units, updates, biases: (samples, populations, ticks). taps: (samples, connections, 2, ticks, 6), main and
    pool, by KINDS. left: (samples, connections, 2) in flight at the stop. sources: (samples, 2, neurons of all
    populations) events and units by the neuron that emitted them, channels first, or None.
    macs_input, macs_input_effective: (samples,). stop_time: (samples,) ticks begun. turns: (samples, populations) ticks
    in which a population had its turn: the stop time, less the deciding tick where it lies behind the output.
    """

    populations: tuple[str, ...]
    neurons: tuple[Neuron, ...]
    sizes: tuple[int, ...]
    connections: tuple[str, ...]
    tap_class: dict[str, str]
    input_name: str
    counted: str
    events: np.ndarray
    units: np.ndarray
    updates: np.ndarray
    biases: np.ndarray
    taps: np.ndarray
    left: np.ndarray
    sources: np.ndarray | None
    macs_input: np.ndarray
    macs_input_effective: np.ndarray
    stop_time: np.ndarray
    turns: np.ndarray

    def spikes(self, population: str | None = None) -> np.ndarray:
        """(samples,) events a population emitted; without a name, the spikes of all spiking populations."""
        if population is None:
            return self.events[:, [isinstance(neuron, IF) for neuron in self.neurons]].sum((1, 2))
        return self.spikes_by_tick(population).sum(1)

    def spikes_by_tick(self, population: str) -> np.ndarray:
        """(samples, ticks) events a population emitted."""
        return self.events[:, self._index(self.populations, population, "population")]

    def spike_units(self, population: str) -> np.ndarray:
        """(samples,) events counted with their multiplicity."""
        return self.units[:, self._index(self.populations, population, "population")].sum(1)

    def emitted(self, population: str, units: bool = False) -> np.ndarray:
        """(samples, neurons) events every neuron of a population emitted, channels first; needs count="sources".

        units: counted with their multiplicity.
        """
        index = self._index(self.populations, population, "population")
        if self.sources is None:
            raise ValueError(f"events of single neurons of {population!r} were not counted; run with count='sources'")
        first = sum(self.sizes[:index])
        return self.sources[:, int(units), first : first + self.sizes[index]]

    def operations(self, operation: str, population: str | None = None) -> np.ndarray:
        """(samples,) what the neurons of one population did; without a name, those of all.

        "neuron_update": neurons of a tick that something arrived at (a delivered tap, a bias, an image), that fired, or
        that made up a late reset; "neuron_update_clocked": every neuron in every tick. "threshold_test": one for each
        update of a spiking neuron and one more after each spike of a turn that may hold several. "reset": one for each
        spike, where the neuron has a reset. "decay": one for each update of a leaky neuron, however long it slept, and
        one more for each of its synaptic currents; "decay_clocked": as many for each of its ticks. "bias": constants
        other than 0 added, one a neuron and tick, whatever the number of connections they came from.
        """
        if operation not in OPERATIONS:
            raise ValueError(f"operation is {operation!r}, wanted one of {', '.join(OPERATIONS)}")
        if self.counted == "spikes":
            raise ValueError(f"{operation} was not counted; run with count='connections'")
        names = self.populations if population is None else (population,)
        return sum((self._operation(operation, name).sum(1) for name in names), np.zeros(len(self.events), np.int64))

    def operations_by_tick(self, operation: str, population: str) -> np.ndarray:
        """(samples, ticks) the same, of one population, at the tick in which it was done."""
        if operation not in OPERATIONS or self.counted == "spikes":
            self.operations(operation)  # which says what is wrong
        return self._operation(operation, population)

    def _operation(self, operation: str, population: str) -> np.ndarray:
        index = self._index(self.populations, population, "population")
        neuron, updates = self.neurons[index], self.updates[:, index]
        spiking = isinstance(neuron, IF)
        decaying = isinstance(neuron, LIF | LI) + (neuron.receptors if isinstance(neuron, Synapse) else 0)
        taken = np.arange(updates.shape[1]) < self.turns[:, index, None]  # turns of this population
        clocked = taken * np.int64(self.sizes[index])
        nothing = np.zeros_like(updates)
        if operation == "bias":
            return self.biases[:, index]
        if operation == "neuron_update":
            return updates
        if operation == "neuron_update_clocked":
            return clocked if spiking or isinstance(neuron, Integrator) else nothing
        if operation in ("decay", "decay_clocked"):
            return (updates if operation == "decay" else clocked) * decaying
        if not isinstance(neuron, IF):
            return nothing
        units = self.units[:, index]
        if operation == "threshold_test":
            return updates + (units if neuron.multi_spike else 0)
        if neuron.reset == "none":
            return nothing
        if neuron.reset_delay:  # made up in the next turn, if there was one
            made_up = np.zeros_like(units)
            made_up[:, 1:] = units[:, :-1]
            return made_up * taken
        return units

    def synops(self, connection: str | None = None, kind: str = "delivered") -> np.ndarray:
        """(samples,) taps of one connection; without a name, the SynOps (classes ac and mac) of all.

        kind: "structural", "units" (with the events' multiplicity), "effective", "effective_per_tick", "delivered",
        "dropped" or "in_flight". A connection without a weight operation answers with its identity or pool taps.
        """
        if connection is not None:
            return self._taps(connection, kind, 0)
        return self.by_class("ac", kind) + self.by_class("mac", kind)

    def by_class(self, tap_class: str, kind: str = "delivered") -> np.ndarray:
        """(samples,) taps of one class ("ac", "mac", "identity", "pool") over all connections."""
        if tap_class not in CLASSES:
            raise ValueError(f"tap class is {tap_class!r}, wanted one of {', '.join(CLASSES)}")
        total = np.zeros(len(self.events), np.int64)
        for name in self.connections:
            if self.tap_class[name] == tap_class:
                total += self._taps(name, kind, 0)
            if tap_class == "pool":
                total += self._taps(name, kind, 1)
        return total

    def pool_taps(self, connection: str, kind: str = "delivered") -> np.ndarray:
        """(samples,) pool taps beside a connection's weight operation."""
        return self._taps(connection, kind, 1)

    def synops_by_tick(self, connection: str, kind: str = "delivered") -> np.ndarray:
        """(samples, ticks) taps of one connection, at the tick of emission (structural, effective) or arrival."""
        return self.taps[:, self._index(self.connections, connection, "connection"), 0, :, self._kind(kind)]

    def pool_taps_by_tick(self, connection: str, kind: str = "delivered") -> np.ndarray:
        """(samples, ticks) pool taps beside a connection's weight operation."""
        return self.taps[:, self._index(self.connections, connection, "connection"), 1, :, self._kind(kind)]

    @property
    def input_events(self) -> np.ndarray:
        """(samples,) events fed in by event, rate or latency input."""
        return self.spikes(self.input_name)

    @property
    def macs_input_per_tick(self) -> np.ndarray:
        """(samples,) what the image would cost if its operation were computed anew in every tick."""
        return self.macs_input * self.stop_time

    def _taps(self, connection: str, kind: str, row: int) -> np.ndarray:
        index = self._index(self.connections, connection, "connection")
        if kind == "in_flight" and self.counted != "spikes":
            return self.left[:, index, row].copy()
        return self.taps[:, index, row, :, self._kind(kind)].sum(1)

    def _kind(self, kind: str) -> int:
        if self.counted == "spikes":
            raise ValueError("synaptic operations were not counted; run with count='connections'")
        if kind not in KINDS:
            raise ValueError(f"kind of count is {kind!r}, wanted one of {', '.join(KINDS)} (or in_flight, in totals)")
        return KINDS.index(kind)

    def _index(self, names: tuple[str, ...], name: str, what: str) -> int:
        if name not in names:
            raise ValueError(f"there is no {what} {name!r}; there are {', '.join(names)}")
        return names.index(name)


def wilson(correct: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a fraction, `correct` of `total` (Wilson, J. Am. Stat. Assoc. 22, 209, 1927).

    (p + z^2/2n -+ z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n). Never empty, never outside 0..1, also at 0 and 1.
    """
    p, square = correct / total, Z_95**2 / total
    middle = (p + square / 2) / (1 + square)
    half = Z_95 * math.sqrt(p * (1 - p) / total + square / (4 * total)) / (1 + square)
    return (0.0 if correct == 0 else middle - half, 1.0 if correct == total else middle + half)
