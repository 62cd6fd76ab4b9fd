"""Which targets there are: folders beside this file, targets of other packages, and targets registered at run time.

A folder ``tilegrad/targets/<name>/`` whose module ``target.py`` defines ``TARGET`` is a built-in target. Another
package declares one in its metadata, as an entry point of the group ``tilegrad.targets`` that leads to a `Target`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from tilegrad.errors import UserError
from tilegrad.targets.base import Target

ENTRY_POINT_GROUP = "tilegrad.targets"

_registered: dict[str, Target] = {}


def register_target(target: Target) -> Target:
    """Makes a target known for the rest of the process.

    Args:
        target: its name must not be taken, neither by a built-in target nor by another package's.

    Returns:
        The target itself.

    Raises:
        UserError: the name is taken.
    """
    if target.name in _registered or target.name in _installed():
        raise UserError(f"there is a target called {target.name!r} already: give this one another name")
    _registered[target.name] = target
    return target


def unregister_target(name: str) -> None:
    """Forgets a target that `register_target` made known.

    Raises:
        UserError: no target was registered under this name.
    """
    if name not in _registered:
        raise UserError(f"no target called {name!r} was registered")
    del _registered[name]


def get_target(name: str) -> Target:
    """The target called `name`.

    Raises:
        UserError: there is none, or the package that declares it cannot be loaded.
    """
    if name in _registered:
        return _registered[name]
    installed = _installed()
    if name in installed:
        return _checked(name, installed[name]())
    known = sorted({*_registered, *installed})
    close = get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise UserError(f"there is no target {name!r}; {hint}known targets: {', '.join(known)}")


def list_targets() -> tuple[Target, ...]:
    """All targets, sorted by name.

    Raises:
        UserError: a package declares a target that cannot be loaded; the message names it.
    """
    return tuple(get_target(name) for name in sorted({*_registered, *_installed()}))


def _installed() -> dict[str, Callable[[], object]]:
    """Loaders of built-in and declared targets by name; a built-in one wins over a declared one."""
    declared = {point.name: _loader(point) for point in entry_points(group=ENTRY_POINT_GROUP)}
    folders = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]) if module.ispkg]
    return declared | {name: _builtin(name) for name in folders}


def _builtin(name: str) -> Callable[[], object]:
    return lambda: importlib.import_module(f"tilegrad.targets.{name}.target").TARGET


def _loader(point: EntryPoint) -> Callable[[], object]:
    def load() -> object:
        try:
            return point.load()
        except (ImportError, AttributeError) as error:
            package = point.dist.name if point.dist is not None else "an installed package"
            raise UserError(
                f"target {point.name!r} of {package} ({point.value}) cannot be loaded: {error}; repair or uninstall it"
            ) from error

    return load


def _checked(name: str, found: object) -> Target:
    if not isinstance(found, Target) or found.name != name:
        raise UserError(f"what is declared as target {name!r} is {found!r}, not a tilegrad Target of that name")
    return found
