"""How many people, pictures and boxes a data set holds, beside what its authors publish."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from trainer.data import NOBODY, UNLABELLED
from trainer.datasets.listing import Listing
from trainer.datasets.search import named, people_of
from trainer.datasets.sets import SearchData

I64 = NDArray[np.int64]


def count_listing(listing: Listing) -> dict[str, int]:
    """Counts of a set of crops on disk."""
    splits = (listing.train, listing.query, listing.gallery)
    cameras = np.concatenate([split.cameras for split in splits])
    return count_crops(listing.train.people, listing.query.people, listing.gallery.people, cameras, listing.junk)


def count_crops(train: I64, query: I64, gallery: I64, cameras: I64, junk: int) -> dict[str, int]:
    """Counts of a set of crops, from the people of its splits."""
    return {
        "train people": len(np.unique(train)),
        "train pictures": len(train),
        "query people": len(np.unique(query)),
        "query pictures": len(query),
        "gallery people": len(np.unique(gallery[gallery != 0])),
        "gallery pictures": len(gallery),
        "distractor pictures": int((gallery == 0).sum()),
        "junk pictures": junk,
        "cameras": len(np.unique(cameras)),
    }


def count_scenes(data: SearchData) -> dict[str, int]:
    """Counts of a set of scenes."""
    train, test = people_of(data.train), people_of(data.test)
    cameras = [each.cameras for each in (data.train, data.test) if each.cameras is not None]
    return {
        "train frames": len(train),
        "train people": data.identities,
        "test frames": len(test),
        "test people": len(np.unique(test[named(test)])),
        "queries": len(data.queries.people),
        "boxes": int((train != NOBODY).sum() + (test != NOBODY).sum()),
        "boxes with a name": int(named(train).sum() + named(test).sum()),
        "boxes without a name": int((train == UNLABELLED).sum() + (test == UNLABELLED).sum()),
        "cameras": len(np.unique(np.concatenate(cameras))),
    }


def differing(counts: Mapping[str, int], published: Mapping[str, int]) -> list[str]:
    """A few words for each of `counts` that is not as published."""
    return [
        f"{name}: {counts[name]} here, {expected} published"
        for name, expected in published.items()
        if counts[name] != expected
    ]
