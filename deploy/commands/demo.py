"""``sightline demo``"""

from pathlib import Path
from typing import Annotated

import typer

from deploy.output import JsonPath, Output, check_folder


def demo(
    cameras: Annotated[int, typer.Option(min=1, max=16, help="Cameras on the site.")] = 4,
    people: Annotated[int, typer.Option(min=1, max=200, help="People who walk about.")] = 16,
    seconds: Annotated[float, typer.Option(min=5, max=3600, help="Length of the scene.")] = 60.0,
    seed: Annotated[int, typer.Option(min=0, help="Another seed: other rooms, people and clothes.")] = 1,
    size: Annotated[str, typer.Option(metavar="WxH", help="Pixels of a camera.")] = "640x360",
    camera_fps: Annotated[float, typer.Option(min=1, max=60, help="Pictures a camera sends per second.")] = 10.0,
    fast: Annotated[bool, typer.Option("--fast", help="As fast as the machine can, not in real time.")] = False,
    headless: Annotated[bool, typer.Option("--headless", help="No live view, plain lines.")] = False,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Perceive workers.")] = 1,
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Leave report.json and pictures there.", show_default=False)
    ] = None,
    kafka: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Through this broker.", show_default="in memory")
    ] = None,
    redis: Annotated[
        str | None, typer.Option(metavar="URL", help="With this gallery server.", show_default="embedded")
    ] = None,
    detector: Annotated[
        str | None, typer.Option(metavar="BUNDLE", help="Another detector, or a person search.", show_default="shipped")
    ] = None,
    embedder: Annotated[
        str | None, typer.Option(metavar="BUNDLE", help="Another embedder.", show_default="shipped")
    ] = None,
    json: JsonPath = None,
) -> None:
    """Film a drawn site, run the whole stream on it, and score the answer against the truth.

    Examples: sightline demo --people 8 --seconds 30 --report report

    sightline demo --embedder my-osnet --fast
    """
    from deploy.demo import run_demo
    from ingest.synthetic.scene import parse_url

    output = Output(json)
    if report:
        check_folder("--report", report)
    scene, _, _ = parse_url(
        f"synthetic://?seed={seed}&people={people}&cameras={cameras}&seconds={seconds:g}&size={size}&fps={camera_fps:g}"
    )
    if headless:
        output.console._force_terminal = False
    models = {"detector": detector, "embedder": embedder}
    through = {"kafka": kafka, "redis": redis}
    output.data(run_demo(scene, output.console, fast=fast, workers=workers, report=report, **through, **models))
