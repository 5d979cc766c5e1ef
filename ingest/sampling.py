"""Which pictures of a stream are analysed, and their place on its grid."""


class Sampler:
    """Picks from one stream the pictures nearest to a grid of `fps` per second, by time, never by counting."""

    def __init__(self, stream_ns: int, fps: float) -> None:
        self.stream_ns = stream_ns
        """Its first picture's captured_at, or a file's start."""
        self._fps = fps
        self._sequence = -1
        self._before: float | None = None
        self._interval = 0.0

    def take(self, captured_ns: int) -> int | None:
        """The picture's sequence, larger than any before, or None where it is not needed."""
        place = (captured_ns - self.stream_ns) * self._fps / 1e9  # in grid steps
        if self._before is not None and place > self._before:
            # half a frame early is nearer than half a frame late; the interval is smoothed against jitter
            step = min(place - self._before, 1.0)
            self._interval = step if self._interval == 0.0 else 0.9 * self._interval + 0.1 * step
        self._before = place
        if place < self._sequence + 1 - self._interval / 2:
            return None
        sequence = int(place + 0.5)  # not round(): halves go to the even number there
        if sequence <= self._sequence:
            return None
        self._sequence = sequence
        return sequence
