"""A real RTSP camera for tests: GStreamer's server from Debian's packages, which plays an H.264 clip over and over.

Imported by tests it is the handle, `RtspServer`; run by the system's Python, which has GStreamer, it is the server.
"""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Literal
from urllib.parse import quote

SYSTEM_PYTHON = "/usr/bin/python3"
PACKAGES = "gir1.2-gst-rtsp-server-1.0 gstreamer1.0-rtsp gstreamer1.0-plugins-good gstreamer1.0-plugins-bad glib-networking python3-gi"
_ACCESS_UNIT = b"\0\0\0\1\x09"  # delimiter that begins every picture of the clip


class RtspServer:
    """A camera at `url` that can be cut, frozen, and brought back on the same port."""

    def __init__(
        self,
        clip: Path,
        fps: float,
        user: str = "",
        password: str = "",
        scheme: Literal["basic", "digest"] = "basic",
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        """With a `certificate` and its key, both PEM, it speaks TLS alone."""
        self._clip, self._fps, self._user, self._password = clip, fps, user, password
        self._auth, self._certificate = scheme, certificate
        self._port = "0"
        self._process: subprocess.Popen[str] | None = None

    def url_for(self, user: str, password: str) -> str:
        """The camera's address with these credentials, percent-encoded."""
        return f"{self._scheme}://{quote(user, safe='')}:{quote(password, safe='')}@127.0.0.1:{self._port}/camera"

    @property
    def url(self) -> str:
        """The camera's address, with the right credentials where it wants some."""
        if self._user:
            return self.url_for(self._user, self._password)
        return f"{self._scheme}://127.0.0.1:{self._port}/camera"

    @property
    def _scheme(self) -> str:
        return "rtsps" if self._certificate else "rtsp"

    def start(self) -> None:
        """Return when it listens. RuntimeError, with its last words, when it does not."""
        arguments = [
            self._clip,
            self._fps,
            self._port,
            self._user,
            self._password,
            self._auth,
            *(self._certificate or ()),
        ]
        self._process = subprocess.Popen(
            [SYSTEM_PYTHON, __file__, *map(str, arguments)],
            stdin=subprocess.PIPE,  # its end tells the server that we are gone
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PATH": os.environ.get("PATH", ""), "GST_REGISTRY_FORK": "no"},
        )
        assert self._process.stdout is not None
        port = self._process.stdout.readline().strip()
        if not port.isdecimal():
            _, errors = self._process.communicate(timeout=10)
            raise RuntimeError(f"no RTSP server ({errors.strip()[-300:]}): apt-get install {PACKAGES}")
        self._port = port

    def stop(self) -> None:
        """Cut the cable: connections break, new ones are refused."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.communicate()
            self._process = None

    def freeze(self) -> None:
        """Connections stay, nothing comes."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo `freeze`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


def serve(clip: Path, fps: float, port: str, user: str, password: str, scheme: str, *certificate: str) -> None:
    """Print the port, then serve until standard input ends."""
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtsp", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import Gio, GLib, Gst, GstRtsp, GstRtspServer

    Gst.init(None)
    pictures = [_ACCESS_UNIT + part for part in clip.read_bytes().split(_ACCESS_UNIT)[1:]]
    interval_ns = round(Gst.SECOND / fps)

    def play(_factory: object, media: object) -> None:
        source = media.get_element().get_child_by_name("source")
        count = 0

        def push(*_: object) -> None:
            nonlocal count
            buffer = Gst.Buffer.new_wrapped(pictures[count % len(pictures)])
            buffer.pts = buffer.dts = count * interval_ns
            buffer.duration = interval_ns
            count += 1
            source.emit("push-buffer", buffer)

        source.connect("need-data", push)

    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_shared(True)
    factory.set_launch(
        "( appsrc name=source format=time caps=video/x-h264,stream-format=byte-stream,alignment=au"
        " ! h264parse ! rtph264pay name=pay0 pt=96 config-interval=1 )"
    )
    factory.connect("media-configure", play)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    auth = GstRtspServer.RTSPAuth()
    if certificate:
        auth.set_tls_certificate(Gio.TlsCertificate.new_from_files(*certificate))
        server.set_auth(auth)
    if user:
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "viewer")
        if scheme == "digest":
            auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
            auth.add_digest(user, password, token)
        else:
            auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
        server.set_auth(auth)
        permissions = GstRtspServer.RTSPPermissions()
        for permission in ("media.factory.access", "media.factory.construct"):
            permissions.add_permission_for_role("viewer", permission, True)
        factory.set_permissions(permissions)
    server.get_mount_points().add_factory("/camera", factory)
    if server.attach(None) == 0:
        raise SystemExit(f"cannot listen on port {port}")
    loop = GLib.MainLoop()
    GLib.io_add_watch(sys.stdin, GLib.PRIORITY_DEFAULT, GLib.IO_IN | GLib.IO_HUP, loop.quit)
    sys.stdout.write(f"{server.get_bound_port()}\n")
    sys.stdout.flush()
    with contextlib.suppress(KeyboardInterrupt):
        loop.run()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), float(sys.argv[2]), *sys.argv[3:])
