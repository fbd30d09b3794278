"""Writes vectors/saved.json: how many bytes PyTorch's autograd keeps of each layer of transformers' own classes.

A script for whoever has torch and transformers (`pip install torch==2.13.0 transformers==5.23.0`); the tests only read what
it wrote. Hooks see every tensor that an operation saves; storages are counted once, parameters not at all.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

TOKENS, BATCH = 48, 2
BASE = {
    "hidden_size": 96,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "intermediate_size": 176,
    "vocab_size": 131,
    "head_dim": 16,
    "max_position_embeddings": 128,
}
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"head_dim": 24},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {"head_dim": 20},
    "granite": {},
    "smollm3": {},
    "phi3": {},
    "exaone4": {"sliding_window": 64},
    "glm": {},
    "glm4": {},
    "starcoder2": {"sliding_window": None, "residual_dropout": 0.0, "embedding_dropout": 0.0},
    "stablelm": {},
    "gemma": {},
    "gemma2": {"sliding_window": 64},
    "gemma3_text": {"sliding_window": 64},
}


def kept(config: Any, attention: str) -> list[int]:
    """Bytes that each layer's forward pass leaves for its backward pass."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.bfloat16).train()
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    layers = model.model.layers
    found: list[dict[int, torch.Tensor]] = [{} for _ in layers]
    inside: list[int] = []

    def pack(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage().data_ptr()
        if inside and storage not in parameters:
            found[inside[-1]].setdefault(storage, x)
        return x

    for k, layer in enumerate(layers):
        layer.register_forward_pre_hook(lambda *_, k=k: inside.append(k))
        layer.register_forward_hook(lambda *_: [None, inside.pop()][0])
    ids = torch.randint(0, config.vocab_size, (BATCH, TOKENS))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        model(input_ids=ids, use_cache=False)
    return [sum(x.untyped_storage().nbytes() for x in own.values()) for own in found]


def main() -> None:
    """Write the file."""
    out: dict[str, Any] = {"torch": torch.__version__, "transformers": transformers.__version__}
    out |= {"tokens": TOKENS, "batch": BATCH, "dtype": "bf16", "bytes_by_layer": {}}
    for family, more in SHAPES.items():
        raw = {**BASE, **more}
        config = AutoConfig.for_model(family, **raw, pad_token_id=0, bos_token_id=1, eos_token_id=2)
        if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
            raw["layer_types"] = config.layer_types
        row: dict[str, Any] = {"config": raw}
        for attention in ("eager", "sdpa"):
            try:
                row[attention] = kept(config, attention)
            except ValueError as error:  # Gemma 2 has no sdpa
                print(f"{family}: {error}")
        out["bytes_by_layer"][family] = row
    path = Path(__file__).parent / "vectors" / "saved.json"
    path.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
