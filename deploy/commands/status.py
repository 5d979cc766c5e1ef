"""``sightline status``"""

from deploy.output import JsonPath, Output, SitePath, StatePath


def status(site: SitePath, json: JsonPath = None, state: StatePath = None) -> None:
    """Say how a running site is doing: who matches, last numbers, each camera's last frame and lag.

    Example: sightline status site.toml
    """
    from rich.table import Column, Table
    from rich.text import Text

    from deploy import status as asking
    from deploy.settings import load

    output = Output(json)
    settings = load(site)
    found = asking.status(settings, state)
    relayed = "" if settings.kafka is None else f", on Kafka up to {found.relayed_number or 'none'}"
    output.console.print(
        f"site {found.site}: matcher {found.matcher or 'none'} (number {found.epoch} of this site)\n"
        f"events up to {found.last_number}{relayed}; {found.identities} identities of {found.model or 'no model yet'}"
    )
    table = Table(Column("camera", overflow="fold"), "last frame", "frames not perceived", "records not matched")
    for camera in found.cameras:
        age_s = camera.age_s(found.at_ns)
        late = settings.live and (age_s is None or age_s > asking.LIVE_AGE_S)
        last = "none yet" if age_s is None else "end of file" if camera.ended else f"{age_s:.1f} s ago"
        lags = [str(lag) if lag is not None else "" for lag in (camera.frames_lag, camera.embeddings_lag)]
        table.add_row(camera.camera, Text(last, style="red" if late else ""), *lags)
    output.console.print(table)
    output.data(found)
