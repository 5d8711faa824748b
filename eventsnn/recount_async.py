"""The account of a run in continuous time, recounted from its events: see `recount`, whose steps and sums it uses.

Which neuron was reached when is known from where events went and how long they took; membranes are not simulated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from scipy import sparse

from eventsnn.network import Network, Population
from eventsnn.neurons import IF, LI, Input, Integrator, Synapse
from eventsnn.recount import (
    CELLS,
    CLASSES,
    KINDS,
    Account,
    Books,
    Clock,
    Late,
    Route,
    cut_samples,
    decaying,
    disorder,
    fires_repeatedly,
    in_microseconds,
    microseconds_of,
    multiplicities,
    orders,
    sparse_table,
)

# What is not known where a spike may have come between arrivals of its instant, and what where earlier events arrive.
PARTED = {"delivered", "dropped", "synops", *CLASSES}
EARLIER = PARTED | {"in_flight", "pool_taps", "pool_in_flight", "neuron_update", "threshold_test", "decay"}


class _Spikes(NamedTuple):
    """The events of a population; time in microseconds."""

    sample: np.ndarray
    neuron: np.ndarray
    time: np.ndarray


class _Visits(NamedTuple):
    """What came through a connection: its moments, sample + i microseconds, and the neurons that sent it.

    fan, tables: of the neurons, taps of each and the product that leads to the targets. Where synapses have delays of
    their own, they are the neurons.
    """

    route: Route
    moment: np.ndarray
    neuron: np.ndarray
    fan: np.ndarray
    tables: list[sparse.csr_array]


class TimedAccount(Account):
    """An account by bins, in which every instant that something reaches a population is a tick of its own.

    Moments are complex numbers, the number of a sample (or of one of its neurons) + i microseconds: these sort by
    number, then by time. stop: (samples,) microseconds. delays: by connection.
    """

    def _ticks(self) -> tuple[np.ndarray, np.ndarray]:
        network, books, clock = self.network, self.books, self.books.clock
        assert clock is not None
        self.clock, self.order, self.is_cut = clock, orders(network), cut_samples(books)
        self.delays = [
            c.delay * clock.tick if c.delay_seconds is None else in_microseconds(c.delay_seconds)
            for c in network.connections
        ]
        if clock.start:
            self.hidden |= EARLIER
            self.unknown.append(
                "what was delivered, or lost, or updated, and outputs: events came from before its start"
            )
        elif clock.is_serial and any(isinstance(p.neuron, IF) and p.neuron.discards for p in network.populations):
            self.hidden |= PARTED
            self.unknown.append("what was delivered and what dropped: spikes came between the events of their instant")
        self.time, self.stop = self._moments()
        begun = np.where(self.is_cut, clock.bins(self.stop, books.ticks) + 1, clock.count)
        return clock.bins(self.time, books.ticks), begun

    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        """The microseconds of events and ends. Files have them divided by 1e6, which makes one number of some two.

        It is the one of them that is a delay after another event; else that which others are a delay after; else the
        whole one; and each of them once where events are of both.
        """
        events, stops, populations = self.books.events, self.books.trace["stop_time"], self.network.populations
        later = of_later(self.network, self.books)
        stop = np.arange(len(stops)) + 1j * stops
        both = np.unique((events["sample"] + 1j * events["time"])[later])
        # half a sample more: of the later of two; a run is cut in the later of them
        said = np.concatenate([events["sample"] + later / 2 + 1j * events["time"], stop + np.isin(stop, both) / 2])
        moments, instant = np.unique(said, return_inverse=True)
        sample, half = np.floor(moments.real), moments.real % 1
        choices, count = microseconds_of(moments.imag), len(events["sample"])
        is_parted = np.isin(sample + 1j * moments.imag, both)
        choices = np.where(is_parted, np.where(half > 0, choices.max(0), choices.min(0)), choices)
        of = {p.name: events["population"] == number for number, p in enumerate(populations)}
        holds = {p.name: np.zeros(len(moments), bool) for p in populations}
        for p in populations:
            holds[p.name][instant[:count][of[p.name]]] = True
        # input is at whole microseconds, or ticks
        is_open = (choices[0] != choices[1]) & ~holds[self.network.input.name]
        choices[1, ~is_open] = choices[0, ~is_open]
        holds[self.network.output][instant[count:]] = True
        ways: list[tuple[str, np.ndarray, np.ndarray]] = []  # from an instant to one that is so much later
        for c, delay, late in zip(self.network.connections, self.delays, (r.late for r in self.routes)):
            instants, delays = np.flatnonzero(holds[c.source]), np.array([delay])
            if late is not None:
                here = of[c.source]
                way = late.reached[events["neuron"][here]].tocoo()
                pairs = np.unique(instant[:count][here][way.row] + 1j * self._lags(delay, late)[way.col])
                instants, delays = pairs.real.astype(np.int64), pairs.imag
            ways.append((c.target, instants, delays))
        for p in populations:  # at its end a neuron may fire
            ways.append((p.name, np.flatnonzero(holds[p.name]), np.array([_deaf_for(p, self.clock)])))
        links = [np.zeros((4, 0), np.int64)]  # instant and choice, of an event and of one that is a delay after it
        for target, instants, delays in ways if is_open.any() else ():
            delays = np.broadcast_to(delays, instants.shape)
            for choice in (0, 1):
                here = (is_open[instants] | (choice == 0)) & (delays > 0) & (delays < math.inf)
                left = instants[here]
                time = choices[choice, left] + delays[here]
                for part, other in [(0.0, 0), (0.0, 1), (0.5, 0)]:
                    reached = np.searchsorted(moments, sample[left] + part + 1j * (time / 1e6)) % len(moments)
                    fits = (choices[other, reached] == time) & (moments[reached].real == sample[left] + part)
                    fits &= holds[target][reached] & (is_open[reached] if other else is_open[left] | is_open[reached])
                    found = left[fits], reached[fits]
                    links.append(
                        np.stack([found[0], np.full_like(found[0], choice), found[1], np.full_like(found[1], other)])
                    )
        left, choice, reached, other = np.concatenate(links, axis=1)
        after, before, chosen = np.zeros(choices.shape), np.zeros(choices.shape), np.zeros(len(moments), np.int64)
        for _ in range(8):
            far = after[other, reached] / 2
            after[:] = 0
            np.add.at(after, (choice, left), 1 + far)
        for _ in range(np.count_nonzero(is_open)):
            before[:], last = 0, chosen
            holds_now = chosen[left] == choice
            np.add.at(before, (other[holds_now], reached[holds_now]), 1)
            better = np.where(before[0] != before[1], before[1] > before[0], after[1] > after[0])
            chosen = (is_open & better).astype(np.int64)
            if np.array_equal(chosen, last):
                break
        first, second = (self.clock.bins(some, self.books.ticks) for some in choices)
        doubts = np.count_nonzero((first != second) & (before[0] == before[1]) & (after[0] == after[1]))
        if doubts:
            self.unknown.append(f"the tick of {doubts} instants, within a rounding of its beginning: taken to be in it")
        time = choices[chosen, np.arange(len(moments))]
        return time[instant[:count]], time[instant[count:]]

    def _book(self, events: dict[str, np.ndarray]) -> None:
        spikes = {}
        for number, p in enumerate(self.network.populations):
            here = events["population"] == number
            spikes[p.name] = _Spikes(events["sample"][here], events["neuron"][here], self.time[here])
            sample, neuron, units = *spikes[p.name][:2], multiplicities(p, events["value"][here], True)
            np.add.at(self.events[p.name], (sample, self.tick[here]), 1)
            np.add.at(self.units[p.name], sample, units)
            for route in (r for r in self.routes if r.connection.source == p.name):
                for kind in KINDS[:4]:
                    fan, times = route.effective if "effective" in kind else route.fan, units if kind == "units" else 1
                    np.add.at(self.taps[route.label][kind], sample, fan[neuron] * times)
                    np.add.at(self.pool[route.label][kind], sample, route.pool[neuron] * times)
        for number, p in enumerate(self.network.populations):
            if not isinstance(p.neuron, Input):
                visits = [*self._arrivals(p, spikes)]
                if p.name == self.network.output and not self.clock.start:
                    self._book_ends(p, visits, spikes[p.name])
                if isinstance(p.neuron, IF | Integrator):
                    self._book_neurons(number, p, visits, spikes[p.name])

    def _arrivals(self, p: Population, spikes: Mapping[str, _Spikes]) -> Iterator[_Visits]:
        """What reached a population before the end, booked; and the ends of its currents, which are no deliveries."""
        for route, delay in zip(self.routes, self.delays, strict=True):
            if route.connection.target != p.name:
                continue
            sample, neuron, time = spikes[route.connection.source]
            fan, pool, tables, lag = route.fan, route.pool, route.tables, np.array(delay)
            if route.late is not None:
                way = route.late.reached[neuron].tocoo()
                sample, neuron, time = (np.repeat(x, way.data) for x in (sample[way.row], way.col, time[way.row]))
                fan = np.ones(len(route.late.own), np.int64)
                pool, tables = 0 * fan, [route.late.table]
                lag = self._lags(delay, route.late)[neuron]
            time = time + lag
            came = self._is_past(p, sample, time)
            yield _Visits(route, sample[came] + 1j * time[came], neuron[came], fan, tables)
            for book, taps in ((self.taps[route.label], fan), (self.pool[route.label], pool)):
                arrived = self.no_ticks()
                np.add.at(arrived, (sample[came], self.clock.bins(time[came], self.books.ticks)), taps[neuron[came]])
                book["delivered"] = arrived.sum(1)
                book["in_flight"] = book["structural"] - book["delivered"]
                if taps is fan:
                    self.delivered[route.label] = arrived
            if self.clock.pulse and isinstance(p.neuron, IF | LI):
                time = time + self.clock.pulse
                came = self._is_past(p, sample, time)
                yield _Visits(route, sample[came] + 1j * time[came], neuron[came], fan, tables)

    def _lags(self, delay: float, late: Late) -> np.ndarray:
        """(synapses,) microseconds from a spike to its arrival."""
        return delay + late.own * self.clock.tick

    def _is_past(self, p: Population, sample: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Whether a population was given something of that time: in the deciding instant none behind the output was."""
        is_given = self.is_cut & (self.order[p.name] <= self.order[self.network.output])
        return (time < self.stop[sample]) | (is_given[sample] & (time == self.stop[sample]))

    def _book_ends(self, p: Population, visits: list[_Visits], fired: _Spikes) -> None:
        """A sample is cut in an instant in which its output changed, and it changes no more."""
        changes = [fired.sample + 1j * fired.time] if isinstance(p.neuron, IF) else [v.moment for v in visits]
        last = np.zeros(self.books.samples)
        for moment in changes:
            np.maximum.at(last, moment.real.astype(np.int64), moment.imag)
        if str(self.books.run.get("cutoff")).startswith("first-crossing"):
            self.unknown.append("when potentials crossed: membranes are not simulated again")
            last = self.stop
        self.ends = np.where(self.is_cut, last, self.stop) / 1e6

    def _book_neurons(self, number: int, p: Population, visits: list[_Visits], fired: _Spikes) -> None:
        neuron, units, updates, constants = (
            p.neuron,
            self.units[p.name],
            np.zeros_like(self.begun),
            self.constants[number],
        )
        pulses = self._pulses(p, constants is not None)
        for moment, touched in self._touched(p, visits, fired):
            apart = ~np.isin(moment, pulses)
            np.add.at(updates, moment.real.astype(np.int64)[apart], np.diff(touched.indptr)[apart])
        each = np.bincount(pulses.real.astype(np.int64), minlength=self.books.samples)
        given = np.zeros(p.size, bool) if constants is None else np.ravel(constants) != 0
        lost, not_added = self._deaf(p, fired, pulses, given)
        updates += each * p.size - lost  # a pulse reaches every neuron that is not deaf
        clocked = self.turns[number] * p.size
        done = {"neuron_update": updates, "neuron_update_clocked": clocked}
        done |= {"bias": each * np.count_nonzero(given) - not_added}
        done |= {"decay": updates * decaying(neuron), "decay_clocked": clocked * decaying(neuron)}
        if isinstance(neuron, IF):
            done |= {"reset": units, "threshold_test": updates + units * fires_repeatedly(p, True)}
        self.operations[p.name] |= done

    def _deaf(
        self, p: Population, fired: _Spikes, pulses: np.ndarray, given: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """By sample: pulses of the bias at deaf neurons that did not fire then; and biases that were lost."""
        lost, not_added = np.zeros(self.books.samples, np.int64), np.zeros(self.books.samples, np.int64)
        # a synaptic current takes up what is constant while its neuron drops arrivals
        if len(pulses) and isinstance(p.neuron, IF) and p.neuron.discards and not isinstance(p.neuron, Synapse):
            ends = fired.time, fired.time + min(_deaf_for(p, self.clock), self.clock.end)
            first, last = (np.searchsorted(pulses, fired.sample + 1j * end, "right") for end in ends)
            which = np.repeat(np.arange(len(first)), last - first)  # the spike that made a neuron deaf, by pulse
            missed = np.arange(len(which)) - np.repeat(np.cumsum(last - first) - last, last - first)
            sample, cell = fired.sample[which], (fired.sample * p.size + fired.neuron)[which]
            again = np.isin(cell + 1j * pulses[missed].imag, fired.sample * p.size + fired.neuron + 1j * fired.time)
            np.add.at(lost, sample, ~again)
            np.add.at(not_added, sample, given[fired.neuron[which]])
        return lost, not_added

    def _pulses(self, p: Population, is_biased: bool) -> np.ndarray:
        """The moments at which the constants of a population come, where they come in pulses."""
        is_imaged = any(r.is_image and r.connection.target == p.name for r in self.routes)
        period = self.clock.period
        if not (period and (is_biased or is_imaged) and isinstance(p.neuron, IF) and p.size > p.shape[0]):
            return np.zeros(0, complex)
        if is_imaged:
            self.hidden.add("bias")
            self.unknown.append(f"the bias of {p.name}: which neurons its image reaches is not recorded")
        time = np.cumsum(np.full(int(self.clock.end / period) + 2, period))
        sample, time = np.repeat(np.arange(self.books.samples), len(time)), np.tile(time, self.books.samples)
        came = self._is_past(p, sample, time) & (time >= self.clock.start)
        return sample[came] + 1j * time[came]

    def _touched(
        self, p: Population, visits: list[_Visits], fired: _Spikes
    ) -> Iterator[tuple[np.ndarray, sparse.csr_array]]:
        """All moments of a population, some at a time, and which neurons were reached in them or fired: a table.

        On the way it books what refractory neurons discard, all that arrives in (t, t + t_ref] after a spike at t.
        """
        spiked, neuron = fired.sample + 1j * fired.time, p.neuron
        deaf_for = _deaf_for(p, self.clock) if isinstance(neuron, IF) and neuron.discards else 0.0
        spikes_of = np.append(np.sort(fired.sample * p.size + fired.neuron + 1j * fired.time), -1)  # -1: before all
        moments = np.unique(np.concatenate([spiked, *(v.moment for v in visits)]))
        rows = [np.searchsorted(moments, m) for m in (spiked, *(v.moment for v in visits))]
        taps = np.zeros(len(moments), np.int64)
        for visit, row in zip(visits, rows[1:], strict=True):
            np.add.at(taps, row, visit.fan[visit.neuron])
        for part in np.split(np.arange(len(moments)), np.flatnonzero(np.diff(taps.cumsum() // CELLS)) + 1):
            here = [np.flatnonzero(np.isin(row, part)) for row in rows]
            start, shape = part.min(initial=len(moments)), (len(part), p.size)
            touched = sparse_table(rows[0][here[0]] - start, fired.neuron[here[0]], shape)
            for visit, row, some in zip(visits, rows[1:], here[1:], strict=True):
                came = sparse_table(row[some] - start, visit.neuron[some], (len(part), len(visit.fan)))
                for table in visit.tables:
                    came = came @ table
                if deaf_for and not self.clock.pulse:  # a current flows on, and is kept out
                    found = came.tocoo()
                    moment = moments[part][found.row]
                    cell = moment.real * p.size + found.col
                    last = spikes_of[np.searchsorted(spikes_of[:-1], cell + 1j * moment.imag) - 1]
                    lost = (last.real == cell) & (last.imag + deaf_for >= moment.imag)
                    self._book_dropped(visit.route, moment[lost], found.data[lost])
                    came = sparse_table(found.row[~lost], found.col[~lost], shape)
                touched = touched + came
            yield moments[part], touched

    def _book_dropped(self, route: Route, moment: np.ndarray, taps: np.ndarray) -> None:
        sample, book = moment.real.astype(np.int64), self.taps[route.label]
        np.add.at(book["dropped"], sample, taps)
        np.subtract.at(book["delivered"], sample, taps)
        np.subtract.at(self.delivered[route.label], (sample, self.clock.bins(moment.imag, self.books.ticks)), taps)


def _deaf_for(p: Population, clock: Clock) -> float:
    """The refractory time, infinite for a neuron that fires once."""
    return p.neuron.refractory * clock.tick if isinstance(p.neuron, IF) else 0.0


def of_later(network: Network, books: Books) -> np.ndarray:
    """(events,) whether an event is of the later of two turns of its instant, or of two instants that seem one.

    Two numbers of microseconds, a rounding apart, may be one number of seconds; and a membrane that an arrival has left
    a rounding below its threshold crosses it in the same instant. Turns come a second time then.
    """
    events, count = books.events, len(books.events["sample"])
    moment = np.unique(events["sample"] + 1j * events["time"], return_inverse=True)[1]
    first, second = microseconds_of(events["time"])
    again, back = disorder(network, books, moment)
    new = back | (again & (first != second))
    new[1:] &= moment[1:] == moment[:-1]
    begins = np.full(count + 1, count)
    np.minimum.at(begins, moment[new], np.flatnonzero(new))
    return np.arange(count) >= begins[moment]
