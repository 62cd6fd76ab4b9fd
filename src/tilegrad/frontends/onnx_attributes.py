"""Attributes of ONNX nodes as Python values, checked against the operator's schema."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx.defs
from numpy.typing import NDArray

from tilegrad.errors import ModelError
from tilegrad.frontends.onnx_tensors import read_tensor

#: Largest magnitude of an integer attribute: kernel sizes, pads and axes are far below, and tables made from them fit.
MAX_INTEGER = 1 << 24


@dataclass(frozen=True)
class Subgraph:
    """An attribute that holds a graph, as control flow has."""

    name: str


Attribute = int | float | str | list[int] | list[float] | list[str] | NDArray[Any] | Subgraph


def read_attribute(attribute: onnx.AttributeProto, where: str, folder: Path | None) -> Attribute:
    """The value of an attribute.

    Raises:
        ModelError: on unsupported types, numbers out of range, and references of functions that are left.
    """
    kind, what = attribute.type, f"attribute {attribute.name!r} of {where}"
    if attribute.ref_attr_name:
        raise ModelError(f"{what} refers to {attribute.ref_attr_name!r}, an attribute of a function, outside of any")
    if kind in (onnx.AttributeProto.INT, onnx.AttributeProto.INTS):
        integers = [int(attribute.i)] if kind == onnx.AttributeProto.INT else [int(number) for number in attribute.ints]
        if "value" not in attribute.name and any(abs(number) > MAX_INTEGER for number in integers):
            raise ModelError(f"{what} is out of range: {integers}")
        return integers[0] if kind == onnx.AttributeProto.INT else integers
    if kind in (onnx.AttributeProto.FLOAT, onnx.AttributeProto.FLOATS):
        floats = [float(attribute.f)] if kind == onnx.AttributeProto.FLOAT else [float(x) for x in attribute.floats]
        if "value" not in attribute.name and any(math.isnan(number) for number in floats):
            raise ModelError(f"{what} is not a number: {floats}")
        return floats[0] if kind == onnx.AttributeProto.FLOAT else floats
    if kind == onnx.AttributeProto.STRING:
        return _text(attribute.s, what)
    if kind == onnx.AttributeProto.STRINGS:
        return [_text(item, what) for item in attribute.strings]
    if kind == onnx.AttributeProto.TENSOR:
        return read_tensor(attribute.t, what, folder)
    if kind == onnx.AttributeProto.GRAPH:
        return Subgraph(attribute.g.name)
    raise ModelError(f"{what} has a type that is not supported ({kind}: sparse tensors, lists of tensors or graphs)")


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(f"{what} is no UTF-8 text") from error


def check_call(node: onnx.NodeProto, domain: str, version: int, where: str) -> None:
    """Compare a node with the schema of its operator, where ONNX has one.

    Raises:
        ModelError: on unknown, missing or mistyped attributes and on too few or too many inputs or outputs.
    """
    if not version or not onnx.defs.has(node.op_type, domain):
        return  # not an operator of the standard: only the registry knows it
    try:
        schema = onnx.defs.get_schema(node.op_type, version, domain)
    except onnx.defs.SchemaError as error:
        raise ModelError(f"{where} does not exist in opset {version}") from error
    for attribute in node.attribute:
        known = schema.attributes.get(attribute.name)
        if known is None:
            raise ModelError(f"{where} has the attribute {attribute.name!r}, which opset {version} does not define")
        wanted, found = str(known.type).split(".")[-1], onnx.AttributeProto.AttributeType.Name(attribute.type)
        if wanted != found:
            raise ModelError(f"attribute {attribute.name!r} of {where} is of type {found}, expected {wanted}")
    given = {attribute.name for attribute in node.attribute}
    missing = sorted(name for name, known in schema.attributes.items() if known.required and name not in given)
    if missing:
        raise ModelError(f"{where} lacks its attribute {missing[0]!r}")
    for what, count, least, most in (
        ("inputs", len(node.input), schema.min_input, schema.max_input),
        ("outputs", len(node.output), schema.min_output, schema.max_output),
    ):
        if not least <= count <= most:
            raise ModelError(f"{where} has {count} {what}, expected {least} to {most}")
    single = onnx.defs.OpSchema.FormalParameterOption.Single
    for position, formal in enumerate(schema.inputs):
        if formal.option == single and (position >= len(node.input) or not node.input[position]):
            raise ModelError(f"{where} lacks its input {formal.name!r}")
