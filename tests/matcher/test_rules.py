import pytest

from matcher.entities import Tracklet
from matcher.evidence import judge
from matcher.rules import SECOND, Calibration, Rows, Rules
from matcher.settings import MatcherSettings
from matcher.state import State
from stream.model import LinkRow

from .sites import FAR, A, Track, e, like, links, play, records


def row(a):
    return LinkRow(a=a, b=10.0, same_pairs=200)


SITE = Rows(row(-1.0), row(-2.0))


@pytest.mark.parametrize(
    ("calibration", "same", "other"),
    [
        pytest.param(Calibration(links()), (-6.28, "same/bundle"), (-4.57, "other/bundle"), id="bundle"),
        pytest.param(Calibration(links(), SITE), (-1.0, "same/site"), (-2.0, "other/site"), id="site"),
        pytest.param(
            Calibration(links(), SITE, {("A", "B"): row(-3.0)}), (-1.0, "same/site"), (-3.0, "other/pair"), id="pair"
        ),
        pytest.param(
            Calibration(links(), None, {("A", "A"): row(-3.0)}),
            (-3.0, "same/pair"),
            (-4.57, "other/bundle"),
            id="same pair",
        ),
    ],
)
def test_the_most_special_fit_wins(calibration, same, other):
    for camera, expected in (("A", same), ("B", other)):
        fit, name = calibration.row("A", camera)
        assert (fit.a, name) == expected
        assert calibration.row(camera, "A")[0] == fit


@pytest.mark.parametrize(
    ("vector", "a"), [pytest.param(e(1), -1.0, id="nearer to A"), pytest.param(like(0.9, 2), -2.0, id="nearer to B")]
)
def test_a_similarity_is_judged_by_the_camera_of_the_nearest_exemplar(vector, a):
    calibration = Calibration(links(), None, {("A", "C"): row(-1.0), ("B", "C"): row(-2.0)})
    state = State(Rules(calibration, 3, mean_prior=FAR))
    play(state, records(A, Track("b", "B", like(0.9, 2), 10, 14)))
    assert set(state.exemplars[0]) == {"A/0/a", "B/0/b"}
    tracklet = Tracklet("C/0/c", "C", 20 * SECOND, 20 * SECOND, (0.5, 0.5), (0.5, 0.5))
    [[judged]] = judge(state, [tracklet], vector[None].astype(float), [0], 0.1)
    assert judged.row == "other/pair"
    assert judged.appearance == pytest.approx(a + 10 * judged.similarity)


@pytest.mark.parametrize("value", [0.0, 0.009, 0.21, 1.0])
def test_the_asked_rate_of_false_links_lies_between_1_and_20_percent(value):
    with pytest.raises(ValueError, match="false_links"):
        MatcherSettings(false_links=value)
