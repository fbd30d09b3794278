"""Figures: one style for all of them, legible in grey and by every eye, and the same to the byte when drawn again."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, pairwise
from math import atan2, degrees, log10
from typing import TYPE_CHECKING, Any

from attnmath.errors import InputError, Unknown, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from attnmath.hardware.roofline import Roof
    from attnmath.rooflines import Point, Roofline

# Okabe and Ito 2008, "Color universal design", https://jfly.uni-koeln.de/color/; yellow left out: too light on white
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = (
    "o",
    "s",
    "^",
    "D",
    "v",
    "P",
    "X",
    "<",
    ">",
    "p",
    "h",
)  # one more than colours divides, so pairs are distinct
GREY = "#767676"  # 4.5 to 1 on white
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # matplotlib brings it along
    "font.size": 9,
    "text.parse_math": False,  # names of users are no formulas
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "attnmath",
    "pdf.fonttype": 42,
    "savefig.dpi": 150,
}
UNDATED: dict[str, dict[str, Any]] = {  # what else would differ from run to run, or say who drew it with what
    "svg": {"Date": None, "Creator": "attnmath"},
    "png": {"Software": "attnmath"},
    "pdf": {"CreationDate": None, "Creator": "attnmath", "Producer": None},
}
ABOUT = {"svg": "Description", "png": "Description", "pdf": "Subject"}


@contextmanager
def style() -> Iterator[None]:
    """The style of all figures, whatever the user's own settings of matplotlib are; those come back after it.

    >>> import matplotlib
    >>> with style():
    ...     matplotlib.rcParams["svg.fonttype"]
    'none'
    """
    try:
        import matplotlib
    except (ImportError, ValueError) as error:  # ValueError: a MPLBACKEND that it does not know
        raise InputError(f"matplotlib, which draws figures, cannot be loaded: {error}") from None
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def saved(draw: Callable[[], Figure], format_: str, title: str, about: str) -> bytes:
    """A figure as SVG, PNG or PDF, the same bytes each time; `draw` is called in the style of all figures.

    `title` and `about`, what the figure shows in words, go along for those who do not see it. Unknown for another format.

    >>> def draw():
    ...     from matplotlib.figure import Figure
    ...     return Figure(figsize=(1, 1))
    >>> saved(draw, "svg", "Nothing", "An empty figure.") == saved(draw, "svg", "Nothing", "An empty figure.")
    True
    """
    if format_ not in UNDATED:
        raise Unknown("format of a figure", format_, UNDATED, "formats")
    out = io.BytesIO()
    with style(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # letters that the font has not; viewers have others
        metadata = {**UNDATED[format_], "Title": title, ABOUT[format_]: about}
        draw().savefig(out, format=format_, metadata=metadata)
    return out.getvalue()


def rounded(x: float) -> float:
    """A number as it is drawn: six digits, so that the last bits of a float move nothing.

    >>> rounded(0.1 + 0.2)
    0.3
    """
    return float(f"{x:.6g}")


def spread(wanted: Sequence[float], apart: float) -> list[float]:
    """Heights for labels that want to stand at these, in ascending order, and keep a distance: moved as little as can be.

    >>> spread([0.1, 0.5, 0.52], 0.1)
    [0.1, 0.46, 0.56]
    """
    blocks: list[
        list[float]
    ] = []  # of labels that touch: how many, and where the first one would like to be on average
    for k, height in enumerate(wanted):
        blocks.append([1, height - k * apart])
        while len(blocks) > 1 and blocks[-2][1] > blocks[-1][1]:
            n, at = blocks.pop()
            m, before = blocks[-1]
            blocks[-1] = [n + m, (n * at + m * before) / (n + m)]
    starts = [at for n, at in blocks for _ in range(int(n))]
    return [rounded(at + k * apart) for k, at in enumerate(starts)]


# -- the roofline

WIDTH, PLOT, LEFT, HEIGHT, TOP = 9.0, 5.6, 0.75, 4.0, 0.4  # inches: all, the axes, what is left of it, and above
MOST_EXP_ROOFS = 4
NEAR = 0.18  # inches: points nearer than this share a label


def roofline(found: Roofline, format_: str) -> bytes:
    """Roofs as lines, costs as points on log-log axes, FLOP/s over FLOP/byte; a list of sizes is a line of points.

    Filled markers are prefill, hollow ones decode, crosses what was measured. Unknown for a format that is none.

    >>> from attnmath.costs import cost
    >>> from attnmath.rooflines import roofline as place
    >>> b"H100" in roofline(place([cost("gqa", seq=8192, heads=32, gpu="h100-sxm")]), "svg")
    True
    """
    title = f"Roofline of {found.title}, {found.dtype}"
    return saved(lambda: _roofline(found, title), format_, title, caption(found))


def caption(found: Roofline) -> str:
    """What to look at in the figure, in words.

    >>> from attnmath.costs import cost
    >>> from attnmath.rooflines import roofline as place
    >>> print(caption(place([cost("gqa", seq=8192, heads=32, gpu="h100-sxm")])))
    Each point stands at the most that its compulsory traffic and the roofs allow: a bound, no estimate. Left of the ridge
    (295.3 FLOP/byte) device memory limits, right of it the matrix units; a dashed roof is that of exponentials, at
    so many FLOPs to each. Here tensor limits gqa prefill.
    """
    limits = {
        unit: list(dict.fromkeys(f"{p.name} {p.phase}" for p in found.points if p.bound == unit))
        for unit in ("hbm", "tensor", "exp")
    }
    shown = [f"{u} limits {_some(names)}" for u, names in limits.items() if names]
    parts = [
        "Each point stands at the most that its compulsory traffic and the roofs allow: a bound, no estimate.",
        f"Left of the ridge ({found.ridge:.4g} FLOP/byte) device memory limits, right of it the matrix units; "
        "a dashed roof is that of exponentials, at so many FLOPs to each.",
        f"Here {'; '.join(shown)}." if shown else "",
        "Crosses are measured times; above the point means a wrong count or a warm cache." if _crosses(found) else "",
        "L2 warm: what it holds is not moved, so points may stand above the slope." if found.l2 == "warm" else "",
        "Where the data decide which pairs exist, a point shows all that may." if _at_most(found) else "",
        f"{_left_out(found)} more roofs of exponentials lie higher." if _left_out(found) else "",
        f"Not drawn, without matrix products: {_some(_unplaced(found))}." if _unplaced(found) else "",
        *(f"No {unit} roof: {why}." for unit, why in found.absent.items()),
    ]
    return " ".join(p for p in parts if p)


def _some(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(printable(n)[:40] for n in names[:most]) + more


def _crosses(found: Roofline) -> bool:
    return any(p.measured_flop_per_s for p in found.points)


def _at_most(found: Roofline) -> bool:
    return any(p.at_most for p in found.points)


def _unplaced(found: Roofline) -> list[str]:
    return list(dict.fromkeys(f"{p.name} {p.phase}" for p in found.points if p.intensity is None))


def _left_out(found: Roofline) -> int:
    return max(0, len([r for r in found.roofs if r.unit == "exp"]) - MOST_EXP_ROOFS)


def _roofline(found: Roofline, title: str) -> Figure:
    from matplotlib.figure import Figure

    placed = [p for p in found.points if p.intensity]
    series = {k: list(points) for k, points in groupby(placed, lambda p: (p.name, p.phase))}
    words = textwrap.wrap(caption(found), 150)
    across = max(1, min(4, int(8.5 / (0.45 + 0.055 * max([_wide(points) for points in series.values()], default=1)))))
    rows = -(-(len(series) + _crosses(found)) // across)
    below = 0.55 + 0.155 * rows + 0.15 + 0.15 * len(words) + 0.1
    height = TOP + HEIGHT + below
    figure = Figure(figsize=(WIDTH, rounded(height)))
    axes = figure.add_axes((LEFT / WIDTH, below / height, PLOT / WIDTH, HEIGHT / height))
    x, y = _limits(found, placed)
    axes.set(xscale="log", yscale="log", xlim=x, ylim=y)
    axes.set(xlabel="arithmetic intensity, FLOP/byte of compulsory traffic", ylabel="FLOP/s of matrix products")
    axes.set_title(printable(title)[:100], loc="left", fontsize=10, fontweight="bold")
    axes.xaxis.set_major_formatter(lambda v, _: f"{v:,.6g}")
    axes.yaxis.set_major_formatter(lambda v, _: _prefixed(v))
    axes.grid(which="major")
    _draw_roofs(axes, found, x, y)
    _draw_points(axes, series, x, y)
    if series:
        figure.legend(
            loc="upper left",
            bbox_to_anchor=(0.3 / WIDTH, rounded((below - 0.5) / height)),
            ncols=across,
            fontsize=8,
            handlelength=1.2,
            columnspacing=1.4,
            borderaxespad=0,
            labelspacing=0.35,
        )
    figure.text(0.3 / WIDTH, 0.1 / height, "\n".join(words), fontsize=7.5, color="#333333", va="bottom")
    return figure


def _prefixed(v: float) -> str:
    """A tick of FLOP/s: 1e12 as 1 T."""
    from attnmath.cli.render import scaled

    return scaled(v, "").strip()


def _limits(found: Roofline, placed: Sequence[Point]) -> tuple[tuple[float, float], tuple[float, float]]:
    """What the axes reach: every point, the ridge, and the highest roof that is drawn."""
    across = [found.ridge, *(p.intensity for p in placed if p.intensity)]
    up = [r.flop_per_s for r in _drawn(found) if r.flop_per_s]
    up += [v for p in placed for v in (p.attainable_flop_per_s, p.measured_flop_per_s) if v]
    return (rounded(min(across) / 4), rounded(max(across) * 4)), (rounded(min(up) / 4), rounded(max(up) * 2.5))


def _drawn(found: Roofline) -> list[Roof]:
    """The flat roofs in the figure, from below: of dtypes those down to a tenth of the peak, of exponentials the lowest."""
    peak = found.peak
    tensor = [r for r in found.roofs if r.unit == "tensor" and (r.at(0) >= peak / 20 or r.name == "fp32")]
    exps = sorted((r for r in found.roofs if r.unit == "exp"), key=lambda r: r.at(0))
    return sorted([*tensor, *exps[:MOST_EXP_ROOFS]], key=lambda r: r.at(0))


def _draw_roofs(axes: Axes, found: Roofline, x: tuple[float, float], y: tuple[float, float]) -> None:
    from attnmath.cli.render import scaled

    memory = next(r for r in found.roofs if r.unit == "hbm")
    top = max(r.at(0) for r in _drawn(found))
    bandwidth = memory.at(1.0)
    axes.plot([x[0], rounded(top / bandwidth)], [rounded(memory.at(x[0])), rounded(top)], color="#333333", lw=0.8)
    axes.plot([x[0], rounded(found.ridge)], [rounded(memory.at(x[0])), rounded(found.peak)], color="#000000", lw=1.8)
    axes.axvline(rounded(found.ridge), color=GREY, lw=0.7, ls=":")
    axes.text(rounded(found.ridge), y[0] * 1.15, f" ridge {found.ridge:.4g}", color=GREY, fontsize=8)
    slope = degrees(atan2(HEIGHT / log10(y[1] / y[0]), PLOT / log10(x[1] / x[0])))
    at = _widest_gap([p.intensity for p in found.points if p.intensity], max(x[0], y[0] / bandwidth), found.ridge)
    axes.text(
        at, rounded(memory.at(at)), f"memory {scaled(bandwidth, 'B/s')}", rotation=rounded(slope),
        rotation_mode="anchor", ha="center", va="bottom", fontsize=8,
    )  # fmt: skip
    groups = [list(same) for _, same in groupby(_drawn(found), lambda r: (r.unit == "exp", rounded(r.at(0))))]
    for roofs_ in groups:
        rate, main = roofs_[0].at(0), any(r.unit == "tensor" and r.name == found.dtype for r in roofs_)
        look: dict[str, Any] = {"color": "#000000", "lw": 1.8} if main else {"color": GREY, "lw": 0.8}
        if roofs_[0].unit == "exp":
            look |= {"color": "#333333", "ls": (0, (6, 3)), "lw": 1.1}
        axes.plot([rounded(rate / bandwidth), x[1]], [rounded(rate)] * 2, **look)
    heights = [log10(g[0].at(0) / y[0]) / log10(y[1] / y[0]) for g in groups]
    for roofs_, height in zip(groups, spread(heights, 0.042)):
        main = any(r.unit == "tensor" and r.name == found.dtype for r in roofs_)
        text = f"{scaled(roofs_[0].at(0), 'FLOP/s')} {_label(roofs_, found)}"
        colour = "#000000" if main or roofs_[0].unit == "exp" else GREY
        axes.text(
            1.012, height, text, transform=axes.transAxes, fontsize=8, color=colour, va="center",
            fontweight="bold" if main else "normal",
        )  # fmt: skip


def _widest_gap(taken: Iterable[float], low: float, high: float) -> float:
    """The middle of the widest gap on a logarithmic axis between two ends, past what stands there."""
    marks = sorted([log10(low), log10(high), *(log10(v) for v in taken if low < v < high)])
    a, b = max(pairwise(marks), key=lambda gap: rounded(gap[1] - gap[0]))
    return rounded(10 ** ((a + b) / 2))


def _label(same: Sequence[Roof], found: Roofline) -> str:
    """What a flat roof is of: dtypes, or the variants whose exponentials it limits."""
    if same[0].unit == "tensor":
        return ", ".join(r.name for r in same)
    ratio = f"{same[0].flop_per_exp or 0:.3g}"
    names = dict.fromkeys(p.name for p in found.points if p.flop_per_exp and f"{p.flop_per_exp:.3g}" == ratio)
    return f"exp at {same[0].flop_per_exp:.4g}: {_some([n[:16] for n in names], 1)}"


def _legend(points: Sequence[Point]) -> str:
    at_most = ", at most" if any(p.at_most for p in points) else ""
    return f"{printable(points[0].name)[:32]} {points[0].phase}{at_most}"


def _wide(points: Sequence[Point]) -> int:
    return len(_legend(points))


def _draw_points(
    axes: Axes, series: dict[tuple[str, str], list[Point]], x: tuple[float, float], y: tuple[float, float]
) -> None:
    names = list(dict.fromkeys(points[0].variant for points in series.values()))
    for (_, phase), points in series.items():
        k = names.index(points[0].variant)
        colour = PALETTE[k % len(PALETTE)]
        xs, ys = [rounded(p.intensity or 0) for p in points], [rounded(p.attainable_flop_per_s or 0) for p in points]
        axes.plot(
            xs, ys, marker=MARKERS[k % len(MARKERS)], color=colour, lw=0.9, ms=7, mew=1.4, zorder=3, label=_legend(points),
            mfc="white" if phase == "decode" else colour,
        )  # fmt: skip
        for p, px, py in zip(points, xs, ys):
            if p.measured_flop_per_s:
                reached = rounded(p.measured_flop_per_s)
                axes.plot([px, px], [py, reached], color=colour, lw=0.8, ls=":", zorder=2)
                axes.plot([px], [reached], marker="x", color=colour, ls="", ms=6, mew=1.8, zorder=4)
        if len(points) > 1:
            inches = PLOT / log10(x[1] / x[0]), HEIGHT / log10(y[1] / y[0])
            _name_sizes(axes, points, inches, (5, 6 if k % 2 else -11))
    if any(p.measured_flop_per_s for points in series.values() for p in points):
        axes.plot([], [], marker="x", color="#000000", ls="", ms=6, mew=1.8, label="measured")


def _name_sizes(axes: Axes, points: Sequence[Point], inches: tuple[float, float], offset: tuple[float, float]) -> None:
    """The sizes along a line of points; those too near to each other share a label."""
    varied = [k for k in ("batch", "seq", "context") if len({p.inputs.get(k) for p in points}) > 1]
    varied = [k for k in varied if not (k == "context" and "seq" in varied)]

    def place(p: Point) -> tuple[float, float]:
        return log10(p.intensity or 1) * inches[0], log10(p.attainable_flop_per_s or 1) * inches[1]

    groups: list[list[Point]] = []
    for p in points:
        near = groups and max(abs(a - b) for a, b in zip(place(p), place(groups[-1][0]))) < NEAR
        groups[-1].append(p) if near else groups.append([p])
    for group in groups:
        ends = list(dict.fromkeys(_size(p, varied) for p in (group[0], group[-1])))
        at = rounded(group[-1].intensity or 0), rounded(group[-1].attainable_flop_per_s or 0)
        axes.annotate(" to ".join(ends), at, offset, textcoords="offset points", fontsize=7, color="#333333", zorder=5)


def _size(p: Point, varied: Iterable[str]) -> str:
    return ", ".join(f"{k} {_short(p.inputs[k])}" if k == "batch" else _short(p.inputs[k]) for k in varied)


def _short(n: int) -> str:
    """A number of tokens as it is typed: 8192 as 8k."""
    return f"{n // 1024}k" if n >= 1024 and n % 1024 == 0 else f"{n:,}"
