import numpy as np
import pytest
import torch

from stream.model import IMAGENET_MEAN, IMAGENET_STD
from trainer.scene_batch import SceneAugmentation, clip, collate, fitted, flip, read, scale_boxes, warp

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("size", "expected", "padded"),
    [
        pytest.param((900, 1500), (900, 1500), (928, 1504), id="as it is"),
        pytest.param((1080, 1920), (843, 1500), (864, 1504), id="full HD: the long side decides"),
        pytest.param((600, 800), (900, 1200), (928, 1216), id="the short side decides"),
        pytest.param((1200, 600), (1500, 750), (1504, 768), id="upright"),
    ],
)
def test_a_scene_fits_900_by_1500_and_is_padded_to_multiples_of_32(size, expected, padded):
    assert fitted(*size, (900, 1500)) == expected
    batch = collate([torch.zeros(3, *expected)], [(1.0, 1.0)])
    assert tuple(batch.tensors.shape) == (1, 3, *padded)
    assert batch.image_sizes == [expected]


def test_scenes_of_differing_sizes_share_a_batch_and_the_padding_is_zero():
    images = [np.full((40, 60, 3), 255, np.uint8), np.full((90, 50, 3), 255, np.uint8)]
    batch = read(images, (64, 96), CPU)
    assert batch.image_sizes == [(64, 96), (96, 53)]
    assert batch.tensors.shape == (2, 3, 96, 96)
    white = (1 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    assert torch.allclose(batch.tensors[0, :, :64], white[:, None, None].expand(3, 64, 96), atol=1e-5)
    assert batch.tensors[0, :, 64:].eq(0).all()
    assert batch.tensors[1, :, :, 53:].eq(0).all()
    assert batch.scales[1] == (96 / 90, 53 / 50)


def test_boxes_follow_a_scale_along_each_axis():
    boxes = torch.tensor([[1.0, 2, 3, 4]])
    assert scale_boxes(boxes, (10.0, 100.0)).tolist() == [[100, 20, 300, 40]]


def _scene():
    picture = torch.zeros(3, 64, 96)
    picture[:, 20:40, 30:50] = 1
    return picture, torch.tensor([[30.0, 20, 50, 40]])


def _found(picture):
    rows, columns = (picture[0] > 0.5).nonzero().T
    return torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()


def test_a_flip_takes_boxes_along():
    picture, boxes = flip(*_scene())
    assert torch.equal(_found(picture), boxes[0])
    assert boxes.tolist() == [[46, 20, 66, 40]]


@pytest.mark.parametrize("seed", range(12))
def test_geometry_takes_boxes_along(seed):
    augmentation = SceneAugmentation(torch.Generator().manual_seed(seed))
    picture, boxes = warp(*_scene(), augmentation._matrix(64, 96))
    found = _found(picture)
    assert (boxes[0, :2] <= found[:2] + 1).all()
    assert (boxes[0, 2:] >= found[2:] - 1).all()
    assert (boxes[0] - found).abs().max() < 3  # the box around a turned square's corners is hardly larger


@pytest.mark.parametrize("seed", range(4))
def test_a_training_in_16_bits_sees_pictures_and_boxes_of_one_in_32(seed):
    picture = torch.rand(3, 225, 375, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[175.0, 75, 190, 120], [325, 25, 350, 100]])
    expected = SceneAugmentation(torch.Generator().manual_seed(seed))(picture, boxes)
    with torch.autocast("cpu", torch.bfloat16):
        found = SceneAugmentation(torch.Generator().manual_seed(seed))(picture, boxes)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


def test_identity_changes_nothing():
    picture, boxes = warp(*_scene(), torch.eye(3))
    assert torch.allclose(picture, _scene()[0], atol=1e-4)
    assert torch.allclose(boxes, _scene()[1], atol=1e-4)


def test_what_is_cut_off_goes_where_less_than_a_third_remains():
    boxes = torch.tensor([[-10.0, 0, 90, 50], [-90, 0, 10, 50], [0, 0, 50, 50], [200, 0, 240, 50]])
    cut, kept = clip(boxes, torch.tensor([1, 1, 0.2, 1]), (60, 80))
    assert kept.tolist() == [True, False, False, False]
    assert cut[0].tolist() == [0, 0, 80, 50]


def test_one_generator_decides_everything_and_pictures_stay_in_range():
    picture = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[30.0, 20, 50, 40]])
    seen = set()
    for seed in range(8):
        runs = [SceneAugmentation(torch.Generator().manual_seed(seed))(picture, boxes) for _ in range(2)]
        assert torch.equal(runs[0][0], runs[1][0])
        assert torch.equal(runs[0][1], runs[1][1])
        assert 0 <= runs[0][0].min() <= runs[0][0].max() <= 1
        seen.add(float(runs[0][0].mean()))
    assert len(seen) == 8
