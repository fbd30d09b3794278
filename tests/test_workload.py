"""Workloads: laws have the moments that they say, what is drawn has them too, and files of traces are read or refused."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnmath.errors import InputError
from attnmath.plans import traces
from attnmath.plans.traces import trace
from attnmath.plans.workload import ROWS, Arrivals, draw, lengths

LENGTHS = [
    512,
    {"mean": 1024, "std": 300},
    {"mean": 1024, "std": 1500},
    {"mean": 1024, "std": 0},
    {"p50": 500, "p99": 4000},
    {"p10": 50, "p90": 900, "max": 1000},
    {"mean": 2000, "std": 4000, "max": 8192},
    {"uniform": [1, 2048]},
]


def all_of(*args, **options):
    blocks = list(draw(*args, **options))
    return [np.concatenate([getattr(b, f) for b in blocks]) for f in ("arrival_s", "prompt_tokens", "output_tokens")]


@pytest.mark.parametrize("law", LENGTHS, ids=str)
def test_what_is_drawn_has_the_moments_of_its_law(law):
    found = lengths(law)
    drawn = found.draw(np.random.default_rng(1), 400_000)
    assert drawn.dtype == np.int64
    assert drawn.min() >= 1
    assert drawn.mean() == pytest.approx(found.mean, rel=0.01)
    assert drawn.var() / drawn.mean() ** 2 == pytest.approx(found.scv, rel=0.08, abs=1e-6)


def test_two_quantiles_are_met():
    drawn = lengths({"p50": 500, "p99": 4000}).draw(np.random.default_rng(2), 400_000)
    assert np.quantile(drawn, [0.5, 0.99]) == pytest.approx([500, 4000], rel=0.02)
    assert lengths({"p10": 50, "p90": 900, "max": 1000}).draw(np.random.default_rng(2), 10_000).max() == 1000


@pytest.mark.parametrize("cv", [0.0, 0.5, 1.0, 3.0])
def test_arrivals_have_their_rate_and_their_variation(cv):
    times = Arrivals(4.0, cv).draw(np.random.default_rng(3), 400_000, 0.0)
    between = np.diff(times, prepend=0.0)
    assert (between >= 0).all()
    assert between.mean() == pytest.approx(0.25, rel=0.02)
    assert between.std() / between.mean() == pytest.approx(cv, rel=0.02, abs=1e-6)


def test_a_seed_draws_the_same_and_another_draws_others():
    law = lengths({"mean": 100, "std": 50})
    one, same, other = (all_of(law, law, Arrivals(1.0), 1000, seed=s) for s in (7, 7, 8))
    assert all((a == b).all() for a, b in zip(one, same))
    assert (one[0] != other[0]).any()


def test_blocks_follow_one_another():
    at, prompt, _ = all_of(lengths(5), lengths(6), Arrivals(10.0), ROWS + 10)
    assert len(at) == len(prompt) == ROWS + 10
    assert (np.diff(at) >= 0).all()
    assert (all_of(lengths(5), lengths(6), None, 3)[0] == 0).all()


@pytest.mark.parametrize(
    ("law", "said"),
    [
        (0, "0 tokens: expected at least 1"),
        (True, "True: expected an integer"),
        (1.5, "1.5: expected an integer"),
        ("many", "'many': expected an integer"),
        ({}, "expected an integer"),
        ({"mean": 5}, "mean: expected an integer"),
        ({"mean": 5, "std": -1}, "std is -1; expected a number of tokens"),
        ({"mean": math.nan, "std": "x"}, "2 errors:\n  mean is nan.*\n  std is 'x'"),
        ({"p50": 100, "p99": 100}, "the higher quantile has to be the larger one"),
        ({"p50": 100, "p99": 200, "p90": 150}, "p50, p99, p90: expected"),
        ({"uniform": [5, 1]}, "5 to 1 tokens: expected"),
        ({"p1": 1, "p2": 10**8}, "spread too wide"),
        ({"uniform": 5}, "expected two whole numbers"),
        ({"uniform": [1, 5], "max": 3}, "uniform is .1, 5.; expected a number"),
        ({"p100": 5, "p50": 1}, "p100: .*The keys are"),
        ({"mean": 10**12, "std": 1}, "mean is 1000000000000; expected"),
    ],
)
def test_what_is_no_law_is_refused(law, said):
    with pytest.raises(InputError, match=said):
        lengths(law)


@pytest.mark.parametrize("bad", [(0.0, 1.0), (math.nan, 1.0), (1.0, -0.1), (1.0, math.inf)])
def test_what_is_no_rate_is_refused(bad):
    with pytest.raises(InputError, match="expected"):
        Arrivals(*bad)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda x: (
            st.lists(x, max_size=3)
            | st.dictionaries(st.sampled_from(["mean", "std", "p50", "p99", "max", "uniform", "x"]), x, max_size=3)
        ),
    )
)
def test_whatever_a_plan_says_is_a_law_or_refused(value):
    try:
        found = lengths(value)
    except InputError:
        return
    assert found.draw(np.random.default_rng(0), 10).min() >= 1
    assert found.mean > 0


# -- traces

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.0319600,3180,8\n2023-11-16 18:17:05,110,27\n"
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,18,490,Conversation log\n45,ChatGPT,1087,230,1317,Conversation log\n118,GPT-4,417,276,693,Conversation log\n"
MOONCAKE = '{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]}\n{"timestamp": 30535, "input_length": 6472, "output_length": 26, "hash_ids": [46]}\n'
PLAIN = "arrival_s,prompt_tokens,output_tokens\n0.5,10,3\n0.5,20,4\n2,30,5\n"


def written(tmp_path, text, name="t.csv"):
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def everything(found):
    blocks = list(found.blocks())
    return [
        np.concatenate([getattr(b, f) for b in blocks]).tolist()
        for f in ("arrival_s", "prompt_tokens", "output_tokens")
    ]


@pytest.mark.parametrize(
    ("text", "name", "kind", "rows"),
    [
        (AZURE, "t.csv", "Azure LLM inference", [[0.0, 0.052, 1.02004], [4808, 3180, 110], [10, 8, 27]]),
        (BURST, "t.csv", "BurstGPT", [[0.0, 40.0, 113.0], [472, 1087, 417], [18, 230, 276]]),
        (MOONCAKE, "t.jsonl", "Mooncake", [[0.0, 3.053], [6955, 6472], [52, 26]]),
        (PLAIN, "t.csv", "plain", [[0.0, 0.0, 1.5], [10, 20, 30], [3, 4, 5]]),
        (PLAIN.replace("_s,", "_ms,"), "t.csv", "plain, milliseconds", [[0.0, 0.0, 0.0015], [10, 20, 30], [3, 4, 5]]),
        (
            "Prompt-Tokens,x,OUTPUT tokens, arrival\n7,a,1,2024-05-10T00:00:00+00:00\n8,b,2,2024-05-10T00:00:00.25+00:00\n",
            "t.csv",
            "plain, dates",
            [[0.0, 0.25], [7, 8], [1, 2]],
        ),
    ],
)
def test_the_columns_of_public_traces_are_understood(text, name, kind, rows, tmp_path):
    found = trace(written(tmp_path, text, name))
    assert found.kind == kind
    assert found.source
    for got, wanted in zip(everything(found), rows):
        assert got == pytest.approx(wanted, abs=1e-9)


def test_a_trace_says_what_it_amounts_to(tmp_path):
    rng = np.random.default_rng(0)
    at, prompt, output = np.cumsum(rng.gamma(0.25, 4.0, 5000)), rng.integers(1, 900, 5000), rng.integers(1, 90, 5000)
    rows = "".join(f"{a!r},{p},{o}\n" for a, p, o in zip(at.tolist(), prompt, output))
    found = trace(written(tmp_path, "arrival_s,prompt_tokens,output_tokens\n" + rows))
    between = np.diff(at)
    assert found.rate_per_s == pytest.approx(1 / between.mean())
    assert found.cv == pytest.approx(between.std() / between.mean())
    assert (found.shape.prompt, found.shape.output) == pytest.approx((prompt.mean(), output.mean()))
    assert found.shape.prompt_scv == pytest.approx(prompt.var() / prompt.mean() ** 2)
    assert found.duration_s == pytest.approx(at[-1] - at[0])


def test_parquet_is_read_as_it_is(tmp_path):
    pq.write_table(
        pa.table({"arrival_s": [0.0, 1.5], "prompt_tokens": [5, 6], "output_tokens": [1, 2]}), tmp_path / "t.parquet"
    )
    assert everything(trace(str(tmp_path / "t.parquet"))) == [[0.0, 1.5], [5, 6], [1, 2]]
    stamps = pa.array([10**18, 10**18 + 250_000_000], pa.timestamp("ns"))
    pq.write_table(
        pa.table({"TIMESTAMP": stamps, "ContextTokens": [5, 6], "GeneratedTokens": [1, 2]}), tmp_path / "a.parquet"
    )
    assert everything(trace(str(tmp_path / "a.parquet")))[0] == [0.0, 0.25]


HEAD = "arrival_s,prompt_tokens,output_tokens\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file is empty"),
        (HEAD, "no requests"),
        ("arrival_s,prompt_tokens\n1,2\n", "column output_tokens is missing; a trace like this .plain."),
        (
            "arrival_s,prompt_tokens,output_token\n1,2,3\n",
            "column output_tokens .did you mean 'output_token'.. is missing",
        ),
        ("a,b,c\n1,2,3\n", "of no trace that is known.*\n.*plain: arrival_s, prompt_tokens, output_tokens"),
        ("timestamp,prompt_tokens,output_tokens\n1,2,3\n", "column arrival.* is missing"),
        (HEAD + "-1,5,5\n", "line 2: arrival_s: a negative time"),
        (HEAD + "0,5,5\n3,5,5\n2,5,5\n", "line 4: arrival_s: comes before the one above it; sort the rows"),
        (HEAD + "0,5,0\n1,5,0\n", "line 2: output_tokens: no tokens .* .and 1 more."),
        (HEAD + "0,5.5,1\n", "line 2: prompt_tokens: no whole number"),
        (HEAD + "0,,1\n", "line 2: prompt_tokens: an empty cell"),
        (HEAD + "0,1e12,1\n", "more than 10.9 tokens"),
        (HEAD + "inf,1,1\n", "line 2: arrival_s: no number"),
        (HEAD + "nan,1,1\n", "line 2: arrival_s: no number"),
        (HEAD + "soon,1,1\n", "line 2: arrival_s: no number"),
        (HEAD + "0,1\n", "no readable CSV"),
        (AZURE + "2023-11-16 18:17:05Z,5,5\n", "line 5: TIMESTAMP: another time zone than the first row's"),
        (AZURE + "yesterday,5,5\n", "line 5: TIMESTAMP: no date and time"),
        (AZURE.replace("2023-11-16 18:17:05", "2023-11-15 18:17:05"), "line 4: TIMESTAMP: comes before"),
    ],
)
def test_what_is_no_trace_is_refused_with_its_line(text, said, tmp_path):
    with pytest.raises(InputError, match=said) as caught:
        trace(written(tmp_path, text))
    assert "t.csv" in str(caught.value)


def test_all_that_is_wrong_is_said_at_once(tmp_path):
    with pytest.raises(InputError) as caught:
        trace(written(tmp_path, HEAD + "0,1,1\nx,1,1\n1,-2,1\n2,3,0\n1,1,1\n"))
    lines = str(caught.value).split("\n")[1:]
    assert [line.strip().split(":")[0] for line in lines] == ["line 3", "line 4", "line 5", "line 6"]


def test_bad_lines_are_few_even_if_they_are_many(tmp_path):
    with pytest.raises(InputError) as caught:
        trace(written(tmp_path, HEAD + "0,x,1\n" * 5000))
    assert "(and 4,999 more)" in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1]\n", "line 1: no JSON object"),
        (MOONCAKE + "{\n", "line 3: no JSON object"),
        (MOONCAKE + "[" * 100_000 + "\n", "line 3: no JSON object"),
        (MOONCAKE + '{"timestamp": 4}\n', "line 3: input_length: an empty cell"),
        (MOONCAKE + '{"timestamp": true, "input_length": [], "output_length": {}}\n', "line 3: timestamp: no number"),
        ("\n", "the file is empty"),
    ],
)
def test_json_lines_that_are_none_are_refused(text, said, tmp_path):
    with pytest.raises(InputError, match=said):
        trace(written(tmp_path, text, "t.jsonl"))


def test_files_that_are_none_are_refused(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(InputError):
            trace(str(path))
    with pytest.raises(InputError, match="no readable Parquet"):
        trace(written(tmp_path, "no parquet", "t.parquet"))
    with pytest.raises(InputError, match="the ending says"):
        trace(written(tmp_path, PLAIN, "t.txt"))


def test_too_long_a_trace_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(traces, "MOST_ROWS", 2)
    with pytest.raises(InputError, match="more than 2 requests"):
        trace(written(tmp_path, PLAIN))


@given(st.binary(max_size=200))
def test_whatever_a_file_holds_it_is_a_trace_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("t") / "t.csv"
    path.write_bytes(HEAD.encode() + data)
    try:
        found = trace(str(path))
    except InputError:
        return
    at, prompt, output = everything(found)
    assert at == sorted(at)
    assert min(prompt + output) >= 1


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
def test_a_long_trace_takes_no_more_memory_than_a_short_one(tmp_path):
    """A million rows, and four: what is read is a block at a time, and what is told is how far it got."""
    peaks = []
    for count in (1_000_000, 4_000_000):
        rng = np.random.default_rng(0)
        columns = {
            "arrival_s": np.arange(count) / 8,
            "prompt_tokens": rng.integers(1, 999, count),
            "output_tokens": rng.integers(1, 99, count),
        }
        pacsv.write_csv(pa.table(columns), tmp_path / "t.csv")
        code = (
            "from attnmath.plans.traces import trace\n"
            f"told = []; found = trace({str(tmp_path / 't.csv')!r}, lambda done, of: told.append(done / of))\n"
            f"assert found.requests == {count} == sum(len(b.arrival_s) for b in found.blocks())\n"
            "assert len(told) > 2 and told == sorted(told) and told[-1] <= 1\n"
            "print(*(x.split()[1] for x in open('/proc/self/status') if x.startswith('VmHWM')))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout))
    assert peaks[1] < 1.25 * peaks[0]
    assert peaks[1] < 300_000  # kB
