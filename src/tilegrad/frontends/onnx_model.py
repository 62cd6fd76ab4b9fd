"""ONNX models, opsets 13 to 23, as graphs.

What an initializer is follows from its type and use: the running statistics of batch normalisation are buffers; other
float tensors with at least one axis are parameters, unless everything that reads them takes a setting there (the scales
of Resize, the bounds of Clip); float scalars, integers and Constant nodes are constants.

An initializer that several nodes read is one parameter. Exporters that merge equal tensors (PyTorch's, of inference
models) thereby tie, say, the scales of two freshly initialised layer norms; exporting in training mode keeps them
apart.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.shape_inference

from tilegrad.errors import ModelError, ShapeError, UnsupportedNode, UnsupportedOperatorError, UserError
from tilegrad.frontends.onnx_attributes import Subgraph
from tilegrad.frontends.onnx_files import OnnxInput, OnnxModel, OnnxNode, read_model
from tilegrad.frontends.onnx_tensors import MAX_ELEMENTS, TYPES
from tilegrad.ir.builder import constant, temporary
from tilegrad.ir.graph import Graph, Store, Value
from tilegrad.ir.types import DType, Kind
from tilegrad.operators.registry import OnnxCall, UnsupportedCall, find_onnx

#: Inputs that set up an operator instead of taking part in its arithmetic, by operator and position.
_SETTINGS = {
    ("Resize", 1), ("Resize", 2), ("Upsample", 1), ("Clip", 1), ("Clip", 2), ("Pad", 2), ("OneHot", 2), ("Dropout", 1),
    ("Range", 0), ("Range", 1), ("Range", 2),
}  # fmt: skip
_STATISTICS = {("BatchNormalization", 3), ("BatchNormalization", 4)}


def import_onnx(
    model: str | os.PathLike[str] | onnx.ModelProto,
    *,
    example_inputs: Sequence[Any] | None = None,
    training: bool,
    frozen_bn: bool = False,
    name: str = "model",
) -> Graph:
    """The forward pass of an ONNX model as a graph.

    Parameters (in the order of the file) and buffers keep the names of their initializers.

    Args:
        model: a file, or a model in memory.
        example_inputs: one array per input, in order; their shapes replace dynamic dimensions. None where all
            dimensions are static.
        training: build the training graph of an inference model: batch normalisation takes the statistics of the batch
            and updates the running ones, dropout drops.
        frozen_bn: batch normalisation keeps to the running statistics.
        name: the graph's name.

    Returns:
        The graph with inputs, parameters, buffers, stores and results.

    Raises:
        ModelError: if the model is malformed or dimensions stay dynamic.
        UserError: if the example inputs do not fit the model's inputs.
        UnsupportedOperatorError: listing every node that is not supported.
    """
    found = read_model(model)
    graph = Graph(name, training=training)
    importer = _Importer(found, graph, training, frozen_bn)
    with graph.building():
        importer.bind_inputs(None if example_inputs is None else list(example_inputs))
        importer.bind_initializers()
        for node in found.nodes:
            importer.translate(node)
        if importer.unsupported:
            raise UnsupportedOperatorError(importer.unsupported)
        for output in found.outputs:
            value = importer.values[output]
            assert value is not None  # every node is supported
            graph.results.append(value)
    return graph


class _Importer:
    """Translates nodes in order and collects those that are not supported.

    Attributes:
        values: tensors by name; None where an unsupported node leaves even the shape open.
        unsupported: the nodes that no operator implements.
    """

    def __init__(self, model: OnnxModel, graph: Graph, training: bool, frozen_bn: bool) -> None:
        self.model, self.graph, self.training, self.frozen_bn = model, graph, training, frozen_bn
        self.values: dict[str, Value | None] = {}
        self.unsupported: list[UnsupportedNode] = []
        self._inferred: dict[str, Value] | None = None

    # ---- Inputs and initializers -------------------------------------------------------------------------------------

    def bind_inputs(self, examples: list[Any] | None) -> None:
        """Make the model's inputs values of static shapes."""
        inputs = self.model.inputs
        if examples is not None and len(examples) != len(inputs):
            names = ", ".join(repr(each.name) for each in inputs)
            raise UserError(f"{len(examples)} example inputs are given; the model has {len(inputs)}: {names}")
        sizes: dict[str, tuple[int, str]] = {}
        for position, each in enumerate(inputs):
            shape = _static_shape(each, None if examples is None else _array(each, examples[position]), sizes)
            value = Value(each.name, shape, each.dtype, Kind.INPUT)
            self.values[each.name] = value
            self.graph.inputs.append(value)

    def bind_initializers(self) -> None:
        """Make initializers parameters, buffers or constants."""
        learnable, statistics = self._uses()
        for name, data in self.model.initializers.items():
            dtype = DType.of(data)
            if dtype.is_float and name in statistics:
                value = Value(name, data.shape, dtype, Kind.BUFFER, data)
                self.graph.buffers[name] = value
            elif dtype.is_float and data.ndim and name in learnable:
                value = Value(name, data.shape, dtype, Kind.PARAMETER, data)
                self.graph.parameters[name] = value
            else:
                value = constant(data, dtype, name)
            self.values[name] = value

    def _uses(self) -> tuple[set[str], set[str]]:
        """The tensors that arithmetic reads, and those that are running statistics; through Identity too."""
        same: dict[str, str] = {}
        learnable, statistics = set(self.model.outputs), set()
        for node in self.model.nodes:
            if node.op_type == "Identity" and not node.domain:
                same[node.outputs[0]] = same.get(node.inputs[0], node.inputs[0])
                continue
            for position, name in enumerate(node.inputs):
                source = same.get(name, name)
                if (node.op_type, position) in _STATISTICS and not node.domain:
                    statistics.add(source)
                elif (node.op_type, position) not in _SETTINGS or node.domain:
                    learnable.add(source)
        return learnable, statistics

    # ---- Nodes -------------------------------------------------------------------------------------------------------

    def translate(self, node: OnnxNode) -> None:
        """Append a node's operations, or note that it is not supported."""
        try:
            results = self._results(node)
        except UnsupportedCall as error:
            operator = f"{node.domain or 'ai.onnx'}::{node.op_type}"
            self.unsupported.append(UnsupportedNode(operator, node.label, str(error)))
            results = None
        wanted = [name for name in node.outputs if name]
        if results is None:
            self.values.update((name, self._placeholder(name)) for name in wanted)
            return
        if self._moves_statistics(node):
            for name, value in zip(node.inputs[3:5], results[1:3], strict=False):
                self._store(name, value)
        for name, value in zip(node.outputs, results, strict=False):
            if value.size > MAX_ELEMENTS:
                raise ModelError(
                    f"node {node.label!r} ({node.op_type}) makes a tensor of shape {value.shape}: too large"
                )
            if name:
                self.values[name] = value

    def _results(self, node: OnnxNode) -> tuple[Value, ...] | None:
        """The node's outputs in order; None where an input is unknown."""
        if any(isinstance(attribute, Subgraph) for attribute in node.attributes.values()):
            raise UnsupportedCall("control flow is not supported")
        if node.op_type == "Constant" and not node.domain:
            return (self._constant(node),)
        adapter = find_onnx(node.op_type, node.domain)
        if adapter is None:
            raise UnsupportedCall("")
        inputs = [self.values[name] if name else None for name in node.inputs]
        if self._moves_statistics(node):
            inputs[3:5] = [self._stored(name) for name in node.inputs[3:5]]
        if any(value is None and name for value, name in zip(inputs, node.inputs, strict=True)):
            return None
        training = self.training and not (self.frozen_bn and node.op_type == "BatchNormalization")
        call = OnnxCall(node.op_type, node.label, node.opset, node.attributes, node.outputs, training)
        where = f"node {node.label!r} ({node.op_type})"
        try:
            inspect.signature(adapter).bind(call, *inputs)
        except TypeError as error:
            raise UnsupportedCall(f"it is not supported with {len(inputs)} inputs: {error}") from error
        try:
            with self.graph.scope(node.label):
                found = adapter(call, *inputs)
        except ShapeError as error:
            raise ShapeError(f"{where}: {error}") from error
        except (
            ArithmeticError,
            AssertionError,
            AttributeError,
            LookupError,
            MemoryError,
            TypeError,
            ValueError,
        ) as error:
            raise ModelError(
                f"{where} cannot be built from these inputs and attributes: {type(error).__name__}: {error}; "
                "check them, and report the model if they are valid"
            ) from error
        results = tuple(found) if isinstance(found, tuple | list) else (found,)
        missing = [name for name in node.outputs[len(results) :] if name]
        if missing:
            raise UnsupportedCall(f"its output {missing[0]!r} is not supported")
        return results

    def _moves_statistics(self, node: OnnxNode) -> bool:
        """Whether a batch normalisation of a training graph yields the new running statistics as outputs.

        Models exported in training mode compute them for the sake of the buffers that they replace.
        """
        mode = node.op_type == "BatchNormalization" and not node.domain and node.attributes.get("training_mode", 0) == 1
        return mode and self.training and not self.frozen_bn and len(node.outputs) == 3

    def _stored(self, name: str) -> Value | None:
        """What a running statistic is after the nodes so far."""
        value = self.values[name]
        return next((store.value for store in self.graph.stores if store.target is value), value)

    def _store(self, name: str, moved: Value) -> None:
        target = self.values[name]
        if target is not None and target.kind is Kind.BUFFER:
            kept = [store for store in self.graph.stores if store.target is not target]
            self.graph.stores[:] = [*kept, Store(target, moved)]

    def _constant(self, node: OnnxNode) -> Value:
        listed = list(node.attributes.items())
        if len(listed) != 1:
            raise ModelError(f"node {node.label!r} (Constant) has {len(listed)} values, expected one")
        kind, data = listed[0]
        if kind in ("value_string", "value_strings"):
            raise UnsupportedCall("strings are not supported")
        dtype = np.float32 if kind.startswith("value_float") else np.int64
        array = data if isinstance(data, np.ndarray) else np.asarray(data, dtype)
        return constant(array, DType.of(array), node.outputs[0])

    def _placeholder(self, name: str) -> Value | None:
        """What stands for the result of an unsupported node, where its shape can be inferred."""
        if self._inferred is None:
            self._inferred = dict(_infer(self.model, self.graph.inputs))
        return self._inferred.get(name)


def _array(each: OnnxInput, example: Any) -> np.ndarray:
    """An example input as an array.

    Raises:
        UserError: if its elements are not of the kind that the model declares.
    """
    if hasattr(example, "detach"):
        example = example.detach().cpu()
    array = np.asarray(example)
    kinds = "f" if each.dtype.is_float else "b" if each.dtype is DType.BOOL else "iu"
    if array.dtype.kind not in kinds:
        raise UserError(f"the example for input {each.name!r} is {array.dtype}, expected {each.dtype.value}")
    return array


def _static_shape(each: OnnxInput, example: np.ndarray | None, sizes: dict[str, tuple[int, str]]) -> tuple[int, ...]:
    """The static shape of an input: dynamic dimensions are taken from the example.

    Args:
        each: the input.
        example: an array of its static shape, or None.
        sizes: what named dimensions are and which input says so; extended.

    Raises:
        ModelError: if a dimension stays dynamic.
        UserError: if the example does not fit.
    """
    if each.dims is None:
        if example is None:
            raise ModelError(f"input {each.name!r} has no shape; pass example_inputs, whose shapes become static")
        return example.shape
    if example is not None and example.ndim != len(each.dims):
        raise UserError(f"the example for input {each.name!r} has shape {example.shape}, expected {_dims(each)}")
    shape: list[int] = []
    for axis, dim in enumerate(each.dims):
        size = dim if example is None else example.shape[axis]
        if isinstance(dim, str) and dim in sizes:
            known, source = sizes[dim]
            size = known if example is None else size
            if size != known:
                raise UserError(f"dimension {dim!r} is {known} in input {source!r} and {size} in input {each.name!r}")
        if not isinstance(size, int):
            label = f"dimension {axis}" + (f" ({dim})" if isinstance(dim, str) else "")
            raise ModelError(
                f"{label} of input {each.name!r} is dynamic; pass example_inputs, whose shapes become static"
            )
        if isinstance(dim, int) and size != dim:
            given = () if example is None else example.shape
            raise UserError(f"the example for input {each.name!r} has shape {given}, expected {_dims(each)}")
        if isinstance(dim, str):
            sizes.setdefault(dim, (size, each.name))
        shape.append(size)
    return tuple(shape)


def _dims(each: OnnxInput) -> str:
    assert each.dims is not None
    return "(" + ", ".join("?" if dim is None else str(dim) for dim in each.dims) + ")"


def _infer(model: OnnxModel, inputs: Sequence[Value]) -> Iterator[tuple[str, Value]]:
    """Values of the shapes that ONNX infers, so that what follows an unsupported node is examined too."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    shapes = {value.name: value.shape for value in inputs}
    for declared in proto.graph.input:
        if declared.name in shapes:
            shape = declared.type.tensor_type.shape
            del shape.dim[:]
            for extent in shapes[declared.name]:
                shape.dim.add().dim_value = extent
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return  # the nodes that follow are then examined by name alone
    for info in (*inferred.graph.value_info, *inferred.graph.output):
        tensor = info.type.tensor_type
        dims = [dim.dim_value for dim in tensor.shape.dim]
        known = tensor.HasField("shape") and all(dim.WhichOneof("value") == "dim_value" for dim in tensor.shape.dim)
        if tensor.elem_type in TYPES and known and all(0 <= extent <= MAX_ELEMENTS for extent in dims):
            yield info.name, temporary(dims, TYPES[tensor.elem_type].dtype)
