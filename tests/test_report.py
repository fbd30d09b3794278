"""Documents: every variant in every format, numbers that can be traced, text that stays text, files whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

import attnmath as am
import attnmath.evaluation as evaluation
from attnmath import layers, variants
from attnmath.cli import run
from attnmath.cli.render import exact, scaled
from attnmath.errors import InputError
from attnmath.keys import DERIVED, KEYS
from attnmath.reporting import checks, mathml, md, tex
from attnmath.reporting import variant as reporting
from attnmath.reporting.checks import Commands, Request, decoding_agrees, forms_agree, formulas_hold
from attnmath.reporting.formulas import typeset, value

FALLBACK = "(as text: no MathML for it)"
ASKED = Commands("", "", "")


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    """(exit code, stdout, stderr) of a command line, run in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def go(text: str | list[str]):
        code = run(shlex.split(text) if isinstance(text, str) else text)
        out = capsys.readouterr()
        return code, out.out, out.err

    return go


def read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")


def write(path: str, text: str) -> None:
    Path(path).write_text(text, encoding="utf-8")


def kinds(*more):
    """Every format, HTML only where its converter is installed."""
    html = pytest.param("html", marks=pytest.mark.skipif(not converter(), reason="latex2mathml is not installed"))
    return [*more, "md", "tex", html]


def converter() -> bool:
    try:
        import latex2mathml  # noqa: F401
    except ImportError:
        return False
    return True


class Page(HTMLParser):
    """A document's structure: what is open, headings, tables, and its text; complains of what is not closed."""

    VOID = ("meta", "img", "link", "br", "hr", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "title"} & set(self.open):
            self.text.append(data)


def check_html(text: str) -> None:
    page = Page(text)
    names = [tag for tag, _ in page.tags]
    assert names.count("h1") == names.count("main") == 1
    levels = [int(n[1]) for n in names if re.fullmatch("h[1-6]", n)]
    assert all(b <= a + 1 for a, b in pairwise(levels)), levels
    assert names.count("table") == names.count("caption") > 3
    assert all(a.get("scope") in ("col", "row") for tag, a in page.tags if tag == "th")
    assert ("meta", {"charset": "utf-8"}) in page.tags
    assert {"lang": "en"} in [a for tag, a in page.tags if tag == "html"]
    assert any(a.get("name") == "viewport" for tag, a in page.tags if tag == "meta")
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    assert not {"script", "link", "img", "iframe", "object"} & set(names)
    outside = [v for _, a in page.tags for k, v in a.items() if k in ("href", "src", "style") and not v.startswith("#")]
    assert outside == [], "one file, nothing fetched"
    assert not re.search(r"url\(|@import", text)
    assert FALLBACK not in text
    assert not [t for t in page.text if "\\" in t]
    assert re.findall(r"<div class=\"table scroll\"[^>]*><table>", text)
    assert text.count("<table>") == text.count('"><table>'), "every table scrolls in a container of its own"


def check_tex(text: str) -> None:
    depth = 0
    for at, c in enumerate(text):
        if c in "{}" and text[at - 1] != "\\":
            depth += 1 if c == "{" else -1
            assert depth >= 0
    assert depth == 0
    found: list[str] = []
    for what, name in re.findall(r"\\(begin|end)\{(\w+\*?)\}", text):
        if what == "begin":
            found.append(name)
        else:
            assert found.pop() == name
    assert found == []
    assert text.startswith("\\documentclass{article}")
    assert "^{\\prime}^" not in text, "two superscripts on one letter"


def check_md(text: str) -> None:
    blocks = re.split(r"^\$\$$", text, flags=re.M)
    assert len(blocks) % 2 == 1
    for formula in blocks[1::2]:
        assert formula.strip()
        assert not re.search(r"\\[,;!{}]|\}_\{", formula), "Markdown would change it"
    for row in re.findall(r"^\|.*\|$(?:\n\|.*\|$)+", "".join(blocks[::2]), re.M):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in row.splitlines()}
        assert len(widths) == 1, row
    assert not re.search(r"^\|[^\n]*[^|\n]$", text, re.M), "a table's row is one line"


CHECKS = {"md": check_md, "tex": check_tex, "html": check_html}


@pytest.mark.parametrize("kind", kinds())
@pytest.mark.parametrize("name", variants.names())
def test_every_variant_makes_a_document_without_any_size(name, kind, call):
    code, out, err = call(f"report {name} -o f.{kind}")
    assert (code, out) == (0, "")
    text = read(f"f.{kind}")
    assert err == f"wrote f.{kind}: {len(text.encode()):,} bytes\n"
    assert os.listdir(".") == [f"f.{kind}"]
    CHECKS[kind](text)
    assert "FAILED" not in text
    assert "default of this document" in text
    for word in ("Equations", "Letters", "Masks", "Sizes", "Costs", "What was checked", "Sources", "To reproduce"):
        assert word in text


LINES = [
    "gqa --seq 8k --heads 32 --gpu h100-sxm --with rope --with norm",
    "mla --seq 1k --heads 16 --phase decode --gpu tpu-v5e --form absorbed",
    "gqa --seq 64 --heads 4 --mask 'window(16) | first(2)' --dtype fp8 --kv-dtype int4",
    "gqa --seq 64 --heads 4 --window 16 --with rope:dims=64 --gpu h100-sxm --l2 warm",
    "cross --seq 64 --context 16 --heads 4",
    "mamba2 --seq 61 --heads 4 --block-size 8 --phase decode --gpu h100-sxm",
    "gqa --seq 64 --heads 4 --mask 'causal & dilated(3)' --dtype int8",
]


@pytest.mark.parametrize("kind", kinds())
@pytest.mark.parametrize("line", LINES)
def test_options_are_those_of_cost(line, kind, call):
    code, _, err = call(f"report {line} -o f.{kind}")
    assert code == 0, err
    text = read(f"f.{kind}")
    CHECKS[kind](text)
    name, *options = shlex.split(line)
    code, out, _ = call(["cost", "--variant", name, *options, "--json"])
    assert code == 0
    d = json.loads(out)
    for n in (*d["flops"].values(), *d["memory_bytes"].values(), d["exps"], d["parameters"], d["kv_cache_bytes"]):
        assert exact(n) in text


def test_every_number_is_there_and_its_command_gives_it(call):
    assert call("report gqa -o gqa.md --seq 8k --heads 32 --gpu h100-sxm --with rope")[0] == 0
    text = read("gqa.md")
    command = next(line for line in text.splitlines() if line.endswith("--explain KEY")).strip()
    assert command.startswith("attnmath cost --variant gqa --with rope --seq 8192 --heads 32 ")
    c = am.cost("gqa", seq=8192, heads=32, gpu="h100-sxm", modifiers=["rope"])
    rows = re.findall(r"^\| `([\w.]+)` \| ([\d,]+) \| ([^|]+) \| ", text, re.M)
    assert {key for key, *_ in rows} >= set(KEYS)
    for key, shown, readable in rows:
        if key in KEYS:
            assert shown == exact(c[key])
            assert readable == scaled(c[key], KEYS[key].unit)
            out = call(shlex.split(command.replace("KEY", key))[1:])[1]
            assert out.startswith(f"{key} = {shown} ")
    for key in ("time_bound_s.fused", "ridge", "intensity.compulsory", "bound"):
        assert f"| `{key}` |" in text
        assert DERIVED[key].rule.split()[0].replace("_", "\\_") in text
    assert "556 us" in text
    assert "989,400,000,000,000" in text


@pytest.mark.parametrize("kind", kinds())
def test_the_command_in_the_document_makes_the_same_document(kind, call, tmp_path):
    code, *_ = call(
        f"report mla -o {tmp_path / 'made'}.{kind} --seq 2k --heads 8 --with rope:layout=interleaved --gpu h100-sxm"
    )
    assert code == 0
    text = read(f"made.{kind}")
    assert str(tmp_path) not in text
    shown = {"md": text, "tex": text.replace("-{}", "-"), "html": "".join(Page(text).text) if kind == "html" else ""}[
        kind
    ]
    again = next(line.strip() for line in shown.splitlines() if line.strip().startswith("attnmath report"))
    os.mkdir("again")
    os.chdir("again")
    assert call(shlex.split(again)[1:])[0] == 0
    assert read(f"made.{kind}") == text


def test_what_was_assumed_is_said(call):
    call("report sliding-window -o f.md --heads 16")
    text = read("f.md")
    assert "| seq | 8,192 | default of this document |" in text
    assert "| window | 4,096 | default of this document |" in text
    assert "| heads | 16 | given |" in text
    assert "| kv-heads | 8 | assumed |" in text
    assert "--window 4096" in text
    call("report mla -o g.md --phase decode")
    text = read("g.md")
    assert "| form | absorbed | assumed: the form that a kernel would take here" in text
    assert "### Form: expanded" in text
    assert "### Form: absorbed" in text
    call("report gqa -o h.md --context 512")
    assert "| seq | 512 | default of this document |" in read("h.md")
    call("report sliding-window -o i.md --with window:w=7")
    assert "default of this document" not in next(x for x in read("i.md").splitlines() if x.startswith("| window"))


def test_masks_modifiers_and_words_are_shown(call):
    call("report gqa -o f.md --seq 16 --heads 2 --window 4 --with rope")
    text = read("f.md")
    assert "Pairs at the sizes below: 58 of 256." in text
    assert "the query's own key and the w - 1 before it" in text
    assert "| $\\mathrm{pair}$ | a size that a modifier brings along | = d / 2 | 64 |" in text
    assert "- rope: Rotary position embedding." in text
    assert "Su et al. 2021" in text
    assert "| Q0 | b t g r d | 1 x 16 x 2 x 1 x 128 | computed |" in text
    assert "| k | b t g d | 1 x 16 x 2 x 128 | computed, kept for later tokens |" in text


@pytest.mark.parametrize("kind", kinds())
def test_upper_bounds_are_marked(kind, call):
    call(f"report gqa -o f.{kind} --seq 64 --heads 4 --with packed --gpu h100-sxm")
    text = read(f"f.{kind}")
    n = exact(am.cost("gqa", seq=64, heads=4, modifiers=["packed"]).flops.matmul)
    assert ("$\\le$ " if kind == "tex" else "≤ ") + n in text
    assert "is an upper bound" in text
    assert "the data may spare" in text
    call(f"report gqa -o g.{kind} --seq 64 --heads 4")
    assert "is an upper bound" not in read(f"g.{kind}")


# -- the checks in the document, and that they can fail


def test_checks_state_what_was_found(call):
    call("report mamba2 -o f.md")
    text = read("f.md")
    assert re.search(r"Passed: the forms agree\. All 3 forms were evaluated in float64 on the same inputs", text)
    assert re.search(r"quadratic and recurrent differ by at most (0|\d\.\de-1\d)", text)
    assert re.search(r"default\\_rng\(0\)", text)
    assert re.search(r"Passed: decoding with the cache equals all tokens at once\.", text)
    n = len(am.cost("mamba2", seq=8192, heads=32).formulas)
    assert f"{n} of {n} printed formulas" in text
    assert "were not run for this document" in text


FORMS = """title: Two forms
source: nobody

form plain:
    Y[b t m] = X[b t m] * W[m]
form other:
    Y[b t m] = {other}
"""


def test_forms_that_differ_are_told_in_the_document_and_by_the_exit_code(call):
    write("mine.attn", FORMS.format(other="2 * X[b t m] * W[m]"))
    code, out, err = call("report mine.attn -o f.md")
    assert (code, out) == (1, "")
    assert "check failed: the forms agree: All 2 forms" in err
    assert "FAILED: the forms agree" in read("f.md")
    assert "This page is a file of your own" in read("f.md")
    write("mine.attn", FORMS.format(other="W[m] * X[b t m]"))
    assert call("report mine.attn -o f.md --force")[0] == 0


def test_no_verdict_where_nothing_can_be_computed(call):
    write("mine.attn", FORMS.format(other="W[m] * X[b t m] + 0 * log(-1 - exp(X[b t m]))"))
    assert call("report mine.attn -o f.md")[0] == 0
    assert "Not checked: the forms agree. The page cannot be evaluated" in read("f.md")
    write(
        "mine.attn",
        "title: Wide\nsource: nobody\nwhere: rank = 100000000\n\nF[b t rank] = X[b t m] * WF[m rank]\nY[b t m] = F[b t rank] * WG[rank m]\n",
    )
    assert call("report mine.attn -o g.md")[0] == 0
    assert "elements; at most 4,000,000 are evaluated here" in read("g.md")


def test_a_cache_that_is_wrong_is_caught(monkeypatch):
    layer, asked = layers.build("gqa"), Request("gqa", {}, (), ASKED)
    assert decoding_agrees(layer, asked).passed
    grown = evaluation._grown
    monkeypatch.setattr(evaluation, "_grown", lambda *a: {n: 1.001 * x for n, x in grown(*a).items()})
    assert decoding_agrees(layer, asked).passed is False


@pytest.mark.parametrize("mask", ["full", "prefix(3)", "around(1)", "causal-top-left"])
def test_steps_are_compared_only_where_no_query_sees_a_later_key(mask):
    asked = Request("gqa", {}, (), ASKED, mask=mask)
    assert decoding_agrees(layers.build("gqa", (), mask), asked).passed is None


def test_a_formula_or_condition_that_is_wrong_is_caught():
    c = am.cost("sliding-window", seq=64, heads=4, window=8)
    assert formulas_hold(c).passed
    changed = {**c.formulas, "flops.matmul": c.formulas["flops.matmul"] + " + 1"}
    from msgspec.structs import replace

    found = formulas_hold(replace(c, formulas=changed))
    assert found.passed is False
    assert f"{len(changed) - 1} of {len(changed)} printed" in found.text
    assert "flops.matmul" in found.text
    assert formulas_hold(replace(c, regime={"flops.matmul": ["w >= t + 1"]})).passed is False


def test_forms_are_compared_on_values_that_are_not_all_zero():
    text = forms_agree(layers.build("gated-deltanet")).text
    assert float(re.search(r"values up to ([\d.e-]+)", text)[1]) > 0.01


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("2*b*h*t**2", r"2\,b\,h\,t^{2}"),
        ("t*(t + 1)/2/i", r"\frac{t\,\left(t + 1\right)}{2\,i}"),
        ("a - (b - c)", r"a - \left(b - c\right)"),
        (
            "floor((t - 1)/i) + stairs(t - i, i)",
            r"\lfloor \left(t - 1\right) / i \rfloor + \mathrm{stairs}(t - i,\, i)",
        ),
        ("n + 1 >= tap*w", r"n + 1 \ge \mathrm{tap}\,w"),
        ("each tensor's bytes are rounded up to whole ones", ""),
        ("no formula: chunks together", ""),
        ("__import__('os')", ""),
    ],
)
def test_formulas_in_latex(text, latex):
    assert typeset(text) == latex


@pytest.mark.parametrize("text", ["__import__('os')", "t.x", "[t]", "'a'", "t if t else t", "zz", "t +"])
def test_what_is_no_formula_has_no_value(text):
    with pytest.raises(am.AttnmathError):
        value(text, {"t": 1})


# -- text of users


NASTY = r"A_B 50% \input{x} <script>alert(1)</script> {{ 7*7 }} {% raw %} {# #} `code` a|b $x$ #1 ~t~ [l](u) \_ & ^ -- ''q'' </style> ```"
PAGE = """title: {title}
source: S {title}
about: about {title}

Q[b t h d] = X[b t m] * WQ[m h d]
k[b t h d] = X[b t m] * WK[m h d]
K[b n h d] = k[b n-past h d]
S[b h t n] = Q[b t h d] * K[b n h d]
A[b h t n] = softmax_n S[b h t n]
O[b t h d] = A[b h t n] * K[b n h d]
Y[b t m] = O[b t h d] * WO[h d m]
t sees n: causal
"""
FILE = "a_b%{{x}}$#`|&<i>.attn"


@pytest.fixture
def nasty(call):
    """A document about a page, in a file, that both hold what the formats would obey."""
    write(FILE, PAGE.format(title=NASTY))

    def go(kind: str) -> str:
        assert call(["report", FILE, "-o", f"out.{kind}", "--gpu", "h100-sxm"])[0] == 0
        text = read(f"out.{kind}")
        CHECKS[kind](text) if kind != "html" else None
        return text

    return go


@pytest.mark.skipif(not converter(), reason="latex2mathml is not installed")
def test_text_is_text_in_html(nasty):
    text = nasty("html")
    page = Page(text)
    shown = "".join(page.text)
    for words in (NASTY, f"about {NASTY}", f"S {NASTY}", FILE):
        assert words in shown
    assert not {"script", "i"} & {tag for tag, _ in page.tags}


def test_text_is_text_in_latex(nasty):
    text = nasty("tex")
    assert "\\input" not in text.replace("\\textbackslash{}input", "")
    assert f"\\section*{{{tex(NASTY)}}}" in text
    assert tex(FILE) in text
    assert "7*7" in text


def test_text_is_text_in_markdown(nasty):
    text = nasty("md")
    assert text.startswith(f"# {md(NASTY)}\n")
    outside = re.sub(r"^    .*$", "", text, flags=re.M)  # commands are indented code, where nothing is obeyed
    assert "<script" not in outside
    assert "\\\\input{x}" in outside
    assert not re.search(r"(?<!\\)`code", outside)
    assert f"    attnmath equations {shlex.quote(FILE)}\n" in text


@pytest.mark.parametrize(
    ("filter_", "text", "shown"),
    [
        (md, r"\_ $x$ ~~a~~", r"\\\_ \$x\$ \~\~a\~\~"),
        (md, "https://x.org/a_b#c, d_e", r"<https://x.org/a_b#c>, d\_e"),
        (tex, "<i> `x` a|b", r"\textless{}i\textgreater{} \textasciigrave{}x\textasciigrave{} a\textbar{}b"),
        (tex, "--kv-heads --- n''", "-{}-kv-heads -{}-{}- n'{}'"),
    ],
)
def test_escapes(filter_, text, shown):
    assert filter_(text) == shown


@pytest.mark.skipif(not converter(), reason="latex2mathml is not installed")
def test_a_macro_that_the_converter_does_not_know_is_noticed():
    assert "<math" in mathml(r"\frac{t}{2}", "t / 2")
    for latex in (r"\nonsense{t}", r"t^{2}^{3}", ""):
        assert mathml(latex, "<t>") == f"<code>&lt;t&gt;</code> <small>{FALLBACK}</small>"


def test_without_the_converter_html_is_refused_and_nothing_is_written(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "latex2mathml.converter", None)
    code, out, err = call("report gqa -o f.html")
    assert (code, out) == (2, "")
    assert "pip install latex2mathml" in err
    assert os.listdir(".") == []
    assert call("report gqa -o f.md")[0] == 0


# -- files


REFUSED = [
    ("report gqa -o f.pdf", "-o f.pdf: the ending says which document it is: .md, .tex, .html"),
    ("report gqa -o f", "the ending says which document it is: .md, .tex, .html"),
    ("report gqa", "Missing option '-o'"),
    ("report -o f.md", "name one variant"),
    ("report gqa --variant mha -o f.md", "name one variant"),
    ("report gqaa -o f.md", "did you mean 'gqa'"),
    ("report none.attn -o f.md", "none.attn: No such file or directory"),
    ("report gqa -o none/f.md", "there is no directory none"),
    ("report gqa -o f.md --seq 1k,8k", "a document is about one size; these lists make 2"),
    ("report gqa -o f.md --seq 0", "--seq: 0 is no size"),
    ("report gqa -o f.md --heads 32 --kv-heads 5", "32 is not divisible by 5"),
    ("report gqa -o f.md --kv-rank 8", "--kv-rank has no use for gqa"),
    ("report gqa -o f.md --form absorbed", "gqa has one form only"),
    ("report gqa -o f.md --gpu h100", "did you mean 'h100-sxm'"),
    ("report gqa -o f.md --with rop", "did you mean 'rope'"),
    ("report gqa -o f.md --phase train", "not built yet"),
    ("report cross -o f.md --window 3", "no --window has a meaning"),
]


@pytest.mark.parametrize(("line", "message"), REFUSED)
def test_what_is_refused(line, message, call):
    code, out, err = call(line)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert os.listdir(".") == []


def test_an_existing_file_is_kept_unless_forced(call):
    write("f.md", "mine")
    code, _, err = call("report gqa -o f.md")
    assert code == 2
    assert "the file exists; --force overwrites it" in err
    assert read("f.md") == "mine"
    os.chmod("f.md", 0o640)
    assert call("report gqa -o f.md --force")[0] == 0
    assert read("f.md").startswith("# Grouped-query attention")
    assert os.stat("f.md").st_mode & 0o777 == 0o640
    os.mkdir("d.md")
    code, _, err = call("report gqa -o d.md --force")
    assert code == 2
    assert "a directory, not a file" in err
    os.symlink("nowhere", "link.md")
    assert call("report gqa -o link.md")[0] == 2


def test_a_link_is_followed_and_stays_one(call):
    write("real.md", "mine")
    os.symlink("real.md", "link.md")
    assert call("report gqa -o link.md --force")[0] == 0
    assert os.path.islink("link.md")
    assert read("real.md").startswith("# Grouped-query attention")


@pytest.mark.parametrize("broken", ["replace", "copymode"])
def test_nothing_half_written_is_left(broken, call, monkeypatch):
    write("f.md", "mine")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr({"replace": os, "copymode": shutil}[broken], broken, fail)
    code, out, err = call("report gqa -o f.md --force")
    assert (code, out) == (2, "")
    assert "-o f.md: cannot write: No space left on device" in err
    assert os.listdir(".") == ["f.md"]
    assert read("f.md") == "mine"


def test_a_file_that_appears_meanwhile_is_kept(call, monkeypatch):
    made = reporting.data

    def slow(*a):
        write("f.md", "somebody else's")
        return made(*a)

    monkeypatch.setattr(reporting, "data", slow)
    assert call("report gqa -o f.md")[0] == 2
    assert read("f.md") == "somebody else's"
    assert os.listdir(".") == ["f.md"]


def test_the_verb_is_listed_and_its_file_is_light(call):
    assert "report" in call("--help")[1]
    help_ = call("report --help")[1]
    assert "attnmath report gqa -o gqa.md" in help_
    code = "import sys, attnmath.cli.report\nprint({'numpy', 'jinja2', 'sympy', 'latex2mathml'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_paths_are_those_of_no_machine(call, tmp_path):
    page = tmp_path / "mine.attn"
    page.write_text(PAGE.format(title="Mine"))
    gpu = tmp_path / "my.toml"
    gpu.write_text(
        '[mine]\nhbm_bytes_per_s = { value = 1_000_000_000_000, source = "50% of a_b" }\n'
        '[mine.tensor_flop_per_s]\nbf16 = { value = 100_000_000_000_000, source = "a<b>" }\n'
    )
    assert call(["report", str(page), "-o", "f.md", "--gpu", str(gpu)])[0] == 0
    text = read("f.md")
    assert str(tmp_path) not in text
    assert "attnmath report mine.attn -o f.md --seq 8192 --heads 32 --gpu my.toml" in text
    assert "50% of a\\_b" in text
    assert "mine has no figure for exponentials, so that term is left out." in text


# -- does LaTeX take it?


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
@pytest.mark.parametrize("line", ["gqa --gpu h100-sxm --with rope --with packed", "nsa --gpu tpu-v5e", "mamba2", FILE])
def test_latex_compiles(line, call):
    write(FILE, PAGE.format(title=NASTY + " é 中 ≤"))
    name, *options = [line] if line == FILE else line.split()
    assert call(["report", name, "-o", "f.tex", *options])[0] == 0
    done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "f.tex"], capture_output=True)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-3000:]
    assert os.path.getsize("f.pdf") > 10_000


def test_a_size_that_no_form_fits_is_refused_and_one_that_some_do_is_told(call):
    assert call("report gated-deltanet -o f.md --seq 61")[0] == 0
    assert "Shapes: none at the sizes below: --seq 61" in read("f.md")
    with pytest.raises(InputError):
        checks.small_sizes(layers.build("gqa", ["rope:dims=4096"]))
