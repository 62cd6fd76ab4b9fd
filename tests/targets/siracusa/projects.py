"""Hand-written projects that use the run-time interface the way generated code does."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from tilegrad.targets import Target

MODEL_HEADER = """\
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


def write_project(folder: Path, target: Target, source: str, symbols: list[str], entries: list[str]) -> Path:
    """A project of one C file; `symbols` are its arrays, `entries` its functions, without their prefix."""
    runtime = resources.files("tilegrad.codegen") / "runtime"
    tables = ["const tilegrad_symbol_t tilegrad_symbols[] = {"]
    tables += [f'    {{"tilegrad_{name}", tilegrad_{name}, sizeof tilegrad_{name}}},' for name in symbols]
    tables += ["};", f"const uint32_t tilegrad_symbol_count = {len(symbols)};"]
    tables += ["const tilegrad_entry_t tilegrad_entries[] = {"]
    tables += [f'    {{"tilegrad_{name}", tilegrad_{name}}},' for name in entries]
    tables += ["};", f"const uint32_t tilegrad_entry_count = {len(entries)};", ""]
    files = {
        "include/tilegrad_model.h": MODEL_HEADER,
        **{f"src/{name}": (runtime / name).read_text() for name in ("tilegrad_math.h", "tilegrad_support.h")},
        **target.project_files(),
        "src/model.c": '#include "tilegrad_model.h"\n#include "tilegrad_support.h"\n' + source + "\n".join(tables),
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder
