"""One small network in which every class of count occurs, and runs of it, for tests of what surrounds the engine."""

import numpy as np

from eventsnn.network import Connection, Conv, Dense, Flatten, Identity, Network, Pool, Population
from eventsnn.neurons import IF, LIF, Input, Integrator, Relay
from eventsnn.simulation import simulate
from eventsnn.watchdog import SpikeGap

TICKS = 12
CLASSES = ("cat", "dog", "owl")


def network(readout="spikes"):
    """A convolution, an add-after-spike relay, a leaky layer with dropped and delayed arrivals, a pooled readout."""
    rng = np.random.default_rng(1)

    def conv(source, target, size, gain):
        pad = ((size // 2, size // 2),) * 2
        return Conv(rng.normal(0.05, gain, (target, source, size, size)), (1, 1), pad, (1, 1))

    rest = LIF(alpha=0.9, threshold=np.array([0.8, 1.0, 1.2]), comparator="gt", refractory=1)
    output = IF(v0=0.5) if readout == "spikes" else Integrator()
    return Network(
        populations=(
            Population("input", (1, 5, 6), Input()),
            Population("conv", (3, 5, 6), IF(v0=0.5)),
            Population("sum", (3, 5, 6), Relay()),
            Population("rest", (3, 5, 6), rest),
            Population("output", (3,), output),
        ),
        connections=(
            Connection("input", "conv", conv(1, 3, 3, 0.4), bias=rng.normal(0, 0.1, 3)),
            Connection("conv", "sum", conv(3, 3, 1, 0.3)),
            Connection("conv", "sum", Identity(), name="skip"),
            Connection("sum", "rest", conv(3, 3, 3, 0.1)),
            Connection("rest", "rest", conv(3, 3, 1, 0.2), delay=2, name="back"),
            Connection(
                "rest",
                "output",
                Dense(rng.normal(0.05, 0.3, (3, 18))),
                before=(Pool((2, 2), (2, 2), (0, 0)), Flatten()),
            ),
        ),
        output="output",
        ticks=TICKS,
        labels=CLASSES,
    )


def images(samples=20):
    """Images in 0..1 and labels, the same every time."""
    rng = np.random.default_rng(2)
    return rng.random((samples, 1, 5, 6)), rng.integers(0, 3, samples)


def run(readout="spikes", cutoff=None, samples=20, labels=True, **options):
    """A run of the small network; by default it is stopped at a gap of two spikes."""
    x, y = images(samples)
    options = {"record": "potentials", **options}
    return simulate(network(readout), x, y if labels else None, watchdog=cutoff or SpikeGap(2), **options)
