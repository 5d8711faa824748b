"""Networks that were trained alike, in one table: accuracy, spikes, SynOps by class, and energy, run event by event.

    python tools/compare.py sresnet           measure the study's recipes, write its part of weights/README.md
    python tools/compare.py sresnet --limit 200    try it, write nothing
    python tools/compare.py sresnet --seed 1       of what `tools/train.py RECIPE --seed 1` trained; write nothing

Every network runs to its horizon on all held-out samples. Then the checks: the answers of its own PyTorch module, which
takes all ticks at once, against ours in float32; and in float64 every spike of that module's neurons on the first
samples. One that differs ends the command.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import eventsnn as es  # noqa: E402
from eventsnn import energy, runs, torch_terms  # noqa: E402
from eventsnn.ledger import wilson  # noqa: E402
from eventsnn.neurons import IF, Relay  # noqa: E402
from tools.modules import Neuron, neurons, running, spiking_outputs  # noqa: E402
from tools.results import Part, built, check_answers, full_run, parts, put  # noqa: E402
from tools.train import Recipe, as_tensor, converted, normalised, shipped_recipe  # noqa: E402

STUDIES = {  # recipes, and what a row is called
    "sresnet": {
        "sresnet": "added to the spikes (S-ResNet, SEW ADD)",
        "sresnet-current": "added to the current",
        "sresnet-and": "AND with the spikes (SEW)",
        "sresnet-iand": "IAND with the spikes (SEW)",
    },
    "inflor": {
        "inflor-hard": "hard reset",
        "inflor-soft": "soft reset",
        "inflor-hard-mpr": "hard reset, MPR",
        "inflor-soft-mpr": "soft reset, MPR (InfLoR)",
    },
    "inflor-objects": {
        "inflor-objects-hard": "hard reset",
        "inflor-objects-soft": "soft reset",
        "inflor-objects-hard-mpr": "hard reset, MPR",
        "inflor-objects-soft-mpr": "soft reset, MPR (InfLoR)",
    },
}
TABLE = "45nm-fp32"
SPIKES = 20  # samples compared spike for spike in float64

HEAD = (
    "| | accuracy | 95 % interval (Wilson) | spikes | SynOps: additions | multiply-adds | image, multiply-adds "
    f"| energy, µJ ({TABLE}) | multiplied as ANN, µJ |\n|---|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Row:
    """A network on the held-out samples; spikes, operations and energies of all of them together."""

    words: str
    right: int
    samples: int
    spikes: int
    additions: int
    multiplications: int
    image: int
    picojoule: float
    ann: float

    def cells(self) -> str:
        """The row of a Markdown table, by sample."""
        low, high = wilson(self.right, self.samples)
        n = self.samples
        return (
            f"| {self.words} | {self.right / n:.2%} | {low:.2%} to {high:.2%} | {self.spikes / n:,.0f} "
            f"| {self.additions / n:,.0f} | {self.multiplications / n:,.0f} | {self.image / n:,.0f} "
            f"| {self.picojoule / n / 1e6:,.2f} | {self.ann / n / 1e6:,.2f} |"
        )


def row_of(words: str, run: es.Run) -> Row:
    """The figures of a full run."""
    record = runs.describe(run)
    account = energy.account(record.run, record.network, TABLE)
    counts = account["operations"]
    return Row(
        words=words,
        right=int(np.sum(run.predictions == run.labels)),
        samples=len(run.labels),
        spikes=int(run.ledger.spikes().sum()),
        additions=int(run.ledger.by_class("ac").sum()),
        multiplications=int(run.ledger.by_class("mac").sum()),
        image=int(counts["mac_input"]["count"]),
        picojoule=account["picojoule"],
        ann=account["ann"],
    )


def check_module(recipe: Recipe, held_out: Part) -> str:
    """Every spike of the module's own neurons against ours, and the values of relays, in float64."""
    few = held_out.take(np.arange(min(SPIKES, len(held_out))))
    module = built(recipe).double()
    shape = as_tensor(few.shown[:1]).shape[-3:]
    network = converted(recipe, built(recipe).double(), shape)
    run = es.simulate(network, few.inputs, ticks=recipe.ticks, watchdog=es.Fixed(), record="spikes", dtype="float64")
    theirs, outputs = module_spikes(module, recipe, few)
    differing, total = 0, 0
    order = [p.name for p in network.populations]
    for name, path in neurons_of(module, shape).items():
        spikes = theirs[path].numpy().reshape(recipe.ticks, len(few), -1)
        found = run.events[run.events["population"] == order.index(name)]
        ours = np.zeros_like(spikes)
        ours[found["time"], found["sample"], found["neuron"]] = found["value"]
        differing += int((ours != spikes).sum())
        total += int(spikes.sum())
    ours = np.diff(run.outputs, axis=1, prepend=0)
    error = float(np.max(np.abs(ours - outputs)))
    if differing or error > 1e-9:
        raise RuntimeError(f"{recipe.name}: {differing} spikes differ from its module's, outputs by {error:.2g}")
    graded = sum(isinstance(p.neuron, Relay) for p in network.populations)
    told = f"; its {graded} relays carry graded values, and its outputs differ by {error:.1g} at most" if graded else ""
    return f"{recipe.name}: 0 of {total:,} spikes of the first {len(few)} samples differ in float64{told}"


def module_spikes(module: nn.Module, recipe: Recipe, part: Part) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """Spikes of every layer of neurons by its path, (ticks, N, ...), and outputs of each tick, (N, ticks, classes)."""
    x = normalised(as_tensor(part.shown, "float64"), recipe.data.normalise)
    module.eval()
    with torch.no_grad(), running(module, ticks=recipe.ticks, samples=len(x), watch=True):
        outputs = spiking_outputs(module, x, recipe.ticks)
        found = {
            path: layer.watched.spikes
            for path, layer in module.named_modules()
            if isinstance(layer, Neuron) and layer.watched is not None
        }
    assert len(found) == len(neurons(module))
    return found, outputs.transpose(0, 1).numpy()


def neurons_of(module: nn.Module, shape: tuple[int, ...]) -> dict[str, str]:
    """The path in the module of every population of neurons."""
    plan = torch_terms.draw(module, (1, *shape), "sum")
    return {
        name: str(layer.at.target).removeprefix("net.")
        for name, layer in plan.layers.items()
        if isinstance(layer.neuron, IF)
    }


def study(name: str, limit: int | None, jobs: int, seed: int | None = None) -> list[str]:
    """The table of a study, and what was checked. seed: of repetitions, None for the networks that ship."""
    lines, checks = [], []
    for recipe_name, words in STUDIES[name].items():
        recipe = shipped_recipe(recipe_name, seed)
        network = es.load(ROOT / recipe.export.network)
        held_out = parts(recipe, network).held_out
        held_out = held_out.take(np.arange(min(limit or len(held_out), len(held_out))))
        run = full_run(network, held_out, recipe.ticks, jobs)
        row = row_of(words, run)
        print(row.cells(), flush=True)
        lines.append(row.cells())
        checks.append(check_answers(recipe, network, run, held_out).replace("T = ", f"{recipe.name}: T = ", 1))
        checks.append(check_module(recipe, held_out) + ".")
        print(*checks[-2:], sep="\n", flush=True)
    return [HEAD, *lines, "", *(f"- {check}" for check in checks)]


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Compare networks that were trained alike, event by event.")
    parser.add_argument("studies", nargs="*", choices=[*STUDIES, []], default=list(STUDIES))
    parser.add_argument("--limit", type=int, help="only the first held-out samples; nothing is written")
    parser.add_argument("--seed", type=int, help="of repetitions, see tools/train.py --seed; nothing is written")
    parser.add_argument("--jobs", type=int, default=1, help="threads, of eventsnn and of PyTorch")
    options: Any = parser.parse_args()
    torch.set_num_threads(options.jobs)
    try:
        for name in options.studies:
            text = "\n".join(study(name, options.limit, options.jobs, options.seed))
            if options.limit is None and options.seed is None:
                marks = f"<!-- {name}: written by tools/compare.py -->", f"<!-- end of {name} -->"
                put(ROOT / "weights" / "README.md", *marks, text)
    except ValueError as error:  # a network that is not trained yet, data that is not there
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
