"""A PyTorch network becomes a spiking one: convert, run, compare (needs the extra `torch` and scikit-learn)."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import eventsnn as es
from eventsnn import import_torch

torch.manual_seed(0)
torch.set_num_threads(1)
digits = load_digits()
images = np.round(digits.images * 255 / 16).astype(np.uint8)[:, None]  # (1797, 1, 8, 8)
labels = digits.target.astype(np.int64)
train, test = slice(0, -360), slice(-360, None)

ann = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(256, 10))
x, y = torch.tensor(images[train] / np.float32(255)), torch.tensor(labels[train])
optimiser = torch.optim.Adam(ann.parameters(), lr=2e-2)
for _ in range(150):
    optimiser.zero_grad()
    nn.functional.cross_entropy(ann(x), y).backward()
    optimiser.step()

network = es.from_torch(ann, images[:1], calibrate=images[train], ticks=32)
with torch.inference_mode():
    right = ann(torch.tensor(images[test] / np.float32(255))).argmax(1).numpy() == labels[test]
print(f"PyTorch: {right.mean():.1%}")
for ticks in (4, 8, 16, 32):
    run = es.simulate(network, images[test], labels[test], ticks=ticks)
    print(f"{ticks:2} ticks: {run.accuracy:.1%}, {run.ledger.synops().mean():,.0f} SynOps a digit")

found = import_torch.verify(ann, network, images[test][:20], es.simulate)
print(f"spikes that differ from PyTorch's: {found['differing']} of {found['spikes']}")
