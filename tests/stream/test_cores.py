import os
import subprocess
import sys

import pytest

from stream.cores import usable_cores

ALL = len(os.sched_getaffinity(0))


def test_a_process_bound_to_one_core_uses_one() -> None:
    core = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, [{core}]); from stream.cores import usable_cores; print(usable_cores())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"


@pytest.mark.parametrize(
    ("cpu_max", "cores"),
    [
        pytest.param("max 100000\n", ALL, id="no limit"),
        pytest.param("100000 100000\n", 1, id="one core"),
        pytest.param("50000 100000\n", 1, id="half a core"),
        pytest.param("6400000 100000\n", ALL, id="more than the machine has"),
        pytest.param("", ALL, id="an empty file"),
        pytest.param(None, ALL, id="no such file"),
    ],
)
def test_a_containers_share_counts(tmp_path, cpu_max: str | None, cores: int) -> None:
    path = tmp_path / "cpu.max"
    if cpu_max is not None:
        path.write_text(cpu_max)
    assert usable_cores(path) == cores
