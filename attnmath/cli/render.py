"""How numbers look: aligned, with units and thousands separated, the formula beside each; or as JSON, CSV, Markdown."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from attnmath.results import Cost, ErrorBand

Row = tuple[str, ...]
PREFIXES = ("", "k", "M", "G", "T", "P", "E")
RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


# -- single numbers


def scaled(n: int | float, unit: str) -> str:
    """A number in its unit's usual size, three significant digits; bytes in powers of 1024.

    >>> scaled(549_822_922_752, "FLOP"), scaled(131072, "bytes"), scaled(0.00055571, "s")
    ('550 GFLOP', '128 KiB', '556 us')
    """
    if unit == "s":
        for factor, name in ((1, "s"), (1e3, "ms"), (1e6, "us")):
            if n * factor >= 1:
                return f"{n * factor:.3g} {name}"
        return f"{n * 1e9:.3g} ns"
    base, names = (1024, BINARY) if unit == "bytes" else (1000, PREFIXES)
    k = 0
    while n >= base ** (k + 1) and k < len(names) - 1:
        k += 1
    shown = n / base**k
    text = f"{shown:.3g}" if shown < 1000 else f"{shown:,.0f}" if shown < 10_000 else f"{shown:.3g}"
    return f"{text} {names[k]}" if unit == "bytes" else f"{text} {names[k]}{unit}"


def exact(v: Any) -> str:
    """A number in full: integers with thousands separated, floats with the digits that mean something."""
    if v is None:
        return "-"
    return f"{v:,}" if isinstance(v, int) else f"{v:.6g}" if isinstance(v, float) else str(v)


def counted(c: Cost, key: str) -> str:
    """A number of a cost in full; with ≤ where the data can make it smaller."""
    return less(key in c.upper_bounds) + exact(c[key])


def less(at_most: bool) -> str:
    """The sign before a number that the data can make smaller; nothing before others."""
    return ("≤ " if _utf8() else "<= ") * at_most


def pretty(formula: str) -> str:
    """A formula for the eye: `2*b*t**2` as 2·b·t².

    >>> pretty("2*b*h*t**2")
    '2·b·h·t²'
    """
    if not _utf8():
        return formula.replace("**", "^")
    raised = re.sub(r"\*\*(\d+)", lambda m: m[1].translate(RAISED), formula)
    return raised.replace("*", "·").replace(">=", "≥").replace("<=", "≤")


def _utf8() -> bool:
    return (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "") == "utf8"


# -- layout


def strong(text: str) -> str:
    """Bold, on a terminal that wants colour."""
    wanted = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    return click.style(text, bold=True) if wanted else text


def columns(rows: Sequence[Row], right: Iterable[int] = ()) -> list[str]:
    """Rows as aligned lines; the columns in `right` are aligned to the right. Nothing is ever cut."""
    right, widths = set(right), [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join(c.rjust(w) if k in right else c.ljust(w) for k, (c, w) in enumerate(zip(row, widths))).rstrip()
        for row in rows
    ]


def page(lines: Iterable[str]) -> None:
    """Print it all at once, so that nothing is half-written."""
    click.echo("\n".join(lines), color=True)


def note(text: str) -> None:
    """To stderr: what is no result."""
    click.echo(text, err=True)


def as_json(document: Any) -> None:
    """A JSON document; integers in full, however large."""
    import json

    click.echo(json.dumps(document, indent=2, allow_nan=False))


def csv(rows: Sequence[dict[str, Any]]) -> None:
    """Rows of equal keys as CSV."""
    import csv as writer
    import io

    out = io.StringIO()
    table = writer.DictWriter(out, list(dict.fromkeys(k for r in rows for k in r)), restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    click.echo(out.getvalue(), nl=False)


def markdown(rows: Sequence[Row], right: Iterable[int] = ()) -> list[str]:
    """Rows, the first one the heading, as the lines of a Markdown table."""
    right = set(right)
    rule = tuple("---:" if k in right else "---" for k in range(len(rows[0])))
    return ["| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in (rows[0], rule, *rows[1:])]


def listing(rows: Sequence[dict[str, Any]], keys: Sequence[str], format_: str, right: Iterable[int] = ()) -> None:
    """What there is: a row each; `keys` in the order of the columns."""
    if format_ == "csv":
        csv([{k: exact(r[k]).replace(",", "") if isinstance(r[k], int) else r[k] for k in keys} for r in rows])
        return
    shown: list[Row] = [tuple(keys), *(tuple(exact(r[k]) for k in keys) for r in rows)]
    if format_ == "markdown":
        page(markdown(shown, right))
    else:
        lines = columns(shown, right)
        page([strong(lines[0]), *lines[1:]])


# -- costs

SHOWN = (  # (key, label) in the order of the text; a label that is indented is a part of the one above
    ("flops.total", "FLOPs"),
    ("flops.projections", "  projections"),
    ("flops.core", "  core"),
    ("flops.matmul", "    matmul"),
    ("flops.softmax", "    softmax"),
    ("flops.other", "  other"),
    ("flops.recomputed", "  of which again"),
    ("flops_by_convention.dense", "matmul, dense convention"),
    ("flops_by_convention.causal_half", "matmul, causal-half convention"),
    ("flops_by_convention.torch", "torch's counter"),
    ("exps", "exponentials"),
    ("parameters", "parameters"),
    ("kv_cache_bytes", "KV cache"),
    ("kv_cache_bytes_per_token", "  per token and sequence"),
    ("kv_cache_bytes_per_token_beyond_windows", "  beyond the windows"),
    ("state_bytes", "state"),
    ("memory_bytes.fused", "core memory, fused"),
    ("memory_bytes.unfused", "core memory, unfused"),
    ("hbm_bytes.compulsory", "core traffic, compulsory"),
    ("hbm_bytes.fused", "core traffic, fused"),
    ("hbm_bytes.unfused", "core traffic, unfused"),
)
MEASURED = ("measured.time_s", "measured.share_of_bound", "measured.mfu", "measured.hbm_bytes_per_s")
FLAT = (
    *(key for key, _ in SHOWN),
    "flops_by_convention.exact",
    "intensity.compulsory",
    "intensity.fused",
    "intensity.unfused",
    "ridge",
    "time_bound_s.fused",
    "time_bound_s.unfused",
    "time_s",
    "time_bound_by",
    "bound",
    *MEASURED,
)


def costs(found: list[Cost], format_: str, verbose: bool = False) -> None:
    """One cost, or a row each."""
    if format_ == "json":
        from attnmath.results import SCHEMA

        documents = [c.to_dict() for c in found]
        as_json(documents[0] if len(found) == 1 else {"schema": SCHEMA, "rows": documents})
    elif format_ == "csv":
        csv([_flat(c) for c in found])
    elif format_ == "markdown":
        page(cost_markdown(found))
    elif len(found) == 1:
        page(cost_lines(found[0], verbose))
        assumptions(found)
    else:
        page(_row_lines(found))
        assumptions(found)


def _flat(c: Cost) -> dict[str, Any]:
    head = {"variant": c.variant, "with": " ".join(c.with_), "phase": c.phase, "form": c.form, "gpu": c.gpu}
    return {**head, **c.inputs, **{key: c[key] for key in FLAT}}


def cost_markdown(found: list[Cost]) -> list[str]:
    """Costs as one Markdown table."""
    return markdown([("", "value", "unit", "formula"), *(r for c in found for r in _markdown_rows(c))], (1,))


def _markdown_rows(c: Cost) -> list[Row]:
    from attnmath.keys import DERIVED, KEYS

    title = f"**{c.variant}**, " + ", ".join(f"{k} {exact(v)}" for k, v in c.inputs.items())
    bound = (f"core, lower bound on {c.gpu}", exact(c.time_bound_s.fused), "s", f"bound by {c.time_bound_by}")
    return [
        (title, "", "", ""),
        *([bound] if c.time_bound_s.fused else []),
        *((key, exact(c[key]), DERIVED[key].unit, DERIVED[key].rule) for key in MEASURED if c.measured.time_s),
        *(
            (label.strip(), counted(c, key), KEYS[key].unit, f"`{c.formulas[key]}`" if key in c.formulas else "")
            for key, label in SHOWN
        ),
    ]


def assumptions(found: list[Cost], but: tuple[str, ...] = ()) -> None:
    """What was not given and filled in, to stderr, `but` what this output makes no use of."""
    values: dict[str, dict[str, dict[str, None]]] = {}  # option -> value -> the variants that have it
    for c in found:
        for k, v in c.assumed.items():
            if k not in but and (k != "context" or len(found) == 1):
                values.setdefault(k, {}).setdefault(exact(v), {})[c.variant] = None
    shown = [
        f"{k.replace('_', '-')} "
        + ", ".join(f"{v} ({', '.join(names)})" if len(by) > 1 else v for v, names in by.items())
        for k, by in values.items()
    ]
    if shown:
        note("assumed: " + ("; " if any(len(by) > 1 for by in values.values()) else ", ").join(shown))
    refused: dict[str, dict[str, None]] = {}
    for key, why in (item for c in found for item in c.refused.items() if "schedule" not in but):
        refused.setdefault(why, {})[key] = None
    for why, keys in refused.items():
        note(f"no {', '.join(keys)}: {why}")
    for left_out in dict.fromkeys(
        f"form {k} left out: {v}"
        for c in found
        for k, v in c.forms_left_out.items()
        if c.inputs["seq"] != 1  # a chunk of one token is nobody's loss
    ):
        note(left_out)


def heading(c: Cost) -> str:
    """What was asked, in one line."""
    i = c.inputs
    what = f"{c.model}: {i['layers']} attention layers, {c.variant}" if c.model else c.variant
    with_ = f" with {', '.join(c.with_)}" if c.with_ else ""
    form = f", {c.form}" if c.form else ""
    mask = f", {i['mask']}" if i.get("mask") else ""
    context = f", context {exact(i['context'])}" if "context" in i else ""
    tokens = f"{exact(i['batch'])} x {exact(i['seq'])} new tokens{context}"
    return (
        f"{what}{with_}{form}: {c.phase}, {tokens}{mask}, {i['dtype']}"
        + (f", cache {i['kv_dtype']}" if i["kv_dtype"] != i["dtype"] else "")
        + (", L2 warm" if c.l2 == "warm" else "")
    )


def _says_nothing(c: Cost, key: str) -> bool:
    """Whether a number has no meaning for this page, or repeats the one above."""
    if key == "state_bytes":
        return not c.state_bytes
    if key == "flops.recomputed":
        return not c.flops.recomputed
    if key.endswith("beyond_windows"):
        return bool(c[key] == c.kv_cache_bytes_per_token)
    return key.endswith("causal_half") and c.inputs.get("mask", "") in (None, "full")


def cost_lines(c: Cost, verbose: bool = False) -> list[str]:
    """The text of one cost."""
    from attnmath.keys import KEYS

    marks: dict[tuple[str, ...], str] = {}
    rows: list[Row] = []
    for key, label in SHOWN:
        if _says_nothing(c, key):
            continue
        unit, value, formula = KEYS[key].unit, c[key], c.formulas.get(key, "")
        if KEYS[key].sums:
            formula = " + ".join(k.rpartition(".")[2] for k in KEYS[key].sums)
        mark = ""
        if regime := tuple(c.regime.get(key, ())):
            mark = marks.setdefault(regime, f" [{len(marks) + 1}]")
        rows.append((label, counted(c, key), scaled(value, unit) if value else unit, pretty(formula) + mark))
    lines = [strong(heading(c)), "", *columns(rows, (1,))]
    lines += [f"{mark} {_holds(regime)}" for regime, mark in marks.items()]
    if c.upper_bounds:
        lines.append("≤: the data decide which pairs exist".replace("≤", "≤" if _utf8() else "<="))
    lines += ["", *_where(c)]
    if any("stairs(" in f for f in c.formulas.values()):
        lines.append("stairs(x, s) = x + (x - s) + (x - 2s) + ..., the positive ones")
    if c.gpu:
        lines += ["", *_times(c)]
    if verbose:
        lines += ["", *_verbose(c)]
    return lines


def _holds(regime: tuple[str, ...]) -> str:
    text = pretty(" and ".join(regime))
    return text if text.startswith("no formula") else f"holds while {text}"


def cost_text(c: Cost) -> str:
    """The text of one cost as a string."""
    return "\n".join(cost_lines(c))


def _where(c: Cost) -> list[str]:
    """The letters of the formulas, with their values here."""
    from attnmath.costs import kinds
    from attnmath.language.letters import LETTERS

    runs = [run.cost for run in c.layers] or [c]
    used = {
        x
        for run in runs
        for f in run.formulas.values()
        for x in LETTERS
        if f"*{x}" in f"*{f}".replace("(", "*").replace(" ", "*").replace("/", "*")
    }
    out = []
    for n, (count, run) in [(k, (r.count, r.cost)) for k, r in kinds(c.layers)] or [(0, (1, c))]:
        symbols = run.readings[1].sizes
        shown = [
            (x, symbols[x])
            for x in LETTERS
            if x in symbols and x in used and LETTERS[x].option and str(symbols[x]) == x
        ]
        names = ", ".join(f"{x} = {exact(v.value)} ({LETTERS[x].option})" for x, v in shown)
        head = f"layers[{n}], {count} x {run.variant}: " if len(runs) > 1 else "where "
        out.append(head + names)
    return out


def _times(c: Cost) -> list[str]:
    from attnmath.keys import DERIVED

    rows: list[Row] = []
    if c.time_bound_s.fused is not None and c.time_bound_s.unfused is not None:
        rows.append(
            (
                f"core{f' ({c.form})' if c.form else ''}, lower bound on {c.gpu}",
                scaled(c.time_bound_s.fused, "s"),
                f"bound by {c.time_bound_by}: {DERIVED['time_bound_s.fused'].rule}",
            )
        )
        rows.append(("  core step by step", scaled(c.time_bound_s.unfused, "s"), "the sum of each equation's bound"))
    rows += _estimate(c)
    if c.intensity.compulsory is not None:
        rows.append(
            (
                "intensity",
                f"{c.intensity.compulsory:,.4g} FLOP/byte",
                f"{DERIVED['intensity.compulsory'].rule}; ridge at {c.ridge:,.4g}",
            )
        )
    from attnmath.hardware import get

    gpu = get(c.gpu_file or c.gpu or "")
    rows += _measured(c, gpu.figure("hbm_bytes_per_s"))
    known = "" if gpu.exp_rate else f"; {c.gpu} has no figure for exponentials, so that term is left out"
    if c.l2 == "warm" and "l2_bytes" not in gpu.figures:
        known += f"; {c.gpu} has no figure for its L2, so what a warm one leaves to move is not in the bound"
    return [
        *columns(rows),
        f"a bound is no estimate: no kernel is faster. Both are of the core only, without projections{known}",
        *([f"no estimate: {c.time_note}"] if c.time_note else []),
        *(f"assumed in the estimate: {a}" for a in (c.estimate.assumed if c.estimate else ())),
    ]


def _estimate(c: Cost) -> list[Row]:
    """The estimate's rows: time with its error, launches apart, and how busy each unit is."""
    if c.estimate is None or c.time_s is None:
        return []
    e = c.estimate
    busy = ", ".join(f"{u} {percent(share)}" for u, share in e.busy.items() if share >= 0.005)
    return [
        (
            f"core, estimated on {c.gpu}",
            scaled(c.time_s, "s"),
            f"{described(e.engine, e.kernels)}; {error_band(c.time_error_band)}",
        ),
        ("  of which launches", scaled(e.launch_time_s, "s"), "in a captured graph"),
        (f"  bound by {e.binds}", "", f"busy in the kernel: {busy}"),
    ]


def error_band(band: ErrorBand | None) -> str:
    """How wrong the estimate has been, in words.

    >>> from attnmath.results import ErrorBand
    >>> error_band(ErrorBand(0.053, 0.147, 9102, True))
    'error 5 % in the median, within 15 % for 90 % of 9,102 kernels measured on it'
    """
    if band is None:
        return "an ideal, not what a kernel was measured to take"
    where = "measured on it" if band.here else "measured elsewhere, the constants fitted without them"
    return (
        f"error {100 * band.median:.0f} % in the median, within {100 * band.p90:.0f} % for 90 % of {band.kernels:,} "
        f"kernels {where}"
    )


def described(engine: str, kernels: list[str]) -> str:
    """An engine and its kernels in words.

    >>> described("vllm", ["flash-attention-3"])
    'vLLM, flash-attention-3'
    """
    from attnmath.hardware.kernels import TITLES

    return f"{TITLES.get(engine, engine)}, {' and '.join(kernels)}" if engine in TITLES else "an ideal kernel"


def percent(share: float | None) -> str:
    """A share for the eye.

    >>> percent(0.4631), percent(12.5), percent(1e30)
    ('46.3 %', '1,250 %', '1e+32 %')
    """
    return "-" if share is None else f"{100 * share:,.0f} %" if 10 <= share < 1e4 else f"{100 * share:.3g} %"


def _measured(c: Cost, bandwidth: int | float) -> list[Row]:
    """What was measured, beside the bound."""
    from attnmath.keys import DERIVED

    m = c.measured
    if m.time_s is None or m.hbm_bytes_per_s is None:
        return []
    rules = {k: DERIVED[f"measured.{k}"].rule for k in ("share_of_bound", "mfu", "hbm_bytes_per_s")}
    moved = f"{rules['hbm_bytes_per_s']}; of {scaled(bandwidth, 'B/s')}"
    return [
        ("measured", scaled(m.time_s, "s"), ""),
        ("  share of the bound", percent(m.share_of_bound), rules["share_of_bound"]),
        ("  MFU", less("flops.matmul" in c.upper_bounds) + percent(m.mfu), rules["mfu"]),
        ("  memory", scaled(m.hbm_bytes_per_s, "B/s"), moved),
    ]


def _verbose(c: Cost) -> list[str]:
    from attnmath.keys import KEYS
    from attnmath.language.ops import OPS

    out: list[str] = []
    for run in [r.cost for r in c.layers] or [c]:
        rows: list[Row] = [(s.equation, exact(s.flops), "FLOP", exact(s.exps), "exponentials") for s in run.steps]
        out += [strong(f"equations of {run.variant}"), *columns(rows, (1, 3)), f"source: {run.source}", ""]
    out += [strong("conventions"), *columns([(key, KEYS[key].meaning, KEYS[key].source) for key, _ in SHOWN]), ""]
    used = [(n, str(r.cost), "FLOP per element", r.why) for n, r in OPS.items()]
    return [*out, strong("cost of an operation"), *columns(used)]


def _row_lines(found: list[Cost]) -> list[str]:
    """Several sizes of one thing: a row each."""
    varied = [k for k in ("batch", "seq", "context") if len({c.inputs[k] for c in found}) > 1]
    keys = (
        "flops.total",
        "flops.core",
        "kv_cache_bytes",
        "hbm_bytes.compulsory",
        *(("time_bound_s.fused", "bound") if found[0].gpu else ()),
        *(MEASURED if found[0].measured.time_s else ()),
    )
    rows: list[Row] = [(*varied, *keys)]
    for c in found:
        rows.append(
            (
                *(exact(c.inputs[k]) for k in varied),
                *(_cell(c, k) for k in keys),
            )
        )
    return [strong(heading(found[0]).partition(":")[0]), "", *columns(rows, range(len(rows[0])))]


def _cell(c: Cost, key: str) -> str:
    """A number of a row, in its usual size where it is no count."""
    if key.startswith(("time", "measured")) and c[key] is not None:
        unit = {"hbm_bytes_per_s": "B/s", "share_of_bound": "", "mfu": ""}.get(key.partition(".")[2], "s")
        return scaled(c[key], unit) if unit else percent(c[key])
    return exact(c[key])


def comparison(found: list[Cost], format_: str) -> None:
    """Several variants side by side."""
    if format_ == "json":
        as_json({"schema": "attnmath.compare/1", "rows": [c.to_dict() for c in found]})
    elif format_ == "csv":
        csv([_flat(c) for c in found])
    else:
        rows, right = _comparison_rows(found), range(1, len(found) + 1)
        if format_ == "markdown":
            page(markdown(rows, right))
            return
        i, sizes = found[0].inputs, {tuple(c.inputs.get(k) for k in ("batch", "seq", "context")) for c in found}
        tokens = f", {exact(i['batch'])} x {exact(i['seq'])} new tokens, context {exact(i.get('context'))}"
        lines = columns(rows, right)
        title = f"{found[0].phase}{tokens if len(sizes) == 1 else ''}, {i['dtype']}, cache {i['kv_dtype']}"
        page([title, "", strong(lines[0]), *lines[1:]])
        assumptions(found)


def _comparison_rows(found: list[Cost]) -> list[Row]:
    """A heading with the variants (and their sizes, where those differ), and a row per number with its unit."""
    from attnmath.keys import KEYS

    several = len({(c.inputs["batch"], c.inputs["seq"], c.inputs.get("context")) for c in found}) > 1
    rows: list[Row] = [("", *(f"{c.variant}{f' {c.form}' if c.form else ''}" for c in found), "")]
    if several:
        rows += [(k, *(exact(c.inputs.get(k)) for c in found), "") for k in ("batch", "seq", "context")]
    for key, label in SHOWN:
        if not all(_says_nothing(c, key) for c in found):
            rows.append((label, *(counted(c, key) for c in found), KEYS[key].unit))
    if found[0].gpu:
        times = (scaled(c.time_bound_s.fused, "s") if c.time_bound_s.fused else "-" for c in found)
        rows.append((f"core, lower bound on {found[0].gpu}", *times, ""))
        rows.append(("  bound by", *(exact(c.time_bound_by) for c in found), ""))
        if any(c.time_s for c in found):
            rows.append(("core, estimate", *(scaled(c.time_s, "s") if c.time_s else "-" for c in found), ""))
    return rows
