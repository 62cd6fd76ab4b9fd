"""The files that ``--json`` and ``--out`` name: complete or not at all, and known to be writable before the work."""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from tilegrad.errors import UserError


class TextFile:
    """A text file under way; use it as a context manager around the work whose result it takes.

    Entering proves that the file can be written. Leaving without `write_text` leaves whatever was there before.
    """

    def __init__(self, path: str) -> None:
        # Where a link leads, so that the link stays one.
        self._path = Path(os.path.realpath(path))
        self._draft: Path | None = None

    def __enter__(self) -> Self:
        try:
            if self._path.is_dir():
                raise UserError(f"cannot write {self._path}: it is a folder; name a file")
            if self._is_device():
                return self
            if self._path.exists() and not os.access(self._path, os.W_OK):
                raise UserError(f"cannot write {self._path}: it is write-protected; choose another file")
            number, draft = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
            self._draft = Path(draft)
            os.close(number)
        except OSError as error:
            raise self._failure(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._draft is not None:
            with contextlib.suppress(FileNotFoundError):
                self._draft.unlink()
            self._draft = None

    def write_text(self, text: str) -> None:
        """Write the text and put the file in its place.

        Raises:
            UserError: if the file cannot be written.
        """
        try:
            if self._draft is None:
                self._path.write_text(text, encoding="utf-8")
                return
            with self._draft.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            self._draft.chmod(0o666 & ~_umask())
            self._draft.replace(self._path)
            self._draft = None
        except OSError as error:
            raise self._failure(error) from error

    def _is_device(self) -> bool:
        """Whether the path is a terminal, a pipe or the like, which nothing may be put in the place of."""
        return self._path.exists() and not self._path.is_file()

    def _failure(self, error: OSError) -> UserError:
        return UserError(f"cannot write {self._path}: {error.strerror or error}; choose another file")


class JsonFile(TextFile):
    """A JSON file under way; see `TextFile`."""

    def write(self, content: Mapping[str, Any]) -> None:
        """Write the content and put the file in its place.

        Raises:
            UserError: if the file cannot be written.
        """
        self.write_text(json.dumps(plain(content), indent=1, allow_nan=False) + "\n")


def plain(content: Any) -> Any:
    """The content in JSON's own types; a number that is not finite becomes the string ``nan``, ``inf`` or ``-inf``."""
    if isinstance(content, Mapping):
        return {str(key): plain(value) for key, value in content.items()}
    if isinstance(content, np.ndarray | np.generic):
        return plain(content.tolist())
    if isinstance(content, Sequence) and not isinstance(content, str):
        return [plain(item) for item in content]
    if isinstance(content, float) and not math.isfinite(content):
        return str(content)
    return content


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
