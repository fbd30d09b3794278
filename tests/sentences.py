"""Random expressions over the whole language of claims, names reused on purpose: what the normal form is fuzzed with."""

from __future__ import annotations

from sympy import Integer, KroneckerDelta, Product, Sum, exp

from attnmath.proving.terms import counts, indices, sizes, tensors, total

n, m = sizes("n m")
I, J = indices("i j k l", n), indices("p q r", m)
t, b, s = counts("t b s")
x, y, z, A, B = tensors("x y z A B")


def sentence(rng, depth, free):
    """A random expression in which the indices of `free` may occur."""
    pick = rng.random()
    if depth == 0 or pick < 0.2:
        i = rng.choice(free)
        leaves = [x[i], y[i], A[i, rng.choice(free)], KroneckerDelta(i, rng.choice(free)), Integer(rng.randint(1, 3))]
        return rng.choice(leaves)
    sub = lambda f=free: sentence(rng, depth - 1, f)
    if pick < 0.4:
        return sub() * sub()
    if pick < 0.55:
        return sub() + sub()
    if pick < 0.62:
        return exp(-sub())
    if pick < 0.68:
        return 1 / (1 + sub() ** 2)
    if pick < 0.72:
        return sub() ** 2
    if pick < 0.8:
        return Sum(sentence(rng, depth - 1, [*free, s]), (s, rng.choice([0, 1, b]), b + t + rng.randint(0, 2)))
    if pick < 0.84:
        return Product(x[s] * y[rng.choice(free)], (s, b, b + t + rng.randint(-1, 1)))
    k = rng.choice(I)
    return total(sentence(rng, depth - 1, [*free, k]), k)
