"""The figure of latency against throughput."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from attnmath.errors import printable
from attnmath.reporting.figures import GREY, MARKERS, PALETTE, saved

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from attnmath.plans.tradeoffs import Tradeoffs

WIDTH, HEIGHT = 7.0, 4.6


def frontier(found: Tradeoffs, format_: str) -> bytes:
    """Tokens a second of a GPU over the time of a token, one line through the points that nothing beats, and the best of them.

    The same bytes each time; Unknown for a format that is none.

    >>> from attnmath.plans.reading import parse
    >>> from attnmath.plans.tradeoffs import tradeoffs
    >>> plan = parse('model = "gpt2"\\n[gpu]\\nname = "h100-sxm"', "plan.toml")
    >>> b"plan.toml" in frontier(tradeoffs(plan, "max-throughput"), "svg")
    True
    """
    title = f"{found.file}: latency against throughput"
    return saved(lambda: _drawn(found, title), format_, title, caption(found))


def caption(found: Tradeoffs) -> str:
    """What to look at, in words.

    >>> from attnmath.plans.reading import parse
    >>> from attnmath.plans.tradeoffs import tradeoffs
    >>> plan = parse('model = "gpt2"\\n[gpu]\\nname = "h100-sxm"', "plan.toml")
    >>> caption(tradeoffs(plan, "max-throughput"))[:44]
    'Left is quicker for a user, up is cheaper: n'
    """
    best = f" The large ring is the best for {found.goal}." if found.best else " None meets the targets."
    return (
        "Left is quicker for a user, up is cheaper: no way that was tried beats a point on the line in both. Numbers are "
        f"requests at once; hollow points miss a target on the pessimistic end of the estimate.{best}"
    )


def _drawn(found: Tradeoffs, title: str) -> Figure:
    from textwrap import wrap

    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = Figure(figsize=(WIDTH, HEIGHT))
    axes = figure.add_axes((0.12, 0.25, 0.84, 0.66))
    axes.set_title(printable(title)[:90], loc="left", fontsize=10, fontweight="bold")
    axes.set(xscale="log", yscale="log", xlabel="time of each further token, ms", ylabel="output tokens/s of a GPU")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(lambda v, _: f"{v:,.4g}")
        axis.set_minor_formatter(NullFormatter())
    axes.grid(which="major")
    at = [(p, p.tpot_s * 1e3, p.output_tokens_per_s_per_gpu) for p in found.front]
    axes.plot([x for _, x, _ in at], [y for _, _, y in at], color=GREY, linewidth=1, zorder=1)
    layouts = sorted({(p.tensor, p.data) for p in found.front})
    for key, same in groupby(sorted(at, key=lambda a: (a[0].tensor, a[0].data)), lambda a: (a[0].tensor, a[0].data)):
        points, k = list(same), layouts.index(key)
        colour = PALETTE[k % len(PALETTE)]
        axes.scatter(
            [x for _, x, _ in points],
            [y for _, _, y in points],
            marker=MARKERS[k % len(MARKERS)],
            edgecolors=colour,
            facecolors=[colour if p.meets else "white" for p, _, _ in points],
            label=f"tensor {key[0]} x data {key[1]}",
            zorder=2,
        )
    for p, x, y in at:
        axes.annotate(f"{p.concurrency:,}", (x, y), (4, -9), textcoords="offset points", fontsize=7)
        if p == found.best:
            axes.scatter([x], [y], s=170, facecolors="none", edgecolors="black", zorder=3)
    axes.legend(loc="lower right", fontsize=8)
    figure.text(0.02, 0.02, "\n".join(wrap(caption(found), 118)), fontsize=7.5, color="#333333", va="bottom")
    return figure
