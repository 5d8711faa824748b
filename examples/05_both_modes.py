"""The packaged network as a clocked chip runs it and as an asynchronous one does: the same weights, other runs."""

from dataclasses import replace

import numpy as np

import eventsnn as es
from eventsnn.cli import packaged
from eventsnn.comparison import compare

network = replace(es.load(packaged("digits.h5")), tick_seconds=1e-3)
held_out = np.load(packaged("digits-heldout.npz"))
images, labels = held_out["images"][:100], held_out["labels"][:100].astype(np.int64)

# In ticks all spikes of a millisecond arrive together. In continuous time each acts when it arrives, and what is
# constant (pixels, biases) flows steadily, or in pulses where `bias_period` says so.
options = {"watchdog": es.Fixed(), "record": "spikes"}
runs = {
    "ticks of 1 ms": es.simulate(network, images, labels, **options),
    "continuous time": es.simulate(network, images, labels, mode="async", **options),
    "... pulses of 1 ms": es.simulate(network, images, labels, mode="async", bias_period=1e-3, **options),
}
clocked = runs["ticks of 1 ms"]
print(f"{'':>18} {'accuracy':>9} {'same answer':>12} {'SynOps a digit':>15}")
for name, run in runs.items():
    same = np.mean(run.predictions == clocked.predictions)
    print(f"{name:>18} {run.accuracy:9.1%} {same:12.1%} {run.ledger.synops().mean():15,.0f}")

first = compare(clocked, runs["continuous time"]).first
print(f"first difference: sample {first.sample}, {first.population}, neuron {first.neuron}")
