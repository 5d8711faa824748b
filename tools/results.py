"""Measures the networks of recipes event by event: the figures of the cutoff paper, a card each, a table of them all.

    python tools/results.py tools/recipes/resnet20.toml tools/recipes/resnet20-rcs.toml     measure, write cards, table
    python tools/results.py --limit 500 --no-card tools/recipes/resnet20.toml               try it, write nothing
    python tools/results.py                                                                 only the table of the cards

For each recipe: full runs on the calibration samples and on those held out, the mean optimal cutoff (OCT), the Top-K
cutoff calibrated on the former and run live on the latter, the authors' own calibration beside it, and the cheapest
cutoff of all families that loses at most 0.1 points in the calibration. Then the checks: live runs against the replay,
PyTorch's answers against ours in float32, and its spikes in float64; one that fails ends the command.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import eventsnn as es  # noqa: E402
from eventsnn import import_torch, layouts, runs, study  # noqa: E402
from eventsnn.ledger import wilson  # noqa: E402
from eventsnn.readers import read_input  # noqa: E402
from eventsnn.report import predictions_by_tick  # noqa: E402
from eventsnn.watchdog import parse_policy  # noqa: E402
from tools import samples  # noqa: E402
from tools.recurrent import as_events  # noqa: E402
from tools.train import Recipe, converted, load, read_recipe, sha256, stepped, trained_on  # noqa: E402

LOSE = 0.1  # points that a cutoff may lose on the calibration samples, so that it hardly loses 0.3 on others
EPSILON = 0.01  # of the authors' calibration, as in their scripts
DROPOUT = 0.3  # likewise, after every layer of neurons, while calibrating
EXACT = "Top-K, exact calibration"
LIVE = 500  # held-out samples on which a cutoff of every family is run live; those of the table run on all
SPIKES = 20  # samples compared spike for spike in float64

Inputs = Any  # images (N, ...) or `es.Events`


@dataclass(frozen=True)
class Part:
    """Samples: as `es.simulate` takes them, as the recipe's PyTorch network does (images or frames), and labels."""

    inputs: Inputs
    shown: np.ndarray
    labels: np.ndarray

    def take(self, which: np.ndarray) -> Part:
        """Those samples. which: (k,) int64."""
        inputs = self.inputs.take(which) if isinstance(self.inputs, es.Events) else self.inputs[which]
        return Part(inputs, self.shown[which], self.labels[which])

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Parts:
    """trained: how many samples. calibration: kept out of training, or where there are none, those trained on.

    apart: the held-out samples that are also reported by themselves, or None, with what they are called.
    """

    trained: int
    calibration: Part
    held_out: Part
    apart: tuple[str, np.ndarray] | None


def parts(recipe: Recipe, network: es.Network) -> Parts:
    """The samples of a recipe."""
    known, other = load(recipe)
    kept = trained_on(recipe, known.labels)
    for_cutoffs = np.flatnonzero(kept if kept.all() else ~kept)
    if recipe.data.source == "events" and (recipe.data.frames == "number" or recipe.data.side):
        # ticks that are no spans of time: every event stands at the beginning of its tick
        everything, held_out = (
            Part(
                as_events(each.images.reshape(len(each), recipe.ticks, -1), recipe.data.tick_us),
                each.images,
                each.labels,
            )
            for each in (known, other)
        )
    elif recipe.data.source == "events":
        path = samples.events_file(recipe.data.path)
        first, second = (read_input(path, network, keys=f"split={split}") for split in (0, 1))
        everything = Part(first.inputs, known.images, first.labels)
        seen = np.flatnonzero(np.isin(second.labels, known.labels))
        held_out = Part(second.inputs.take(seen), other.images, second.labels[seen])
    else:
        everything, held_out = (
            Part(each.images.reshape(-1, *network.input.shape), each.images, each.labels) for each in (known, other)
        )
    apart = None
    if recipe.data.source.startswith("cifar"):
        apart = "test images", np.arange(samples.TRAINING - samples.KNOWN, len(held_out))
    return Parts(int(kept.sum()), everything.take(for_cutoffs), held_out, apart)


def policy_file(recipe: Recipe) -> Path:
    """Where the calibrated Top-K cutoff of a network is kept, counted from the root."""
    return Path(recipe.export.network).with_name(f"{recipe.name}-topk.json")


def built(recipe: Recipe) -> torch.nn.Module:
    """The trained PyTorch network of a recipe."""
    return layouts.build(recipe.model, import_torch.load_checkpoint(ROOT / recipe.export.state))


# ------------------------------------------------------------------------------------------------------------ measure


@dataclass(frozen=True)
class Row:
    """What a cutoff gives on held-out samples. oct: mean optimal cutoff, in ticks. synops: of all samples together."""

    ticks: int
    cutoff: str
    samples: str
    right: int
    of: int
    oct: float
    mean_stop: float
    synops: int

    def cells(self) -> str:
        """The row of a Markdown table."""
        low, high = wilson(self.right, self.of)
        return (
            f"| {self.ticks} | {self.cutoff} | {self.samples} | {self.right:,} of {self.of:,} "
            f"| {100 * self.right / self.of:.2f} % | {100 * low:.2f} to {100 * high:.2f} % | {self.oct:.2f} "
            f"| {self.mean_stop:.2f} | {self.synops / self.of:,.0f} |"
        )


HEAD = """\
| T | cutoff | samples | right | accuracy | 95 % interval (Wilson) | mean OCT | mean ticks | SynOps a sample |
|---|---|---|---|---|---|---|---|---|"""


def full_run(network: es.Network, part: Part, ticks: int, jobs: int) -> es.Run:
    """Every sample to its horizon, its operations counted."""
    return es.simulate(
        network, part.inputs, part.labels, ticks=ticks, watchdog=es.Fixed(), jobs=jobs, count="connections"
    )


def cutoffs(recipe: Recipe, part: Part, base: study.Recorded) -> list[tuple[str, es.Policy]]:
    """The rows' names and policies; all thresholds come from the calibration samples. base: their full runs."""
    ticks = base.ticks
    found: list[tuple[str, es.Policy]] = [("none", es.Fixed())]
    if recipe.cutoff != "fixed":
        found.append((f"`{recipe.cutoff}`, the network's default", parse_policy(recipe.cutoff)))
    paper = study.calibrate(base, "topk", EPSILON, method="paper")
    found.append((f"Top-K, authors' calibration, epsilon {EPSILON}", paper))
    dropped = stepped(built(recipe), part.shown, part.labels, ticks, recipe.data.normalise, dropout=DROPOUT)
    beta = study.calibrate_topk(dropped, EPSILON, "paper")
    found.append((f"the same with dropout {DROPOUT} while calibrating", es.TopKGap(tuple(beta.tolist()), on=paper.on)))
    search = study.cheapest(base, base, lose=LOSE, cost="synops")
    best = next(c.calibration for c in search.families if c.calibration.family == "topk-calibrated")
    exact = study.calibrate(base, "topk", best.threshold or 0.0)
    assert np.array_equal(exact.beta, best.policy.beta)
    found.append((f"{EXACT}, epsilon {best.threshold:.3g}", exact))
    best = search.best.calibration
    at = "" if best.threshold is None else f", {study.FAMILIES[best.family]} {best.threshold:.3g}"
    found.append((f"cheapest of all: {best.family}{at}", best.policy))
    return found


def rows(other: study.Recorded, named: Iterable[tuple[str, es.Policy]], apart: Any) -> list[Row]:
    """What the cutoffs give on the recorded held-out samples, and on those apart."""
    groups = [("all held out" if apart else "held out", other)]
    groups += [(apart[0], other.take(apart[1]))] if apart else []
    best = [float(study.optimal_cutoffs(group.trace).mean()) for _, group in groups]
    found = []
    for name, policy in named:
        for (called, group), oct_mean in zip(groups, best, strict=True):
            point = study.evaluate(group, policy, "")
            found.append(
                Row(
                    ticks=group.ticks,
                    cutoff=name,
                    samples=called,
                    right=point.correct,
                    of=point.samples,
                    oct=oct_mean,
                    mean_stop=point.mean_stop,
                    synops=point.synops,
                )
            )
    return found


# -------------------------------------------------------------------------------------------------------------- check


def check_live(
    other: study.Recorded, base: study.Recorded, network: es.Network, held_out: Part, named: list[Any], jobs: int
) -> str:
    """Run the table's cutoffs live on all samples, and one of every family on the first; raise where one differs."""
    study.rerun(other, [policy for _, policy in named], network, held_out.inputs, jobs=jobs)
    middle = one_of_each(other, base)
    few = held_out.take(np.arange(min(LIVE, len(held_out))))
    study.rerun(other, [point.policy for point in middle], network, few.inputs, jobs=jobs)
    return (
        f"T = {other.ticks}: each of the {len(named)} cutoffs of the table was run live on all {len(held_out):,} "
        f"held-out samples, and one of each family ({', '.join(p.family for p in middle)}) on the first "
        f"{len(few):,}: every stop, answer, output and count is what the replay of the full run says."
    )


def one_of_each(other: study.Recorded, base: study.Recorded) -> list[study.Point]:
    """The middle threshold of every family of cutoffs that can run live. base: full runs to calibrate on."""
    families = [family for family in study.FAMILIES if family not in study.AHEAD]
    points = study.sweep(other, calibration=base, points=9, families=families)
    found = [[p for p in points if p.family == family] for family in sorted({p.family for p in points})]
    return [of[len(of) // 2] for of in found]


def check_answers(recipe: Recipe, network: es.Network, run: es.Run, held_out: Part) -> str:
    """PyTorch's answers after the last tick against ours, in float32; those that differ must come of rounding ties."""
    ticks = run.outputs.shape[1]
    theirs = stepped(built(recipe), held_out.shown, held_out.labels, ticks, recipe.data.normalise)
    answers = predictions_by_tick(theirs.outputs, theirs.margins)[:, -1]
    differing = np.flatnonzero(answers != run.predictions)
    told = f"T = {ticks}: PyTorch and eventsnn, both in float32, give the same answer to "
    told += f"{len(held_out) - len(differing):,} of {len(held_out):,} held-out samples"
    if not differing.size:
        return told + "."
    few = held_out.take(differing)
    found = import_torch.verify(built(recipe), network, few.inputs, es.simulate, ticks, dtype="float32")
    at = [f"{differing[first['sample']]} (tick {first['tick']}, {first['population']})" for first in found["first"]]
    if not all(first["tie"] for first in found["first"]):
        raise RuntimeError(f"{recipe.name}: samples {differing.tolist()} get other answers, not all of rounding ties")
    told += f"; {', '.join(at)} first differ in a spike that is a rounding tie" if at else ""
    # several ticks in one call are summed in another order than one by one
    same = [str(differing[i]) for i in sorted({*range(len(few))} - {first["sample"] for first in found["first"]})]
    told += f"; {', '.join(same)} gets our answer and spikes where PyTorch steps tick by tick" if same else ""
    return told + "."


def check_spikes(recipe: Recipe, network: es.Network, held_out: Part, ticks: int) -> str:
    """PyTorch against eventsnn spike for spike in float64; raise where one differs.

    The module folds nothing, and the file's folded weights are rounded to float32. So none may differ from the network
    converted in float64, and from that of the file only what begins at a spike that this rounding decides.
    """
    few = held_out.take(np.arange(min(SPIKES, len(held_out))))
    exact = converted(recipe, built(recipe).double(), network.input.shape)
    found, stored = (
        import_torch.verify(built(recipe), each, few.inputs, es.simulate, ticks, dtype="float64")
        for each in (exact, network)
    )
    if found["differing"]:
        raise RuntimeError(f"{found['differing']} spikes differ in float64: {found['first_difference']}")
    if not all(first["tie"] for first in stored["first"]):
        raise RuntimeError(f"the weights of {recipe.export.network} are not those of its state dict: {stored['first']}")
    told = (
        f"T = {ticks}: PyTorch and eventsnn in float64, the first {len(few)} held-out samples: "
        f"0 of {found['spikes']:,} spikes differ; with the file's weights, rounded to float32, {stored['differing']:,}"
    )
    at = [f"{first['sample']} (tick {first['tick']}, {first['population']})" for first in stored["first"]]
    if not at:
        return told + "."
    return f"{told}, all behind one that this rounding decides in sample {', '.join(at)}."


# --------------------------------------------------------------------------------------------------------------- card

CARD = """\
# {title}

Written by `tools/results.py`; the figures are of that run.

| | |
|---|---|
| network | {drawing} |
| weights | {weights:,} numbers, of which {numbers:,} in connections |
| trained on | {trained:,} samples of {source} |
| calibrated on | {calibration:,} samples, {calibrated} |
| held out | {held_out:,}, not trained on; no cutoff was chosen with them |
| recipe | `{recipe}`, seed {seed} |
| retrain | {retrain} |
| training took | {took} |
| trained with | Python {python}, torch {torch}, numpy {numpy} |
| measured with | eventsnn {eventsnn}, `python tools/results.py {recipe}{options}` |

{about}

## Measured on the held-out samples, event by event

OCT is the optimal cutoff of Wu et al., which knows the labels; mean ticks and SynOps are up to each sample's stop.

{head}
{rows}

## Checked

{checks}

## Files

| file | what | sha256 |
|---|---|---|
{files}
"""


def card(recipe: Recipe, path: Path, network: es.Network, found: Parts, lines: list[Row], checks: list[str]) -> str:
    """The text of a network's card."""
    training = torch.load(ROOT / recipe.export.state, weights_only=True)["training"]
    took = f"{training['seconds']:,.0f} s on {training['device']} ({training.get('processor', training['machine'])})"
    took += f", {recipe.threads} thread{'s' if recipe.threads > 1 else ''}"
    name = str(path.resolve().relative_to(ROOT)) if path.resolve().is_relative_to(ROOT) else str(path)
    retrain = f"`python tools/train.py {name} --device cpu`"
    if recipe.start:
        retrain = f"the recipe that writes `{recipe.start}` (sha256 `{sha256(ROOT / recipe.start)}`), then {retrain}"
        start = torch.load(ROOT / recipe.start, weights_only=True)["training"]
        took += f", after {start['seconds']:,.0f} s of its start"
    described = {
        recipe.export.network: "the network, with its weights folded",
        recipe.export.held_out: "the held-out samples, `images` and `labels`",
        recipe.export.state: f"the trained PyTorch state dict of `{recipe.model}`",
        str(policy_file(recipe)): "the exact calibration, for `--cutoff topk:FILE`",
    }
    calibrated = "kept out of training" if recipe.data.calibration else "those it was trained on"
    if recipe.data.calibration and recipe.start:
        calibrated = "kept out of this training; its start has seen them"
    ticks = sorted({row.ticks for row in lines})
    return CARD.format(
        **{key: training[key] for key in ("python", "torch", "numpy")},
        title=f"{recipe.name}: {recipe.title}",
        drawing=" - ".join(f"{p.name} {'x'.join(map(str, p.shape))}" for p in network.populations),
        weights=sum(p.numel() for p in built(recipe).parameters()),
        numbers=sum(np.asarray(c.op.weight).size for c in network.connections if hasattr(c.op, "weight")),
        trained=found.trained,
        source=recipe.data.path or recipe.data.source,
        calibration=len(found.calibration),
        calibrated=calibrated,
        held_out=len(found.held_out),
        recipe=name,
        seed=recipe.seed,
        retrain=retrain,
        took=took,
        eventsnn=es.__version__,
        options="" if ticks == [recipe.ticks] else f" --ticks {' '.join(map(str, ticks))}",
        about=recipe.about.strip(),
        head=HEAD,
        rows="\n".join(row.cells() for row in lines),
        checks="\n".join(f"- {check}" for check in checks),
        files="\n".join(
            f"| `{Path(f).name}` | {what} | `{sha256(ROOT / f)}` |"
            for f, what in described.items()
            if f and (ROOT / f).exists()
        ),
    )


# -------------------------------------------------------------------------------------------------------------- table

BEGIN, END = "<!-- results: written by tools/results.py from the cards -->", "<!-- end of results -->"


def table(folder: Path) -> str:
    """The rows of the cards of all networks in a folder, each behind its network's name, as one Markdown table."""
    head, rule = HEAD.splitlines()
    found = [f"| network {head}", f"|---{rule}"]
    for path in sorted(folder.glob("*.h5")):
        if not path.with_suffix(".md").exists():
            continue  # trained, and not yet measured
        measured = path.with_suffix(".md").read_text().partition(f"{HEAD}\n")[2].partition("\n\n")[0]
        found += [f"| [{path.stem}]({path.stem}.md) {line}" for line in measured.splitlines()]
    return "\n".join(found)


def write_table(readme: Path) -> None:
    """Put the table of the cards beside it into a README, between its two marks."""
    put(readme, BEGIN, END, table(readme.parent))


def put(path: Path, begin: str, end: str, text: str) -> None:
    """Put a text between two lines of a file. Raises ValueError when it does not have them."""
    whole = path.read_text()
    before, found, rest = whole.partition(begin)
    if not found or end not in rest:
        raise ValueError(f"{path} has no place for the table, wanted the lines {begin!r} and {end!r}")
    runs.save_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}", path)


# ------------------------------------------------------------------------------------------------------------ command


def report(
    recipe: Recipe, path: Path, horizons: list[int], limit: int | None, jobs: int, say: Callable[..., Any], write: bool
) -> str:
    """Measure and check one network; returns its card, and writes it and the calibrated cutoff where asked."""
    network = es.load(ROOT / recipe.export.network)
    found = parts(recipe, network)
    if limit is not None:
        calibration, held_out = (p.take(np.arange(min(limit, len(p)))) for p in (found.calibration, found.held_out))
        found = Parts(found.trained, calibration, held_out, None)
    lines, checks = [], []
    for ticks in horizons:
        base = study.recorded(full_run(network, found.calibration, ticks, jobs))
        run = full_run(network, found.held_out, ticks, jobs)
        other = study.recorded(run)
        named = cutoffs(recipe, found.calibration, base)
        if write and ticks == recipe.ticks:
            exact = next(policy for name, policy in named if name.startswith(EXACT))
            assert isinstance(exact, es.TopKGap)
            study.save_policy(exact, ROOT / policy_file(recipe))
        measured = rows(other, named, found.apart)
        say(recipe.name, HEAD, *(row.cells() for row in measured), sep="\n")
        lines += measured
        checks.append(check_live(other, base, network, found.held_out, named, jobs))
        checks.append(check_answers(recipe, network, run, found.held_out))
        checks.append(check_spikes(recipe, network, found.held_out, ticks))
        say(*checks[-3:], sep="\n")
    text = card(recipe, path, network, found, lines, checks)
    if write:
        (ROOT / recipe.export.card).write_text(text)
    return text


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Measure networks event by event, write their cards and the table.")
    parser.add_argument("recipes", type=Path, nargs="*")
    parser.add_argument("--limit", type=int, help="only the first samples of either part; implies --no-card")
    parser.add_argument("--ticks", type=int, nargs="+", help="horizons; without it the network's own")
    parser.add_argument("--jobs", type=int, default=1, help="threads, of eventsnn and of PyTorch")
    parser.add_argument("--no-card", action="store_true", help="print only")
    options = parser.parse_args()
    torch.set_num_threads(options.jobs)  # more than there are free cores only wait for each other
    write = not options.no_card and options.limit is None
    for path in options.recipes:
        recipe = read_recipe(path)
        horizons = sorted(options.ticks or [recipe.ticks])
        report(recipe, path, horizons, options.limit, options.jobs, partial(print, flush=True), write)
    if write:
        write_table(ROOT / "weights" / "README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
