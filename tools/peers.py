"""The benchmarks of `tools/brette.py` in Brian2 and in NEST, beside ours: the same activity, and how long it takes.

    python tools/peers.py env DIR
    python tools/peers.py run --env DIR --peer nest --benchmark 4 --seed 0 -o spikes.npz
    python tools/peers.py compare --env DIR --benchmark 4 [--seeds 10] [--json figures.json]
    python tools/peers.py time --env DIR [--repeat 5] [--json figures.json]

`env` makes a virtual environment with both, `run` runs one of them there and keeps its spikes. `compare` runs all three
with several seeds and says whether our rates and interspike intervals lie where theirs do: the networks are chaotic, so
single spikes of exact times and of a grid soon have nothing to do with each other. `time` times the simulation alone,
without building or compiling anything, on one core, one of each per round, so that a machine that slows down slows all.

All get the same connectivity and stimulus. Brian2 and NEST are brought onto one grid of 0.1 ms, where they agree spike
for spike as long as rounding does not matter, which shows that they run the same network:

* A spike bears the time of the end of its step, as in NEST. Brian2 names the beginning.
* Brian2 usually tests the threshold before spikes arrive, and so notices a jump a step late. Here they arrive first, as
  in NEST; a spike then takes 0.1 ms with a delay of 0, because those of the step are not there yet.
* After a spike Brian2 keeps the membrane for one step fewer than the refractory period has. It is told one more.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools import brette
from tools.brette import BENCHMARKS, EXCITATORY, NEURONS, STEP

# Brian2 2.9 asks NumPy for ndarray.ptp, which 2.4 no longer has
REQUIREMENTS = ("brian2==2.9.0", "nest-simulator==3.10.0", "numpy<2.4", "cython", "setuptools")
OURS, PEERS = "eventsnn", ("nest", "brian2")
STIMULATED = 0.1  # s, left out of the statistics: the stimulus, and what it leaves behind
LEAST_SPIKES = 3  # of a neuron whose interspike intervals are looked at
DEVIATIONS = 3  # standard deviations over seeds within which we must lie


class Spikes(NamedTuple):
    """What one simulator has made of a benchmark.

    time: (spikes,) float64 microseconds. neuron: (spikes,) int64. seconds: wall time of the simulation alone, one of
    each repetition. build: seconds until the first could start. versions: of what ran.
    """

    time: np.ndarray
    neuron: np.ndarray
    seconds: list[float]
    build: float
    versions: dict[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    env = commands.add_parser("env", help="make a virtual environment with Brian2 and NEST")
    env.add_argument("directory", type=Path)
    run = commands.add_parser("run", help="run one of the two and keep its spikes")
    work = commands.add_parser("work", help="what `run` starts in the environment")
    compare = commands.add_parser("compare", help="rates and intervals of all three")
    timing = commands.add_parser("time", help="wall times of all three")
    for command in (run, work):
        command.add_argument("--peer", choices=PEERS, required=True)
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--threads", type=int, default=1)
        command.add_argument("--repeat", type=int, default=1)
        command.add_argument("-o", "--output", type=Path, required=True, help="spikes as .npz: time_us, neuron, info")
    for command in (run, work, compare):
        command.add_argument("--benchmark", type=int, choices=sorted(BENCHMARKS), required=True)
    for command in (run, work, compare, timing):
        command.add_argument("--seconds", type=float, default=1.0, help="of biological time")
    for command in (run, compare, timing):
        command.add_argument("--env", type=Path, required=True, help="what `env` has made")
    for command in (compare, timing):
        command.add_argument("--json", type=Path, help="write the figures to this file, too")
    work.add_argument("--build", type=Path, required=True, help="for Brian2's program; what is there is used again")
    compare.add_argument("--seeds", type=int, default=10)
    timing.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()

    if options.command == "env":
        make_environment(options.directory)
    elif options.command == "work":
        asked = (options.benchmark, options.seed, options.seconds, options.threads, options.repeat)
        save(options.output, run_nest(*asked) if options.peer == "nest" else run_brian2(*asked, options.build))
    elif options.command == "run":
        names = ("peer", "benchmark", "seed", "seconds", "threads", "repeat")
        with tempfile.TemporaryDirectory() as scratch:
            asked = {name: getattr(options, name) for name in names}
            spikes = run_peer(options.env, options.output, Path(scratch), **asked)
        print(f"{len(spikes.time):,} spikes, {information(spikes)}")
    else:
        if options.command == "compare" and (options.seeds < 2 or options.seconds <= STIMULATED):
            parser.error(f"a comparison needs 2 seeds or more, and more than {STIMULATED} s")
        with tempfile.TemporaryDirectory() as scratch:
            found = (compare_all if options.command == "compare" else time_all)(options, Path(scratch))
        if options.json:
            options.json.write_text(json.dumps(found, indent=2) + "\n")


# -------------------------------------------------------------------------------------------------- the environment


def interpreter(env: Path) -> Path:
    """The Python of a virtual environment."""
    return env / "bin" / "python"


def make_environment(env: Path) -> None:
    """Make a virtual environment with both simulators. Brian2 wants a C++ compiler and make, too, when it runs."""
    subprocess.run([sys.executable, "-m", "venv", env], check=True)
    subprocess.run([interpreter(env), "-m", "pip", "install", *REQUIREMENTS], check=True)


def run_peer(env: Path, output: Path, scratch: Path, **asked: Any) -> Spikes:
    """What `work` makes in the environment, of the options in `asked`; Brian2's program stays in `scratch`."""
    command = [interpreter(env), Path(__file__).resolve(), "work", "--output", output]
    command += ["--build", scratch / f"brian2-{asked['benchmark']}"]
    for name, value in asked.items():
        command += [f"--{name}", str(value)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"peers: {asked['peer']} failed with status {done.returncode}:\n{done.stdout[-4000:]}")
    return load(output)


def information(spikes: Spikes) -> str:
    """All but the spikes, as JSON."""
    return json.dumps({"seconds": spikes.seconds, "build": spikes.build, "versions": spikes.versions})


def save(output: Path, spikes: Spikes) -> None:
    with output.open("wb") as file:  # a file, not a name: NumPy would add its suffix to a name without
        np.savez_compressed(file, time_us=spikes.time, neuron=spikes.neuron, info=information(spikes))


def load(output: Path) -> Spikes:
    with np.load(output) as stored:
        return Spikes(stored["time_us"], stored["neuron"], **json.loads(str(stored["info"])))


# --------------------------------------------------------------------------------------------------- the simulators


def synapses(seed: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """(sources, targets) of the excitatory synapses, and of the inhibitory ones."""
    indptr, targets = brette.connectivity(seed)
    sources = np.repeat(np.arange(NEURONS), np.diff(indptr))
    border = indptr[EXCITATORY]
    return (sources[:border], targets[:border]), (sources[border:], targets[border:])


def run_nest(benchmark: int, seed: int, seconds: float, threads: int, repeat: int) -> Spikes:
    """A benchmark in NEST, built anew for every repetition because nothing there can be set back."""
    import nest

    b = BENCHMARKS[benchmark]
    membrane = {"tau_m": b.tau, "E_L": b.rest, "V_th": b.threshold, "V_reset": b.reset, "V_m": b.start}
    if b.tau_syn:
        model, own = "iaf_psc_exp", {"tau_syn_ex": b.tau_syn[0], "tau_syn_in": b.tau_syn[1]}
        unit = nest.GetDefaults("iaf_psc_exp", "C_m") / b.tau  # pA that move the membrane as a current of 1 mV does
    else:
        model, own, unit = "iaf_psc_delta", {"refractory_input": b.keeps_input}, 1.0

    walls, builds = [], []
    for _ in range(repeat):
        begin = time.perf_counter()
        nest.ResetKernel()
        nest.set(resolution=STEP, local_num_threads=threads)
        cells = nest.Create(model, NEURONS, {**membrane, **own, "t_ref": b.refractory})
        cell = np.array(cells.tolist())
        instants, stimulated = brette.stimulus(seed)
        # a generator for each instant instead of each neuron: NEST visits every one of them in every step
        instants, number = np.unique(instants, return_inverse=True)
        generators = nest.Create("spike_generator", len(instants), [{"spike_times": [t / 1000]} for t in instants])
        excitatory, inhibitory = synapses(seed)
        for sources, targets, weight in (
            (cell[excitatory[0]], cell[excitatory[1]], b.excitatory),
            (cell[inhibitory[0]], cell[inhibitory[1]], b.inhibitory),
            (np.array(generators.tolist())[number], cell[stimulated], b.stimulus),
        ):
            parameters = {"weight": np.full(len(sources), weight * unit), "delay": np.full(len(sources), STEP)}
            nest.Connect(sources, targets, "one_to_one", parameters)
        recorder = nest.Create("spike_recorder")
        nest.Connect(cells, recorder)
        nest.Prepare()
        builds.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        nest.Run(1000 * seconds)
        walls.append(time.perf_counter() - begin)
        nest.Cleanup()
    events = recorder.get("events")
    versions = {"nest": nest.__version__, "python": platform.python_version()}
    return Spikes(np.rint(1000 * events["times"]), events["senders"] - cell[0], walls, builds[0], versions)


def run_brian2(benchmark: int, seed: int, seconds: float, threads: int, repeat: int, build: Path) -> Spikes:
    """A benchmark in Brian2, as a C++ program in the directory `build`."""
    import brian2
    from brian2 import ms, mV

    b = BENCHMARKS[benchmark]
    begin = time.perf_counter()
    brian2.set_device("cpp_standalone", directory=str(build), build_on_run=False)
    brian2.prefs.devices.cpp_standalone.openmp_threads = threads if threads > 1 else 0
    brian2.defaultclock.dt = STEP * ms
    voltages = ("rest", "threshold", "reset", "excitatory", "inhibitory", "stimulus")
    values = {name: getattr(b, name) * mV for name in voltages} | {"tau": b.tau * ms}
    if b.tau_syn:
        values |= {"tau_e": b.tau_syn[0] * ms, "tau_i": b.tau_syn[1] * ms}
        equations = """
            dv/dt = (rest - v + ge + gi) / tau : volt (unless refractory)
            dge/dt = -ge / tau_e : volt
            dgi/dt = -gi / tau_i : volt
        """
    else:
        equations = "dv/dt = (rest - v) / tau : volt (unless refractory)"
    cells = brian2.NeuronGroup(
        NEURONS,
        equations,
        threshold="v > threshold",
        reset="v = reset",
        refractory=(b.refractory + STEP) * ms,
        method="exact",
        namespace=values,
    )
    cells.v = b.start * mV
    instants, stimulated = brette.stimulus(seed)
    stimulus = brian2.SpikeGeneratorGroup(NEURONS, stimulated, (instants / 1000 - STEP) * ms)

    excitatory, inhibitory = synapses(seed)
    net = brian2.Network(cells, stimulus)
    net.schedule = ["start", "groups", "synapses", "thresholds", "resets", "end"]
    for group, (sources, targets), effect in (
        (cells[:EXCITATORY], excitatory, "ge += excitatory"),
        (cells[EXCITATORY:], (inhibitory[0] - EXCITATORY, inhibitory[1]), "gi += inhibitory"),
        (stimulus, (np.arange(NEURONS), np.arange(NEURONS)), "ge += stimulus"),
    ):
        if not b.tau_syn:
            effect = "v" + effect[2:]
        made = brian2.Synapses(group, cells, on_pre=effect, delay=0 * ms, namespace=values)
        made.connect(i=sources, j=targets)
        net.add(made)
    monitor = brian2.SpikeMonitor(cells)
    net.add(monitor)
    net.run(seconds * brian2.second)
    brian2.device.build(directory=str(build), run=False)
    spent = time.perf_counter() - begin

    walls = []
    for _ in range(repeat):
        brian2.device.run(directory=str(build), with_output=False)
        walls.append(float(brian2.device._last_run_time))  # of the loop over the steps, as the program itself says
    steps = np.rint(np.asarray(monitor.t / ms) / STEP) + 1
    versions = {"brian2": brian2.__version__, "python": platform.python_version()}
    return Spikes(steps * round(1000 * STEP), np.asarray(monitor.i, np.int64), walls, spent, versions)


def run_ours(benchmark: int, seed: int, seconds: float, record: str | list[str]) -> Spikes:
    """A benchmark in continuous time, here; without spikes unless `record` names "cells"."""
    import eventsnn

    begin = time.perf_counter()
    network, stimulus = brette.network(benchmark, seed)
    built = time.perf_counter() - begin
    run = eventsnn.simulate(network, stimulus, mode="async", duration=seconds, record=record, jobs=1)
    time_us, neuron = (np.zeros(0), np.zeros(0, np.int64))
    if run.events is not None:
        time_us, neuron = 1e6 * run.events["time"], run.events["neuron"].astype(np.int64)
    versions = {"eventsnn": eventsnn.__version__, "python": platform.python_version()}
    return Spikes(time_us, neuron, [run.seconds], built, versions)


# ------------------------------------------------------------------------------------------------------- statistics


def rate(spikes: Spikes, start: float, end: float) -> float:
    """Spikes per neuron and second in start <= t < end (seconds)."""
    inside = (spikes.time >= 1e6 * start) & (spikes.time < 1e6 * end)
    return float(inside.sum() / NEURONS / (end - start))


def variation(spikes: Spikes, start: float, end: float) -> float:
    """Coefficient of variation of the interspike intervals in start <= t < end, mean over neurons that spike enough."""
    inside = (spikes.time >= 1e6 * start) & (spikes.time < 1e6 * end)
    time_us, neuron = spikes.time[inside], spikes.neuron[inside]
    order = np.lexsort((time_us, neuron))
    trains = np.split(time_us[order], np.cumsum(np.bincount(neuron, minlength=NEURONS))[:-1])
    intervals = [np.diff(train) for train in trains if len(train) >= LEAST_SPIKES]
    return float(np.mean([i.std() / i.mean() for i in intervals])) if intervals else float("nan")


def first_difference(one: Spikes, other: Spikes) -> float | None:
    """Seconds at which two rasters on the grid first differ; None when they are the same."""
    steps = (np.rint(s.time / round(1000 * STEP)).astype(np.int64) * NEURONS + s.neuron for s in (one, other))
    differing = np.setxor1d(*steps)
    return float(differing[0] // NEURONS * STEP / 1000) if len(differing) else None


def compare_all(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Run every seed in all three, print their rates and variations, and hold ours against the peers' range."""
    b, seconds = options.benchmark, options.seconds
    columns = {
        "rate": lambda s: rate(s, STIMULATED, seconds),
        "cv": lambda s: variation(s, STIMULATED, seconds),
        "rate with stimulus": lambda s: rate(s, 0.0, seconds),
    }
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in (OURS, *PEERS)}
    differences = []
    print(
        f"benchmark {b}, {seconds:g} s; rates in spikes per neuron and second, after {STIMULATED:g} s and of it all\n"
    )
    print(f"{'seed':>4}  {'simulator':<10}{'rate':>10}{'CV':>10}{'rate with stimulus':>22}")
    for seed in range(options.seeds):
        spikes = {OURS: run_ours(b, seed, seconds, ["cells"])}
        for peer in PEERS:
            asked = {"peer": peer, "benchmark": b, "seed": seed, "seconds": seconds}
            spikes[peer] = run_peer(options.env, scratch / f"{peer}.npz", scratch, **asked)
        for name, one in spikes.items():
            row = {column: of(one) for column, of in columns.items()}
            figures[name].append(row)
            print(
                f"{seed:4}  {name:<10}{row['rate']:10.4f}{row['cv']:10.4f}{row['rate with stimulus']:22.4f}", flush=True
            )
        differences.append(first_difference(*(spikes[peer] for peer in PEERS)))

    same = sum(d is None for d in differences)
    print(f"\n{' and '.join(PEERS)}: the same spikes with {same} of {options.seeds} seeds", end="")
    print(
        "" if same == options.seeds else f", else up to {min(d for d in differences if d is not None):.4f} s or later"
    )
    ranges: dict[str, dict[str, Any]] = {}
    for peer in PEERS:
        ranges[peer] = {}
        for column in ("rate", "cv"):
            ours, theirs = (np.array([row[column] for row in figures[name]]) for name in (OURS, peer))
            mean, deviation = float(theirs.mean()), float(theirs.std(ddof=1))
            inside = abs(ours - mean) <= DEVIATIONS * deviation
            # with the same network on both sides, so that what differs between networks does not blur it
            paired, error = float(np.mean(ours - theirs)), float(np.std(ours - theirs, ddof=1) / len(ours) ** 0.5)
            ranges[peer][column] = {
                "mean": mean,
                "deviation": deviation,
                "ours_inside": inside.tolist(),
                "paired_difference": paired,
                "paired_standard_error": error,
            }
            print(
                f"{peer:<7} {column:<5}{mean:8.4f} +- {DEVIATIONS} x {deviation:.4f}: ours of seed 0 is "
                f"{'inside' if inside[0] else 'OUTSIDE'}, of all seeds {inside.sum()} of {len(inside)} are; "
                f"ours - theirs, seed by seed: {paired:+.4f}, standard error {error:.4f}"
            )
    return {
        "benchmark": b,
        "seconds": seconds,
        "figures": figures,
        "peers_first_difference": differences,
        "ranges": ranges,
    }


# ------------------------------------------------------------------------------------------------------------ timing


def time_all(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Time all three on one core, round by round, and print the medians."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    found = {}
    for b in sorted(BENCHMARKS, reverse=True):
        runs = {OURS: lambda b=b: run_ours(b, 0, options.seconds, "outputs")}
        runs[f"{OURS}, spikes"] = lambda b=b: run_ours(b, 0, options.seconds, ["cells"])
        for peer in PEERS:
            asked = {"peer": peer, "benchmark": b, "seed": 0, "seconds": options.seconds}
            runs[peer] = lambda asked=asked: run_peer(options.env, scratch / "spikes.npz", scratch, **asked)
        done: dict[str, list[Spikes]] = {name: [] for name in runs}
        for i in range(options.repeat + 1):
            for name, run in runs.items():
                spikes = run()
                if i:  # the first round compiles, and does not count
                    done[name].append(spikes)
        fan_out = np.diff(brette.connectivity(0)[0])
        synops = {name: int(fan_out[d[0].neuron].sum()) for name, d in done.items()}
        synops[OURS] = synops[f"{OURS}, spikes"]
        seconds = {name: [s.seconds[0] for s in d] for name, d in done.items()}
        found[str(b)] = {
            name: {
                "seconds": own,
                "median": float(np.median(own)),
                "synops": synops[name],
                "synops_per_second": synops[name] / float(np.median(own)),
                "times_ours": float(np.median(own) / np.median(seconds[OURS])),
                "versions": done[name][0].versions,
            }
            for name, own in seconds.items()
        }
        print(f"benchmark {b}, {options.seconds:g} s of biological time, one core, median of {options.repeat} rounds:")
        for name, row in found[str(b)].items():
            print(
                f"  {name:<17} {row['median']:8.4f} s ({min(row['seconds']):.4f} to {max(row['seconds']):.4f}), "
                f"{row['synops_per_second'] / 1e6:6.1f} million SynOps/s, {row['times_ours']:.2f} times ours"
            )
    return found


if __name__ == "__main__":
    main()
