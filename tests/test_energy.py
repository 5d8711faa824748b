"""Energy is price times count: the shipped tables, tables of one's own, accounts, and the model of Lemaire et al."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import small

from eventsnn import energy, runs
from eventsnn.network import Connection, Conv, Dense, Flatten, Network, Pool, Population, Sparse
from eventsnn.neurons import IF, LIF, Input, Integrator
from eventsnn.simulation import simulate
from eventsnn.watchdog import Fixed, SpikeGap

OWN = """
name = "own"
title = "My chip"
technology = "22 nm"
scope = ["arithmetic"]
basis = "measured"
source = "page 7"

[[price]]
operation = "ac"
value = 2
unit = "pJ"
scope = ["arithmetic"]
basis = "measured"
source = "page 7"

[[price]]
operation = "neuron_update"
value = 3
unit = "nJ"
scope = ["arithmetic"]
basis = "measured"
source = "page 8"

[static]
value = 0.5
unit = "mW"
scope = ["static"]
basis = "measured"
source = "page 9"
"""


def own(tmp_path, *changes):
    """The path of OWN with some texts in it replaced."""
    text = OWN
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = tmp_path / "own.toml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def run():
    return small.run(record="spikes")


@pytest.fixture(scope="module")
def books(run):
    record = runs.describe(run)
    return record.run, record.network


# ------------------------------------------------------------------------------------------------------------ tables


@pytest.mark.parametrize("name", sorted(path.stem for path in energy.TABLES.glob("*.toml")))
def test_every_shipped_table_is_whole(name):
    """If this fails, a table cannot be loaded, does not say where it comes from, or costs nothing."""
    table = energy.load_table(name)
    assert table.name == name
    assert len(table.source) > 20
    prices = [*table.prices.values(), *([table.static] if table.static else [])]
    assert prices
    assert all(p.value > 0 and len(p.source) > 5 for p in prices)
    assert {scope for p in prices for scope in p.scope} <= {*table.scope}


@pytest.mark.parametrize(
    ("name", "operation", "picojoule"),
    [
        ("45nm-fp32", "ac", 0.9),  # Horowitz, ISSCC 2014
        ("45nm-fp32", "mac", 4.6),
        ("45nm-fp16", "ac", 0.4),
        ("45nm-fp16", "mac", 1.5),
        ("45nm-int8", "ac", 0.03),
        ("45nm-int8", "mac", 0.23),
        ("45nm-int32", "ac", 0.1),
        ("45nm-int32", "mac", 3.2),
        ("loihi1-davies2018", "ac", 23.6),  # Davies et al., IEEE Micro 2018, table 2
        ("loihi1-davies2018", "neuron_update_clocked", 81.0),
        ("loihi1-frady2020", "neuron_update_clocked", 52.0),  # the same table, an inactive neuron
        ("loihi1-keras-spiking", "ac", 27.1),  # 23.6 + 3.5, keras-spiking's model_energy.py
        ("truenorth-merolla2014", "ac", 26.0),  # Merolla et al., Science 2014
        ("seneca-tang2023", "ac", 2.8),  # Tang et al. 2023, abstract
        ("odin-frenkel2018-affine", "ac", 8.43),  # Frenkel et al. 2018, figure 8b
        ("truenorth-akopyan2015", "ac", 2.5),  # SENECA (Tang et al. 2023), table 3, and so are the next four
        ("tianjic-deng2020", "ac", 1.54),
        ("reckon-frenkel2022", "ac", 5.3),
        ("odin-frenkel2018", "ac", 12.7),
        ("spinnaker2-hoppner2021", "ac", 10.0),
        ("spinnaker1-hoppner2019", "ac", 13300.0),  # Hoeppner et al. 2019, by keras-spiking
        ("spinnaker2-hoppner2019", "ac", 450.0),
        ("spinnaker1-sharp2012", "ac", 43000.0),  # Sharp et al. 2012, abstract
        ("spinnaker1-seneca2023", "ac", 45.0),  # SENECA, table 3
        ("gpu-degnan2015", "mac", 300.0),  # Degnan et al. 2015, by keras-spiking
    ],
)
def test_known_prices(name, operation, picojoule):
    """If this fails, a shipped table no longer says what its source does."""
    assert energy.load_table(name).prices[operation].value == pytest.approx(picojoule, rel=1e-12)


def test_sources_that_disagree_both_stand():
    """If this fails, one of two published numbers for one chip has been dropped, as if it were settled."""
    names = energy.table_names()
    assert names == sorted(set(names))
    for chip in ("loihi1", "truenorth", "spinnaker1", "spinnaker2", "odin"):
        tables = [energy.load_table(name) for name in names if name.startswith(chip)]
        assert len({table.prices["ac"].value for table in tables}) >= 2, chip
        assert len({table.source for table in tables}) == len(tables)
    assert {"lemaire2022", "lemaire2022-exact"} <= {*names}
    assert {a if isinstance(a, str) else a.name for a in energy.all_tables()} == {*names}


@pytest.mark.parametrize(
    ("name", "milliwatt"),
    [
        ("speck-yao2024", 0.42),  # Yao et al. 2024, abstract: resting power
        ("loihi1-frady2020", 3340 / 32),  # Frady et al. 2020, table 1: 3.34 W for 32 chips
        ("odin-frenkel2018-affine", 0.0273 + 0.00178 * 75),  # Frenkel et al. 2018: leakage and idle power at 75 MHz
        # Akopyan et al. 2015, figure 17: 68 and 94 mW at 11.58 and 95.93 Hz, 2^20 neurons of 128 synapses
        ("truenorth-akopyan2015-affine", 68 - (94 - 68) / (95.93 - 11.58) * 11.58),
    ],
)
def test_known_static_powers(name, milliwatt):
    """If this fails, a chip's idle power is not what its source says."""
    assert energy.load_table(name).static.value == pytest.approx(milliwatt * 1e-3, rel=2e-4)


def test_a_table_of_ones_own(tmp_path, books):
    """If this fails, units are converted wrongly or a user's file is not read."""
    table = energy.load_table(own(tmp_path))
    assert table.prices["ac"].value == 2
    assert table.prices["neuron_update"].value == 3000
    assert table.static.value == 0.0005
    for unit, factor in (("fJ", 1e-3), ("nJ", 1e3), ("uJ", 1e6)):
        changed = energy.load_table(own(tmp_path, ('unit = "pJ"', f'unit = "{unit}"')))
        assert changed.prices["ac"].value == pytest.approx(2 * factor)
    for unit, factor in (("nW", 1e-9), ("uW", 1e-6), ("W", 1.0)):
        changed = energy.load_table(own(tmp_path, ('unit = "mW"', f'unit = "{unit}"')))
        assert changed.static.value == pytest.approx(0.5 * factor)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "own"', "name = own", "not valid TOML"),
        ('operation = "ac"', 'operation = "fire"', "price 1: operation is 'fire', wanted one of ac, mac"),
        ('operation = "neuron_update"', 'operation = "ac"', "price 2: ac is priced twice"),
        ('operation = "ac"', 'operation = "neuron_update_clocked"', "are both priced; they are two ways"),
        ("value = 2", "value = -2", r"price 1 \(ac\): value is -2, wanted a number, 0 or more"),
        ("value = 2", "value = nan", "value is nan"),
        ("value = 2", "value = inf", "value is inf"),
        ("value = 2", f"value = 1{'0' * 400}", "value is 10+, wanted a number"),
        ("value = 2", "", "value is None, wanted a number"),
        ("value = 2", "value = 2\nper = 3", "price 1 has an entry 'per', which is not known"),
        ('name = "own"', 'name = "own"\nnote = 3', "note is 3, wanted text"),
        ("[[price]]", "[other]", "has an entry 'other'"),
        ("[static]", "[[static]]", "static is no table; write it as .static."),
        ("value = 2", "value = true", "value is True"),
        ("value = 2", 'value = "2"', "value is '2'"),
        ('unit = "pJ"', 'unit = "J"', "unit is 'J', wanted one of fJ, pJ, nJ, uJ"),
        ('unit = "mW"', 'unit = "pJ"', "static: unit is 'pJ', wanted one of nW, uW, mW, W"),
        ('scope = ["arithmetic"]', 'scope = ["all"]', "scope is .*wanted a list of arithmetic"),
        ('scope = ["arithmetic"]', "scope = []", "scope is"),
        ('basis = "measured"', 'basis = "guessed"', "basis is 'guessed', wanted one of measured"),
        ('source = "page 7"', 'source = " "', "source is ' ', wanted text"),
        ('technology = "22 nm"', "year = 2020", "has an entry 'year', which is not known"),
        ('technology = "22 nm"', "", "technology is None, wanted text"),
        ("[static]", "[power]", "has an entry 'power'"),
    ],
)
def test_a_wrong_table_is_refused_in_a_sentence(tmp_path, old, new, message):
    """If this fails, a slip in a user's table prices something silently, or ends in a traceback."""
    path = own(tmp_path, (old, new))
    with pytest.raises(ValueError, match=message) as error:
        energy.load_table(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value).split("not valid TOML")[0]


def test_tables_that_are_not_there(tmp_path):
    """If this fails, a mistyped name is not answered with the names there are."""
    with pytest.raises(ValueError, match="no energy table '45nm'; there are 45nm-fp16, 45nm-fp32"):
        energy.load_table("45nm")
    with pytest.raises(ValueError, match="lemaire2022 is a model"):
        energy.load_table("lemaire2022")
    with pytest.raises(ValueError, match=r"absent\.toml cannot be read"):
        energy.load_table(tmp_path / "absent.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not valid TOML"):
        energy.load_table(tmp_path / "bytes.toml")
    head = OWN[: OWN.index("[[price]]")]
    (tmp_path / "single.toml").write_text(f"{head}[price]\nvalue = 2\n")
    with pytest.raises(ValueError, match="price is no list of tables; write each as"):
        energy.load_table(tmp_path / "single.toml")
    (tmp_path / "empty.toml").write_text(head)
    with pytest.raises(ValueError, match="it prices nothing"):
        energy.load_table(tmp_path / "empty.toml")


# ---------------------------------------------------------------------------------------------------------- accounts


@pytest.mark.parametrize("name", energy.table_names())
def test_an_account_is_the_sum_of_its_parts(books, name):
    """If this fails, layers, operations and the total of an account contradict each other."""
    found = energy.account(*books, name, tick_seconds=1e-3)
    assert math.isclose(math.fsum(layer["picojoule"] for layer in found["layers"]), found["dynamic"], rel_tol=1e-12)
    assert math.isclose(
        math.fsum(o["picojoule"] for o in found["operations"].values()), found["dynamic"], rel_tol=1e-12
    )
    assert found["picojoule"] == found["dynamic"] + (found["static"] or 0.0)
    for layer in found["layers"]:
        assert math.isclose(math.fsum(layer["parts"].values()), layer["picojoule"], rel_tol=1e-12)
    json.dumps(found, allow_nan=False)


def test_prices_meet_the_counts_of_the_ledger(tmp_path, run, books):
    """If this fails, a price is multiplied with another count than the one it is for."""
    ledger = run.ledger
    wanted = {
        "ac": ledger.by_class("ac"),
        "mac": ledger.by_class("mac"),
        "identity": ledger.by_class("identity"),
        "pool": ledger.by_class("pool"),
        "mac_input": ledger.macs_input,
        "spike": sum(ledger.spike_units(p.name) for p in run.network.populations if isinstance(p.neuron, IF)),
        **{o: ledger.operations(o) for o in energy.OPERATIONS},
    }
    totals = {key: 0 for key in energy.PRICED}
    for layer in energy.layer_counts(*books).values():
        for key, count in layer.items():
            totals[key] += count
    assert totals == {key: int(wanted[key].sum()) for key in energy.PRICED}
    assert min(totals.values()) > 0  # nothing is compared with nothing
    for key, counts in energy.sample_counts(ledger).items():
        assert np.array_equal(counts, wanted[key]), key
    for key in energy.PRICED:
        if key in ("neuron_update", "ac"):
            continue
        path = own(
            tmp_path, ('operation = "ac"', f'operation = "{key}"'), ('operation = "neuron_update"', 'operation = "ac"')
        )
        found = energy.account(*books, path)
        assert found["picojoule"] == 2 * totals[key] + 3000 * totals["ac"]  # whole numbers: exact
        left = {k for k in totals if k not in (key, "ac")}
        for pair in energy.EITHER:  # counted one way or the other, a pair is told once
            left -= pair if key in pair else {max(pair, key=len)}
        assert {*found["unpriced"]} == left
        assert all(found["unpriced"][k] == totals[k] for k in left)


def test_a_neuron_that_fires_twice_at_once_sends_two_spikes(tmp_path):
    """If this fails, spikes that share a tick travel for nothing."""
    network = Network(
        populations=(
            Population("input", (2,), Input()),
            Population("twice", (3,), IF(threshold=0.5, multi_spike=True)),
            Population("out", (2,), Integrator()),
        ),
        connections=(
            Connection("input", "twice", Dense(np.full((3, 2), 0.5))),
            Connection("twice", "out", Dense(np.ones((2, 3)))),
        ),
        output="out",
        ticks=4,
    )
    run = simulate(network, np.ones((2, 2)))
    record = runs.describe(run)
    assert int(run.ledger.spikes("twice").sum()) == 2 * 4 * 3
    account = energy.account(record.run, record.network, own(tmp_path, ('operation = "ac"', 'operation = "spike"')))
    assert account["operations"]["spike"]["count"] == energy.sample_counts(run.ledger)["spike"].sum() == 2 * 4 * 3 * 2


def test_static_power_takes_the_time_that_ran(tmp_path, run, books):
    """If this fails, a chip that draws power while it idles gains nothing, or too much, from an early stop."""
    table = energy.load_table(own(tmp_path))
    found = energy.account(*books, table, tick_seconds=0.002)
    assert found["static"] == pytest.approx(0.0005 * int(run.stop_time.sum()) * 0.002 * 1e12, rel=1e-12)
    unknown = energy.account(*books, table)
    assert unknown["static"] is None
    assert unknown["picojoule"] == unknown["dynamic"] == found["dynamic"]
    with_tick = {**books[1], "tick_seconds": 0.002}
    assert energy.account(books[0], with_tick, table)["static"] == found["static"]
    full = runs.describe(small.run(cutoff=Fixed()))
    longer = energy.account(full.run, full.network, table, tick_seconds=0.002)
    assert longer["static"] > found["static"]
    assert longer["dynamic"] > found["dynamic"]  # a stopped run is a prefix


def test_what_is_counted_one_way_only_is_told(tmp_path):
    """If this fails, a silent leaky layer looks as if its leak had been priced."""
    network = Network(
        populations=(Population("input", (2,), Input()), Population("out", (3,), LIF(threshold=1.0, alpha=0.5))),
        connections=(Connection("input", "out", Dense(np.ones((3, 2)))),),
        output="out",
        encoding="rate",
        ticks=4,
    )
    record = runs.describe(simulate(network, np.zeros((2, 2))))
    left = energy.account(record.run, record.network, "tianjic-deng2020")["unpriced"]
    assert left == {"neuron_update_clocked": 24, "decay_clocked": 24}  # nothing arrived: none by event
    assert energy.account(record.run, record.network, own(tmp_path))["unpriced"] == {"decay_clocked": 24}


@pytest.mark.parametrize("name", energy.table_names())
def test_accounts_are_linear_and_add_up_over_samples(name):
    """If this fails, a batch does not cost what its samples cost, one by one or twice."""
    x, _ = small.images(4)

    def cost(images):
        record = runs.describe(simulate(small.network(), images, watchdog=SpikeGap(2)))
        return energy.account(record.run, record.network, name, tick_seconds=1e-3)

    whole, twice = cost(x), cost(np.concatenate([x, x]))
    single = [cost(x[i : i + 1]) for i in range(4)]
    for key in ("picojoule", "dynamic", "static", "ann"):
        if whole[key] is None:
            assert twice[key] is None
            continue
        assert math.isclose(math.fsum(one[key] for one in single), whole[key], rel_tol=1e-12)
        assert math.isclose(twice[key], 2 * whole[key], rel_tol=1e-12)
    for key, count in whole["unpriced"].items():
        assert twice["unpriced"][key] == 2 * count == 2 * sum(one["unpriced"].get(key, 0) for one in single)


def test_the_dense_network_is_priced_once_a_sample(books, run):
    """If this fails, the baseline that papers compare with is not the dense network's."""
    found = energy.account(*books, "45nm-fp32")
    # conv 1 -> 3 on 5x6, 1x1 on the relay's way, 3x3 and 1x1 recurrent among 3 channels, pooled dense 18 x 3
    pairs = (3 * 5 - 2) * (3 * 6 - 2)  # in-bounds taps of a 3x3 kernel on 5 x 6
    dense = 3 * pairs + 9 * 30 + 9 * pairs + 9 * 30 + 54
    assert found["ann"] == pytest.approx(4.6 * dense * len(run.predictions), rel=1e-12)
    assert energy.account(*books, "tianjic-deng2020")["ann"] is None


@pytest.mark.parametrize("input_macs", energy.INPUT_MACS)
def test_how_images_are_multiplied(run, books, input_macs):
    """If this fails, the input layer is charged for other multiplications than asked for."""
    ledger = run.ledger
    wanted = {
        "once": ledger.macs_input,
        "per-tick": ledger.macs_input * run.stop_time,
        "effective": ledger.macs_input_effective,
        "effective-per-tick": ledger.macs_input_effective * run.stop_time,
    }[input_macs]
    counts = energy.layer_counts(*books, input_macs)
    assert {name: layer["mac_input"] for name, layer in counts.items() if layer["mac_input"]} == {
        "conv": int(wanted.sum())
    }
    assert np.array_equal(energy.sample_counts(ledger, input_macs)["mac_input"], wanted)


def test_input_macs_that_are_not_known():
    """If this fails, the effective multiplications of two image connections are made up."""
    network = small.network("sum")
    second = replace(network.connections[0], name="again")
    network = replace(network, connections=(*network.connections, second))
    images, _ = small.images(2)
    record = runs.describe(simulate(network, images, watchdog=Fixed()))
    assert energy.layer_counts(record.run, record.network)["conv"]["mac_input"] == record.run["macs_input"]
    with pytest.raises(ValueError, match="images enter by 2 connections"):
        energy.account(record.run, record.network, "45nm-fp32", input_macs="effective")
    with pytest.raises(ValueError, match="input-macs is 'twice', wanted one of once"):
        energy.account(record.run, record.network, "45nm-fp32", input_macs="twice")


@pytest.mark.parametrize("connections", [1, 2])
def test_images_behind_a_pool(connections):
    """If this fails, layers and samples are charged for other multiplications of an image than the run counted."""
    kernel = np.ones((2, 1, 3, 3))
    kernel[0, 0, 1, 1] = 0
    conv = Conv(kernel, (1, 1), ((1, 1), (1, 1)), (1, 1))
    average = Pool((2, 2), (1, 1), (0, 0))  # overlapping: an inner pixel has four paths
    images = (
        Connection("input", "a", conv, before=(average,), name="pooled"),
        Connection("input", "out", Dense(np.ones((2, 25))), before=(Flatten(),), name="plain"),
    )[:connections]
    network = Network(
        populations=(
            Population("input", (1, 5, 5), Input()),
            Population("a", (2, 4, 4), IF()),
            Population("out", (2,), Integrator()),
        ),
        connections=(*images, Connection("a", "out", Dense(np.ones((2, 32))), before=(Flatten(),))),
        output="out",
        ticks=3,
    )
    run = simulate(network, np.random.default_rng(0).random((2, 1, 5, 5)))
    record = runs.describe(run)
    for way in energy.INPUT_MACS[: 2 if connections == 2 else 4]:
        total = sum(layer["mac_input"] for layer in energy.layer_counts(record.run, record.network, way).values())
        key = {"once": "macs_input", "per-tick": "macs_input_per_tick", "effective": "macs_input_effective"}
        assert total == record.run[key.get(way, "macs_input_effective_per_tick")]
        assert total == energy.sample_counts(run.ledger, way)["mac_input"].sum() > 0
    # by hand: every window of four pixels meets the in-bounds taps of its position
    paths = sum(
        4 * 2 * len(range(max(y - 1, 0), min(y + 2, 4))) * len(range(max(x - 1, 0), min(x + 2, 4)))
        for y in range(4)
        for x in range(4)
    )
    assert energy.layer_counts(record.run, record.network)["a"]["mac_input"] == 2 * paths
    # the dense network adds a window up before it multiplies
    assert energy.account(record.run, record.network, "45nm-fp32")["ann"] == pytest.approx(
        4.6 * 2 * (paths // 4 + 50 * (connections - 1) + 64)
    )


def test_samples_add_up_to_the_run(run, books):
    """If this fails, the energies of single samples are not those of the run they make up."""
    for name in ("45nm-fp32", "loihi1-frady2020"):
        one = energy.sample_picojoule(run.ledger, name, tick_seconds=1e-3)
        assert one.shape == run.stop_time.shape
        assert math.isclose(one.sum(), energy.account(*books, name, tick_seconds=1e-3)["picojoule"], rel_tol=1e-9)
    with pytest.raises(ValueError, match="is a model of whole runs"):
        energy.sample_picojoule(run.ledger, "lemaire2022")


# ------------------------------------------------------------------------------------------------------- Lemaire 2022


def tiny(padding: int, bias: bool) -> Network:
    """Events, a 3x3 convolution of one channel to two, a dense readout."""
    conv = Conv(np.full((2, 1, 3, 3), 0.4), (1, 1), ((padding, padding),) * 2, (1, 1))
    shape = conv.out_shape((1, 5, 5))
    units = math.prod(shape)
    return Network(
        populations=(
            Population("input", (1, 5, 5), Input()),
            Population("conv", shape, IF(threshold=1.0)),
            Population("out", (3,), Integrator()),
        ),
        connections=(
            Connection("input", "conv", conv, bias=np.array([0.1, 0.2]) if bias else None),
            Connection("conv", "out", Dense(np.ones((3, units))), before=(Flatten(),)),
        ),
        output="out",
        encoding="rate",
        ticks=4,
    )


@pytest.mark.parametrize("bias", [False, True])
def test_the_published_model_by_hand(bias):
    """If this fails, the model is not the sum of its printed equations."""
    record = runs.describe(simulate(tiny(1, bias), np.full((2, 1, 5, 5), 0.5), seed=3))
    found = energy.account(record.run, record.network, "lemaire2022")
    spikes = {layer["name"]: layer["events"] for layer in record.run["layers"]}
    s, out, ticks = spikes["input"], spikes["conv"], 8
    access = energy.memory_access
    neurons = 2 * 25
    taps = s * 9 * 2
    memory = s * access(1000) + taps * access(18) + 2 * (taps + ticks * neurons) * access(neurons) + out * access(1000)
    memory += bias * ticks * neurons * access(2)
    operations = taps * 0.1 + out * 0.1 + bias * ticks * neurons * 0.1
    addressing = taps * 0.1 + 2 * s * 3.2
    layer = next(layer for layer in found["layers"] if layer["name"] == "conv")
    wanted = {"memory": memory, "operations": operations, "addressing": addressing}
    assert layer["parts"] == pytest.approx(wanted, rel=1e-12)
    taps = out * 3
    memory = out * access(1000) + taps * access(150) + 2 * (taps + ticks * 3) * access(3)
    layer = next(layer for layer in found["layers"] if layer["name"] == "out")
    assert layer["parts"] == pytest.approx(
        {"memory": memory, "operations": taps * 0.1, "addressing": taps * 0.1}, rel=1e-12
    )


def test_exact_counts_are_the_published_ones_without_borders_and_silence():
    """If this fails, the exact variant differs from the published one by more than borders and untouched neurons."""
    network = tiny(2, True)  # with padding 2 no tap of a 3x3 kernel falls outside
    record = runs.describe(simulate(network, np.full((2, 1, 5, 5), 0.5), seed=3))
    published, exact = (energy.account(record.run, record.network, f"lemaire2022{x}") for x in ("", "-exact"))
    assert exact["layers"][1]["parts"] == pytest.approx(published["layers"][1]["parts"], rel=1e-12)
    bordered = runs.describe(simulate(tiny(1, True), np.full((2, 1, 5, 5), 0.5), seed=3))
    published, exact = (energy.account(bordered.run, bordered.network, f"lemaire2022{x}") for x in ("", "-exact"))
    assert exact["picojoule"] < published["picojoule"]


def test_memory_access_follows_the_three_points():
    """Least squares through 8 kB 10 pJ, 32 kB 20 pJ, 1 MB 100 pJ gives the line that the model uses."""
    slope, start = np.polyfit(np.array([8e3, 32e3, 1e6]) * 8, [10, 20, 100], 1)
    assert energy.memory_access(0) == pytest.approx(start, rel=2e-3)
    assert energy.memory_access(1) - energy.memory_access(0) == pytest.approx(32 * slope, rel=5e-3)


def walked(run, network):
    """lemaire2022 as published, layer by layer, in loops over what is read, written, added and addressed."""
    record = runs.describe(run)
    access = energy.memory_access
    sizes = {p.name: p.size for p in network.populations}
    names = [p.name for p in network.populations]
    parts = {name: {"memory": 0.0, "operations": 0.0, "addressing": 0.0} for name in names}
    for c in network.connections:
        book, target = parts[c.target], sizes[c.target]
        is_conv = isinstance(c.op, Conv)
        kernel = c.op.weight.shape[2:] if is_conv else (1, 1)
        strides = c.op.stride if is_conv else (1, 1)
        channels = c.op.weight.shape[0] // (c.op.groups if is_conv else 1)
        if c.source == network.input.name:  # the image: a read of pixel and weight and a MAC, padding left out
            (height, width), (out_h, out_w) = network.input.shape[1:], network[c.target].shape[1:]
            for _ in run.predictions:
                for y, x in np.ndindex(out_h, out_w):
                    for i, j in np.ndindex(kernel):
                        if 0 <= y * strides[0] + i - 1 < height and 0 <= x * strides[1] + j - 1 < width:
                            book["memory"] += channels * (access(height * width) + access(c.op.weight.size))
                            book["operations"] += channels * (0.1 + 3.1)
            continue
        for event in run.events[run.events["population"] == names.index(c.source)]:
            assert event["value"] == 1
            book["memory"] += access(1000)
            book["addressing"] += 2 * (0.1 + 3.1) if is_conv else 0
            for _ in range(channels * math.prod(kernel)):
                book["memory"] += access(c.op.weight.size) + 2 * access(target)  # weight; potential read and written
                book["addressing"] += 0.1
            for _ in range(channels * math.ceil(kernel[0] / strides[0]) * math.ceil(kernel[1] / strides[1])):
                book["operations"] += 0.1
    for p in network.populations[1:]:
        book = parts[p.name]
        biases = [c.bias for c in network.connections if c.target == p.name and c.bias is not None]
        for _ in range(int(run.stop_time.sum()) * p.size):
            book["memory"] += 2 * access(p.size)
            for bias in biases:
                book["memory"] += access(bias.size)
                book["operations"] += 0.1
            if isinstance(p.neuron, LIF):
                book["operations"] += 0.1 + 3.1
        for _ in range(int(np.sum(run.events["population"] == names.index(p.name)))):
            book["memory"] += access(1000)
            book["operations"] += 0.1
    return record, parts


def test_the_published_model_in_loops():
    """If this fails, a stride, groups, a leak, a bias or the image is charged by another equation than the paper's."""
    rng = np.random.default_rng(3)

    def conv(outputs, inputs, stride, groups=1):
        weight = rng.normal(0.15, 0.3, (outputs, inputs // groups, 3, 3))
        return Conv(weight, (stride, stride), ((1, 1), (1, 1)), (1, 1), groups)

    network = Network(
        populations=(
            Population("input", (1, 7, 7), Input()),
            Population("a", (4, 4, 4), LIF(alpha=0.9)),
            Population("b", (6, 2, 2), IF()),
            Population("out", (3,), LIF(alpha=0.5)),
        ),
        connections=(
            Connection("input", "a", conv(4, 1, 2)),
            Connection("a", "b", conv(6, 4, 2, groups=2), bias=rng.normal(0.1, 0.1, 6)),
            Connection("b", "out", Dense(rng.normal(0.2, 0.3, (3, 24))), before=(Flatten(),), bias=np.ones(3) / 8),
        ),
        output="out",
        ticks=6,
    )
    run = simulate(network, rng.random((2, 1, 7, 7)), watchdog=SpikeGap(3), record="spikes")
    assert min(int(run.ledger.spikes(name).sum()) for name in ("a", "b", "out")) > 0
    record, parts = walked(run, network)
    found = energy.account(record.run, record.network, "lemaire2022")
    for layer in found["layers"]:
        assert layer["parts"] == pytest.approx(parts[layer["name"]], rel=1e-9), layer["name"]


def test_what_exact_counts_take_away_term_by_term():
    """If this fails, the two variants differ by something else than borders and neurons at rest."""
    record = runs.describe(simulate(tiny(1, False), np.full((2, 1, 5, 5), 0.1), seed=3))
    published, exact = (energy.account(record.run, record.network, f"lemaire2022{x}") for x in ("", "-exact"))
    layers = {layer["name"]: layer for layer in record.run["layers"]}
    access, neurons, steps = energy.memory_access, 50, 8
    padding = layers["input"]["events"] * 18 - layers["conv"]["synops"]  # taps that fall outside
    resting = {name: layers[name]["neuron_update_clocked"] - layers[name]["neuron_update"] for name in ("conv", "out")}
    assert layers["conv"]["neuron_update_clocked"] == neurons * steps
    assert min(padding, *resting.values(), layers["conv"]["events"]) > 0
    wanted = {
        "input": (0, 0, 0),
        "conv": (
            padding * (access(18) + 2 * access(neurons)) + 2 * resting["conv"] * access(neurons),
            padding * 0.1,
            padding * 0.1,
        ),
        "out": (2 * resting["out"] * access(3), 0, 0),
    }
    for a, b in zip(published["layers"], exact["layers"], strict=True):
        taken = [a["parts"][key] - b["parts"][key] for key in ("memory", "operations", "addressing")]
        assert taken == pytest.approx(wanted[a["name"]], rel=1e-9, abs=1e-6), a["name"]


def test_lists_of_synapses_in_the_published_model():
    """If this fails, a list of synapses is charged as if every unit reached every channel."""
    sparse = Sparse(np.array([0, 3, 3, 4]), np.array([0, 4, 11, 2]), np.ones(4), (3, 2, 2))
    network = Network(
        populations=(Population("input", (3,), Input()), Population("out", (3, 2, 2), IF(threshold=9.0))),
        connections=(Connection("input", "out", sparse),),
        output="out",
        encoding="rate",
        ticks=4,
    )
    record = runs.describe(simulate(network, np.ones((1, 3))))  # every unit in every tick
    parts = energy.account(record.run, record.network, "lemaire2022")["layers"][1]["parts"]
    access, spikes, taps = energy.memory_access, 12, 16
    memory = spikes * access(1000) + taps * access(4) + 2 * (taps + 4 * 12) * access(12)
    wanted = {"memory": memory, "operations": taps * 0.1, "addressing": taps * 0.1}
    assert parts == pytest.approx(wanted, rel=1e-12)


def test_a_cutoff_is_a_prefix_of_the_cost():
    """If this fails, stopping later can cost less, sample by sample, with the power of an idle chip or without."""
    for name, tick in (("45nm-fp32", None), ("loihi1-frady2020", 1e-3), ("speck-yao2024", 1e-3)):
        cutoffs = (SpikeGap(1), SpikeGap(2), SpikeGap(4), Fixed())
        costs = [energy.sample_picojoule(small.run(cutoff=c).ledger, name, tick_seconds=tick) for c in cutoffs]
        for earlier, later in pairwise(costs):
            assert np.all(earlier <= later)
        assert costs[0].sum() < costs[-1].sum()
