"""A long recording of an event camera through a convolutional network, window by window, in memory that stays flat."""

import tempfile
from pathlib import Path

import numpy as np

import eventsnn as es
from eventsnn.network import Conv, Dense, Flatten, Pool
from eventsnn.neurons import LIF, Input
from eventsnn.recordings import View, stream

SECONDS, WINDOW = 10, 0.1

# A bar of 128 pixels swings before a sensor of 128 x 128 pixels: its front edge brightens, its back edge darkens.
rng = np.random.default_rng(0)
t = np.sort(rng.integers(0, SECONDS * 1_000_000, SECONDS * 20_000))
bar = 64 + 50 * np.sin(2 * np.pi * t / 1e6)
p = rng.integers(0, 2, len(t))
x = np.clip(bar + np.where(p, 2, -2) + rng.normal(0, 1, len(t)), 0, 127)
events = np.zeros(len(t), [("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "u1")])
events["t"], events["x"], events["y"], events["p"] = t, x, rng.integers(0, 128, len(t)), p

leaky = LIF(threshold=1.0, alpha=0.95, reset="value", refractory=2)
network = es.Network(
    populations=(
        es.Population("input", (2, 64, 64), Input()),
        es.Population("edges", (8, 32, 32), leaky),
        es.Population("output", (4,), leaky),
    ),
    connections=(
        es.Connection("input", "edges", Conv(rng.normal(0.1, 0.2, (8, 2, 5, 5)), (2, 2), ((2, 2), (2, 2)), (1, 1))),
        es.Connection(
            "edges",
            "output",
            Dense(rng.normal(0.01, 0.05, (4, 8 * 8 * 8))),
            before=(Pool((4, 4), (4, 4), (0, 0)), Flatten()),
        ),
    ),
    output="output",
    encoding="events",
    tick_seconds=1e-3,
)


def size(state):
    """Bytes of everything a run goes on with."""
    parts = (state.cells, state.queue, state.record)
    return sum(array.nbytes for part in parts for array in part) if state else 0


with tempfile.TemporaryDirectory() as folder:
    recording = Path(folder) / "bar.npy"
    np.save(recording, events)
    state, spikes, synops, sizes = None, np.zeros(4, np.int64), 0, []
    for window in stream(recording, network, WINDOW, view=View(downsample=2)):
        run = es.simulate(network, window, mode="async", duration=WINDOW, record=["output"], state=state)
        state = run.state
        spikes += run.emitted("output")[0]
        synops += int(run.ledger.synops()[0])
        sizes.append(size(state.states[0]))

print(f"{len(t):,} events in {len(sizes)} windows of {WINDOW} s, {synops:,} SynOps")
print("output spikes:", *spikes)
print("bytes of the state after the first window and the last:", sizes[0] == sizes[-1])
