"""Reading cameras in tests, and the network cameras they read: real servers on 127.0.0.1."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import simplejpeg
from clips import number_in, numbered_picture

from ingest.cameras import Cameras
from ingest.patience import Patience
from ingest.settings import CameraSettings
from stream.messages import CameraState, Frame

Message = Frame | CameraState
HASTY = Patience(
    open_s=1.5, silence_s=1.5, least_silence_s=0.5, first_retry_s=0.05, last_retry_s=0.2, settled_s=1.0, most_open_s=3.0
)


def play(*cameras: CameraSettings) -> list[Message]:
    """Everything that cameras which end have to say."""
    with closing(Cameras("site", cameras)) as source:
        return [record.message for batch in source.batches() for record in batch]


def watch(
    cameras: Sequence[CameraSettings], enough: Callable[[list[Message]], bool], timeout_s: float = 20
) -> list[Message]:
    """What live cameras say until it is enough; fails when it never is."""
    with closing(Cameras("site", cameras, patience=HASTY)) as source:
        return watch_source(source, enough, timeout_s)


def watch_source(source: Cameras, enough: Callable[[list[Message]], bool], timeout_s: float = 20) -> list[Message]:
    """The same for a source that goes on afterwards."""
    deadline = time.monotonic() + timeout_s
    seen: list[Message] = []
    for batch in source.batches():
        seen += [record.message for record in batch]
        if enough(seen):
            return seen
        assert time.monotonic() < deadline, f"not within {timeout_s} s; seen: {[kind_of(m) for m in seen][-20:]}"
    raise AssertionError("live cameras never end")


def frames_of(messages: Sequence[Message], camera: str | None = None) -> list[Frame]:
    """The frames among them."""
    return [m for m in messages if isinstance(m, Frame) and camera in (None, m.camera)]


def number_of(frame: Frame) -> int:
    """Which numbered picture it shows."""
    return number_in(simplejpeg.decode_jpeg(frame.image))


def kind_of(message: Message) -> str:
    """For failures that can be read."""
    return f"{message.camera} {message.state if isinstance(message, CameraState) else message.sequence}"


@contextmanager
def http_server(handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Address of a server that answers with `handler`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class QuietHandler(BaseHTTPRequestHandler):
    """Says nothing on the terminal, also when a camera's reader has gone."""

    def log_message(self, *args: object) -> None:
        pass

    def handle(self) -> None:
        with suppress(OSError):
            super().handle()


class MjpegCamera(QuietHandler):
    """Ten JPEG pictures a second, as cheap network cameras send them."""

    interval_s: ClassVar[float] = 0.1
    pictures: ClassVar[int] = 10_000
    """Then it hangs up."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=picture")
        self.end_headers()
        for number in range(self.pictures):
            jpeg = simplejpeg.encode_jpeg(numbered_picture(number), quality=90)
            self.wfile.write(b"--picture\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg))
            self.wfile.write(jpeg + b"\r\n")
            self.wfile.flush()
            time.sleep(self.interval_s)


@contextmanager
def black_hole() -> Iterator[str]:
    """Address of something that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"127.0.0.1:{listener.getsockname()[1]}"
