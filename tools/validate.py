"""The oracles on real checkpoints and data, too large for the test suite. Results: docs/validation.md.

    python tools/validate.py [--only spikes|accuracy] [--images N]

spikes: the converted ResNet-20 against a plain PyTorch stepper with the same folded weights, 32 ticks, 20 images: every
spike of all populations in float64; in float32 the differences, each first one of which must be a rounding tie.
accuracy: the same network on the 1,000 exact CIFAR-10 test images at 32, 64, 128 and 256 ticks.

Needs the data of EVENTSNN_DATA, or ../shared.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import eventsnn as es
from eventsnn import import_torch, layouts
from eventsnn.ledger import wilson
from eventsnn.neurons import IF
from eventsnn.report import predictions_by_tick

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("EVENTSNN_DATA", ROOT.parent / "shared"))
sys.path.insert(0, str(ROOT / "tests"))

import stepper  # noqa: E402 - the oracle lives with the tests


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["spikes", "accuracy"])
    parser.add_argument("--images", type=int, help="use the first N images")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    checkpoint = DATA / "models" / "resnet_cifar10" / "resnet20-12fca82f.th"
    if not checkpoint.is_file():
        sys.exit(f"validate: {checkpoint} is absent; set EVENTSNN_DATA")
    train, _ = cifar("train", 1024)
    module = layouts.build("resnet20", import_torch.load_checkpoint(checkpoint))
    example = np.zeros((1, 3, 32, 32), np.float32)
    network = import_torch.from_torch(module, example, calibrate=train, normalise="imagenet", ticks=64)
    sound = True
    if options.only != "accuracy":
        images, _ = cifar("test_lossless", options.images or 20)
        sound = spikes(network, images, "float64") and spikes(network, images, "float32")
    if options.only != "spikes":
        accuracy(module, network, *cifar("test_lossless", options.images or 1000), options.jobs)
    sys.exit(0 if sound else 1)


def cifar(split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first images (N, 3, 32, 32) uint8 and labels of a split."""
    stored = np.load(DATA / "data" / "cifar10.npz")
    blob, ends = stored[f"{split}_bytes"].tobytes(), stored[f"{split}_offsets"][: count + 1]
    decoded = [np.asarray(Image.open(io.BytesIO(blob[a:b])).convert("RGB")) for a, b in pairwise(ends)]
    return np.stack(decoded).transpose(0, 3, 1, 2), stored[f"{split}_labels"][:count].astype(np.int64)


def spikes(network: es.Network, images: np.ndarray, dtype: str, ticks: int = 32) -> bool:
    """Print how many spikes differ; returns whether every first difference is a rounding tie."""
    spiking = [p for p in network.populations if isinstance(p.neuron, IF)]
    total, differing, firsts, seconds = 0, 0, [], time.perf_counter()
    for i in range(len(images)):  # one at a time: the stepper keeps every membrane of every tick
        one = images[i : i + 1]
        run = es.simulate(network, one, ticks=ticks, watchdog=es.Fixed(), record="spikes", dtype=dtype)
        stepped = stepper.step(network, one.astype(dtype) / np.asarray(255, dtype), ticks, getattr(torch, dtype))
        recorded = {}
        for number, p in enumerate(network.populations):
            found = np.zeros((ticks, p.size))
            of_this = run.events[run.events["population"] == number]
            found[of_this["time"], of_this["neuron"]] = of_this["value"]
            recorded[p.name] = found.reshape(ticks, 1, *p.shape)
        for p in spiking:
            theirs = stepped.emitted[p.name].numpy()
            total += int(theirs.sum())
            differing += int(np.sum(theirs != recorded[p.name]))
        firsts += [d._replace(sample=i) for d in stepper.first_differences(network, recorded, stepped)]
    ties = sum(d.is_rounding_tie for d in firsts)
    print(
        f"{dtype}: {len(images)} images, {ticks} ticks, {total:,} spikes of {len(spiking)} populations: "
        f"{differing:,} differ; {len(firsts)} first differences, {ties} of them rounding ties "
        f"({time.perf_counter() - seconds:.0f} s)",
        flush=True,
    )
    for d in firsts:
        if not d.is_rounding_tie:
            print(f"  NOT A TIE: {d}")
    return ties == len(firsts) and (dtype != "float64" or differing == 0)


def accuracy(module: torch.nn.Module, network: es.Network, images: np.ndarray, labels: np.ndarray, jobs: int) -> None:
    """Print the module's accuracy and the network's at powers of two of ticks, from one run."""
    with torch.inference_mode():
        mean, std = (np.asarray(x, np.float32).reshape(-1, 1, 1) for x in (network.mean, network.std))
        batches = np.array_split((images.astype(np.float32) / 255 - mean) / std, max(1, len(images) // 100))
        scores = np.concatenate([module(torch.from_numpy(x)).numpy() for x in batches])
    show("PyTorch", int(np.sum(scores.argmax(1) == labels)), len(labels))
    run = es.simulate(network, images, labels, ticks=256, watchdog=es.Fixed(), jobs=jobs)
    by_tick = predictions_by_tick(run.outputs, run.trace.margins)
    for ticks in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        synops = int(run.trace.synops[:, :ticks].sum())
        show(f"{ticks} ticks", int(np.sum(by_tick[:, ticks - 1] == labels)), len(labels), synops)
    print(f"({run.seconds:.0f} s for {len(labels):,} images of 256 ticks, {jobs} threads)")


def show(name: str, right: int, total: int, synops: int | None = None) -> None:
    low, high = wilson(right, total)
    cost = "" if synops is None else f", {synops / total / 1e6:,.1f} million SynOps an image"
    print(f"{name:>10}: {100 * right / total:.2f} % ({100 * low:.2f} to {100 * high:.2f} %){cost}", flush=True)


if __name__ == "__main__":
    main()
