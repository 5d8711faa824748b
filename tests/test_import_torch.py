"""From PyTorch: what is folded, scaled, refused and checked, against the module itself."""

import copy
import io
import os
import pickle
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from stepper import cascade, per_channel, through, window_maximum
from torch import nn

import eventsnn as es
from eventsnn import import_torch, layouts, torch_trace
from eventsnn.import_torch import conversion_check, from_torch, load_checkpoint, register, verify
from eventsnn.inputs import EVENT
from eventsnn.network import AdaptivePool, Conv, Dense, Flatten, Identity, Pool, Subsample
from eventsnn.neurons import IF, LIF, Gate, Input, Integrator, Relay

SHARED = Path(os.environ.get("EVENTSNN_DATA", Path(__file__).resolve().parents[2] / "shared"))
RESNET20 = SHARED / "models" / "resnet_cifar10" / "resnet20-12fca82f.th"


@pytest.fixture(autouse=True)
def _one_thread_and_a_clean_table():
    threads, table = torch.get_num_threads(), dict(torch_trace._CONVERTERS)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
    torch_trace._CONVERTERS.clear()
    torch_trace._CONVERTERS.update(table)


# PyTorch says that padding="same" of an even kernel makes a copy
even_same = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


def lively(module: nn.Module) -> nn.Module:
    """The module with batch-norm statistics that are not those of a fresh one, in evaluation mode."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.5, 2)
            if part.affine:
                nn.init.normal_(part.weight, 1, 0.4)
                nn.init.normal_(part.bias, 0, 0.3)
    return module.eval()


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, np.float32)


def as_ann(network: es.Network, x: np.ndarray) -> torch.Tensor:
    """The network as an ANN: every spiking population is a ReLU of its current, in float64."""
    values: dict[str, torch.Tensor] = {}
    for name in cascade(network):
        population = network[name]
        fed = [c for c in network.connections if c.target == name]
        if isinstance(population.neuron, Input):
            values[name] = torch.as_tensor(x, dtype=torch.float64)
            dims = values[name].ndim - 1
            if network.mean is not None:
                mean, std = (per_channel(v, dims, torch.float64) for v in (network.mean, network.std))
                values[name] = (values[name] - mean) / std
            continue
        if isinstance(population.neuron, Gate):
            values[name] = window_maximum(values[fed[0].source], fed[0])
            continue
        total = sum(through(values[c.source], c) for c in fed)
        for c in fed:
            if c.bias is not None:
                total = total + per_channel(c.bias, len(population.shape), torch.float64)
        values[name] = total.clamp(min=0) if isinstance(population.neuron, IF) else total
    return values[network.output]


# ------------------------------------------------------------------------------------------ the folded graph, exactly


class Functional(nn.Module):
    """Everything as functions and methods, sizes read from tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, (3, 2), stride=(1, 2), padding=(0, 1), bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.weight = nn.Parameter(torch.randn(8, 3, 3, 3) / 3)
        self.head = nn.Linear(8 * 2 * 2, 3)

    def forward(self, x, scale=None):
        if scale is None:
            x = x * 1.5
        x = torch.relu(self.bn(self.conv(x)))
        x = F.avg_pool2d(F.dropout(x, 0.5, self.training), 2, 1, padding=1, count_include_pad=False)
        x = F.conv2d(x, self.weight, None, stride=2, groups=2, padding=1).relu()
        x = F.max_pool2d(x, 2, stride=1)[:, :, ::2, ::2].contiguous()
        x = F.adaptive_avg_pool2d(x, 2)
        return F.log_softmax(self.head(x.view(x.size(0), -1)) / 2, dim=1)


class Residual(nn.Module):
    """In-place additions and ReLUs, a projection, and an identity skip."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.conv1, self.bn1 = nn.Conv2d(4, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 6, 3, 1, 1, bias=False), nn.BatchNorm2d(6)
        self.downsample = nn.Sequential(nn.Conv2d(4, 6, 1, 2, bias=False), nn.BatchNorm2d(6))
        self.conv3 = nn.Conv2d(6, 6, 3, padding="same")
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(6, 5)

    def forward(self, x):
        x = self.relu(self.stem(x))
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += self.downsample(x)
        out = self.relu(out)
        out = self.relu(torch.add(self.conv3(out), out, alpha=0.5))
        return self.fc(out.mean([2, 3]))


class InPlace(nn.Module):
    """Operations in place whose result nobody takes: later readers of the same tensor see them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4 * 30, 3)

    def forward(self, x):
        x = self.conv1(x)
        F.relu(x, inplace=True)
        y = self.conv2(x)
        y.add_(x)
        y.relu_()
        return self.fc(y.flatten(1))


class PreActivation(nn.Module):
    """Batch norm before the ReLU of a bare sum, additions after the activation: these need relays."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.bn1, self.conv1 = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)
        self.bn2, self.conv2 = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)
        self.squeeze = nn.Sequential(nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.conv1(F.relu(self.bn1(x)))
        x = x + self.conv2(F.relu(self.bn2(x)))
        x = F.relu(x)
        x = x + self.squeeze(x)
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class OptionA(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 8, 3, 2, 1)
        self.conv3 = nn.Conv2d(8, 8, 3, padding=1)
        self.shortcut = lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2), "constant", 0)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv3(F.relu(self.conv2(x))) + self.shortcut(x))
        return x.mean((-1, -2), keepdim=True)


def sequential(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers)


MODULES = {
    "mlp with batch norm": (
        lambda: sequential(nn.Flatten(), nn.Linear(24, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 4)),
        (2, 3, 4),
    ),
    "one linear layer": (lambda: nn.Linear(7, 3), (7,)),
    "flatten order, H != W != C": (
        lambda: sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(60, 5)),
        (2, 4, 5),
    ),
    "convolutions of every kind": (
        lambda: sequential(
            nn.Conv2d(2, 4, (3, 4), padding="same"),
            nn.BatchNorm2d(4, affine=False),
            nn.ReLU(),
            nn.Conv2d(4, 8, 3, stride=(2, 1), padding=(2, 1), dilation=(1, 2), groups=2, bias=False),
            nn.BatchNorm2d(8, eps=0.1),
            nn.ReLU6(),
            nn.Conv2d(8, 8, 3, padding="valid", groups=8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128, 3, bias=False),
        ),
        (2, 9, 8),
    ),
    "pooling of every kind": (
        lambda: sequential(
            nn.Conv2d(1, 3, 3),
            nn.AvgPool2d(3, 2, 1, ceil_mode=True),
            nn.ReLU(),
            nn.AvgPool2d((2, 1), 1, count_include_pad=False),
            nn.Conv2d(3, 4, 2),
            nn.ReLU(),
            nn.AvgPool2d(2, 2, 1),
            nn.AdaptiveAvgPool2d((None, 2)),
            nn.Conv2d(4, 5, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        ),
        (1, 10, 11),
    ),
    "max-pool before and behind the ReLU": (
        lambda: sequential(
            nn.Conv2d(2, 4, 3, padding=1, bias=False),
            nn.MaxPool2d(3, 2, 1),
            nn.Dropout(0.3),
            nn.ReLU(inplace=True),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16, 3),
        ),
        (2, 7, 7),
    ),
    "one dimension": (
        lambda: sequential(
            nn.Conv1d(2, 4, 5, stride=2, padding=3),
            nn.BatchNorm1d(4),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.Conv1d(4, 6, 3, dilation=2),
            nn.ReLU(),
            nn.AvgPool1d(2),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(6, 3),
            nn.Softmax(1),
        ),
        (2, 31),
    ),
    "functions": (Functional, (2, 9, 11)),
    "residual": (Residual, (3, 8, 6)),
    "in place": (InPlace, (2, 5, 6)),
    "relays": (PreActivation, (3, 6, 7)),
    "option A": (OptionA, (3, 7, 8)),
}


@even_same
@pytest.mark.parametrize("name", MODULES)
def test_the_folded_network_computes_what_the_module_does(name):
    """If folding, unit scaling, flatten order or a map is wrong, the network read as an ANN gives other outputs."""
    make, shape = MODULES[name]
    torch.manual_seed(1)
    module = lively(make())
    x = images(6, *shape)
    network = from_torch(module, x, calibrate=x, percentile=100)
    with torch.no_grad():
        wanted = copy.deepcopy(module).double()(torch.as_tensor(x, dtype=torch.float64))
    if name in ("functions", "one dimension"):  # the softmax at the end is left out
        wanted = wanted - wanted.mean(1, keepdim=True) if name == "functions" else wanted.log()
    given = as_ann(network, x).reshape(wanted.shape)
    if name in ("functions", "one dimension"):
        given, wanted = (v - v.mean(1, keepdim=True) for v in (given, wanted))
    assert torch.allclose(given, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


@even_same
@pytest.mark.parametrize("name", MODULES)
def test_spikes_are_those_of_the_stepped_module(name):
    """If the engine's network and the module disagree on a spike, conversion and simulation do not fit together."""
    make, shape = MODULES[name]
    torch.manual_seed(2)
    module = lively(make()).double()
    x = images(5, *shape)
    for readout in ("sum", "spikes"):
        network = from_torch(module, x, calibrate=x, readout=readout, ticks=9, comparator="gt")
        report = verify(module, network, x, es.simulate, dtype="float64")
        assert report["differing"] == 0, report["first_difference"]
        assert report["agreeing"] == 5
        assert sum(row["spikes"] for row in report["populations"]) == report["spikes"]
        assert (report["spikes"] > 0) == (name != "one linear layer" or readout == "spikes")
        assert network.readout == readout


def test_rates_approach_the_activations():
    """If thresholds or initial membranes are wrong, long runs do not come near the ANN's outputs."""
    module = lively(MODULES["residual"][0]())
    x = images(4, 3, 8, 6)
    network = from_torch(module, x, calibrate=x, percentile=100)
    run = es.simulate(network, x, ticks=2000)
    with torch.no_grad():
        wanted = module(torch.as_tensor(x)).numpy()
    assert np.abs(run.outputs[:, -1] / 2000 - wanted).max() < 0.01 * np.abs(wanted).max()


def test_populations_and_maps_of_a_residual_network():
    """If names or structure change, users' scripts (ledger, plots) address the wrong layers."""
    network = from_torch(lively(Residual()), np.zeros((1, 3, 8, 6)), calibrate=images(4, 3, 8, 6))
    assert [p.name for p in network.populations] == ["input", "stem", "conv1", "conv2", "conv3", "fc"]
    labels = {c.label: c for c in network.connections}
    assert list(labels) == [
        "input->stem",
        "stem->conv1",
        "conv1->conv2",
        "stem->conv2",
        "conv2->conv3",
        "conv2->conv3#2",
        "conv3->fc",
    ]
    assert isinstance(labels["stem->conv2"].op, Conv)
    assert labels["stem->conv2"].bias is not None  # each branch keeps the shift of its own batch norm
    assert labels["conv3->fc"].before == (AdaptivePool((1, 1)), Flatten())
    assert isinstance(network["fc"].neuron, Integrator)
    assert network["conv1"].neuron.v0 == 0.5
    assert network.origin["folded"] == ["bn1", "bn2", "downsample.1"]

    # both branches of a join are in the unit of the joined layer: the skip carries lambda_source / lambda_target
    thresholds = {name: note["value"] for name, note in network.origin["thresholds"].items()}
    assert labels["conv2->conv3#2"].op.weight == np.float32(0.5 * thresholds["conv2"] / thresholds["conv3"])


def test_an_option_a_shortcut_is_an_identity():
    """If the strided, zero-padded shortcut were a convolution, its taps would be counted as SynOps."""
    network = from_torch(OptionA().eval(), np.zeros((1, 3, 7, 8)), calibrate=images(4, 3, 7, 8))
    shortcut = next(c for c in network.connections if (c.source, c.target) == ("conv1", "conv3"))
    assert isinstance(shortcut.op, Identity)
    assert shortcut.before == (Subsample((2, 2), (2, 2)),)
    thresholds = {name: note["value"] for name, note in network.origin["thresholds"].items()}
    assert shortcut.op.weight == np.float32(thresholds["conv1"] / thresholds["conv3"])


def test_max_pools_become_gates_behind_the_neurons():
    """If a max-pool stayed in front of a neuron it would have to pool graded values, which spikes cannot do."""
    make, shape = MODULES["max-pool before and behind the ReLU"]
    network = from_torch(lively(make()), np.zeros((1, *shape)), calibrate=images(4, *shape))
    kinds = {p.name: type(p.neuron) for p in network.populations}
    assert kinds == {
        "input": Input,
        "conv0": IF,
        "maxpool1": Gate,
        "conv4": IF,
        "maxpool7": Gate,
        "linear10": Integrator,
    }
    gate = next(c for c in network.connections if c.target == "maxpool1")
    assert gate.before == (Pool((3, 3), (2, 2), (1, 1), kind="sum"),)


def test_relays_stand_where_two_weights_meet():
    """If a sum or a second weight had no relay, its events would need a connection that cannot be written down."""
    network = from_torch(lively(PreActivation()), np.zeros((1, 3, 6, 7)), calibrate=images(4, 3, 6, 7))
    relays = [p.name for p in network.populations if isinstance(p.neuron, Relay)]
    assert relays == ["stem", "add", "squeeze.0", "add_2"]
    assert all(isinstance(c.op, Dense | Conv | Identity) for c in network.connections)
    plain = from_torch(InPlace().eval(), np.zeros((1, 2, 5, 6)), calibrate=images(4, 2, 5, 6))
    assert [p.name for p in plain.populations] == ["input", "conv1", "conv2", "fc"]


# ---------------------------------------------------------------------------------------------------------- thresholds


def test_thresholds_are_exact_percentiles_of_non_zero_activations(monkeypatch):
    """If values were sampled or zeros counted, thresholds would depend on more than the images."""
    module = sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 20), nn.ReLU(), nn.Linear(20, 4))
    x = images(70, 1, 8, 8)
    with torch.no_grad():
        first = module[1](module[0](torch.as_tensor(x))).numpy()
        second = module[:5](torch.as_tensor(x)).numpy()
        outputs = module(torch.as_tensor(x)).numpy()
    assert (first == 0).any()
    for percentile in (99.9, 97.3, 50.0, 12.5, 100):
        settings = {"calibrate": x, "percentile": percentile, "readout": "spikes"}
        notes = from_torch(module, x, **settings).origin["thresholds"]
        for values, name in ((first, "conv0"), (second, "linear3"), (outputs, "linear5")):
            wanted = np.percentile(values[values > 0].astype(np.float64), percentile)
            if percentile == 100:
                wanted *= 1 - 2.0**-20
            assert notes[name]["value"] == pytest.approx(wanted, rel=1e-13)
        with monkeypatch.context() as patch:  # one layer at a time, and shrinking whenever it can
            patch.setattr(import_torch, "MEMORY", 1)
            assert from_torch(module, x, **settings).origin["thresholds"] == notes


def test_the_tail_keeps_what_a_percentile_needs():
    """If the running selection dropped a value it needs, large calibration sets would move thresholds."""
    values = np.random.default_rng(3).normal(size=400_000).astype(np.float32)
    values[::7] = values[0]  # ties at the edge of what is kept
    for percentile in (99.99, 99.0, 90.0):
        tail = import_torch._Tail(int(np.ceil((values.size - 1) * (1 - percentile / 100))) + 2)
        for part in np.array_split(values, 37):
            tail.add(part)
        wanted = np.percentile(values[values > 0].astype(np.float64), percentile)
        assert tail.percentile(percentile) == pytest.approx(wanted, rel=1e-13)
    assert import_torch._Tail(2).percentile(99.9) == 1.0  # a layer that never fires


def test_the_calibrating_neuron_reaches_its_own_threshold():
    """If percentile 100 were not lowered, rounding would keep the largest activation from firing every tick."""
    module = sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 2))
    x = images(50, 40)
    network = from_torch(module, x, calibrate=x, percentile=100, v0="zero")
    run = es.simulate(network, x, ticks=10, record="spikes")
    events = run.events[run.events["population"] == 1]
    counts = np.zeros((50, 30), np.int64)
    np.add.at(counts, (events["sample"], events["neuron"]), 1)
    assert counts.max() == 10


def test_images_are_normalised_by_the_network():
    """If normalisation were applied twice or with the wrong divisor, accuracy would be lost without a message."""
    module = lively(sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)))
    raw = np.random.default_rng(0).integers(0, 256, (9, 3, 6, 6)).astype(np.uint8)
    mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.25, 0.3])
    ready = ((raw / 255 - mean[:, None, None]) / std[:, None, None]).astype(np.float32)
    network = from_torch(module, raw, calibrate=raw, normalise="0.4,0.5,0.6/0.2,0.25,0.3")
    plain = from_torch(module, raw, calibrate=ready)
    assert network.mean == (0.4, 0.5, 0.6)
    assert network.std == (0.2, 0.25, 0.3)
    for name, note in plain.origin["thresholds"].items():
        assert network.origin["thresholds"][name]["value"] == pytest.approx(note["value"], rel=1e-5)
    floats = from_torch(module, raw, calibrate=(raw / 255).astype(np.float32), normalise=network.origin["normalise"])
    assert floats.origin["thresholds"]["conv0"]["value"] == pytest.approx(plain.origin["thresholds"]["conv0"]["value"])
    assert from_torch(module, raw, calibrate=raw, normalise="imagenet").mean == (0.485, 0.456, 0.406)
    assert from_torch(module, raw, calibrate=raw, normalise="unit").mean is None
    with torch.no_grad():
        wanted = module(torch.as_tensor(ready)).double()
    assert torch.allclose(as_ann(network, raw / 255), wanted, atol=1e-4)


def test_the_module_is_left_as_it_was():
    """If conversion changed the user's module, training could not go on after it."""
    module = Residual().train()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    from_torch(module, np.zeros((1, 3, 8, 6)), calibrate=images(3, 3, 8, 6))
    assert module.training
    assert module.bn1.training
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


# ---------------------------------------------------------------------------------------------- registered activations


class QCFS(nn.Module):
    """y = theta floor(clip(z / theta, 0, 1) L + 1/2) / L (Bu et al., ICLR 2022)."""

    def __init__(self, theta: float, levels: int) -> None:
        super().__init__()
        self.theta, self.levels = nn.Parameter(torch.tensor(theta)), levels

    def forward(self, z):
        return self.theta * torch.floor(torch.clamp(z / self.theta, 0, 1) * self.levels + 0.5) / self.levels


def qcfs(module):
    theta = float(module.theta)
    return IF(threshold=theta, v0=theta / 2), theta


def test_one_qcfs_layer_equals_its_activation_after_as_many_ticks_as_levels():
    """If threshold, initial membrane or the folded amplitude is wrong, QCFS networks lose their exactness."""
    register(QCFS, qcfs, activation=True)
    for levels, theta in ((4, 2.0), (8, 0.75)):
        module = sequential(nn.Linear(6, 50), QCFS(theta, levels), nn.Linear(50, 5, bias=False)).double()
        nn.init.normal_(module[0].weight, 0, 2 * theta)
        x = images(8, 6).astype(np.float64)
        network = from_torch(module, x, ticks=levels)
        assert network["linear0"].neuron.threshold == theta
        assert network["linear0"].neuron.v0 == theta / 2
        assert np.array_equal(network.connections[1].op.weight, theta * module[2].weight.detach().numpy())
        run = es.simulate(network, x, dtype="float64")
        with torch.no_grad():
            wanted = module(torch.as_tensor(x)).numpy()
        assert np.allclose(run.outputs[:, -1] / levels, wanted, rtol=1e-12, atol=1e-12)


def test_qcfs_ties_follow_the_comparator():
    """If the comparator were ignored, checkpoints of tools that compare strictly would run with other spikes."""
    register(QCFS, qcfs, activation=True)
    module = sequential(nn.Linear(1, 1, bias=False), QCFS(2.0, 4), nn.Linear(1, 1, bias=False))
    for layer in (module[0], module[2]):
        nn.init.ones_(layer.weight)
    x = np.array([[0.25]], np.float32)  # lands exactly on the threshold in the fourth tick
    for comparator, wanted in (("ge", 2.0), ("gt", 0.0)):
        network = from_torch(module, x, ticks=4, comparator=comparator)
        assert network["linear0"].neuron.comparator == comparator
        assert es.simulate(network, x).outputs[0, -1, 0] == wanted


def test_qcfs_networks_step_like_their_module():
    """If amplitudes are folded wrongly through pools, gates, skips or relays, a deeper network's spikes differ."""
    register(QCFS, qcfs, activation=True)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.act1 = nn.Conv2d(2, 4, 3, padding=1), QCFS(0.8, 4)
            self.conv2, self.act2 = nn.Conv2d(4, 4, 3, padding=1), QCFS(1.3, 4)
            self.pool, self.bn = nn.MaxPool2d(2), nn.BatchNorm2d(4, affine=False)
            self.fc = nn.Linear(4 * 6, 3)

        def forward(self, x):
            x = self.act1(self.pool(self.conv1(x)))
            x = self.act2(self.bn(self.conv2(x)) + x)
            return self.fc(F.avg_pool2d(x, 2).flatten(1))

    module = lively(Net()).double()
    x = images(6, 2, 8, 12)
    network = from_torch(module, x, ticks=6)
    assert network.origin["thresholds"]["conv2"] == {"value": 1.3, "amplitude": 1.3, "from": "'act2' (QCFS)"} or (
        network.origin["thresholds"]["conv2"]["value"] == pytest.approx(1.3)
    )
    report = verify(module, network, x, es.simulate, dtype="float64")
    assert report["differing"] == 0
    assert report["spikes"] > 100
    spiking = from_torch(module, x, ticks=6, readout="spikes", calibrate=x)
    assert spiking["fc"].neuron.threshold == 1.0
    assert verify(module, spiking, x, es.simulate, dtype="float64")["differing"] == 0


# ------------------------------------------------------------------------------------------------- spiking modules


class HardLIF(nn.Module):
    """u <- alpha u + z, a spike above 1, hard reset: one call is one time step."""

    def __init__(self, alpha: float = 0.7) -> None:
        super().__init__()
        self.alpha, self.u = alpha, 0.0

    def forward(self, z):
        u = self.alpha * self.u + z
        spikes = (u > 1).to(z.dtype)
        self.u = u * (1 - spikes)
        return spikes


class WithState(HardLIF):
    def forward(self, z):
        return super().forward(z), self.u


def lif(module):
    return LIF(alpha=module.alpha, comparator="gt", reset="value")


def spiking_module(make) -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn, self.lif1 = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), make()
            self.fc, self.lif2 = nn.Linear(4 * 6, 5), make()

        def forward(self, x):
            spikes = self.lif1(self.bn(self.conv(x)))
            if isinstance(self.lif1, WithState):
                spikes, _ = spikes
            return self.lif2(self.fc(F.max_pool2d(spikes, 2).flatten(1)))

    return lively(Net())


@pytest.mark.parametrize("make", [HardLIF, WithState])
def test_stepped_spiking_modules_are_carried_over_as_they_are(make):
    """If a module's own neurons are not carried over, networks trained as SNNs run as something else."""
    register(HardLIF, lif)  # WithState follows its base
    module = spiking_module(make)
    nn.init.normal_(module.fc.weight, 0, 2)
    x = images(6, 2, 4, 6) * 4
    network = from_torch(module, x, ticks=12)
    assert network.readout == "spikes"
    assert isinstance(network["fc"].neuron, LIF)
    report = verify(module, network, x, es.simulate, dtype="float64")
    assert report["differing"] == 0, report["first_difference"]
    assert report["populations"][1]["spikes"] > 10
    with pytest.raises(ValueError, match="'conv' is a spiking module without an activation to compare with"):
        conversion_check(module, network, x, np.zeros(6), [4], es.simulate)


def test_neurons_are_known_by_name_as_well():
    """If names in the table did not work, users would have to import heavy packages to convert from them."""
    register(f"{HardLIF.__module__}.HardLIF", lif)
    assert isinstance(from_torch(spiking_module(HardLIF), images(1, 2, 4, 6))["conv"].neuron, LIF)


def leaky_class(name: str, module: str) -> type:
    """A stand-in with the attributes and dynamics of snnTorch's Leaky, under the name the table knows."""

    class Leaky(nn.Module):
        def __init__(self, beta: float, threshold: float, reset: int) -> None:
            super().__init__()
            self.register_buffer("beta", torch.tensor(beta))
            self.register_buffer("threshold", torch.tensor(threshold))
            self.register_buffer("graded_spikes_factor", torch.tensor(1.0))
            self.register_buffer("reset_mechanism_val", torch.tensor(reset))
            self.inhibition, self.state_quant, self.reset_delay, self.mem = False, False, True, 0.0

        def forward(self, z):
            late = (torch.as_tensor(self.mem) > self.threshold).to(z.dtype)
            if self.reset_mechanism_val == 1:
                self.mem = self.beta * (1 - late) * self.mem + z
            else:
                self.mem = self.beta * self.mem + z - late * self.threshold * (self.reset_mechanism_val == 0)
            return (self.mem > self.threshold).to(z.dtype), self.mem

    Leaky.__qualname__, Leaky.__module__ = name, module
    return Leaky


@pytest.mark.parametrize("reset", [0, 1, 2])
def test_snntorch_neurons_need_no_registration(reset):
    """If the built-in entry for snnTorch is wrong, its checkpoints fire at other times."""
    leaky = leaky_class("Leaky", "snntorch._neurons.leaky")

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.lif1, self.fc2 = nn.Linear(8, 30), leaky(0.8, 0.5, reset), nn.Linear(30, 4)

        def forward(self, x):
            spikes, mem = self.lif1(self.fc1(x))
            return self.fc2(spikes), mem

    module, x = Net(), images(5, 8)
    network = from_torch(module, x, ticks=15)
    report = verify(module, network, x, es.simulate)
    assert report["differing"] == 0
    assert report["spikes"] > 100


# ------------------------------------------------------------------------------------------------------------ refusals


class Concatenating(nn.Module):
    def forward(self, x):
        return torch.cat([x, x], 1)


class Deciding(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.lif = nn.Linear(4, 4), HardLIF()

    def forward(self, x):
        return self.lif(self.fc(self.lif(self.fc(x))))


class Hidden(nn.Module):
    """An unregistered quantised activation: it is traced into, and its first odd operation is named."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.act = nn.Linear(4, 4), QCFS(1.0, 4)

    def forward(self, x):
        return self.fc(self.act(self.fc(x)))


def hooked() -> nn.Module:
    module = nn.Linear(4, 2)
    module.register_forward_hook(lambda m, args, output: 2 * output)
    return module


def reversed_pool() -> nn.Module:
    norm = nn.BatchNorm2d(2)
    nn.init.constant_(norm.weight, -1.0)
    return sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), norm, nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))


REFUSED = {
    "unknown class": (
        lambda: sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2)),
        (4,),
        r"cannot carry over '1' \(GELU\): only ReLU and classes known through register\(\)",
    ),
    "unregistered activation": (
        Hidden,
        (4,),
        r"cannot carry over truediv in 'act' \(QCFS\): .* neurons of your own need register\(\)",
    ),
    "concatenation": (Concatenating, (4,), r"cannot carry over cat in the forward of Concatenating"),
    "control flow": (Deciding, (4,), r"cannot trace Deciding with torch.fx .*; write its forward without decisions"),
    "transposed convolution": (
        lambda: nn.ConvTranspose2d(1, 2, 3),
        (1, 5, 5),
        r"cannot carry over 'the module' \(ConvTranspose2d\)",
    ),
    "padding mode": (
        lambda: nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"),
        (1, 5, 5),
        r"\(Conv2d\): padding_mode is 'circular', only 'zeros' is supported",
    ),
    "graded max-pool": (
        lambda: sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 2)),
        (1, 6, 6),
        r"'1' \(MaxPool2d\): max-pooling of graded values is not supported",
    ),
    "max-pool before a falling batch norm": (reversed_pool, (1, 6, 6), r"\(MaxPool2d\): max-pooling of graded values"),
    "linear without flatten": (
        lambda: sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Linear(4, 2)),
        (1, 6, 6),
        r"'2' \(Linear\): its input has shape \(2, 4, 4\), wanted a vector: flatten it first",
    ),
    "batch statistics": (
        lambda: sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False)),
        (4,),
        r"'1' \(BatchNorm1d\): it keeps no running statistics",
    ),
    "batch norm behind flatten": (
        lambda: sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2)),
        (1, 6, 6),
        r"\(BatchNorm1d\): it stands behind a flattening",
    ),
    "a module stepped twice": (Twice, (4,), r"'lif' \(HardLIF\): a spiking module is called twice in one forward"),
    "a hook that changes values": (hooked, (4,), r"the converted layer 'linear' does not reproduce the module"),
    "wrong input": (lambda: nn.Linear(4, 2), (5,), r"Linear does not run on an input of shape \(3, 5\)"),
    "not a module": (lambda: {"weights": 1}, (4,), r"the module is a dict, wanted a torch.nn.Module"),
    "average with its own divisor": (
        lambda: sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AvgPool2d(2, divisor_override=3), nn.Flatten()),
        (1, 6, 6),
        r"\(AvgPool2d\): divisor_override is not supported",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_carried_over_is_refused_by_name(name):
    """If something odd were converted silently, the network would compute something else than the module."""
    register(HardLIF, lif)
    make, shape, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as caught:
        from_torch(make(), np.zeros((3, *shape)), calibrate=images(4, *shape))
    assert "\n" not in str(caught.value)


def test_a_branch_that_is_thrown_away_is_not_refused():
    """If unused branches were refused, auxiliary heads of a training script would block its conversion."""

    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.head, self.aux = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x):
            x = F.relu(self.fc(x))
            torch.sigmoid(self.aux(F.relu(-x)))
            return self.head(x)

    network = from_torch(Auxiliary(), np.zeros((1, 4)), calibrate=images(3, 4))
    assert [p.name for p in network.populations] == ["input", "fc", "head"]


def test_bad_options_are_refused():
    """If a wrong option passed, it would be found out only in the accuracy."""
    module, x = sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), images(3, 4)
    cases = [
        ({}, r"1 layers \('linear0' first\) need thresholds from data; give images with calibrate="),
        ({"calibrate": x, "percentile": 0}, "percentile is 0, wanted a number above 0"),
        ({"calibrate": x, "readout": "rate"}, "readout is 'rate', wanted 'sum' or 'spikes'"),
        ({"calibrate": x, "comparator": ">"}, "comparator is '>', wanted 'ge' or 'gt'"),
        ({"calibrate": x, "v0": "full"}, "v0 is 'full', wanted 'half', 'zero' or a number"),
        ({"calibrate": x, "normalise": "mnist"}, "normalise is 'mnist', wanted imagenet, cifar10, unit or MEAN/STD"),
        ({"calibrate": x, "normalise": "0.5/0"}, "wanted as many standard deviations"),
        ({"calibrate": images(3, 5)}, r"images have shape \(3, 5\), wanted \(N, 4\), channels first"),
        ({"calibrate": x[:0]}, "there are no images"),
        ({"calibrate": x * np.nan}, "images 0 to 2 hold NaN or infinity"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            from_torch(module, x, **options)
    with pytest.raises(ValueError, match="the example has shape"):
        from_torch(module, np.zeros(4), calibrate=x)
    with pytest.raises(ValueError, match="a class or its full name"):
        register(HardLIF(), lif)
    with pytest.raises(ValueError, match="wanted a function of a module"):
        register(HardLIF, "lif")


def test_wrong_converters_are_found_out():
    """If a converter's mistake passed, every spike after it would be wrong and nothing would say so."""
    cases = [
        (
            lambda m: LIF(alpha=m.alpha, comparator="gt"),
            r"the converter of 'lif1' \(HardLIF\) made a neuron that emits",
        ),
        (lambda m: (lif(m), 2.0), r"made a neuron that emits 2 in tick \d+ where the module gives 1"),
        (lambda m: Relay(), "its converter gave a Relay, wanted an IF or a LIF"),
        (lambda m: LIF(alpha=2.0), r"cannot be run \(alpha must lie between 0 and 1\)"),
        (lambda m: (lif(m), 0.0), r"the amplitude is 0.0, wanted one number, not 0"),
    ]
    for converter, message in cases:
        register(HardLIF, converter)
        with pytest.raises(ValueError, match=message):
            from_torch(spiking_module(HardLIF), np.zeros((1, 2, 4, 6)))


# ------------------------------------------------------------------------------------------------ finding what is wrong


def test_verify_finds_a_changed_weight():
    """If verify only ever said "equal", it would prove nothing."""
    module = lively(MODULES["residual"][0]()).double()
    x = images(4, 3, 8, 6)
    network = from_torch(module, x, calibrate=x, ticks=8)
    connections = list(network.connections)
    weight = connections[1].op.weight.copy()
    weight[2, 1, 1, 1] += 0.3
    connections[1] = replace(connections[1], op=replace(connections[1].op, weight=weight))
    other = replace(network, connections=tuple(connections))
    report = verify(module, other, x, es.simulate, dtype="float64")
    first = report["first_difference"]
    assert report["differing"] > 0
    assert report["agreeing"] == 4 - len(report["first"])
    assert first["population"] == "conv1"
    assert first["neuron"] // (4 * 3) == 2  # the channel whose weight was changed
    assert first["torch"] != first["eventsnn"]
    assert first["margin"] > first["rounding"]
    assert not first["tie"]


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("reset", ["value", "subtract"])
@pytest.mark.parametrize("fired", [(), (0,), (2, 4), (5, 6), (6,)])
def test_rounding_forgets_what_the_membrane_forgot(alpha, reset, fired):
    """An impulse in each tick, stepped literally: what is left of it at tick 6, after leaks and hard resets."""
    module = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    network = from_torch(module, torch.ones(1, 2), calibrate=torch.ones(4, 2), ticks=7)
    hidden = replace(network.populations[1], neuron=LIF(alpha=alpha, reset=reset))
    network = replace(network, populations=(network.populations[0], hidden, *network.populations[2:]))
    events = np.zeros(len(fired) + 1, EVENT)
    events["population"], events["neuron"], events["time"] = 1, 1, [*fired, 3]
    events["neuron"][-1] = 0  # the neighbour's spike resets nothing
    first = {"sample": 0, "neuron": 1, "tick": 6, "population": hidden.name}
    found = import_torch._kept(network, SimpleNamespace(events=events), first)
    for began in range(7):
        left = 0.0
        for tick in range(7):
            left = alpha * left + (tick == began)
            if reset == "value" and tick in fired and tick < 6:
                left = 0.0
        assert found[began] == left


def test_verify_calls_a_rounding_tie_by_its_name():
    """If the bound on rounding were too small, verify would blame the network for what float32 does."""
    module = sequential(nn.Linear(30, 2000), nn.ReLU(), nn.Linear(2000, 2)).double()
    x = images(8, 30)
    network = from_torch(module, x, calibrate=x, ticks=40)
    report = verify(module, network, x.astype(np.float64), es.simulate, dtype="float32")
    assert report["differing"] < report["spikes"] / 1000
    assert all(first["tie"] for first in report["first"])


def test_verify_refuses_another_network():
    """If any two things could be compared, a mix-up of files would look like a bug of the engine."""
    x = images(3, 4)
    one = sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    other = sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    network = from_torch(one, x, calibrate=x)
    with pytest.raises(ValueError, match="was not converted from this module: population 'linear0'"):
        verify(other, network, x, es.simulate, 4)
    with pytest.raises(ValueError, match="the network has none, so give ticks="):
        verify(one, network, x, es.simulate)
    with pytest.raises(ValueError, match="dtype is 'float16'"):
        verify(one, network, x, es.simulate, 4, dtype="float16")


def test_verify_takes_images_channels_first():
    """If the shape alone had to tell the axes, cubes could not be compared."""
    module = sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)).double()
    x = images(3, 2, 2, 2)
    network = from_torch(module, x, calibrate=x, ticks=5)
    assert verify(module, network, x, es.simulate, dtype="float64")["differing"] == 0


# ----------------------------------------------------------------------------------------------------- fed with events


def recorded(counts: np.ndarray, tick_us: int = 1000) -> es.Events:
    """Events of which unit `counts` (N, ticks, units) in each tick, somewhere within it."""
    sample, tick, neuron = (np.repeat(index, counts.ravel()) for index in np.indices(counts.shape).reshape(3, -1))
    t = tick * tick_us + np.random.default_rng(5).integers(0, tick_us, tick.size)
    order = np.lexsort((t, sample))
    offsets = np.concatenate([[0], np.cumsum(counts.sum((1, 2)))])
    return es.Events(t[order], neuron[order], offsets)


def fed_with_events(network: es.Network) -> es.Network:
    return replace(network, encoding="events", tick_seconds=1e-3)


def balanced(name: str) -> tuple[nn.Module, es.Network]:
    module = lively(MODULES[name][0]()).double()
    x = images(4, *MODULES[name][1])
    return module, from_torch(module, x, calibrate=x, normalise="0.5/0.25", ticks=8)


def stepped_lif() -> tuple[nn.Module, es.Network]:
    register(HardLIF, lif)
    module = spiking_module(HardLIF).double()
    nn.init.normal_(module.fc.weight, 0, 2)
    return module, from_torch(module, np.zeros((1, 2, 4, 6)), ticks=8)


FED = {"residual, IF": lambda: balanced("residual"), "stepped LIF": stepped_lif}


@pytest.mark.parametrize("name", FED)
def test_networks_of_events_step_like_their_module(name, monkeypatch):
    """If the module saw other frames than the engine events, verify would blame networks that are right."""
    module, network = FED[name]()
    counts = np.random.default_rng(1).poisson(0.4, (5, 11, network.input.size))  # longer than the 8 ticks of the run
    counts[2] = 0
    found = []
    for room in (import_torch.DENSE, 1):  # all samples at once, and one after the other
        monkeypatch.setattr(import_torch, "DENSE", room)
        found.append(verify(module, fed_with_events(network), recorded(counts), es.simulate, dtype="float64"))
    for report in found:
        assert report["differing"] == 0, report["first_difference"]
        assert report["samples"] == report["agreeing"] == 5
        assert all(row["spikes"] > 20 for row in report["populations"])
        assert report["outputs"] is None or report["outputs"] < 1e-9
    assert found[0]["populations"] == found[1]["populations"]


@pytest.mark.parametrize("encoding", ["rate", "latency"])
def test_images_that_become_events_are_compared_as_such(encoding, monkeypatch):
    """If the module saw the images themselves, every rate-coded network would look wrong."""
    module = lively(MODULES["residual"][0]()).double()
    x = images(4, *MODULES["residual"][1])
    network = replace(from_torch(module, x, calibrate=x, ticks=8), encoding=encoding)
    for room in (import_torch.DENSE, 1):
        monkeypatch.setattr(import_torch, "DENSE", room)
        report = verify(module, network, x, es.simulate, dtype="float64")
        assert report["differing"] == 0, report["first_difference"]
        assert report["spikes"] > 100


def test_verify_finds_a_changed_weight_where_the_first_event_meets_it(monkeypatch):
    """If ticks or samples were mixed up, what verify names would lead users to the wrong place."""
    register(HardLIF, lif)
    module = sequential(nn.Linear(4, 6), HardLIF(), nn.Linear(6, 2)).double()
    with torch.no_grad():
        module[0].weight[2], module[0].bias[2] = 0, 0  # neuron 2 is silent
    network = fed_with_events(from_torch(module, np.zeros((1, 4)), ticks=7))
    first, *others = network.connections
    weight = first.op.weight.copy()
    weight[2, 3] = 5
    wrong = replace(network, connections=(replace(first, op=replace(first.op, weight=weight)), *others))
    counts = np.random.default_rng(2).poisson(1.0, (4, 7, 4))
    counts[..., 3] = 0
    counts[1, 4:, 3] = 1
    for room in (import_torch.DENSE, 1):
        monkeypatch.setattr(import_torch, "DENSE", room)
        assert verify(module, network, recorded(counts), es.simulate, dtype="float64")["differing"] == 0
        report = verify(module, wrong, recorded(counts), es.simulate, dtype="float64")
        found = report["first_difference"]
        assert report["agreeing"] == 3
        assert report["differing"] == 3
        assert (found["sample"], found["tick"], found["population"], found["neuron"]) == (1, 4, "linear0", 2)
        assert (found["torch"], found["eventsnn"], found["margin"], found["tie"]) == (0, 1, 1.0, False)


def test_verify_refuses_what_the_network_does_not_take():
    """If images could stand for events, a comparison would be of something else than what is run."""
    x = images(3, 4)
    module = sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    network = from_torch(module, x, calibrate=x, ticks=4)
    events = recorded(np.ones((3, 4, 4), int))
    cases = [
        (fed_with_events(network), x, "^the network takes address events, but was given images$"),
        (network, events, r"^the network takes images \(direct input\), but was given events$"),
        (replace(network, encoding="rate"), events, r"^the network takes images \(rate input\), but was given events$"),
        (replace(network, encoding="events"), events, "^event times need the length of a tick; give tick_seconds"),
        (fed_with_events(network), events.first(0), "^there are no samples; wanted at least one$"),
        (network, x[:0], "^there are no samples; wanted at least one$"),
        (fed_with_events(network), replace(events, neuron=events.neuron + 1), "neuron 4 of sample 0, event .* is out"),
        (fed_with_events(network), replace(events, offsets=events.offsets[:-1]), "offsets go from 0 to 32, wanted"),
        (replace(network, encoding="rate"), x * 2, "rate coding: the value at .* wanted 0 to 1"),
    ]
    for asked, inputs, message in cases:
        with pytest.raises(ValueError, match=message):
            verify(module, asked, inputs, es.simulate)


def test_the_check_names_the_first_layer_that_falls():
    """If the check named another layer, users would repair the wrong one."""
    torch.manual_seed(4)
    module = sequential(
        nn.Linear(10, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 3)
    )
    x = images(30, 10)
    with torch.no_grad():
        labels = module(torch.as_tensor(x)).argmax(1).numpy()
    network = from_torch(module, x, calibrate=x)
    report = conversion_check(module, network, x, labels, [128, 1, 512], es.simulate, layer_images=10)
    assert report["ann"]["accuracy"] == 1.0
    assert [row["ticks"] for row in report["snn"]] == [1, 128, 512]
    assert report["snn"][2]["accuracy"] > 0.9
    low, high = report["snn"][2]["interval"]
    assert 0 < low < report["snn"][2]["accuracy"] <= high <= 1
    assert report["first_below"] is None
    assert [row["name"] for row in report["layers"]] == ["linear0", "linear2", "linear4"]
    assert all(row["correlation"] > 0.99 for row in report["layers"])
    assert all(0 <= row["clipped"] < 0.05 for row in report["layers"])

    notes = copy.deepcopy(dict(network.origin))
    connections = tuple(
        replace(c, op=replace(c.op, weight=c.op.weight[:, ::-1].copy())) if c.target == "linear2" else c
        for c in network.connections
    )
    broken = replace(network, connections=connections, origin=notes)
    report = conversion_check(module, broken, x, labels, [128], es.simulate, layer_images=10)
    assert report["first_below"] == "linear2"
    assert report["layers"][0]["correlation"] > 0.99

    clipping = from_torch(module, x, calibrate=x, percentile=50)
    report = conversion_check(module, clipping, x, labels, [64], es.simulate, layer_images=30)
    assert report["layers"][0]["clipped"] == pytest.approx(0.5, abs=0.01)

    spiking = from_torch(module, x, calibrate=x, readout="spikes")
    report = conversion_check(module, spiking, x, labels, [8, 256], es.simulate, layer_images=5)
    assert report["layers"][-1]["name"] == "linear6"
    assert report["snn"][1]["accuracy"] > 0.8
    with pytest.raises(ValueError, match="30 images and 4 labels"):
        conversion_check(module, network, x, labels[:4], [4], es.simulate)
    with pytest.raises(ValueError, match="run lengths are"):
        conversion_check(module, network, x, labels, [0], es.simulate)


def test_wilson_interval():
    """If the interval were wrong, differences between run lengths would be taken for real ones."""
    low, high = import_torch.wilson(915, 1000)
    assert low == pytest.approx(0.8961, abs=2e-4)  # R: prop.test(915, 1000, correct = FALSE)
    assert high == pytest.approx(0.9308, abs=2e-4)
    assert import_torch.wilson(0, 10)[0] == 0.0
    assert import_torch.wilson(10, 10)[1] == pytest.approx(1.0)


# --------------------------------------------------------------------------------------------------------- checkpoints


class Bomb:
    """Unpickling it would run a command."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (os.system, (f"touch {self.marker}",))


def test_checkpoints_are_unwrapped(tmp_path):
    """If wrapped checkpoints were not understood, most published files would need hand work."""
    state = nn.Linear(3, 2).state_dict()
    spelled = {f"module.{key}": value for key, value in state.items()}
    wrappings = [state, spelled, {"state_dict": spelled, "best": 91.0}, {"model": state}, {"net": spelled, "epoch": 3}]
    for number, content in enumerate(wrappings):
        path = tmp_path / f"{number}.pth"
        torch.save(content, path)
        found = load_checkpoint(path)
        assert list(found) == ["weight", "bias"]
        assert torch.equal(found["weight"], state["weight"])
    torch.save(state, path, _use_new_zipfile_serialization=False)
    assert list(load_checkpoint(str(path))) == ["weight", "bias"]


def test_checkpoints_that_would_run_code_are_refused(tmp_path):
    """If a pickle were opened freely, a downloaded file could do anything."""
    marker = tmp_path / "exploded"
    path = tmp_path / "bomb.pth"
    for save in (
        lambda: torch.save({"weight": Bomb(marker)}, path),
        lambda: torch.save({"weight": Bomb(marker)}, path, _use_new_zipfile_serialization=False),
        lambda: path.write_bytes(pickle.dumps({"weight": Bomb(marker)})),
        lambda: torch.save(nn.Linear(3, 2), path),
    ):
        save()
        with pytest.raises(ValueError, match="so loading it could run code; save the model's state_dict") as caught:
            load_checkpoint(path)
        assert "\n" not in str(caught.value)
        assert not marker.exists()


def test_files_that_are_no_checkpoints_are_refused(tmp_path):
    """If torch's own messages came through, users would read a traceback about pickle opcodes."""
    path = tmp_path / "file.pth"
    whole = io.BytesIO()
    torch.save(nn.Linear(300, 200).state_dict(), whole)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("readme.txt", "hello")
    for content, message in (
        (b"hello, world", "is not a PyTorch checkpoint"),
        (b"", "is not a PyTorch checkpoint"),
        (archive.getvalue(), "is not a PyTorch checkpoint"),
        (whole.getvalue()[:2000], "is not a PyTorch checkpoint"),
        (b"\x80\x02K\x01.", "is not a PyTorch checkpoint|could run code"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as caught:
            load_checkpoint(path)
        assert "\n" not in str(caught.value)
    for content, message in (
        (torch.zeros(3), "holds a Tensor, wanted a state dict"),
        ([1, 2], "holds a list, wanted a state dict"),
        ({}, "holds a dict, wanted a state dict"),
        ({"epoch": 3, "weight": torch.zeros(2)}, "its entry 'epoch' is a int, wanted tensors by name"),
    ):
        torch.save(content, path)
        with pytest.raises(ValueError, match=message):
            load_checkpoint(path)
    with pytest.raises(ValueError, match="there is no such file"):
        load_checkpoint(tmp_path / "absent.pth")


def test_a_missing_pytorch_is_named(tmp_path, monkeypatch):
    """If an installation without the extra gave a traceback, users would not know what to install."""
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match=r"needs PyTorch: pip install 'eventsnn\[torch\]'"):
        load_checkpoint(tmp_path / "any.pth")


# ------------------------------------------------------------------------------------------------------------- layouts


def resnet_state(width: int, blocks: tuple[int, ...], branch: str | None, head: str) -> dict[str, torch.Tensor]:
    """A seeded state dict with the names of a published layout."""
    state: dict[str, torch.Tensor] = {}

    def conv(name: str, channels: int, before: int, size: int) -> None:
        state[f"{name}.weight"] = torch.randn(channels, before, size, size) * (2 / (before * size * size)) ** 0.5

    def norm(name: str, channels: int) -> None:
        state[f"{name}.weight"] = 1 + 0.2 * torch.randn(channels)
        state[f"{name}.bias"] = 0.2 * torch.randn(channels)
        state[f"{name}.running_mean"] = 0.2 * torch.randn(channels)
        state[f"{name}.running_var"] = 0.5 + torch.rand(channels)

    conv("conv1", width, 3, 3)
    norm("bn1", width)
    before = width
    for number, count in enumerate(blocks):
        channels = width << number
        for block in range(count):
            name = f"layer{number + 1}.{block}"
            conv(f"{name}.conv1", channels, before, 3)
            norm(f"{name}.bn1", channels)
            conv(f"{name}.conv2", channels, channels, 3)
            norm(f"{name}.bn2", channels)
            if before != channels and branch:
                conv(f"{name}.{branch}.0", channels, before, 1)
                norm(f"{name}.{branch}.1", channels)
            before = channels
    state[f"{head}.weight"], state[f"{head}.bias"] = torch.randn(10, before) / before**0.5, torch.randn(10)
    return state


def vgg_state(stages, widths, normed: bool, classifier: dict[str, tuple[int, int]]) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = {}
    before, place = 3, 0
    for count, channels in zip(stages, widths):
        for _ in range(count):
            state[f"features.{place}.weight"] = torch.randn(channels, before, 3, 3) * (2 / (9 * before)) ** 0.5
            state[f"features.{place}.bias"] = torch.zeros(channels)
            if normed:
                state[f"features.{place + 1}.weight"] = torch.ones(channels)
                state[f"features.{place + 1}.bias"] = torch.zeros(channels)
                state[f"features.{place + 1}.running_mean"] = 0.1 * torch.randn(channels)
                state[f"features.{place + 1}.running_var"] = 0.5 + torch.rand(channels)
            before, place = channels, place + 2 + normed
        place += 1
    for name, shape in classifier.items():
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.randn(shape) / shape[1] ** 0.5, torch.zeros(shape[0])
    return state


@pytest.mark.parametrize(
    ("name", "blocks", "branch", "head", "hidden"),
    [
        ("resnet20", (3, 3, 3), None, "linear", 19),
        ("resnet20", (3, 3, 3), "shortcut", "linear", 19),
        ("resnet32", (5, 5, 5), None, "linear", 31),
        ("resnet44", (7, 7, 7), None, "fc", 43),
        ("resnet56", (9, 9, 9), None, "linear", 55),
        ("resnet18", (2, 2, 2, 2), "shortcut", "linear", 17),
        ("resnet34", (3, 4, 6, 3), "downsample", "fc", 33),
    ],
)
def test_resnet_layouts(name, blocks, branch, head, hidden):
    """If a layout has other names or strides than the published one, its checkpoints cannot be read."""
    module = layouts.build(name, resnet_state(4, blocks, branch, head))
    x = images(2, 3, 16, 16)
    network = from_torch(module, x, calibrate=x, percentile=100)
    spiking = [p for p in network.populations if isinstance(p.neuron, IF)]
    assert len(spiking) == hidden
    assert network.output == head
    assert network[head].shape == (10,)
    stage = 16 * 16 * 4
    assert sum(p.size for p in spiking) == stage + sum(2 * n * (stage >> i) for i, n in enumerate(blocks))
    with torch.no_grad():
        wanted = module(torch.as_tensor(x)).double()
    assert torch.allclose(as_ann(network, x), wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))
    shortcuts = [c for c in network.connections if any(isinstance(step, Subsample) for step in c.before)]
    assert len(shortcuts) == (0 if branch else len(blocks) - 1)


@pytest.mark.parametrize(
    ("name", "normed", "classifier"),
    [
        ("vgg11", True, {"classifier": (10, 16)}),
        ("vgg16", True, {"classifier.0": (12, 16), "classifier.3": (12, 12), "classifier.6": (10, 12)}),
        ("vgg16-average", False, {"classifier.1": (12, 64), "classifier.4": (10, 12)}),
    ],
)
def test_vgg_layouts(name, normed, classifier):
    """If pools, batch norm or the classifier of a VGG are put in other places, its checkpoints cannot be read."""
    stages = layouts.VGGS[name.removesuffix("-average")]
    module = layouts.build(name, vgg_state(stages, (4, 6, 8, 12, 16), normed, classifier))
    x = images(2, 3, 32, 32)
    network = from_torch(module, x, calibrate=x, percentile=100)
    assert sum(isinstance(p.neuron, IF) for p in network.populations) == sum(stages) + len(classifier) - 1
    assert sum(isinstance(p.neuron, Gate) for p in network.populations) == (0 if name.endswith("average") else 5)
    with torch.no_grad():
        wanted = module(torch.as_tensor(x)).double()
    assert torch.allclose(as_ann(network, x), wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


def test_layouts_say_what_does_not_fit():
    """If a wrong checkpoint were loaded in part, the network would be half random."""
    state = resnet_state(4, (3, 3, 3), None, "linear")
    cases = [
        ("resnet32", state, r"does not fit resnet32: it lacks layer1\.3\.conv1\.weight, .* and \d+ more"),
        ("resnet20", {**state, "extra": torch.zeros(1)}, "has weights unknown to the model: extra"),
        ("resnet20", {**state, "bn1.bias": torch.zeros(5)}, r"bn1\.bias has shape \(5,\), wanted \(4,\)"),
        ("resnet20", {**state, "conv1.weight": torch.zeros(4, 3, 7, 7)}, "conv1 is 7x7, .* with a 3x3 stem"),
        ("resnet20", {"a": torch.zeros(1)}, r"it lacks conv1\.weight with 4 dimensions"),
        ("vgg16", state, r"it lacks features\.0\.weight with 4 dimensions"),
        ("resnet50", state, "unknown model 'resnet50'; choose resnet20,"),
    ]
    for name, given, message in cases:
        with pytest.raises(ValueError, match=message):
            layouts.build(name, given)


def test_any_other_model_comes_from_a_factory(tmp_path, monkeypatch):
    """If factories in the current folder were not found, own architectures could not be converted from the shell."""
    text = """
from torch import nn
def make(): return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
def number(): return 3
def sized(n): return nn.Linear(n, n)
"""
    (tmp_path / "my_models_for_test.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    state = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).state_dict()
    module = layouts.build("my_models_for_test:make", state)
    assert torch.equal(module[2].weight, state["2.weight"])
    assert not module.training
    assert sys.path == path
    for name, message in (
        ("my_models_for_test:absent", "cannot be imported: .* has no attribute 'absent'"),
        ("no_such_module_here:make", "cannot be imported: No module named 'no_such_module_here'"),
        (":make", "cannot be imported"),
        ("my_models_for_test:number", "gives a int, wanted a torch.nn.Module"),
        ("my_models_for_test:sized", r"calling sized\(\) fails"),
    ):
        with pytest.raises(ValueError, match=message):
            layouts.build(name, state)
    with pytest.raises(ValueError, match=r"it lacks 2\.weight, 2\.bias"):
        layouts.build("my_models_for_test:make", {key: state[key] for key in ("0.weight", "0.bias")})


# ------------------------------------------------------------------------------------------------- the real checkpoint


@pytest.mark.skipif(not RESNET20.is_file(), reason="data absent")
def test_a_published_resnet20_converts():
    """If somebody else's checkpoint does not convert, the main job of the project is not done."""
    module = layouts.build("resnet20", load_checkpoint(RESNET20))
    x = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32)).astype(np.uint8)
    network = from_torch(module, x, calibrate=x, normalise="imagenet")
    hidden = [p for p in network.populations if isinstance(p.neuron, IF)]
    assert len(hidden) == 19
    assert sum(p.size for p in hidden) == 188_416
    assert len(network.origin["folded"]) == 19
    mean, std = (np.reshape(v, (3, 1, 1)) for v in (network.mean, network.std))
    with torch.no_grad():
        wanted = module(torch.as_tensor((x / 255 - mean) / std, dtype=torch.float32)).double()
    assert float((as_ann(network, x / 255) - wanted).abs().max()) < 1e-4
