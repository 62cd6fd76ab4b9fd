"""The build cache: finished files under keys made of everything that went into them.

Files appear in the cache complete or not at all (written aside, then renamed), so any number of processes may share
it. It lives in ``$TILEGRAD_CACHE``, else ``$XDG_CACHE_HOME/tilegrad``, else ``~/.cache/tilegrad``, and may be deleted
at any time.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tilegrad.errors import ToolchainError

SIZE_LIMIT = 1 << 30
"""Bytes of objects and programs that the cache may keep."""

RECENT_SECONDS = 3600.0
"""Whatever was used within this time is not pruned: another process may be about to use it."""

STALE_SECONDS = 86400.0
"""A working folder older than this belongs to a build that was killed."""


def digest(parts: Iterable[str | bytes]) -> str:
    """A key for a sequence of strings and bytes; the lengths count, so that no two sequences share one."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()


def cache_folder() -> Path:
    """Where the cache is, whether or not it exists yet.

    Raises:
        ToolchainError: neither the environment nor a home directory says where.
    """
    if chosen := os.environ.get("TILEGRAD_CACHE"):
        return Path(chosen).absolute()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base).absolute() / "tilegrad"
    try:
        return Path.home() / ".cache" / "tilegrad"
    except RuntimeError as error:
        raise ToolchainError(
            "there is no home directory to keep the build cache in: set TILEGRAD_CACHE to a folder"
        ) from error


def storage_error(error: OSError, folder: Path) -> ToolchainError:
    """The error for a build cache that cannot be written, with the way out that fits its cause."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    advice = "free some space there" if full else "make it writable"
    return ToolchainError(
        f"the build cache {folder} cannot be written: {error.strerror or error}; "
        f"{advice}, or set TILEGRAD_CACHE to another folder"
    )


@dataclass(frozen=True)
class BuildCache:
    """The cache in one folder.

    Attributes:
        folder: the cache's root.
        size_limit: bytes of cached files that `prune` leaves.
    """

    folder: Path
    size_limit: int = SIZE_LIMIT

    @classmethod
    def default(cls) -> BuildCache:
        """The user's cache, as the environment says.

        Raises:
            ToolchainError: there is no place for it.
        """
        return cls(cache_folder())

    def find(self, kind: str, key: str) -> Path | None:
        """The file of this kind and key, marked as used now, or None."""
        path = self._path(kind, key)
        try:
            os.utime(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            # Somebody else's cache, shared read-only, is a fine place to read from.
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS) or not path.is_file():
                raise storage_error(error, self.folder) from error
        return path

    def publish(self, kind: str, key: str, finished: Path) -> Path:
        """Moves a finished file (inside a `working_folder`) into the cache and returns its place there.

        Raises:
            ToolchainError: the cache cannot be written.
        """
        path = self._path(kind, key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(finished, path)
        except OSError as error:
            raise storage_error(error, self.folder) from error
        return path

    @contextlib.contextmanager
    def working_folder(self) -> Iterator[Path]:
        """A fresh folder on the cache's file system, removed afterwards.

        Raises:
            ToolchainError: the cache cannot be written.
        """
        parent = self.folder / "work"
        try:
            parent.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix="build-", dir=parent))
        except OSError as error:
            raise storage_error(error, self.folder) from error
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def prune(self) -> None:
        """Removes what was used longest ago until the cache is well below its limit, and folders of killed builds."""
        now = time.time()
        for folder in self._entries(self.folder / "work"):
            if now - folder.stat.st_mtime > STALE_SECONDS:
                shutil.rmtree(folder.path, ignore_errors=True)
        files = [entry for kind in ("objects", "programs") for entry in self._entries(self.folder / kind)]
        total = sum(entry.stat.st_size for entry in files)
        if total <= self.size_limit:
            return
        for entry in sorted(files, key=lambda entry: entry.stat.st_mtime):
            if total <= self.size_limit * 3 // 4 or now - entry.stat.st_mtime < RECENT_SECONDS:
                return
            entry.path.unlink(missing_ok=True)
            total -= entry.stat.st_size

    def _path(self, kind: str, key: str) -> Path:
        return self.folder / kind / key

    @staticmethod
    def _entries(folder: Path) -> list[_Entry]:
        entries: list[_Entry] = []
        if folder.is_dir():
            with os.scandir(folder) as found:
                for item in found:
                    # Another process may prune at the same time: what is gone is none of ours.
                    with contextlib.suppress(FileNotFoundError):
                        entries.append(_Entry(Path(item.path), item.stat()))
        return entries


@dataclass(frozen=True)
class _Entry:
    path: Path
    stat: os.stat_result
