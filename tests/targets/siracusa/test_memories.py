"""Moving data between L1, L2 and L3: the same calls on the cluster, through its DMA controllers, and on the host."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.targets.siracusa.projects import write_project

import tilegrad as tg
from tilegrad.targets import Session, Target, get_target

#: More than one command can move (128 KiB - 1), and than one uDMA transfer does (512 KiB).
LONG = 40_000
LONGEST = 150_000

SOURCE = f"""
uint32_t tilegrad_source[{LONG}], tilegrad_target[{LONG}];
uint32_t tilegrad_sizes[6];
uint32_t tilegrad_big[{LONGEST}];
TG_IN_L1 uint32_t tilegrad_near[{LONG}];
TG_IN_L3 uint32_t tilegrad_weights[8] = {{1, 2, 3, 4, 5, 6, 7, 8}};
TG_IN_L3 const uint32_t tilegrad_table[4] = {{11, 12, 13, 14}};
TG_IN_L3 uint32_t tilegrad_far[{LONGEST}];

/* sizes: bytes, line, stride, offset in bytes from a word. */
void tilegrad_there_and_back(void)
{{
    if (TG_CORE == 0) {{
        const char *from = (const char *)tilegrad_source + tilegrad_sizes[3];
        tg_dma_t id = tg_dma_begin();
        tg_dma_in(tilegrad_near, from, tilegrad_sizes[0]);
        tg_dma_wait(id);
        id = tg_dma_begin();
        tg_dma_out((char *)tilegrad_target + tilegrad_sizes[3], tilegrad_near, tilegrad_sizes[0]);
        tg_dma_wait(id);
    }}
    tg_barrier();
}}

void tilegrad_gather(void)
{{
    if (TG_CORE == 0) {{
        const tg_dma_t id = tg_dma_begin();
        tg_dma_in_2d(tilegrad_near, tilegrad_source, tilegrad_sizes[0], tilegrad_sizes[1], tilegrad_sizes[2]);
        tg_dma_wait(id);
    }}
    tg_barrier();
    for (int i = TG_FIRST({LONG}); i < TG_LAST({LONG}); i++)
        tilegrad_target[i] = tilegrad_near[i] + 1;
    tg_barrier();
}}

void tilegrad_scatter(void)
{{
    for (int i = TG_FIRST({LONG}); i < TG_LAST({LONG}); i++)
        tilegrad_near[i] = tilegrad_source[i] + 1;
    tg_barrier();
    if (TG_CORE == 0) {{
        const tg_dma_t id = tg_dma_begin();
        tg_dma_out_2d(tilegrad_target, tilegrad_near, tilegrad_sizes[0], tilegrad_sizes[1], tilegrad_sizes[2]);
        tg_dma_wait(id);
    }}
    tg_barrier();
}}

/* Two groups under way at once, then one without transfers, more groups than there are counters, and a barrier right
   behind each: no transfer may end it. */
void tilegrad_groups(void)
{{
    for (int turn = 0; turn < 20; turn++) {{
        if (TG_CORE == 0) {{
            const tg_dma_t first = tg_dma_begin();
            tg_dma_in(tilegrad_near, tilegrad_source, 4000);
            tg_dma_in(tilegrad_near + 1000, tilegrad_source + 1000, 4000);
            const tg_dma_t second = tg_dma_begin();
            tg_dma_in(tilegrad_near + 2000, tilegrad_source + 2000, 64);
            if (turn & 1)
                tg_dma_wait(first);
            tg_dma_wait(second);
            if (!(turn & 1))
                tg_dma_wait(first);
            tg_dma_wait(tg_dma_begin());
        }}
        tg_barrier();
        for (int i = TG_FIRST(2016); i < TG_LAST(2016); i++)
            tilegrad_target[i] = tilegrad_near[i] + (uint32_t)turn;
        tg_barrier();
    }}
}}

void tilegrad_through_l3(void)
{{
    if (TG_CORE == 0) {{
        tg_l3_out(tilegrad_far, tilegrad_big, sizeof tilegrad_far);
        memset(tilegrad_big, 0, sizeof tilegrad_big);
        tg_l3_in(tilegrad_big, tilegrad_far, sizeof tilegrad_far);
        tg_l3_in(tilegrad_target, tilegrad_weights, sizeof tilegrad_weights);
        tg_l3_in(tilegrad_target + 8, tilegrad_table, sizeof tilegrad_table);
        tilegrad_target[0] += 100;
        tg_l3_out(tilegrad_weights, tilegrad_target, 8);
    }}
    tg_barrier();
}}
"""
SYMBOLS = ["source", "target", "sizes", "big", "weights", "far"]
ENTRIES = ["there_and_back", "gather", "scatter", "groups", "through_l3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("memories")


@pytest.fixture(params=["host", "siracusa", "siracusa with one core"])
def session(request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    monkeypatch.setenv("TILEGRAD_CACHE", str(folder / "cache"))
    name, _, one = request.param.partition(" ")
    target: Target = get_target(name)
    target = target.with_cores(1) if one else target
    project = write_project(folder / request.param, target, SOURCE, SYMBOLS, ENTRIES)
    with target.build(project).start() as running:
        yield running


@pytest.fixture
def source(session: Session) -> np.ndarray:
    values = np.arange(1, LONG + 1, dtype=np.uint32) * np.uint32(2654435761)
    session.write("tilegrad_source", values)
    session.write("tilegrad_target", np.zeros(LONG, np.uint32))
    return values


def sizes(session: Session, *values: int) -> None:
    session.write("tilegrad_sizes", np.array([*values, *[0] * (6 - len(values))], np.uint32))


@pytest.mark.parametrize(("size", "offset"), [(4, 0), (1, 3), (65, 2), (0x10000, 0), (0x1FFFF, 1), (4 * LONG, 0)])
def test_transfers_of_any_length(session: Session, source: np.ndarray, size: int, offset: int) -> None:
    sizes(session, size, 0, 0, offset)
    session.call("tilegrad_there_and_back")
    moved = session.read("tilegrad_target", np.uint8, (4 * LONG,))
    expected = np.zeros(4 * LONG, np.uint8)
    expected[offset : offset + size] = source.view(np.uint8)[offset : offset + size]
    assert np.array_equal(moved, expected)


def test_no_bytes_are_no_transfer(session: Session, source: np.ndarray) -> None:
    sizes(session, 0)
    session.call("tilegrad_there_and_back")
    assert not session.read("tilegrad_target", np.uint32, (LONG,)).any()


#: Lines, elements of one, elements from one to the next; the last three take more than one command.
SHAPES = [(1, 5, 5), (7, 5, 9), (3, 4, 4), (2000, 9, 20), (2, 18_000, 20_000), (2, 20_000, 20_000)]


@pytest.mark.parametrize("shape", SHAPES)
def test_lines_are_gathered(session: Session, source: np.ndarray, shape: tuple[int, int, int]) -> None:
    lines, line, stride = shape
    sizes(session, 4 * lines * line, 4 * line, 4 * stride)
    session.call("tilegrad_gather")
    expected = source[: lines * stride].reshape(lines, stride)[:, :line].ravel() + 1
    assert np.array_equal(session.read("tilegrad_target", np.uint32, (LONG,))[: lines * line], expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_lines_are_scattered(session: Session, source: np.ndarray, shape: tuple[int, int, int]) -> None:
    lines, line, stride = shape
    sizes(session, 4 * lines * line, 4 * line, 4 * stride)
    session.call("tilegrad_scatter")
    expected = np.zeros(LONG, np.uint32)
    for k in range(lines):
        expected[k * stride : k * stride + line] = source[k * line : (k + 1) * line] + 1
    assert np.array_equal(session.read("tilegrad_target", np.uint32, (LONG,)), expected)


def test_groups_are_waited_for_one_by_one(session: Session, source: np.ndarray) -> None:
    session.call("tilegrad_groups")
    assert np.array_equal(session.read("tilegrad_target", np.uint32, (LONG,))[:2016], source[:2016] + 19)


def test_l3_holds_what_the_program_says_and_what_it_is_given(session: Session, source: np.ndarray) -> None:
    assert session.read("tilegrad_weights", np.uint32, (8,)).tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    session.write("tilegrad_weights", np.arange(20, 28, dtype=np.uint32))
    big = np.arange(LONGEST, dtype=np.uint32)[::-1] * np.uint32(3)
    session.write("tilegrad_big", big)
    session.call("tilegrad_through_l3")
    assert np.array_equal(session.read("tilegrad_big", np.uint32, (LONGEST,)), big)
    assert np.array_equal(session.read("tilegrad_far", np.uint32, (LONGEST,)), big)
    seen = session.read("tilegrad_target", np.uint32, (LONG,))[:12].tolist()
    assert seen == [120, *range(21, 28), 11, 12, 13, 14]
    assert session.read("tilegrad_weights", np.uint32, (8,)).tolist() == [120, *range(21, 28)]


def test_the_description_says_what_is_there() -> None:
    target = get_target("siracusa")
    assert [memory.name for memory in target.memories] == ["L1", "L2", "L3"]
    assert [memory.name for memory in target.mapped_memories] == ["L1", "L2"]
    assert target.memory("L1").physical == 256 << 10
    assert all(size < (target.memory(name).capacity or 0) for name, size in target.reserved.items())


def test_a_smaller_team_reserves_less_of_l1() -> None:
    target = get_target("siracusa")
    assert target.reserved["L1"] == 8 * target.with_cores(1).reserved["L1"] > 0


def test_budgets_are_checked() -> None:
    target = get_target("siracusa")
    assert target.with_memory("L1", 200_000).memory("L1").capacity == 200_000
    assert target.with_memory("L1", 200_000).memory("L2") == target.memory("L2")
    with pytest.raises(tg.UserError, match="no memory 'L4'; it has L1, L2, L3"):
        target.with_memory("L4", 1000)
    with pytest.raises(tg.UserError, match=r"L1.*262,144 bytes.*262,145"):
        target.with_memory("L1", (256 << 10) + 1)
    with pytest.raises(tg.UserError, match="positive"):
        target.with_memory("L2", 0)
