"""How fast the engine is: against the memory's limit, against PyTorch stepping the same network, and in real time.

    python tools/bench.py [--rounds 9] [--images 10] [--json bench.json]

Everything is measured in one run on one core, interleaved round by round, so that a machine that slows down slows all
of it. Medians are printed, and ratios of medians; single times mean little on a shared machine. With the CIFAR-10 data
and the published ResNet-20 at hand (EVENTSNN_DATA, or ../shared) the network is that one, else one of the same shape
with random weights.

`stream_limit()` is the fastest this core adds weights onto membranes: rows of 3 x C_out float32 from 256 kB (in L2)
added onto an accumulator of 8 kB (in L1), one row after the other.

In continuous time the queue is held against `bare_heap`, a binary heap of times with one number each and nothing else,
at 10,000 pending entries; and networks run on microsecond events: `cnn_sinabs.nir` on N-MNIST where the data are at
hand, and one with random weights on random events.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit

import eventsnn as es
from eventsnn import import_torch, kernels_async, kernels_sync, layouts
from eventsnn.cli import packaged
from eventsnn.network import Connection, Conv, Dense, Flatten, Identity, Network, Population
from eventsnn.neurons import IF, LIF, Input, Integrator
from eventsnn.readers import read_input

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.samples import decoded

DATA = Path(os.environ.get("EVENTSNN_DATA", Path(__file__).resolve().parents[2] / "shared"))
CHECKPOINT = DATA / "models" / "resnet_cifar10" / "resnet20-12fca82f.th"
CHANNELS = (16, 32, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--ticks", type=int, default=4)
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)

    limits = {c: stream_limit(c) for c in CHANNELS}
    layers = {f"conv 3x3, {c} channels, {h}x{h}, rate {rate}": layer(c, h, rate) for c, h in SIZES for rate in RATES}
    layers["dense 1200x1200, rate 0.13"] = layer(1200, 1, 0.13)
    network, images, origin = resnet20()
    ours, batch_1, batch_64 = resnet_runs(network, images[: options.images], options.ticks)

    measured = interleave(
        {
            **{f"limit {c}": work for c, (work, _) in limits.items()},
            **{name: work for name, (work, _) in layers.items()},
            "eventsnn": ours,
            "torch 1": batch_1,
            **counting_runs(network, images[: options.images], options.ticks),
            **queue_runs(),
        },
        options.rounds,
    )
    timed = async_runs(measured, options.rounds)
    measured |= interleave({"torch 64": batch_64}, 3)

    rate = {c: adds / measured[f"limit {c}"] for c, (_, adds) in limits.items()}
    floor = floor_seconds(network, images[: options.images], options.ticks, rate)
    synops = int(run_once(network, images[: options.images], options.ticks).ledger.synops(kind="structural").sum())
    seconds = measured["eventsnn"]
    found: dict[str, Any] = {
        "machine": {"processor": processor(), "python": platform.python_version(), "torch": torch.__version__},
        "rounds": options.rounds,
        "stream_limit_per_second": {str(c): r for c, r in rate.items()},
        "layers": {
            name: {"synops_per_second": n / measured[name], "of_limit": n / measured[name] / rate[limit_of(name, rate)]}
            for name, (_, n) in layers.items()
        },
        "resnet20": {
            "network": origin,
            "ticks": options.ticks,
            "ms_per_image": 1e3 * seconds / options.images,
            "synops_per_image": synops / options.images,
            "synops_per_second": synops / seconds,
            "of_limit": floor / seconds,
            "torch_batch_1_ms": 1e3 * measured["torch 1"],
            "torch_batch_64_ms": 1e3 * measured["torch 64"] / 64,
            "times_faster_than_batch_1": measured["torch 1"] / (seconds / options.images),
            "times_faster_than_batch_64": measured["torch 64"] / 64 / (seconds / options.images),
        },
        "counting": {
            name: {
                **{count: measured[f"{name}, {count}"] / measured[f"{name}, spikes"] for count in COUNTS},
                "recorded": measured[f"{name}, connections, recorded"] / measured[f"{name}, spikes, recorded"],
            }
            for name in (RESNET, EVENTS)
        },
        "continuous": timed,
    }
    show(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def interleave(works: dict[str, Callable[[], float | None]], rounds: int) -> dict[str, float]:
    """Median seconds of every piece of work, one of each per round, after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for i in range(rounds + 1):
        for name, work in works.items():
            begin = time.perf_counter()
            inner = work()
            spent = time.perf_counter() - begin if inner is None else inner
            if i:
                times[name].append(spent)
    return {name: float(np.median(t)) for name, t in times.items()}


# ------------------------------------------------------------------------------------------------ limit and layers


def stream_limit(channels: int) -> tuple[Callable[[], None], int]:
    """(work, additions) of one measurement for rows of 3 x `channels`: whole rows in vector registers, no tests."""
    length = 3 * channels
    width = min(length, 96)
    add = {48: kernels_sync._add_48, 96: kernels_sync._add_96}[width]
    count = 65536 // length

    @njit(nogil=True)
    def stream(accumulator, rows, number):
        for _ in range(50):
            at = 0
            for row in range(count):
                for part in range(0, length, width):
                    add(accumulator, at + part, rows, number, accumulator, row, row + 1, length, part)
                at += length
                if at > 2048 - length:
                    at = 0

    rows, numbers = np.ones(65536, np.float32), np.arange(count, dtype=np.int32)
    accumulator = np.zeros(2048, np.float32)
    return lambda: stream(accumulator, rows, numbers), 50 * count * length


SIZES = ((16, 32), (32, 16), (64, 8))
RATES = (0.03, 0.13)


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


def limit_of(name: str, rate: dict[int, float]) -> int:
    """Which row length a layer is compared with."""
    return next((c for c in rate if f" {c} channels" in name), max(rate))


# -------------------------------------------------------------------------------------------------------- ResNet-20


def resnet20() -> tuple[Network, np.ndarray, str]:
    """(network, images (N, 3, 32, 32) as the first layer sees them, where they come from)."""
    if CHECKPOINT.is_file():
        weights = import_torch.load_checkpoint(CHECKPOINT)
        stored = np.load(DATA / "data" / "cifar10.npz")
        images = decoded(stored, "train", 320)
        origin = CHECKPOINT.name
    else:
        torch.manual_seed(0)
        weights = random_resnet20()
        images = np.random.default_rng(0).integers(0, 256, (320, 3, 32, 32), np.uint8)
        origin = "random weights, seed 0"
    module = layouts.build("resnet20", weights)
    example = np.zeros((1, 3, 32, 32), np.float32)
    network = import_torch.from_torch(module, example, calibrate=images[:256], normalise="imagenet", ticks=4)
    return network, images[256:], origin


def random_resnet20() -> dict[str, torch.Tensor]:
    """A state dict of the published layout with random weights."""
    state: dict[str, torch.Tensor] = {}

    def conv(name: str, norm: str, inputs: int, outputs: int) -> None:
        state[f"{name}.weight"] = torch.randn(outputs, inputs, 3, 3) * (2 / (9 * inputs)) ** 0.5
        state[f"{norm}.weight"], state[f"{norm}.bias"] = torch.ones(outputs), torch.zeros(outputs)
        state[f"{norm}.running_mean"], state[f"{norm}.running_var"] = torch.zeros(outputs), torch.ones(outputs)

    conv("conv1", "bn1", 3, 16)
    inputs = 16
    for stage, outputs in enumerate(CHANNELS, 1):
        for block in range(3):
            conv(f"layer{stage}.{block}.conv1", f"layer{stage}.{block}.bn1", inputs, outputs)
            conv(f"layer{stage}.{block}.conv2", f"layer{stage}.{block}.bn2", outputs, outputs)
            inputs = outputs
    state["linear.weight"], state["linear.bias"] = torch.randn(10, 64) * 0.1, torch.zeros(10)
    return state


def run_once(network: Network, images: np.ndarray, ticks: int) -> es.Run:
    return es.simulate(network, images, ticks=ticks, watchdog=es.Fixed())


def resnet_runs(
    network: Network, images: np.ndarray, ticks: int
) -> tuple[Callable[[], float], Callable[[], None], Callable[[], None]]:
    """Our run of all images, and PyTorch's of one image and of 64."""
    step = stepper(network, ticks)
    mean, std = (np.asarray(x, np.float32).reshape(-1, 1, 1) for x in (network.mean, network.std))
    normalised = torch.from_numpy((images.astype(np.float32) / 255 - mean) / std)
    many = normalised[torch.arange(64) % len(normalised)]
    ours = np.asarray(run_once(network, images, ticks).outputs[:, -1])
    theirs = step(normalised).numpy()
    if np.mean(ours.argmax(1) == theirs.argmax(1)) < 0.8:
        sys.exit("bench: PyTorch's stepper and the engine disagree; the comparison would be meaningless")

    def stepped(batch: torch.Tensor) -> Callable[[], None]:
        def work() -> None:
            step(batch)

        return work

    return lambda: run_once(network, images, ticks).seconds, stepped(normalised[:1]), stepped(many)


def counting_runs(network: Network, images: np.ndarray, ticks: int) -> dict[str, Callable[[], float]]:
    """The same runs with nothing but spikes counted, with the default account, and with that of every neuron.

    A network with a bias everywhere updates every neuron in every tick; in one without, the account also has to find
    out which neurons were reached. Each pair is run again with its spikes recorded.
    """
    quiet, events = event_network()

    def run(name: str, count: str, record: str) -> Callable[[], float]:
        samples: Any = images if name == RESNET else events
        net, length = (network, ticks) if name == RESNET else (quiet, None)
        options = {"watchdog": es.Fixed(), "count": count, "record": record}
        return lambda: es.simulate(net, samples, ticks=length, **options).seconds

    works = {f"{name}, {count}": run(name, count, "outputs") for name in (RESNET, EVENTS) for count in COUNTS}
    recorded = {f"{name}, {c}, recorded": run(name, c, "spikes") for name in (RESNET, EVENTS) for c in COUNTS[:2]}
    return works | recorded


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


def queue_runs() -> dict[str, Callable[[], None]]:
    """The same pairs of push and pop on the engine's queue and on a bare heap, 10,000 pending."""
    later = np.random.default_rng(0).exponential(PENDING, PENDING)
    empty = np.zeros((1, kernels_async.B_COLUMNS), np.int64)
    room = PENDING + 1
    entries = np.zeros((room, kernels_async.H_COLUMNS), np.int64)
    queue = kernels_async.Queue(np.zeros(room), np.zeros(room, np.int64), entries, empty, empty, np.zeros(1), np.zeros(1))

    def ours() -> None:
        kernels_async.exercise(queue, np.zeros(kernels_async.A_COLUMNS, np.int64), later, PAIRS)

    def bare() -> None:
        bare_heap(np.sort(later), np.arange(PENDING), later, PAIRS)

    return {"queue": ours, "bare heap": bare}


def async_runs(measured: dict[str, float], rounds: int) -> dict[str, Any]:
    """Pairs of push and pop a second, and SynOps a second of convolutional networks on microsecond events."""
    found: dict[str, Any] = {
        "pairs_per_second": PAIRS / measured["queue"],
        "of_bare_heap": measured["bare heap"] / measured["queue"],
    }
    networks: dict[str, tuple[Network, Any, float]] = {}
    file, data = DATA / "models" / "nir" / "cnn_sinabs.nir", DATA / "data" / "nmnist_subset.h5"
    if file.is_file():
        network = replace(es.load(file, assume="sinabs"), encoding="events", tick_seconds=1e-3)
        recordings = read_input(data, network, keys="t,x,y,p,offsets,labels,split=1", limit=20).inputs
        networks[file.name] = network, recordings, 0.31
    quiet, events = event_network()
    networks["three convolutions, IF"] = quiet, events, 0.1
    leaky = [
        replace(p, neuron=LIF(threshold=0.5, alpha=0.9)) if isinstance(p.neuron, IF) else p for p in quiet.populations
    ]
    networks["three convolutions, LIF"] = replace(quiet, populations=tuple(leaky)), events, 0.1
    digits = replace(es.load(packaged("digits.h5")), tick_seconds=1e-3)
    images = np.load(packaged("digits-heldout.npz"))["images"]
    networks["packaged digits, IF, all driven"] = digits, images, 16e-3
    runs: dict[str, es.Run] = {}

    def run(name: str) -> float:
        network, samples, duration = networks[name]
        runs[name] = es.simulate(network, samples, mode="async", duration=duration, watchdog=es.Fixed())
        return runs[name].seconds

    seconds = interleave({name: partial(run, name) for name in networks}, max(3, rounds // 3))
    for name, one in runs.items():
        synops = int(one.ledger.synops(kind="structural").sum())
        found[name] = {
            "synops": synops,
            "synops_per_second": synops / seconds[name],
            "queue_peak": int(one.queue_peak.max()),
            "queue_bound": queue_bound(one.network),
        }
    return found


def queue_bound(network: Network) -> int:
    """The most entries there can be without delays: a batch a connection, and two alarms a driven neuron, or 64."""
    fed = {c.target for c in network.connections if c.bias is not None and np.any(c.bias)}
    if network.encoding == "direct":
        fed |= {c.target for c in network.connections if c.source == network.input.name}
    driven = sum(p.size for p in network.populations if p.name in fed and isinstance(p.neuron, IF))
    return len(network.connections) + driven + max(driven, 64 if driven else 0)


def event_network() -> tuple[Network, es.Events]:
    """An event-camera network without biases (2x34x34, three convolutions of stride 2, dense) and 20 random samples."""
    rng = np.random.default_rng(0)
    populations, connections = [Population("input", (2, 34, 34), Input())], []
    for i, channels in enumerate((16, 32, 64)):
        before = populations[-1]
        fan_in = 9 * before.shape[0]
        op = Conv(rng.normal(0.02, fan_in**-0.5, (channels, before.shape[0], 3, 3)), (2, 2), ((1, 1), (1, 1)), (1, 1))
        populations.append(Population(f"conv{i + 1}", op.out_shape(before.shape), IF(threshold=0.5)))
        connections.append(Connection(before.name, populations[-1].name, op))
    last = populations[-1]
    populations.append(Population("out", (10,), Integrator()))
    dense = Dense(rng.normal(size=(10, last.size)))
    connections.append(Connection(last.name, "out", dense, before=(Flatten(),)))
    quiet = Network(
        populations=tuple(populations),
        connections=tuple(connections),
        output="out",
        encoding="events",
        tick_seconds=1e-3,
        ticks=100,
    )
    count, each = 20, 4000
    times = np.sort(rng.integers(0, 100_000, (count, each)), axis=1)
    events = es.Events(times.ravel(), rng.integers(0, 2 * 34 * 34, count * each), np.arange(count + 1) * each)
    return quiet, events


RESNET, EVENTS = "ResNet-20", "event network without biases"
COUNTS = ("spikes", "connections", "sources")


def stepper(network: Network, ticks: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """The network stepped over time as one writes it in PyTorch, with the same weights; the first layer once."""
    arriving: dict[str, list[Connection]] = {p.name: [] for p in network.populations}
    for c in network.connections:
        arriving[c.target].append(c)
    depth = network.depths()
    order = sorted((p for p in network.populations if p.name != network.input.name), key=lambda p: depth[p.name])
    kernels = {
        c.label: (torch.tensor(c.op.weight, dtype=torch.float32), torch.tensor(c.bias, dtype=torch.float32))
        for c in network.connections
        if isinstance(c.op, Conv | Dense) and c.bias is not None
    }

    def current(c: Connection, x: torch.Tensor) -> torch.Tensor:
        if isinstance(c.op, Conv):
            return F.conv2d(x, *kernels[c.label], stride=c.op.stride, padding=c.op.padding[0][0])
        if isinstance(c.op, Dense):
            return F.linear(x.mean((2, 3)), *kernels[c.label])
        if c.before:
            a, b = c.before[0].channels
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, a, b))
        return x * float(c.op.weight)

    @torch.inference_mode()
    def run(images: torch.Tensor) -> torch.Tensor:
        first = current(arriving[order[0].name][0], images)
        membranes = {p.name: float(p.neuron.v0) if isinstance(p.neuron, IF) else 0.0 for p in order}
        for _ in range(ticks):
            spikes: dict[str, torch.Tensor] = {}
            for p in order:
                sources = arriving[p.name]
                z = first if p is order[0] else sum(current(c, spikes[c.source]) for c in sources)
                u = membranes[p.name] + z
                if isinstance(p.neuron, IF):
                    fired = (u >= float(p.neuron.threshold)).float()
                    spikes[p.name] = fired
                    u = u - fired * float(p.neuron.threshold)
                membranes[p.name] = u
        return membranes[network.output]

    return run


def floor_seconds(network: Network, images: np.ndarray, ticks: int, rate: dict[int, float]) -> float:
    """What delivering the run's SynOps alone would take at the streaming limit of each layer's row length."""
    ledger = run_once(network, images, ticks).ledger
    total = 0.0
    for c in network.connections:
        if ledger.tap_class[c.label] == "ac":
            channels = network[c.target].shape[0]
            total += int(ledger.synops(c.label, "structural").sum()) / rate.get(channels, rate[CHANNELS[0]])
    return total


# ------------------------------------------------------------------------------------------------------------ show


def processor() -> str:
    """The processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def show(found: dict[str, Any]) -> None:
    """Print the figures."""
    print(f"{found['machine']['processor']}, one core, median of {found['rounds']} interleaved rounds\n")
    for channels, rate in found["stream_limit_per_second"].items():
        print(f"stream limit, rows of 3 x {channels:>2}:  {rate / 1e9:6.2f} billion additions/s")
    print()
    for name, row in found["layers"].items():
        print(f"{name:<42} {row['synops_per_second'] / 1e9:6.2f} billion SynOps/s, {row['of_limit']:.2f} of the limit")
    row = found["resnet20"]
    print(f"\nResNet-20 ({row['network']}), {row['ticks']} ticks, batch 1, the whole run:")
    print(f"  {row['ms_per_image']:.2f} ms per image, {row['synops_per_image'] / 1e6:.1f} million SynOps")
    print(f"  {row['synops_per_second'] / 1e9:.2f} billion SynOps/s, {row['of_limit']:.2f} of the streaming limit")
    for batch in (1, 64):
        theirs, times = row[f"torch_batch_{batch}_ms"], row[f"times_faster_than_batch_{batch}"]
        print(f"  PyTorch, batch {batch}: {theirs:.2f} ms per image, {times:.1f} times ours")
    print("\nWhat the account costs, times a run that counts spikes only:")
    for name, row in found["counting"].items():
        print(
            f"  {name}: by connection and tick {row['connections']:.3f}, by neuron, too, {row['sources']:.3f}; ", end=""
        )
        print(f"where spikes are recorded anyway, by connection and tick {row['recorded']:.3f}")
    row = found["continuous"]
    print("\nContinuous time, float64:")
    print(
        f"  queue, {PENDING:,} pending: {row['pairs_per_second'] / 1e6:.1f} million pairs of push and pop/s, "
        f"{row['of_bare_heap']:.2f} of a bare heap"
    )
    for name in list(row)[2:]:
        one = row[name]
        print(
            f"  {name}: {one['synops_per_second'] / 1e9:.2f} billion structural SynOps/s, at most {one['queue_peak']} "
            f"pending entries (bound {one['queue_bound']})"
        )


if __name__ == "__main__":
    main()
