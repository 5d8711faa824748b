"""One neuron by hand: two spikes in, weights, a leak, a threshold, and the account of what happened."""

import numpy as np

import eventsnn as es
from eventsnn.network import Dense
from eventsnn.neurons import LIF, Input, Integrator

network = es.Network(
    populations=(
        es.Population("input", (2,), Input()),
        es.Population("neuron", (1,), LIF(threshold=1.0, alpha=0.5, reset="value")),
        es.Population("readout", (1,), Integrator()),
    ),
    connections=(
        es.Connection("input", "neuron", Dense(np.array([[0.75, 0.5]]))),
        es.Connection("neuron", "readout", Dense(np.array([[1.0]]))),
    ),
    output="readout",
    encoding="events",
    tick_seconds=0.001,
    ticks=5,
)

# One sample: unit 0 fires at 0, 1 and 3 ms, unit 1 at 3 ms. Times are microseconds.
events = es.Events(t=np.array([0, 1000, 3000, 3000]), neuron=np.array([0, 0, 0, 1]), offsets=np.array([0, 4]))
run = es.simulate(network, events, record="potentials")

print("membrane after each tick:", *run.potentials["neuron"][0, :, 0])
print("ticks in which it fired: ", *run.events["time"][run.events["population"] == 1])
print(
    "synaptic operations:     ",
    *run.ledger.synops(),
    "=",
    *run.ledger.input_events,
    "events in +",
    *run.ledger.spikes(),
)
