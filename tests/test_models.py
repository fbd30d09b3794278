"""Real configurations: architectural facts in our own words with their source, and the folder of real files where it is at hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import shared

import attnmath as am
from attnmath.errors import InputError
from attnmath.language.ops import OPS
from attnmath.models import describe, read
from attnmath.models.costs import Request, passes, work
from attnmath.models.counting import parameters
from attnmath.models.families import HARMLESS, PLACES, get

REST = {"vocab_size": 32000, "intermediate_size": 11008}  # what attention has no use for
L = {"model_type": "llama", **REST}
D3 = {
    "model_type": "deepseek_v3",
    "vocab_size": 129280,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "hidden_size": 7168,
    "num_attention_heads": 128,
    "num_hidden_layers": 61,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}
FACTS = {  # model: (its fields, as in the published config.json; cache bytes a token in bf16, as published or printed by engines; attention parameters)
    "Llama-3.1-8B": (
        {**L, "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 32},
        131_072,
        1_342_177_280,
    ),
    "Llama-2-7b, no field for key/value heads": (
        {**L, "hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 32},
        524_288,
        32 * 4 * 4096**2,
    ),
    "Llama-3.1-405B": (
        {**L, "hidden_size": 16384, "num_attention_heads": 128, "num_key_value_heads": 8, "num_hidden_layers": 126},
        516_096,
        None,
    ),
    "Mistral-Nemo, head_dim is not hidden / heads": (
        {
            **REST,
            "model_type": "mistral",
            "hidden_size": 5120,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "num_hidden_layers": 40,
            "head_dim": 128,
            "sliding_window": None,
        },
        163_840,
        40 * 2 * 5120 * 128 * (32 + 8),
    ),
    "Qwen2.5-7B": (
        {
            **REST,
            "model_type": "qwen2",
            "hidden_size": 3584,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "num_hidden_layers": 28,
            "use_sliding_window": False,
            "sliding_window": 131072,
        },
        57_344,
        28 * (2 * 3584 * 128 * (28 + 4) + 128 * (28 + 8)),
    ),
    "Qwen3-0.6B": (
        {
            **REST,
            "model_type": "qwen3",
            "hidden_size": 1024,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "num_hidden_layers": 28,
            "head_dim": 128,
        },
        114_688,
        28 * (2 * 1024 * 128 * (16 + 8) + 2 * 128),
    ),
    "DeepSeek-V3": (
        D3,
        70_272,
        61 * (7168 * (1536 + 576) + 1536 * 128 * 192 + 512 * 128 * 256 + 128 * 128 * 7168 + 1536 + 512),
    ),
    "DeepSeek-V2-Lite": (
        {
            **D3,
            "model_type": "deepseek_v2",
            "hidden_size": 2048,
            "num_attention_heads": 16,
            "num_hidden_layers": 27,
            "q_lora_rank": None,
        },
        31_104,
        27 * (2048 * 576 + 2048 * 16 * 192 + 512 * 16 * 256 + 16 * 128 * 2048 + 512),
    ),
}


def written(tmp_path, config):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    return str(path)


@pytest.mark.parametrize("name", FACTS)
def test_caches_and_parameters(name, tmp_path):
    config, per_token, parameters = FACTS[name]
    c = am.cost(model=written(tmp_path, config), seq=4096)
    assert c.kv_cache_bytes_per_token == per_token
    assert parameters is None or c.parameters == parameters


def test_published_caches_by_hand(tmp_path):
    """Qwen2.5-7B, 3,072 tokens: 0.164 GiB; DeepSeek-V3, 163,840 tokens: 10.72 GiB (answers that can be checked by hand)."""
    qwen = am.cost(model=written(tmp_path, FACTS["Qwen2.5-7B"][0]), seq=3072)
    assert qwen.kv_cache_bytes == 3072 * 57_344
    deepseek = am.cost(model=written(tmp_path, D3), seq=163_840)
    assert round(deepseek.kv_cache_bytes / 2**30, 2) == 10.72


def test_windows_are_spread_over_layers(tmp_path):
    qwen = {**FACTS["Qwen3-0.6B"][0], "use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 20}
    m = read(written(tmp_path, qwen))
    assert [(r.count, r.variant, r.sizes.get("window")) for r in m.runs] == [
        (20, "gqa", None),
        (8, "sliding-window", 4096),
    ]
    c = am.cost(model=written(tmp_path, qwen), seq=131_072)
    assert c.kv_cache_bytes == 4096 * (20 * 131_072 + 8 * 4096)
    named = {**qwen, "layer_types": ["full_attention", "sliding_attention"] * 14}
    assert len(read(written(tmp_path, named)).runs) == 28
    mistral = {
        **REST,
        "model_type": "mistral",
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_hidden_layers": 32,
        "sliding_window": 4096,
    }
    assert am.cost(model=written(tmp_path, mistral), seq=32_768).kv_cache_bytes == 131_072 * 4096


def test_five_local_layers_to_one_global(tmp_path):
    """Gemma 3 27B: layers 5, 11, ... see everything; its cache beyond the windows grows by the ten global layers only."""
    gemma = {
        **REST,
        "model_type": "gemma3_text",
        "hidden_size": 5376,
        "num_attention_heads": 32,
        "num_key_value_heads": 16,
        "head_dim": 128,
        "num_hidden_layers": 62,
        "sliding_window": 1024,
        "query_pre_attn_scalar": 168,
    }
    m = read(written(tmp_path, gemma))
    assert [(r.count, r.sizes.get("window")) for r in m.runs[:4]] == [(5, 1024), (1, None), (5, 1024), (1, None)]
    assert m.runs[0].uses == ("norm:weight=1+w", "rope", "scale:width=168")
    c = am.cost(model=written(tmp_path, gemma), seq=131_072, gpu="h100-sxm")
    row = 2 * 16 * 128 * 2  # K and V, bf16
    assert c.kv_cache_bytes == row * (10 * 131_072 + 52 * 1024)
    assert c.formulas["flops.matmul"] == "52*layers[0].flops.matmul + 10*layers[1].flops.matmul"
    one = {w: am.cost("gqa", seq=131_072, heads=32, kv_heads=16, window=w, gpu="h100-sxm") for w in (1024, 131_072)}
    want = 52 * one[1024].time_bound_s.fused + 10 * one[131_072].time_bound_s.fused
    assert c.time_bound_s.fused == pytest.approx(want)


def test_layers_that_alternate(tmp_path):
    base = {**REST, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 4}
    gemma = read(written(tmp_path, {**base, "model_type": "gemma2", "head_dim": 16}))
    assert [r.sizes.get("window") for r in gemma.runs] == [4096, None, 4096, None]
    assert gemma.runs[0].uses == ("rope", "scale:width=256", "softcap:cap=50")
    gpt = read(
        written(
            tmp_path,
            {
                **base,
                "model_type": "gpt_oss",
                "num_local_experts": 4,
                "num_experts_per_tok": 2,
                "head_dim": 16,
                "sliding_window": 128,
            },
        )
    )
    assert [r.sizes.get("window") for r in gpt.runs] == [128, None, 128, None]
    assert gpt.runs[0].uses == ("bias:on=Q+k+v+Y", "rope", "sink")
    olmo = read(written(tmp_path, {**base, "model_type": "olmo2"}))
    assert olmo.runs[0].uses == ("norm:over=all", "rope")


def test_the_memory_of_a_model_is_its_largest_layers(tmp_path):
    """Layers run one after the other, so their peaks do not add up; full layers hold more than windowed ones."""
    mixed = {**FACTS["Qwen3-0.6B"][0], "use_sliding_window": True, "sliding_window": 64, "max_window_layers": 20}
    c = am.cost(model=written(tmp_path, mixed), seq=8192, phase="decode")
    full, windowed = (run.cost.memory_bytes for run in c.layers)
    assert c.memory_bytes == full
    assert full.fused > windowed.fused


def test_forms_follow_the_phase(tmp_path):
    """Expanded where many queries share the expansion, absorbed where one query would pay for it."""
    path = written(tmp_path, D3)
    assert am.cost(model=path, seq=4096).layers[0].cost.form == "expanded"
    decode = am.cost(model=path, seq=4096, phase="decode")
    assert decode.layers[0].cost.form == "absorbed"
    assert decode.flops.matmul == 61 * 2 * 128 * 4096 * (2 * 512 + 64)


def test_modifiers_come_from_the_config(tmp_path):
    llama = FACTS["Llama-3.1-8B"][0]
    assert read(written(tmp_path, llama)).runs[0].uses == ("rope",)
    assert read(written(tmp_path, {**llama, "attention_bias": True})).runs[0].uses == ("bias:on=Q+k+v+Y", "rope")
    assert read(written(tmp_path, {**llama, "partial_rotary_factor": 0.5})).runs[0].uses == ("rope:dims=64",)
    assert read(written(tmp_path, FACTS["Qwen3-0.6B"][0])).runs[0].uses == ("norm", "rope")
    assert read(written(tmp_path, {**D3, "q_lora_rank": None})).runs[0].uses == (
        "direct-queries",
        "rope:layout=interleaved",
    )
    assert read(written(tmp_path, {**D3, "attention_bias": True})).runs[0].uses == (
        "bias:on=cQ+cKV+kR+Y",
        "rope:layout=interleaved",
    )


@pytest.mark.parametrize("name", FACTS)
def test_every_field_that_shapes_the_attention_is_read(name, tmp_path):
    """A field in a family's row that changed nothing would be one that is silently ignored."""
    config, _, _ = FACTS[name]
    counted = lambda path: (am.cost(model=path, seq=64).to_dict(), parameters(read(path)))
    before = counted(written(tmp_path, config))
    for field, value in config.items():
        if isinstance(value, int) and not isinstance(value, bool) and field not in ("sliding_window",):
            changed = {**config, field: value * 2}
            try:
                after = counted(written(tmp_path, changed))
            except InputError:
                continue
            assert after != before, field


def test_families_do_not_call_harmless_what_shapes_others():
    """A learned position is a row: only where positions are not learned is their number harmless."""
    shaping = {k for name in PLACES for k, f in get(name).fields.items() if f.kind != "unread"}
    assert shaping & HARMLESS == {"max_position_embeddings"}


ORACLE = json.loads((Path(__file__).parent / "vectors" / "models.json").read_text())["models"]


@pytest.mark.parametrize("row", ORACLE, ids=lambda row: row["config"]["model_type"])
def test_parameters_equal_those_of_transformers_own_classes(row):
    """Small configs that differ in every field, written by make_models.py."""
    p = parameters(describe(row["config"], row["config"]["model_type"], "x"))
    assert (p.total, p.active, p.by_part.get("vision", 0)) == (row["total"], row["active"], row["vision"])
    assert sum(p.by_part.values()) == p.total


OTHERWISE = {  # whose code in transformers contracts in another order, or computes what is not chosen
    "qwen3_next": "the delta rule in chunks",
    "qwen3_5_text": "the same",
    "qwen3_5_moe_text": "the same",
    "qwen3_5": "the same",
    "kimi_linear": "the same",
    "nemotron_h": "the state-space layer in chunks",
    "mamba2": "the same",
    "llama4_text": "every expert for every token",
    "llama4": "the same",
    "deepseek_v4": "compressed keys chosen by a mask",
    "deepseek_v32": "keys chosen by a mask",
    "glm_moe_dsa": "the same",
}


@pytest.mark.parametrize(
    "row",
    [x for x in ORACLE if x["flops"] is not None and x["config"]["model_type"] not in OTHERWISE],
    ids=lambda row: row["config"]["model_type"],
)
def test_flops_equal_those_that_pytorch_counts(row, tmp_path):
    """A forward pass over 2 x 12 tokens of transformers' own class, convolutions left out, as the result says."""
    (tmp_path / "config.json").write_text(json.dumps(row["config"]))
    m = read(str(tmp_path / "config.json"))
    if "flops" in m.refused:
        pytest.skip(m.refused["flops"])
    source = {"source": m.source_tokens or 20} if any(p.page == "cross" for p in m.pieces) else {}
    found = am.model(str(tmp_path / "config.json"), batch=2, seq=12, **source)
    assert found.flops.by_convention["torch"] == row["flops"]


@pytest.mark.parametrize(
    "row",
    [x for x in ORACLE if x["train_flops"] is not None and x["config"]["model_type"] not in OTHERWISE],
    ids=lambda row: row["config"]["model_type"],
)
def test_flops_of_training_equal_those_that_pytorch_counts(row, tmp_path):
    """The same forward and backward, of a loss that depends on all that the model answers."""
    (tmp_path / "config.json").write_text(json.dumps(row["config"]))
    m = read(str(tmp_path / "config.json"))
    if "flops" in m.refused:
        pytest.skip(m.refused["flops"])
    source = {"source": m.source_tokens or 20} if any(p.page == "cross" for p in m.pieces) else {}
    found = am.model(str(tmp_path / "config.json"), batch=2, seq=12, phase="train", **source).flops
    assert found.by_convention["torch"] == row["train_flops"]


def test_every_family_has_been_counted_by_somebody_else():
    """Those without a row are read inside of one that has, or stand where transformers has no class of that name."""
    inside = {
        "qwen3_vl_text",
        "qwen3_vl_moe_text",
        "qwen2_vl_text",
        "qwen2_5_vl_text",
        "qwen3_5_moe",
        "minimax_m3",
        "kimi_k2",
    }
    towers = {name for name in PLACES if "vision" in name}
    assert set(PLACES) - {row["config"]["model_type"] for row in ORACLE} <= inside | towers


def real_configs():
    return sorted(shared("configs").glob("*.json"))


def test_real_parameters():
    """To the unit, those of transformers' own classes; Llama 4's files lack the tower, which is said to be left out."""
    truth = json.loads(shared("truth", "parameters.json").read_text())["models"]
    for path in real_configs():
        want = truth.get(path.stem)
        if want is None:
            continue
        m = read(str(path))
        p, tower = parameters(m), 0
        if m.family == "llama4":
            tower = want["by_group"]["vision"] + want["by_group"]["other"]
            assert any("vision_config" in x for x in m.left_out)
        assert p.total == want["total"] - tower, path.stem
        assert p.active == want.get("active_total", want["total"]) - tower, path.stem
        assert p.by_part.get("experts", 0) == want.get("routed_expert_params", 0), path.stem
        if "class default" not in want["config_kind"]:
            assert p.embedding == want["input_embedding"] + want["lm_head"] + positions(p, want), path.stem


def positions(p, want):
    """Learned positions and types, which stand with the embedding here, too."""
    return p.embedding - want["input_embedding"] - want["lm_head"] if want["class"][:3] in ("GPT", "Ber", "OPT") else 0


def test_real_caches():
    truth = json.loads(shared("truth", "kv_cache.json").read_text())
    for path in real_configs():
        want = truth.get(path.stem, {})
        got = am.model(str(path), seq=8192).to_dict()
        for key, number in want.items():
            if key not in ("kind", "note", "window"):
                assert got[key] == (number or 0), (path.stem, key)


def counted_by_torch(tmp_path):
    """(name, row, path of its config, sizes) of each model that ../shared has FlopCounterMode's counts of."""
    for name, row in json.loads(shared("truth", "flops.json").read_text()).items():
        if name.startswith("_"):
            continue
        path = written(tmp_path, {**row["config"], "architectures": [row["class"]]})
        batch, seq = row["inputs"]["input_ids"]
        source = {"source": seq} if "decoder_input_ids" in row["inputs"] else {}
        seq = row["inputs"].get("decoder_input_ids", [0, seq])[1]
        yield name, row, path, {"batch": batch, "seq": seq, **source}


def test_torchs_counter_over_whole_models(tmp_path):
    """FlopCounterMode on transformers' own classes, whole models and module by module."""
    for name, row, path, sizes in counted_by_torch(tmp_path):
        if name.endswith("cpu_sdpa"):
            continue  # fused attention on a CPU records nothing
        modules = {k: v["total"] for k, v in row["forward"]["by_module"].items()}
        m = am.model(path, **sizes)
        assert m.flops.by_convention["torch"] == row["forward"]["total"], name
        r = asked(sizes)
        counted = {}
        for p in read(path).pieces:
            w = work(p, r) * p.count
            counted[p.part, p.over] = counted.get((p.part, p.over), 0) + w.projections + w.dense
        for kind, ends in MODULES[row["config"]["model_type"]].items():
            assert counted[kind] == sum(v for k, v in modules.items() if k.endswith(ends)), (name, kind)


def asked(sizes, train=False):
    return Request(sizes["batch"], sizes["seq"], sizes["seq"], sizes.get("source", 0), False, train)


def test_torchs_counter_over_training(tmp_path):
    """Forward and backward: all products, those of attention (bmm), and those with weights (mm, and addmm with a bias)."""
    for name, row, path, sizes in counted_by_torch(tmp_path):
        pieces = [(p, *(w * p.count for w in passes(p, asked(sizes, train=True)))) for p in read(path).pieces]
        backward = sum(b.projections + b.dense for p, _, b in pieces if not unlearnt(row["class"], p))
        products = {"aten.bmm": 0, "aten.mm": 0, "aten.addmm": 0} | row["forward_backward_ops"]
        attention = sum(a.dense + b.dense for _, a, b in pieces)
        if name.endswith("cpu_sdpa"):  # fused attention on a CPU records nothing
            backward -= sum(b.dense for _, _, b in pieces)
            attention = 0
        assert backward == row["backward_total"], name
        assert row["forward_backward_total"] == row["forward"]["total"] + backward, name
        assert products["aten.bmm"] == attention, name
        both = am.model(path, phase="train", **sizes).flops
        assert both.total == both.forward + both.backward == sum(a.total + b.total for _, a, b in pieces)
        assert both.by_convention["torch"] == sum(w.projections + w.dense for _, *ws in pieces for w in ws)


def unlearnt(name, p):
    """The loss was taken of the hidden states: nothing goes back through the pooler that stands beside them."""
    return name == "BertModel" and p.part == "head"


TRAINED = {  # (forward, forward and backward) by torch 2.13.0's FlopCounterMode on the classes of transformers 5.23.0, eager
    "llama-3.1-8b": ({"seq": 2048}, 32_938_104_193_024, 98_814_312_579_072),
    "qwen2.5-7b": ({"seq": 2048}, 30_643_517_915_136, 91_930_553_745_408),
    "gpt2": ({"seq": 1024}, 291_648_307_200, 874_944_921_600),
    "t5-small": ({"source": 512, "seq": 128}, 36_624_662_528, 109_873_987_584),
}


@pytest.mark.parametrize("name", TRAINED)
def test_training_of_whole_models(name):
    sizes, forward, both = TRAINED[name]
    found = am.model(name, phase="train", **sizes)
    assert am.model(name, **sizes).flops.by_convention["torch"] == forward
    assert found.flops.by_convention["torch"] == both == 3 * forward


def test_a_step_of_training_adds_up():
    """By part and by pass; the forward pass is the one that there is without training; nothing is cached."""
    before, found = (am.model("mixtral-8x7b", seq=64, batch=2, phase=x) for x in ("prefill", "train"))
    f = found.flops
    assert f.forward == before.flops.forward == before.flops.total
    assert before.flops.backward is None and before.flops.backward_by_part == {}
    assert f.total == f.forward + f.backward == sum(f.by_part.values())
    assert f.backward == sum(f.backward_by_part.values())
    assert {k: v - f.backward_by_part[k] for k, v in f.by_part.items() if k != "embedding"} == before.flops.by_part
    assert f.by_part["embedding"] == 2 * 64 * 4096, "a gradient is added to each token's row"
    assert f.total_per_token == f.total / 128
    for name in ("palm", "6n", "megatron"):
        assert f.by_convention[name] == 3 * before.flops.by_convention[name]
    assert (found.kv_cache_bytes, found.kv_cache_bytes_per_token) == (0, 0) != (before.kv_cache_bytes, 0)
    assert "kv_cache_bytes_per_token" not in found.formulas
    assert found.parameters == before.parameters and found.weight_bytes == before.weight_bytes


def test_mfu_of_training_is_that_of_training_flops():
    """PaLM 540B's own figures are of 6 N + 12 L H Q T a token; here Llama-3.1-8B's, on one H100, by hand."""
    rate, gpu = 8000.0, {"gpu": "h100-sxm", "tokens_per_s": 8000.0}
    found = am.model("llama-3.1-8b", seq=2048, phase="train", **gpu)
    palm = 6 * 8_030_261_248 + 12 * 32 * 32 * 128 * 2048
    assert found.mfu["palm"] == pytest.approx(rate * palm / 989.4e12, rel=1e-3)
    assert found.mfu["palm"] == pytest.approx(3 * am.model("llama-3.1-8b", seq=2048, **gpu).mfu["palm"])


def test_what_has_no_gradient_in_a_model_is_named(monkeypatch, call):
    """An operation without an adjoint: no FLOPs of training, and why; the forward pass stays."""
    row = OPS["silu"]
    monkeypatch.setitem(
        OPS, "silu", type(row)(**{n: getattr(row, n) for n in row.__struct_fields__} | {"adjoint": None})
    )
    found = am.model("llama-3.1-8b", seq=8, phase="train")
    assert (found.flops.backward, found.flops.total, found.flops.by_convention) == (None, None, {})
    assert found.flops.forward == am.model("llama-3.1-8b", seq=8).flops.forward
    assert found.refused["flops.backward"].startswith("silu has no adjoint")
    code, out, err = call("model llama-3.1-8b --seq 8 --phase train")
    assert code == 0
    assert "refused" in next(x for x in out.splitlines() if x.startswith("FLOPs, backward"))
    assert "refused: flops.backward: silu has no adjoint" in err


def test_what_no_gradient_reaches_is_left_out_by_name():
    found = am.model("deepseek-v3.2", seq=8, phase="train")
    (said,) = (x for x in found.left_out if "only chooses" in x)
    assert "WIQ" in said and "of dsa" in said
    assert not any("only chooses" in x for x in am.model("llama-3.1-8b", seq=8, phase="train").left_out)


def test_training_on_the_command_line(call):
    code, out, err = call("model gpt2 --seq 1k --phase train")
    assert code == 0
    lines = {x[:28].strip(): x for x in out.splitlines()}
    assert "6 N + 12 L H Q T a token" in lines["palm convention"]
    assert "874,944,921,600" in lines["torch convention"]
    assert "KV cache" not in out
    assert "left out: the loss" in err
    code, out, _ = call("model gpt2 --seq 1k --phase train --json")
    flops = json.loads(out)["flops"]
    assert flops["total"] == flops["forward"] + flops["backward"]
    assert call("model gpt2 --seq 1k --phase train --format csv")[0] == 0
    for more in ("--kv-dtype fp8", "--kv-alloc engine", "--index-dtype bf16"):
        code, _, err = call(f"model gpt2 --seq 1k --phase train {more}")
        assert code == 2 and f"{more.split()[0]}: of no use with --phase train" in err
    assert "unknown phase 'trian'" in call("model gpt2 --phase trian")[2]


DECODER = {("attention", "tokens"): (".self_attn",), ("mlp", "tokens"): (".mlp",), ("head", "tokens"): (".lm_head",)}
MODULES = {  # what our parts are called there
    **dict.fromkeys(("llama", "mistral", "qwen2"), DECODER),
    "mixtral": {k: v for k, v in DECODER.items() if k[0] != "mlp"} | {("experts", "tokens"): (".mlp",)},
    "gpt2": {("attention", "tokens"): (".attn",), ("mlp", "tokens"): (".mlp",), ("head", "tokens"): (".lm_head",)},
    "bert": {
        ("attention", "tokens"): (".attention",),
        ("mlp", "tokens"): (".intermediate", *(f"{k}.output" for k in range(12))),
        ("head", "sequences"): (".pooler",),
    },
    "t5": {("head", "tokens"): (".lm_head",)},
}


def quantised(tmp_path, **said):
    llama = {
        **FACTS["Llama-3.1-8B"][0],
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128], **said},
    }
    return am.model(written(tmp_path, llama)).weight_bytes


def test_weights_under_quantisation(tmp_path):
    """By hand: a byte for each number of a projection, and a scale of four bytes for each 128 x 128 of them."""
    linear = 32 * (4096 * (4096 + 1024) * 2 + 3 * 4096 * 11008)
    rest = 2 * 2 * 32000 * 4096 + 2 * 65 * 4096
    w = quantised(tmp_path)
    assert (w.total, w.scales) == (linear + linear // 128**2 * 4 + rest, linear // 128**2 * 4)
    mlp = 32 * 3 * 4096 * 11008
    assert quantised(tmp_path, modules_to_not_convert=["self_attn"]).by_part["mlp"] == mlp + mlp // 128**2 * 4
    towers = ["model.visual.blocks.0.attn.qkv", "visual.blocks.1.mlp", "lm_head"]
    assert quantised(tmp_path, modules_to_not_convert=towers).total == w.total
    every = [f"model.layers.{k}.self_attn.q_proj" for k in range(32)]
    assert quantised(tmp_path, ignore=every).total == quantised(tmp_path, ignore=["self_attn"]).total
    some = quantised(tmp_path, ignore=every[:2])
    assert some.total == w.total
    assert some.notes == ["attention is left out of it in 2 of 32 layers; it is counted as narrowed in all"]


def test_published_sizes_of_quantised_checkpoints():
    """65.25 GB and 13.76 GB of gpt-oss; 67.7229 GiB of Llama-3.1-70B in int8, as vLLM loaded it (vllm-project/vllm#12569)."""
    assert round(am.model("gpt-oss-120b").weight_bytes.total / 1e9, 2) == 65.25
    assert round(am.model("gpt-oss-20b").weight_bytes.total / 1e9, 2) == 13.76
    assert am.model("llama-3.1-70b", weight_dtype="int8").weight_bytes.total / 2**30 == pytest.approx(67.7229, rel=1e-3)


def test_layers_for_multi_token_prediction():
    """What checkpoints hold beyond the classes, embeddings and heads that they repeat and buffers left aside."""
    published = {"qwen3-next-80b-a3b": 1_650_471_424, "qwen3.5-27b": 424_699_392, "qwen3.5-35b-a3b": 844_640_768}
    for name, more in published.items():
        assert am.model(name, with_mtp=True).parameters.total - am.model(name).parameters.total == more
    glm = [am.model("glm-4.7-flash", with_mtp=x).parameters for x in (True, False)]
    assert glm[0].total - glm[1].total == 1_278_097_600 - glm[1].embedding - 47 * 64


def test_what_neither_the_config_nor_the_caller_says_is_listed_as_assumed(tmp_path):
    import attnmath as am

    config = {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 100, "n_positions": 32}
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    found = am.model(str(file), seq=64)
    assert found.assumed["dtype"] == "bf16"
    assert found.notes == ["a context of 64 is longer than the 32 positions that the config names"]
    assert "dtype" not in am.model(str(file), seq=8, dtype="fp16").assumed
    whisper = am.model("whisper-tiny", seq=8)
    assert (whisper.inputs["source"], whisper.assumed["source"]) == (1500, 1500)
    assert "source" not in am.model("whisper-tiny", seq=8, source=100).assumed


def test_a_share_of_a_peak_names_the_peak_and_more_than_all_is_remarked():
    """An H100's 989.4 TFLOP/s in bf16; Llama-3.1-8B at one token a forward pass."""
    import attnmath as am

    found = am.model("llama-3.1-8b", seq=1, gpu="h100-sxm", tokens_per_s=1e6)
    assert found.peak_flops_per_s == pytest.approx(989.4e12, rel=1e-3)
    exact = found.flops.by_convention["exact"]
    assert found.mfu["exact"] == pytest.approx(1e6 * exact / found.peak_flops_per_s)
    assert found.mfu["exact"] > 1 and "more than 100 %" in found.notes[0]
    with pytest.raises(InputError, match="--gpu has a use for --tokens-per-s alone"):
        am.model("llama-3.1-8b", gpu="h100-sxm")
