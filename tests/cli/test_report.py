"""`tilegrad report`: the page is written whole, is the same for equal runs, and errors leave nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cli_harness import invoke, refused

from tilegrad.cli import job
from tilegrad.errors import RunError


def test_a_page_of_a_simulated_run(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = invoke("report", "mlp", "--target", "siracusa", "--steps", 2, "--guard", "--out", page)
    assert result.exit_code == 0, result.output
    assert f"The report is in {page}." in result.stdout
    assert "everything agrees" in result.stdout
    text = page.read_text(encoding="utf-8")
    assert "<title>mlp on siracusa" in text
    assert "Kernels, the longest first" in text
    assert os.listdir(tmp_path) == ["page.html"]


def test_the_options_of_training_decide_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = invoke(
        "report", "mlp", "--steps", 1, "--optimizer", "adam", "--accumulate", 2, "--batch", 3, "--out", page
    )
    assert result.exit_code == 0, result.output
    text = page.read_text(encoding="utf-8")
    assert "of 2 micro-batches with Adam and CrossEntropy" in text
    assert "has no cycle counter" in text


def test_equal_runs_give_equal_pages_unless_a_date_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert invoke("report", "mlp", "--steps", 1).exit_code == 0
        (tmp_path / "report.html").rename(tmp_path / f"{len(os.listdir(tmp_path))}.html")
    assert (tmp_path / "1.html").read_bytes() == (tmp_path / "2.html").read_bytes()
    assert invoke("report", "mlp", "--steps", 1, "--date").exit_code == 0
    dated = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert " UTC</p>" in dated
    assert " UTC</p>" not in (tmp_path / "1.html").read_text(encoding="utf-8")


def test_a_place_that_cannot_be_written_is_found_out_before_the_work(tmp_path: Path) -> None:
    refused(invoke("report", "mlp", "--out", tmp_path / "nowhere" / "page.html"), "cannot write", "nowhere")
    refused(invoke("report", "mlp", "--out", tmp_path), "it is a folder")


def test_wrong_requests_leave_what_was_there(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("old")
    refused(invoke("report", "mpl", "--out", page), "there is no model 'mpl'", "mlp")
    refused(invoke("report", "mlp", "--target", "moon", "--out", page), "moon")
    refused(invoke("report", "mlp", "--guard", "--out", page), "--guard", "'host'")
    assert page.read_text() == "old"
    assert os.listdir(tmp_path) == ["page.html"]


def test_a_run_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.html"
    page.write_text("old")

    def fail(*_: object, **__: object) -> None:
        raise RunError("the program died")

    monkeypatch.setattr(job, "train", fail)
    refused(invoke("report", "mlp", "--out", page), "the program died")
    assert page.read_text() == "old"
