"""Benchmarks 2 and 4 of Brette et al. (J. Comput. Neurosci. 2007), 4,000 neurons, as data that any simulator can take.

Of the 4,000 neurons the first 3,200 are excitatory. Each ordered pair of two neurons is connected with probability
0.02. Membranes leak to -49 mV, above the threshold of -50 mV, so that the network keeps itself active, after a stimulus
has started it. Benchmark 4: a spike makes the membrane of its target jump. Benchmark 2 (CUBA): it adds to an
exponentially decaying current, one for excitation and one for inhibition::

    tau dV/dt = (rest - V) + g_e + g_i      tau_e dg_e/dt = -g_e      tau_i dg_i/dt = -g_i

What is ours, because the paper leaves it open or does it another way:

* Every delay is 0.1 ms, the smallest that Brian2 and NEST have at a step of 0.1 ms. The paper has none.
* Stimulus spikes fall on whole multiples of 0.1 ms, at most one of a neuron on each, so that a simulator with a grid
  gets exactly the spikes that one without gets.
* In benchmark 2 a stimulus spike adds 18 mV to g_e, enough for the stimulus to matter, and every neuron starts at the
  reset potential, as in benchmark 4.

Only NumPy is needed here, except in `network()`, so that the interpreter of another simulator can import this file.
"""

from __future__ import annotations

from math import exp
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import eventsnn

NEURONS, EXCITATORY = 4000, 3200
PROBABILITY = 0.02
STEP = 0.1  # ms; every delay, and the grid of the stimulus
STIMULUS, INTERVAL = 50.0, 10.0  # ms: how long the stimulus lasts, and its mean interval in each neuron


class Benchmark(NamedTuple):
    """Potentials and weights in mV, times in ms.

    tau_syn: decay of the excitatory and of the inhibitory current; empty where a spike makes the membrane itself jump.
    keeps_input: whether spikes that arrive while the neuron is refractory still add to its currents, or are lost.
    """

    excitatory: float
    inhibitory: float
    stimulus: float
    tau_syn: tuple[float, ...]
    keeps_input: bool
    tau: float = 20.0
    rest: float = -49.0
    threshold: float = -50.0  # fires above it
    reset: float = -60.0
    start: float = -60.0
    refractory: float = 5.0  # the membrane stays at the reset


BENCHMARKS = {
    4: Benchmark(excitatory=0.25, inhibitory=-2.25, stimulus=10.0, tau_syn=(), keeps_input=False),
    2: Benchmark(excitatory=1.62, inhibitory=-9.0, stimulus=18.0, tau_syn=(5.0, 10.0), keeps_input=True),
}


def connectivity(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(indptr (4001,), targets (synapses,)), both int64: the targets of each neuron, one row after the other, rising.

    No neuron is connected to itself.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for source in range(NEURONS):
        connected = rng.random(NEURONS) < PROBABILITY
        connected[source] = False
        rows.append(np.flatnonzero(connected))
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    return indptr.astype(np.int64), np.concatenate(rows).astype(np.int64)


def stimulus(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(time in microseconds, neuron), both (spikes,) int64, ordered by time, then neuron.

    A Poisson process for each neuron, of which a step of 0.1 ms with one spike or several holds one, at its end. So the
    steps are independent, and times go from 0.1 to 50 ms.
    """
    rng = np.random.default_rng([seed, 1])  # not the stream of the connectivity
    steps = round(STIMULUS / STEP)
    step, neuron = np.nonzero(rng.random((steps, NEURONS)) < 1 - exp(-STEP / INTERVAL))
    return (step + 1) * round(1000 * STEP), neuron


def network(benchmark: int, seed: int) -> tuple[eventsnn.Network, eventsnn.Events]:
    """Benchmark 2 or 4 for `eventsnn.simulate`: the network, in ticks of 0.1 ms, and the stimulus as one sample."""
    from eventsnn import Connection, Events, Network, Population
    from eventsnn.network import Identity, Sparse
    from eventsnn.neurons import LIF, CubaLIF, Input, Integrator

    b = BENCHMARKS[benchmark]
    membrane = {
        "threshold": b.threshold,
        "comparator": "gt",
        "reset": "value",
        "reset_value": b.reset,
        "v0": b.start,
        "rest": b.rest,
        "alpha": exp(-STEP / b.tau),
        "alpha_from": "exp",
        "tau": b.tau / 1000,
        "refractory": round(b.refractory / STEP),
        "refractory_input": "integrate" if b.keeps_input else "discard",
        "hold": True,
    }
    if b.tau_syn:
        neuron: LIF = CubaLIF(
            **membrane,
            alpha_syn=tuple(exp(-STEP / tau_syn) for tau_syn in b.tau_syn),
            tau_syn=tuple(tau_syn / 1000 for tau_syn in b.tau_syn),
            # a tick changes V by exactly what the currents at its start make, arrivals count from its end: NEST's grid
            gain=0.0,
            gain_old=tuple(
                tau_syn / (b.tau - tau_syn) * (exp(-STEP / b.tau) - exp(-STEP / tau_syn)) for tau_syn in b.tau_syn
            ),
            input_rate=1000 / b.tau,
        )
    else:
        neuron = LIF(**membrane)

    indptr, targets = connectivity(seed)
    border = indptr[EXCITATORY]
    rows = {
        "excitatory": (np.minimum(indptr, border), targets[:border], b.excitatory),
        "inhibitory": (np.maximum(indptr - border, 0), targets[border:], b.inhibitory),
    }
    synapses = tuple(
        Connection(
            "cells",
            "cells",
            Sparse(starts, ends, np.full(len(ends), weight), (NEURONS,)),
            delay=1,
            name=name,
            receptor=receptor if b.tau_syn else None,
        )
        for receptor, (name, (starts, ends, weight)) in enumerate(rows.items())
    )
    # Nothing is to be decided here. Were the cells the output, 4,000 membranes would be looked at in every instant.
    no_rows = Sparse(np.zeros(NEURONS + 1, np.int64), np.zeros(0, np.int64), np.zeros(0), (1,))
    silent = Connection("cells", "none", no_rows)
    made = Network(
        populations=(
            Population("input", (NEURONS,), Input()),
            Population("cells", (NEURONS,), neuron),
            Population("none", (1,), Integrator()),
        ),
        connections=(Connection("input", "cells", Identity(b.stimulus), delay=1), *synapses, silent),
        output="none",
        encoding="events",
        tick_seconds=STEP / 1000,
        ticks=10_000,
    )
    time, cell = stimulus(seed)
    return made, Events(time, cell, np.array([0, len(time)]))
