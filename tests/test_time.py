"""Estimates of time: the kernel's sizes come off the page, the estimate stays above the bound, and what is not known is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import attnmath as am
from attnmath.errors import InputError
from attnmath.hardware import get, names
from attnmath.hardware.collectives import COLLECTIVES, collective, links_of
from attnmath.hardware.constants import KERNEL, built_in, of_gpu
from attnmath.hardware.estimates import kernel_shape
from attnmath.hardware.gemm import Product, gemm
from attnmath.hardware.kernels import ENGINES, KERNELS, PHASES, kernel_of, library_of
from attnmath.hardware.machine import machine

SIZES = {  # variant, options: heads, kv heads, key width, value width, window, causal, one latent
    ("mha", "seq=64 heads=8 head_dim=32"): (8, 8, 32, 32, 0, True, False),
    ("gqa", "seq=64 heads=8 kv_heads=2 head_dim=32 v_head_dim=16"): (8, 2, 32, 16, 0, True, False),
    ("mqa", "seq=64 heads=8 head_dim=32"): (8, 1, 32, 32, 0, True, False),
    ("gqa", "seq=64 heads=8 kv_heads=2 head_dim=32 window=16"): (8, 2, 32, 32, 16, True, False),
    ("gqa", "seq=64 heads=8 kv_heads=2 head_dim=32 mask=full"): (8, 2, 32, 32, 0, False, False),
    ("mla", "seq=64 heads=8 form=expanded"): (8, 8, 192, 128, 0, True, False),
    ("mla", "seq=64 heads=8 form=absorbed"): (8, 1, 576, 512, 0, True, True),
    ("cross", "seq=16 context=64 heads=8 head_dim=32"): (8, 8, 32, 32, 0, False, False),
}


def options(text):
    pairs = (p.split("=") for p in text.split())
    return {k: int(v) if v.isdigit() else v for k, v in pairs}


@pytest.mark.parametrize(("variant", "given_"), SIZES)
def test_a_kernels_sizes_are_the_pages(variant, given_):
    s = kernel_shape(am.cost(variant, **options(given_)).readings[0])
    found = (s.heads, s.kv_heads, s.head_dim, s.v_head_dim, s.window, s.causal, s.latent)
    assert found == SIZES[variant, given_]


@pytest.mark.parametrize("use", ["rope", "softcap:cap=50", "sink", "norm", "gate", "alibi", "scale:value=0.1"])
def test_modifiers_leave_the_kernels_sizes(use):
    plain, changed = (
        kernel_shape(am.cost("gqa", seq=64, heads=8, kv_heads=2, modifiers=m).readings[0]) for m in ([], [use])
    )
    assert plain == changed


@pytest.mark.parametrize("variant", ["nsa", "kda", "linear-attention", "differential", "moba"])
def test_what_no_kernel_runs_has_no_estimate_and_says_why(variant):
    c = am.cost(variant, seq=4096, heads=32, gpu="h100-sxm")
    assert c.time_s is None
    assert "not one softmax over keys" in c.time_note
    assert c.bound == c.time_bound_by


@pytest.mark.parametrize("gpu", names())
@pytest.mark.parametrize("engine", [*ENGINES, "ideal"])
def test_every_accelerator_has_an_estimate_or_a_reason(gpu, engine):
    g = get(gpu)
    dtype = next(d for d in ("bf16", "fp16", "fp32") if d in g.tensor_flop_per_s)
    for phase in ("prefill", "decode"):
        c = am.cost("gqa", seq=2048, batch=4, heads=32, gpu=gpu, engine=engine, dtype=dtype, phase=phase)
        assert (c.time_s is None) == bool(c.time_note)
        if c.time_s is not None:
            assert c.time_s >= c.time_bound_s.fused
            assert c.time_s == pytest.approx(c.estimate.kernel_time_s + c.estimate.launch_time_s)
            assert (c.time_error_band is None) == (engine == "ideal")


shapes = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 64),
        "seq": st.integers(1, 20_000),
        "kv_heads": st.sampled_from([1, 2, 8]),
        "head_dim": st.sampled_from([64, 80, 128, 256]),
    }
)


@given(
    shapes,
    st.sampled_from(["h100-sxm", "b200-sxm", "l40s", "a100-sxm-80g", "h200-sxm"]),
    st.sampled_from([*ENGINES, "ideal"]),
    st.sampled_from(["prefill", "decode"]),
    st.sampled_from(["cold", "warm"]),
)
def test_no_estimate_lies_below_the_bound(shape, gpu, engine, phase, l2):
    c = am.cost("gqa", heads=16, gpu=gpu, engine=engine, phase=phase, l2=l2, formulas=False, **shape)
    assert c.time_s >= c.time_bound_s.fused
    assert all(share >= 0 for share in c.estimate.busy.values())


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"window": 512}, "windows were not fitted"),
        ({"kv_dtype": "fp8"}, "8 bits and less were not fitted"),
        ({"context": 8192}, "no prompt with a past was measured"),
        ({}, ""),
    ],
)
def test_what_the_error_band_does_not_cover_is_said(given_, said):
    c = am.cost("gqa", seq=1024, heads=8, gpu="h100-sxm", **given_)
    assert [a[: len(said)] for a in c.estimate.assumed] == [said] * bool(said)


def test_the_share_of_the_synchronous_instruction_is_said():
    c = am.cost("gqa", seq=1024, heads=8, gpu="h100-sxm", engine="trtllm", phase="decode")
    assert any("mma.sync" in a and "62%" in a for a in c.estimate.assumed) == (not KERNELS["xqa"].asynchronous)


def test_heads_that_no_kernel_takes_are_refused():
    for engine, widest in (("vllm", 256), ("sglang", 256)):
        wide, wider = (
            am.cost("gqa", seq=512, heads=8, head_dim=d, gpu="h100-sxm", engine=engine) for d in (widest, widest + 8)
        )
        assert wide.time_s is not None
        assert "no kernel for heads 264 wide, at most 256" in wider.time_note
    assert am.cost("gqa", seq=512, heads=8, head_dim=7777, gpu="h100-sxm", engine="ideal").time_s is not None
    assert am.cost("gqa", seq=512, heads=8, head_dim=512, gpu="b200-sxm", phase="decode").time_s is not None


def test_an_ideal_kernel_is_faster_and_a_warm_cache_helps():
    times = [
        am.cost("gqa", seq=4096, heads=32, phase="decode", gpu="h100-sxm", engine=e, l2=l2).time_s
        for e, l2 in (("ideal", "cold"), ("vllm", "warm"), ("vllm", "cold"))
    ]
    assert times[0] < times[1] < times[2]


def test_a_models_estimate_is_the_sum_of_its_layers(tmp_path):
    config = {
        "model_type": "llama",
        "hidden_size": 1024,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "num_hidden_layers": 3,
        "intermediate_size": 2048,
        "vocab_size": 1000,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    whole = am.cost(model=str(tmp_path), seq=1024, gpu="h100-sxm")
    one = am.cost("gqa", seq=1024, heads=16, kv_heads=4, head_dim=64, gpu="h100-sxm")
    assert whole.time_s == pytest.approx(3 * one.time_s)
    assert whole.estimate.kernels == ["flash-attention-3"]


def test_an_engine_is_known_and_needs_an_accelerator():
    with pytest.raises(InputError, match="did you mean 'vllm'"):
        am.cost("gqa", seq=64, heads=8, gpu="h100-sxm", engine="vlm")
    with pytest.raises(InputError, match="--engine has a use only with a --gpu"):
        am.cost("gqa", seq=64, heads=8, engine="vllm")


# -- the tables


def test_every_engine_runs_kernels_that_there_are():
    for engine, phases in ENGINES.items():
        assert set(phases) <= set(PHASES)
        for phase, row in phases.items():
            for architecture, kernel in row.items():
                assert not kernel or kernel in KERNELS, (engine, phase, architecture)
                if kernel:
                    constants, _ = built_in().of(kernel_of(engine, phase, architecture), engine, phase)
                    assert all(value >= 0 for value in constants.values())


def test_no_kernel_has_more_than_twelve_constants():
    book = built_in()
    for name, phases in book.kernels.items():
        for phase, own in phases.items():
            around = max((len(rows.get(phase, {})) for rows in book.engines.values()), default=0)
            assert len(own) + around <= 12, (name, phase)
            assert all(KERNEL[k].low <= v <= KERNEL[k].high for k, v in own.items())


GPU = """[mine]
architecture = "hopper"
processors = { value = 132, source = "data sheet" }
clock_hz = { value = 1.98e9, source = "data sheet" }
hbm_bytes_per_s = { value = 3.35e12, source = "data sheet" }
l2_bytes = { value = 52428800, source = "data sheet" }
[mine.tensor_flop_per_s]
bf16 = { value = 989.4e12, source = "data sheet" }
"""


def test_a_file_brings_constants_along(tmp_path):
    plain, own = tmp_path / "plain.toml", tmp_path / "own.toml"
    plain.write_text(GPU)
    own.write_text(GPU + "[kernels.flash-attention-3.prefill]\nmma_efficiency = 0.5\n")
    times = [am.cost("gqa", seq=8192, heads=32, gpu=str(p)).time_s for p in (plain, own)]
    assert times[1] > 1.5 * times[0]
    assert of_gpu(str(own)).of("flash-attention-3", "vllm", "decode") == built_in().of(
        "flash-attention-3", "vllm", "decode"
    )


def test_wrong_constants_are_refused_all_at_once(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(
        GPU
        + "[kernels.flash-attention-3.prefill]\nmma_efficiency = 50\nblocks = 3\n[kernels.flash.prefill]\n[engines.vllm.prefil]\n"
    )
    with pytest.raises(InputError) as error:
        am.cost("gqa", seq=8192, heads=32, gpu=str(path))
    message = str(error.value)
    for part in (
        "4 errors",
        "50 is outside what physics allows",
        "unknown constant 'blocks'",
        "'flash'",
        "did you mean 'prefill'",
    ):
        assert part in message


# -- matrix products and collectives

BEST = {"a100-sxm-80g": 271.2e12, "h100-sxm": 794.5e12, "b200-sxm": 1745.0e12}
"""The best bf16 rates that ml-engineering's search over shapes found (stas00/ml-engineering, MAMF, commit 744d01e1)."""


@pytest.mark.parametrize("gpu", BEST)
def test_large_products_reach_what_others_measured(gpu):
    g = get(gpu)
    k, _ = built_in().of(library_of(g.architecture), "", "gemm")
    sides = [4096.0, 8192.0, 16384.0]
    rates = [Product(n, n, n).flops / gemm(Product(n, n, n), machine(g), k, False).time_s for n in sides]
    assert max(rates) == pytest.approx(BEST[gpu], rel=0.15)


def test_a_product_of_one_row_streams_its_weights():
    g = get("h100-sxm")
    k, _ = built_in().of("cublas-async", "", "gemm")
    p = Product(1.0, 65536.0, 8192.0)
    t = gemm(p, machine(g), k, False)
    assert p.hbm_bytes / 3.35e12 < t.time_s < 1.5 * p.hbm_bytes / 3.35e12


@pytest.mark.parametrize("name", COLLECTIVES)
def test_collectives_grow_and_stay_below_the_links(name):
    g = get("h100-sxm")
    k, _ = built_in().of(links_of(g), "", "collective")
    rate = g.figure("link_bytes_per_s")
    times = [collective(name, links_of(g), 8.0, 2.0**n, rate, k)[0] for n in range(9, 30)]
    assert times == sorted(times)
    assert times[-1] > 2.0**29 * 7 / 8 / rate


def test_links_that_nobody_measured_are_refused():
    with pytest.raises(InputError, match="Infinity Fabric"):
        links_of(get("mi300x"))


HAND = {"launch_us": 5.0, "step_us": 1.0, "latent_share": 0.25, "bulk_us": 20.0, "bulk_share": 0.5}


@pytest.mark.parametrize(
    ("links", "message_bytes", "time_us"),
    [
        (
            "nccl-nvlink-3",
            8e3,
            5 + 14 + 14e3 / 25e3,
        ),  # 14 steps of a ring, 14/8 of the message at a quarter of 100 GB/s
        ("nccl-nvlink-3", 8e8, 5 + 20 + 14e8 / 50e3),  # the bulk protocol, at half of the links' rate
        ("nccl-nvlink-4", 8e8, 5 + 20 + 9e8 / 50e3),  # the switch adds up: 9/8 of the message
    ],
)
def test_an_all_reduce_by_hand(links, message_bytes, time_us):
    time_s, launch_s = collective("all_reduce", links, 8.0, message_bytes, 100e9, HAND)
    assert time_s * 1e6 == pytest.approx(time_us)
    assert launch_s == pytest.approx(5e-6)
