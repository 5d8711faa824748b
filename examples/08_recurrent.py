"""A recurrent network of current-based neurons with a delay for every synapse, in continuous time.

Fifty neurons, four excitatory for each inhibitory one, are kicked once and go on by themselves. Between spikes nothing
is computed: membranes are closed forms, and each crossing of a threshold is found where it lies, not on a grid.
"""

import math

import numpy as np

import eventsnn as es
from eventsnn.network import Dense, Sparse
from eventsnn.neurons import LI, CubaLIF, Input

rng = np.random.default_rng(3)
cells, tick = 50, 1e-3
excitatory = np.arange(cells) % 5 > 0
neuron = CubaLIF(
    threshold=1.0,
    reset="value",
    refractory=2,  # ms, in which the membrane is held and currents go on
    refractory_input="integrate",
    hold=True,
    alpha=math.exp(-1 / 20),  # what a clocked run would take: the membrane leaks with 20 ms, the current with 5 ms
    alpha_syn=math.exp(-1 / 5),
    rest=0.96,
    v0=0.9,
)
linked = rng.random((cells, cells)) < 0.2
source, target = np.nonzero(linked)
rows = np.concatenate([[0], np.cumsum(linked.sum(1))])
weight = np.where(excitatory[source], 0.04, -0.09)
delay = rng.uniform(0.5, 5.0, source.size)  # ms, in ticks; whole ones would run in ticks, too

network = es.Network(
    populations=(
        es.Population("kick", (1,), Input()),
        es.Population("cells", (cells,), neuron),
        es.Population("rate", (1,), LI(alpha=math.exp(-1 / 50))),
    ),
    connections=(
        es.Connection("kick", "cells", Dense(rng.uniform(0.02, 0.1, (cells, 1)))),
        es.Connection("cells", "cells", Sparse(rows, target, weight, (cells,), delay=delay)),
        es.Connection("cells", "rate", Dense(np.full((1, cells), 1 / cells))),
    ),
    output="rate",
    encoding="events",
    tick_seconds=tick,
)
kick = es.Events(np.array([1000]), np.array([0]), np.array([0, 1]))
run = es.simulate(network, kick, mode="async", duration=0.5, record=["cells"])

times = run.events["time"]
print(f"{len(times)} spikes, the first at {times[0] * 1e3:.6f} ms, the last at {times[-1] * 1e3:.6f} ms")
recurrent = {kind: int(run.ledger.synops("cells->cells", kind)[0]) for kind in ("structural", "delivered", "in_flight")}
print(f"recurrent SynOps: {recurrent['structural']} = {recurrent['delivered']} + {recurrent['in_flight']} in flight")
print(f"activity at the end: {run.outputs[0, -1, 0]:.3f}")
