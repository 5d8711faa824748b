"""Rank Coding against early inference: all networks of every task over all thresholds, event by event where they spike.

    python tools/rank_coding.py                      measure, draw weights/rank-TASK.png, write weights/rank-coding.md
    python tools/rank_coding.py bits --limit 500     try it, write nothing
    python tools/rank_coding.py bits --seed 1        of what `tools/train.py RECIPE --seed 1` trained; write nothing

For each task the four trainings of `tools/recipes/rank-TASK-*.toml`: an LSTM and a recurrent spiking network, trained
at the end of the sequence and, Rank Coding (Jeffares et al., ICLR 2022), at the first crossing. The LSTM's outputs come
from PyTorch, the spiking network's from `es.simulate`, whose spikes are first compared with PyTorch's, and whose live
stops with the replay; one that differs ends the command.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import eventsnn as es  # noqa: E402
from eventsnn import import_torch, layouts, plot, runs, study  # noqa: E402
from eventsnn.ledger import wilson  # noqa: E402
from tools import samples  # noqa: E402
from tools.recurrent import CROSSING, THETA, Recurrent, Spiking, as_events, logit  # noqa: E402
from tools.results import put  # noqa: E402
from tools.train import Recipe, as_tensor, coded, converted, load, shipped_recipe  # noqa: E402

TASKS = ("bits", "noise", "mnist", "spoken")
NETWORKS, TRAININGS = ("lstm", "spiking"), ("end", "first")
TRAINED = tuple((network, training) for network in NETWORKS for training in TRAININGS)
WORDS = {"lstm": "LSTM", "spiking": "spiking", "end": "at the end", "first": "at the first crossing"}
FRACTIONS = (0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)  # thresholds of the table, as sigmoids
LOSE = 1.0  # points below the lower best accuracy of two trainings: where their decision times are compared
AT_ONCE = 500
SPIKES = 100  # samples compared spike for spike in float64
LIVE = 1_000  # samples run live with the threshold of the paper


def name_of(task: str, network: str, training: str) -> str:
    """Of a recipe and its files."""
    return f"rank-{task}-{network}-{training}"


@dataclass(frozen=True)
class Row:
    """A network on the held-out sequences. synops: of all samples together up to the paper's threshold, or None."""

    network: str
    training: str
    trace: es.Trace
    synops: int | None

    @property
    def name(self) -> str:
        """For people."""
        return f"{WORDS[self.network]}, trained {WORDS[self.training]}"

    @cached_property
    def full(self) -> study.Recorded:
        """Its trace, of which what is the same for every threshold is worked out once."""
        return study.recorded(self.trace)

    @cached_property
    def curve(self) -> study.Curve:
        """Its first-crossing line."""
        return study.curves({self.name: self.full}, "first-crossing", points=200)[0]


def frames_of(recipe: Recipe, images: np.ndarray) -> np.ndarray:
    """What the network is shown, (N, ticks, inputs) float32."""
    parts = (coded(as_tensor(images[i : i + AT_ONCE]), recipe.data.code, recipe.ticks) for i in _starts(images))
    return np.concatenate([part[..., 0, 0].numpy() for part in parts])


def _starts(items: np.ndarray) -> range:
    return range(0, len(items), AT_ONCE)


def outputs_of(network: Recurrent, frames: np.ndarray) -> np.ndarray:
    """(N, ticks, classes), from PyTorch, in the network's own precision."""
    kind = next(network.parameters()).dtype
    with torch.no_grad():
        parts = [
            network(torch.from_numpy(frames[i : i + AT_ONCE]).to(kind).transpose(0, 1)).transpose(0, 1).numpy()
            for i in _starts(frames)
        ]
    return np.concatenate(parts)


def measured(recipe: Recipe, network: str, training: str, held_out: samples.Samples) -> tuple[Row, list[str]]:
    """A network's row and what was checked on the way; raises RuntimeError where a check fails."""
    labels = held_out.labels.astype(np.int64)
    module = layouts.build(recipe.model, import_torch.load_checkpoint(ROOT / recipe.export.state))
    assert isinstance(module, Recurrent)
    frames = frames_of(recipe, held_out.images)
    if not isinstance(module, Spiking):
        return Row(network, training, es.Trace(outputs_of(module, frames), labels, readout="potential"), None), []
    events = as_events(frames, recipe.data.tick_us)
    stored = es.load(ROOT / recipe.export.network)
    same = check_spikes(recipe, module, events, frames)
    run = es.simulate(stored, events, labels, ticks=recipe.ticks, watchdog=es.Fixed(), count="connections")
    full, policy, few = study.recorded(run), es.FirstCrossing(THETA), min(LIVE, len(labels))
    study.rerun(full, [policy], stored, events.first(few))
    live = (
        f"{few:,} samples run live to their first crossing have the stops, answers and SynOps of the full run to there"
    )
    synops = study.evaluate(full, policy, "first-crossing").synops
    return Row(network, training, run.trace, synops), [f"{same}; {live}"]


def check_spikes(recipe: Recipe, module: Spiking, events: es.Events, frames: np.ndarray) -> str:
    """PyTorch's own steps against eventsnn, both in float64, every hidden spike of the first samples."""
    few = min(SPIKES, len(frames))
    exact = module.double()
    network = converted(recipe, exact, (len(frames[0, 0]), 1, 1))
    run = es.simulate(
        network, events.first(few), ticks=recipe.ticks, watchdog=es.Fixed(), record="spikes", dtype="float64"
    )
    theirs = hidden_spikes(exact, frames[:few])
    ours = np.zeros_like(theirs)
    hidden = [p.name for p in network.populations].index("hidden")
    found = run.events[run.events["population"] == hidden]
    ours[found["sample"], found["time"], found["neuron"]] = 1
    differing, outputs = int((ours != theirs).sum()), outputs_of(exact, frames[:few])
    error = float(np.max(np.abs(outputs - run.outputs)))
    if differing or error > 1e-9:
        raise RuntimeError(f"{recipe.name}: {differing} spikes differ from PyTorch's, outputs by {error:.2g}")
    module.float()
    return f"{recipe.name}: 0 of {int(theirs.sum()):,} spikes of {few} samples differ from PyTorch's in float64"


def hidden_spikes(module: Spiking, frames: np.ndarray) -> np.ndarray:
    """(N, ticks, hidden) bool of the module's own steps."""
    with torch.no_grad():
        kind = module.into.weight.dtype
        driven = module.drive(torch.from_numpy(frames).to(kind).transpose(0, 1))
        state, found = module.begin(len(frames), driven), []
        for each in driven:
            _, state = module.step(each, state)
            found.append(state[2] > 0)
    return torch.stack(found, 1).numpy()


# -------------------------------------------------------------------------------------------------------------- report


def at(source: study.Source, fraction: float) -> tuple[float, float]:
    """Accuracy and mean decision tick at the first crossing of a sigmoid's threshold."""
    found = study.evaluate(study.recorded(source), es.FirstCrossing(logit(fraction)), "first-crossing")
    return found.accuracy, found.mean_stop


def earliest(curve: study.Curve, accuracy: float) -> float:
    """The mean decision tick of the earliest threshold that reaches an accuracy, infinite where none does."""
    ticks = [p.mean_stop for p in (*curve.points, curve.full) if p.correct >= accuracy * p.samples - 1e-9]
    return min(ticks, default=np.inf)


def task_lines(rows: list[Row]) -> list[str]:
    """The part of the report about one task."""
    count = len(rows[0].trace.labels)
    head = ["network", "trained", "at the end", *(f"{f:g}" for f in FRACTIONS)]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        right = int(np.sum(row.trace.outputs[:, -1].argmax(1) == row.trace.labels))
        low, high = wilson(right, count)
        cells = [WORDS[row.network], WORDS[row.training], f"{right / count:.2%} ({low:.2%} to {high:.2%})"]
        cells += [f"{accuracy:.2%} @ {tick:.2f}" for accuracy, tick in (at(row.full, f) for f in FRACTIONS)]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    for network in NETWORKS:
        end, first = (next(r for r in rows if (r.network, r.training) == (network, t)) for t in TRAININGS)
        lines.append(f"- {WORDS[network]}: {comparison(end, first)}")
    return lines


def comparison(end: Row, first: Row) -> str:
    """Which of two trainings decides earlier at equal accuracy, over all thresholds."""
    lines = [row.curve for row in (end, first)]
    wanted = min(max(p.accuracy for p in (line.full, *line.points)) for line in lines) - LOSE / 100
    ticks = [earliest(line, wanted) for line in lines]
    verdict = "Rank Coding decides earlier" if ticks[1] < ticks[0] else "Rank Coding does **not** decide earlier"
    said = f"{verdict}: {wanted:.2%} are reached after {ticks[1]:.2f} ticks, trained at the end after {ticks[0]:.2f}"
    accuracy, tick = at(first.full, CROSSING)
    other = earliest(end.curve, accuracy)
    when = f"after {other:.2f}" if np.isfinite(other) else "never"
    said += f"; its own threshold gives {accuracy:.2%} after {tick:.2f}, trained at the end {when}"
    if first.synops is not None and end.synops is not None:
        samples = len(first.trace.labels)
        said += f"; at 0.95, {first.synops / samples:,.0f} SynOps a sample against {end.synops / samples:,.0f}"
    return said + "."


def timing_loss(trace: es.Trace, images: np.ndarray) -> float:
    """Of the bits at 0.95, as the authors' notebook has it: 1 where wrong or early, else the delay / 20."""
    found = es.replay(trace, es.FirstCrossing(THETA))
    ideal = np.minimum(samples.run_ends(images[:, :, 1, 0, 0]), samples.BITS - 1)
    late = (found.stop_time - 1 - ideal) / (samples.BITS - samples.RUN)
    return float(np.mean(np.where((found.predictions == trace.labels) & (late >= 0), late, 1.0)))


HEADS = {
    "bits": "25 bits, is there a run of five",
    "noise": "40 noisy numbers, is their mean above 0",
    "mnist": "MNIST, brightest pixels first",
    "spoken": "spoken digits from a cochlea",
}


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Compare Rank Coding with training at the end of the sequence.")
    parser.add_argument("tasks", nargs="*", metavar="task", help=", ".join(TASKS))
    parser.add_argument("--limit", type=int, help="only the first held-out samples; nothing is written")
    parser.add_argument("--seed", type=int, help="of repetitions, see tools/train.py --seed; nothing is written")
    options = parser.parse_args()
    for task in options.tasks:
        if task not in TASKS:
            parser.error(f"there is no task {task!r}, wanted {', '.join(TASKS)}")
    torch.set_num_threads(1)
    try:
        report(options.tasks or TASKS, options.limit, options.seed)
    except ValueError as error:  # a network that is not trained yet, data that is not there
        print(error, file=sys.stderr)
        return 2
    return 0


def report(tasks: Sequence[str], limit: int | None, seed: int | None = None) -> None:
    """Measure, check and print the tasks; written only without a limit and without a seed of repetitions."""
    write = limit is None and seed is None
    for task in tasks:
        rows, checks = [], []
        recipes = {key: shipped_recipe(name_of(task, *key), seed) for key in TRAINED}
        recipe = recipes[TRAINED[0]]
        held_out = load(recipe)[1][: limit or None]  # of all four: they differ in how it is shown at most
        for key in TRAINED:
            row, found = measured(recipes[key], *key, held_out)
            rows.append(row)
            checks += found
        lines = [
            f"## {HEADS[task]}",
            "",
            recipe.about.strip().partition("\n\n")[0],
            "",
            *task_lines(rows),
        ]
        if task == "bits":
            told = (f"{row.name} {timing_loss(row.trace, held_out.images):.3f}" for row in rows)
            lines.append(f"- Timing loss at 0.95 (1 where wrong or early, else the delay / 20): {'; '.join(told)}.")
        lines += [f"- {check}." for check in checks]
        print("\n".join(lines), flush=True)
        if write:
            folder = ROOT / "weights"
            figure = plot.tradeoffs([row.curve for row in rows])
            runs.save_figure(figure, folder / f"rank-{task}.png")
            lines += ["", f"![{HEADS[task]}](rank-{task}.png)"]
            marks = f"<!-- {task}: written by tools/rank_coding.py -->", f"<!-- end of {task} -->"
            put(folder / "rank-coding.md", *marks, "\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
