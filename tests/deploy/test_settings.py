"""The site file and the environment: what is accepted, what is refused, and with which words."""

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client import Counter, Gauge, Histogram
from pydantic import BaseModel

from deploy.cli import INTERRUPTED
from deploy.settings import Settings, load
from stream import errors, telemetry
from stream.errors import SettingsError

SITE = """
[site]
name = "depot"

[[camera]]
id = "north"
url = "rtsp://user:hunter2@10.0.0.5/stream"

[[camera]]
id = "front-door"
url = "rtsp://10.0.0.6/stream"
fps = 4
"""


def load_text(tmp_path: Path, text: str, environment: dict[str, str] | None = None) -> Settings:
    path = tmp_path / "site.toml"
    path.write_text(text)
    return load(path, environment or {})


def refusal(tmp_path: Path, text: str, environment: dict[str, str] | None = None) -> str:
    with pytest.raises(SettingsError) as refused:
        load_text(tmp_path, text, environment)
    assert "\n" not in str(refused.value)
    assert refused.value.exit_status == 2
    return str(refused.value).replace(str(tmp_path) + "/", "")


def test_a_site_without_kafka_and_redis_keeps_both_inside(tmp_path: Path) -> None:
    settings = load_text(tmp_path, SITE)
    assert settings.kafka is None
    assert settings.redis is None
    assert settings.live
    assert settings.partitions == {"north": 0, "front-door": 1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            SITE + "fsp = 5\n",
            'site.toml line 13: [[camera]] "front-door" unknown setting "fsp"; did you mean "fps"?',
            id="misspelt key of a camera",
        ),
        pytest.param(
            SITE + "masks = [[1, 2]]\n",
            'site.toml line 13: [[camera]] "front-door" masks.0.0 = 1: masks are a list of polygons of three points or more',
            id="a point that is none",
        ),
        pytest.param(
            SITE.replace("fps = 4", "fps = true"),
            '[[camera]] "front-door" fps = True: expected a number',
            id="a switch for a number",
        ),
        pytest.param(
            SITE.replace("fps = 4", "fps = 0.5"),
            '[[camera]] "front-door" fps = 0.5: expected at least 1',
            id="too slow to follow anybody",
        ),
        pytest.param(
            SITE + "start = 'today'\n",
            "start = today: expected a time with its zone, such as 2026-01-31T08:00:00Z",
            id="a start that is no time",
        ),
        pytest.param(
            SITE.replace("fps = 4", "width = 640.5"),
            '[[camera]] "front-door" width = 640.5: expected a whole number',
            id="a part of a pixel",
        ),
        pytest.param(
            SITE + "[compute]\nbackend = 'cuda'\n",
            "[compute] backend = cuda: expected 'auto', 'onnxruntime', 'openvino', 'tensorrt' or 'torch'",
            id="no runtime of that name",
        ),
        pytest.param(
            SITE + "[detector]\nhigh_score = 0.2\n",
            "low_score 0.25 is above high_score 0.2 or new_score 0.6",
            id="thresholds in disorder",
        ),
        pytest.param(
            SITE + "[kafka]\nbootstrap_servers = 'broker'\n",
            "expected host:port, several with commas between them",
            id="broker without a port",
        ),
        pytest.param(
            'site = "yard"\n' + SITE.replace('[site]\nname = "depot"', ""),
            'site.toml line 1: "site" is no setting but a section, with a title in brackets: [site]',
            id="a section written as a setting",
        ),
        pytest.param(
            '[site]\nname = "depot"\n[camera]\nid = "north"\n',
            '"camera" is no setting but a section, with a title in brackets: [[camera]], one for each camera',
            id="a camera in single brackets",
        ),
        pytest.param(
            SITE + "[kafca]\nbootstrap_servers = 'x:1'\n",
            'site.toml line 13: unknown section "kafca"; did you mean "kafka"?',
            id="misspelt section",
        ),
        pytest.param(
            SITE + "[redis]\nadress = 'redis://x'\n",
            'site.toml line 14: [redis] unknown setting "adress"; known: url',
            id="unknown key with no near one",
        ),
        pytest.param(
            SITE.replace("[site]", "[site]\nretention.frame_s = 60"),
            'site.toml line 3: [site] unknown setting "retention.frame_s"; did you mean "frames_s"?',
            id="misspelt key of a table in a section",
        ),
        pytest.param(
            SITE.replace("fps = 4", "fps = 0"),
            'site.toml line 12: [[camera]] "front-door" fps = 0: expected at least 1',
            id="number out of range",
        ),
        pytest.param(SITE.replace('name = "depot"', ""), '[site] "name" is missing', id="missing key"),
        pytest.param(SITE.replace('[site]\nname = "depot"', ""), "section [site] is missing", id="missing section"),
        pytest.param('[site]\nname = "depot"\n', "section [[camera]] is missing", id="no camera"),
        pytest.param(
            'camera = []\n[site]\nname = "depot"\n', "section [[camera]] is missing", id="no camera in a list"
        ),
        pytest.param(
            SITE + "[retention]\nframes_s = 60\n",
            'site.toml line 13: unknown section "retention"; did you mean [site.retention]?',
            id="a table outside its section",
        ),
        pytest.param(
            SITE.replace("[site]", "[site]\nmetrics_port = 9100"),
            'site.toml line 3: [site] unknown setting "metrics_port"; did you mean [telemetry] metrics_port?',
            id="a key under another title",
        ),
        pytest.param(
            SITE + "[matcher]\nmax_batch = 8\n",
            '"max_batch"; did you mean [detector] max_batch or [reid] max_batch?',
            id="a key that two others have",
        ),
        pytest.param(
            SITE.replace("rtsp://10.0.0.6/stream", ""),
            '[[camera]] "front-door" url = : string should have at least 1 character',
            id="an empty url, which is not the folder of the site file",
        ),
        pytest.param(
            '[site]\nname = "s"\n[[camera]]\nid = "a"\nurl = "a.mp4"\nstart = 2026-01-31T08:00:00\n',
            "start: expected a time with its zone, such as 2026-01-31T08:00:00Z",
            id="a start without a time zone",
        ),
        pytest.param(
            SITE.replace("front-door", "north"),
            'two cameras have the id "north": give each camera an id of its own',
            id="two cameras with one id",
        ),
        pytest.param(
            SITE + "partition = 0\n",
            "cameras north and front-door both have partition 0",
            id="a pin onto another camera's place",
        ),
        pytest.param(
            SITE.replace("rtsp://10.0.0.6/stream", "clip.mp4"),
            'a site is all live or all files: camera "north" is live, "front-door" is a file',
            id="live and files mixed",
        ),
        pytest.param("[site\n", "site.toml: is not TOML: ", id="not TOML"),
        pytest.param(
            '[reid] bundle = "x"\n',
            "; a title, [reid], stands on a line of its own",
            id="a title and a key on one line",
        ),
        pytest.param("x = " + "1" * (1 << 20), "site.toml: is larger than 1 MiB", id="too large"),
    ],
)
def test_a_wrong_site_file_is_refused_in_one_line_that_says_where(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refusal(tmp_path, text)


def test_no_file_a_folder_and_binary_are_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    for name, expected in [("none.toml", "no such file"), (".", "is a folder"), ("binary.toml", "not text in UTF-8")]:
        with pytest.raises(SettingsError, match=expected):
            load(tmp_path / name, {})


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    environment = {
        "SIGHTLINE_REDIS__URL": "redis://example:6379/1",
        "SIGHTLINE_SITE__RETENTION__FRAMES_S": "300",
        "SIGHTLINE_CAMERA__FRONT_DOOR__URL": "rtsp://u:p@10.0.0.7/x",
        "SIGHTLINE_ASSETS": "/somewhere",
        "HOME": "/root",
    }
    settings = load_text(tmp_path, SITE, environment)
    assert settings.redis is not None
    assert settings.site.retention.frames_s == 300
    assert "10.0.0.7" in str(settings.masked())


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        pytest.param(
            "SIGHTLINE_REDIS__ULR",
            'SIGHTLINE_REDIS__ULR: [redis] unknown setting "ulr"; did you mean "url"?',
            id="misspelt key",
        ),
        pytest.param(
            "SIGHTLINE_REDDIS__URL",
            'SIGHTLINE_REDDIS__URL: unknown section "reddis"; did you mean "redis"?',
            id="misspelt section",
        ),
        pytest.param("SIGHTLINE_REDIS_URL", "two underscores: SIGHTLINE_REDIS__URL", id="one underscore"),
        pytest.param("SIGHTLINE_REDIS", "two underscores: SIGHTLINE_REDIS__KEY", id="a section without a key"),
        pytest.param("SIGHTLINE_CAMERA__SOUTH__URL", "no such camera; known: front_door, north", id="unknown camera"),
    ],
)
def test_a_wrong_variable_is_refused_by_its_name(tmp_path: Path, variable: str, expected: str) -> None:
    assert expected in refusal(tmp_path, SITE, {variable: "redis://example"})


@pytest.mark.parametrize("cameras", ['[camera]\nid = "north"', 'camera = ["north"]', "camera = 1"])
def test_a_camera_s_variable_over_cameras_that_are_none_is_refused(tmp_path: Path, cameras: str) -> None:
    said = refusal(tmp_path, cameras, {"SIGHTLINE_CAMERA__NORTH__URL": "rtsp://example"})
    assert said.startswith("SIGHTLINE_CAMERA__NORTH__URL: the site file's cameras need a title each: [[camera]]")


def test_what_windows_and_echo_leave_at_either_end_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_bytes(b"\xef\xbb\xbf" + SITE.replace("\n", "\r\n").encode())
    assert load(path, {"SIGHTLINE_KAFKA__BOOTSTRAP_SERVERS": "x:1\n"}) == load_text(
        tmp_path, SITE + "[kafka]\nbootstrap_servers = 'x:1'\n"
    )


def test_a_variable_that_names_two_cameras_is_refused(tmp_path: Path) -> None:
    text = SITE + '[[camera]]\nid = "front_door"\nurl = "rtsp://10.0.0.7/stream"\n'
    assert refusal(tmp_path, text, {"SIGHTLINE_CAMERA__FRONT_DOOR__URL": "rtsp://10.0.0.8/stream"}) == (
        'SIGHTLINE_CAMERA__FRONT_DOOR__URL: names the cameras "front-door" and "front_door" alike: '
        "give one of them another id"
    )
    assert len(load_text(tmp_path, text, {"SIGHTLINE_CAMERA__NORTH__FPS": "3"}).camera) == 3


def test_what_kubernetes_says_of_services_named_like_our_sections_is_no_setting(tmp_path: Path) -> None:
    injected = {
        "SERVICE_HOST": "10.0.0.3",
        "SERVICE_PORT": "6379",
        "SERVICE_PORT_CLIENT": "6379",
        "PORT": "tcp://10.0.0.3:6379",
        "PORT_6379_TCP": "tcp://10.0.0.3:6379",
        "PORT_6379_TCP_PROTO": "tcp",
        "PORT_6379_TCP_PORT": "6379",
        "PORT_6379_TCP_ADDR": "10.0.0.3",
    }
    services = ("REDIS", "KAFKA", "KAFKA_HEADLESS")
    environment = {f"SIGHTLINE_{service}_{name}": value for service in services for name, value in injected.items()}
    assert load_text(tmp_path, SITE, environment) == load_text(tmp_path, SITE)
    said = refusal(tmp_path, SITE, {"SIGHTLINE_TELEMETRY_METRICS_PORT": "9100"})
    assert "two underscores: SIGHTLINE_TELEMETRY__METRICS_PORT" in said


@pytest.mark.parametrize("password", ["{x9!kk", "[12]"])
def test_a_password_in_the_environment_may_begin_like_a_list_or_a_table(tmp_path: Path, password: str) -> None:
    kafka = "[kafka]\nbootstrap_servers = 'x:1'\nsecurity_protocol = 'SASL_SSL'\nsasl_username = 'u'\nsasl_mechanism = 'PLAIN'\n"
    loaded = load_text(tmp_path, SITE + kafka, {"SIGHTLINE_KAFKA__SASL_PASSWORD": password}).kafka
    assert loaded is not None
    assert loaded.sasl_password is not None
    assert loaded.sasl_password.get_secret_value() == password


def test_no_secret_is_shown_by_settings_or_their_refusals(tmp_path: Path) -> None:
    text = SITE.replace("[site]", '[site]\nkey = "correct horse battery"')
    settings = load_text(tmp_path, text + "[redis]\nurl = 'redis://:hunter3@db:6379'\n")
    for shown in (repr(settings), str(settings.masked())):
        assert "hunter" not in shown
        assert "correct horse" not in shown
    for password in ("it's-hunter2", 'hunter"22', "hunter2 2", "hun%27ter22"):
        awkward = SITE.replace("hunter2", password.replace('"', '\\"')) + "[redis]\nurl = 'rdis://:hunter22@h'\n"
        assert "ter2" not in refusal(tmp_path, awkward)
        assert "ter2" not in str(load_text(tmp_path, awkward.replace("rdis", "redis")).masked())
    for url in ("redis://:hun/ter2@h:1/0", "redis://:hun?ter2@h:1/0", "redis://:hun#ter2@h"):
        said = refusal(tmp_path, SITE + f"[redis]\nurl = '{url}'\n")
        assert "hun" not in said
        assert "write @ : / ? # % in a password as %40 %3A %2F %3F %23 %25" in said
    assert "short" not in refusal(tmp_path, SITE.replace("[site]", '[site]\nkey = "short"')).replace("should", "")
    assert "hunter2" not in refusal(tmp_path, SITE.replace("rtsp://user", "rtps://user"))
    for behind in ("/", ""):
        said = refusal(tmp_path, SITE.replace("rtsp://user", f"rtsp:{behind}user"))
        assert said == 'site.toml: [[camera]] "north" url: two slashes belong behind rtsp:'


def test_once_a_site_is_loaded_its_secrets_are_hidden_wherever_they_stand(tmp_path: Path) -> None:
    text = SITE.replace("[site]", '[site]\nkey = "tangerine-tangerine"')
    kafka = "[kafka]\nbootstrap_servers = 'x:1'\nsecurity_protocol = 'SASL_SSL'\nsasl_username = 'u'\nsasl_mechanism = 'PLAIN'\n"
    load_text(
        tmp_path, text + kafka + "sasl_password = 'quartz-quartz'\n[redis]\nurl = 'redis://:velvet%2Fvelvet@db:6379'\n"
    )
    said = telemetry.mask("tangerine-tangerine, quartz-quartz, velvet%2Fvelvet, velvet/velvet")
    assert said == "***, ***, ***, ***"


def test_files_are_found_beside_the_site_file(tmp_path: Path) -> None:
    settings = load_text(tmp_path, '[site]\nname = "s"\n[[camera]]\nid = "a"\nurl = "clips/a.mp4"\n')
    assert str(tmp_path / "clips/a.mp4") in str(settings.camera[0].url)
    assert not settings.live


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        pytest.param("./red-square", "{folder}/red-square", id="beside the site file"),
        pytest.param("models/red-square", "{folder}/models/red-square", id="in a folder there"),
        pytest.param("/srv/red-square", "/srv/red-square", id="absolute"),
        pytest.param("~/red-square", "{home}/red-square", id="in the home folder"),
        pytest.param("red-square", "red-square", id="a name, to be looked up"),
    ],
)
def test_a_bundle_s_path_is_taken_from_the_site_file_s_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, meant: str
) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.chdir(Path(__file__).parent)  # the command was given elsewhere
    expected = meant.format(folder=tmp_path, home="/home/somebody")
    from_file = load_text(tmp_path, f'{SITE}[detector]\nbundle = "{written}"\n[reid]\nbundle = "{written}"\n')
    assert (str(Path(from_file.detector.bundle)), str(Path(from_file.reid.bundle))) == (expected, expected)
    from_environment = load_text(tmp_path, SITE, {"SIGHTLINE_REID__BUNDLE": written})
    assert str(Path(from_environment.reid.bundle)) == expected


def test_a_checkpoint_s_path_is_taken_from_the_site_file_s_folder(tmp_path: Path) -> None:
    settings = load_text(tmp_path, SITE + '[compute]\ndetector_checkpoint = "runs/checkpoint.pt"\n')
    assert settings.compute.detector_checkpoint == tmp_path / "runs/checkpoint.pt"


def test_the_home_of_nobody_is_a_name_like_any_other(tmp_path: Path) -> None:
    settings = load_text(tmp_path, '[site]\nname = "s"\n[[camera]]\nid = "a"\nurl = "~nobody-of-that-name/a.mp4"\n')
    assert settings.camera[0].url == str(tmp_path / "~nobody-of-that-name/a.mp4")


def test_the_example_loads_and_says_every_section() -> None:
    path = Path(__file__).parents[2] / "configs/site.example.toml"
    assert load(path, {}).live
    written = path.read_text()
    for section in Settings.model_fields:
        assert f"[{section}]" in written


def keys_of(section: type[BaseModel]) -> Iterator[str]:
    for name, field in section.model_fields.items():
        inner = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
        tables = [kind for kind in inner if issubclass(kind, BaseModel)]
        yield from keys_of(tables[0]) if tables else [name]


def test_the_manual_has_every_setting_metric_and_exit_status() -> None:
    manual = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    assert [key for key in keys_of(Settings) if f"`{key}`" not in manual] == []
    metrics = [metric for metric in vars(telemetry).values() if isinstance(metric, Counter | Gauge | Histogram)]
    names = [metric._name + ("_total" if isinstance(metric, Counter) else "") for metric in metrics]
    assert [name for name in names if f"`{name}`" not in manual] == []
    statuses = {kind.exit_status for kind in vars(errors).values() if isinstance(kind, type)} | {0, INTERRUPTED}
    assert [status for status in statuses if f"| {status} |" not in manual] == []
