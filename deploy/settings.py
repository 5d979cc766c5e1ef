"""The site file: every section in one root, read from TOML, then from the environment.

``SIGHTLINE_<SECTION>__<KEY>`` overrides a key (``SIGHTLINE_REDIS__URL``), deeper tables with further double underscores
(``SIGHTLINE_SITE__RETENTION__FRAMES_S``), a camera's by its id in capitals with ``_`` for every other sign
(``SIGHTLINE_CAMERA__FRONT_DOOR__URL``). Values are text; for a list or a table, TOML.
"""

import contextlib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, Field, SecretStr, StringConstraints, ValidationError, model_validator

from detector.settings import DetectorSettings
from ingest.settings import CameraSettings, partitions
from matcher.settings import MatcherSettings
from reid.settings import EmbedderSettings
from stream.errors import SettingsError
from stream.settings import KafkaSettings, RedisSettings, Section, TelemetrySettings
from stream.telemetry import hide, hide_url, mask

PREFIX = "SIGHTLINE_"
LARGEST_BYTES = 1 << 20  # a site of a thousand cameras has 200 kB
_OF_A_SERVICE = re.compile(r"\w+(_SERVICE_HOST|_SERVICE_PORT(_\w+)?|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")

_ONE_SLASH = re.compile(r"(?i)(rtsps?|https?|file|synthetic):(?!//)")

EXPECTED = {
    "bootstrap_servers": "expected host:port, several with commas between them",
    "url": "expected redis://, rediss:// or unix://, such as redis://user:password@host:6379/0",
    "prefix": "up to 100 letters, digits and _ . - are taken",
}
"""What a key's text must look like, where that is not a name."""

PLAINER = {
    "Value error, ": "",
    "Input should be greater than or equal to": "expected at least",
    "Input should be less than or equal to": "expected at most",
    "Input should be": "expected",
    ", unable to parse string as an integer": "",
    ", unable to parse string as a number": "",
    ", unable to interpret input": "",
    ", got a number with a fractional part": "",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid boolean": "true or false",
    "a valid string": "text in quotes",
}
"""What pydantic says, and what a person says; the longer ones first."""

SiteName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Location = tuple[str | int, ...]
Runtime = Literal["auto", "onnxruntime", "openvino", "tensorrt", "torch"]
"""What runs models; "auto" is the fastest that is installed, as measured once on this machine."""


class RetentionSettings(Section):
    """``[site.retention]``: how long each store keeps anything, in seconds. Kafka and Redis enforce it."""

    frames_s: int = Field(600, ge=60)
    """The only place where images live; dead letters too."""
    embeddings_s: int = Field(3600, ge=60)
    matches_s: int = Field(86400, ge=60)
    gallery_s: int = Field(86400, ge=60)
    """Identities and their vectors, in event time."""


class SiteSettings(Section):
    """``[site]``"""

    name: SiteName
    """In topic names, Redis keys and every message."""
    key: SecretStr | None = Field(None, min_length=16)
    """Secret that makes identities unguessable. None: generated once, kept in the state folder."""
    retention: RetentionSettings = RetentionSettings()


class ComputeSettings(Section):
    """``[compute]``: what runs the models."""

    backend: Runtime = "auto"
    detector_checkpoint: Path | None = None
    """What the detector's bundle was exported from: only torch runs it."""
    embedder_checkpoint: Path | None = None


class _OnlyCompute(Section):
    compute: ComputeSettings = ComputeSettings()


class Settings(Section):
    """A whole site. `kafka` and `redis` absent: `run` keeps both inside its own process."""

    site: SiteSettings
    camera: tuple[CameraSettings, ...] = Field(min_length=1)
    kafka: KafkaSettings | None = None
    redis: RedisSettings | None = None
    detector: DetectorSettings = DetectorSettings()
    reid: EmbedderSettings = EmbedderSettings()
    matcher: MatcherSettings = MatcherSettings()
    compute: ComputeSettings = ComputeSettings()
    telemetry: TelemetrySettings = TelemetrySettings()

    @model_validator(mode="after")
    def _cameras_fit_together(self) -> Self:
        try:
            partitions(self.camera)
        except SettingsError as error:
            raise ValueError(str(error)) from None
        live = [camera.id for camera in self.camera if not camera.is_file]
        files = [camera.id for camera in self.camera if camera.is_file]
        if live and files:
            raise ValueError(
                f'a site is all live or all files: camera "{live[0]}" is live, "{files[0]}" is a file; '
                "give the files a site file of their own"
            )
        return self

    @property
    def live(self) -> bool:
        """False when every camera is a file, which ends."""
        return not self.camera[0].is_file

    @property
    def partitions(self) -> dict[str, int]:
        """Camera id -> its partition of the frames and embeddings topics."""
        return partitions(self.camera)

    def masked(self) -> dict[str, Any]:
        """What differs from the defaults, as plain data, secrets masked: what is logged at start."""

        def clean(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: clean(inner) for key, inner in value.items()}
            if isinstance(value, list):
                return [clean(inner) for inner in value]
            return mask(value) if isinstance(value, str) else value

        return dict(clean(self.model_dump(mode="json", exclude_defaults=True)))


def load(path: Path, environment: Mapping[str, str] | None = None) -> Settings:
    """Read a site file and what the environment (`os.environ` unless given) overrides.

    Paths in it are taken from the file's own folder. Raises `SettingsError` that names file, line and section, and for an
    unknown key the nearest known one.
    """
    text = _read(path)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: is not TOML: {error}{_title_and_key(text)}") from None
    overridden = _override(data, os.environ if environment is None else environment)
    try:
        _resolve(Settings, data, path.resolve().parent)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None
    return _validated(data, path, text, overridden)


def settings_of(data: dict[str, Any], source: str) -> Settings:
    """A site without a file. Raises `SettingsError` that says `source`."""
    return _validated(data, Path(source), "", {})


def compute_of(environment: Mapping[str, str]) -> ComputeSettings:
    """``[compute]`` for a site without a file: what the environment says. Raises `SettingsError`."""
    data: dict[str, Any] = {}
    prefix = f"{PREFIX}COMPUTE__"
    overridden = _override(data, {name: value for name, value in environment.items() if name.startswith(prefix)})
    try:
        return _OnlyCompute.model_validate(data).compute
    except ValidationError as error:
        raise SettingsError(_explain(error, Path("the environment"), "", data, overridden)) from None


def _validated(data: dict[str, Any], path: Path, text: str, overridden: Mapping[Location, str]) -> Settings:
    with contextlib.suppress(KeyError, TypeError, AttributeError):  # before anything can quote it
        hide_url(data["redis"]["url"])
    try:
        settings = Settings.model_validate(data)
    except ValidationError as error:
        raise SettingsError(_explain(error, path, text, data, overridden)) from None
    for secret in _secrets(settings):
        hide(secret)
    return settings


def _secrets(section: Section) -> Iterator[str]:
    """Every secret value, for the log to hide."""
    for _, value in section:
        if isinstance(value, SecretStr):
            yield value.get_secret_value()
        elif isinstance(value, Section):
            yield from _secrets(value)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_BYTES + 1)
        if len(content) > LARGEST_BYTES:
            raise SettingsError(f"{path}: is larger than 1 MiB, so it is no settings file")
        return content.decode("utf-8-sig")  # Windows' editors begin with a mark
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such file; configs/site.example.toml is one to copy") from None
    except IsADirectoryError:
        raise SettingsError(f"{path}: is a folder; give the site's TOML file") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: is not text in UTF-8, so it is no settings file") from None
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None


def _override(data: dict[str, Any], environment: Mapping[str, str]) -> dict[Location, str]:
    """Put the environment's values into `data`, less the line end that `echo` leaves in a secret. Returns what set which place."""
    overridden: dict[Location, str] = {}
    for variable, value in sorted(environment.items()):
        if not variable.startswith(PREFIX):
            continue
        parts = [part.lower() for part in variable.removeprefix(PREFIX).split("__")]
        if len(parts) == 1:  # SIGHTLINE_ something that is no setting, unless one underscore is missing
            section, _, key = parts[0].partition("_")
            if section in Settings.model_fields and not _is_of_a_service(variable, value):
                wanted = f"{PREFIX}{section.upper()}__{key.upper() or 'KEY'}"
                raise SettingsError(f"{variable}: a setting's variable has two underscores: {wanted}")
            continue
        value = value.rstrip("\r\n")
        place, where = _enter(data, parts[:-1], variable)
        model = _model_at(where)
        field = model.model_fields.get(parts[-1]) if model else None
        kinds = {field.annotation, *get_args(field.annotation)} if field else set()
        place[parts[-1]] = value if kinds & {str, SecretStr} else _parse(variable, value)
        overridden[(*where, parts[-1])] = variable
    return overridden


def _is_of_a_service(variable: str, value: str) -> bool:
    """Whether Kubernetes has made the variable, of a Service with a name like sightline-redis."""
    address = variable.endswith("_PORT") and "://" in value  # a number is [telemetry] metrics_port
    return address or _OF_A_SERVICE.fullmatch(variable) is not None


def _enter(data: dict[str, Any], parts: list[str], variable: str) -> tuple[dict[str, Any], Location]:
    """The table that a variable's name means, made where missing, and its location."""
    if parts[0] != "camera":
        for part in parts:
            data = data.setdefault(part, {})
            if not isinstance(data, dict):
                raise SettingsError(f"{variable}: {part} is not a section in the site file")
        return data, tuple(parts)
    cameras = data.get("camera", [])
    if not isinstance(cameras, list) or not all(isinstance(camera, dict) for camera in cameras):
        raise SettingsError(f"{variable}: the site file's cameras need a title each: {_title(('camera',))}")
    known: dict[str, list[int]] = {}
    for number, camera in enumerate(cameras):
        known.setdefault(re.sub("[^a-z0-9]", "_", str(camera.get("id", "")).lower()), []).append(number)
    if len(parts) != 2 or parts[1] not in known:
        raise SettingsError(f"{variable}: no such camera; known: {', '.join(sorted(known)) or 'none'}")
    meant = known[parts[1]]
    if len(meant) > 1:
        names = " and ".join(f'"{cameras[number].get("id")}"' for number in meant)
        raise SettingsError(f"{variable}: names the cameras {names} alike: give one of them another id")
    return cameras[meant[0]], ("camera", meant[0])


def _title_and_key(text: str) -> str:
    """What to do about ``[detector] bundle = "x"`` on one line, as people say it; else nothing."""
    found = re.search(r"^\s*(\[[^\]\n=]+\]+)[ \t]*[A-Za-z_]\w*[ \t]*=", text, re.MULTILINE)
    return f"; a title, {found[1]}, stands on a line of its own" if found else ""


def _parse(variable: str, value: str) -> Any:
    if not value.startswith(("[", "{")):
        return value
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        raise SettingsError(f"{variable}: starts like a list or table but is not TOML") from None


def _resolve(model: type[BaseModel], data: Any, folder: Path) -> None:
    """Make relative paths absolute, in place: of `Path` fields, cameras that are files, bundles that are no names.

    Raises `SettingsError` for an address that would be taken for a file, and its password be shown as part of a path.
    """
    if not isinstance(data, dict):
        return
    for name, field in model.model_fields.items():
        kinds = [field.annotation, *get_args(field.annotation)]
        value = data.get(name)
        if name == "url" and model is CameraSettings and (typo := _ONE_SLASH.match(str(value))):
            raise SettingsError(f'[[camera]] "{data.get("id")}" url: two slashes belong behind {typo[0]}')
        if (
            value
            and isinstance(value, str)
            and (
                Path in kinds
                or (name == "url" and model is CameraSettings and "://" not in value)
                or (name == "bundle" and "/" in value)
            )
        ):
            there = Path(value)
            with contextlib.suppress(RuntimeError):  # nobody of that name: it will not be found
                there = there.expanduser()
            data[name] = str(folder / there)
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                for item in value if isinstance(value, list) else [value]:
                    _resolve(kind, item, folder)


def _explain(error: ValidationError, path: Path, text: str, data: Any, overridden: Mapping[Location, str]) -> str:
    """One line about the first error: where it stands, what is wrong, what would be right."""
    # a list whose every item is wrong is called too short as well, which it is not
    errors = [
        e
        for e in error.errors(include_url=False)
        if e["type"] != "too_short" or len(e["input"]) == e["ctx"]["actual_length"]
    ]
    first = min(errors, key=lambda e: e["type"] != "extra_forbidden")  # a misspelt key explains a missing one
    where = first["loc"]
    variable = next(
        (v for place, v in overridden.items() if all(a == b for a, b in zip(place, where, strict=False))), None
    )
    line = _line(text, where)
    start = variable or (f"{path} line {line}" if line else str(path))
    section, keys = _section(where, data)
    key = ".".join(str(part) for part in keys)
    if first["type"] == "extra_forbidden":
        model = _model_at(where[:-1])
        known = sorted(model.model_fields) if model else []
        near = [f'"{name}"' for name in get_close_matches(str(where[-1]), known, 1, 0.5)]
        meant = list(_places(str(where[-1]))) or near
        advice = f"did you mean {' or '.join(meant)}?" if meant else f"known: {', '.join(known)}"
        said = f'unknown {"setting" if section else "section"} "{key or where[-1]}"; {advice}'
    elif first["type"] == "missing" or (where == ("camera",) and first["type"] == "too_short"):
        said = f'"{key}" is missing' if key else f"section {_title(where)} is missing"
    elif first["type"] in ("model_type", "tuple_type") and len(where) == 1:
        each = ", one for each camera" if where[0] == "camera" else ""
        said = f'"{where[0]}" is no setting but a section, with a title in brackets: {_title(where)}{each}'
    else:
        reason = _reason(first)
        got = first["input"]
        secret = isinstance(got, SecretStr) or any(word in key for word in ("key", "password", "secret"))
        shown = f" = {mask(str(got))[:80]}" if isinstance(got, str | int | float) and not secret else ""
        said = f"{key}{shown}: {reason[:1].lower()}{reason[1:]}" if key else reason
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{start}: {section + ' ' if section else ''}{said}{more}"


def _reason(error: Any) -> str:
    """What was expected, in words."""
    if "masks" in error["loc"] and error["type"] in ("tuple_type", "too_short"):
        return "masks are a list of polygons of three points or more: [[[0, 0], [0.3, 0], [0.3, 0.2]]]"
    if error["type"] == "tuple_type":
        return "expected a list"
    if error["type"].startswith(("timezone_", "datetime_")):
        return "expected a time with its zone, such as 2026-01-31T08:00:00Z"
    if error["type"] == "string_pattern_mismatch":
        return EXPECTED.get(str(error["loc"][-1]), "letters, digits and _ . - are taken, a letter or digit first")
    return plainer(str(error["msg"]))


def plainer(said: str) -> str:
    """What pydantic says, in words for people: of the command line's options, too."""
    for theirs, ours in PLAINER.items():
        said = said.replace(theirs, ours)
    return said


def _section(where: Location, data: Any) -> tuple[str, Location]:
    """How a person names the section of a location, and the keys that follow it."""
    if not where:
        return "", ()
    if where[0] == "camera" and len(where) > 1 and isinstance(where[1], int):
        try:
            return f'[[camera]] "{data["camera"][where[1]]["id"]}"', where[2:]
        except (KeyError, TypeError, IndexError):
            return f"[[camera]] number {where[1] + 1}", where[2:]
    return (
        (f"[{where[0]}]", where[1:]) if len(where) > 1 else ("", where if where[0] not in Settings.model_fields else ())
    )


def _title(where: Location) -> str:
    """How a section is begun in the file."""
    return "[[camera]]" if where == ("camera",) else f"[{'.'.join(map(str, where))}]"


def _places(name: str, where: Location = ()) -> Iterator[str]:
    """Where a key or a section of just this name belongs: what stands under another title is often right but for that."""
    model = _model_at(where)
    for known in model.model_fields if model else ():
        inner = (*where, known)
        section = _model_at(inner) is not None
        if known == name:
            yield _title(inner) if section else f"{_title(where)} {name}"
        if section:
            yield from _places(name, inner)


def _model_at(where: Location) -> type[BaseModel] | None:
    """The section's class at a location."""
    model: type[BaseModel] | None = Settings
    for part in where:
        if isinstance(part, int) or model is None:
            continue
        field = model.model_fields.get(part)
        kinds = [field.annotation, *get_args(field.annotation)] if field else []
        model = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
    return model


def _line(text: str, where: Location) -> int | None:
    """Line of a key, else of its table; None where neither is written out."""
    table: Location = ()
    counts: dict[str, int] = {}
    best, length = None, 0
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*(\[\[?)\s*([^\]]+?)\s*\]", line):
            names = tuple(part.strip().strip("\"'") for part in header[2].split("."))
            if header[1] == "[[":
                counts[names[0]] = counts.get(names[0], -1) + 1
                table = (names[0], counts[names[0]], *names[1:])
            else:
                table = (names[0], counts[names[0]], *names[1:]) if names[0] in counts else names
            here = table
        elif key := re.match(r"\s*([A-Za-z0-9_.\"'-]+)\s*=", line):
            here = (*table, *(part.strip("\"'") for part in key[1].split(".")))
        else:
            continue
        if len(here) > length and here == where[: len(here)]:
            best, length = number, len(here)
    return best
