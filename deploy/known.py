"""What a perceive worker takes of the frames topic: the cameras of its site file, and nobody else's."""

import logging
from collections.abc import Container, Sequence

from deploy.buses import FromCamera
from stream.messages import Frame
from stream.telemetry import FRAMES_DROPPED
from stream.transport import Record

log = logging.getLogger(__name__)


class Known:
    """Drops what comes of cameras that the site file does not name, and counts their frames as ``unknown``.

    Such are on the topic where ingest was started with a newer site file than this worker, and after a camera was taken out
    or renamed until its last frames have been read. A dropped record is committed with its batch like any other.
    """

    def __init__(self, cameras: Container[str]) -> None:
        self._cameras = cameras
        self._said: set[str] = set()

    def __call__(self, batch: Sequence[Record[FromCamera]]) -> list[Record[FromCamera]]:
        """The records of known cameras."""
        return [record for record in batch if self._is_known(record.message)]

    def _is_known(self, message: FromCamera) -> bool:
        camera = message.camera
        if camera in self._cameras:
            return True
        if isinstance(message, Frame):
            FRAMES_DROPPED.labels(camera, "unknown").inc()
        if camera not in self._said:
            self._said.add(camera)
            log.warning(
                "camera %s: is not in this worker's site file, so its frames are dropped: if it is new, start perceive again with "
                "the site file that names it; if it was taken out or renamed, its last frames end by themselves",
                camera,
            )
        return False
