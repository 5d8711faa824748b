"""The verb: run a network over samples and hand back everything that happened, exactly counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from eventsnn import clocked
from eventsnn import kernels_sync as k
from eventsnn.clocked import CODES, Sample
from eventsnn.inputs import (
    EVENT,
    Events,
    arrange_images,
    blocks,
    check_events,
    check_seed,
    normalised,
    sample_digests,
    unit_interval,
)
from eventsnn.ledger import Ledger
from eventsnn.network import Network, Sparse, spread
from eventsnn.neurons import IF, LI, Integrator, Neuron, Synapse
from eventsnn.parallel import check_jobs, chunks, map_tasks
from eventsnn.watchdog import (
    Answers,
    FirstCrossing,
    Fixed,
    Oracle,
    Policy,
    StopReason,
    Trace,
    check_policy,
    default_policy,
    stably_right,
)
from eventsnn.wiring import Wiring, channels_last, fan_out, whole_microseconds, wire

if TYPE_CHECKING:
    from eventsnn import continuous  # as are its imports below: a run of whole ticks starts without its kernels

COUNTS = ("spikes", "connections", "sources")
TIES = ("together", "serial")
CHUNK_BYTES = 1 << 23  # of the accounts in a chunk of samples that is written by itself


@dataclass(frozen=True, eq=False)
class Interval:
    """What only a run in continuous time has.

    start, duration: seconds. ties: "together" or "serial". pulse, bias_period: seconds or None. pending: (N, T) int64
    most entries of the queue in each bin. standing: see `Run.state`.
    """

    start: float
    duration: float
    ties: str
    pulse: float | None
    bias_period: float | None
    pending: np.ndarray
    standing: continuous.Standing | None


@dataclass(frozen=True, eq=False)
class Run:
    """What a simulation gives back; N samples, T ticks, K output units.

    predictions, stop_reason (`StopReason` numbers): (N,) int64. stop_time: (N,) ticks run; in continuous time float64
    seconds, the deciding instant. tied: (N,) bool. outputs: (N, T, K) summed logits or spike counts after each tick,
    NaN past the stop. trace: what policies see. ledger: the counts. events: recorded spikes as a structured array
    (sample, time, population, neuron, value) ordered by sample, time and depth, or None; of the populations named in
    recorded. potentials: membranes after each tick, (N, T, *shape) by population, or None. queue_pushed, queue_popped,
    queue_peak: (N,) entries the simulator's own queue took, gave back, and held at most; unlike all other counts they
    depend on what is recorded. digests: (N, 6) uint8, of the inputs (`inputs.sample_digests`). calibration: with a
    calibrated policy, the name of its file, the number of samples it was calibrated on, and how many of this run's are
    among them (overlap). seconds: wall time without compilation. interval: None, or of a run in continuous time what
    it alone has; a tick is a bin of its account then, `Network.tick_seconds` long.
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
    interval: Interval | None = None

    @property
    def state(self) -> continuous.Standing | None:
        """Where the samples stand, to go on with `simulate(..., state=run.state)`.

        Kept by runs in continuous time that hold one sample, or went on from a state themselves.
        """
        return None if self.interval is None else self.interval.standing

    @property
    def ticks_run(self) -> np.ndarray:
        """(N,) int64 ticks begun; in continuous time bins of the account."""
        return self.ledger.stop_time

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
        multiple = units and getattr(self.ledger.neurons[number], "multi_spike", False)
        np.add.at(emitted, (own["sample"], own["neuron"]), own["value"].astype(np.int64) if multiple else 1)
        return emitted


class Replayed(NamedTuple):
    """What a policy would have done. All (N,), as in `Run`."""

    stop_time: np.ndarray
    predictions: np.ndarray
    tied: np.ndarray
    stop_reason: np.ndarray


@dataclass(frozen=True, eq=False)
class Job:
    """A run that was checked and has not begun; from `prepare`.

    samples: images as they were given, arranged (`inputs.arrange_images`), or `Events`. labels, digests: as in `Run`.
    recorded, membranes: names of populations whose events and whose membranes are recorded.
    """

    worker: clocked.Worker | continuous.Worker
    samples: np.ndarray | Events
    labels: np.ndarray | None
    digests: np.ndarray
    layer_delay: int
    recorded: list[str]
    membranes: list[str]
    jobs: int | str
    scheduler: str | None

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def network(self) -> Network:
        """The network that runs, with the delays of layer_delay."""
        return self.worker.network

    @property
    def records_all(self) -> bool:
        """Whether the events of all populations are recorded."""
        return self.recorded == _recorded(self.network, "spikes")[0]

    def results(self, parts: Sequence[range]) -> Iterator[list[Sample]]:
        """Run these samples; what each part of them left behind, in order."""
        tasks = ((_take(self.samples, part), part.start) for part in parts)
        return map_tasks(self.worker, tasks, self.jobs, self.scheduler)

    def runs(self, parts: Sequence[range]) -> Generator[Run]:
        """The same, each part as a `Run` of its own, whose seconds are those it was waited for."""
        self.worker.compile()
        threads = self.scheduler is None and str(self.jobs).isdigit() and int(self.jobs) > 1
        since = time.perf_counter()
        for part, results in zip(parts, self.results(parts), strict=True):
            now = time.perf_counter()
            yield pack(self, results, part, now - since)
            since = now if threads else time.perf_counter()  # threads went on while the last part was written

    def parts(self) -> list[range]:
        """The samples in consecutive chunks, cut by what their accounts take, whatever the number of workers."""
        worker, count = self.worker, len(self)
        worker.compile()
        assert worker.blank is not None
        each = sum(array.nbytes for array in worker.blank)
        units = sum(worker.network[name].size for name in self.recorded)
        each += units * worker.ticks * EVENT.itemsize // 8  # if one in eight fires in a tick
        size = max(1, min(CHUNK_BYTES // each, -(-count // 32), 256))
        return [range(i, min(i + size, count)) for i in range(0, count, size)]


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
    jobs: int | str = 1,
    scheduler: str | None = None,
    dtype: str | None = None,
    seed: int = 0,
    layer_delay: int = 0,
    layout: str | None = None,
    duration: float | None = None,
    ties: str = "together",
    pulse: float | None = None,
    bias_period: float | None = None,
    state: continuous.Standing | None = None,
    progress: Callable[[int], None] | None = None,
) -> Run:
    """Run every sample through its events until its cutoff or horizon, and account for it.

    inputs: images (N, *shape) as `inputs.prepare_images` takes them, or `Events`. labels: (N,) classes. mode: "sync",
    whole ticks, what clocked models do; or "async", continuous time, what asynchronous chips do. ticks: horizon,
    default the network's. watchdog: the cutoff, default the network's, else `Fixed()`. record: "outputs", "spikes"
    (events of every population), "potentials" (spikes and membranes), or names of populations whose events to record.
    count: how much of the account is kept: "connections" (everything, by connection and tick), "sources" (and the
    events of every single neuron), or "spikes" (nothing but events by population and tick, a little faster).
    jobs: worker threads, or "dask:N" for N processes; scheduler: address of a Dask cluster to run on instead; results
    depend on neither. dtype: "float32" (default of sync) or "float64" (of async). seed: of rate-coded input, keyed with
    the sample's index. layer_delay: least delay of every connection in ticks. progress: called with 0 once everything
    was checked, then with the number of samples just finished.

    For "async" alone: duration: horizon in seconds, else ticks of the network's `tick_seconds`. ties: "together" tests
    a neuron after all arrivals of an instant, "serial" after each. pulse: seconds for which an event acts as a constant
    current, gain x weight / pulse; default a jump. bias_period: seconds; biases and images reach populations with
    several positions in pulses that far apart, instead of steadily. state: of an earlier run, to go on from; event
    times count from its very beginning, and a run of one sample keeps its own (`Run.state`).

    Raises ValueError naming what does not fit. See `docs/semantics.md` for what a run means.
    """
    job = prepare(
        network,
        inputs,
        labels,
        mode=mode,
        ticks=ticks,
        watchdog=watchdog,
        record=record,
        count=count,
        jobs=jobs,
        scheduler=scheduler,
        dtype=dtype,
        seed=seed,
        layer_delay=layer_delay,
        layout=layout,
        duration=duration,
        ties=ties,
        pulse=pulse,
        bias_period=bias_period,
        state=state,
    )
    if progress is not None:
        progress(0)
    job.worker.compile()
    started = time.perf_counter()
    results: list[Sample] = []
    for part in job.results(chunks(len(job), check_jobs(jobs, scheduler))):
        results += part
        if progress is not None:
            progress(len(part))
    return pack(job, results, range(len(job)), time.perf_counter() - started)


def prepare(
    network: Network,
    inputs: np.ndarray | Events,
    labels: np.ndarray | None = None,
    *,
    mode: str = "sync",
    ticks: int | None = None,
    watchdog: Policy | None = None,
    record: str | Sequence[str] = "outputs",
    count: str = "connections",
    jobs: int | str = 1,
    scheduler: str | None = None,
    dtype: str | None = None,
    seed: int = 0,
    layer_delay: int = 0,
    layout: str | None = None,
    duration: float | None = None,
    ties: str = "together",
    pulse: float | None = None,
    bias_period: float | None = None,
    state: continuous.Standing | None = None,
) -> Job:
    """Check everything a run needs, as `simulate` takes it; nothing is run yet, and no sample converted to keep."""
    if mode not in ("sync", "async"):
        raise ValueError(f"mode is {mode!r}, wanted 'sync' (whole ticks) or 'async' (continuous time)")
    timed = mode == "async"
    dtype = dtype or ("float64" if timed else "float32")
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype is {dtype!r}, wanted 'float32' or 'float64'")
    if count not in COUNTS:
        raise ValueError(f"count is {count!r}, wanted one of {', '.join(COUNTS)}")
    if ties not in TIES:
        raise ValueError(f"ties is {ties!r}, wanted 'together' or 'serial'")
    check_jobs(jobs, scheduler)
    if not timed:
        given = {"duration": duration, "pulse": pulse, "bias_period": bias_period, "state": state}
        for name in [name for name, value in given.items() if value is not None] + ["ties"] * (ties != "together"):
            raise ValueError(f"{name} belongs to continuous time; give it with mode async")
    slower = network.with_layer_delay(layer_delay) if layer_delay else network
    start = end = 0.0
    if timed:
        from eventsnn import continuous

        continuous.check(slower, bias_period=bias_period, pulse=pulse)
        assert network.tick_seconds is not None
        if state is not None:
            start = state.time
        length = duration if duration is not None else _horizon(network, ticks) * network.tick_seconds
        if not (np.isfinite(length) and length > 0):
            raise ValueError(f"duration is {length!r}, wanted a positive number of seconds")
        end = start + whole_microseconds(length)
        ticks = continuous.bins(start, end, whole_microseconds(network.tick_seconds))
    ticks = _horizon(network, ticks)
    policy = watchdog if watchdog is not None else default_policy(network)
    output = network[network.output]
    check_policy(policy, network.readout, output.size)
    check_calibrated(policy, network, ticks, layer_delay)
    network = slower
    if count == "spikes" and policy.reason == StopReason.BUDGET:
        raise ValueError("a budget of SynOps needs them counted; run with count='connections'")
    recorded, membranes = _recorded(network, record)
    samples = _arranged(network, inputs, layout, seed)
    labels = _labels(labels, len(samples), output.size)
    worker: clocked.Worker | continuous.Worker
    if timed:
        crossing = _representable(policy.theta, dtype) if isinstance(policy, FirstCrossing) else None
        made = continuous.Made(network, dtype, ties, pulse, bias_period, crossing)
        if state is not None:
            state.check(made, samples)
        wired = made.wired(recorded, membranes, None if state is None else state.wired)
        keep = len(samples) == 1 or state is not None
        worker = continuous.Worker(made, wired, (start, end), policy, count, state, keep)
    else:
        _check_whole_delays(network)
        wiring = wire(network, ticks, np.dtype(dtype), recorded, membranes)
        worker = clocked.Worker(network, wiring, ticks, policy, count, dtype, seed)
    return Job(worker, samples, labels, sample_digests(samples), layer_delay, recorded, membranes, jobs, scheduler)


def _check_whole_delays(network: Network) -> None:
    for c in network.connections:
        own = c.op.delay if isinstance(c.op, Sparse) else None
        if own is not None and np.any(own != np.round(own)):
            raise ValueError(
                f"connection {c.label!r} has synapses with a delay of {own[own != np.round(own)][0]} ticks, wanted "
                "whole ticks in mode sync; run it in mode async, or round the delays"
            )


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
        if trace.answers is not None:
            return self._by_answers(policy, trace.answers)
        if isinstance(policy, Oracle):
            return self._oracle()
        stop, reason = np.zeros(n, np.int64), np.zeros(n, np.int64)
        k.decide(CODES[policy.reason], policy.thresholds(ticks), self.evidence(policy), stop, reason)
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

    def _by_answers(self, policy: Policy, answers: Answers) -> Replayed:
        """As a live run in continuous time decides, from one question to the next; stop times are seconds."""
        n, ticks, _ = self.trace.outputs.shape
        if isinstance(policy, Oracle) or (isinstance(policy, Fixed) and policy.ticks is not None):
            raise ValueError(f"the cutoff {policy} counts ticks; a run in continuous time has none to replay it on")
        if isinstance(policy, FirstCrossing) and not np.all(answers.reach < policy.theta):
            raise ValueError(
                f"an output can get to the threshold of {policy} between the events that reach it, which a recorded "
                "run in mode async does not tell; run it live with this cutoff"
            )
        thresholds = policy.thresholds(ticks)
        key = (CODES[policy.reason], float(getattr(policy, "scale", 1.0)), int(getattr(policy, "size", 1)))
        stop, reason = answers.end.copy(), np.full(n, int(StopReason.HORIZON))
        prediction, tied = self.leading[:, -1].copy(), self.tied[:, -1].copy()
        for i in range(n):
            part = slice(int(answers.offsets[i]), int(answers.offsets[i + 1]))
            outputs, spent = answers.outputs[None, part], answers.synops[None, part]
            evidence, at, why = np.zeros(spent.shape), np.zeros(1, np.int64), np.zeros(1, np.int64)
            k.weigh(*key, outputs, np.diff(spent, axis=1, prepend=0), evidence)
            k.decide(key[0], thresholds[answers.bin[part]], evidence, at, why)
            if why[0] == k.STOPPED:
                place = part.start + at[0] - 1
                stop[i], reason[i] = answers.time[place], int(policy.reason)
                prediction[i], tied[i] = k.best_class(answers.outputs[place], answers.margins[place])
            elif self.trace.stop_time[i] < ticks:
                raise ValueError(f"sample {i} was stopped before {policy} would decide; replay needs a full run")
        return Replayed(stop, prediction, tied, reason)

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
        key = (CODES[policy.reason], float(getattr(policy, "scale", 1.0)), int(getattr(policy, "size", 1)))
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


def _arranged(network: Network, inputs: np.ndarray | Events, layout: str | None, seed: int) -> np.ndarray | Events:
    """The samples in their own dtype, checked: what a worker makes of them cannot fail."""
    if isinstance(inputs, Events):
        if network.encoding != "events":
            raise ValueError(f"the network takes images ({network.encoding} input), but was given events")
        if network.tick_seconds is None:
            raise ValueError("event times need the length of a tick; give tick_seconds (on the command line: --tick)")
        check_events(inputs, network.input.size)
        return inputs
    if network.encoding == "events":
        raise ValueError("the network takes address events, but was given images")
    arranged = arrange_images(inputs, network, layout)
    if network.encoding == "rate":
        check_seed(seed)
    if network.encoding != "direct":
        for part in blocks(arranged):
            for image in normalised(arranged[part], network, "float64"):
                unit_interval(image, network.encoding)
    return arranged


def _take(samples: np.ndarray | Events, part: range) -> np.ndarray | Events:
    whole = slice(part.start, part.stop)
    return samples.take(whole) if isinstance(samples, Events) else samples[whole]


def _labels(labels: np.ndarray | None, count: int, classes: int) -> np.ndarray | None:
    if labels is None:
        return None
    labels = np.asarray(labels)
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise ValueError(f"labels have shape {labels.shape} and dtype {labels.dtype}, wanted ({count},) whole numbers")
    if count and not (labels.min() >= 0 and labels.max() < classes):
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}, but the output has {classes} classes")
    return labels.astype(np.int64)


# ------------------------------------------------------------------------------------------------------------ pack


def pack(job: Job, results: list[Sample], part: range, seconds: float = 0.0) -> Run:
    """The run of one part of a job's samples. With no results and an empty part, a run of no samples."""
    worker, recorded, membranes = job.worker, job.recorded, job.membranes
    network, wiring = worker.network, worker.wiring
    assert worker.blank is not None
    digests = job.digests[part.start : part.stop]
    labels = None if job.labels is None else job.labels[part.start : part.stop]
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
        neurons=tuple(_as_run(p.neuron, worker) for p in network.populations),
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
        turns=stop_time[:, None] - (_stopped(reason, worker)[:, None] & behind),
    )
    if behind.any() and worker.count != "spikes":
        trace = replace(trace, asked=_asked(network, ledger, trace.synops, behind))
    known = getattr(worker.policy, "calibrated", None)
    run = Run(
        network=network,
        mode="sync",
        ticks=worker.ticks,
        policy=worker.policy,
        dtype=worker.dtype.name,
        seed=worker.seed,
        layer_delay=job.layer_delay,
        predictions=of_samples("prediction"),
        tied=of_samples("tied", bool),
        stop_time=stop_time,
        stop_reason=reason,
        trace=trace,
        ledger=ledger,
        events=_events(network, results, part.start) if recorded else None,
        recorded=tuple(recorded),
        potentials=_potentials(network, wiring, results, worker.blank.potential) if membranes else None,
        queue_pushed=of_samples("pushed"),
        queue_popped=of_samples("popped"),
        queue_peak=of_samples("peak"),
        digests=digests,
        calibration=None
        if known is None
        else {"file": known.file, "samples": len(known.digests), "overlap": known.overlap(digests)},
        seconds=seconds,
    )
    return run if isinstance(worker, clocked.Worker) else _in_time(run, worker, results)


def _in_time(run: Run, worker: continuous.Worker, results: list[Sample]) -> Run:
    """A run of whole ticks, with what continuous time alone has."""
    from eventsnn import continuous

    made, answers = worker.made, _answers(results, worker)
    standing = None
    if worker.keep and all(s.state is not None for s in results):
        standing = continuous.Standing(worker.end, tuple(s.state for s in results), made, worker.wired)
    interval = Interval(
        start=worker.start / 1e6,
        duration=(worker.end - worker.start) / 1e6,
        ties=made.ties,
        pulse=made.pulse,
        bias_period=made.bias_period,
        pending=np.stack([s.books.pending for s in results]) if results else np.zeros((0, run.ticks), np.int64),
        standing=standing,
    )
    return replace(
        run, mode="async", interval=interval, stop_time=answers.end, trace=replace(run.trace, answers=answers)
    )


def _as_run(neuron: Neuron, worker: clocked.Worker | continuous.Worker) -> Neuron:
    """A neuron as the account knows it: in continuous time most soft resets repeat (`IF.repeats`)."""
    if not isinstance(worker, clocked.Worker) and isinstance(neuron, IF) and neuron.repeats:
        return replace(neuron, multi_spike=True)
    return neuron


def _stopped(reason: np.ndarray, worker: clocked.Worker | continuous.Worker) -> np.ndarray:
    """(N,) whether a sample was stopped by a question; fixed:T ends a run in continuous time between two instants."""
    ended = [int(StopReason.HORIZON)] + [int(StopReason.TICKS)] * (not isinstance(worker, clocked.Worker))
    return ~np.isin(reason, ended)


def _answers(results: list[Sample], worker: continuous.Worker) -> Answers:
    shown = [s.answers for s in results if s.answers is not None] or [worker.no_answers()]
    time, bins, synops, outputs, margins = (np.concatenate(parts) for parts in zip(*shown, strict=True))
    end = np.array([s.seconds for s in results], np.float64)
    offsets = np.cumsum([0, *(len(a[0]) for a in shown)])[: len(results) + 1]
    return Answers(offsets, time, bins, synops, outputs, margins, end, _reach(worker))


def _reach(worker: continuous.Worker) -> np.ndarray:
    """(classes,) how far output potentials get by themselves: a leak leads them no further than their rest or start.

    Infinite for currents, steady inputs and pulses, which may lead further, for a run that goes on from a state, whose
    outputs may stand anywhere, and for outputs that are no potentials.
    """
    network, made = worker.network, worker.made
    output = network[network.output]
    cell, ways = output.neuron, [c for c in network.connections if c.target == network.output]
    steady = any(c.bias is not None and np.any(c.bias) for c in ways)
    steady |= network.encoding == "direct" and any(c.source == network.input.name for c in ways)
    moved = made.pulse is not None or worker.standing is not None
    if not isinstance(cell, LI) or isinstance(cell, Synapse) or steady or moved:
        return np.full(output.size, np.inf)
    furthest = np.maximum(spread(cell.rest, output.shape), spread(cell.v0, output.shape))
    return np.broadcast_to(furthest, output.shape).ravel().astype(worker.dtype).astype(np.float64)


def _representable(theta: float, dtype: str) -> float:
    """The least number of this dtype that is not below theta: where a membrane stands that has reached it."""
    nearest = np.asarray(theta, dtype)
    return float(nearest if float(nearest) >= theta else np.nextafter(nearest, np.asarray(np.inf, dtype)))


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


def _events(network: Network, results: list[Sample], first: int) -> np.ndarray:
    """All recorded events with channels-first neuron numbers, their samples counted from `first`."""
    found = [s.events for s in results if s.events is not None]
    events = np.concatenate(found or [np.zeros(0, EVENT)])
    events["sample"] -= first
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


def _potentials(network: Network, wiring: Wiring, results: list[Sample], like: np.ndarray) -> dict[str, np.ndarray]:
    """(N, T, *shape) membranes by population. like: (T, columns), those of one sample."""
    found = {}
    for name, first in wiring.potentials.items():
        population = network[name]
        order = np.argsort(channels_last(population.shape))
        found[name] = np.empty((len(results), len(like), *population.shape), like.dtype)
        for i, sample in enumerate(results):
            values = sample.books.potential[:, first : first + population.size][:, order]
            found[name][i] = values.reshape(-1, *population.shape)
    return found
