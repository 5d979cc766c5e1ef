"""``sightline perceive``"""

from deploy.output import SitePath


def perceive(site: SitePath) -> None:
    """Find, track and embed people in the frames on Kafka, until stopped. Start several: they share the cameras.

    Example: sightline perceive site.toml
    """
    from deploy.service import service
    from deploy.settings import load
    from deploy.wiring import perceive_worker

    settings = load(site)
    with service(settings, "perceive") as stop:
        perceive_worker(settings, stop)
