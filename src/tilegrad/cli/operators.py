"""`tilegrad operators`: what the compiler implements."""

from __future__ import annotations

from difflib import get_close_matches
from fnmatch import fnmatchcase

import click

from tilegrad.errors import UserError


@click.command("operators", short_help="List the operators that are implemented.")
@click.argument("pattern", default="")
@click.option("--aten", "kind", flag_value="aten", help="Only PyTorch's names.")
@click.option("--onnx", "kind", flag_value="onnx", help="Only ONNX names.")
def command(pattern: str, kind: str | None) -> None:
    """List the operators that are implemented, by their ATen (PyTorch) and ONNX names.

    PATTERN narrows the list to names that contain it, in upper or lower case, or match it as a glob.
    """
    from tilegrad.operators.registry import aten_names, onnx_names

    lists = {"aten": ("PyTorch (ATen)", aten_names()), "onnx": ("ONNX", onnx_names())}
    shown = {key: entry for key, entry in lists.items() if kind in (None, key)}
    found = {title: [name for name in names if _matches(name, pattern)] for title, names in shown.values()}
    if not any(found.values()):
        known = {name.lower(): name for _, names in shown.values() for name in names}
        known |= {name.split(".")[1]: name for name in known.values() if name.startswith("aten.")}
        close = list(dict.fromkeys(known[key] for key in get_close_matches(pattern.lower(), known, n=3)))
        raise UserError(
            f"no implemented operator matches {pattern!r}" + (f"; near it: {', '.join(close)}" if close else "")
        )
    for title, names in found.items():
        if names:
            click.echo(f"{title}: {len(names)}")
            for name in names:
                click.echo(f"    {name}")


def _matches(name: str, pattern: str) -> bool:
    name, pattern = name.lower(), pattern.lower()
    return pattern in name or fnmatchcase(name, pattern)
