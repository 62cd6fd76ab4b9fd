from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from tilegrad.errors import ToolchainError
from tilegrad.targets import cache as cache_module
from tilegrad.targets.cache import BuildCache, cache_folder, digest


def publish(cache: BuildCache, kind: str, key: str, size: int, age: float = 0.0) -> Path:
    with cache.working_folder() as work:
        (work / "file").write_bytes(b"x" * size)
        path = cache.publish(kind, key, work / "file")
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def test_the_environment_says_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TILEGRAD_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("TILEGRAD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "tilegrad"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "tilegrad"


def test_a_key_depends_on_where_one_part_ends_and_the_next_begins() -> None:
    assert digest(["ab", "c"]) != digest(["a", "bc"])
    assert digest(["ab", "c"]) == digest([b"ab", "c"])


def test_what_is_published_is_found_and_nothing_else(tmp_path: Path) -> None:
    cache = BuildCache(tmp_path)
    assert cache.find("objects", "k") is None
    path = publish(cache, "objects", "k", 10)
    assert cache.find("objects", "k") == path
    assert cache.find("programs", "k") is None
    assert list((tmp_path / "work").iterdir()) == []


def test_pruning_takes_what_was_used_longest_ago(tmp_path: Path) -> None:
    cache = BuildCache(tmp_path, size_limit=1000)
    for number, key in enumerate("abcd"):
        publish(cache, "objects" if number % 2 else "programs", key, 300, age=100_000 - number)
    assert cache.find("programs", "a") is not None  # used now
    cache.prune()
    kept = {key for key in "abcd" for kind in ("objects", "programs") if (tmp_path / kind / key).exists()}
    assert kept == {"a", "d"}


def test_pruning_spares_what_was_used_recently(tmp_path: Path) -> None:
    cache = BuildCache(tmp_path, size_limit=10)
    path = publish(cache, "programs", "a", 300, age=60)
    cache.prune()
    assert path.exists()


def test_pruning_removes_folders_of_killed_builds(tmp_path: Path) -> None:
    cache = BuildCache(tmp_path)
    with cache.working_folder() as live:
        dead = live.parent / "build-dead"
        dead.mkdir()
        then = time.time() - 2 * cache_module.STALE_SECONDS
        os.utime(dead, (then, then))
        cache.prune()
        assert live.exists() and not dead.exists()


def test_a_place_that_cannot_be_a_folder_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = BuildCache(tmp_path / "file")
    for use in (lambda: cache.find("objects", "k"), lambda: cache.working_folder().__enter__()):
        with pytest.raises(
            ToolchainError, match=r"file cannot be written: .*; make it writable, or set TILEGRAD_CACHE"
        ):
            use()


def test_a_full_disk_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ToolchainError, match="No space left on device; free some space there, or set TILEGRAD_CACHE"):
        publish(BuildCache(tmp_path), "objects", "k", 10)
    assert not (tmp_path / "objects" / "k").exists()
