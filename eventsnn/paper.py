"""What goes into a paper: the paragraph for its methods section, and the table of counts in Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eventsnn.report import joules, operation_words, quantity


def methods(
    run: Mapping[str, Any], network: Mapping[str, Any], timing: Mapping[str, Any], accounts: Sequence[Mapping[str, Any]]
) -> str:
    """The paragraph for a methods section, the table in Markdown, and the same in LaTeX, as one text.

    run, network, timing: contents of the run's JSON files. accounts: from `energy.account`.
    """
    rows = _rows(run, accounts)
    return "\n".join(
        [_paragraph(run, network, timing, accounts), "", *_markdown(rows), "", *_latex(rows), "", *_sources(accounts)]
    ).rstrip()


def _paragraph(
    run: Mapping[str, Any], network: Mapping[str, Any], timing: Mapping[str, Any], accounts: Sequence[Mapping[str, Any]]
) -> str:
    versions, samples, synops = timing["versions"], run["input"]["samples"], run["synops"]
    file, given = run["network"], run["input"]
    named = "The network" if file["file"] is None else f"The network (`{file['file']}`)"
    hashed = "" if file["sha256"] is None else f" (sha256 of its content {file['sha256']})"
    data = "" if given["file"] is None else f" of `{given['file']}`"
    data += "" if given["sha256"] is None else f" (sha256 {given['sha256']})"
    comparator = {"ge": "at or above", "gt": "above", "mixed": "at or above, or above (by layer),"}.get(
        run["conventions"]["comparator"], "at"
    )
    said = [
        f"{named}{hashed} was run event by event with eventsnn {versions['eventsnn']} (Python {versions['python']}, "
        f"NumPy {versions['numpy']}, Numba {versions['numba']}) in whole ticks, in {run['dtype']}, on {samples:,} "
        f"samples{data}, with {network['encoding']} input, for at most {run['ticks']} ticks (cutoff `{run['cutoff']}`; "
        f"{run['mean_stop']:.2f} ticks on average). A neuron fires {comparator} its threshold."
    ]
    if run["accuracy"] is not None:
        low, high = run["accuracy_interval"]
        said.append(
            f"Accuracy was {100 * run['accuracy']:.2f} % (95 % Wilson interval {100 * low:.2f} to {100 * high:.2f} %)."
        )
    delivered, structural, effective = (
        quantity(synops[kind] / samples) for kind in ("delivered", "structural", "effective")
    )
    said.append(
        "A synaptic operation (SynOp) is one spike meeting one synapse inside the borders; zero weights count, "
        f"padding, biases, pooling and identity shortcuts do not. {delivered} SynOps per sample were delivered before "
        f"the stop ({structural} emitted, {effective} of these with a weight other than zero)."
    )
    if run["macs_input"]:
        said.append(
            f"The analog input layer took {quantity(run['macs_input'] / samples)} multiply-accumulates per sample, "
            "computed once and counted apart."
        )
    for a in accounts:
        left = ", ".join(operation_words(key) for key in a["unpriced"])
        out = f"; not priced: {left}" if left else ""
        static = "" if a["static"] is None else f", {joules(a['static'] / samples)} of it static"
        said.append(
            f"By the table {a['table']} ({a['title']}; {', '.join(a['scope'])}; {a['basis']}) this is "
            f"{joules(a['picojoule'] / samples)} per sample{static}{out}."
        )
    return " ".join(said)


def _rows(run: Mapping[str, Any], accounts: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    samples, synops = run["input"]["samples"], run["synops"]
    rows = [
        ("samples", f"{samples:,}"),
        ("ticks per sample, mean", f"{run['mean_stop']:.2f} of {run['ticks']}"),
        ("spikes per sample", quantity(run["spikes"] / samples)),
        ("SynOps per sample, delivered", quantity(synops["delivered"] / samples)),
        ("SynOps per sample, emitted onto non-zero weights", quantity(synops["effective"] / samples)),
    ]
    if run["accuracy"] is not None:
        rows.insert(1, ("accuracy", f"{100 * run['accuracy']:.2f} %"))
    if run["macs_input"]:
        rows.append(("input MACs per sample", quantity(run["macs_input"] / samples)))
    return rows + [(f"energy per sample, {a['table']}", joules(a["picojoule"] / samples)) for a in accounts]


def _markdown(rows: Sequence[tuple[str, str]]) -> list[str]:
    return [
        "| quantity | value |",
        "|---|---:|",
        *(f"| {name.replace('|', '&#124;')} | {value} |" for name, value in rows),
    ]


def _latex(rows: Sequence[tuple[str, str]]) -> list[str]:
    return [
        "\\begin{tabular}{lr}",
        "\\hline",
        *(f"{_escaped(name)} & {_escaped(value)} \\\\" for name, value in rows),
        "\\hline",
        "\\end{tabular}",
    ]


def _escaped(text: str) -> str:
    special = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "µ": "$\\mu$"}
    special |= {character: f"\\{character}" for character in "&%$#_{}"}
    return "".join(special.get(character, character) for character in text)


def _sources(accounts: Sequence[Mapping[str, Any]]) -> list[str]:
    return [f"{a['table']}: {a['source']}" for a in accounts]
