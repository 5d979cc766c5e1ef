"""The tracker on scenes small enough to follow by eye, and on a crowd whose truth is known."""

from collections import Counter

import numpy as np
import pytest

from detector.looks import SIZE
from detector.settings import DetectorSettings
from detector.tracker import Tracker
from tests.detector.crowd import SIZE_HW, walk

RED, BLUE = np.full(SIZE, 0.2), np.full(SIZE, 0.7)
Person = tuple[float, float, np.ndarray]  # centre x, top y, look


def step(tracker: Tracker, now_s: float, people: list[Person], scores: list[float] | None = None) -> list[int]:
    """Numbers of people 40 pixels wide and 120 high, 0 for one who is not tracked."""
    xyxy = np.array([[x - 20, y, x + 20, y + 120] for x, y, _ in people], np.float32).reshape(-1, 4)
    looks = np.array([look for *_, look in people], np.float32).reshape(-1, SIZE)
    marks = np.array([0.9] * len(people) if scores is None else scores, np.float32)
    tracked = tracker.step(now_s, xyxy, marks, looks, SIZE_HW)
    numbers = [0] * len(people)
    for number, box in zip(tracked.numbers.tolist(), tracked.boxes.tolist(), strict=True):
        numbers[box] = number
    return numbers


@pytest.fixture
def tracker() -> Tracker:
    return Tracker(DetectorSettings())


@pytest.mark.parametrize("fps", [2, 4, 5, 12, 25])
@pytest.mark.parametrize("heights_per_s", [0.0, 0.8, 2.0], ids=["standing", "walking", "running"])
def test_one_person_is_one_tracklet_from_the_first_frame_on(tracker: Tracker, fps: float, heights_per_s: float) -> None:
    frames = int(2 * fps)
    seen = [step(tracker, k / fps, [(50 + heights_per_s * 120 * k / fps, 100, RED)]) for k in range(frames)]
    assert seen == [[1]] * frames


@pytest.mark.parametrize(("score", "number"), [(0.59, 0), (0.61, 1)])
def test_a_box_begins_a_tracklet_from_new_score_on(tracker: Tracker, score: float, number: int) -> None:
    assert step(tracker, 0.0, [(100, 100, RED)], [score]) == [number]


@pytest.mark.parametrize(
    ("away_s", "number"),
    [pytest.param(1.2, 1, id="soon: goes on"), pytest.param(1.8, 2, id="later: a new tracklet")],
)
def test_a_name_outlasts_a_short_absence_only(tracker: Tracker, away_s: float, number: int) -> None:
    for k in range(6):
        step(tracker, 0.2 * k, [(200, 100, RED)])
    back = 1.0 + away_s
    for k in range(1, round(away_s / 0.2)):
        step(tracker, 1.0 + 0.2 * k, [])
    step(tracker, back, [(200, 100, RED)])
    assert step(tracker, back + 0.2, [(200, 100, RED)]) == [number]


def test_weak_boxes_keep_a_tracklet_alive_and_begin_none(tracker: Tracker) -> None:
    step(tracker, 0.0, [(100, 100, RED)])
    for k in range(1, 10):
        people = [(100, 100, RED), (400, 100, BLUE)]
        assert step(tracker, 0.2 * k, people, [0.9 if k < 3 else 0.2, 0.2]) == [1, 0]


def test_weak_boxes_alone_keep_nobody_for_ever(tracker: Tracker) -> None:
    """A coat on a chair where somebody stood."""
    step(tracker, 0.0, [(100, 100, RED)])
    seen = [step(tracker, 0.2 * k, [(100, 100, RED)], [0.3]) for k in range(1, 40)]
    assert seen == [[1]] * 15 + [[0]] * 24
    assert step(tracker, 8.0, [(100, 100, RED)]) == [2]


def test_whoever_walks_out_is_not_taken_for_whoever_walks_in(tracker: Tracker) -> None:
    for k in range(7):
        step(tracker, 0.2 * k, [(160 - 25 * k, 100, RED)])
    step(tracker, 1.4, [])
    assert step(tracker, 1.6, [(20, 110, BLUE)]) == [2]
    assert step(tracker, 1.8, [(45, 110, BLUE)]) == [2]


@pytest.mark.parametrize("hidden_frames", [0, 1, 2, 3])
def test_people_who_cross_keep_their_names(tracker: Tracker, hidden_frames: int) -> None:
    meeting = 10
    for k in range(20):
        near: Person = (100 + 20 * k, 110, RED)
        far: Person = (500 - 20 * k, 100, BLUE)
        both = abs(k - meeting) >= hidden_frames / 2 or hidden_frames == 0
        numbers = step(tracker, 0.2 * k, [near, far] if both else [near])
        if k in (5, 19):
            assert numbers == [1, 2]


def test_a_doubtful_meeting_of_people_who_look_alike_ends_both_tracklets(tracker: Tracker) -> None:
    """They walk up to each other, stand as one box, and leave: nobody can say who is who."""
    before = after = [0, 0]
    for k in range(30):
        apart = max(0, abs(k - 12) - 4)
        together = apart == 0
        people: list[Person] = [(300 - 22 * apart, 100, RED), (300 + 22 * apart, 100, RED)]
        numbers = step(tracker, 0.2 * k, people[:1] if together else people)
        if k == 7:
            before = numbers
        if k == 24:
            after = numbers
    assert sorted(before) == [1, 2]
    assert not set(before) & set(after)


def test_a_meeting_of_people_in_different_clothes_ends_nothing(tracker: Tracker) -> None:
    """As above, but whoever comes out can be told."""
    for k in range(30):
        apart = max(0, abs(k - 12) - 2)
        people: list[Person] = [(300 - 22 * apart, 100, RED), (300 + 22 * apart, 100, BLUE)]
        numbers = step(tracker, 0.2 * k, people if apart else people[:1])
        if k in (6, 26):
            assert numbers == [1, 2]


def test_a_close_call_is_flagged_until_it_is_settled(tracker: Tracker) -> None:
    flags = []
    for k in range(24):
        apart = max(6.0, 18.0 * abs(k - 9))
        x = np.array([320 - apart, 320 + apart])
        xyxy = np.stack([x - 20, [100, 100], x + 20, [220, 220]], 1).astype(np.float32)
        looks = np.stack([RED, RED]).astype(np.float32)
        flags.append(tracker.step(0.2 * k, xyxy, np.full(2, 0.9, np.float32), looks, SIZE_HW).ambiguous.tolist())
    assert flags[2] == [False, False]
    assert [True, True] in flags
    assert flags[23] == [False, False]


def test_hidden_legs_do_not_end_a_tracklet(tracker: Tracker) -> None:
    look = RED[None].astype(np.float32)
    for k in range(15):
        x, bottom = 100 + 15 * k, 160 if 5 <= k < 10 else 220
        box = np.array([[x - 20, 100, x + 20, bottom]], np.float32)
        tracked = tracker.step(0.2 * k, box, np.array([0.9], np.float32), look, SIZE_HW)
    assert tracked.numbers.tolist() == [1]


def test_the_same_boxes_give_the_same_names() -> None:
    runs = []
    for _ in range(2):
        tracker = Tracker(DetectorSettings())
        runs.append(
            [
                tracker.step(seen.now_s, seen.xyxy, seen.scores, seen.looks, SIZE_HW).numbers.tolist()
                for seen in walk(seed=3, people=8, seconds=12, fps=5)
            ]
        )
    assert runs[0] == runs[1]


def test_no_number_is_given_twice_in_a_frame() -> None:
    tracker = Tracker(DetectorSettings())
    for seen in walk(seed=4, people=15, seconds=12, fps=5):
        numbers = tracker.step(seen.now_s, seen.xyxy, seen.scores, seen.looks, SIZE_HW).numbers.tolist()
        assert len(numbers) == len(set(numbers))
        assert all(number > 0 for number in numbers)


def test_a_walking_crowd_is_seldom_mixed_up() -> None:
    """Six people on a hundred square metres for four minutes; benchmarks/track.py prints more."""
    who: dict[tuple[int, int], Counter[int]] = {}
    boxes = 0
    for seed in range(4):
        tracker = Tracker(DetectorSettings())
        for seen in walk(seed, people=6, seconds=60, fps=5):
            tracked = tracker.step(seen.now_s, seen.xyxy, seen.scores, seen.looks, SIZE_HW)
            boxes += len(seen.xyxy)
            for number, box in zip(tracked.numbers.tolist(), tracked.boxes.tolist(), strict=True):
                who.setdefault((seed, number), Counter())[int(seen.people[box])] += 1
    named = sum(people.total() for people in who.values())
    wrong = named - sum(max(people.values()) for people in who.values())
    mixed = sum(max(people.values()) < 0.9 * people.total() for people in who.values())
    assert named / boxes > 0.95
    assert wrong / named < 0.03
    assert mixed / len(who) < 0.12
    assert len(who) < 6 * boxes / 5 / 60  # pieces per person and minute
