"""S-ResNet and InfLoR: neurons against golden values and laws, networks spike for spike, the authors' checkpoints."""

import itertools
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import eventsnn as es
from eventsnn import layouts
from eventsnn.import_torch import verify
from eventsnn.inputs import encoded
from eventsnn.network import Connection, Identity, Network, Population
from eventsnn.neurons import IF, Gate, Input, Integrator, Relay
from eventsnn.torch_trace import at_tick, forward, tick_norms, trace

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tools import compare  # noqa: E402
from tools import residual as snn  # noqa: E402
from tools import train as tool  # noqa: E402
from tools.modules import neurons, running, spiking_outputs  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
JOINS = ("spikes", "current", "and", "iand")

# ------------------------------------------------------------------------------------------------------- the neurons


def run_neuron(layer: nn.Module, drive: list[float]) -> tuple[list[float], list[float]]:
    """Spikes and membranes after their reset, for one neuron that gets these currents."""
    x = torch.tensor(drive, dtype=torch.float64).reshape(-1, 1)
    with running(layer, ticks=len(drive), samples=1, watch=True):
        layer(x)
        found = layer.watched
    return found.spikes.flatten().tolist(), found.membranes.flatten().tolist()


def test_the_neuron_of_sresnet():
    """Membranes before the reset, worked out apart: 0.6, 1.1244, 0.708726, 1.219426, 0.791778, 1.292014."""
    spikes, left = run_neuron(snn.SoftNeuron(0.874), [0.6] * 6)
    assert spikes == [0, 1, 0, 1, 0, 1]
    assert np.allclose(np.add(left, spikes), [0.6, 1.1244, 0.708726, 1.219426, 0.791778, 1.292014], atol=1e-6)


def test_the_neuron_of_inflor():
    """Golden membranes after the reset; a soft reset keeps what is over, a hard one does not."""
    drive = [0.3, 0.3, 0.3, 1.6, -0.2, 0.1]
    spikes, left = run_neuron(snn.InfLoR("subtract"), drive)
    assert spikes == [0, 1, 0, 1, 0, 0]
    assert np.allclose(left, [0.3, -0.4, -0.1, 0.5, 0.3, 0.4])
    spikes, left = run_neuron(snn.InfLoR("value"), drive)
    assert spikes == [0, 1, 0, 1, 0, 0]
    assert np.allclose(left, [0.3, 0, 0.3, 0, -0.2, -0.1])


def test_the_threshold_is_strict():
    """A membrane that stands exactly at the threshold does not fire."""
    assert run_neuron(snn.SoftNeuron(1.0), [1.0, 2**-20])[0] == [0, 1]
    assert run_neuron(snn.InfLoR(), [0.5, 2**-20])[0] == [0, 1]


@given(st.lists(st.integers(-64, 64), min_size=1, max_size=20))
def test_inflor_is_an_integrate_and_fire_that_starts_at_one_half(drive):
    """With soft reset and no leak: threshold 1, v0 1/2. Currents are whole 32nds, so that sums are exact."""
    currents = [value / 32 for value in drive]
    u, wanted = 0.5, []
    for value in currents:
        u += value
        wanted.append(float(u > 1))
        u -= wanted[-1]
    assert run_neuron(snn.InfLoR("subtract"), currents)[0] == wanted


@given(st.integers(-160, 160), st.integers(1, 12))
@settings(deadline=None)
def test_the_engine_agrees_that_it_starts_at_one_half(weight, ticks):
    """The neuron that InfLoR is converted to, and that integrate-and-fire, fire alike event by event."""
    found = []
    for neuron in (snn.inflor_neuron(snn.InfLoR()), IF(threshold=1.0, v0=0.5, comparator="gt")):
        network = Network(
            populations=(Population("in", (1,), Input()), Population("out", (1,), neuron)),
            connections=(Connection("in", "out", Identity(1.0), bias=np.array([weight / 32])),),
            output="out",
            encoding="events",
            ticks=ticks,
            tick_seconds=1e-3,
        )
        events = es.Events(np.zeros(1, np.int64), np.zeros(1, np.int64), np.array([0, 1]))
        found.append(es.simulate(network, events, watchdog=es.Fixed()).ledger.spikes_by_tick("out"))
    assert np.array_equal(*found)


@pytest.mark.parametrize(
    ("u", "wanted"),
    [(-8, -1.0801), (-1, -0.2599), (0, 0), (0.25, 0.1491), (0.5, 0.5), (0.75, 0.8509), (1, 1), (2, 1.2599), (8, 2)],
)
def test_values_of_the_rectifier(u, wanted):
    assert snn.rectified(torch.tensor(float(u), dtype=torch.float64)).item() == pytest.approx(wanted, abs=5e-5)


@given(st.floats(-100, 100, width=32))
def test_the_rectifier_never_changes_a_decision(u):
    """On either side of 1/2, also one float next to it; so it has no place at inference."""
    near = np.nextafter(np.float32(0.5), np.float32(u), dtype=np.float32)
    for value in (u, float(near), 0.5):
        x = torch.tensor(value, dtype=torch.float32)
        assert bool(snn.rectified(x) > 0.5) == bool(x > 0.5)


def test_the_rectifier_rises():
    u = torch.linspace(-10, 10, 100_001, dtype=torch.float64)
    assert bool((snn.rectified(u).diff() > 0).all())


@pytest.mark.parametrize("mpr", [True, False])
def test_the_gradient_is_that_of_the_clamped_membrane(mpr):
    """PyTorch's own gradient of clamp(MPR(u), 0, 1), off its corners, which are rounded, or of clamp(u, 0, 1)."""
    u = torch.linspace(-1.995, 2.995, 500, dtype=torch.float64)
    u = (u if mpr else torch.cat([u, torch.tensor([0.0, 1.0])])).requires_grad_()
    snn._FireInfLoR.apply(u, mpr).sum().backward()
    found, u.grad = u.grad.clone(), None
    (snn.rectified(u) if mpr else u).clamp(0, 1).sum().backward()
    assert torch.allclose(found, u.grad, atol=1e-12)


def test_the_gradient_of_sresnet():
    """0.3 max(0, 1 - |u - 1|), through the reset as well."""
    x = torch.tensor([[0.9], [0.8]], dtype=torch.float64, requires_grad=True)
    layer = snn.SoftNeuron(0.5)
    with running(layer, ticks=2, samples=1):
        layer(x)[1].sum().backward()
    # u1 = 0.9 keeps silent with slope 0.27; u2 = 0.5 (u1 - s1) + x2 = 1.25 has slope 0.3 (1 - 0.25)
    assert x.grad.flatten().tolist() == pytest.approx([0.225 * 0.5 * (1 - 0.27), 0.225])


@pytest.mark.parametrize("kind", [snn.SoftNeuron, snn.InfLoR])
def test_odd_neurons_are_refused(kind):
    with pytest.raises(ValueError, match=r"leak=1\.5"):
        kind(leak=1.5)
    with pytest.raises(ValueError, match="reset='soft'"):
        snn.InfLoR("soft")


# ---------------------------------------------------------------------------------------------------------- S-ResNet


def lively(module: nn.Module, seed: int = 0) -> nn.Module:
    """Norms with statistics of their own and neurons that fire; in evaluation mode and float64."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor, low, high in (
                (layer.weight, 0.5, 1.5),
                (layer.bias, 0.0, 1.0),
                (layer.running_mean, -0.2, 0.2),
                (layer.running_var, 0.3, 0.9),
            ):
                tensor.data.uniform_(low, high, generator=generator)
    return module.double().eval()


def images(count: int, channels: int = 3, side: int = 16) -> np.ndarray:
    return np.random.default_rng(3).random((count, channels, side, side))


def test_sresnet38_has_the_papers_shapes_and_parameters():
    """2,242,656 weights without norms, 2.53 million with those of 50 ticks; three grids of 32, 64 and 128 channels."""
    network = snn.sresnet38()
    count = sum(p.numel() for p in network.parameters())
    norms = sum(p.numel() for name, p in network.named_parameters() if "bn" in name)
    assert (count - norms, norms) == (2_242_656, 291_200)
    assert sum(p.numel() for p in snn.sresnet(classes=100).parameters()) - norms == 2_254_176
    shapes = []
    for layer in network.conv_list:
        layer.register_forward_hook(lambda _m, _x, y: shapes.append(tuple(y.shape[1:])))
    with torch.no_grad(), running(network, ticks=1, samples=1):
        assert network.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert shapes == [(32, 32, 32)] * 13 + [(64, 16, 16)] * 12 + [(128, 8, 8)] * 12
    assert not any(layer.bias is not None for layer in (*network.conv_list, *network.conv1x1_list, network.fc))
    assert {norm.eps for norm in network.bntt_list[0]} == {1e-4}


@pytest.mark.parametrize("join", JOINS)
def test_every_join_runs_event_by_event_as_its_module(join):
    """All spikes of the trainable module, which takes all ticks at once, and of the layout, stepped tick by tick."""
    module = lively(snn.sresnet(1, 8, 10, 4, join=join))
    name = next(name for name, kind in layouts.SRESNETS.items() if kind == join)
    stepped = layouts.build(name, module.state_dict()).double()
    x = images(3)
    networks = [es.from_torch(m, torch.zeros(1, 3, 16, 16, dtype=torch.float64), ticks=4) for m in (module, stepped)]
    told = verify(stepped, networks[1], x, es.simulate, 4, dtype="float64")
    assert told["differing"] == 0
    assert told["spikes"] > 5_000
    assert all(p["spikes"] for p in told["populations"])
    assert told["outputs"] < 1e-10

    run = es.simulate(networks[0], x, ticks=4, watchdog=es.Fixed(), record="spikes", dtype="float64")
    with torch.no_grad(), running(module, ticks=4, samples=3, watch=True):
        outputs = spiking_outputs(module, torch.from_numpy(x), 4)
        theirs = {
            path: layer.watched.spikes for path, layer in module.named_modules() if isinstance(layer, snn.SoftNeuron)
        }
    places = compare.neurons_of(module, (3, 16, 16))
    assert sorted(places.values()) == sorted(theirs)
    assert len(places) == len(neurons(module)) == 7 + 2 * (join in ("and", "iand"))
    for population, path in places.items():
        assert np.array_equal(run.ledger.spikes_by_tick(population), theirs[path].sum((2, 3, 4)).T.numpy())
    assert np.allclose(np.diff(run.outputs, axis=1, prepend=0), outputs.transpose(0, 1).numpy(), atol=1e-12)
    kinds = [type(p.neuron) for p in networks[0].populations]
    assert (kinds.count(Relay), kinds.count(Gate)) == {"spikes": (3, 0), "current": (0, 0)}.get(join, (0, 3))


def test_graded_values_are_those_of_the_module():
    """What is added behind the spikes: whole numbers in the first stage, real ones behind a projection."""
    module = lively(snn.sresnet(1, 8, 10, 4))
    stepped = layouts.build("sresnet", module.state_dict()).double()
    network = es.from_torch(stepped, torch.zeros(1, 3, 16, 16, dtype=torch.float64), ticks=4)
    x = images(2)
    run = es.simulate(network, x, ticks=4, watchdog=es.Fixed(), record="spikes", dtype="float64")
    root, graph = trace(stepped)
    norms, sums = tick_norms(root, graph), []
    for tick in range(4):
        values = []
        forward(root, graph, torch.from_numpy(x), at_tick(norms, tick), after=lambda *each, to=values: to.append(each))
        sums.append([value for node, value in values if node.name.startswith("add")])
    order = [p.name for p in network.populations]
    relays = [p.name for p in network.populations if isinstance(p.neuron, Relay)]
    assert len(relays) == 3
    for k, name in enumerate(relays):
        summed = torch.stack([parts[k] for parts in sums])
        summed = summed.mean((3, 4)) if network[name].shape[1:] == (1, 1) else summed  # the last one stands behind it
        wanted = summed.flatten(2).numpy()
        found = run.events[run.events["population"] == order.index(name)]
        ours = np.zeros_like(wanted)
        ours[found["time"], found["sample"], found["neuron"]] = found["value"]
        assert np.allclose(ours, wanted, atol=1e-12)
        whole = np.array_equal(wanted, np.rint(wanted))
        assert whole == (k == 0)
    assert run.ledger.by_class("mac").sum() > 0  # a graded event is multiplied
    assert run.ledger.by_class("ac").sum() > 0


def test_binary_joins_need_no_multiplication():
    """The spikes of a gate are as binary as those of a neuron: behind the image, additions only."""
    for join in ("current", "and", "iand"):
        module = lively(snn.sresnet(1, 8, 10, 2, join=join))
        network = es.from_torch(module, torch.zeros(1, 3, 16, 16, dtype=torch.float64), ticks=2)
        run = es.simulate(network, images(2), ticks=2, watchdog=es.Fixed())
        assert run.ledger.by_class("mac").sum() == 0
        assert run.ledger.by_class("ac").sum() > 0


def aliased(weights: dict, alone: bool) -> dict:
    """A state dict as the authors' modules write it: first layers and shortcuts also, or only, under other names."""
    found = {}
    for key, tensor in weights.items():
        kind, number, *rest = key.split(".")
        name = {
            ("conv_list", "0"): "conv1",
            ("bntt_list", "0"): "bntt1",
            ("conv1x1_list", number): f"conv_resize_{int(number) + 1}" if number.isdigit() else "",
            ("bn_conv1x1_list", number): f"resize_bn_{int(number) + 1}" if number.isdigit() else "",
        }.get((kind, number))
        if name:
            found[".".join([name, *rest])] = tensor
        if not (name and alone):
            found[key] = tensor
    return found


@pytest.mark.parametrize("alone", [False, True])
def test_the_authors_checkpoints_are_read_by_name(alone, tmp_path):
    """With their two names for the same layers, from a file, by the command's own way."""
    module = lively(snn.sresnet(1, 8, 10, 3)).float()
    path = tmp_path / "authors.pth"
    torch.save({"state_dict": aliased(module.state_dict(), alone)}, path)
    from eventsnn.import_torch import load_checkpoint

    weights = load_checkpoint(path)
    assert {"conv1.weight", "resize_bn_2.1.weight"} <= {*weights}
    found = layouts.build("sresnet", weights)
    for key, tensor in module.state_dict().items():
        assert torch.equal(found.state_dict()[key], tensor)


def test_boosting_is_the_mean_of_ten_outputs():
    """The averaged linear layer gives what averaging its outputs gives."""
    module = lively(snn.sresnet(1, 8, 5, 3, boosting=True))
    found = layouts.build("sresnet-boosting", module.net.state_dict()).double()
    network = es.from_torch(found, torch.zeros(1, 3, 16, 16, dtype=torch.float64), ticks=3)
    run = es.simulate(network, images(2), ticks=3, watchdog=es.Fixed(), dtype="float64")
    with torch.no_grad(), running(module, ticks=3, samples=2):
        outputs = spiking_outputs(module, torch.from_numpy(images(2)), 3)
        net = spiking_outputs(module.net, torch.from_numpy(images(2)), 3)
    assert torch.allclose(outputs, functional.avg_pool1d(net.flatten(0, 1).unsqueeze(1), 10, 10).reshape(3, 2, 5))
    assert np.allclose(np.diff(run.outputs, axis=1, prepend=0), outputs.transpose(0, 1).numpy(), atol=1e-12)


@pytest.mark.parametrize(
    ("name", "change", "wanted"),
    [
        ("sresnet", lambda w: w.pop("fc.weight"), "lacks fc.weight"),
        ("sresnet", lambda w: w.pop("conv_list.6.weight"), "6 convolutions in conv_list and 2 norms"),
        ("sresnet", lambda w: w.update({k: v for k, v in w.items() if "bntt" not in k} or {}), None),
        ("sresnet-boosting", lambda w: w.update({"fc.weight": torch.zeros(12, 32)}), "fc has 12 outputs, wanted tens"),
        ("sresnet", lambda w: w.update({"bntt_list.3.1.weight": torch.zeros(5)}), "bntt_list.3.1.weight has shape"),
    ],
)
def test_checkpoints_that_do_not_fit(name, change, wanted):
    weights = dict(snn.sresnet(1, 8, 10, 2).state_dict())
    change(weights)
    if wanted is None:
        assert layouts.build(name, weights) is not None
        return
    with pytest.raises(ValueError, match=wanted):
        layouts.build(name, weights)


def test_an_unknown_join_is_refused():
    with pytest.raises(ValueError, match="join is 'or', wanted spikes, current, and, iand"):
        snn.sresnet(join="or")


def test_more_ticks_than_norms_are_refused():
    network = snn.sresnet(1, 8, 10, 2)
    with (
        pytest.raises(ValueError, match="BNTT has norms for 2 ticks, but 3 are run"),
        running(network, ticks=3, samples=1),
    ):
        network(torch.zeros(1, 3, 16, 16))


def test_the_event_camera_variant():
    """Two input channels, the first convolution on every second pixel; frames of events, spike for spike."""
    module = lively(snn.sresnet(1, 8, 8, 3, inputs=2))
    assert module.conv_list[0].stride == (2, 2)
    stepped = layouts.build("sresnet", module.state_dict()).double()
    assert stepped.conv_list[0].stride == (2, 2)
    network = es.from_torch(stepped, torch.zeros(1, 2, 16, 16, dtype=torch.float64), ticks=3)
    network = replace(network, encoding="events", tick_seconds=1e-3)
    rng = np.random.default_rng(1)
    events = es.Events(np.sort(rng.integers(0, 3_000, 400)), rng.integers(0, 512, 400), np.array([0, 400]))
    told = verify(stepped, network, events, es.simulate, 3, dtype="float64")
    assert (told["differing"], told["spikes"] > 200) == (0, True)


def test_signed_poisson_input():
    """Positive and negative events of the authors' coding, as two sets of channels: the same spikes, and their odds."""
    module = lively(snn.sresnet(1, 8, 10, 4))
    stepped = layouts.build("sresnet", module.state_dict()).double()
    network = snn.signed_rate(es.from_torch(stepped, torch.zeros(1, 3, 16, 16, dtype=torch.float64), ticks=4))
    x = 2 * images(2) - 1
    odds = snn.split_signs(x)
    assert np.array_equal(2 * (odds[:, :3] - odds[:, 3:]), x)
    run = es.simulate(network, odds, ticks=4, watchdog=es.Fixed(), dtype="float64", seed=5, layout="chw")
    root, graph = trace(stepped)
    norms = tick_norms(root, graph)
    for sample in range(2):
        events = encoded(odds, sample, "rate", 4, None, 5)
        frames = np.zeros((4, 6 * 256))
        np.add.at(frames, (events.tick, events.neuron), 1)
        frames = frames.reshape(4, 6, 16, 16)
        total = 0
        for tick in range(4):
            shown = torch.from_numpy(frames[tick, :3] - frames[tick, 3:])[None]
            total = total + forward(root, graph, shown, at_tick(norms, tick)).numpy()
        assert np.allclose(run.outputs[sample, -1], total[0], atol=1e-10)
        for layer in root.modules():  # fresh membranes for the next sample
            if hasattr(layer, "u"):
                layer.u = 0.0
    layer = snn.PoissonInput()
    layer.generator = torch.Generator().manual_seed(0)
    shown = torch.tensor([-1.0, -0.5, 0.0, 0.25, 1.0]).expand(40_000, 5)
    drawn = layer(shown)
    assert set(drawn.unique().tolist()) == {-1, 0, 1}
    assert torch.allclose(drawn.mean(0), shown[0] / 2, atol=0.01)
    with pytest.raises(ValueError, match="wants a network of images"):
        snn.signed_rate(network)


# ------------------------------------------------------------------------------------------------------------ gates


@given(st.integers(0, 255), st.integers(0, 255), st.sampled_from([(1.0, 1.0), (None, -1.0), (None, 1.0)]))
@settings(max_examples=30, deadline=None)
def test_gates_are_logic(a, b, kind):
    """AND, (not a) and b, and OR, of eight pairs of units."""
    level, weight = kind
    network = Network(
        populations=(
            Population("in", (16,), Input()),
            *(Population(name, (8,), IF(threshold=1.0)) for name in "ab"),
            Population("gate", (8,), Gate(threshold=level)),
            Population("out", (8,), Integrator()),
        ),
        connections=(
            Connection("in", "a", es_dense(0)),
            Connection("in", "b", es_dense(8)),
            Connection("a", "gate", Identity(weight)),
            Connection("b", "gate"),
            Connection("gate", "out"),
        ),
        output="out",
        encoding="events",
        ticks=1,
        tick_seconds=1e-3,
    )
    bits = [(a >> i) & 1 for i in range(8)] + [(b >> i) & 1 for i in range(8)]
    units = np.flatnonzero(bits)
    run = es.simulate(network, es.Events(np.zeros(len(units), np.int64), units, np.array([0, len(units)])))
    logic = {(1.0, 1.0): a & b, (None, -1.0): ~a & b, (None, 1.0): a | b}[kind]
    assert run.outputs[0, 0].tolist() == [(logic >> i) & 1 for i in range(8)]


def es_dense(first: int):
    from eventsnn.network import Dense

    return Dense(np.eye(16)[first : first + 8])


@pytest.mark.parametrize("level", [-1.0, math.nan, math.inf])
def test_gates_with_odd_thresholds_are_refused(level):
    with pytest.raises(ValueError, match="a gate's threshold is"):
        Network(
            populations=(
                Population("in", (2,), Input()),
                Population("gate", (2,), Gate(threshold=level)),
                Population("out", (2,), Integrator()),
            ),
            connections=(Connection("in", "gate"), Connection("gate", "out")),
            output="out",
            encoding="events",
        )


class Product(nn.Module):
    """Two layers of neurons whose outputs are multiplied in one way or another."""

    def __init__(self, join) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(2, 3, 1), nn.Conv2d(2, 3, 1)
        self.a, self.b = snn.SoftNeuron(), snn.SoftNeuron()
        self.fc, self.join = nn.Linear(12, 2), join

    def forward(self, x):
        return self.fc(self.join(self.a(self.one(x)), self.b(self.two(x))).flatten(1))


@pytest.mark.parametrize(
    "join",
    [
        lambda a, b: a * b,
        lambda a, b: (1 - a) * b,
        lambda a, b: a * (1 - b),
        lambda a, b: torch.mul(a, 1 - b),
        lambda a, b: b - a,
    ],
)
def test_products_and_differences_of_spikes_are_carried_over(join):
    module = Product(join).double()
    with torch.no_grad():
        for layer in (module.one, module.two):
            layer.weight.uniform_(0, 2)
    network = es.from_torch(module, torch.zeros(1, 2, 2, 2, dtype=torch.float64), ticks=5)
    x = np.random.default_rng(0).random((8, 2, 2, 2))
    run = es.simulate(network, x, ticks=5, watchdog=es.Fixed(), dtype="float64", layout="chw")
    with torch.no_grad(), running(module, ticks=5, samples=8):
        outputs = spiking_outputs(module, torch.from_numpy(x), 5)
    assert np.allclose(np.diff(run.outputs, axis=1, prepend=0), outputs.transpose(0, 1).numpy(), atol=1e-12)


@pytest.mark.parametrize(
    ("join", "wanted"),
    [
        (lambda a, b: (1 - a) * (1 - b), r"is 1 where nothing spikes"),
        (lambda a, b: (2 - a) * b, r"as it is or as 1 - layer"),
        (lambda a, b: (a + b) * b, r"only spikes are multiplied"),
        (lambda a, b: (2 * a) * b, r"only spikes are multiplied"),
        (lambda a, b: a / b, r"wanted the layer first"),
    ],
)
def test_other_products_are_refused_by_name(join, wanted):
    with pytest.raises(ValueError, match=wanted):
        es.from_torch(Product(join), torch.zeros(1, 2, 2, 2), ticks=2)


# ------------------------------------------------------------------------------------------------------------ InfLoR


@pytest.mark.parametrize(("reset", "mpr"), [*itertools.product(("subtract", "value"), (True, False))])
def test_inflor_runs_event_by_event_as_its_module(reset, mpr):
    """All spikes of the four networks; the rectifier changes none of them."""
    torch.manual_seed(1)
    module = lively(snn.inflor(3, 10, 1, reset, mpr))
    network = es.from_torch(module, torch.zeros(1, 3, 16, 16, dtype=torch.float64), ticks=4)
    x = images(3)
    run = es.simulate(network, x, ticks=4, watchdog=es.Fixed(), dtype="float64")
    with torch.no_grad(), running(module, ticks=4, samples=3, watch=True):
        outputs = spiking_outputs(module, torch.from_numpy(x), 4)
        theirs = {path: layer.watched.spikes for path, layer in module.named_modules() if isinstance(layer, snn.InfLoR)}
    for population, path in compare.neurons_of(module, (3, 16, 16)).items():
        assert np.array_equal(run.ledger.spikes_by_tick(population), theirs[path].sum((2, 3, 4)).T.numpy())
    assert np.allclose(np.diff(run.outputs, axis=1, prepend=0), outputs.transpose(0, 1).numpy(), atol=1e-12)
    for layer in neurons(module):
        layer.mpr = not mpr
    with torch.no_grad(), running(module, ticks=4, samples=3):
        assert torch.equal(spiking_outputs(module, torch.from_numpy(x), 4), outputs)


def test_blocks_of_inflor_begin_as_their_shortcut():
    """The last norm's weights begin at 0; both halves of a block that changes the grid have 1/sqrt(2)."""
    same, changes = snn.InfLoRBlock(4, 4, 1, snn.InfLoR), snn.InfLoRBlock(4, 8, 2, snn.InfLoR)
    assert [same.bn2.factor, changes.bn2.factor, changes.shortcut[2].factor] == pytest.approx([0.5, 0.5**1.5, 0.5**1.5])
    x = (torch.rand(6, 4, 8, 8) > 0.5).float()
    with torch.no_grad(), running(same, ticks=3, samples=2):
        assert torch.equal(same.train()(x), same.spike2(x))


def test_both_norms_of_inflor_fold():
    """tdBN in evaluation mode is alpha / 2 times a batch norm."""
    norm = snn.TdBN(3, 0.7)
    x = torch.randn(4, 3, 2, 2)
    assert torch.allclose(norm.eval()(x), 0.35 * norm.norm(x))


# ----------------------------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize(("study", "most"), [("sresnet", 2), ("inflor", 2), ("inflor-objects", 2)])
def test_networks_of_a_study_are_trained_alike(study, most):
    """Recipes differ in the model and in names alone; so do models of one seed, but for the join or the neuron."""
    recipes = [tool.read_recipe(ROOT / "tools" / "recipes" / f"{name}.toml") for name in compare.STUDIES[study]]
    first = recipes[0]
    for recipe in recipes[1:]:
        names = {k: getattr(first, k) for k in ("name", "title", "model", "checkpoint", "export")}
        assert recipe.model != first.model
        assert replace(recipe, **names) == first
        weights = [dict(tool.new_network(r).named_parameters()) for r in (first, recipe)]
        assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
        assert [*weights[0]] == [*weights[1]]


@pytest.mark.parametrize("name", ["sresnet38", "sresnet38-dvs", "inflor-res20m"])
def test_the_papers_sizes_train_a_few_steps(name, tmp_path):
    """Each recipe of the full size makes a step on a few samples of small grids, and converts."""
    recipe = tool.read_recipe(ROOT / "tools" / "recipes" / f"{name}.toml")
    ticks = 2
    stages = tuple(replace(stage, epochs=1, ticks=ticks) for stage in recipe.stages)
    recipe = replace(recipe, stages=stages, batch=2, precision="float32", ticks=ticks)
    rng = np.random.default_rng(0)
    events = recipe.data.source == "events"
    shape = (2, ticks, 2, 32, 32) if events else (2, 3, 16, 16)
    shown, labels = rng.integers(0, 3 if events else 256, shape, np.uint8), np.arange(2, dtype=np.uint8)
    told = []
    module, _ = tool.train(recipe, shown, labels, tmp_path / "c.pt", tell=lambda *what: told.append(what[2]))
    assert math.isfinite(told[0])
    network = es.from_torch(module, torch.zeros(1, *shape[-3:]), ticks=ticks)
    assert sum(np.asarray(c.op.weight).size for c in network.connections if np.ndim(c.op.weight) == 4) > 2e6


def test_recipes_that_follow_each_other_in_a_circle(tmp_path):
    (tmp_path / "a.toml").write_text('like = "b.toml"')
    (tmp_path / "b.toml").write_text('like = "a.toml"')
    with pytest.raises(ValueError, match="'like' is a circle of recipes"):
        tool.read_recipe(tmp_path / "a.toml")
    (tmp_path / "a.toml").write_text("like = 3")
    with pytest.raises(ValueError, match="'like' is 3, wanted the name of a recipe beside it"):
        tool.read_recipe(tmp_path / "a.toml")
    (tmp_path / "a.toml").write_text('like = "c.toml"')
    with pytest.raises(ValueError, match="cannot be read"):
        tool.read_recipe(tmp_path / "a.toml")
