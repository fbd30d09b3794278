"""The language: what parses and prints, what is refused and how, modifiers as rewrites, the order of equations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnmath import layers, modifiers, variants
from attnmath.errors import AttnmathError, LanguageError
from attnmath.language import letters
from attnmath.language.formula import Point
from attnmath.language.modify import apply
from attnmath.language.order import in_order, ordered
from attnmath.language.parse import equation, expression, program
from attnmath.language.syntax import Program
from attnmath.readings.text import latex_lines

NAMES = st.sampled_from(["A[t n]", "B[t]", "d", "2", "0.5", "@t"])


@st.composite
def expressions(draw, depth=3):
    if not depth or draw(st.booleans()):
        return draw(NAMES)
    kind = draw(st.sampled_from(["+", "-", "*", "/", "^", "neg", "tanh", "max2", "softmax_n", "()"]))
    a = draw(expressions(depth=depth - 1))
    if kind in "+-*/^":
        return f"{a} {kind} {draw(expressions(depth=depth - 1))}"
    if kind == "max2":
        return f"max2({a}, {draw(expressions(depth=depth - 1))})"
    return f"({a})" if kind == "()" else f"-{a}" if kind == "neg" else f"{kind}({a})"


@given(expressions())
def test_expressions_survive_printing(text):
    x = expression(text)
    assert expression(str(x)) == x


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A[t n] = sofmax_n S[t n]", "unknown operation 'sofmax': did you mean 'softmax'"),
        ("A[t n] = softmax S[t n]", "write softmax_n, naming the index that it runs along"),
        ("A[t] = tanh_n S[t]", "tanh runs along no index: write tanh, without _n"),
        ("A[t q] = S[t n] * V[n]", r"q only on the left of `A\[t q\] = S\[t n\] \* V\[n\]`"),
        ("A[t n] = S[t n", r"expected '\]' closing S\[, found the end of the line"),
        ("A[t N] = S[t N]", "expected an index \\(lower case\\), or ']', found 'N'"),
        ("A[t] = S[t-]", "expected a number or an index to move by"),
        ("A[t] = @T", "expected the index whose position is meant, found 'T'"),
        ("K[b n d] = X[b n d]\nK[b n d] = X[b n d]", "K is defined twice"),
        (
            "K[b n d] = X[b n d]\nY[b n] = K[b n]",
            r"K\[b n\] in `Y\[b n\] = K\[b n\]` has 2 indices, but it is K\[b n d\]",
        ),
        ("Y[t] = exp(X[t], X[t])", "exp takes 1 argument, not 2"),
        ("Y[t] = max2(X[t])", "max2 takes 2 arguments, not 1"),
        ("Y[t] = X[t] +", "expected a tensor, a number or an operation, found the end of the line"),
        ("Y[t] X[t]", "expected '=' or '<-', found 'X'"),
        ("3 = X[t]", "expected a tensor, like Q"),
        ("Y[t] = X[t] | Z[t]", "its left needs one index with as many parts"),
    ],
)
def test_messages(text, message):
    with pytest.raises(LanguageError, match=message):
        program(text)


def test_messages_point_at_the_place():
    with pytest.raises(LanguageError) as caught:
        program("Q[t] = X[t]\nA[t n] = S[t n * V[n]", "page.attn")
    assert (
        str(caught.value)
        == "page.attn, line 2: expected an index (lower case), or ']', found '*'\n    A[t n] = S[t n * V[n]\n                   ^"
    )


def test_every_bad_line_is_reported():
    with pytest.raises(LanguageError) as caught:
        program("A[t = X[t]\nB[t] = X[t]\nC[t] = +", "p")
    assert "p, line 1" in str(caught.value)
    assert "p, line 3" in str(caught.value)


def test_equations_run_in_the_order_of_what_they_read():
    p = program("Y[t] = 2 * Z[t]\nZ[t] = X[t]")
    assert [e.out.name for e in in_order(p).equations] == ["Z", "Y"]
    p = program("H[t d] = H[t-1 d] + D[t d]\nD[t d] = X[t d] - P[t d]\nP[t d] = H[t-1 d] * K[t d]")
    ((group, loop),) = ordered(p)
    assert {e.out.name for e in group} == {"H", "D", "P"}
    assert loop == ("t", 1)
    backwards = program("G[t] = G[t+1] + X[t]")
    assert [loop for _, loop in ordered(backwards)] == [("t", -1)]
    solve = program("U[i e] = B[i e] - N[i l] * U[l e]\ni sees l: before")
    assert [loop for _, loop in ordered(solve)] == [("i", 1)]


CORE = "Q[b t h d] = X[b t m] * WQ[m h d]\nL[b h t n] = Q[b t h d] * K[b n h d]\nA[b h t n] = softmax_n L[b h t n]\nt sees n: causal"


def test_a_modifier_stands_behind_what_it_modifies():
    p = apply(program(CORE), "L[..] <- 5 * tanh(L[..] / 5)\nL[..] <- 2 * L[..]")
    assert str(p).splitlines()[1:4] == [
        "L0[b h t n] = Q[b t h d] * K[b n h d]",
        "L1[b h t n] = 5 * tanh(L0[b h t n] / 5)",
        "L[b h t n] = 2 * L1[b h t n]",
    ]
    assert p.output == "A"


def test_a_modifier_may_define_anew_and_add():
    p = apply(program(CORE), "B[t n] = @n - @t\nL[..] <- L[..] + B[t n]\nt sees n: window(w)")
    assert "B[t n] = @n - @t" in str(p)
    assert str(p.sees["t", "n"]) == "causal & window(w)"
    p = apply(program(CORE), "L[b h t n] = K[b n h d] * K[b n h d] + 0 * @t")
    assert "Q" not in p.defined


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Z[t n] <- 2 * K[b n h d]", "modifies Z, which is not defined here"),
        ("L[..] <- 2 * M[..]", "'..' needs a tensor that exists"),
        ("L[n ..] <- L[n ..]", "'..' stands first"),
        ("L[.. a b c d e] <- 2 * L[.. a b c d e]", "L has 4 indices"),
    ],
)
def test_modifiers_that_do_not_fit(text, message):
    with pytest.raises(LanguageError, match=message):
        apply(program(CORE), text)


def test_two_modifiers_that_disagree_are_refused():
    with pytest.raises(LanguageError, match="two modifiers disagree"):
        layers.build("gqa", ["softcap:cap=5", "softcap:cap=6"])


def test_two_ropes_keep_their_own_tables():
    page = layers.build("gqa", ["rope:on=Q,base=10", "rope:on=k,dims=2,base=20"]).form()
    assert str(page.defined["FREQ"]) == "FREQ[pair] = 1 / 10 ^ (@pair / pair)"
    assert str(page.defined["FREQ2"]) == "FREQ2[pair2] = 1 / 20 ^ (@pair2 / pair2)"
    assert "ROT2[t pair2 side2 side2']" in str(page.defined["k"])


# -- the registry of letters


def test_one_letter_one_meaning():
    assert len(set(letters.OPTIONS)) == len([x for x in letters.LETTERS.values() if x.option])
    assert len({x.meaning for x in letters.LETTERS.values()}) == len(letters.LETTERS)


@pytest.mark.parametrize("heads", [1, 2, 6, 7, 12, 32, 40, 71, 128])
def test_default_kv_heads_divide(heads):
    sizes, assumed = letters.resolve(["g"], {"h": heads})
    assert heads % sizes["g"] == 0
    assert sizes["g"] == max(g for g in range(1, 9) if heads % g == 0)
    assert assumed == {"g": sizes["g"]}
    at = Point()
    assert letters.resolve(["g"], {"h": heads}, at.symbol)[0]["g"].value == sizes["g"]


# -- laws over the registries: a new file is tested by existing


@pytest.mark.parametrize("name", variants.names())
def test_every_variant_is_whole(name):
    v = variants.get(name)
    assert v.title
    assert len(v.source) > 8
    for form, p in v.forms.items():
        assert p.output == v.program.output, form
        assert set(v.program.inputs) == set(p.inputs), "forms of one function read the same inputs"
        assert len(str(p).splitlines()) <= 60
        for line in latex_lines(p):
            assert line.count("{") == line.count("}")


@pytest.mark.parametrize("name", modifiers.names())
def test_every_modifier_is_whole(name):
    m = modifiers.get(name)
    assert m.title
    assert m.about
    assert m.source
    applied = 0
    for variant in variants.names():
        try:
            layer = layers.build(variant, [name])
        except AttnmathError:
            continue
        applied += str(layer.form()) != str(variants.get(variant).program)
        assert isinstance(layer.form(), Program)
    assert applied, "a modifier that changes no variant"


def test_equation_objects_are_values():
    assert equation("A[t] = B[t]") == equation("A[t]  =  B[t]")
    with pytest.raises(AttributeError):
        equation("A[t] = B[t]").update = True
