"""Every TensorRT name that our code uses, and how it calls it, against the signatures of TensorRT's own Python bindings.

The bindings install without a GPU but do not import without TensorRT's libraries, of which half a gigabyte would be needed. Empty
libraries of the same names do to read the signatures: nothing of TensorRT is called. mypy then compares our calls with them.
"""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from services import unavailable

ROOT = Path(__file__).parents[2]
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
INSPECT = (
    "import os, sys; sys.setdlopenflags(os.RTLD_LAZY); from mypy.stubgen import main; "
    "main(['--inspect-mode', '-m', 'tensorrt_bindings.tensorrt', '-o', sys.argv[1]])"
)
PLANTED = """
import tensorrt as trt

def wrong(config: trt.IBuilderConfig, context: trt.IExecutionContext, runtime: trt.Runtime) -> None:
    trt.BuilderFlag.FP16
    context.execute_async_v2([], 0)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)
    runtime.deserialize_cuda_engine("a path").get_binding_index("x")
    trt.EXPLICIT_BATCH
"""


def users() -> list[Path]:
    """Our modules that import TensorRT."""

    def imports(path: Path) -> bool:
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        return any(isinstance(node, ast.Import) and node.names[0].name == "tensorrt" for node in nodes)

    return [path for path in sorted((ROOT / "deploy").rglob("*.py")) if imports(path)]


@pytest.fixture(scope="module")
def signatures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``tensorrt/__init__.pyi``, read off the installed bindings."""
    if importlib.util.find_spec("tensorrt_bindings") is None:
        unavailable("TensorRT's Python bindings are not installed: pip install '.[dev]' on Linux")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        unavailable("a C compiler is needed for empty libraries (cc)")
    folder = tmp_path_factory.mktemp("tensorrt")
    symbols: list[str] = []
    while True:
        make_libraries(compiler, folder, symbols)
        said = inspect(folder)
        missing = re.search(r"undefined symbol: (\w+)", said)
        if missing is None or missing[1] in symbols:
            break
        symbols.append(missing[1])
    assert (folder / "tensorrt_bindings" / "tensorrt.pyi").exists(), said
    lines = (folder / "tensorrt_bindings" / "tensorrt.pyi").read_text().splitlines()
    (folder / "tensorrt").mkdir()
    text = "\n".join(["__version__: str", *(valid(line) for line in lines)])
    (folder / "tensorrt" / "__init__.pyi").write_text(text)
    return folder


def make_libraries(compiler: str, folder: Path, symbols: list[str]) -> None:
    """Empty but for `symbols`, which the bindings want to see and do not call."""
    major = version("tensorrt_cu13_bindings").partition(".")[0]
    source = folder / "empty.c"
    source.write_text("".join(f"void {symbol}(void) {{}}\n" for symbol in symbols))
    for name in LIBRARIES:
        library = f"lib{name}.so.{major}"
        command = [compiler, "-shared", f"-Wl,-soname,{library}", str(source), "-o", str(folder / library)]
        subprocess.run(command, check=True, timeout=60)


def inspect(folder: Path) -> str:
    """Write the signatures; returns what went wrong."""
    environment = os.environ | {"LD_LIBRARY_PATH": str(folder)}
    command = [sys.executable, "-c", INSPECT, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    return done.stdout + done.stderr


def valid(line: str) -> str:
    """A signature that Python cannot say (a default before what has none) takes anything."""
    if found := re.match(r"(\s*)def (\w+)\(", line):
        try:
            ast.parse(line.strip())
        except SyntaxError:
            return f"{found[1]}def {found[2]}(self, *args, **kwargs): ..."
    return line


def test_the_modules_that_use_tensorrt_are_found() -> None:
    found = {path.name for path in users()}
    assert {"trt.py", "trt_slot.py", "tensorrt_api.py", "engine_build.py"} <= found


def test_every_call_of_tensorrt_is_one_that_its_bindings_have(signatures: Path) -> None:
    planted = signatures / "planted.py"
    planted.write_text(PLANTED)
    config = signatures / "mypy.ini"
    config.write_text(
        f"[mypy]\nmypy_path = {signatures}\nfollow_imports = skip\nignore_missing_imports = True\ncheck_untyped_defs = True\n"
    )
    stub = signatures / "tensorrt" / "__init__.pyi"
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        str(config),
        "--cache-dir",
        str(signatures / "cache"),
        "--no-error-summary",
    ]
    done = subprocess.run(
        [*command, str(stub), str(planted), *map(str, users())],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    lines = done.stdout.splitlines()
    types = re.findall(r"^class (\w+)", stub.read_text(), re.MULTILINE)
    assert len(types) > 100
    of_tensorrt = re.compile(rf'"(type\[)?({"|".join(types)})[."\]]|Module has no attribute|of "({"|".join(types)})"')
    wrong = [
        line for line in lines if ": error: " in line and not line.startswith(str(stub)) and of_tensorrt.search(line)
    ]
    in_planted = [line for line in wrong if "planted.py" in line]
    assert {int(line.split(":")[1]) for line in in_planted} == {5, 6, 7, 8, 9}, lines
    assert [line for line in wrong if "planted.py" not in line] == []
