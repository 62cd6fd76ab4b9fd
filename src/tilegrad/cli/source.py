"""What MODEL on the command line means: a model of the zoo, a function in a user's file, or an ONNX file."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilegrad.cli.options import require_options
from tilegrad.errors import UserError

if TYPE_CHECKING:
    from tilegrad.frontends.onnx_files import OnnxInput


@dataclass(frozen=True)
class Source:
    """A model to compile.

    Attributes:
        name: for titles and names of folders.
        model: the module, or the ONNX file's path.
        example_inputs: tensors or arrays whose shapes become static; None where the ONNX file says them.
        zoo: its name in the zoo, or None.
        options: the zoo model's options, complete.
    """

    name: str
    model: Any
    example_inputs: tuple[Any, ...] | None
    zoo: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def resolve(model: str, options: Mapping[str, str], *, batch: int | None, seed: int) -> Source:
    """Find and build the model.

    Args:
        model: MODEL as given.
        options: options of the zoo's models that were given.
        batch: samples per batch, or None.
        seed: of the initial weights.

    Raises:
        UserError: there is no such model, it cannot be built, or an option does not fit it.
    """
    path, colon, factory = model.rpartition(":")
    if colon and path.endswith(".py"):
        require_options(model, options, ())
        return _from_file(Path(path), factory, batch, seed)
    if model.endswith(".py"):
        raise UserError(f"{model}: name the function that makes the model, as in {model}:make_model")
    if model.lower().endswith(".onnx"):
        require_options(model, options, ())
        return _from_onnx(Path(model), batch)
    return _from_zoo(model, options, batch or 1, seed)


def _from_zoo(name: str, options: Mapping[str, str], batch: int, seed: int) -> Source:
    from tilegrad.models import build_model, find_model, list_models

    names = [entry.name for entry in list_models()]
    if name not in names:
        close = get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UserError(
            f"there is no model {name!r}; {hint}Give a model of the zoo ({', '.join(names)}), "
            "FILE.py:FACTORY or FILE.onnx."
        )
    entry = find_model(name)
    require_options(name, options, (option.name for option in entry.options))
    complete = entry.complete(options)
    module, inputs = build_model(name, batch=batch, seed=seed, **complete)
    return Source(name, module, inputs, name, complete)


def _from_file(path: Path, name: str, batch: int | None, seed: int) -> Source:
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise UserError(
            f"{path} makes a PyTorch module and PyTorch is not installed. Install it: pip install 'tilegrad[torch]'"
        ) from error
    from tilegrad.cli.userfile import load_factory

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = load_factory(path, name)()
    where = f"{name} in {path}"
    if not isinstance(made, tuple | list) or len(made) != 2:
        raise UserError(f"{where} returned {_kind(made)}; expected two things, the module and its example inputs")
    module, inputs = made
    if not isinstance(module, torch.nn.Module):
        raise UserError(f"{where} returned {_kind(module)} first; expected a torch.nn.Module")
    inputs = tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
    for position, tensor in enumerate(inputs):
        if not hasattr(tensor, "shape"):
            raise UserError(f"{where}: example input {position} is {_kind(tensor)}; expected a tensor or an array")
    if batch is not None and (not inputs or not len(inputs[0].shape) or inputs[0].shape[0] != batch):
        shapes = ", ".join(str(list(tensor.shape)) for tensor in inputs)
        raise UserError(f"--batch {batch} does not fit {where}: its example inputs, {shapes}, decide the batch size")
    _try_out(path, module, inputs)
    return Source(name, module, inputs)


def _try_out(path: Path, module: Any, inputs: tuple[Any, ...]) -> None:
    """Call a copy of the module once, so that a mistake in it is told in terms of the user's file."""
    import torch

    from tilegrad.cli.userfile import call_user_code

    tensors = [torch.as_tensor(value).clone() for value in inputs]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        call_user_code(path, lambda: copy.deepcopy(module)(*tensors))


def _from_onnx(path: Path, batch: int | None) -> Source:
    from tilegrad.frontends.onnx_files import read_model

    inputs = read_model(path).inputs
    if batch is None and all(one.dims is not None and all(isinstance(n, int) for n in one.dims) for one in inputs):
        return Source(path.stem, path, None)
    return Source(path.stem, path, tuple(_example(path, one, batch) for one in inputs))


def _example(path: Path, declared: OnnxInput, batch: int | None) -> NDArray[Any]:
    """Zeros in the shape that an ONNX file declares; a dynamic first axis is the batch."""
    where = f"{path}: input {declared.name!r}"
    if declared.dims is None:
        raise UserError(f"{where} declares no shape; export the model with fixed shapes")
    for axis, extent in enumerate(declared.dims[1:], 1):
        if not isinstance(extent, int):
            raise UserError(
                f"{where}: axis {axis} is dynamic ({extent or 'unnamed'}); only the first axis, the batch, may be: "
                "export the model with fixed shapes, or compile it with tilegrad.compile(example_inputs=...)"
            )
    first = declared.dims[:1]
    if batch is not None and first and isinstance(first[0], int) and first[0] != batch:
        raise UserError(f"--batch {batch} does not fit {where}, whose shape is fixed: {list(declared.dims)}")
    if first and not isinstance(first[0], int):
        first = (batch or 1,)
    return np.zeros((*first, *declared.dims[1:]), declared.dtype.numpy)  # type: ignore[arg-type]


def _kind(thing: object) -> str:
    if isinstance(thing, tuple | list):
        return f"a {type(thing).__name__} of {len(thing)}"
    return "nothing" if thing is None else f"a {type(thing).__name__}"
