"""How long a derivation takes, from the command to its last line, beside `import sympy` in the same interpreter.

    python benchmarks/proofs.py [RUNS]

Each pair runs one after the other, as whole processes; the last line is `verify` of everything on all cores. What is aimed
at: 3 s a derivation, 60 s for `verify` on two cores.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from attnmath import derivations

ATTNMATH = Path(sys.executable).with_name("attnmath")


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def main(runs: int) -> None:
    base = [sys.executable, "-c", "import sympy"]
    seconds(base)
    print(f"{'':26} {'median ratio':>12} {'median s':>10} {'largest s':>10}   (against `import sympy`, {runs} pairs)")
    for name in derivations.titles():
        pairs = [(seconds([str(ATTNMATH), "derive", name]), seconds(base)) for _ in range(runs)]
        own = [a for a, _ in pairs]
        ratio = statistics.median(a / b for a, b in pairs)
        print(f"derive {name:19} {ratio:12.2f} {statistics.median(own):10.2f} {max(own):10.2f}", flush=True)
    everything, sympy = seconds([str(ATTNMATH), "verify"]), seconds(base)
    print(f"{'verify':26} {everything / sympy:12.2f} {everything:10.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
