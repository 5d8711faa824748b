"""What a network may be: shapes, maps and refusals, each with one sentence that names the thing and what was wanted."""

import re
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from eventsnn.network import (
    AdaptivePool,
    Connection,
    Conv,
    Dense,
    Flatten,
    Identity,
    Network,
    Pool,
    Population,
    Sparse,
    Subsample,
)
from eventsnn.neurons import IF, LIF, Gate, Input, Integrator, Relay, preset


def graph(*connections, middle=None, shape=(2, 4, 4), **options):
    populations = (
        Population("input", shape, Input()),
        Population("middle", shape, middle or IF()),
        Population("out", shape, Integrator()),
    )
    options = {"output": "out", "ticks": 4, **options}
    return Network(populations=populations, connections=connections, **options)


CHAIN = (Connection("input", "middle"), Connection("middle", "out"))


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    size=st.integers(1, 9),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    ceil=st.booleans(),
    count=st.booleans(),
)
def test_average_pools_are_pytorchs(size, kernel, stride, padding, ceil, count):
    """If this fails, an event reaches the wrong pooled positions or with the wrong weight."""
    x = torch.arange(float(2 * size)).reshape(1, 2, size) + 1
    pool = Pool((kernel,), (stride,), (padding,), "average", ceil, count)
    try:
        wanted = F.avg_pool1d(x, kernel, stride, padding, ceil, count)
    except RuntimeError:
        with pytest.raises(ValueError, match="pool window"):
            pool.out_shape((2, size))
        return
    taps = pool.taps((2, size))
    found = np.zeros((2, *pool.out_shape((2, size))[1:]))
    for source, target, coefficient in zip(*taps, strict=True):
        found[:, target] += coefficient * x[0, :, source].numpy()
    np.testing.assert_allclose(found, wanted[0].numpy(), rtol=1e-6)


def test_depth_is_the_longest_path_without_delay():
    net = graph(*CHAIN, Connection("input", "out"))
    assert net.depths() == {"input": 0, "middle": 1, "out": 2}
    assert graph(*CHAIN, Connection("middle", "middle", delay=1)).depths()["middle"] == 1
    assert net.with_layer_delay(1).depths() == {"input": 0, "middle": 0, "out": 0}


def test_second_connections_get_a_number():
    assert [c.label for c in graph(*CHAIN, CHAIN[0], CHAIN[0]).connections] == [
        "input->middle",
        "middle->out",
        "input->middle#2",
        "input->middle#3",
    ]


def test_a_network_as_deep_as_you_like():
    """The search for cycles must not run into Python's recursion limit."""
    many = [Population("input", (1,), Input()), *(Population(f"p{i}", (1,), Relay()) for i in range(3000))]
    many.append(Population("out", (1,), Integrator()))
    chain = [Connection(a.name, b.name) for a, b in pairwise(many)]
    assert Network(populations=tuple(many), connections=tuple(chain), output="out").depths()["out"] == 3001


three = np.ones((2, 2, 3, 3))
CONV = Conv(three, (1, 1), ((1, 1), (1, 1)), (1, 1))


@pytest.mark.parametrize(
    ("connections", "options", "words"),
    [
        ((*CHAIN, Connection("nobody", "out")), {}, "no population 'nobody'"),
        ((*CHAIN, Connection("middle", "input")), {}, "ends in the input"),
        ((*CHAIN, Connection("out", "middle", delay=1)), {}, "starts at the readout"),
        ((*CHAIN, Connection("middle", "middle", delay=-1)), {}, "delay is -1"),
        ((*CHAIN, Connection("middle", "middle", delay=0.5)), {}, "delay is 0.5"),
        ((*CHAIN, Connection("middle", "middle")), {}, "cycle without delay: middle -> middle"),
        ((*CHAIN, Connection("input", "out", Dense(np.ones((2, 32))))), {}, "put Flatten"),
        ((*CHAIN, Connection("input", "out", before=(Flatten(),))), {}, "its target 'out' has shape (2, 4, 4)"),
        ((*CHAIN, Connection("input", "out", before=(Flatten(), Subsample((1, 1))))), {}, "Flatten must be the last"),
        ((*CHAIN, Connection("input", "out", before=(Subsample((0, 1)),))), {}, "stride (0, 1)"),
        ((*CHAIN, Connection("input", "out", before=(AdaptivePool((0, 1)),))), {}, "size (0, 1)"),
        ((*CHAIN, Connection("input", "out", before=(Pool((2,), (2,), (0,)),))), {}, "one number per dimension"),
        (
            (*CHAIN, Connection("input", "out", Conv(np.ones((2, 3, 3, 3)), (1, 1), ((1, 1), (1, 1)), (1, 1)))),
            {},
            "3 chan",
        ),
        (
            (*CHAIN, Connection("input", "out", Conv(three, (1, 1), ((0, 0), (0, 0)), (2, 2)))),
            {},
            "does not fit a size",
        ),
        ((*CHAIN, Connection("input", "out", Conv(three, (1, 1), ((1, 1), (1, 1)), (1, 1), 3))), {}, "groups is 3"),
        ((*CHAIN, Connection("input", "out", Identity(np.ones(3)))), {}, "identity weight has shape (3,)"),
        ((*CHAIN, Connection("input", "out", Identity(np.nan))), {}, "nan"),
        ((*CHAIN, Connection("input", "out", CONV, bias=np.ones(3))), {}, "bias has shape (3,)"),
        (
            (*CHAIN, Connection("input", "out", CONV, bias=np.ones(2), shift=np.ones((9, 2)))),
            {},
            "takes the bias's place",
        ),
        ((*CHAIN, Connection("input", "out", CONV, scale=np.ones((9, 3)))), {}, "wanted (ticks, 2)"),
        ((*CHAIN, Connection("input", "out", CONV, scale=np.ones((3, 2)))), {}, "tables end after 3"),
        (CHAIN, {"middle": IF(threshold=np.ones(5))}, "threshold has shape (5,)"),
        (CHAIN, {"middle": IF(comparator="=")}, "comparator is '='"),
        (CHAIN, {"middle": IF(reset_amount=0.0)}, "reset_amount must be greater than 0"),
        (CHAIN, {"middle": IF(multi_spike=True, reset="value")}, "multi_spike needs"),
        (CHAIN, {"middle": LIF(alpha=1.5)}, "alpha must lie between 0 and 1"),
        (CHAIN, {"middle": IF(refractory=0.5)}, "refractory is 0.5"),
        (CHAIN, {"middle": Gate()}, "max-pooling of graded values"),
        (CHAIN, {"output": "none"}, "output 'none' is not a population"),
        (CHAIN, {"middle": Relay(), "output": "middle"}, "must be a spiking population or an Integrator"),
        (CHAIN, {"encoding": "smoke"}, "encoding is 'smoke'"),
        (CHAIN, {"ticks": 0}, "ticks is 0"),
        (CHAIN, {"std": (0.0,)}, "std is (0.0,)"),
        (CHAIN, {"mean": (0.0, 1.0, 2.0)}, "mean has 3 values"),
        (CHAIN, {"labels": ("a", "b")}, "2 labels for 32 output units"),
        (CHAIN, {"tick_seconds": -1.0}, "tick_seconds is -1.0"),
    ],
)
def test_what_cannot_run_is_refused_in_a_sentence(connections, options, words):
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        graph(*connections, **options)
    assert "\n" not in str(error.value)


def test_sparse_lists_are_checked():
    def sparse(indptr, target, weight):
        return Sparse(np.array(indptr), np.array(target), np.array(weight), (2, 4, 4))

    rows = [0] + [1] * 32
    graph(*CHAIN, Connection("input", "out", sparse(rows, [31], [1.0])))
    for op, words in [
        (sparse([0, 1], [31], [1.0]), "2 entries, wanted 33"),
        (sparse(rows, [32], [1.0]), "outside the 32 units"),
        (sparse(rows, [1, 2], [1.0, 1.0]), "rise from 0 to the number of synapses"),
        (sparse([0] * 31 + [1, 0], [], []), "rise from 0"),
    ]:
        with pytest.raises(ValueError, match=words):
            graph(*CHAIN, Connection("input", "out", op))


def test_presets_are_what_the_tools_do():
    sinabs = preset("sinabs", 2.0)
    assert (sinabs.v_min, sinabs.multi_spike, sinabs.reset, sinabs.comparator) == (-2.0, True, "subtract", "ge")
    assert preset("snncutoff", 3.0).v0 == 1.5
    assert preset("nir", alpha=0.5).alpha == 0.5
    assert preset("snntorch", alpha=0.9).reset_delay
    with pytest.raises(ValueError, match="unknown neuron preset 'brain'"):
        preset("brain")
