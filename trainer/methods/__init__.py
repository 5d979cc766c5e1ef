"""The training methods, one module each, imported when asked for.

Each has PAPER, LOSSES, ABLATIONS, RECIPE, TASK and `embedder(recipe)`, the network that serves.
"""

import difflib
from importlib import import_module
from types import ModuleType

from stream.errors import SettingsError

METHODS = {
    "osnet": "trainer.methods.osnet",
    "eprinet": "trainer.methods.eprinet",
    "magnifiernet": "trainer.methods.magnifiernet",
    "mgre": "trainer.methods.mgre",
    "person-search": "trainer.methods.person_search",
    "detector": "trainer.methods.detector",
}


def method_module(name: str) -> ModuleType:
    """The module of a method; `SettingsError` for a name that is none."""
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, 1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(METHODS)}"
        raise SettingsError(f"there is no method {name!r}: {hint}")
    return import_module(METHODS[name])
