"""The page is valid, complete, self-contained and the same every time; names from a model are text on it, no more."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tilegrad as tg
from tilegrad.models import build_model, synthetic_data
from tilegrad.report.observe import record_step
from tilegrad.report.page import Subject, render

VOID = {"meta", "link", "br", "img", "input", "hr", "wbr", "col", "base", "source", "track", "area", "embed"}
#: Marks without which a name could neither open a tag nor leave an attribute.
HOSTILE = "</style></script><script>alert(1)</script><img src=x onerror='alert(2)'>\"&\u202e\x07"


class Page(HTMLParser):
    """A page as its elements and its text; fails where elements do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), attrs
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.open, tag
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, (tag, self.open)
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def subject(target: str, name: str = "mlp", steps: int = 2, **options: Any) -> Subject:
    module, inputs = build_model(name, seed=2)
    module.train()
    build = tg.compile(module, inputs, tg.losses.CrossEntropy(), tg.optim.SGD(), target=target, **options)
    batches = [synthetic_data(name, 1, seed=seed) for seed in range(steps)]
    found = tg.verify(module, build, batches, steps)
    profile = record_step(build, batches) if build.target.simulated else None
    return Subject(name, build, found, "synthetic samples", steps, profile)


@pytest.fixture(scope="module")
def simulated() -> Subject:
    return subject("siracusa")


@pytest.fixture(scope="module")
def hosted() -> Subject:
    return subject("host", accumulate=2)


@pytest.fixture(scope="module", params=["siracusa", "host"])
def either(request: pytest.FixtureRequest) -> Subject:
    found: Subject = request.getfixturevalue("simulated" if request.param == "siracusa" else "hosted")
    return found


def test_the_page_is_valid_and_can_be_read_without_eyes(either: Subject) -> None:
    text = render(either)
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>\n<html lang=")
    assert [len(page.all(tag)) for tag in ("title", "h1", "main", "nav")][1:] == [1, 1, 1]
    ids = Counter(attributes["id"] for _, attributes in page.elements if "id" in attributes)
    assert set(ids.values()) == {1}
    controlled = {attributes["aria-controls"] for attributes in page.all("button")}
    assert controlled == {name for name in ids if str(name).startswith("more-")}
    assert {attributes["href"] for attributes in page.all("a")} == {
        f"#{name}" for name in ids if name not in controlled
    }
    for drawing in page.all("svg"):
        hidden = drawing.get("aria-hidden") == "true"
        assert hidden or (drawing["role"] == "img" and drawing["aria-label"]), drawing
    for head in page.all("th"):
        assert head["scope"] in ("row", "col")
    assert "{{" not in text and "{%" not in text and "None" not in page.text


def test_every_kernel_group_storage_and_tensor_is_on_the_page(either: Subject) -> None:
    words = Page(render(either)).text
    plan = either.build.plan
    for entry in plan.entries:
        for group in entry.groups:
            assert len(group.kernels) == 1 or group.name in words
            assert all(kernel.name in words for kernel in group.kernels)
        for storage in entry.storages:
            assert storage.bytes == 0 or storage.persistent is not None or storage.name in words, storage
    for storage in plan.persistent:
        assert storage.name in words
    for row in either.verification.tensors:
        assert row.name in words


def test_figures_of_memory_and_cycles(simulated: Subject) -> None:
    words = Page(render(simulated)).text
    profile, run = simulated.profile, simulated.run
    assert profile is not None and run.train_cycles is not None and run.opt_cycles is not None
    for use in simulated.build.memory.values():
        for figure in (use.peak, use.lower_bound, use.capacity):
            assert figure is None or f"{figure:,}" in words
    assert f"{profile.cycles:,}" in words
    for kernel in profile.kernels:
        assert f"{kernel.cycles:,}" in words
    assert f"passes {run.train_cycles / 2:,.0f}, optimizer {run.opt_cycles / 2:,.0f}" in words
    assert f"{simulated.build.program.code_bytes:,} bytes of machine code" in re.sub(r"\s+", " ", words)


def test_the_host_says_that_it_has_no_cycles(hosted: Subject) -> None:
    words = Page(render(hosted)).text
    assert "has no cycle counter" in words
    assert "limited by" not in words
    # Three products for each weight, two in the first layer.
    assert "8,192" in words and "20,480" not in words
    assert "micro-batch" in words


def test_nothing_is_fetched(either: Subject) -> None:
    text = render(either)
    page = Page(text)
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<link|<iframe|<img|<object|<base", text)
    for _, attributes in page.elements:
        assert not {"src", "srcset", "data", "xlink:href", "action", "poster"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")]
    (policy,) = [m["content"] or "" for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy
    # A browser takes the hash of everything between the tags.
    for kind in ("script", "style"):
        inner = text[text.index(f"<{kind}>") + len(kind) + 2 : text.index(f"</{kind}>")]
        assert f"{kind}-src 'sha256-{base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()}'" in policy
    assert not [attributes for _, attributes in page.elements if "style" in attributes]


def test_equal_runs_give_equal_pages(simulated: Subject) -> None:
    assert render(simulated) == render(simulated)
    assert render(subject("siracusa")) == render(simulated)


def test_the_date_is_there_only_where_it_is_given(simulated: Subject) -> None:
    assert "2031-02-03" not in render(simulated)
    assert "2031-02-03" in render(replace(simulated, note="2031-02-03 04:05 UTC"))


def hostile_model(path: Path) -> Path:
    rng = np.random.default_rng(0)
    weight, bias, node = (f"{HOSTILE}{kind}" for kind in ("weight", "bias", "node"))
    initializers = [
        numpy_helper.from_array(rng.normal(size=(6, 5)).astype(np.float32), weight),
        numpy_helper.from_array(rng.normal(size=5).astype(np.float32), bias),
    ]
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", [f"{HOSTILE}x", weight, bias], [f"{HOSTILE}h"], name=node),
            helper.make_node("Relu", [f"{HOSTILE}h"], [f"{HOSTILE}y"], name=f"{node}2"),
        ],
        "net",
        [helper.make_tensor_value_info(f"{HOSTILE}x", TensorProto.FLOAT, (4, 6))],
        [helper.make_tensor_value_info(f"{HOSTILE}y", TensorProto.FLOAT, (4, 5))],
        initializers,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


@pytest.mark.parametrize("target", ["siracusa", "host"])
def test_names_from_a_model_are_text(tmp_path: Path, target: str) -> None:
    path = hostile_model(tmp_path / "net.onnx")
    build = tg.compile(path, None, tg.losses.CrossEntropy(), tg.optim.SGD(), target=target)
    batches = [(np.ones((4, 6), np.float32), np.arange(4) % 5)]
    found = tg.verify(path, build, batches, 1)
    found = replace(found, problems=[HOSTILE], notes=[HOSTILE])
    profile = record_step(build, batches) if build.target.simulated else None
    text = render(Subject(HOSTILE, build, found, HOSTILE, 1, profile, HOSTILE))
    page = Page(text)
    assert len(page.all("script")) == len(page.all("style")) == 1 and not page.all("img")
    assert all("alert" not in script for script in page.scripts)
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], attributes
    shown = HOSTILE.replace("\u202e", "\ufffd").replace("\x07", "\ufffd")
    for part in ("weight", "bias"):
        assert shown + part in page.text
    assert "\u202e" not in text and "\x07" not in text
    text.encode("utf-8")


def test_a_lone_surrogate_does_not_keep_the_page_from_being_written(simulated: Subject) -> None:
    text = render(replace(simulated, name="a\ud800b"))
    assert "a\ufffdb" in text
    text.encode("utf-8")


def test_what_does_not_agree_is_at_the_head(simulated: Subject) -> None:
    losses = [replace(row, computed=math.nan, difference=math.nan, ok=False) for row in simulated.verification.losses]
    rows = [
        replace(row, share=math.nan, error=math.inf, ok=False, note="off") for row in simulated.verification.weights
    ]
    found = replace(simulated.verification, losses=losses, weights=rows)
    page = Page(render(replace(simulated, verification=found)))
    assert "does NOT agree" in page.text
    assert page.text.count("WRONG") >= len(losses) + len(rows)
    assert f"weight {rows[0].name}: off" in page.text
    assert len(page.all("svg")) >= len(Page(render(simulated)).all("svg"))
