"""Scores as tables on a terminal; all are shares, in per cent, to one place, as papers print them."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from trainer.metrics import CameraPair, Ranking
from trainer.rerank import K1, K2, WEIGHT
from trainer.search_metrics import FoundScore, SearchScore


def print_scores(console: Console, scores: Mapping[str, float]) -> None:
    """Name and value, a line each."""
    for key, value in scores.items():
        console.print(f"{key:48} {value:.4f}")


def print_rankings(console: Console, rankings: Mapping[str, Ranking]) -> None:
    """A row per way of ranking, by the endings of the scores' names."""
    ways = {
        "": "by cosine",
        "_camera_means_removed": "camera means removed",
        "_reranked": f"re-ranked (k1 {K1}, k2 {K2}, lambda {WEIGHT}, squared distances)",
    }
    table = _table("", "rank1", "rank5", "rank10", "mAP", "mINP")
    for ending, ranking in rankings.items():
        shares = (*(ranking.at(k) for k in (1, 5, 10)), ranking.mean_ap, ranking.mean_inp)
        table.add_row(ways[ending], *map(_percent, shares))
    console.print(table)


def print_pairs(console: Console, pairs: Sequence[CameraPair]) -> None:
    """Queries of the row's camera in the pictures of the column's: rank-1 and mAP. Nothing for fewer than three cameras."""
    cameras = sorted({camera for pair in pairs for camera in (pair.query_camera, pair.gallery_camera)})
    if len(cameras) < 3:
        return
    found = {(pair.query_camera, pair.gallery_camera): pair.ranking for pair in pairs}
    table = _table("rank1 / mAP, from \\ to camera", *(str(camera + 1) for camera in cameras))
    for a in cameras:
        cells = [found.get((a, b)) for b in cameras]
        table.add_row(
            str(a + 1), *("-" if r is None else f"{_percent(r.rank1)} / {_percent(r.mean_ap)}" for r in cells)
        )
    console.print(table)


def print_searches(console: Console, found: Mapping[str, FoundScore], searches: Mapping[str, SearchScore]) -> None:
    """Finding everybody, then finding one person by gallery and rule."""
    table = _table("", "AP", "recall", "people")
    for name, boxes in found.items():
        table.add_row(name, _percent(boxes.average_precision), _percent(boxes.recall), str(boxes.people))
    console.print(table)
    table = _table("", "mAP", "top1", "top5", "top10", "queries")
    for name, one in searches.items():
        table.add_row(name, _percent(one.mean_ap), *(_percent(one.top[k]) for k in (1, 5, 10)), str(one.queries))
    console.print(table)
    console.print("_iou75: a box counts from an overlap above 0.75 on; the others from 0.5, small people from less")


def print_cross(console: Console, rows: Sequence[tuple[str, str, Mapping[str, tuple[float, float] | None]]]) -> None:
    """Models by what they were trained on, down; data sets across: mAP / rank-1."""
    labels = list(dict.fromkeys(label for _, _, found in rows for label, pair in found.items() if pair is not None))
    if not labels:
        return
    table = _table("mAP / rank1 on", "trained on", *labels)
    for name, trained_on, found in rows:
        pairs = [found.get(label) for label in labels]
        table.add_row(name, trained_on, *("-" if p is None else f"{_percent(p[0])} / {_percent(p[1])}" for p in pairs))
    console.print(table)


def _table(first: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
