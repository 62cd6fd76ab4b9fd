"""A tiny hand-written project, and a build cache of its own for each test."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tilegrad.targets.cache import cache_folder

HEADER = """\
#ifndef TILEGRAD_MODEL_H
#define TILEGRAD_MODEL_H
#include <stdint.h>
typedef struct { const char *name; void *data; uint32_t bytes; } tilegrad_symbol_t;
typedef struct { const char *name; void (*run)(void); } tilegrad_entry_t;
extern const tilegrad_symbol_t tilegrad_symbols[];
extern const uint32_t tilegrad_symbol_count;
extern const tilegrad_entry_t tilegrad_entries[];
extern const uint32_t tilegrad_entry_count;
#endif
"""

TABLES = """\
#include <stdint.h>
#include "tilegrad_model.h"
#include "toy.h"
const tilegrad_symbol_t tilegrad_symbols[] = {
    {"x", x, sizeof x}, {"y", y, sizeof y}, {"big", big, sizeof big}, {"index", &index_, sizeof index_},
};
const uint32_t tilegrad_symbol_count = 4;
const tilegrad_entry_t tilegrad_entries[] = {
    {"scale", scale}, {"fused", fused}, {"halve", halve}, {"flush_to_zero", flush_to_zero}, {"reverse", reverse},
    {"crash", crash}, {"store", store}, {"overflow", overflow}, {"print", print}, {"spin", spin},
    {"shift", shift}, {"cast", cast}, {"divide", divide},
};
const uint32_t tilegrad_entry_count = 13;
"""

TOY_H = """\
#include <stdint.h>
enum { BIG = 200000 };
extern float x[4], y[4], big[BIG];
extern int32_t index_;
void scale(void);
void fused(void);
void halve(void);
void flush_to_zero(void);
void reverse(void);
void crash(void);
void store(void);
void overflow(void);
void print(void);
void spin(void);
void shift(void);
void cast(void);
void divide(void);
"""

TOY_C = """\
#include <stdint.h>
#include <stdio.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif
#include "toy.h"
float x[4], y[4], big[BIG];
int32_t index_;
void scale(void) { for (int i = 0; i < 4; i++) y[i] = 2.0f * x[i]; }
void fused(void) { for (int i = 0; i < 4; i++) y[i] = __builtin_fmaf(x[i], x[i], y[i]); }
void halve(void) { for (int i = 0; i < 4; i++) y[i] = x[i] * 0.5f; }
void flush_to_zero(void)
{
#if defined(__x86_64__)
    _mm_setcsr(_mm_getcsr() | 0x8040u);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)1 << 24));
#endif
}
void reverse(void)
{
    for (int i = 0; i < BIG / 2; i++) {
        const float t = big[i];
        big[i] = big[BIG - 1 - i];
        big[BIG - 1 - i] = t;
    }
}
void crash(void) { int *volatile nowhere = 0; *nowhere = 1; }
void store(void) { y[index_] = 1.0f; }
void overflow(void) { index_ = index_ + 1; }
void print(void) { puts("a kernel prints"); fflush(stdout); }
void shift(void) { index_ = 1 << index_; }
void cast(void) { index_ = (int32_t)x[0]; }
void divide(void) { index_ = 7 / index_; }
void spin(void) { volatile int32_t *go_on = &index_; while (*go_on) { } }
"""


def write_project(folder: Path) -> Path:
    for name, text in {
        "include/tilegrad_model.h": HEADER,
        "src/tables.c": TABLES,
        "src/toy.h": TOY_H,
        "src/toy.c": TOY_C,
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write_project(tmp_path / "project")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, but for zig's run-time library, which takes seconds to build and is the user's already."""
    library = cache_folder() / "zig"
    library.mkdir(parents=True, exist_ok=True)
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "zig").symlink_to(library)
    monkeypatch.setenv("TILEGRAD_CACHE", str(folder))
    return folder


def installed_compilers() -> list[str]:
    return ["zig", *(name for name in ("gcc", "clang") if shutil.which(name))]


def address_sanitizers() -> list[str]:
    return [name for name in ("gcc", "clang") if shutil.which(name)]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
