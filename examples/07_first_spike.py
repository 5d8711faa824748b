"""Answering with the first spike: neurons that fire once, bright pixels early; what would come after it is saved."""

import math

import numpy as np

import eventsnn as es
from eventsnn.network import Dense, Flatten
from eventsnn.neurons import CubaLIF, Input

LETTERS = {"T": "#####..#....#....#....#..", "L": "#....#....#....#....#####", "X": "#...#.#.#...#...#.#.#...#"}
shapes = np.array([[pixel == "#" for pixel in letter] for letter in LETTERS.values()], float)

# An input spike raises a current that decays with TAU, and the membrane adds it up without a leak: in the end the spike
# has added its weight. A letter needs half of its pixels to get to 1; a pixel that is not in it sets it back.
TICK, TAU = 1e-3, 5e-3
weight = 2 * shapes / shapes.sum(1, keepdims=True) - 0.15 * (1 - shapes)
once = CubaLIF(
    threshold=1.0, reset="value", refractory=math.inf, alpha=1.0, alpha_syn=math.exp(-TICK / TAU), input_rate=1 / TAU
)
network = es.Network(
    populations=(es.Population("input", (1, 5, 5), Input()), es.Population("letter", (3,), once)),
    connections=(es.Connection("input", "letter", Dense(weight), before=(Flatten(),)),),
    output="letter",
    encoding="latency",  # a pixel of brightness x fires at (1 - x) 20 ms
    ticks=21,
    tick_seconds=TICK,
    labels=tuple(LETTERS),
)
rng = np.random.default_rng(1)
labels = np.arange(60) % 3
noisy = 0.6 * shapes[labels] + 0.4 * rng.random((60, 25))  # every pixel fires some time, those of the letter earlier
options = {"mode": "async", "duration": 0.06}
images = noisy.reshape(-1, 1, 5, 5)
first = es.simulate(network, images, labels, watchdog=es.FirstSpike(), **options)
whole = es.simulate(network, images, labels, watchdog=es.Fixed(), **options)

spent = f"each after {1e3 * first.stop_time.mean():.1f} ms on average"
print(f"{np.sum(first.predictions == labels)} of {len(labels)} letters right, {spent}")
for name, run in (("until then", first), ("to the end", whole)):
    print(
        f"{name}: {run.ledger.input_events.mean():.1f} input spikes, {run.ledger.synops().mean():.1f} SynOps a letter"
    )
replayed = es.replay(whole.trace, es.FirstSpike())
print("the whole run tells the same answers:", np.array_equal(replayed.predictions, first.predictions))
