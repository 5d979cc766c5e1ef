"""Scores as tables on a terminal; all are shares, in per cent, to one place, as papers print them."""

from collections.abc import Mapping, Sequence

from rich.console import Console

from trainer.metrics import CameraPair, Ranking
from trainer.rerank import K1, K2, WEIGHT
from trainer.search_metrics import FoundScore, SearchScore


def print_scores(console: Console, scores: Mapping[str, float]) -> None:
    """Name and value, a line each."""
    for key, value in scores.items():
        console.print(f"{key:48} {value:.4f}")


def print_rankings(console: Console, rankings: Mapping[str, Ranking]) -> None:
    """A row per way of ranking, by the endings of the scores' names; re-ranking's three numbers are k1, k2 and lambda."""
    ways = {
        "": "by cosine",
        "_camera_means_removed": "camera means removed",
        "_euclidean": "plain vectors by Euclidean distance",
        "_reranked": f"re-ranked, k1 {K1}, k2 {K2}, {WEIGHT}",
    }
    rows = [
        [ways[ending], *map(_percent, (*(one.at(k) for k in (1, 5, 10)), one.mean_ap, one.mean_inp))]
        for ending, one in rankings.items()
    ]
    _print(console, ["", "rank1", "rank5", "rank10", "mAP", "mINP"], rows)


def print_pairs(console: Console, pairs: Sequence[CameraPair]) -> None:
    """Queries of the row's camera in the pictures of the column's. Nothing for fewer than three cameras."""
    cameras = sorted({camera for pair in pairs for camera in (pair.query_camera, pair.gallery_camera)})
    if len(cameras) < 3:
        return
    found = {(pair.query_camera, pair.gallery_camera): pair.ranking for pair in pairs}
    rows = []
    for a in cameras:
        cells = [found.get((a, b)) for b in cameras]
        rows.append([str(a + 1), *("-" if r is None else f"{_percent(r.rank1)}/{_percent(r.mean_ap)}" for r in cells)])
    _print(console, ["rank1/mAP", *(f"in {camera + 1}" for camera in cameras)], rows)


def print_searches(console: Console, found: Mapping[str, FoundScore], searches: Mapping[str, SearchScore]) -> None:
    """Finding everybody, then finding one person by gallery and rule."""
    rows = [
        [name, _percent(one.average_precision), _percent(one.recall), str(one.people)] for name, one in found.items()
    ]
    _print(console, ["", "AP", "recall", "people"], rows)
    rows = [
        [name, _percent(one.mean_ap), *(_percent(one.top[k]) for k in (1, 5, 10)), str(one.queries)]
        for name, one in searches.items()
    ]
    _print(console, ["", "mAP", "top1", "top5", "top10", "queries"], rows)
    console.print("_iou75: a box counts only above an overlap of 0.75; the others from 0.5 on, small people from less")


def print_cross(console: Console, rows: Sequence[tuple[str, str, Mapping[str, tuple[float, float] | None]]]) -> None:
    """Models by what they were trained on, down; data sets across: mAP / rank-1."""
    labels = list(dict.fromkeys(label for _, _, found in rows for label, pair in found.items() if pair is not None))
    if not labels:
        return
    cells = []
    for name, trained_on, found in rows:
        pairs = [found.get(label) for label in labels]
        cells.append([name, trained_on, *("-" if p is None else f"{_percent(p[0])}/{_percent(p[1])}" for p in pairs)])
    _print(console, ["mAP/rank1", "trained on", *labels], cells)


def _print(console: Console, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as what they hold, the first to the left; never broken, so that a file holds what a terminal shows."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        first, *others = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        console.print(
            "  ".join([first.strip().ljust(widths[0]), *others]), style="bold" if line is header else None, markup=False
        )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
