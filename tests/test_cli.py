"""The command line: answers, formats, exit codes, and documents that keep their schema."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import subprocess
import sys

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import attnmath as am
from attnmath import variants
from attnmath.cli import VERBS, run
from attnmath.errors import AttnmathError
from attnmath.explain import keys
from attnmath.schemas import SCHEMAS, json_schema
from attnmath.verifying.judge import number


@pytest.fixture
def call(capsys):
    """(exit code, stdout, stderr) of a command line."""

    def go(text: str | list[str]):
        code = run(text.split() if isinstance(text, str) else text)
        out = capsys.readouterr()
        return code, out.out, out.err

    return go


GQA = "cost --seq 8192 --heads 32 --variant gqa"


def test_the_headline(call):
    code, out, err = call(GQA)
    assert code == 0
    assert "549,822,922,752" in out
    assert "2·b·h·t·d·(t + 1)" in out
    assert "assumed: batch 1, context 8,192, kv-heads 8, head-dim 128" in err
    assert "assumed" not in out


def test_json_is_what_the_contract_says(call):
    code, out, _ = call(f"{GQA} --json --gpu h100-sxm")
    d = json.loads(out)
    assert code == 0
    assert d["schema"] == "attnmath.cost/1"
    assert {
        "variant",
        "with",
        "phase",
        "inputs",
        "assumed",
        "steps",
        "flops",
        "flops_by_convention",
        "exps",
        "parameters",
        "kv_cache_bytes",
        "kv_cache_bytes_per_token",
        "state_bytes",
        "memory_bytes",
        "hbm_bytes",
        "intensity",
        "gpu",
        "time_bound_s",
        "time_s",
        "bound",
        "formulas",
    } <= set(d)
    f = d["flops"]
    assert f["total"] == f["projections"] + f["core"] + f["other"]
    assert f["core"] == f["matmul"] + f["softmax"]
    assert sum(s["flops"] for s in d["steps"]) == f["total"]
    assert d["flops_by_convention"]["exact"] == f["matmul"]
    assert d["time_s"] == pytest.approx(d["estimate"]["kernel_time_s"] + d["estimate"]["launch_time_s"])
    assert d["time_s"] > d["time_bound_s"]["fused"]
    assert {"median", "p90", "kernels", "here"} == set(d["time_error_band"])
    assert d["bound"] == d["time_bound_by"] == "tensor"
    assert d["assumed"]["kv_heads"] == 8
    assert "heads" not in d["assumed"]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (f"{GQA} --json", "cost"),
        (f"{GQA} --json --gpu h100-sxm --with rope --with norm", "cost"),
        (f"{GQA} --json --gpu h100-sxm --measured 1.2ms", "cost"),
        ("cost --seq 1k,8k --heads 32 --variant mla --json", "cost"),
        ("cost --seq 10000000000000000000000000 --heads 32 --variant gqa --json", "cost"),
        ("compare mha gqa --seq 8k --heads 32 --json", "compare"),
        ("roofline mha gqa kda --seq 1k,8k --heads 32 --phase prefill,decode --gpu h100-sxm --json", "roofline"),
        ("roofline gqa --seq 8k --heads 32 --gpu mi300x --measured 1.2ms --with packed --json", "roofline"),
        ("tile gqa --seq 1k,8k --heads 32 --gpu h100-sxm --json", "tile"),
        (f"{GQA} --explain flops.matmul --json", "explain"),
        ("equations mla --with rope --json", "equations"),
        ("derive softmax --json", "derive"),
        ("derivations --json", "derivations"),
        ("variants --json", "variants"),
        ("modifiers --json", "modifiers"),
        ("masks --json", "masks"),
        ("schedules --json", "schedules"),
        ("schedules flash-2 --variant mla --json", "schedules"),
        (f"{GQA} --json --schedule split-kv:z=4", "cost"),
        ("cost --variant nsa --seq 8k --heads 32 --json", "cost"),
        ("gpus --json", "gpus"),
    ],
)
def test_every_document_keeps_its_schema(line, name, call):
    code, out, _ = call(line)
    assert code == 0
    jsonschema.validate(json.loads(out), json_schema(name))


def test_a_document_that_breaks_its_schema_is_caught(call):
    d = json.loads(call(f"{GQA} --json")[1])
    d["flops"]["matmul"] = "many"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(d, json_schema("cost"))


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_schema_is_one(name, call):
    code, out, _ = call(f"schema {name}")
    assert code == 0
    jsonschema.Draft202012Validator.check_schema(json.loads(out))


def test_lists_give_a_row_each(call):
    _, out, _ = call("cost --seq 1k,8k,128k --batch 1,2 --heads 32 --variant gqa --json")
    rows = json.loads(out)["rows"]
    assert [(r["inputs"]["batch"], r["inputs"]["seq"]) for r in rows] == [
        (b, n) for b in (1, 2) for n in (1024, 8192, 131072)
    ] or sorted((r["inputs"]["batch"], r["inputs"]["seq"]) for r in rows) == sorted(
        (b, n) for b in (1, 2) for n in (1024, 8192, 131072)
    )
    code, out, _ = call("cost --seq 1k,8k --heads 32 --variant gqa")
    assert code == 0
    assert len([x for x in out.splitlines() if x.strip().startswith(("1,024", "8,192"))]) == 2


def test_csv_and_markdown(call):
    _, out, _ = call("cost --seq 1k,8k --heads 32 --variant gqa --format csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [int(r["flops.matmul"]) for r in rows] == [4 * 32 * 128 * n * (n + 1) // 2 for n in (1024, 8192)]
    _, out, _ = call(f"{GQA} --format markdown")
    assert "| matmul | 549,822,922,752 | FLOP | `2*b*h*t*d*(t + 1)` |" in out


def test_a_cost_prints_itself_and_shows_as_a_table_in_a_notebook(call):
    import attnmath

    c = attnmath.cost("gqa", seq=8192, heads=32)
    assert str(c) == call(GQA)[1].rstrip("\n")
    assert "| matmul | 549,822,922,752 | FLOP |" in c._repr_markdown_()


def test_decode(call):
    d = json.loads(call("cost --variant gqa --seq 8192 --heads 32 --phase decode --json")[1])
    assert (d["inputs"]["seq"], d["inputs"]["context"]) == (1, 8192)
    assert d["flops"]["matmul"] == 4 * 32 * 128 * 8192
    d = json.loads(call("cost --variant gqa --seq 4 --context 8192 --heads 32 --phase decode --json")[1])
    assert (d["inputs"]["seq"], d["inputs"]["context"]) == (4, 8192)


def test_a_model_is_the_sum_of_its_layers(call, tmp_path):
    config = {
        "model_type": "llama",
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_hidden_layers": 32,
        "vocab_size": 100,
        "intermediate_size": 128,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    _, out, _ = call(["cost", "--model", str(tmp_path), "--seq", "8192", "--json", "--gpu", "h100-sxm"])
    d = json.loads(out)
    assert d["kv_cache_bytes_per_token"] == 131_072
    assert d["layers"][0]["count"] == 32
    assert d["flops"]["matmul"] == 32 * 549_822_922_752
    assert d["flops"]["total"] == 32 * d["layers"][0]["cost"]["flops"]["total"]
    jsonschema.validate(d, json_schema("cost"))


def worked_out(text):
    """A substitution, by the judge."""
    return number(text.replace("·", "*"), {})


@pytest.mark.parametrize(
    "line",
    [
        f"{GQA} --gpu h100-sxm --measured 1.2ms",
        "cost --variant mla --seq 7 --heads 4 --with rope",
        "cost --variant sliding-window --seq 100 --heads 4 --window 10 --kv-dtype int4",
    ],
)
def test_every_key_is_explained_and_adds_up(line, call):
    from attnmath.cli import options
    from attnmath.cli.cost import command
    from attnmath.costs import cost

    values = command.make_context("cost", line.split()[1:]).params
    for gone in ("explain", "verbose", "measured", "format_", "as_json"):
        values.pop(gone)
    c = cost(**next(options.each_row(values)))
    for key in keys(c):
        code, out, _ = call(["--help"]) if key is None else call([*line.split(), "--explain", key, "--json"])
        e = json.loads(out)
        assert code == 0
        assert e["meaning"]
        if key in c.formulas:
            assert worked_out(e["substitution"]) == pytest.approx(e["value"], rel=1e-12), key
            if e["parts"]:
                assert sum(p["value"] for p in e["parts"]) == e["value"], key
        code, out, _ = call([*line.split(), "--explain", key])
        assert code == 0
        assert out.startswith(key if key in e["key"] else e["key"])


@pytest.mark.parametrize("variant", variants.names())
def test_what_a_number_is_made_of_adds_up(variant):
    """Of every form, in prefill and decode: the parts of each explanation are the whole."""
    from attnmath.explain import explain
    from attnmath.keys import KEYS

    told = 0
    for form in variants.get(variant).forms:
        for sizes in ({"seq": 256}, {"seq": 1, "context": 300}):
            if form == "chunked" and sizes["seq"] == 1:
                continue
            window = {"window": 5} if variant == "sliding-window" else {}
            c = am.cost(variant, heads=8, form=form, **sizes, **window)
            for key in KEYS:
                if parts := explain(c, key).parts:
                    assert sum(value for _, value in parts) == c[key], (form, key)
                    told += 1
    assert told > 10


def test_text_says_what_it_stands_on(call):
    _, out, _ = call("cost --variant linear-attention --seq 64 --heads 4 --form quadratic")
    assert ", causal, bf16" in out.splitlines()[0]
    assert "mask" not in call("cost --variant linear-attention --seq 64 --heads 4 --form recurrent")[1].splitlines()[0]
    _, out, _ = call(f"{GQA} --gpu h100-sxm --l2 warm")
    assert out.splitlines()[0].endswith("L2 warm")
    _, _, err = call("compare gqa dsa --seq 128 --heads 8")
    assert "d-model 1,024 (gqa), 7,168 (dsa); " in err
    assert (
        "core (absorbed), lower bound on"
        in call("cost --variant mla --seq 9 --phase decode --heads 4 --gpu h100-sxm")[1]
    )
    assert any("= 1e-05" in x for x in call("equations differential")[1].splitlines() if x.startswith("eps"))
    with pytest.raises(AttnmathError, match="a list of texts is expected, not 'rope'"):
        am.cost("gqa", seq=64, heads=8, modifiers="rope")


def test_models_are_explained(call, tmp_path):
    config = {
        "model_type": "qwen3",
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_hidden_layers": 4,
        "vocab_size": 100,
        "intermediate_size": 128,
        "head_dim": 16,
        "use_sliding_window": True,
        "sliding_window": 8,
        "max_window_layers": 3,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    code, out, _ = call(["cost", "--model", str(tmp_path), "--seq", "64", "--explain", "kv_cache_bytes"])
    assert code == 0
    assert "3 x gqa" in out
    assert "1 x sliding-window" in out


def test_compare(call):
    code, out, _ = call("compare mha gqa mqa --seq 8k --heads 32")
    assert code == 0
    assert out.splitlines()[0] == "prefill, 1 x 8,192 new tokens, context 8,192, bf16, cache bf16"
    assert out.splitlines()[2].split() == ["mha", "gqa", "mqa"]
    code, out, _ = call("compare mha gqa --seq 1k,2k --heads 32 --gpu h100-sxm")
    assert code == 0
    assert ["seq", "1,024", "1,024", "2,048", "2,048"] in [line.split() for line in out.splitlines()]
    d = json.loads(call("compare --variant mha --variant sliding-window --seq 8k --heads 32 --window 1k --json")[1])
    assert [r["inputs"].get("window") for r in d["rows"]] == [1024, 1024]
    d = json.loads(call("compare cross gqa --seq 8k --heads 32 --window 1k --json")[1])
    assert [r["inputs"].get("window") for r in d["rows"]] == [None, 1024]
    assert call("compare --seq 8k --heads 32")[0] == 0


def test_many_rows_at_once(call):
    code, out, _ = call(
        ["cost", "--variant", "gqa", "--heads", "8", "--seq", ",".join(map(str, range(1, 301))), "--format", "csv"]
    )
    assert code == 0
    assert len(out.splitlines()) == 301


def test_equations_in_every_format(call):
    _, out, _ = call("equations gqa")
    assert "S[b g r t n] = Q[b t g r d] * K[b n g d]" in out
    assert "--kv-heads" in out
    _, out, _ = call("equations gqa --format latex")
    assert r"S_{b\,g\,r\,t\,n} = \sum_{d} Q_{b\,t\,g\,r\,d}\,K_{b\,n\,g\,d}" in out
    assert r"\begin{document}" in out
    _, out, _ = call("equations mla --format markdown --form absorbed")
    assert "# Multi-head latent attention" in out
    assert out.count("$$") % 2 == 0
    assert call("equations --variant gqa")[1] == call("equations gqa")[1]


def test_a_form_that_the_sizes_do_not_fit_is_named(call):
    code, out, err = call("cost --variant kda --seq 8001 --heads 16 --head-dim 128 --json")
    assert code == 0
    assert json.loads(out)["form"] == "recurrent"
    assert json.loads(out)["forms_left_out"]["chunked"].startswith("--seq 8001, --block-size 64")
    assert "form chunked left out: --seq 8001" in call("cost --variant kda --seq 8001 --heads 16 --head-dim 128")[2]
    assert "left out" not in call("cost --variant kda --seq 8000 --heads 16 --head-dim 128")[2]
    assert "left out" not in call("cost --variant kda --seq 8001 --phase decode --heads 16 --head-dim 128")[2]


def test_listings_show_one(call):
    assert "form absorbed" in call("variants mla")[1]
    assert "layout=half" in call("modifiers rope")[1]
    assert "nvidia" in call("gpus h100-sxm")[1].lower()
    for verb in ("variants", "modifiers", "masks", "schedules", "gpus"):
        for format_ in ("csv", "markdown"):
            code, out, _ = call(f"{verb} --format {format_}")
            assert code == 0
            assert len(out.splitlines()) > 4


def test_a_masks_picture_shows_the_pairs(call):
    """By hand: two sinks and a window of three, sixteen positions."""
    code, out, _ = call(["masks", "first:2 | window:3"])
    head, _, *rows = out.splitlines()
    assert code == 0
    assert [[j for j, x in enumerate(r.split()) if x == "x"] for r in rows] == [
        sorted({0, 1} | set(range(max(0, i - 2), i + 1))) for i in range(16)
    ]
    assert head == f"first(2) | window(3): {sum(r.count('x') for r in rows)} of 256 pairs"
    assert call("masks documents:3,2")[1].splitlines()[2:] == [" x x x . ."] * 3 + [" . . . x x"] * 2
    for bad, why in [("nosuch", "causal-top-left"), ("window:w", "numbers"), ("causal --json", "text")]:
        code, _, err = call(f"masks {bad}")
        assert (code, why in err) == (2, True), err


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example_that_runs(verb, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # an example may write a file
    (tmp_path / "server.log").write_text("Available KV cache memory: 40.00 GiB\n")
    (tmp_path / "shapes.csv").write_text("seq,heads\n1k,32\n8k,32\n")
    pq.write_table(pa.table({"seq": [1024, 8192], "heads": [32, 32]}), tmp_path / "shapes.parquet")
    timings = [f"{2**k},{h},{2**k * h / 100}" for k in range(7, 13) for h in (16, 32)]
    (tmp_path / "timings.csv").write_text("\n".join(["seq,heads,latency_us", *timings]))
    code, out, _ = call([verb, "--help"])
    assert code == 0
    examples = [
        x.strip()
        for x in out.splitlines()
        if x.strip().startswith("attnmath ") and not any(stand in x for stand in ("path/to", "my-gpu", "FILE.csv"))
    ]
    assert examples
    for line in examples:
        assert call(shlex.split(line)[1:])[0] == 0, line


def test_version_and_module(call):
    import attnmath

    assert call("--version")[1].strip() == f"attnmath {attnmath.__version__}"
    out = subprocess.run([sys.executable, "-m", "attnmath", "--version"], capture_output=True, text=True)
    assert out.stdout.strip() == f"attnmath {attnmath.__version__}"


def shell(command: str, **env: str):
    path = os.path.dirname(sys.executable)
    return subprocess.run(
        command,
        shell=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{path}:{os.environ['PATH']}", **env},
    )


def test_output_pipes():
    done = shell("attnmath cost --seq 10000000000000000000000000000000 --heads 32 --variant gqa | cat", COLUMNS="20")
    assert f"{2 * 32 * 128 * 10**31 * (10**31 + 1):,}" in done.stdout
    assert "\033" not in done.stdout
    done = shell("set -o pipefail; attnmath variants | head -1 >/dev/null".replace("set -o pipefail; ", ""))
    assert done.stderr == ""
    done = shell(f"{{ attnmath {GQA}; echo code $? >&2; }} | true")
    assert "code 0" in done.stderr


def test_output_that_cannot_be_written():
    for command in (f"attnmath {GQA} > /dev/full", f"attnmath {GQA} >&-"):
        done = shell(command)
        assert done.returncode == 2
        assert done.stderr.startswith("attnmath: ")
        assert "internal error" not in done.stderr
    assert shell("attnmath cost --variant nope 2>/dev/full").returncode == 2
    done = shell("attnmath cots 2>&-")
    assert (done.returncode, done.stdout) == (2, "")


def test_plain_terminals():
    done = shell(f"attnmath {GQA}", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "2*b*h*t*d*(t + 1)" in done.stdout


def test_colour_only_on_a_terminal():
    script = f"import pty, os, sys; pty.spawn(['attnmath', *{GQA.split()!r}])"
    wanted = shell(f'{sys.executable} -c "{script}"', TERM="xterm")
    assert "\033[1m" in wanted.stdout
    assert "\033[1m" not in shell(f'{sys.executable} -c "{script}"', TERM="xterm", NO_COLOR="1").stdout


def test_shell_completion():
    done = shell("attnmath", _ATTNMATH_COMPLETE="bash_source")
    assert "_ATTNMATH_COMPLETE=bash_complete" in done.stdout
    done = shell("attnmath", _ATTNMATH_COMPLETE="bash_complete", COMP_WORDS="attnmath co", COMP_CWORD="1")
    assert "compare" in done.stdout


def test_internal_errors_show_no_traceback(monkeypatch, call):
    import attnmath.costs

    monkeypatch.setattr(attnmath.costs, "_layer_cost", lambda *a, **k: 1 / 0)
    code, out, err = call(GQA)
    assert (code, out) == (2, "")
    assert "internal error, please report it: ZeroDivisionError" in err
    assert "Traceback" not in err
