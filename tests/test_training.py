"""What trainings compute: regularisers and losses against literal loops, neurons, augmentation, samples, resuming."""

import copy
import io
import math
import os
import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import eventsnn as es
from eventsnn import study
from eventsnn.import_torch import verify

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tools import samples  # noqa: E402
from tools import train as tool  # noqa: E402
from tools.losses import anytime, rcs_activations, rcs_spiking, tet  # noqa: E402
from tools.modules import (  # noqa: E402
    QCFS,
    TEBN,
    LeakyNeuron,
    Neuron,
    ResNet,
    Watched,
    fire,
    neurons,
    running,
    spiking_outputs,
)
from tools.recurrent import Recurrent  # noqa: E402
from tools.residual import InfLoR, SoftNeuron  # noqa: E402

RECIPES = sorted((ROOT / "tools" / "recipes").glob("*.toml"))
pytestmark = pytest.mark.usefixtures("one_thread")

NO_COMPILER = not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++"))


def compiled(test):
    """Marks a test that fuses loops. torch warns of its own look at `.grad` while it compiles."""
    test = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")(test)
    return pytest.mark.skipif(NO_COMPILER, reason="torch.compile needs a C++ compiler, and there is none here")(test)


def normal(generator, *shape, grad=False):
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_(grad)


def close(found, wanted, rounding):
    """Equal but for `rounding`, as a share of the number and of the largest one."""
    torch.testing.assert_close(found, wanted, rtol=rounding, atol=rounding * max(1, wanted.detach().abs().max().item()))


# ------------------------------------------------------------------------------------------------- RCS, TET, anytime


def plain_rcs_activations(layers, outputs, labels):
    """methods.md A.5, ANN side, one number at a time."""
    total = torch.zeros((), dtype=torch.float64)
    for x in layers:
        highest = torch.zeros((), dtype=torch.float64)
        for each in x.flatten():
            if each > highest:
                highest = each
        worst = torch.zeros((), dtype=torch.float64)
        for n in range(len(x)):
            squares = torch.zeros((), dtype=torch.float64)
            for each in x[n].flatten():
                if each > 0:
                    squares = squares + each * each
            value = highest / torch.sqrt(squares / x[n].numel() + 1e-5)
            mask = 1.0 if max(range(outputs.shape[1]), key=lambda k: outputs[n, k]) == labels[n] else 0.0
            if mask * value > worst:
                worst = mask * value
        total = total + worst
    return total / len(layers)


def plain_rcs_spiking(layers, outputs, labels):
    """methods.md A.5, SNN side, one number at a time; the target r_d is numbers only, so nothing flows through it."""
    ticks, count, classes = outputs.shape
    tail = 3 * ticks // 10 or ticks
    total = torch.zeros((), dtype=torch.float64)
    for spikes, membranes, threshold, _ in layers:
        worst = torch.zeros((), dtype=torch.float64)
        for n in range(count):
            response = []
            for t in range(ticks):
                pairs = zip(spikes[t, n].flatten(), membranes[t, n].flatten(), strict=True)
                response.append([s + (u / threshold if u > 0 else 0 * u) for s, u in pairs])
            target = [
                sum(response[t][i].item() for t in range(ticks - tail, ticks)) / tail for i in range(len(response[0]))
            ]
            cosines = torch.zeros((), dtype=torch.float64)
            for t in range(ticks):
                along = sum(r * wanted for r, wanted in zip(response[t], target, strict=True))
                length = torch.sqrt(sum(r * r for r in response[t]) + 1e-5)
                cosines = cosines + along / (length * math.sqrt(sum(wanted * wanted for wanted in target) + 1e-5))
            value = 1 / (cosines / ticks + 1e-5)
            mask = 1.0
            for t in range(ticks - tail, ticks):
                if max(range(classes), key=lambda k: outputs[t, n, k]) != labels[n]:
                    mask = 0.0
            if mask * value > worst:
                worst = mask * value
        total = total + worst
    return total / len(layers)


def answers(generator, lead, count, right):
    """Random outputs (*lead, count, 3) that give their label more, with odds `right` for each; and the labels."""
    labels = torch.randint(0, 3, (count,), generator=generator)
    outputs = normal(generator, *lead, count, 3)
    raised = torch.rand((*lead, count), generator=generator) < right
    outputs[..., torch.arange(count), labels] += 9.0 * raised
    return outputs, labels


shapes = st.sampled_from([(1,), (5,), (1, 1, 1), (2, 3, 1), (3, 2, 2)])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5), st.lists(shapes, min_size=1, max_size=3), st.sampled_from([0, 0.6, 1]))
def test_rcs_of_activations_is_its_formula(seed, count, layers, right):
    """Values and gradients of the short way, which differentiates one sample, are those of the literal one."""
    generator = torch.Generator().manual_seed(seed)
    watched = [normal(generator, count, *shape, grad=True) for shape in layers]
    outputs, labels = answers(generator, (), count, right)
    found = rcs_activations([Watched(None, x, 1.0) for x in watched], outputs, labels)
    wanted = plain_rcs_activations(watched, outputs, labels)
    close(found.double(), wanted, 1e-5)  # the sums are kept in float32
    given_back = torch.autograd.grad(found, watched, allow_unused=True, materialize_grads=True)
    if wanted.requires_grad:
        for mine, plain in zip(given_back, torch.autograd.grad(wanted, watched, materialize_grads=True), strict=True):
            close(mine, plain, 2e-5)
    else:
        assert not any(mine.any() for mine in given_back)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from([1, 2, 3, 4, 7, 10, 11]),
    st.integers(1, 4),
    st.lists(shapes, min_size=1, max_size=2),
    st.sampled_from([0, 0.8, 1]),
)
def test_rcs_of_spikes_is_its_formula(seed, ticks, count, layers, right):
    """Values, and gradients in spikes, membranes and thresholds; none of them through the eventual response."""
    generator = torch.Generator().manual_seed(seed)
    watched, leaves = [], []
    for shape in layers:
        spikes = (normal(generator, ticks, count, *shape) > 0).double().requires_grad_()
        membranes = normal(generator, ticks, count, *shape, grad=True)
        theta = (0.5 + torch.rand((), generator=generator, dtype=torch.float64)).requires_grad_()
        watched.append(Watched(spikes, membranes, theta))
        leaves += [spikes, membranes, theta]
    outputs, labels = answers(generator, (ticks,), count, right)
    found, wanted = rcs_spiking(watched, outputs, labels), plain_rcs_spiking(watched, outputs, labels)
    close(found.double(), wanted, 1e-10)
    mine = torch.autograd.grad(found, leaves, materialize_grads=True)
    if wanted.requires_grad:
        for one, plain in zip(mine, torch.autograd.grad(wanted, leaves, materialize_grads=True), strict=True):
            close(one, plain, 1e-9)
    else:
        assert not any(one.any() for one in mine)


def test_rcs_of_a_batch_that_is_all_wrong_is_nothing():
    """Only right samples are regularised: with none, there is no value and no gradient."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 1])
    outputs = -10 * nn.functional.one_hot(labels, 3).double()
    x = normal(generator, 2, 3, 2, 2, grad=True)
    value = rcs_activations([Watched(None, x, 1.0)], outputs, labels)
    assert value == 0
    value.backward()
    assert not x.grad.any()
    membranes = normal(generator, 4, 2, 5, grad=True)
    watched = [Watched(torch.ones(4, 2, 5, dtype=torch.float64), membranes, 1.0)]
    value = rcs_spiking(watched, outputs.expand(4, 2, 3), labels)
    assert value == 0
    value.backward()
    assert not membranes.grad.any()


@pytest.mark.parametrize(("ticks", "tail"), [(1, 1), (2, 2), (3, 3), (4, 1), (6, 1), (7, 2), (10, 3), (20, 6)])
def test_the_tail_decides_who_is_right(ticks, tail):
    """Wrong before the last ticks does not matter; wrong in any one of them takes the sample out. (T=4: 1, T=10: 3.)"""
    watched = [Watched(torch.ones(ticks, 1, 3), torch.ones(ticks, 1, 3), 1.0)]
    for wrong in range(ticks):
        outputs = torch.tensor([1.0, 0.0]).repeat(ticks, 1, 1)
        outputs[wrong] = torch.tensor([0.0, 1.0])
        assert (rcs_spiking(watched, outputs, torch.tensor([0])) > 0) == (wrong < ticks - tail)


def test_a_steady_response_costs_one():
    """All ticks alike: the cosine is 1 but for the small terms. Half of the ticks silent: 1 / the share that speak."""
    labels, outputs = torch.tensor([0]), torch.tensor([1.0, 0.0]).repeat(10, 1, 1)
    spikes, membranes = torch.ones(10, 1, 8), torch.zeros(10, 1, 8)
    assert rcs_spiking([Watched(spikes, membranes, 1.0)], outputs, labels).item() == pytest.approx(1, abs=1e-4)
    spikes[:5] = 0
    assert rcs_spiking([Watched(spikes, membranes, 1.0)], outputs, labels).item() == pytest.approx(2, abs=1e-3)


def cross_entropy(logits, label):
    highest = max(logits)
    return math.log(sum(math.exp(each - highest) for each in logits)) + highest - logits[label]


@settings(deadline=None)
@given(
    st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 5), st.integers(2, 4), st.sampled_from([0.0, 1e-3, 0.5])
)
def test_the_losses_are_their_formulas(seed, ticks, count, classes, share):
    """TET: each tick alone, (1 - share) entropy + share (output - level)^2. Anytime: of the mean output so far."""
    generator = torch.Generator().manual_seed(seed)
    outputs, labels = (
        3 * normal(generator, ticks, count, classes),
        torch.randint(0, classes, (count,), generator=generator),
    )
    o, y = outputs.tolist(), labels.tolist()
    entropy = distance = so_far = 0.0
    for t in range(ticks):
        for n in range(count):
            entropy += cross_entropy(o[t][n], y[n]) / (ticks * count)
            distance += sum((each - 0.75) ** 2 for each in o[t][n]) / (ticks * count * classes)
            mean = [sum(o[earlier][n][k] for earlier in range(t + 1)) / (t + 1) for k in range(classes)]
            so_far += cross_entropy(mean, y[n]) / (ticks * count)
    assert tet(outputs, labels, share, 0.75).item() == pytest.approx((1 - share) * entropy + share * distance, rel=1e-9)
    assert anytime(outputs, labels).item() == pytest.approx(so_far, rel=1e-9)


def test_the_defaults_of_tet_are_those_of_its_authors():
    """A share of 0.001 pulls outputs to 1."""
    outputs = torch.zeros(2, 3, 4)
    assert tet(outputs, torch.tensor([0, 1, 2])).item() == pytest.approx(0.999 * math.log(4) + 0.001)


# ------------------------------------------------------------------------------------------------------- the neurons


def run(layer, x, ticks, samples):
    """What the layer emits, and what was watched."""
    with running(layer, ticks=ticks, samples=samples, watch=True):
        return layer(x), layer.watched


def test_golden_spikes_of_tet():
    """Leak 0.5, reset to 0; worked out by hand (methods.md, TET LIF). Exactly at the threshold it stays silent."""
    x = torch.tensor([0.6, 0.6, 0.6, 1.0, 0.2, 1.5]).reshape(6, 1)
    emitted, watched = run(LeakyNeuron(), x, 6, 1)
    assert emitted.flatten().tolist() == [0, 0, 1, 0, 0, 1]
    assert watched.spikes.flatten().tolist() == [0, 0, 1, 0, 0, 1]
    assert watched.membranes.flatten().tolist() == pytest.approx([0.6, 0.9, 0, 1.0, 0.7, 0])


def test_surrogate_gradient_of_leaky_neurons():
    """Two ticks by the chain rule: the triangle at the spike, the leak and both paths of the reset."""
    x = torch.tensor([[0.7], [0.9]], dtype=torch.float64, requires_grad=True)
    emitted, _ = run(LeakyNeuron(), x, 2, 1)
    emitted.sum().backward()
    first, second = 0.7, 0.5 * 0.7 + 0.9  # silent, then 1.25 fires
    at_first, at_second = 1 - abs(first - 1), 1 - abs(second - 1)
    through_reset = 0.5 * (1 - 0 - first * at_first)  # d second / d first, of leak * u (1 - s)
    assert x.grad.flatten().tolist() == pytest.approx([at_first + at_second * through_reset, at_second])


def test_impossible_leaks_are_refused():
    with pytest.raises(ValueError, match=r"leak=1\.5, wanted 0 to 1"):
        LeakyNeuron(1.5)


def test_gradients_of_the_activation_at_its_edges():
    """Theta 2, 4 levels: nothing at and below 0; (y - x) / theta inside; 1 for theta from theta on."""
    x = torch.tensor([-1.0, 0.0, 0.5, 0.7, 1.9, 2.0, 3.0], requires_grad=True)
    slopes = [0, 0, 0, (0.5 - 0.7) / 2, (2.0 - 1.9) / 2, 1, 1]
    for n, slope in enumerate(slopes):
        layer = QCFS(4, 2.0)
        by_x, by_theta = torch.autograd.grad(layer(x)[n], (x, layer.threshold))
        assert by_theta.item() == pytest.approx(slope, abs=1e-7)
        assert by_x.tolist() == [float(i == n and n in (2, 3, 4)) for i in range(7)]


@pytest.mark.parametrize("fails", [False, True])
def test_running_sets_the_mode_and_takes_it_back(fails):
    """As a ReLU, as itself, as neurons; afterwards an activation that holds nothing, even when something failed."""
    x = torch.tensor([[-1.0, 0.6], [0.9, 5.0]])
    network = nn.Sequential(QCFS(4, 2.0))
    before = network(x)
    assert before.tolist() == [[0, 0.5], [1, 2]]
    with running(network, rectify=True, watch=True):
        assert torch.equal(network(x), x.relu())
        assert network[0].watched.spikes is None
        assert torch.equal(network[0].watched.membranes, x)
    with running(network, ticks=8, samples=2, watch=True):
        spikes, membranes = fire(x.expand(8, 2, 2), network[0].threshold)
        assert torch.equal(network(x), (spikes * 2).reshape(16, 2))
        assert torch.equal(network[0].watched.spikes, spikes)
        assert torch.equal(network[0].watched.membranes, membranes)
        assert network[0].watched.threshold is network[0].threshold
    with (
        pytest.raises(KeyError) if fails else running(network, ticks=1),
        running(network, ticks=3, samples=2, watch=True),
    ):
        network(x)
        assert network[0].watched.spikes.shape == (3, 2, 2)
        if fails:
            raise KeyError
    assert (network[0].ticks, network[0].watched, network[0].watch) == (0, None, False)
    assert torch.equal(network(x), before)


def test_leaky_neurons_are_no_activation():
    with pytest.raises(ValueError, match="LeakyNeuron has no activation; train it in stages of kind 'spiking'"):
        LeakyNeuron()(torch.zeros(1))


LAYERS = {"qcfs": lambda: QCFS(4, 1.5), "leaky": lambda: LeakyNeuron(0.25)}
FUSED = {**LAYERS, "soft": SoftNeuron, "inflor": InfLoR, "hard": lambda: InfLoR("value", False)}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_constant_current_is_the_image_at_every_tick(kind):
    """Showing N images once is showing them T times: emitted, watched and gradients."""
    generator = torch.Generator().manual_seed(1)
    once = (2 * normal(generator, 3, 2, 4, 5)).requires_grad_()
    repeated = once.detach().repeat(6, 1, 1, 1).requires_grad_()
    layer = LAYERS[kind]().double()
    (short, seen), (long, also) = run(layer, once, 6, 3), run(layer, repeated, 6, 3)
    assert torch.equal(short, long)
    assert 0 < seen.spikes.mean() < 1
    assert torch.equal(seen.spikes, also.spikes)
    assert torch.equal(seen.membranes, also.membranes)
    upstream = normal(generator, *short.shape)
    (short * upstream).sum().backward()
    (long * upstream).sum().backward()
    torch.testing.assert_close(once.grad, repeated.grad.reshape(6, *once.shape).sum(0))


@pytest.mark.parametrize("kind", LAYERS)
def test_channels_last_changes_no_number(kind):
    """Neurons know no neighbours: the order of memory changes neither what is emitted nor what is watched."""
    generator = torch.Generator().manual_seed(2)
    x = (2 * normal(generator, 12, 3, 4, 5)).requires_grad_()
    upstream = normal(generator, *x.shape)
    layer = LAYERS[kind]().double()
    results = []
    for form in (torch.contiguous_format, torch.channels_last):
        emitted, seen = run(layer, x.contiguous(memory_format=form), 4, 3)
        assert emitted.is_contiguous(memory_format=form)
        results.append((emitted, *seen[:2], torch.autograd.grad((emitted * upstream).sum(), x)[0]))
    for one, other in zip(*results, strict=True):
        assert one.shape == other.shape
        assert torch.equal(one, other)


@pytest.fixture(scope="module")
def network():
    """A residual network in double precision, with statistics to normalise by."""
    torch.manual_seed(0)
    net = ResNet((1, 1), 4, 3, lambda: QCFS(4, 1.0)).double()
    for _ in range(20):
        net(torch.rand(8, 3, 8, 8, dtype=torch.float64))
    return net.eval()


def test_a_network_takes_images_frames_and_either_memory_format(network):
    """One image a sample, the same image as frames, and channels last: the same outputs at every tick."""
    images = torch.rand(5, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    with torch.no_grad(), running(network, ticks=6, samples=5):
        wanted = spiking_outputs(network, images, 6)
        assert wanted.shape == (6, 5, 3)
        assert wanted.std(0).min() > 0
        torch.testing.assert_close(spiking_outputs(network, images[:, None].expand(5, 6, 3, 8, 8), 6), wanted)
        last = images.contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(spiking_outputs(network, last, 6), wanted)


@compiled
@pytest.mark.parametrize("kind", ["activation", *FUSED])
def test_compiled_layers_compute_what_eager_ones_do(kind):
    """The same numbers where floats are exact, gradients up to rounding. Skipped without a C++ compiler."""
    generator = torch.Generator().manual_seed(3)
    layer = FUSED["qcfs" if kind == "activation" else kind]()
    x = (torch.randint(-32, 64, (12, 2, 3, 3), generator=generator) / 16).requires_grad_()
    upstream = torch.randn(x.shape, generator=generator)
    results = []
    for compiling in (False, True):
        layer.compiled = compiling
        with running(layer, ticks=0 if kind == "activation" else 4, samples=3, watch=True):
            emitted, seen = layer(x), layer.watched
        gradients = torch.autograd.grad((emitted * upstream).sum(), [x, *layer.parameters()])
        results.append((emitted, *(each for each in seen[:2] if each is not None), *gradients))
    for eager, fused in zip(*results, strict=True):
        torch.testing.assert_close(fused, eager)
    assert torch.equal(results[0][0], results[1][0])


@compiled
def test_compiled_rcs_is_the_eager_one():
    """Fused sums choose the same sample. Skipped without a C++ compiler."""
    generator = torch.Generator().manual_seed(5)
    spikes, membranes = (normal(generator, 4, 6, 3, 2, 2) > 0).float(), normal(generator, 4, 6, 3, 2, 2).float()
    outputs, labels = answers(generator, (4,), 6, 1)
    found = [rcs_spiking([Watched(spikes, membranes, 1.0)], outputs, labels, choice) for choice in (False, True)]
    torch.testing.assert_close(*found)


# ----------------------------------------------------------------------------------------------------------- dropout

DROPPING = {**LAYERS, "activation": LAYERS["qcfs"]}


@pytest.mark.parametrize("kind", DROPPING)
def test_dropout_is_behind_the_neurons_and_new_in_every_tick(kind):
    """Wu et al.: an nn.Dropout on what neurons emit. They fire as without it, and no tick or sample shares a mask."""
    ticks, samples, neurons_each, share = 5, 40, 500, 0.3
    layer = DROPPING[kind]()
    x = torch.full((samples, neurons_each), 1.6)  # all fire in every tick
    rows = 1 if kind == "activation" else ticks
    how = {"ticks": 0 if kind == "activation" else ticks, "samples": samples, "watch": True}
    with running(layer, **how):
        whole, seen = layer(x), layer.watched
    with running(layer, **how, dropout=share, generator=draw()):
        dropped, also = layer(x), layer.watched
    assert (layer.dropout, layer.generator) == (0.0, None)
    assert whole.all()
    for one, other in zip(seen[:2], also[:2], strict=True):  # spikes, which an activation has not, and membranes
        assert one is other or torch.equal(one, other)
    kept = dropped != 0
    torch.testing.assert_close(dropped, torch.where(kept, whole / (1 - share), 0.0))
    kept = kept.reshape(rows, samples, neurons_each).double()
    deviation = 5 * math.sqrt(share * (1 - share) / kept.numel())
    assert kept.mean().item() == pytest.approx(1 - share, abs=deviation)
    for neighbour in (kept[1:] * kept[:-1], kept[:, 1:] * kept[:, :-1]):  # independent: both kept as often as by chance
        if neighbour.numel():
            assert neighbour.mean().item() == pytest.approx((1 - share) ** 2, abs=0.02)


@pytest.mark.parametrize("share", [1.0, -0.1, float("nan")])
def test_impossible_dropout_is_refused(share, network):
    """One sentence, and the network is left as it was."""
    images = np.zeros((2, 3, 8, 8), np.uint8)
    for act in (lambda: tool.stepped(network, images, None, 2, dropout=share), lambda: enter(network, share)):
        with pytest.raises(ValueError, match=rf"^dropout is {share}, wanted a share from 0 to below 1$"):
            act()
    assert not any(layer.ticks or layer.dropout for layer in neurons(network))


def enter(network, share):
    with running(network, dropout=share):
        pass


# -------------------------------------------------------------------------------------------------------------- TEBN


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("constant", [True, False])
def test_tebn_is_its_formula(training, constant):
    """y_t = p[t] (gamma (x_t - mean) / sqrt(variance + eps) + beta), statistics of all ticks and samples at once."""
    generator = torch.Generator().manual_seed(6)
    ticks, count, channels = 5, 3, 4
    norm = TEBN(channels, ticks).double()
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(normal(generator, *parameter.shape))
        norm.norm.running_mean.copy_(normal(generator, channels))
        norm.norm.running_var.copy_(normal(generator, channels).square() + 0.1)
    norm.train(training)
    running_mean, running_var = norm.norm.running_mean.clone(), norm.norm.running_var.clone()
    x = 2 + normal(generator, count if constant else ticks * count, channels, 3, 2)
    with running(norm, ticks=ticks, samples=count):
        found = norm(x)

    frames = [x if constant else x[t * count : (t + 1) * count] for t in range(ticks)]
    seen = torch.stack(frames)
    for c in range(channels):
        values = seen[:, :, c].flatten().tolist()
        mean = sum(values) / len(values) if training else running_mean[c].item()
        spread = sum((value - mean) ** 2 for value in values) / len(values)
        variance = spread if training else running_var[c].item()
        gamma, beta = norm.norm.weight[c], norm.norm.bias[c]
        for t in range(ticks):
            wanted = norm.p[t] * (gamma * (frames[t][:, c] - mean) / math.sqrt(variance + 1e-5) + beta)
            torch.testing.assert_close(found[t * count : (t + 1) * count, c], wanted)
        assert norm.norm.running_mean[c].item() == pytest.approx(
            0.9 * running_mean[c] + 0.1 * mean if training else mean
        )
    assert torch.equal(norm.norm.running_var, running_var) != training


@pytest.mark.parametrize("constant", [True, False])
def test_tebn_runs_fewer_ticks_than_it_has(constant):
    """The first factors are those of the first ticks, as in the converted network's tables; more ticks are refused."""
    norm = TEBN(2, 5).eval()
    with torch.no_grad():
        norm.p.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    x = torch.ones(2 if constant else 6, 2, 1, 1)
    with running(norm, ticks=3, samples=2):
        found = norm(x).reshape(3, 4)
    torch.testing.assert_close(found, torch.tensor([1.0, 2.0, 3.0])[:, None].expand(3, 4) / math.sqrt(1 + 1e-5))
    with pytest.raises(ValueError, match="TEBN has factors for 5 ticks, but 6 are run"), running(norm, ticks=6):
        norm(x)


# ------------------------------------------------------------------------------------------------------ augmentation


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def test_crops_are_slices_of_the_padded_image():
    """Whole pixels, zeros coming in, the same way in all channels, every offset drawn about as often."""
    most, count = 2, 2000
    images = 0.1 + torch.rand(count, 2, 5, 4, generator=draw(1))
    moved = tool.augmented(images, tool.Augment(crop=most), draw())
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (most, most), (most, most)))
    drawn = {}
    for n in range(count):
        offsets = [(down, across) for down in range(2 * most + 1) for across in range(2 * most + 1)]
        slices = {(d, a): padded[n, :, d : d + 5, a : a + 4] for d, a in offsets}
        (offset,) = (o for o, each in slices.items() if np.array_equal(each, moved[n].numpy()))
        drawn[offset] = drawn.get(offset, 0) + 1
    assert len(drawn) == 25
    assert max(drawn.values()) < 2 * count / 25
    assert min(drawn.values()) > 0.5 * count / 25
    assert torch.equal(moved, tool.augmented(images, tool.Augment(crop=most), draw()))
    assert not torch.equal(moved, tool.augmented(images, tool.Augment(crop=most), draw(1)))


def test_a_flip_mirrors_half_of_the_images():
    """Left and right change places in about half, and nothing happens to the others."""
    images = torch.rand(1000, 2, 3, 4, generator=draw(1))
    moved = tool.augmented(images, tool.Augment(flip=True), draw())
    mirrored = torch.tensor([torch.equal(one, other.flip(-1)) for one, other in zip(moved, images, strict=True)])
    kept = torch.tensor([torch.equal(one, other) for one, other in zip(moved, images, strict=True)])
    assert torch.equal(mirrored, ~kept)
    assert 420 < mirrored.sum() < 580
    assert torch.equal(moved, tool.augmented(images, tool.Augment(flip=True), draw()))


@pytest.mark.parametrize("side", [1, 3, 4])
def test_cutout_covers_one_square(side):
    """Grey in rows and columns that reach from side // 2 before a point to side in all, cut at the border."""
    height, width = 6, 5
    images = torch.rand(1500, 2, height, width, generator=draw(1)) * 0.4
    moved = tool.augmented(images, tool.Augment(cutout=side), draw())
    points = set()
    squares = {}
    for y in range(height):
        for x in range(width):
            square = torch.zeros(height, width, dtype=torch.bool)
            square[max(0, y - side // 2) : y - side // 2 + side, max(0, x - side // 2) : x - side // 2 + side] = True
            squares[y, x] = square
    for one, other in zip(moved, images, strict=True):
        changed = (one != other).any(0)
        points |= {point for point, square in squares.items() if torch.equal(square, changed)}
        assert torch.equal(one, torch.where(changed, torch.tensor(0.5), other))
        assert any(torch.equal(square, changed) for square in squares.values())
    assert len(points) == height * width
    assert torch.equal(moved, tool.augmented(images, tool.Augment(cutout=side), draw()))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("crop = 3", "rotate = 3", "'augment' moves frames of events only by crop, flip and cutout"),
        ("crop = 3", "crop = -1", r"'augment.crop' is -1, wanted 0 or more"),
        ('path = "nmnist_subset.h5"', "", "'data.path' is missing, wanted an HDF5 file of events"),
        ("ticks = 10\nloss", "ticks = 4\nloss", "'stages.ticks' is 4, but the frames of events are 10 ticks long"),
        ("rcs = 0.002", "rcs = -0.002", r"'stages.rcs' is -0.002, wanted 0 or more"),
        ("rcs = 0.002", "percentile = 101", r"'stages.percentile' is 101.0, wanted 0 to 100"),
        ('kind = "spiking"', 'kind = "quantised"\nrate_penalty = 1', r"in a stage of kind 'quantised': no spikes"),
    ],
)
def test_keys_that_do_not_go_together_are_named(tmp_path, old, new, message):
    text = (ROOT / "tools" / "recipes" / "nmnist-tet-rcs.toml").read_text()
    assert old in text
    path = tmp_path / "recipe.toml"
    path.write_text(text.replace(old, new).replace('loss = "tet"', "" if "quantised" in new else 'loss = "tet"'))
    with pytest.raises(ValueError, match=message):
        tool.read_recipe(path)


@pytest.mark.parametrize("how", [tool.Augment(crop=2), tool.Augment(flip=True), tool.Augment(cutout=3)])
def test_frames_are_moved_alike_in_all_ticks(how):
    """(N, ticks, C, H, W) moves as the images of the ticks do when they draw the same numbers."""
    frames = torch.rand(20, 3, 2, 6, 5, generator=draw(1))
    moved = tool.augmented(frames, how, draw())
    assert not torch.equal(moved, frames)
    for t in range(3):
        alone = tool.augmented(frames[:, t], how, draw())
        if how.cutout:  # grey in an image, no events in a frame
            alone = torch.where((alone == 0.5) & (frames[:, t] != 0.5), 0.0, alone)
        assert torch.equal(moved[:, t], alone)


def test_nothing_asked_changes_nothing():
    images = torch.rand(3, 1, 4, 4)
    assert torch.equal(tool.augmented(images, tool.Augment(), draw()), images)


# ----------------------------------------------------------------------------------------------------------- samples


@pytest.fixture
def event_file(tmp_path):
    """Five short recordings of a 5 x 3 sensor; the first has 300 events of one pixel in one tick, the third none.

    Two are of split 1, the last of them of a class that split 0 does not have.
    """
    rng = np.random.default_rng(0)
    counts = [400, 30, 0, 70, 20]
    n = sum(counts)
    columns = {
        "t": rng.integers(0, 500, n).astype(np.uint32),
        "x": rng.integers(0, 5, n).astype(np.uint8),
        "y": rng.integers(0, 3, n).astype(np.uint8),
        "p": rng.integers(0, 2, n).astype(np.uint8),
    }
    for name, value in (("t", 250), ("x", 4), ("y", 2), ("p", 1)):
        columns[name][:300] = value
    columns["t"][300:306] = [0, 99, 100, 299, 300, 399]  # both ends of ticks of 100
    with h5py.File(tmp_path / "events.h5", "w") as file:
        for name, values in columns.items():
            file[name] = values
        file["offsets"] = np.r_[0, np.cumsum(counts)]
        file["labels"] = np.array([3, 2, 2, 0, 1], np.uint8)
        file["split"] = np.array([0, 1, 0, 0, 1], np.uint8)
        file.attrs["sensor_height"], file.attrs["sensor_width"] = 3, 5
    return tmp_path / "events.h5", columns, counts


def test_events_are_counted_in_ticks(event_file, monkeypatch):
    """Bins against a loop over the events: half-open ticks, later ones left out, counts that stop at 255.

    Held out are only recordings of classes that can be trained.
    """
    path, columns, counts = event_file
    wanted = np.zeros((5, 3, 2, 3, 5), int)
    sample = [s for s, count in enumerate(counts) for _ in range(count)]
    for n, t, x, y, p in zip(sample, *(columns[name] for name in "txyp"), strict=True):
        if t < 300:
            wanted[n, int(t) // 100, p, y, x] += 1
    assert wanted.max() >= 300
    wanted = np.minimum(wanted, 255)
    known, held_out = samples.events(str(path), 3, 100)
    assert known.images.dtype == np.uint8
    assert np.array_equal(known.images, wanted[[0, 2, 3]])
    assert np.array_equal(held_out.images, wanted[[1]])
    assert (known.labels.tolist(), held_out.labels.tolist()) == ([3, 2, 0], [2])
    assert torch.equal(tool.as_tensor(known.images), torch.from_numpy(wanted[[0, 2, 3]]).float())  # counts stay counts

    monkeypatch.setenv("EVENTSNN_DATA", str(path.parent))
    (path.parent / "data").mkdir()
    shutil.move(path, path.parent / "data" / "moved.h5")
    assert np.array_equal(samples.events("moved.h5", 3, 100)[0].images, known.images)
    with pytest.raises(ValueError, match=r"none\.h5 is not there; set EVENTSNN_DATA, or give an HDF5 file of events"):
        samples.events("none.h5", 3, 100)


@pytest.fixture
def pictures():
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (7, 3, 32, 32), dtype=np.uint8), np.array([9, 0, 4, 4, 1, 2, 8])


def binary(images, labels):
    """Records of CIFAR-10's binary form: a label, then the red, green and blue planes."""
    return b"".join(bytes([label]) + image.tobytes() for image, label in zip(images, labels, strict=True))


def pickled(images, labels):
    """A batch of CIFAR-10's Python form."""
    return pickle.dumps({b"data": images.reshape(len(images), -1), b"labels": labels.tolist()}, 2)


@pytest.mark.parametrize(("write", "ending"), [(binary, ".bin"), (pickled, "")])
def test_cifar_of_an_ordinary_folder(tmp_path, monkeypatch, pictures, write, ending):
    """Training batches in order, then the test images; the first KNOWN are trained on, all others held out."""
    images, labels = pictures
    monkeypatch.setattr(samples, "KNOWN", 3)
    for name, part in (("data_batch_1", slice(0, 2)), ("data_batch_2", slice(2, 5)), ("test_batch", slice(5, 7))):
        (tmp_path / (name + ending)).write_bytes(write(images[part], labels[part]))
    known, held_out = samples.cifar(str(tmp_path))
    assert (len(known), len(held_out)) == (3, 4)
    assert np.array_equal(np.concatenate([known.images, held_out.images]), images)
    assert np.r_[known.labels, held_out.labels].tolist() == labels.tolist()
    assert known.labels.dtype == np.uint8
    (tmp_path / ("test_batch" + ending)).unlink()
    with pytest.raises(ValueError, match="nothing of the test split"):
        samples.cifar(str(tmp_path))


def test_cifar100_of_an_ordinary_folder(tmp_path, pictures):
    """Its fine labels; a network for it has 100 outputs, and a recipe has to name the folder."""
    images, labels = pictures
    for name, part in (("train", slice(0, 5)), ("test", slice(5, 7))):
        batch = {b"data": images[part].reshape(-1, 3072), b"fine_labels": (labels[part] + 90).tolist()}
        (tmp_path / name).write_bytes(pickle.dumps(batch | {b"coarse_labels": [1] * len(labels[part])}, 2))
    text = (ROOT / "tools" / "recipes" / "resnet18.toml").read_text().replace('"cifar10"', '"cifar100"', 1)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(text)
    with pytest.raises(ValueError, match=r"'data\.path' is missing, wanted a CIFAR-100 folder"):
        tool.read_recipe(recipe)
    text = text.replace('resnet18"', 'resnet18_cifar100"')
    recipe.write_text(text.replace('"cifar100"', f'"cifar100"\npath = "{tmp_path}"'))
    known, held_out = tool.load(tool.read_recipe(recipe))
    assert np.array_equal(np.concatenate([known.images, held_out.images]), images)
    assert np.r_[known.labels, held_out.labels].tolist() == (labels + 90).tolist()
    assert tool.new_network(tool.read_recipe(recipe)).fc.out_features == 100


def test_cifar_of_the_packed_copy(tmp_path, monkeypatch, pictures):
    """PNGs between offsets, in the order of the training images; an absent copy is a sentence that says what to do."""
    from PIL import Image

    images, labels = pictures
    monkeypatch.setenv("EVENTSNN_DATA", str(tmp_path))
    monkeypatch.setattr(samples, "KNOWN", 3)
    for path in ("", str(tmp_path / "no-folder")):
        with pytest.raises(ValueError, match=r"is not there; set EVENTSNN_DATA, or give a CIFAR") as caught:
            samples.cifar(path)
        assert "\n" not in str(caught.value)

    def packed(split, part):
        encoded = []
        for image in images[part]:
            stream = io.BytesIO()
            Image.fromarray(image.transpose(1, 2, 0)).save(stream, "PNG")
            encoded.append(stream.getvalue())
        bytes_of = np.frombuffer(b"".join(encoded), np.uint8)
        offsets = np.r_[0, np.cumsum([len(each) for each in encoded])]
        return {
            f"{split}_bytes": bytes_of,
            f"{split}_offsets": offsets,
            f"{split}_labels": labels[part].astype(np.uint8),
        }

    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "cifar10.npz", **packed("train", slice(0, 2)), **packed("test_lossless", slice(5, 7)))
    with pytest.raises(ValueError, match=r"cifar10_train_part2\.npz is not there"):
        samples.cifar()
    np.savez(tmp_path / "data" / "cifar10_train_part2.npz", **packed("train", slice(2, 5)))
    known, held_out = samples.cifar()
    assert np.array_equal(np.concatenate([known.images, held_out.images]), images)
    assert np.r_[known.labels, held_out.labels].tolist() == labels.tolist()
    assert len(known) == 3


# ---------------------------------------------------------------------------------------------------------- training


def tiny_residual():
    """Named by the recipe of these tests."""
    return ResNet((1, 1), 4, 3, lambda: QCFS(4))


def tiny_events():
    """As above, for frames of 5 x 4 pixels and 3 ticks."""
    parts = (nn.Conv2d(2, 4, 3, padding=1, bias=False), TEBN(4, 3), LeakyNeuron(0.25), nn.Flatten(), nn.Linear(80, 3))
    return nn.Sequential(*parts)


def recipe_of(factory, *stages, **changes):
    fields = {
        "name": "tiny",
        "model": f"{__name__}:{factory.__name__}",
        "seed": 1,
        "threads": 1,
        "batch": 8,
        "ticks": 3,
        "checkpoint": "",
        "data": tool.Data("cifar10", normalise="cifar10"),
        "augment": tool.Augment(crop=1, flip=True, cutout=2),
        "stages": stages,
        "export": tool.Export(""),
    }
    return tool.Recipe(**fields | changes)


RELU = tool.Stage("relu", 2, 0.05, 5e-4, optimiser="sgd")
QUANTISED = tool.Stage("quantised", 2, 0.05, 5e-4, ticks=4, optimiser="sgd", rcs=0.01, percentile=99.0)
SPIKING = tool.Stage("spiking", 2, 0.01, 5e-4, ticks=4, loss="anytime", optimiser="sgd", rcs=0.01, warmup=0.05)
TET = tool.Stage("spiking", 3, 0.01, 0.01, ticks=3, loss="tet", rcs=0.01, rate_penalty=0.1)


@pytest.fixture
def tiny():
    """Twenty images that their label makes brighter in one channel."""
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 3, 20).astype(np.uint8)
    images = rng.integers(0, 120, (20, 3, 8, 8)).astype(np.uint8)
    images[np.arange(20), labels] += 100
    return images, labels


def same_bits(network, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in network.state_dict().items())


def stopped_and_resumed(recipe, images, labels, folder):
    """Two trainings: one that ran through, one that was stopped after every epoch; and the losses of the first."""
    losses = []
    whole, _ = tool.train(recipe, images, labels, folder / "whole.pt", tell=lambda *told: losses.append(told[2]))

    def stop(*told):
        raise KeyboardInterrupt

    epochs = sum(stage.epochs for stage in recipe.stages)
    for _ in range(epochs):
        with pytest.raises(KeyboardInterrupt):
            tool.train(recipe, images, labels, folder / "parts.pt", tell=stop)
    parts, _ = tool.train(recipe, images, labels, folder / "parts.pt", tell=stop)
    assert len(losses) == epochs
    return whole, parts, losses


def test_every_stage_goes_on_to_the_same_weights(tmp_path, tiny):
    """ReLU, thresholds from percentiles, QCFS and spikes with RCS: stopped after every epoch, the bits are the same."""
    recipe = recipe_of(tiny_residual, RELU, QUANTISED, SPIKING)
    whole, parts, losses = stopped_and_resumed(recipe, *tiny, tmp_path)
    assert same_bits(whole, parts)
    assert losses[1] < losses[0]
    assert len({layer.threshold.item() for layer in neurons(whole)}) == len(neurons(whole))


def test_frames_of_events_go_on_to_the_same_weights(tmp_path):
    """The TET loss on frames, with TEBN, leaky neurons, RCS and a price on spikes."""
    rng = np.random.default_rng(3)
    frames, labels = rng.integers(0, 3, (20, 3, 2, 5, 4)).astype(np.uint8), rng.integers(0, 3, 20).astype(np.uint8)
    recipe = recipe_of(tiny_events, TET, data=tool.Data("events", path="x", tick_us=1), augment=tool.Augment(crop=1))
    whole, parts, _ = stopped_and_resumed(recipe, frames, labels, tmp_path)
    assert same_bits(whole, parts)
    assert not torch.equal(whole[1].p, torch.ones(3))


@pytest.mark.parametrize("factory", [tiny_residual, tiny_events])
@pytest.mark.parametrize("last", [False, True], ids=["rows", "channels_last"])
def test_rcs_of_one_sample_computed_again_has_the_same_gradient(factory, last):
    """Cut off from the gradients but for the worst sample, computed again: value and gradients as of the whole."""
    torch.manual_seed(4)
    network = factory().double()
    frames = factory is tiny_events
    x = torch.randn((5, 3, 2, 5, 4) if frames else (5, 3, 8, 8), dtype=torch.float64) * 3
    x = x.contiguous(memory_format=torch.channels_last) if last and not frames else x
    network = network.to(memory_format=torch.channels_last) if last else network
    found = []
    for detach in (False, True):
        network.zero_grad()
        with running(network, ticks=3, samples=5, watch=True, detach=detach):
            outputs = spiking_outputs(network, x, 3)
            watched = [layer.watched for layer in neurons(network)]
        assert all(layer.spikes.requires_grad is not detach for layer in watched[1:])
        watched = watched if detach else [layer._replace(again=None) for layer in watched]
        value = rcs_spiking(watched, outputs, outputs[-1].argmax(-1))
        assert value > 0
        value.backward()
        found.append([value.detach(), *(p.grad for p in network.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) > 4
    for whole, again in zip(*found, strict=True):
        torch.testing.assert_close(again, whole, rtol=1e-9, atol=1e-12)


def test_rcs_changes_what_is_trained(tmp_path, tiny):
    """If this fails, the weight of the regulariser does not reach the training of its stage."""
    for stage in (replace(QUANTISED, epochs=1), replace(SPIKING, epochs=1)):
        without, _ = tool.train(
            recipe_of(tiny_residual, replace(stage, rcs=0.0)), *tiny, tmp_path / f"{stage.kind}0.pt"
        )
        again, _ = tool.train(recipe_of(tiny_residual, replace(stage, rcs=0.0)), *tiny, tmp_path / f"{stage.kind}1.pt")
        with_it, _ = tool.train(
            recipe_of(tiny_residual, replace(stage, rcs=1.0)), *tiny, tmp_path / f"{stage.kind}2.pt"
        )
        assert same_bits(without, again)
        assert not same_bits(without, with_it)


@compiled
def test_bfloat16_goes_on_to_the_same_weights(tmp_path, tiny):
    """Reduced precision with fused loops, as the shipped recipes train. Skipped without a C++ compiler."""
    stages = (replace(QUANTISED, epochs=1), replace(SPIKING, epochs=2))
    whole, parts, _ = stopped_and_resumed(recipe_of(tiny_residual, *stages, precision="bfloat16"), *tiny, tmp_path)
    assert same_bits(whole, parts)
    assert all(value.dtype != torch.bfloat16 for value in whole.state_dict().values())


def test_thresholds_are_percentiles(tiny):
    """Each threshold is numpy's percentile of the positive numbers that reach its layer while all layers are ReLUs."""
    recipe = recipe_of(tiny_residual, RELU)
    network = tool.new_network(recipe)
    for _ in range(5):
        network(torch.rand(8, 3, 8, 8))
    seen = {}
    for name, layer in network.named_modules():
        if isinstance(layer, Neuron):
            layer.register_forward_hook(lambda layer, inputs, output, name=name: seen.update({name: inputs[0]}))
    network.eval()
    with torch.no_grad(), running(network, rectify=True):
        network(tool.normalised(tool.as_tensor(tiny[0]), "cifar10"))
    inputs = {name: x.numpy() for name, x in seen.items()}
    tool._set_thresholds(network.train(), recipe, 97.5, torch.from_numpy(tiny[0]), "cpu")
    assert len(inputs) == 5
    for name, x in inputs.items():
        assert network.get_submodule(name).threshold.item() == np.float32(np.percentile(x[x > 0], 97.5))


def test_a_training_starts_from_another(tmp_path, tiny):
    """The weights of `start` are where a training begins; one that is not there is a sentence."""
    recipe = recipe_of(tiny_residual, replace(RELU, epochs=1))
    begun, seconds = tool.train(recipe, *tiny, tmp_path / "begun.pt")
    start = str(tmp_path / "start.pt")
    with pytest.raises(ValueError, match=r"'start' is '.*start\.pt', which is not there; run the recipe") as caught:
        tool.train(replace(recipe, start=start), *tiny, tmp_path / "no.pt")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "no.pt").exists()
    tool.save_state(replace(recipe, export=tool.Export(start)), begun, seconds, "cpu")
    assert same_bits(tool.new_network(replace(recipe, start=start, seed=7)), begun)
    assert not same_bits(tool.new_network(recipe), begun)


def test_a_checkpoint_knows_what_it_came_from(tmp_path, tiny):
    """A stage can be added to a training that is done; another start, stage or precision never goes on from it."""
    one = replace(RELU, epochs=1)
    recipe = recipe_of(tiny_residual, one)
    begun, seconds = tool.train(recipe, *tiny, tmp_path / "c.pt")
    trained = []
    longer = replace(recipe, stages=(one, replace(QUANTISED, epochs=1)))
    whole, _ = tool.train(longer, *tiny, tmp_path / "whole.pt")
    added, _ = tool.train(longer, *tiny, tmp_path / "c.pt", tell=lambda stage, *told: trained.append(stage.kind))
    assert trained == ["quantised"]
    assert same_bits(added, whole)

    tool.save_state(replace(recipe, export=tool.Export(str(tmp_path / "start.pt"))), begun, seconds, "cpu")
    changes = {
        "start": str(tmp_path / "start.pt"),
        "precision": "bfloat16",
        "stages": (replace(one, learning_rate=0.04), longer.stages[1]),
        "data": tool.Data("cifar10"),
    }
    for name, value in changes.items():
        with pytest.raises(ValueError, match="belongs to another recipe or other samples"):
            tool.train(replace(longer, **{name: value}), *tiny, tmp_path / "c.pt")
    with pytest.raises(ValueError, match="belongs to another recipe or other samples"):
        tool.train(recipe, *tiny, tmp_path / "c.pt")  # its weights are two stages old


# ---------------------------------------------------------------------------------------------------------- stepping


def a_sequence(*layers):
    """In double precision, with statistics to normalise by and biases, so that neurons are neither silent nor full."""
    generator = draw(7)
    module = nn.Sequential(*layers).double().eval().requires_grad_(False)
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            part.weight.normal_(0.05, 1.5 / part.weight[0].numel() ** 0.5, generator=generator)
            if part.bias is not None:
                part.bias.normal_(0.1, 0.2, generator=generator)
        elif isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.3, generator=generator)
            part.running_var.uniform_(0.5, 2, generator=generator)
            part.bias.normal_(0.2, 0.3, generator=generator)
        elif isinstance(part, TEBN):
            part.p.uniform_(0.4, 1.8, generator=generator)
    return module


def ends_in_qcfs():
    return a_sequence(nn.Conv2d(3, 4, 3), QCFS(4, 0.5), nn.Flatten(), nn.Linear(144, 3), QCFS(4, 5.0))


def takes_frames():
    """Three TEBN ticks of 5 x 4 pixels."""
    first = (nn.Conv2d(2, 4, 3, padding=1, bias=False), TEBN(4, 3), LeakyNeuron(0.25))
    return a_sequence(*first, nn.Conv2d(4, 6, 3), TEBN(6, 3), LeakyNeuron(), nn.Flatten(), nn.Linear(36, 3))


def shown(kind, network):
    """The module, its samples in PyTorch and in the engine, how they are normalised, and the converted network."""
    rng = np.random.default_rng(4)
    if kind == "frames":
        module = takes_frames()
        frames = rng.poisson(0.4, (7, 3, 2, 5, 4)).astype(np.uint8)
        sample, tick, neuron = (np.repeat(index, frames.ravel()) for index in np.indices((7, 3, 40)).reshape(3, -1))
        offsets = np.searchsorted(sample, np.arange(8))
        events = es.Events(t=tick * 1000, neuron=neuron, offsets=offsets)
        converted = es.from_torch(module, np.zeros((1, 2, 5, 4), np.float32), ticks=3)
        return module, frames, events, "", replace(converted, encoding="events", tick_seconds=1e-3)
    module = network if kind == "linear head" else ends_in_qcfs()
    images = rng.integers(0, 256, (7, 3, 8, 8), dtype=np.uint8)
    return module, images, images, "cifar10", es.from_torch(module, images, ticks=6, normalise="cifar10")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kind", ["linear head", "output neurons", "frames"])
def test_stepped_is_the_engine(kind, dtype, network, monkeypatch):
    """If this fails, cutoffs are calibrated on other outputs than the network has; and batches must not matter."""
    module, images, inputs, normalise, converted = shown(kind, network)
    if dtype == "float32":
        module = copy.deepcopy(module).float()
    labels = np.arange(7) % 3
    monkeypatch.setattr(tool, "AT_ONCE", 3)
    for ticks in (converted.ticks, converted.ticks - 1):
        run = es.simulate(converted, inputs, labels, ticks=ticks, watchdog=es.Fixed(), dtype=dtype)
        found = tool.stepped(module.train(), images, labels, ticks, normalise)
        assert not module.training
        assert found.outputs.dtype == np.float64
        assert found.outputs[:, -1].std(0).max() > 0
        rounding = 1e-10 if dtype == "float64" else 1e-4
        np.testing.assert_allclose(found.outputs, run.outputs, rtol=rounding, atol=rounding)
        np.testing.assert_allclose(found.margins, run.trace.margins, rtol=rounding, atol=rounding)
        assert (found.margins.shape, found.readout) == (run.trace.margins.shape, run.trace.readout)
        assert found.labels.tolist() == run.trace.labels.tolist()
        assert found.stop_time.tolist() == run.trace.stop_time.tolist()


def test_stepped_drops_as_its_seed_says(network, monkeypatch):
    """The same with the same seed, other with another, and every batch draws on; so the authors' thresholds repeat."""
    monkeypatch.setattr(tool, "AT_ONCE", 4)
    rng = np.random.default_rng(5)
    images = np.concatenate([rng.integers(0, 256, (4, 3, 8, 8), dtype=np.uint8)] * 2)
    labels = np.arange(8) % 3

    def outputs(**how):
        return tool.stepped(network, images, labels, 5, "cifar10", **how).outputs

    plain, dropped = outputs(), outputs(dropout=0.3)
    assert np.array_equal(plain[:4], plain[4:])
    assert not np.array_equal(dropped[:4], dropped[4:])
    assert not np.array_equal(plain, dropped)
    assert np.array_equal(dropped, outputs(dropout=0.3))
    assert not np.array_equal(dropped, outputs(dropout=0.3, seed=1))
    assert np.array_equal(plain, outputs(dropout=0.0, seed=1))
    traces = [tool.stepped(network, images, labels, 5, "cifar10", dropout=0.3) for _ in range(2)]
    first, again = (study.calibrate_topk(trace, 0.01, "paper") for trace in traces)
    assert first.shape == (5,)
    assert np.array_equal(first, again)


def test_dropout_keeps_the_mean_of_what_comes_after():
    """Behind one layer of neurons, a linear output is on average what it is without: what stays is divided by 0.7."""
    module = a_sequence(nn.Conv2d(3, 4, 3), QCFS(4, 0.5), nn.Flatten(), nn.Linear(144, 3))
    image = np.random.default_rng(6).integers(0, 256, (1, 3, 8, 8), dtype=np.uint8)
    labels = np.zeros(3000, int)
    plain = tool.stepped(module, image, labels[:1], 4).outputs
    many = tool.stepped(module, image.repeat(3000, 0), labels, 4, dropout=0.3).outputs
    assert many.std(0).min() > 0
    assert (np.abs(many.mean(0) - plain[0]) < 5 * many.std(0) / math.sqrt(3000)).all()


def test_too_few_frames_are_refused():
    with pytest.raises(ValueError, match=r"^the samples have 3 frames, but 4 ticks are to be run$"):
        tool.stepped(takes_frames(), np.zeros((1, 3, 2, 5, 4), np.uint8), None, 4)


# ----------------------------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "vgg16"])
def test_recipes_for_a_gpu_train_and_convert(tmp_path, name):
    """One epoch of every stage on sixteen images, in float32: losses are finite, and the converted spikes are equal."""
    recipe = tool.read_recipe(ROOT / "tools" / "recipes" / f"{name}.toml")
    stages = tuple(replace(stage, epochs=1) for stage in recipe.stages)
    assert [stage.kind for stage in stages] == ["relu", "quantised", "spiking"]
    recipe = replace(recipe, stages=stages, batch=8, precision="float32")
    rng = np.random.default_rng(8)
    labels = rng.integers(0, 10, 16).astype(np.uint8)
    images = rng.integers(0, 120, (16, 3, 8, 8), dtype=np.uint8).repeat(4, 2).repeat(4, 3)
    images[np.arange(16), labels % 3] += 100
    losses = []
    module, _ = tool.train(recipe, images, labels, tmp_path / "c.pt", tell=lambda *told: losses.append(told[2]))
    assert len(losses) == 3
    assert np.isfinite(losses).all()
    converted = es.from_torch(module, images[:1], ticks=recipe.ticks, normalise="cifar10")
    found = verify(module, converted, images[:2], es.simulate, dtype="float64")
    assert found["spikes"] > 10_000
    assert found["differing"] == 0, found["first_difference"]
    run = es.simulate(converted, images[:2], labels[:2], watchdog=es.Fixed())
    theirs = tool.stepped(module, images[:2], labels[:2], recipe.ticks, "cifar10")
    np.testing.assert_array_equal(theirs.outputs[:, -1].argmax(1), run.predictions)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_can_be_read_and_built(path):
    """Every recipe reads, is named as its file, and its model can be made and has neurons."""
    recipe = tool.read_recipe(path)
    assert recipe.name == path.stem
    assert recipe.checkpoint == f"runs/train-{path.stem}.pt"
    network = tool.new_network(replace(recipe, start=""))  # the start is another recipe's work, and may not be there
    assert neurons(network) or isinstance(network, Recurrent)
    if recipe.start:
        begun = tool.read_recipe(path.with_name(Path(recipe.start).stem + ".toml"))
        assert (begun.export.state, begun.model) == (recipe.start, recipe.model)


@pytest.mark.parametrize("path", [p for p in RECIPES if p.stem.endswith("-rcs")], ids=lambda path: path.stem)
def test_recipes_with_rcs_differ_in_it_alone(path):
    """If this fails, a comparison of networks with and without the regulariser compares something else too."""
    recipe, plain = tool.read_recipe(path), tool.read_recipe(path.with_stem(path.stem.removesuffix("-rcs")))
    assert any(stage.rcs for stage in recipe.stages)
    assert not any(stage.rcs for stage in plain.stages)
    stages = tuple(replace(stage, rcs=0.0) for stage in recipe.stages)
    names = {name: getattr(plain, name) for name in ("name", "title", "about", "checkpoint", "export")}
    assert replace(recipe, stages=stages, **names) == plain


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('loss = "tet"', 'loss = "ted"', "'stages.loss' is 'ted', wanted 'cross_entropy', 'anytime' or 'tet'"),
        ('kind = "spiking"', 'kind = "quantised"', "'stages.loss' is 'tet', wanted 'cross_entropy'"),
        ("tick_us = 30_000", "", "'data.tick_us' is 0, wanted 1 or more"),
        ('loss = "tet"', 'optimiser = "adam"', "'stages.optimiser' is 'adam', wanted 'adamw' or 'sgd'"),
        ('loss = "tet"', "warmup = 1", "'stages.warmup' is 1.0, wanted a share between 0 and 1"),
        ("seed = 0", 'seed = 0\nprecision = "float16"', "'precision' is 'float16', wanted 'float32' or 'bfloat16'"),
        ('source = "events"', 'source = "events"\nnormalise = "x"', "'data.normalise' is 'x', wanted '' or 'cifar10'"),
    ],
)
def test_a_wrong_key_is_named(tmp_path, old, new, message):
    """One sentence with the file, the key and what was wanted."""
    text = (ROOT / "tools" / "recipes" / "nmnist-tet.toml").read_text()
    assert old in text
    path = tmp_path / "recipe.toml"
    path.write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=message):
        tool.read_recipe(path)
