"""Names in the generated C."""

from __future__ import annotations

import re

from tilegrad.ir.types import DType
from tilegrad.planning.plan import Plan, Storage

PREFIX = "tilegrad"
#: The arena of the level that holds the tensors.
ARENA = f"{PREFIX}_arena"


def arena_symbol(plan: Plan, level: str) -> str:
    """The C symbol of the arena of a level."""
    return ARENA if level == plan.level else f"{ARENA}_{level.lower()}"


def symbol(storage: Storage) -> str:
    """The C symbol of a static tensor; drivers read and write it by this name."""
    return f"{PREFIX}_{storage.name}"


def declaration(storage: Storage) -> str:
    """The declaration of a static tensor."""
    value = storage.persistent
    assert value is not None
    return f"{plain_type(value.dtype)} {symbol(storage)}[{max(value.size, 1)}]"


def plain_type(dtype: DType) -> str:
    """The C type of elements as the firmware's API shows them."""
    return {
        DType.F32: "float",
        DType.I32: "int32_t",
        DType.I64: "int64_t",
        DType.U32: "uint32_t",
        DType.U8: "uint8_t",
        DType.BOOL: "uint8_t",
    }[dtype]


def comment_text(text: str) -> str:
    """Text from a model, made safe inside a C comment."""
    printable = "".join(c if c.isprintable() and ord(c) < 127 else "?" for c in text).replace("\\", "/")
    return re.sub(r"\*(?=/)|/(?=\*)|\?(?=\?)", r"\g<0> ", printable)  # comment marks and trigraphs
