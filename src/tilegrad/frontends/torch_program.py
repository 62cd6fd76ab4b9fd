"""An exported PyTorch program as a graph: parameters, buffers, inputs and results."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, OutputKind, TensorArgument

from tilegrad.errors import ModelError, UnsupportedOperatorError
from tilegrad.frontends.torch_types import dtype_of, example_tensor, stored_array, trainable_array
from tilegrad.frontends.torch_walk import Walk
from tilegrad.frontends.views import Owner
from tilegrad.ir.builder import constant
from tilegrad.ir.graph import Graph, Value
from tilegrad.ir.types import DType, Kind


def program_graph(model: nn.Module, example_inputs: Sequence[object], graph: Graph) -> None:
    """Export `model` and append its operations to `graph`; see `tilegrad.frontends.import_torch`."""
    tensors = tuple(example_tensor(position, array) for position, array in enumerate(example_inputs))
    state = _State(model, graph)
    program = export_program(model, tensors)
    bound: dict[str, Any] = {}
    with graph.building():
        for spec in program.graph_signature.input_specs:
            bound[spec.arg.name] = _bind(spec, program, tensors, state, graph)
        walk = Walk(graph)
        outputs = walk.run(program.graph_module, bound)
        if walk.unsupported:
            raise UnsupportedOperatorError(walk.unsupported)
        for output_spec, output in zip(program.graph_signature.output_specs, outputs, strict=True):
            if output_spec.kind is not OutputKind.USER_OUTPUT:
                raise ModelError(f"the exported program returns a {output_spec.kind.name}, which is not supported")
            if output is not None:
                graph.results.append(output.read() if not isinstance(output, int | float) else constant(output))


def export_program(model: nn.Module, tensors: tuple[torch.Tensor, ...]) -> ExportedProgram:
    """The model as an ATen program, in the mode it is in.

    Non-strict tracing runs the model's own Python code: it accepts more models than the strict mode, which interprets
    byte code, and takes half the time.

    Raises:
        ModelError: if PyTorch cannot capture the model.
    """
    try:
        with _quiet(), torch.enable_grad():
            return torch.export.export(model, tensors, strict=False)
    except Exception as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise ModelError(
            f"torch.export cannot capture {type(model).__name__}: {type(error).__name__}: {first}\n"
            "The forward pass must run on the example inputs and must not branch on the contents of tensors; "
            "`torch.export.export(model, example_inputs, strict=False)` shows the whole message."
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep PyTorch's warnings and logs about its own tracing out of the user's terminal; errors still raise.

    A failing export prints the graph it has so far to stderr; what the model itself prints there is passed on.
    """
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    printed = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(printed):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
    sys.stderr.write(printed.getvalue())


class _State:
    """Parameters and buffers of the module as values; memory that has several names is one value.

    Args:
        model: the module.
        graph: receives parameters, buffers, aliases and the names of frozen parameters.

    Raises:
        ModelError: on unsupported element types and on tensors that overlap without being the same.
    """

    def __init__(self, model: nn.Module, graph: Graph) -> None:
        self.owners: dict[str, Owner] = {}
        self._graph = graph
        self._first: dict[tuple[Any, ...], str] = {}
        self._regions: dict[int, list[tuple[int, int, str]]] = {}
        for name, tensor in model.named_parameters(remove_duplicate=False):
            if isinstance(tensor, nn.parameter.UninitializedParameter):
                raise ModelError(f"parameter {name!r} is not initialised yet: call the module once before compiling it")
            if not self._alias(name, tensor):
                value = Value(name, tuple(tensor.shape), DType.F32, Kind.PARAMETER, trainable_array(name, tensor))
                graph.parameters[name] = value
                self.owners[name] = Owner(graph, value, f"it writes into the parameter {name}")
                if not tensor.requires_grad:
                    graph.frozen.append(name)
        for name, buffer in model.named_buffers(remove_duplicate=False):
            if not self._alias(name, buffer):
                data = stored_array(f"buffer {name!r}", buffer)
                value = Value(name, tuple(buffer.shape), DType.of(data), Kind.BUFFER, data)
                graph.buffers[name] = value
                self.owners[name] = Owner(graph, value)

    def _alias(self, name: str, tensor: torch.Tensor) -> bool:
        """Whether the tensor is known under another name already."""
        if tensor.numel() == 0 or tensor.layout is not torch.strided or tensor.is_meta:
            return False
        memory, begin = tensor.untyped_storage().data_ptr(), int(tensor.storage_offset())
        key = (memory, begin, tuple(tensor.shape), tensor.stride(), tensor.dtype)
        first = self._first.setdefault(key, name)
        if first != name:
            self._graph.aliases[name] = first
            self.owners[name] = self.owners[first]
            return True
        end = (
            begin + sum((extent - 1) * stride for extent, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
        )
        for low, high, other in self._regions.setdefault(memory, []):
            if begin < high and low < end:
                raise ModelError(
                    f"{name!r} and {other!r} share memory without being the same tensor; give each memory of its own "
                    "(`.clone()`), or register only one and compute the other in forward()"
                )
        self._regions[memory].append((begin, end, name))
        return False


def _bind(
    spec: InputSpec, program: ExportedProgram, tensors: Sequence[torch.Tensor], state: _State, graph: Graph
) -> Any:
    """What a placeholder of the program stands for."""
    if spec.kind is InputKind.USER_INPUT:
        if not isinstance(spec.arg, TensorArgument):
            return getattr(spec.arg, "value", None)
        tensor = tensors[len(graph.inputs)]
        dtype = dtype_of(tensor.dtype)
        assert dtype is not None  # example_tensor accepts no other
        value = Value(spec.arg.name, tuple(tensor.shape), dtype, Kind.INPUT)
        graph.inputs.append(value)
        return Owner(graph, value)
    name = str(spec.target)
    if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and name in state.owners:
        return state.owners[name]
    if spec.kind is InputKind.CONSTANT_TENSOR:
        found = program.constants[name]
        assert isinstance(found, torch.Tensor)
        data = stored_array(f"constant {name!r}", found)
        note = f"it writes into the tensor {name}, which is no buffer; register it with register_buffer"
        return Owner(graph, constant(data, name=name), note)
    raise ModelError(f"the exported program takes {name!r} as a {spec.kind.name}, which is not supported")
