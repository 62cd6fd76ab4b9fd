"""The C function of a group: the loop over tiles, its transfers and the calls of its kernels.

Core 0 of a team moves the data while the others wait or compute; a barrier stands behind every kernel. Where transfers
overlap with kernels, the loads of the next tile are under way while this one is computed, and a store is waited for
when its buffer is needed again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tilegrad.codegen.kernels import Pointers, bounds_text, copy_text, kernel_call, start_text
from tilegrad.codegen.loops import Writer
from tilegrad.codegen.symbols import comment_text
from tilegrad.ir.printer import format_value
from tilegrad.planning.plan import Group, Kernel, Transfer
from tilegrad.planning.span import TileLoop


def group_function(
    group: Group, kernels: Sequence[Kernel], pointers: Pointers, cores: int
) -> tuple[list[str], list[str]]:
    """The functions of a group and the lines that call it; a group of one tile without transfers is called in place.

    Args:
        group: the group.
        kernels: those of its kernels that have something to do.
        pointers: places of storages.
        cores: of the team.
    """
    if not group.loops and not group.loads and not group.stores:
        lines = []
        for kernel in kernels:
            lines.extend(_indented(kernel_call(kernel, (), pointers), 1))
            lines.extend(["    tg_barrier();"] if cores > 1 else [])
        return [], lines
    writer = _GroupWriter(group, kernels, pointers, cores)
    return writer.functions(), [f"    {group.name}();"]


class _GroupWriter:
    def __init__(self, group: Group, kernels: Sequence[Kernel], pointers: Pointers, cores: int) -> None:
        self.group, self.kernels, self.pointers, self.cores = group, kernels, pointers, cores
        self.loops = group.loops
        self.out = Writer()

    def functions(self) -> list[str]:
        """All functions of the group, those for its transfers first."""
        text: list[str] = []
        for name, transfers in (("load", self.group.loads), ("store", self.group.stores)):
            if transfers:
                text.extend([*self._transfers(name, transfers), ""])
        text.extend(self._comment())
        text.extend([f"static void {self.group.name}(void)", "{"])
        self.out = Writer()
        if self.group.overlap:
            self._overlapping()
        else:
            self._one_by_one()
        return [*text, *self.out.lines, "}"]

    def _comment(self) -> list[str]:
        loops = ", ".join(f"{loop.count} of {loop.step} along {loop.extent}" for loop in self.loops) or "one"
        nodes = list(dict.fromkeys(f"{kernel.op.phase} {kernel.op.origin}" for kernel in self.kernels))
        overlap = "; the transfers of a tile overlap with the kernels of its neighbours" if self.group.overlap else ""
        return [f"/* Tiles: {loops}{overlap}.", *(f"   {comment_text(node)}" for node in nodes[:-1]),
                f"   {comment_text(nodes[-1])} */"]  # fmt: skip

    # The loop over tiles

    def _one_by_one(self) -> None:
        """Load, compute, store, one after the other."""
        with self._tiles():
            if self.group.loads or (self.group.stores and self.loops):
                with self._core_0():
                    if self.group.loads:
                        self.out.line("const tg_dma_t in = tg_dma_begin();")
                        self.out.line(f"{self.group.name}_load({self._tile()});")
                        self.out.line("tg_dma_wait(in);")
                self._barrier()
            self._calls()
            if self.group.stores:
                with self._core_0():
                    self.out.line("const tg_dma_t out = tg_dma_begin();")
                    self.out.line(f"{self.group.name}_store({self._tile()});")
                    self.out.line("tg_dma_wait(out);")
        if self.group.stores:
            self._barrier()

    def _overlapping(self) -> None:
        """Loads run ahead by one tile; the store of a tile is waited for when its buffer is due again."""
        name, last = self.group.name, self.group.tiles
        loads, stores = self.group.loads, self.group.stores
        # Where a buffer is loaded and stored, its next load waits for the store before.
        lag = 1 if {t.storage for t in loads} & {t.storage for t in stores} else 2
        if loads:
            self.out.line("tg_dma_t in = 0;")
        if stores:
            self.out.line("tg_dma_t out[2] = {0, 0};")
        if loads:
            with self._core_0():
                self.out.line("in = tg_dma_begin();")
                self.out.line(f"{name}_load(0);")
        with self._tiles():
            with self._core_0():
                if stores and lag == 2:
                    self.out.line("if (tile >= 2) tg_dma_wait(out[tile & 1]);")
                if stores and lag == 1:
                    self.out.line("if (tile >= 1) tg_dma_wait(out[(tile - 1) & 1]);")
                if loads:
                    self.out.line("tg_dma_wait(in);")
                    with self.out.block(f"if (tile + 1 < {last})"):
                        self.out.line("in = tg_dma_begin();")
                        self.out.line(f"{name}_load(tile + 1);")
            self._barrier()
            self._calls()
            if stores:
                with self._core_0():
                    self.out.line("out[tile & 1] = tg_dma_begin();")
                    self.out.line(f"{name}_store(tile);")
        if stores:
            with self._core_0():
                if lag == 2 and last > 1:
                    self.out.line(f"tg_dma_wait(out[{last & 1}]);")
                self.out.line(f"tg_dma_wait(out[{(last - 1) & 1}]);")
            self._barrier()

    @contextmanager
    def _tiles(self) -> Iterator[None]:
        if not self.loops:
            yield
            return
        with self.out.block(f"for (int tile = 0; tile < {self.group.tiles}; ++tile)"):
            self._decode(_used_by_kernels(self.kernels))
            yield

    def _tile(self) -> str:
        return "tile" if self.loops else "0"

    def _decode(self, used: _Used) -> None:
        """The starts and sizes of the present tile, and which copy of a buffer it uses."""
        for number, loop in enumerate(self.loops):
            if number not in used.loops:
                continue
            inner = self._inner(number + 1)
            index = "tile" if inner == 1 else f"tile / {inner}"
            if number:
                index += f" % {loop.count}"
            start = f"{index} * {loop.step}" if loop.step > 1 else index
            self.out.line(f"const int t{number} = {start};")
            if loop.exact:
                self.out.line(f"const int n{number} = {loop.step};")
            else:
                self.out.line(f"const int n{number} = tg_min({loop.step}, {loop.extent} - t{number});")
            self.out.line(f"(void)n{number};")
        for depth in sorted(used.versions):
            inner = self._inner(depth)
            self.out.line(f"const int v{depth} = {'tile' if inner == 1 else f'tile / {inner}'} & 1;")

    def _inner(self, depth: int) -> int:
        """Tiles of the loops behind the `depth` outermost ones."""
        return math.prod(loop.count for loop in self.loops[depth:])

    def _calls(self) -> None:
        for kernel in self.kernels:
            for line in kernel_call(kernel, self.loops, self.pointers):
                self.out.line(line)
            self._barrier()

    def _barrier(self) -> None:
        if self.cores > 1:
            self.out.line("tg_barrier();")

    @contextmanager
    def _core_0(self) -> Iterator[None]:
        if self.cores > 1:
            with self.out.block("if (TG_CORE == 0)"):
                yield
        else:
            with self.out.block(""):
                yield

    # Transfers

    def _transfers(self, name: str, transfers: Sequence[Transfer]) -> list[str]:
        """The function that issues the transfers of one tile."""
        self.out = Writer()
        self._decode(_used_by_transfers(transfers))
        if not self.loops:
            self.out.line("(void)tile;")
        # A store through a buffer between two memories waits in a group of its own: it comes behind the others.
        for transfer in sorted(transfers, key=lambda t: not t.inward and t.via is not None):
            depth = transfer.window.depth
            inner = self._inner(depth)
            due = f"tile % {inner} == {0 if transfer.inward else inner - 1}"
            if depth == 0:
                due = f"tile == {0 if transfer.inward else inner - 1}"
            arrow = "from" if transfer.inward else "to"
            self.out.line(f"/* {comment_text(format_value(transfer.value))}, {arrow} {transfer.home.level} */")
            if inner == 1:
                self._transfer(transfer)
            else:
                with self.out.block(f"if ({due})"):
                    self._transfer(transfer)
        lines = [f"static TG_KERNEL void {self.group.name}_{name}(int tile)", "{", *self.out.lines, "}"]
        if not any("tile" in line for line in self.out.lines):
            lines.insert(2, "    (void)tile;")
        return lines

    def _transfer(self, transfer: Transfer) -> None:
        pieces = _pieces(transfer, self.loops)
        copy = copy_text(transfer.storage, transfer.window, self.loops)
        local = self.pointers.text(transfer.storage, None, copy)
        home = self.pointers.text(transfer.home, None)
        local, home = (
            f"(char *)({local})",
            f"(char *)({home})" if transfer.home.offset is not None else f"(char *){home}",
        )
        if transfer.via is None:
            self._copy(transfer, pieces, local, home)
            return
        via = f"(char *)({self.pointers.text(transfer.via, None)})"
        if transfer.inward:
            self._copy(transfer, pieces, via, home, far=True)
            self.out.line(f"tg_dma_in({local}, {via}, {transfer.storage.bytes});")
            return
        with self.out.block(""):
            self.out.line("const tg_dma_t up = tg_dma_begin();")
            self.out.line(f"tg_dma_out({via}, {local}, {transfer.storage.bytes});")
            self.out.line("tg_dma_wait(up);")
        self._copy(transfer, pieces, via, home, far=True)

    def _copy(self, transfer: Transfer, pieces: _Pieces, local: str, home: str, *, far: bool = False) -> None:
        """The copies of one window: loops around a piece of one or two dimensions."""
        size = transfer.value.dtype.size
        axes = list(pieces.axes)
        chunk = "1"
        if axes and axes[-1].home == 1 and axes[-1].local == 1:
            chunk = axes.pop().count
        line = _times(chunk, size)
        two_d = ""
        if axes and not far and chunk.isdigit() and axes[-1].local == int(chunk):
            last = axes.pop()
            two_d = f"{_times(last.count, int(chunk) * size)}, {line}, {last.home * size}"
        local_at, home_at = [_scaled(pieces.local, size)], [_scaled(pieces.home, size)]
        opened = []
        for number, axis in enumerate(axes):
            block = self.out.block(f"for (int a{number} = 0; a{number} < {axis.count}; ++a{number})")
            block.__enter__()
            opened.append(block)
            local_at.append(f"a{number} * {axis.local * size}")
            home_at.append(f"a{number} * {axis.home * size}")
        first, second = _sum(local, local_at), _sum(home, home_at)
        kind = ("l3" if far else "dma") + ("_in" if transfer.inward else "_out") + ("_2d" if two_d else "")
        ends = (first, second) if transfer.inward else (second, first)
        self.out.line(f"tg_{kind}({ends[0]}, {ends[1]}, {two_d or line});")
        for block in reversed(opened):
            block.__exit__(None, None, None)


@dataclass(frozen=True)
class _Axis:
    """One dimension of a transfer: how often, and the distances in elements in the home and in the buffer."""

    count: str
    home: int
    local: int


@dataclass(frozen=True)
class _Pieces:
    """A window as nested dimensions, outermost first, and the positions of its first element."""

    axes: tuple[_Axis, ...]
    home: tuple[tuple[str, int], ...]
    local: tuple[tuple[str, int], ...]


def _pieces(transfer: Transfer, loops: Sequence[TileLoop]) -> _Pieces:
    """Dimensions that follow each other without gaps on both sides are merged."""
    axes: list[_Axis] = []
    home_at: list[tuple[str, int]] = []
    local_at: list[tuple[str, int]] = []
    strides = transfer.window.strides(loops)
    for span, home, local in zip(transfer.window.spans, transfer.value.strides, strides, strict=True):
        size = span.size(loops)
        origin = start_text(span, loops)
        count = str(size)
        # What a load takes beside the tile's own elements, where the last tile is short or a window leaves the tensor,
        # belongs to its halo; without one it takes just these, which no other tile stores.
        if (transfer.inward and span.extra) or not span.terms:
            home_at.append((origin, home))
        else:
            first, last = bounds_text(span, loops)
            home_at.append((first, home))
            if first != origin:
                local_at.append((f"({first}) - ({origin})", local))
            if not _always_full(span.terms, loops) or first != origin:
                count = f"({last} - ({first}))"
        if count != "1":
            axes.append(_Axis(count, home, local))
    merged: list[_Axis] = []
    for axis in reversed(axes):
        inner = merged[-1] if merged else None
        if inner is not None and inner.count.isdigit():
            size = int(inner.count)
            if axis.home == size * inner.home and axis.local == size * inner.local:
                count = str(int(axis.count) * size) if axis.count.isdigit() else f"{axis.count} * {size}"
                merged[-1] = _Axis(count, inner.home, inner.local)
                continue
        merged.append(axis)
    return _Pieces(tuple(reversed(merged)), tuple(home_at), tuple(local_at))


def _always_full(terms: Sequence[tuple[int, int]], loops: Sequence[TileLoop]) -> bool:
    return all(loops[loop].exact for loop, _ in terms)


@dataclass(frozen=True)
class _Used:
    """The tile variables that some code needs: loops, and depths of versions."""

    loops: frozenset[int]
    versions: frozenset[int]


def _used_by_kernels(kernels: Sequence[Kernel]) -> _Used:
    loops = {loop for kernel in kernels for spans in kernel.ranges for span in spans for loop, _ in span.terms}
    versions = set()
    for kernel in kernels:
        loops |= set(kernel.cut)
        for value, window in kernel.windows.items():
            loops |= {loop for span in window.spans for loop, _ in span.terms}
            storage = kernel.writes.get(value) or kernel.reads[value]
            if storage.copies > 1:
                versions.add(window.depth)
    return _Used(frozenset(loops), frozenset(versions))


def _used_by_transfers(transfers: Sequence[Transfer]) -> _Used:
    loops = {loop for t in transfers for span in t.window.spans for loop, _ in span.terms}
    versions = {t.window.depth for t in transfers if t.storage.copies > 1}
    return _Used(frozenset(loops), frozenset(versions))


def _times(text: str, factor: int) -> str:
    if text.isdigit():
        return str(int(text) * factor)
    return text if factor == 1 else f"{text} * {factor}"


def _scaled(terms: Sequence[tuple[str, int]], size: int) -> str:
    found, constant = [], 0
    for text, stride in terms:
        if text.isdigit():
            constant += int(text) * stride * size
        else:
            found.append(f"({text}) * {stride * size}")
    if constant:
        found.append(str(constant))
    return " + ".join(found)


def _sum(base: str, terms: Sequence[str]) -> str:
    return " + ".join([base, *(term for term in terms if term)])


def _indented(lines: Sequence[str], depth: int) -> list[str]:
    return ["    " * depth + line for line in lines]
