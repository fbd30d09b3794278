"""Writes tests/vectors/*__hf64: attention layers of transformers, run in float64 on random weights and inputs.

Run by hand, where torch==2.13.0 and transformers==5.23.0 are installed: python tests/make_vectors.py. The tests only read what
it wrote. The sources compute some things in float32 (norms, softmax, rotary tables, scans); they are made to use float64, so
that a difference of 1e-9 means something.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
import transformers

HERE = Path(__file__).resolve().parent / "vectors"
BATCH, TOKENS, WIDTH = 2, 22, 24
ROPE = {"rope_type": "default", "rope_theta": 1e4}
GQA = {"hidden_size": WIDTH, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "num_hidden_layers": 4}


def causal(window=None, chunk=None):
    i, j = torch.arange(TOKENS)[:, None], torch.arange(TOKENS)[None]
    hidden = j > i
    hidden |= (j <= i - window) if window else torch.zeros_like(hidden)
    hidden |= (j // chunk != i // chunk) if chunk else torch.zeros_like(hidden)
    return torch.zeros(BATCH, 1, TOKENS, TOKENS).masked_fill(hidden, torch.finfo(torch.float64).min)


def made(model, layer, config, index=0):
    """A layer of a model with random weights, and its module."""
    code = import_module(f"transformers.models.{model}.modeling_{model}")
    config._attn_implementation = "eager"
    out = getattr(code, layer)(config, index).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in out.named_parameters():
            p.data = torch.randn(p.shape, generator=generator) * 0.3 + (1.0 if "norm" in name and p.ndim == 1 else 0.0)
    return out, code


def rotary(code, model, config, x, *more, **named):
    table = next(getattr(code, n) for n in dir(code) if n.endswith("RotaryEmbedding") and not n.startswith("_"))
    return table(config)(x, torch.arange(TOKENS)[None].expand(BATCH, -1), *more, **named)


def simple(model, layer, config, index=0, **named):
    def run(x):
        out, _ = made(model, layer, config, index)
        return out, out(x, **named)

    return run


def rotated(model, layer, config, index=0, mask=None, *more):
    def run(x):
        out, code = made(model, layer, config, index)
        return out, out(x, position_embeddings=rotary(code, model, config, x, *more), attention_mask=mask)

    return run


def placed(model, layer, config, index=0, mask=None):
    """A layer that wants the positions as well."""

    def run(x):
        out, code = made(model, layer, config, index)
        where = torch.arange(TOKENS)[None].expand(BATCH, -1)
        kinds = ("main", "compress") if model == "deepseek_v4" else ()
        tables = {k: rotary(code, model, config, x, layer_type=k) for k in kinds} or rotary(code, model, config, x)
        return out, out(x, position_embeddings=tables, attention_mask=mask, position_ids=where)

    return run


def deepseek_v4():
    kinds = ["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"]
    return transformers.DeepseekV4Config(
        hidden_size=WIDTH, num_hidden_layers=3, num_attention_heads=4, head_dim=16, q_lora_rank=12, o_groups=2,
        o_lora_rank=6, index_n_heads=9, index_head_dim=8, index_topk=2, sliding_window=5, layer_types=kinds,
        compress_rates=dict(zip(kinds[1:], (4, 8))), partial_rotary_factor=0.25, num_local_experts=4,
        moe_intermediate_size=8, vocab_size=32,
    )  # fmt: skip


def layers():
    """name -> what runs the layer on an input, by the names of transformers' classes."""
    t = transformers
    next_ = t.Qwen3NextConfig(
        **GQA, linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=6, linear_value_head_dim=5
    )
    kimi = t.KimiLinearConfig(hidden_size=WIDTH, num_hidden_layers=2, linear_head_dim=6, linear_num_heads=3)
    minimax = t.MiniMaxConfig(
        hidden_size=WIDTH, num_hidden_layers=5, num_attention_heads=4, num_key_value_heads=2, head_dim=6, block_size=4,
        layer_types=["linear_attention"] * 5,
    )  # fmt: skip
    mamba = t.Mamba2Config(
        num_heads=6,
        head_dim=8,
        hidden_size=WIDTH,
        state_size=5,
        expand=2,
        n_groups=2,
        chunk_size=8,
        num_hidden_layers=1,
    )
    diff = t.DiffLlamaConfig(
        hidden_size=WIDTH, num_attention_heads=8, num_key_value_heads=4, head_dim=4, num_hidden_layers=3,
        rope_parameters=dict(ROPE),
    )  # fmt: skip
    v32 = t.DeepseekV32Config(  # heads enough that no score is exactly 0: which of two zeros is chosen is nobody's rule
        hidden_size=WIDTH, num_attention_heads=3, num_key_value_heads=3, q_lora_rank=10, kv_lora_rank=6,
        qk_rope_head_dim=4, qk_nope_head_dim=5, v_head_dim=7, index_n_heads=9, index_head_dim=8, index_topk=4,
        num_hidden_layers=1, rope_parameters=dict(ROPE),
    )  # fmt: skip
    m3 = import_module("transformers.models.minimax_m3_vl.configuration_minimax_m3_vl").MiniMaxM3VLTextConfig(
        hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=6, num_key_value_heads=3, head_dim=8,
        index_n_heads=3, index_head_dim=8, index_block_size=4, index_topk_blocks=3, index_local_blocks=1,
        layer_types=["minimax_m3_sparse"], rope_parameters={**ROPE, "partial_rotary_factor": 0.5},
    )  # fmt: skip
    llama4 = t.Llama4TextConfig(**GQA, floor_scale=4, attention_chunk_size=6, rope_parameters=dict(ROPE))
    olmo = t.Olmo2Config(**{k: v for k, v in GQA.items() if k != "head_dim"}, rope_parameters=dict(ROPE))
    gemma = t.Gemma3TextConfig(**GQA, query_pre_attn_scalar=24)
    v4 = deepseek_v4()
    t5 = t.T5Config(
        d_model=WIDTH, d_kv=8, num_heads=4, is_decoder=True, relative_attention_num_buckets=8,
        relative_attention_max_distance=12,
    )  # fmt: skip
    yarn = {**ROPE, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    llama3 = {
        **ROPE, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }  # fmt: skip
    of = lambda config, **more: config(**{**GQA, "pad_token_id": 0, "rope_parameters": dict(ROPE), **more})
    half = {**ROPE, "partial_rotary_factor": 0.5}
    glm4 = of(t.Glm4Config, attention_bias=True, rope_parameters=half)
    dbrx = t.DbrxConfig(
        d_model=WIDTH, n_heads=4, n_layers=2, attn_config={"kv_n_heads": 2, "clip_qkv": 0.5, "rope_theta": 1e4}
    )
    llama = lambda rope: t.LlamaConfig(**GQA, max_position_embeddings=256, rope_parameters=dict(rope))
    return {
        "gated_deltanet_qwen3next": simple("qwen3_next", "Qwen3NextGatedDeltaNet", next_),
        "kda_kimi": simple("kimi_linear", "KimiLinearDeltaAttention", kimi),
        "lightning_minimax": simple(
            "minimax", "MiniMaxLightningAttention", minimax, 2, position_embeddings=None, attention_mask=None
        ),
        "mamba2": simple("mamba2", "Mamba2Mixer", mamba),
        "differential_diffllama": rotated("diffllama", "DiffLlamaAttention", diff, 2, causal()),
        "dsa_deepseek_v32": placed("deepseek_v32", "DeepseekV32Attention", v32, 0, causal()),
        "msa_minimax_m3": placed("minimax_m3_vl", "MiniMaxM3VLAttention", m3, 0, causal()),
        "window_deepseek_v4": placed("deepseek_v4", "DeepseekV4Attention", v4, 0, causal(5)),
        "csa_deepseek_v4": placed("deepseek_v4", "DeepseekV4Attention", v4, 1, causal(5)),
        "hca_deepseek_v4": placed("deepseek_v4", "DeepseekV4Attention", v4, 2, causal(5)),
        "llama4_chunked": rotated("llama4", "Llama4TextAttention", llama4, 0, causal(chunk=6)),
        "llama4_nope": rotated("llama4", "Llama4TextAttention", llama4, 3, causal()),
        "olmo2": rotated("olmo2", "Olmo2Attention", olmo, 0, causal()),
        "gemma3": rotated("gemma3", "Gemma3Attention", gemma, 0, causal(), "sliding_attention"),
        "t5_decoder": simple("t5", "T5Attention", t5, True, mask=causal()),
        "glm4": rotated("glm4", "Glm4Attention", glm4, 0, causal()),
        "cohere": rotated("cohere", "CohereAttention", of(t.CohereConfig, use_qk_norm=True), 0, causal()),
        "hunyuan": rotated("hunyuan_v1_dense", "HunYuanDenseV1Attention", of(t.HunYuanDenseV1Config), 0, causal()),
        "dbrx": rotated("dbrx", "DbrxAttention", dbrx, 0, causal()),
        "llama_yarn": rotated("llama", "LlamaAttention", llama(yarn), 0, causal()),
        "llama_llama3": rotated("llama", "LlamaAttention", llama(llama3), 0, causal()),
    }


def main() -> None:
    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = torch.Tensor.double
    torch.set_default_dtype(torch.float64)
    for name, run in layers().items():
        x = torch.randn(BATCH, TOKENS, WIDTH, generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            layer, out = run(x)
        arrays = {"in.x": x, "out.o": out if isinstance(out, torch.Tensor) else out[0]}
        arrays |= {f"w.{n}": p for n, p in layer.named_parameters()}
        np.savez_compressed(HERE / f"{name}__hf64.npz", **{n: a.detach().numpy() for n, a in arrays.items()})
        source = {"package": "transformers", "version": transformers.__version__, "function": type(layer).__name__}
        sidecar = {"name": name, "source": source, "tolerance": {"abs": 1e-9, "rel": 1e-9}}
        (HERE / f"{name}__hf64.json").write_text(json.dumps(sidecar, indent=1) + "\n")
        print(name, tuple(arrays["out.o"].shape))


if __name__ == "__main__":
    main()
