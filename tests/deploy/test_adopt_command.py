"""`sightline adopt`: a file or an address becomes a bundle that settings can name, or one line says why not."""

import functools
import hashlib
import http.server
import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from deploy.adopt_fetch import fetch
from deploy.adopt_links import labelled_tracklets
from deploy.bundle import load_bundle
from deploy.cli import status_of
from stream.errors import AdoptError, DataError, UsageError
from tests.deploy import tiny_models


def sightline(*arguments: object) -> int:
    return status_of(["adopt", *map(str, arguments)])


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    path = tmp_path / "theirs.onnx"
    path.write_bytes(tiny_models.foreign_embedder())
    return path


def write_crops(folder: Path, people: int = 130) -> None:
    """Two cameras see everybody twice; each is of a colour, and cameras tint."""
    import cv2

    folder.mkdir()
    rng = np.random.default_rng(0)
    for person in range(1, people + 1):
        colours = rng.uniform(40, 215, (4, 3))
        for camera in (1, 2):
            for frame in (0, 10, 1000, 1010):
                tint = rng.normal(0, 12, 3) + 10 * camera
                picture = np.repeat(colours + tint, 8, axis=0)[:, None].repeat(16, 1) + rng.normal(0, 8, (32, 16, 3))
                name = f"{person:04d}_c{camera}s1_{frame:06d}_00.png"
                assert cv2.imwrite(str(folder / name), picture.clip(0, 255).astype(np.uint8))


def test_the_command_writes_a_bundle_that_settings_can_name(
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_crops(tmp_path / "crops")
    options = [
        "--preset",
        "torchreid",
        "--name",
        "mine",
        "--crops",
        tmp_path / "crops",
        "--default",
        "false_links=0.02",
        "--json",
        tmp_path / "said.json",
    ]
    assert sightline(theirs, *options) == 0
    bundle = load_bundle("mine", "embedder")
    assert bundle.card.defaults == {"false_links": 0.02}
    assert bundle.links is not None
    assert bundle.links.fitted_on == "crops: 520 tracklets of 130 people"
    assert bundle.links.same.b > 0
    shown = capsys.readouterr().out
    assert "link rows: 100.0% 1040 of 1040 crops embedded" in shown
    assert 'bundle = "mine"' in shown
    assert json.loads((tmp_path / "said.json").read_text())["max_batch"] == 32
    assert sightline(theirs, *options) == 2
    assert "there is a bundle already; choose another name or say --replace" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        pytest.param([], 2, "which family is it? Say --preset yolox, omz-reid, torchreid", id="no preset"),
        pytest.param(["--preset", "yolov5"], 2, "'yolov5' is not one of", id="unknown preset"),
        pytest.param(["--preset", "yolox"], 1, "returns (1, 12), expected (1, boxes,", id="wrong shape"),
        pytest.param(["--preset", "omz-reid", "--kind", "detector"], 2, "is of kind embedder", id="contradiction"),
        pytest.param(["--preset", "omz-reid", "--name", "No!"], 2, "expected small letters", id="impossible name"),
        pytest.param(
            ["--preset", "omz-reid", "--version", "1 b"], 2, "--version 1 b: expected", id="impossible version"
        ),
        pytest.param(["--preset", "omz-reid", "--mean", "1,2"], 2, "three numbers like", id="two numbers"),
        pytest.param(["--preset", "omz-reid", "--input-hw", "256"], 2, "height and width like 256x128", id="one side"),
        pytest.param(
            ["--preset", "omz-reid", "--input-hw", "256x128"], 1, "not the 256x128 asked for", id="other size"
        ),
        pytest.param(["--preset", "omz-reid", "--take", "y"], 1, "returns out, no y", id="no such output"),
        pytest.param(["--preset", "omz-reid", "--sha256", "12"], 2, "64 hexadecimal digits", id="no digest"),
        pytest.param(["--preset", "omz-reid", "--sha256", "0" * 64], 1, "expected 0000", id="another digest"),
        pytest.param(
            ["--preset", "omz-reid", "--default", "new_score=0.4"],
            1,
            "no threshold of this embedder",
            id="its threshold",
        ),
        pytest.param(["--preset", "omz-reid", "--default", "false_links"], 2, "expected NAME=NUMBER", id="no number"),
        pytest.param(["--preset", "omz-reid", "--crops", "/nowhere"], 1, "0 pictures named like", id="no crops"),
        pytest.param(
            ["--preset", "omz-reid", "--output", __file__], 2, "is a file; give a folder", id="output is a file"
        ),
    ],
)
def test_wrong_use_is_said_in_one_line(
    theirs: Path, capsys: pytest.CaptureFixture[str], options: list[str], status: int, said: str
) -> None:
    assert sightline(theirs, "--name", "mine", *options) == status
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    ("place", "status", "said"),
    [
        pytest.param("/nowhere.onnx", 1, "there is no such file", id="no file"),
        pytest.param(str(Path(__file__).parent), 1, "is a folder, expected an ONNX file", id="a folder"),
        pytest.param("http://127.0.0.1/x.onnx", 2, "http:// addresses are not taken", id="http"),
        pytest.param("https://127.0.0.1/x.onnx", 2, "an address needs --sha256", id="https without digest"),
    ],
)
def test_a_wrong_place_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str], place: str, status: int, said: str
) -> None:
    assert sightline(place, "--name", "mine", "--preset", "yolox") == status
    assert said in capsys.readouterr().err


def test_crops_without_a_single_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="0 pictures named like"):
        labelled_tracklets(tmp_path)


# Over https, from a server of our own


class _Server(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:1/model.onnx")
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
        pass


@pytest.fixture
def https(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a server with a certificate that this process trusts, which serves `tmp_path`."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is needed to make a certificate")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem",
         "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    handler = functools.partial(_Server, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"https://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_an_address_is_fetched_and_checked_before_it_is_parsed(https: str, tmp_path: Path) -> None:
    data = tiny_models.foreign_embedder()
    (tmp_path / "model.onnx").write_bytes(data)
    seen: list[tuple[int, int | None]] = []
    digest = hashlib.sha256(data).hexdigest()
    assert fetch(f"{https}/model.onnx", digest.upper(), lambda done, of: seen.append((done, of))) == data
    assert seen[-1] == (len(data), len(data))
    with pytest.raises(AdoptError, match="nothing was adopted"):
        fetch(f"{https}/model.onnx", "0" * 64)


@pytest.mark.parametrize(
    ("path", "error", "said"),
    [
        pytest.param("/missing.onnx", AdoptError, "the server answers 404", id="not there"),
        pytest.param("/away", AdoptError, "redirects away from https", id="redirected to http"),
    ],
)
def test_a_server_that_does_not_give_the_file_is_said(https: str, path: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        fetch(https + path, "0" * 64)


def test_nobody_there_is_said() -> None:
    with pytest.raises(AdoptError, match="cannot be fetched"):
        fetch("https://127.0.0.1:1/model.onnx", "0" * 64)


def test_a_file_without_end_is_cut_off(https: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.adopt_fetch.MAX_BYTES", {"model.onnx": 1 << 20})
    (tmp_path / "model.onnx").write_bytes(bytes((1 << 20) + 1))
    for place in (f"{https}/model.onnx", str(tmp_path / "model.onnx")):
        with pytest.raises(AdoptError, match="larger than 1 MiB"):
            fetch(place, "0" * 64)


def test_other_schemes_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="ftp:// addresses are not taken"):
        fetch("ftp://127.0.0.1/model.onnx", None)
