"""What a run looked like, as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

LOSS, SCORE = "loss/", "score/"
"""How the keys of a row begin that hold a loss and a score; the others are "step", "epoch" and "rate"."""


def draw_curves(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Losses by name, learning rate, and scores on people held out, over epochs; `rows` are those of a checkpoint."""
    from matplotlib.figure import Figure

    names = sorted({key for row in rows for key in row if key.startswith(LOSS)})
    scores = sorted({key for row in rows for key in row if key.startswith(SCORE)})
    figure = Figure(figsize=(10, 9 if scores else 6.5), layout="constrained")
    panels = figure.subplots(3 if scores else 2, 1, sharex=True, height_ratios=[3, 1, 2] if scores else [3, 1])
    for panel, keys, label in zip(panels, (names, ["rate"], scores), ("loss", "learning rate", "score"), strict=False):
        for key in keys:
            points = [(row["epoch"], row[key]) for row in rows if key in row]
            panel.plot(*zip(*points, strict=True), label=key.partition("/")[2], marker="." if len(points) < 50 else "")
        panel.set_ylabel(label)
        panel.grid(alpha=0.3)
        if keys != ["rate"] and keys:
            panel.legend(loc="best", framealpha=0.7)
    panels[-1].set_xlabel("epoch")
    figure.savefig(path, dpi=100)
