"""The oracles on real checkpoints and data, too large for the test suite. Results: docs/validation.md.

    python tools/validate.py [--only spikes|accuracy|witnesses|audit|truth|modes|stream|ttfs|brette|killed]
                              [--images N]

spikes: the converted ResNet-20 against a plain PyTorch stepper with the same folded weights, 32 ticks, 20 images: every
spike of all populations in float64; in float32 the differences, each first one of which must be a rounding tie.
accuracy: the same network on the 1,000 exact CIFAR-10 test images at 32, 64, 128 and 256 ticks.
witnesses: its counts, 8 ticks, 20 images, against sinabs, spikingjelly and NeuroBench on the recorded rasters.
audit: the same runs written to a folder and recounted from their events.
truth: continuous time against closed forms, published traces, and 500 random networks each of IF and LIF neurons, of
current-based ones, of large uniform populations and of neurons that fire once, in 50-digit arithmetic.
brette: the first 200 spikes of the benchmarks 4 and 2 of Brette et al. (2007) in 50-digit arithmetic.
stream: recordings of a DVS128 chained to 10 seconds and more, through a convolutional network in windows of 100 ms.
modes: `cnn_sinabs.nir` on 100 N-MNIST recordings, and the packaged digits, in ticks and in continuous time.
ttfs: a network whose neurons fire once (Zhang et al., arXiv 1909.10837) on the 10,000 MNIST test images, to its first
output spike and to its last, against the closed form in NumPy.
killed: a run of 1,000 samples of the packaged digits network, killed with -9 at 20 random moments and resumed, against
the same run left alone, byte for byte.

Needs the data of EVENTSNN_DATA, or ../shared, but for `truth`, `brette` and `killed`.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

import eventsnn as es
from eventsnn import comparison, import_torch, layouts
from eventsnn.audit import audit, lines
from eventsnn.cli import packaged
from eventsnn.inputs import prepare_images
from eventsnn.ledger import wilson
from eventsnn.network import AdaptivePool, AddressMap, Conv, Dense, Pool
from eventsnn.neurons import IF, LIF, Input
from eventsnn.readers import read_input
from eventsnn.recordings import stream
from eventsnn.report import predictions_by_tick

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("spikes", "accuracy", "witnesses", "audit", "truth", "modes", "stream", "ttfs", "brette", "killed")
DATA = Path(os.environ.get("EVENTSNN_DATA", ROOT.parent / "shared"))
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import stepper  # noqa: E402 - the oracle lives with the tests

from tools.samples import decoded  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--images", type=int, help="use the first N images")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    if options.only in (None, "truth") and not truth():
        sys.exit(1)
    if options.only in (None, "ttfs") and not ttfs(options.images, options.jobs):
        sys.exit(1)
    if options.only in (None, "brette") and not first_spikes():
        sys.exit(1)
    if options.only in (None, "killed") and not killed():
        sys.exit(1)
    if options.only in ("truth", "ttfs", "brette", "killed"):
        return
    checkpoint = DATA / "models" / "resnet_cifar10" / "resnet20-12fca82f.th"
    if not checkpoint.is_file():
        sys.exit(f"validate: {checkpoint} is absent; set EVENTSNN_DATA")
    train, _ = cifar("train", 1024)
    module = layouts.build("resnet20", import_torch.load_checkpoint(checkpoint))
    example = np.zeros((1, 3, 32, 32), np.float32)
    network = import_torch.from_torch(module, example, calibrate=train, normalise="imagenet", ticks=64)
    sound = True
    images, _ = cifar("test_lossless", options.images or 20)
    if options.only in (None, "spikes"):
        sound = spikes(network, images, "float64") and spikes(network, images, "float32")
    if options.only in (None, "witnesses"):
        sound &= witnesses(network, images)
    if options.only in (None, "audit"):
        sound &= recount(network, images)
    if options.only in (None, "modes"):
        modes(options.jobs)
    if options.only in (None, "stream"):
        sound &= flat()
    if options.only in (None, "accuracy"):
        accuracy(module, network, *cifar("test_lossless", options.images or 1000), options.jobs)
    sys.exit(0 if sound else 1)


def cifar(split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first images (N, 3, 32, 32) uint8 and labels of a split."""
    stored = np.load(DATA / "data" / "cifar10.npz")
    return decoded(stored, split, count), stored[f"{split}_labels"][:count].astype(np.int64)


def spikes(network: es.Network, images: np.ndarray, dtype: str, ticks: int = 32) -> bool:
    """Print how many spikes differ; returns whether every first difference is a rounding tie."""
    spiking = [p for p in network.populations if isinstance(p.neuron, IF)]
    total, differing, firsts, seconds = 0, 0, [], time.perf_counter()
    for i in range(len(images)):  # one at a time: the stepper keeps every membrane of every tick
        one = images[i : i + 1]
        run = es.simulate(network, one, ticks=ticks, watchdog=es.Fixed(), record="spikes", dtype=dtype)
        stepped = stepper.step(network, one.astype(dtype) / np.asarray(255, dtype), ticks, getattr(torch, dtype))
        recorded = {}
        for number, p in enumerate(network.populations):
            found = np.zeros((ticks, p.size))
            of_this = run.events[run.events["population"] == number]
            found[of_this["time"], of_this["neuron"]] = of_this["value"]
            recorded[p.name] = found.reshape(ticks, 1, *p.shape)
        for p in spiking:
            theirs = stepped.emitted[p.name].numpy()
            total += int(theirs.sum())
            differing += int(np.sum(theirs != recorded[p.name]))
        firsts += [d._replace(sample=i) for d in stepper.first_differences(network, recorded, stepped)]
    ties = sum(d.is_rounding_tie for d in firsts)
    print(
        f"{dtype}: {len(images)} images, {ticks} ticks, {total:,} spikes of {len(spiking)} populations: "
        f"{differing:,} differ; {len(firsts)} first differences, {ties} of them rounding ties "
        f"({time.perf_counter() - seconds:.0f} s)",
        flush=True,
    )
    for d in firsts:
        if not d.is_rounding_tie:
            print(f"  NOT A TIE: {d}")
    return ties == len(firsts) and (dtype != "float64" or differing == 0)


def witnesses(network: es.Network, images: np.ndarray, ticks: int = 8) -> bool:
    """Print in how many counts each witness differs, over all connections with weights; returns whether in none."""
    from test_witnesses import neurobench_synops, recorded_rasters, sinabs_synops, spikingjelly_synops, torch_layers

    compared, differing, totals = Counter(), Counter(), Counter()
    seconds = time.perf_counter()

    def compare(witness: str, where: str, ours: int, theirs: int) -> None:
        compared[witness] += 1
        totals[witness] += ours
        if ours != theirs:
            differing[witness] += 1
            print(f"  {witness}, {where}: {ours:,} is {theirs:,} to it")

    for i in range(len(images)):  # one at a time: every spike is held as a dense raster
        run = es.simulate(network, images[i : i + 1], ticks=ticks, watchdog=es.Fixed(), record="spikes")
        rasters, ledger = recorded_rasters(run), run.ledger
        seen = prepare_images(images[i : i + 1], network)
        for c in network.connections:
            if not isinstance(c.op, Conv | Dense):
                continue
            where = f"image {i}, {c.label}"
            shapes = c.shapes(network[c.source].shape)
            layers = torch_layers(c.op, tuple(whole_grid(step, shape) for step, shape in zip(c.before, shapes)))
            if isinstance(network[c.source].neuron, Input):
                counted = neurobench_synops(layers, torch.tensor(seen, dtype=torch.float64))
                compare("NeuroBench (image)", where, int(ledger.macs_input[0]), counted.dense)
                compare("NeuroBench (image)", where, int(ledger.macs_input_effective[0]), counted.mac)
                continue
            raster = torch.tensor(rasters[c.source][0], dtype=torch.float64)
            structural = int(ledger.synops(c.label, "structural")[0])
            compare("sinabs", where, structural, sinabs_synops(layers, raster))
            if not any(isinstance(step, Pool | AdaptivePool) for step in c.before):  # it counts nothing behind a pool
                compare("spikingjelly", where, structural, spikingjelly_synops(layers, raster))
            by_tick = ledger.synops_by_tick(c.label, "effective_per_tick")[0]
            for tick in range(ticks):
                counted = neurobench_synops(layers, raster[tick : tick + 1])
                compare("NeuroBench", f"{where}, tick {tick}", int(by_tick[tick]), counted.ac + counted.mac)
    for witness in sorted(compared):
        print(
            f"{witness}: {differing[witness]} of {compared[witness]:,} counts differ, "
            f"{totals[witness]:,} operations in all"
        )
    print(f"({len(images)} images, {ticks} ticks, {time.perf_counter() - seconds:.0f} s)", flush=True)
    return not differing


def whole_grid(step: AddressMap, shape: tuple[int, ...]) -> AddressMap:
    """The global average as a pool of the grid's size, which sinabs scales back; any other map as it is."""
    if isinstance(step, AdaptivePool) and set(step.size) == {1}:
        return Pool(shape[1:], shape[1:], (0,) * len(shape[1:]))
    return step


def recount(network: es.Network, images: np.ndarray, ticks: int = 8) -> bool:
    """Write a recorded run to a folder and audit it; returns whether the books agree."""
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "resnet20.h5"
        es.save(network, weights)
        run = es.simulate(network, images, ticks=ticks, watchdog=es.Fixed(), record="spikes")
        es.save_run(run, Path(folder) / "run", weights=weights)
        seconds = time.perf_counter()
        found = audit(Path(folder) / "run")
    print(*lines(found), sep="\n")
    print(f"({len(images)} images, {ticks} ticks, {time.perf_counter() - seconds:.0f} s)", flush=True)
    return found.agrees


def truth() -> bool:
    """Print what continuous time gives where the truth is known; returns whether all of it is right."""
    import test_async_currents as currents
    import test_async_exact as exactly

    seconds, sound = time.perf_counter(), True

    def say(what: str, found: object, wanted: object, right: bool) -> None:
        nonlocal sound
        sound &= right
        print(f"{'ok' if right else 'WRONG':>5}  {what}: {found}; the truth is {wanted}", flush=True)

    first = exactly.train(exactly.nest_neuron(15.0), [], 0.02)[0][0] / 1e3
    wanted = -10 * math.log(1 - 0.375)
    say("first spike of NEST's neuron (G2), ms", repr(first), repr(wanted), abs(first - wanted) <= 1e-13)
    leaky = exactly.one_neuron(LIF(tau=0.01, threshold=15.0, reset="value", refractory=2), bias=4.0, tick=1e-3)
    times = np.array([t for t, _ in exactly.train(leaky, [], 1.0)]) / 1e3
    wanted = 2 - 10 * math.log(1 - 15 / 40)
    far = float(np.max(np.abs(np.diff(times) / wanted - 1)))
    say(f"{len(times) - 1} intervals under constant drive, largest relative error", f"{far:.1e}", 0, far <= 1e-12)
    pulses = [(1000 * int(ms), 0) for ms in exactly.NIR_PULSES.split()]
    bins = [math.floor(t / 100) / 10 for t, _ in exactly.train(exactly.nir_neuron(), pulses, 0.1, pulse=1e-4)]
    published = [b / 10 for b in exactly.NIR_BINS]
    say("the NIR paper's exact LIF (G1), ms", bins, published, bins == published)
    for name, law in (
        ("soft resets conserve charge, 20 networks", exactly.test_soft_resets_conserve_charge),
        (
            "arrivals of one instant in any order, 20 networks",
            exactly.test_the_order_of_arrivals_of_one_instant_does_not_matter,
        ),
    ):
        broken = failures(law, range(20))
        say(name, f"{len(broken)} broken", "0 broken", not broken)

    cases = exactly.CHUNKS * exactly.CHUNK
    spikes, wrong, grazing, worst = 0, 0, 0, 0.0
    for seed in range(cases):
        case, net, reference, kappa, drawn_again = exactly.drawn(seed)
        found = exactly.run(case.network, case.events, case.duration)
        wrong += bool(exactly.differences(case, net, reference, kappa, found) or exactly.residuals(net, found))
        spikes += len(reference.spikes)
        grazing += drawn_again
        worst = max([worst, *kappa])
    share = grazing / (cases + grazing)
    say(f"{cases} random recurrent networks, {spikes:,} events", f"{wrong} differ", "mpmath's", not wrong)
    say("of all drawn, too close to call", f"{grazing} ({share:.2%})", "at most 1 %", share <= 0.01)
    for kind in currents.KINDS:
        found = currents.tally(kind, 500)
        say(
            f"500 random networks of the kind {kind}, {sum(found.spikes.values()):,} spikes",
            found.wrong,
            0,
            not found.wrong,
        )
        print(f"       ({found.grazing} drawn again, {found.share:.2%}; largest condition number {found.kappa:.0f})")
    print(f"(largest condition number {worst:.0f}; {time.perf_counter() - seconds:.0f} s)", flush=True)
    return sound


def failures(law: Callable[[int], None], seeds: range) -> list[int]:
    """Seeds with which a test of the suite fails."""
    broken = []
    for seed in seeds:
        try:
            law(seed)
        except AssertionError:
            broken.append(seed)
    return broken


def modes(jobs: int) -> None:
    """Print what two networks give in ticks and in continuous time, and where the two part."""
    network = es.load(DATA / "models" / "nir" / "cnn_sinabs.nir", assume="sinabs")
    network = replace(network, encoding="events", tick_seconds=1e-3)
    file = DATA / "data" / "nmnist_subset.h5"
    recordings = read_input(file, network, keys="t,x,y,p,offsets,labels,split=1")
    both("cnn_sinabs.nir, 100 N-MNIST recordings", network, recordings.inputs, recordings.labels, 310, jobs)
    digits = replace(es.load(packaged("digits.h5")), tick_seconds=1e-3)
    held_out = read_input(packaged("digits-heldout.npz"), digits)
    both("the packaged digits network", digits, held_out.inputs, held_out.labels, 16, jobs)


def both(
    name: str, network: es.Network, inputs: np.ndarray | es.Events, labels: np.ndarray, ticks: int, jobs: int
) -> None:
    """Print accuracy, spikes and SynOps of a network in both modes, and how far their spikes are apart."""
    options = {"ticks": ticks, "watchdog": es.Fixed(), "record": "spikes", "jobs": jobs}
    clocked = es.simulate(network, inputs, labels, dtype="float64", **options)
    runs = {"ticks of 1 ms": clocked, "continuous time": es.simulate(network, inputs, labels, mode="async", **options)}
    print(f"{name}:")
    for mode, run in runs.items():
        synops = int(run.ledger.synops().sum())
        show(mode, int(np.sum(run.predictions == run.labels)), len(labels), synops)
        print(
            f"{'':>12}{int(run.ledger.spikes().sum()):,} spikes, at most {run.queue_peak.max():,} entries in the queue"
        )
    console = Console(highlight=False, width=120)
    for line in comparison.lines(comparison.compare(*runs.values())):
        console.print(line, markup=False)


def anonymous() -> float:
    """Megabytes of this process that are its own: without pages of mapped files, which the system takes back."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")) / 1024


def flat(seconds: int = 40, window: float = 0.1) -> bool:
    """Print the memory of a long stream as it goes; returns whether it stays what it was after the first tenth."""
    network = es.load(ROOT / "weights" / "objects.h5")
    parts = read_input(DATA / "data" / "dvs128_objects.h5", network).inputs
    length = int(np.ceil(parts.t.max() / 1e5)) * 100_000  # of a recording, in whole windows
    chained, begin = [], 0
    while begin < seconds * 1_000_000:
        i = (begin // length) % len(parts)
        own = slice(int(parts.offsets[i]), int(parts.offsets[i + 1]))
        address = parts.neuron[own]
        one = np.zeros(len(address), [("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "u1")])
        one["t"], one["p"], rest = parts.t[own] + begin, address // 128**2, address % 128**2
        one["y"], one["x"] = rest // 128, rest % 128
        chained.append(one)
        begin += length
    state, held, events, windows = None, [], 0, 0
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "dvs.npy", np.concatenate(chained))
        started = time.perf_counter()
        for part in stream(Path(folder) / "dvs.npy", network, window):
            run = es.simulate(network, part, mode="async", duration=window, state=state, bias_period=10e-3)
            state = run.state
            events, windows = events + int(run.ledger.input_events[0]), windows + 1
            if windows * window in (seconds / 10, seconds / 4, seconds // 1):
                held.append(anonymous())
                print(f"after {windows * window:g} s: {events:,} events, {held[-1]:.1f} MB held", flush=True)
    print(f"({windows} windows, {time.perf_counter() - started:.0f} s)")
    return held[-1] < 1.01 * held[0]


def first_spikes(spikes: int = 200) -> bool:
    """Print how the first spikes of two recurrent networks of 4,000 neurons compare; returns whether all are right."""
    import exact

    from tools import brette

    sound = True
    for benchmark, end in ((4, 3_000), (2, 12_000)):  # microseconds
        network, stimulus = brette.network(benchmark, 0)
        found = es.simulate(network, stimulus, mode="async", duration=end / 1e6, record=["cells"]).events[:spikes]
        given = [(int(t), int(n)) for t, n in zip(stimulus.t, stimulus.neuron, strict=True) if t < end]
        plain = exact.plain(network)
        true = exact.run(plain, given, exact.mpf(end), limit=spikes)
        wanted = [s for s in true.spikes if plain.groups[s.group].kind == "neurons"][:spikes]
        same = [s.unit for s in wanted] == found["neuron"].tolist()
        far = max(abs(float(s.time) / 1e6 / t - 1) for s, t in zip(wanted, found["time"], strict=True))
        sound &= same and far <= 1e-12
        causes = ", ".join(f"{n} by {cause}" for cause, n in Counter(s.cause for s in wanted).items())
        print(
            f"benchmark {benchmark}: the first {len(wanted)} spikes ({causes}) are {'the same' if same else 'OTHERS'}, "
            f"times within {far:.1e}; the closest call {true.closest:.1e}",
            flush=True,
        )
    return sound


def ttfs(images: int | None, jobs: int, chunk: int = 250) -> bool:
    """Print what a single-spike network gives on MNIST, and the closed form; returns whether every spike agrees."""
    import test_ttfs as single

    if not single.MNIST.is_file():
        sys.exit(f"validate: {single.MNIST} is absent; set EVENTSNN_DATA")
    stored, weights = np.load(single.MNIST), single.trained()
    pixels, labels = stored["x_test"][:images], stored["y_test"][:images].astype(np.int64)
    network = single.network_of(weights, 28)
    names, total, seconds, stops = single.Spikes._fields, len(labels), Counter(), []
    right, differing, unlike, far = Counter(), [], Counter(), dict.fromkeys((*names, "decision"), 0.0)
    live, whole = Counter(), Counter()

    def compare(name: str, found: np.ndarray, wanted: np.ndarray) -> None:
        both = np.isfinite(found) & np.isfinite(wanted)
        unlike[f"times of {name} that only one of them has"] += int(np.sum(np.isfinite(found) != np.isfinite(wanted)))
        far[name] = max(far[name], float(np.abs(found[both] / wanted[both] - 1).max()))

    for begin in range(0, total, chunk):
        part = slice(begin, begin + chunk)
        own, started = pixels[part], time.perf_counter()
        parts = [single.closed_form(own[i : i + 10], weights) for i in range(0, len(own), 10)]
        z = single.Spikes(*(np.concatenate(layer) for layer in zip(*parts)))
        seconds["closed form"] += time.perf_counter() - started
        events, options = single.events_of(own), {"mode": "async", "duration": 1.2, "jobs": jobs}
        first = es.simulate(network, events, labels[part], watchdog=es.FirstSpike(), **options)
        last = es.simulate(network, events, labels[part], watchdog=es.Fixed(), record="spikes", **options)
        answers = z.output.argmin(1)
        right["closed form"] += int(np.sum(answers == labels[part]))
        right["eventsnn"] += int(np.sum(first.predictions == labels[part]))
        for i in np.flatnonzero(first.predictions != answers):
            one, two = np.sort(z.output[i])[:2]
            differing.append((begin + int(i), int(first.predictions[i]), int(answers[i]), two / one - 1))
        for name, wanted in zip(names, z):
            compare(name, single.spike_times(last, name), single.seconds(wanted))
        compare("decision", first.stop_time, single.seconds(z.output).min(1))
        replayed = es.replay(last.trace, es.FirstSpike())
        moved = (replayed.predictions != first.predictions) | (replayed.stop_time != first.stop_time)
        unlike["samples replayed otherwise than they ran"] += int(moved.sum())
        stops += first.stop_time.tolist()
        for counts, run, until in ((live, first, "to the first spike"), (whole, last, "to the end")):
            counts.update({name: int(run.ledger.spikes(name).sum()) for name in names})
            counts.update({"input events": int(run.ledger.input_events.sum())})
            for kind in ("delivered", "dropped"):  # what reaches a neuron that has fired is dropped
                counts.update({f"SynOps {kind}": int(run.ledger.synops(kind=kind).sum())})
            seconds[until] += run.seconds
    for name, count in right.items():
        show(name, count, total)
    print(f"{len(differing)} of {total:,} answers differ")
    for sample, ours, theirs, margin in differing:
        print(
            f"  sample {sample}: {ours}, the closed form {theirs}; its two earliest spikes are {margin:.1e} of z apart"
        )
    for what, count in unlike.items():
        print(f"{what}: {count:,}")
    print("largest relative difference of a time:", ", ".join(f"{name} {x:.1e}" for name, x in far.items()))
    for name in live:
        print(f"{name} a sample: {live[name] / total:,.1f} up to the decision, {whole[name] / total:,.1f} to the end")
    mean, low, high = (1e3 * float(f(stops)) for f in (np.mean, np.min, np.max))
    print(f"decided after {mean:.1f} ms ({mean / 1e3 / single.TAU:.2f} tau) on average, {low:.1f} to {high:.1f}")
    print(f"({', '.join(f'{what} {spent:.0f} s' for what, spent in seconds.items())}, {jobs} threads)", flush=True)
    return not differing and not any(unlike.values()) and max(far.values()) < 1e-9


def killed(moments: int = 20, samples: int = 1000) -> bool:
    """Print how many resumed runs differ from the one that was left alone; returns whether none."""
    rng, before, differing, during_merge = np.random.default_rng(0), [], [], 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        stored = np.load(packaged("digits-heldout.npz"))
        rows = np.arange(samples) % len(stored["labels"])
        np.savez(folder / "digits.npz", images=stored["images"][rows], labels=stored["labels"][rows])
        command = [sys.executable, "-m", "eventsnn", "simulate", "--weights", str(packaged("digits.h5"))]
        command += ["--input", "digits.npz", "--record", "spikes", "--out"]

        def begun(name: str, *more: str) -> subprocess.Popen:
            """A run that has its first chunk."""
            run = subprocess.Popen([*command, name, *more], cwd=folder, stdout=subprocess.DEVNULL)
            while not any((folder / name / ".part").glob("*.npz")) and run.poll() is None:
                time.sleep(0.001)
            return run

        def content(name: str) -> dict[str, bytes]:
            files = (p for p in (folder / name).rglob("*") if p.is_file() and p.name != "timing.json")
            return {p.relative_to(folder / name).as_posix(): p.read_bytes() for p in files}

        run, started = begun("whole"), time.perf_counter()
        code, lasted = run.wait(), time.perf_counter() - started
        wanted = content("whole")
        for number in range(moments):
            name = f"run{number}"
            run = begun(name)
            time.sleep(rng.uniform(0, lasted))
            run.kill()
            run.wait()
            before.append(len([*(folder / name / ".part").glob("*.npz")]))
            during_merge += (folder / name / "samples.csv").exists() and not (folder / name / "run.json").exists()
            code |= subprocess.run([*command, name, "--resume"], cwd=folder, stdout=subprocess.DEVNULL).returncode
            if content(name) != wanted:
                differing.append(name)
    print(
        f"{samples:,} samples killed at {moments} moments of {lasted:.1f} s, with {sorted(before)} chunks whole, "
        f"{during_merge} of them during the merge: {len(differing)} resumed runs differ from the uninterrupted one"
    )
    return not differing and not code


def accuracy(module: torch.nn.Module, network: es.Network, images: np.ndarray, labels: np.ndarray, jobs: int) -> None:
    """Print the module's accuracy and the network's at powers of two of ticks, from one run."""
    with torch.inference_mode():
        mean, std = (np.asarray(x, np.float32).reshape(-1, 1, 1) for x in (network.mean, network.std))
        batches = np.array_split((images.astype(np.float32) / 255 - mean) / std, max(1, len(images) // 100))
        scores = np.concatenate([module(torch.from_numpy(x)).numpy() for x in batches])
    show("PyTorch", int(np.sum(scores.argmax(1) == labels)), len(labels))
    run = es.simulate(network, images, labels, ticks=256, watchdog=es.Fixed(), jobs=jobs)
    by_tick = predictions_by_tick(run.outputs, run.trace.margins)
    for ticks in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        synops = int(run.trace.synops[:, :ticks].sum())
        show(f"{ticks} ticks", int(np.sum(by_tick[:, ticks - 1] == labels)), len(labels), synops)
    print(f"({run.seconds:.0f} s for {len(labels):,} images of 256 ticks, {jobs} threads)")


def show(name: str, right: int, total: int, synops: int | None = None) -> None:
    low, high = wilson(right, total)
    cost = "" if synops is None else f", {synops / total / 1e6:,.1f} million SynOps an image"
    print(f"{name:>10}: {100 * right / total:.2f} % ({100 * low:.2f} to {100 * high:.2f} %){cost}", flush=True)


if __name__ == "__main__":
    main()
