"""``sightline average``"""

from pathlib import Path
from typing import Annotated

import typer

from stream.errors import UsageError


def average(
    checkpoints: Annotated[
        list[Path],
        typer.Argument(
            metavar="CHECKPOINT...",
            help="Two or more of one method; a training's output folder means its checkpoint.pt.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option(metavar="FILE", help="The checkpoint to write.")],
) -> None:
    """Make one checkpoint with the mean of several networks' weights, such as before and after a training went on.

    Example: sightline average runs/osnet/checkpoint.pt runs/osnet-more/checkpoint.pt --output runs/mean.pt
    """
    from deploy.training import require_torch

    require_torch("average")
    from deploy.output import Output
    from trainer import checkpoint

    checkpoints = [checkpoint.file_of(each) for each in checkpoints]
    if len(checkpoints) < 2:
        raise UsageError(f"one checkpoint has no mean: name two or more, got {len(checkpoints)}")
    if output.is_dir():
        raise UsageError(f"--output {output} is a folder: name a file, such as {output / 'mean.pt'}")
    if output.exists():
        old = checkpoint.load(output)
        if old.optimiser or old.best or any(each.exists() and each.samefile(output) for each in checkpoints):
            raise UsageError(
                f"--output {output} holds what a training wrote, or is read here itself: name another file"
            )
    mean = checkpoint.average(checkpoints)
    with checkpoint.writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(output, mean)
    Output(None).console.print(f"{output}: the mean of {len(checkpoints)} checkpoints of {mean.recipe['method']}")
