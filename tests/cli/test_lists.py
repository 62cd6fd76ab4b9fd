"""The commands that list things: models, operators, targets, doctor."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cli_harness import invoke, refused

from tilegrad import targets
from tilegrad.models import list_models


def test_models_lists_every_model_with_its_options() -> None:
    result = invoke("models")
    assert result.exit_code == 0
    for entry in list_models():
        assert f"{entry.name}: {entry.summary}" in result.stdout
        for option in entry.options:
            assert f"--{option.name} " in result.stdout


def test_operators_lists_both_kinds_of_name() -> None:
    lines = [line.strip() for line in invoke("operators").stdout.splitlines()]
    assert "aten.relu.default" in lines
    assert "Relu" in lines


def test_operators_finds_by_part_and_by_glob() -> None:
    assert {line.strip() for line in invoke("operators", "LeakyRelu").stdout.splitlines()} >= {"LeakyRelu"}
    found = invoke("operators", "aten.relu.*").stdout
    assert "aten.relu.default" in found
    assert "leaky" not in found


def test_operators_of_one_kind() -> None:
    assert "aten." not in invoke("operators", "--onnx").stdout
    assert "Relu\n" not in invoke("operators", "--aten").stdout


def test_an_operator_that_is_not_there_is_an_error_with_near_names() -> None:
    refused(invoke("operators", "sofmax"), "sofmax", "softmax")


def test_targets_lists_the_host_with_its_memory() -> None:
    result = invoke("targets")
    assert result.exit_code == 0
    assert "host: " in result.stdout
    assert "memory ram: no limit" in result.stdout


def test_doctor_succeeds_where_everything_required_is_there() -> None:
    result = invoke("doctor")
    assert result.exit_code == 0
    assert "zig" in result.stdout
    assert "torch" in result.stdout


def test_doctor_fails_and_gives_the_remedy_where_something_required_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = targets.doctor()
    broken = replace(checks[0], found=False, detail="it is gone", remedy="bring it back", required=True)
    monkeypatch.setattr(targets, "doctor", lambda: (broken, *checks[1:]))
    result = invoke("doctor")
    assert result.exit_code == 1
    assert "MISSING" in result.stdout
    assert "bring it back" in result.stdout
