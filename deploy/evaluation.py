"""What `sightline evaluate` does: training runs, checkpoints or bundles, scored on drawn, labelled or real pictures."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape

from deploy.evaluation_footage import box_scores, on_video
from deploy.evaluation_models import DataSet, Model, data_set, open_model
from deploy.evaluation_tables import print_cross, print_pairs, print_rankings, print_scores, print_searches
from deploy.searcher import Searcher
from deploy.settings import Runtime
from deploy.training import Bar
from stream.cores import usable_cores
from stream.errors import UsageError
from trainer import drawn, evaluate
from trainer.data import Crops
from trainer.datasets import load_reid, load_search
from trainer.datasets.table import MIX, REID, SEARCH, SYNTHETIC
from trainer.metrics import CameraPair, Ranking
from trainer.ranked import Tile, box_rows, crop_rows, draw_cmc, draw_ranked
from trainer.search_metrics import SearchScore
from trainer.searching import Searches, galleries, score_searcher

F64 = NDArray[np.float64]
Report = Callable[[int, int], None]
RANKS = (1, 5, 10)


@dataclass(frozen=True, slots=True)
class Asked:
    """How to score, beside what and on what."""

    rerank: bool = False
    erase_p: float = 0.0
    pictures: Path | None = None
    """Folder for ranked lists and CMC curves."""
    threads: int | None = None
    backend: Runtime | None = None
    """Of bundles; None: ONNX Runtime."""


@dataclass(frozen=True, slots=True)
class Scored:
    """One model on one data set."""

    label: str
    scores: dict[str, float]
    """By name, each saying on what."""
    headline: tuple[float, float] | None
    """mAP and rank-1 (top-1 of a search); None for a detector."""
    pairs: list[CameraPair] = field(default_factory=list)


def evaluate_models(
    names: Sequence[str], data: Sequence[str], roots: Sequence[Path], asked: Asked, console: Console
) -> dict[str, Any]:
    """Scores by name of one model; of several, a list of models with theirs. Also printed, with tables."""
    cores = _use(asked.threads)
    models = [open_model(name, cores, asked.backend) for name in names]
    sets = _sets(data, roots) if data else _homes(models, roots)
    if asked.pictures is not None:
        try:
            asked.pictures.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--pictures {asked.pictures}: no folder can be made there ({error.strerror})") from error
    results = []
    for model, prefix in zip(models, _prefixes(names), strict=True):
        console.print(
            f"[bold]{escape(model.name)}[/bold]: {model.kind} of {model.input_hw[0]}x{model.input_hw[1]}, trained on {escape(model.trained_on)}",
            markup=True,
        )
        results.append([one for each in sets for one in _score(model, each, asked, prefix, cores, console)])
    if len(models) > 1 or len(sets) > 1:
        print_cross(
            console,
            [
                (m.name, m.trained_on, {one.label: one.headline for one in r})
                for m, r in zip(models, results, strict=True)
            ],
        )
    reports = [_report(model, result) for model, result in zip(models, results, strict=True)]
    if len(models) > 1:
        return {"models": reports}
    return {**reports[0]["scores"], "camera_pairs": reports[0]["camera_pairs"]}


def evaluate_on_video(
    name: str,
    video: Path,
    reference: str | None,
    people: Path | None,
    threads: int | None,
    backend: Runtime | None,
    console: Console,
) -> dict[str, float]:
    """Agreement with a reference on real footage, by name; also printed. `backend` runs the model, not its reference."""
    if reference is None:
        raise UsageError("--video needs --reference: a bundle of the same kind whose answers are compared")
    cores = _use(threads)
    model, other = open_model(name, cores, backend), open_model(reference, cores)
    if other.kind != model.kind:
        raise UsageError(f"--reference {reference} is of kind {other.kind}, {name} of kind {model.kind}")
    scores = on_video(model, other, reference, video, people)
    print_scores(console, scores)
    return scores


def _use(threads: int | None) -> int:
    cores = threads or usable_cores()
    torch.set_num_threads(cores)
    return cores


def _sets(names: Sequence[str], roots: Sequence[Path]) -> list[DataSet]:
    """Each named set with its folder; sets that need none are passed over by `roots`."""
    left = list(roots)
    sets: list[DataSet] = []
    for name in names:
        needs = name in REID or name in SEARCH
        if needs and not left:
            raise UsageError(
                f"--data {name} needs its folder: give one --root DIR for each data set, in the same order"
            )
        sets.append(data_set(name, str(left.pop(0)) if needs else ""))
    if left:
        raise UsageError(f"--root {left[0]}: there is no --data left that it could belong to")
    labels = [each.label for each in sets]
    if len(set(labels)) < len(labels):
        raise UsageError(f"--data: two sets are called {max(labels, key=labels.count)}; score them one after the other")
    return sets


def _prefixes(names: Sequence[str]) -> list[str]:
    """What begins the names of each model's pictures: nothing where it is alone, else a name that no other has."""
    if len(names) == 1:
        return [""]
    found: list[str] = []
    for name in names:
        path = Path(name).resolve()
        stem = path.parent.name if path.name in ("checkpoint.pt", "best.pt") else path.name
        prefix, number = stem, 1
        while prefix in found:
            number += 1
            prefix = f"{stem}-{number}"
        found.append(prefix)
    return [f"{prefix}-" for prefix in found]


def _homes(models: Sequence[Model], roots: Sequence[Path]) -> list[DataSet]:
    """What the models were trained on; a set that lies elsewhere by now is found with --root."""
    homes = list({model.home.label: model.home for model in models}.values())
    if not roots:
        return homes
    if len(homes) != 1 or len(roots) != 1 or homes[0].name not in {*REID, *SEARCH}:
        known = ", ".join(home.label for home in homes)
        raise UsageError(
            f"--root {roots[0]}: the model was trained on {known}: name the sets with --data, or one --root for it"
        )
    return [replace(homes[0], root=str(roots[0]))]


def _score(model: Model, data: DataSet, asked: Asked, prefix: str, cores: int, console: Console) -> Iterator[Scored]:
    if model.kind == "detector":
        yield from _detector(model, data, cores, console)
    elif model.searches is not None and (data.name in SEARCH or data.name == SYNTHETIC):
        yield _searcher(model.searches, data, asked, prefix, cores, console)
    else:
        if isinstance(model.searches, Searcher):
            raise UsageError(f"{model.name} takes scenes, and {data.label} has crops: score its checkpoint.pt on them")
        if model.kind == "person-search":
            console.print(
                f"{data.label} has crops: nobody is searched for, so these figures are no search's", markup=False
            )
        for label, query, gallery in _crops(data, model.input_hw, cores, console):
            yield _embedder(model, label, query, gallery, asked, prefix, console)


def _detector(model: Model, data: DataSet, cores: int, console: Console) -> Iterator[Scored]:
    if data.name in SEARCH:
        sets = {data.label: load_search(data.name, data.root).test}
    elif data.name == SYNTHETIC:
        with _progress(console, "drawing", "shards") as report:
            sets = {f"synthetic_{name}": scenes for name, scenes in drawn.test_scenes(cores, report).items()}
    else:
        raise UsageError(
            f"--data {data.name}: detectors are scored on scenes ({SYNTHETIC}, {', '.join(SEARCH)}), or on --video"
        )
    for label, scenes in sets.items():
        scores = box_scores(label, evaluate.score_detector(model.infers, scenes, model.input_hw))
        print_scores(console, scores)
        yield Scored(label, scores, None)


def _crops(data: DataSet, size_hw: tuple[int, int], cores: int, console: Console) -> Iterator[tuple[str, Crops, Crops]]:
    """Label, query and gallery; what ships is scored on two drawn sets."""
    with _progress(console, "drawing", "shards") as report:
        if data.name == MIX:
            for name, crops in drawn.test_crops(cores, report).items():
                yield (f"synthetic_{name}", *evaluate.split(crops))
            return
        found = load_reid(
            data.name,
            data.root,
            size_hw,
            people=data.people,
            train=False,
            own=data.by_folder,
            workers=cores,
            report=report,
        )
    for note in found.notes:
        console.print(f"{data.label}: {note}", style="dim", markup=False)
    yield data.label, found.query, found.gallery


def _embedder(
    model: Model, label: str, query: Crops, gallery: Crops, asked: Asked, prefix: str, console: Console
) -> Scored:
    with _progress(console, f"embedding {label}", "pictures") as report:
        score = evaluate.score_embedder(
            model.infers, query, gallery, model.input_hw, rerank=asked.rerank, erase_p=asked.erase_p, report=report
        )
    rankings: dict[str, Ranking] = {"": score.ranking, "_camera_means_removed": score.centred}
    if score.euclidean is not None:
        rankings["_euclidean"] = score.euclidean
    if score.reranked is not None:
        rankings["_reranked"] = score.reranked
    console.print(
        f"{label}: {score.ranking.queries} queries ({score.ranking.left_out} without an answer left out), {len(gallery.people)} "
        f"gallery pictures, {len(np.union1d(query.cameras, gallery.cameras))} cameras"
        + (f", erased with probability {asked.erase_p}" if asked.erase_p else ""),
        markup=False,
    )
    print_rankings(console, rankings)
    if asked.rerank:
        console.print(
            "re-ranking takes squared Euclidean distances in float32; programs that square again give other figures"
        )
    print_pairs(console, score.pairs)
    if asked.pictures is not None:
        rows = crop_rows(query, gallery, score.query_vectors, score.gallery_vectors)
        curves = {f"{label}{ending}".replace("_", " "): ranking.cmc for ending, ranking in rankings.items()}
        _draw(asked.pictures, f"{prefix}{label}", rows, curves, console)
    scores = {
        f"{label}/{name}{ending}": value
        for ending, ranking in rankings.items()
        for name, value in (
            *((f"rank{k}", ranking.at(k)) for k in RANKS),
            ("mAP", ranking.mean_ap),
            ("mINP", ranking.mean_inp),
        )
    }
    return Scored(label, scores, (score.ranking.mean_ap, score.ranking.rank1), score.pairs)


def _searcher(model: Searches, data: DataSet, asked: Asked, prefix: str, cores: int, console: Console) -> Scored:
    with _progress(console, "drawing", "shards") as report:
        found = load_search(data.name, data.root, people=data.people, train=False, workers=cores, report=report)
    for note in found.notes:
        console.print(f"{data.label}: {note}", style="dim", markup=False)
    with _progress(console, f"searching {data.label}", "frames and queries") as report:
        score = score_searcher(model, found, report)
    by_name: dict[str, SearchScore] = {
        f"{gallery}{ending}": one for gallery, by_rule in score.search.items() for ending, one in by_rule.items()
    }
    left_out = by_name[galleries(found)[0]].left_out
    console.print(
        f"{data.label}: {len(found.queries.frames)} queries ({left_out} without an answer left out), {len(found.test.xyxy)} frames",
        markup=False,
    )
    print_searches(console, {f"detection{ending}": one for ending, one in score.found.items()}, by_name)
    first = galleries(found)[0]
    if asked.pictures is not None:
        _draw(asked.pictures, f"{prefix}{data.label}", box_rows(found, score.vectors, score.boxes, first), {}, console)
    scores: dict[str, float] = {}
    for ending, boxes in score.found.items():
        scores |= {
            f"{data.label}/detection{ending}/AP": boxes.average_precision,
            f"{data.label}/detection{ending}/recall": boxes.recall,
        }
    for name, one in by_name.items():
        scores[f"{data.label}/{name}/mAP"] = one.mean_ap
        scores |= {f"{data.label}/{name}/top{k}": share for k, share in one.top.items()}
    return Scored(data.label, scores, (by_name[first].mean_ap, by_name[first].top[1]))


def _draw(
    folder: Path, name: str, rows: Sequence[tuple[Tile, Sequence[Tile]]], curves: dict[str, F64], console: Console
) -> None:
    draw_ranked(folder / f"ranked-{name}.png", rows)
    console.print(
        f"{folder / f'ranked-{name}.png'}: queries and what came first; green is right, dashed red wrong", markup=False
    )
    if curves:
        draw_cmc(folder / f"cmc-{name}.png", curves)
        console.print(f"{folder / f'cmc-{name}.png'}: CMC curves", markup=False)


def _report(model: Model, results: Sequence[Scored]) -> dict[str, Any]:
    return {
        "model": model.name,
        "trained_on": model.trained_on,
        "scores": {key: value for one in results for key, value in one.scores.items()},
        "camera_pairs": {
            one.label: [
                {
                    "query_camera": pair.query_camera + 1,
                    "gallery_camera": pair.gallery_camera + 1,
                    "queries": pair.ranking.queries,
                    "rank1": pair.ranking.rank1,
                    "mAP": pair.ranking.mean_ap,
                }
                for pair in one.pairs
            ]
            for one in results
            if one.pairs
        },
    }


@contextmanager
def _progress(console: Console, what: str, of_what: str) -> Iterator[Report]:
    with Bar(console, what) as bar:
        yield lambda done, of: bar.at(done / of, f"{done} of {of} {of_what}")
