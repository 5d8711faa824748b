"""The verb: run a network over samples and hand back everything that happened, exactly counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from eventsnn import kernels_sync as k
from eventsnn.inputs import (
    EVENT,
    Events,
    arrange_images,
    check_events,
    encoded,
    prepare_images,
    sample_digests,
)
from eventsnn.ledger import Ledger
from eventsnn.network import Network
from eventsnn.neurons import IF, Integrator
from eventsnn.parallel import map_chunks
from eventsnn.watchdog import (
    Oracle,
    Policy,
    StopReason,
    Trace,
    check_policy,
    default_policy,
    stably_right,
)
from eventsnn.wiring import Wiring, channels_last, fan_out, wire

COUNTS = ("spikes", "connections", "sources")
RECORD_CAPACITY = 1 << 20  # recorded events a worker holds before it hands them over


@dataclass(frozen=True, eq=False)
class Run:
    """What a simulation gives back; N samples, T ticks, K output units.

    predictions, stop_time (ticks run), stop_reason (`StopReason` numbers): (N,) int64. tied: (N,) bool. outputs:
    (N, T, K) summed logits or spike counts after each tick, NaN past the stop. trace: what policies see. ledger: the
    counts. events: recorded spikes as a structured array (sample, time, population, neuron, value) ordered by sample,
    time and depth, or None; of the populations named in recorded. potentials: membranes after each tick, (N, T, *shape)
    by population, or None. queue_pushed, queue_popped, queue_peak: (N,) entries the simulator's own queue took, gave
    back, and held at most; unlike all other counts they depend on what is recorded. digests: (N, 6) uint8, of the
    inputs (`inputs.sample_digests`). calibration: with a calibrated policy, the name of its file, the number of samples
    it was calibrated on, and how many of this run's are among them (overlap). seconds: wall time without compilation.
    """

    network: Network
    mode: str
    ticks: int
    policy: Policy
    dtype: str
    seed: int
    layer_delay: int
    predictions: np.ndarray
    tied: np.ndarray
    stop_time: np.ndarray
    stop_reason: np.ndarray
    trace: Trace
    ledger: Ledger
    events: np.ndarray | None
    recorded: tuple[str, ...]
    potentials: dict[str, np.ndarray] | None
    queue_pushed: np.ndarray
    queue_popped: np.ndarray
    queue_peak: np.ndarray
    digests: np.ndarray
    calibration: Mapping[str, str | int] | None
    seconds: float

    @property
    def outputs(self) -> np.ndarray:
        """(N, T, K), see the class."""
        return self.trace.outputs

    @property
    def labels(self) -> np.ndarray | None:
        """(N,) true classes, when they were given."""
        return self.trace.labels

    @property
    def accuracy(self) -> float | None:
        """Fraction of correct predictions, None without labels."""
        return None if self.labels is None else float(np.mean(self.predictions == self.labels))

    def synops_by_source(self, connection: str, kind: str = "structural") -> np.ndarray:
        """(N, *source shape) int64: the main taps of one connection, booked on the neuron that emitted the event.

        kind: "structural", "units" or "effective". Summed over neurons it is `ledger.synops(connection, kind)`. Raises
        ValueError when the events of single neurons are not known: run with count="sources", or record the source.
        """
        if kind not in ("structural", "units", "effective"):
            raise ValueError(
                f"kind is {kind!r}, wanted 'structural', 'units' or 'effective': only these are booked at the source"
            )
        fan, _ = fan_out(self.network, "effective" if kind == "effective" else "structural")
        if connection not in fan:
            raise ValueError(f"there is no connection {connection!r}; there are {', '.join(fan)}")
        source = next(c.source for c in self.network.connections if c.label == connection)
        emitted = self.emitted(source, units=kind == "units")
        return (emitted * fan[connection]).reshape(-1, *self.network[source].shape)

    def emitted(self, population: str, units: bool = False) -> np.ndarray:
        """(N, neurons) int64: events every neuron of a population emitted, channels first, counted or recorded.

        units: counted with their multiplicity. Raises ValueError when neither count="sources" nor a record tells.
        """
        if self.ledger.sources is not None:
            return self.ledger.emitted(population, units)
        if self.events is None or population not in self.recorded:
            raise ValueError(
                f"events of single neurons of {population!r} are not known; run with count='sources', "
                f"record='spikes' or record=[{population!r}]"
            )
        number = [p.name for p in self.network.populations].index(population)
        own = self.events[self.events["population"] == number]
        emitted = np.zeros((len(self.predictions), self.network[population].size), np.int64)
        multiple = units and getattr(self.network[population].neuron, "multi_spike", False)
        np.add.at(emitted, (own["sample"], own["neuron"]), own["value"].astype(np.int64) if multiple else 1)
        return emitted


class Replayed(NamedTuple):
    """What a policy would have done. All (N,), as in `Run`."""

    stop_time: np.ndarray
    predictions: np.ndarray
    tied: np.ndarray
    stop_reason: np.ndarray


class _Sample(NamedTuple):
    """What one sample leaves behind."""

    prediction: int
    tied: bool
    stop: int
    reason: int
    books: k.Books
    macs_effective: int
    events: np.ndarray | None
    pushed: int
    popped: int
    peak: int


def simulate(
    network: Network,
    inputs: np.ndarray | Events,
    labels: np.ndarray | None = None,
    *,
    mode: str = "sync",
    ticks: int | None = None,
    watchdog: Policy | None = None,
    record: str | Sequence[str] = "outputs",
    count: str = "connections",
    jobs: int = 1,
    dtype: str = "float32",
    seed: int = 0,
    layer_delay: int = 0,
    layout: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Run:
    """Run every sample through its events until its cutoff or horizon, and account for it.

    inputs: images (N, *shape) as `inputs.prepare_images` takes them, or `Events`. labels: (N,) classes. ticks: horizon,
    default the network's. watchdog: the cutoff, default the network's, else `Fixed()`. record: "outputs", "spikes"
    (events of every population), "potentials" (spikes and membranes), or names of populations whose events to record.
    count: how much of the account is kept: "connections" (everything, by connection and tick), "sources" (and the
    events of every single neuron), or "spikes" (nothing but events by population and tick, a little faster).
    jobs: worker threads; results do not depend on it. dtype: "float32" or "float64". seed: of rate-coded input, keyed
    with the sample's index. layer_delay: least delay of every connection in ticks. progress: called with 0
    once everything was checked, then with the number of samples just finished.

    Raises ValueError naming what does not fit. See `docs/semantics.md` for what a run means.
    """
    if mode != "sync":
        raise ValueError(f"mode is {mode!r}; this version runs mode 'sync'")
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype is {dtype!r}, wanted 'float32' or 'float64'")
    if count not in COUNTS:
        raise ValueError(f"count is {count!r}, wanted one of {', '.join(COUNTS)}")
    ticks = _horizon(network, ticks)
    policy = watchdog if watchdog is not None else default_policy(network)
    output = network[network.output]
    check_policy(policy, network.readout, output.size)
    check_calibrated(policy, network, ticks, layer_delay)
    if layer_delay:
        network = network.with_layer_delay(layer_delay)
    if count == "spikes" and policy.reason == StopReason.BUDGET:
        raise ValueError("a budget of SynOps needs them counted; run with count='connections'")
    recorded, membranes = _recorded(network, record)
    samples = _prepare(network, inputs, layout, dtype)
    digests = sample_digests(inputs if isinstance(inputs, Events) else arrange_images(inputs, network, layout))
    labels = _labels(labels, len(samples), output.size)
    wiring = wire(network, ticks, np.dtype(dtype), recorded, membranes)
    worker = _Worker(network, wiring, samples, ticks, policy, count, dtype, seed)
    if progress is not None:
        progress(0)
    worker.compile()

    started = time.perf_counter()
    results: list[_Sample] = []
    for part in map_chunks(worker, len(samples), jobs):
        results += part
        if progress is not None:
            progress(len(part))
    seconds = time.perf_counter() - started
    return _pack(network, wiring, worker, results, labels, layer_delay, seconds, recorded, membranes, digests)


def check_calibrated(policy: Policy, network: Network, ticks: int, layer_delay: int = 0) -> None:
    """Refuse, in a sentence, a policy that was calibrated for another network, another readout or fewer ticks."""
    known = getattr(policy, "calibrated", None)
    if known is not None:
        from eventsnn.store import network_hash

        found = network_hash(network)
        if layer_delay and known.network != found:  # calibrated on a run in memory, whose network has its delays in
            found = network_hash(network.with_layer_delay(layer_delay))
        known.check(found, network.readout, ticks, layer_delay)


class Replays:
    """Replays of many policies over one trace: what is the same for every threshold is worked out once.

    Results are those of `replay`. trace: of recorded runs, which must not change meanwhile.
    """

    def __init__(self, trace: Trace):
        self.trace = trace
        n, ticks, _ = trace.outputs.shape
        self.outputs, self.margins = np.ascontiguousarray(trace.outputs), np.ascontiguousarray(trace.margins)
        self.whole = np.isfinite(trace.outputs).all(2)
        self.leading, self.tied = np.zeros((n, ticks), np.int64), np.zeros((n, ticks), bool)
        k.lead(self.outputs, self.margins, self.leading, self.tied)
        self.weighed: dict[tuple[int, float, int], np.ndarray] = {}

    def __call__(self, policy: Policy) -> Replayed:
        """What `policy` would have done, see `replay`."""
        trace = self.trace
        n, ticks, classes = trace.outputs.shape
        check_policy(policy, trace.readout, classes, live=False)
        if isinstance(policy, Oracle):
            return self._oracle()
        stop, reason = np.zeros(n, np.int64), np.zeros(n, np.int64)
        k.decide(_CODES[policy.reason], policy.thresholds(ticks), self.evidence(policy), stop, reason)
        rows = np.arange(n)
        wrong = np.flatnonzero((stop > trace.stop_time) | ~self.whole[rows, stop - 1])
        if wrong.size:
            first = int(wrong[0])
            raise ValueError(
                f"sample {first} was stopped after {trace.stop_time[first]} ticks, before {policy} would decide; "
                "replay needs a run with cutoff fixed"
            )
        reason = np.where(reason == k.STOPPED, int(policy.reason), int(StopReason.HORIZON))
        return Replayed(stop, self.leading[rows, stop - 1], self.tied[rows, stop - 1], reason)

    def evidence(self, policy: Policy) -> np.ndarray:
        """(samples, ticks) float64: what the policy holds against its thresholds, whichever these are."""
        trace = self.trace
        synops = trace.synops if trace.asked is None else trace.asked
        if synops.shape[1] < trace.outputs.shape[1]:
            if policy.reason == StopReason.BUDGET:
                raise ValueError(
                    "the trace has no SynOps by tick to hold against a budget; run with count='connections'"
                )
            synops = np.zeros(trace.outputs.shape[:2], np.int64)
        key = (_CODES[policy.reason], float(getattr(policy, "scale", 1.0)), int(getattr(policy, "size", 1)))
        if key not in self.weighed:
            self.weighed[key] = np.zeros(trace.outputs.shape[:2])
            k.weigh(*key, self.outputs, np.ascontiguousarray(synops), self.weighed[key])
        return self.weighed[key]

    def _oracle(self) -> Replayed:
        """The optimal cutoff timestep of every sample: Wu et al., `Evaluator.py` in their code."""
        stable = stably_right(self.trace)
        n, ticks = stable.shape
        decided, rows = stable.any(1), np.arange(n)
        stop = np.where(decided, stable.argmax(1) + 1, ticks)
        reason = np.where(decided, int(StopReason.ORACLE), int(StopReason.HORIZON))
        return Replayed(stop, self.leading[rows, stop - 1], self.tied[rows, stop - 1], reason)


def replay(trace: Trace, policy: Policy) -> Replayed:
    """What `policy` would have done on recorded runs: the same as a live run, sample by sample.

    `Oracle` needs labels and full runs. Raises ValueError when a trace ends before the policy would have stopped: what
    was not run cannot be replayed.
    """
    return Replays(trace)(policy)


# --------------------------------------------------------------------------------------------------------- prepare


def _horizon(network: Network, ticks: int | None) -> int:
    ticks = network.ticks if ticks is None else ticks
    if ticks is None:
        raise ValueError("the network does not say how many ticks to run; give ticks (on the command line: --ticks)")
    if isinstance(ticks, bool) or ticks != int(ticks) or ticks < 1:
        raise ValueError(f"ticks is {ticks}, wanted a whole number, 1 or more")
    if network.max_ticks is not None and ticks > network.max_ticks:
        raise ValueError(f"ticks is {ticks}, but the network's per-tick tables end after {network.max_ticks}")
    return int(ticks)


def _recorded(network: Network, record: str | Sequence[str]) -> tuple[list[str], list[str]]:
    """Names whose events and whose membranes are recorded."""
    names = [p.name for p in network.populations]
    emitting = [p.name for p in network.populations if not isinstance(p.neuron, Integrator)]
    if isinstance(record, str):
        if record not in ("outputs", "spikes", "potentials"):
            raise ValueError(f"record is {record!r}, wanted 'outputs', 'spikes', 'potentials' or a list of populations")
        membranes = [p.name for p in network.populations if isinstance(p.neuron, IF | Integrator)]
        return ([] if record == "outputs" else emitting), (membranes if record == "potentials" else [])
    for name in record:
        if name not in names:
            raise ValueError(f"record: there is no population {name!r}; there are {', '.join(names)}")
    return [name for name in record if name in emitting], []


def _prepare(network: Network, inputs: np.ndarray | Events, layout: str | None, dtype: str) -> np.ndarray | Events:
    if isinstance(inputs, Events):
        if network.encoding != "events":
            raise ValueError(f"the network takes images ({network.encoding} input), but was given events")
        if network.tick_seconds is None:
            raise ValueError("event times need the length of a tick; give tick_seconds (on the command line: --tick)")
        check_events(inputs, network.input.size)
        return inputs
    if network.encoding == "events":
        raise ValueError("the network takes address events, but was given images")
    return prepare_images(inputs, network, layout, dtype if network.encoding == "direct" else "float64")


def _labels(labels: np.ndarray | None, count: int, classes: int) -> np.ndarray | None:
    if labels is None:
        return None
    labels = np.asarray(labels)
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise ValueError(f"labels have shape {labels.shape} and dtype {labels.dtype}, wanted ({count},) whole numbers")
    if count and not (labels.min() >= 0 and labels.max() < classes):
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}, but the output has {classes} classes")
    return labels.astype(np.int64)


# Policies as the kernels know them.
_CODES = {
    StopReason.HORIZON: k.POLICY_FIXED,
    StopReason.SPIKE_GAP: k.POLICY_SPIKE_GAP,
    StopReason.TOPK: k.POLICY_TOPK,
    StopReason.CONFIDENCE: k.POLICY_CONFIDENCE,
    StopReason.ENTROPY: k.POLICY_ENTROPY,
    StopReason.FIRST_SPIKE: k.POLICY_FIRST,
    StopReason.BUDGET: k.POLICY_BUDGET,
    StopReason.CONFORMAL: k.POLICY_CONFORMAL,
    StopReason.TICKS: k.POLICY_FIXED,
}


# ------------------------------------------------------------------------------------------------------------- run


class _Worker:
    """Runs chunks of samples; called by several threads at once, each call with a state of its own."""

    def __init__(
        self,
        network: Network,
        wiring: Wiring,
        samples: np.ndarray | Events,
        ticks: int,
        policy: Policy,
        count: str,
        dtype: str,
        seed: int,
    ):
        self.count = count
        self.network, self.wiring, self.samples, self.ticks = network, wiring, samples, ticks
        self.policy, self.dtype, self.seed = policy, np.dtype(dtype), seed
        self.thresholds = policy.thresholds(ticks)
        self.scale, self.size = float(getattr(policy, "scale", 1.0)), int(getattr(policy, "size", 1))
        self.shape = network.input.shape
        self.to_last = np.argsort(channels_last(self.shape))  # channels-first unit -> channels-last unit
        self.tick_us = None if network.tick_seconds is None else network.tick_seconds * 1e6
        self.spare: list[k.State] = []

    def compile(self) -> None:
        """Compile the kernels, or load them from the cache, without running a sample."""
        state = self._state(1)
        self._kernel(state, self._feed_events(np.zeros(0, np.int64), np.zeros(0, np.int64)), 0, True)
        k.best_class(state.books.outputs[0], state.books.margins[0])
        self.blank = state.books

    def __call__(self, chunk: range) -> list[_Sample]:
        """Run the samples of a chunk."""
        state = self.spare.pop() if self.spare else self._state(RECORD_CAPACITY)
        done = [self._run(state, index) for index in chunk]
        self.spare.append(state)
        return done

    def _kernel(self, state: k.State, feed: k.Feed, ticks: int, fresh: bool) -> int:
        code, plan = _CODES[self.policy.reason], self.wiring.plan
        return k.run(plan, state, feed, ticks, code, self.thresholds, self.scale, self.size, fresh)

    def _run(self, state: k.State, index: int) -> _Sample:
        feed = self._feed(index)
        most = int(np.diff(feed.batch.groups[feed.tick_group, k.G_FIRST]).max(initial=0))
        if self._records() and most > len(state.record.value):
            state = state._replace(record=_record(most))
        status = self._kernel(state, feed, self.ticks, True)
        fetched = [_fetch(state, index)] if self._records() else []
        while status == k.FULL:
            status = self._kernel(state, feed, self.ticks, False)
            fetched.append(_fetch(state, index))
        if status == k.RUNAWAY:
            raise RuntimeError(
                f"sample {index}: a multi-spike neuron fired more than {k.MAX_MULTIPLICITY} times in one tick"
            )
        books = state.books
        stop = self.ticks if status == k.HORIZON else int(state.queue.at[k.A_TICK]) + 1
        best, tied = k.best_class(books.outputs[stop - 1], books.margins[stop - 1])
        return _Sample(
            prediction=int(best),
            tied=bool(tied),
            stop=stop,
            reason=int(self.policy.reason) if status == k.STOPPED else int(StopReason.HORIZON),
            books=k.Books(*(array.copy() for array in books)),
            macs_effective=self._macs_effective(index) if feed.analog else 0,
            events=np.concatenate(fetched) if fetched else None,
            pushed=int(state.queue.at[k.A_PUSHED]),
            popped=int(state.queue.at[k.A_POPPED]),
            peak=int(state.queue.at[k.A_PEAK]),
        )

    def _records(self) -> bool:
        return bool(self.wiring.plan.pop[:, k.P_RECORD].any())

    def _feed(self, index: int) -> k.Feed:
        encoding = self.network.encoding
        if encoding == "direct" and not isinstance(self.samples, Events):
            return self._feed_image(self.samples[index])
        events = encoded(self.samples, index, encoding, self.ticks, self.tick_us, self.seed)
        inside = events.tick < self.ticks
        return self._feed_events(events.tick[inside], events.neuron[inside])

    def _feed_events(self, tick: np.ndarray, neuron: np.ndarray) -> k.Feed:
        """Events in their order; neighbours at one position in one tick share a group."""
        position, channel = np.divmod(self.to_last[neuron], self.shape[0])
        starts = np.ones(tick.size, bool)
        if tick.size:
            starts[1:] = (np.diff(tick) != 0) | (np.diff(position) != 0)
        begin = np.flatnonzero(starts)
        return k.Feed(
            tick_group=np.searchsorted(tick[begin], np.arange(self.ticks + 1)).astype(np.int64),
            batch=self._batch(position, channel, np.ones(tick.size), begin),
            analog=False,
        )

    def _batch(self, position: np.ndarray, channel: np.ndarray, value: np.ndarray, begin: np.ndarray) -> k.Batch:
        groups = np.zeros((begin.size + 1, 2), np.int64)
        groups[:-1, k.G_POSITION] = position[begin]
        groups[:, k.G_FIRST] = np.append(begin, position.size)
        return k.Batch(groups, channel.astype(np.int32), value.astype(self.dtype))

    def _feed_image(self, image: np.ndarray) -> k.Feed:
        """The image's non-zero values as graded events of one batch."""
        values = image.reshape(self.shape[0], -1).T.astype(self.dtype)
        position, channel = np.nonzero(values)
        begin = np.flatnonzero(np.append(True, np.diff(position) != 0)) if position.size else np.zeros(0, np.int64)
        return k.Feed(
            tick_group=np.concatenate([[0], np.full(self.ticks, begin.size)]).astype(np.int64),
            batch=self._batch(position, channel, values[position, channel], begin),
            analog=True,
        )

    def _macs_effective(self, index: int) -> int:
        """Taps of the image's non-zero pixels on non-zero weights."""
        assert isinstance(self.samples, np.ndarray)
        present = self.samples[index].astype(self.dtype, copy=False).reshape(self.shape[0], -1).T != 0
        return int(self.wiring.image_taps[present.ravel()].sum())

    def _state(self, record: int) -> k.State:
        w, floating = self.wiring, self.dtype
        populations, connections = len(self.network.populations), len(self.network.connections)
        output = self.network[self.network.output]
        spiking = isinstance(output.neuron, IF)
        mask = np.zeros(max(w.units, 8), np.uint8)
        int64, int32, ring = np.int64, np.int32, int(w.plan.misc[k.M_RING])
        return k.State(
            cells=k.Cells(
                v=np.zeros(w.units, floating),
                register=np.zeros(w.registers, floating),
                mask=mask,
                words=mask.view(np.uint64),
                extra=np.zeros((3, w.extras + 1), int32),
                touched=np.zeros(w.touched + 1, np.uint8),
                spots=np.zeros(w.marked + 1, int64),
                stamp=np.zeros(w.stamps + 1, int32),
            ),
            queue=k.Queue(
                buckets=np.zeros((ring, int(w.plan.misc[k.M_RANKS]), 2), int64),
                entries=np.zeros((w.queue_entries, 3), int64),
                waiting=np.zeros(ring, int64),
                clock=np.zeros((2, populations), int64),
                at=np.zeros(k.A_COLUMNS, int64),
            ),
            batch=k.Batch(
                groups=np.zeros((w.group_entries + 1, 2), int64),
                channel=np.zeros(w.event_entries + 1, int32),
                value=np.zeros(w.event_entries + 1, floating),
            ),
            slot_groups=np.zeros(w.slots + 1, int64),
            books=k.Books(
                events=np.zeros((populations, self.ticks, k.POPULATION_COUNTS), int64),
                taps=_account((connections, 2, self.ticks, k.KINDS), self.count != "spikes"),
                sources=_account((2, w.units), self.count == "sources"),
                in_flight=np.zeros((connections, 2), int64),
                synops=np.zeros(self.ticks, int64),
                counts=np.zeros(output.size, int64),
                outputs=np.zeros((self.ticks, output.size), floating),
                margins=np.zeros((self.ticks, output.size if spiking else 0), floating),
                potential=np.zeros((self.ticks, w.potential_columns), floating),
            ),
            record=_record(max(record, int(w.plan.pop[:, k.P_SIZE].max())) if self._records() else 1),
        )


def _account(shape: tuple[int, ...], kept: bool) -> np.ndarray:
    """An account as the kernels take it: empty and of another dtype where it is not kept (`kernels_sync._kept`)."""
    return np.zeros(shape, np.int64) if kept else np.zeros((0,) * len(shape), np.int8)


def _record(capacity: int) -> k.Record:
    return k.Record(place=np.zeros((capacity, 3), np.int32), value=np.zeros(capacity, np.float64))


def _fetch(state: k.State, index: int) -> np.ndarray:
    """Take the recorded events out of a state. Units are still channels last."""
    n = int(state.queue.at[k.A_RECORDED])
    state.queue.at[k.A_RECORDED] = 0
    events = np.empty(n, EVENT)
    events["sample"], events["value"] = index, state.record.value[:n]
    events["time"], events["population"], events["neuron"] = state.record.place[:n].T
    return events


# ------------------------------------------------------------------------------------------------------------ pack


def _pack(
    network: Network,
    wiring: Wiring,
    worker: _Worker,
    results: list[_Sample],
    labels: np.ndarray | None,
    layer_delay: int,
    seconds: float,
    recorded: list[str],
    membranes: list[str],
    digests: np.ndarray,
) -> Run:
    count = len(results)

    def of_samples(name: str, dtype: type = np.int64) -> np.ndarray:
        return np.array([getattr(sample, name) for sample in results], dtype)

    def of_books(name: str) -> np.ndarray:
        like = getattr(worker.blank, name)
        return (
            np.stack([getattr(s.books, name) for s in results]) if results else np.empty((0, *like.shape), like.dtype)
        )

    stop_time, reason, events = of_samples("stop"), of_samples("reason"), of_books("events")
    trace = Trace(
        outputs=of_books("outputs"),
        margins=of_books("margins"),
        synops=of_books("synops")[:, : 0 if worker.count == "spikes" else None],
        stop_time=stop_time,
        readout=network.readout,
        labels=labels,
        asked=None,
    )
    names = tuple(c.label for c in network.connections)
    depths = network.depths()
    behind = np.array([depths[p.name] > depths[network.output] for p in network.populations])
    emitted, units, updates, biases = (np.ascontiguousarray(events[..., i]) for i in range(k.POPULATION_COUNTS))
    ledger = Ledger(
        populations=tuple(p.name for p in network.populations),
        neurons=tuple(p.neuron for p in network.populations),
        sizes=tuple(p.size for p in network.populations),
        connections=names,
        tap_class=dict(zip(names, wiring.tap_class, strict=True)),
        input_name=network.input.name,
        counted=worker.count,
        events=emitted,
        units=units,
        updates=updates,
        biases=biases,
        taps=of_books("taps"),
        left=of_books("in_flight"),
        sources=_sources(network, wiring, of_books("sources")) if worker.count == "sources" else None,
        macs_input=np.full(count, wiring.macs_input, np.int64),
        macs_input_effective=of_samples("macs_effective"),
        stop_time=stop_time,
        turns=stop_time[:, None] - ((reason != int(StopReason.HORIZON))[:, None] & behind),
    )
    if behind.any() and worker.count != "spikes":
        trace = replace(trace, asked=_asked(network, ledger, trace.synops, behind))
    known = getattr(worker.policy, "calibrated", None)
    return Run(
        network=network,
        mode="sync",
        ticks=worker.ticks,
        policy=worker.policy,
        dtype=worker.dtype.name,
        seed=worker.seed,
        layer_delay=layer_delay,
        predictions=of_samples("prediction"),
        tied=of_samples("tied", bool),
        stop_time=stop_time,
        stop_reason=reason,
        trace=trace,
        ledger=ledger,
        events=_events(network, results) if recorded else None,
        recorded=tuple(recorded),
        potentials=_potentials(network, wiring, results) if membranes else None,
        queue_pushed=of_samples("pushed"),
        queue_popped=of_samples("popped"),
        queue_peak=of_samples("peak"),
        digests=digests,
        calibration=None
        if known is None
        else {"file": known.file, "samples": len(known.digests), "overlap": known.overlap(digests)},
        seconds=seconds,
    )


def _asked(network: Network, ledger: Ledger, synops: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """(samples, ticks) SynOps delivered between questions: those behind the output come after the tick's question."""
    numbers = {p.name: i for i, p in enumerate(network.populations)}
    asked = synops.copy()
    for c in network.connections:
        if behind[numbers[c.target]] and ledger.tap_class[c.label] in ("ac", "mac"):
            late = ledger.synops_by_tick(c.label, "delivered")
            asked -= late
            asked[:, 1:] += late[:, :-1]
    return asked


def _events(network: Network, results: list[_Sample]) -> np.ndarray:
    """All recorded events with channels-first neuron numbers."""
    events = np.concatenate([s.events for s in results if s.events is not None] or [np.zeros(0, EVENT)])
    for i, population in enumerate(network.populations):
        of_this = events["population"] == i
        events["neuron"][of_this] = channels_last(population.shape)[events["neuron"][of_this]]
    return events


def _sources(network: Network, wiring: Wiring, counted: np.ndarray) -> np.ndarray:
    """(N, 2, neurons) counts of all neurons, population after population, channels first."""
    parts = []
    for row, p in zip(wiring.plan.pop, network.populations, strict=True):
        order = np.argsort(channels_last(p.shape))
        parts.append(counted[:, :, row[k.P_UNIT] + order])
    return np.concatenate(parts, axis=2)


def _potentials(network: Network, wiring: Wiring, results: list[_Sample]) -> dict[str, np.ndarray]:
    found = {}
    for name, first in wiring.potentials.items():
        population = network[name]
        order = np.argsort(channels_last(population.shape))
        values = [s.books.potential[:, first : first + population.size][:, order] for s in results]
        found[name] = np.stack(values).reshape(len(results), -1, *population.shape)
    return found
