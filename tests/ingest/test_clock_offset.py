"""How far a camera's own time is off can be watched from outside."""

import time
from pathlib import Path

import pytest
from clips import write_clip
from feeds import QuietHandler, frames_of, http_server, watch
from prometheus_client import REGISTRY

from ingest.settings import CameraSettings


@pytest.mark.parametrize("added_s", [0.0, -2.0])
def test_the_offset_is_what_turns_a_camera_s_own_time_into_utc_without_what_the_site_file_adds(
    tmp_path: Path, added_s: float
) -> None:
    clip = write_clip(tmp_path / "clip.ts", frames=50, times=[100 + k / 25 for k in range(50)])

    class Camera(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802
            self.send_response(200)
            self.send_header("Content-Type", "video/mp2t")
            self.end_headers()
            self.wfile.write(clip.read_bytes())
            time.sleep(10)

    name = f"offset{added_s:g}"
    with http_server(Camera) as address:
        camera = CameraSettings.model_validate({"id": name, "url": f"http://{address}/", "clock_offset": added_s})
        frame = frames_of(watch([camera], lambda seen: len(frames_of(seen)) >= 3))[2]
    offset_s = REGISTRY.get_sample_value("sightline_clock_offset_seconds", {"camera": name})
    assert offset_s is not None
    own_s = frame.captured_at / 1e9 - added_s - offset_s
    assert 0 <= own_s < 3, "which counts from the beginning of a connection"
