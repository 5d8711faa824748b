"""The figure of `bench.py`: times faster than each library, and how time grows with SynOps and with ticks."""

from __future__ import annotations

from typing import Any

from eventsnn import plot

ACROSS = 3  # comparisons in a row


def draw(found: dict[str, Any]) -> Any:
    """Times faster than each library, at batch 1 and at its best batch, and how time grows."""
    from matplotlib.figure import Figure

    bars = list(compared(found["sections"]))
    growth = found["sections"].get("growth")
    lines = [bars[i : i + ACROSS] for i in range(0, len(bars), ACROSS)]
    count = len(lines) + (growth is not None)
    figure = Figure(figsize=(plot.WIDTH, 3.2 * count + 0.2), dpi=plot.DPI, layout="constrained")
    rows = figure.subfigures(count, 1, squeeze=False)[:, 0] if count else ()
    for row, line in zip(rows, lines):
        for axes, (title, block) in zip(
            row.subplots(1, ACROSS, squeeze=False)[0], [*line, *[("", None)] * (ACROSS - len(line))]
        ):
            if block:
                draw_bars(axes, title, block)
            else:
                axes.axis("off")
    if growth is not None:
        left, right = rows[-1].subplots(1, 2)
        draw_growth(left, right, growth)
    return figure


def compared(sections: dict[str, Any]) -> Any:
    """(title, block) of every comparison with libraries."""
    for name, section in sections.items():
        for key, block in ((name, section), *section.items()):
            if isinstance(block, dict) and block.get("libraries"):
                yield name if key == name else f"{name}, {key}", block


def draw_bars(axes: Any, title: str, block: dict[str, Any]) -> None:
    """Median times of each library, with the least and the most as a line."""
    names = list(block["libraries"])
    for place, (label, colour) in enumerate((("batch 1", plot.SPIKE), ("best larger batch", plot.UPPER))):
        for i, row in enumerate(block["libraries"].values()):
            chosen = [r["times_ours"] for batch, r in row.items() if (batch == "1") == (place == 0)]
            if not chosen:
                continue
            s = min(chosen, key=lambda s: s["median"])
            x = i + 0.4 * (place - 0.5)
            axes.bar(x, s["median"], 0.38, color=colour, label="" if i else label)
            axes.plot([x, x], [s["min"], s["max"]], color=plot.QUIET, linewidth=1)
    axes.axhline(1, color=plot.STOP, linewidth=1)
    axes.set_xlim(-0.6, max(4, len(names) - 1) + 0.6)
    axes.set_ylim(0, 1.25 * axes.get_ylim()[1])  # room for the legend
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_title(title, fontsize=8, loc="left", fontweight="bold")
    axes.set_ylabel("their time / ours, per sample", fontsize=8)
    quiet(axes)
    axes.legend(fontsize=7, frameon=False, loc="upper left", ncols=2)


def draw_growth(left: Any, right: Any, growth: dict[str, Any]) -> None:
    curves = (
        (left, growth["by_synops"], "synops", "ns_per_synop", "SynOps of a sample", "ns per SynOp"),
        (right, growth["by_ticks"], "ticks", "seconds", "ticks, the same 4,000 events", "seconds"),
    )
    for axes, rows, x, y, across, up in curves:
        at, median = [row[x] for row in rows], [row[y]["median"] for row in rows]
        axes.fill_between(at, [r[y]["min"] for r in rows], [r[y]["max"] for r in rows], color=plot.SHADE)
        axes.plot(at, median, "o-", color=plot.SPIKE, linewidth=1.5, markersize=4)
        axes.set_xscale("log")
        axes.set_xlabel(across, fontsize=8)
        axes.set_ylabel(up, fontsize=8)
        quiet(axes)
    left.set_ylim(0, None)
    right.set_yscale("log")


def quiet(axes: Any) -> None:
    axes.tick_params(which="both", labelsize=7, colors=plot.QUIET)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
