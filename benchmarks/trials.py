"""How long a first trial of each method takes, as docs/methods.md gives it: training on 12 drawn people for one epoch, then scoring.

    python benchmarks/trials.py            all five, each with an empty cache, so drawing is in it (some minutes)

Asked: under 5 minutes for each method on two cores. One epoch teaches nothing; what it scores is not shown here.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from stream.cores import usable_cores
from trainer.methods import METHODS


def timed(words: list[str], cache: Path) -> float:
    """Seconds that a `sightline` command takes; one that fails ends the program with what it said last."""
    began = time.perf_counter()
    call = [sys.executable, "-c", "from deploy.cli import main; main()", *words]
    done = subprocess.run(call, env={**os.environ, "SIGHTLINE_CACHE": str(cache)}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"trials: sightline {' '.join(words)} ended with {done.returncode}: {done.stderr[-500:]}")
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    print(
        f"{platform.processor() or platform.machine()}, {usable_cores()} cores, load average {os.getloadavg()[0]:.1f}"
    )
    print("| method | train, s | evaluate, s | both, asked under 300 |\n|---|---|---|---|")
    for method in (name for name in METHODS if name != "detector"):
        with tempfile.TemporaryDirectory() as folder:
            run, cache = Path(folder, "run"), Path(folder, "cache")
            asked = ["--data", "synthetic", "--people", "12", "--epochs", "1", "--output", str(run)]
            train = timed(["train", method, *asked], cache)
            score = timed(["evaluate", str(run)], cache)
        print(f"| {method} | {train:.0f} | {score:.0f} | {train + score:.0f} |", flush=True)


if __name__ == "__main__":
    main()
