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
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilegrad.codegen.c_expr import CScope, literals, natural_places
from tilegrad.codegen.loops import Writer, write_op
from tilegrad.errors import UserError
from tilegrad.ir.graph import Value
from tilegrad.ir.printer import format_nest, format_value
from tilegrad.ir.types import DType, Kind
from tilegrad.planning.plan import EntryPlan, Kernel, Plan, Storage

PREFIX = "tilegrad"
ARENA = f"{PREFIX}_arena"
#: Symbol that tells after init whether the arithmetic is as it must be; 0 if it is.
FAULTS = f"{PREFIX}_faults"
#: Kinds that `tilegrad_init` sets back to zero.
RESET_KINDS = (Kind.GRADIENT, Kind.OPTIMIZER)


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


def _symbol(storage: Storage) -> str:
    return f"{PREFIX}_{storage.name}"


def symbol(storage: Storage) -> str:
    """The C symbol of a static tensor; drivers read and write it by this name."""
    return _symbol(storage)


def _declaration(storage: Storage) -> str:
    value = storage.persistent
    assert value is not None
    return f"{_plain_type(value.dtype)} {_symbol(storage)}[{max(value.size, 1)}]"


def _plain_type(dtype: DType) -> str:
    return {
        DType.F32: "float",
        DType.I32: "int32_t",
        DType.I64: "int64_t",
        DType.U32: "uint32_t",
        DType.BOOL: "uint8_t",
    }[dtype]


def comment_text(text: str) -> str:
    """Text from a model, made safe inside a C comment."""
    printable = "".join(c if c.isprintable() and ord(c) < 127 else "?" for c in text).replace("\\", "/")
    return re.sub(r"\*(?=/)|/(?=\*)|\?(?=\?)", r"\g<0> ", printable)  # comment marks and trigraphs


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
            lines.append(f"extern {_declaration(storage)}; /* {comment_text(format_value(storage.persistent))} */")
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
    lines.append(f"_Alignas(64) float {ARENA}[{max(plan.arenas[plan.level] // 4, 1)}];")
    for storage in plan.persistent:
        lines.extend(["", f"_Alignas(64) {_declaration(storage)}{_initialiser(storage.persistent)};"])
    for storage in plan.constants:
        lines.extend(["", f"_Alignas(64) const {_declaration(storage)}{_initialiser(storage.persistent)};"])
    lines.extend(["", f"uint32_t {FAULTS};", "", f"void {PREFIX}_init(void)", "{"])
    if plan.cores > 1:
        lines.append("    if (TG_CORE != 0) return;")
    lines.append(f"    {FAULTS} = tg_arithmetic_faults();")
    for storage in plan.persistent:
        assert storage.persistent is not None
        if storage.persistent.kind in RESET_KINDS:
            lines.append(f"    memset({_symbol(storage)}, 0, sizeof {_symbol(storage)});")
    lines.extend(["}", "", f"const {PREFIX}_symbol_t {PREFIX}_symbols[] = {{"])
    # C has no arrays without elements: those of empty tensors have one that does not count.
    sizes = [f"sizeof {_symbol(s)}" if s.bytes else "0" for s in plan.persistent]
    lines.extend(f'    {{"{_symbol(s)}", {_symbol(s)}, {n}}},' for s, n in zip(plan.persistent, sizes, strict=True))
    lines.append(f'    {{"{FAULTS}", &{FAULTS}, sizeof {FAULTS}}},')
    lines.extend(["};", f"const uint32_t {PREFIX}_symbol_count = {len(plan.persistent) + 1};", ""])
    lines.append(f"const {PREFIX}_entry_t {PREFIX}_entries[] = {{")
    lines.append(f'    {{"{PREFIX}_init", {PREFIX}_init}},')
    lines.extend(f'    {{"{PREFIX}_{e.name}", {PREFIX}_{e.name}}},' for e in plan.entries)
    lines.extend(["};", f"const uint32_t {PREFIX}_entry_count = {len(plan.entries) + 1};", ""])
    return "\n".join(lines)


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
    lines.append(f"extern float {ARENA}[{max(plan.arenas[plan.level] // 4, 1)}];")
    lines.extend(f"extern const {_declaration(storage)};" for storage in constants)
    calls = []
    for kernel in entry.kernels:
        if not any(value.size for value in kernel.op.outputs):
            continue
        text, call = _kernel(kernel)
        lines.extend(["", *text])
        calls.extend([call, "    tg_barrier();"] if plan.cores > 1 else [call])
    lines.extend(["", f"void {PREFIX}_{entry.name}(void)", "{", *calls])
    alone = "if (TG_CORE == 0) " if plan.cores > 1 else ""
    for copy in entry.copies:
        lines.append(f"    {alone}memcpy({_pointer(copy.target, None)}, {_pointer(copy.source, None)}, {copy.bytes});")
    if plan.cores > 1 and entry.copies:
        lines.append("    tg_barrier();")
    lines.extend(["}", ""])
    return "\n".join(lines)


def _pointer(storage: Storage, value: Value | None) -> str:
    """The C expression for a tensor's place."""
    if storage.offset is None:
        text = _symbol(storage)
        home = storage.persistent
        if value is not None and home is not None and value.dtype is not home.dtype:
            return f"({value.dtype.c_type} *)(void *){text}"
        return text
    text = f"{ARENA} + {storage.offset // 4}"
    if value is None or value.dtype is DType.F32:
        return text
    return f"({value.dtype.c_type} *)(void *)({text})"


def _kernel(kernel: Kernel) -> tuple[list[str], str]:
    """The function of one kernel, and the line that calls it."""
    outputs = list(kernel.writes)
    inputs = [value for value in kernel.reads if value not in kernel.writes]
    names = _argument_names([*inputs, *outputs])
    aliased = {value for value in [*inputs, *outputs] if (kernel.reads | kernel.writes)[value] in kernel.in_place}
    parameters, arguments = [], []
    for value in inputs:
        restrict = "" if value in aliased else "restrict "
        parameters.append(f"const {value.dtype.c_type} *{restrict}{names[value]}")
        arguments.append(_pointer(kernel.reads[value], value))
    for value in outputs:
        restrict = "" if value in aliased else "restrict "
        parameters.append(f"{value.dtype.c_type} *{restrict}{names[value]}")
        arguments.append(_pointer(kernel.writes[value], value))
    scope, writer = CScope(natural_places(names)), Writer()
    write_op(kernel.op, kernel.mappings, scope, writer)
    comment = [f"/* {comment_text(f'{kernel.op.phase}: {kernel.op.origin}')}"]
    comment.extend(f"   {comment_text(format_value(value))}" for value in inputs)
    comment.extend(f"   -> {comment_text(format_value(value))}" for value in outputs)
    for nest in kernel.op.nests:
        comment.extend(f"   {comment_text(line)}" for line in format_nest(nest) if len(line) < 200)
    comment[-1] += " */"
    head = f"static TG_KERNEL void {kernel.name}("
    text = [*comment, *_wrap(head, parameters, ")"), "{", *writer.lines, "}"]
    return text, "\n".join(_wrap(f"    {kernel.name}(", arguments, ");"))


def _wrap(head: str, items: Sequence[str], tail: str) -> list[str]:
    """A parenthesised list, broken where lines grow long."""
    lines, current = [], head
    for position, item in enumerate(items):
        text = item + (", " if position + 1 < len(items) else tail)
        if len(current) + len(text) > 118 and current != head:
            lines.append(current.rstrip())
            current = " " * 8
        current += text
    if not items:
        current += "void" + tail if head.startswith("static") else tail
    lines.append(current)
    return lines


#: Names of operands that stand as they are: several words, so that no keyword, type or macro of any dialect is among
#: them, nor a name that the generated code uses itself (i0, t1, acc0_0, row0, tg_max, ...).
_PLAIN_NAME = re.compile(
    r"(?!(i|t|v|k|acc|row|tg|tilegrad|static|thread)[0-9]*_)[A-Za-z]+[a-z0-9]*(_[A-Za-z0-9]+)*_[A-Za-z0-9]{2,}"
)


def _argument_names(values: Sequence[Value]) -> dict[Value, str]:
    """Local names for the operands of a kernel, from the names of the tensors."""
    names: dict[Value, str] = {}
    taken: set[str] = set()
    for value in values:
        base = re.sub(r"[^A-Za-z0-9]+", "_", value.name).strip("_")[-32:].strip("_")
        if _PLAIN_NAME.fullmatch(base) is None or base.isupper():
            base = f"x_{base}".rstrip("_")
        candidate, count = base, 1
        while candidate in taken:
            count += 1
            candidate = f"{base}_{count}"
        taken.add(candidate)
        names[value] = candidate
    return names


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
