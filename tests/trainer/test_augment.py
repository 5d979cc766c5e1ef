import pytest
import torch

from trainer.augment import Augment, CropAugment, SceneAugment, erasing, normalise, resample

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


@pytest.mark.parametrize("sixteen_bits", [False, True])
def test_the_whole_picture_at_its_own_size_is_itself(sixteen_bits):
    pictures = torch.randint(0, 256, (2, 384, 192, 3), dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16, enabled=sixteen_bits):
        out = resample(pictures, (384, 192), torch.ones(2, 2), torch.zeros(2, 2))
    assert torch.allclose(out, pictures.permute(0, 3, 1, 2) / 255, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "augment",
    [
        pytest.param(lambda pictures: CropAugment(SIZE_HW, blur_p=0.5)(pictures, _generator()), id="crops of people"),
        pytest.param(
            lambda pictures: SceneAugment(SIZE_HW)(pictures, torch.rand(8, 2, 4), _generator())[0], id="whole pictures"
        ),
        pytest.param(
            lambda pictures: Augment(SIZE_HW, crop="pad", patch_p=0.5, contrast=0.1)(pictures, _generator()).pictures,
            id="padded",
        ),
        pytest.param(
            lambda pictures: Augment(SIZE_HW, crop="enlarge")(pictures, _generator(), parts=pictures[..., 0]).parts,
            id="labels",
        ),
    ],
)
def test_a_training_in_16_bits_sees_the_pictures_of_one_in_32(augment, dtype):
    with torch.autocast("cpu", dtype):
        out = augment(_noise())
    assert torch.equal(out, augment(_noise()))


def test_the_mean_colour_of_photographs_becomes_zero():
    mean = torch.tensor([0.485, 0.456, 0.406])[None, :, None, None].expand(1, 3, 2, 2)
    assert torch.allclose(normalise(mean), torch.zeros(1, 3, 2, 2), atol=1e-6)


STILL = {"flip_p": 0.0}


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _noise(count=8, size_hw=SIZE_HW):
    return torch.randint(0, 256, (count, *size_hw, 3), dtype=torch.uint8, generator=_generator(9))


def _planes(pictures):
    return pictures.permute(0, 3, 1, 2) / 255


def test_without_any_step_the_picture_is_only_resized():
    pictures = _noise()
    assert torch.allclose(Augment(SIZE_HW, **STILL)(pictures, _generator()).pictures, _planes(pictures), atol=1e-5)
    assert Augment((32, 16))(pictures, _generator()).pictures.shape == (8, 3, 32, 16)


def test_equal_generators_give_equal_batches_whatever_steps_are_on():
    make = Augment(SIZE_HW, crop="enlarge", patch_p=0.5, brightness=0.2, contrast=0.15, erase_p=0.5)
    first, again, other = (make(_noise(), _generator(seed)).pictures for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.min() >= 0
    assert first.max() <= 1


def test_a_mirror_moves_pictures_parts_and_joints_and_swaps_left_and_right():
    pictures = _noise()
    parts = torch.randint(0, 8, (8, *SIZE_HW), dtype=torch.uint8)
    joints = torch.rand(8, 17, 3)
    out = Augment(SIZE_HW, flip_p=1.0)(pictures, _generator(), joints=joints, parts=parts)
    assert torch.allclose(out.pictures, _planes(pictures).flip(3), atol=1e-5)
    assert torch.equal(out.parts, parts.flip(2))
    for left, right in [(0, 0), (1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)]:
        for one, other in ((left, right), (right, left)):
            x, y, score = joints[:, other].unbind(1)
            assert torch.allclose(out.joints[:, one], torch.stack([1 - x, y, score], 1), atol=1e-6)


def test_two_mirrors_are_none():
    mirror = Augment(SIZE_HW, flip_p=1.0)
    joints = torch.rand(8, 17, 3)
    once = mirror(_noise(), _generator(), joints=joints).joints
    assert torch.allclose(mirror(_noise(), _generator(), joints=once).joints, joints, atol=1e-6)


@pytest.mark.parametrize("crop", ["none", "pad", "enlarge"])
def test_joints_and_parts_stay_on_the_spot_that_they_mark(crop):
    pictures = torch.zeros(64, 80, 40, 3, dtype=torch.uint8)
    pictures[:, 40:48, 16:20] = 255
    parts = (pictures[..., 0] > 0).to(torch.uint8) * 3
    joints = torch.zeros(64, 17, 3)
    joints[..., 0], joints[..., 1] = 18 / 40, 44 / 80
    out = Augment(SIZE_HW, crop=crop)(pictures, _generator(), joints=joints, parts=parts)
    for picture, labels, (x, y, _) in zip(out.pictures, out.parts, out.joints[:, 0], strict=True):
        for mark in (picture[0], labels / 3):
            rows, columns = torch.nonzero(mark > 0.5, as_tuple=True)
            assert float(rows.float().mean() + 0.5) == pytest.approx(float(y) * 64, abs=0.8)
            assert float(columns.float().mean() + 0.5) == pytest.approx(float(x) * 32, abs=0.8)


def test_pictures_without_part_labels_stay_without_when_padded():
    parts = torch.full((8, *SIZE_HW), 255, dtype=torch.uint8)
    parts[4:] = 2
    out = Augment(SIZE_HW, crop="pad")(_noise(), _generator(), parts=parts).parts
    assert (out[:4] == 255).all()
    assert set(out[4:].unique().tolist()) == {0, 2}


def test_padding_shows_black_and_the_rest_is_cut_out_pixel_by_pixel():
    pictures = _noise(200).clamp(min=1)
    out = Augment(SIZE_HW, crop="pad", **STILL)(pictures, _generator()).pictures
    padded = torch.nn.functional.pad(_planes(pictures), (10, 10, 10, 10))
    places = set()
    for picture, large in zip(out, padded, strict=True):
        dark = picture.sum(0) == 0
        rows, columns = int(dark.all(1).sum()), int(dark.all(0).sum())
        options = [(y, x) for y in (10 - rows, 10 + rows) for x in (10 - columns, 10 + columns)]
        found = [(y, x) for y, x in options if torch.allclose(picture, large[:, y : y + 64, x : x + 32], atol=1e-5)]
        assert found
        places.add(found[0])
    assert {y for y, _ in places} == {x for _, x in places} == set(range(21))


def test_half_of_the_pictures_are_enlarged_by_an_eighth_and_cut_back():
    x = torch.linspace(0, 1, 32)[None, None, :, None].expand(200, 64, 32, 3)
    out = Augment(SIZE_HW, crop="enlarge", **STILL)((255 * x).to(torch.uint8), _generator()).pictures
    slope = (out[:, 0, 32, 24] - out[:, 0, 32, 8]) / (16 / 31)
    large = slope < 0.95
    assert 80 < int(large.sum()) < 120
    assert torch.allclose(slope[large], torch.tensor(1 / 1.125), atol=0.02)
    assert torch.allclose(slope[~large], torch.tensor(1.0), atol=0.02)
    assert float(out[large][:, 0, 32, 0].max()) > 0.08  # cut at the right end: 4 of 36 columns are gone


def test_an_erased_rectangle_holds_the_mean_after_normalisation():
    pictures = _noise(100)
    out = Augment(SIZE_HW, erase_p=1.0, **STILL)(pictures, _generator()).pictures
    changed = ((out - _planes(pictures)).abs() > 1e-4).any(1)
    assert changed.flatten(1).any(1).all()
    erased = normalise(out).movedim(1, -1)[changed]
    assert torch.allclose(erased, torch.tensor([0.485, 0.456, 0.406]).expand_as(erased), atol=1e-5)


def test_erased_rectangles_have_the_sizes_and_shapes_asked_for():
    hit = erasing(2000, (64, 32), 0.5, _generator())
    some = hit.flatten(1).any(1)
    assert float(some.float().mean()) == pytest.approx(0.5, abs=0.05)
    height, width = hit[some].any(2).sum(1), hit[some].any(1).sum(1)
    area = hit[some].sum((1, 2))
    assert torch.equal(area, height * width)  # each is one rectangle
    share, aspect = area / (64 * 32), height / width
    assert 0.015 < share.min() < 0.03
    assert 0.3 < share.max() < 0.42
    assert aspect.min() > 0.25
    assert aspect.max() < 4.5
    assert (height < 64).all()
    assert (width < 32).all()


def test_a_patch_comes_from_another_picture_of_the_batch():
    levels = torch.arange(1, 41, dtype=torch.uint8) * 6
    pictures = levels[:, None, None, None].expand(40, *SIZE_HW, 3)
    out = (Augment(SIZE_HW, patch_p=1.0, **STILL)(pictures, _generator()).pictures * 255).round().to(torch.uint8)
    for own, picture in zip(levels, out, strict=True):
        values = set(picture.unique().tolist()) - {int(own)}
        assert len(values - {0}) == 1  # one donor, and black where it was turned
        assert values - {0} <= set(levels.tolist())
    share = (out != pictures.permute(0, 3, 1, 2)).float().mean((1, 2, 3))
    assert share.min() > 0.005
    assert share.max() < 0.55


def test_an_upright_patch_is_a_cut_out_of_its_donor():
    y, x = torch.meshgrid(torch.arange(64), torch.arange(32), indexing="ij")
    donor = torch.stack([4 * y, 8 * x, torch.zeros_like(x)], -1)
    pictures = torch.stack([donor, torch.full_like(donor, 255)] * 30).to(torch.uint8)
    out = Augment(SIZE_HW, patch_p=1.0, **STILL)(pictures, _generator()).pictures[1::2]
    seen = set()
    for picture in (out * 255).round().long():
        hit = picture[2] == 0
        rows, columns = hit.any(1), hit.any(0)
        if picture[2].min() == 255 or rows.sum() < 3 or columns.sum() < 3:
            continue  # the donor was white too, or the piece is too thin to tell
        piece = picture[:, rows][:, :, columns]
        down, along = piece[0].diff(dim=0).unique().tolist(), piece[1].diff(dim=1).unique().tolist()
        seen.add((tuple(down), tuple(along)) if len(down) == len(along) == 1 else "turned")
    assert seen == {((4,), (8,)), ((4,), (-8,)), "turned"}


def test_jitter_changes_brightness_and_contrast_within_its_range():
    dark = 60 + _noise(200) // 4  # nothing is cut off at black or white
    before = _planes(dark).flatten(1)
    brighter = Augment(SIZE_HW, brightness=0.2, **STILL)(dark, _generator()).pictures.flatten(1)
    gain = (brighter / before).median(1).values
    assert torch.allclose(brighter, gain[:, None] * before, atol=1e-5)
    assert 0.8 <= gain.min() < 0.85
    assert 1.15 < gain.max() <= 1.2
    harder = Augment(SIZE_HW, contrast=0.15, **STILL)(dark, _generator()).pictures.flatten(1)
    assert torch.allclose(harder.mean(1), before.mean(1), atol=1e-5)
    spread = harder.std(1) / before.std(1)
    assert 0.85 <= spread.min() < 0.87
    assert 1.13 < spread.max() <= 1.1501


def test_random_numbers_do_not_depend_on_what_the_pictures_show():
    make, first, second = Augment(SIZE_HW, crop="pad", patch_p=0.5, erase_p=0.5), _generator(3), _generator(3)
    make(_noise(), first)
    make(torch.zeros(8, *SIZE_HW, 3, dtype=torch.uint8), second)
    assert torch.equal(first.get_state(), second.get_state())
