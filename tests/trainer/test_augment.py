import pytest
import torch

from trainer.augment import CropAugment, normalise, resample

SIZE_HW = (64, 32)


def _people(count=64):
    """Pictures with a red head, left half of the body green, right half blue."""
    pictures = torch.zeros(count, 80, 40, 3, dtype=torch.uint8)
    pictures[:, :30, :, 0] = 200
    pictures[:, 50:, :20, 1] = 200
    pictures[:, 50:, 20:, 2] = 200
    return pictures


def _augmented(**off):
    plain = {"brightness": 0.0, "contrast": 0.0, "colour": 0.0, "grey_p": 0.0, "erase_p": 0.0, "blur_p": 0.0}
    return CropAugment(SIZE_HW, **(plain | off))(_people(), torch.Generator().manual_seed(0))


def test_half_of_the_people_are_mirrored_and_nobody_is_upside_down():
    out = _augmented()
    assert out.shape == (64, 3, *SIZE_HW)
    assert (out[:, 0, :12].mean((1, 2)) > 0.7).all()
    assert (out[:, 0, 44:].mean((1, 2)) < 0.05).all()
    mirrored = out[:, 2, 44:, :12].mean((1, 2)) > 0.5
    assert 20 < mirrored.sum() < 44


def test_equal_generators_give_equal_pictures():
    assert torch.equal(_augmented(erase_p=0.5), _augmented(erase_p=0.5))


@pytest.mark.parametrize(
    ("off", "share"),
    [pytest.param({"grey_p": 0.25}, 0.25, id="grey"), pytest.param({"erase_p": 0.5}, 0.5, id="erased")],
)
def test_as_many_pictures_are_changed_as_asked(off, share):
    changed = (_augmented(**off) != _augmented(**dict.fromkeys(off, 1e-09))).flatten(1).any(1)
    assert float(changed.float().mean()) == pytest.approx(share, abs=0.15)


def test_values_stay_in_range_whatever_is_drawn():
    out = CropAugment(SIZE_HW)(_people(), torch.Generator().manual_seed(1))
    assert (out >= 0).all()
    assert (out <= 1).all()


def test_the_whole_picture_at_its_own_size_is_itself():
    pictures = torch.randint(0, 256, (2, 20, 10, 3), dtype=torch.uint8)
    out = resample(pictures, (20, 10), torch.ones(2, 2), torch.zeros(2, 2))
    assert torch.allclose(out, pictures.permute(0, 3, 1, 2) / 255, atol=1e-5)


def test_the_mean_colour_of_photographs_becomes_zero():
    mean = torch.tensor([0.485, 0.456, 0.406])[None, :, None, None].expand(1, 3, 2, 2)
    assert torch.allclose(normalise(mean), torch.zeros(1, 3, 2, 2), atol=1e-6)
