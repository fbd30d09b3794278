"""What laws are tried on: layers, blocks and masks drawn at random, at sizes small enough to walk element by element.

Everything is drawn from one `random.Random` (hypothesis hands in its own), so a seed stands for a case. `turn` goes through
what is listed and not drawn: the forms of a page under each set of modifiers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from random import Random
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from attnmath import blocks, derivations, layers, modifiers, variants
from attnmath.errors import AttnmathError
from attnmath.language.masks import MASKS as NAMED_MASKS
from attnmath.language.syntax import Program, Shift, ops, refs
from attnmath.layers import Layer
from attnmath.readings import evaluate as evaluating
from attnmath.readings.count import Space
from attnmath.readings.gradient import Gradient, gradient
from attnmath.verifying.judge import Cells, Walk

Array = Any
Past = dict[str, tuple[int, Array]]

MASKS = (
    "full",
    "causal",
    "causal-top-left",
    "before",
    "window(2)",
    "window(3)",
    "prefix:2",
    "first(1)",
    "chunked:2",
    "chunked:3",
    "causal & chunked(2)",
    "window(2) | first(1)",
    "prefix(3) & window(2)",
    "chunked(4) & window(3)",
    "chunked(2) | window(2) | first(2)",
    "around(1)",
    "band(2, 1)",
    "causal & dilated(2)",
    "causal & (window(2) | dilated(3))",
    "causal & documents(2, 3, 4)",
    "documents(2, 1)",
    "documents(1, 2) | window(2)",
    "causal & chunked(2) & documents(3)",
    "before & around(2) & dilated(3)",
)
NONE: tuple[str, ...] = ()
MODIFIERS: dict[str, tuple[tuple[str, ...], ...]] = {  # sets worth trying; a variant that is not here goes without
    "gqa": (
        NONE,
        ("rope",),
        ("rope:layout=interleaved",),
        ("rope:dims=2",),
        ("norm",),
        ("norm:weight=1+w", "rope"),
        ("rope", "norm:weight=none"),
        ("bias",),
        ("bias:on=Q+k+v+Y", "norm", "rope"),
        ("window:w=2",),
        ("rope:dims=2,part=last,turn=back",),
        ("rope:scaling=yarn,factor=4,original=64", "scale:width=16", "softcap:cap=5"),
        ("rope:scaling=llama3,factor=8", "sink"),
        ("norm:over=all", "temperature-tuning:floor=2"),
        ("norm:kind=layer", "gate"),
        ("clip:limit=0.4", "norm:kind=layer,gain=per-head,bias=none", "rope"),
        ("alibi",),
        ("dropout:rate=0.5", "sink:logit=0"),
        ("shared-kv",),
        ("softcap:cap=5", "gate"),
    ),
    "mha": (
        NONE,
        ("rope:dims=2,layout=interleaved",),
        ("bias",),
        ("rope", "rope"),
        ("scale:value=1", "t5-bias:buckets=8,far=6"),
        ("t5-bias:side=decoder,buckets=4,far=5",),
        ("alibi:slopes=mpt", "temperature:tau=2"),
        ("score-bias:axes=t+n",),
    ),
    "mqa": (NONE, ("rope",), ("norm", "bias:on=Y"), ("tied",), ("norm:kind=l2,weight=none", "gate:per=head")),
    "mla": (
        NONE,
        ("rope:layout=interleaved",),
        ("direct-queries",),
        ("direct-queries", "rope"),
        ("bias:on=cQ+cKV+kR+Y",),
    ),
    "cross": (NONE, ("bias:on=Q+k+v+Y",), ("norm",)),
    "sliding-window": (NONE, ("rope",), ("packed",)),
    "dsa": (NONE, ("rope:layout=interleaved", "rope:on=qI+kI,dims=2")),
    "msa": (NONE, ("norm:on=qI+kI,weight=1+w", "rope")),
    "moba": (NONE, ("rope", "sink")),
    "nsa": (NONE, ("softcap:cap=5",)),
    "csa": (
        NONE,
        ("rope:on=Q+kv,dims=2,part=last,layout=interleaved", "rope:on=eI,dims=2", "rope:on=O,turn=back"),
    ),
    "hca": (NONE, ("rope:on=e",)),
    "differential": (NONE, ("rope:on=Q1+k1", "sink")),
    "gated-deltanet": (NONE, ("norm:on=q",)),
}


def combinations(variant: str) -> tuple[tuple[str, ...], ...]:
    """The sets of modifiers that a variant is tried with.

    >>> combinations("mqa")[1]
    ('rope',)
    """
    return MODIFIERS.get(variant, (NONE,))


class Case:
    """A layer, one of its forms, and the sizes it is read at; random inputs from `seed`. What takes long is done once."""

    def __init__(
        self, layer: Layer, form: str, given: Mapping[str, Any], seed: int = 0, mask: str | None = None
    ) -> None:
        self.layer, self.form, self.given, self.seed, self.mask = layer, form, dict(given), seed, mask
        self.page = layer.form(form)
        self.sizes: dict[str, Any] = dict(layer.sizes(self.given)[0])

    @property
    def uses(self) -> list[str]:
        """The layer's modifiers as they are written."""
        return [str(u) for u in self.layer.uses]

    def at(self, **given: Any) -> Case:
        """The same with other sizes."""
        return Case(self.layer, self.form, {**self.given, **given}, self.seed, self.mask)

    @cached_property
    def arrays(self) -> tuple[dict[str, Array], Past]:
        """Random inputs, and a past."""
        return arrays(self.page, self.sizes, self.seed)

    @cached_property
    def graded(self) -> Graded:
        """The page's gradient on the same inputs."""
        return graded(self.page, self.sizes, self.seed)

    @cached_property
    def walked(self) -> tuple[Walk, dict[str, Array], dict[str, Cells]]:
        """The judge's walk over every element, what NumPy makes of the same inputs, and the judge's values."""
        return walked(self.page, self.sizes, self.seed)

    def __str__(self) -> str:
        with_ = "".join(f" with {u}" for u in self.uses)
        mask = f", mask {self.mask}" if self.mask else ""
        form = f", form {self.form}" if len(self.layer.forms) > 1 else ""
        sizes = ", ".join(f"{k} = {v}" for k, v in sorted(self.sizes.items()) if k in self.page.names or k == "past")
        return f"{self.layer.variant.name}{with_}{mask}{form}; {sizes}; inputs {self.seed}"


class Graded(Struct, frozen=True):
    """A page's gradient on random inputs and a random past, computed by NumPy.

    `values`: the tensors of both passes; `sizes`: those of both; `directions`: by (tensor, whether of its past rows), where it
    was computed and what came out.
    """

    page: Program
    gradient: Gradient
    sizes: dict[str, Any]
    inputs: dict[str, Array]
    past: Past
    values: dict[str, Array]

    @property
    def directions(self) -> dict[tuple[str, bool], tuple[Array, Array]]:
        """What has a gradient: its name and whether it is of its past rows, with where it was computed, and the gradient."""
        own = {(n, False): (self.inputs[n], self.values[c]) for n, c in self.gradient.cotangents.items()}
        return own | {(n, True): (self.past[n][1], self.values[c]) for n, c in self.gradient.past.items()}

    @property
    def chosen(self) -> dict[str, Array]:
        """The places that the data choose, which are constants to a gradient."""
        made = self.page.defined.items()
        return {n: self.values[n] for n, e in made if any(op.name == "topk" for a in e.alts for op in ops(a))}


class MaskCase(Struct, frozen=True):
    """A mask's text, so many new queries, tokens before them, and keys; `sides`: rows and columns of a tile, heads packed."""

    text: str
    t: int
    past: int
    n: int  # keys: as many as tokens, but for masks that positions do not bound
    sides: tuple[int | None, int | None, int]

    def __str__(self) -> str:
        rows, cols, packed = self.sides
        tile = f"tiles of {rows or 'all'} x {cols or 'all'}, {packed} heads packed"
        return f"{self.text}; t = {self.t}, past = {self.past}, n = {self.n}; {tile}"


class PageCase(Struct, frozen=True):
    """A derivation by its name; nothing of it is drawn but what its claims are tried on."""

    name: str

    def __str__(self) -> str:
        return f"the derivation {self.name}"


# -- drawing


def maskable(name: str) -> bool:
    """Whether a mask of the caller's makes sense: one mask of positions, in every form.

    >>> maskable("gqa"), maskable("nsa")
    (True, False)
    """
    forms = variants.get(name).forms.values()
    return name != "cross" and all([pair for pair in p.sees if pair[0] == "t"] == [("t", "n")] for p in forms)


def of_variant(rng: Random, name: str, turn: int) -> Case:
    """A variant in one of its forms with one of its sets of modifiers; half the time with another mask, where it takes one.

    >>> case = of_variant(Random(1), "mqa", 1)
    >>> case.uses, case.form
    (['rope'], 'definition')
    """
    found = combinations(name)
    forms = len(variants.get(name).forms)
    return _layer(rng, name, found[turn // forms % len(found)], turn % forms)


def of_modifier(rng: Random, name: str, turn: int) -> Case:
    """A modifier as it is without options, on one of the variants that it changes.

    >>> of_modifier(Random(1), "rope", 0).uses
    ['rope']
    """
    others = sorted(variants.names(), key=lambda n: (n != "gqa", n)) if turn == 0 else _shuffled(rng, variants.names())
    for variant in others:
        try:
            layer = layers.build(variant, [name])
            if str(layer.form()) != str(layers.build(variant).form()):
                return _layer(rng, variant, (name,), turn % len(layer.forms))
        except AttnmathError:
            continue
    raise AssertionError(f"{name} changes no variant")


def _shuffled(rng: Random, names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda _: rng.random())


def _layer(rng: Random, name: str, uses: Sequence[str], turn: int) -> Case:
    """Sizes, mask and phase at random."""
    phase = rng.choice(("prefill", "one new token", "several"))
    mask = rng.choice(MASKS) if rng.random() < 0.5 and maskable(name) else None
    layer = layers.build(name, uses, mask)
    form = list(layer.forms)[turn]
    chunked = "c" in layer.names
    i = 1 if chunked and phase == "one new token" else rng.randint(1, 3)
    t = {"prefill": rng.randint(1, 4), "one new token": 1, "several": rng.randint(2, 3)}[phase]
    t = i * rng.randint(1, 2) if chunked and phase != "one new token" else t
    given = {"b": rng.randint(1, 2), "t": t, "i": i, "p": 2, "layers": 4}
    given |= {x: rng.choice((2, 4)) for x in ("d", "z")}
    given |= {x: rng.randint(1, 3) for x in ("e", "m", "l", "q", "x", "k", "a", "v", "tap", "layer")}
    g, r = rng.randint(1, 2), rng.randint(1, 2)
    given |= {"h": g * r, "g": g, "group": g, "w": rng.randint(1, 4)}
    if name == "cross":
        given["n"] = rng.randint(1, 4)
        given["kept"] = 0 if phase == "prefill" else given["n"]
    elif phase != "prefill":
        given["n"] = t + rng.randint(0, 4)
    kept = {n: x for n, x in given.items() if n in layer.names or n in ("h", "g", "n", "t")}
    return Case(layer, form, {n: x for n, x in kept.items() if n not in layer.local}, rng.randrange(1000), mask)


def of_block(rng: Random, name: str, turn: int) -> Case:
    """What models have beside attention, at sizes of its words that differ.

    >>> of_block(Random(1), "rms-norm", 0).layer.variant.name
    'rms-norm'
    """
    layer = layers.build(blocks.get(name))
    words: dict[str, Any] = {k: rng.randint(2, 5) for k in layer.local} | {"one": 1}
    words |= {"expert": 4, "active": rng.randint(1, 3)}
    same = {k: v for k, v in layer.local.items() if isinstance(v, str) and v in layer.local}  # `from = stream`
    layer = replace(layer, local={k: words[k] for k in layer.local} | same)
    given = {"b": 2, "t": rng.randint(1, 3), "m": rng.randint(1, 3), "h": 2, "d": 2}
    form = list(layer.forms)[turn % len(layer.forms)]
    return Case(layer, form, {k: v for k, v in given.items() if k in layer.names or k == "h"}, rng.randrange(1000))


def of_mask(rng: Random, name: str, turn: int) -> MaskCase:
    """A mask, alone first, then joined with others of the registry.

    >>> of_mask(Random(1), "causal", 0).text
    'causal'
    """
    text = _mask(rng, name)
    for _ in range(turn % 3):
        other, join = _mask(rng, rng.choice(sorted(NAMED_MASKS))), rng.choice("&|")
        text = f"({text}) {join} ({other})" if rng.random() < 0.5 else f"({other}) {join} ({text})"
    sides = (rng.choice((None, *range(1, 10))), rng.choice((None, *range(1, 10))), rng.randint(1, 3))
    t, past = rng.randint(1, 16), rng.randint(0, 12)
    n = rng.randint(1, 20) if text == "full" or "blocks" in text else t + past
    return MaskCase(text, t, past, n, sides)


def _mask(rng: Random, name: str) -> str:
    row = NAMED_MASKS[name]
    many = rng.randint(1, 3) if row.args == ("k..",) else len(row.args)
    sizes = ", ".join(str(rng.randint(row.least, 9)) for _ in range(many))
    return f"{name}({sizes})" if sizes else name


class Kind(Struct, frozen=True):
    """What a name can stand for: which names there are, what laws are tried on in its name, and how often by default."""

    names: Callable[[], Iterable[str]]
    draw: Callable[[Random, str, int], Any]  # (randomness, name, turn) -> a case
    turns: Callable[[str], int]


def _pages(name: str) -> int:
    """Every form under every set of modifiers once."""
    return max(2, len(variants.get(name).forms) * len(combinations(name)))


KINDS: dict[str, Kind] = {
    "variant": Kind(variants.names, of_variant, _pages),
    "derivation": Kind(derivations.titles, lambda rng, name, turn: PageCase(name), lambda name: 1),
    "modifier": Kind(modifiers.names, of_modifier, lambda name: 2),
    "block": Kind(blocks.names, of_block, lambda name: 2),
    "mask": Kind(lambda: NAMED_MASKS, of_mask, lambda name: 30),
}


def draw(kind: str, name: str, seed: int) -> Any:
    """The case that a seed stands for; the same on every machine.

    >>> str(draw("variant", "gqa", 3)) == str(draw("variant", "gqa", 3))
    True
    """
    return KINDS[kind].draw(Random(f"{kind} {name} {seed}"), name, seed)


# -- arrays


def arrays(page: Program, sizes: Mapping[str, Any], seed: int = 0) -> tuple[dict[str, Array], Past]:
    """Random inputs of a page, and a past for what it reads before the new tokens (tokens, blocks, or states).

    >>> inputs, past = arrays(variants.get("mqa").program, dict(b=1, t=1, n=3, past=2, h=1, d=2, e=2, m=2))
    >>> inputs["X"].shape, past["k"][1].shape
    ((1, 1, 2), (1, 2, 2))
    """
    rng, space = np.random.default_rng(seed), Space(page, sizes)

    def shape(name: str) -> list[int]:
        return [int(space.elements((i,))) for i in page.tensors[name]]

    inputs = {n: rng.standard_normal(shape(n)) / 2 for n in page.inputs}
    past: Past = {}
    for r in (r for e in page.defined.values() for a in e.alts for r in refs(a)):
        for axis, i in enumerate(r.index):
            if not isinstance(i, Shift) or i.base not in ("t", "n", "c", "o"):
                continue
            offset = next((x for sign, x in i.by if sign < 0 and x in ("past", "kept", "done")), None)
            back = sum(-sign * x if isinstance(x, int) else sizes[x] - 1 for sign, x in i.by if x != offset)
            rows = int(sizes[str(offset)]) if offset else int(back) if sizes.get("past") else 0
            if rows > 0:
                before = shape(r.name)
                before[axis] = rows
                past[r.name] = (axis, rng.standard_normal(before) / 2)
    return inputs, past


def sliced(page: Program, inputs: Mapping[str, Array], at: int, t: int) -> dict[str, Array]:
    """The inputs of a step that adds t tokens to those seen so far.

    >>> page = variants.get("mqa").program
    >>> sliced(page, {"X": np.arange(5.0).reshape(1, 5, 1)}, 2, 1)["X"].tolist()
    [[[2.0]]]
    """
    cut = {"t": lambda x, k: np.take(x, range(at, at + t), k), "n": lambda x, k: np.take(x, range(at + t), k)}
    out = {}
    for n, x in inputs.items():
        for k, i in enumerate(page.tensors[n]):
            x = cut[str(i)](x, k) if i in cut else x
        out[n] = x
    return out


def table(x: Array) -> Cells:
    """An array as the judge reads it.

    >>> table(np.array([[1.0, 2.0]]))[0, 1]
    2.0
    """
    return {place: float(v) for place, v in np.ndenumerate(x)}


def walked(
    page: Program,
    sizes: Mapping[str, Any],
    seed: int = 0,
    only: set[str] | None = None,
    given: Iterable[str] = (),
) -> tuple[Walk, dict[str, Array], dict[str, Cells]]:
    """(the walk, what NumPy makes of the same inputs, the walk's values); `given`: tensors handed in, not computed.

    >>> walk, out, values = walked(variants.get("mqa").program, dict(b=1, t=2, n=2, past=0, h=1, d=2, e=2, m=2))
    >>> walk.exps["A"], bool(abs(values["Y"][0, 0, 0] - out["Y"][0, 0, 0]) < 1e-12)
    (3, True)
    """
    inputs, past = arrays(page, sizes, seed)
    out = evaluating.run(page, sizes, inputs, {n: x for n, (_, x) in past.items()})
    handed = {**inputs, **{n: out[n] for n in given}}
    walk = Walk(
        str(page),
        dict(sizes),
        {n: table(x) for n, x in handed.items()},
        {n: (axis, x.shape[axis], table(x)) for n, (axis, x) in past.items()},
    )
    return walk, out, walk.run(only)


def graded(page: Program, sizes: Mapping[str, Any], seed: int = 0, recompute: str = "none") -> Graded:
    """The gradient of a page's result, weighed at random, by all that has one: inputs and rows of the past; `recompute`: what
    of the forward pass is computed again.

    >>> found = graded(variants.get("mqa").program, dict(b=1, t=1, n=3, past=2, h=1, d=2, e=2, m=2))
    >>> [(name, past) for name, past in found.directions]
    [('X', False), ('WQ', False), ('WK', False), ('WV', False), ('WO', False), ('k', True), ('v', True)]
    """
    inputs, past = arrays(page, sizes, seed)
    found = gradient(page, past={n: x.shape[axis] for n, (axis, x) in past.items()}, recompute=recompute)
    old, both = {n: x for n, (_, x) in past.items()}, {**sizes, **found.sizes}
    values = evaluating.run(found.forward, sizes, inputs, old)
    rng = np.random.default_rng(seed + 1)
    seeds = {c: rng.standard_normal(values[n].shape) for n, c in found.seeds.items()}
    out = evaluating.run(found.backward, both, {**values, **seeds}, old)
    return Graded(page, found, both, inputs, past, {**values, **seeds, **out})
