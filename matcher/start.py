"""A matcher that goes on where the last one of its site stopped."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from matcher.gallery import Gallery
from matcher.gallery_sink import GallerySink
from matcher.matcher import Matcher
from matcher.merge import Item, Place
from matcher.rules import Rules
from matcher.state import restore
from stream.errors import OffsetGone
from stream.messages import MatchEvent
from stream.transport import Source

log = logging.getLogger(__name__)


class EmbeddingsSource(Source[Item], Protocol):
    """What the matcher reads from."""

    def topic_id(self) -> str:
        """Another one for every topic ever made."""
        ...


S = TypeVar("S", bound=EmbeddingsSource)


@dataclass(frozen=True, slots=True)
class Started(Generic[S]):
    """The three parts of ``run(source, matcher, sink, prepare=as_records, name="match")``."""

    source: S
    matcher: Matcher
    sink: GallerySink


def start(
    gallery: Gallery,
    open_source: Callable[[], S],
    rules: Rules,
    *,
    site: str,
    cameras: Sequence[str],
    key: bytes,
    model: str,
    live: bool,
    lateness_s: float,
    lasting: bool,
    takeover: bool = False,
    skip_lost: bool = False,
    stop: threading.Event | None = None,
    told: Callable[[MatchEvent], None] | None = None,
    clock: Callable[[], float] = time.time,
) -> Started[S]:
    """Become the site's matcher, then open the source and go on from the gallery's offsets.

    In this order, for a matcher that waits must not take partitions from the one it waits for. `lasting` says that the topic outlives this process. Raises `OffsetGone` when records between the last
    step and the oldest that is left are gone, unless `skip_lost`.
    """
    snapshot = gallery.acquire(takeover=takeover, stop=stop)
    try:
        source = open_source()
        places: Mapping[str, Place] = snapshot.places
        if lasting:
            gallery.topic = source.topic_id()
            _go_on(source, snapshot.topic, gallery.topic, snapshot.offsets, skip_lost)
        else:  # every camera begins anew with this process, and will say so when it ends
            places = {camera: place._replace(ended=False) for camera, place in places.items()}
        matcher = Matcher(
            site,
            cameras,
            restore(rules, snapshot.entities),
            key=key,
            model=model,
            live=live,
            lateness_s=lateness_s,
            places=places,
            source=source,
            clock=clock,
        )
    except BaseException:
        gallery.release()
        raise
    return Started(source, matcher, GallerySink(gallery, told=told))


def _go_on(
    source: EmbeddingsSource, known: str | None, topic: str, offsets: Mapping[int, int], skip_lost: bool
) -> None:
    if known is None:
        return
    if known != topic:
        _lost(f"the embeddings topic was made anew since the gallery read it (it was {known}, is {topic})", skip_lost)
        return
    read = source.position()
    for partition, offset in offsets.items():
        if partition not in read:  # its camera was taken out of the site file since
            log.info(
                "partition %d of the embeddings topic is not read any more, for the site file has no camera there; it was read "
                "up to offset %d",
                partition,
                offset,
            )
            continue
        try:
            source.seek({partition: offset})
        except OffsetGone as error:
            _lost(str(error), skip_lost)


def _lost(what: str, skip_lost: bool) -> None:
    if not skip_lost:
        raise OffsetGone(f"{what}: start the matcher with --skip-lost to go on with what the topic holds now")
    log.warning("%s: going on with what it holds now", what)
