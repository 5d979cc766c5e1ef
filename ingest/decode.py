"""The one place that knows PyAV: opens video from anywhere, hands out pictures with their times, translates every error.

What the stream itself says about time is taken as far as FFmpeg tells it: container timestamps, and for RTSP the UTC of
RTCP sender reports, which FFmpeg attaches to each packet (producer reference time) from the first report on.
"""

import contextlib
import struct
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import av
import av.error
import av.logging
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from ingest.clock import WallClock
from ingest.settings import CameraSettings, Kind
from stream.errors import CameraError, CameraUnauthorised, CameraUnreachable, NotAVideo
from stream.telemetry import FRAMES_DROPPED

MAX_PIXELS = 8192 * 8192
"""Larger pictures are refused before they are decoded: nothing films them, and one would take 200 MB."""
MAX_HEIGHT = 16384
MAX_FPS = 240
MAX_ASPECT = 4.0
"""Of a pixel; what says more is taken for a mistake: the widest that H.264 has a number for is 2.9."""
_TICK_S = 1.0
_POLL_S = 0.005
_SECOND_NS = 1_000_000_000
_AGREE_NS = 5_000_000
_NO_TIMES = 0x80  # AVFMT_NOTIMESTAMPS
_PRODUCER_TIME = struct.Struct("<q")  # AVProducerReferenceTime: microseconds of UTC, then flags

# Each kind may open what it needs and nothing else: a playlist from the network must not read our files.
_PROTOCOLS: dict[Kind, str] = {
    "rtsp": "rtsp,rtsps,rtp,tcp,tls",
    "http": "http,https,tcp,tls,crypto",
    "file": "file,crypto",
    "synthetic": "file",
    "device": "file",
}
_OPTIONS: dict[Kind, dict[str, str]] = {
    # fpsprobesize: opens in 0.3 s instead of 1.1 s, which FFmpeg would spend on guessing a rate that nobody needs
    "rtsp": {"rtsp_transport": "tcp", "allowed_media_types": "video", "fpsprobesize": "0"},
    # live_start_index: one segment in reserve; the default of two makes everything a segment later
    # correct_ts_overflow: FFmpeg takes an MPEG-TS clock that goes back for one that ran over, and leaps 26 hours ahead
    "http": {"fpsprobesize": "0", "live_start_index": "-2", "correct_ts_overflow": "0"},
    # fflags: AVFMT_FLAG_NONBLOCK by its number, for it has no name there. Otherwise FFmpeg waits inside the kernel, where
    # no time-out reaches it, for a USB camera that stopped
    "device": {"fpsprobesize": "0", "fflags": "+4"},
    "file": {"correct_ts_overflow": "0"},
    "synthetic": {},
}
# Full decoding, though `skip_loop_filter=all` would save 13 % of it: it blurs every reference picture (44 dB on the real
# clip) until the next key frame, and blocks are edges to a detector.

av.logging.set_level(None)  # FFmpeg's own lines hold urls with passwords; what matters comes as an error


class _ReadTimeout:
    """What PyAV takes for a number of seconds, and asks for it whenever reading begins."""

    seconds = _TICK_S

    def __float__(self) -> float:
        return float(self.seconds)


class CameraSilent(CameraUnreachable):
    """Connected, or half so, but nothing comes; more patience may help."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One decoded picture, valid until the next one is asked for."""

    time_ns: int | None
    """Container time since the video's beginning; None where the source has no times."""
    utc_ns: int | None
    """Camera's own UTC from RTCP, where the stream has it."""
    arrival_ns: int
    """When the packet that completed it was read."""
    frame: av.VideoFrame
    pixel_aspect: float
    """Width of a pixel by its height: 2 where a recorder keeps every second column alone."""
    reformatter: VideoReformatter

    def pixels(self, max_width: int) -> NDArray[np.uint8]:
        """(H, W, 3) BGR, upright, with square pixels, at most `max_width` wide, both sides even, writeable and contiguous."""
        turns = round(self.frame.rotation / 90) % 4
        # the short side of a pixel is made longer: nothing that was filmed is lost
        height, width = self.frame.height / min(1.0, self.pixel_aspect), self.frame.width * max(1.0, self.pixel_aspect)
        if turns % 2:
            height, width = width, height
        scale = min(1.0, max_width / width, MAX_HEIGHT / height)
        size = max(2, int(width * scale) // 2 * 2), max(2, round(height * scale / 2) * 2)
        # one scaler for all pictures, single-threaded: half the time of VideoFrame.to_ndarray (0.5 against 1.0 ms at 720p)
        scaled = self.reformatter.reformat(self.frame, *(size[::-1] if turns % 2 else size), "bgr24", threads=1)
        image = cast(NDArray[np.uint8], scaled.to_ndarray())
        return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


class Video:
    """An open video. A context manager: everything is released at its end."""

    def __init__(
        self,
        container: InputContainer,
        stream: VideoStream,
        camera: CameraSettings,
        wall: WallClock,
        where: str,
        read_timeout: _ReadTimeout,
    ) -> None:
        self._container, self._stream, self._read_timeout = container, stream, read_timeout
        self._camera, self._wall, self._where = camera, wall, where
        self._utc_minus_time_ns: int | None = None
        self._reported_ns: int | None = None
        self.codec = stream.codec_context.name
        self.width, self.height = stream.codec_context.width, stream.codec_context.height
        """Pixels; 0 where only the first picture will tell."""
        rate = float(stream.average_rate or 0)
        self.fps = rate if 0 < rate <= MAX_FPS else None
        """As the container says; None where it does not, or gives its clock's ticks instead."""
        self.has_times = not container.format.flags & _NO_TIMES and container.format.name != "mpjpeg"
        """False for raw H.264, H.265 and MJPEG, and MJPEG over HTTP."""
        self.duration_ns = _duration_ns(container, stream)
        begin_us = cast(int | None, container.start_time)  # None for what has no times, whatever the stub says
        self._begin_ns = None if begin_us is None else begin_us * 1000

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def describe(self) -> str:
        """Codec, size and rate in words."""
        rate = f", {self.fps:g} pictures per second" if self.fps else ""
        return f"{self.codec} {self.width}x{self.height}{rate}"

    def close(self) -> None:
        """Free decoder and connection; safe to call twice."""
        self._container.close()

    def pictures(self, silence_s: Callable[[], float]) -> Iterator[Picture]:
        """Pictures in the order they are shown, until the video ends.

        `silence_s` is asked how long to wait for the next packet. Packets that cannot be decoded, and
        pictures known to be damaged, are counted and left out. Raises CameraUnreachable when nothing comes any more.
        """
        reformatter = VideoReformatter()
        damaged = FRAMES_DROPPED.labels(self._camera.id, "corrupt")
        seen_ns = self._wall.now_ns()
        for packet, arrival_ns in self._packets(silence_s):
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                damaged.inc()
                frames = []
            self._note_utc(packet)
            if not frames and arrival_ns - seen_ns > silence_s() * _SECOND_NS:
                raise CameraSilent(
                    f"{self._where} sends, but no picture for {silence_s():.3g} s: set the camera's key frame interval to 1 or 2 s"
                )
            for frame in frames:
                if frame.is_corrupt:
                    damaged.inc()
                    continue
                time_ns = self._time_ns(frame)
                utc = self._utc_minus_time_ns
                utc_ns = time_ns + utc if time_ns is not None and utc is not None else None
                yield Picture(time_ns, utc_ns, arrival_ns, frame, self._pixel_aspect(), reformatter)
            if frames:
                seen_ns = self._wall.now_ns()  # now, not at its arrival: whoever takes the pictures may have been slow

    def _packets(self, silence_s: Callable[[], float]) -> "Iterator[tuple[Packet[VideoStream], int]]":
        heard_ns, rtsp = self._wall.now_ns(), self._camera.kind == "rtsp"
        while True:
            if not rtsp:
                self._read_timeout.seconds = silence_s()
            packets = self._demuxed(silence_s())
            try:
                with _errors(self._camera.kind, self._where, silence_s(), opening=False), contextlib.closing(packets):
                    for packet in packets:
                        heard_ns = self._wall.now_ns()
                        yield packet, heard_ns
                        if not rtsp and packet.size and silence_s() != self._read_timeout.seconds:
                            break  # PyAV takes a new time-out only when reading begins
                    else:
                        return
            except CameraSilent:
                # an RTSP stream may be read on after a time-out; everything else FFmpeg has given up inside
                if not rtsp or self._wall.now_ns() - heard_ns > silence_s() * _SECOND_NS:
                    raise

    def _demuxed(self, silence_s: float) -> "Generator[Packet[VideoStream]]":
        packets = cast("Generator[Packet[VideoStream]]", self._container.demux(self._stream))
        if self._camera.kind != "device":
            yield from packets
            return
        heard_s = time.monotonic()
        while time.monotonic() - heard_s < silence_s:
            try:
                yield next(packets)
                heard_s = time.monotonic()
            except StopIteration:
                return
            except av.error.BlockingIOError:  # no picture yet
                time.sleep(_POLL_S)
                packets = cast("Generator[Packet[VideoStream]]", self._container.demux(self._stream))
        raise CameraSilent(f"{self._where} is silent: nothing came for {silence_s:.3g} s")

    def _pixel_aspect(self) -> float:
        aspect = float(self._stream.codec_context.sample_aspect_ratio or self._stream.sample_aspect_ratio or 1)
        return aspect if 1 / MAX_ASPECT <= aspect <= MAX_ASPECT else 1.0

    def _note_utc(self, packet: "Packet[VideoStream]") -> None:
        if packet.pts is None or not packet.has_sidedata("prft"):
            return
        (utc_us,) = _PRODUCER_TIME.unpack_from(bytes(packet.get_sidedata("prft")))
        utc_minus_time_ns = utc_us * 1000 - self._since_beginning(packet.pts)
        # the packet on either side of a sender report may carry the other's time, one picture off: two must agree
        if self._reported_ns is not None and abs(utc_minus_time_ns - self._reported_ns) < _AGREE_NS:
            self._utc_minus_time_ns = utc_minus_time_ns
        self._reported_ns = utc_minus_time_ns

    def _time_ns(self, frame: av.VideoFrame) -> int | None:
        if not self.has_times or frame.pts is None:
            return None
        return self._since_beginning(frame.pts)

    def _since_beginning(self, pts: int) -> int:
        base = cast(Fraction, self._stream.time_base)  # every stream that was opened for reading has one
        time_ns = pts * base.numerator * _SECOND_NS // base.denominator
        if self._begin_ns is None:
            self._begin_ns = time_ns
        return time_ns - self._begin_ns


def open_video(camera: CameraSettings, wall: WallClock, open_timeout_s: float, path: Path | None = None) -> Video:
    """Connect to a camera, or open `path` in its name (a clip of a synthetic one).

    Raises CameraUnreachable, CameraUnauthorised, NotAVideo, or CameraError for what no retry will mend.
    """
    read_timeout = _ReadTimeout()  # over RTSP reading wakes up every second, whatever the silence that is allowed
    kind, shown = camera.kind, camera.shown_url if path is None else str(path)
    where = f"camera {camera.id}: {shown}"
    if kind in ("file", "synthetic"):
        path = path or file_path(camera.url)
        _refuse_what_is_no_file(path, where)
        target = f"file:{path.absolute()}"
    else:
        target = camera.url
    with _errors(kind, where, open_timeout_s, opening=True):
        container = av.open(
            target,
            "r",
            format="v4l2" if kind == "device" else None,
            options={**_OPTIONS[kind], "protocol_whitelist": _PROTOCOLS[kind]},
            metadata_errors="replace",
            timeout=(open_timeout_s, cast(float, read_timeout)),
        )
    try:
        stream = _video_stream(container, where, camera.width)
        stream.thread_count = 1  # more burn 8 % more and take three times the memory
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        return Video(container, stream, camera, wall, where, read_timeout)
    except BaseException:
        container.close()
        raise


def file_path(url: str) -> Path:
    """The path in a url of kind file."""
    return Path(url.removeprefix("file://"))


def _refuse_what_is_no_file(path: Path, where: str) -> None:
    try:
        if path.is_dir():
            raise CameraError(f"{where} is a directory, expected a video file: name one file per camera")
        if not path.exists():
            raise CameraError(f"{where} does not exist: check the path")
        if not path.is_file():
            raise CameraError(f"{where} is neither a file nor a device in /dev, expected a video file")
        if path.stat().st_size == 0:
            raise NotAVideo(f"{where} is empty (0 bytes), expected a video: copy or record it again")
    except PermissionError:
        raise CameraError(f"{where} may not be read: check its permissions") from None


def _duration_ns(container: InputContainer, stream: VideoStream) -> int | None:
    """How long the video says it is; a container's length may be that of its sound."""
    if stream.duration is not None and stream.time_base is not None:
        return int(stream.duration * stream.time_base * _SECOND_NS)
    return container.duration * 1000 if container.duration is not None and len(container.streams) == 1 else None


def _video_stream(container: InputContainer, where: str, width: int) -> VideoStream:
    name = container.format.name
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if name.endswith("_pipe") or name in ("image2", "image2pipe", "tty"):
        raise NotAVideo(f"{where} is not a video but a single picture or text ({name}), expected a video")
    streams = [s for s in streams if s.codec_context is not None]
    if not streams:
        raise NotAVideo(f"{where} has no video that can be decoded ({name}), expected H.264, H.265, MJPEG or the like")
    stream = _of_several_sizes(streams, width) if name in ("hls", "dash") else streams[0]
    codec = stream.codec_context
    if codec.width * codec.height > MAX_PIXELS:
        raise NotAVideo(f"{where} has pictures of {codec.width}x{codec.height}, expected at most {MAX_PIXELS} pixels")
    return stream


def _of_several_sizes(streams: Sequence[VideoStream], width: int) -> VideoStream:
    """Of one video in several sizes the smallest that is as wide as asked, else the largest; the others are not fetched."""
    wide_enough = [s for s in streams if s.codec_context.width >= width]
    chosen = min(wide_enough, key=_pixels) if wide_enough else max(streams, key=_pixels)
    for other in streams:
        other.discard = Discard.default if other is chosen else Discard.all
    return chosen


def _pixels(stream: VideoStream) -> int:
    return stream.codec_context.width * stream.codec_context.height


@contextlib.contextmanager
def _errors(kind: Kind, where: str, timeout_s: float, *, opening: bool) -> Iterator[None]:
    """Translate FFmpeg's errors; the originals hold the url with its password and are cut off."""
    began_s = time.monotonic()
    try:
        yield
    except (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError):
        raise CameraUnauthorised(
            f"{where} refuses these credentials: check user and password in the url (percent-encode @ : / in them)"
        ) from None
    except av.error.HTTPNotFoundError:
        raise CameraUnreachable(f"{where} answers that there is no such path: check the path in the url") from None
    except (av.error.HTTPError, av.error.HTTPClientError) as error:
        raise CameraUnreachable(f"{where} answers with an error: {error.strerror}") from None
    except (av.error.ExitError, av.error.TimeoutError):
        raise CameraSilent(f"{where} is silent: nothing came for {timeout_s:.3g} s") from None
    except av.error.PermissionError:
        raise CameraError(f"{where} may not be opened: check permissions (devices: the group video)") from None
    except (
        av.error.InvalidDataError,
        av.error.LookupError,
        av.error.PatchWelcomeError,
        av.error.ArgumentError,
        av.error.NotImplementedError,
    ) as error:
        if opening and time.monotonic() - began_s >= timeout_s:  # FFmpeg says so of half an RTSP answer, too
            raise CameraSilent(f"{where} is silent: nothing came for {timeout_s:.3g} s") from None
        raise NotAVideo(f"{where} is not a video, or is cut off: {(error.strerror or 'unreadable').lower()}") from None
    except av.error.FFmpegError as error:
        reason = (error.strerror or type(error).__name__).lower()
        if kind in ("file", "synthetic"):
            raise NotAVideo(f"{where} is not a video, or is cut off: {reason}") from None
        if not opening:
            raise CameraUnreachable(f"{where} broke off: {reason}") from None
        remedy = "" if kind == "device" else "; check host and port (in a password write @ : / as %40 %3A %2F)"
        raise CameraUnreachable(f"{where} cannot be reached: {reason}{remedy}") from None
