"""``sightline bench``"""

from typing import Annotated

import typer

from deploy.output import JsonPath, Output


def bench(
    scenes: Annotated[int, typer.Option(min=1, max=5, help="How many of the five held-out scenes.")] = 1,
    seconds: Annotated[float, typer.Option(min=5, max=600, help="Length of each scene.")] = 90.0,
    json: JsonPath = None,
) -> None:
    """Measure the stream on this machine: four cameras 1280x720 at 25 fps sampled at 5, 24 people, in real time.

    The scenes are drawn first, which takes minutes; they are kept for the next time.

    Example: sightline bench --scenes 1 --json bench.json
    """
    from deploy.bench import SEEDS, bench_scene, run_bench

    output = Output(json)
    output.data(run_bench([bench_scene(seed, seconds) for seed in SEEDS[:scenes]], output.console))
