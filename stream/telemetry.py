"""Counters and histograms of every stage, and the log.

Every queue has a length here and every loss a counter with its reason.
"""

from prometheus_client import Counter, Gauge, Histogram

_MS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0)

FRAMES_DECODED = Counter("sightline_frames_decoded", "Frames decoded from a camera", ["camera"])
FRAMES_SENT = Counter("sightline_frames_sent", "Frames handed to the frames topic", ["camera"])
FRAMES_DROPPED = Counter("sightline_frames_dropped", "Frames lost on purpose, by reason", ["camera", "reason"])
CAMERA_CONNECTED = Gauge("sightline_camera_connected", "1 while a camera delivers frames", ["camera"])
CAMERA_RECONNECTS = Counter("sightline_camera_reconnects", "Connections lost and tried again", ["camera", "reason"])
CLOCK_OFFSET = Gauge("sightline_clock_offset_seconds", "Smallest arrival minus stream time over a minute", ["camera"])
CLOCK_JUMPS = Counter("sightline_clock_jumps", "Jumps of a camera's clock that opened a new stream", ["camera"])
BATCH_SIZE = Histogram("sightline_batch_size", "Messages per batch", ["stage"], buckets=(1, 2, 4, 8, 16, 32, 64, 128))
STAGE_SECONDS = Histogram("sightline_stage_seconds", "Seconds from a batch to its commit", ["stage"], buckets=_MS)
QUEUE_DEPTH = Gauge("sightline_queue_depth", "Messages (or bytes, by name) waiting in a queue", ["queue"])
CONSUMER_LAG = Gauge("sightline_consumer_lag", "Records not yet read", ["topic", "partition"])
DEAD_LETTERS = Counter("sightline_dead_letters", "Messages that could not be read, by reason", ["topic", "reason"])
DELIVERIES_FAILED = Counter("sightline_deliveries_failed", "Messages that the broker did not take", ["topic"])
REPEATS = Counter("sightline_repeats", "Records seen before and dropped", ["camera"])
LATE = Counter("sightline_late_records", "Records that came after their place in the merge", ["camera"])
PEOPLE = Counter("sightline_people_detected", "Tracked detections", ["camera"])
EMBEDDED = Counter("sightline_crops_embedded", "Crops embedded, by reason", ["camera", "reason"])
MERGE_WAIT = Histogram("sightline_merge_wait_seconds", "Wait for slower cameras in the event-time merge", buckets=_MS)
EVENTS = Counter("sightline_match_events", "Match events by kind", ["site", "kind"])
EVENT_SECONDS = Histogram(
    "sightline_capture_to_event_seconds", "Capture of the settling frame to delivery", buckets=_MS
)
TRACKLETS_DROPPED = Counter("sightline_tracklets_dropped", "Tracklets without an identity, by reason", ["reason"])
IDENTITIES = Gauge("sightline_gallery_identities", "Identities in the gallery", ["site"])
