"""``sightline plan``"""

from typing import Annotated

import typer

from deploy.output import JsonPath, Output, SitePath


def plan(
    site: SitePath,
    people: Annotated[
        float, typer.Option(min=0, max=1000, help="People in one camera's view at a time, on average.")
    ] = 4.0,
    visits: Annotated[float, typer.Option(min=0, max=1e6, help="People entering any camera's view, per hour.")] = 600.0,
    json: JsonPath = None,
) -> None:
    """Say what a site asks of network, disk and processors. Both models are timed on this machine.

    Example: sightline plan site.toml --people 6
    """
    from rich.table import Column, Table

    from deploy import plan as planning
    from deploy.backends import load as load_backend
    from deploy.backends.auto import clock_for
    from deploy.models import backends_of, detector_of, embedder_of
    from deploy.settings import load

    output = Output(json)
    settings = load(site)
    models = settings.detector, settings.reid
    compute = settings.compute
    detector = load_backend(detector_of(*models), 1, compute.backend, compute.detector_checkpoint)
    embedder = detector
    if detector.card.kind != "person-search":
        embedder = load_backend(embedder_of(*models), 1, compute.backend, compute.embedder_checkpoint)
    clock = clock_for([candidate for _, candidate in backends_of(settings)], 1)
    done = planning.plan(settings, planning.measure(detector, embedder, clock), people, visits)

    cameras = Table(
        Column("camera", overflow="fold"),
        "analysed at",
        "frames MB/s",
        "CPU ms per s",
        title="Cameras",
        title_justify="left",
    )
    for camera in done.cameras:
        size = f"{camera.width}x{camera.height} at {camera.fps:g} fps"
        cameras.add_row(camera.camera, size, f"{camera.frames_mb_s:.2f}", f"{camera.cpu_ms_per_s:.0f}")
    topics = Table(
        Column("topic", overflow="fold"),
        "partitions",
        "MB/s",
        "kept s",
        "disk MB",
        title="Topics",
        title_justify="left",
    )
    for topic in done.topics:
        row = (str(topic.partitions), f"{topic.mb_s:.3f}", str(topic.retention_s), f"{topic.disk_mb:.0f}")
        topics.add_row(topic.topic, *row)
    output.console.print(cameras, topics)
    height, _ = planning.ASSUMED_HW
    output.console.print(
        f"Cores: ingest {done.ingest_cores:.2f}, perceive {done.perceive_cores:.2f} "
        f"({done.perceive_workers} worker(s)), match {done.match_cores:.2f}; gallery {done.gallery_mb:.0f} MB\n"
        f"Models here: {done.costs.detect_ms:.1f} ms per frame, {done.costs.embed_ms:.1f} ms per crop, one core. "
        f"Taken as given: {people:g} people in each view, {visits:g} visits per hour, "
        f"{planning.JPEG_BYTES_PER_PIXEL} bytes per pixel, cameras of {height}p at {planning.SOURCE_FPS} fps."
    )
    output.data(done)
