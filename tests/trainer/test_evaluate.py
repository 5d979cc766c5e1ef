import numpy as np
import pytest
import torch

from stream.errors import DataError
from trainer.data import Crops, Scenes
from trainer.evaluate import box_agreement, crop_agreement, score_detector, score_embedder, split
from trainer.methods import mgre
from trainer.methods.mgre import MGReRecipe
from trainer.validation import crops_judge


class MeanColour:
    """An embedder that knows nothing but the mean colour of a crop."""

    def infer(self, images):
        mean = images.reshape(len(images), -1, 3).mean(1) - 127
        return {"embedding": (mean / np.linalg.norm(mean, axis=1, keepdims=True)).astype(np.float32)}


class BrightSpot:
    """A detector that frames everything bright, in one candidate, whose score is given."""

    def __init__(self, score=0.9):
        self.score = score

    def infer(self, images):
        boxes = np.zeros((len(images), 1, 4), np.float32)
        for place, image in enumerate(images):
            rows, columns = np.nonzero(image[..., 0] > 200)
            boxes[place, 0] = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        return {"boxes": boxes, "scores": np.full((len(images), 1), self.score, np.float32)}


def _crops(colours, people, cameras):
    return Crops(np.array([np.full((8, 4, 3), c, np.uint8) for c in colours]), np.array(people), np.array(cameras))


def test_an_embedder_is_scored_across_cameras_and_without_their_means():
    # camera 2 is redder than camera 1 by so much that raw colours find the wrong person
    query = _crops([(80, 100, 127), (80, 160, 127)], [1, 2], [1, 1])
    gallery = _crops([(200, 100, 127), (200, 160, 127), (80, 100, 127), (80, 160, 127)], [1, 2, 1, 2], [2, 2, 1, 1])
    score = score_embedder(MeanColour(), query, gallery, (8, 4))
    assert score.ranking.rank1 == 0
    assert score.centred.rank1 == 1


def test_a_camera_s_mean_is_taken_out_of_its_queries_too():
    # in camera 1 everybody is so dark that both of them look like person 1 of camera 2 until its mean is gone
    query = _crops([(80, 60, 127), (80, 110, 127)], [1, 2], [1, 1])
    gallery = _crops([(200, 100, 127), (200, 160, 127), (80, 60, 127), (80, 110, 127)], [1, 2, 1, 2], [2, 2, 1, 1])
    assert score_embedder(MeanColour(), query, gallery, (8, 4)).centred.rank1 == 1


def test_a_camera_s_mean_is_taken_out_of_its_gallery_too():
    # camera 2 is less red than camera 1 and camera 3 more: until their means are gone anybody of camera 3 is nearer to person 1
    query = _crops([(167, 127, 200)], [1], [1])
    gallery = _crops(
        [(67, 127, 200), (27, 127, 200), (220, 167, 200), (220, 87, 200), (167, 127, 200), (87, 127, 200)],
        [1, 3, 2, 3, 1, 2],
        [2, 2, 3, 3, 1, 1],
    )
    assert score_embedder(MeanColour(), query, gallery, (8, 4)).centred.rank1 == 1


class Unread:
    """Pictures that are not to be read yet."""

    def __getitem__(self, rows):
        raise AssertionError(f"rows {rows} are read")


def test_query_and_gallery_keep_joints_and_names_and_their_pictures_are_read_later():
    joints = np.arange(6 * 51, dtype=np.float32).reshape(6, 17, 3)
    people, cameras = np.array([1, 1, 2, 2, 1, 2]), np.array([1, 1, 1, 1, 2, 2])
    query, gallery = split(Crops(Unread(), people, cameras, joints, names=list("abcdef")))
    assert (query.names, gallery.names) == (["a", "c", "e", "f"], ["b", "d"])
    assert np.array_equal(query.joints, joints[[0, 2, 4, 5]])
    assert np.array_equal(gallery.joints, joints[[1, 3]])


def test_a_network_that_is_told_where_joints_are_is_judged_on_people_held_out(one_thread):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (8, 40, 20, 3), dtype=np.uint8)
    held_out = Crops(images, np.repeat([1, 2], 4), np.tile([1, 2], 4), rng.random((8, 17, 3), dtype=np.float32))
    network = mgre.embedder(MGReRecipe(input_hw=(64, 32), weights="", regions="joints")).eval()
    assert 0 < crops_judge(held_out, (64, 32))(network, torch.device("cpu")) <= 1


@pytest.mark.parametrize(
    "cameras", [pytest.param([1, 2, 1, 2], id="one picture a camera"), pytest.param([1, 1, 2, 2], id="one camera each")]
)
def test_people_held_out_of_whom_none_can_be_searched_for_are_refused_before_training(cameras):
    held_out = _crops([(0, 0, 255)] * 4, [3, 3, 5, 5], cameras)
    with pytest.raises(
        DataError, match=r"val_ids = 2: none of these people can be searched for: that takes two cameras"
    ):
        crops_judge(held_out, (64, 32))


def test_erasing_wipes_the_same_pictures_out_each_time_and_about_as_many_as_asked():
    query, gallery = (_crops([(0, 0, 255)] * 200, [1] * 200, [camera] * 200) for camera in (1, 2))
    clean, erased, again = (
        score_embedder(MeanColour(), query, gallery, (40, 20), erase_p=share) for share in (0.0, 0.5, 0.5)
    )
    assert np.array_equal(erased.query_vectors, again.query_vectors)
    changed = (np.abs(erased.query_vectors - clean.query_vectors) > 1e-6).any(1).mean()
    assert 0.35 < changed < 0.65
    assert not np.array_equal(erased.query_vectors, erased.gallery_vectors)


def test_an_embedder_is_scored_per_pair_of_cameras_and_re_ranked_when_asked():
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 255, (6, 3))
    who, where = np.tile(np.arange(6), 6), np.repeat([0, 1, 2], 12)
    crops = _crops(colours[who], who, where)
    score = score_embedder(MeanColour(), *split(crops), (8, 4), rerank=True)
    assert score.ranking.rank1 == score.ranking.mean_inp == 1
    assert score.reranked is not None
    assert score.reranked.rank1 == 1
    assert len(score.pairs) == 6
    assert score_embedder(MeanColour(), *split(crops), (8, 4)).reranked is None


class Huge:
    """An embedder whose training overflowed: its vectors are finite, and their squares are not."""

    def infer(self, images):
        colours = images.reshape(len(images), -1, 3).mean(1).astype(np.float32)
        return {"embedding": colours / 255, "plain": colours * np.float32(1e30)}


def test_a_model_with_huge_weights_has_no_score():
    query = _crops([(80, 100, 127), (80, 160, 127)], [1, 2], [1, 1])
    gallery = _crops([(200, 100, 127), (200, 160, 127)], [1, 2], [2, 2])
    with pytest.raises(DataError, match=r"not finite.*was its training cut off by an overflow"):
        score_embedder(Huge(), query, gallery, (8, 4))


def test_queries_are_everybody_s_first_picture_per_camera():
    query, gallery = split(_crops([(i, i, i) for i in range(6)], [1, 1, 1, 2, 2, 2], [1, 1, 2, 1, 1, 1]))
    assert query.people.tolist() == [1, 1, 2]
    assert query.images[np.arange(3)][:, 0, 0, 0].tolist() == [0, 2, 3]
    assert gallery.people.tolist() == [1, 2, 2]


def _scenes(visible=1.0):
    images = np.zeros((2, 40, 60, 3), np.uint8)
    images[0, 10:30, 20:28] = 255
    images[1, 5:35, 40:52] = 255
    boxes = np.array([[[20, 10, 28, 30]], [[40, 5, 52, 35]]], np.float32)
    return Scenes(images, boxes, np.full((2, 1), visible, np.float32))


def test_a_detector_that_is_right_scores_one_whatever_the_input_size():
    score = score_detector(BrightSpot(), _scenes(), (80, 120))
    assert (score.average_precision, score.recall, score.precision) == (1, 1, 1)


def test_people_hardly_visible_are_not_asked_for():
    with pytest.raises(DataError, match="none of the pictures shows a person"):
        score_detector(BrightSpot(), _scenes(visible=0.29), (40, 60))


def test_a_detector_that_is_not_sure_is_not_counted_at_the_threshold():
    score = score_detector(BrightSpot(0.3), _scenes(), (40, 60))
    assert (score.average_precision, score.recall) == (1, 0)


def test_detectors_are_compared_on_footage():
    frames = list(_scenes().images)
    agreement = box_agreement(BrightSpot(), (40, 60), BrightSpot(0.8), (80, 120), frames)
    assert (agreement.average_precision, agreement.people) == (1, 2)


def test_an_embedder_agrees_with_itself_and_not_with_noise():
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(4), 10)
    frames = np.tile(np.arange(10) * 20, 4)
    vectors = (np.eye(4)[people] + 0.1 * rng.normal(size=(40, 4))).astype(np.float32)
    noise = rng.normal(size=(40, 4)).astype(np.float32)
    with_itself = crop_agreement(vectors, vectors, people, frames)
    assert (with_itself.rank1, with_itself.crops, with_itself.people) == (1, 40, 4)
    assert with_itself.separation > 0.99
    assert with_itself.correlation == pytest.approx(1)
    with_noise = crop_agreement(noise, vectors, people, frames)
    assert abs(with_noise.correlation) < 0.3
    assert abs(with_noise.separation - 0.5) < 0.1


def test_crops_of_the_same_moment_are_not_asked_for():
    vectors = np.array([[1, 0], [1, 0], [0.9, 0.1], [0, 1], [0, 1]], np.float32)
    people, frames = np.array([1, 1, 2, 1, 2]), np.array([0, 1, 0, 99, 99])
    agreement = crop_agreement(vectors, vectors, people, frames)
    assert agreement.rank1 == 0  # the twin of crop 0 is one frame away, so crop 2 of another person is nearest
