"""One row per family, in the file of its kin; this index says where, so that only one file is loaded.

The rules are those of the families' modelling code in transformers 5.23.0. A field of a config is in its family's row, in
HARMLESS (it changes neither what is computed, nor what is learned or cached), or it is refused by name.
"""

from __future__ import annotations

from attnmath.models.schema import Family

FILES = {
    "llama": """llama mistral qwen2 qwen2_vl_text qwen2_5_vl_text qwen3 qwen3_vl_text phi phi3 cohere cohere2 olmo2
        olmo3 starcoder2 smollm3 glm glm4 stablelm seed_oss ernie4_5 exaone4 hunyuan_v1_dense granite
        nemotron""",
    "gemma": "gemma gemma2 gemma3_text gemma4_text",
    "mixtures": """mixtral phimoe qwen2_moe qwen3_moe qwen3_vl_moe_text gpt_oss minimax_m2 minimax_m3 glm4_moe
        llama4_text granitemoe olmoe""",
    "latent": "deepseek_v2 deepseek_v3 kimi_k2 deepseek_v32 deepseek_v4 glm4_moe_lite glm_moe_dsa kimi_linear",
    "hybrid": "qwen3_next qwen3_5_text qwen3_5_moe_text nemotron_h mamba2",
    "classic": """gpt2 gpt_bigcode gptj gpt_neox opt falcon bloom bert roberta xlm-roberta longformer big_bird xlnet
        modernbert""",
    "seq2seq": "t5 mt5 bart mbart pegasus whisper",
    "vision": """qwen2_vl qwen2_5_vl qwen2_vl_vision qwen2_5_vl_vision qwen3_vl qwen3_vl_moe qwen3_5 qwen3_5_moe
        gemma3 gemma4 llama4 qwen3_vl_vision qwen3_vl_moe_vision qwen3_5_vision qwen3_5_moe_vision
        siglip_vision_model gemma4_vision llama4_vision_model""",
}
PLACES = {name: file for file, names in FILES.items() for name in names.split()}


def get(model_type: str) -> Family:
    """A family by its `model_type`; KeyError if there is none.

    >>> sorted(get("llama").stacks[0].rows)
    ['attention', 'mlp', 'norms']
    """
    from importlib import import_module

    return import_module(f"attnmath.models.families.{PLACES[model_type]}").FAMILIES[model_type]  # type: ignore[no-any-return]


ROPE_KEYS = frozenset(  # what a rotary table may hold: the share of dimensions, and what only moves the frequencies
    """
    rope_type type factor rope_theta partial_rotary_factor low_freq_factor high_freq_factor
    original_max_position_embeddings beta_fast beta_slow mscale mscale_all_dim attention_factor short_factor long_factor
    truncate mrope_section mrope_interleaved long_mscale short_mscale alpha
    """.split()
)

HARMLESS = frozenset(  # fields that change neither what layers compute, nor what is learned, cached or counted
    """
    architectures model_type _name_or_path name_or_path transformers_version auto_map torch_dtype dtype
    transformers.js_config is_llama_config output_past _num_labels classif_dropout forced_decoder_ids
    is_encoder_decoder use_cache return_dict return_dict_in_generate output_attentions output_hidden_states
    torchscript chunk_size_feed_forward use_bfloat16 problem_type finetuning_task task_specific_params id2label
    label2id num_labels tokenizer_class prefix cross_attention_hidden_size _attn_implementation
    _attn_implementation_autoset attn_implementation bos_token_id eos_token_id pad_token_id sep_token_id
    unk_token_id cls_token_id mask_token_id decoder_start_token_id forced_bos_token_id forced_eos_token_id
    suppress_tokens begin_suppress_tokens image_token_id image_token_index video_token_id video_token_index
    vision_start_token_id vision_end_token_id vision_token_id boi_token_index eoi_token_index boi_token_id
    eoi_token_id audio_token_id boa_token_id eoa_token_id eoa_token_index eod_token_id max_length min_length
    max_sequence_length model_max_length seq_length do_sample num_beams num_beam_groups early_stopping
    length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size diversity_penalty repetition_penalty
    temperature top_k top_p typical_p bad_words_ids num_return_sequences output_scores remove_invalid_values
    exponential_decay_length_penalty initializer_range initializer_factor initializer_cutoff_factor init_std
    attention_dropout attention_probs_dropout_prob attn_pdrop hidden_dropout hidden_dropout_prob dropout
    resid_pdrop embd_pdrop embedding_dropout residual_dropout activation_dropout classifier_dropout dropout_rate
    mlp_dropout layerdrop encoder_layerdrop decoder_layerdrop summary_last_dropout summary_first_dropout
    resid_dropout summary_type summary_use_proj summary_activation summary_proj_to_labels output_router_logits
    router_aux_loss_coef router_z_loss_coef aux_loss_alpha seq_aux router_jitter_noise input_jitter_noise
    ep_size pretraining_tp rope_theta rope_interleave original_max_position_embeddings rope_local_base_freq
    final_logit_softcapping cache_implementation initial_context_length swiglu_limit swiglu_alpha rms_norm_eps
    norm_eps norm_epsilon layer_norm_eps layer_norm_epsilon layernorm_epsilon norm_topk_prob n_group topk_group
    num_expert_group topk_method scoring_func routed_scaling_factor moe_router_dtype moe_renormalize
    moe_router_activation_func use_grouped_topk router_scoring topk_norm num_nextn_predict_layers
    mtp_num_hidden_layers mtp_use_dedicated_embeddings mtp_transformer_layers use_mtp mtp_loss_weight
    mtp_layers_block_type mtp_hybrid_override_pattern use_routing_bias num_mtp_modules sliding_window_size
    quantization_config compression_config gradient_checkpointing reorder_and_upcast_attn n_ctx
    max_position_embeddings logit_scale embedding_multiplier logits_scaling residual_multiplier
    attention_multiplier time_step_min time_step_max time_step_floor time_step_limit time_step_rank
    rescale_prenorm_residual residual_in_fp32 num_logits_to_keep use_mamba_kernels mamba_ssm_cache_dtype
    mamba_ssm_dtype rescale_embeddings onnx_export scale_embedding classifier_proj_size apply_spec_augment
    mask_time_prob mask_time_length mask_time_min_masks mask_feature_prob mask_feature_length
    mask_feature_min_masks median_filter_width use_weighted_layer_sum scale_decoder_outputs classifier_pooling
    classifier_activation deterministic_flash_attn sparse_prediction sparse_pred_ignore_index reference_compile
    repad_logits_with_grad same_length clamp_len bi_data reuse_len use_mems_eval use_mems_train start_n_top
    end_n_top normalize_before normalize_embedding add_bias_logits add_final_layer_norm
    static_position_embeddings force_bos_token_to_be_generated hc_eps hc_sinkhorn_iters compress_rope_theta
    expert_dtype moe_shared_expert_overlap attention_softmax_in_fp32 scale_attention_softmax_in_fp32
    slow_but_exact masked_softmax_fusion offset_alibi skip_bias_add skip_bias_add_qkv bias_dropout_fusion
    """.split()
)
HARMLESS_IF_OFF = frozenset(
    """
    pruned_heads is_decoder tie_encoder_decoder use_sliding_window use_mrope add_cross_attention rope_interleaved
    for_llm_compressor
    """.split()
)
