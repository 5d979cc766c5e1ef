"""What a run leaves behind for people: report.json, a timeline of identities, a frame per camera, the events."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from deploy.score import Linking, TrueBoxes
from deploy.view import short
from stream.codec import encode
from stream.messages import Embeddings, MatchEvent

Span = tuple[float, float]


def write_report(
    folder: Path,
    figures: Mapping[str, Any],
    events: Sequence[MatchEvent],
    frames: Sequence[tuple[Embeddings, TrueBoxes]],
    majority: Mapping[str, int],
    picture: Callable[[Embeddings], NDArray[np.uint8]],
) -> list[Path]:
    """Write everything into `folder` (made if missing) and return the files.

    `majority` names the person that each tracklet shows; `picture` gives a record's frame, (H, W, 3) RGB.
    """
    folder.mkdir(parents=True, exist_ok=True)
    report = folder / "report.json"
    report.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=2) + b"\n")
    lines = folder / "events.jsonl"
    lines.write_bytes(b"".join(encode(event) + b"\n" for event in events))
    linking = Linking.of(events)
    timeline = folder / "timeline.png"
    draw_timeline(timeline, frames, linking, majority)
    pictures = []
    for camera in sorted({record.camera for record, _ in frames}):
        fullest = max((record for record, _ in frames if record.camera == camera), key=lambda r: len(r.people))
        pictures.append(folder / f"{camera}.png")
        annotated = annotate(picture(fullest), fullest, linking.identities)
        cv2.imwrite(str(pictures[-1]), cv2.cvtColor(annotated, cv2.COLOR_RGB2BGR))
    return [report, timeline, lines, *pictures]


def colour(identity: str) -> tuple[int, int, int]:
    """A bright RGB colour that an identity keeps."""
    hue = int(identity[:4], 16) % 180
    red, green, blue = cv2.cvtColor(np.array([[[hue, 200, 255]]], np.uint8), cv2.COLOR_HSV2RGB)[0, 0]
    return int(red), int(green), int(blue)


def annotate(image: NDArray[np.uint8], record: Embeddings, identities: Mapping[str, str]) -> NDArray[np.uint8]:
    """The frame, (H, W, 3) RGB, with a box and a short identity on everybody; grey without one."""
    drawn = np.ascontiguousarray(image).copy()
    scale = max(0.4, drawn.shape[0] / 800)
    for person in record.people:
        x1, y1, x2, y2 = (round(value) for value in person.xyxy)
        identity = identities.get(person.tracklet)
        shade = colour(identity) if identity else (160, 160, 160)
        cv2.rectangle(drawn, (x1, y1), (x2, y2), shade, 2)
        label = short(identity) if identity else "?"
        (width, height), _ = cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        top = max(y1, height + 4)
        cv2.rectangle(drawn, (x1, top - height - 4), (x1 + width + 4, top), shade, -1)
        cv2.putText(drawn, label, (x1 + 2, top - 3), cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 1, cv2.LINE_AA)
    return drawn


def draw_timeline(
    path: Path,
    frames: Sequence[tuple[Embeddings, TrueBoxes]],
    linking: Linking,
    majority: Mapping[str, int],
) -> None:
    """Identities as rows, time to the right, a bar per tracklet in its camera's colour, links right (line) and wrong (cross)."""
    from matplotlib.figure import Figure

    spans = _spans(frames)
    rows: dict[str, list[str]] = {}
    for tracklet in sorted((t for t in linking.identities if t in spans), key=lambda t: spans[t]):
        rows.setdefault(linking.identities[tracklet], []).append(tracklet)
    cameras = sorted({record.camera for record, _ in frames})
    shades = {camera: f"C{index % 10}" for index, camera in enumerate(cameras)}
    figure = Figure(figsize=(12, 1.6 + 0.26 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    wrong = {a for a, b in linking.links if majority.get(a, -1) != majority.get(b, -2)}
    for row, (_identity, tracklets) in enumerate(rows.items()):
        for before, after in pairwise(tracklets):
            axes.plot([spans[before][1], spans[after][0]], [row, row], color="0.6", linewidth=1, zorder=1)
        for tracklet in tracklets:
            first, last = spans[tracklet]
            axes.barh(
                row, max(last - first, 0.2), left=first, height=0.62, color=shades[tracklet.split("/", 1)[0]], zorder=2
            )
            if tracklet in wrong:
                axes.plot(first, row, marker="x", color="black", markersize=8, markeredgewidth=2, zorder=3)
    axes.set_yticks(range(len(rows)), [short(identity) for identity in rows], family="monospace", fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    axes.set_ylabel("identity")
    axes.set_title(f"{len(rows)} identities, {len(linking.links)} links, {len(wrong)} of them wrong (×)", loc="left")
    for camera, shade in shades.items():
        axes.barh(0, 0, color=shade, label=camera)
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.35 / (1 + 0.16 * len(rows))), ncol=len(cameras), frameon=False
    )
    figure.savefig(path)


def _spans(frames: Sequence[tuple[Embeddings, TrueBoxes]]) -> dict[str, Span]:
    """Tracklet -> first and last second, from the first frame of all."""
    start = min((record.captured_at for record, _ in frames), default=0)
    spans: dict[str, Span] = {}
    for record, _ in sorted(frames, key=lambda pair: pair[0].captured_at):
        second = (record.captured_at - start) / 1e9
        for person in record.people:
            spans[person.tracklet] = (spans.get(person.tracklet, (second, second))[0], second)
    return spans
