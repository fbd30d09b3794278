"""Gradients as programs: against implementations of others, what is known of them, and broken on purpose."""

from __future__ import annotations

import inspect
import itertools
from contextlib import suppress
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
import test_vectors
from conftest import load_vector
from layers import small

import attnmath as am
from attnmath import layers, variants
from attnmath.errors import InputError, LanguageError
from attnmath.language import ops
from attnmath.language.letters import OPTIONS
from attnmath.language.masks import MaskExpr
from attnmath.language.parse import lines, program
from attnmath.language.syntax import Equation, Op, Program, Ref
from attnmath.readings import gradient as deriving
from attnmath.readings.count import count, total
from attnmath.readings.evaluate import run
from attnmath.readings.gradient import gradient
from attnmath.verifying import cases, laws
from attnmath.verifying.cases import arrays, combinations, maskable

# -- vectors: each test of `test_vectors`, run again for the gradients of its inputs


def every_case():
    """(test, its arguments) for each test of test_vectors that takes a vector, its parameters multiplied out."""
    for name, test in vars(test_vectors).items():
        if not name.startswith("test_") or "vector" not in inspect.signature(test).parameters:
            continue
        choices = []
        for mark in getattr(test, "pytestmark", []):
            if mark.name == "parametrize":
                names, values = mark.args
                names = [names] if isinstance(names, str) else list(names)
                choices.append([dict(zip(names, v if len(names) > 1 else [v])) for v in values])
        for chosen in itertools.product(*choices):
            args = {k: v for c in chosen for k, v in c.items()}
            yield pytest.param(test, args, id="-".join([name, *map(str, args.values())]))


class Stop(Exception):
    pass


class Recorded:
    """A test of test_vectors, run with another `evaluate` and another `close`: which arrays it makes of a vector's, and which
    of its results it compares with which of the vector's.
    """

    def __init__(self, test, args, monkeypatch):
        self.test, self.args, self.patch, self.loaded = test, args, monkeypatch, {}

    def run(self, change, evaluate, close=None):
        loaded = {}

        def vector(name):
            if name not in self.loaded:
                self.loaded[name] = load_vector(name)
            z, meta = self.loaded[name]
            if not any(n.startswith("grad.") for n in z):
                pytest.skip(f"vector {name} has no gradients")
            loaded["z"], loaded["meta"] = dict(z), meta
            return change(dict(z)), meta

        with self.patch.context() as m:
            m.setattr(test_vectors, "am", type("am", (), {"evaluate": staticmethod(evaluate), "variant": am.variant}))
            m.setattr(test_vectors, "close", close or (lambda *a: None))
            with suppress(Stop, AssertionError):  # what it asserts of numbers does not hold of places
                self.test(**self.args, vector=vector)
        return loaded["z"], loaded["meta"]

    def inputs(self, change, results):
        """The arrays and the cache that each call of `evaluate` is handed; what it answers is known."""
        found = []

        def evaluate(variant, ins, cache=None, **options):
            found.append({("in", n): np.asarray(x) for n, x in ins.items()})
            found[-1] |= {("past", n): np.asarray(x) for n, x in (cache or {}).items()}
            if len(found) == len(results):
                raise Stop
            return results[len(found) - 1]

        self.run(change, evaluate)
        return found

    def outputs(self):
        """(vector, sidecar, calls): of each call its arguments and the places of do.* that its results are compared at."""
        calls, starts = [], {}

        def evaluate(variant, ins, cache=None, **options):
            out = am.evaluate(variant, ins, cache=cache, **options)
            sizes = np.cumsum([0, *(out[n].size for n in out)])
            places = {n: np.arange(k, k + out[n].size).reshape(out[n].shape) for n, k in zip(out, sizes)}
            calls.append({"variant": variant, "ins": ins, "cache": cache, "options": options, "seeds": {}, "out": out})
            calls[-1]["at"] = {n: (k, out[n].shape) for n, k in zip(out, sizes)}
            kept = {n: places[n][:, -x.shape[1] :] if n in places else x for n, x in out.cache.items()}
            return type("Places", (dict,), {"cache": kept})(places)

        def close(got, want, meta, what):
            calls[-1].setdefault("compared", []).append((np.asarray(got), np.asarray(want)))

        def change(z):
            at = 0
            for name in [n for n in z if n.startswith("out.") and f"do{n[3:]}" in z]:
                starts[name], z[name] = at, np.arange(at, at + z[name].size).reshape(z[name].shape)
                at += z[name].size
            z.pop("in.residual", None)
            return z

        z, meta = self.run(change, evaluate, close)
        for call in calls:
            for got, want in call.get("compared", []):
                self.seed(call, got.ravel(), want.ravel(), z, starts)
        return z, meta, calls

    def seed(self, call, got, want, z, starts):
        """What reaches a result from outside: do.* where the test compares it with out.*."""
        name = next((n for n, k in starts.items() if k <= want[0] < k + z[n].size), None)
        upstream = None if name is None else z.get(f"do{name[3:]}")
        tensor = next((n for n, (k, shape) in call["at"].items() if k <= got[0] < k + np.prod(shape)), None)
        if upstream is None or tensor is None:
            return
        k, shape = call["at"][tensor]
        flat = call["seeds"].setdefault(tensor, np.zeros(shape)).reshape(-1)
        flat[(got - k).astype(int)] = upstream.ravel()[(want - starts[name]).astype(int)]


def last_state(call, z):
    """The upstream gradient of a last state that the test itself does not compare; None where a form has no state."""
    given = next((z[n] for n in ("do.state", "do.final_state") if n in z), None)
    if given is None or "H" in call["seeds"]:
        return {}
    if "H" not in call["out"]:
        return None
    want, h = next(z[n] for n in ("out.state", "out.final_state") if n in z), call["out"]["H"]
    for order in itertools.permutations(range(want.ndim)):
        moved = want.transpose(order)
        if h[:, -1].size == moved.size and np.allclose(h[:, -1].reshape(moved.shape), moved):
            seed = np.zeros(h.shape)
            seed[:, -1] = given.transpose(order).reshape(h[:, -1].shape)
            return {"H": seed}
    raise AssertionError("the state is another")


@pytest.mark.parametrize(("test", "args"), list(every_case()))
def test_gradients_of_vectors(test, args, monkeypatch):
    """The gradient of each input that a vector gives one of, element by element, to the vector's tolerance.

    How a vector's arrays become the page's is linear, so that a gradient is pulled back by moving one element at a time.
    """
    recorded = Recorded(test, args, monkeypatch)
    z, meta, calls = recorded.outputs()
    wanted = [n[5:] for n in z if n.startswith("grad.") and not n.startswith("grad.core") and f"in.{n[5:]}" in z]
    assert wanted
    states = [last_state(c, z) for c in calls]
    runs = []
    for call, state in zip(calls, states):
        if state is None or not call["seeds"]:
            runs.append(None)
            continue
        seeds = call["seeds"] | state
        g = am.gradient(call["variant"], call["ins"], seeds, cache=call["cache"], **call["options"])
        for how in ("selective", "full"):
            less = am.gradient(
                call["variant"], call["ins"], seeds, cache=call["cache"], recompute=how, **call["options"]
            )
            for n, x in g.items():
                np.testing.assert_allclose(less[n], x, atol=1e-9 * max(1, np.abs(x).max(initial=0)))
        runs.append({("in", n): x for n, x in g.items()} | {("past", n): x for n, x in g.cache.items()})
    assert any(runs)
    parts = "in.cu_seqlens" in z  # documents, each a call: their gradients add up
    results = [c["out"] for c in calls]
    base = recorded.inputs(lambda z: z, results)
    for name in wanted:
        got = [np.zeros(z[f"in.{name}"].shape) for _ in calls]
        for place in np.ndindex(got[0].shape):
            moved = recorded.inputs(lambda z, p=place, n=name: _moved(z, f"in.{n}", p), results)
            for k, (before, after, g) in enumerate(zip(base, moved, runs)):
                for key in g or {}:
                    if key in before:
                        got[k][place] += (g[key] * (after[key] - before[key])).sum()
        for found in [sum(got)] if parts else [x for x, g in zip(got, runs) if g]:
            test_vectors.close(found, z[f"grad.{name}"], meta, f"the gradient of {name}")


def _moved(z, name, place):
    z[name] = z[name].copy()
    z[name][place] += 1
    return z


@pytest.mark.parametrize(("test", "args"), list(every_case()))
def test_gradients_of_cores(test, args, monkeypatch):
    """What a module's vector says of its core: the gradients of queries, keys and values as they enter it."""
    z, meta, calls = Recorded(test, args, monkeypatch).outputs()
    call, page = calls[0], am.variant(calls[0]["variant"]).program
    if "grad.core.v" not in z or not {"Q", "K", "V"} <= set(page.tensors):
        pytest.skip("the vector says nothing of the core alone, or its page has no single queries, keys and values")
    own = {n: x for n, x in call["ins"].items() if n in ("WSINK", "WREL")}
    shape = lambda x: x.swapaxes(1, 2)
    q, out = shape(z["in.core.q"]), call["out"]
    own |= {"Q": q.reshape(out["Q"].shape), "K": shape(z["in.core.k"]), "V": shape(z["in.core.v"])}
    if own["K"].shape != out["K"].shape:  # the source repeats its keys
        pytest.skip("the source's core has other heads")
    seed = z["do.core.o"].reshape(own["Q"].shape[:-1] + own["V"].shape[-1:])
    g = am.gradient(
        call["variant"], own, {"AO" if "AO" in out else "O" if "O0" not in out else "O0": seed}, **call["options"]
    )
    for name in "QKV":
        want = shape(z[f"grad.core.{name.lower()}"])
        test_vectors.close(g[name].reshape(want.shape), want, meta, f"the gradient of core {name}")


# torch's counter took another way here: it recomputes; pads nothing; has no gradient of the memory; scans and gathers otherwise
NOT_COUNTED = ("flash_tiled", "cross_with_keys_and_values_of_two_widths", "bart", "mamba2", "moba", "csa")


@pytest.mark.parametrize(("test", "args"), list(every_case()))
def test_torch_counts_the_same_backward(test, args, monkeypatch):
    """Forward and backward, every matrix product, masks ignored."""
    from attnmath.evaluation import prepared
    from attnmath.language.modify import prune
    from attnmath.readings.count import unmasked

    _, meta, calls = Recorded(test, args, monkeypatch).outputs()
    counted, call = meta.get("torch_flop_counter") or {}, calls[0]
    if "matmul_flops_forward_plus_backward" not in counted or not call["seeds"]:
        pytest.skip("torch did not count here")
    if any(x in test.__name__ + str(args) for x in NOT_COUNTED):
        pytest.skip("torch computed it in another way")
    known = ("mask", "modifiers", "form", "window", "schedule")
    rest = {n: x for n, x in call["options"].items() if n not in known}
    mask, uses, form, window, schedule = (call["options"].get(n, () if n == "modifiers" else None) for n in known)
    p = prepared(call["variant"], call["ins"], mask, uses, call["cache"], form, window, schedule, rest)
    g = gradient(prune(p.program, call["seeds"]), call["seeds"])
    both = total(count(unmasked(g.together), p.sizes))
    assert both.matmul + both.projections == counted["matmul_flops_forward_plus_backward"]
    made = set(g.backward.defined)
    forward = total(s for s in count(unmasked(g.together), p.sizes) if s.name not in made)
    assert forward.matmul + forward.projections == counted["matmul_flops_forward"]


# -- every page that there is; the laws `gradients` and `backward` are tried on them by tests/test_laws.py


def everything():
    """Each variant in each form, under each list of modifiers worth a test."""
    for name in variants.names():
        for uses in combinations(name):
            for form in am.variant(name).forms:
                yield pytest.param(name, uses, form, id=f"{name}-{form}-{'-'.join(uses)}")


EVERYTHING = list(everything())


@pytest.mark.parametrize(("name", "uses", "form"), EVERYTHING)
def test_a_gradient_prints_as_the_language_has_it(name, uses, form):
    page = gradient(layers.build(name, uses).form(form)).backward
    equations, sees = lines(str(page))
    assert tuple(equations) == page.equations
    assert sees == page.sees
    assert str(gradient(layers.build(name, uses).form(form)).backward) == str(page), "the same each time"


# -- what is known of it


@pytest.mark.parametrize("mask", ["causal", "full", "window(3)", "prefix:2"])
@pytest.mark.parametrize("name", ["mha", "gqa", "mqa", "mla", "differential", "moba", "nsa", "csa"])
def test_the_core_goes_back_by_twice_its_products(name, mask):
    """dQ, dK, dV and dA are two products for each of the two: exactly, whatever the mask and however keys are chosen."""
    if not maskable(name) and mask != "causal":
        pytest.skip("it chooses its keys itself")
    layer = layers.build(name, [], mask if maskable(name) else None)
    for form, page in layer.forms.items():
        wrt = [n for n in page.inputs if n[:2] != "WL"]  # differential's lambda is no product's
        g, sizes = gradient(page, wrt=[n for n in wrt if n in gradient(page).cotangents]), small(layer, 6, 8)
        steps = count(g.together, sizes)
        reached = deriving.between(g.forward, g.seeds, page.inputs)
        forward = total(s for s in steps if s.name in reached)
        backward = total(s for s in steps if s.name in g.backward.defined)
        assert backward.matmul == 2 * forward.matmul > 0


def test_a_recurrence_goes_back_as_a_recurrence():
    from attnmath.language.order import ordered

    for form, index in (("recurrent", "t"), ("chunked", "c")):
        page = gradient(am.variant("gated-deltanet").forms[form]).backward
        loops = {e.out.name: loop for group, loop in ordered(page) for e in group}
        assert loops["dH"] == (index, -1)
    assert loops["dU"] == ("u", -1), "the transposed solve goes up from the last row"
    assert str(page.defined["dU"]) == "dU[b c u g r e] = dD[b c u g r e] - dU[b c i g r e] * TRI[b c g r i u]"


def test_forms_agree_in_their_gradients():
    """Two programs for one function have one gradient."""
    for name in variants.names():
        layer = layers.build(name)
        sizes = small(layer, 4, 4)
        found = {}
        for form, page in layer.forms.items():
            inputs, _ = arrays(page, sizes)
            g = gradient(page, wrt=["X"])
            values = run(g.forward, sizes, inputs)
            found[form] = run(g.backward, sizes, values | {"dY": np.ones_like(values["Y"])})["dX"]
        for x in found.values():
            np.testing.assert_allclose(x, next(iter(found.values())), atol=1e-9)


QKV = {n: np.random.default_rng(k).standard_normal((1, 4, 2, 4)) for k, n in enumerate("QKV")}


@pytest.mark.parametrize("schedule", ["flash-2:n=2", "flash-2:n=1", "split-kv:z=2"])
def test_a_streamed_softmax_has_the_same_gradient(schedule):
    up = {"O": np.ones((1, 4, 2, 4))}
    plain, streamed = am.gradient("mha", QKV, up), am.gradient("mha", QKV, up, schedule=schedule)
    for name in "QKV":
        np.testing.assert_allclose(streamed[name], plain[name], atol=1e-12)


def test_a_cache_has_a_gradient():
    """Decoding from a cache is the end of one long prefill: what reaches the cache is what reaches the rows it holds."""
    whole = {n: np.random.default_rng(k).standard_normal((1, 5, 2, 4)) for k, n in enumerate(["Q", "k", "v"])}
    last = {n: x[:, 3:] for n, x in whole.items()}
    up = np.random.default_rng(9).standard_normal((1, 2, 2, 4))
    cache = {n: whole[n][:, :3] for n in ("k", "v")}
    g = am.gradient("mha", last, {"O": up}, cache=cache)
    all_ = am.gradient("mha", whole, {"O": np.concatenate([np.zeros((1, 3, 2, 4)), up], 1)})
    for n in ("k", "v"):
        np.testing.assert_allclose(np.concatenate([g.cache[n], g[n]], 1), all_[n], atol=1e-12)


def test_gradients_add_up():
    """Several results at once; a result that another one reads."""
    up = {n: np.random.default_rng(7).standard_normal(am.evaluate("mha", QKV)[n].shape) for n in ("O", "A")}
    both = am.gradient("mha", QKV, up)
    parts = [am.gradient("mha", QKV, {n: x}) for n, x in up.items()]
    np.testing.assert_allclose(both["Q"], parts[0]["Q"] + parts[1]["Q"], atol=1e-12)
    np.testing.assert_allclose(both["dA"], np.tril(parts[0]["dA"] + up["A"]), atol=1e-12)
    assert "V" not in parts[1], "no weight depends on a value"


def test_a_mask_array_masks_the_gradient():
    seen = np.tril(np.ones((4, 4), bool))
    up = {"O": np.ones((1, 4, 2, 4))}
    np.testing.assert_allclose(
        am.gradient("mha", QKV, up, mask=seen)["K"], am.gradient("mha", QKV, up)["K"], atol=1e-12
    )


BAD = [
    ({}, {}, "a mapping of at least one name"),
    ({"Q": QKV["Q"]}, {}, "Q is given"),
    ({"Y": QKV["Q"]}, {}, "Y was not computed: WO not given"),
    ({"o": QKV["Q"]}, {}, "unknown tensor 'o'"),
    ({"O": QKV["Q"][:, :2]}, {}, r"O has shape \(1, 4, 2, 4\), its gradient \(1, 2, 2, 4\)"),
    ({"O": QKV["Q"]}, {"wrt": "Q"}, "a list of names"),
    ({"O": QKV["Q"]}, {"wrt": 3}, "a list of names"),
    ({"O": QKV["Q"]}, {"wrt": []}, "at least one name"),
    ({"O": QKV["Q"]}, {"wrt": ["WQ"]}, "unknown tensor 'WQ'|does not depend on it"),
    ({"A": np.ones((1, 2, 4, 4))}, {"wrt": ["V"]}, "V: A does not depend on it"),
]


@pytest.mark.parametrize(("upstream", "more", "message"), BAD)
def test_what_has_no_gradient_is_named(upstream, more, message):
    with pytest.raises(InputError, match=message):
        am.gradient("mha", QKV, upstream, **more)


def test_what_only_chooses_has_no_gradient():
    with pytest.raises(InputError, match="WIQ: Y does not depend on it but through what only chooses"):
        gradient(am.variant("dsa").program, wrt=["WIQ"])


def test_an_operation_without_an_adjoint_is_named(monkeypatch):
    row = ops.OPS["tanh"]
    monkeypatch.setitem(ops.OPS, "tanh", replaced(row, adjoint=None))
    page = program("Y[t] = tanh(X[t])")
    with pytest.raises(LanguageError, match="tanh has no adjoint"):
        gradient(page)
    other = gradient(program("Y[t] = 2 * X[t] + tanh(@t)")).backward
    assert "dX[t] = 2 * dY[t]" in str(other), "nothing flows through it"


def test_a_new_operation_needs_an_adjoint_for_each_argument(monkeypatch):
    """A row of somebody's own: without a rule, or with too few, it is named; it never passes zeros on."""
    row = ops.Row("h", lambda np, a, b: np.hypot(a, b), arity=(2, 2))
    page = Program((equation("Y[t]", "hypot", "A[t]", "B[t]"),))
    monkeypatch.setitem(ops.OPS, "hypot", row)
    with pytest.raises(LanguageError, match="hypot has no adjoint in the table of operations"):
        gradient(page)
    monkeypatch.setitem(ops.OPS, "hypot", replaced(row, adjoint=("g * a / y",)))
    with pytest.raises(LanguageError, match="hypot has no adjoint for each of its 2 arguments"):
        gradient(page, wrt=["A"])
    monkeypatch.setitem(ops.OPS, "hypot", replaced(row, adjoint=("g * a / y", "g * b / y")))
    assert str(gradient(page).backward).endswith("dA[t] = dY[t] * A[t] / Y[t]\ndB[t] = dY[t] * B[t] / Y[t]")


def equation(left, op, *args):
    out, *read = (Ref(x[0], ("t",)) for x in (left, *args))
    return Equation(out, (Op(op, tuple(read)),))


def test_every_operation_has_an_adjoint_for_each_argument_or_is_constant():
    for name, row in ops.OPS.items():
        assert row.adjoint == () or (row.adjoint and len(row.adjoint) == row.arity[1]), name


@pytest.mark.parametrize(
    "verb", ["cost --variant mine.attn --seq 8 --heads 2 --phase train", "equations mine.attn --backward"]
)
def test_commands_name_it_too(verb, call, monkeypatch, tmp_path):
    page = str(am.variant("mha").program).replace("softmax_n(L[b h t n])", "softmax_n(tanh(L[b h t n]))")
    (tmp_path / "mine.attn").write_text(f"title: Mine\nsource: me\nabout: a test\n\n{page}\n")
    assert call(verb)[0] == 0
    monkeypatch.setitem(ops.OPS, "tanh", replaced(ops.OPS["tanh"], adjoint=None))
    code, out, err = call(verb)
    assert (code, out) == (2, "")
    assert "tanh has no adjoint in the table of operations" in err


CHOOSING = [
    ("Y[t] = floor(X[t])", []),
    ("Y[t] = lt(X[t], 0) + eq(X[t], 1) + pow2(X[t])", []),
    ("Y[t] = only(X[t])", []),
    ("Y[t k] = topk_n_k I[t n]", []),
    ("Y[t] = 2 * @t + cos(@t)", []),
    ("Y[t] = KEEP[t]", []),
    ("Y[t] = WE[ID[t]]", ["WE"]),
    ("Y[t] = A[t] * floor(X[t]) + only(X[t])", ["A"]),
    ("Y[t] = A[t] * KEEP[t] * cos(@t * FREQ[t])", ["A"]),
    ("T[t k] = topk_n_k I[t n]\nY[t] = A[T[t k]] * I[t T[t k]]", ["I", "A"]),
]


@pytest.mark.parametrize(("text", "reached"), CHOOSING)
def test_what_is_constant_by_pieces_is_reached_by_no_gradient(text, reached):
    """Without names, what has a gradient; by its name, what has none is refused; a page of nothing else, too."""
    page = program(text)
    if not reached:
        with pytest.raises(InputError, match="Y depends on nothing that has a gradient"):
            gradient(page)
    else:
        assert sorted(gradient(page).cotangents) == sorted(reached)
    for name in set(page.inputs) - set(reached) - {"KEEP", "FREQ"}:
        with pytest.raises(InputError, match=f"{name}: Y does not depend on it but through what only chooses"):
            gradient(page, wrt=[name])
    for name in {"KEEP", "FREQ"} & set(page.inputs):  # drawn or tabled: only on request
        assert list(gradient(page, wrt=[name]).cotangents) == [name]


@pytest.mark.parametrize(
    ("text", "slope"),
    [
        ("Y[t] = max2(X[t], X[t])", 1),
        ("Y[t] = min2(X[t], 2 * X[t] - X[t])", 1),
        ("Y[t] = max2(X[t], 1)", 0.5),
        ("Y[t] = exp(min2(X[t] - 1, 0)) + max2(X[t] - 1, 0)", 1),
        ("Y[t] = max_n(A[t n] * X[t])", 1),
    ],
)
def test_ties_share_one_gradient(text, slope):
    """Two arguments that are equal pass on no more than there is: of any that agree everywhere, together one."""
    page = program(text)
    g, sizes, ones = gradient(page, wrt=["X"]), {"t": 2, "n": 3, "past": 0}, {"X": np.ones(2), "A": np.ones((2, 3))}
    values = run(g.forward, sizes, {n: ones[n] for n in page.inputs})
    np.testing.assert_allclose(run(g.backward, sizes, values | {"dY": np.ones(2)})["dX"], slope)


@pytest.mark.parametrize("op", ["max", "mean"])
def test_of_no_keys_there_is_no_gradient(op):
    """A query that sees none divides by none; ties share one gradient, as a mean does."""
    g = gradient(program(f"A[t n]\nY[t] = {op}_n(A[t n])\nt sees n: before"))
    sizes, a = {"t": 3, "n": 3, "past": 0}, np.array([[1.0, 2, 3], [1, 2, 3], [2, 2, 9]])
    out = run(g.backward, sizes, run(g.forward, sizes, {"A": a}) | {"dY": np.ones(3)})
    np.testing.assert_allclose(out["dA"], [[0, 0, 0], [1, 0, 0], [0.5, 0.5, 0]])


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("Y[t] = C[t] * (A[t n] + B[t])", "a term that repeats what it sums"),
        ("M[t] = mean_n(A[t n] + B[t])\nY[t] = M[t] * M[t]", "the same inside a reduction"),
        ("M[t] = mean_n(A[t n])\nY[t] = M[t] * B[t]\nt sees n: causal", "a mean over what a mask leaves"),
        ("Y[t] = B[t] ^ 3 + C[t] ^ B[t]", "powers"),
        ("A[t n]\nY[t] = A[t last] * B[t-1] + A[t-1 last]", "the last place, and the step before"),
        ("H[t] = C[t] / (2 + H[t-1] * H[t-1])\nY[t] = H[t] * B[t-2]", "a recurrence in a denominator"),
        ("Y[t n] = A[t n] * B[t] / (1 + C[t] * C[t])\nt sees n: window(2)", "a denominator under a mask"),
        ("S[t n] = A[t n] * D[n-past]\nY[t] = S[t n]\nt sees n: causal", "a cached tensor read where it is used"),
        ("D[n]\nP[n|s] = D[n] | E[s]\nY[t n|s] = B[t] * P[n|s]", "two parts of one axis"),
        ("P[n|s] = A[t n] | E[s]\nY[] = P[n|s] * P[n|s]", "a part that sums"),
    ],
)
def test_pages_that_no_variant_has(text, what):
    page = program(text)
    sizes = {"t": 3, "n": 4, "s": 2, "past": 1}
    rng = np.random.default_rng(4)
    g = gradient(page)
    inputs = {n: rng.uniform(0.5, 1.5, [sizes[str(i)] for i in page.tensors[n]]) for n in page.inputs}
    values = run(g.forward, sizes, inputs)
    seeds = {c: rng.standard_normal(values[n].shape) for n, c in g.seeds.items()}
    out = run(g.backward, sizes, values | seeds)
    for name, c in g.cotangents.items():
        to = rng.standard_normal(inputs[name].shape)
        at = lambda h, n=name, to=to: (
            run(page, sizes, inputs | {n: inputs[n] + h * to})[page.output] * next(iter(seeds.values()))
        ).sum()
        np.testing.assert_allclose((out[c] * to).sum(), (at(1e-5) - at(-1e-5)) / 2e-5, rtol=1e-6, atol=1e-8)


# -- tests of the tests: broken on purpose, it is noticed


def replaced(row, **new):
    return ops.Row(**{n: new.get(n, getattr(row, n)) for n in row.__struct_fields__})


def lossy(m):
    close = deriving._Reverse.close

    def first_only(self, name, *more):
        if name in self.gains:
            self.gains[name] = self.gains[name][:1]
        close(self, name, *more)

    m.setattr(deriving._Reverse, "close", first_only)


def blind(m):
    derive = cases.gradient

    def unmasked(page, **more):
        g = derive(page, **more)
        sees = {pair: MaskExpr("full") for pair in page.sees}
        return deriving.replace(g, backward=deriving.replace(g.backward, sees=sees))

    m.setattr(cases, "gradient", unmasked)


def early(m):
    order = deriving.ordered
    m.setattr(deriving, "ordered", lambda page: ((g, None) for g, _ in order(page)))


FAULTS = {
    "only one gain is kept": lossy,
    "shifts go the wrong way": lambda m: m.setattr(
        deriving, "moved", lambda x, old, new, by, _m=deriving.moved: _m(x, old, new, tuple((-s, n) for s, n in by))
    ),
    "the mask is forgotten": blind,
    "a softmax forgets its row sum": lambda m: m.setitem(
        ops.OPS, "softmax", replaced(ops.OPS["softmax"], adjoint=("y * g", "(sum_o(y) - 1) * sum_o(y * g)"))
    ),
    "a sink is pulled the wrong way": lambda m: m.setitem(
        ops.OPS,
        "softmax",
        replaced(ops.OPS["softmax"], adjoint=(ops.OPS["softmax"].adjoint[0], "(1 - sum_o(y)) * sum_o(y * g)")),
    ),
    "a mean is a sum": lambda m: m.setitem(ops.OPS, "mean", replaced(ops.OPS["mean"], adjoint=("g",))),
    "a recursion is closed too early": early,
    "a difference has no sign": lambda m: m.setitem(ops.OPS, "neg", replaced(ops.OPS["neg"], adjoint=("g",))),
    "what is divided by has no gradient": lambda m: m.setitem(
        ops.OPS, "/", replaced(ops.OPS["/"], adjoint=("g / b", "0 * g"))
    ),
    "masked indices are renamed": lambda m: m.setattr(
        deriving._Reverse,
        "under",
        lambda self, old, new, gain, _u=deriving._Reverse.under: _u(
            type("Unmasked", (), {"page": Program(())})(), old, new, gain
        ),
    ),
}


def holds(law, page, sizes):
    """Whether a law of gradients holds of a page, whatever it is of."""
    case = SimpleNamespace(page=page, sizes=sizes, seed=0, graded=cases.graded(page, sizes))
    return all(c.holds for c in law(case, Random(0)))


PAGES = [
    ("gqa", ["rope", "norm", "sink"], None),
    ("linear-attention", [], "quadratic"),
    ("gated-deltanet", [], "recurrent"),
    ("gated-deltanet", [], "chunked"),
    ("moba", [], None),
    ("mla", [], "expanded"),
]


TWO_MASKS = "P[t n]\nB[n]\nC[s]\nY[t] = P[t n] * B[n] + P[t s] * C[s]\nt sees n: causal\nt sees s: window(2)"


def pages():
    for name, uses, form in PAGES:
        layer = layers.build(name, uses)
        yield layer.form(form), small(layer, 4, 6)
    yield program(TWO_MASKS), {"t": 4, "n": 4, "s": 4, "past": 0}


def test_without_a_fault_all_agree():
    assert all(holds(laws.gradients, *x) and holds(laws.backward, *x) for x in pages())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_gradient_is_caught(fault, monkeypatch):
    FAULTS[fault](monkeypatch)

    def agrees(page, sizes):
        try:
            return holds(laws.gradients, page, sizes)
        except LanguageError:  # it does not even run
            return False

    assert not all(agrees(*x) for x in pages())


def cheap_scatter(m):
    from attnmath.readings import count as counting

    m.setattr(
        counting,
        "refs",
        lambda x, _r=counting.refs: () if not isinstance(x, (ops.Row, deriving.Op, deriving.Ref)) else _r(x),
    )


COUNT_FAULTS = {
    "a row sum is free": lambda m: m.setitem(ops.OPS, "sum", replaced(ops.OPS["sum"], cost=0)),
    "what the data place is put there for free": cheap_scatter,
}


@pytest.mark.parametrize("fault", COUNT_FAULTS)
def test_a_wrong_backward_count_is_caught(fault, monkeypatch):
    before = [sum(s.flops.total for s in count(gradient(p).together, s_)) for p, s_ in pages()]
    COUNT_FAULTS[fault](monkeypatch)
    after = [sum(s.flops.total for s in count(gradient(p).together, s_)) for p, s_ in pages()]
    assert before != after, "the fault is one"
    assert not all(holds(laws.backward, *x) for x in pages())


# -- in print


def test_equations_backward(call):
    code, out, _ = call("equations mqa --backward --with norm")
    assert code == 0
    assert "Multi-query attention with norm, backward" in out
    made = out.splitlines()
    assert any(x.startswith("Qmean[b t h]") for x in made), "what the page names only here"
    assert "dL[b h t n]   = A[b h t n] * (dA[b h t n] - D[b h t])" in made
    _, out, _ = call("equations mqa --backward --format latex")
    assert r"\mathrm{d}K_{b\,n\,d} = \sum_{h,t} \mathrm{d}S_{b\,h\,t\,n}\,Q_{b\,t\,h\,d}" in out
    _, out, _ = call("equations mla --backward --format markdown")
    assert "## Form: absorbed" in out
    assert r"\mathrm{d}c^{KV}_{b\,t\,l}" in out


def test_equations_backward_as_json(call):
    import json

    import msgspec

    from attnmath.schemas import Equations

    found = json.loads(call("equations gated-deltanet --backward --json")[1])
    assert found["backward"] is True
    assert json.loads(call("equations mha --json")[1])["backward"] is False
    msgspec.convert(found, Equations)
    assert [f["name"] for f in found["forms"]] == ["recurrent", "chunked"]
    assert found["forms"][0]["tensors"]["dWCQ"] == ["g", "d", "tap"]


@pytest.mark.parametrize(("name", "uses", "form"), EVERYTHING)
def test_backward_equations_are_formulas(name, uses, form):
    """No name raises twice what is raised already, and every brace is closed."""
    from attnmath.readings.text import latex_lines

    for line in latex_lines(gradient(layers.build(name, uses).form(form)).backward):
        assert line.count("{") == line.count("}")
        try:
            from latex2mathml.converter import convert
        except ImportError:
            continue
        assert convert(line)


# -- what training costs: forward and backward


TRAINED = [
    ("gqa", {}),
    ("mla", {}),
    ("gated-deltanet", {}),
    ("csa", {"o_groups": 4}),
    ("sliding-window", {"window": 100}),
    ("cross", {}),
]


@pytest.mark.parametrize(("name", "more"), TRAINED)
def test_training_is_forward_and_backward(name, more):
    """Its steps are those of the page and of its gradient; its formulas give its numbers; nothing is cached."""
    sizes = {"seq": 256, "heads": 4, "head_dim": 8, **more}
    found = am.cost(name, phase="train", recompute="none", **sizes)
    forward = am.cost(name, form=found.form, **sizes)
    layer = layers.build(name, [], None, "window" in more)
    made = gradient(layer.form(found.form)).backward.defined
    there = [s for s in found.steps if s.name not in made]
    assert sum(s.flops for s in there) == forward.flops.total
    assert [s.name for s in found.steps if s.name in made] == list(made)
    assert (
        sum(s.flops for s in found.steps)
        == found.flops.total
        == found.flops.projections + found.flops.core + found.flops.other
    )
    assert found.flops.matmul > forward.flops.matmul
    assert found.parameters == forward.parameters
    assert (found.kv_cache_bytes, found.state_bytes) == (0, 0)
    assert "hbm_bytes.fused" in found.refused, "the weights of a softmax that are kept are written by no single pass"
    for key in ("flops.total", "flops.matmul"):
        expression = am.formula(name, key, phase="train", form=found.form, recompute="none", **sizes)
        values, _ = layer.sizes(
            {OPTIONS[k.replace("_", "-")]: v for k, v in sizes.items()}, page=layer.form(found.form)
        )
        assert expression.subs({s: values[str(s)] for s in expression.free_symbols}) == found[key], key


def test_three_passes_of_products():
    """Of a softmax layer, the backward pass has twice the forward's products, projections and core alike."""
    sizes = {"seq": 512, "heads": 8, "kv_heads": 2, "head_dim": 16}
    forward, both = am.cost("gqa", **sizes), am.cost("gqa", phase="train", recompute="none", **sizes)
    assert both.flops.matmul == 3 * forward.flops.matmul
    assert both.flops.projections == 3 * forward.flops.projections
    assert both.flops_by_convention.torch == 3 * forward.flops_by_convention.torch
    assert both.flops_by_convention.exact == both.flops.matmul
    assert both.flops.softmax == 11 * both.exps, "6 forward; 2 for D, 2 for dL, 1 for dS"
    assert both.formulas["flops.matmul"] == "6*b*h*t*d*(t + 1)"


def test_training_on_the_command_line(call):
    code, out, err = call("cost --variant gqa --seq 1k --heads 8 --phase train")
    assert code == 0
    assert "gqa: train, 1 x 1,024 new tokens" in out
    assert "recompute selective" in err
    assert "of which again" in out
    _, _, err = call("cost --variant kda --seq 1k --heads 8 --phase train")
    assert err.count("reads its states") == 1, "said once"
    code, out, _ = call("compare gqa mla --seq 1k --heads 8 --phase train --format csv")
    assert code == 0
    code, out, _ = call("cost --variant gqa --seq 1k --heads 8 --phase train --explain flops.matmul")
    assert "dK[b n g d] = dS[b g r t n] * Q[b t g r d]" in out
    code, out, _ = call("cost --variant gqa --seq 1k --heads 8 --phase train --explain hbm_bytes.fused")
    assert "dQ, read at each visit" in out
    code, out, _ = call("cost --variant kda --seq 1k --heads 8 --phase train --explain hbm_bytes.fused")
    assert "null" in out
    assert call("cost --variant gqa --seq 1k --heads 8 --phase train --json")[0] == 0
    code, _, err = call("report gqa -o f.md --phase train")
    assert code == 2
    assert "not built yet here" in err


def test_a_models_layers_are_trained(call):
    one = am.cost("gqa", modifiers=["rope"], phase="train", seq=64, heads=32, kv_heads=8, d_model=4096, formulas=False)
    code, out, _ = call("cost --model llama-3.1-8b --seq 64 --phase train --json")
    assert code == 0
    assert f'"matmul": {32 * one.flops.matmul}' in out
