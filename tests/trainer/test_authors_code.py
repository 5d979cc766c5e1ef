"""For the same weights and pictures ours gives what the authors' own programs gave.

Those are not ours to ship: their numbers were recorded, in float64, and stand here as `traces`. OSNet and re-ranking are torchreid's
0.2.5 (PyPI), MagnifierNet's modules those of NIRVANALAN/magnifiernet_reid (63650e6), OIM and the scores of person search are
serend1p1ty/SeqNet's (1406f7d, 82252c6), the attention is junfu1115/DANet's. The mask head gave the same in huanghoujing/EANet (28b02d2).
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.trainer.recorded import drawn, fill, traces
from trainer.data import Scenes
from trainer.datasets.sets import Gallery
from trainer.methods import magnifiernet, osnet
from trainer.methods.eprinet import PositionAttention
from trainer.methods.magnifiernet import MagnifierNetRecipe
from trainer.methods.osnet import OSNetRecipe
from trainer.oim import BACKGROUND, OIM
from trainer.rerank import rerank_rows
from trainer.search_metrics import Found, score_found, score_search

pytestmark = pytest.mark.usefixtures("one_thread")


def _same(values, expected, rel=1e-8):
    size = max(abs(number) for number in expected)
    assert traces(values) == pytest.approx(expected, abs=rel * size)


@pytest.mark.parametrize(
    ("keys", "maps", "vectors", "logits"),
    [
        pytest.param(
            {},
            [7285.3425714382, -721.9714157776, 2605.8798112968],
            [2922.1899197011, -433.2994552046, -4458.1493116247],
            [-0.3411926189, 0.4572420277, -0.2239901081],
            id="x1.0",
        ),
        pytest.param(
            {"width": 0.75},
            [3469.6357071632, 3486.3678303803, -4592.6521566319],
            [1984.5880030513, 1750.1813689265, -1502.7255822524],
            [-0.5394553724, 0.9318416086, -0.3630468205],
            id="x0.75",
        ),
        pytest.param(
            {"width": 0.5},
            [7069.8463440734, 810.9546977848, -3064.4958577998],
            [2671.2242854375, 821.7117698857, -694.7919631793],
            [-1.6699287822, -0.2418573553, -1.2362219722],
            id="x0.5",
        ),
        pytest.param(
            {"width": 0.25},
            [306.181697746, 448.5704630623, -127.5486872418],
            [-228.432991089, 559.3662746743, -324.4469633946],
            [-0.0578671945, 0.2044661196, 1.2414318628],
            id="x0.25",
        ),
        pytest.param(
            {"ibn": True},
            [154.0172236781, -12.1918004508, 72.4840777781],
            [71.5893144274, -15.6972943262, -84.7298831831],
            [-0.2722467687, 0.3281824903, 0.116734883],
            id="ibn",
        ),
    ],
)
@torch.no_grad()
def test_osnet_gives_torchreids_maps_vectors_and_logits(keys, maps, vectors, logits):
    network, head = (fill(module.double()) for module in osnet.build(OSNetRecipe(**keys), 7))
    pictures = drawn("pictures", 4, 3, 64, 32)
    network.eval()
    _same(network.featuremaps(pictures), maps)
    _same(network(pictures), vectors)
    network.train()  # now with the statistics of the batch
    _same(head.classifier(network(pictures)), logits)


@pytest.mark.parametrize(
    ("k1", "k2", "weight", "expected"),
    [
        pytest.param(20, 6, 0.3, [2.16588325, 0.8095066, -0.98501469], id="as published"),
        pytest.param(5, 3, 0.3, [2.40666865, 0.87597588, -1.31689291], id="odd k1, whose half is rounded to even"),
        pytest.param(7, 1, 0.0, [2.54050199, 0.94541005, -1.62607427], id="no averaging, new distances alone"),
    ],
)
def test_re_ranking_gives_torchreids_distances_when_that_is_fed_plain_ones(k1, k2, weight, expected):
    people = F.normalize(drawn("people", 12, 1, 16) + 0.5 * drawn("poses", 12, 9, 16), dim=2).flatten(0, 1)
    vectors = people.numpy()[np.random.default_rng(0).permutation(108)].astype(np.float32)
    rows = np.concatenate(list(rerank_rows(vectors[:20], vectors[20:], k1=k1, k2=k2, weight=weight)))
    _same(rows, expected, rel=1e-5)


@torch.no_grad()
def test_magnifiernet_gives_its_authors_vectors_and_losses():
    """Their modules with an LSTM and nearest labels; regions 2, 4 and 6 wiped, nobody shows region 3."""
    recipe = MagnifierNetRecipe(sfb="lstm", classifier_bias=True, mask_resize="nearest", sb_stem=True)
    network, head = (fill(module.double()).eval() for module in magnifiernet.build(recipe, 7))
    pictures = drawn("pictures", 4, 3, 64, 32)
    maps = network.maps(pictures)
    _same(maps[0], [65.39474266, 94.39611033, -160.17638393], rel=1e-7)
    _same(maps[1], [264.6378177, -72.24186839, -1459.62841699], rel=1e-7)

    shallow, deep = drawn("shallow", 4, 1024, 4, 2).relu(), drawn("deep", 4, 2048, 4, 2).relu()
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 8, (4, 8, 4)))
    ids[ids == 3] = 2
    masks = magnifiernet.region_masks(ids, recipe.mask_resize)
    logits = network.mask(deep)
    _same(logits, [-3.34764181, 1.67594923, 3.89788996], rel=1e-7)  # EANet's PartSegHead too
    assert float(magnifiernet.mask_loss(logits, ids)) == pytest.approx(3.232650213706913, rel=1e-5)

    _same(network.sab.neck(network.sab(shallow)), [2.52143688, 3.44251737, -4.31347794], rel=1e-7)
    keep = magnifiernet.kept_share(masks, [2, 4, 6])
    assert float(keep.mean().sigmoid()) == pytest.approx(0.6076631698328917, rel=1e-6)
    _same(network.sab(shallow, keep), [1.66756708, 3.52675164, -2.62977449], rel=1e-7)

    regions = network.sfb.pool(shallow, masks)  # in single precision from here on
    _same(regions, [1.12859754, -0.35556598, 0.60666612], rel=1e-6)
    assert float(magnifiernet.semantic_diversity(regions)) == pytest.approx(0.20960815414292575, rel=1e-6)
    network, head = network.float(), head.float()
    vectors = network(pictures.float())  # regions are found, not given
    assert vectors.shape == (4, 4096)
    _same(vectors, [291.09390407, 460.38835058, -555.00475871], rel=1e-5)
    ours = zip((head.whole, head.sab, head.sfb), vectors.split((2048, 1024, 1024), 1), strict=True)
    found = magnifiernet.region_masks(network.mask(maps[1].float()).argmax(1), recipe.mask_resize)
    people = [classify(each) for classify, each in ours] + head.region_logits(network.sfb.pool(maps[0].float(), found))
    _same(torch.cat(people, 1), [288.7685558, 980.71710286, -72.08855737], rel=1e-5)
    fused, own = network.sfb.fuse(regions)
    _same(fused, [0.26100255, 0.17981663, -0.04604016], rel=1e-5)
    _same(network.sfb.neck(fused), [0.17942535, -0.05495216, 0.0692514], rel=1e-5)
    necked = torch.stack([neck(own[:, k]) for k, neck in enumerate(head.region_necks)], 1)
    _same(necked, [1.1411999, -0.34006993, 0.80894292], rel=1e-5)
    betas = [0.53898322, 0.50781186, 0.5621765, 0.5, 0.53898322, 0.53120937, 0.53898322, 0.53120937]
    assert masks.mean((0, 2, 3)).sigmoid().tolist() == pytest.approx(betas, abs=1e-6)


def test_oim_gives_seqnets_losses_gradients_table_and_queue():
    oim, losses, gradients = OIM(20, 16, 30), [], []
    for batch in range(3):
        vectors = F.normalize(drawn(f"regions {batch}", 200, 16)).float().requires_grad_()
        labels = torch.from_numpy(np.random.default_rng(batch).integers(BACKGROUND, 20, 200))
        loss = oim(vectors, labels)
        loss.backward()
        losses.append(float(loss.detach()))
        gradients += traces(vectors.grad)
    assert losses == pytest.approx([3.91202301, 5.72888317, 6.08311922], abs=2e-6)
    expected = [0, 0, 0, 0.00358588, 0.00491695, -0.00658184, -0.00554339, -0.02140518, 3.287e-05]
    assert gradients == pytest.approx(expected, abs=1e-6)
    assert traces(oim.table) == pytest.approx([0.01187909, -0.76387931, 0.16071224], abs=1e-6)
    assert traces(oim.queue) == pytest.approx([-0.49951481, 0.23181801, -0.64798176], abs=1e-6)
    assert oim.place.item() == 29


@torch.no_grad()
def test_the_attention_gives_danets_maps():
    attention = fill(PositionAttention(112, "danet").double())
    attention.gamma.fill_(0.7)
    _same(attention(drawn("a map", 2, 112, 6, 3)), [-0.77783096, -1.38254406, 0.71103944], rel=1e-5)


CAMERAS = np.arange(14) % 3


def crowd():
    """14 frames with four of seven people each, one of them without a name, and two boxes on each person."""
    rng, apart = np.random.default_rng(0), np.array([0, 90, 180, 270])
    people = np.array([rng.permutation(7)[:4] for _ in CAMERAS])
    corners = np.stack([apart + rng.uniform(0, 20, (14, 4)), rng.uniform(0, 60, (14, 4))], 2)
    truth = np.concatenate([corners, corners + rng.uniform(8, 60, (14, 4, 2))], 2).astype(np.float32)
    centres = drawn("centres", 7, 8).numpy()
    found = []
    for frame in range(14):
        boxes = np.concatenate([truth[frame] + rng.normal(0, spread, (4, 4)) for spread in (2, 6)])
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 2)
        vectors = centres[np.tile(people[frame], 2)] + rng.normal(0, 0.8, (8, 8))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        found.append(
            Found(boxes.astype(np.float32), rng.random(8).astype(np.float32) ** 0.5, vectors.astype(np.float32))
        )
    asked = (centres[:6] / np.linalg.norm(centres[:6], axis=1, keepdims=True)).astype(np.float32)
    frames = [int(np.flatnonzero((people == person).any(1))[0]) for person in range(6)]
    return people, truth, found, asked, frames


@pytest.mark.parametrize(
    ("cross_camera", "mean_ap", "top"),
    [
        pytest.param(False, 0.66351014, [5 / 6, 1, 1], id="every frame but the query's"),
        pytest.param(True, 0.70161165, [5 / 6, 1, 1], id="other cameras alone"),
    ],
)
def test_person_search_is_scored_as_seqnet_scores_it(cross_camera, mean_ap, top):
    people, truth, found, asked, frames = crowd()
    galleries = []
    for person, frame in enumerate(frames):
        kept = np.flatnonzero((np.arange(14) != frame) & ((not cross_camera) | (CAMERAS[frame] != CAMERAS)))
        there = [truth[f][people[f] == person] for f in kept]
        boxes = [box[0] if len(box) else np.full(4, np.nan, np.float32) for box in there]
        galleries.append(Gallery(kept, np.array(boxes, np.float32)))
    score = score_search(asked, found, galleries)
    assert score.mean_ap == pytest.approx(mean_ap, abs=1e-6)
    assert list(score.top.values()) == pytest.approx(top, abs=1e-6)


def test_finding_everybody_is_scored_as_seqnet_scores_it():
    people, truth, found, _, _ = crowd()
    scenes = Scenes(np.zeros((14, 1, 1, 3), np.uint8), truth, np.ones((14, 4), np.float32), people, CAMERAS)
    score = score_found(found, scenes)
    assert (score.recall, score.average_precision) == pytest.approx((0.89285714, 0.56773700), abs=1e-6)
