"""One neuron in continuous time: when a leaky neuron under constant drive crosses its threshold, exactly."""

import math

import numpy as np

import eventsnn as es
from eventsnn.network import Dense
from eventsnn.neurons import LIF, Input

# 1000 pA onto 250 pF: the membrane rises by 4 mV/ms, leaks with 10 ms, and fires at 15 mV. A tick is 0.1 ms here; in
# continuous time it only says what the bias, which is written per tick, amounts to.
TICK, TAU, DRIVE, THRESHOLD = 1e-4, 10e-3, 4.0, 15.0
network = es.Network(
    populations=(
        es.Population("input", (2,), Input()),
        es.Population("neuron", (1,), LIF(threshold=THRESHOLD, alpha=math.exp(-TICK / TAU), tau=TAU, reset="value")),
    ),
    connections=(es.Connection("input", "neuron", Dense(np.array([[3.0, -3.0]])), bias=np.array([DRIVE * 0.1])),),
    output="neuron",
    encoding="events",
    tick_seconds=TICK,
)


def first_spike(*arrivals):
    """Milliseconds; an arrival is (microseconds, 0 to excite by 3 mV or 1 to inhibit by 3 mV)."""
    times, units = np.array(arrivals, np.int64).reshape(-1, 2).T
    events = es.Events(t=times, neuron=units, offsets=np.array([0, len(times)]))
    run = es.simulate(network, events, mode="async", duration=0.02, record=["neuron"])
    return f"{run.events['time'][0] * 1e3:.12f} ms"


end = DRIVE * TAU * 1e3
print(f"the formula:            {-TAU * 1e3 * math.log(1 - THRESHOLD / end):.12f} ms")
print("drive alone:           ", first_spike())
print("excited at 3 ms:       ", first_spike((3000, 0)))
print("inhibited at 4.7 ms:   ", first_spike((4700, 1)))
print("inhibited a us later:  ", first_spike((4701, 1)), "(too late to matter)")
