"""Samples in continuous time: what a worker of the asynchronous discipline owns, feeds to the kernels and takes back.

The account is kept in bins of `Network.tick_seconds`, so that tables and figures read a run as they read one in ticks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from eventsnn import kernels_async as ka
from eventsnn import kernels_sync as k
from eventsnn.clocked import CODES, RECORD_CAPACITY, Sample
from eventsnn.inputs import TIMED_EVENT, Events, latencies, prepared
from eventsnn.network import Network, Sparse, spread
from eventsnn.neurons import IF, LI, LIF, Gate, Relay, Synapse
from eventsnn.store import network_hash
from eventsnn.watchdog import Fixed, Policy, StopReason
from eventsnn.wiring import Wiring, channels_last, whole_microseconds, wire
from eventsnn.wiring_async import Pace, time_of

ANSWERS = 1 << 12  # answers a worker holds before it hands them over
TOGETHER = 256  # events of one position that are delivered together
BINS = 10_000_000  # of one run's account


class Wired(NamedTuple):
    """A network as the kernels read it, and of which populations it records events and membranes."""

    wiring: Wiring
    pace: Pace
    recorded: tuple[str, ...]
    membranes: tuple[str, ...]


class Made(NamedTuple):
    """What a run is made of: all that a run which goes on from it must share. See `simulate`."""

    network: Network
    dtype: str
    ties: str
    pulse: float | None
    bias_period: float | None
    crossing: float | None = None

    def wired(self, recorded: Sequence[str], membranes: Sequence[str], known: Wired | None) -> Wired:
        """The network for the kernels; `known`, of the same, where it records the same: a stream has many windows."""
        names = tuple(recorded), tuple(membranes)
        if known is not None and known[2:] == names:
            return known
        dtype = np.dtype(self.dtype)
        wiring = wire(self.network, 1, dtype, *names, clocked=False)
        pulse, period = (0.0 if s is None else whole_microseconds(s) for s in (self.pulse, self.bias_period))
        serial = self.ties == "serial"
        pace = time_of(
            self.network,
            wiring,
            dtype,
            pulse=pulse,
            bias_period=period,
            serial=serial,
            crossing=self.crossing,
        )
        return Wired(wiring, pace, *names)


@dataclass(frozen=True, eq=False)
class Standing:
    """Where the samples of a run stand at its end, to go on from: `simulate(..., state=run.state)`.

    time: microseconds since the beginning. states: one for each sample; they are not changed by runs that go on from
    them, so that several may. made, wired: of the run it comes from.
    """

    time: float
    states: tuple[Any, ...]
    made: Made
    wired: Wired

    def check(self, made: Made, samples: np.ndarray | Events) -> None:
        """Refuse, in a sentence, to go on with another network or options, other samples, or events of the past."""
        same = self.made.network is made.network or network_hash(self.made.network) == network_hash(made.network)
        if not same or self.made[1:] != made[1:]:
            raise ValueError(
                "the state is of another network or other options (dtype, ties, pulse, bias_period, first-crossing)"
            )
        if len(samples) != len(self.states):
            raise ValueError(f"the state is of {len(self.states)} samples, but {len(samples)} were given")
        if isinstance(samples, Events) and len(samples.t) and samples.t.max() < self.time:
            raise ValueError(
                f"all events lie before {self.time / 1e6:g} s, where the state stands; their times count from the very "
                "beginning, not from the end of the run before"
            )
        if made.network.encoding == "latency":
            raise ValueError("a run of latency-coded images cannot go on: its input is over")


def bins(start: float, end: float, tick: float) -> int:
    """Bins of the account from start to end, all in microseconds; a remainder of rounding makes no bin."""
    found = max(1, int(np.ceil((end - start) / tick * (1 - 1e-12))))
    if found > BINS:
        raise ValueError(
            f"the run has {found:,} bins of {tick:g} us, more than {BINS:,}; give a longer tick or less duration"
        )
    return found


def check(network: Network, *, bias_period: float | None, pulse: float | None) -> None:
    """Refuse, in a sentence and by name, what has no meaning in continuous time."""
    if network.tick_seconds is None:
        raise ValueError(
            "mode async runs in seconds and the network does not say how long a tick is; give tick_seconds "
            "(on the command line: --tick 1ms)"
        )
    if network.encoding == "rate":
        raise ValueError(
            "rate coding draws spikes tick by tick and has no meaning in mode async; use direct or latency"
        )
    for name, value in (("pulse", pulse), ("bias_period", bias_period)):
        if value is not None and not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name} is {value!r}, wanted a positive number of seconds")
    if pulse is not None and bias_period is not None:
        raise ValueError("pulse makes every event a current and bias_period makes currents pulses; give one of them")
    for c in network.connections:
        if c.scale is not None or c.shift is not None:
            raise ValueError(f"connection {c.label!r} has a table of scales by tick, which mode async cannot run")
        late = c.delay or c.delay_seconds or (isinstance(c.op, Sparse) and c.op.delay is not None)
        if network.encoding == "direct" and c.source == network.input.name and late:
            raise ValueError(f"connection {c.label!r} delays an image; in mode async images act from the start")
    for p in network.populations:
        neuron, biased = p.neuron, any(c.target == p.name and c.bias is not None for c in network.connections)
        if isinstance(neuron, Gate):
            raise ValueError(
                f"population {p.name!r} is a gate (spiking max-pool), which waits for a tick's end; use mode sync"
            )
        if isinstance(neuron, Relay) and (biased or _sees_image(network, p.name)):
            raise ValueError(
                f"the relay {p.name!r} has a bias or an image, which it forwards tick by tick; use mode sync"
            )
        if isinstance(neuron, IF):
            _check_neuron(p.name, neuron, p.shape)
        if isinstance(neuron, LIF | LI) and neuron.tau is None and not np.all(np.asarray(neuron.alpha) > 0):
            raise ValueError(
                f"population {p.name!r} has alpha 0, no time constant at all; mode async needs one above 0"
            )
        if isinstance(neuron, Synapse):
            _check_currents(p.name, neuron, biased or _sees_image(network, p.name), pulse is not None)


def _sees_image(network: Network, name: str) -> bool:
    sources = [c.source for c in network.connections if c.target == name]
    return network.encoding == "direct" and network.input.name in sources


def _check_neuron(name: str, neuron: IF, shape: tuple[int, ...]) -> None:
    if neuron.reset == "none":
        raise ValueError(f"population {name!r} has no reset: at its threshold it would fire without end in mode async")
    if neuron.reset_delay:
        raise ValueError(
            f"population {name!r} resets one tick late (reset_delay, snnTorch's default), which has no meaning in mode "
            "async; read the file with another --assume"
        )
    value, threshold = spread(neuron.reset_value, shape), spread(neuron.threshold, shape)
    if neuron.reset == "value" and neuron.refractory == 0 and np.any(value >= threshold):
        raise ValueError(
            f"population {name!r} resets to its threshold or above and would fire without end in mode async"
        )
    if neuron.v_min is not None and np.any(spread(neuron.v_min, shape) >= threshold):
        raise ValueError(f"population {name!r} has its bound at its threshold or above and would fire without end")
    if neuron.v_min is not None and isinstance(neuron, Synapse):
        raise ValueError(f"population {name!r} has synaptic currents and a bound, which mode async cannot run together")


def _check_currents(name: str, neuron: Synapse, driven: bool, pulses: bool) -> None:
    for receptor in range(neuron.receptors):
        current = neuron.current(receptor)
        if current.tau_syn is None and not np.all(np.asarray(current.alpha_syn) > 0):
            raise ValueError(
                f"population {name!r} has alpha_syn 0, no time constant at all; mode async needs one above 0"
            )
        lasting = current.tau_syn is None and np.any(np.asarray(current.alpha_syn) == 1)
        if lasting and (pulses or (driven and receptor == 0)):
            raise ValueError(
                f"population {name!r} has a synaptic current that does not decay (alpha_syn 1) and a steady input to "
                "it, which mode async cannot run; give it a time constant"
            )


class Worker:
    """Runs chunks of samples; called by several threads at once, each call with a state of its own.

    A pickle of it holds neither spare states nor compiled code: another process makes its own, and keeps them.
    """

    def __init__(
        self,
        made: Made,
        wired: Wired,
        interval: tuple[float, float],
        policy: Policy,
        count: str,
        standing: Standing | None,
        keep: bool,
    ):
        self.made, self.wired = made, wired
        self.network, self.wiring, self.pace = made.network, wired.wiring, wired.pace
        self.policy, self.count, self.dtype, self.seed = policy, count, np.dtype(made.dtype), 0
        self.standing, self.keep = standing, keep
        self.start, self.end = interval
        tick = self.pace.timing.tick
        self.ticks = bins(self.start, self.end, tick)
        self.thresholds = policy.thresholds(self.ticks)
        self.cut = False  # by the cutoff fixed:T
        if isinstance(policy, Fixed):
            self.thresholds = np.zeros(self.ticks)
            if policy.ticks is not None and policy.ticks <= self.ticks:
                self.end, self.cut = min(self.end, self.start + policy.ticks * tick), True
        last = bins(self.start, self.end, tick) - 1
        self.clock = self.start, self.start, self.end, float(last)  # the columns X_
        self.scale, self.size = float(getattr(policy, "scale", 1.0)), int(getattr(policy, "size", 1))
        self.shape = self.network.input.shape
        self.to_last = np.argsort(channels_last(self.shape))
        self.spare: list[ka.State] = []
        self.blank: ka.Books | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "spare": [], "blank": None}

    def compile(self) -> None:
        """Compile the kernels, or load them from the cache, without running a sample; once in a process."""
        if self.blank is not None:
            return
        state = self._state()
        if self._kernel(state, self._feed(None, 0), True) == ka.STALE:
            ka.run.recompile()
        k.best_class(state.books.outputs[0], state.books.margins[0])
        self.blank = state.books

    def __call__(self, samples: np.ndarray | Events, first: int) -> list[Sample]:
        """Run a chunk of samples, events or images of `inputs.arrange_images`. first: index of the chunk's first."""
        self.compile()
        samples = prepared(samples, self.network, self.dtype)
        return [self._run(samples, i, first) for i in range(len(samples))]

    def no_answers(self) -> tuple[np.ndarray, ...]:
        """What the watchdog is shown when there are no samples."""
        return self._fetch(self._state(), 0)[1]

    def _kernel(self, state: ka.State, feed: ka.Feed, fresh: bool) -> int:
        return ka.run(
            self.wiring.plan,
            self.pace.timing,
            state,
            feed,
            CODES[self.policy.reason],
            self.thresholds,
            self.scale,
            self.size,
            fresh,
        )

    def _run(self, samples: np.ndarray | Events, i: int, first: int) -> Sample:
        fresh, index = self.standing is None, first + i
        if self.standing is not None:
            state = self._resumed(self.standing.states[index])
        else:
            state = self.spare.pop()._replace(books=self._books()) if self.spare else self._state()
        feed = self._feed(samples, i)
        state.clock[:] = self.clock
        if self.wiring.plan.pop[self.wiring.plan.misc[k.M_INPUT], k.P_RECORD]:
            state = self._with_room(state, feed)
        status = self._kernel(state, feed, fresh)
        fetched = [self._fetch(state, index)]
        while status in (ka.FULL, ka.GROW):
            if status == ka.GROW:
                state = grown(state)
            elif not len(fetched[-1][0]) and not len(fetched[-1][1][0]):  # it was empty, and still too small
                state = _with_record(state, 2 * len(state.record.value))
            status = self._kernel(state, feed, False)
            fetched.append(self._fetch(state, index))
        at, books = state.at, state.books
        if status == ka.RUNAWAY:
            raise RuntimeError(
                f"sample {index}: a neuron fired more than {k.MAX_MULTIPLICITY} times in one instant, at "
                f"{state.clock[ka.X_TIME] / 1e6:g} s"
            )
        begun = int(at[ka.A_BIN]) + 1
        best, tied = k.best_class(books.outputs[begun - 1], books.margins[begun - 1])
        peak = int(books.pending.max())
        pushed, popped = int(at[ka.A_PUSHED]), int(at[ka.A_POPPED])
        found = Sample(
            prediction=int(best),
            tied=bool(tied),
            stop=begun,
            reason=int(self.policy.reason if status == ka.STOPPED or self.cut else StopReason.HORIZON),
            books=books,
            macs_effective=int(self.wiring.image_taps[feed.pixel].sum()),
            events=np.concatenate([events for events, _ in fetched]),
            pushed=pushed,
            popped=popped,
            peak=peak,
            seconds=float(state.clock[ka.X_TIME]) / 1e6,
            answers=tuple(np.concatenate(parts) for parts in zip(*(a for _, a in fetched), strict=True)),
            state=state if self.keep and status == ka.HORIZON else None,
        )
        if not self.keep:
            self.spare.append(state)  # last: from now on it is another thread's
        return found

    # ------------------------------------------------------------------------------------------------------- input

    def _feed(self, samples: np.ndarray | Events | None, i: int) -> ka.Feed:
        nothing = np.zeros(0, np.int64)
        time, neuron, pixel, value = nothing.astype(np.float64), nothing, nothing, np.zeros(0, self.dtype)
        if samples is None:
            pass
        elif isinstance(samples, Events):
            part = slice(int(samples.offsets[i]), int(samples.offsets[i + 1]))
            time, neuron = np.asarray(samples.t[part], np.float64), samples.neuron[part]
        elif self.network.encoding == "latency":
            late, neuron = latencies(samples[i], self.ticks)
            order = np.argsort(late, kind="stable")
            time, neuron = late[order] * self.pace.timing.tick, neuron[order]
        elif self.standing is None:
            values = samples[i].reshape(self.shape[0], -1).T.astype(self.dtype).ravel()
            pixel = np.flatnonzero(values)
            value = values[pixel]
        inside = (time >= self.start) & (time < self.end)
        return ka.Feed(time[inside], self.to_last[neuron[inside]].astype(np.int64), pixel, value)

    # ------------------------------------------------------------------------------------------------------- state

    def _records(self) -> bool:
        return bool(self.wiring.plan.pop[:, k.P_RECORD].any())

    def _books(self) -> ka.Books:
        w, bins = self.wiring, self.ticks
        populations, connections = len(self.network.populations), len(self.network.connections)
        output = self.network[self.network.output]
        classes = output.size if isinstance(output.neuron, IF) else 0
        counted, by_source = self.count != "spikes", self.count == "sources"
        return ka.Books(
            events=np.zeros((populations, bins, k.POPULATION_COUNTS), np.int64),
            taps=np.zeros((connections, 2, bins, k.KINDS) if counted else (0, 0, 0, 0), np.int64),
            sources=np.zeros((2, w.units) if by_source else (0, 0), np.int64),
            in_flight=np.zeros((connections, 2), np.int64),
            synops=np.zeros(bins, np.int64),
            counts=np.zeros(output.size, np.int64),
            outputs=np.full((bins, output.size), np.nan, self.dtype),
            margins=np.full((bins, classes), np.nan, self.dtype),
            potential=np.full((bins, w.potential_columns), np.nan, self.dtype),
            pending=np.zeros(bins, np.int64),
        )

    def _state(self) -> ka.State:
        w, pace, books = self.wiring, self.pace, self._books()
        largest, receptors = int(w.plan.pop[:, k.P_SIZE].max()), max(1, int(pace.timing.pop[:, ka.T_RECEPTORS].max()))
        room = max(2 * largest, 64)
        entries = pace.alarms + room
        recorded, answers = max(RECORD_CAPACITY >> 4, largest) if self._records() else 1, ANSWERS
        return ka.State(
            cells=ka.Cells(
                v=np.zeros(w.units, self.dtype),
                current=np.zeros(pace.currents + 1, self.dtype),
                last=np.zeros(w.units),
                drive=np.zeros(pace.drives + 1),
                until=np.zeros(pace.untils + 1),
                alarm=np.zeros(pace.alarms + 1),
                cross=np.zeros(pace.alarms + 1),
                generation=np.zeros(pace.alarms + 1, np.int64),
                register=np.zeros(receptors * largest, self.dtype),
                span=np.zeros(largest, np.int64),
                starts=np.zeros(largest, np.int64),
                channel=np.zeros(TOGETHER, np.int32),
                value=np.zeros(TOGETHER, self.dtype),
                fired=np.zeros((largest, 2), np.int64),
                crossed=np.zeros(largest, np.int64),
                waiting=np.zeros(len(self.network.populations), np.uint8),
                epoch=np.zeros(len(self.network.populations)),
                ahead=np.zeros(len(self.network.populations)),
            ),
            queue=ka.Queue(
                times=np.zeros(entries),
                references=np.zeros(entries, np.int64),
                entry=np.zeros((entries, ka.H_COLUMNS), np.int64),
                batch=np.zeros((64, ka.B_COLUMNS), np.int64),
                event=np.zeros((room, ka.E_COLUMNS), np.int64),
                value=np.zeros(room, self.dtype),
                since=np.zeros(64),
            ),
            at=np.zeros(ka.A_COLUMNS, np.int64),
            clock=np.zeros(ka.X_COLUMNS),
            books=books,
            record=ka.Record(
                time=np.zeros(recorded),
                place=np.zeros((recorded, 2), np.int32),
                value=np.zeros(recorded),
                asked=np.zeros(answers),
                bin=np.zeros(answers, np.int64),
                spent=np.zeros(answers, np.int64),
                outputs=np.zeros((answers, books.outputs.shape[1]), self.dtype),
                margins=np.zeros((answers, books.margins.shape[1]), self.dtype),
            ),
        )

    def _with_room(self, state: ka.State, feed: ka.Feed) -> ka.State:
        """The same state with a record that takes the most input events of one instant."""
        most = int(np.unique(feed.time, return_counts=True)[1].max(initial=0))
        return state if most <= len(state.record.value) else _with_record(state, most)

    def _resumed(self, state: ka.State) -> ka.State:
        """A copy of a state at the beginning of another interval: empty books, the rest as it stands."""
        cells = ka.Cells(*(array.copy() for array in state.cells))
        queue = ka.Queue(*(array.copy() for array in state.queue))
        books, at = self._books(), state.at.copy()
        books.counts[:] = state.books.counts
        at[[ka.A_BIN, ka.A_INPUT, ka.A_PUSHED, ka.A_POPPED, ka.A_SPENT, ka.A_INSIDE]] = 0
        at[ka.A_PEAK] = at[ka.A_HEAP]
        queue.batch[:, ka.B_BIN] = -1  # booked as in flight
        record = ka.Record(*(np.empty_like(array) for array in state.record))
        return ka.State(cells, queue, at, state.clock.copy(), books, record)

    def _fetch(self, state: ka.State, index: int) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Take recorded events and answers out of a state. Units are still channels last."""
        n, asked, record = int(state.at[ka.A_RECORDED]), int(state.at[ka.A_STAMPED]), state.record
        state.at[ka.A_RECORDED] = state.at[ka.A_STAMPED] = 0
        events = np.empty(n, TIMED_EVENT)
        events["sample"], events["time"], events["value"] = index, record.time[:n] / 1e6, record.value[:n]
        events["population"], events["neuron"] = record.place[:n].T
        shown = (record.asked / 1e6, record.bin, record.spent, record.outputs, record.margins)
        return events, tuple(a[:asked].copy() for a in shown)


def _with_record(state: ka.State, events: int) -> ka.State:
    """The same state with an empty record for so many events."""
    record = state.record
    record = record._replace(time=np.zeros(events), place=np.zeros((events, 2), np.int32), value=np.zeros(events))
    return state._replace(record=record)


def grown(state: ka.State) -> ka.State:
    """The same state with twice the room in its queue."""
    at = state.at
    queue = ka.Queue(*(np.concatenate([array, np.zeros_like(array)]) for array in state.queue))
    for links, column, head in (
        (queue.entry, ka.H_KEY, ka.A_FREE_ENTRY),
        (queue.event, ka.E_NEXT, ka.A_FREE_EVENT),
        (queue.batch, ka.B_HEAD, ka.A_FREE_BATCH),
    ):
        half = len(links) // 2  # the new half goes in front of what was free
        links[half:, column] = np.arange(half + 1, 2 * half + 1)
        links[-1, column] = at[head]
        at[head] = half
    at[ka.A_FREE_EVENTS] += len(queue.event) // 2
    at[ka.A_FREE_BATCHES] += len(queue.batch) // 2
    return state._replace(queue=queue)
