"""The command line: help, usage errors, exit statuses, and that nobody ever sees a traceback."""

import importlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import typer
from rich.table import Table

from deploy import service
from deploy.cli import VERBS, main, status_of
from deploy.output import Output, check_writable
from stream.errors import BundleError, EpochLost, SettingsError, UsageError
from tests.deploy.sites import write_site
from tests.deploy.workers import last_line, sightline

ALL = [verb for verbs in VERBS.values() for verb in verbs]


def failing(error: BaseException) -> typer.Typer:
    commands = typer.Typer()

    @commands.command()
    def fail() -> None:
        raise error

    return commands


@pytest.mark.parametrize("verb", ALL)
def test_the_help_of_every_verb_shows_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of([verb, "--help"]) == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert re.search(rf"Examples?: sightline {verb}\b", said)


def test_without_arguments_the_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in ALL)


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["--version"]) == 0
    assert capsys.readouterr().out.startswith("sightline ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["plan"], ["Missing argument", 'see "sightline plan --help"'], id="missing argument"),
        pytest.param(["plan", "x.toml", "--peeple", "3"], ["--peeple", "--people"], id="misspelt option"),
        pytest.param(["plan", "x.toml", "--people", "many"], ["--people': expected a number;"], id="no number"),
        pytest.param(
            ["plan", "x.toml", "--people", "inf"], ["--people': expected at most 1000;"], id="no finite number"
        ),
        pytest.param(["plann"], ["plann", "plan", 'see "sightline --help"'], id="misspelt verb"),
        pytest.param(
            ["bench", "models", "--batch", "0"],
            ["--batch': expected at least 1;", 'see "sightline bench models --help"'],
            id="verb within a verb",
        ),
        pytest.param(
            ["bench", "--scenes", "0"], ["--scenes", 'see "sightline bench --help"'], id="verb that has verbs"
        ),
        pytest.param(
            ["adopt", "x.onnx", "--name", "x", "--preset", "yolo"],
            ["--preset': 'yolo' is not one of"],
            id="no such choice",
        ),
        pytest.param(
            ["plan", "x.toml", "--json", "/no/such/x.json"], ["/no/such does not exist"], id="unwritable report"
        ),
        pytest.param(["plan", "x.toml", "--json", "/"], ["is a folder"], id="report is a folder"),
        pytest.param(["plan", "/no/such.toml"], ["/no/such.toml: no such file"], id="missing site file"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_status_2(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert all(word in said for word in words)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        pytest.param(BundleError("models/x: altered"), 1, id="failed"),
        pytest.param(SettingsError("site.toml: wrong"), 2, id="settings"),
        pytest.param(EpochLost("depot: taken over"), 3, id="taken over"),
        pytest.param(KeyboardInterrupt(), 130, id="interrupted"),
    ],
)
def test_every_kind_of_error_has_its_exit_status(
    error: BaseException, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of([], failing(error)) == status
    assert capsys.readouterr().err == f"sightline: {str(error) or 'interrupted'}\n"


def test_an_unexpected_error_is_one_line_and_a_log_file_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert status_of([], failing(RuntimeError("rtsp://user:hunter2@camera\nbroke"))) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "Traceback" not in said
    [log] = tmp_path.rglob("crash-*.log")
    assert str(log) in said
    assert "Traceback" in log.read_text()
    assert "hunter2" not in said + log.read_text()


def test_a_log_that_cannot_be_written_where_logs_are_goes_where_temporary_files_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "no-folder").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "no-folder"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert status_of([], failing(RuntimeError("broke"))) == 1
    [log] = tmp_path.glob("crash-*.log")
    assert f"report it with {log}" in capsys.readouterr().err


def test_a_full_disk_is_one_line_and_no_mistake_of_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = write_site(tmp_path, frames=1)
    assert status_of(["plan", str(site), "--json", "/dev/full"]) == 1
    said = capsys.readouterr().err
    assert said.endswith("no space left on device: free some room, or name another place\n")
    assert "mistake" not in said


def test_a_gpu_without_memory_is_one_line_and_no_mistake_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    from torch import OutOfMemoryError

    full = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB of which 1.00 GiB is free."
    advice = "Including non-PyTorch memory, this process has 7.00 GiB memory in use. If reserved memory is large try setting X."
    assert status_of([], failing(OutOfMemoryError(f"{full} {advice}"))) == 1
    said = capsys.readouterr().err
    assert re.fullmatch(r"sightline: .*2\.00 GiB\. GPU 0 .*is free: .*nvidia-smi.*CUDA_VISIBLE_DEVICES.*\n", said)
    assert "mistake" not in said


def test_nowhere_to_keep_what_numba_compiles_is_one_line_and_no_mistake_of_ours(
    capsys: pytest.CaptureFixture[str],
) -> None:
    import numba

    scope: dict[str, object] = {}
    exec(compile("def draws(): pass", "<nowhere>", "exec"), scope)  # noqa: S102
    with pytest.raises(RuntimeError) as refused:
        numba.njit(cache=True)(scope["draws"])
    assert status_of([], failing(refused.value)) == 1
    said = "sightline: nothing can be drawn: point SIGHTLINE_CACHE and NUMBA_CACHE_DIR to folders that can be written\n"
    assert capsys.readouterr().err == said


def test_a_user_without_home_and_account_is_told_where_the_state_would_be(tmp_path: Path) -> None:
    site = write_site(tmp_path, frames=1)
    script = f"""
import pwd
def nobody(number):
    raise KeyError(number)
pwd.getpwuid = nobody
from deploy.cli import main
main(["status", {str(site)!r}])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env={"PATH": os.environ["PATH"]}
    )
    assert done.returncode == 1
    assert "nothing is kept of site depot in /.local/state/sightline/depot: " in last_line(done)


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert Output(None).console.is_terminal
    monkeypatch.setenv("TERM", "dumb")
    assert not Output(None).console.is_terminal


def test_a_path_with_brackets_is_printed_whole(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("[file]", title="[bold]")
    table.add_row("/data/[old]/y")
    Output(None).console.print("/data/[old]/x", table)
    said = capsys.readouterr().out
    assert all(text in said for text in ("/data/[old]/x", "[bold]", "[file]", "/data/[old]/y"))


def test_an_interrupt_while_commands_are_imported_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib, "import_module", interrupted)
    with pytest.raises(SystemExit) as left:
        main(["plan"])
    assert left.value.code == 130
    assert capsys.readouterr().err == "sightline: interrupted\n"


@pytest.mark.parametrize(
    "arguments", [["demo", "--report"], ["run", "site.toml", "--state"]], ids=["report", "state folder"]
)
def test_a_file_where_a_folder_is_asked_for_is_said_before_any_work(tmp_path: Path, arguments: list[str]) -> None:
    write_site(tmp_path, frames=1)
    (tmp_path / "file").touch()
    done = sightline(*arguments, "file", folder=tmp_path)
    assert done.returncode == 2
    assert f"{arguments[-1]} file: cannot be made" in last_line(done)


@pytest.mark.parametrize("arguments", [["run", "--events"], ["plan", "--json"]], ids=["events", "json"])
def test_a_file_that_cannot_be_written_is_said_before_any_work(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = write_site(tmp_path, frames=1)
    verb, option = arguments
    path = "/proc/sightline.json"  # refused to root, too
    assert status_of([verb, str(site), option, path]) == 2
    said = capsys.readouterr()
    assert re.fullmatch(rf"sightline: {option} {path}: cannot be written: .+; give another file\n", said.err)
    assert said.out == ""


def test_to_ask_whether_a_file_can_be_written_changes_nothing(tmp_path: Path) -> None:
    new, old, link, pipe = (tmp_path / name for name in ("new", "old", "link", "pipe"))
    old.write_text("kept")
    link.symlink_to(tmp_path / "nowhere yet")
    os.mkfifo(pipe)  # nobody reads it: to open it would take for ever
    for path in (new, old, link, pipe):
        check_writable("--json", path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "old", "pipe"]
    assert old.read_text() == "kept"


def test_several_may_ask_at_once_whether_a_new_file_can_be_written(tmp_path: Path) -> None:
    def ask(process: int) -> None:
        path = tmp_path / f"{process // 4}.json"  # four ask for the same, as torchrun's processes do
        for _ in range(200):
            check_writable("--json", path)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
    assert list(tmp_path.iterdir()) == []


def test_a_name_no_file_can_have_is_said_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot be written: file name too long; give another file"):
        check_writable("--json", tmp_path / ("x" * 300))


def test_two_signals_at_once_are_one_stop_and_a_later_one_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    with service.stop_on_signals() as stop:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(number)
        assert stop.is_set()
        monkeypatch.setattr(service, "AGAIN_S", 0.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def test_main_exits_with_the_status() -> None:
    with pytest.raises(SystemExit) as left:
        main(["plan", "/no/such.toml"])
    assert left.value.code == 2


def test_help_needs_no_heavy_library() -> None:
    heavy = ("av", "numba", "onnxruntime", "onnx", "redis", "kafka", "torch", "cv2", "scipy", "matplotlib")
    script = f"""
import sys
from deploy.cli import status_of
assert status_of(["--help"]) == 0
print(sorted(set({heavy!r}) & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == "[]\n"


def test_a_reader_that_goes_away_early_is_no_error() -> None:
    command = f"{sys.executable} -c 'from deploy.cli import main; main()' --help | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""


def test_neither_is_one_of_data() -> None:
    script = "from deploy.output import Output, STDOUT; Output(STDOUT).data([0] * 100_000)"
    command = f"set -o pipefail; {sys.executable} -c '{script}' | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_data_is_utf_8_wherever_it_goes() -> None:
    script = "from deploy.output import Output, STDOUT; Output(STDOUT).data('détecteur')"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        timeout=60,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )
    assert done.stdout.decode() == '"détecteur"\n'
