"""What every long-running command does around its work: log, metrics, and a stop that SIGTERM and Ctrl-C set."""

import json
import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from types import FrameType

from deploy.settings import Settings
from stream.telemetry import setup_logging, start_metrics

log = logging.getLogger(__name__)


AGAIN_S = 1.0
"""A second signal within it is the first one's twin: a process and its group are often both told."""


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """The event to stop at: set by SIGTERM and Ctrl-C; a second one, `AGAIN_S` later or more, interrupts at once."""
    stop, asked_s = threading.Event(), float("inf")

    def asked(number: int, frame: FrameType | None) -> None:
        nonlocal asked_s
        if stop.is_set() and time.monotonic() - asked_s >= AGAIN_S:
            raise KeyboardInterrupt
        asked_s = min(asked_s, time.monotonic())
        stop.set()

    before = {number: signal.signal(number, asked) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def service(settings: Settings, verb: str) -> Iterator[threading.Event]:
    """Log and metrics as the settings say, around the work; a failure is in the log where that is JSON. Yields the event to stop at."""
    setup_logging(json=settings.telemetry.log_json, level=settings.telemetry.log_level)
    try:
        metrics = start_metrics(settings.telemetry)
        with closing(metrics) if metrics else nullcontext(), stop_on_signals() as stop:
            log.info("%s of site %s starts: %s", verb, settings.site.name, json.dumps(settings.masked()))
            if metrics:
                log.info("metrics at %s", metrics.url)
            yield stop
            log.info("%s of site %s %s", verb, settings.site.name, "was stopped" if stop.is_set() else "is done")
    except Exception as error:
        if settings.telemetry.log_json:  # a program reads the log: the last line, which is none of JSON, is lost on it
            log.error("%s of site %s failed: %s", verb, settings.site.name, error)
        raise
