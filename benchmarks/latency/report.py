"""The report on the time model, as Markdown: reports/time-model.md."""

from __future__ import annotations

import ablation
import measures
import numpy as np
import pandas as pd
import published

from attnmath.hardware.constants import ENGINE, KERNEL, OF_PHASE, SHARED, Book, built_in
from attnmath.hardware.kernels import PHASES

COMMAND = "python benchmarks/latency/run.py"
CORE = "core"


def written(
    estimated: pd.DataFrame,
    fits: dict[tuple[str, str, str], pd.DataFrame],
    each: pd.DataFrame,
    floors: pd.DataFrame,
    figure: str,
    quick: bool,
) -> str:
    """The whole report."""
    parts = [
        _opening(quick),
        _left_out(fits, estimated),
        _fitted(estimated, figure),
        _kinds(estimated),
        _ablation(fits, each),
        _floors(floors),
        _published(),
        falls_short(estimated),
        constants(built_in()),
        FITTED,
    ]
    return "\n\n".join(p.strip() for p in parts) + "\n"


def _opening(quick: bool) -> str:
    sample = "\n\nThis is a look at a sample: fits see few rows, and their errors are rough." if quick else ""
    return f"""# The time model: how right it is

Errors are |estimate / measured - 1| in %, as `median / 90th percentile`; a negative bias means that estimates are too short.
Rows of one accelerator are taken together, and accelerators are averaged. `{COMMAND}` repeats every table
here, with `--write` it writes this file. Measured are kernels of NVIDIA aiconfigurator's tables
(github.com/ai-dynamo/aiconfigurator, Apache-2.0, commit 095f58a51) as vLLM, SGLang and TensorRT-LLM run them: 16 bits, no window,
more than 20 us, replayed warm, unless said otherwise. The same kernel measured twice differs by 1 to 2 %, on twin accelerators by
2 to 5 %.{sample}"""


def _left_out(fits: dict[tuple[str, str, str], pd.DataFrame], estimated: pd.DataFrame) -> str:
    core = measures.chosen(estimated, CORE)
    phases = list(dict.fromkeys(core.phase))
    gpus = list(dict.fromkeys(core.gpu))
    lines, means = [], {p: [] for p in phases}
    for by in dict.fromkeys(which for what, which, _ in fits if what == "left out"):
        for phase in phases:
            rows = fits["left out", by, phase]
            if not len(rows):
                continue
            own = measures.by(rows, "gpu")[["median", "p90"]]
            mean = own.mean()
            means[phase].append(mean)
            lines.append([by, words(phase), pair(mean), *(pair(own.loc[g]) if g in own.index else "" for g in gpus)])
    for phase in phases:
        lines.append(["mean of these", words(phase), f"**{pair(np.mean(means[phase], axis=0))}**", *[""] * len(gpus)])
    return f"""## On what was not fitted

One engine, one set of shapes or one accelerator at a time is left out of the fit and estimated from the rest. A kernel that
only the left-out engine runs gets the median constants of its kin (of all others in decoding); accelerators are left
out for kernels that several of them run; shapes are sets of head counts and widths, a third at a time. From `{COMMAND}`.

{grid(["left out", "phase", "mean over GPUs", *gpus], lines)}"""


def _fitted(estimated: pd.DataFrame, figure: str) -> str:
    core = measures.chosen(estimated, CORE)
    over = measures.over_gpus(core)
    return f"""## On what was fitted

From `{COMMAND}`.

{grid(["phase", "mean over GPUs", "rank correlation"], [[words(p), pair(r), f"{r['rank']:.3f}"] for p, r in over.iterrows()])}

![Estimated over measured time, a panel a phase; dotted lines are 25 % off]({figure})

{_table(measures.by(core, "phase", "gpu", "engine", "kernel"), ["phase", "GPU", "engine", "kernel"])}

By band of measured time:

{_table(measures.by_band(core), ["phase", "band"])}"""


def _kinds(estimated: pd.DataFrame) -> str:
    parts = []
    for kind, title in {
        "fp8": "A cache in 8 bits, above 20 us",
        "window": "A sliding window, above 20 us",
        "small": "Kernels of at most 20 us, most of it launch",
    }.items():
        rows = measures.chosen(estimated, kind)
        parts.append(f"{title}:\n\n{_table(measures.by(rows, 'phase', 'gpu', 'engine'), ['phase', 'GPU', 'engine'])}")
    return (
        f"## Outside the protocol\n\nNone of these was fitted; their constants are those of the plain kernels. "
        f"From `{COMMAND}`.\n\n" + "\n\n".join(parts)
    )


def _ablation(fits: dict[tuple[str, str, str], pd.DataFrame], each: pd.DataFrame) -> str:
    phases = [p for p in PHASES if p in set(each.index.get_level_values("phase"))]
    rows = [
        [name if name == "(the model)" else f"`{name}`", *(pair(each.loc[name, p]) for p in phases)]
        for name in dict.fromkeys(each.index.get_level_values("without"))
    ]
    staged = list(dict.fromkeys(p for what, _, p in fits if what == "stage"))
    stages = []
    for i, (name, _, _) in enumerate(ablation.stages()):
        found = [measures.over_gpus(fits["stage", str(i), p]).loc[p] for p in staged]
        stages.append([str(i), name, *map(pair, found)])
    return f"""## What each part is worth

The model as its parts are added to a roofline, its constants fitted anew at each stage (to a sample of each kernel's rows).
From `{COMMAND}`.

{grid(["", "model", *map(words, staged)], stages)}

The whole model without one constant or figure, set to where there is no such effect; nothing is fitted anew, so what others could
take over shows as error. From `{COMMAND}`.

{grid(["without", *map(words, phases)], rows)}"""


def _floors(shares: pd.DataFrame) -> str:
    rows = [
        [r.op, r.phase, r.gpu, f"{r.rows:,}", str(r.below), f"{r[5]:.2f}", f"{r[6]:.1f}"]
        for r in shares.itertuples(index=False)
    ]
    return f"""## No measured time lies below its bound

Every row of every operator in the file, {shares.rows.sum():,}, those that are not estimated too; below the bound:
{shares.below.sum()}. The bound is max(tensor, exp, (bytes - L2 size) / bandwidth) for warm replays at the data sheet's rates;
of a collective what has to leave each GPU over its links (of an all-reduce once where the switch can add up, else twice).
From `{COMMAND}`.

{grid(["operator", "phase", "GPU", "rows", "below", "least measured / bound", "median"], rows)}"""


def _published() -> str:
    times, peaks = list(published.times()), list(published.peaks())
    return f"""## Against papers

FlashAttention 1's forward times (arXiv:2205.14135v2, Table 18: A100 40 GB, batch 16, 8 heads, width 64, no mask) beside the
estimate for its successor, for FlashAttention 1 itself is not among the kernels; its successor's paper puts it at about twice
the time, and what the first version's times at 128 and 256 keys hold is mostly launching from Python, not a captured graph.
From `{COMMAND}`.

{grid(list(times[0]), [[_number(v) for v in t.values()] for t in times])}

Peak forward rates, and the best that the model gives any of the paper's shapes without a mask (hidden size 2048, a fixed
number of tokens). The model's clocks are those of served engines, replayed back to back; papers print the best of a short run.

{grid(list(peaks[0]), [[_number(v) for v in t.values()] for t in peaks])}"""


def falls_short(estimated: pd.DataFrame) -> str:
    """Where the model is worst: the kernels and the shapes, with their errors."""
    core = measures.chosen(estimated, CORE)
    core = core[core.num_q_heads > 0].copy()
    core["group"] = core.num_q_heads // core.num_kv_heads
    found = []
    for keys in (("head_dim",), ("group",), ("batch",), ("head_dim", "group")):
        by = measures.by(core, "phase", "gpu", "engine", "kernel", *keys)
        by = by[by.kernels >= 60]
        for at, row in by.iterrows():
            where = ", ".join(f"{k.replace('_', ' ')} {int(v)}" for k, v in zip(keys, at[4:]))
            found.append(
                (row["median"], [words(at[0]), *at[1:4], where, f"{row.kernels:.0f}", pair(row), f"{row.bias:+.1f}"])
            )
    worst, seen = [], {}
    for _, line in sorted(found, key=lambda f: -f[0]):
        case = tuple(line[:4])
        seen[case] = seen.get(case, 0) + 1
        if seen[case] <= 2 and len(worst) < 16:
            worst.append(line)
    return f"""## Where it falls short

{shortcomings(estimated)}

The widest errors among groups of at least 60 kernels, two a case. From `{COMMAND}`.

{grid(["phase", "GPU", "engine", "kernel", "where", "kernels", "error", "bias"], worst)}"""


def constants(book: Book) -> str:
    """The constants with their meaning and values; nothing here needs the measurements."""
    lines = [
        [f"`{n}`", m.meaning, m.unit, f"{m.low:g} to {m.high:g}"] for n, m in {**KERNEL, **ENGINE, **SHARED}.items()
    ]
    shared = ", ".join(f"`{k}` {v:.4g}" for k, v in book.shared.items())
    tables = []
    for phase in PHASES:
        for kind, wanted in zip(("kernels", "engines"), OF_PHASE[phase]):
            rows = {n: r[phase] for n, r in getattr(book, kind).items() if phase in r}
            if wanted and rows:
                body = [[n, *(f"{v[k]:.3g}" for k in wanted)] for n, v in rows.items()]
                tables.append(grid([f"{words(phase)}, {kind.removesuffix('s')}", *(f"`{k}`" for k in wanted)], body))
    return "\n\n".join(
        [
            "## The constants\n\nThose of `attnmath/hardware/constants.toml`, which `benchmarks/latency/fit.py` writes. What an "
            "accelerator is stands in its data sheet, what a kernel's authors chose in `attnmath/hardware/kernels.py`.",
            grid(["constant", "meaning", "unit", "physics allows"], lines),
            f"Shared by all: {shared}.",
            *tables,
        ]
    )


def shortcomings(estimated: pd.DataFrame) -> str:
    """What the model gets wrong, in words, with the errors of those kernels."""
    core = measures.chosen(estimated, CORE)
    prefill, decode = (core[core.phase == p] for p in ("prefill", "decode"))
    group = decode.num_q_heads // decode.num_kv_heads
    found = {
        "small": measures.chosen(estimated, "small"),
        "wide": decode[(group >= 24) & ~decode.kernel.str.startswith("flash-attention")],
        "short": decode[(decode.kv_len <= 64) & (decode.batch >= 256)],
        "loaded": decode[(decode.kv_len >= 8192) & (group <= 16)],
        "steep": prefill[(prefill.kernel == "trtllm-gen") & (prefill.q_len <= 64) & (prefill.head_dim == 256)],
        "windows": measures.chosen(estimated, "window"),
        "eight": measures.chosen(estimated, "fp8"),
    }
    say = {name: pair(measures.measured(rows)) for name, rows in found.items()}
    biased = {name: f"{say[name]}, bias {measures.measured(found[name])['bias']:+.0f} %" for name in found}
    return SHORTCOMINGS.format(biased=biased, **say)


SHORTCOMINGS = """- Kernels of at most 20 us ({biased[small]}): the estimate is little but launches, one constant of an
  engine and phase for all its accelerators and shapes, fitted to longer kernels; those that need fewer launches come
  out too slow.
- Decoding with 24 query heads and more to a head of keys on XQA, trtllm-gen and FlashInfer ({biased[wide]}):
  how these cut a group over blocks and warps is not what the model assumes.
- Decoding many sequences of at most 64 tokens ({short}; from 8k tokens on, with groups up to 16, it is {loaded}): all
  of it prologue and bookkeeping, which engines do differently around the same kernel, whose constants they share here.
- Short prompts at head width 256 on trtllm-gen ({biased[steep]}): it has other tiles for them than the two
  that the model knows.
- Windows ({windows}) and caches in 8 bits ({eight}): none was fitted; their constants are those of plain kernels, and what
  converting costs is not in the model.
- A kernel that nobody measured cannot be told from its kin: encoders of two engines on one L40S differ by half, and so
  does the table of what was left out.
- Chunked prefill is untested: all measured prompts start with an empty cache."""
FITTED = """## How it was fitted

`python benchmarks/latency/fit.py`: least squares of log(estimate / measured) with a soft loss, a phase at a time, every kernel
of an engine on an accelerator weighing the same, each constant inside the range that physics allows, and pulled weakly to a
common start so that what the times do not show stays put. What was left out is fitted the same way, from the same start."""


def words(phase: str) -> str:
    """A phase as it is read."""
    return phase.replace("_", " ").replace("mla", "MLA")


def pair(row) -> str:
    """Median and 90th percentile."""
    median, p90 = (row["median"], row["p90"]) if hasattr(row, "index") else row
    return f"{median:.1f} / {p90:.0f}" if median < 1000 else "> 1000"


def _number(v: object) -> str:
    return f"{v:.3g}" if isinstance(v, float) and v < 1000 else f"{v:,.0f}" if isinstance(v, float) else str(v)


def _table(found: pd.DataFrame, keys: list[str]) -> str:
    rows = [
        [
            words(at[0]), *at[1:], f"{r.kernels:,.0f}", pair(r), f"{r.bias:+.1f}", f"{r['within 10 %']:.0f}",
            f"{r['within 25 %']:.0f}", f"{r['rank']:.3f}",
        ]
        for at, r in found.iterrows()
    ]  # fmt: skip
    return grid([*keys, "kernels", "error", "bias", "% within 10 %", "% within 25 %", "rank correlation"], rows)


def grid(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
