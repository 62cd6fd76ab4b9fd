"""``file.py:factory``: run a user's file and call the function in it that makes the model."""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from tilegrad.errors import UserError


def load_factory(path: Path, name: str) -> Callable[[], Any]:
    """Run a Python file as a module of its own and find a function in it.

    The module's name is unique, so that a file may be called like any package. The file's folder is searched last for
    imports, so that the modules beside it are found and hide nothing.

    Raises:
        UserError: the file cannot be read or fails, or has no such function; the message shows the user's own line.
    """
    path = path.absolute()
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    module = ModuleType(f"tilegrad_user_{digest}")
    module.__file__ = str(path)
    # Dataclasses, pickling and torch.export look a class's module up by its name.
    sys.modules[module.__name__] = module
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    call_user_code(path, lambda: exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__))
    factory = getattr(module, name, None)
    if factory is None:
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        close = get_close_matches(name, functions, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(functions) or 'no functions'}"
        raise UserError(f"{path} has no function {name!r}; {hint}")
    if not callable(factory):
        raise UserError(f"{name!r} in {path} is a {type(factory).__name__}; expected a function that makes the model")
    return lambda: call_user_code(path, factory)


def call_user_code(path: Path, call: Callable[[], Any]) -> Any:
    """Call a user's function; what it raises is told in terms of the user's file.

    Raises:
        UserError: the call raised something or asked to end the program.
    """
    try:
        return call()
    except (Exception, SystemExit) as error:
        raise UserError(_describe(path.absolute(), error)) from error


def _describe(path: Path, error: BaseException) -> str:
    what = "".join(traceback.format_exception_only(error)).strip()
    if isinstance(error, SyntaxError):
        return f"{path} is not valid Python:\n{what}"
    frames = traceback.extract_tb(error.__traceback__)
    own = _from_own_code(path, frames)
    where = "".join(
        f"\n  {frame.filename}, line {frame.lineno}, in {frame.name}" + (f"\n    {frame.line}" if frame.line else "")
        for frame in own
    )
    return f"{path} failed: {what}{where}"


def _from_own_code(path: Path, frames: Sequence[traceback.FrameSummary]) -> Sequence[traceback.FrameSummary]:
    """The frames from the first one in the user's file to the last one in the user's folder."""
    own = [k for k, frame in enumerate(frames) if Path(frame.filename).is_relative_to(path.parent)]
    first = next((k for k in own if frames[k].filename == str(path)), None)
    return [frames[k] for k in own if first is not None and k >= first and _is_users(frames[k].filename)]


def _is_users(filename: str) -> bool:
    """Whether a file is neither of an installed package nor of this one."""
    return "site-packages" not in filename and not Path(filename).is_relative_to(Path(__file__).parents[1])
