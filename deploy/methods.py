"""What `sightline methods` does: every method and ablation with its paper, cost and command, counted from its recipe; and all keys."""

import json
import shlex
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stream.errors import UsageError
from trainer.costs import CLASSES, cost
from trainer.methods import METHODS, method_module
from trainer.settings import Recipe, make_recipe

DATA = {"detector": "synthetic", "person-search": "prw"}
"""What a method is shown with; all others with Market-1501."""
FULL = "as published"
"""Name of a method's own values; the detector is nobody's."""


def describe(method: str) -> list[dict[str, Any]]:
    """One row per variant of a method: its own values first, then the rows of its paper's ablations."""
    module = method_module(method)
    rows = []
    for variant, keys in [(FULL, {}), *((name, keys) for name, keys in module.ABLATIONS.items() if keys)]:
        recipe = make_recipe({"method": method, **keys}, f"{method}, {variant}")
        counted = cost(recipe)
        rows.append(
            {
                "method": method,
                "variant": variant,
                "paper": module.PAPER,
                "embedding": counted.embedding,
                "input_hw": recipe.input_hw,
                "parameters": counted.parameters,
                "training_parameters": counted.training_parameters,
                "multiply_adds": counted.multiply_adds,
                "losses": module.LOSSES,
                "command": command(method, variant, keys),
            }
        )
    return rows


def command(method: str, variant: str, keys: Mapping[str, object]) -> str:
    """The command line that trains a variant."""
    data = DATA.get(method, "market1501")
    words = ["sightline", "train", method, "--data", data, *([] if data == "synthetic" else ["--root", "DIR"])]
    for key, value in keys.items():
        words += ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    name = "-".join("".join(c if c.isalnum() or c == "." else " " for c in variant.lower()).split())
    return shlex.join([*words, "--output", f"runs/{method}" + ("" if variant == FULL else f"-{name}")])


def list_methods(methods: list[str], console: Console) -> list[dict[str, Any]]:
    """Print a table per method; returns all rows."""
    found = []
    for method in methods or list(METHODS):
        rows = describe(method)
        found += rows
        first = rows[0]
        console.print(f"[bold]{method}[/bold]  {escape(first['paper'])}", markup=True)
        console.print(f"losses: {', '.join(first['losses'])}")
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        names = ("embedding", "input", "parameters", f"with {CLASSES} people", "multiply-adds")
        numbers = [_numbers(row) for row in rows]
        table.add_column("variant", overflow="fold")
        for name, cells in zip(names, zip(*numbers, strict=True), strict=True):
            # a number is never cut: words fold instead
            table.add_column(name, justify="right", min_width=max(map(len, cells)))
        for row, cells in zip(rows, numbers, strict=True):
            table.add_row(row["variant"], *cells)
        console.print(table)
        console.print("to train one of them:")
        for row in rows:
            console.print(f"  {row['command']}", markup=False)
        console.print()
    return found


def keys_of(method: str) -> list[dict[str, Any]]:
    """Every key of a method's recipe with the method's own value, what else it may be where that is one of a few words, and its meaning."""
    kind: type[Recipe] = method_module(method).RECIPE
    own = kind.model_validate({"method": method}).model_dump(mode="json")
    return [
        {"key": key, "value": own[key], "choices": _choices(field.annotation), "meaning": _meaning(kind, key)}
        for key, field in kind.model_fields.items()
    ]


def list_keys(methods: list[str], console: Console) -> list[dict[str, Any]]:
    """Print every key of one method as a recipe file has it, its meaning above it; returns all rows. Raises `UsageError`."""
    if len(methods) != 1:
        raise UsageError(f"--keys prints the recipe of one method: name one of {', '.join(METHODS)}")
    rows = keys_of(methods[0])
    for row in rows:
        choices = f"({', '.join(map(str, row['choices']))})" if len(row["choices"]) > 1 else ""
        if said := f"{row['meaning']} {choices}".strip():
            console.print(f"# {said}", markup=False)
        given = (
            f"{row['key']} = {json.dumps(row['value'])}" if row["value"] is not None else f"# {row['key']} is left out"
        )
        console.print(f"{given}\n", markup=False)
    return rows


def _choices(annotation: object) -> tuple[object, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _meaning(kind: type[Recipe], key: str) -> str:
    """In one line, as it stands below the key, in the method's own file or in what all methods have."""
    every = (
        base.model_fields[key].description
        for base in kind.__mro__
        if issubclass(base, Recipe) and key in base.model_fields
    )
    return " ".join(next(filter(None, every), "").split())


def _numbers(row: Mapping[str, Any]) -> tuple[str, ...]:
    """What stands behind a variant's name."""
    return (
        str(row["embedding"] or "-"),
        "x".join(map(str, row["input_hw"])),
        f"{row['parameters']:,}",
        f"{row['training_parameters']:,}",
        f"{row['multiply_adds'] / 1e9:.4g} G",
    )
