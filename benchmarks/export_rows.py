"""Every row of `sightline methods`, exported whole: checkpoint to bundle, gated as any export, at the smallest size that shows it.

    python benchmarks/export_rows.py                            all rows, half an hour on one core
    python benchmarks/export_rows.py --method osnet mgre
    python benchmarks/export_rows.py --method person-search --variant "channel attention"

A row keeps every key of its own; of the rest the input is narrow (64x32, scenes 64x96) and OSNet's width a quarter. Weights are random:
whether a graph answers as torch does rests on what it consists of, not on what it has learnt. Each row goes through `deploy.export` as
`sightline export` does: the gate in every float32 runtime that is installed, the bundle written, read back and loaded. Ends with status
1 where a row is refused that is not known to be.
"""

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from deploy import backends, links
from deploy.bundle import Bundle
from deploy.export import Described, export
from deploy.export_search import export_person_search
from deploy.methods import FULL
from stream.errors import SightlineError
from trainer import checkpoint
from trainer.checkpoint import Checkpoint
from trainer.methods import method_module
from trainer.methods.person_search import PersonSearch
from trainer.settings import make_recipe
from trainer.stays import LabelledScene
from trainer.tracklets import Stay

METHODS = ("osnet", "eprinet", "magnifiernet", "mgre", "person-search")
CROP_HW, SCENE_HW = (64, 32), (64, 96)
SMALL: Mapping[str, Mapping[str, object]] = {
    "osnet": {"input_hw": CROP_HW, "width": 0.25},
    "eprinet": {"input_hw": CROP_HW},
    "magnifiernet": {"input_hw": CROP_HW},
    "mgre": {"input_hw": CROP_HW},
    "person-search": {"input_hw": SCENE_HW, "anchor_sizes": (225, 450, 900), "max_proposals_test": 12},
}
"""What a row has where it says nothing itself."""
REFUSED = {
    ("mgre", "without joint optimisation"): "told where a person's joints are",
    ("person-search", "paper's wording"): 'roi_op = "pool" is not exported',
}
"""Rows that no runtime serves, and what is said."""
GOLDEN = 4
LEAST_PAIRS = 1
"""Link rows are of no interest here: crops get none, those of a person search are fitted on next to nothing."""


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one row."""

    method: str
    variant: str
    said: str
    """"" where it was exported, else why not."""
    parameters: int
    megabytes: float
    cosine: float
    """The least of ONNX Runtime's vectors to torch's; of a person search, to those of the people that both found, the median."""
    seconds: float

    @property
    def as_expected(self) -> bool:
        """Exported, or refused as known."""
        known = REFUSED.get((self.method, self.variant))
        return not self.said if known is None else known in self.said


def rows_of(method: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Name and keys of each row, as `sightline methods` lists them."""
    yield FULL, {}
    yield from ((name, keys) for name, keys in method_module(method).ABLATIONS.items() if keys)


def exported(method: str, variant: str, keys: Mapping[str, object], folder: Path) -> Row:
    """Export one row into `folder`."""
    began = time.process_time()
    recipe = make_recipe({**SMALL[method], **keys, "method": method, "weights": ""}, variant)
    torch.manual_seed(0)
    network = awake(method_module(method).embedder(recipe), recipe.input_hw)
    parameters = sum(each.numel() for each in network.parameters())
    saved = folder / "checkpoint.pt"
    checkpoint.save(saved, Checkpoint(recipe.model_dump(mode="json"), 1.0, 1, network.state_dict()))
    golden = np.random.default_rng(0).integers(0, 256, (GOLDEN, *recipe.input_hw, 3), dtype=np.uint8)
    described = Described(
        "row", "1", "benchmarks/export_rows.py", ("noise",), {}, synthetic_only=True, licence="Apache-2.0"
    )
    said, megabytes, cosine = "", 0.0, float("nan")
    try:
        if method == "person-search":
            bundle = export_person_search(saved, folder / "bundle", described, golden, scenes=some_scenes())
        else:
            bundle = export(saved, folder / "bundle", described, golden)
        megabytes = sum(file.stat().st_size for file in bundle.path.iterdir()) / 1e6
        cosine = least_cosine(bundle)
    except SightlineError as error:
        said = str(error)
    return Row(method, variant, said, parameters, megabytes, cosine, time.process_time() - began)


@torch.no_grad()
def awake(network: nn.Module, input_hw: tuple[int, int]) -> nn.Module:
    """The network with random values where training begins at zero, or nearly so: what does nothing would not be missed in a graph.

    Norms of a person search have seen noise, so its scores differ; a norm that saw too little noise makes rounding large.
    """
    for name, values in network.named_parameters():
        if name.endswith("gamma"):
            values.fill_(0.5)
        elif name.startswith("locators") and name.endswith("out.weight"):
            values.normal_(std=1e-2)
        elif name in ("mask.deconv.weight", "mask.conv.weight") or (
            name.startswith("attention") and name.endswith("last.weight")
        ):
            values.normal_(std=0.1)
        elif name in ("score.weight", "box.weight"):
            values.normal_(std=1e-2)
    if isinstance(network, PersonSearch):
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # the mean of what is seen
        network.train()(torch.randn(8, 3, *input_hw))
    return network.eval()


def some_scenes() -> Iterator[tuple[float, LabelledScene]]:
    """Four people, each twice before each of two cameras."""
    rng = np.random.default_rng(1)
    boxes = np.array([[4, 4, 34, 60], [50, 4, 80, 60]], np.float32)
    for number in range(8):
        pair, camera = number % 2, number // 2 % 2
        image = rng.integers(0, 256, (*SCENE_HW, 3), dtype=np.uint8)
        stays = tuple((2 * number + place, Stay(0, 2 * pair + place, camera)) for place in (0, 1))
        yield number / 8, LabelledScene(image, boxes, stays)


def least_cosine(bundle: Bundle) -> float:
    """See `Row.cosine`."""
    inputs, expected = bundle.answers()
    with closing(backends.load(bundle)) as runtime:
        have = runtime.infer(inputs)
    cosines = (have["embedding"] * expected["embedding"]).sum(-1)
    if bundle.card.kind == "person-search":  # lists, some of whose places are empty
        return float(np.median(cosines[expected["scores"] > 0]))
    return float(cosines.min())


def table(rows: list[Row]) -> str:
    """As docs have it."""
    lines = ["| method | variant | parameters | bundle, MB | cosine to torch | |", "|---|---|---|---|---|---|"]
    for row in rows:
        outcome = "refused, as said" if row.said and row.as_expected else row.said or "exported"
        size = "" if row.said else f"{row.megabytes:.2f}"
        cosine = "" if row.said else f"{row.cosine:.6f}"
        lines.append(f"| {row.method} | {row.variant} | {row.parameters:,} | {size} | {cosine} | {outcome} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--variant", help="one row of them, by its name")
    given = parser.parse_args()
    torch.set_num_threads(1)
    links.LEAST_PAIRS = LEAST_PAIRS
    rows: list[Row] = []
    for method in given.method:
        for variant, keys in rows_of(method):
            if given.variant in (None, variant):
                with tempfile.TemporaryDirectory() as folder:
                    row = exported(method, variant, keys, Path(folder))
                rows.append(row)
                print(f"{method}, {variant}: {row.said or f'{row.cosine:.6f}'}, {row.seconds:.0f} s", flush=True)
                gc.collect()
    wrong = [row for row in rows if not row.as_expected]
    print(table(rows))
    print(f"\n{len(rows)} rows, {sum(not row.said for row in rows)} exported, {len(wrong)} not as expected")
    return 1 if wrong or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
