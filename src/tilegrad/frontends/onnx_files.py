"""Reading ONNX models that nobody has checked.

A file may be truncated, hostile or simply of another kind. Whatever is wrong with it becomes one `ModelError`; nothing
outside the model's folder is read, and nothing is allocated before its size is known to be sound.
"""

from __future__ import annotations

import heapq
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray

from tilegrad.errors import ModelError
from tilegrad.frontends.onnx_attributes import Attribute, check_call, read_attribute
from tilegrad.frontends.onnx_tensors import MAX_ELEMENTS, TYPES, read_tensor, type_name
from tilegrad.ir.types import DType

#: Opsets of the default domain that operators are written for.
OPSETS = range(13, 24)
#: Largest file; protobuf itself reads no larger message.
MAX_BYTES = (1 << 31) - 1
_DEFAULT_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class OnnxNode:
    """One node.

    Attributes:
        op_type: the operator's name.
        domain: its domain; empty for the default one.
        label: the node's name, or one made from its operator and position.
        inputs: names of its inputs; empty where an optional one is left out.
        outputs: names of its outputs; empty where one is left out.
        attributes: attribute values as Python numbers, strings, lists and arrays.
        opset: version of the domain; 0 where the model does not import it.
    """

    op_type: str
    domain: str
    label: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Attribute]
    opset: int


@dataclass(frozen=True)
class OnnxInput:
    """One input of the model.

    Attributes:
        name: its name.
        dtype: its element type.
        dims: its extents, None or a name where one is dynamic; None where even the rank is.
    """

    name: str
    dtype: DType
    dims: tuple[int | str | None, ...] | None


@dataclass(frozen=True)
class OnnxModel:
    """A model whose structure has been checked.

    Attributes:
        nodes: in a topological order; ties keep the order of the file.
        initializers: contents by name.
        inputs: without those that are initializers.
        outputs: names of the results.
        proto: the model with functions inlined and nodes in this order.
    """

    nodes: tuple[OnnxNode, ...]
    initializers: dict[str, NDArray[Any]]
    inputs: tuple[OnnxInput, ...]
    outputs: tuple[str, ...]
    proto: onnx.ModelProto


def read_model(source: str | os.PathLike[str] | onnx.ModelProto) -> OnnxModel:
    """Read and check a model.

    Args:
        source: a file, or a model in memory (which cannot refer to external data).

    Raises:
        ModelError: whatever is wrong with it.
    """
    if isinstance(source, onnx.ModelProto):
        return _guarded(source, None, "the model")
    path = Path(source)
    where = f"{os.fspath(path)!r}"
    try:
        proto = onnx.ModelProto.FromString(_file_bytes(path, where))
    except DecodeError as error:
        raise ModelError(f"{where} is not an ONNX model, or is truncated: it is no valid protobuf message") from error
    return _guarded(proto, path.parent, where)


def _file_bytes(path: Path, where: str) -> bytes:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ModelError(f"{where} is not a file; expected an ONNX model")
        if found.st_size > MAX_BYTES:
            raise ModelError(f"{where} has {found.st_size} bytes; a model file holds at most 2 GiB (use external data)")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise ModelError(f"{where} cannot be read: {error}") from error


def _guarded(proto: onnx.ModelProto, folder: Path | None, where: str) -> OnnxModel:
    """`_model`, with the errors of the protobuf library and of conversions as errors of the model."""
    try:
        return _model(proto, folder)
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error
    except (ValueError, TypeError, OverflowError, MemoryError, RecursionError, DecodeError) as error:
        # Strings that are not UTF-8, enumerations out of range and the like surface wherever a field is first used.
        raise ModelError(f"{where} is malformed: {type(error).__name__}: {error}") from error


def _model(proto: onnx.ModelProto, folder: Path | None) -> OnnxModel:
    if not proto.HasField("graph") or not proto.opset_import:
        raise ModelError("it is not an ONNX model: there is no graph, or no operator set is named")
    opsets = _opsets(proto)
    if len(proto.functions):
        proto = _inline_functions(proto)
        opsets = _opsets(proto)
    graph = proto.graph
    if len(graph.sparse_initializer):
        raise ModelError("sparse initializers are not supported; store dense tensors")
    initializers: dict[str, NDArray[Any]] = {}
    for tensor in graph.initializer:
        if not tensor.name or tensor.name in initializers:
            raise ModelError(f"the initializer name {tensor.name!r} is {'given twice' if tensor.name else 'empty'}")
        initializers[tensor.name] = read_tensor(tensor, f"initializer {tensor.name!r}", folder)
    inputs = _inputs(graph, initializers)
    nodes = [_node(node, position, opsets, folder) for position, node in enumerate(graph.node)]
    order = _sorted(nodes, [*initializers, *(each.name for each in inputs)])
    defined = {*initializers, *(each.name for each in inputs), *(name for node in nodes for name in node.outputs)}
    outputs = tuple(output.name for output in graph.output)
    if not outputs:
        raise ModelError("the model has no outputs")
    for name in outputs:
        if not name or name not in defined:
            raise ModelError(f"nothing defines the output {name!r}")
    arranged = onnx.ModelProto()
    arranged.CopyFrom(proto)
    del arranged.graph.node[:]
    arranged.graph.node.extend(graph.node[position] for position in order)
    return OnnxModel(tuple(nodes[position] for position in order), initializers, inputs, outputs, arranged)


def _opsets(proto: onnx.ModelProto) -> dict[str, int]:
    found: dict[str, int] = {}
    for entry in proto.opset_import:
        domain = "" if entry.domain in _DEFAULT_DOMAINS else entry.domain
        if found.setdefault(domain, entry.version) != entry.version:
            raise ModelError(f"two versions of the operator set {domain or 'ai.onnx'!r} are imported")
    version = found.get("")
    if version is not None and version not in OPSETS:
        raise ModelError(
            f"opset {version} is not supported, expected {OPSETS.start} to {OPSETS.stop - 1}; "
            "convert the model with onnx.version_converter, or export it again"
        )
    return found


def _inline_functions(proto: onnx.ModelProto) -> onnx.ModelProto:
    calls = {
        (function.domain, function.name): [(node.domain, node.op_type) for node in function.node]
        for function in proto.functions
    }
    finished: set[tuple[str, str]] = set()
    for root in calls:
        # Depth first, with the path kept explicitly: a function that calls itself cannot be inlined.
        path: list[tuple[str, str]] = [root]
        pending = [list(calls[root])]
        while path:
            if not pending[-1]:
                pending.pop()
                finished.add(path.pop())
                continue
            callee = pending[-1].pop()
            if callee in path:
                raise ModelError(f"the function {callee[1]!r} of domain {callee[0]!r} calls itself")
            if callee in calls and callee not in finished:
                path.append(callee)
                pending.append(list(calls[callee]))
    try:
        import onnx.inliner

        return onnx.inliner.inline_local_functions(proto)
    except Exception as error:  # the C++ library raises several types of its own
        raise ModelError(f"its functions cannot be inlined: {error}") from error


def _inputs(graph: onnx.GraphProto, initializers: dict[str, NDArray[Any]]) -> tuple[OnnxInput, ...]:
    found: dict[str, OnnxInput] = {}
    seen: set[str] = set()
    for value in graph.input:
        if not value.name or value.name in seen:
            raise ModelError(f"the input name {value.name!r} is {'given twice' if value.name else 'empty'}")
        seen.add(value.name)
        if value.name not in initializers:  # older models list their weights as inputs too
            found[value.name] = _input(value)
    return tuple(found.values())


def _input(value: onnx.ValueInfoProto) -> OnnxInput:
    if value.type.WhichOneof("value") != "tensor_type":
        raise ModelError(f"input {value.name!r} is no tensor; sequences, maps and optionals are not supported")
    tensor = value.type.tensor_type
    if tensor.elem_type not in TYPES:
        raise ModelError(
            f"input {value.name!r} is of type {type_name(tensor.elem_type)}, expected float, int32, int64 or bool"
        )
    dims: list[int | str | None] | None = None
    if tensor.HasField("shape"):
        dims = []
        for axis, dim in enumerate(tensor.shape.dim):
            kind = dim.WhichOneof("value")
            if kind == "dim_value":
                if not 0 < dim.dim_value <= MAX_ELEMENTS:
                    raise ModelError(
                        f"dimension {axis} of input {value.name!r} is {dim.dim_value}, expected 1 to {MAX_ELEMENTS}"
                    )
                dims.append(dim.dim_value)
            else:
                dims.append(dim.dim_param or None)
    return OnnxInput(value.name, TYPES[tensor.elem_type].dtype, None if dims is None else tuple(dims))


def _node(node: onnx.NodeProto, position: int, opsets: dict[str, int], folder: Path | None) -> OnnxNode:
    domain = "" if node.domain in _DEFAULT_DOMAINS else node.domain
    label = node.name or f"{node.op_type}_{position}"
    where = f"node {label!r} ({node.op_type})"
    if not node.op_type:
        raise ModelError(f"node {label!r} names no operator")
    if not domain and "" not in opsets:
        raise ModelError(f"{where} is of the default operator set, which the model does not import")
    attributes: dict[str, Attribute] = {}
    for attribute in node.attribute:
        if attribute.name in attributes:
            raise ModelError(f"{where} has the attribute {attribute.name!r} twice")
        attributes[attribute.name] = read_attribute(attribute, where, folder)
    check_call(node, domain, opsets.get(domain, 0), where)
    return OnnxNode(
        node.op_type, domain, label, tuple(node.input), tuple(node.output), attributes, opsets.get(domain, 0)
    )


def _sorted(nodes: Sequence[OnnxNode], given: Sequence[str]) -> list[int]:
    """Positions of the nodes in a topological order, as close to the given one as possible.

    Raises:
        ModelError: on tensors that are defined twice or never, and on cycles.
    """
    sources = _sources(nodes, given)
    waiting = [len(needed) for needed in sources]
    users: list[list[int]] = [[] for _ in nodes]
    for position, needed in enumerate(sources):
        for source in sorted(needed):
            users[source].append(position)
    ready = [position for position, count in enumerate(waiting) if not count]
    order: list[int] = []
    while ready:
        position = heapq.heappop(ready)
        order.append(position)
        for user in users[position]:
            waiting[user] -= 1
            if not waiting[user]:
                heapq.heappush(ready, user)
    if len(order) < len(nodes):
        stuck = [node.label for node, count in zip(nodes, waiting, strict=True) if count]
        shown = ", ".join(map(repr, stuck[:5])) + (", ..." if len(stuck) > 5 else "")
        raise ModelError(f"the nodes depend on each other in a cycle: {shown}")
    return order


def _sources(nodes: Sequence[OnnxNode], given: Sequence[str]) -> list[set[int]]:
    """The nodes that each node reads from."""
    producer: dict[str, int | None] = dict.fromkeys(given)
    for position, node in enumerate(nodes):
        for name in filter(None, node.outputs):
            if name in producer:
                raise ModelError(f"node {node.label!r} defines {name!r}, which is defined already")
            producer[name] = position
    found: list[set[int]] = []
    for node in nodes:
        missing = [name for name in node.inputs if name and name not in producer]
        if missing:
            raise ModelError(f"node {node.label!r} ({node.op_type}) reads {missing[0]!r}, which nothing defines")
        needed = {producer[name] for name in node.inputs if name}
        found.append({source for source in needed if source is not None})
    return found
