"""PyTorch modules, through the public `torch.export` API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tilegrad.errors import UserError
from tilegrad.ir.graph import Graph

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray


def import_torch(
    model: torch.nn.Module,
    example_inputs: Sequence[torch.Tensor | NDArray[Any]],
    *,
    training: bool,
    name: str = "model",
) -> Graph:
    """The forward pass of a module as a graph, in the mode (train or eval) that the module is in.

    Parameters keep PyTorch's dotted names. Memory that the module holds under several names (tied weights) is one
    value under the first name; `Graph.aliases` maps the others to it. Parameters that do not require gradients are
    parameters too, and listed in `Graph.frozen`. Buffers, non-persistent ones too, are in `Graph.buffers`; what the
    module writes into them is stored at the end of the pass. Other tensors of the module are constants. Writes into
    other tensors, through views too, are resolved; a write into an input does not reach the caller's array.

    Args:
        model: the module; it is not changed.
        example_inputs: the positional arguments of ``forward``: float32, int32, int64 or bool; float64 becomes float32.
            Their shapes become the static shapes of the program.
        training: whether operators that behave differently in training do so. It does not change the module's mode.
        name: the graph's name.

    Returns:
        The graph with inputs, parameters, buffers, stores and results. Results are the tensors that the module returns,
        nested containers flattened and None left out.

    Raises:
        UserError: if PyTorch is missing, or `model` is no module.
        ModelError: if the model cannot be exported, sizes depend on the contents of tensors, or element types are not
            supported.
        UnsupportedOperatorError: listing every node that is not supported.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise UserError("PyTorch models need PyTorch: install it with `pip install tilegrad[torch]`") from error
    from tilegrad.frontends.torch_program import program_graph

    if not isinstance(model, torch.nn.Module):
        raise UserError(f"the model is a {type(model).__name__}; expected a torch.nn.Module")
    if not isinstance(example_inputs, tuple | list):
        raise UserError("example_inputs must be a tuple of tensors or arrays, one per argument of forward()")
    graph = Graph(name, training=training)
    program_graph(model, example_inputs, graph)
    return graph
