from __future__ import annotations

from pathlib import Path

import pytest

from tilegrad.targets import Check, doctor


def checks() -> dict[str, Check]:
    return {check.name: check for check in doctor()}


def test_every_check_is_there_in_order() -> None:
    assert [check.name for check in doctor()] == [
        "zig", "gcc", "clang", "riscv64-unknown-elf-gcc", "gvsoc", "CPU fused multiply-add",
        "torch", "onnx", "build cache",
    ]  # fmt: skip


def test_what_is_found_has_a_version_and_a_place(cache: Path) -> None:
    found = checks()
    assert found["zig"].found and found["zig"].version and found["zig"].detail.endswith("zig")
    assert found["onnx"].found and found["onnx"].version
    assert found["build cache"].found and found["build cache"].detail == str(cache)
    assert all(check.remedy == "" for check in found.values() if check.found)


def test_what_is_missing_has_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("GVSOC_HOME", raising=False)
    monkeypatch.setenv("TILEGRAD_CACHE", str(tmp_path / "file"))
    found = checks()
    assert not found["gcc"].found and "apt install gcc" in found["gcc"].remedy
    assert "apt install gcc-riscv64-unknown-elf" in found["riscv64-unknown-elf-gcc"].remedy
    assert not found["gvsoc"].found and "set GVSOC_HOME" in found["gvsoc"].remedy
    assert not found["clang"].found and "apt install clang" in found["clang"].remedy
    assert not found["build cache"].found and found["build cache"].required
    assert "TILEGRAD_CACHE" in found["build cache"].remedy


def test_gvsoc_is_found_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "gvsoc"
    program.parent.mkdir()
    program.write_text("")
    monkeypatch.setenv("GVSOC_HOME", str(tmp_path))
    assert checks()["gvsoc"] == Check("gvsoc", True, "", str(program), "", False)
