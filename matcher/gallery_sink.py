"""Where the matcher's steps go: all that wait are stored by one call."""

import time
from collections.abc import Callable, Iterable

from matcher.gallery import Gallery
from matcher.matcher import Step
from stream.errors import DeliveryFailed, GalleryUnreachable
from stream.messages import MatchEvent
from stream.telemetry import EVENTS

RETRY_S = 0.25


class GallerySink:
    """Sink[Step]. While the gallery cannot be reached, steps are kept and `DeliveryFailed` says so: the run waits."""

    def __init__(self, gallery: Gallery, *, told: Callable[[MatchEvent], None] | None = None) -> None:
        """`told` hears of each event once it is stored."""
        self._gallery, self._told = gallery, told
        self._waiting: list[Step] = []

    def send(self, messages: Iterable[Step]) -> None:
        """Keep until `flush`."""
        self._waiting += messages

    def flush(self) -> None:
        """Store everything, or renew the lease. Raises `EpochLost` when another matcher has the site."""
        try:
            events = self._gallery.commit(self._waiting)
        except GalleryUnreachable as error:
            time.sleep(RETRY_S)  # a refused connection answers at once, and the run tries again at once
            raise DeliveryFailed(str(error)) from None
        self._waiting = []
        for event in events:
            EVENTS.labels(event.site, event.kind).inc()
            if self._told is not None:
                self._told(event)

    def close(self) -> None:
        """Hand the site to the next matcher."""
        self._gallery.release()
