"""Masks: closed forms against booleans, for one mask, for unions and intersections, in prefill, chunked prefill and decode."""

from __future__ import annotations

import numpy as np
import pytest

from attnmath.errors import AttnmathError, LanguageError
from attnmath.language.masks import Mask, Piece, build_text
from attnmath.language.parse import mask


def test_a_chunk_is_held_whole():
    assert [build_text("chunked(4)").span(n) for n in (1, 3, 4, 5, 100)] == [1, 3, 4, 4, 4]


def test_rectangles_in_both_alignments():
    """torch aligns a causal mask to the upper left, flash-attention since 2.1 to the lower right."""
    for t in range(1, 8):
        for n in range(t, 8):
            past = n - t
            assert build_text("causal_top_left", past=past).pairs(t, n, past) == np.tri(t, n).sum()
            assert build_text("causal").pairs(t, n, past) == np.tri(t, n, past).sum()


def test_closed_forms_of_the_field():
    """variants by their usual formulas: window n w - w (w - 1) / 2, chunks n (c + 1) / 2, prefix n (n + 1) / 2 + p (p - 1) / 2."""
    n = 8192
    assert build_text("causal").pairs(n, n) == n * (n + 1) // 2
    assert build_text("window(4096)").pairs(n, n) == n * 4096 - 4096 * 4095 // 2
    assert build_text("chunked(1024)").pairs(n, n) == n * 1025 // 2
    assert build_text("prefix(512)").pairs(n, n) == n * (n + 1) // 2 + 512 * 511 // 2
    assert build_text("window(4096) | first(4)").span(10**30) == 4100


def test_sizes_of_thirty_digits():
    n = 10**30
    assert build_text("causal & window(4096) | first(4)").pairs(1, n, n - 1) == 4100


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("prefix:512", "prefix(512)"),
        ("chunked:8k & causal", "chunked(8192) & causal"),
        ("causal_top_left & window(w-1)", "causal-top-left & window(w - 1)"),
        ("causal & causal", "causal"),
        ("full & window(w)", "window(w)"),
        ("(window(4) | first(2)) & causal", "(window(4) | first(2)) & causal"),
        ("window(2 * w + 1)", "window(2 * w + 1)"),
    ],
)
def test_masks_print_as_they_are_written(text, printed):
    assert str(mask(text)) == printed
    assert mask(printed) == mask(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("casual", "unknown mask 'casual': did you mean 'causal'"),
        ("window", r"mask window takes 1 size: write window\(w\)"),
        ("causal(3)", "mask causal takes 0 sizes: write causal"),
        ("window(0)", "0 is no length; it takes a whole number of at least 1"),
        ("window(2.5)", "2.5 is no length"),
        ("causal &", "expected the name of a mask, found the end of the line"),
        ("causal causal", "expected the end of the line, found 'causal'"),
        ("(" * 60 + "causal", "nested more than 40 deep"),
        ("window(x)", "'x' is neither a tensor"),
        ("chunked(4) & chunked(6)", "one must divide the other"),
    ],
)
def test_messages(text, message):
    with pytest.raises(AttnmathError, match=message):
        build_text(text).pairs(4, 4)


def test_latex_of_masks():
    assert mask("causal & window(w)").latex() == r"j \le i \land i - w < j \le i"
    assert mask("window(4) | first(2)").latex() == r"\left(i - 4 < j \le i \lor j < 2\right)"


def test_too_many_pieces_are_refused():
    with pytest.raises(LanguageError, match="overlap in more than 4,096 ways"):
        build_text(" | ".join(f"(window({k}) & first({20 - k}))" for k in range(1, 15))).pairs(4, 4)
    with pytest.raises(LanguageError, match="pieces, none inside another; at most 256"):
        build_text(f"documents({', '.join(['1'] * 300)}) & causal")


def test_packed_documents_are_counted_one_by_one():
    assert build_text("causal & documents(4, 3, 2)").pairs(9, 9) == 10 + 6 + 3
    assert build_text("documents:4k,2k").pairs(6144, 6144) == 4096**2 + 2048**2


def test_masks_over_blocks_and_over_tokens_do_not_mix():
    with pytest.raises(LanguageError, match="the one counts tokens, the other blocks"):
        build_text("blocks(4) & window(2)")


def test_pieces_inside_others_vanish():
    assert len(build_text(" | ".join(f"window({k})" for k in range(1, 80))).pieces) == 1
    assert len(build_text(" & ".join(f"prefix({k})" for k in range(1, 30))).pieces) == 2


def test_keys_of_pieces_without_a_common_pair_are_counted_once():
    """The key intervals of two pieces overlap although no pair is in both."""
    assert build_text("before | window(1)").keys_seen(8, 8) == 8
    assert build_text("window(5) & causal_top_left", past=7).keys_seen(30, 37, 7) == 0


def test_empty_intersections_vanish():
    assert Mask((Piece(lo=3, hi=5),)) & Mask((Piece(hi=2),)) == Mask(())
