"""The generated C project: a folder that stands alone.

include/tilegrad_model.h   the firmware's API
src/tilegrad_<entry>.c     the kernels of one entry point and the entry point itself
src/tilegrad_data.c        weights, state, inputs and outputs; tables of names
src/tilegrad_math.h, tilegrad_support.h
host/main.c                a driver for hosted runs
CMakeLists.txt, plan.json
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilegrad.codegen.c_expr import literals
from tilegrad.codegen.groups import group_function
from tilegrad.codegen.kernels import Pointers, kernel_function
from tilegrad.codegen.symbols import ARENA, PREFIX, arena_symbol, comment_text, declaration, symbol
from tilegrad.errors import UserError
from tilegrad.ir.graph import Value
from tilegrad.ir.printer import format_value
from tilegrad.ir.types import Kind
from tilegrad.planning.plan import FAR_BUFFER_BYTES, EntryPlan, Plan, Storage

#: Symbol that tells after init whether the arithmetic is as it must be; 0 if it is.
FAULTS = f"{PREFIX}_faults"
#: Kinds that `tilegrad_init` sets back to zero.
RESET_KINDS = (Kind.GRADIENT, Kind.OPTIMIZER)


__all__ = ["ARENA", "FAULTS", "PREFIX", "ProjectInfo", "comment_text", "project_files", "symbol", "write_project"]


@dataclass(frozen=True)
class ProjectInfo:
    """What the comments and the header say of the program.

    Attributes:
        title: one line.
        notes: further lines for the header's comment.
    """

    title: str
    notes: tuple[str, ...] = ()


def write_project(plan: Plan, folder: Path, info: ProjectInfo, extra: Mapping[str, str]) -> None:
    """Write the C project for a plan; the folder appears complete or not at all.

    Args:
        plan: what to write.
        folder: where; replaced if an older generated project is there.
        info: what comments say.
        extra: files that the target adds, by relative path.

    Raises:
        UserError: if the folder cannot be written.
    """
    files = project_files(plan, info, extra)
    staging: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        for name, text in files.items():
            path = staging / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        staging.chmod(0o755)
        _replace(staging, folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot write the C project to {folder}: {reason}; choose another folder") from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


def _replace(staging: Path, folder: Path) -> None:
    """Put the finished folder in place of an older generated one."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / "include" / f"{PREFIX}_model.h").exists():
            raise UserError(f"{folder} exists and is not a generated project; choose another folder")
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.old.", dir=folder.parent) as trash:
            older = folder.rename(Path(trash) / "project")
            try:
                staging.rename(folder)
            except OSError:
                older.rename(folder)
                raise
        return
    staging.rename(folder)


def project_files(plan: Plan, info: ProjectInfo, extra: Mapping[str, str]) -> dict[str, str]:
    """All files of the project by relative path; `extra` are those that the target adds."""
    files = {f"include/{PREFIX}_model.h": _header(plan, info), f"src/{PREFIX}_data.c": _data(plan)}
    for entry in plan.entries:
        files[f"src/{PREFIX}_{entry.name}.c"] = _entry_source(plan, entry)
    runtime = resources.files("tilegrad.codegen") / "runtime"
    for name in ("tilegrad_math.h", "tilegrad_support.h"):
        files[f"src/{name}"] = (runtime / name).read_text(encoding="utf-8")
    files.update(extra)
    files["CMakeLists.txt"] = _cmake(plan, extra)
    files["plan.json"] = json.dumps(plan.as_json(), indent=1) + "\n"
    return files


_GROUPS = (
    (Kind.INPUT, "Inputs: fill them before a call."),
    (Kind.OUTPUT, "Outputs."),
    (Kind.SETTING, "Settings that may change from call to call."),
    (Kind.PARAMETER, "Parameters; they start with the weights of the model."),
    (Kind.BUFFER, "Buffers of the model, such as running statistics."),
    (Kind.GRADIENT, "Gradients of the parameters."),
    (Kind.OPTIMIZER, "State of the optimizer."),
)


def _header(plan: Plan, info: ProjectInfo) -> str:
    lines = [f"/* {comment_text(info.title)}", ""]
    lines.extend(f"   {comment_text(note)}" for note in info.notes)
    lines.extend(
        [
            f"   Memory: {plan.memory[plan.level].peak} bytes of static data, constants and code not counted.",
            "   All data is static; no function allocates, recurses or blocks. */",
            f"#ifndef {PREFIX.upper()}_MODEL_H",
            f"#define {PREFIX.upper()}_MODEL_H",
            "",
            "#include <stdint.h>",
            "",
            "#ifdef __cplusplus",
            'extern "C" {',
            "#endif",
            "",
            "/* Zeroes gradients and optimizer state, and checks the arithmetic. Parameters keep their values. */",
            f"void {PREFIX}_init(void);",
            "",
            "/* After init: 0, or what this build or machine breaks of the arithmetic that equal bits rest on:",
            "   1: separate multiplies and adds are fused (compile with -ffp-contract=off; Clang that is told",
            "      -ffp-contract=fast disregards the pragmas in the sources), 2: fma rounds twice,",
            "   4: subnormal numbers are flushed to zero, 8: the rounding mode is not to nearest; or a sum. */",
            f"extern uint32_t {FAULTS};",
        ]
    )
    for entry in plan.entries:
        lines.extend(
            ["", f"/* {_ENTRY_NOTES.get(entry.name, 'Runs the entry point.')} */", f"void {PREFIX}_{entry.name}(void);"]
        )
    for kind, note in _GROUPS:
        group = [s for s in plan.persistent if s.persistent is not None and s.persistent.kind is kind]
        if not group:
            continue
        lines.extend(["", f"/* {note} */"])
        for storage in group:
            assert storage.persistent is not None
            lines.append(f"extern {declaration(storage)}; /* {comment_text(format_value(storage.persistent))} */")
    lines.extend(
        [
            "",
            "/* The same by name, for drivers. */",
            "typedef struct {",
            "    const char *name;",
            "    void *data;",
            "    uint32_t bytes;",
            f"}} {PREFIX}_symbol_t;",
            f"extern const {PREFIX}_symbol_t {PREFIX}_symbols[];",
            f"extern const uint32_t {PREFIX}_symbol_count;",
            "",
            "typedef struct {",
            "    const char *name;",
            "    void (*run)(void);",
            f"}} {PREFIX}_entry_t;",
            f"extern const {PREFIX}_entry_t {PREFIX}_entries[];",
            f"extern const uint32_t {PREFIX}_entry_count;",
            "",
            "#ifdef __cplusplus",
            "}",
            "#endif",
            "",
            "#endif",
            "",
        ]
    )
    return "\n".join(lines)


_ENTRY_NOTES = {
    "train": "Forward and backward pass over one micro-batch: reads the inputs, writes the loss and the gradients.",
    "optimize": "Optimizer step with the gradients gathered since the last one.",
    "step": "Forward and backward pass and the optimizer step, fused.",
    "predict": "Inference with the present parameters: reads the inputs, writes the outputs.",
}


def _data(plan: Plan) -> str:
    lines = [f'#include "../include/{PREFIX}_model.h"', '#include "tilegrad_support.h"', ""]
    lines.append("/* Temporaries of all entry points; the plan gives every one its range. */")
    lines.extend(
        f"{_section(plan, level)}_Alignas(64) {_arena(plan, level, size)};" for level, size in plan.arenas.items()
    )
    for storage in plan.persistent:
        place = f"{_section(plan, storage.level)}_Alignas(64)"
        lines.extend(["", f"{place} {declaration(storage)}{_initialiser(storage.persistent)};"])
    for storage in plan.constants:
        place = f"{_section(plan, storage.level)}_Alignas(64)"
        lines.extend(["", f"{place} const {declaration(storage)}{_initialiser(storage.persistent)};"])
    reset = [s for s in plan.persistent if s.persistent is not None and s.persistent.kind in RESET_KINDS]
    if any(is_far(plan, storage) for storage in reset):
        lines.extend(["", *_CLEAR_FAR])
    lines.extend(["", f"uint32_t {FAULTS};", "", f"void {PREFIX}_init(void)", "{"])
    if plan.cores > 1:
        lines.append("    if (TG_CORE != 0) return;")
    lines.append(f"    {FAULTS} = tg_arithmetic_faults();")
    for storage in reset:
        clear = "clear_far({0}, sizeof {0});" if is_far(plan, storage) else "memset({0}, 0, sizeof {0});"
        lines.append(f"    {clear.format(symbol(storage))}")
    lines.extend(["}", "", f"const {PREFIX}_symbol_t {PREFIX}_symbols[] = {{"])
    # C has no arrays without elements: those of empty tensors have one that does not count.
    sizes = [f"sizeof {symbol(s)}" if s.bytes else "0" for s in plan.persistent]
    lines.extend(f'    {{"{symbol(s)}", {symbol(s)}, {n}}},' for s, n in zip(plan.persistent, sizes, strict=True))
    lines.append(f'    {{"{FAULTS}", &{FAULTS}, sizeof {FAULTS}}},')
    lines.extend(["};", f"const uint32_t {PREFIX}_symbol_count = {len(plan.persistent) + 1};", ""])
    lines.append(f"const {PREFIX}_entry_t {PREFIX}_entries[] = {{")
    lines.append(f'    {{"{PREFIX}_init", {PREFIX}_init}},')
    lines.extend(f'    {{"{PREFIX}_{e.name}", {PREFIX}_{e.name}}},' for e in plan.entries)
    lines.extend(["};", f"const uint32_t {PREFIX}_entry_count = {len(plan.entries) + 1};", ""])
    return "\n".join(lines)


#: What sets state to zero that only transfers reach.
_CLEAR_FAR = [
    f"static float zeros[{FAR_BUFFER_BYTES // 4}];",
    "",
    "static void clear_far(void *far, uint32_t bytes)",
    "{",
    "    for (uint32_t done = 0; done < bytes; done += sizeof zeros)",
    "        tg_l3_out((char *)far + done, zeros, bytes - done < sizeof zeros ? bytes - done : sizeof zeros);",
    "}",
]
#: What replaces state by a copy where only transfers reach one of them.
_COPY_FAR = [
    f"static float bounce[{FAR_BUFFER_BYTES // 4}];",
    "",
    "static void copy_far(void *to, const void *from, uint32_t bytes)",
    "{",
    "    for (uint32_t done = 0; done < bytes; done += sizeof bounce) {",
    "        const uint32_t now = bytes - done < sizeof bounce ? bytes - done : sizeof bounce;",
    "        tg_l3_in(bounce, (const char *)from + done, now);",
    "        tg_l3_out((char *)to + done, bounce, now);",
    "    }",
    "}",
]


def is_far(plan: Plan, storage: Storage) -> bool:
    """True where only transfers reach a storage."""
    return storage.level != plan.level and storage.level in plan.far


def _arena(plan: Plan, level: str, size: int) -> str:
    return f"float {arena_symbol(plan, level)}[{max(-(-size // 4), 1)}]"


def _section(plan: Plan, level: str) -> str:
    """The macro that places an array in a level other than that of the ordinary data."""
    return "" if level == plan.level else f"TG_IN_{level.upper()} "


def _initialiser(value: Value | None) -> str:
    if value is None or value.data is None or not np.any(_bits(value.data)):
        return " = {0}" if value is not None and value.is_constant else ""
    numbers = literals(value.data, value.dtype)
    lines = [", ".join(numbers[k : k + 8]) for k in range(0, len(numbers), 8)]
    return " = {\n    " + ",\n    ".join(lines) + ",\n}"


def _bits(array: NDArray[Any]) -> NDArray[np.uint8]:
    return np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)


def _entry_source(plan: Plan, entry: EntryPlan) -> str:
    constants = [s for s in entry.storages if s.persistent is not None and s.persistent.is_constant]
    lines = [f'#include "../include/{PREFIX}_model.h"', '#include "tilegrad_support.h"', ""]
    lines.extend(f"extern {_arena(plan, level, size)};" for level, size in plan.arenas.items())
    lines.extend(f"extern const {declaration(storage)};" for storage in constants)
    pointers = Pointers(plan)
    calls = []
    for group in entry.groups:
        kernels = [kernel for kernel in group.kernels if any(value.size for value in kernel.op.outputs)]
        for kernel in kernels:
            lines.extend(["", *kernel_function(kernel, group.loops)])
        if kernels:
            text, call = group_function(group, kernels, pointers, plan.cores)
            lines.extend(["", *text] if text else [])
            calls.extend(call)
    if any(is_far(plan, copy.target) or is_far(plan, copy.source) for copy in entry.copies):
        lines.extend(["", *_COPY_FAR])
    lines.extend(["", f"void {PREFIX}_{entry.name}(void)", "{", *calls])
    alone = "if (TG_CORE == 0) " if plan.cores > 1 else ""
    for copy in entry.copies:
        target, source = pointers.text(copy.target, None), pointers.text(copy.source, None)
        far = is_far(plan, copy.target) or is_far(plan, copy.source)
        lines.append(f"    {alone}{'copy_far' if far else 'memcpy'}({target}, {source}, {copy.bytes});")
    if plan.cores > 1 and entry.copies:
        lines.append("    tg_barrier();")
    lines.extend(["}", ""])
    return "\n".join(lines)


def _cmake(plan: Plan, extra: Mapping[str, str]) -> str:
    sources = "\n".join(f"    src/{PREFIX}_{name}.c" for name in ["data", *(entry.name for entry in plan.entries)])
    text = f"""cmake_minimum_required(VERSION 3.16)
project({PREFIX}_model C)

# The sources guard themselves against contraction and fast-math; these flags make them fast.
add_library({PREFIX}_model STATIC
{sources}
)
target_include_directories({PREFIX}_model PUBLIC include)
target_compile_features({PREFIX}_model PUBLIC c_std_11)
target_compile_options({PREFIX}_model PRIVATE -O3 -ffp-contract=off -fno-math-errno -Wall -Wextra)
target_link_libraries({PREFIX}_model PUBLIC m)
"""
    for name in extra:
        if name.endswith("main.c"):
            text += f"""
# A driver that reads and writes tensors and calls entry points over standard input and output.
add_executable({PREFIX}_{Path(name).parent.name} {name})
target_link_libraries({PREFIX}_{Path(name).parent.name} PRIVATE {PREFIX}_model)
"""
    return text
