"""`tilegrad compile` and `tilegrad inspect`: the C project and every stage before it."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_harness import invoke, refused

SMALL = ("mlp", "--features", 4, "--hidden", 4, "--depth", 1, "--classes", 3)


def test_compile_writes_the_project_beside_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke("compile", *SMALL)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "mlp_c" / "include" / "tilegrad_model.h").is_file()
    assert "src/tilegrad_train.c" in result.stdout
    assert "lower bound" in result.stdout


def test_a_project_is_named_after_the_users_factory(
    tmp_path: Path, user_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke("compile", "user.py:make").exit_code == 0
    assert (tmp_path / "make_c" / "CMakeLists.txt").is_file()


def test_an_older_project_is_replaced_and_any_other_folder_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    for _ in range(2):
        assert invoke("compile", *SMALL, "--out", folder).exit_code == 0
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("all of it")
    refused(invoke("compile", *SMALL, "--out", precious), "precious", "not a generated project")
    assert [path.name for path in precious.iterdir()] == ["thesis.txt"]
    assert {path.name for path in tmp_path.iterdir()} == {"project", "precious"}


def test_inference_alone_has_no_training_entry(tmp_path: Path) -> None:
    assert invoke("compile", *SMALL, "--inference", "--out", tmp_path / "p").exit_code == 0
    header = (tmp_path / "p" / "include" / "tilegrad_model.h").read_text()
    assert "tilegrad_predict" in header
    assert "tilegrad_train" not in header


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["graph model(x", "parameter head.weight", "return head"]),
        (["--stage", "graph"], ["parameter head.weight"]),
        (["--stage", "training"], ["# backward head", "d.head"]),
        (["--training"], ["# backward head"]),
        (["--stage", "plan"], ["plan for host", "entry train:", "entry optimize:"]),
        (["--plan"], ["plan for host"]),
        (["--stage", "c"], ["---- include/tilegrad_model.h ----", "void tilegrad_train(void)"]),
        (["--c"], ["void tilegrad_train(void)"]),
        (["--plan", "--stage", "graph"], ["plan for host", "parameter head.weight"]),
    ],
)
def test_inspect_prints_every_stage(arguments: list[str], parts: list[str]) -> None:
    result = invoke("inspect", *SMALL, *arguments)
    assert result.exit_code == 0, result.output
    for part in parts:
        assert part in result.stdout


def test_inspect_refuses_a_stage_that_is_not_there() -> None:
    refused(invoke("inspect", *SMALL, "--stage", "grap"), "grap", "graph")
