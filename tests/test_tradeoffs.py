"""Latency against throughput, and requests played one by one."""

from __future__ import annotations

import json

import jsonschema
import pytest

from attnmath.errors import InputError, Unknown
from attnmath.plans.checking import check
from attnmath.plans.reading import parse
from attnmath.plans.replaying import play
from attnmath.plans.solving import solve
from attnmath.plans.tradeoffs import tradeoffs
from attnmath.schemas import json_schema

HEAD = 'model = "llama-3.1-8b"\n[gpu]\nname = "h100-sxm"\ncount = 2\n'
TARGETS = "[targets]\ntpot_s = 0.02\nttft_s = 2\n"


def test_the_best_point_passes_and_the_next_load_does_not():
    plan = parse(HEAD + TARGETS, "plan.toml")
    found = tradeoffs(plan, "max-throughput")
    laid = plan.changed(**{k.replace(".", "__"): v for k, v in found.values.items()})
    assert check(laid).verdict == "pass"
    assert found.best.gpus == 2
    more = laid.changed(workload__concurrency=2 * found.best.concurrency)
    better = check(more)
    assert better.verdict != "pass" or better.throughput.output_tokens_per_s.estimate <= found.best.output_tokens_per_s


def test_the_front_has_nothing_that_another_beats():
    found = tradeoffs(parse(HEAD + TARGETS, "plan.toml"), "max-throughput")
    for a, b in zip(found.front, found.front[1:]):
        assert a.tpot_s <= b.tpot_s
        assert a.output_tokens_per_s_per_gpu < b.output_tokens_per_s_per_gpu
    assert len(found.front) > 3


def test_the_cheapest_costs_no_more_than_the_quickest():
    plan = parse(HEAD + TARGETS + "[price]\ngpu_hour_usd = 3\n", "plan.toml")
    quick, cheap = (tradeoffs(plan, goal).best for goal in ("max-throughput", "min-cost"))
    assert cheap.usd_per_million_output_tokens <= quick.usd_per_million_output_tokens
    assert cheap.usd_per_million_output_tokens == pytest.approx(3 / 3600 * cheap.gpus / cheap.output_tokens_per_s * 1e6)


def test_targets_that_nothing_meets():
    found = tradeoffs(parse(HEAD + "[targets]\ntpot_s = 1e-6\n", "plan.toml"), "max-throughput")
    assert found.best is None
    assert found.values == {}
    assert not any(p.meets for p in found.front)


def test_what_tradeoffs_refuse():
    with pytest.raises(Unknown, match="max-throughput"):
        tradeoffs(parse(HEAD, "p"), "max-throughputs")
    with pytest.raises(InputError, match="looks for the load itself"):
        tradeoffs(parse(HEAD + "[workload]\nrate_per_s = 2\n", "p"), "min-cost")
    with pytest.raises(InputError, match="nothing fits"):
        tradeoffs(parse(HEAD.replace("8b", "405b"), "p"), "max-throughput")


def test_a_played_plan_is_near_its_means():
    """The replay and the closed form share the time of a step and nothing else."""
    plan = parse(HEAD + "[parallel]\ndata = 2\n[workload]\nrate_per_s = 6\nprompt_tokens = 900\n", "plan.toml")
    played, steady = play(plan, 3000, 3).replay, check(plan).latency
    assert played.tpot_s.mean_s == pytest.approx(steady.tpot_s.estimate, rel=0.1)
    assert played.ttft_s.mean_s == pytest.approx(steady.ttft_s.estimate, rel=0.25)
    assert play(plan, 50, 3) == play(plan, 50, 3)
    assert play(plan, 50, 3) != play(plan, 50, 4)


def test_a_trace_is_played(tmp_path, call):
    (tmp_path / "trace.csv").write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        + "".join(f"2023-11-16 18:17:0{k}.9799600,{300 + k},{20 + k}\n" for k in range(8))
    )
    plan = tmp_path / "plan.toml"
    plan.write_text(HEAD + '[workload]\ntrace = "trace.csv"\n[targets]\ntpot_s = 1\n')
    code, out, _ = call(f"plan replay {plan} --json")
    document = json.loads(out)
    jsonschema.validate(document, json_schema("plan-replay"))
    assert (code, document["replay"]["requests"], document["met"]) == (0, 8, {"tpot_s": True})
    assert "8 requests of Azure LLM inference" in document["load"]
    plan.write_text(HEAD + '[workload]\ntrace = "trace.csv"\n[targets]\ntpot_s = 1e-5\n')
    code, out, _ = call(f"plan replay {plan}")
    assert code == 1
    assert "targets missed" in out
    (tmp_path / "trace.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,-3,5\n")
    code, out, err = call(f"plan replay {plan}")
    assert (code, out) == (2, "")
    assert "line 2" in err
    assert "Traceback" not in err


def test_tradeoffs_print_and_are_documents(tmp_path, call):
    plan = tmp_path / "plan.toml"
    plan.write_text(HEAD + TARGETS)
    code, out, _ = call(f"plan solve {plan} --for max-throughput --json")
    assert code == 0
    jsonschema.validate(json.loads(out), json_schema("plan-tradeoffs"))
    code, out, _ = call(f"plan solve {plan} --for max-throughput")
    assert "latency against throughput" in out
    assert "best" in out


def test_the_front_is_drawn_the_same_each_time(tmp_path, call):
    plan = tmp_path / "plan.toml"
    plan.write_text(HEAD + TARGETS)
    for name in ("a.svg", "b.svg"):
        code, _, err = call(f"plan solve {plan} --for max-throughput -o {tmp_path / name}")
        assert code == 0
        assert "wrote" in err
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert b"output tokens/s of a GPU" in (tmp_path / "a.svg").read_bytes()
    assert call(f"plan solve {plan} --for max-throughput -o {tmp_path / 'a.svg'}")[0] == 2
    assert call(f"plan solve {plan} --for max-context -o {tmp_path / 'c.svg'}")[0] == 2
    assert call(f"plan solve {plan} --for min-cost -o {tmp_path / 'c.txt'}")[0] == 2
    assert not (tmp_path / "c.svg").exists()


def test_requests_may_vary():
    """By a law, of which closed forms take mean and variance, and a replay draws; memory is planned for the longest."""
    text = HEAD + "[workload]\nrate_per_s = 4\nprompt_tokens = 4000\nprompt_law = { p50 = 500, p99 = 3000 }\n"
    varied, alike = parse(text, "p"), parse(HEAD + "[workload]\nrate_per_s = 4\nprompt_tokens = 4000\n", "p")
    assert check(varied).latency.ttft_s.estimate < check(alike).latency.ttft_s.estimate
    assert check(varied).memory_bytes.activations == check(alike).memory_bytes.activations
    found = play(varied, 2000, 1)
    assert found.replay.ttft_s.p99_s > 2 * found.replay.ttft_s.p50_s
    burst = parse(text + "burstiness = 4\n", "p")
    assert play(burst, 2000, 1).replay.queue_s.mean_s > 2 * found.replay.queue_s.mean_s
    for law, why in (("{ mean = 100, sd = 5 }", "sd: did you mean 'std'"), ('"long"', "expected an integer, {mean")):
        with pytest.raises(InputError, match=f"line 7: workload.prompt_law is .*{why}"):
            parse(HEAD + f"[workload]\nconcurrency = 2\nprompt_law = {law}\n", "p")


def test_drafts_are_played_too():
    """With what is accepted, a request takes fewer steps, and each takes longer."""
    base = HEAD + "[workload]\nconcurrency = 2\n"
    plain, drafted = (
        play(parse(base + x, "p"), 40).replay for x in ("", "[engine]\ndraft_tokens = 4\nacceptance = 0.9\n")
    )
    assert drafted.steps < plain.steps / 2
    assert drafted.tpot_s.mean_s < plain.tpot_s.mean_s


def test_solving_keeps_targets_and_rates():
    """What min-gpus answers passes the check; a target that nothing is known of is no answer."""
    plan = parse(
        HEAD.replace("count = 2\n", "") + "[workload]\nrate_per_s = 60\n[targets]\ntpot_s = 0.03\n", "plan.toml"
    )
    found = solve(plan, "min-gpus")
    assert found.answer > 1
    laid = plan.changed(**{k.replace(".", "__"): v for k, v in found.values.items()})
    assert check(laid).verdict == "pass"
    with pytest.raises(InputError, match=r"targets.tpot_s: gpu.name is missing"):
        solve(parse('model = "gpt2"\n[gpu]\nmemory = "8GiB"\n[targets]\ntpot_s = 1\n', "p"), "max-concurrency")
