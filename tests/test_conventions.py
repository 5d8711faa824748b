"""What other counting rules say of a run: against their own formulas, by hand, and on layers where everybody agrees."""

import csv
import io
import math
from itertools import pairwise

import numpy as np
import pytest
import small

import eventsnn as es
from eventsnn import report, runs
from eventsnn.conventions import COLUMNS, conventions, geometry
from eventsnn.network import Connection, Conv, Dense, Flatten, Identity, Network, Pool, Population, Sparse
from eventsnn.neurons import IF, Input, Integrator, Relay
from eventsnn.wiring import fan_out


def network_of(op, shape, encoding="events", before=(), neuron=None, bias=None) -> Network:
    """One connection from an input (or from a layer that copies it) into neurons that never fire."""
    inner = shape
    for step in before:
        inner = step.out_shape(inner)
    populations, connections = [Population("input", shape, Input())], []
    source = "input"
    if neuron is not None:
        populations.append(Population("copy", shape, neuron))
        connections.append(Connection("input", "copy", Identity()))
        source = "copy"
    target = Population("target", op.out_shape(inner), IF(threshold=1e9))
    populations += [target, Population("out", (1,), Integrator())]
    connections.append(Connection(source, "target", op, before=before, bias=bias, name="layer"))
    last = Dense(np.ones((1, target.size)))
    connections.append(
        Connection("target", "out", last, before=(Flatten(),) if len(target.shape) > 1 else (), name="last")
    )
    return Network(
        populations=tuple(populations),
        connections=tuple(connections),
        output="out",
        encoding=encoding,
        tick_seconds=1e-3,
        ticks=2,
    )


def conv(shape, kernel, stride=1, padding=0, outputs=2, groups=1, dilation=1, weight=None) -> Conv:
    size = (outputs, shape[0] // groups, *(kernel if isinstance(kernel, tuple) else (kernel, kernel)))
    weight = np.ones(size) if weight is None else weight
    return Conv(weight, (stride,) * 2, ((padding, padding),) * 2, (dilation,) * 2, groups)


def uniform(network: Network) -> es.Events:
    """Every unit of the input once, in tick 0."""
    units = np.arange(network.input.size)
    return es.Events(np.zeros(units.size, np.int64), units, np.array([0, units.size]))


def rows_of(network: Network, events, **options):
    run = es.simulate(network, events, record="spikes", watchdog=es.Fixed(), **options)
    record = runs.describe(run)
    found = conventions(record.run, record.network, record.emitted)
    return {row["name"]: row for row in found["rows"]}, found, run


# ------------------------------------------------------------------------------------------- facts of a connection


@pytest.mark.parametrize("kernel", [1, 2, 3, 5, (3, 2)])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize(("groups", "dilation"), [(1, 1), (2, 1), (4, 2)])
def test_the_dense_layer_is_the_sum_of_all_fans(kernel, stride, padding, groups, dilation):
    """If this fails, the dense counts of a run are not those of its network."""
    shape = (4, 9, 7)
    if dilation * ((kernel if isinstance(kernel, int) else 3) - 1) >= 7 + 2 * padding:
        kernel = 3
    network = network_of(conv(shape, kernel, stride, padding, 4, groups, dilation), shape)
    taps, _ = fan_out(network)
    facts = geometry(network, network.connections[0])
    assert facts["dense"] == taps["layer"].sum()
    assert facts["outer"] == list(network["target"].shape)
    assert geometry(network, network.connections[1])["dense"] == taps["last"].sum()


def test_facts_of_every_kind_of_connection():
    """If this fails, a rule is applied to a connection it does not fit."""
    network = small.network()
    facts = {c.label: geometry(network, c) for c in network.connections}
    assert facts["input->conv"]["events"] == "image"
    assert facts["conv->sum"]["events"] == "binary"
    assert facts["sum->rest"]["events"] == "graded"
    assert facts["rest->output"]["pools"] == "average"
    assert facts["rest->output"]["inner"] == [18]
    assert facts["skip"]["dense"] == 90
    multiple = network_of(Dense(np.ones((2, 3))), (3,), neuron=IF(multi_spike=True))
    assert geometry(multiple, multiple.connections[1])["events"] == "multiple"
    assert geometry(multiple, multiple.connections[0])["events"] == "repeated"
    sparse = Sparse(np.array([0, 2, 3, 3]), np.array([0, 1, 0]), np.array([1.0, 0.0, 2.0]), (2,))
    listed = network_of(sparse, (3,))
    facts = geometry(listed, listed.connections[0])
    assert (facts["dense"], facts["weights"], facts["zero_weights"]) == (3, 3, 1)


# ----------------------------------------------------------------------------------------------------- uniform activity


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "mean", "area", "by_stride"),
    [
        (32, 3, 1, 1, 8.629, 1.043, 1.043),
        (16, 3, 1, 1, 8.266, 1.089, 1.089),
        (8, 3, 1, 1, 7.562, 1.190, 1.190),
        (4, 3, 1, 1, 6.250, 1.440, 1.440),
        (32, 3, 2, 1, 2.157, 4.172, 1.043),
        (8, 3, 2, 1, 1.891, 4.760, 1.190),
        (32, 1, 2, 0, 0.250, 4.000, 1.000),
        (34, 5, 2, 1, 5.399, 4.631, 1.158),
    ],
)
def test_rules_under_uniform_activity(size, kernel, stride, padding, mean, area, by_stride):
    """If this fails, the published ratios (each unit of the source active once) do not come out."""
    network = network_of(conv((1, size, size), kernel, stride, padding), (1, size, size))
    rows, _, _ = rows_of(network, uniform(network))
    row = rows["layer"]
    assert row["exact"] / (2 * size * size) == pytest.approx(mean, abs=6e-4)
    assert row["kernel_area"] / row["exact"] == pytest.approx(area, abs=6e-4)
    assert row["area_over_stride2"] / row["exact"] == pytest.approx(by_stride, abs=6e-4)
    outer = network["target"].size
    assert row["rate_x_flops"] == pytest.approx(outer * kernel * kernel)  # the whole layer, padding included, once
    assert row["syops_ac"] == row["rate_x_flops"]  # no bias here
    assert row["sinabs"] == row["exact"]
    assert row["ann"] == row["exact"]


@pytest.mark.parametrize(
    ("size", "kernel", "padding", "wanted"), [(32, 1, 0, 4.0), (32, 3, 0, 1.091), (16, 3, 0, 1.2), (34, 5, 0, 1.11)]
)
def test_the_toolbox_array_of_a_strided_convolution(size, kernel, padding, wanted):
    """If this fails, snn_toolbox's fan-out array is not the one its users get (its own ratios, run by us)."""
    shape = (1, size, size)
    network = network_of(conv(shape, kernel, 2, padding), shape, neuron=IF())
    rows, _, run = rows_of(network, uniform(network))
    assert rows["layer"]["toolbox"] / rows["layer"]["exact"] == pytest.approx(wanted, abs=6e-4)
    record = runs.describe(run)
    blind = conventions(record.run, record.network)  # without the events of single neurons
    assert next(row for row in blind["rows"] if row["name"] == "layer")["toolbox"] is None
    assert blind["totals"]["toolbox"] is None


def test_where_everybody_agrees():
    """If this fails, rules differ on a dense layer of spikes, where there is nothing to differ about."""
    network = network_of(Dense(np.ones((5, 6))), (6,), neuron=IF())
    rows, found, _ = rows_of(network, uniform(network))
    row = rows["layer"]
    for column in ("rate_x_flops", "kernel_area", "area_over_stride2", "syops_ac", "neurobench_ac", "sinabs"):
        assert row[column] == row["exact"] == 30, column
    assert row["spikingjelly"] == row["toolbox"] == row["ann"] == 30
    assert row["neurobench_dense"] == 60  # two ticks
    assert found["totals"]["exact"] == 30
    assert found["ratios"]["neurobench"] == found["ratios"]["syops"] == 1


# ----------------------------------------------------------------------------------------------- events of other kinds


def test_an_analog_image():
    """If this fails, the input layer is mixed into the SynOps, or a rule's charge for it is not its own."""
    weight = np.ones((2, 1, 3, 3))
    weight[0, 0, 0, 0] = 0
    network = network_of(conv((1, 4, 4), 3, 1, 1, weight=weight), (1, 4, 4), "direct", bias=np.array([1.0, 0.0]))
    images = np.ones((3, 1, 4, 4))
    images[0, 0, 0, 0] = 0
    rows, found, _ = rows_of(network, images, layout="chw")
    row = rows["layer"]
    assert row["image"]
    assert row["exact"] == row["ann"] == 3 * 200  # 10 x 10 in-bounds taps for each of two channels
    assert row["rate_x_flops"] == 6 * 288
    assert row["syops_mac"] == 6 * (288 + 32)
    assert row["toolbox"] == 3 * 2 * 9 * 32
    assert row["spikingjelly"] == row["neurobench_ac"] == row["syops_ac"] == 0
    # 200 taps less the 9 of the zero weight; the dark pixel of image 0 has 4 + 4 taps, 1 of them of the zero weight
    assert row["neurobench_mac"] == 2 * (3 * (200 - 9) - (8 - 1))
    assert found["totals"]["exact"] == 0
    assert row["kernel_area"] is None
    assert row["sinabs"] is None


def test_behind_an_average_pool():
    """If this fails, a window of spikes is called something else than NeuroBench and spikingjelly call it."""
    pool = Pool((2, 2), (2, 2), (0, 0))
    network = network_of(conv((1, 4, 4), 1), (1, 4, 4), before=(pool,), neuron=IF())
    rows, _, _ = rows_of(network, uniform(network))
    row = rows["layer"]
    assert row["exact"] == row["sinabs"] == 32  # 16 spikes, two channels
    assert (row["neurobench_ac"], row["neurobench_mac"], row["neurobench_kind"]) == (0, 8, "MAC")  # four windows
    assert row["spikingjelly"] == 0
    assert row["syops_ac"] == 0
    assert row["syops_mac"] == 2 * 8  # every tick, in full
    assert row["toolbox"] is None
    summed = network_of(conv((1, 4, 4), 1), (1, 4, 4), before=(Pool((2, 2), (2, 2), (0, 0), "sum"),), neuron=IF())
    row = rows_of(summed, uniform(summed))[0]["layer"]
    assert row["neurobench_kind"] == "by call"
    assert row["neurobench_ac"] is row["neurobench_mac"] is row["spikingjelly"] is None


def test_graded_and_multiple_events():
    """If this fails, a rule that has no answer for an event's value is given one."""
    graded = network_of(Dense(np.ones((5, 6))), (6,), neuron=Relay())
    row = rows_of(graded, uniform(graded))[0]["layer"]
    assert row["exact"] == row["neurobench_mac"] == 30
    assert row["neurobench_kind"] == "MAC"
    assert row["sinabs"] is None
    assert row["spikingjelly"] == row["syops_ac"] == 0
    several = network_of(Dense(np.ones((5, 6))), (6,), neuron=IF(threshold=0.5, multi_spike=True))
    row = rows_of(several, uniform(several))[0]["layer"]
    assert (row["exact"], row["sinabs"]) == (30, 60)  # every neuron fires twice at once
    assert row["neurobench_kind"] == "by call"


def test_a_list_of_synapses_has_no_kernel():
    """If this fails, a rule about kernels is applied to what has none."""
    sparse = Sparse(np.array([0, 2, 3, 3]), np.array([0, 1, 0]), np.array([1.0, 0.0, 2.0]), (2,))
    network = network_of(sparse, (3,), neuron=IF())
    row = rows_of(network, uniform(network))[0]["layer"]
    assert row["exact"] == 3
    assert row["neurobench_ac"] == 2
    assert row["kernel_area"] is row["area_over_stride2"] is row["toolbox"] is None


# ------------------------------------------------------------------------------------------------- sums and sparsities


def test_totals_and_sparsities_by_hand():
    """If this fails, sums or ratios speak of other rows than they say."""
    record = runs.describe(small.run(record="spikes"))
    found = conventions(record.run, record.network, record.emitted)
    spikes = [row for row in found["rows"] if not row["image"]]
    assert [row["name"] for row in found["rows"]] == ["input->conv", "conv->sum", "sum->rest", "back", "rest->output"]
    for column in ("exact", *COLUMNS):
        known = [row[column] for row in spikes]
        assert found["totals"][column] == (None if None in known else sum(known)), column
    assert found["totals"]["exact"] == record.run["synops"]["structural"]
    both = sum(row["neurobench_ac"] + row["neurobench_mac"] for row in spikes)
    assert both == record.run["synops"]["effective_per_tick"]
    assert found["ratios"]["neurobench"] == pytest.approx(both / found["totals"]["exact"])
    ticks, neurons = record.run["ticks_run"], 90 + 90 + 3
    assert found["syops_neurons"] == ticks * neurons
    assert found["activation_sparsity"] == pytest.approx(1 - record.run["spikes"] / (ticks * neurons))
    assert found["connection_sparsity"] == 0
    assert found["footprint_bytes"] == 4 * (27 + 9 + 81 + 9 + 54 + 3)  # the identity's 1 is no stored weight


def test_the_published_speech_network():
    """NeuroBench's GSC network: 145,152 connections x 200 steps, 145,152 weights and 803 biases of 4 bytes."""
    sizes = (20, 256, 256, 256, 35)
    populations = [Population("input", (20,), Input())]
    connections = []
    for i, (a, b) in enumerate(pairwise(sizes), 1):
        populations.append(Population(f"l{i}", (b,), IF(threshold=1e9)))
        before = populations[-2].name
        connections.append(Connection(before, f"l{i}", Dense(np.ones((b, a))), bias=np.zeros(b)))
    network = Network(
        populations=tuple(populations),
        connections=tuple(connections),
        output="l4",
        encoding="events",
        tick_seconds=1e-3,
    )
    quiet = es.Events(np.zeros(0, np.int64), np.zeros(0, np.int64), np.array([0, 0]))
    record = runs.describe(es.simulate(network, quiet, ticks=200))
    found = conventions(record.run, record.network)
    assert found["totals"]["neurobench_dense"] == 29_030_400
    assert found["footprint_bytes"] == 145_955 * 4


def test_the_csv_holds_the_rows():
    """If this fails, the file a user reads elsewhere is not what the command computed."""
    record = runs.describe(small.run(record="spikes"))
    found = conventions(record.run, record.network, record.emitted)
    rows = list(csv.DictReader(io.StringIO(report.conventions_csv(found))))
    assert [row["name"] for row in rows] == [row["name"] for row in found["rows"]]
    for text, row in zip(rows, found["rows"]):
        for column in COLUMNS:
            if row[column] is None:
                assert text[column] == ""
            else:
                assert math.isclose(float(text[column]), row[column])
