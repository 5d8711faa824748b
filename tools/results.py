"""Measures shipped networks event by event: the figures of the cutoff paper, a card each, and the table of them all.

    python tools/results.py tools/recipes/resnet20.toml tools/recipes/resnet20-rcs.toml     measure, print the rows
    python tools/results.py --limit 500 ...                                                 the first samples only

For each recipe: full runs on what it was trained on and on what was held out, the mean optimal cutoff (OCT), the Top-K
cutoff calibrated on the former and run live on the latter, the authors' own calibration beside it, and the cheapest
cutoff of all families that loses at most 0.3 points in the calibration. Live runs are compared with the replay in
every stop, answer and count.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import eventsnn as es  # noqa: E402
from eventsnn import study  # noqa: E402
from eventsnn.readers import read_input  # noqa: E402
from tools import samples  # noqa: E402
from tools.train import Recipe, load, read_recipe  # noqa: E402

LOSE = 0.3  # points that a cutoff may lose on the calibration samples
EPSILON = 0.01  # of the authors' calibration, as in their scripts

Inputs = tuple[Any, np.ndarray]


def inputs(recipe: Recipe, network: es.Network) -> tuple[Inputs, Inputs]:
    """(inputs, labels) of what was trained on and of what was held out, as `es.simulate` takes them."""
    if recipe.data.source != "events":
        known, held_out = load(recipe)
        return (known.images, known.labels), (held_out.images, held_out.labels)
    path = samples.events_file(recipe.data.path)
    found = [read_input(path, network, keys=f"split={split}") for split in (0, 1)]
    return (found[0].inputs, found[0].labels), (found[1].inputs, found[1].labels)


def first(part: Inputs, limit: int | None) -> Inputs:
    """The first samples."""
    if limit is None or limit >= len(part[1]):
        return part
    return (part[0].first(limit) if isinstance(part[0], es.Events) else part[0][:limit]), part[1][:limit]


def measure(recipe: Recipe, ticks: int, limit: int | None, jobs: int) -> list[tuple[str, study.Point, float]]:
    """(cutoff, what it gives on the held-out samples, mean OCT), the full run first; each run live."""
    network = es.load(ROOT / recipe.export.network)
    known, held_out = (first(part, limit) for part in inputs(recipe, network))
    runs = [
        es.simulate(network, x, y, ticks=ticks, watchdog=es.Fixed(), jobs=jobs, count="connections")
        for x, y in (known, held_out)
    ]
    base, other = (study.recorded(run) for run in runs)
    oct_mean = float(study.optimal_cutoffs(other.trace).mean())
    rows = [("full run", study.evaluate(other, es.Fixed(), "fixed", ticks))]
    paper = study.calibrate(base, "topk", EPSILON, method="paper")
    rows.append((f"Top-K, the authors' calibration, epsilon {EPSILON}", study.evaluate(other, paper, "topk")))
    for name, families in (("Top-K, exact calibration", ("topk-calibrated",)), ("cheapest of all", None)):
        found = study.cheapest(base, other, lose=LOSE, cost="synops", families=families).best.held_out
        rows.append((f"{name}: {found.family} {found.threshold:.3g}", found))
    study.rerun(other, [point.policy for _, point in rows], network, held_out[0], jobs=jobs)
    return [(name, point, oct_mean) for name, point in rows]


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Measure shipped networks, event by event.")
    parser.add_argument("recipes", type=Path, nargs="+")
    parser.add_argument("--limit", type=int, help="only the first samples of either part")
    parser.add_argument("--ticks", type=int, nargs="+", help="horizons; without it the network's own")
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    print("| network | ticks | cutoff | accuracy | 95 % interval | mean OCT | mean ticks | SynOps |")
    print("|---|---|---|---|---|---|---|---|")
    for path in options.recipes:
        recipe = read_recipe(path)
        for ticks in options.ticks or [recipe.ticks]:
            for name, point, oct_mean in measure(recipe, ticks, options.limit, options.jobs):
                low, high = point.interval
                cells = (
                    recipe.name,
                    str(ticks),
                    name,
                    f"{100 * point.accuracy:.2f} %",
                    f"{100 * low:.1f} to {100 * high:.1f} %",
                    f"{oct_mean:.2f}",
                    f"{point.mean_stop:.2f}",
                    f"{point.synops / point.samples:,.0f}",
                )
                print(f"| {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
