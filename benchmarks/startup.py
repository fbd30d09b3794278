"""How long `attnmath cost` takes, as a ratio to `import click` in the same interpreter, both as whole processes in turn.

    python benchmarks/startup.py [RUNS]

Each pair runs one after the other, so that a machine whose speed drifts bears on both; what is quoted is the median ratio.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

ATTNMATH = Path(sys.executable).with_name("attnmath")
GPU = ["--gpu", "h100-sxm"]
PLANS = Path(__file__).resolve().parent.parent / "tests" / "plans"
CASES = {
    "cost": ["cost", "--seq", "8192", "--heads", "32", "--variant", "gqa"],
    "cost --gpu": ["cost", "--seq", "8192", "--heads", "32", "--variant", "gqa", *GPU],
    "cost --json": ["cost", "--seq", "8192", "--heads", "32", "--variant", "gqa", "--json"],
    "cost --variant mla": ["cost", "--seq", "8192", "--heads", "128", "--variant", "mla"],
    "equations": ["equations", "gqa"],
    "variants": ["variants"],
    "model llama-3.1-8b": ["model", "llama-3.1-8b", "--seq", "8192"],
    "model deepseek-v4-flash": ["model", "deepseek-v4-flash", "--seq", "8192"],
    "model gemma-4-31b": ["model", "gemma-4-31b", "--seq", "8192"],
    "plan check": ["plan", "check", str(PLANS / "fits-llama-70b-tp8.toml")],
    "plan check, hybrid": ["plan", "check", str(PLANS / "fits-hybrid.toml")],
    "plan check, seven": ["plan", "check", *sorted(map(str, PLANS.glob("fits-[dghl]*.toml")))[:7]],
}
CONFIG = Path(__file__).resolve().parents[2] / "shared" / "configs" / "meta-llama__Meta-Llama-3.1-8B.json"


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def main(runs: int) -> None:
    cases = CASES | (
        {"cost --model --gpu": ["cost", "--model", str(CONFIG), "--seq", "8192", *GPU]} if CONFIG.exists() else {}
    )
    base = [sys.executable, "-c", "import click"]
    print(f"{'':26} {'median ratio':>12} {'median ms':>10}   (against `import click`, {runs} pairs)")
    for name, arguments in cases.items():
        command = [str(ATTNMATH), *arguments]
        seconds(command), seconds(base)
        pairs = [(seconds(command), seconds(base)) for _ in range(runs)]
        ratio, own = statistics.median(a / b for a, b in pairs), statistics.median(a for a, _ in pairs)
        print(f"{name:26} {ratio:12.2f} {1e3 * own:10.1f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 25)
