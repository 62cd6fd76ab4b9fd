"""The registry of operators: one function per operator, found under its ATen and ONNX names.

An ATen adapter takes the operator's arguments in the order of its schema, with tensors as `Value`. An ONNX adapter
takes an `OnnxCall` and the node's inputs (None for one that is left out). Both return one `Value` or a tuple of them
and are written in terms of the same functions on values.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tilegrad.errors import InternalError, ShapeError, TileGradError

Adapter = Callable[..., Any]
F = TypeVar("F", bound=Adapter)

_ATEN: dict[str, Adapter] = {}
_ONNX: dict[tuple[str, str], Adapter] = {}
_loaded = False


class UnsupportedCall(TileGradError):
    """An operator is implemented, but not with these arguments; frontends collect it with its node."""


@dataclass(frozen=True)
class OnnxCall:
    """One ONNX node as its adapter sees it.

    Attributes:
        op_type: the operator's name.
        node: the node's name.
        opset: version of the operator's domain.
        attributes: attribute values as Python numbers, strings, lists and NumPy arrays.
        outputs: names of the outputs; empty for one that is left out.
        training: True where the training graph is built.
    """

    op_type: str
    node: str
    opset: int
    attributes: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("",)
    training: bool = False

    def attribute(self, name: str, default: Any = None) -> Any:
        """The attribute's value, or `default` where the node does not have it."""
        return self.attributes.get(name, default)

    def required(self, name: str) -> Any:
        """The attribute's value.

        Raises:
            ShapeError: if the node does not have it.
        """
        if name not in self.attributes:
            raise ShapeError(f"node {self.node!r} ({self.op_type}) lacks its attribute {name!r}")
        return self.attributes[name]


def aten(*names: str) -> Callable[[F], F]:
    """Register a function under ATen names such as ``aten.relu.default``."""

    def register(function: F) -> F:
        for name in names:
            if name in _ATEN:
                raise InternalError(f"{name} is registered twice")
            _ATEN[name] = function
        return function

    return register


def onnx(*names: str, domain: str = "") -> Callable[[F], F]:
    """Register a function under ONNX operator names of `domain` ("" is the default domain)."""

    def register(function: F) -> F:
        for name in names:
            if (domain, name) in _ONNX:
                raise InternalError(f"{domain}::{name} is registered twice")
            _ONNX[domain, name] = function
        return function

    return register


def _load() -> None:
    """Import every operator family of the package, so that a new family is one new file."""
    global _loaded
    if _loaded:
        return
    package = importlib.import_module("tilegrad.operators")
    for module in sorted(info.name for info in pkgutil.iter_modules(package.__path__)):
        importlib.import_module(f"tilegrad.operators.{module}")
    _loaded = True


def find_aten(name: str) -> Adapter | None:
    """The adapter registered under an ATen name."""
    _load()
    return _ATEN.get(name)


def find_onnx(name: str, domain: str = "") -> Adapter | None:
    """The adapter registered under an ONNX name; ``ai.onnx`` is the default domain."""
    _load()
    return _ONNX.get(("" if domain == "ai.onnx" else domain, name))


def aten_names() -> list[str]:
    """All registered ATen names, sorted."""
    _load()
    return sorted(_ATEN)


def onnx_names() -> list[str]:
    """All registered ONNX names, sorted; those of other domains as ``domain::name``."""
    _load()
    return sorted(f"{domain}::{name}" if domain else name for domain, name in _ONNX)
