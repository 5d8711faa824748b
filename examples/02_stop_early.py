"""What a cutoff saves: the packaged network over the held-out digits, to the end and stopped when it has decided."""

import numpy as np

import eventsnn as es
from eventsnn.cli import packaged

network = es.load(packaged("digits.h5"))
held_out = np.load(packaged("digits-heldout.npz"))
images, labels = held_out["images"], held_out["labels"].astype(np.int64)

full = es.simulate(network, images, labels, watchdog=es.Fixed())
print(f"{'cutoff':>12} {'accuracy':>9} {'ticks':>6} {'SynOps a digit':>15}")
print(f"{'fixed':>12} {full.accuracy:9.2%} {full.stop_time.mean():6.2f} {full.ledger.synops().mean():15,.0f}")

for gap in (1, 2, 3, 4):
    # One recorded full run answers for every policy. Outputs and SynOps are stored by tick, so the cost is known, too.
    early = es.replay(full.trace, es.SpikeGap(gap))
    spent = full.trace.synops.cumsum(axis=1)[np.arange(len(labels)), early.stop_time - 1]
    accuracy = np.mean(early.predictions == labels)
    print(f"{f'spike-gap:{gap}':>12} {accuracy:9.2%} {early.stop_time.mean():6.2f} {spent.mean():15,.0f}")

live = es.simulate(network, images, labels, watchdog=es.SpikeGap(2))
early = es.replay(full.trace, es.SpikeGap(2))
print("a live run stops where the replay says:", np.array_equal(live.stop_time, early.stop_time))
