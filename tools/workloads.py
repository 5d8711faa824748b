"""The networks and samples that `bench.py` measures.

Published networks and recorded samples where the evaluation data are at hand (EVENTSNN_DATA, or ../shared), else, and
always with `small`, networks of the same shape with random weights on random samples.
"""

from __future__ import annotations

import math
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import eventsnn as es
from eventsnn import import_torch, layouts
from eventsnn.network import Connection, Conv, Dense, Flatten, Network, Population
from eventsnn.neurons import IF, Input, Integrator
from eventsnn.readers import read_input

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.samples import decoded

DATA = Path(os.environ.get("EVENTSNN_DATA", Path(__file__).resolve().parents[2] / "shared"))
CHECKPOINT = DATA / "models" / "resnet_cifar10" / "resnet20-12fca82f.th"
NMNIST = DATA / "models" / "nir" / "cnn_sinabs.nir", DATA / "data" / "nmnist_subset.h5"
CHANNELS = (16, 32, 64)


def resnet20(small: bool) -> tuple[Network, np.ndarray, str]:
    """(network, images (N, 3, 32, 32) as the first layer sees them, where they come from)."""
    known, shown = (8, 4) if small else (256, 64)
    if CHECKPOINT.is_file() and not small:
        weights = import_torch.load_checkpoint(CHECKPOINT)
        with np.load(DATA / "data" / "cifar10.npz") as stored:
            images = decoded(stored, "train", known + shown)
        origin = CHECKPOINT.name
    else:
        torch.manual_seed(0)
        weights = random_resnet20()
        images = np.random.default_rng(0).integers(0, 256, (known + shown, 3, 32, 32), np.uint8)
        origin = "ResNet-20, random weights"
    module = layouts.build("resnet20", weights)
    example = np.zeros((1, 3, 32, 32), np.float32)
    network = import_torch.from_torch(module, example, calibrate=images[:known], normalise="imagenet", ticks=4)
    return network, images[known:], origin


def random_resnet20() -> dict[str, torch.Tensor]:
    """A state dict of the published layout with random weights."""
    state: dict[str, torch.Tensor] = {}

    def conv(name: str, norm: str, inputs: int, outputs: int) -> None:
        state[f"{name}.weight"] = torch.randn(outputs, inputs, 3, 3) * (2 / (9 * inputs)) ** 0.5
        state[f"{norm}.weight"], state[f"{norm}.bias"] = torch.ones(outputs), torch.zeros(outputs)
        state[f"{norm}.running_mean"], state[f"{norm}.running_var"] = torch.zeros(outputs), torch.ones(outputs)

    conv("conv1", "bn1", 3, 16)
    inputs = 16
    for stage, outputs in enumerate(CHANNELS, 1):
        for block in range(3):
            conv(f"layer{stage}.{block}.conv1", f"layer{stage}.{block}.bn1", inputs, outputs)
            conv(f"layer{stage}.{block}.conv2", f"layer{stage}.{block}.bn2", outputs, outputs)
            inputs = outputs
    state["linear.weight"], state["linear.bias"] = torch.randn(10, 64) * 0.1, torch.zeros(10)
    return state


def event_network(ticks: int = 100, count: int = 20, tick_seconds: float = 1e-3) -> tuple[Network, es.Events]:
    """An event-camera network without biases (2x34x34, three convolutions of stride 2, dense) and random samples.

    Every sample has 4,000 events, spread over all of its ticks.
    """
    rng = np.random.default_rng(0)
    populations, connections = [Population("input", (2, 34, 34), Input())], []
    for i, channels in enumerate((16, 32, 64)):
        before = populations[-1]
        fan_in = 9 * before.shape[0]
        op = Conv(rng.normal(0.02, fan_in**-0.5, (channels, before.shape[0], 3, 3)), (2, 2), ((1, 1), (1, 1)), (1, 1))
        populations.append(Population(f"conv{i + 1}", op.out_shape(before.shape), IF(threshold=0.5)))
        connections.append(Connection(before.name, populations[-1].name, op))
    last = populations[-1]
    populations.append(Population("out", (10,), Integrator()))
    dense = Dense(rng.normal(size=(10, last.size)))
    connections.append(Connection(last.name, "out", dense, before=(Flatten(),)))
    quiet = Network(
        populations=tuple(populations),
        connections=tuple(connections),
        output="out",
        encoding="events",
        tick_seconds=tick_seconds,
        ticks=ticks,
    )
    each, last = 4000, round(ticks * tick_seconds * 1e6)
    times = np.sort(rng.integers(0, last, (count, each)), axis=1)
    return quiet, es.Events(times.ravel(), rng.integers(0, 2 * 34 * 34, count * each), np.arange(count + 1) * each)


INPUT_RATE, HIDDEN_RATES = 0.13, (0.08, 0.13)


def mlp_network(ticks: int, width: int) -> tuple[Network, list[float]]:
    """(network 784-width-width-10 with random weights, rates of its input and hidden layers in spikes a tick).

    Each threshold is found by bisection on what 20 random ticks make of the layer.
    """
    rng = np.random.default_rng(0)
    shapes = [(width, 784), (width, width), (10, width)]
    weights = [rng.normal(0, shape[1] ** -0.5, shape).astype(np.float32) for shape in shapes]
    spikes = (rng.random((8, 20, 784)) < INPUT_RATE).astype(np.float32)
    populations = [Population("input", (784,), Input())]
    found = [float(spikes.mean())]
    for number, (weight, wanted) in enumerate(zip(weights, HIDDEN_RATES), 1):
        currents = spikes @ weight.T
        low, high = 1e-3, 100.0
        for _ in range(30):
            threshold = math.sqrt(low * high)
            spikes = integrated(currents, threshold)
            low, high = (threshold, high) if spikes.mean() > wanted else (low, threshold)
        found.append(float(spikes.mean()))
        populations.append(Population(f"hidden{number}", (width,), IF(threshold=threshold)))
    populations.append(Population("out", (10,), Integrator()))
    names = [p.name for p in populations]
    connections = [Connection(a, b, Dense(w)) for a, b, w in zip(names, names[1:], weights)]
    network = Network(
        populations=tuple(populations),
        connections=tuple(connections),
        output="out",
        encoding="events",
        tick_seconds=1e-3,
        ticks=ticks,
    )
    return network, found


def integrated(currents: np.ndarray, threshold: float) -> np.ndarray:
    """Spikes of IF neurons with soft reset. currents: (samples, ticks, neurons)."""
    v, spikes = np.zeros_like(currents[:, 0]), np.zeros_like(currents)
    for tick in range(currents.shape[1]):
        v += currents[:, tick]
        spikes[:, tick] = v >= threshold
        v -= threshold * spikes[:, tick]
    return spikes


def poisson(ticks: int, count: int) -> es.Events:
    """Samples of 784 inputs that fire in a tick with the same probability each."""
    rng = np.random.default_rng(1)
    t, neuron, offsets = [], [], [0]
    for _ in range(count):
        number = rng.binomial(784, INPUT_RATE, ticks)
        t.append(np.repeat(np.arange(ticks) * 1000, number))
        # Which of them fire: a random order of all, of which the first ones count, in parts that fit into memory.
        for low in range(0, ticks, 1000):
            order = np.argsort(rng.random((len(number[low : low + 1000]), 784), dtype=np.float32), axis=1)
            neuron.append(order[np.arange(784) < number[low : low + 1000, None]])
        offsets.append(offsets[-1] + int(number.sum()))
    return es.Events(np.concatenate(t), np.concatenate(neuron), np.array(offsets))


def nmnist(count: int) -> tuple[Network, es.Events] | None:
    """(the NIR paper's network as sinabs reads it, in ticks of 1 ms; N-MNIST recordings), None without the data."""
    file, data = NMNIST
    if not (file.is_file() and data.is_file()):
        return None
    network = replace(es.load(file, assume="sinabs"), encoding="events", tick_seconds=1e-3)
    return network, read_input(data, network, keys="t,x,y,p,offsets,labels,split=1", limit=count).inputs
