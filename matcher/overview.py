"""What a site's gallery says about itself, for `sightline status` and for ingest; reads, writes nothing."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

from matcher.merge import Place
from matcher.redis_client import connect, redis_errors
from matcher.redis_gallery import site_prefix, stored_place


@dataclass(frozen=True, slots=True)
class Overview:
    """A moment of a gallery."""

    holder: str | None
    """Which matcher has the site; None: nobody now."""
    epoch: int
    """How many matchers have had it."""
    number: int
    """Of the last event."""
    identities: int
    model: str | None
    """Whose vectors it holds."""
    places: Mapping[str, Place]
    """Camera -> how far it has been taken."""


def overview(url: str, site: str) -> Overview:
    """Ask the server at `url`. Raises GalleryUnreachable and GalleryRefused."""
    prefix = site_prefix(site)
    with closing(connect(url)) as client, redis_errors(url):
        meta = {key.decode(): value for key, value in client.hgetall(f"{prefix}meta").items()}
        holder = client.get(f"{prefix}lease")
        identities = sum(1 for key in client.sscan_iter(f"{prefix}index") if b":identity/" in key)
    places = {key[6:]: stored_place(value) for key, value in meta.items() if key.startswith("place/")}
    return Overview(
        holder=holder.decode() if holder else None,
        epoch=int(meta.get("epoch", 0)),
        number=int(meta.get("number", 0)),
        identities=identities,
        model=meta["model"].decode() if "model" in meta else None,
        places=places,
    )
