"""Norms that differ by tick (TEBN, BNTT), from PyTorch to the tables of connections, spike for spike."""

import copy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import eventsnn as es
from eventsnn import torch_trace
from eventsnn.import_torch import conversion_check, from_torch, register, verify
from eventsnn.network import Identity
from eventsnn.neurons import IF, LIF, Relay

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.modules import TEBN, LeakyNeuron, neurons, nmnist_tebn, running, spiking_outputs

TICKS, SAMPLES = 6, 5


@pytest.fixture(autouse=True)
def _one_thread_and_a_clean_table():
    threads, table = torch.get_num_threads(), dict(torch_trace._CONVERTERS)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch_trace._CONVERTERS.clear()
    torch_trace._CONVERTERS.update(table)


def lively(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in float64 with seeded weights, batch-norm statistics and factors p, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval().requires_grad_(False)
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            part.weight.normal_(0.05, 1.5 / part.weight[0].numel() ** 0.5, generator=generator)
            if part.bias is not None:
                part.bias.normal_(0.1, 0.2, generator=generator)
        elif isinstance(part, _BatchNorm):
            part.running_mean.normal_(0, 0.3, generator=generator)
            part.running_var.uniform_(0.5, 2, generator=generator)
            part.weight.normal_(1, 0.3, generator=generator)
            part.bias.normal_(0.2, 0.3, generator=generator)
        elif isinstance(part, TEBN):
            part.p.uniform_(0.4, 1.8, generator=generator)
    return module


# ------------------------------------------------------------------------------- networks as tools/train.py trains them


class Residual(nn.Module):
    """Joins of branches with different tables: a projection, an identity, and an option A."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm0, self.spike0 = (
            nn.Conv2d(2, 4, 3, padding=1, bias=False),
            TEBN(4, TICKS),
            LeakyNeuron(0.25),
        )
        self.conv1, self.norm1, self.spike1 = nn.Conv2d(4, 6, 3, 2, 1), TEBN(6, TICKS), LeakyNeuron()
        self.conv2, self.norm2 = nn.Conv2d(6, 6, 3, padding=1), TEBN(6, TICKS)
        self.projection = nn.Sequential(nn.Conv2d(4, 6, 1, 2, bias=False), TEBN(6, TICKS))
        self.spike2 = LeakyNeuron()
        self.conv3, self.norm3 = nn.Conv2d(6, 6, 3, padding=1), TEBN(6, TICKS)
        self.skip = TEBN(6, TICKS)
        self.spike3 = LeakyNeuron(0.25)
        self.conv4, self.norm4 = nn.Conv2d(6, 8, 3, 2, 1), TEBN(8, TICKS)
        self.spread = TEBN(8, TICKS)
        self.spike4 = LeakyNeuron()
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        x = self.spike0(self.norm0(self.stem(x)))
        hidden = self.spike1(self.norm1(self.conv1(x)))
        x = self.spike2(self.norm2(self.conv2(hidden)) + self.projection(x))
        x = self.spike3(self.norm3(self.conv3(x)) + self.skip(x))
        shortcut = self.spread(F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1)))
        x = self.spike4(torch.add(self.norm4(self.conv4(x)), shortcut, alpha=0.5))
        return self.fc(x.mean((2, 3)))


def plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, bias=False),
        TEBN(6, TICKS),
        LeakyNeuron(0.25),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 8, 3),
        TEBN(8, TICKS),
        nn.AvgPool2d(2, 1),
        LeakyNeuron(0.25),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


def without_norms() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), LeakyNeuron(), nn.Flatten(), nn.Linear(144, 3))


TRAINED = {"plain": plain, "residual": Residual, "one batch norm for all ticks": without_norms}


def images(samples: int = SAMPLES) -> np.ndarray:
    return np.random.default_rng(0).random((samples, 2, 8, 8))


def given_as(encoding: str, network: es.Network) -> tuple:
    """The network for an encoding, its samples for the engine, and the same as frames (ticks, N, ...) of float64."""
    if encoding == "direct":
        return network, images(), torch.from_numpy(images()).expand(TICKS, -1, -1, -1, -1)
    counts = np.random.default_rng(1).poisson(0.3, (SAMPLES, TICKS, 128))
    sample, tick, neuron = (np.repeat(index, counts.ravel()) for index in np.indices(counts.shape).reshape(3, -1))
    offsets = np.concatenate([[0], np.cumsum(counts.sum((1, 2)))])
    assert np.all(np.diff(sample) >= 0)
    events = es.Events(t=tick * 1000, neuron=neuron, offsets=offsets)
    frames = torch.from_numpy(counts.astype(np.float64)).reshape(SAMPLES, TICKS, 2, 8, 8).transpose(0, 1)
    return replace(network, encoding="events", tick_seconds=1e-3), events, frames


def spikes_of(run: es.Run) -> list[np.ndarray]:
    """(ticks, N, neurons) of every spiking population, in their order."""
    found = []
    for index, population in enumerate(run.network.populations):
        if isinstance(population.neuron, IF):
            chosen = run.events[run.events["population"] == index]
            raster = np.zeros((run.ticks, len(run.predictions), population.size))
            np.add.at(raster, (chosen["time"], chosen["sample"], chosen["neuron"]), chosen["value"])
            found.append(raster)
    return found


def same_spikes(given: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    assert len(given) == len(wanted)
    for layer, (one, other) in enumerate(zip(given, wanted)):
        assert one.shape == other.shape
        assert 0.02 < other.mean() < 0.9, f"layer {layer} is silent or saturated, the test says nothing"
        assert np.array_equal(one, other), f"layer {layer}: {np.count_nonzero(one != other)} spikes differ"


def same_outputs(run: es.Run, wanted: torch.Tensor) -> None:
    """Summed outputs of the run against outputs (ticks, N, classes) of each tick."""
    summed = wanted.cumsum(0).transpose(0, 1).numpy()
    np.testing.assert_allclose(np.asarray(run.outputs).reshape(summed.shape), summed, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("encoding", ["direct", "events"])
@pytest.mark.parametrize("name", TRAINED)
def test_the_trained_path_is_the_converted_network(name, encoding):
    """If the layers that train over all ticks at once did otherwise, what is trained would not be what is run."""
    module = lively(TRAINED[name](), 2)
    network, samples, frames = given_as(encoding, from_torch(module, images(1), ticks=TICKS))
    inputs = frames[0] if encoding == "direct" else frames.transpose(0, 1)
    with running(module, ticks=TICKS, samples=SAMPLES, watch=True):
        outputs = spiking_outputs(module, inputs, TICKS)
        wanted = [layer.watched.spikes.flatten(2).numpy() for layer in neurons(module)]
    run = es.simulate(network, samples, ticks=TICKS, dtype="float64", record="spikes")
    same_spikes(spikes_of(run), wanted)
    same_outputs(run, outputs)


@pytest.mark.parametrize("encoding", ["direct", "events"])
@pytest.mark.parametrize("name", TRAINED)
def test_verify_agrees(name, encoding):
    """If verify computed other norms than the engine, it would blame networks that are right."""
    module = lively(TRAINED[name](), 3)
    network, samples, _ = given_as(encoding, from_torch(module, images(1), ticks=TICKS))
    report = verify(module, network, samples, es.simulate, dtype="float64")
    assert report["differing"] == 0, report["first_difference"]
    assert report["spikes"] > 100
    assert report["outputs"] < 1e-10
    single = module.float()
    network, samples, _ = given_as(encoding, from_torch(single, images(1), ticks=TICKS))
    report = verify(single, network, samples, es.simulate, dtype="float32")
    assert all(first["tie"] for first in report["first"])


@pytest.mark.parametrize("encoding", ["direct", "events"])
def test_verify_finds_a_changed_table(encoding):
    """If verify ignored the tables of the network, a wrong factor in one tick would pass."""
    module = lively(plain(), 3)
    network, samples, _ = given_as(encoding, from_torch(module, images(1)))
    first, *others = network.connections
    for table, row in (("scale", 1.3), ("shift", 2.0)):
        changed = getattr(first, table).copy()
        changed[3] *= row
        other = replace(network, connections=(replace(first, **{table: changed}), *others))
        found = verify(module, other, samples, es.simulate, dtype="float64")["first_difference"]
        assert found["tick"] == 3
        assert found["population"] == "conv0"
        assert not found["tie"]


def test_tables_are_the_formula():
    """If the folded tables were not p[t] gamma / sqrt(var + eps), every network would be another one."""
    module = lively(plain(), 4)
    network = from_torch(module, images(1))
    conv, tebn = module[0], module[1]
    factor = tebn.norm.weight / (tebn.norm.running_var + tebn.norm.eps).sqrt()
    constant = tebn.norm.bias - tebn.norm.running_mean * factor
    first = network.connections[0]
    assert first.bias is None
    assert np.array_equal(first.op.weight, conv.weight.numpy())
    np.testing.assert_allclose(first.scale, torch.outer(tebn.p, factor).numpy(), rtol=1e-15)
    np.testing.assert_allclose(first.shift, torch.outer(tebn.p, constant).numpy(), rtol=1e-15)
    assert first.scale.dtype == first.shift.dtype == np.float64
    assert from_torch(module.float(), images(1)).connections[0].scale.dtype == np.float32
    assert network.origin["folded"] == ["tebn1", "tebn5"]
    assert [p.name for p in network.populations] == ["input", "conv0", "conv4", "linear9"]


def test_a_residual_network_needs_no_relays():
    """If branches with tables of their own were joined by relays, their spikes would no longer be what is counted."""
    network = from_torch(lively(Residual()), images(1))
    assert not [p.name for p in network.populations if isinstance(p.neuron, Relay)]
    joins = [c for c in network.connections if c.target in ("conv2", "conv3", "conv4")]
    assert [c.source for c in joins] == ["conv1", "stem", "conv2", "conv2", "conv3", "conv3"]
    assert all(len(c.scale) == TICKS for c in joins)
    assert isinstance(joins[5].op, Identity)


def test_files_keep_the_tables(tmp_path):
    """If a table were lost in the file, the network would load, run, and be wrong."""
    network = from_torch(lively(Residual()), images(1))
    es.save(network, tmp_path / "net.h5")
    loaded = es.load(tmp_path / "net.h5")
    assert loaded.ticks == loaded.max_ticks == TICKS
    for one, other in zip(network.connections, loaded.connections, strict=True):
        assert (one.scale is None) == (one.target == "fc")
        for table in ("scale", "shift"):
            assert np.array_equal(getattr(one, table), getattr(other, table), equal_nan=False) or one.scale is None
    runs = [es.simulate(each, images(), dtype="float64", record="spikes") for each in (network, loaded)]
    assert np.array_equal(runs[0].events, runs[1].events)


def test_no_run_goes_past_the_tables():
    """If a run went on without a p[t], it would compute something that nobody trained."""
    module = lively(plain())
    network = from_torch(module, images(1))
    assert network.ticks == network.max_ticks == TICKS
    assert from_torch(module, images(1), ticks=4).ticks == 4
    assert es.simulate(network, images()).ticks == TICKS
    message = rf"^ticks is 7, but the (network's )?per-tick tables end after {TICKS}$"
    for run in (
        lambda: from_torch(module, images(1), ticks=7),
        lambda: es.simulate(network, images(), ticks=7),
        lambda: verify(module, network, images(), es.simulate, ticks=7),
    ):
        with pytest.raises(ValueError, match=message):
            run()
    assert from_torch(lively(without_norms()), images(1)).ticks is None


# --------------------------------------------------------------------------------------------------- norms of one's own


class BNTT(nn.Module):
    """A batch norm of its own for each tick, called once per tick."""

    def __init__(self, channels: int, ticks: int = TICKS, kind: type = nn.BatchNorm2d) -> None:
        super().__init__()
        self.norms, self.tick = nn.ModuleList(kind(channels) for _ in range(ticks)), 0

    def forward(self, x):
        self.tick += 1
        return self.norms[self.tick - 1](x)


def bntt(module: BNTT) -> tuple[np.ndarray, np.ndarray]:
    pairs = []
    for norm in module.norms:
        scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach().double()
        pairs.append((scale.numpy(), (norm.bias - norm.running_mean * scale).detach().double().numpy()))
    return tuple(np.stack(tables) for tables in zip(*pairs))


def teach() -> None:
    register(BNTT, bntt, norm=True)
    register(HardLIF, lambda m: LIF(alpha=m.leak, comparator="gt", reset="value"))


class HardLIF(nn.Module):
    """u <- leak u + x, a spike above 1, reset to 0: one tick a call. Keeps its spikes and how close to 1 u came."""

    def __init__(self, leak: float = 0.5) -> None:
        super().__init__()
        self.leak, self.u, self.spikes, self.margin = leak, 0.0, [], np.inf

    def forward(self, x):
        u = self.leak * self.u + x
        self.margin = min(self.margin, float((u - 1).abs().min()))
        fired = (u > 1).to(x.dtype)
        self.u = u * (1 - fired)
        self.spikes.append(fired)
        return fired


def stepped(module: nn.Module, frames: torch.Tensor) -> tuple[torch.Tensor, list[np.ndarray], float]:
    """A module called once per tick on frames (ticks, N, ...): outputs (ticks, N, classes), spikes of its neurons in
    the order of their first call (ticks, N, neurons), and the smallest |u - 1| of all decisions.
    """
    module = copy.deepcopy(module)
    layers = [part for part in module.modules() if isinstance(part, HardLIF)]
    outputs = torch.stack([module(x) for x in frames])
    return outputs, [torch.stack(p.spikes).flatten(2).numpy() for p in layers], min(p.margin for p in layers)


class Mixed(nn.Module):
    """What may stand around a per-tick norm: numbers, batch norms, other norms, pools, striding."""

    def __init__(self) -> None:
        super().__init__()
        self.norm0 = BNTT(2)  # of the image itself
        self.conv1, self.rim, self.norm1 = nn.Conv2d(2, 4, 3), nn.AvgPool2d(3, 1, 1), BNTT(4)
        self.bn1, self.again, self.lif1 = nn.BatchNorm2d(4), BNTT(4), HardLIF()
        self.conv2, self.norm2, self.lif2 = nn.Conv2d(4, 4, 3, padding=1), BNTT(4), HardLIF()
        self.conv3, self.norm3, self.whole = nn.Conv2d(4, 6, 3), BNTT(6), nn.AvgPool2d(2, 1)
        self.last, self.lif3 = BNTT(8), HardLIF()
        self.fc, self.norm4 = nn.Linear(32, 3), BNTT(3, kind=nn.BatchNorm1d)

    def forward(self, x):
        x = self.norm1(self.rim(self.conv1(self.norm0(x))))  # a bias that differs at the rim: a relay before the norm
        x = self.lif1(self.again(self.bn1(x) * 0.8 + 0.1))
        x = self.lif2(self.rim(self.norm2(self.conv2(x))) + x)  # a shift that padding changes: a relay behind the norm
        y = self.whole(self.norm3(self.conv3(x)))
        y = F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1)) / 0.5
        return self.norm4(self.fc(self.lif3(self.last(y)).flatten(1)))


def test_norms_of_ones_own():
    """If a norm were carried past its neighbours wrongly, BNTT networks would fire otherwise."""
    teach()
    module = lively(Mixed(), 5)
    network = from_torch(module, images(1))
    relays = [p.name for p in network.populations if isinstance(p.neuron, Relay)]
    assert relays == ["norm0", "conv1", "norm2"]
    assert network.max_ticks == network.ticks == TICKS
    for encoding in ("direct", "events"):
        other, samples, frames = given_as(encoding, network)
        outputs, wanted, margin = stepped(module, frames)
        assert margin > 1e-9  # so that no decision is one of rounding
        run = es.simulate(other, samples, ticks=TICKS, dtype="float64", record="spikes")
        same_spikes(spikes_of(run), wanted)
        same_outputs(run, outputs)
        report = verify(module, other, samples, es.simulate, dtype="float64")
        assert report["differing"] == 0, report["first_difference"]


def test_relu_networks_take_the_mean_over_the_ticks():
    """If thresholds were those of one tick, a ReLU network with per-tick norms would be balanced for that tick only."""
    teach()
    module = lively(nn.Sequential(nn.Conv2d(2, 4, 3), BNTT(4, 30), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)), 6)
    x = images(20)
    network = from_torch(module, x, calibrate=x, percentile=100)
    current = module[0](torch.from_numpy(x)).numpy()
    scale, shift = (table.mean(0)[:, None, None] for table in bntt(module[1]))
    activation = np.maximum(scale * current + shift, 0)
    notes = network.origin["thresholds"]["conv0"]
    assert notes["value"] == pytest.approx(activation.max() * (1 - 2.0**-20), rel=1e-12)
    table = bntt(module[1])[0] * module[0].bias.numpy() + bntt(module[1])[1]
    np.testing.assert_allclose(network.connections[0].shift * notes["value"], table, rtol=1e-12, atol=1e-15)
    report = verify(module, network, x, es.simulate, dtype="float64")
    assert report["differing"] == 0, report["first_difference"]
    scores = module[4](torch.from_numpy(activation).flatten(1))
    check = conversion_check(module, network, x, scores.argmax(1).numpy(), [30], es.simulate, layer_images=20)
    assert check["ann"]["accuracy"] == 1
    assert check["first_below"] is None
    assert check["layers"][0]["clipped"] == 1 / np.count_nonzero(activation)  # only what set the threshold is above it


# ------------------------------------------------------------------------------------------------------------- refusals


class Wrong(nn.Module):
    """A norm whose converter is the test's."""

    def forward(self, x):
        raise AssertionError("a norm is never called")


def behind(*layers: nn.Module) -> nn.Module:
    return lively(nn.Sequential(nn.Conv2d(2, 4, 3), *layers))


TABLE = np.ones((TICKS, 4))
REFUSED = {
    "no pair": (lambda: behind(Wrong()), lambda m: TABLE[0, 0], r"of '1' \(Wrong\) gave no pair of arrays \("),
    "a neuron": (lambda: behind(Wrong()), lambda m: IF(), r"of '1' \(Wrong\) gave no pair of arrays \("),
    "unequal tables": (
        lambda: behind(Wrong()),
        lambda m: (TABLE, TABLE[1:]),
        r"gave tables of shape \(6, 4\) and \(5, 4\), wanted \(ticks, channels\) twice",
    ),
    "one number per tick": (lambda: behind(Wrong()), lambda m: (TABLE[:, 0], TABLE[:, 0]), r"of shape \(6,\) and"),
    "no ticks": (lambda: behind(Wrong()), lambda m: (TABLE[:0], TABLE[:0]), r"of shape \(0, 4\) and"),
    "infinity": (lambda: behind(Wrong()), lambda m: (TABLE, TABLE * np.inf), "gave tables that hold NaN or infinity"),
    "other channels": (
        lambda: behind(Wrong()),
        lambda m: (TABLE[:, :3], TABLE[:, :3]),
        r"the tables of '1' \(Wrong\) have 3 channels, its input is \(1, 4, 6, 6\)",
    ),
    "behind a flattening": (
        lambda: behind(nn.Flatten(), Wrong(), nn.ReLU()),
        lambda m: (np.ones((TICKS, 144)), np.ones((TICKS, 144))),
        r"'2' \(Wrong\): it stands behind a flattening and has one factor per position; normalise before flattening",
    ),
    "max-pool of what is normed": (
        lambda: behind(Wrong(), nn.MaxPool2d(2)),
        lambda m: (TABLE, TABLE),
        r"'2' \(MaxPool2d\): max-pooling of graded values is not supported",
    ),
    "two lengths in a row": (
        lambda: behind(BNTT(4, 3), Wrong()),
        lambda m: (TABLE, TABLE),
        r"'2' \(Wrong\): its tables have 6 ticks, those of the norm in front of it 3; wanted as many",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_carried_is_refused_in_a_sentence(name):
    """If a norm were carried over in part, the network would compute something else than the module."""
    teach()
    make, converter, message = REFUSED[name]
    register(Wrong, converter, norm=True)
    with pytest.raises(ValueError, match=message) as caught:
        from_torch(make(), images(1), calibrate=images())
    assert "\n" not in str(caught.value)


def test_branches_may_have_tables_of_two_lengths():
    """If the shorter of two branches did not bound the run, it would read past its table."""
    teach()
    register(Wrong, lambda m: (2 * TABLE, TABLE), norm=True)

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.one, self.other = nn.Conv2d(2, 4, 3), BNTT(4, 3), Wrong()
            self.second = nn.Conv2d(2, 4, 3)

        def forward(self, x):
            return self.one(self.conv(x)) + self.other(self.second(x))

    network = from_torch(lively(Two()), images(1))
    assert [len(c.scale) for c in network.connections] == [3, 6]
    assert network.ticks == 3


def test_options_that_exclude_each_other_are_refused():
    """If a class were two things, one of them would be ignored without a word."""
    with pytest.raises(ValueError, match="an activation, a norm or a multi-step neuron; set one of them"):
        register(Wrong, bntt, norm=True, activation=True)
    with pytest.raises(ValueError, match="an activation, a norm or a multi-step neuron; set one of them"):
        register(Wrong, bntt, norm=True, multi_step=True)


def test_multi_step_neurons_have_no_activation():
    """If images were sent through a layer that takes all ticks at once, thresholds would come from nonsense."""
    module = lively(plain())
    with pytest.raises(ValueError, match=r"'2' \(LeakyNeuron\) takes all ticks in one call, so no images .* 'linear9'"):
        from_torch(module, images(1), calibrate=images(), readout="spikes")
    network = from_torch(module, images(1))
    with pytest.raises(ValueError, match="is a spiking module without an activation to compare with; use verify"):
        conversion_check(module, network, images(), np.zeros(SAMPLES), [4], es.simulate)


def test_the_command_takes_as_many_ticks_as_the_tables_have(tmp_path, monkeypatch, capsys):
    """`convert` without --ticks stores the tables' length; with more, it is refused in one sentence."""
    from eventsnn.cli import main

    torch.manual_seed(0)
    checkpoint, output = tmp_path / "tebn.pt", tmp_path / "tebn.h5"
    torch.save(nmnist_tebn().state_dict(), checkpoint)
    words = ["convert", str(checkpoint), "--model", "tools.modules:nmnist_tebn", "--input-shape", "2,34,34"]
    monkeypatch.setattr("sys.argv", ["eventsnn", *words, "-o", str(output)])
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 0
    assert es.load(output).ticks == 10
    monkeypatch.setattr("sys.argv", ["eventsnn", *words, "--ticks", "11", "-o", str(tmp_path / "more.h5")])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "ticks is 11, but the per-tick tables end after 10" in capsys.readouterr().err
    assert not (tmp_path / "more.h5").exists()
