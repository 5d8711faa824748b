"""How fast the engine is: against the memory's limit, against other libraries on the same network, and as it grows.

    python tools/bench.py [--only limits,resnet] [--rounds 9] [--json bench.json] [--figure bench.png]

Everything is a ratio within one run: the pieces of work compared take turns, one of each per round, pinned to one core
and one thread, and ratios are taken round by round, so that a machine that slows down slows all of it. Medians are
printed with the least and the most. Figures with a target say whether it is met. With the evaluation data at hand
(EVENTSNN_DATA, or ../shared) the networks are published ones, else ones of the same shape with random weights.

Our time is `Run.seconds`, every sample's whole way through the kernels and their books; a library's is a forward pass
of a model that is built and a batch that is arranged. What a call of `simulate` takes in all is printed beside it.

limits      `stream_limit()`: the fastest this core adds weights onto membranes, rows of 3 x C_out float32 from 256 kB
            (in L2) added onto an accumulator of 8 kB (in L1), one row after the other
layers      events through one connection, against that limit
resnet      ResNet-20 on images, IF neurons with soft reset, 4, 8 and 32 ticks: against the limit, against the libraries
            of `tools/rivals.py`, and against a plain ANN run once per tick
events      the NIR paper's N-MNIST network, 300 ticks of 1 ms, against the libraries
mlp         784-1200-1200-10, 20 ticks, events at a rate of 0.13, against the libraries
counting    what the account costs
workers     two worker threads against one
memory      peak resident memory of `eventsnn simulate`, over ticks and samples
growth      time per SynOp from 10^6 to 10^10 SynOps, and time over ticks with the same events spread among them
ticks       seconds an empty tick takes
cutoff      time saved by stopping, against SynOps saved
continuous  the queue against `bare_heap` (a binary heap of times with one number each and nothing else, 10,000
            pending), and networks on microsecond events
start       `eventsnn simulate`, `eventsnn --help` and `import eventsnn` from a new process, caches warm
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from numba import njit

import eventsnn as es
from eventsnn import kernels_async, kernels_sync, runs, wiring
from eventsnn.cli import packaged
from eventsnn.network import Connection, Conv, Dense, Identity, Network, Population
from eventsnn.neurons import IF, LIF, Input, Integrator
from eventsnn.watchdog import read_policy

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools import rivals
from tools.bench_figure import draw
from tools.samples import decoded
from tools.workloads import CHANNELS, CHECKPOINT, DATA, event_network, mlp_network, nmnist, poisson, resnet20

ROOT = Path(__file__).resolve().parents[1]

Works = dict[str, Callable[[], float | None]]
Times = dict[str, np.ndarray]
Spread = dict[str, float]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"sections, of {', '.join(SECTIONS)}")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--long", action="store_true", help="memory at 10,000 samples, too")
    parser.add_argument("--quick", action="store_true", help="small networks, a round each: does it run at all?")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument("--figure", type=Path, help="draw the comparisons and the growth to this file")
    options = parser.parse_args(arguments)
    chosen = [name.strip() for name in options.only.split(",")]
    for name in chosen:
        if name not in SECTIONS:
            parser.error(f"there is no section {name!r}; there are {', '.join(SECTIONS)}")

    torch.set_num_threads(1)
    book = Book(1 if options.quick else options.rounds, options.quick, options.long)
    book.pin()
    print(
        f"{book.found['machine']['processor']}, one core, medians of {book.rounds} interleaved rounds (least to most)"
    )
    began = time.perf_counter()
    for name in chosen:
        book.begin(name)
        since = time.perf_counter()
        SECTIONS[name](book)
        book.here["took_seconds"] = time.perf_counter() - since
    book.found["took_seconds"] = time.perf_counter() - began
    if book.targets:
        missed = [t for t in book.targets if not t["met"]]
        print(f"\n{len(book.targets) - len(missed)} of {len(book.targets)} targets met")
        for t in missed:
            print(
                f"  missed: {t['section']}, {t['what']}: wanted {t['wanted']:g}, reached {t['reached']['median']:.3g}"
            )
    if options.json:
        options.json.write_text(json.dumps(book.found, indent=2) + "\n")
    if options.figure:
        runs.save_figure(draw(book.found), options.figure)


class Book:
    """What is measured, and how: figures by section, targets, and which cores there are."""

    def __init__(self, rounds: int, quick: bool, long: bool):
        self.rounds, self.quick, self.long = rounds, quick, long
        self.few = max(min(3, rounds), rounds // 3)  # rounds of what takes seconds
        self.targets: list[dict[str, Any]] = []
        self._libraries: dict[str, type[rivals.Rival]] | None = None
        self.cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
        self.found: dict[str, Any] = {
            "machine": {
                "processor": processor(),
                "cores": len(self.cores),
                "python": platform.python_version(),
                "numpy": np.__version__,
                "numba": numba.__version__,
                **rivals.versions(),
            },
            "rounds": rounds,
            "quick": quick,
            "targets": self.targets,
            "sections": {},
        }

    def begin(self, name: str) -> None:
        """Open a section: its figures go to `here`, with the load it was measured under."""
        self.name, self.here = name, {"load": load()}
        self.found["sections"][name] = self.here
        print(f"\n{name} (load {self.here['load']:.2f})")

    def target(self, what: str, wanted: float, reached: Spread, most: bool = False, form: str = "{:.2f}") -> None:
        """Note and print a figure that has a target. most: it is to stay below."""
        met = bool(reached["median"] <= wanted if most else reached["median"] >= wanted)
        self.targets.append(
            {"section": self.name, "what": what, "wanted": wanted, "most": most, "reached": reached, "met": met}
        )
        verdict = "" if met else ", missed"
        print(f"  {what}: wanted {'at most ' if most else ''}{wanted:g}, reached {said(reached, form)}{verdict}")

    def libraries(self) -> dict[str, type[rivals.Rival]]:
        """The libraries that can be imported; the others are named once."""
        if self._libraries is None:
            self._libraries = rivals.present(lambda line: print(f"  {line}"))
        return self._libraries

    def pin(self, one: bool = True) -> None:
        """Stay on one core, or use all of them again; where only the running counts, on whichever is free."""
        if not self.quick and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {max(self.cores)} if one else self.cores)


def load() -> float:
    """How many processes wanted to run during the last minute."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan


def interleave(works: Works, rounds: int, warm: int = 1) -> Times:
    """Seconds of every piece of work in every round, one of each per round, after `warm` rounds that do not count."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for i in range(-warm, rounds):
        for name, work in works.items():
            begin = time.perf_counter()
            inner = work()
            spent = time.perf_counter() - begin if inner is None else inner
            if i >= 0:
                times[name].append(spent)
    return {name: np.array(t) for name, t in times.items()}


def spread(values: Any) -> Spread:
    """Median, least and most."""
    values = np.atleast_1d(values)
    return {"median": float(np.median(values)), "min": float(values.min()), "max": float(values.max())}


def said(s: Spread, form: str = "{:.2f}") -> str:
    """A spread in words."""
    return f"{form} ({form} to {form})".format(s["median"], s["min"], s["max"])


# ------------------------------------------------------------------------------------------------ limit and layers


@cache
def stream_limit(channels: int) -> tuple[Callable[[], None], int]:
    """(work, additions) of one measurement for rows of 3 x `channels`: whole rows in vector registers, no tests."""
    length = 3 * channels
    width = min(length, 96)
    add = {48: kernels_sync._add_48, 96: kernels_sync._add_96}[width]
    count = 65536 // length

    @njit(nogil=True)
    def stream(accumulator, rows, number, passes):
        for _ in range(passes):
            at = 0
            for row in range(count):
                for part in range(0, length, width):
                    add(accumulator, (at + part,), rows, number, accumulator, row, row + 1, length, (part,))
                at += length
                if at > 2048 - length:
                    at = 0

    rows, numbers = wiring.aligned(65536, np.float32), np.arange(count, dtype=np.int32)
    rows[:] = 1
    accumulator = wiring.aligned(2048, np.float32)
    passes = (
        1000  # long enough, 7 ms, for others' turns on the core to fall on it as they fall on what it is held against
    )
    return lambda: stream(accumulator, rows, numbers, passes), passes * count * length


class Limits:
    """The streaming limits of all row lengths, to be measured among other work."""

    def __init__(self) -> None:
        self.streams = {c: stream_limit(c) for c in CHANNELS}
        self.works: Works = {f"limit {c}": work for c, (work, _) in self.streams.items()}

    def rates(self, times: Times) -> dict[int, np.ndarray]:
        """Additions a second by channels, in every round."""
        return {c: adds / times[f"limit {c}"] for c, (_, adds) in self.streams.items()}


def limits(book: Book) -> None:
    ours = Limits()
    for channels, rate in ours.rates(interleave(ours.works, book.rounds)).items():
        book.here[str(channels)] = spread(rate)
        print(f"  stream limit, rows of 3 x {channels}: {said(spread(rate / 1e9))} billion additions/s")


SIZES = ((16, 32), (32, 16), (64, 8))
RATES = (0.03, 0.13)


def layers(book: Book) -> None:
    ours = Limits()
    works = {f"conv 3x3, {c} channels, {h}x{h}, rate {rate}": layer(c, h, rate) for c, h in SIZES for rate in RATES}
    works["dense 1200x1200, rate 0.13"] = layer(1200, 1, 0.13)
    if book.quick:
        works = dict(list(works.items())[-2:])
    times = interleave(ours.works | {name: work for name, (work, _) in works.items()}, book.rounds)
    rates = ours.rates(times)
    for name, (_, synops) in works.items():
        rate = synops / times[name]
        of_limit = rate / next((r for c, r in rates.items() if f" {c} channels" in name), rates[max(rates)])
        book.here[name] = {"synops": synops, "synops_per_second": spread(rate), "of_limit": spread(of_limit)}
        print(f"  {name}: {said(spread(rate / 1e9))} billion SynOps/s, {said(spread(of_limit))} of the limit")


def layer(channels: int, size: int, rate: float) -> tuple[Callable[[], float], int]:
    """(work, SynOps) of events through one connection into neurons that never fire."""
    rng = np.random.default_rng(0)
    if size == 1:
        shape: tuple[int, ...] = (channels,)
        op: Any = Dense(rng.normal(size=(channels, channels)))
    else:
        shape = (channels, size, size)
        op = Conv(rng.normal(size=(channels, channels, 3, 3)), (1, 1), ((1, 1), (1, 1)), (1, 1))
    network = Network(
        populations=(
            Population("input", shape, Input()),
            Population("target", shape, IF(threshold=1e30)),
            Population("out", shape, Integrator()),
        ),
        connections=(Connection("input", "target", op), Connection("target", "out", Identity())),
        output="out",
        encoding="events",
        tick_seconds=1e-3,
        ticks=40,
    )
    fired = rng.random((40, channels * size * size)) < rate
    tick, neuron = np.nonzero(fired)
    events = es.Events(tick * 1000, neuron, np.array([0, len(tick)]))
    synops = int(es.simulate(network, events).ledger.synops("input->target").sum())
    return lambda: es.simulate(network, events).seconds, synops


# ------------------------------------------------------------------------------------------------- against libraries


def full_run(network: Network, samples: Any, ticks: int | None = None, **how: Any) -> es.Run:
    """A run without a cutoff."""
    return es.simulate(network, samples, ticks=ticks, watchdog=es.Fixed(), **how)


class Contest:
    """One network, ours against every library's model of it that gives the same spikes.

    samples: what we run, one after the other. batch: the same for the libraries, images (B, ...) or frames (T, B, ...),
    repeated where a batch holds more. several: neurons fire several spikes a tick, which sinabs alone knows.
    """

    def __init__(
        self,
        book: Book,
        network: Network,
        samples: Any,
        batch: torch.Tensor,
        ticks: int,
        several: bool = False,
    ):
        self.network, self.samples, self.batch, self.ticks = network, samples, batch, ticks
        self.axis = 0 if network.encoding == "direct" else 1
        self.calls: list[float] = []
        self.run = full_run(network, samples, ticks)
        self.count = len(self.run.predictions)
        self.make = {
            name: partial(kind, network, ticks, several)
            for name, kind in book.libraries().items()
            if not several or name == "sinabs"
        }
        self.same = {name: self.agrees(name, make) for name, make in self.make.items()}

    def agrees(self, name: str, make: Callable[[], rivals.Rival]) -> dict[str, float]:
        """How near a library's outputs are to ours; the library is left out where they are not the same network's."""
        n = min(8, self.count)
        model = make()
        theirs = model.outcome(model.arranged(self.first(n)))
        ours = full_run(self.network, part(self.samples, n), self.ticks)
        answers = float(np.mean(theirs.outputs.argmax(1) == ours.outputs[:, -1].argmax(1)))
        spikes = max(
            abs(s - ours.ledger.spike_units(p).sum()) / max(1, ours.ledger.spike_units(p).sum())
            for p, s in theirs.spikes.items()
        )
        if answers < 0.85 or spikes > 0.01:
            print(
                f"  {name} is left out: it agrees with us on {answers:.0%} of answers, its spikes differ by "
                f"{spikes:.1%}; the comparison would mean nothing"
            )
        return {"answers_equal": answers, "spikes_differ": float(spikes)}

    def first(self, count: int) -> torch.Tensor:
        """A batch of that many samples."""
        return self.batch.index_select(self.axis, torch.arange(count) % self.batch.shape[self.axis])

    def ours(self) -> float:
        begin = time.perf_counter()
        run = full_run(self.network, self.samples, self.ticks)
        self.calls.append(time.perf_counter() - begin)
        return run.seconds

    def works(self, batch: int) -> Works:
        """A pass of every library that agrees."""
        found: Works = {}
        for name, make in self.make.items():
            if self.same[name]["answers_equal"] >= 0.85 and self.same[name]["spikes_differ"] <= 0.01:
                model = make()
                found[f"{name} {batch}"] = passes(model, model.arranged(self.first(batch)), self.run.seconds)
        return found


def passes(model: rivals.Rival, batch: torch.Tensor, lasting: float) -> Callable[[], float]:
    """Work that takes the mean of as many passes as fill `lasting` seconds.

    So it takes about as long as what it is held against, and other processes' turns on the core fall on both alike.
    """
    model(batch)
    begin = time.perf_counter()
    model(batch)
    repeats = max(1, math.ceil(lasting / max(1e-6, time.perf_counter() - begin)))

    def work() -> float:
        begin = time.perf_counter()
        for _ in range(repeats):
            model(batch)
        return (time.perf_counter() - begin) / repeats

    return work


def part(samples: Any, count: int) -> Any:
    """The first samples of images or events."""
    return samples.first(count) if isinstance(samples, es.Events) else samples[:count]


def contest(
    book: Book,
    where: dict[str, Any],
    one: Contest,
    batches: Sequence[int],
    extra: Works | None = None,
    more: Works | None = None,
) -> tuple[Times, Times]:
    """Times of ours and of every library at batch 1, with `extra` among them, and at larger batches, with `more`."""
    single = interleave({"ours": one.ours, **one.works(1), **(extra or {})}, book.rounds)
    calls = np.array(one.calls[1:])
    together = {"ours": one.ours, **(more or {})}
    for batch in batches:
        together |= one.works(batch)
    many = interleave(together, book.few)
    each, all_ = single["ours"] / one.count, many["ours"] / one.count
    synops = int(one.run.ledger.synops(kind="structural").sum())
    where |= {
        "samples": one.count,
        "ticks": one.ticks,
        "ms_per_sample": spread(1e3 * each),
        "ms_per_sample_of_the_whole_call": spread(1e3 * calls / one.count),
        "synops_per_sample": synops / one.count,
        "synops_per_second": spread(synops / single["ours"]),
        "same_network": one.same,
        "libraries": {},
    }
    took = f"{said(where['ms_per_sample'])} ms per sample, {synops / one.count / 1e6:.1f} million SynOps"
    print(f"  {one.ticks} ticks: {took}, {said(spread(synops / single['ours'] / 1e9))} billion a second; ", end="")
    print(f"a call of {one.count} samples in all {said(where['ms_per_sample_of_the_whole_call'])} ms each")
    for name in one.make:
        for batch in (1, *batches):
            times, base = (single, each) if batch == 1 else (many, all_)
            if f"{name} {batch}" not in times:
                continue
            theirs = times[f"{name} {batch}"] / batch
            where["libraries"].setdefault(name, {})[str(batch)] = {
                "ms_per_sample": spread(1e3 * theirs),
                "times_ours": spread(theirs / base),
            }
    if where["libraries"]:
        head = "".join(f"batch {batch}".ljust(42) for batch in (1, *batches))
        print(f"    {'ms per sample, times ours':<28}{head}".rstrip())
    for name, row in where["libraries"].items():
        cells = (f"{said(r['ms_per_sample'])}, {said(r['times_ours'], '{:.1f}')}".ljust(42) for r in row.values())
        print(f"    {name:<28}{''.join(cells)}".rstrip())
    for what, chosen in (("batch_1", (1,)), ("best_batch", tuple(batches))):
        rows = [(name, b, r) for name, row in where["libraries"].items() for b, r in row.items() if int(b) in chosen]
        if rows:
            name, b, row = min(rows, key=lambda r: r[2]["ms_per_sample"]["median"])
            where[what] = {"library": name, "batch": int(b), "times_ours": row["times_ours"]}
    return single, many


def judge(book: Book, where: dict[str, Any], label: str, single: float, batched: float) -> None:
    """The two targets of a comparison."""
    for what, wanted, words in (
        ("batch_1", single, "at batch 1"),
        ("best_batch", batched, "per sample at its best batch"),
    ):
        if what in where:
            best = where[what]
            book.target(
                f"{label}times the best library {words} ({best['library']}, {best['batch']})",
                wanted,
                best["times_ours"],
            )


def resnet(book: Book) -> None:
    network, images, origin = resnet20(book.quick)
    book.here["network"] = origin
    mean, std = (np.asarray(x, np.float32).reshape(-1, 1, 1) for x in (network.mean, network.std))
    batch = torch.from_numpy((images.astype(np.float32) / 255 - mean) / std)
    samples = images[: 2 if book.quick else 20]
    print(f"  {origin}, float32, an image at a time against batches of images")
    for ticks in (2,) if book.quick else (4, 8, 32):
        where = book.here.setdefault(f"{ticks} ticks", {})
        ours = Limits()
        batches = (2,) if book.quick else (8, 64) if ticks < 32 else (8,)
        ann: dict[str, tuple[rivals.Rival, torch.Tensor]] = {}
        for size in batches:
            for lasting in (False, True):
                model = rivals.dense(network, lasting)
                name = f"ann {size}{', channels last' if lasting else ''}"
                ann[name] = model, model.arranged(batch[torch.arange(size) % len(batch)])
        one = Contest(book, network, samples, batch, ticks)
        plain: Works = {name: passes(*what, one.run.seconds) for name, what in ann.items()}
        single, many = contest(book, where, one, batches, ours.works, plain)
        needed = streamed(one.run, ours.rates(single))
        where["of_limit"] = spread(needed / single["ours"])
        floors = {name: ticks * many[name] / int(name.split()[1].rstrip(",")) for name in ann}
        best = min(floors, key=lambda name: float(np.median(floors[name])))
        ratio = floors[best] / (many["ours"] / one.count)
        where["dense_floor"] = {
            "best": best,
            "ms_per_sample": {name: spread(1e3 * t) for name, t in floors.items()},
            "times_ours": spread(ratio),
        }
        label = f"{ticks} ticks, "
        if ticks < 32:
            book.target(f"{label}SynOps/s of the streaming limit", 0.6, where["of_limit"])
            judge(book, where, label, {4: 6.0, 8: 5.0}.get(ticks, 1.0), 2.5)
            book.target(f"{label}times a plain ANN run {ticks} times ({best})", 1.0, where["dense_floor"]["times_ours"])
        else:
            print(f"    {said(where['of_limit'])} of the streaming limit; a plain ANN run {ticks} times ", end="")
            print(f"({best}) {said(spread(ratio))} times ours")


def streamed(run: es.Run, rates: dict[int, np.ndarray]) -> np.ndarray:
    """What delivering a run's SynOps alone would take at the streaming limit of each layer's row length."""
    total = np.zeros_like(next(iter(rates.values())))
    for c in run.network.connections:
        if run.ledger.tap_class[c.label] == "ac":
            rate = rates.get(run.network[c.target].shape[0], rates[CHANNELS[0]])
            total = total + int(run.ledger.synops(c.label, "structural").sum()) / rate
    return total


def events(book: Book) -> None:
    ticks, count = (20, 3) if book.quick else (300, 64)
    readings: dict[str, tuple[Network, bool]] = {}
    known = None if book.quick else nmnist(count)
    if known:
        published, recordings = known
        plain = tuple(
            replace(p, neuron=IF(threshold=p.neuron.threshold)) if isinstance(p.neuron, IF) else p
            for p in published.populations
        )
        readings["one spike a tick"] = replace(published, populations=plain), False
        readings["several spikes a tick"] = published, True
        origin = "cnn_sinabs.nir on N-MNIST"
    else:
        network, recordings = event_network(ticks, count)
        readings["one spike a tick"] = network, False
        origin = "three convolutions, random weights, random events"
    book.here["network"] = origin
    batch = rivals.frames(recordings, (2, 34, 34), ticks, 1000.0)
    for name, (network, several) in readings.items():
        print(f"  {origin}, {name}:")
        where = book.here.setdefault(name, {})
        one = Contest(book, network, recordings.first(min(20, count)), batch, ticks, several)
        contest(book, where, one, (2,) if book.quick else (8, 64))
        if not several:
            judge(book, where, "", 20.0, 10.0)


def mlp(book: Book) -> None:
    ticks, count = (5, 4) if book.quick else (20, 64)
    network, rates = mlp_network(ticks, 120 if book.quick else 1200)
    samples = poisson(ticks, count)
    frames = rivals.frames(samples, (784,), ticks, 1000.0)
    sizes = "-".join(str(p.size) for p in network.populations)
    book.here |= {"network": sizes, "rates": rates}
    print(
        f"  {sizes}, random weights, IF; thresholds for rates of {', '.join(f'{r:.3f}' for r in rates)} spikes a tick"
    )
    one = Contest(book, network, samples, frames, ticks)
    contest(book, book.here, one, (2,) if book.quick else (8, 64, 256))
    judge(book, book.here, "", 4.0, 1.2)


# ----------------------------------------------------------------------------------------------- account and workers

RESNET, EVENTS = "ResNet-20", "event network without biases"
COUNTS = ("spikes", "connections", "sources")


def counting(book: Book) -> None:
    """Runs with nothing but spikes counted, with the default account, and with that of every neuron.

    A network with a bias everywhere updates every neuron in every tick; in one without, the account also has to find
    out which neurons were reached. Each pair is run again with its spikes recorded.
    """
    network, images, _ = resnet20(book.quick)
    quiet, recordings = event_network(20, 2) if book.quick else event_network()
    cases: dict[str, tuple[Network, Any]] = {
        RESNET: (replace(network, ticks=1 if book.quick else 4), images[: 1 if book.quick else 10]),
        EVENTS: (quiet, recordings),
    }

    def run(name: str, count: str, record: str) -> float:
        net, samples = cases[name]
        return full_run(net, samples, count=count, record=record).seconds

    works: Works = {f"{name}, {c}": partial(run, name, c, "outputs") for name in cases for c in COUNTS}
    works |= {f"{name}, {c}, recorded": partial(run, name, c, "spikes") for name in cases for c in COUNTS[:2]}
    times = interleave(works, book.rounds)
    print("  what the account costs, times a run that counts spikes only:")
    for name in cases:
        row = {c: spread(times[f"{name}, {c}"] / times[f"{name}, spikes"]) for c in COUNTS[1:]}
        row["recorded"] = spread(times[f"{name}, connections, recorded"] / times[f"{name}, spikes, recorded"])
        book.here[name] = row
        print(
            f"  {name}: by connection and tick {said(row['connections'])}, by neuron, too, {said(row['sources'])}; ",
            end="",
        )
        print(f"where spikes are recorded anyway, by connection and tick {said(row['recorded'])}")


def workers(book: Book) -> None:
    network, images, origin = resnet20(book.quick)
    count = 4 if book.quick else 200
    samples = images[np.arange(count) % len(images)]
    book.pin(one=False)
    before = load()
    try:
        works = {f"{jobs}": partial(seconds_of, network, samples, 1 if book.quick else 4, jobs) for jobs in (1, 2)}
        times = interleave(works, book.rounds)
    finally:
        book.pin()
    ratio = spread(times["1"] / times["2"])
    book.here |= {
        "network": origin,
        "samples": count,
        "samples_per_second": {jobs: spread(count / t) for jobs, t in times.items()},
        "load_before_and_after": [before, load()],
    }
    print(f"  {origin}, {count} samples, load {before:.2f} before, {load():.2f} after, {len(book.cores)} cores")
    for jobs, t in times.items():
        print(f"  {jobs} at a time: {said(spread(count / t), '{:.0f}')} samples/s")
    book.target("samples/s of two workers over one", 1.85, ratio)


def seconds_of(network: Network, samples: Any, ticks: int | None, jobs: int) -> float:
    return full_run(network, samples, ticks, jobs=jobs).seconds


# ---------------------------------------------------------------------------------------------------- the whole command

# A process counts the memory of the one that started it as its own until it is another program; so a small one starts
# what is measured.
LAUNCH = """
import os, sys
child = os.posix_spawn(sys.executable, [sys.executable, *sys.argv[1:]], os.environ,
    file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)])
_, status, used = os.wait4(child, 0)
print(status, used.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


def memory(book: Book) -> None:
    network, images, origin = resnet20(book.quick)
    size = math.prod(network.input.shape)
    print(f"  eventsnn simulate, {origin}, one worker, peak resident memory:")
    ticks = [(t, 10) for t in (4, 32, 256)]
    samples = [(4, n) for n in (10, 100, 1000, *((10_000,) if book.long else ()))]
    if book.quick:
        ticks = samples = [(1, 2)]
    held: dict[tuple[int, int], int] = {}
    with tempfile.TemporaryDirectory() as folder:
        es.save(network, Path(folder) / "net.h5")
        command = ["-m", "eventsnn", "simulate", "--weights", "net.h5", "--cutoff", "fixed"]
        for what, settings in (("by_ticks", ticks), ("by_samples", samples)):
            rows = book.here.setdefault(what, [])
            for t, n in settings:
                if (t, n) not in held:
                    file = Path(folder) / f"{n}.npy"
                    np.save(file, images[np.arange(n) % len(images)])
                    of = ["--input", file.name, "--ticks", str(t), "--out", f"{t}-{n}"]
                    held[t, n] = peak([*command, *of], folder)
                used = held[t, n]
                rows.append({"ticks": t, "samples": n, "mb": used / 1e6, "input_mb": n * size / 1e6})
                print(
                    f"  {t} ticks, {n} samples: {used / 1e6:.0f} MB; input {n * size / 1e6:.1f} MB in bytes, ", end=""
                )
                print(f"{4 * n * size / 1e6:.1f} MB in float32")
            used_mb = [row["mb"] for row in rows]
            book.here[f"{what}_max_over_min"] = max(used_mb) / min(used_mb)
            print(f"  {what.replace('_', ' ')}: the most is {max(used_mb) / min(used_mb):.2f} times the least")
    rows = book.here["by_ticks"] + book.here["by_samples"]
    book.target("peak MB", 300, spread(max(row["mb"] for row in rows)), most=True, form="{:.0f}")


def peak(command: list[str], folder: str) -> int:
    """Peak resident memory, in bytes, of a Python process."""
    launch = [sys.executable, "-c", LAUNCH, *command]
    told = subprocess.run(launch, cwd=folder, env=environment(), capture_output=True, text=True, check=True)
    status, used = told.stdout.split()
    if status != "0":
        sys.exit(f"bench: {' '.join(command)} failed: {told.stderr}")
    return int(used)


def environment() -> dict[str, str]:
    """With this checkout to import, whatever is installed."""
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    }


def start(book: Book) -> None:
    with tempfile.TemporaryDirectory() as folder:
        number = iter(range(10_000))

        def run(*command: str) -> None:
            subprocess.run([sys.executable, *command], cwd=folder, env=environment(), capture_output=True, check=True)

        works: Works = {
            "eventsnn simulate": lambda: run("-m", "eventsnn", "simulate", "--out", f"run{next(number)}"),
            "eventsnn --help": partial(run, "-m", "eventsnn", "--help"),
            "import eventsnn": partial(run, "-c", "import eventsnn"),
            "python": partial(run, "-c", ""),
        }
        times = interleave(works, book.rounds, warm=not book.quick)
    for name, t in times.items():
        book.here[name] = spread(t)
        if name != "eventsnn simulate":
            print(f"  {name}: {said(spread(t))} s")
    book.target("seconds of eventsnn simulate", 2.0, book.here["eventsnn simulate"], most=True)


# ------------------------------------------------------------------------------------------------------------- growth


def growth(book: Book) -> None:
    """One sample of the MLP for longer and longer; and the same events of a camera spread over more and more ticks."""
    network, rates = mlp_network(20, 120 if book.quick else 1200)
    sample = poisson(20, 1)
    each = int(full_run(network, sample).ledger.synops(kind="structural").sum()) / 20
    works: Works = {}
    synops: dict[str, int] = {}
    repeats: dict[str, int] = {}
    for power in (5, 6) if book.quick else range(6, 11):
        ticks = max(1, round(10**power / each))
        name = f"1e{power}"
        repeats[name] = max(1, 10 ** (8 - power)) if not book.quick else 1
        samples = poisson(ticks, repeats[name])
        synops[name] = int(full_run(network, samples, ticks).ledger.synops(kind="structural").sum())
        works[name] = partial(seconds_of, network, samples, ticks, 1)
    times = interleave(works, book.few)
    curve = [
        {"synops": synops[name] / repeats[name], "ns_per_synop": spread(1e9 * t / synops[name])}
        for name, t in times.items()
    ]
    book.here["by_synops"] = curve
    constant = ", ".join(f"{r:.2f}" for r in rates)
    print(f"  MLP {network.populations[1].size} wide at constant rates ({constant}), longer and longer:")
    for row in curve:
        print(f"  {row['synops']:.2e} SynOps a sample: {said(row['ns_per_synop'], '{:.3f}')} ns each")
    per = [row["ns_per_synop"]["median"] for row in curve]
    book.target("most over least median time per SynOp", 1.5, spread(max(per) / min(per)), most=True)

    rows = []
    works, held = {}, {}
    for power in (2, 3) if book.quick else range(2, 7):
        quiet, recording = event_network(10**power, 1, 1e-6)
        one = full_run(quiet, recording)
        held[power] = one
        works[f"{power}"] = partial(seconds_of, quiet, recording, None, 1)
    times = interleave(works, book.few)
    print("  a camera's 4,000 events over more and more ticks:")
    for power, one in held.items():
        arrays = (one.ledger.events, one.ledger.units, one.ledger.updates, one.ledger.biases, one.ledger.taps)
        kept = sum(a.nbytes for a in arrays) + one.trace.outputs.nbytes + one.trace.margins.nbytes
        row = {
            "ticks": 10**power,
            "seconds": spread(times[f"{power}"]),
            "synops": int(one.ledger.synops(kind="structural").sum()),
            "bytes_per_tick": kept / 10**power,
        }
        rows.append(row)
        print(f"  {row['ticks']:>9,} ticks: {said(spread(1e3 * times[str(power)]))} ms, ", end="")
        print(f"{row['synops'] / 1e6:.2f} million SynOps, books of {kept / 1e6:.2f} MB")
    book.here["by_ticks"] = rows
    two = [times[str(power)] for power in list(held)[-2:]]
    slope = spread(1e6 * (two[1] - two[0]) / (rows[-1]["ticks"] - rows[-2]["ticks"]))
    book.here["microseconds_per_further_tick"] = slope
    print(f"  a further tick takes {said(slope)} microseconds and {rows[-1]['bytes_per_tick']:.0f} bytes of books")


def ticks(book: Book) -> None:
    """A network without biases and without events: what a tick costs in which nothing happens."""
    short, long = (100, 1000) if book.quick else (10_000, 200_000)
    quiet, _ = event_network(short, 1)
    nothing = es.Events(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(2, np.int64))
    works: Works = {f"{n}": partial(seconds_of, quiet, nothing, n, 1) for n in (short, long)}
    times = interleave(works, book.rounds)
    per = spread(1e6 * (times[f"{long}"] - times[f"{short}"]) / (long - short))
    book.here |= {"microseconds_per_empty_tick": per, "ticks": [short, long]}
    book.target("microseconds per empty tick", 2.0, per, most=True, form="{:.3f}")


def cutoff(book: Book) -> None:
    file, policy_file = ROOT / "weights" / "resnet20.h5", ROOT / "weights" / "resnet20-topk.json"
    if CHECKPOINT.is_file() and file.is_file() and not book.quick:
        network, policy = es.load(file), read_policy(policy_file)
        with np.load(DATA / "data" / "cifar10.npz") as stored:
            images = decoded(stored, "test_lossless", 100)
        origin = f"{file.name} with {policy_file.name} on CIFAR-10"
    else:
        network, policy = es.load(packaged("digits.h5")), None
        images = np.load(packaged("digits-heldout.npz"))["images"]
        origin = f"the packaged digits with {network.cutoff}"
    last: dict[str, es.Run] = {}

    def run(name: str, watchdog: Any) -> float:
        last[name] = es.simulate(network, images, watchdog=watchdog)
        return last[name].seconds

    times = interleave({"full": partial(run, "full", es.Fixed()), "cut": partial(run, "cut", policy)}, book.rounds)
    spent = {name: int(one.ledger.synops(kind="delivered").sum()) for name, one in last.items()}
    saved_time, saved_synops = 1 - times["cut"] / times["full"], 1 - spent["cut"] / spent["full"]
    book.here |= {
        "network": origin,
        "samples": len(images),
        "mean_ticks": {name: float(one.stop_time.mean()) for name, one in last.items()},
        "ms_per_sample": {name: spread(1e3 * t / len(images)) for name, t in times.items()},
        "time_saved": spread(saved_time),
        "synops_saved": saved_synops,
    }
    print(f"  {origin}: {last['cut'].stop_time.mean():.2f} of {last['full'].stop_time.mean():.0f} ticks, ", end="")
    print(f"{saved_synops:.1%} of SynOps saved, {said(spread(saved_time))} of the time")
    book.target("time saved over SynOps saved", 0.8, spread(saved_time / saved_synops))


# ------------------------------------------------------------------------------------------------- continuous time

PENDING, PAIRS = 10_000, 500_000


@njit(nogil=True)
def bare_heap(times, number, later, pairs):
    """Pop and push `pairs` times: the least a heap can do."""
    n = len(times)
    for k in range(pairs):
        now, who = times[0], number[0]
        last, last_number, i = times[n - 1], number[n - 1], 0
        while True:
            child = 2 * i + 1
            if child >= n - 1:
                break
            if child + 1 < n - 1 and times[child + 1] < times[child]:
                child += 1
            if times[child] >= last:
                break
            times[i], number[i] = times[child], number[child]
            i = child
        times[i], number[i] = last, last_number
        now += later[k % n]
        i = n - 1
        while i > 0 and times[(i - 1) // 2] > now:
            times[i], number[i] = times[(i - 1) // 2], number[(i - 1) // 2]
            i = (i - 1) // 2
        times[i], number[i] = now, who


def queue_runs() -> Works:
    """The same pairs of push and pop on the engine's queue and on a bare heap, 10,000 pending."""
    later = np.random.default_rng(0).exponential(PENDING, PENDING)
    empty = np.zeros((1, kernels_async.B_COLUMNS), np.int64)
    room = PENDING + 1
    entries = np.zeros((room, kernels_async.H_COLUMNS), np.int64)
    queue = kernels_async.Queue(
        np.zeros(room), np.zeros(room, np.int64), entries, empty, empty, np.zeros(1), np.zeros(1)
    )

    def ours() -> None:
        kernels_async.exercise(queue, np.zeros(kernels_async.A_COLUMNS, np.int64), later, PAIRS)

    def bare() -> None:
        bare_heap(np.sort(later), np.arange(PENDING), later, PAIRS)

    return {"queue": ours, "bare heap": bare}


def continuous(book: Book) -> None:
    """Pairs of push and pop a second, and SynOps a second of convolutional networks on microsecond events."""
    times = interleave(queue_runs(), book.rounds)
    pairs, of_heap = spread(PAIRS / times["queue"]), spread(times["bare heap"] / times["queue"])
    book.here["queue"] = {"pairs_per_second": pairs, "of_bare_heap": of_heap}
    print(
        f"  queue, {PENDING:,} pending: {said(spread(PAIRS / times['queue'] / 1e6))} million pairs of push and pop/s, ",
        end="",
    )
    print(f"{said(of_heap)} of a bare heap")
    networks: dict[str, tuple[Network, Any, float]] = {}
    known = None if book.quick else nmnist(20)
    if known:
        networks["cnn_sinabs.nir"] = *known, 0.31
    quiet, random = event_network(100, 2 if book.quick else 20)
    networks["three convolutions, IF"] = quiet, random, 0.1
    leaky = [
        replace(p, neuron=LIF(threshold=0.5, alpha=0.9)) if isinstance(p.neuron, IF) else p for p in quiet.populations
    ]
    networks["three convolutions, LIF"] = replace(quiet, populations=tuple(leaky)), random, 0.1
    digits = replace(es.load(packaged("digits.h5")), tick_seconds=1e-3)
    images = np.load(packaged("digits-heldout.npz"))["images"][: 2 if book.quick else 60]
    networks["packaged digits, IF, all driven"] = digits, images, 16e-3
    last: dict[str, es.Run] = {}

    def run(name: str) -> float:
        network, samples, duration = networks[name]
        last[name] = es.simulate(network, samples, mode="async", duration=duration, watchdog=es.Fixed())
        return last[name].seconds

    times = interleave({name: partial(run, name) for name in networks}, book.few)
    for name, one in last.items():
        synops = int(one.ledger.synops(kind="structural").sum())
        rate, bound = spread(synops / times[name]), queue_bound(one.network)
        peak_entries = int(one.queue_peak.max())
        book.here[name] = {
            "synops": synops,
            "synops_per_second": rate,
            "queue_peak": peak_entries,
            "queue_bound": bound,
        }
        print(f"  {name}: {said(spread(synops / times[name] / 1e6), '{:.0f}')} million structural SynOps/s, ", end="")
        print(f"at most {peak_entries} pending entries (bound {bound})")


def queue_bound(network: Network) -> int:
    """The most entries there can be without delays: a batch a connection, and two alarms a driven neuron, or 64."""
    fed = {c.target for c in network.connections if c.bias is not None and np.any(c.bias)}
    if network.encoding == "direct":
        fed |= {c.target for c in network.connections if c.source == network.input.name}
    driven = sum(p.size for p in network.populations if p.name in fed and isinstance(p.neuron, IF))
    return len(network.connections) + driven + max(driven, 64 if driven else 0)


def processor() -> str:
    """The processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


SECTIONS: dict[str, Callable[[Book], None]] = {
    "limits": limits,
    "layers": layers,
    "resnet": resnet,
    "events": events,
    "mlp": mlp,
    "counting": counting,
    "workers": workers,
    "memory": memory,
    "growth": growth,
    "ticks": ticks,
    "cutoff": cutoff,
    "continuous": continuous,
    "start": start,
}

if __name__ == "__main__":
    main()
