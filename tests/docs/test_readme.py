"""The README does what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.cli_harness import invoke
from tests.docs.blocks import DOCS, ROOT, blocks

import tilegrad as tg
from tilegrad.operators.registry import aten_names, onnx_names

README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]


def test_the_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks(README, "python")
    names: dict[str, object] = {}
    exec(compile(example, str(README), "exec"), names)
    assert names["run"].losses[-1] < names["run"].losses[0]  # type: ignore[attr-defined]
    assert "(8, 2, 3) (8, 2, 3)" in capsys.readouterr().out


def test_its_first_screen_holds_the_two_commands() -> None:
    screen = README.read_text(encoding="utf-8").splitlines()[:24]
    assert any(line.startswith("    make demo ") for line in screen)
    assert any(line.startswith("    make test ") for line in screen)


def test_its_own_model_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source,) = blocks(README, "py")
    (tmp_path / "gesture.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    assert "forward: 0" in invoke("inspect", "gesture.py:gesture", "--stage", "c", "--freeze", "0.*").stdout


def test_the_operators_it_names_are_registered() -> None:
    text = README.read_text(encoding="utf-8")
    table = text[text.index("| family |") : text.index("**Losses:**")]
    known = {name.split(".")[1] for name in aten_names()} | set(onnx_names())
    named = set(re.findall(r"`(\w+)`", table))
    assert len(named) > 80
    assert named <= known


def test_the_losses_and_optimizers_it_names_exist() -> None:
    assert {"CrossEntropy", "MSE", "BCEWithLogits"} <= set(vars(tg.losses))
    assert {"SGD", "Adam", "AdamW"} <= set(vars(tg.optim))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, _, anchor in (link.partition("#") for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8"))):
        if "://" in target:
            continue
        file = page.parent / target if target else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", h).lower().replace(" ", "-") for h in headings], anchor


def test_the_gradients_of_the_worked_example_are_those_that_are_derived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = DOCS / "architecture.md"
    source = next(block for block in blocks(page, "python") if "def strided" in block)
    (tmp_path / "strided.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    printed = invoke("inspect", "strided.py:strided", "--stage", "training", "--loss", "mse").stdout
    example = next(block for block in blocks(page, "text") if "d.1.weight" in block)
    operations = re.split(r"^(?=  \S)", example, flags=re.MULTILINE)[1:]
    assert len(operations) == 3
    for operation in operations:
        assert operation in printed


def test_the_operator_that_the_architecture_shows_is_the_one_in_the_tree() -> None:
    source = (ROOT / "src" / "tilegrad" / "operators" / "activation.py").read_text(encoding="utf-8")
    shown = [block for block in blocks(DOCS / "architecture.md", "python") if "hard_sigmoid" in block]
    assert len(shown) == 2
    for block in shown:
        assert block in source
