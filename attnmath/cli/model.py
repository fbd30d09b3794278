"""`attnmath model`."""

from __future__ import annotations

from typing import Any

import click

from attnmath.cli import options
from attnmath.errors import InputError


@click.command("model", short_help="What a whole model weighs, caches and computes.")
@click.argument("model_", metavar="NAME|config.json|DIR|ORG/NAME", required=False)
@click.option("--model", "named", metavar="NAME|...", help="The same as an option.")
@click.option("--batch", metavar="B", help="Sequences in the batch [1].")
@click.option("--seq", metavar="T", help="New tokens of each sequence [1].")
@click.option("--context", metavar="N", help="Tokens seen by then, the new ones included [--seq].")
@click.option("--source", metavar="S", help="Tokens of the encoder, where there is one [--context].")
@click.option(
    "--phase",
    metavar="prefill|decode|train",
    default="prefill",
    help="decode: one new token against a context of --seq; with --context, --seq new ones against that; "
    "train: forward and backward.",
)
@click.option("--dtype", metavar="DTYPE", help="How activations are stored and multiplied [as the config says].")
@click.option("--kv-dtype", metavar="DTYPE", help="How the cache is stored: bf16, fp8, int8, int4/64, q8_0 [--dtype].")
@click.option(
    "--weight-dtype",
    metavar="DTYPE",
    help="How weights are stored: bf16, fp8, int8, int4/128, mxfp4, nvfp4 [as the config says].",
)
@click.option("--index-dtype", metavar="DTYPE", default="fp8", help="How an indexer's keys are stored [fp8].")
@click.option(
    "--kv-alloc",
    type=click.Choice(["ideal", "engine"]),
    default="ideal",
    help="engine: whole pages of 16 tokens, and no window taken out.",
)
@click.option("--with-mtp", is_flag=True, help="Count layers for multi-token prediction.")
@click.option(
    "--recompute",
    metavar="none|selective|full",
    help="In training, what is computed again and not kept: scores and weights, or whole layers [selective].",
)
@click.option(
    "--computed-by",
    metavar="page|transformers",
    help="Whose way to compute a layer decides what is kept for its backward pass [page].",
)
@click.option(
    "--dropout", metavar="RATE", type=float, help="In training, of weights and of what blocks add [as the config says]."
)
@click.option("--tensor-parallel", metavar="N", type=int, help="In training, ranks that share each layer [1].")
@click.option("--sequence-parallel", is_flag=True, help="They share what lies between their products, too.")
@click.option("--tokens-per-s", metavar="X", type=float, help="A measured rate, for the share of a --gpu's peak (MFU).")
@click.option("--gpu", metavar="NAME|FILE.toml", help="The accelerator that the rate was measured on.")
@click.option(
    "--assume-ignored", metavar="FIELD", multiple=True, help="Go on without a field that is not understood; repeatable."
)
@click.option("--assume-family", metavar="MODEL_TYPE", help="Read the config by another family's rules.")
@options.format_option("csv", "markdown")
def command(model_: str | None, named: str | None, format_: str, as_json: bool, **values: Any) -> None:
    """What a whole model weighs, caches and computes, exactly, from its config.json or by a preset's name.

    \b
    attnmath model llama-3.1-8b --seq 8k
    attnmath model path/to/config.json --batch 32 --seq 4k --phase decode --kv-dtype fp8
    attnmath model deepseek-v3 --weight-dtype bf16 --with-mtp
    attnmath model llama-3.1-8b --seq 8k --phase train --recompute full
    attnmath model gpt-oss-20b --seq 8k --batch 32 --kv-alloc engine
    attnmath models
    """
    from attnmath.cli import render_model
    from attnmath.models.costs import model

    if (model_ is None) == (named is None):
        raise InputError("name a model, once: a preset (attnmath models lists them), a config.json, a directory")
    sizes = {k: values.pop(k) for k in ("batch", "seq", "context", "source")}
    rows: list[dict[str, Any]] = [*options.sizes_from(sizes)]
    found = [model(str(model_ or named), **row, **values) for row in rows]
    render_model.models(found, options.chosen(format_, as_json))
