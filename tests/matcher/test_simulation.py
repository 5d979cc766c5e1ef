import numpy as np
import pytest

from matcher.gallery import MemoryGallery

from .simulation import matcher_for, score, simulate


def test_a_site_of_24_people_and_4_cameras_is_linked_well():
    scores = []
    for seed in range(3):
        site = simulate(seed)
        matcher = matcher_for(site)
        events = [event for step in matcher.process(site.in_order()) for event in step.events]
        scores.append(score(site, [*events, *(event for step in matcher.finish() for event in step.events)]))
    assert np.mean([s.idf1 for s in scores]) > 0.85
    assert np.mean([s.link_precision for s in scores]) > 0.83
    assert all(s.links >= 150 for s in scores)


@pytest.mark.parametrize("batch", [1, 7, 100, 10_000])
def test_the_same_records_give_the_same_events_in_whatever_batches(batch):
    site = simulate(5, seconds=60)
    one_camera_after_the_other = [record for camera in site.records for record in camera]
    logs = []
    for records, size in [(site.in_order(), 16), (site.in_order(), batch), (one_camera_after_the_other, batch)]:
        matcher, gallery = matcher_for(site), MemoryGallery("sim", model="m", retention_ns=10**15)
        gallery.acquire()
        events = []
        for start in range(0, len(records), size):
            events += gallery.commit(list(matcher.process(records[start : start + size])))
        logs.append(events + list(gallery.commit(list(matcher.finish()))))
    assert logs[0] == logs[1] == logs[2]
    assert len(logs[0]) > 50
