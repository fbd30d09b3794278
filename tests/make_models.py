"""Writes vectors/models.json: how many parameters transformers' own classes have, and what PyTorch counts of a forward pass
and of a forward and a backward pass, for configs that differ in every field.

A script for whoever has torch and transformers (`pip install torch==2.13.0 transformers==5.23.0`); the tests only read what
it wrote. A config is written by hand and names few fields, so
that the classes' own defaults count, too.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

S = {"vocab_size": 1009, "hidden_size": 96, "intermediate_size": 176, "num_hidden_layers": 5, "num_attention_heads": 6}
H = {**S, "num_key_value_heads": 2, "head_dim": 24}
G = {**S, "num_key_value_heads": 3}
SPARSE = {"moe_intermediate_size": 40, "num_experts": 7, "num_experts_per_tok": 3}
MLA = {
    **S,
    "kv_lora_rank": 20,
    "q_lora_rank": 28,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 14,
    "moe_intermediate_size": 40,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 2,
    "n_group": 1,
    "topk_group": 1,
}
DELTA = {
    **H,
    "linear_conv_kernel_dim": 3,
    "linear_key_head_dim": 12,
    "linear_value_head_dim": 20,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
}
GPT = {"vocab_size": 1009, "n_embd": 96, "n_layer": 5, "n_head": 6}
BERT = {**S, "max_position_embeddings": 130, "type_vocab_size": 3}
BOTH = {
    "vocab_size": 1009,
    "d_model": 96,
    "encoder_layers": 3,
    "decoder_layers": 4,
    "encoder_attention_heads": 6,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 112,
    "decoder_ffn_dim": 176,
}
MAMBA = {
    "vocab_size": 1009,
    "hidden_size": 96,
    "mamba_num_heads": 8,
    "mamba_head_dim": 24,
    "n_groups": 2,
    "ssm_state_size": 20,
    "conv_kernel": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "intermediate_size": 176,
    "moe_intermediate_size": 40,
    "moe_shared_expert_intermediate_size": 56,
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
}
TOWER = {
    "depth": 4,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_heads": 4,
    "patch_size": 8,
    "out_hidden_size": 96,
    "num_position_embeddings": 64,
    "deepstack_visual_indexes": [1, 2],
}

CASES = [  # model_type, class, fields
    ("llama", "LlamaForCausalLM", S),
    ("llama", "LlamaForCausalLM", {**H, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    ("llama", "LlamaModel", G),
    ("mistral", "MistralForCausalLM", {**H, "sliding_window": 8}),
    ("qwen2", "Qwen2ForCausalLM", {**G, "tie_word_embeddings": True}),
    ("qwen3", "Qwen3ForCausalLM", H),
    ("qwen3", "Qwen3ForCausalLM", {**G, "attention_bias": True, "tie_word_embeddings": True}),
    ("phi", "PhiForCausalLM", S),
    ("phi", "PhiForCausalLM", {**S, "qk_layernorm": True, "tie_word_embeddings": True}),
    ("phi3", "Phi3ForCausalLM", {**G, "pad_token_id": 0}),
    ("cohere", "CohereForCausalLM", G),
    ("cohere", "CohereForCausalLM", {**G, "use_qk_norm": True, "attention_bias": True}),
    ("cohere2", "Cohere2ForCausalLM", H),
    ("olmo2", "Olmo2ForCausalLM", {**G, "pad_token_id": 0}),
    ("olmo3", "Olmo3ForCausalLM", {**G, "pad_token_id": 0}),
    ("starcoder2", "Starcoder2ForCausalLM", G),
    ("starcoder2", "Starcoder2ForCausalLM", {**G, "use_bias": False, "tie_word_embeddings": False}),
    ("smollm3", "SmolLM3ForCausalLM", {**S, "num_key_value_heads": 2, "attention_bias": True, "pad_token_id": 0}),
    ("glm", "GlmForCausalLM", {**H, "pad_token_id": 0}),
    ("glm4", "Glm4ForCausalLM", {**H, "attention_bias": False, "pad_token_id": 0}),
    ("stablelm", "StableLmForCausalLM", {**G, "use_qkv_bias": True}),
    ("stablelm", "StableLmForCausalLM", {**G, "qk_layernorm": True, "use_parallel_residual": True}),
    ("seed_oss", "SeedOssForCausalLM", {**H, "mlp_bias": True}),
    ("seed_oss", "SeedOssForCausalLM", {**H, "attention_bias": False, "attention_out_bias": True}),
    ("ernie4_5", "Ernie4_5ForCausalLM", {**H, "use_bias": True}),
    ("exaone4", "Exaone4ForCausalLM", {**G, "layer_types": ["sliding_attention"] * 3 + ["full_attention"] * 2}),
    ("hunyuan_v1_dense", "HunYuanDenseV1ForCausalLM", {**H, "pad_token_id": 0}),
    ("granite", "GraniteForCausalLM", {**G, "mlp_bias": True}),
    ("nemotron", "NemotronForCausalLM", {**H, "pad_token_id": 0}),
    ("nemotron", "NemotronForCausalLM", {**H, "mlp_bias": True, "attention_bias": True, "pad_token_id": 0}),
    ("gemma", "GemmaForCausalLM", {**S, "num_key_value_heads": 1}),
    ("gemma2", "Gemma2ForCausalLM", {**S, "num_key_value_heads": 2}),
    ("gemma3_text", "Gemma3ForCausalLM", {**H, "sliding_window": 16}),
    ("mixtral", "MixtralForCausalLM", G),
    ("phimoe", "PhimoeForCausalLM", {**G, "num_local_experts": 5, "attention_bias": True, "pad_token_id": 0}),
    (
        "qwen2_moe",
        "Qwen2MoeForCausalLM",
        {**G, **SPARSE, "shared_expert_intermediate_size": 44, "mlp_only_layers": [1]},
    ),
    ("qwen3_moe", "Qwen3MoeForCausalLM", {**H, **SPARSE, "decoder_sparse_step": 2}),
    ("gpt_oss", "GptOssForCausalLM", {**S, "num_key_value_heads": 2, "num_local_experts": 7, "num_experts_per_tok": 3}),
    ("minimax_m2", "MiniMaxM2ForCausalLM", {**H, "num_local_experts": 7, "num_experts_per_tok": 3}),
    (
        "glm4_moe",
        "Glm4MoeForCausalLM",
        {**G, **{k: v for k, v in MLA.items() if "expert" in k or "moe" in k}, "use_qk_norm": True, "head_dim": 16},
    ),
    ("granitemoe", "GraniteMoeForCausalLM", {**G, "num_local_experts": 5, "num_experts_per_tok": 2}),
    ("olmoe", "OlmoeForCausalLM", {**G, "num_experts": 9, "num_experts_per_tok": 2, "pad_token_id": 0}),
    ("deepseek_v2", "DeepseekV2ForCausalLM", {**MLA, "q_lora_rank": None, "first_k_dense_replace": 1}),
    ("deepseek_v2", "DeepseekV2ForCausalLM", {**MLA, "attention_bias": True}),
    ("deepseek_v3", "DeepseekV3ForCausalLM", {**MLA, "first_k_dense_replace": 2}),
    ("deepseek_v3", "DeepseekV3ForCausalLM", {**MLA, "attention_bias": True}),
    ("deepseek_v32", "DeepseekV32ForCausalLM", {**MLA, "index_n_heads": 3, "index_head_dim": 16, "index_topk": 4}),
    ("glm_moe_dsa", "GlmMoeDsaForCausalLM", {**MLA, "index_n_heads": 3, "index_head_dim": 16}),
    ("glm4_moe_lite", "Glm4MoeLiteForCausalLM", MLA),
    (
        "deepseek_v4",
        "DeepseekV4ForCausalLM",
        {
            **{
                k: v
                for k, v in MLA.items()
                if k not in ("kv_lora_rank", "qk_nope_head_dim", "v_head_dim", "intermediate_size")
            },
            "n_shared_experts": 1,
            "head_dim": 32,
            "num_key_value_heads": 1,
            "o_groups": 3,
            "o_lora_rank": 10,
            "index_n_heads": 3,
            "index_head_dim": 16,
            "hc_mult": 3,
            "compress_ratios": [0, 4, 128, 4, 0, 0],
        },
    ),
    (
        "kimi_linear",
        "KimiLinearForCausalLM",
        {
            **{
                k: v
                for k, v in MLA.items()
                if k not in ("n_routed_experts", "n_shared_experts", "num_experts_per_tok", "q_lora_rank", "n_group")
            },
            "num_experts": 8,
            "num_experts_per_token": 2,
            "num_shared_experts": 2,
            "pad_token_id": 0,
            "linear_attn_config": {
                "head_dim": 12,
                "num_heads": 4,
                "short_conv_kernel_size": 3,
                "full_attn_layers": [3, 5],
                "kda_layers": [1, 2, 4],
            },
        },
    ),
    (
        "llama4_text",
        "Llama4ForCausalLM",
        {**H, "intermediate_size_mlp": 200, "num_local_experts": 4, "interleave_moe_layer_step": 2},
    ),
    (
        "qwen3_next",
        "Qwen3NextForCausalLM",
        {**DELTA, **SPARSE, "shared_expert_intermediate_size": 44, "mlp_only_layers": [2]},
    ),
    ("qwen3_5_text", "Qwen3_5ForCausalLM", {**DELTA, "full_attention_interval": 3}),
    (
        "qwen3_5_moe_text",
        "Qwen3_5MoeForCausalLM",
        {
            **{k: v for k, v in DELTA.items() if k != "intermediate_size"},
            **SPARSE,
            "shared_expert_intermediate_size": 44,
        },
    ),
    ("nemotron_h", "NemotronHForCausalLM", {**MAMBA, "hybrid_override_pattern": "ME*M-E", "num_hidden_layers": 6}),
    (
        "nemotron_h",
        "NemotronHForCausalLM",
        {**MAMBA, "hybrid_override_pattern": "M-*-", "mlp_bias": True, "attention_bias": True, "num_hidden_layers": 4},
    ),
    (
        "mamba2",
        "Mamba2ForCausalLM",
        {
            "vocab_size": 1009,
            "hidden_size": 96,
            "num_hidden_layers": 3,
            "num_heads": 8,
            "head_dim": 24,
            "state_size": 20,
            "n_groups": 2,
            "conv_kernel": 3,
        },
    ),
    ("gpt2", "GPT2LMHeadModel", {**GPT, "n_positions": 77}),
    ("gpt2", "GPT2Model", {**GPT, "n_inner": 100}),
    ("gpt_bigcode", "GPTBigCodeForCausalLM", {**GPT, "n_positions": 77}),
    ("gpt_bigcode", "GPTBigCodeForCausalLM", {**GPT, "multi_query": False}),
    ("gptj", "GPTJForCausalLM", {**GPT, "rotary_dim": 8}),
    ("gpt_neox", "GPTNeoXForCausalLM", S),
    ("gpt_neox", "GPTNeoXForCausalLM", {**S, "attention_bias": False, "rotary_pct": 0.5}),
    (
        "opt",
        "OPTForCausalLM",
        {
            **{k: v for k, v in S.items() if k != "intermediate_size"},
            "ffn_dim": 176,
            "word_embed_proj_dim": 96,
            "max_position_embeddings": 55,
        },
    ),
    (
        "opt",
        "OPTForCausalLM",
        {
            **{k: v for k, v in S.items() if k != "intermediate_size"},
            "ffn_dim": 176,
            "word_embed_proj_dim": 96,
            "enable_bias": False,
            "tie_word_embeddings": False,
        },
    ),
    ("falcon", "FalconForCausalLM", {k: v for k, v in S.items() if k != "intermediate_size"}),
    (
        "falcon",
        "FalconForCausalLM",
        {
            "vocab_size": 1009,
            "hidden_size": 96,
            "num_hidden_layers": 5,
            "num_attention_heads": 6,
            "num_kv_heads": 2,
            "new_decoder_architecture": True,
            "bias": True,
        },
    ),
    (
        "falcon",
        "FalconForCausalLM",
        {
            "vocab_size": 1009,
            "hidden_size": 96,
            "num_hidden_layers": 5,
            "num_attention_heads": 6,
            "alibi": True,
            "multi_query": False,
            "parallel_attn": False,
            "bias": True,
        },
    ),
    ("bloom", "BloomForCausalLM", {"vocab_size": 1009, "hidden_size": 96, "n_layer": 5, "n_head": 6}),
    ("bert", "BertModel", BERT),
    ("bert", "BertForMaskedLM", BERT),
    ("roberta", "RobertaForMaskedLM", BERT),
    ("roberta", "RobertaModel", BERT),
    ("xlm-roberta", "XLMRobertaForMaskedLM", BERT),
    ("longformer", "LongformerForMaskedLM", {**BERT, "attention_window": 8}),
    ("longformer", "LongformerModel", {**BERT, "attention_window": [8] * 5}),
    ("big_bird", "BigBirdForMaskedLM", BERT),
    ("big_bird", "BigBirdModel", {**BERT, "attention_type": "original_full"}),
    ("xlnet", "XLNetLMHeadModel", {"vocab_size": 1009, "d_model": 96, "n_layer": 3, "n_head": 6, "d_inner": 112}),
    ("modernbert", "ModernBertForMaskedLM", {**S, "pad_token_id": 0}),
    (
        "modernbert",
        "ModernBertForMaskedLM",
        {
            **S,
            "attention_bias": True,
            "mlp_bias": True,
            "norm_bias": True,
            "classifier_bias": True,
            "decoder_bias": False,
            "pad_token_id": 0,
        },
    ),
    ("modernbert", "ModernBertModel", {**S, "pad_token_id": 0}),
    (
        "t5",
        "T5ForConditionalGeneration",
        {"vocab_size": 1009, "d_model": 96, "d_kv": 24, "d_ff": 112, "num_layers": 3, "num_heads": 5},
    ),
    (
        "t5",
        "T5ForConditionalGeneration",
        {
            "vocab_size": 1009,
            "d_model": 96,
            "d_kv": 24,
            "d_ff": 112,
            "num_layers": 3,
            "num_decoder_layers": 2,
            "num_heads": 5,
            "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False,
        },
    ),
    (
        "mt5",
        "MT5ForConditionalGeneration",
        {"vocab_size": 1009, "d_model": 96, "d_kv": 24, "d_ff": 112, "num_layers": 3, "num_heads": 5},
    ),
    ("bart", "BartForConditionalGeneration", {**BOTH, "max_position_embeddings": 70}),
    ("mbart", "MBartForConditionalGeneration", BOTH),
    ("pegasus", "PegasusForConditionalGeneration", BOTH),
    (
        "whisper",
        "WhisperForConditionalGeneration",
        {**BOTH, "num_mel_bins": 16, "max_source_positions": 60, "max_target_positions": 44, "pad_token_id": 0},
    ),
    (
        "qwen3_vl",
        "Qwen3VLForConditionalGeneration",
        {"text_config": H, "vision_config": TOWER, "tie_word_embeddings": True},
    ),
    (
        "qwen3_vl",
        "Qwen3VLForConditionalGeneration",
        {"text_config": H, "vision_config": {**TOWER, "spatial_merge_size": 3}},
    ),
    (
        "qwen3_vl_moe",
        "Qwen3VLMoeForConditionalGeneration",
        {"text_config": {**H, **SPARSE}, "vision_config": TOWER, "tie_word_embeddings": False},
    ),
    (
        "qwen3_5",
        "Qwen3_5ForConditionalGeneration",
        {"text_config": DELTA, "vision_config": {k: v for k, v in TOWER.items() if k != "deepstack_visual_indexes"}},
    ),
    (
        "gemma3",
        "Gemma3ForConditionalGeneration",
        {
            "text_config": H,
            "vision_config": {
                "hidden_size": 48,
                "intermediate_size": 80,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "image_size": 56,
                "patch_size": 14,
                "vision_use_head": False,
            },
        },
    ),
    (
        "gemma4",
        "Gemma4ForConditionalGeneration",
        {
            "text_config": {
                **H,
                "global_head_dim": 40,
                "num_global_key_value_heads": 3,
                "attention_k_eq_v": True,
                "hidden_size_per_layer_input": 0,
            },
            "vision_config": {
                "hidden_size": 48,
                "intermediate_size": 80,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "num_key_value_heads": 4,
                "head_dim": 12,
                "global_head_dim": 12,
            },
        },
    ),
    (
        "qwen2_vl",
        "Qwen2VLForConditionalGeneration",
        {
            "text_config": G,
            "vision_config": {"depth": 3, "embed_dim": 48, "hidden_size": 96, "num_heads": 4, "patch_size": 8},
        },
    ),
    (
        "qwen2_vl",
        "Qwen2VLForConditionalGeneration",
        {
            **G,
            "vision_config": {"depth": 3, "embed_dim": 64, "hidden_size": 96, "num_heads": 4, "mlp_ratio": 2},
            "tie_word_embeddings": True,
        },
    ),
    (
        "qwen2_5_vl",
        "Qwen2_5_VLForConditionalGeneration",
        {
            **G,
            "vision_config": {
                "depth": 3,
                "hidden_size": 48,
                "intermediate_size": 80,
                "num_heads": 4,
                "patch_size": 8,
                "out_hidden_size": 96,
            },
        },
    ),
    (
        "gemma4_text",
        "Gemma4ForCausalLM",
        {
            **H,
            "global_head_dim": 40,
            "hidden_size_per_layer_input": 20,
            "vocab_size_per_layer_input": 1000,
            "num_kv_shared_layers": 2,
            "use_double_wide_mlp": True,
            "layer_types": ["sliding_attention", "full_attention"] * 2 + ["full_attention"],
        },
    ),
    (
        "gemma4_text",
        "Gemma4ForCausalLM",
        {
            **H,
            "global_head_dim": 40,
            "hidden_size_per_layer_input": 0,
            "enable_moe_block": True,
            "num_experts": 7,
            "top_k_experts": 2,
            "moe_intermediate_size": 40,
        },
    ),
    (
        "gemma4_text",
        "Gemma4ForCausalLM",
        {**H, "hidden_size_per_layer_input": 0, "per_layer_config": {"04": {"head_dim": 40}}},
    ),
    (
        "llama4",
        "Llama4ForConditionalGeneration",
        {
            "text_config": {**H, "intermediate_size_mlp": 200, "num_local_experts": 4},
            "vision_config": {
                "hidden_size": 48,
                "intermediate_size": 192,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "image_size": 56,
                "patch_size": 14,
                "vision_output_dim": 64,
                "projector_input_dim": 64,
                "projector_output_dim": 64,
                "pixel_shuffle_ratio": 0.5,
            },
        },
    ),
]
HEADS = {**S, "hidden_size": 256, "num_attention_heads": 32}  # and no word of key/value heads: the classes' own default
SIGLIP = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
    "vision_use_head": False,
}
SEEN = {"depth": 3, "embed_dim": 48, "hidden_size": 96, "num_heads": 4, "patch_size": 8}
UNTIED = {"tie_word_embeddings": False}
TIED = {"tie_word_embeddings": True}
OPT = {**{k: v for k, v in S.items() if k != "intermediate_size"}, "ffn_dim": 176}
FALCON = {k: v for k, v in S.items() if k != "intermediate_size"}
XLNET = {"vocab_size": 1009, "d_model": 96, "n_layer": 3, "n_head": 6, "d_inner": 112}
T5 = {"vocab_size": 1009, "d_model": 96, "d_kv": 24, "d_ff": 112, "num_layers": 3, "num_heads": 5}
GEMMA4 = {**H, "hidden_size_per_layer_input": 0, "global_head_dim": 40}
ODD = {**MLA, "num_attention_heads": 7}  # a latent is expanded to heads of any number
KIMI = {
    **{k: v for k, v in MLA.items() if k not in ("n_routed_experts", "num_experts_per_tok", "q_lora_rank", "n_group")},
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "pad_token_id": 0,
}
UNREAD = {"head_dim": 8, "intermediate_size": 100}
CASES += [  # fields that are absent, null, unread, or say it twice
    ("qwen2", "Qwen2ForCausalLM", HEADS),
    ("qwen3", "Qwen3ForCausalLM", HEADS),
    ("stablelm", "StableLmForCausalLM", HEADS),
    ("seed_oss", "SeedOssForCausalLM", HEADS),
    ("ernie4_5", "Ernie4_5ForCausalLM", HEADS),
    ("exaone4", "Exaone4ForCausalLM", {**HEADS, "layer_types": ["full_attention"] * 5}),
    ("gemma", "GemmaForCausalLM", HEADS),
    ("granitemoe", "GraniteMoeForCausalLM", HEADS),
    ("qwen2_moe", "Qwen2MoeForCausalLM", {**HEADS, **SPARSE, "shared_expert_intermediate_size": 44}),
    ("qwen2_vl", "Qwen2VLForConditionalGeneration", {"text_config": HEADS, "vision_config": SEEN}),
    ("qwen2", "Qwen2ForCausalLM", {**S, "num_key_value_heads": None}),
    ("deepseek_v2", "DeepseekV2ForCausalLM", {k: v for k, v in MLA.items() if k != "n_shared_experts"}),
    ("xlm-roberta", "XLMRobertaForMaskedLM", {k: v for k, v in BERT.items() if k != "vocab_size"}),
    ("gpt2", "GPT2LMHeadModel", {**GPT, **UNREAD}),
    ("gpt_bigcode", "GPTBigCodeForCausalLM", {**GPT, **UNREAD}),
    ("gptj", "GPTJForCausalLM", {**GPT, **UNREAD, "rotary_dim": 8}),
    ("gpt_neox", "GPTNeoXForCausalLM", {**S, "head_dim": 8}),
    ("stablelm", "StableLmForCausalLM", {**G, "head_dim": 8}),
    ("opt", "OPTForCausalLM", {**OPT, "head_dim": 8, "_remove_final_layer_norm": True}),
    ("opt", "OPTForCausalLM", {**OPT, "word_embed_proj_dim": 40, "do_layer_norm_before": False}),
    ("opt", "OPTForCausalLM", {**OPT, "word_embed_proj_dim": 40, **UNTIED}),
    ("bloom", "BloomForCausalLM", {"vocab_size": 1009, "hidden_size": 96, "n_layer": 5, "n_head": 6, "head_dim": 8}),
    ("bert", "BertModel", {**BERT, "head_dim": 8}),
    ("longformer", "LongformerModel", {**BERT, "head_dim": 8}),
    ("modernbert", "ModernBertModel", {**S, "head_dim": 8, "pad_token_id": 0}),
    ("xlnet", "XLNetLMHeadModel", {**XLNET, **UNREAD, "d_head": 16}),
    ("qwen2_vl", "Qwen2VLForConditionalGeneration", {"text_config": {**G, "head_dim": 8}, "vision_config": SEEN}),
    ("phi", "PhiForCausalLM", {**S, "head_dim": 24}),
    ("phi3", "Phi3ForCausalLM", {**H, "pad_token_id": 0}),
    ("olmo2", "Olmo2ForCausalLM", {**H, "pad_token_id": 0}),
    ("starcoder2", "Starcoder2ForCausalLM", H),
    ("qwen2_moe", "Qwen2MoeForCausalLM", {**H, **SPARSE, "shared_expert_intermediate_size": 44}),
    ("exaone4", "Exaone4ForCausalLM", {**H, "layer_types": ["full_attention"] * 5}),
    ("phimoe", "PhimoeForCausalLM", {**G, "lm_head_bias": True, "pad_token_id": 0}),
    ("falcon", "FalconForCausalLM", {**FALCON, "multi_query": None}),
    ("falcon", "FalconForCausalLM", {**FALCON, "parallel_attn": None}),
    ("deepseek_v2", "DeepseekV2ForCausalLM", {**MLA, "attention_bias": False, "head_dim": 9}),
    ("deepseek_v3", "DeepseekV3ForCausalLM", ODD),
    ("deepseek_v32", "DeepseekV32ForCausalLM", {**ODD, "index_n_heads": 3, "index_head_dim": 16}),
    ("glm4_moe_lite", "Glm4MoeLiteForCausalLM", {**ODD, "head_dim": 8, "first_k_dense_replace": 1}),
    ("kimi_linear", "KimiLinearForCausalLM", {**KIMI, "num_attention_heads": 7, **TIED}),
    ("nemotron_h", "NemotronHForCausalLM", {**MAMBA, "hybrid_override_pattern": "ME*-", **TIED}),
    ("nemotron_h", "NemotronHForCausalLM", {**MAMBA, "layers_block_type": ["mamba", "moe", "attention"]}),
    ("t5", "T5ForConditionalGeneration", {**T5, "feed_forward_proj": "gated-gelu", "is_gated_act": True}),
    ("bart", "BartModel", {**BOTH, **UNTIED}),
    ("mbart", "MBartForConditionalGeneration", {**BOTH, **UNTIED}),
    ("pegasus", "PegasusForConditionalGeneration", {**BOTH, **UNTIED}),
    ("whisper", "WhisperForConditionalGeneration", {**BOTH, **UNTIED, "num_mel_bins": 16, "pad_token_id": 0}),
    (
        "bart",
        "BartForConditionalGeneration",
        {**{k: v for k, v in BOTH.items() if k != "encoder_layers"}, "num_hidden_layers": 2},
    ),
    ("bert", "BertForMaskedLM", {**BERT, **UNTIED}),
    ("bert", "BertForPreTraining", BERT),
    ("roberta", "RobertaForMaskedLM", {**BERT, **UNTIED}),
    ("longformer", "LongformerForMaskedLM", {**BERT, **UNTIED}),
    ("big_bird", "BigBirdForMaskedLM", {**BERT, **UNTIED}),
    ("big_bird", "BigBirdForPreTraining", BERT),
    ("llama4", "Llama4ForConditionalGeneration", {**CASES[-1][2], **TIED}),
    ("gemma3", "Gemma3ForConditionalGeneration", {"text_config": {**H, **UNTIED}, "vision_config": SIGLIP}),
    (
        "gemma3",
        "Gemma3ForConditionalGeneration",
        {"text_config": H, "vision_config": SIGLIP, "tie_word_embeddings": None},
    ),
    ("qwen3_vl", "Qwen3VLForConditionalGeneration", {"text_config": {**H, **TIED}, "vision_config": TOWER}),
    ("qwen3_vl_moe", "Qwen3VLMoeForConditionalGeneration", {"text_config": {**H, **SPARSE}, "vision_config": TOWER}),
    ("qwen2_vl", "Qwen2VLForConditionalGeneration", {"text_config": {**G, **TIED}, "vision_config": SEEN}),
    ("gemma4_text", "Gemma4ForCausalLM", {**GEMMA4, "per_layer_config": None}),
    ("gemma4_text", "Gemma4ForCausalLM", {**GEMMA4, "per_layer_config": {}, "attention_k_eq_v": True}),
    (
        "gemma4_text",
        "Gemma4ForCausalLM",
        {
            **GEMMA4,
            "per_layer_config": {"4": {"head_dim": 32}},
            "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
        },
    ),
]


def counted(model_type: str, cls: str, fields: dict) -> dict:
    """The config and what its class has learned."""
    config = {"model_type": model_type, "architectures": [cls], **fields}
    with torch.device("meta"):
        model = getattr(transformers, cls)(CONFIG_MAPPING[model_type].from_dict(config))
    text = model.config.get_text_config()
    total = routed = vision = 0
    for name, p in model.named_parameters():
        total += p.numel()
        routed += p.numel() if re.search(r"experts\.(?!.*shared)", name) and "shared" not in name else 0
        vision += p.numel() if re.search(r"visual|vision|multi_modal", name) else 0
    chosen = next(
        (
            getattr(text, k)
            for k in ("num_experts_per_tok", "num_experts_per_token", "top_k_experts")
            if getattr(text, k, None)
        ),
        0,
    )
    there = next(
        (getattr(text, k) for k in ("num_experts", "num_local_experts", "n_routed_experts") if getattr(text, k, None)),
        1,
    )
    return {"config": config, "total": total, "active": total - routed + routed * chosen // there, "vision": vision}


BATCH, SEQ, SOURCE = 2, 12, 20


def flops(model_type: str, cls: str, fields: dict, train: bool) -> int | None:
    """What PyTorch's counter counts in a forward pass over BATCH x SEQ tokens, `train`: and in the backward pass of a loss that
    depends on all that the model answers; None where the class does not run so small.

    Eager attention and experts: the counter does not see fused ones.
    """
    groups = {"num_key_value_heads": fields["num_attention_heads"]} if "kv_lora_rank" in fields else {}
    config = CONFIG_MAPPING[model_type].from_dict({"model_type": model_type, **fields, **groups})
    for c in (config, config.get_text_config()):
        c._attn_implementation = c._experts_implementation = "eager"
    try:
        torch.manual_seed(0)
        model = getattr(transformers, cls)(config).eval().float()
        ids = torch.randint(1, 900, (BATCH, SEQ))
        given = {"input_ids": ids}
        if config.is_encoder_decoder:
            given = {"input_ids": torch.randint(1, 900, (BATCH, SOURCE)), "decoder_input_ids": ids}
        if model_type == "whisper":
            frames = torch.zeros(BATCH, config.num_mel_bins, 2 * config.max_source_positions)
            given = {"input_features": frames, "decoder_input_ids": ids}
        with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(train):
            out = model(**given, **({"use_cache": False} if train else {}))
            if train:
                sum(x.sum() for x in out.values() if isinstance(x, torch.Tensor) and x.requires_grad).backward()
    except Exception as error:
        print("does not run:", model_type, cls, repr(error)[:100])
        return None
    return sum(n for op, n in counter.get_flop_counts()["Global"].items() if "convolution" not in str(op))


if __name__ == "__main__":
    out, wrong = [], []
    for case in CASES:
        try:
            out.append(counted(*case) | {"flops": flops(*case, False), "train_flops": flops(*case, True)})
        except Exception as error:
            wrong.append((case[0], case[1], repr(error)[:300]))
    for row in wrong:
        print(*row)
    path = Path(__file__).parent / "vectors" / "models.json"
    rows = ",\n".join(json.dumps(x) for x in out)
    how = f"transformers {transformers.__version__}, torch {torch.__version__}; flops: {BATCH} x {SEQ} tokens, {SOURCE} of a source"
    path.write_text(f'{{"how": "{how}", "models": [\n{rows}\n]}}\n')
    print(len(out), "models")
