"""Samples in whole ticks: what a worker of the clocked discipline owns, feeds to the kernels and takes from them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from eventsnn import kernels_sync as k
from eventsnn.inputs import EVENT, Events, encoded, prepared
from eventsnn.network import Network
from eventsnn.neurons import IF
from eventsnn.watchdog import Policy, StopReason
from eventsnn.wiring import Wiring, aligned, channels_last

RECORD_CAPACITY = 1 << 20  # recorded events a worker holds before it hands them over

# Policies as the kernels know them.
CODES = {
    StopReason.HORIZON: k.POLICY_FIXED,
    StopReason.SPIKE_GAP: k.POLICY_SPIKE_GAP,
    StopReason.TOPK: k.POLICY_TOPK,
    StopReason.CONFIDENCE: k.POLICY_CONFIDENCE,
    StopReason.ENTROPY: k.POLICY_ENTROPY,
    StopReason.FIRST_SPIKE: k.POLICY_FIRST,
    StopReason.FIRST_CROSSING: k.POLICY_CROSSING,
    StopReason.BUDGET: k.POLICY_BUDGET,
    StopReason.CONFORMAL: k.POLICY_CONFORMAL,
    StopReason.TICKS: k.POLICY_FIXED,
}


class Sample(NamedTuple):
    """What one sample leaves behind.

    stop: ticks begun, or bins of the account. books: of its discipline, the fields of `kernels_sync.Books` among them.
    seconds, answers, state: of continuous time alone; the instant of the stop, what the watchdog was shown (times,
    SynOps spent, outputs, margins), and where the sample stands.
    """

    prediction: int
    tied: bool
    stop: int
    reason: int
    books: Any
    macs_effective: int
    events: np.ndarray | None
    pushed: int
    popped: int
    peak: int
    seconds: float | None = None
    answers: tuple[np.ndarray, ...] | None = None
    state: Any = None


class Worker:
    """Runs chunks of samples; called by several threads at once, each call with a state of its own.

    A pickle of it holds neither states nor compiled code: another process makes its own, and keeps them.
    """

    def __init__(
        self,
        network: Network,
        wiring: Wiring,
        ticks: int,
        policy: Policy,
        count: str,
        dtype: str,
        seed: int,
    ):
        self.count = count
        self.network, self.wiring, self.ticks = network, wiring, ticks
        self.policy, self.dtype, self.seed = policy, np.dtype(dtype), seed
        self.thresholds = policy.thresholds(ticks)
        self.scale, self.size = float(getattr(policy, "scale", 1.0)), int(getattr(policy, "size", 1))
        self.shape = network.input.shape
        self.to_last = np.argsort(channels_last(self.shape))  # channels-first unit -> channels-last unit
        self.tick_us = None if network.tick_seconds is None else network.tick_seconds * 1e6
        self.spare: list[k.State] = []
        self.blank: k.Books | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "spare": [], "blank": None}

    def compile(self) -> None:
        """Compile the kernels, or load them from the cache, without running a sample; once in a process."""
        if self.blank is not None:
            return
        state = self._state(1)
        self._kernel(state, self._feed_events(np.zeros(0, np.int64), np.zeros(0, np.int64)), 0, True)
        k.best_class(state.books.outputs[0], state.books.margins[0])
        self.blank = state.books

    def __call__(self, samples: np.ndarray | Events, first: int) -> list[Sample]:
        """Run a chunk of samples, events or images of `inputs.arrange_images`. first: index of the chunk's first."""
        self.compile()
        samples = prepared(samples, self.network, self.dtype)
        state = self.spare.pop() if self.spare else self._state(RECORD_CAPACITY)
        done = [self._run(state, samples, i, first) for i in range(len(samples))]
        self.spare.append(state)
        return done

    def _kernel(self, state: k.State, feed: k.Feed, ticks: int, fresh: bool) -> int:
        code, plan = CODES[self.policy.reason], self.wiring.plan
        return k.run(plan, state, feed, ticks, code, self.thresholds, self.scale, self.size, fresh)

    def _run(self, state: k.State, samples: np.ndarray | Events, i: int, first: int) -> Sample:
        (feed, taps), index = self._feed(samples, i, first), first + i
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
        return Sample(
            prediction=int(best),
            tied=bool(tied),
            stop=stop,
            reason=int(self.policy.reason) if status == k.STOPPED else int(StopReason.HORIZON),
            books=k.Books(*(array.copy() for array in books)),
            macs_effective=int(taps),
            events=np.concatenate(fetched) if fetched else None,
            pushed=int(state.queue.at[k.A_PUSHED]),
            popped=int(state.queue.at[k.A_POPPED]),
            peak=int(state.queue.at[k.A_PEAK]),
        )

    def _records(self) -> bool:
        return bool(self.wiring.plan.pop[:, k.P_RECORD].any())

    def _feed(self, samples: np.ndarray | Events, i: int, first: int) -> tuple[k.Feed, int]:
        """A sample as the kernels take it, and the taps of non-zero weight of an image's non-zero pixels."""
        encoding = self.network.encoding
        if encoding == "direct" and not isinstance(samples, Events):
            return self._feed_image(samples[i])
        events = encoded(samples, i, encoding, self.ticks, self.tick_us, self.seed, first)
        inside = events.tick < self.ticks
        return self._feed_events(events.tick[inside], events.neuron[inside]), 0

    def _feed_events(self, tick: np.ndarray, neuron: np.ndarray) -> k.Feed:
        batch, tick_group = self._batch(tick.size, tick.size), np.empty(self.ticks + 1, np.int64)
        k.group_events(tick, self.to_last[neuron], self.shape[0], tick_group, batch.groups, batch.channel)
        return k.Feed(tick_group, batch, analog=False)

    def _feed_image(self, image: np.ndarray) -> tuple[k.Feed, int]:
        values = image.reshape(self.shape[0], -1).astype(self.dtype, copy=False)
        batch = self._batch(values.shape[1], values.size)
        groups, taps = k.group_pixels(values, self.wiring.image_taps, batch.groups, batch.channel, batch.value)
        tick_group = np.full(self.ticks + 1, groups)
        tick_group[0] = 0
        return k.Feed(tick_group, batch, analog=True), taps

    def _batch(self, groups: int, events: int) -> k.Batch:
        """Room for a batch; the values of events are 1."""
        return k.Batch(
            groups=np.empty((groups + 1, 2), np.int64),
            channel=np.empty(events, np.int32),
            unit=np.empty(0, np.int32),
            value=np.ones(events, self.dtype),
        )

    def _state(self, record: int) -> k.State:
        w, floating = self.wiring, self.dtype
        populations, connections = len(self.network.populations), len(self.network.connections)
        output = self.network[self.network.output]
        spiking = isinstance(output.neuron, IF)
        mask = np.zeros(max(w.units, 8), np.uint8)
        int64, int32, ring = np.int64, np.int32, int(w.plan.misc[k.M_RING])
        return k.State(
            cells=k.Cells(
                v=aligned(w.units, floating),
                register=aligned(w.registers, floating),
                current=np.zeros(w.currents + 1, floating),
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
                clock=np.zeros((3, populations), int64),
                at=np.zeros(k.A_COLUMNS, int64),
            ),
            batch=k.Batch(
                groups=np.zeros((w.group_entries + 1, 2), int64),
                channel=np.zeros(w.event_entries + 1, int32),
                unit=np.zeros(w.event_entries + 1, int32),
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
    """An account as the kernels take it: empty where it is not kept."""
    return np.zeros(shape if kept else (0,) * len(shape), np.int64)


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
