"""The command line: every command reads its files, calls one function of the package and shows what came back."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import asdict, replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventsnn.network import Network
    from eventsnn.readers import Samples
    from eventsnn.report import Facts
    from eventsnn.runs import Record
    from eventsnn.simulation import Job, Run
    from eventsnn.study import Recorded

# Everything heavier than typer is imported inside the command that needs it: `--help` must answer at once.

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Run spiking neural networks one spike at a time, stop when the answer is safe, account for every operation.",
)
plot_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Draw a recorded run.")
app.add_typer(plot_app, name="plot")

CIFAR_SHAPE = (3, 32, 32)
CONVERTED_TICKS = 64  # of a converted network, unless it is told
DRAWN_EVENTS = 2**19  # in the figure of a run; the busiest populations are left out of it, and it says so

# options that several commands have
Keys = Annotated[
    str | None,
    typer.Option(
        help="names of the arrays in the input file, as images,labels; NAME=NUMBER chooses samples; of recordings also "
        "chip=davis346, unit=s, zero=first|file, sort=time"
    ),
]
Layout = Annotated[str | None, typer.Option(help="axes of the images, chw or hwc, where both fit")]
Tick = Annotated[str | None, typer.Option(help="length of a tick for event input, as 1ms, 500us or 0.001")]
SpikeInput = Annotated[
    str | None,
    typer.Option(
        help="what a spike of a foreign NIR file is: impulse, or pulse:DT, a current for DT, the length of a tick, "
        "as pulse:1ms; default: what --assume has"
    ),
]
INPUT = "images or events: .npz, .npy, .h5 (SHD too), .aedat, .csv, N-MNIST .bin, CIFAR"


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 a run failed, 2 bad input or arguments (one sentence)."""
    try:
        sys.exit(app(standalone_mode=False) or 0)  # the parser returns the code of a typer.Exit
    except ValueError as error:
        _fail(str(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", 1)
    except (RuntimeError, MemoryError, ConnectionError) as error:
        _fail(f"the run failed: {error}", 1)
    except OSError as error:
        _fail(f"{error.filename or 'a file'}: {error.strerror or error}", 2)
    except Exception as error:
        if not hasattr(error, "format_message"):  # the argument parser's own errors have one
            raise
        _fail(f"{error.format_message().rstrip('.')}; see eventsnn --help", 2)


def _fail(sentence: str, code: int) -> NoReturn:
    print(f"eventsnn: {' '.join(sentence.split())}", file=sys.stderr)
    sys.exit(code)


# -------------------------------------------------------------------------------------------------------- simulate


@app.command()
def simulate(
    weights: Annotated[Path | None, typer.Option(help="network file; default: the packaged digits network")] = None,
    input: Annotated[Path | None, typer.Option(help=f"{INPUT}; default: the packaged held-out digits")] = None,
    keys: Keys = None,
    layout: Layout = None,
    mode: Annotated[
        str, typer.Option(help="sync: whole ticks, the timing of a PyTorch loop; async: continuous time")
    ] = "sync",
    encoding: Annotated[
        str | None, typer.Option(help="how images enter: direct, rate, latency; default: the network's")
    ] = None,
    ticks: Annotated[int | None, typer.Option(help="longest run in ticks; default: the network's")] = None,
    tick: Tick = None,
    duration: Annotated[str | None, typer.Option(help="longest run of mode async, as 300ms or 0.3")] = None,
    ties: Annotated[
        str, typer.Option(help="mode async: test a neuron after all arrivals of an instant (together) or each (serial)")
    ] = "together",
    pulse: Annotated[
        str | None, typer.Option(help="mode async: events act as currents that last so long, as 1ms, not as jumps")
    ] = None,
    bias_period: Annotated[
        str | None, typer.Option(help="mode async: biases of wide layers come in pulses that far apart, as 1ms")
    ] = None,
    crop: Annotated[
        str | None, typer.Option(help="of events: only these pixels, x0,y0,x1,y1, such as 16,16,112,112 (x1, y1 not)")
    ] = None,
    polarity: Annotated[
        str | None, typer.Option(help="of events: keep, merge (one channel), swap, on or off (only these, one channel)")
    ] = None,
    downsample: Annotated[
        str | None, typer.Option(help="of events: merge N x N pixels into one; no event is lost")
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(help="of events: this part of every sample, START,END, as 100ms,400ms; time starts anew"),
    ] = None,
    cutoff: Annotated[
        str | None,
        typer.Option(
            help="when to stop: fixed, spike-gap:3, topk:1.5, topk:policy.json, confidence:0.9, entropy:0.2, "
            "conformal:policy.json, first-spike, budget:2e6; default: the network's"
        ),
    ] = None,
    assume: Annotated[
        str | None, typer.Option(help="what a foreign NIR file leaves open: nir, sinabs, snntorch, ...")
    ] = None,
    spike_input: SpikeInput = None,
    limit: Annotated[int | None, typer.Option(help="only the first N samples")] = None,
    jobs: Annotated[str, typer.Option(help="worker threads, or dask:N: N processes of a local Dask cluster")] = "1",
    scheduler: Annotated[str | None, typer.Option(help="run on the Dask cluster at this address, tcp://...")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32 or float64; default: float32 in mode sync, float64 in mode async")
    ] = None,
    seed: Annotated[int, typer.Option(help="of rate-coded input")] = 0,
    layer_delay: Annotated[int, typer.Option(help="least delay of every connection, in ticks")] = 0,
    record: Annotated[str, typer.Option(help="outputs, spikes, potentials, or names of populations")] = "outputs",
    count: Annotated[
        str, typer.Option(help="connections, or sources: also the events of every neuron")
    ] = "connections",
    out: Annotated[Path | None, typer.Option(help="run folder; default: runs/TIME-NETWORK")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the unfinished run in --out")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the account as JSON, nothing else")] = False,
) -> None:
    """Classify samples one spike at a time and account for every operation."""
    from eventsnn import runs
    from eventsnn.parallel import check_jobs
    from eventsnn.recordings import parse_view
    from eventsnn.simulation import prepare
    from eventsnn.simulation import simulate as run_samples
    from eventsnn.watchdog import parse_policy

    check_jobs(jobs, scheduler)
    if resume and out is None:
        raise ValueError("--resume goes on with the run in a folder; name it with --out")
    if resume and out is not None and runs.is_complete(out):
        _show_run({**runs.read(out).run, **runs.read_timing(out)}, out, as_json, f"{out} is complete already")
        return
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}, wanted 1 or more samples")
    if weights is not None and input is None:
        raise ValueError("--weights needs --input: the samples to run; without both, the packaged network runs its own")
    if count not in ("connections", "sources"):
        raise ValueError(f"count is {count!r}, wanted connections or sources")
    weights = weights or packaged("digits.h5")
    network = _load(weights, assume, tick, encoding, spike_input)
    lasting = None if pulse is None else _seconds(pulse, "pulse")
    if mode == "async" and spike_input is not None and spike_input != "impulse":
        if lasting not in (None, network.tick_seconds):
            raise ValueError("--pulse and --spike-input say different lengths of a pulse; give one of them")
        lasting = network.tick_seconds
    view = parse_view(crop, polarity, downsample, window)
    samples = _read(input or packaged("digits-heldout.npz"), network, keys=keys, layout=layout, limit=limit, view=view)
    policy = None if cutoff is None else parse_policy(cutoff)
    facts = replace(
        _facts(weights, network, samples, assume),
        view=None if view is None else asdict(view),
        spike_input=spike_input,
    )
    what = record if record in ("outputs", "spikes", "potentials") else record.split(",")
    options: dict[str, Any] = {
        "mode": mode,
        "ticks": ticks,
        "duration": None if duration is None else _seconds(duration, "duration"),
        "ties": ties,
        "pulse": lasting,
        "bias_period": None if bias_period is None else _seconds(bias_period, "bias-period"),
        "watchdog": policy,
        "dtype": dtype,
        "seed": seed,
        "layer_delay": layer_delay,
        "layout": "chw" if len(network.input.shape) == 3 else None,  # what the reader has arranged
    }

    def first() -> Run:
        one = samples.first(1)
        if sum(p.size for p in network.populations) * job.worker.ticks <= 8 * DRAWN_EVENTS:  # as one in eight fires
            return run_samples(network, one.inputs, one.labels, record="spikes", **options)
        counted = run_samples(network, one.inputs, one.labels, **options).ledger
        names = sorted(counted.populations, key=lambda name: int(counted.spikes(name)[0]))
        totals = accumulate(int(counted.spikes(name)[0]) for name in names)
        drawn = [name for name, events in zip(names, totals, strict=True) if events <= DRAWN_EVENTS]
        return run_samples(network, one.inputs, one.labels, record=drawn, **options)

    with _progress(len(samples), facts.network_name) as advance:
        job = prepare(
            network,
            samples.inputs,
            samples.labels,
            record=what,
            count=count,
            jobs=jobs,
            scheduler=scheduler,
            **options,
        )
        # Everything was checked: only now may anything be written.
        folder, found = _written(job, facts, out, resume, advance, first)
    _show_run(found, folder, as_json)


def _written(
    job: Job, facts: Facts, out: Path | None, resume: bool, advance: Any, first: Callable[[], Run]
) -> tuple[Path, dict[str, Any]]:
    """Run a job chunk by chunk into a run folder; gives the folder and its JSON object.

    first: runs the first sample with all its spikes recorded, for the figure.
    """
    from contextlib import closing

    from eventsnn import plot, runs
    from eventsnn.simulation import pack

    parts = job.parts()
    plan = runs.planned(job, facts, parts)
    kept: list[range] = []
    if resume and out is not None:
        folder, kept = out, runs.resume(out, plan, parts)
        advance(sum(map(len, kept)), True)
    else:
        folder = runs.open_folder(out, facts.network_name, plan)
    left, raster = [part for part in parts if part not in kept], folder / runs.PART / "raster.png"
    with runs.claimed(folder):
        try:
            with closing(job.runs(left)) as found:  # closed: what has not begun need not run
                for part, run in zip(left, found, strict=True):
                    runs.keep(run, folder, part)
                    kept.append(part)
                    if not part.start and job.records_all:
                        runs.save_figure(plot.raster(run, 0), raster)
                    advance(len(part))
            if not raster.exists():
                runs.save_figure(plot.raster(first(), 0), raster)
            return folder, runs.finish(pack(job, [], range(0)), folder, facts, parts)
        except (KeyboardInterrupt, MemoryError, OSError, RuntimeError, ValueError) as error:
            wrong = isinstance(error, ValueError | RuntimeError)  # it would be wrong again
            if not kept or (wrong and not resume and len(kept) < len(parts)):
                runs.abandon(folder)
                raise
            what = "interrupted" if isinstance(error, KeyboardInterrupt) else f"the run failed: {error}"
            done = f"{sum(map(len, kept)):,} of {len(job):,} samples are kept in {folder}"
            code = 2 if isinstance(error, ValueError) else 1
            _fail(f"{what}; {done}: go on with the same options, --out {folder} and --resume", code)


def _show_run(found: dict[str, Any], folder: Path, as_json: bool, *notes: str) -> None:
    from eventsnn import report

    if as_json:
        print(json.dumps(found, indent=2))
        return
    _show(*notes, report.layer_table(found), *report.closing_lines(found, found["seconds"]), f"Run folder: {folder}")


def packaged(name: str) -> Path:
    """A file of the packaged network: inside the installed package, or beside it in a checkout."""
    here = Path(__file__).resolve().parent
    for place in (here / "weights", here.parent / "weights"):
        if (place / name).is_file():
            return place / name
    raise ValueError(f"the packaged file {name} is missing from this installation; install eventsnn again")


def _load(
    path: Path,
    assume: str | None,
    tick: str | float | None = None,
    encoding: str | None = None,
    spike_input: str | None = None,
) -> Network:
    from eventsnn import store

    seconds = _seconds(tick) if isinstance(tick, str) else tick
    network = store.load(path, assume=assume, tick_seconds=seconds, spike_input=spike_input)
    if spike_input is not None and network.origin.get("spike_input") != spike_input:
        raise ValueError(f"{path} says itself what a spike does; --spike-input is for NIR files of other tools")
    if seconds is not None:
        network = replace(network, tick_seconds=seconds)
    return network if encoding is None else replace(network, encoding=encoding)


def _read(path: Path, network: Network, **options: Any) -> Samples:
    from eventsnn.readers import read_input

    return read_input(path, network, **options)


def _facts(weights: Path, network: Network, samples: Samples, assume: str | None) -> Facts:
    from eventsnn.report import Facts
    from eventsnn.store import network_hash

    return Facts(
        network_name=weights.stem,
        network_file=weights.name,
        network_path=str(weights.resolve()),
        assume=assume,
        network_sha256=network_hash(network),
        input_file=samples.name,
        input_sha256=samples.sha256,
    )


def _seconds(text: str, what: str = "tick") -> float:
    """A length of time: 1ms, 500us, 2s, or a plain number of seconds."""
    match = re.fullmatch(r"([0-9.eE+-]+?)\s*(s|ms|us|ns)?", text.strip())
    try:
        if match is None:
            raise ValueError
        value = float(match[1]) * {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, None: 1.0}[match[2]]
        if not (math.isfinite(value) and value > 0):
            raise ValueError
    except ValueError:
        raise ValueError(f"{what} is {text!r}, wanted a length of time such as 1ms, 500us or 0.001") from None
    return value


class _progress:
    """A progress bar on stderr, and only on a terminal."""

    def __init__(self, total: int, name: str):
        self.total, self.name = total, name
        self.bar: Any = None

    def __enter__(self) -> Any:
        if not sys.stderr.isatty():
            return lambda count, before=False: None
        import time

        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("samples{task.fields[rate]}"),
        )
        self.bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
        self.bar.start()
        task = self.bar.add_task(self.name, total=self.total, rate="")
        done, since = 0, time.monotonic()

        def advance(count: int, before: bool = False) -> None:
            """So many samples are finished; before: in an earlier run, which says nothing of the rate of this one."""
            nonlocal done, since
            if before:
                self.bar.reset(task, completed=count)
            elif count:
                done += count
                self.bar.update(task, advance=count, rate=f", {done / (time.monotonic() - since):,.1f}/s")

        return advance

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()


def _show(*things: Any) -> None:
    from rich.console import Console

    # Piped output has no width of its own; tables must not be folded at 80 columns then.
    console = Console(highlight=False, soft_wrap=False, width=None if sys.stdout.isatty() else 120)
    for thing in things:
        console.print(thing, markup=False)  # names and notes may hold square brackets


# --------------------------------------------------------------------------------------------- convert and verify


@app.command()
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="PyTorch state dict (.pth, .pt, .th)")],
    model: Annotated[str, typer.Option(help="resnet20/32/44/56, resnet18/34, vgg11/16, or package.module:factory")],
    output: Annotated[Path, typer.Option("--output", "-o", help="network file to write")] = Path("net.h5"),
    calibrate: Annotated[Path | None, typer.Option(help="images that balance the thresholds of ReLU networks")] = None,
    calibrate_limit: Annotated[int, typer.Option(help="use the first N of them")] = 1024,
    percentile: Annotated[float, typer.Option(help="of the non-zero activations, taken as threshold")] = 99.9,
    normalise: Annotated[
        str | None, typer.Option(help="imagenet, cifar10, unit, or MEAN/STD as 0.5,0.5,0.5/0.2,0.2,0.2")
    ] = None,
    readout: Annotated[str, typer.Option(help="sum: summed logits; spikes: spiking output neurons")] = "sum",
    comparator: Annotated[str, typer.Option(help="ge: fires at u >= threshold; gt: at u > threshold")] = "ge",
    ticks: Annotated[
        int | None, typer.Option(help="run length to store as the default; 64, or what TEBN's tables allow")
    ] = None,
    cutoff: Annotated[str | None, typer.Option(help="cutoff to store as the default")] = None,
    input_shape: Annotated[str | None, typer.Option(help="C,H,W of one sample, where no images tell")] = None,
    check: Annotated[
        Path | None, typer.Option(help="labelled images: print what the conversion loses, and where")
    ] = None,
    check_limit: Annotated[int | None, typer.Option(help="use the first N of them")] = None,
    jobs: Annotated[int, typer.Option(help="worker threads of --check")] = 1,
) -> None:
    """Turn a PyTorch checkpoint into a network file."""
    import hashlib

    import numpy as np

    from eventsnn import import_torch, layouts, store
    from eventsnn.watchdog import check_policy, parse_policy

    if output.exists() and output.is_dir():
        raise ValueError(f"{output} is a folder; give the name of the file to write with -o")
    policy = None if cutoff is None else parse_policy(cutoff)
    weights = import_torch.load_checkpoint(checkpoint)
    module = layouts.build(model, weights)
    shape = _shape(input_shape, model, calibrate or check)
    images = None
    if calibrate is not None:
        images = _read(calibrate, _probe(shape), limit=calibrate_limit).inputs
    origin = {
        "checkpoint": checkpoint.name,
        "sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        "model": model,
    }
    network = import_torch.from_torch(
        module,
        np.zeros((1, *shape), np.float32),
        calibrate=images,
        percentile=percentile,
        normalise=normalise,
        readout=readout,
        comparator=comparator,
        ticks=ticks,
        origin=origin,
    )
    if network.ticks is None:
        network = replace(network, ticks=CONVERTED_TICKS)
    if policy is not None:
        check_policy(policy, network.readout, network[network.output].size)
        network = replace(network, cutoff=str(policy))
    samples = None if check is None else _read(check, network, limit=check_limit)
    if samples is not None and samples.labels is None:
        raise ValueError(f"{check} has no labels; --check compares accuracies")
    store.save(network, output)
    neurons = sum(p.size for p in network.populations if p.name != network.input.name)
    _show(
        f"{output}: {len(network.populations)} populations, {neurons:,} neurons, {len(network.connections)} connections"
    )
    if samples is not None:
        assert network.ticks is not None
        _show_check(module, network, samples, network.ticks, jobs)


def _shape(text: str | None, model: str, images: Path | None) -> tuple[int, ...]:
    """Shape of one sample: as given, as the known models have it, or as the images show it."""
    if text is not None:
        try:
            shape = tuple(int(n) for n in text.split(","))
        except ValueError:
            shape = ()
        if not 1 <= len(shape) <= 3 or min(shape) < 1:
            raise ValueError(f"input-shape is {text!r}, wanted whole numbers such as 3,32,32")
        return shape
    if ":" not in model:
        return CIFAR_SHAPE
    if images is None:
        raise ValueError("the shape of a sample is not known; give --input-shape C,H,W or images with --calibrate")
    from eventsnn.arrays import open_arrays

    with open_arrays(images) as file:
        if "images" not in file.names:
            raise ValueError(f"{images} has no array 'images'; give --input-shape C,H,W")
        found = file.fetch("images", slice(0, 1)).shape
    if len(found) == 4 and found[-1] in (1, 3) and found[1] not in (1, 3):
        return (found[3], found[1], found[2])
    return (1, *found[1:]) if len(found) == 3 else tuple(found[1:])


def _probe(shape: tuple[int, ...]) -> Network:
    """The smallest network with this input, so that images can be read before there is one."""
    from eventsnn.network import Connection, Network, Population
    from eventsnn.neurons import Input, Integrator

    ends = (Population("input", shape, Input()), Population("output", shape, Integrator()))
    return Network(populations=ends, connections=(Connection("input", "output"),), output="output")


def _show_check(module: Any, network: Network, samples: Samples, longest: int, jobs: int) -> None:
    from functools import partial

    from rich.table import Table

    from eventsnn.import_torch import conversion_check
    from eventsnn.simulation import simulate as run_samples

    lengths = sorted({2**i for i in range(int(math.log2(longest)) + 1)} | {longest})
    found = conversion_check(module, network, samples.inputs, samples.labels, lengths, partial(run_samples, jobs=jobs))

    table = Table(title=f"Accuracy on {found['images']:,} images", title_justify="left")
    for name in ("network", "accuracy", "95 % interval"):
        table.add_column(name, justify="left" if name == "network" else "right")
    for name, row in [("PyTorch", found["ann"]), *((f"{s['ticks']} ticks", s) for s in found["snn"])]:
        low, high = row["interval"]
        table.add_row(name, f"{100 * row['accuracy']:.2f} %", f"{100 * low:.2f} to {100 * high:.2f} %")
    layers = Table(
        title=f"Rates against activations, {found['layer_images']} images, {found['layer_ticks']} ticks",
        title_justify="left",
    )
    for name in ("layer", "correlation", "clipped", "threshold"):
        layers.add_column(name, justify="left" if name == "layer" else "right")
    for row in found["layers"]:
        correlation = "" if row["correlation"] is None else f"{row['correlation']:.4f}"
        layers.add_row(row["name"], correlation, f"{100 * row['clipped']:.3f} %", f"{row['threshold']:.4g}")
    first = found["first_below"]
    verdict = (
        f"Every layer follows its activations with a correlation of at least {found['limit']}."
        if first is None
        else f"The first layer whose correlation falls below {found['limit']} is {first}."
    )
    _show(table, layers, verdict)


@app.command()
def verify(
    checkpoint: Annotated[Path, typer.Argument(help="the checkpoint the network was converted from")],
    weights: Annotated[Path, typer.Argument(help="network file")],
    input: Annotated[Path, typer.Option(help="images or events to run")],
    model: Annotated[str | None, typer.Option(help="as for convert; default: the one the file names")] = None,
    keys: Keys = None,
    layout: Layout = None,
    encoding: Annotated[
        str | None, typer.Option(help="how samples enter: direct, rate, latency, events; default: the network's")
    ] = None,
    tick: Tick = None,
    limit: Annotated[int, typer.Option(help="only the first N samples")] = 20,
    ticks: Annotated[int | None, typer.Option(help="ticks to compare; default: the network's")] = None,
    dtype: Annotated[str, typer.Option(help="float32, as the file's weights, or float64")] = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="print the comparison as JSON")] = False,
) -> None:
    """Compare a network file with its checkpoint in PyTorch, spike for spike."""
    from eventsnn import import_torch, layouts
    from eventsnn.simulation import simulate as run_samples

    network = _load(weights, None, tick, encoding)
    model = model or network.origin.get("model")
    if model is None:
        raise ValueError(f"{weights} does not say which model it came from; give --model")
    module = layouts.build(model, import_torch.load_checkpoint(checkpoint))
    samples = _read(input, network, keys=keys, layout=layout, limit=limit)
    if ticks is None and network.ticks is None:
        raise ValueError(f"{weights} has no default number of ticks; give --ticks")
    found = import_torch.verify(module, network, samples.inputs, run_samples, ticks, dtype=dtype)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        _show_verified(found, dtype)
    if found["differing"] and not all(first["tie"] for first in found["first"]):
        raise typer.Exit(1)


def _show_verified(found: dict[str, Any], dtype: str) -> None:
    from rich.table import Table

    table = Table(title=f"PyTorch against eventsnn, {dtype}", title_justify="left")
    for name in ("population", "spikes", "differing"):
        table.add_column(name, justify="left" if name == "population" else "right")
    for row in found["populations"]:
        table.add_row(row["name"], f"{row['spikes']:,}", f"{row['differing']:,}")
    table.add_section()
    table.add_row("all", f"{found['spikes']:,}", f"{found['differing']:,}")
    lines = [f"{found['agreeing']} samples agree in every spike."]
    for first in found["first"]:
        kind = "a rounding tie" if first["tie"] else "NOT a rounding tie"
        lines.append(
            f"Sample {first['sample']} first differs in tick {first['tick']}, population {first['population']}, neuron "
            f"{first['neuron']}: PyTorch {first['torch']}, eventsnn {first['eventsnn']} spikes; margin "
            f"{first['margin']:.3g}, rounding up to {first['rounding']:.3g}: {kind}."
        )
    _show(table, *lines)


# --------------------------------------------------------------------------------------------- calibrate and sweep


@app.command()
def calibrate(
    weights: Annotated[Path | None, typer.Option(help="network file; default: the packaged digits network")] = None,
    input: Annotated[
        Path | None, typer.Option(help="labelled samples to calibrate on: train items, never test")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="or a run folder of them, recorded with cutoff fixed")] = None,
    policy: Annotated[str, typer.Option(help="topk (Wu et al.) or conformal (SpikeCP)")] = "topk",
    epsilon: Annotated[float, typer.Option(help="share of errors to accept among early answers")] = 0.01,
    method: Annotated[
        str | None, typer.Option(help="of topk: exact (default), or paper: the authors' 100 bins")
    ] = None,
    bonferroni: Annotated[
        bool, typer.Option("--bonferroni", help="of conformal: for all ticks together, with the standard index")
    ] = False,
    size: Annotated[int, typer.Option(help="of conformal: the largest set that stops")] = 1,
    scale: Annotated[float, typer.Option(help="of conformal: the softmax is of output / scale")] = 1.0,
    keys: Keys = None,
    layout: Layout = None,
    encoding: Annotated[str | None, typer.Option(help="how images enter: direct, rate, latency")] = None,
    ticks: Annotated[int | None, typer.Option(help="run length in ticks; default: the network's")] = None,
    tick: Annotated[str | None, typer.Option(help="length of a tick for event input, as 1ms")] = None,
    limit: Annotated[int | None, typer.Option(help="only the first N samples")] = None,
    jobs: Annotated[int, typer.Option(help="worker threads")] = 1,
    dtype: Annotated[str, typer.Option(help="float32 or float64")] = "float32",
    assume: Annotated[str | None, typer.Option(help="what a foreign NIR file leaves open")] = None,
    spike_input: SpikeInput = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="file to write")] = Path("policy.json"),
    as_json: Annotated[
        bool, typer.Option("--json", help="print what was written, but for the digests, as JSON")
    ] = False,
) -> None:
    """Find thresholds that stop when the answer is safe, on samples that are kept for it."""
    from eventsnn import study
    from eventsnn.watchdog import policy_content, read_policy

    if run is not None and (input is not None or weights is not None):
        raise ValueError("give samples with --weights and --input, or their run folder with --run, not both")
    if run is None and input is None:
        raise ValueError("calibrate needs samples: give samples with --input, or their run folder with --run")
    if policy not in ("topk", "conformal"):
        raise ValueError(f"policy is {policy!r}, wanted topk or conformal")
    if policy != "topk" and method is not None:
        raise ValueError("--method is of topk; conformal has --bonferroni")
    if policy != "conformal" and (bonferroni or size != 1 or scale != 1):
        raise ValueError(f"--{'bonferroni' if bonferroni else 'size' if size != 1 else 'scale'} is of conformal")
    if method not in (None, *study.METHODS):
        raise ValueError(f"method is {method!r}, wanted {' or '.join(study.METHODS)}")
    if not 0 <= epsilon < 1:
        raise ValueError(f"epsilon is {epsilon:g}, wanted 0 or more and below 1")
    if output.is_dir() or output.suffix != ".json":
        raise ValueError(f"{output} is {'a folder' if output.is_dir() else 'no .json name'}; name the file to write")
    if not output.resolve().parent.is_dir():
        raise ValueError(f"{output} cannot be written: there is no folder {output.parent}")
    source: Any = run
    if input is not None:
        options = {"keys": keys, "layout": layout, "limit": limit}
        source = _full_run(weights, input, (assume, tick, encoding, spike_input), ticks, jobs, dtype, options)
    full = study.recorded(source)
    made = study.calibrate(
        full, policy, epsilon, method=method or "exact", bonferroni=bonferroni, size=size, scale=scale
    )
    study.save_policy(made, output)
    kept = read_policy(output)  # what a run will read
    point = study.evaluate(full, kept, f"{policy}-calibrated", epsilon)
    end = study.evaluate(full, study.Fixed(), "fixed", full.ticks)
    optimal = study.optimal_cutoffs(full.trace).mean()
    if as_json:
        content = policy_content(kept)
        del content["calibration"]["digests"]
        content |= {"file": str(output), "on_calibration": {"stopped": point.row(), "full": end.row()}}
        print(json.dumps({**content, "mean_optimal_cutoff": float(optimal)}, indent=2))
        return
    thresholds = str(kept).partition(":")[2]
    _show(
        f"{output}: {policy}, calibrated ({made.calibrated.method if made.calibrated else ''}, epsilon {epsilon:g}) "
        f"on {len(full):,} samples",
        f"thresholds by tick: {thresholds}",
        f"on these samples themselves: accuracy {point.accuracy:.2%} after {point.mean_stop:.2f} ticks on average; the "
        f"full run has {end.accuracy:.2%} after {full.ticks}, the optimal cutoff is {optimal:.2f}",
        f"now run others: eventsnn simulate --cutoff {policy}:{output} ...",
    )


def _full_run(
    weights: Path | None,
    input: Path,
    read: tuple[str | None, str | None, str | None, str | None],
    ticks: int | None,
    jobs: int,
    dtype: str,
    options: dict[str, Any],
) -> Any:
    """Labelled samples run to their horizon. read: assume, tick, encoding and spike_input of the network."""
    from eventsnn.simulation import simulate as run_samples
    from eventsnn.watchdog import Fixed

    if jobs < 1:
        raise ValueError(f"jobs is {jobs}, wanted 1 or more worker threads")
    path = weights or packaged("digits.h5")
    network = _load(path, *read)
    samples = _read(input, network, **options)
    if samples.labels is None:
        raise ValueError(f"{input} has no labels; calibration compares answers with them")
    with _progress(len(samples), path.stem) as advance:
        return run_samples(
            network,
            samples.inputs,
            samples.labels,
            ticks=ticks,
            watchdog=Fixed(),
            jobs=jobs,
            dtype=dtype,
            layout="chw" if len(network.input.shape) == 3 else None,  # what the reader has arranged
            progress=advance,
        )


@app.command()
def sweep(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE...",
            help="run folder of labelled samples, recorded with cutoff fixed, or any model's trace (.h5); several: "
            "side by side on the same samples",
        ),
    ],
    calibration: Annotated[
        Path | None, typer.Option(help="run folder or trace of other samples, or a policy.json: for calibrated cutoffs")
    ] = None,
    energy: Annotated[str | None, typer.Option(help="cost table by name, or a .toml file")] = None,
    axis: Annotated[
        str | None,
        typer.Option(
            help="ticks, synops or picojoule; default: picojoule with --energy, else synops of one run, else ticks"
        ),
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(
            help="of several sources: the cutoff, as confidence; default by readout: topk, first-crossing, spike-gap"
        ),
    ] = None,
    accuracy: Annotated[
        float | None, typer.Option(help="find the cheapest cutoff that keeps this accuracy, as 0.9")
    ] = None,
    lose: Annotated[float | None, typer.Option(help="or that loses at most so many points, as 0.3")] = None,
    points: Annotated[int, typer.Option(help="thresholds of a family at most")] = 64,
    scale: Annotated[float, typer.Option(help="the softmax is of output / scale")] = 1.0,
    method: Annotated[str, typer.Option(help="of calibrated topk: exact or paper")] = "exact",
    bonferroni: Annotated[bool, typer.Option("--bonferroni", help="of calibrated conformal")] = False,
    live: Annotated[
        int | None, typer.Option(help="run the first N samples again with the chosen cutoffs and compare")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="of --live: the network file that was run")] = None,
    input: Annotated[Path | None, typer.Option(help="of --live: the samples that were run")] = None,
    keys: Annotated[str | None, typer.Option(help="of --live: as it was run")] = None,
    layout: Annotated[str | None, typer.Option(help="of --live: as it was run")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="folder to write to; default: the run or the file's; of several, this one"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, nothing else")] = False,
) -> None:
    """What every cutoff would give and save, from one recorded run; with --lose or --accuracy, which to take.

    Of several runs and traces: one cutoff of each over its thresholds, in one figure.
    """
    from eventsnn import plot, report, runs, study

    run, alone = sources[0], _is_trace(sources[0])
    axis = axis or ("picojoule" if energy else "ticks" if alone or len(sources) > 1 else "synops")
    if axis not in study.COSTS:
        raise ValueError(f"axis is {axis!r}, wanted {', '.join(study.COSTS)}")
    if axis == "picojoule" and energy is None:
        raise ValueError("axis picojoule needs an energy table; name one with --energy (eventsnn energy --tables)")
    if len(sources) > 1:
        given: dict[str, Any] = {
            "calibration": calibration,
            "accuracy": accuracy,
            "lose": lose,
            "live": live,
            "weights": weights,
        }
        given |= {"input": input, "keys": keys, "layout": layout, "bonferroni": bonferroni or None}
        given |= {"method": None if method == "exact" else method}
        odd = [name for name, value in given.items() if value is not None]
        if odd:
            raise ValueError(f"--{odd[0]} is of one source, but there are {len(sources)}; sweep that one alone")
        _sweep_several(sources, family, axis, energy, points, scale, output or Path(), as_json)
        return
    if family is not None:
        raise ValueError("--family is of several sources; a single one shows every family")
    if accuracy is not None and lose is not None:
        raise ValueError("give --accuracy or --lose, not both")
    seeks = accuracy is not None or lose is not None
    if seeks and (calibration is None or calibration.suffix == ".json"):
        raise ValueError("--accuracy and --lose choose on other samples; give their run folder with --calibration")
    if live is not None and alone:
        raise ValueError(f"--live runs samples again, but {run} does not say what was run; give a run folder")
    if live is not None and (weights is None or input is None):
        raise ValueError("--live runs samples again; give --weights and --input as they were run")
    if live is not None and live < 1:
        raise ValueError(f"live is {live}, wanted 1 or more samples")
    full = study.recorded(run)
    full.check_cost(axis)
    base: Any = None
    if calibration is not None:
        is_file = calibration.suffix == ".json"
        base = study.read_policy(calibration) if is_file else study.recorded(calibration)
    options: dict[str, Any] = {"points": points, "scale": scale, "method": method, "bonferroni": bonferroni}
    found = study.sweep(full, calibration=base, table=energy, **options)
    search = None
    if seeks:
        cost = f"picojoule:{energy}" if axis == "picojoule" else axis
        search = study.cheapest(
            base, full, accuracy=accuracy, lose=lose, cost=cost, **{**options, "points": max(points, 200)}
        )
    again = None
    if live is not None:
        chosen = [search.best.held_out] if search is not None else _middles(found)
        again = _rerun(run, full, chosen, live, weights, input, keys, layout)
    shared = None if base is None else study.overlapping(full, base)
    record = None if alone else runs.read(run)
    folder = output or (run.parent if alone else run)
    folder.mkdir(parents=True, exist_ok=True)
    runs.save_text(report.sweep_csv([p.row() for p in found]), folder / "sweep.csv")
    best = None if search is None else search.best.held_out
    figure = plot.tradeoff(found, axis, record=record, table=energy, chosen=best, name=run.name)
    runs.save_figure(figure, folder / "sweep.png")
    what: dict[str, Any] = {"trace": {"file": run.name, "samples": len(full), "readout": full.trace.readout}}
    what |= {"ticks": full.ticks}
    if record is not None:
        what = {key: record.run[key] for key in ("network", "input", "mode", "ticks", "dtype", "seed")}
    content: dict[str, Any] = {
        "schema": report.SCHEMA,
        "command": "sweep",
        **what,
        "axis": axis,
        "table": energy,
        "calibration": None
        if shared is None or calibration is None
        else {"file": calibration.name, "samples": shared[1], "overlap": shared[0]},
        "points": [p.row() for p in found],
        "cheapest": None if search is None else report.search_json(search),
        "live": again,
    }
    if as_json:
        print(json.dumps(content, indent=2))
        return
    lines: list[Any] = [f"{run}: {len(full):,} samples, {full.ticks} ticks"]
    if content["calibration"] is not None:
        lines.append(report.calibration_line(content["calibration"], len(full)))
    lines += ["", report.sweep_table(content["points"], axis)] if search is None else ["", *report.search_lines(search)]
    if again is not None:
        lines += [
            "",
            f"run live again on {again['samples']:,} samples with {_cutoffs(again)}: the same in every stop, "
            "answer and count",
        ]
    _show(*lines, "", f"{folder / 'sweep.csv'}, {folder / 'sweep.png'}")


def _is_trace(source: Path) -> bool:
    from eventsnn.traces import is_trace

    return is_trace(source)


def _sweep_several(
    sources: list[Path],
    family: str | None,
    axis: str,
    energy: str | None,
    points: int,
    scale: float,
    folder: Path,
    as_json: bool,
) -> None:
    """One family of cutoffs of every source, in one table and one figure."""
    from eventsnn import plot, report, runs, study

    named = {name: study.recorded(source) for name, source in zip(_names(sources), sources, strict=True)}
    for full in named.values():
        full.check_cost(axis)
    found = study.curves(named, family, table=energy, points=points, scale=scale)
    folder.mkdir(parents=True, exist_ok=True)
    runs.save_text(report.sweep_csv(report.curve_rows(found)), folder / "sweep.csv")
    runs.save_figure(plot.tradeoffs(found, axis, table=energy), folder / "sweep.png")
    if as_json:
        content = {"schema": report.SCHEMA, "command": "sweep", "axis": axis, "table": energy}
        print(json.dumps({**content, "sources": report.curves_json(found)}, indent=2))
        return
    _show(
        f"{len(found)} sources, the same {found[0].full.samples:,} samples",
        "",
        report.curves_table(found, axis),
        "",
        f"{folder / 'sweep.csv'}, {folder / 'sweep.png'}",
    )


def _names(sources: list[Path]) -> list[str]:
    """The sources by the last parts of their paths as given, as many as tell each from all others."""
    places = [source.resolve() for source in sources]
    parts = [source.parts or place.parts for source, place in zip(sources, places, strict=True)]
    found = []
    for i, own in enumerate(parts):
        if places[i] in places[:i]:
            raise ValueError(f"{sources[i]} is given twice; wanted different sources")
        others = parts[:i] + parts[i + 1 :]
        apart = (n for n in range(1, len(own)) if all(own[-n:] != other[-n:] for other in others))
        found.append(str(Path(*own[-next(apart, len(own)) :])))
    return found


def _cutoffs(again: dict[str, Any]) -> str:
    count = len(again["policies"])
    return f"{count} cutoffs" if count > 1 else "the chosen cutoff"


def _middles(points: Any) -> list[Any]:
    """The middle threshold of every family that can be run."""
    families = {p.family: [q for q in points if q.family == p.family] for p in points if p.family != "oracle"}
    return [group[len(group) // 2] for group in families.values()]


def _rerun(
    run: Path,
    full: Recorded,
    chosen: list[Any],
    live: int,
    weights: Path | None,
    input: Path | None,
    keys: str | None,
    layout: str | None,
) -> dict[str, Any]:
    """Run the first samples live with the chosen points' cutoffs; a difference is a failed run."""
    from eventsnn import runs, study

    assert weights is not None
    assert input is not None
    record = runs.read(run)
    named, ran = record.run["network"], record.network
    network = _load(weights, named.get("assume"), ran["tick_seconds"], ran["encoding"], named.get("spike_input"))
    samples = _read(input, network, keys=keys, layout=layout, limit=min(live, len(full)))
    arranged = "chw" if len(network.input.shape) == 3 else None
    study.rerun(full, [p.policy for p in chosen], network, samples.inputs, layout=arranged)
    return {"samples": len(samples), "policies": [str(p.policy) for p in chosen], "agree": True}


# ---------------------------------------------------------------------------------------------- inspect and export


@app.command()
def inspect(
    weights: Annotated[Path, typer.Argument(help="network file")],
    assume: Annotated[str | None, typer.Option(help="what a foreign NIR file leaves open")] = None,
    spike_input: SpikeInput = None,
    as_json: Annotated[bool, typer.Option("--json", help="print as JSON")] = False,
) -> None:
    """Show a network: graph, shapes, fan-out, what is assumed, and whether NIR readers would run it alike."""
    from eventsnn import report

    network = _load(weights, assume, spike_input=spike_input)
    found = report.inspection(network)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    _show(*report.inspection_tables(found))


@app.command()
def export(
    weights: Annotated[Path, typer.Argument(help="network file")],
    nir: Annotated[bool, typer.Option("--nir", help="as a plain NIR file")] = False,
    output: Annotated[Path, typer.Option("--output", "-o", help="file to write")] = Path("net.nir"),
    lossy: Annotated[bool, typer.Option(help="even if another reader would run it differently")] = False,
) -> None:
    """Write a network for other tools."""
    from eventsnn import lower_nir

    if not nir:
        raise ValueError("export needs a format: --nir")
    lower_nir.export_nir(_load(weights, None), output, lossy=lossy)
    _show(f"{output}: plain NIR")


# --------------------------------------------------------------------------------------------- energy and audit


@app.command()
def energy(
    run: Annotated[Path | None, typer.Argument(help="run folder")] = None,
    table: Annotated[
        list[str] | None,
        typer.Option(help="cost table by name, or a .toml file; may be repeated; default: every table"),
    ] = None,
    tables: Annotated[bool, typer.Option("--tables", help="only list the tables there are")] = False,
    tick: Annotated[str | None, typer.Option(help="length of a tick, as 1ms, for static power")] = None,
    input_macs: Annotated[
        str, typer.Option(help="how images are multiplied: once, per-tick, effective, effective-per-tick")
    ] = "once",
    conventions: Annotated[
        bool, typer.Option("--conventions", help="what published counting rules say instead")
    ] = False,
    methods: Annotated[bool, typer.Option("--methods", help="paragraph and tables for a paper")] = False,
    csv: Annotated[Path | None, typer.Option(help="also write the numbers to this file")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, nothing else")] = False,
) -> None:
    """What a run costs on named hardware, and what other counting rules make of it."""
    from eventsnn import energy as costs
    from eventsnn import paper, report, runs
    from eventsnn.conventions import conventions as by_rule

    if tables:
        _show(*(f"{a.name}: {a.title} ({a.basis})" if isinstance(a, costs.Table) else a for a in costs.all_tables()))
        return
    if run is None:
        raise ValueError("energy needs a run folder, or --tables to list the tables there are")
    record = _priced(run)
    found, network, samples = record.run, record.network, record.run["input"]["samples"]
    chosen = table if table else [] if methods else costs.table_names()
    accounts = _accounts(record, chosen, tick, input_macs)
    rules = by_rule(found, network, record.emitted)
    if csv is not None:
        runs.save_text(report.conventions_csv(rules) if conventions else report.energy_csv(accounts), csv)
    if as_json:
        content = {
            "schema": report.SCHEMA,
            "command": "energy",
            **{key: found[key] for key in ("network", "input", "mode", "ticks", "cutoff", "spikes", "synops")},
            "energy": accounts,
            "conventions": rules,
        }
        print(json.dumps(content, indent=2))
        return
    if methods:
        print(paper.methods(found, network, runs.read_timing(run), accounts))
        return
    head = f"{run}: {samples:,} samples, {report.stop_words(found)} and "
    head += f"{report.quantity(found['synops']['delivered'] / samples)} delivered SynOps a sample"
    if conventions:
        _show(head, "", *report.convention_tables(rules))
        return
    shown: list[Any] = [head, "", report.energy_table(accounts, samples)]
    if len(accounts) <= 3:
        shown += ["", report.energy_layer_table(accounts, samples), ""]
        shown += [f"{a['table']}: {a['note']}".rstrip(": ") for a in accounts]
    _show(*shown, "Numbers of different tables are not comparable: look at their scope.")


def _priced(run: Path) -> Record:
    """A run folder whose account holds what a table can price."""
    from eventsnn import runs

    record = runs.read(run)
    if "operations" not in record.run or not all(
        {"events", "image_taps"} <= {*c} for c in record.network["connections"]
    ):
        raise ValueError(f"{run} was written by an older version, whose account has no operations; run it again")
    return record


def _accounts(record: Record, tables: list[str], tick: str | None, input_macs: str) -> list[dict[str, Any]]:
    """The run priced by every table."""
    from eventsnn.energy import account

    seconds = None if tick is None else _seconds(tick)
    return [account(record.run, record.network, t, input_macs=input_macs, tick_seconds=seconds) for t in tables]


@app.command()
def audit(
    run: Annotated[Path, typer.Argument(help="run folder with recorded spikes")],
    weights: Annotated[Path | None, typer.Option(help="the network file that was run; default: where it was")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, nothing else")] = False,
) -> None:
    """Recount a run from its recorded events and the network file, by other code; exit code 1 if the books disagree."""
    from dataclasses import asdict

    from eventsnn import audit as recount

    found = recount.audit(run, weights)
    if as_json:
        print(json.dumps(asdict(found), indent=2))
    else:
        _show(*recount.lines(found))
    if not found.agrees:
        raise typer.Exit(1)


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="run folder with recorded spikes")],
    b: Annotated[Path, typer.Argument(help="another, or a file of another tool's spikes (.npz, .npy, .h5)")],
    tolerance: Annotated[str | None, typer.Option(help="spikes so far apart are equal, as 1us; default 0")] = None,
    tau: Annotated[str | None, typer.Option(help="time constant of the distance, as 5ms; default: a tick")] = None,
    tick: Annotated[
        str | None, typer.Option(help="length of a tick, where the network does not tell or the file counts ticks")
    ] = None,
    population: Annotated[str | None, typer.Option(help="whose spikes the file has, where it does not say")] = None,
    figure: Annotated[Path | None, typer.Option(help="also draw the comparison into this file")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, nothing else")] = False,
) -> None:
    """Lay two runs side by side: the first spike that differs, distances by layer, answers, stops and SynOps."""
    from eventsnn import comparison

    times = {"tolerance": tolerance, "tau": tau, "tick": tick}
    lengths = {what: None if text is None else _seconds(text, what) for what, text in times.items()}
    found = comparison.compare(a, b, population=population, **lengths)
    if figure is not None:
        from eventsnn import plot, runs

        runs.save_figure(plot.comparison(found), figure)
    if as_json:
        print(json.dumps(found.content(), indent=2))
        return
    _show(*comparison.lines(found), *([] if figure is None else ["", str(figure)]))


# ------------------------------------------------------------------------------------------------------------ plot


@plot_app.command("raster")
def plot_raster(
    run: Annotated[Path, typer.Argument(help="run folder with recorded spikes")],
    sample: Annotated[int, typer.Option(help="which sample")] = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="picture; default: raster-N.png in RUN")] = None,
) -> None:
    """The events of one sample, layer under layer, with the stop drawn in."""
    from eventsnn import plot, runs

    target = output or run / f"raster-{sample}.png"
    runs.save_figure(plot.raster(run, sample), target)
    _show(str(target))


@plot_app.command("trace")
def plot_trace(
    run: Annotated[Path, typer.Argument(help="run folder with recorded potentials")],
    population: Annotated[str | None, typer.Option(help="default: the output")] = None,
    neurons: Annotated[str | None, typer.Option(help="neuron numbers, as 0,5,7; default: the most active")] = None,
    sample: Annotated[int, typer.Option(help="which sample")] = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="picture; default: trace-N.png in RUN")] = None,
) -> None:
    """Membranes of some neurons over the time of one sample, with threshold and spikes."""
    from eventsnn import plot, runs

    chosen = None
    if neurons is not None:
        try:
            chosen = [int(n) for n in neurons.split(",")]
        except ValueError:
            raise ValueError(f"neurons is {neurons!r}, wanted whole numbers such as 0,5,7") from None
    target = output or run / f"trace-{sample}.png"
    runs.save_figure(plot.trace(run, population, chosen, sample), target)
    _show(str(target))


@plot_app.command("queue")
def plot_queue(
    run: Annotated[Path, typer.Argument(help="run folder of simulate --mode async")],
    sample: Annotated[int | None, typer.Option(help="which sample; default: the most of all")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="picture; default: queue.png in RUN")] = None,
) -> None:
    """Entries that waited in the simulator's queue over time."""
    from eventsnn import plot, runs

    target = output or run / ("queue.png" if sample is None else f"queue-{sample}.png")
    runs.save_figure(plot.queue(run, sample), target)
    _show(str(target))


@plot_app.command("tradeoff")
def plot_tradeoff(
    run: Annotated[
        Path, typer.Argument(help="run folder of labelled samples, recorded with cutoff fixed, or a trace (.h5)")
    ],
    calibration: Annotated[Path | None, typer.Option(help="run folder of other samples, or a policy.json")] = None,
    energy: Annotated[str | None, typer.Option(help="cost table by name, or a .toml file")] = None,
    axis: Annotated[
        str | None, typer.Option(help="ticks, synops or picojoule; default: picojoule with --energy")
    ] = None,
    scale: Annotated[float, typer.Option(help="the softmax is of output / scale")] = 1.0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="picture; default: tradeoff.png in RUN")] = None,
) -> None:
    """Accuracy of every cutoff against what it spends, with the optimal cutoff as reference."""
    from eventsnn import plot, runs, study

    alone = _is_trace(run)
    axis = axis or ("picojoule" if energy else "ticks" if alone else "synops")
    found = study.sweep(run, calibration=calibration, table=energy, scale=scale)
    target = output or (run.parent if alone else run) / "tradeoff.png"
    record = None if alone else runs.read(run)
    runs.save_figure(plot.tradeoff(found, axis, record=record, table=energy, name=run.name), target)
    _show(str(target))


@plot_app.command("energy")
def plot_energy(
    run: Annotated[Path, typer.Argument(help="run folder")],
    table: Annotated[list[str], typer.Option(help="cost table by name, or a .toml file; may be repeated")],
    tick: Annotated[str | None, typer.Option(help="length of a tick, as 1ms, for static power")] = None,
    input_macs: Annotated[str, typer.Option(help="once, per-tick, effective, effective-per-tick")] = "once",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="picture; default: energy.png in RUN")] = None,
) -> None:
    """Energy by layer and operation, a panel for each table."""
    from eventsnn import plot, runs

    record = _priced(run)
    target = output or run / "energy.png"
    runs.save_figure(plot.energy(record, _accounts(record, table, tick, input_macs)), target)
    _show(str(target))


@plot_app.command("heatmap")
def plot_heatmap(
    run: Annotated[Path, typer.Argument(help="run folder with recorded spikes, or of simulate --count sources")],
    population: Annotated[str, typer.Option(help="whose neurons")],
    sample: Annotated[int | None, typer.Option(help="which sample; default: the mean of all")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="picture; default: heatmap-POPULATION.png in RUN")
    ] = None,
) -> None:
    """SynOps by the neuron that caused them, a map for each channel of one layer."""
    from eventsnn import plot, runs

    target = output or run / f"heatmap-{re.sub(r'[^A-Za-z0-9._-]+', '-', population)}.png"
    runs.save_figure(plot.heatmap(run, population, sample), target)
    _show(str(target))
