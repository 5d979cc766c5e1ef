import numpy as np
import simplejpeg

from ingest.jpeg import encode, shrink
from stream.messages import Frame

NOISE = np.random.default_rng(1).integers(0, 256, (720, 1280, 3), dtype=np.uint8)


def frame(image: bytes, height: int = 720, width: int = 1280) -> Frame:
    return Frame(
        site="s", camera="c", stream=1, sequence=0, captured_at=1, ingested_at=1, clock="file",
        width=width, height=height, image=image,
    )  # fmt: skip


def test_colours_survive() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[:] = (200, 40, 10)  # BGR
    decoded = simplejpeg.decode_jpeg(encode(image), colorspace="RGB")
    assert np.abs(decoded[32, 32].astype(int) - (10, 40, 200)).max() < 6


def test_a_heavy_frame_becomes_lighter_at_its_size() -> None:
    heavy = frame(encode(NOISE, quality=95))
    light = shrink(heavy, max_bytes=900_000)
    assert light is not None
    assert len(light.image) <= 900_000 < len(heavy.image)
    assert (light.height, light.width) == (720, 1280)
    assert light.sequence == heavy.sequence


def test_a_heavier_one_becomes_half_its_size_and_says_so() -> None:
    light = shrink(frame(encode(NOISE[:719], quality=95), height=719), max_bytes=200_000)
    assert light is not None
    assert len(light.image) <= 200_000
    assert simplejpeg.decode_jpeg_header(light.image)[:2] == (light.height, light.width) == (359, 640)


def test_what_is_still_too_heavy_is_given_up() -> None:
    assert shrink(frame(encode(NOISE)), max_bytes=10_000) is None


def test_what_is_no_picture_is_given_up() -> None:
    assert shrink(frame(b"\0" * 1_000_000)) is None
