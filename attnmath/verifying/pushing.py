"""The judge's walk for programs of gradients, which write where they do not read.

A left such as `dC[b T[b t k] l]` says where each value goes, not which values an element is made of: so every value is
computed once and pushed to its place, where what arrives adds up. And a size in a gradient may bear the name of an index
that its term lacks (`dM[t] / d`): sizes and tensors get names here that no index can have. Like `judge`, it shares no code
with the package.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from attnmath.verifying.judge import Cells, Node, Place, Walk, _items, _kind, _named, _terms


class Pushing(Walk):
    r"""A walk over a page and its gradient, by the page's own names.

    >>> page = "Y[t] = X[t] * X[t]\ndX[t] = 2 * dY[t] * X[t]"
    >>> walk = Pushing(page, {"t": 1}, {"X": {(0,): 3.0}, "dY": {(0,): 1.0}})
    >>> walk.values_of("dX", [(0,)]), walk.cost_of("dX")
    ({(0,): 6.0}, (2, 0))
    """

    def __init__(
        self, text: str, sizes: Mapping[str, Any], inputs: Mapping[str, Cells], past: Mapping[str, Any] | None = None
    ):
        found = dict.fromkeys(re.findall(r"([A-Za-z][A-Za-z0-9']*)\[", text))
        self.alias = {name: f"T{k}" for k, name in enumerate(found)}
        plain = re.sub(r"([A-Za-z][A-Za-z0-9']*)\[", lambda m: f"{self.alias[m[1]]}[", text)

        def renamed(tensors: Mapping[str, Any]) -> dict[str, Any]:
            return {self.alias[n]: x for n, x in tensors.items() if n in self.alias}

        super().__init__(plain, dict(sizes), renamed(inputs), renamed(past or {}))
        node: Node
        for _, alts in self.made.values():
            for node in (n for a in alts for n in ast.walk(a) if _kind(n) == "N"):
                if node.args[0].value in self.sizes:
                    size = f"#{node.args[0].value.upper()}"
                    self.sizes[size] = self.sizes[node.args[0].value]
                    node.args[0].value = size
        self.pushed: dict[str, Cells] = {}

    def values_of(self, name: str, places: Iterable[Place]) -> Cells:
        """Elements of a tensor, by the page's name of it."""
        return {place: self.element(self.alias[name], place) for place in places}

    def cost_of(self, name: str) -> tuple[int, int]:
        """(operations, exponentials) that its elements took."""
        return self.cost[self.alias[name]], self.exps[self.alias[name]]

    def element(self, name: str, place: tuple[Any, ...]) -> Any:
        """One element; of what is written where data say, all at once."""
        index, alts = self.made.get(name, ([], []))
        pushes = len(alts) == 1 and any(c in i for i in index for c in "[(" if "|" not in i)
        if not pushes or name in self.inputs or any(x is None or x < 0 for x in place):
            return super().element(name, place)
        if name not in self.pushed:
            self.pushed[name] = self.push(name, index, alts[0])
        return self.pushed[name].get(place, 0.0)

    def push(self, name: str, index: list[str], node: Node) -> Cells:
        """Every place that something arrives at. Where data say where, an addition each, unless a sum has one to spare."""
        inner = [d for i in index for gather in re.findall(r"\[([^\]]*)\]", i) for d in _items(gather)]
        free = list(dict.fromkeys([*(d for i in index for d in self.names(i)), *inner]))
        read = _named((True, node))
        starts = any(all(d in free for _, f in term for d in self.letters(f)) for _, term in _terms(node))
        out: Cells = {}
        known: dict[Any, Any] = {}
        self.current.append(name)
        for values in itertools.product(*(range(self.sizes[d]) for d in free)):
            env = dict(zip(free, values))
            if not self.exists(env):
                continue
            own = tuple((d, x) for d, x in env.items() if d in read)
            if own not in known:  # what the left repeats is computed once
                known[own] = self.sum_of_terms(node, dict(own))
            if starts and any("[" in i for i in index):
                self.tally()
            place = tuple(self.at(i, env) for i in index)
            if min(place) >= 0:
                out[place] = out.get(place, 0.0) + known[own]
        self.current.pop()
        return out
