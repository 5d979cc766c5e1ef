import pytest

from trainer import schedules

E = (0, 1, 9, 10, 39, 40, 69, 70)


def test_the_strong_baseline_follows_its_table():
    expected = (3.5e-6, 3.815e-5, 3.1535e-4, 3.5e-4, 3.5e-4, 3.5e-5, 3.5e-5, 3.5e-6)
    assert [schedules.strong_baseline(3.5e-4, e, (40, 70)) for e in E] == pytest.approx(expected)


def test_a_rise_from_a_tenth_over_twenty_epochs_follows_its_table():
    def rate(epoch):
        return schedules.warm_steps(3.5e-5, epoch, warmup=19, start=0.1, milestones=(60, 90))

    epochs, b = (0, 19, 20, 59, 60, 89, 90), 3.5e-6
    expected = (b, 10 * b, 10 * b, 10 * b, b, b, 0.1 * b)
    assert [rate(e) for e in epochs] == pytest.approx(expected)
    assert rate(7) == pytest.approx(b * (1 + 9 * 7 / 19))


def test_osnets_steps_follow_their_table():
    rates = [schedules.steps(1.5e-3, e, (60, 120)) for e in (0, 9, 10, 59, 60, 119, 120, 149)]
    assert rates == pytest.approx([1.5e-3] * 4 + [1.5e-4] * 2 + [1.5e-5] * 2)


def test_milestones_and_factor_can_be_others():
    def rate(epoch):
        return schedules.warm_steps(3.5e-4, epoch, warmup=10, start=0.01, milestones=(120, 150, 180, 210), gamma=0.3)

    rates = [rate(e) for e in (119, 120, 150, 210)]
    assert rates == pytest.approx([3.5e-4, 1.05e-4, 3.15e-5, 2.835e-6])


def test_no_warm_up_begins_with_the_whole_rate():
    assert schedules.warm_steps(0.1, 0, warmup=0, start=0.01, milestones=()) == 0.1


def test_the_cosine_rises_and_falls():
    rates = [schedules.cosine(0.01, p, 0.1) for p in (0.0, 0.05, 0.1, 0.55, 1.0)]
    assert rates == pytest.approx([0, 0.005, 0.01, 0.005, 0])
