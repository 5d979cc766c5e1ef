"""Which models a site runs: a detector and an embedder, or one person search that is both."""

import logging
from typing import TYPE_CHECKING

from deploy.bundle import Bundle, load_bundle, synthetic_only_warning
from deploy.settings import Settings
from detector.settings import DetectorSettings
from reid.settings import EmbedderSettings
from stream.errors import SettingsError

if TYPE_CHECKING:
    from deploy.backends import Candidate

log = logging.getLogger(__name__)


def detector_of(detector: DetectorSettings, reid: EmbedderSettings) -> Bundle:
    """What finds people. Raises `BundleError`, and `SettingsError` for a person search beside another embedder."""
    found = load_bundle(detector.bundle, "detector", "person-search")
    if found.card.kind == "person-search" and not _one_bundle(detector, reid):
        raise SettingsError(
            f'[detector] bundle = "{detector.bundle}" is a person search, which describes people itself: '
            f'leave [reid] bundle = "{reid.bundle}" out'
        )
    return found


def embedder_of(detector: DetectorSettings, reid: EmbedderSettings) -> Bundle:
    """What describes people: the detector's bundle where that is a person search. Raises `BundleError`."""
    if "bundle" in detector.model_fields_set and _one_bundle(detector, reid):
        found = load_bundle(detector.bundle)
        if found.card.kind == "person-search":
            return found
    return load_bundle(reid.bundle, "embedder")


def _one_bundle(detector: DetectorSettings, reid: EmbedderSettings) -> bool:
    """Whether the site file names no embedder beside the detector."""
    return "bundle" not in reid.model_fields_set or reid.bundle == detector.bundle


def backends_of(settings: Settings) -> "list[tuple[Bundle, Candidate]]":
    """Each of the site's models and what serves it here; chosen now if it was never chosen."""
    from deploy.backends import choose

    compute = settings.compute
    detector, embedder = (find(settings.detector, settings.reid) for find in (detector_of, embedder_of))
    chosen = {embedder.path: (embedder, compute.embedder_checkpoint)}
    chosen = {detector.path: (detector, compute.detector_checkpoint)} | chosen
    return [(bundle, choose(bundle, 1, compute.backend, checkpoint)) for bundle, checkpoint in chosen.values()]


def say_backends(settings: Settings) -> None:
    """One line per model for which there is a choice of runtimes; made now, before any camera is opened, if it was never made."""
    for bundle, candidate in backends_of(settings):
        if candidate.remark:
            log.info("%s: %s, %s", bundle.card.name, candidate.name, candidate.remark)


def warn_of_synthetic_models(settings: Settings) -> None:
    """One line per model that saw drawn people only and serves a real camera."""
    real = any(camera.kind != "synthetic" for camera in settings.camera)
    detector, embedder = (find(settings.detector, settings.reid).card for find in (detector_of, embedder_of))
    for card in {detector.id: detector, embedder.id: embedder}.values():
        if warning := synthetic_only_warning(card, real):
            log.warning("%s", warning)
