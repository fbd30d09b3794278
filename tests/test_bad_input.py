"""Bad input: one clear message on stderr that names the culprit, exit code 2, nothing on stdout, nothing written."""

from __future__ import annotations

import json
import os

import pytest

from attnmath.cli import run

GQA = ["cost", "--variant", "gqa", "--seq", "8192", "--heads", "32"]
NINES = "9" * 10_000


@pytest.fixture
def refused(capsys, tmp_path, monkeypatch):
    """Run a command line that must be refused; its message."""
    monkeypatch.chdir(tmp_path)

    def go(args: list[str]) -> str:
        before = sorted(os.listdir(tmp_path))
        code = run(args)
        out = capsys.readouterr()
        assert code == 2, out
        assert out.out == ""
        assert "Traceback" not in out.err
        assert "internal error" not in out.err
        assert len(out.err) < 3000
        assert sorted(os.listdir(tmp_path)) == before
        return out.err

    return go


DSA = ["cost", "--variant", "dsa", "--seq", "64", "--heads", "4"]
KDA = ["cost", "--variant", "kda", "--seq", "64", "--heads", "4"]
LINES = [
    ([*GQA, "--kv-heads", "5"], "32 is not divisible by 5"),
    (["cost", "--variant", "gqa", "--seq", "0", "--heads", "32"], "--seq: 0 is no size: at least 1"),
    (["cost", "--variant", "gqa", "--seq", "-5", "--heads", "32"], "--seq: -5 is no size"),
    (["cost", "--variant", "gqa", "--seq", NINES, "--heads", "32"], "--seq: a number of more than 40 digits"),
    (["cost", "--variant", "gqa", "--seq", "1.5", "--heads", "32"], "--seq: '1.5' is no whole number"),
    (["cost", "--variant", "gqa", "--seq", "٣", "--heads", "32"], "is no whole number"),
    (["cost", "--variant", "gqa", "--seq", "", "--heads", "32"], "--seq: '' is no whole number"),
    (["cost", "--variant", "gqa", "--seq", "1k,,2k", "--heads", "32"], "--seq: '' is no whole number"),
    (["cost", "--variant", "gqa", "--seq", "8k", "--heads", "8,16"], "--heads: '8,16' is no whole number"),
    (
        ["cost", "--variant", "gqa", "--seq", ",".join(["1"] * 200), "--batch", ",".join(["1"] * 200), "--heads", "8"],
        "40,000 rows from these lists; at most 2,000",
    ),
    (["cost", "--variant", "gqa", "--seq", "x", "--heads", "y"], "--heads: 'y' is no whole number"),
    (["cost", "--variant", "gqa"], "missing: --seq (new query tokens of each sequence), --heads (query heads)"),
    (["cost", "--seq", "8", "--heads", "4"], "name a --variant, or a --model"),
    ([*GQA, "--context", "4096"], "--context 4,096 is less than --seq 8,192"),
    (["cost", "--variant", "gqaa", "--seq", "8", "--heads", "4"], "unknown variant 'gqaa': did you mean 'gqa'"),
    ([*GQA, "--with", "rop"], "unknown modifier 'rop': did you mean 'rope'"),
    ([*GQA, "--with", "rope:layuot=half"], "unknown option of rope 'layuot': did you mean 'layout'"),
    ([*GQA, "--with", "rope:layout=diagonal"], "the layouts are half, interleaved"),
    ([*GQA, "--with", "rope:dims=7"], "dimensions turn in pairs"),
    ([*GQA, "--with", "rope:dims=1000"], "rest = d - 1000 would be -872"),
    ([*GQA, "--with", "rope:base=nan"], "rope:base=nan is no number"),
    ([*GQA, "--with", "rope:factor=4"], "rope:scaling=none has no use for factor"),
    ([*GQA, "--with", "rope:part=last"], "say how many of the last dimensions turn"),
    ([*GQA, "--with", "rope:scaling=yarn,fast=1,slow=2"], "rope:fast=1 is not above slow=2"),
    ([*GQA, "--with", "rope:scaling=yarm"], "did you mean 'yarn'"),
    ([*GQA, "--with", "norm", "--with", "norm"], "WQN, WkN is there from an earlier modifier"),
    ([*GQA, "--with", "gate:on=Y"], "Y is as wide as the model"),
    ([*GQA, "--with", "sink", "--with", "sink"], "has a sink already"),
    ([*GQA, "--with", "softcap", "--with", "scale:width=4"], "the scale comes before"),
    ([*GQA, "--with", "t5-bias:buckets=6"], "t5-bias:buckets=6: a multiple of 4"),
    ([*GQA, "--with", "t5-bias:far=4"], "t5-bias:far=4: beyond 8"),
    ([*GQA, "--with", "dropout:rate=1"], "a rate is at least 0 and below 1"),
    ([*GQA, "--with", "tied", "--v-head-dim", "64"], "contradict each other"),
    ([*GQA, "--with", "temperature-tuning:floor=0"], "it is at least 1"),
    ([*GQA, "--with", "norm:kind=rmsnorm"], "it is one of rms, layer, l2"),
    ([*GQA, "--with", "score-bias:axes=t+q"], "q: the scores have b g r t n"),
    ([*GQA, "--mask", "documents(100, 200)"], "its documents make 300 tokens, the context is 8,192"),
    ([*GQA, "--mask", "documents"], "takes one length per document"),
    ([*GQA, "--mask", "dilated(0)"], "a whole number of at least 1"),
    ([*GQA, "--mask", "band(3)"], "takes 2 sizes: write band(l, r)"),
    ([*GQA, "--mask", "window(t / 0)"], "is not divisible by 0"),
    ([*GQA, "--mask", "window(floor(t / 0))"], "is not divisible by 0"),
    ([*GQA, "--mask", "blocks(4)"], "its keys are blocks of tokens, which only a page can have"),
    ([*GQA, "--kv-dtype", "q9_0"], "unknown kv-dtype 'q9_0': did you mean 'q8_0' or 'q4_0'"),
    ([*GQA, "--kv-dtype", "int4/0"], "unknown kv-dtype"),
    ([*GQA, "--kv-dtype", "int4/48"], "a row of k has 1024"),
    ([*GQA, "--dtype", "q8_0"], "q8_0 is how a cache is stored: --kv-dtype q8_0"),
    ([*DSA, "--with", "alibi"], "are not tokens at places of their own"),
    ([*DSA, "--with", "window:w=2"], "what a query sees is part of what this page computes"),
    ([*DSA, "--mask", "window(2)"], "dsa: what a query sees is part of what it computes"),
    ([*DSA, "--window", "2"], "dsa: what a query sees is part of what it computes"),
    ([*KDA, "--mask", "full"], "kda has no mask between queries and keys"),
    ([*KDA, "--kv-dtype", "fp8"], "it caches no tokens, but a state"),
    ([*KDA, "--form", "chunked", "--block-size", "7"], "64 is not divisible by 7"),
    (
        ["cost", "--variant", "lightning-attention", "--seq", "64", "--heads", "4", "--layer", "4", "--layers", "4"],
        "--layer 4 of --layers 4: the first is layer 0, the last 3",
    ),
    (["cost", "--variant", "differential", "--seq", "64", "--heads", "4", "--layer", "-1"], "at least 0"),
    (["report", "gqa"], "Missing option"),
    (["report", "gqa", "-o", "x.pdf"], "the ending says which document it is"),
    (["report", "gqaa", "-o", "x.md"], "did you mean 'gqa'"),
    ([*GQA, "--with", "rope:base=-1"], "rope:base=-1 is no number of at least 0"),
    ([*GQA, "--with", "norm:on=ZZ"], "unknown tensor 'ZZ'"),
    ([*GQA, "--with", "direct-queries"], "this page has none"),
    ([*GQA, "--with", "rope:layout"], "'layout' is no option; write rope:key=value"),
    ([*GQA, "--with", "rope:dims=2,dims=4"], "dims is given twice"),
    ([*GQA, "--with", "rope:"], "no option follows the colon"),
    ([*GQA, "--with", "rope:on=K"], "is no projection of new tokens"),
    ([*GQA, "--with", "rope:on=S"], "is no projection of new tokens"),
    ([*GQA, "--with", "rope:base=0"], "is more than 0"),
    ([*GQA, "--with", "rope:dims=6_4"], "rope:dims=6_4 is no whole number"),
    ([*GQA, "--with", "norm:on="], "on= names no tensor"),
    ([*GQA, "--with", "bias:on=Q+Q"], "names a tensor twice"),
    ([*GQA, "--with", "bias:on=Y", "--with", "bias:on=Y"], "Y has a bias already"),
    ([*GQA, "--with", "window:w=3", "--window", "4"], "contradict each other"),
    ([*GQA, "--mask", "prefix:٣"], "mask prefix takes 1 size"),
    ([*GQA, "--mask", "prefix:1e9999"], "is no length"),
    ([*GQA, "--mask", "prefix:" + "9" * 50], "a number of more than 40 digits is no length"),
    ([*GQA, "--l2", "warm"], "--l2 warm has a use only with a --gpu"),
    ([*GQA, "--assume-ignored", "x"], "--assume-ignored has a use only with a --model"),
    ([*GQA, "--form", ""], "gqa has one form only"),
    (["variants", ""], "unknown variant ''"),
    (["equations", "gqa", "--mask", "prefix(0)"], "0 is no length"),
    (["equations", "gqa", "--mask", "prefix(zz)"], "zz: a mask's sizes are"),
    ([*GQA, "--with", "../../etc/passwd"], "unknown modifier"),
    ([*GQA, "--gpu", "h100"], "unknown GPU 'h100': did you mean 'h100-sxm'"),
    ([*GQA, "--gpu", "none.toml"], "none.toml: No such file or directory"),
    ([*GQA, "--dtype", "bf61"], "unknown dtype 'bf61': did you mean 'bf16'"),
    ([*GQA, "--dtype", "int4", "--gpu", "tpu-v5e"], "has no tensor_flop_per_s.int4"),
    ([*GQA, "--kv-dtype", "q4"], "unknown kv-dtype 'q4'"),
    ([*GQA, "--phase", "train", "--gpu", "h100-sxm", "--engine", "vllm"], "--engine: of no use with --phase train"),
    ([*GQA, "--phase", "train", "--kv-dtype", "fp8"], "--kv-dtype: of no use with --phase train"),
    ([*GQA, "--phase", "decoding"], "unknown phase 'decoding': did you mean 'decode'"),
    ([*GQA, "--mask", "casual"], "unknown mask 'casual': did you mean 'causal'"),
    ([*GQA, "--mask", "causal &"], "found the end of the line"),
    ([*GQA, "--mask", "window(0)"], "0 is no length"),
    ([*GQA, "--mask", "(" * 10_000], "characters; at most 2,000"),
    ([*GQA, "--mask", "(" * 500 + "causal"], "nested more than 40 deep"),
    ([*GQA, "--mask", f"window({NINES})"], "characters"),
    ([*GQA, "--form", "absorbed"], "gqa has one form only"),
    (
        ["cost", "--variant", "mla", "--seq", "8", "--heads", "4", "--form", "absorb"],
        "unknown form 'absorb': did you mean 'absorbed'",
    ),
    ([*GQA, "--kv-rank", "512"], "--kv-rank has no use for gqa; the variants that have: dsa, mla"),
    (
        ["cost", "--variant", "mqa", "--seq", "8", "--heads", "4", "--kv-heads", "2"],
        "--kv-heads has no use for mqa; the variants that have: differential, gated-deltanet, gqa, kda,",
    ),
    (["cost", "--variant", "cross", "--seq", "8", "--heads", "4", "--window", "2"], "no --window has a meaning"),
    (["cost", "--variant", "sliding-window", "--seq", "8", "--heads", "4"], "missing: --window"),
    ([*GQA, "--kvheads", "2"], "No such option"),
    ([*GQA, "--explain", "flops.matmull"], "unknown key 'flops.matmull': did you mean 'flops.matmul'"),
    ([*GQA, "--format", "xml"], "'xml' is not one of"),
    (["costs"], "unknown verb 'costs': did you mean 'cost'"),
    (
        ["compare", "mha", "gqa", "--seq", "8", "--heads", "4", "--kv-rank", "2"],
        "--kv-rank has no use for any of mha, gqa",
    ),
    (["equations"], "name one variant"),
    (["equations", "gqa", "--variant", "mha"], "name one variant"),
    (["variants", "mlaa"], "did you mean 'mla'"),
    (["schema", "plans"], "unknown schema 'plans'"),
    (["gpus", "a100"], "did you mean 'a100-sxm-80g'"),
]


@pytest.mark.parametrize(("args", "message"), LINES, ids=lambda x: " ".join(x)[:60] if isinstance(x, list) else "")
def test_command_lines(args, message, refused):
    assert message in refused(args)


def test_all_errors_of_a_line_at_once(refused):
    err = refused(["cost", "--variant", "gqa", "--seq", "x", "--heads", "-1", "--batch", "1e3"])
    assert all(f"--{o}: " in err for o in ("seq", "batch"))


LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 100,
    "intermediate_size": 128,
}
CONFIGS = [
    ({**LLAMA, "num_attention_heads": None}, "num_attention_heads is null; it shapes the model"),
    ({k: v for k, v in LLAMA.items() if k != "hidden_size"}, "hidden_size is missing"),
    ({**LLAMA, "hidden_size": "64"}, "hidden_size is '64'; expected a whole number of at least 1"),
    ({**LLAMA, "hidden_size": True}, "hidden_size is True; expected a whole number"),
    ({**LLAMA, "hidden_size": 64.0}, "hidden_size is 64.0; expected a whole number"),
    ({**LLAMA, "hidden_size": -64}, "hidden_size is -64; expected a whole number of at least 1"),
    ({**LLAMA, "hidden_size": [64]}, "hidden_size is [64]; expected"),
    ({**LLAMA, "hidden_size": 10**50}, "a number of more than 40 digits"),
    ({**LLAMA, "num_hidden_layers": 10**9}, "at most 10,000"),
    ({**LLAMA, "attention_bias": "no"}, "attention_bias is 'no'; expected true or false"),
    ({**LLAMA, "num_key_value_heads": 3}, "num_attention_heads = 4 is not divisible by num_key_value_heads = 3"),
    (
        {**LLAMA, "hidden_size": 65},
        "hidden_size = 65 is not divisible by num_attention_heads = 4, and there is no head_dim",
    ),
    (
        {**LLAMA, "attn_logit_softcapping": 50.0},
        "attn_logit_softcapping = 50.0 is not understood and could change the architecture; --assume-ignored attn_logit_softcapping",
    ),
    ({**LLAMA, "partial_rotary_factor": 2}, "expected a share"),
    ({**LLAMA, "rope_parameters": {"partial_rotary_factor": "x"}}, "expected a partial_rotary_factor with 0 < x <= 1"),
    ({**LLAMA, "partial_rotary_factor": 1e-9}, "0 of 16 dimensions of a head would turn"),
    ({**LLAMA, "rope_scaling": {"foo": 1}}, "foo is not understood"),
    (
        {
            **LLAMA,
            "model_type": "qwen3_moe",
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 8,
            "use_sliding_window": True,
            "sliding_window": 8,
        },
        "which layers slide is not stated",
    ),
    ({**LLAMA, "model_type": "qwen2", "layer_types": []}, "layer_types names 0 layers"),
    (
        {**LLAMA, "model_type": "lama", "kv_lora_rank": 8},
        "unknown model_type 'lama': did you mean 'llama'",
    ),
    ({**LLAMA, "model_type": 3}, "model_type is '3', no text"),
    ({k: v for k, v in LLAMA.items() if k != "model_type"}, "model_type is missing"),
    (
        {**LLAMA, "model_type": "qwen2", "layer_types": ["full_attention"]},
        "layer_types names 1 layers, num_hidden_layers is 2",
    ),
    ({**LLAMA, "model_type": "qwen2", "layer_types": ["full_attention", "sliding_attention"]}, "give no window"),
    (
        {**LLAMA, "model_type": "qwen2", "layer_types": ["full", 3]},
        "expected a list of full_attention, sliding_attention",
    ),
    ({**LLAMA, "model_type": "qwen2", "attention_bias": False}, "expected true: this family always has it"),
    ({**LLAMA, "model_type": "deepseek_v3"}, "kv_lora_rank is missing"),
    ({**LLAMA, "pruned_heads": {"0": [1]}}, "pruned_heads = {'0': [1]} is not understood"),
    ({**LLAMA, "hidden_act": "xielu"}, "an activation that is understood here"),
    ({**LLAMA, "model_type": "gemma3_text", "use_bidirectional_attention": True}, "expected false, or 'vision'"),
    (
        {**LLAMA, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 5},
        "5 experts for each token, of 4",
    ),
]


@pytest.mark.parametrize(("config", "message"), CONFIGS)
def test_configs(config, message, refused, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config, indent=1))
    err = refused(["cost", "--model", "config.json", "--seq", "8"])
    assert message in err
    assert "config.json" in err


def test_all_errors_of_a_config_at_once(refused, tmp_path):
    (tmp_path / "c.json").write_text(
        json.dumps({**LLAMA, "hidden_size": "x", "num_attention_heads": 0, "alien": 1}, indent=1)
    )
    err = refused(["cost", "--model", "c.json", "--seq", "8"])
    assert "c.json: 3 errors" in err
    assert "line 3: hidden_size" in err
    assert "line 4: num_attention_heads" in err
    assert "alien" in err


def test_a_field_may_be_declared_harmless(tmp_path, capsys):
    (tmp_path / "c.json").write_text(json.dumps({**LLAMA, "alien": 1}))
    assert run(["cost", "--model", str(tmp_path / "c.json"), "--seq", "8", "--assume-ignored", "alien"]) == 0
    assert "c: 2 attention layers, gqa" in capsys.readouterr().out


FILES = [
    (b"", "the file is empty"),
    (b"   \n", "the file is empty"),
    (b'{\n "a": 1,\n}', "line 3: no valid JSON"),
    (b'{\n "model_type": "llama",\n "model_type": "llama"\n}', "line 3: the key 'model_type' stands twice"),
    (b"[1, 2]", "expected a JSON object, found a list"),
    (b"3", "expected a JSON object, found a number"),
    (b"\xff\xfe\x00", "is not UTF-8"),
    (b'{"a": "\x00"}', "NUL"),
    (b'{"a": NaN}', "NaN is no JSON number"),
    (b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}", "line 1: nested more than 64 deep"),
    (b'{"model_type": "llama", "hidden_size": ' + b"9" * 5000 + b"}", "digits"),
    (b" " * 5_000_000 + b"{}", "more than 4,000,000 bytes"),
]


@pytest.mark.parametrize(("data", "message"), FILES, ids=range(len(FILES)))
def test_files_that_are_no_config(data, message, refused, tmp_path):
    (tmp_path / "config.json").write_bytes(data)
    assert message in refused(["cost", "--model", "config.json", "--seq", "8"])
    assert message in refused(["cost", "--model", str(tmp_path), "--seq", "8"])


def test_paths(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "a directory without a config.json" in refused(["cost", "--model", "empty", "--seq", "8"])
    assert "No such file" in refused(["cost", "--model", "nowhere.json", "--seq", "8"])
    assert (
        "a directory, not a file" in refused([*GQA, "--gpu", str(tmp_path / "x.toml")])
        if (tmp_path / "x.toml").mkdir() is None
        else False
    )


def test_models_whose_attention_is_no_variant_or_two_of_them(refused, tmp_path):
    xlnet = {"model_type": "xlnet", "d_model": 64, "n_layer": 2, "n_head": 4, "d_inner": 64, "vocab_size": 100}
    (tmp_path / "xlnet.json").write_text(json.dumps(xlnet))
    assert "is no variant here yet" in refused(["cost", "--model", "xlnet.json", "--seq", "8"])
    assert "`attnmath model` counts both" in refused(["cost", "--model", "t5-small", "--seq", "8"])
    (tmp_path / "new.json").write_text(json.dumps({**LLAMA, "model_type": "brand_new"}))
    assert "--assume-family NAME" in refused(["cost", "--model", "new.json", "--seq", "8"])


def test_a_model_type_that_is_not_known_is_a_plain_decoder_and_said_to_be(tmp_path, capsys):
    (tmp_path / "new.json").write_text(json.dumps({**LLAMA, "model_type": "brand_new", "odd": 3}))
    assert run(["model", str(tmp_path / "new.json"), "--json"]) == 0
    d = json.loads(capsys.readouterr().out)
    assert (d["parameters"], d["flops"]["forward"], d["weight_bytes"]) == (None, None, None)
    assert d["kv_cache_bytes_per_token"] == 2 * 2 * 2 * 16 * 2
    assert d["assumed"]["architecture"] == "plain decoder"
    assert set(d["refused"]) == {"parameters", "flops"}
    assert run(["model", str(tmp_path / "new.json")]) == 0
    assert "assumed: plain decoder" in capsys.readouterr().err
    family = ["--assume-family", "llama", "--assume-ignored", "odd", "--json"]
    assert run(["model", str(tmp_path / "new.json"), *family]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"]["total"] > 0
    assert run(["model", str(tmp_path / "new.json"), "--assume-family", "llama"]) == 2
    assert "odd = 3 is not understood" in capsys.readouterr().err
    (tmp_path / "new.json").write_text(json.dumps({**LLAMA, "model_type": "brand_new", "kv_lora_rank": 8}))
    assert run(["model", str(tmp_path / "new.json")]) == 2
    assert "no plain decoder, going by line 1: kv_lora_rank" in capsys.readouterr().err


def test_options_beside_a_model(refused, tmp_path):
    (tmp_path / "c.json").write_text(json.dumps(LLAMA))
    assert "have no use beside it" in refused(["cost", "--model", "c.json", "--variant", "gqa", "--seq", "8"])
    assert "--heads: the model's config sets this" in refused(
        ["cost", "--model", "c.json", "--heads", "8", "--seq", "8"]
    )
    assert "missing: --seq" in refused(["cost", "--model", "c.json"])


GPU = '[x]\nhbm_bytes_per_s = { value = 1e12, source = "me" }\n[x.tensor_flop_per_s]\nbf16 = { value = 1e14, source = "me" }\n'
TOMLS = [
    ("[x\n", "no valid TOML: Expected ']'"),
    ("", "the file is empty"),
    ('[sources]\na = "b"\n', "holds 0 accelerators"),
    (GPU + GPU.replace("[x", "[y"), "holds 2 accelerators; name one: g.toml#x, g.toml#y"),
    (GPU + "[x]\n", "no valid TOML"),
    (GPU.replace("value = 1e12", "value = -1"), "x.hbm_bytes_per_s: '-1' is no number of at least 1"),
    (GPU.replace("value = 1e12", "value = nan"), "is no number of at least 1"),
    (GPU.replace("value = 1e12", "value = true"), "is no number of at least 1"),
    (GPU.replace("value = 1e12", 'value = "fast"'), "is no number of at least 1"),
    (GPU.replace(', source = "me" }\n[', "}\n["), 'x.hbm_bytes_per_s: write { value = ..., source = "..." }'),
    (GPU.replace('source = "me" }\n[', 'source = "" }\n['), "a figure needs a source"),
    (GPU.replace("bf16", "bf61"), "unknown dtype 'bf61'"),
    (GPU.replace("hbm_bytes_per_s", "hbm_byte_per_s"), "x.hbm_bytes_per_s is missing"),
    (
        GPU.replace("hbm_bytes_per_s", "hbm_byte_per_s"),
        "unknown figure 'hbm_byte_per_s': did you mean 'hbm_bytes_per_s'",
    ),
    (GPU.split("[x.t")[0], "tensor_flop_per_s is missing"),
    ("x = 3\n", "x and sources are tables"),
    ("a" + "." + ".".join(["b"] * 3000) + " = 1", ""),
]


@pytest.mark.parametrize(("text", "message"), TOMLS)
def test_gpu_files(text, message, refused, tmp_path):
    (tmp_path / "g.toml").write_text(text)
    err = refused([*GQA, "--gpu", "g.toml"])
    assert message in err
    assert "g.toml" in err


PAGE = "title: T\nsource: S\n\nQ[b t d] = X[b t m] * WQ[m d]\nK[b n d] = X[b n m] * WK[m d]\nS[b t n] = Q[b t d] * K[b n d]\nA[b t n] = softmax_n S[b t n]\nt sees n: causal\n"


def WHERE(text):
    return PAGE.replace("\n\n", f"\nwhere: {text}\n\n", 1)


PAGES = [
    (WHERE("d = e, e = d"), "a size cannot depend on itself"),
    (WHERE("d = 1.5"), "where: d = 1.5: a size is a whole number of at least 1"),
    (WHERE("d = 0"), "where: d = 0: a size is a whole number of at least 1"),
    (WHERE("d = -3"), "a size is a whole number of at least 1"),
    (WHERE("past = 3"), "past (tokens before the new ones) is not a page's to set"),
    (WHERE("t = 5"), "is not a page's to set"),
    (WHERE("g = 2"), "where: g is on no line of the page"),
    (WHERE("foo = 3"), "where: foo is on no line of the page"),
    (WHERE("d = exp(e)"), "sizes are made with"),
    (WHERE("d = floor(e / 0)"), "is not divisible by 0"),
    (WHERE("d"), "is no size; write name = value"),
    (WHERE("d = 2, d = 3"), "each name once"),
    (WHERE("eps = 2"), "a number from 0 to 1"),
    ("", "the file is empty"),
    ("title T\n\nQ[b] = X[b]", "line 1: expected one of title:"),
    (PAGE.replace("title: T\n", ""), "a page starts with title:"),
    (PAGE.replace("softmax_n", "sofmax_n"), "line 7: unknown operation 'sofmax': did you mean 'softmax'"),
    (PAGE.replace("K[b n d] =", "K[b n d ="), "line 5: expected"),
    (PAGE.replace("causal", "casual"), "line 8: unknown mask 'casual'"),
    (PAGE + "S[b t n] = 2 * Q[b t d] * K[b n d]\n", "S is defined twice"),
    (PAGE + "Z[b t] = Z[b t] * A[b t n]\n", "refers to itself without a step"),
    (PAGE.replace("WQ[m d]", "WQ[m d zz]"), "neither a letter of the registry"),
    (PAGE + "Z[b t] = A[b t n] * zz\n", "'zz'"),
    ("title: T\nsource: S\nextends: mine.attn\n\n", "extends itself"),
    ("title: T\nsource: S\nextends: gqaa\n\n", "unknown variant 'gqaa'"),
    (PAGE + "\n" * 100_000, "a variant is one page"),
    (PAGE + "Z[b t] = " + "(" * 100 + "\n", "nested more than 40 deep"),
    (PAGE.replace("S[b t n] = Q[b t d]", "S[b t n] = Q[b t]"), "Q[b t] in"),
]


@pytest.mark.parametrize(("text", "message"), PAGES, ids=range(len(PAGES)))
def test_pages_of_ones_own(text, message, refused, tmp_path):
    (tmp_path / "mine.attn").write_text(text)
    assert message in refused(["cost", "--variant", "mine.attn", "--seq", "8", "--head-dim", "4", "--d-model", "8"])


def test_cyclic_extends(refused, tmp_path):
    (tmp_path / "a.attn").write_text("title: A\nsource: S\nextends: b.attn\n\nt sees n: causal\n")
    (tmp_path / "b.attn").write_text("title: B\nsource: S\nextends: a.attn\n\nt sees n: causal\n")
    assert "extends itself" in refused(["cost", "--variant", "a.attn", "--seq", "8"])


GROUP = {"quant_method": "compressed-tensors"}
BLOCK = {"num_bits": 8, "type": "float", "strategy": "block"}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"quant_method": "aqlm"}, "quant_method 'aqlm' is not understood"),
        ({"quant_method": "fp8", "weight_block_size": [0, 128]}, "expected two sizes"),
        ({"quant_method": "gptq", "bits": 5}, "bits 5 in groups of 128 are not understood"),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, "one group of weights is understood"),
        ("fp8", "quantization_config is no object"),
        ({"quant_method": "fp8", "modules_to_not_convert": 5}, "expected a list of names"),
        ({"quant_method": "fp8", "weight_block_size": [True, True]}, "expected two sizes"),
        ({"quant_method": "gptq", "group_size": True}, "groups of True are not understood"),
        (GROUP | {"config_groups": {"g": {"weights": {"num_bits": 8, "strategy": ["x"]}}}}, "are not understood"),
        (GROUP | {"config_groups": {"g": {"weights": BLOCK | {"block_structure": 5}}}}, "are not understood"),
        (GROUP | {"config_groups": {"g": {"weights": BLOCK | {"block_structure": [1, 2, 3]}}}}, "are not understood"),
        (GROUP | {"config_groups": {"g": {"weights": BLOCK, "targets": ["re:.*experts.*"]}}}, "Linear is understood"),
        (
            GROUP | {"config_groups": {"g": {"weights": {"num_bits": 4, "type": "float", "group_size": 8}}}},
            "groups of 8",
        ),
    ],
)
def test_quantisations_that_are_not_understood(said, message, refused, tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({**LLAMA, "quantization_config": said}))
    assert message in refused(["model", "c.json"])
