"""The bytes of a model, from a file or from an https address, bounded and checked before anybody parses them."""

import hashlib
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO

from deploy.bundle import MAX_BYTES, MODEL
from stream.errors import AdoptError, UsageError

TIMEOUT_S = 30.0  # for the connection and for every read
CHUNK = 1 << 20

Progress = Callable[[int, int | None], None]
"""Called with bytes so far and bytes in all, None where the server does not say."""


def fetch(place: str, sha256: str | None, progress: Progress | None = None) -> bytes:
    """Read a path or an https address; an address must come with its SHA-256. Raises `AdoptError` or `UsageError`."""
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise UsageError("--sha256 takes the 64 hexadecimal digits of a SHA-256")
    if "://" in place:
        if not place.lower().startswith("https://"):
            raise UsageError(f"{place.split('://')[0]}:// addresses are not taken: give a path or an https:// address")
        if sha256 is None:
            raise UsageError("an address needs --sha256 DIGEST, so that what comes is what you chose")
        data = _download(place, progress)
    else:
        data = _read(Path(place).expanduser())
    digest = hashlib.sha256(data).hexdigest()
    if sha256 is not None and digest != sha256.lower():
        raise AdoptError(f"{place}: its SHA-256 is {digest}, expected {sha256.lower()}; nothing was adopted")
    return data


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return _bounded(file, str(path), None, None)
    except FileNotFoundError as error:
        raise AdoptError(f"{path}: there is no such file") from error
    except IsADirectoryError as error:
        raise AdoptError(f"{path}: is a folder, expected an ONNX file") from error
    except OSError as error:
        raise AdoptError(f"{path}: cannot be read ({error.strerror})") from error


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirects that stay on https."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.lower().startswith("https://"):
            raise AdoptError(f"{req.full_url}: redirects away from https; nothing was adopted")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(address: str, progress: Progress | None) -> bytes:
    opener = urllib.request.build_opener(_HttpsOnly)
    try:
        with opener.open(address, timeout=TIMEOUT_S) as response:
            said = response.headers.get("Content-Length", "")
            return _bounded(response, address, int(said) if said.isdigit() else None, progress)
    except urllib.error.HTTPError as error:
        raise AdoptError(f"{address}: the server answers {error.code} {error.reason}") from error
    except (OSError, HTTPException, ValueError) as error:  # URLError and time-outs are OSErrors
        reason = getattr(error, "reason", None) or error
        raise AdoptError(f"{address}: cannot be fetched ({reason})") from error


def _bounded(file: IO[bytes], where: str, total: int | None, progress: Progress | None) -> bytes:
    limit = MAX_BYTES[MODEL]
    parts, read = [], 0
    while chunk := file.read(CHUNK):
        read += len(chunk)
        if read > limit or (total or 0) > limit:
            raise AdoptError(f"{where}: larger than {limit >> 20} MiB, which no model here is")
        parts.append(chunk)
        if progress is not None:
            progress(read, total)
    return b"".join(parts)
