"""Plans in time: between bound and pessimistic end, verdicts, money, and what published figures say of the estimates."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnmath.errors import InputError
from attnmath.plans import latency
from attnmath.plans.checking import check
from attnmath.plans.latency import accuracy, timed
from attnmath.plans.reading import parse
from attnmath.plans.servers import servers

ROOT = Path(__file__).resolve().parent.parent
HEAD = 'model = "llama-3.1-8b"\n[gpu]\nname = "h100-sxm"\n'


def of(text: str, head: str = HEAD):
    return timed(servers(parse(head + text, "plan.toml")))


def ranges(t):
    return [t.latency.ttft_s, t.latency.tpot_s, t.latency.e2e_s]


@given(
    concurrency=st.integers(1, 600),
    prompt=st.integers(1, 8000),
    output=st.integers(2, 2000),
    engine=st.sampled_from(["vllm", "sglang", "trtllm"]),
)
def test_an_estimate_lies_between_its_bound_and_its_pessimistic_end(concurrency, prompt, output, engine):
    more = f'[engine]\nname = "{engine}"\n[workload]\nconcurrency = {concurrency}\nprompt_tokens = {prompt}\n'
    t = of(f"{more}output_tokens = {output}\n")
    for r in ranges(t):
        assert 0 < r.bound <= r.estimate <= r.pessimistic
    r = t.throughput.output_tokens_per_s
    assert r.bound >= r.estimate >= r.pessimistic > 0


BETTER = [
    ("a faster GPU", "", "", HEAD, HEAD.replace("h100", "h200")),
    ("fewer requests", "[workload]\nconcurrency = 64\n", "[workload]\nconcurrency = 8\n", HEAD, HEAD),
    ("shorter prompts", "[workload]\nprompt_tokens = 4000\n", "[workload]\nprompt_tokens = 400\n", HEAD, HEAD),
    ("cached prompts", "", "[workload]\nprefix_hit_rate = 0.9\n", HEAD, HEAD),
    ("narrower weights", "", '[dtype]\nweights = "fp8"\n', HEAD, HEAD),
    ("more ranks", "", "count = 2\n[parallel]\ntensor = 2\n", HEAD, HEAD),
    ("a smaller rate", "[workload]\nrate_per_s = 20\n", "[workload]\nrate_per_s = 2\n", HEAD, HEAD),
]


@pytest.mark.parametrize(("why", "worse", "better", "head", "other"), BETTER, ids=[b[0] for b in BETTER])
def test_what_should_help_never_hurts(why, worse, better, head, other):
    a, b = of(worse, head), of(better, other)
    for x, y in zip(ranges(a), ranges(b)):
        assert y.estimate <= x.estimate * (1 + 1e-9), why
    assert any(y.estimate < x.estimate for x, y in zip(ranges(a), ranges(b)))


def test_littles_law():
    t = of("[workload]\nrate_per_s = 8\n")
    assert t.throughput.in_flight == pytest.approx(8 * t.latency.e2e_s.estimate)
    assert t.throughput.utilisation == pytest.approx(8 / t.throughput.saturation_per_s.estimate)


def test_a_rate_beyond_saturation_has_no_latency_and_fails():
    r = check(parse(HEAD + "[workload]\nrate_per_s = 5000\n[targets]\nttft_s = 1\n", "plan.toml"))
    failed = {c.id: c for c in r.checks if not c.passed}
    assert set(failed) == {"AM016", "AM017"}
    assert not failed["AM016"].unsure
    assert r.verdict == "fail"
    assert r.latency.ttft_s.estimate is None


def test_verdicts_of_targets():
    """Pass on the pessimistic end, fail on the bound, unsure in between."""
    t = of("").latency.tpot_s
    for limit, verdict in (
        (t.pessimistic * 1.001, "pass"),
        (t.pessimistic * 0.999, "unsure"),
        (t.bound * 1.001, "unsure"),
        (t.bound * 0.999, "fail"),
    ):
        assert check(parse(f"{HEAD}[targets]\ntpot_s = {limit}\n", "p")).verdict == verdict
    t = of("").throughput.output_tokens_per_s
    for limit, verdict in ((t.pessimistic * 0.99, "pass"), (t.estimate, "unsure"), (t.bound * 1.01, "fail")):
        assert check(parse(f"{HEAD}[targets]\ntokens_per_s = {limit}\n", "p")).verdict == verdict


def test_money_and_energy():
    t = of("[workload]\nconcurrency = 32\n[price]\ngpu_hour_usd = 3.6\ngpu_power_w = 500\n").throughput
    assert t.usd_per_million_output_tokens == pytest.approx(3.6 / 3600 / t.output_tokens_per_s.estimate * 1e6)
    assert t.joules_per_output_token == pytest.approx(500 / t.output_tokens_per_s.estimate)


def test_drafts_pay_where_they_are_accepted():
    plain, good, bad = (
        of(x).latency.tpot_s.estimate
        for x in (
            "",
            "[engine]\ndraft_tokens = 4\nacceptance = 0.9\n",
            "[engine]\ndraft_tokens = 4\nacceptance = 0.05\n",
        )
    )
    assert good < plain < bad
    (told,) = of("[engine]\ndraft_tokens = 4\n").notes
    assert "drafted tokens pay from an acceptance of 0." in told


def test_two_pools():
    head = HEAD + "count = 4\n[parallel]\ndata = 4\nprefill = 2\n"
    t = of("[workload]\nrate_per_s = 4\nprompt_tokens = 4000\n", head)
    assert any("moves between the pools" in n for n in t.notes)
    with pytest.raises(InputError, match=r"timed at a workload\.rate_per_s"):
        of("", head)
    with pytest.raises(InputError, match="some have to decode"):
        parse(HEAD + "[parallel]\ndata = 2\nprefill = 2\n", "p")


def test_what_cannot_be_timed_says_why():
    for head, why in (
        ('model = "gpt2"\n[gpu]\nmemory = "8GiB"\n', "gpu.name is missing"),
        ('model = "t5-small"\n[gpu]\nname = "h100-sxm"\n', "has an encoder beside its decoder"),
    ):
        with pytest.raises(InputError, match=why):
            of("", head)


def test_published_figures():
    """The table of benchmarks/plans.py: no figure beats its bound, and what was not fitted is within the goal."""
    out = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "plans.py"), "serving"], capture_output=True, text=True, check=True
    ).stdout
    assert "!" not in out.replace("! beats its bound", "")
    found = accuracy()
    assert found["output_tokens_per_s"].median < 0.25
    assert found["tpot_s"].median < 0.25
    figures = tomllib.loads((ROOT / "benchmarks/plans/serving/published-figures.toml").read_text())["figure"]
    own = [f for f in figures if not f.get("fitted")]
    counted = {k: sum(f["what"] == k for f in own) for k in found}
    assert counted == {k: a.figures for k, a in found.items()}
    plans = {
        tomllib.loads((ROOT / f"benchmarks/plans/serving/{f['plan']}.toml").read_text())["engine"]["name"] for f in own
    }
    assert len(plans) >= 3
    assert sum(k in ("output_tokens_per_s", "tpot_s") for k in (f["what"] for f in own)) >= 10


def test_what_is_written_is_what_is_found():
    """accuracy.toml is what the benchmark makes of the package as it stands."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import plans as benchmark
    finally:
        sys.path.pop(0)
    rows = benchmark.serving()
    errors = sorted(r.off for r in rows if r.what == "tpot_s" and not r.fitted)
    from statistics import median

    assert latency.accuracy()["tpot_s"].median == pytest.approx(median(errors), abs=6e-4)
