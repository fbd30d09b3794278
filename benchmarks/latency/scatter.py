"""Estimated over measured times, a panel a phase: how many kernels lie where, and where the estimate is 25 % off."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from attnmath.reporting.figures import GREY, PALETTE, saved

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACROSS, SIZE, CELLS = 3, 2.6, 120  # panels in a row, inches and cells of one
TITLE = "Estimated and measured times of kernels"
DECADES = {-6: "1 us", -5: "10 us", -4: "0.1 ms", -3: "1 ms", -2: "10 ms", -1: "0.1 s", 0: "1 s", 1: "10 s"}


def drawn(rows: pd.DataFrame) -> bytes:
    """The figure as SVG, the same bytes each time."""
    about = (
        f"One panel a phase, {len(rows):,} kernels: estimate over measured time, both logarithmic; the darker, the more "
        "kernels. On the line they agree; the dotted lines are 25 % off."
    )
    return saved(lambda: _figure(rows), "svg", TITLE, about)


def _figure(rows: pd.DataFrame) -> Figure:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    phases = list(dict.fromkeys(rows.phase))
    down = -(-len(phases) // ACROSS)
    figure = Figure(figsize=(ACROSS * SIZE + 0.6, down * (SIZE + 0.45) + 0.2), layout="constrained")
    colours = LinearSegmentedColormap.from_list("kernels", ["#cfe3f1", PALETTE[0], "#001a2e"])
    for i, phase in enumerate(phases):
        axes = figure.add_subplot(down, ACROSS, i + 1)
        own = rows[rows.phase == phase]
        x, y = np.log10(own.measured_s.to_numpy()), np.log10(own.estimated_s.to_numpy())
        low, high = np.floor(min(x.min(), y.min())), np.ceil(max(x.max(), y.max()))
        counts, _, _ = np.histogram2d(y, x, bins=CELLS, range=[[low, high]] * 2)
        image = np.log1p(np.where(counts > 0, counts, np.nan))
        axes.imshow(image, origin="lower", extent=(low, high, low, high), cmap=colours, interpolation="none", zorder=2)
        for off, look in ((1.0, "-"), (1.25, ":"), (0.75, ":")):
            axes.plot([low, high], [low + np.log10(off), high + np.log10(off)], look, color=GREY, lw=0.8, zorder=3)
        axes.set(xlim=(low, high), ylim=(low, high))
        axes.set_title(f"{phase.replace('_', ' ')}, {len(own):,}", loc="left", fontsize=9, fontweight="bold")
        ticks = list(range(int(low), int(high) + 1))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(ticks, [DECADES.get(t, f"1e{t} s") for t in ticks], fontsize=7.5)
        if i % ACROSS == 0:
            axes.set_ylabel("estimate")
        if i // ACROSS == down - 1 or i + ACROSS >= len(phases):
            axes.set_xlabel("measured")
        axes.grid(which="major")
    return figure
