import torch

from trainer.augment import SceneAugment
from trainer.methods.detector import PersonDetector, assign, centres, clip, detection_loss, to_xyxy

SIZE_HW = (128, 192)
NAN = float("nan")


def test_it_has_at_most_a_million_and_a_half_parameters():
    assert sum(p.numel() for p in PersonDetector().parameters()) <= 1_500_000


def test_it_answers_for_every_cell_of_three_maps():
    logits, distances = PersonDetector().eval()(torch.zeros(2, 3, *SIZE_HW))
    cells = centres(SIZE_HW)
    assert logits.shape == (2, len(cells)) == (2, 24 * 16 + 12 * 8 + 6 * 4)
    assert distances.shape == (2, len(cells), 4)
    assert (distances > 0).all()


def test_an_untrained_one_is_sure_of_nobody():
    logits, _ = PersonDetector().eval()(torch.zeros(1, 3, *SIZE_HW))
    assert (torch.sigmoid(logits) < 0.05).all()


def test_cells_and_distances_make_boxes():
    cells = centres((32, 32))
    assert cells[0].tolist() == [4, 4, 8]
    assert cells[-1].tolist() == [16, 16, 32]
    assert to_xyxy(cells[-1:], torch.tensor([[1.0, 2, 3, 4]])).tolist() == [[15, 14, 19, 20]]


def test_a_person_belongs_to_the_cells_around_its_centre_on_the_stride_of_its_height():
    cells = centres(SIZE_HW)
    box = torch.tensor([[[80.0, 40, 100, 80], [NAN] * 4]])  # 40 pixels tall: stride 8 alone
    owner = assign(cells, box, torch.tensor([[True, False]]))[0]
    mine = cells[owner == 0]
    assert len(mine) >= 4
    assert (mine[:, 2] == 8).all()
    assert ((mine[:, :2] - torch.tensor([90.0, 60.0])).abs() < 12).all()
    assert (owner[owner != 0] == -1).all()


def test_of_two_people_the_smaller_one_owns_a_cell():
    cells = centres(SIZE_HW)
    boxes = torch.tensor([[[60.0, 20, 120, 90], [80, 40, 100, 80]]])
    owner = assign(cells, boxes, torch.tensor([[True, True]]))[0]
    at_centre = owner[(cells[:, 0] == 92) & (cells[:, 1] == 60)]
    assert at_centre.tolist() == [1]


def test_people_hardly_visible_are_not_judged():
    cells = centres(SIZE_HW)
    owner = assign(cells, torch.tensor([[[80.0, 40, 100, 80]]]), torch.tensor([[False]]))[0]
    inside = (cells[:, 0] > 80) & (cells[:, 0] < 100) & (cells[:, 1] > 40) & (cells[:, 1] < 80)
    assert (owner[inside] == -2).all()
    assert (owner[~inside] == -1).all()


def test_what_the_picture_cuts_off_counts_as_invisible():
    boxes = torch.tensor([[[-90.0, 0, 10, 50], [0, 0, 50, 50], [300, 0, 340, 50]]])
    cut, usable = clip(boxes, torch.ones(1, 3), SIZE_HW)
    assert usable.tolist() == [[False, True, False]]
    assert cut[0, 0].tolist() == [0, 0, 10, 50]
    assert cut[0, 2].isnan().all()


def test_a_perfect_answer_costs_next_to_nothing():
    cells = centres(SIZE_HW)
    boxes = torch.tensor([[[80.0, 40, 100, 80]]])
    usable = torch.tensor([[True]])
    owner = assign(cells, boxes, usable)
    x, y = cells[:, 0], cells[:, 1]
    distances = torch.stack([x - 80, y - 40, 100 - x, 80 - y], 1)[None].clamp_min(0.1)
    logits = torch.where(owner >= 0, 12.0, -12.0)
    assert float(sum(detection_loss(logits, distances, cells, boxes, usable))) < 0.01
    assert float(sum(detection_loss(-logits, distances, cells, boxes, usable))) > 1


def test_a_picture_without_people_has_a_finite_loss():
    cells = centres(SIZE_HW)
    boxes = torch.full((1, 2, 4), NAN)
    logits = torch.zeros(1, len(cells), requires_grad=True)
    distances = torch.ones(1, len(cells), 4, requires_grad=True)
    loss = sum(detection_loss(logits, distances, cells, boxes, torch.zeros(1, 2, dtype=torch.bool)))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_augmented_boxes_stay_on_what_they_framed():
    pictures = torch.zeros(32, 64, 96, 3, dtype=torch.uint8)
    pictures[:, 20:40, 50:60] = 255
    boxes = torch.tensor([[[50.0, 20, 60, 40]]]).repeat(32, 1, 1)
    augment = SceneAugment((128, 192), brightness=0, contrast=0, colour=0, grey_p=0)
    out, moved = augment(pictures, boxes, torch.Generator().manual_seed(0))
    checked = 0
    for picture, (box,) in zip(out, moved, strict=True):
        x1, y1, x2, y2 = box.tolist()
        if min(x1, y1) < 2 or x2 > 190 or y2 > 126:
            continue
        rows, columns = (picture[0] > 0.5).nonzero().T
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert torch.allclose(torch.tensor(found, dtype=torch.float32), box, atol=1.5)
        checked += 1
    assert checked > 10
