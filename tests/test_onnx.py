"""ONNX's conformance cases for attention, through `evaluate`: each is a node, its inputs and what it has to give.

The cases are a folder with an index.json and one NAME.npz each: arrays `in.X` and `out.Y` by the node's own names,
those of half precision stored as float32, their type under `dtypes`. ATTNMATH_ONNX names another folder. What is here
lays arrays out, meets masks and converts types; what is computed, the pages compute. A case with an operator, an
attribute, an input or a subgraph that nothing here knows fails under its own name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import attnmath as am

ROOT = Path(__file__).resolve().parent.parent
HERE, SHARED = ROOT / "tests" / "vectors" / "onnx", ROOT.parent / "shared" / "vectors" / "onnx"
FOLDER = Path(os.environ.get("ATTNMATH_ONNX") or (HERE if HERE.exists() else SHARED))
INEXPRESSIBLE: dict[str, str] = {}  # a case's name: why no page says it

# The reference rounds to the type of its inputs after every step, a page evaluates in float32 throughout: they agree to
# the last bit of that type, which is 2^-7 of a number in bfloat16 and 2^-10 in float16.
COARSE = {"bfloat16": 8e-3, "float16": 1e-3}
FLOAT16, DOUBLE, BFLOAT16 = 10, 11, 16  # TensorProto's numbers, as in softmax_precision

Arrays = dict[str, np.ndarray]
Attributes = Mapping[str, Any]


def cases() -> list[Any]:
    """A parameter for every case of the folder; one that skips, saying why, where there is no folder."""
    index = FOLDER / "index.json"
    if not index.exists():
        return [pytest.param({}, id="none", marks=pytest.mark.skip(reason=f"no ONNX cases at hand: {index} is absent"))]
    return [_parameter(case) for case in json.loads(index.read_text())["cases"]]


def _parameter(case: dict[str, Any]) -> Any:
    why = INEXPRESSIBLE.get(case["name"])
    return pytest.param(case, id=case["name"], marks=[pytest.mark.xfail(reason=why, strict=True)] if why else [])


@pytest.mark.parametrize("case", cases())
def test_case(case):
    """Every output that the node names, so that a cache or the scores cannot be wrong behind a right result."""
    operator = known(case)
    with np.load(FOLDER / f"{case['name']}.npz") as arrays:
        ins = named(case["inputs"], operator.inputs, "in", arrays)
        want = named(case["outputs"], operator.outputs, "out", arrays)
    assert want, "a case without outputs proves nothing"
    got = operator.run({n: computable(x, case["attrs"]) for n, x in ins.items()}, case["attrs"])
    types = {n: case["dtypes"][f"out.{own}"] for n, own in zip(operator.outputs.split(), case["outputs"]) if own}
    for name in want:
        compare(got[name], want[name], name, types[name], case)


def known(case: Mapping[str, Any]) -> Operator:
    """The case's operator, where every attribute of the case is one that it reads."""
    assert case["op"] in OPERATORS, f"nothing here knows the operator {case['op']}"
    operator = OPERATORS[case["op"]]
    unknown = case["attrs"].keys() - set(operator.attributes.split())
    assert not unknown, f"nothing here knows {case['op']}'s {', '.join(sorted(unknown))}"
    return operator


def named(own: list[str], formal: str, side: str, arrays: Mapping[str, np.ndarray]) -> Arrays:
    """The arrays that a node has, by the operator's names: a place tells which is which, "" leaves it empty."""
    assert len(own) <= len(formal.split()), f"only {formal} are known; the case has {', '.join(own)}"
    return {name: arrays[f"{side}.{edge}"] for name, edge in zip(formal.split(), own) if edge}


def computable(x: np.ndarray, attributes: Attributes) -> np.ndarray:
    """Numbers in float32 at least, in float64 where the softmax is asked for in it; booleans and integers stay."""
    if x.dtype.kind != "f":
        return x
    return x.astype(np.float64 if attributes.get("softmax_precision") == DOUBLE else np.result_type(x, np.float32))


def compare(got: np.ndarray, want: np.ndarray, name: str, dtype: str, case: Mapping[str, Any]) -> None:
    """Within the case's own tolerance, but 3e-6 at least; where something is rounded to half precision, within that."""
    assert got.shape == want.shape, f"{name} has shape {got.shape}, not {want.shape}"
    rounded = {FLOAT16: "float16", BFLOAT16: "bfloat16"}.get(case["attrs"].get("softmax_precision"))
    coarse = max(COARSE.get(dtype, 0), COARSE.get(rounded, 0))
    rtol, atol = max(case["rtol"], coarse), max(case["atol"], coarse or case.get("numpy", {}).get("tol", 3e-6))
    np.testing.assert_allclose(got, want.astype(got.dtype), rtol, atol, equal_nan=False, err_msg=name)


# -- softmax attention: Attention and FlexAttention


class Core(NamedTuple):
    """Queries [b h t d], keys and values [b g n d], and how the scores between them become weights."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    past: Arrays | None = None  # keys and values [b g past d] that come before them
    stages: tuple[list[str], ...] = ()  # modifiers of the scores: up to the scaled product, up to the capped one
    mask: str | np.ndarray = "full"  # booleans [b h t n]
    bias: np.ndarray | None = None  # [b h t n], added to the scores
    factor: np.ndarray | None = None  # [b h t n], multiplies the weights

    def evaluate(self) -> Arrays:
        """Y [b h t e]; L and A, scores and weights, [b h t n]; present keys and values."""
        b, h, t, _ = self.q.shape
        page, tensors, axes, weights = (across if self.apart else along)(self)
        uses, extra = [use for stage in self.stages for use in stage], {}
        for name, use, x in (("SB", f"score-bias:axes={axes}", self.bias), ("KEEP", "dropout:rate=0", self.factor)):
            if x is not None:
                uses, extra = [*uses, use], {**extra, name: x.reshape(weights)}
        mask = self.mask if isinstance(self.mask, str) else self.mask.reshape(b, -1, *weights[-2:])
        cache = {n: x.swapaxes(1, 2) for n, x in self.past.items()} if self.past else None
        out = am.evaluate(page, tensors | extra, modifiers=uses, mask=mask, cache=cache)
        keys, values = (out.cache["k"], out.cache["v"]) if cache else (out["K"], out["V"])
        n = keys.shape[1]
        return {
            "Y": np.moveaxis(out["O"], 1, -2).reshape(b, h, t, -1),
            "L": out["L"].reshape(b, h, t, n),
            "A": out["A"].reshape(b, h, t, n),
            "present_key": keys.swapaxes(1, 2),
            "present_value": values.swapaxes(1, 2),
        }

    @property
    def apart(self) -> bool:
        """Whether keys are no continuation of the queries' own tokens: they come in other numbers, or are fewer."""
        t, s = self.q.shape[2], self.k.shape[2]
        return s != t if self.past else s < t

    @property
    def before(self) -> int:
        """How many keys are past ones."""
        return self.past["k"].shape[2] if self.past else 0

    @property
    def length(self) -> int:
        """How many keys there are, the past ones included."""
        return self.k.shape[2] + self.before


def along(core: Core) -> tuple[str, Arrays, str, tuple[int, ...]]:
    """On the page of gqa; with a cache the keys are new, one for each query, and without one they are all there are."""
    b, h, t, d = core.q.shape
    g = core.k.shape[1]
    q = np.moveaxis(core.q.reshape(b, g, h // g, t, d), 3, 1)
    names = "kv" if core.past else "KV"
    tensors = {"Q": q} | {n: x.swapaxes(1, 2) for n, x in zip(names, (core.k, core.v))}
    return "gqa", tensors, "b+g+r+t+n", (b, g, h // g, t, core.length)


def across(core: Core) -> tuple[str, Arrays, str, tuple[int, ...]]:
    """On the page of cross, whose keys are counted apart; query heads that share keys become queries of one head."""
    b, h, t, d = core.q.shape
    g = core.k.shape[1]
    rows = h // g * t
    tensors = {"Q": core.q.reshape(b, g, rows, d), "k": core.k, "v": core.v}
    return "cross", {n: x.swapaxes(1, 2) for n, x in tensors.items()}, "b+h+t+n", (b, g, rows, core.length)


def attention(ins: Arrays, attributes: Attributes) -> Arrays:
    """Attention 23 to 25: scale, soft cap, then what attn_mask adds, then softmax."""
    flat = ins["Q"].ndim == 3
    q, k, v = (split(ins[n], attributes.get(f"{who}_num_heads")) for n, who in zip("QKV", ("q", "kv", "kv")))
    past = {"k": ins["past_key"], "v": ins["past_value"]} if "past_key" in ins else None
    core = Core(q, k, v, past, stages(attributes))
    sees, bias = pairs(core, ins, attributes)
    out = core._replace(mask=said(core, ins, attributes) or sees, bias=bias).evaluate()
    scores = shown(core._replace(bias=bias), sees, out, attributes.get("qk_matmul_output_mode", 0))
    y = out["Y"].swapaxes(1, 2).reshape(*ins["Q"].shape[:2], -1) if flat else out["Y"]
    return out | {"Y": y, "qk_matmul_output": scores}


def split(x: np.ndarray, heads: int | None) -> np.ndarray:
    """[b h t d], from that or from [b t (h d)]."""
    return x if x.ndim == 4 else x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def stages(attributes: Attributes) -> tuple[list[str], ...]:
    """The modifiers of the scores by what qk_matmul_output_mode shows: the product, then the capped one."""
    scale, cap = attributes.get("scale"), attributes.get("softcap")
    return ([] if scale is None else [f"scale:value={scale!r}"]), ([f"softcap:cap={cap!r}"] if cap else [])


def shown(core: Core, sees: np.ndarray, out: Arrays, mode: int) -> np.ndarray:
    """The scores or weights asked for; those before the softmax exist for pairs that the mask leaves out, too."""
    assert mode in range(4), f"nothing here knows qk_matmul_output_mode {mode}"
    if mode == 3:
        return out["A"]
    if mode == 2:  # the operator adds minus infinity where the page has no pair
        return np.where(sees, core.evaluate()["L"], -np.inf)
    return core._replace(stages=core.stages[: mode + 1], bias=None).evaluate()["L"]


def pairs(core: Core, ins: Arrays, attributes: Attributes) -> tuple[np.ndarray, np.ndarray | None]:
    """(which pairs exist, what their scores gain), both [b h t n]: minus infinity says that a pair does not exist."""
    b, h, t, _ = core.q.shape
    n = core.length
    ahead = np.arange(n) - np.arange(t)[:, None] - offset(core, ins)
    left, right = window(attributes)
    sees = np.ones((b, h, t, n), bool)
    sees &= (ahead <= 0) | (not attributes.get("is_causal"))
    sees &= ((ahead >= -left) | (left < 0)) & ((ahead <= right) | (right < 0))
    if "nonpad_kv_seqlen" in ins:
        sees &= np.arange(n) < ins["nonpad_kv_seqlen"].reshape(-1, 1, 1, 1)
    if "attn_mask" not in ins:
        return sees, None
    given = ins["attn_mask"]
    nothing = False if given.dtype == bool else -np.inf
    given = np.pad(given, [(0, 0)] * (given.ndim - 1) + [(0, n - given.shape[-1])], constant_values=nothing)
    if given.dtype == bool:
        return sees & given, None
    return sees & (given > -np.inf), np.broadcast_to(np.where(given > -np.inf, given, given.dtype.type(0)), sees.shape)


def offset(core: Core, ins: Arrays) -> Any:
    """The first query's place among the keys: after the past, or where the last one ends what is no padding."""
    if "nonpad_kv_seqlen" in ins:
        return ins["nonpad_kv_seqlen"].reshape(-1, 1, 1, 1) - core.q.shape[2]
    return core.before


def window(attributes: Attributes) -> tuple[int, int]:
    """Keys to the left and to the right of a query's position; -1 is no bound."""
    return attributes.get("left_window_size", -1), attributes.get("right_window_size", -1)


def said(core: Core, ins: Arrays, attributes: Attributes) -> str | None:
    """The mask in words where attnmath has them, so that its own masks are tested; None where only booleans say it."""
    t, n = core.q.shape[2], core.length
    left, right = window(attributes)
    if {"attn_mask", "nonpad_kv_seqlen"} & ins.keys() or core.apart or (max(left, right) >= 0 and n - t != core.before):
        return None
    words = ["causal-top-left" if n != t and not core.past else "causal"] if attributes.get("is_causal") else []
    if max(left, right) >= 0:
        words.append(f"band({left if left >= 0 else n}, {right if right >= 0 else n})")
    return " & ".join(words) or "full"


def flex_attention(ins: Arrays, attributes: Attributes) -> Arrays:
    """Attention whose scores and weights pass through subgraphs."""
    core = Core(ins["Q"], ins["K"], ins["V"], stages=stages(attributes))
    for which, table in (("score_mod", SCORE_MODS), ("prob_mod", PROB_MODS)):
        if graph := attributes.get(which):
            assert graph in table, f"nothing here knows the {which} {graph}"
            core = table[graph](core)
    return core.evaluate()


def constant(core: Core, value: float) -> np.ndarray:
    return np.full((*core.q.shape[:3], core.length), value, core.q.dtype)


def relative(core: Core) -> np.ndarray:
    """How far the key is behind the query."""
    behind = np.arange(core.q.shape[2])[:, None] - np.arange(core.length)
    return constant(core, 0) + behind.astype(core.q.dtype)


# An index says which operators a subgraph has, not its constants, which are those of the cases in ONNX's own source.
INDICES = "Shape,Gather,Gather,Range,Reshape,Range,Reshape"
SCORE_MODS: dict[str, Callable[[Core], Core]] = {
    "<subgraph:Add>": lambda core: core._replace(bias=constant(core, 0.5)),
    "<subgraph:Div,Tanh,Mul>": lambda core: core._replace(stages=(*core.stages, ["softcap:cap=20"])),
    f"<subgraph:{INDICES},GreaterOrEqual,Where>": lambda core: core._replace(mask=relative(core) >= 0),
    f"<subgraph:{INDICES},Sub,Cast,Add>": lambda core: core._replace(bias=relative(core)),
}
PROB_MODS: dict[str, Callable[[Core], Core]] = {
    "<subgraph:Mul>": lambda core: core._replace(factor=constant(core, 0.5)),
}


# -- states and rotations

RULES = {  # update_rule: whether it takes a decay, whether it takes a beta
    "linear": (False, False),
    "gated": (True, False),
    "delta": (False, True),
    "gated_delta": (True, True),
}


def linear_attention(ins: Arrays, attributes: Attributes) -> Arrays:
    """A state that decays, on the page of gated linear attention, or also corrects itself, on the page of KDA.

    chunk_size is a hint for speed and changes no output. Query heads that share a state each have a copy of it.
    """
    rule = attributes.get("update_rule", "gated_delta")
    assert RULES.get(rule) == ("decay" in ins, "beta" in ins), f"update_rule {rule} with {', '.join(ins)}"
    h, g = attributes["q_num_heads"], attributes["kv_num_heads"]
    q, k, v = (ins[n].reshape(*ins[n].shape[:2], -1, x) for n, x in widths(ins, h, g).items())
    q = q * q.dtype.type(attributes.get("scale") or q.shape[-1] ** -0.5)  # the pages' Q is scaled
    k, v, decay = (np.repeat(x, h // g, 2) for x in (k, v, log_decay(ins.get("decay"), k)))
    cache = {"H": np.repeat(ins["past_state"], h // g, 1)[:, None]} if "past_state" in ins else None
    if "beta" not in ins:
        out = am.evaluate("gated-linear-attention", {"Q": q, "k": k, "v": v, "g": decay}, cache=cache, form="recurrent")
        y, state = out["O"], out["H"][:, -1]
    else:
        beta = np.repeat(np.broadcast_to(ins["beta"], (*q.shape[:2], g)), h // g, 2)
        tensors = {"Q": q, "K": k, "v": v[:, :, :, None], "a": decay[:, :, :, None], "beta": beta[..., None]}
        cache = {"H": cache["H"][:, :, :, None]} if cache else None
        out = am.evaluate("kda", tensors, cache=cache, form="recurrent")
        y, state = out["O"][:, :, :, 0], out["H"][:, -1, :, 0]
    return {"output": y.reshape(*y.shape[:2], -1), "present_state": state[:, :: h // g]}


def widths(ins: Arrays, h: int, g: int) -> dict[str, int]:
    """How wide a head is, by the input."""
    return {name: ins[name].shape[-1] // heads for name, heads in (("query", h), ("key", g), ("value", g))}


def log_decay(decay: np.ndarray | None, k: np.ndarray) -> np.ndarray:
    """[b t g d], from one logarithm per channel, from one per head, or from none: nothing is forgotten."""
    if decay is None:
        return np.zeros_like(k)
    return np.broadcast_to(decay.reshape(*k.shape[:3], -1), k.shape)


def rotary_embedding(ins: Arrays, attributes: Attributes) -> Arrays:
    """The modifier rope, its table handed in. Each row has its own positions: all rows' tokens make one sequence."""
    flat = ins["input"].ndim == 3
    x = split(ins["input"], attributes.get("num_heads")).swapaxes(1, 2)
    at = ins.get("position_ids", ...)
    cos, sin = (ins[n][at] for n in ("cos_cache", "sin_cache"))
    table = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], -2)
    layout = "interleaved" if attributes.get("interleaved") else "half"
    use = f"rope:on=Q,layout={layout},dims={attributes.get('rotary_embedding_dim', 0)}"
    tensors = {"Q0": x.reshape(1, -1, *x.shape[2:]), "ROT": table.reshape(-1, *table.shape[2:])}
    y = am.evaluate("mha", tensors, modifiers=[use])["Q"].reshape(x.shape)
    return {"output": y.reshape(ins["input"].shape) if flat else y.swapaxes(1, 2)}


class Operator(NamedTuple):
    """What computes it, and the names of its inputs and outputs, which go by place, and of its attributes."""

    run: Callable[[Arrays, Attributes], Arrays]
    inputs: str
    outputs: str
    attributes: str


OPERATORS = {
    "Attention": Operator(
        attention,
        "Q K V attn_mask past_key past_value nonpad_kv_seqlen",
        "Y present_key present_value qk_matmul_output",
        "is_causal kv_num_heads left_window_size q_num_heads qk_matmul_output_mode right_window_size scale softcap "
        "softmax_precision",
    ),
    "FlexAttention": Operator(flex_attention, "Q K V", "Y", "prob_mod scale score_mod softmax_precision"),
    "LinearAttention": Operator(
        linear_attention,
        "query key value past_state decay beta",
        "output present_state",
        "chunk_size kv_num_heads q_num_heads scale update_rule",
    ),
    "RotaryEmbedding": Operator(
        rotary_embedding,
        "input cos_cache sin_cache position_ids",
        "output",
        "interleaved num_heads rotary_embedding_dim",
    ),
}
