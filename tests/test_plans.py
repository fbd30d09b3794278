"""Plans: what fits and what does not, against servers' own logs; what the answer of `solve` means; files that are none."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest
from conftest import shared
from hypothesis import given
from hypothesis import strategies as st

from attnmath.cli import run
from attnmath.errors import InputError
from attnmath.models import presets
from attnmath.plans.checking import check
from attnmath.plans.engines import ENGINES
from attnmath.plans.fields import commented, keys_of
from attnmath.plans.logs import concurrency_of, explain, scan
from attnmath.plans.ranks import Rank, held
from attnmath.plans.reading import parse
from attnmath.plans.servers import needed, sequence_bytes, server, servers
from attnmath.plans.solving import solve, spread, with_concurrency, with_context
from attnmath.schemas import json_schema

HERE = Path(__file__).parent / "plans"
FILES = sorted(HERE.glob("*.toml"))
GIB = 2**30


def plan(model, memory="80GB", **sections):
    """A plan from keyword arguments: `engine={"name": "ideal"}`."""
    lines = [f'model = "{model}"', "[gpu]", f'memory = "{memory}"']
    for section, keys in sections.items():
        lines += [f"[{section}]"] * (section != "gpu") + [f"{k} = {json.dumps(v)}" for k, v in keys.items()]
    return parse("\n".join(lines), "plan.toml")


# -- the files in tests/plans


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_each_file_does_what_its_first_line_says(path, capsys):
    expected = path.stem.split("-")[0]
    code = run(["plan", "check", str(path), "--json"])
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert code == {"fits": 0, "fails": 1, "invalid": 2}[expected]
    jsonschema.validate(document, json_schema("plan-check"))
    if expected == "invalid":
        assert path.name in document["errors"][0]["error"]
        return
    failed = {c["id"] for c in document["checks"] if not c["passed"]}
    assert failed == set(re.findall(r"AM\d{3}", path.read_text().splitlines()[0]))
    for c in document["checks"]:
        assert c["why"] and c["fix"]
        if isinstance(c["margin"], int):
            assert c["margin"] == c["limit"] - c["value"]
    memory = document["memory_bytes"]
    assert memory["total"] == sum(v for k, v in memory.items() if k not in ("total", "available"))


def test_there_are_twenty_files_and_more():
    assert len(FILES) >= 20


def test_all_errors_of_a_plan_at_once_with_line_field_and_nearest_name(capsys):
    assert run(["plan", "check", str(HERE / "invalid-everything.toml")]) == 2
    err = capsys.readouterr().err
    assert "11 errors" in err
    for told in (
        "line 1: model is 3; expected a text",
        "line 2: engine is 'vllm'; expected a section",
        "line 3: colour: unknown key",
        "line 5: gpu.nam: unknown key 'nam': did you mean 'name'",
        "line 6: gpu.count is '8'; expected a whole number",
        "line 7: gpu.memory is 'eighty'",
        "line 9: parallel.tensor is 0",
        "line 10: parallel.pipeline is True",
        "line 12: workload.concurrency is inf",
        "line 15: targets.memory_margin is 1.5",
    ):
        assert told in err


def test_the_worst_of_several_files_is_the_exit_code(capsys):
    fits, fails, invalid = (str(next(HERE.glob(f"{x}-*.toml"))) for x in ("fits", "fails", "invalid"))
    assert run(["plan", "check", fits, fails]) == 1
    assert run(["plan", "check", fits, fails, invalid]) == 2
    assert run(["plan", "check", fits, fits]) == 0
    capsys.readouterr()


def test_formats_of_ci_systems(capsys):
    files = [str(HERE / f"{x}.toml") for x in ("fits-llama-8b", "fails-load", "invalid-gpu")]
    run(["plan", "check", *files, "--format", "github"])
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("::notice file=")
    assert any(re.match(r"::error file=.*fails-load.toml,line=6,title=AM003 ", line) for line in out)
    assert any("invalid-gpu.toml" in line and line.startswith("::error") and "\n" not in line for line in out)
    run(["plan", "check", *files, "--format", "sarif"])
    log = json.loads(capsys.readouterr().out)
    assert log["version"] == "2.1.0"
    results = log["runs"][0]["results"]
    assert {r["ruleId"] for r in results} == {"AM003", "AM004", "AM000"}
    assert {r["id"] for r in log["runs"][0]["tool"]["driver"]["rules"]} == {"AM003", "AM004", "AM000"}
    assert all(
        not re.search(r"\d", r["name"]) for r in log["runs"][0]["tool"]["driver"]["rules"]
    )  # the same for any plan
    unread = next(r for r in results if r["ruleId"] == "AM000")
    assert "region" in unread["locations"][0]["physicalLocation"]
    run(["plan", "check", *files, "--format", "junit"])
    suites = ElementTree.fromstring(capsys.readouterr().out)
    assert [(s.get("failures"), s.get("errors")) for s in suites] == [("0", "0"), ("2", "0"), ("0", "1")]


def test_names_of_checks_are_the_same_for_any_plan():
    """A dashboard counts them by name; what differs from plan to plan stands in the reason."""
    names = {}
    for sections in ({}, {"parallel": {"pipeline": 4}}, {"parallel": {"tensor": 8, "expert": 8}}):
        for c in check(plan("deepseek-v3", "10GB", **sections)).checks:
            assert names.setdefault(c.id, c.name) == c.name
            assert not re.search(r"\d", c.name)


def test_a_commented_plan_is_a_plan_and_its_schema_agrees(tmp_path, capsys):
    assert run(["plan", "init", "-o", str(tmp_path / "plan.toml")]) == 0
    assert run(["plan", "init", "-o", str(tmp_path / "plan.toml")]) == 2
    assert "exists; --force" in capsys.readouterr().err
    assert run(["plan", "check", str(tmp_path / "plan.toml")]) == 0
    import tomllib

    schema = json_schema("plan")
    jsonschema.validate(tomllib.loads(commented()), schema)
    for text, good in (("[gpu]\ncount = 0", False), ('[engine]\nname = "vlm"', False), ("[gpu]\ncount = 2", True)):
        document = tomllib.loads(f'model = "gpt2"\n{text}')
        assert list(jsonschema.Draft202012Validator(schema).iter_errors(document)) is not good
    for section, keys in keys_of(False).items():
        for name in keys:
            assert name in commented(), (section, name)


# -- against servers' own logs (the sources are in ../shared/truth/server_logs.json and here)


def test_a_profiled_server_llama_8b_on_a_3090():
    """vllm-project/vllm#10517: 23.58 GiB x 0.9; weights 14.9888, peak 17.06, non-torch 0.35, cache 3.81 GiB: 1,952 blocks."""
    p = plan(
        "llama-3.1-8b",
        "23.58GiB",
        engine={"max_num_batched_tokens": 20_000, "max_model_len": 20_000},
        workload={"prompt_tokens": 19_000, "output_tokens": 1_000},
    )
    s = server(p)
    assert s.used.weights / GIB == pytest.approx(14.9888, rel=0.003)
    assert (s.used.activations + s.used.logits) / GIB == pytest.approx(17.06 - 14.9888, rel=0.05)
    assert s.pool / GIB == pytest.approx(3.81, rel=0.02)
    assert round(concurrency_of(s, int(3.81 * GIB), 20_000), 2) == 1.56
    assert sum(sequence_bytes(s, 1952 * 16)) / GIB == pytest.approx(3.81, rel=0.002)


@pytest.mark.parametrize(
    ("model", "memory", "tensor", "util", "weights", "context", "activations", "batched"),
    [
        ("llama-3.1-8b", 23.58, 1, 0.9, 14.9888, 0.35, 2.07, 20_000),  # vllm-project/vllm#10517
        ("deepseek-v2-lite", 39.39, 8, 0.9, 3.97, 2.1, 0.36, 8192),  # eight A100s of 40 GB
    ],
)
def test_the_use_of_profiled_servers(model, memory, tensor, util, weights, context, activations, batched):
    """Weights alone within 3 % (0.3 % for a dense model); with activations and the rest within 2 % of the budget."""
    p = plan(
        model,
        f"{memory}GiB",
        parallel={"tensor": tensor},
        engine={"gpu_memory_utilization": util, "max_num_batched_tokens": batched},
    )
    u = server(p).used
    assert u.weights / GIB == pytest.approx(weights, rel=0.003 if tensor == 1 else 0.03)
    ours = (u.total - u.graphs) / GIB
    assert abs(ours - (weights + context + activations)) < 0.02 * memory * util


@pytest.mark.parametrize(
    ("model", "tensor", "pool", "concurrency"),
    [
        ("qwen3.5-35b-a3b", 1, 6.01, 4.35),  # noonghunna/club-3090#652, fp8 cache, 131,072 tokens
        ("qwen3.5-27b", 2, 4.99, 2.31),  # mitchross/talos-argocd-proxmox#1995, the same
    ],
)
def test_hybrids_pools_are_explained_by_their_states_pages(model, tensor, pool, concurrency):
    s = server(plan(model, dtype={"kv": "fp8"}, parallel={"tensor": tensor}))
    assert concurrency_of(s, int(pool * GIB), 131_072) == pytest.approx(concurrency, rel=0.005)


def test_sizes_that_the_architecture_determines():
    """What engines printed, within 0.1 %, with the stated dtype, shards, windows and layers for multi-token prediction."""
    import attnmath as am

    rows = json.loads(shared("truth", "server_logs.json").read_text())["architecture_determined"]
    for row in rows:
        path = shared("configs", f"{row['config']}.json")
        dtype = {2: "bf16", 1: "fp8", 1.0625: "q8_0"}[row["kv_bytes_per_elem"]]
        mtp = "MTP" in row["note"] and "not" not in row["note"]
        m = am.model(str(path), seq=1, context=row["context_tokens"], kv_dtype=dtype, with_mtp=mtp)
        total = m.kv_cache_bytes_per_token * row["context_tokens"] / row["tp_or_shard"]
        unit = {"GiB": GIB, "MiB": 2**20, "GB": 1e9}[row["unit"]]
        half = 2 if "K size" in row["what"] else 1
        assert total / half / unit == pytest.approx(row["reported"], rel=1e-3), row["id"]


def test_pools_in_tokens():
    """Two pools whose size and tokens are known, within 0.2 % in tokens per GiB."""
    s = server(plan("llama-3.1-8b"))
    for pool, tokens in ((3.81, 31_232), (19.92, 163_168)):
        row = sum(r.bytes * r.count for r in s.held.rows)
        assert pool * GIB / row == pytest.approx(tokens, rel=0.002)


def test_the_checkable_answers_of_the_questions(capsys):
    import attnmath as am

    def gib(model, context, **more):
        return round(am.model(model, seq=1, context=context, **more).kv_cache_bytes / GIB, 3)

    assert am.model("qwen2.5-7b").kv_cache_bytes_per_token == 57_344
    assert gib("qwen2.5-7b", 3072) == 0.164
    assert gib("deepseek-v3", 163_840) == 10.723
    assert gib("gemma-3-27b", 131_072) == 10.406
    assert gib("gemma-3-27b", 131_072, kv_alloc="engine") == 62.0
    assert round(gib("gpt-oss-20b", 8192, batch=32), 2) == 6.09
    assert gib("gpt-oss-20b", 8192, batch=32, kv_alloc="engine") == 12.0
    assert round(gib("llama-3.1-8b", 31_232), 2) == 3.81


MISTAKES = [  # the usual ones: (model, what they make of it per token, ours)
    ("qwen2.5-7b", 2 * 3584 * 28 * 2, 57_344),  # hidden size for key/value heads x head dim
    ("qwen2.5-7b", 2 * 4 * 128 * 28 * 16, 57_344),  # bits for bytes
    ("deepseek-v3", 2 * 61 * 512 * 2, 70_272),  # the factor of two kept
    ("deepseek-v3", 61 * 512 * 2, 70_272),  # the rotary part dropped
    ("gemma-3-27b", 62 * 2 * 16 * (5376 // 32) * 2, 507_904),  # the head's width derived
]


@pytest.mark.parametrize(("model", "mistaken", "right"), MISTAKES)
def test_usual_mistakes_are_not_made(model, mistaken, right):
    import attnmath as am

    found = am.model(model).kv_cache_bytes_per_token
    assert found == right != mistaken


def test_other_usual_mistakes():
    import attnmath as am

    mixtral = am.model("mixtral-8x7b", seq=1).parameters
    assert mixtral.active < mixtral.total  # total for active experts
    assert am.model("gemma-2-2b", seq=1).parameters.total == 2_614_341_888  # tied embeddings counted once
    one, two = (server(plan("llama-3.1-8b", parallel={"tensor": t})).held.rows[0] for t in (8, 16))
    assert one.bytes == two.bytes and two.copies == 2  # more ranks than key/value heads: held twice
    latent = [server(plan("deepseek-v3", parallel={"tensor": t})).held.rows[0] for t in (1, 8)]
    assert latent[0].bytes == latent[1].bytes and latent[1].copies == 8  # a latent is held by every rank
    quantised = am.model("llama-3.1-8b", kv_dtype="q8_0").kv_cache_bytes_per_token
    assert quantised == 131_072 // 2 * 34 // 32  # scales counted


# -- what an answer means


MODELS = st.sampled_from(
    ["llama-3.1-8b", "qwen3-8b", "gpt-oss-20b", "gemma-3-4b", "deepseek-v2-lite", "qwen3.5-35b-a3b", "mixtral-8x7b"]
)


@st.composite
def plans(draw):
    engine = draw(st.sampled_from(sorted(ENGINES)))
    return plan(
        draw(MODELS),
        f"{draw(st.integers(8, 200))}GiB",
        parallel={"tensor": draw(st.sampled_from([1, 2, 4])), "data": draw(st.sampled_from([1, 2]))},
        dtype={"kv": draw(st.sampled_from(["bf16", "fp8"]))},
        engine={
            "name": engine,
            "max_num_batched_tokens": draw(st.sampled_from([512, 8192])),
            "windows": draw(st.sampled_from(["kept", "full"])),
        },
        workload={
            "concurrency": draw(st.integers(1, 64)),
            "prompt_tokens": draw(st.integers(1, 30_000)),
            "output_tokens": draw(st.integers(1, 2000)),
        },
    )


@given(plans(), st.integers(1, 100))
def test_more_memory_never_makes_a_fitting_plan_fail(p, more):
    if check(p).passed:
        assert check(p.changed(gpu__memory=p["gpu.memory"] + more * GIB)).passed


@given(plans(), st.integers(1, 64), st.integers(1, 10_000))
def test_more_load_never_makes_a_plan_pass(p, requests, tokens):
    if not check(p).passed:
        heavier = p.changed(workload__concurrency=p["workload.concurrency"] + requests)
        assert not check(heavier).passed
        assert not check(heavier.changed(workload__prompt_tokens=p["workload.prompt_tokens"] + tokens)).passed


@given(plans(), st.sampled_from(["max-context", "max-concurrency", "min-gpus"]))
def test_the_answer_passes_and_one_step_further_fails(p, goal):
    try:
        s = solve(p, goal)
    except InputError as error:
        assert "nothing fits" in str(error)
        return
    gains = [c.gain for c in s.changes if c.gain is not None]
    assert gains == sorted(gains, reverse=True)
    assert all(g > 1 for g in gains)
    if goal == "min-gpus":
        assert fewest(p, s.answer) == s.answer
    elif s.answer is not None:
        changed = {"max-context": with_context, "max-concurrency": with_concurrency}[goal]
        assert check(changed(p, s.answer)).passed
        assert not check(changed(p, s.answer + 1)).passed


@pytest.mark.parametrize(("requests", "expert"), [(1, 1), (100, 1), (37, 1), (10**14, 1), (3, 2)])
def test_the_fewest_gpus_are_found_exactly(requests, expert):
    """gpt-oss-20b on GPUs of 16 GiB, experts over all ranks or not: every way tried, up to the answer."""
    p = plan(
        "gpt-oss-20b",
        "16GiB",
        parallel={"data": expert, "expert": expert},
        workload={"concurrency": requests, "prompt_tokens": 20_000},
    )
    s = solve(p, "min-gpus")
    assert check(
        spread(p, *(s.values.get(f"parallel.{k}", p[f"parallel.{k}"]) for k in ("tensor", "pipeline", "data")))
    ).passed
    if requests < 10**6:
        assert fewest(p, s.answer) == s.answer
    assert s.binds or s.answer == 1


def fewest(p, most):
    """The fewest GPUs, every way of spreading the plan over them tried one by one."""
    ways = [
        (t * q * d, t, q, d)
        for t in range(1, min(most, 64) + 1)
        for q in (1, 2, 4, 8)
        for d in range(1, most + 1)
        if t * q * d <= most
    ]
    return next((n for n, *ranks in sorted(ways) if check(spread(p, *ranks)).passed), None)


@given(st.integers(0, 300), st.integers(1, 200))
def test_the_most_that_fits(limit, ceiling):
    from attnmath.plans.servers import most

    found = most(lambda n: n <= limit, ceiling)
    assert found == (None if ceiling <= limit else limit)


@given(plans(), st.sampled_from([1, 2, 4]), st.integers(1, 40))
def test_the_capacity_is_what_passes(p, pipeline, seqs):
    """As many requests, or one as long, as the capacity says find room in every stage's cache; one more does not."""
    p = p.changed(parallel__pipeline=pipeline, engine__max_num_seqs=seqs)
    c = check(p).capacity
    room = [s for s in servers(p) if s.pool >= 0]
    each = c.max_concurrency // p["parallel.data"]
    if each:
        assert all(needed(s, each, s.request) <= s.pool for s in room)
    if each < seqs:
        assert any(needed(s, each + 1, s.request) > max(s.pool, 0) for s in servers(p))
    if c.tokens:
        assert all(needed(s, 1, c.tokens) <= s.pool for s in room)
    if c.tokens is not None:
        assert any(needed(s, 1, c.tokens + 1) > max(s.pool, 0) for s in servers(p))


@given(MODELS, st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2]))
def test_ranks_hold_no_less_than_their_share_and_together_all(model, tensor, pipeline):
    from attnmath.models import read

    m = read(model)
    (whole,) = held(m, Rank(1), "bf16", "bf16", "bf16")
    parts = held(m, Rank(tensor, pipeline), "bf16", "bf16", "bf16")
    assert len(parts) == pipeline
    assert whole.weight_bytes <= tensor * sum(p.weight_bytes for p in parts)
    assert all(p.weight_bytes <= whole.weight_bytes for p in parts)
    if tensor == 1:
        tied = model in ("gemma-3-4b",) and pipeline > 1  # a tied embedding is held by the first stage and by the last
        more = 262_208 * 2560 * 2 if tied else 0
        assert sum(p.weight_bytes for p in parts) == whole.weight_bytes + more
        assert sum(sum(r.bytes * r.count for r in p.rows) for p in parts) == sum(r.bytes * r.count for r in whole.rows)


@pytest.mark.parametrize("name", presets.names())
def test_one_rank_holds_what_the_model_has(name):
    """Weights and a sequence's cache of a plan on one GPU are those that `model` counts."""
    import attnmath as am
    from attnmath.models import read

    tokens = 64
    s = server(
        plan(name, "4000GB", engine={"name": "ideal"}, workload={"prompt_tokens": tokens - 1, "output_tokens": 1})
    )
    found = am.model(name, seq=1, context=tokens)
    assert s.used.weights == found.weight_bytes.total
    if not s.crosses:
        states = found.state_bytes_per_sequence
        kept = found.kv_cache_bytes, states.recurrent + states.conv
        assert sequence_bytes(s, tokens, paged=False) == kept
    assert read(name).sequence


@pytest.mark.parametrize(
    ("tensor", "data", "expert", "ways"),
    [(8, 1, 1, 8), (8, 1, 8, 8), (4, 2, 8, 8), (1, 8, 8, 8), (1, 1, 1, 1)],
)
def test_experts_over_ranks(tensor, data, expert, ways):
    """DeepSeek-V3: 58 layers x 256 experts x 3 matrices of 7168 x 2048 in fp8, scales of 4 bytes a tile of 128 x 128."""
    s = server(plan("deepseek-v3", "2000GB", parallel={"tensor": tensor, "data": data, "expert": expert}))
    one = 7168 * 2048
    routed = 58 * 256 * 3 * (one + 4 * one // 128**2)
    assert s.held.weights["experts"] == routed // ways


def test_stages_take_their_own_layers():
    """DeepSeek-V3 over two stages: the first has the three dense layers and the embedding, the last the head."""
    one, two = servers(plan("deepseek-v3", "2000GB", parallel={"pipeline": 2}))
    routed = 58 * 256 * 3 * (7168 * 2048 + 4 * 7168 * 2048 // 128**2)
    assert one.held.weights["experts"] == routed // 58 * (31 - 3)
    assert two.held.weights["experts"] == routed // 58 * 30
    assert (one.held.weights.get("embedding"), two.held.weights.get("embedding")) == (129_280 * 7168 * 2, None)
    assert (one.held.weights.get("head"), two.held.weights.get("head")) == (None, 129_280 * 7168 * 2)
    assert [sum(r.count for r in x.held.rows) for x in (one, two)] == [31, 30]


def test_what_is_asked_of_time_and_not_known_is_no_pass(tmp_path, capsys):
    """A size of memory says nothing of time: the verdict is unsure, and the reason is told."""
    file = tmp_path / "plan.toml"
    base = 'model = "gpt2"\n[gpu]\nmemory = "8GiB"\n[workload]\nprompt_tokens = 9\n'
    for more, key in (("rate_per_s = 500\n", "workload.rate_per_s"), ("[targets]\nttft_s = 0.1\n", "targets.ttft_s")):
        file.write_text(base + more)
        assert run(["plan", "check", str(file), "--json"]) == 1
        document = json.loads(capsys.readouterr().out)
        assert (document["verdict"], document["latency"]) == ("unsure", None)
        assert document["unchecked"] == [f"{key}: gpu.name is missing: a size of memory says nothing of time"]
        assert all(c["passed"] for c in document["checks"])
        for format_ in ("text", "github"):
            assert run(["plan", "check", str(file), "--format", format_]) == 1
            assert f"fits (not checked: {key})" in capsys.readouterr().out


def test_shapes_as_the_engine_needs_them():
    def failed(model, **sections):
        return {c.id for c in check(plan(model, "4000GB", **sections)).checks if not c.passed}

    three = {"parallel": {"tensor": 3}, "workload": {"prompt_tokens": 9, "output_tokens": 9}}
    assert failed("llama-3.1-8b", **three) >= {"AM006", "AM007", "AM008"}
    assert not failed("llama-3.1-8b", engine={"name": "llama.cpp"}, **three)  # whole layers on each GPU
    assert failed("whisper-tiny", **three) == {"AM015"}
    assert not failed("whisper-tiny", engine={"name": "trtllm"}, **three)  # pads to what the ranks divide
    eight = {"parallel": {"tensor": 8}}
    assert not failed("qwen2.5-14b", dtype={"weights": "fp8"}, **eight)  # the checkpoint has no tiles
    fixes = {c.fix for c in check(plan("qwen2.5-7b", **three)).checks if c.id in ("AM006", "AM007", "AM008")}
    assert fixes == {"a parallel.tensor of 1, 2, 4, 28"} or len(fixes) == 1


def test_experts_over_more_ranks_may_take_fewer_gpus():
    """DeepSeek-V3 on A100s: 64 ranks hold few experts each; more of them do no harm beyond a node."""
    p = plan(
        "deepseek-v3",
        "80GB",
        parallel={"tensor": 16, "pipeline": 8, "data": 2, "expert": 32},
        workload={"concurrency": 64, "prompt_tokens": 8192, "output_tokens": 1024},
    )
    s = solve(p, "min-gpus")
    for t in (1, 2, 4, 8, 16):
        for q in (1, 2, 4, 8):
            for d in (1, 2, 4, 8, 16, 32, 64, 128, 256):
                if t * q * d < s.answer and 256 % (t * d) == 0:
                    assert not check(spread(p, t, q, d)).passed, (t, q, d)


def test_what_engines_mean_by_their_settings():
    """One GPU, the same numbers: the share is of all, of what the context leaves, of what everything leaves, or of nothing."""
    pools = {}
    for engine in ENGINES:
        s = server(plan("llama-3.1-8b", "80GB", engine={"name": engine}))
        u, total = s.used, 80 * 10**9
        own = {"vllm": 0.9, "sglang": 0.88, "trtllm": 0.9}.get(engine)
        pools[engine] = s.pool
        assert (
            s.pool
            == {
                "vllm": lambda: int(total * 0.9) - u.weights - u.activations - u.logits - u.context - u.nccl,
                "sglang": lambda: int((total - u.context - u.nccl) * own) - u.weights,
                "trtllm": lambda: int((total - u.total) * own),
                "llama.cpp": lambda: total - u.total,
                "ideal": lambda: total - u.weights - u.activations - u.logits,
            }[engine]()
        )
    assert len(set(pools.values())) == len(pools)


def test_solve_prints_what_binds_and_what_would_help(capsys):
    path = str(HERE / "fits-llama-70b-tp8.toml")
    assert run(["plan", "solve", path, "--for", "max-context", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, json_schema("plan-solve"))
    assert document["binds"] == "AM003"
    narrower = next(c for c in document["changes"] if c["change"] == 'dtype.kv = "fp8"')
    assert narrower["gain"] == pytest.approx(2, rel=0.02) and narrower["gpus"] == 8
    assert run(["plan", "solve", path, "--for", "max-contxt"]) == 2
    assert "did you mean 'max-context'" in capsys.readouterr().err


# -- logs


LOGS = {
    "vllm": (
        "INFO model_runner.py: Loading model weights took 14.9888 GB\n"
        "INFO worker.py: Memory profiling results: total_gpu_memory=23.58GiB initial_memory_usage=15.34GiB "
        "peak_torch_memory=17.06GiB memory_usage_post_profile=15.35GiB non_torch_memory=0.35GiB kv_cache_size=3.81GiB "
        "gpu_memory_utilization=0.90\nGPU blocks: 1952, # CPU blocks: 2048\n"
        "Maximum concurrency for 20000 tokens per request: 1.56x\n",
        {"weights": int(14.9888 * GIB), "pool": int(3.81 * GIB), "blocks": 1952, "concurrency": 1.56},
    ),
    "vllm v1": (
        "Model loading took 14.9888 GiB and 5.1 seconds\nAvailable KV cache memory: 8.11 GiB\n"
        "GPU KV cache size: 178,880 tokens\nMaximum concurrency for 40,960 tokens per request: 4.37x\n"
        "Graph capturing finished in 20 secs, took 0.52 GiB\n",
        {"pool": int(8.11 * GIB), "tokens": 178_880, "graphs": int(0.52 * GIB), "max_model_len": 40_960},
    ),
    "sglang": (
        "Load weight end. elapsed=19.09 s, type=Qwen3MoeForCausalLM, avail mem=230.20 GB, mem usage=56.98 GB.\n"
        "KV Cache is allocated. dtype: torch.bfloat16, #tokens: 367404, K size: 8.23 GB, V size: 8.23 GB\n"
        "Memory pool end. avail mem=74.01 GB\nCapture cuda graph end. Time elapsed: 5.37 s. mem usage=1.44 GB. avail mem=38 GB.\n",
        {"weights": int(56.98 * GIB), "pool": 2 * int(8.23 * GIB), "tokens": 367_404, "graphs": int(1.44 * GIB)},
    ),
    "trtllm": (
        "[TensorRT-LLM][INFO] Loaded engine size: 6683 MiB\n"
        "[TensorRT-LLM][INFO] [MemUsageChange] Allocated 16.10 GiB for max tokens in paged KV cache (301472).\n",
        {"weights": 6683 * 2**20, "pool": int(16.10 * GIB), "tokens": 301_472},
    ),
    "llama.cpp": (
        "llama_new_context_with_model: n_ctx      = 8192\nload_tensors:        CUDA0 model buffer size =  4096.00 MiB\n"
        "load_tensors:        CUDA1 model buffer size =  1024.00 MiB\n"
        "llama_init_from_model: KV self size  =  144.00 MiB, K (f16):   72.00 MiB, V (f16):   72.00 MiB\n"
        "llama_init_from_model:      CUDA0 compute buffer size =   300.75 MiB\n",
        {"weights": 4096 * 2**20, "pool": 144 * 2**20, "tokens": 8192, "activations": int(300.75 * 2**20)},
    ),
}


@pytest.mark.parametrize("name", LOGS)
def test_lines_of_logs_are_understood(name):
    text, want = LOGS[name]
    found, _ = scan(text, name.split()[0])
    assert {k: found.get(k) for k in want} == want


def test_a_log_is_attributed_line_by_line(tmp_path, capsys):
    log, file = tmp_path / "server.log", tmp_path / "plan.toml"
    log.write_text(LOGS["vllm"][0])
    file.write_text(
        'model = "llama-3.1-8b"\n[gpu]\nmemory = "23.58GiB"\n[engine]\nmax_num_batched_tokens = 20000\nmax_model_len = 20000\n'
    )
    assert run(["plan", "explain", str(file), "--log", str(log), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, json_schema("plan-explain"))
    rows = {d["what"]: d for d in document["differences"]}
    parts = sum(d["of_cache"] or 0 for d in document["differences"])
    assert rows["cache"]["difference"] == parts + document["remainder_bytes"]
    assert abs(document["remainder_bytes"]) < 0.01 * GIB
    assert abs(rows["tokens in the cache"]["difference"]) < 0.002 * 31_232


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
def test_a_log_of_our_own_numbers_leaves_nothing(engine, tmp_path, capsys):
    """A server with another size of everything: what each takes from the cache adds up, by the engine's own rule."""
    p = plan("llama-3.1-8b", "80GB", engine={"name": engine})
    used = server(p).used
    other = used.__class__(*(getattr(used, f) + 2**28 for f in used.__struct_fields__))
    share = {"vllm": 0.9, "sglang": 0.88, "trtllm": 0.9}[engine]
    pool = ENGINES[engine].split(share, 80 * 10**9, other).pool
    gib = {f: f"{getattr(other, f) / GIB:.9f}" for f in used.__struct_fields__}
    pool = f"{pool / GIB:.9f}"
    text = {
        "vllm": f"Model loading took {gib['weights']} GiB\nnon_torch_memory={(other.context + other.nccl) / GIB:.9f}GiB\n"
        f"activation peak memory takes {(other.activations + other.logits) / GIB:.9f}GiB\n"
        f"Available KV cache memory: {pool} GiB\n",
        "sglang": f"Load weight end. mem usage={gib['weights']} GB.\nKV Cache is allocated. #tokens: 1, KV size: {pool} GB\n",
        "trtllm": f"Loaded engine size: {gib['weights']} GiB\nAllocated {pool} GiB for max tokens in paged KV cache (1)\n",
    }[engine]
    log, file = tmp_path / "server.log", tmp_path / "plan.toml"
    log.write_text(text)
    file.write_text(f'model = "llama-3.1-8b"\n[gpu]\nmemory = "80GB"\n[engine]\nname = "{engine}"\n')
    assert run(["plan", "explain", str(file), "--log", str(log), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    silent = {"vllm": 0, "sglang": 2 * share, "trtllm": 5 * share}[
        engine
    ]  # parts of 0.25 GiB that the log is silent on
    assert document["remainder_bytes"] == pytest.approx(-silent * 2**28, abs=16)
    if silent:
        assert "says nothing of" in " ".join(document["notes"])


@pytest.mark.parametrize(
    ("engine", "text", "want"),
    [
        ("vllm", "\x1b[32mAvailable KV cache memory:\x1b[0m 8.00 GiB", {"pool": 8 * GIB}),
        ("vllm", "Available KV cache memory: -5.50 GiB", {"pool": -int(5.5 * GIB)}),
        ("vllm", "(TP1) Available KV cache memory: 9 GiB\n(TP0) Available KV cache memory: 8 GiB", {"pool": 8 * GIB}),
        ("vllm", "(TP1) Model loading took 9 GiB\n(TP0) Model loading took 8 GiB", {"weights": 9 * GIB}),
        ("vllm", "# cuda blocks: 2048, # CPU blocks: 512", {"blocks": 2048}),
        ("vllm", "# CUDA blocks: 2,048", {"blocks": 2048}),
        (
            "vllm",
            "To serve at least one request with the models's max seq len (131072), (16.00 GiB KV cache is needed, which is "
            "larger than the available KV cache memory (5.31 GiB).",
            {"needed": 16 * GIB, "max_model_len": 131_072, "pool": int(5.31 * GIB)},
        ),
        (
            "llama.cpp",
            "load_tensors:   CPU_Mapped model buffer size =  1002.00 MiB\nload_tensors: CUDA0 model buffer size = 4096.00 MiB\n"
            "llama_kv_cache_unified: CUDA0 KV buffer size = 512.00 MiB\nllama_kv_cache_unified: CUDA1 KV buffer size = 256.00 MiB\n"
            "llama_context: CUDA_Host compute buffer size = 9.00 MiB\nllama_context: CUDA0 compute buffer size = 300.00 MiB\n",
            {"weights": 4 * GIB, "pool": GIB // 2, "activations": 300 * 2**20},
        ),
        (
            "trtllm",
            "Number of tokens/max tokens in paged kv cache: total: 79.10 GiB, available: 58.51 GiB",
            {"memory": int(79.10 * GIB), "free": int(58.51 * GIB)},
        ),
    ],
)
def test_lines_as_servers_print_them(engine, text, want):
    found, _ = scan(text, engine)
    assert found == want


def test_what_is_free_before_the_cache_says_what_all_the_rest_took(tmp_path):
    """79.1 GiB, of which 15 are weights and 58.51 are left: 5.59 GiB are what we estimate."""
    log = tmp_path / "server.log"
    log.write_text(
        "Loaded engine size: 15 GiB\nNumber of tokens/max tokens in paged kv cache: total: 79.10 GiB, available: 58.51 GiB\n"
        "Allocated 52.66 GiB for max tokens in paged KV cache (431000)\n"
    )
    p = plan("llama-3.1-8b", "79.10GiB", engine={"name": "trtllm"})
    found = explain(p, str(log))
    (rest,) = [d for d in found.differences if d.what == "all the rest"]
    assert rest.log == pytest.approx(5.59 * GIB, abs=99)
    assert rest.of_cache == pytest.approx(-0.9 * rest.difference, abs=1)
    assert abs(found.remainder_bytes) < 0.02 * GIB


def test_ranks_that_differ_are_told():
    _, notes = scan("Available KV cache memory: 9 GiB\nAvailable KV cache memory: 8 GiB", "vllm")
    assert notes == ["pool: 2 ranks, or starts, differ; the least is taken"]


def test_llama_cpps_cache_is_as_long_as_it_is_told(tmp_path, capsys):
    """ggml-org/llama.cpp: 8,192 tokens of Llama-3-8B take 1,024 MiB in f16."""
    log, file = tmp_path / "server.log", tmp_path / "plan.toml"
    log.write_text(
        "n_ctx = 8192\nload_tensors: CUDA0 model buffer size = 4096.00 MiB\nKV self size = 1024.00 MiB, K (f16)\n"
    )
    file.write_text('model = "llama-3.1-8b"\n[gpu]\nmemory = "80GB"\n[engine]\nname = "llama.cpp"\n')
    assert run(["plan", "explain", str(file), "--log", str(log), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    rows = {d["what"]: d for d in document["differences"]}
    assert rows["cache"]["difference"] == 0
    assert document["remainder_bytes"] is None


@pytest.mark.parametrize("odd", ["9" * 5000, ",,,", "1.2.3", "-3", ".", "1e400", "٣"])
def test_odd_numbers_in_a_log(odd, tmp_path, capsys):
    log, file = tmp_path / "server.log", tmp_path / "plan.toml"
    file.write_text('model = "llama-3.1-8b"\n[gpu]\nmemory = "23.58GiB"\n')
    log.write_text(
        f"Available KV cache memory: {odd} GiB\nGPU KV cache size: {odd} tokens\nModel loading took {odd} GiB"
    )
    assert run(["plan", "explain", str(file), "--log", str(log)]) in (0, 2)
    assert "Traceback" not in capsys.readouterr().err


def test_logs_that_are_none(tmp_path, capsys):
    log, file = tmp_path / "server.log", tmp_path / "plan.toml"
    file.write_text('model = "llama-3.1-8b"\n[gpu]\nmemory = "23.58GiB"\n')
    log.write_text("nothing here")
    assert run(["plan", "explain", str(file), "--log", str(log)]) == 2
    assert "none of the lines that vllm prints" in capsys.readouterr().err
    log.write_text(LOGS["sglang"][0])
    assert run(["plan", "explain", str(file), "--log", str(log)]) == 2
    assert "it reads like sglang's: set engine.name" in capsys.readouterr().err


# -- hostile files


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a = " + b"[" * 5000 + b"]" * 5000, "too long"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"x = 1\n" * 100_000, "more than 400,000 bytes"),
        (b'model = "x"\n[workload]\nconcurrency = ' + b"9" * 3000, "digits"),
        (b'model = "x"\n[workload]\nconcurrency = nan', "concurrency is nan"),
        (b'model = "x"\n[workload]\nconcurrency = ' + b"9" * 30, "expected a whole number"),
        (b'model = "x"\ngpu.name.a.b.c = 1', "gpu.name is a table"),
        (b'model = ["x"]\n[gpu]\nmemory = "80GB"', "model is ['x']; expected a text"),
        (b'model = "\\u0007"\n[gpu]\nmemory = "80GB"', "expected a text"),
        (b"", "the file is empty"),
    ],
    ids=range(10),
)
def test_files_that_are_no_plan(data, message, tmp_path, capsys):
    file = tmp_path / "plan.toml"
    file.write_bytes(data)
    assert run(["plan", "check", str(file)]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert "plan.toml" in err


def test_every_preset_has_a_plan():
    for name in presets.names():
        result = check(plan(name, "2000GB", workload={"prompt_tokens": 100, "output_tokens": 100}))
        assert result.memory_bytes.weights > 0, name


def test_explaining_needs_the_log_to_be_the_engines():
    with pytest.raises(InputError, match="No such file"):
        explain(plan("gpt2"), "nowhere.log")


def test_files_that_a_plan_names_are_looked_for_beside_it(tmp_path, monkeypatch, capsys):
    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "intermediate_size": 8,
    }
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "config.json").write_text(json.dumps(config | {"vocab_size": 10}))
    (tmp_path / "plans" / "p.toml").write_text(
        'model = "config.json"\n[gpu]\nmemory = "8GiB"\n[workload]\nprompt_tokens = 9'
    )
    monkeypatch.chdir(tmp_path)
    assert run(["plan", "check", "plans/p.toml"]) == 0
    capsys.readouterr()
