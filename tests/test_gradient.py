"""Gradients as programs: against implementations of others, against differences, element by element, and broken on purpose."""

from __future__ import annotations

import inspect
import itertools

import numpy as np
import pytest
import test_vectors
from conftest import load_vector
from hypothesis import given
from layers import MODIFIERS, arrays, cases, small, table
from pushing import Pushing

import attnmath as am
from attnmath import blocks, layers, variants
from attnmath.errors import InputError, LanguageError
from attnmath.language import ops
from attnmath.language.masks import MaskExpr
from attnmath.language.parse import lines, program
from attnmath.language.syntax import Program
from attnmath.readings import gradient as deriving
from attnmath.readings.count import count, total
from attnmath.readings.evaluate import run
from attnmath.readings.gradient import gradient, lower

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
            try:
                self.test(**self.args, vector=vector)
            except (Stop, AssertionError):  # what it asserts of numbers does not hold of places
                pass
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
