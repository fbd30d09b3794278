"""A layer: a variant, the modifiers on it, and its mask; what every verb starts from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from attnmath import modifiers, variants
from attnmath.errors import InputError, LanguageError
from attnmath.language.arith import Number, any_true, known, number, shown
from attnmath.language.letters import LETTERS, mentioned, needed, resolve
from attnmath.language.masks import MaskExpr, both, named
from attnmath.language.parse import expression, mask
from attnmath.language.syntax import Num, Program
from attnmath.readings.count import recursive
from attnmath.variants import Variant

PAIR = ("t", "n")  # the mask of a softmax variant: which key a query sees


class Layer(Struct, frozen=True):
    """Programs ready to be read: one per form, modifiers and mask worked in.

    `local`: the sizes that the page's own words have and that modifiers bring along, numbers or expressions over letters.
    """

    variant: Variant
    uses: tuple[modifiers.Use, ...]
    forms: Mapping[str, Program]
    local: Mapping[str, int | float | str]

    def __repr__(self) -> str:
        return f"<Layer {self.variant.name} with {', '.join(map(str, self.uses)) or 'nothing'}, {self.mask}>"

    def form(self, name: str | None = None) -> Program:
        """One form; the definition if none is named."""
        self.variant.form(name)
        return self.forms[name] if name is not None else next(iter(self.forms.values()))

    @property
    def mask(self) -> MaskExpr | None:
        """The mask between queries and keys."""
        return self.form().sees.get(PAIR)

    @property
    def names(self) -> tuple[str, ...]:
        """Every letter that its pages and its modifiers' sizes mention."""
        return self.letters(self.forms.values())

    def letters(self, pages: Iterable[Program]) -> tuple[str, ...]:
        """Every letter that these pages mention, or that a modifier's size they mention is computed from."""
        found = dict.fromkeys(n for p in pages for n in (*p.names, *_positions(p)))
        for name, value in self.local.items():
            if name in found:
                found |= dict.fromkeys(mentioned(value))
        return tuple(n for n in found if n in LETTERS)

    def sizes(
        self,
        given: Mapping[str, Number],
        lift: Callable[[str, Number], Number] = lambda letter, value: value,
        page: Program | None = None,
    ) -> tuple[dict[str, Number], dict[str, Number]]:
        """(every size and option that its pages, or one page, need; those that were assumed); see `letters.resolve`.

        Raises InputError if sizes are missing, do not divide, or contradict each other.
        """
        own = {k: v for k, v in self.local.items() if k in LETTERS}
        defaults = {k: v for k, v in self.variant.where.items() if k in LETTERS}
        values, assumed = resolve(self.letters([page]) if page else self.names, {**given, **own}, lift, defaults)
        for k, v in own.items():
            if k in given and k in values and any_true(_plain(given[k]) != _plain(values[k])):
                raise InputError(
                    f"--{LETTERS[k].option} {_plain(given[k])} and a modifier's {k} = {v} contradict each other"
                )
        for name, value in self.local.items():
            if name not in LETTERS and (page is None or name in page.names):
                try:
                    values[name] = number(expression(value), values) if isinstance(value, str) else value
                except InputError as error:
                    raise InputError(f"{_made_of(value, values)}: {error} ({name} = {value})") from None
                if known(values[name]) and any_true(values[name] < 0):
                    raise InputError(f"{_made_of(value, values)}: {name} = {value} would be {values[name]}")
        _consistent(values)
        return values, {k: v for k, v in assumed.items() if k not in own}


def _positions(page: Program) -> tuple[str, ...]:
    """A mask over positions needs to know where the queries stand, at the end of the keys; a recursion, where it begins."""
    positional = any(q == "t" and m.name != "full" for (q, _), m in page.sees.items()) or recursive(page)
    return ("past",) if positional and "kept" not in page.names else ()


def _plain(x: Number) -> Number:
    """A formula's value; anything else as it is."""
    return getattr(x, "value", x)


def _made_of(value: int | float | str, sizes: Mapping[str, Number]) -> str:
    """The options that a size is computed from, with their values."""
    return ", ".join(
        f"--{LETTERS[x].option} {sizes[x]}" for x in mentioned(value) if x in LETTERS and LETTERS[x].option
    )


def _consistent(sizes: Mapping[str, Number]) -> None:
    found: list[Any] = [sizes.get(x) for x in ("t", "n", "layer", "layers")]
    t, n, layer, layers = found
    if "past" in sizes and known(t, n) and any_true(n < t):
        raise InputError(
            f"--context {shown(n)} is less than --seq {shown(t)}: "
            "the context counts the new tokens too (only cross-attention may have less)"
        )
    if known(layer, layers) and any_true(layer >= layers):
        raise InputError(f"--layer {layer} of --layers {layers}: the first is layer 0, the last {layers - 1}")


def check_documents(mask: MaskExpr | None, sizes: Mapping[str, Number]) -> None:
    """Refuse documents that do not make up the context, which would leave tokens that see nothing.

    >>> check_documents(mask("documents(3, 4)"), {"n": 8})
    Traceback (most recent call last):
        ...
    attnmath.errors.InputError: mask documents(3, 4): its documents make 7 tokens, the context is 8
    """
    for m in _documents(mask):
        tokens, n = m.tokens(sizes), sizes.get("n")
        if known(n, tokens) and any_true(tokens != n):
            raise InputError(f"mask {m}: its documents make {shown(tokens)} tokens, the context is {shown(n)}")


def _documents(mask: MaskExpr | None) -> list[MaskExpr]:
    """The masks by documents in a mask."""
    if mask is None:
        return []
    inside = [x for a in mask.args if isinstance(a, MaskExpr) for x in _documents(a)]
    return [mask, *inside] if mask.name == "documents" else inside


def build(
    variant: str | Variant, uses: Iterable[str | modifiers.Use] = (), mask_text: str | None = None, window: bool = False
) -> Layer:
    """A layer from names, or from a page.

    `uses`: modifiers in the order in which they apply, each as text (`rope:layout=interleaved`) or as a Use; `mask_text`:
    a mask instead of the variant's own; `window`: intersect it with a sliding window of w keys.

    >>> print(build("gqa", ["rope"], "prefix:512").mask)
    prefix(512)
    """
    page = variants.get(variant) if isinstance(variant, str) else variant
    own = all("w" in p.names for p in page.forms.values())
    if mask_text is not None or (window and not own):
        check_maskable(page)
    applied = tuple(modifiers.use(u) if isinstance(u, str) else u for u in uses)
    chosen = mask(mask_text) if mask_text is not None else None
    forms: dict[str, Program] = {}
    local: dict[str, int | float | str] = {k: v for k, v in page.where.items() if k not in LETTERS}
    for name, program in page.forms.items():
        forms[name] = _masked(program, chosen, window, page.name)
        brought: set[str] = set()
        for u in applied:
            before = set(forms[name].tensors)
            forms[name], sizes = u.apply(forms[name], brought)
            brought |= {x for x in set(forms[name].tensors) - before if x.rstrip("0123456789") not in before}
            for key, value in sizes.items():
                if local.setdefault(key, value) != value:
                    raise LanguageError(
                        f"modifier {u}: {key} is {local[key]} already, now {value}; two modifiers disagree"
                    )
    return Layer(page, applied, forms, local)


def check_maskable(variant: Variant, what: str = "--mask and --window") -> None:
    """Refuse a mask of the caller's where no form, or not each, has one mask between queries and keys to replace.

    >>> check_maskable(variants.get("moba"))
    Traceback (most recent call last):
        ...
    attnmath.errors.InputError: moba: what a query sees is part of what it computes; --mask and --window have no use
    """
    pairs = [[pair for pair in p.sees if pair[0] == "t"] for p in variant.forms.values()]
    if not all(PAIR in own for own in pairs):
        raise InputError(f"{variant.name} has no mask between queries and keys; {what} have no use here")
    if any(len(own) > 1 for own in pairs):
        raise InputError(f"{variant.name}: what a query sees is part of what it computes; {what} have no use")


def _masked(program: Program, chosen: MaskExpr | None, window: bool, variant: str) -> Program:
    own = program.sees.get(PAIR)
    if own is None:
        return program
    if chosen and (unknown := [n for n in chosen.names if n not in LETTERS]):
        raise InputError(
            f"mask {chosen}: {', '.join(unknown)[:80]}: a mask's sizes are numbers or letters of the registry"
        )
    if chosen and chosen.over_blocks:
        raise InputError(f"mask {chosen}: its keys are blocks of tokens, which only a page can have")
    if "kept" in program.names and (window or (chosen and chosen.name != "full")):
        raise InputError(
            f"{variant}: queries and memory have no positions in common, so no --mask but full and no --window has a meaning"
        )
    slides = named("window", (Num("w"),))
    if chosen:
        own = both(chosen, slides) if "w" in own.names else chosen
    if window and "w" not in program.names:
        own = both(own, slides)
    return replace(program, sees={**program.sees, PAIR: own})


def options_of(layer: Layer) -> tuple[str, ...]:
    """The options that set the layer's sizes.

    >>> options_of(build("mqa"))
    ('batch', 'seq', 'context', 'heads', 'head-dim', 'v-head-dim', 'd-model')
    """
    return tuple(option for n in needed(layer.names) if (option := LETTERS[n].option))
