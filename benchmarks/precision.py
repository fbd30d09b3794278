"""What low precision costs: inputs and weights rounded to a format, the rest computed exactly, against no rounding at all.

    python benchmarks/precision.py

Prints, for every variant, the root mean square of the output's error over that of the output. Needs ml_dtypes. A selection
can tip over a rounding, so that a few queries read other keys: the variants that select have larger errors for that reason.
"""

from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np

from attnmath import layers, variants
from attnmath.readings.evaluate import run

FORMATS = {"fp32": np.float32, "bf16": ml_dtypes.bfloat16, "fp8 e4m3": ml_dtypes.float8_e4m3fn}
SIZES = {"b": 2, "t": 48, "h": 4, "g": 2, "d": 16, "m": 64, "l": 16, "q": 24, "p": 8, "x": 32, "w": 16, "i": 8, "k": 3}
SIZES |= {"a": 4, "z": 8, "group": 2, "v": 8, "layer": 1, "layers": 4}


def problem(name: str, seed: int = 0) -> tuple[layers.Layer, dict[str, int], dict[str, np.ndarray]]:
    """A layer at small sizes, its sizes, and random inputs and weights that keep activations near 1."""
    layer = layers.build(name)
    page = layer.form()
    given = {k: v for k, v in SIZES.items() if k in layer.letters([page]) or k in ("h", "g")}
    sizes, _ = layer.sizes(given, page=page)
    rng = np.random.default_rng(seed)
    inputs = {}
    for n, index in page.tensors.items():
        if n in page.inputs:
            x = rng.standard_normal([int(sizes[i]) for i in index])
            inputs[n] = x / np.sqrt(x.shape[0]) if n.startswith("W") and x.ndim > 1 else x
    return layer, sizes, inputs


def errors(name: str) -> Iterator[tuple[str, float]]:
    """(format, relative error of the output) for inputs rounded to each format."""
    layer, sizes, inputs = problem(name)
    page = layer.form()
    exact = run(page, sizes, inputs)[page.output]
    for label, dtype in FORMATS.items():
        rounded = {n: x.astype(dtype).astype(float) for n, x in inputs.items()}
        error = run(page, sizes, rounded)[page.output] - exact
        yield label, float(np.sqrt((error**2).mean() / (exact**2).mean()))


def main() -> None:
    print(f"{'variant':24s}" + "".join(f"{label:>12s}" for label in FORMATS))
    for name in variants.names():
        print(f"{name:24s}" + "".join(f"{error:12.1e}" for _, error in errors(name)))


if __name__ == "__main__":
    main()
