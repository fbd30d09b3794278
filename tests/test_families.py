"""Fields that classes treat in ways of their own: what is refused, what changes nothing, what is said beside numbers.

The numbers themselves are in vectors/models.json (make_models.py): where a field is absent, null or unread, the classes
of transformers say what then counts.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attnmath.errors import InputError
from attnmath.models import describe
from attnmath.models.costs import Request, work
from attnmath.models.counting import parameters

ROWS = json.loads((Path(__file__).parent / "vectors" / "models.json").read_text())["models"]
FIRST = {row["config"]["model_type"]: row for row in reversed(ROWS)}  # of each family, the row that stands first


def changed(family, **more):
    """A small config of a family, with these fields; ... takes one away."""
    config = {**FIRST[family]["config"], **more}
    return {k: v for k, v in config.items() if v is not ...}


def inside(family, part, **more):
    config = FIRST[family]["config"]
    return {**config, part: {**config[part], **more}}


def counted(config):
    p = parameters(describe(config, config["model_type"], "x"))
    return p.total, p.active


LATENT = ("deepseek_v2", "deepseek_v3", "deepseek_v32", "glm_moe_dsa", "glm4_moe_lite", "kimi_linear")
GLOBAL = {"layer_types": ["sliding_attention"] * 4 + ["full_attention"], "num_kv_shared_layers": 2}
REFUSED = [  # (config, what its message names)
    *((changed(f, moe_layer_freq=2), "moe_layer_freq is 2; expected 1") for f in LATENT),
    *((changed(f, moe_layer_freq=None), "moe_layer_freq is null") for f in LATENT),
    (changed("kimi_linear", first_k_dense_replace=None), "first_k_dense_replace is null"),
    (changed("kimi_linear", num_experts_per_token=None), "num_experts_per_token is null"),
    (
        changed("kimi_linear", linear_attn_config={"full_attn_layers": [3, 5]}),
        "full_attn_layers and kda_layers name each layer once",
    ),
    (changed("kimi_linear", num_experts_per_tok=None), "num_experts_per_tok = None and num_experts_per_token = 2"),
    (changed("granitemoe", num_experts_per_tok=None), "num_experts_per_tok is null"),
    (changed("deepseek_v4", qk_rope_head_dim=None), "qk_rope_head_dim is null"),
    (changed("gemma3_text", _sliding_window_pattern=None), "sliding_window_pattern is null"),
    (inside("gemma3", "text_config", _sliding_window_pattern=None), "sliding_window_pattern is null"),
    (changed("gemma2", sliding_window=None), "sliding_window is null, but there are layers that slide"),
    (changed("gpt_oss", attention_bias=None), "attention_bias is null; expected true"),
    (changed("glm4_moe_lite", first_k_dense_replace=2), "first_k_dense_replace = 2 and the number of dense layers = 1"),
    (changed("glm4_moe_lite", head_dim=64), "head_dim = 64 and qk_rope_head_dim = 8 contradict each other"),
    (changed("gpt_oss", experts_per_token=2), "experts_per_token = 2 and num_experts_per_tok = 3 contradict"),
    (
        changed("gpt_oss", experts_per_token=2, num_experts_per_tok=...),
        "experts_per_token = 2 and num_experts_per_tok = 4",
    ),
    (changed("bart", num_hidden_layers=2), "num_hidden_layers = 2 and encoder_layers = 3 contradict each other"),
    (changed("whisper", num_hidden_layers=2), "num_hidden_layers = 2 and encoder_layers = 3 contradict each other"),
    (changed("deepseek_v2", num_attention_heads=7), "hidden_size = 96 is not divisible by num_attention_heads = 7"),
    (changed("t5", num_hidden_layers=2), "num_hidden_layers = 2 and num_layers = 3 contradict each other"),
    (changed("t5", is_gated_act=True), "is_gated_act = True and a gated feed_forward_proj = False contradict"),
    (changed("mt5", is_gated_act=None), "is_gated_act = False and a gated feed_forward_proj = True contradict"),
    (changed("olmoe", head_dim=8), "head_dim = 8, but norms are made for 16"),
    (changed("phi", head_dim=8, qk_layernorm=True), "head_dim = 8, but norms are made for 16"),
    (changed("falcon", multi_query=False, num_kv_heads=2), "num_kv_heads = 2: without new_decoder_architecture"),
    (changed("falcon", n_head_kv=2), "n_head_kv = 2 and num_kv_heads = 6 contradict each other"),
    (changed("falcon", ff_factor=3), "ff_factor = 3 and ffn_hidden_size / hidden_size = 4"),
    (changed("xlnet", d_head=8), "d_head = 8 and hidden_size / num_attention_heads = 16 contradict each other"),
    (
        changed("nemotron_h", layers_block_type=["mamba"] * 6),
        "hybrid_override_pattern and layers_block_type contradict",
    ),
    (changed("nemotron_h", layers_block_type=[]), "hybrid_override_pattern is missing"),
    (changed("nemotron_h", num_hidden_layers=5), "num_hidden_layers = 5 and the number of layers that are named = 6"),
    (changed("nemotron_h", attention_head_dim=8), "attention_head_dim = 8 and head_dim = 24 contradict each other"),
    (changed("nemotron_h", moe_latent_size=0), "moe_latent_size is 0; expected null"),
    (changed("cohere2", layer_switch=3), "layer_switch = 3 and sliding_window_pattern = 4 contradict each other"),
    (changed("cohere2", use_parallel_block=False), "use_parallel_block is False; expected true"),
    (changed("phi3", lm_head_bias=True), "lm_head_bias is True; expected false"),
    (changed("gptj", rotary=False), "rotary is False; expected true"),
    (changed("llama", rope_interleaved=True), "rope_interleaved = True is not understood"),
    (changed("hunyuan_v1_dense", use_cla=True), "use_cla is True; expected false"),
    (changed("gemma4_text", **GLOBAL), "a layer that shares needs one of its kind before it"),
    (changed("gemma4_text", per_layer_config={"4": {"head_dim": 0}}), "per_layer_config: "),
    (
        changed("gemma4_text", enable_moe_block=True, num_experts=1, top_k_experts=2, moe_intermediate_size=8),
        "2 experts for each token, of 1",
    ),
    (inside("qwen3_vl", "vision_config", num_heads=5), "hidden_size = 48 is not divisible by num_heads = 5"),
    (inside("qwen2_vl", "vision_config", num_heads=5), "embed_dim = 48 is not divisible by num_heads = 5"),
    (changed("qwen2", num_attention_heads=6, num_key_value_heads=...), "is not divisible by num_key_value_heads = 32"),
    (changed("smollm3", layer_types=["full_attention"] * 4), "layer_types names 4 layers, num_hidden_layers is 5"),
]


@pytest.mark.parametrize(("config", "message"), REFUSED, ids=lambda x: x if isinstance(x, str) else x["model_type"])
def test_what_would_be_a_wrong_number_is_refused_by_name(config, message):
    with pytest.raises(InputError) as error:
        counted(config)
    assert message in str(error.value)


COHERE = {"layer_switch": 4, "order_of_interleaved_layers": "local_attn_first", "position_embedding_type": "rope_gptj"}
COHERE_ON = ("use_embedding_sharing", "use_gated_activation", "use_parallel_block", "use_parallel_embedding")
POOLER = {"pooler_fc_size": 768, "pooler_num_attention_heads": 12, "pooler_num_fc_layers": 3, "pooler_type": "first"}
RUNNER = {"inference_runner": 0, "pad_key_length": True, "pre_allocate_kv_cache": False, "validate_runner_input": True}
MAMBA = {"intermediate_size": 192, "norm_before_gate": True, "rms_norm": True, "time_step_init_scheme": "random"}
HARMLESS = [  # (family, fields of published configs that change no number)
    ("llama", {"is_llama_config": True, "rope_interleaved": False, "transformers.js_config": {"dtype": "q4"}}),
    ("t5", {"output_past": True, "is_gated_act": False, "num_hidden_layers": 3, "head_dim": 24}),
    ("bart", {"classif_dropout": 0.1, "_num_labels": 3, "extra_pos_embeddings": 2, "num_hidden_layers": 3}),
    ("pegasus", {"classif_dropout": 0.0, "extra_pos_embeddings": 1}),
    ("whisper", {"forced_decoder_ids": [[1, 50259]], "num_hidden_layers": 3}),
    ("bert", {"directionality": "bidi", "pooler_size_per_head": 128, **POOLER}),
    ("xlm-roberta", {"output_past": True}),
    ("longformer", {"attention_mode": "longformer", "ignore_attention_mask": False}),
    ("gpt2", {"n_special": 0, "predict_special_tokens": True, "head_dim": 8, "intermediate_size": 7}),
    ("gpt_bigcode", {"max_batch_size": None, **RUNNER}),
    ("gptj", {"rotary": True}),
    ("gpt_neox", {"rotary_emb_base": 10000}),
    ("phi3", {"full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": False, "mlp_bias": False}),
    ("smollm3", {"max_window_layers": 28, "use_sliding_window": False}),
    ("cohere2", {"rotary_pct": 1.0, "use_qk_norm": False, **COHERE, **dict.fromkeys(COHERE_ON, True)}),
    ("stablelm", {"num_heads": 6, "rope_pct": 0.25, "rotary_scaling_factor": 1.0}),
    ("hunyuan_v1_dense", {"attention_head_dim": 24, "use_cla": False, "cla_share_factor": 2}),
    ("hunyuan_v1_dense", {"rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0}}),
    ("phimoe", {"rope_scaling": {"type": "longrope", "long_mscale": 1.2, "short_mscale": 1.2}}),
    ("falcon", {"ff_factor": 4, "n_head_kv": 6}),
    ("mamba2", {"time_step_scale": 1.0, **MAMBA}),
    ("nemotron_h", {"attention_head_dim": 24}),
    ("nemotron_h", {"num_hidden_layers": None}),
    ("opt", {"learned_embeddings": True, "scale_embeddings": False}),
    ("llama4_text", {"for_llm_compressor": False, "attn_temperature_tuning": 4, "no_rope_layers": []}),
    ("deepseek_v3", {"moe_layer_freq": 1, "num_key_value_heads": 3, "head_dim": 5}),
    ("gpt_oss", {"experts_per_token": 3}),
    ("glm4_moe_lite", {"first_k_dense_replace": 1, "head_dim": 8}),
]


@pytest.mark.parametrize(("family", "more"), HARMLESS, ids=lambda x: x if isinstance(x, str) else " ".join(x))
def test_fields_of_published_configs_that_change_nothing(family, more):
    assert counted(changed(family, **more)) == (FIRST[family]["total"], FIRST[family]["active"])


@pytest.mark.parametrize(
    ("family", "named", "known"),
    [
        ("gpt2", "GPT2DoubleHeadsModel", False),
        ("gpt2", "GPT2Model", True),
        ("bart", "PretrainedBartModel", False),
        ("llama", "MyForCausalLM", True),
        ("llama", "MyModel", False),
        ("t5", "T5EncoderModel", False),
        ("gpt_neox", "GPTNeoXModel", True),
        ("hunyuan_v1_dense", "HunYuanDenseV1Model", True),
        ("kimi_k2", "DeepseekV3Model", True),
        ("qwen3_5_text", "Qwen3_5TextModel", True),
        ("big_bird", "BigBirdForQuestionAnswering", False),
    ],
)
def test_classes_whose_parameters_are_known(family, named, known):
    config = changed("deepseek_v3" if family == "kimi_k2" else family, architectures=[named])
    assert ("parameters" in describe(config, family, "x").refused) is not known


def test_defaults_of_classes_are_said_to_be_assumed():
    heads = {**FIRST["llama"]["config"], "hidden_size": 256, "num_attention_heads": 32}
    taken = {"qwen2": 32, "qwen3": 32, "stablelm": 32, "seed_oss": 8, "ernie4_5": 2, "gemma": 16, "qwen2_vl_text": 8}
    for family, default in taken.items():
        m = describe(heads, family, "x")
        assert m.assumed["num_key_value_heads"] == default
        assert m.runs[0].sizes["kv-heads"] == default
    for family in ("llama", "phi", "olmo2"):
        assert "num_key_value_heads" not in describe(heads, family, "x").assumed
    null = describe({**heads, "num_key_value_heads": None}, "qwen2", "x")
    assert null.runs[0].sizes["kv-heads"] == 32
    assert "num_key_value_heads" not in null.assumed


def test_a_config_without_a_tower_is_counted_without_one_and_says_so():
    for family in ("gemma3", "gemma4", "qwen2_vl", "qwen3_vl", "llama4"):
        for tower in (..., None):
            m = describe(changed(family, vision_config=tower), family, "x")
            assert parameters(m).by_part.get("vision") is None
            assert any("vision_config" in x for x in m.left_out)


def test_a_head_that_its_class_never_ties_is_said_to_be():
    for family in ("kimi_linear", "nemotron_h"):
        tied, untied = (describe(changed(family, tie_word_embeddings=x), family, "x") for x in (True, False))
        assert parameters(tied) == parameters(untied)
        assert any("does not tie the head" in x for x in tied.left_out)
        assert not any("does not tie the head" in x for x in untied.left_out)


def test_parameters_that_nothing_reads_cost_nothing():
    """Untied, a masked-language head keeps a second bias, and BART a table, that no step of a forward pass touches."""
    for family, cls in (("bert", "BertForMaskedLM"), ("bart", "BartForConditionalGeneration")):
        tied, untied = (
            sum(
                work(p, Request(1, 8, 8, 8, False)).projections * p.count
                for p in describe(changed(family, architectures=[cls], tie_word_embeddings=x), family, "x").pieces
            )
            for x in (True, False)
        )
        assert tied == untied
