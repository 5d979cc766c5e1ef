"""benchmarks/tune_mgre.py, as docs/methods/mgre.md says to call it."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_documented_command_is_understood(tmp_path):
    text = (ROOT / "docs" / "methods" / "mgre.md").read_text()
    (script, arguments) = re.search(r"`python (benchmarks/tune_mgre\.py) ([^`]+)`", text).groups()
    given = arguments.replace("RUN", str(tmp_path)).split()
    done = subprocess.run([sys.executable, script, *given], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stderr.startswith(f"tune_mgre: no checkpoint at {tmp_path}/checkpoint.pt"), (
        "as far as it gets without a run"
    )
    assert done.stderr.count("\n") == 1
