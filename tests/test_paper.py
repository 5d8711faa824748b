"""What goes into a paper: the paragraph, the Markdown table and the LaTeX table say what the run says."""

import re
from dataclasses import replace

import numpy as np
import pytest
import small

from eventsnn import energy, paper, report, runs
from eventsnn.neurons import IF
from eventsnn.simulation import simulate
from eventsnn.watchdog import Budget, Fixed, SpikeGap

FACTS = report.Facts(
    network_file="my_net 100%.h5", network_sha256="ab12", input_file="x & y.npz", input_sha256="cd34", assume="nir"
)


@pytest.fixture(scope="module")
def run():
    return small.run(record="spikes")


@pytest.fixture(scope="module")
def record(run):
    return runs.describe(run, FACTS)


def written(run, record, *tables, **options):
    accounts = [energy.account(record.run, record.network, name, **options) for name in tables]
    return paper.methods(record.run, record.network, report.timing(run), accounts), accounts


def tables_of(text):
    """(rows of the Markdown table, rows of the LaTeX table), each a list of (name, value) as they are written."""
    lines = text.splitlines()
    start = lines.index("| quantity | value |")
    assert re.fullmatch(r"\|-+\|-+:\|", lines[start + 1])  # a rule of two columns, the second to the right
    markdown = []
    for line in lines[start + 2 : lines.index("", start)]:
        assert line.count("|") == 3, line
        markdown.append(tuple(cell.strip() for cell in line.strip("|").split("|")))
    begin, end = lines.index(r"\begin{tabular}{lr}"), lines.index(r"\end{tabular}")
    assert lines[begin + 1] == lines[end - 1] == r"\hline"
    latex = []
    for line in lines[begin + 2 : end - 1]:
        assert line.endswith(r" \\"), line
        cells = re.split(r"(?<!\\)&", line.removesuffix(r" \\"))
        assert len(cells) == 2, line
        latex.append(tuple(cell.strip() for cell in cells))
    return markdown, latex


def plain(text):
    """A LaTeX cell as it is printed."""
    assert not re.search(r"(?<!\\)[%#_]", text), text
    return re.sub(r"\\([&%$#_{}])", r"\1", text.replace(r"$\mu$", "µ"))


def test_the_paragraph_says_what_was_run(run, record):
    """If this fails, a reader could not tell which program, network or samples a paper's numbers are of."""
    text, _ = written(run, record)
    paragraph = text.splitlines()[0]
    versions = report.versions()
    for part in (
        "The network (`my_net 100%.h5`) (sha256 of its content ab12)",
        f"eventsnn {versions['eventsnn']} (Python {versions['python']}, NumPy {np.__version__}, ",
        f"Numba {versions['numba']}) in whole ticks, in float32, ",
        "on 20 samples of `x & y.npz` (sha256 cd34), with direct input, for at most 12 ticks",
        f"(cutoff `spike-gap:2`; {run.stop_time.mean():.2f} ticks on average)",
    ):
        assert part in paragraph
    nameless = runs.describe(run)
    text, _ = written(run, nameless)
    assert text.startswith("The network was run event by event")
    assert "sha256" not in text
    assert "None" not in text


def test_the_counts_are_those_of_the_run(run, record):
    """If this fails, a paper would state other numbers than the run's."""
    text, accounts = written(run, record, "45nm-fp32", "tianjic-deng2020", "loihi1-frady2020", tick_seconds=1e-3)
    ledger, samples = run.ledger, 20
    low, high = report.wilson(int(np.sum(run.predictions == run.labels)), samples)

    def mean(counts):
        return report.quantity(int(counts.sum()) / samples)

    delivered, emitted, effective = (mean(ledger.synops(kind=k)) for k in ("delivered", "structural", "effective"))
    spikes = sum(ledger.spikes(p.name) for p in run.network.populations if isinstance(p.neuron, IF))
    for part in (
        f"Accuracy was {100 * run.accuracy:.2f} % (95 % Wilson interval {100 * low:.2f} to {100 * high:.2f} %).",
        f"{delivered} SynOps per sample were delivered before the stop ({emitted} emitted, {effective} of these",
        f"{mean(ledger.macs_input)} multiply-accumulates per sample",
        *(f"{report.joules(a['picojoule'] / samples)} per sample" for a in accounts),
        f"{report.joules(accounts[2]['static'] / samples)} of it static",
    ):
        assert part in text.splitlines()[0]
    assert "of it static" not in text.split("By the table tianjic")[1].split("By the table")[0]
    assert "not priced: SynOps of graded events, input MACs, identity taps, pool taps" in text
    for account in accounts:
        assert text.splitlines().count(f"{account['table']}: {account['source']}") == 1
    assert dict(tables_of(text)[0]) == {
        "samples": "20",
        "accuracy": f"{100 * run.accuracy:.2f} %",
        "ticks per sample, mean": f"{run.stop_time.mean():.2f} of 12",
        "spikes per sample": mean(spikes),
        "SynOps per sample, delivered": delivered,
        "SynOps per sample, emitted onto non-zero weights": effective,
        "input MACs per sample": mean(ledger.macs_input),
        **{f"energy per sample, {a['table']}": report.joules(a["picojoule"] / samples) for a in accounts},
    }


def test_both_tables_hold_the_same(run, record):
    """If this fails, the LaTeX table does not compile, or says something else than the Markdown one."""
    markdown, latex = tables_of(written(run, record, "45nm-fp32", "spinnaker1-sharp2012", "lemaire2022")[0])
    assert [(plain(name), plain(value)) for name, value in latex] == markdown
    assert any("µJ" in value for _, value in markdown)
    assert any(r"\%" in value for _, value in latex)


def test_names_of_ones_own_tables_break_no_table(run, record):
    """If this fails, a name such as my_chip|100% adds a column, or comments out the rest of a line."""
    own = energy.Table(
        name="my_chip|100% & #1",
        title="My chip",
        technology="",
        scope=("arithmetic",),
        basis="measured",
        source="me",
        note="",
        prices={"ac": energy.Price(2.0, ("arithmetic",), "measured", "me")},
        static=None,
    )
    text, _ = written(run, record, own)
    markdown, latex = tables_of(text)
    assert markdown[-1][0] == "energy per sample, my_chip&#124;100% & #1"
    assert latex[-1][0] == r"energy per sample, my\_chip|100\% \& \#1"
    assert plain(latex[-1][0]) == "energy per sample, my_chip|100% & #1"


def test_nothing_is_said_that_is_not_known(record):
    """If this fails, an energy, an accuracy or an image is stated that the run has not."""
    text, _ = written(small.run(), record)
    assert "By the table" not in text
    assert "energy" not in text
    assert text.endswith(r"\end{tabular}")
    x, _ = small.images(4)
    spikes = replace(small.network(), encoding="rate")
    unlabelled = simulate(spikes, x, watchdog=Fixed())
    text, _ = written(unlabelled, runs.describe(unlabelled))
    assert "ccuracy" not in text
    assert "multiply-accumulates" not in text
    assert "input MACs" not in text
    assert "with rate input" in text


@pytest.mark.parametrize("cutoff", [SpikeGap(1), Budget(2000), Fixed()])
def test_every_cutoff_is_named(cutoff):
    """If this fails, a reader cannot tell when samples were stopped."""
    run = small.run(cutoff=cutoff, samples=3)
    assert f"(cutoff `{cutoff}`; " in written(run, runs.describe(run))[0]


def test_comparators_in_words(run, record):
    """If this fails, the rule that decides about a spike at the threshold is told wrongly."""
    for comparator, words in (("ge", "fires at or above its"), ("gt", "fires above its"), ("mixed", "(by layer), its")):
        conventions = {**record.run["conventions"], "comparator": comparator}
        found = {**record.run, "conventions": conventions}
        assert words in paper.methods(found, record.network, report.timing(run), [])


def test_latex_is_escaped():
    """If this fails, a file name breaks somebody's paper."""
    assert paper._escaped("a_b 100% #1 {x} \\ ~ ^ & $") == (
        "a\\_b 100\\% \\#1 \\{x\\} \\textbackslash{} \\textasciitilde{} \\textasciicircum{} \\& \\$"
    )
