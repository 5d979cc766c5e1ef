"""``sightline bench``"""

from pathlib import Path
from typing import Annotated

import typer

from deploy.output import JsonPath, Output, check_picture

bench = typer.Typer(invoke_without_command=True)


@bench.callback()
def stream(
    context: typer.Context,
    scenes: Annotated[int, typer.Option(min=1, max=5, help="How many of the five held-out scenes.")] = 1,
    seconds: Annotated[float, typer.Option(min=5, max=600, help="Length of each scene.")] = 90.0,
    json: JsonPath = None,
) -> None:
    """Measure the stream on this machine: four cameras 1280x720 at 25 fps sampled at 5, 24 people, in real time.

    The scenes are drawn first, which takes minutes; they are kept for the next time. `sightline bench models` measures the models
    alone.

    Example: sightline bench --scenes 1 --json bench.json
    """
    if context.invoked_subcommand:
        return
    from deploy.bench import SEEDS, bench_scene, run_bench

    output = Output(json)
    output.data(run_bench([bench_scene(seed, seconds) for seed in SEEDS[:scenes]], output.console))


@bench.command()
def models(
    bundles: Annotated[
        list[str] | None,
        typer.Argument(metavar="[BUNDLE...]", help="Names or folders.", show_default="those that ship, and your own"),
    ] = None,
    methods: Annotated[
        bool,
        typer.Option("--methods", help="Instead: a network of each training method with random weights, beside torch."),
    ] = False,
    batch: Annotated[int, typer.Option(min=1, max=64, help="Pictures per call; fewer where a card takes fewer.")] = 8,
    threads: Annotated[int, typer.Option(min=1, max=256, help="Processor threads of every runtime.")] = 1,
    picture: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Also draw it there.")] = None,
    json: JsonPath = None,
) -> None:
    """Measure models in every installed runtime and precision: speed, memory, and what share of the machine's peak that is.

    Each must give the bundle's golden outputs first. Turns alternate and the quickest counts; with one thread processor seconds do.

    Example: sightline bench models --json models.json --picture models.png
    """
    from deploy.bench_models import bench_models, draw
    from stream.errors import UsageError

    if methods and bundles:
        raise UsageError("--methods measures networks of its own: leave the bundles out, or --methods")
    output = Output(json)
    if picture is not None:
        check_picture("--picture", picture)
    if methods:
        from deploy.training import require_torch

        require_torch("bench models --methods")
        import torch

        torch.set_num_threads(threads)
    found = bench_models(bundles or (), methods=methods, batch=batch, threads=threads, console=output.console)
    if picture is not None:
        draw(found["rows"], picture)
    output.data(found)
