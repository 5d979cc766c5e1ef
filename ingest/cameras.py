"""All cameras of a site as one source."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

from ingest.clock import WallClock
from ingest.film import play_file, play_scene
from ingest.frames import FrameWriter
from ingest.live import LiveCamera
from ingest.patience import Patience
from ingest.queues import CameraQueue
from ingest.scene import LiveScene
from ingest.settings import CameraSettings, partitions
from stream.errors import TransportError
from stream.messages import CameraState, Frame
from stream.telemetry import CAMERA_CONNECTED
from stream.transport import Record

POLL_S = 0.1
BATCH = 32


class Cameras:
    """A Source of frames and camera states: a thread and a bounded queue per camera, one partition each.

    Live cameras never end and never wait: a full queue drops its oldest frame, and a camera with nothing to say is declared
    idle. Files keep everything, wait for their reader, and are interleaved in order of captured_at; the source ends after
    their last frames. A file that cannot be used at all ends it with CameraError.
    """

    def __init__(
        self,
        site: str,
        cameras: Sequence[CameraSettings],
        *,
        patience: Patience | None = None,
        wall: WallClock | None = None,
    ) -> None:
        self._site, self._cameras = site, list(cameras)
        self._patience, self._wall = patience or Patience(), wall or WallClock()
        self.partitions = partitions(cameras)
        """Camera id -> partition."""
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._queues = [CameraQueue(site, camera, self._changed, self._wall.now_ns()) for camera in cameras]
        self._scenes: dict[str, LiveScene] = {}
        self._threads = [
            threading.Thread(target=self._thread(camera, queue), name=f"camera {camera.id}", daemon=True)
            for camera, queue in zip(self._cameras, self._queues, strict=True)
        ]
        self._offsets = dict.fromkeys(self.partitions.values(), 0)
        self._paused: set[int] = set()
        self._turn = 0

    def batches(self) -> Iterator[Sequence[Record[Frame | CameraState]]]:
        """Up to 32 messages as they come; an empty batch when nothing came for 100 ms."""
        for thread in self._threads:
            if thread.ident is None:
                thread.start()
        while not self._stop.is_set():
            with self._changed:
                self._raise_errors()
                batch = self._collect()
                if not batch:
                    if all(queue.ended and queue.head_ns() is None for queue in self._queues):
                        return
                    self._changed.wait(POLL_S)
                    batch = self._collect()
            yield batch

    def commit(self, batch: Sequence[Record[Frame | CameraState]]) -> None:
        """Nothing: a camera cannot be asked again."""

    def position(self) -> dict[int, int]:
        """How many messages each partition has had."""
        return dict(self._offsets)

    def seek(self, offsets: Mapping[int, int]) -> None:
        """Raises TransportError unless it is where the cameras are anyway."""
        if any(self._offsets.get(partition) != offset for partition, offset in offsets.items()):
            raise TransportError(
                f"site {self._site}: cameras cannot be played from an offset: seek in the frames topic"
            )

    def pause(self, partitions: Iterable[int]) -> None:
        """Hand out nothing of these; their queues fill, and do then what they do when they are full."""
        self._paused.update(partitions)

    def resume(self, partitions: Iterable[int]) -> None:
        """Undo `pause`."""
        self._paused.difference_update(partitions)

    def close(self) -> None:
        """Stop all cameras. Threads that wait for a camera's next byte leave by themselves when their time-out strikes."""
        self._stop.set()
        for queue in self._queues:
            queue.close()
        for scene in self._scenes.values():
            scene.close()
        deadline = time.monotonic() + 2
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))

    def _thread(self, camera: CameraSettings, queue: CameraQueue) -> Callable[[], None]:
        writer = FrameWriter(self._site, camera, queue, self._wall)
        body: Callable[[], None]
        if camera.is_file:
            body = partial(play_file, camera, writer, self._wall, self._stop)
        elif camera.kind == "synthetic":
            scene = self._scenes.setdefault(_scene_key(camera), LiveScene(self._wall))
            body = partial(play_scene, camera, writer, queue, self._wall, self._stop, scene)
        else:
            body = LiveCamera(camera, writer, queue, self._wall, self._patience, self._stop).run

        def run() -> None:
            try:
                body()
                queue.end()
            except BaseException as error:  # raised where the source is read
                queue.end(error)
            finally:
                CAMERA_CONNECTED.labels(camera.id).set(0)

        return run

    def _collect(self) -> list[Record[Frame | CameraState]]:
        """What is ready, in turn over the cameras; of files in order of captured_at, as far as that is known."""
        batch: list[Record[Frame | CameraState]] = []
        now_ns = self._wall.now_ns()
        live = [queue for queue in self._queues if queue.live and self.partitions[queue.camera] not in self._paused]
        files = [
            queue for queue in self._queues if not queue.live and self.partitions[queue.camera] not in self._paused
        ]
        self._turn += 1
        for place in range(len(live)):
            queue = live[(place + self._turn) % len(live)]  # each is first in turn: a full batch shall starve nobody
            while queue.head_ns() is not None and len(batch) < BATCH:
                batch.append(self._record(queue, queue.pop(now_ns)))
            state = queue.idle(now_ns)
            if state is not None:
                batch.append(self._record(queue, state))
        while len(batch) < BATCH:
            heads = [(queue.head_ns(), queue) for queue in files if not (queue.ended and queue.head_ns() is None)]
            known = [(head_ns, queue) for head_ns, queue in heads if head_ns is not None]
            if not known or len(known) < len(heads):  # a slower file may have an earlier picture
                break
            _, first = min(known, key=lambda item: item[0])
            batch.append(self._record(first, first.pop(now_ns)))
        return batch

    def _record(self, queue: CameraQueue, message: Frame | CameraState) -> Record[Frame | CameraState]:
        partition = self.partitions[queue.camera]
        offset = self._offsets[partition]
        self._offsets[partition] = offset + 1
        return Record(message, partition, offset)

    def _raise_errors(self) -> None:
        for queue in self._queues:
            if queue.error is not None and queue.head_ns() is None:
                raise queue.error


def _scene_key(camera: CameraSettings) -> str:
    from ingest.synthetic.scene import parse_url

    return parse_url(camera.url)[0].key
