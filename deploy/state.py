"""The state folder: the embedded gallery's files and the site's key."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from deploy.output import check_folder
from deploy.settings import Settings
from stream.errors import GalleryError, GalleryUnreachable
from stream.telemetry import hide

log = logging.getLogger(__name__)


def state_folder(settings: Settings | None) -> Path:
    """Where a site keeps its state unless told otherwise: the user's state folder, by site name."""
    folder = platformdirs.user_state_path("sightline")
    return folder / settings.site.name if settings else folder


def keeps_state(settings: Settings) -> bool:
    """Whether anything of the site is kept on this machine: the gallery, or a key that is in no settings."""
    return settings.redis is None or settings.site.key is None


def kept_state(settings: Settings, given: Path | None) -> Path:
    """The folder to read what a site has kept. Raises `GalleryUnreachable` where it keeps none: of films that ran without ``--state``."""
    from matcher.server import holds_gallery

    folder = given or state_folder(settings)
    if given is None and _fleeting(settings) and not holds_gallery(folder):
        raise GalleryUnreachable(
            f"nothing is kept of site {settings.site.name} in {folder}: of films and drawn cameras `sightline run` keeps what it "
            f"found with --state DIR alone; run it so, and name DIR here too"
        )
    return folder


def _fleeting(settings: Settings) -> bool:
    """Whether a run leaves nothing unless ``--state`` says where: a site of files, or of drawn cameras alone, without ``[redis]``."""
    real = settings.live and any(camera.kind != "synthetic" for camera in settings.camera)
    return not (real or settings.redis)


@contextmanager
def opened_state(settings: Settings, given: Path | None, *, lasting: bool = False) -> Iterator[Path]:
    """The folder, made where it is missing and needed. Without ``--state`` a site of files, or of drawn cameras alone, gets a fresh one that is
    removed afterwards: it shall neither meet yesterday's people nor be taken for a repeat. Not so where the gallery is `lasting`.
    """
    if given is None and _fleeting(settings) and not lasting:
        log.info("what is found is not kept: --state DIR keeps it, for `sightline events`")
        with tempfile.TemporaryDirectory(prefix=f"sightline-{settings.site.name}-") as fresh:
            yield Path(fresh)
        return
    folder = given or state_folder(settings)
    if keeps_state(settings):  # else a container's disk may be read-only
        check_folder("--state", folder, 0o700)
    yield folder


def key_of(settings: Settings, folder: Path) -> bytes:
    """The secret behind every identity: the settings' own, else the one in the folder, made at first use. Raises `GalleryError`."""
    from matcher.server import KEY_FILE, site_key

    if settings.site.key is not None:
        return settings.site.key.get_secret_value().encode()
    try:
        key = site_key(folder)
    except OSError as error:  # of another user's run, say
        reason = (error.strerror or "it is no file").lower()
        raise GalleryError(f"{folder / KEY_FILE}: cannot be used: {reason}; name another folder with --state") from None
    hide(key.hex())
    return key
