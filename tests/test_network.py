"""What a network may be: shapes, maps and refusals, each with one sentence that names the thing and what was wanted."""

import math
import re
from dataclasses import replace
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
from eventsnn.neurons import IF, LI, LIF, CubaLI, CubaLIF, Gate, Input, Integrator, Relay, preset


def graph(*connections, middle=None, out=None, shape=(2, 4, 4), **options):
    populations = (
        Population("input", shape, Input()),
        Population("middle", shape, middle or IF()),
        Population("out", shape, out or Integrator()),
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


def lines(*delay, shape=(2, 4, 4)):
    """One synapse for every delay, all of them from the first unit to itself."""
    n = len(delay)
    return Sparse(np.array([0] + [n] * 32), np.zeros(n, np.int64), np.ones(n), shape, np.array(delay))


def test_a_connection_is_as_quick_as_its_quickest_synapse():
    """If this fails, a loop without delay runs for ever, or a loop that has one is refused."""
    for delay, own, least in ((0, (2, 1), 1), (1, (0, 3), 1), (2, (1.0, 4.0), 3), (0, (), 0), (3, (), 3)):
        c = Connection("middle", "middle", lines(*own), delay=delay)
        assert c.least_delay == least
        if least:
            net = graph(*CHAIN, c)
            assert net.depths() == {"input": 0, "middle": 1, "out": 2}
            # at least a tick on the way, and then what the synapse takes
            assert net.with_layer_delay(1).connections[-1].least_delay == max(delay, 1) + min(own, default=0)
    assert Connection("middle", "middle", delay=2).least_delay == 2
    assert graph(*CHAIN[:1], Connection("middle", "out", lines(1, 2))).depths()["out"] == 0
    assert graph(*CHAIN[:1], Connection("middle", "out", lines(0, 2))).depths()["out"] == 2
    for delay in ((0, 1), ()):
        with pytest.raises(ValueError, match="cycle without delay: middle -> middle"):
            graph(*CHAIN, Connection("middle", "middle", lines(*delay)))


@pytest.mark.parametrize(
    ("neuron", "readout"),
    [(Integrator(), "sum"), (LI(), "potential"), (CubaLI(), "potential"), (IF(), "spikes"), (CubaLIF(), "spikes")],
)
def test_what_is_read_is_what_the_output_is(neuron, readout):
    """If this fails, a policy or a plot takes potentials for sums, or for counts of spikes."""
    assert graph(*CHAIN, out=neuron).readout == readout


def test_currents_are_as_many_as_their_longest_tuple():
    """If this fails, a number that holds for both receptors is taken for the first's alone."""
    two = CubaLIF(alpha_syn=(0.5, 0.75), gain_syn=2.0, i0=(0.0, np.ones(2)), tau_syn=None)
    assert two.receptors == 2
    assert [two.current(r).alpha_syn for r in (0, 1)] == [0.5, 0.75]
    assert [two.current(r).gain_syn for r in (0, 1)] == [2.0, 2.0]
    assert [two.current(r).tau_syn for r in (0, 1)] == [None, None]
    assert np.array_equal(two.current(1).i0, np.ones(2))
    assert (CubaLI().receptors, CubaLI(gain_old=(0.0,)).receptors, CubaLI(i0=(1.0, 2.0)).receptors) == (1, 1, 2)
    graph(CHAIN[0], Connection("input", "middle", receptor=1), CHAIN[1], middle=two)


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
        (CHAIN, {"middle": IF(refractory=-1)}, "refractory is -1, wanted a whole number of ticks"),
        (CHAIN, {"middle": IF(refractory=-math.inf)}, "refractory is -inf"),
        (CHAIN, {"middle": IF(refractory=math.nan)}, "refractory is nan"),
        (CHAIN, {"middle": IF(refractory=True)}, "refractory is True"),
        (CHAIN, {"middle": IF(multi_spike=True, refractory=math.inf)}, "multi_spike needs"),
        (CHAIN, {"middle": IF(hold=False, refractory=1)}, "hold is False, wanted True or None"),
        (CHAIN, {"middle": IF(hold=0.5, refractory=1)}, "hold is 0.5, wanted True or None"),
        (CHAIN, {"middle": LIF(hold=True)}, "give a refractory time"),
        (
            CHAIN,
            {"middle": LIF(hold=True, refractory=2, refractory_input="integrate")},
            "refractory_input must be 'discard'",
        ),
        (CHAIN, {"middle": CubaLIF(refractory=2)}, "a refractory CubaLIF holds its membrane; set hold=True"),
        (CHAIN, {"middle": CubaLIF(leak="after")}, "leaks before its input"),
        (CHAIN, {"middle": CubaLIF(reset_delay=True)}, "resets at once"),
        (CHAIN, {"middle": CubaLIF(alpha_syn=1.5)}, "alpha_syn must lie between 0 and 1"),
        (CHAIN, {"middle": CubaLIF(alpha_syn=(0.5, np.nan))}, "alpha_syn must lie between 0 and 1"),
        (CHAIN, {"middle": CubaLIF(tau_syn=(1e-3, 0.0))}, "tau_syn must be a positive number of seconds"),
        (CHAIN, {"middle": CubaLIF(gain_syn=math.inf)}, "gain_syn holds NaN or infinity"),
        (CHAIN, {"middle": CubaLIF(gain_old=(0.0, np.array([0.0, np.nan])))}, "gain_old holds NaN or infinity"),
        (CHAIN, {"middle": CubaLIF(i0=math.nan)}, "i0 holds NaN or infinity"),
        (CHAIN, {"middle": CubaLIF(syn_rate=math.inf)}, "syn_rate holds NaN or infinity"),
        (CHAIN, {"middle": CubaLIF(alpha_syn=(0.5, 0.5), i0=(0.0,))}, "the currents are [1, 2] in number"),
        (CHAIN, {"middle": CubaLIF(alpha_syn=(0.5, 0.5, 0.5))}, "the currents are [3] in number, wanted one or two"),
        (CHAIN, {"middle": CubaLIF(alpha_syn=())}, "the currents are [0] in number, wanted one or two"),
        (CHAIN, {"middle": CubaLIF(gain_syn=(1.0, np.ones(3)))}, "gain_syn has shape (3,), wanted one number, (2,)"),
        (CHAIN, {"middle": CubaLIF(threshold=np.ones(3))}, "threshold has shape (3,)"),
        (CHAIN, {"middle": IF(input_rate=math.nan)}, "input_rate holds NaN or infinity"),
        (CHAIN, {"middle": LIF(tau=0.0)}, "tau must be a positive number of seconds"),
        (CHAIN, {"out": LI(alpha=-0.5)}, "'out': alpha must lie between 0 and 1"),
        (CHAIN, {"out": LI(rest=math.nan)}, "rest holds NaN or infinity"),
        (CHAIN, {"out": LI(v0=math.inf)}, "v0 holds NaN or infinity"),
        (CHAIN, {"out": LI(gain=np.ones(3))}, "gain has shape (3,)"),
        (CHAIN, {"out": LI(alpha_from="guess")}, "alpha_from is 'guess', wanted 'given', 'exp' or 'euler'"),
        (CHAIN, {"out": CubaLI(alpha=2.0)}, "alpha must lie between 0 and 1"),
        (CHAIN, {"out": CubaLI(alpha_syn=(0.5, 2.0))}, "alpha_syn must lie between 0 and 1"),
        ((*CHAIN, Connection("out", "middle", delay=1)), {"out": LI()}, "starts at the readout"),
        ((*CHAIN, Connection("input", "middle", receptor=0)), {"middle": CubaLIF(), "ticks": 0}, "ticks is 0"),
        (
            (*CHAIN, Connection("input", "middle", receptor=1)),
            {"middle": CubaLIF()},
            "'input->middle#2': receptor is 1, its target 'middle' has 1, counted from 0",
        ),
        ((*CHAIN, Connection("input", "middle", receptor=1)), {}, "receptor is 1, its target 'middle' has 1"),
        ((*CHAIN, Connection("input", "out", receptor=-1)), {}, "receptor is -1, its target 'out' has 1"),
        ((*CHAIN, Connection("input", "out", receptor=2)), {"out": CubaLI(i0=(0.0, 1.0))}, "receptor is 2"),
        *(
            (
                (*CHAIN, Connection("input", "out", receptor=1, **{name: np.ones((9, 2) if name != "bias" else 2)})),
                {"out": CubaLI(i0=(0.0, 1.0))},
                "'input->out': a bias or a table belongs to the first current, not to receptor 1",
            )
            for name in ("bias", "scale", "shift")
        ),
        ((*CHAIN, Connection("input", "out", lines(0, -1))), {}, "sparse delay holds what is no time"),
        ((*CHAIN, Connection("input", "out", lines(0, math.inf))), {}, "wanted ticks, 0 or more"),
        ((*CHAIN, Connection("input", "out", lines(0, math.nan))), {}, "sparse delay holds what is no time"),
        (
            (*CHAIN, Connection("input", "out", replace(lines(0, 1), delay=np.ones(3)))),
            {},
            "sparse delay has shape (3,), wanted (2,)",
        ),
        *(
            (
                (*CHAIN, Connection("input", "out", replace(op, delay=np.ones(0)), **maps)),
                {},
                "'input->out' has delays by synapse and a pool before or a map behind them; put a Relay between",
            )
            for op, maps in (
                (lines(shape=(2, 4, 4)), {"after": (Subsample((1, 1)),)}),
                (lines(shape=(2, 4, 4)), {"after": (Pool((1, 1), (1, 1), (0, 0)),)}),
                (lines(shape=(2, 4, 4)), {"before": (Pool((1, 1), (1, 1), (0, 0)),)}),
                (lines(shape=(2, 4, 4)), {"before": (AdaptivePool((4, 4)), Flatten())}),
            )
        ),
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
    assert type(preset("norse", alpha=0.9, alpha_syn=0.8)) is CubaLIF
    assert preset("norse", alpha=0.9, alpha_syn=0.8).alpha_syn == 0.8
    with pytest.raises(ValueError, match="unknown neuron preset 'brain'"):
        preset("brain")
