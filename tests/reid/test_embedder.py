"""The embedder stage: who is embedded when, one record per frame, and vectors that depend on nothing but the crop."""

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from deploy.backends.reference import ReferenceEmbedder, ReferencePersonSearch
from reid.crops import to_batch
from reid.embedder import Embedder
from reid.settings import EmbedderSettings
from reid.switches import Switches
from stream.messages import CameraState, Detections, Embeddings, Frame, Status
from stream.model import LinkRow, Links

S = 1_000_000_000


def detections(
    sequence: int,
    names: Sequence[str] = ("a/0/0/1",),
    *,
    camera: str = "a",
    stream: int = 0,
    status: Status = "ok",
    quality: float | Sequence[float] = 0.9,
    ambiguous: bool = False,
) -> Detections:
    """A frame at 5 fps; the n-th person's crop is of a colour of its own."""
    n = len(names)
    frame = Frame(
        site="s", camera=camera, stream=stream, sequence=sequence, captured_at=stream + sequence * S // 5, ingested_at=7,
        clock="file", width=640, height=360, image=b"",
    )  # fmt: skip
    left = 40.0 * np.arange(n)
    return Detections(
        frame=frame,
        status=status,
        xyxy=np.stack([left, 0 * left, left + 30, 0 * left + 90], 1).astype(np.float32),
        scores=np.full(n, 0.8, np.float32),
        tracklets=tuple(names),
        quality=np.broadcast_to(np.float32(quality), (n,)),
        ambiguous=np.full(n, ambiguous),
        crops=tuple(np.full((90, 30, 3), (200 - 40 * k, 30 + 40 * k, 90), np.uint8) for k in range(n)),
    )


def embedder(**settings: float) -> Embedder:
    return Embedder(ReferenceEmbedder(), EmbedderSettings(**settings))


def process(stage: Embedder, *items: Detections | CameraState) -> list[Embeddings]:
    return [one for one in stage.process(items) if isinstance(one, Embeddings)]


def embedded(records: Sequence[Embeddings], person: int = 0) -> list[int]:
    """Sequences in which a person was embedded."""
    return [one.sequence for one in records if one.people and one.people[person].vector is not None]


def test_a_record_says_all_that_its_frame_said() -> None:
    item = detections(3, ["a/0/0/1", "a/0/0/2"])
    (record,) = process(embedder(), item)
    assert (record.site, record.camera, record.stream, record.sequence) == ("s", "a", 0, 3)
    assert (record.captured_at, record.ingested_at, record.clock) == (item.frame.captured_at, 7, "file")
    assert (record.width, record.height, record.status) == (640, 360, "ok")
    assert record.model == ReferenceEmbedder().card.id
    assert [person.xyxy for person in record.people] == [(0, 0, 30, 90), (40, 0, 70, 90)]
    assert [person.tracklet for person in record.people] == ["a/0/0/1", "a/0/0/2"]


def test_vectors_are_those_of_the_crops_in_unit_length_as_float16() -> None:
    item = detections(0, ["a/0/0/1", "a/0/0/2", "a/0/0/3"], quality=[0.5, 0.9, 0.7])
    (record,) = process(embedder(), item)
    expected = ReferenceEmbedder().infer(to_batch(item.crops, (64, 32)))["embedding"]
    for person, vector in zip(record.people, expected, strict=True):
        assert person.vector is not None
        got = np.frombuffer(person.vector, "<f2").astype(np.float32)
        np.testing.assert_allclose(got, vector, atol=1e-3)
        assert np.linalg.norm(got) == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("status", ["skipped", "undecodable"])
def test_frames_without_people_give_their_record_too(status: Status) -> None:
    records = process(embedder(), detections(0, []), detections(1, [], status=status))
    assert [(one.status, one.people) for one in records] == [("ok", ()), (status, ())]


def test_camera_states_pass_in_their_place() -> None:
    state = CameraState(site="s", camera="a", stream=0, captured_at=0, ingested_at=0, state="idle")
    outputs = list(embedder().process([detections(0), state, detections(1)]))
    assert outputs[1] is state
    assert list(embedder().process([])) == []
    assert list(embedder().finish()) == []


def test_a_new_tracklet_is_embedded_now_and_a_settled_one_every_two_seconds() -> None:
    records = process(embedder(), *(detections(k) for k in range(40)))
    assert embedded(records) == [*range(8), 17, 27, 37]


def test_a_poor_tracklet_is_asked_for_more_often() -> None:
    records = process(embedder(), *(detections(k, quality=0.3) for k in range(20)))
    assert embedded(records) == [*range(10), 12, 15, 18]


def test_an_ambiguous_tracklet_is_embedded_now_and_afterwards_like_a_new_one() -> None:
    records = process(embedder(), *(detections(k, ambiguous=k in (12, 13, 14)) for k in range(33)))
    assert embedded(records) == [*range(8), 12, *range(15, 23), 32]


def test_crops_that_nobody_would_use_are_not_embedded() -> None:
    records = process(embedder(), *(detections(k, quality=0.2 if k < 6 else 0.9) for k in range(8)))
    assert embedded(records) == [6, 7]


def test_the_budget_holds_and_the_best_new_ones_go_first() -> None:
    names = [f"a/0/0/{n}" for n in range(1, 9)]
    quality = [0.3 + 0.05 * n for n in range(8)]
    records = process(embedder(crops_per_s=10.0), *(detections(k, names, quality=quality) for k in range(25)))
    counts = [sum(person.vector is not None for person in one.people) for one in records]
    assert counts[0] == 8
    assert sum(counts) <= 15 + 10 * 4.8
    assert [person.vector is not None for person in records[2].people][-2:] == [True, True]


def test_a_budget_that_nobody_used_does_not_grow_beyond_one_burst() -> None:
    crowd = [f"a/0/0/{n}" for n in range(1, 41)]
    records = process(embedder(crops_per_s=10.0), detections(0, []), detections(500, crowd))
    assert sum(person.vector is not None for person in records[1].people) == 15


def test_the_budget_is_each_cameras_own() -> None:
    names = [f"x/0/0/{n}" for n in range(1, 7)]
    alone, busy = embedder(crops_per_s=5.0), embedder(crops_per_s=5.0)
    quiet = [detections(k, camera="a") for k in range(20)]
    both = [one for k in range(20) for one in (detections(k, names, camera="b"), quiet[k])]
    left = process(alone, *quiet)
    right = [one for one in process(busy, *both) if one.camera == "a"]
    assert left == right


@pytest.mark.parametrize("size", [1, 3, 20])
def test_batches_change_nothing(size: int) -> None:
    items = [detections(k, [f"{c}/0/0/{n}" for n in range(3)], camera=c) for k in range(12) for c in "abc"]
    stage = embedder(max_batch=4)
    records = [one for k in range(0, len(items), size) for one in process(stage, *items[k : k + size])]
    assert records == process(embedder(), *items)


@pytest.mark.parametrize(
    "then",
    [
        pytest.param([detections(0, ["a/9/0/1"], stream=9 * S)], id="a new stream"),
        pytest.param(
            [CameraState(site="s", camera="a", stream=0, captured_at=0, ingested_at=0, state="end"), detections(31)],
            id="after the end",
        ),
        pytest.param([detections(5)], id="frames delivered again"),
    ],
)
def test_a_break_begins_a_new_budget(then: list[Detections | CameraState]) -> None:
    stage = embedder()
    process(stage, *(detections(k) for k in range(30)))
    assert process(stage, *then)[-1].people[0].vector is not None


def crop(h: int, w: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (h, w, 3), dtype=np.uint8)


@pytest.mark.parametrize(("h", "w"), [(1, 1), (256, 128), (64, 32), (700, 300), (300, 40), (20, 500)])
def test_crops_of_any_size_are_stretched_to_one(h: int, w: int) -> None:
    batch = to_batch([crop(h, w), np.full((h, w, 3), (1, 2, 3), np.uint8)], (256, 128))
    assert batch.shape == (2, 256, 128, 3)
    assert batch.dtype == np.uint8
    assert (batch[1] == (1, 2, 3)).all()


def test_a_crop_of_the_right_size_stays_as_it_is_and_none_make_an_empty_batch() -> None:
    np.testing.assert_array_equal(to_batch([crop(256, 128)], (256, 128))[0], crop(256, 128))
    assert to_batch([], (256, 128)).shape == (0, 256, 128, 3)


def test_views_into_a_frame_are_taken_as_they_are() -> None:
    image = crop(360, 640)
    view = image[10:200, 50:120]
    np.testing.assert_array_equal(to_batch([view], (256, 128)), to_batch([view.copy()], (256, 128)))


def test_people_who_come_with_vectors_keep_them_and_are_chosen_as_all_others_are() -> None:
    names = ["a/0/0/1", "a/0/0/2"]
    plain = [detections(n, names, quality=[0.9, 0.1]) for n in range(30)]
    vectors = np.random.default_rng(0).normal(size=(30, 2, 256)).astype(np.float32)
    search = Embedder(ReferencePersonSearch(), EmbedderSettings())
    records = process(search, *(replace(one, vectors=vectors[n]) for n, one in enumerate(plain)))
    assert {record.model for record in records} == {ReferencePersonSearch().card.id}
    chosen = embedded(records)
    assert chosen == embedded(process(embedder(), *plain))
    assert embedded(records, person=1) == []  # too poor to be pooled
    for n in chosen:
        assert records[n].people[0].vector == vectors[n, 0].astype("<f2").tobytes()


def test_a_vector_that_somebody_came_with_is_nobody_else_s() -> None:
    vectors = np.random.default_rng(0).normal(size=(2, 256)).astype(np.float32)
    item = replace(detections(0, ["a/0/0/1", "a/0/0/2"], quality=[0.1, 0.9]), vectors=vectors)
    (record,) = process(Embedder(ReferencePersonSearch(), EmbedderSettings()), item)
    assert [person.vector for person in record.people] == [None, vectors[1].astype("<f2").tobytes()]


ROW = LinkRow(a=-10.0, b=20.0, same_pairs=1000)
LINKS = Links(mean=[0.0] * 24, same=ROW, other=ROW, fitted_on="colours")


def worn(sequence: int, grey: int, stream: int = 0) -> Detections:
    """One person all in one grey: below 127 is the opposite of above."""
    return replace(detections(sequence, stream=stream), crops=(np.full((90, 30, 3), grey, np.uint8),))


def names(records: Sequence[Embeddings]) -> list[str]:
    """Tracklet of the one person in each frame, each name once where it stays."""
    found = [one.people[0].tracklet for one in records]
    return [name for n, name in enumerate(found) if n == 0 or found[n - 1] != name]


def test_a_tracklet_that_goes_on_with_somebody_else_gets_another_name_from_the_first_crop_that_says_so() -> None:
    frames = [worn(k, 200 if k < 12 or k > 30 else 20) for k in range(60)]
    records = process(Embedder(ReferenceEmbedder(), EmbedderSettings(), LINKS), *frames)
    assert embedded(records) == [*range(8), 17, 27, 37, 47, 57]
    begun = {one.people[0].tracklet: one.sequence for one in reversed(records)}
    assert begun == {"a/0/0/1": 0, "a/0/0/1+1": 17, "a/0/0/1+2": 37}


def test_a_vector_that_is_no_number_does_not_make_a_tracklet_blind() -> None:
    switches, quality = Switches(LINKS), np.ones(1, np.float32)
    one = np.eye(24)[0].astype("<f2")
    found = [
        switches.rename(0.2 * n, ("a/0/0/1",), quality, {0: vector.tobytes()})
        for n, vector in enumerate([one, one * np.float16("nan"), one, one, -one])
    ]
    assert found == [("a/0/0/1",)] * 4 + [("a/0/0/1+1",)]


def test_somebody_in_another_light_keeps_the_name() -> None:
    frames = [worn(k, 130 + 2 * k) for k in range(60)]
    assert names(process(Embedder(ReferenceEmbedder(), EmbedderSettings(), LINKS), *frames)) == ["a/0/0/1"]


def test_looks_are_compared_without_what_all_people_have_in_common() -> None:
    vector = ReferenceEmbedder().infer(np.full((1, 64, 32, 3), 200, np.uint8))["embedding"][0]
    common = vector + 0.3 * np.eye(len(vector))[0]
    links = msgspec.structs.replace(LINKS, mean=(common / np.linalg.norm(common)).tolist())
    frames = [worn(k, 200) for k in range(40)]
    assert names(process(Embedder(ReferenceEmbedder(), EmbedderSettings(), links), *frames)) == ["a/0/0/1"]


def test_a_frame_delivered_again_takes_nobody_s_name_away() -> None:
    stage = Embedder(ReferenceEmbedder(), EmbedderSettings(), LINKS)
    process(stage, *(worn(k, 200 if k < 6 else 20) for k in range(30)))
    process(stage, detections(5, [], status="skipped"))
    assert names(process(stage, worn(30, 20))) == ["a/0/0/1+1"]


def test_nobody_is_judged_by_a_single_crop_or_without_link_rows() -> None:
    frames = [worn(k, 20 if k == 0 else 200) for k in range(2)]
    assert names(process(Embedder(ReferenceEmbedder(), EmbedderSettings(), LINKS), *frames)) == ["a/0/0/1"]
    assert names(process(embedder(), *(worn(k, 200 if k < 6 else 20) for k in range(40)))) == ["a/0/0/1"]


@pytest.mark.parametrize("size", [1, 7, 120])
def test_names_do_not_depend_on_how_frames_are_batched(size: int) -> None:
    frames = [worn(k, 20 if k // 30 % 2 else 200) for k in range(120)]
    stage = Embedder(ReferenceEmbedder(), EmbedderSettings(), LINKS)
    records = [one for start in range(0, 120, size) for one in process(stage, *frames[start : start + size])]
    assert names(records) == ["a/0/0/1", "a/0/0/1+1", "a/0/0/1+2", "a/0/0/1+3"]


def test_a_new_stream_knows_nobody_s_looks() -> None:
    frames = [*(worn(k, 200) for k in range(20)), *(worn(k, 20, stream=90 * S) for k in range(20))]
    assert names(process(Embedder(ReferenceEmbedder(), EmbedderSettings(), LINKS), *frames)) == ["a/0/0/1"]
