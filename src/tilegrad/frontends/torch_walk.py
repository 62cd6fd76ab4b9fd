"""From the nodes of an exported PyTorch program to operations of the graph under construction."""

from __future__ import annotations

import inspect
import operator
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import fx
from torch._ops import HigherOrderOperator, OpOverload

from tilegrad.errors import InternalError, ModelError, ShapeError, UnsupportedNode
from tilegrad.frontends.torch_aliases import PERMUTING, RESHAPING, SLICING, assignment, is_view, packet
from tilegrad.frontends.torch_decompose import Decomposition, call_key, decompose
from tilegrad.frontends.torch_types import dtype_of, stored_array
from tilegrad.frontends.views import Cell, Owner, View
from tilegrad.ir.builder import broadcast_to, constant, elementwise, full, temporary
from tilegrad.ir.expr import cast
from tilegrad.ir.graph import GradientRule, Graph, Value
from tilegrad.ir.types import DType, Kind
from tilegrad.operators.registry import Adapter, UnsupportedCall, find_aten

#: Arguments without a meaning for a program that is compiled ahead of time for one memory.
_PLACEMENT = ("device", "layout", "pin_memory", "memory_format", "non_blocking")
#: Operators that store running statistics in their buffer arguments; argument 5 says whether they do.
_STORING = {"batch_norm", "instance_norm", "native_batch_norm", "_native_batch_norm_legit"}
#: Operators that leave every element as it is, so that float64 operands may be held as float32 before and after.
_MOVING = RESHAPING | PERMUTING | SLICING | {"lift_fresh_copy", "clone", "detach_", "copy", "empty", "zeros", "ones"}
#: Checks of what is static here.
_STATIC_CHECKS = {"_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range", "sym_constrain_range_for_size"}


class Walk:
    """Translates nodes in order and collects those that are not supported.

    Args:
        graph: the graph under construction.
        nested: whether the program is the composition of an operator that is not registered.

    Attributes:
        unsupported: the nodes that no operator implements.
    """

    def __init__(self, graph: Graph, *, nested: bool = False) -> None:
        self.graph, self._nested = graph, nested
        self.unsupported: list[UnsupportedNode] = []
        self._gradients = True
        self._decompositions: dict[object, Decomposition | None] = {}

    def run(self, module: fx.GraphModule, bound: Mapping[str, Any]) -> list[Any]:
        """Translate a program.

        Args:
            module: its graph.
            bound: cells (or plain numbers) of its placeholders, by name.

        Returns:
            Its outputs: cells, numbers or None.

        Raises:
            ModelError: if a shape depends on the contents of tensors.
        """
        env: dict[fx.Node, Any] = {}
        for node in module.graph.nodes:
            if node.op == "placeholder":
                env[node] = bound[node.name]
            elif node.op == "get_attr":
                env[node] = self._attribute(module, str(node.target))
            elif node.op == "call_function":
                env[node] = self._call(node, env)
            elif node.op == "output":
                return list(_resolve(node.args[0], env))
            else:
                raise ModelError(f"node {describe(node)} is a {node.op}, which an exported program does not contain")
        raise ModelError("the exported program has no output")

    def _attribute(self, module: fx.GraphModule, path: str) -> Any:
        found: Any = module
        for part in path.split("."):
            found = getattr(found, part)
        if not isinstance(found, torch.Tensor):
            return found
        return Owner(self.graph, constant(stored_array(f"constant {path!r}", found)), f"it writes into constant {path}")

    # ---- Nodes -------------------------------------------------------------------------------------------------------

    def _call(self, node: fx.Node, env: Mapping[fx.Node, Any]) -> Any:
        expected = node.meta.get("val")
        _check_static(node, expected)
        if isinstance(expected, int | float | bool):
            return expected
        target = node.target
        args = [_resolve(arg, env) for arg in node.args]
        kwargs = {key: _resolve(arg, env) for key, arg in node.kwargs.items()}
        if target is operator.getitem:
            return args[0][args[1]]
        if isinstance(target, OpOverload) and packet(target) in _STATIC_CHECKS:
            return None
        with self._scope(node):
            try:
                return self._translate(node, args, kwargs)
            except UnsupportedCall as error:
                self._report(node, str(error))
            except ShapeError as error:
                raise ShapeError(f"node {describe(node)}, {target}: {error}") from error
        return self._placeholder(node, expected)

    def _scope(self, node: fx.Node) -> AbstractContextManager[None]:
        """Label operations with the node of the model that they come from."""
        return self.graph.scope(None if self._nested else origin_of(node))

    def _report(self, node: fx.Node, reason: str) -> None:
        self.unsupported.append(UnsupportedNode(str(node.target), describe(node), reason))

    def _placeholder(self, node: fx.Node, expected: Any) -> Any:
        """What stands for the result of an unsupported node, so that the nodes after it are examined too."""
        if isinstance(expected, torch.Tensor):
            dtype = dtype_of(expected.dtype) or DType.F32
            return Owner(self.graph, temporary(tuple(expected.shape), dtype, node.name))
        if isinstance(expected, tuple | list):
            return tuple(self._placeholder(node, item) for item in expected)
        return None

    def _translate(self, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
        target = node.target
        if isinstance(target, HigherOrderOperator):
            return self._higher_order(target, args)
        if not isinstance(target, OpOverload):
            raise UnsupportedCall("it is a Python function of values that are known only at run time")
        if target._schema.is_mutable:
            return self._in_place(node, target, args, kwargs)
        if packet(target) in _STORING and len(args) > 5 and args[5] is True:
            return self._storing(node, target, args, kwargs)
        found = self._values(node, target, args, kwargs)
        return self._cells(node, target, args, kwargs, found)

    def _higher_order(self, target: HigherOrderOperator, args: list[Any]) -> Any:
        name = str(getattr(target, "__name__", target))
        if name != "wrap_with_set_grad_enabled":
            raise UnsupportedCall("control flow and wrappers inside a program are not supported")
        enabled, module, *operands = args
        names = [node.name for node in module.graph.nodes if node.op == "placeholder"]
        before, self._gradients = self._gradients, bool(enabled)
        try:
            return tuple(self.run(module, dict(zip(names, operands, strict=True))))
        finally:
            self._gradients = before

    def _storing(self, node: fx.Node, target: OpOverload, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """An operator that moves running statistics: it gets the buffers themselves and stores into them."""
        buffers = [arg for arg in args if isinstance(arg, Owner) and arg.value.kind is Kind.BUFFER]
        direct = [arg.value if isinstance(arg, Owner) and arg in buffers else arg for arg in args]
        found = self._values(node, target, direct, kwargs)
        for owner in buffers:
            owner.touch()
        return self._owners(found)

    def _in_place(self, node: fx.Node, target: OpOverload, args: list[Any], kwargs: dict[str, Any]) -> Any:
        written = [a.name for a in target._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
        name = packet(target)
        if written != ["self"] or not name.endswith("_"):
            raise UnsupportedCall(f"it writes into {', '.join(written)}")
        cell: Cell = args[0]
        before = cell.read()
        write = _WRITES.get(name)
        if write is not None:
            found = self._cut(lambda: write(before, *(_read(arg) for arg in args[1:])))
        else:
            overload = target._schema.overload_name or "default"
            functional = getattr(getattr(torch.ops.aten, name[:-1], None), overload, target)
            found = self._values(node, functional, args, kwargs)
        if not isinstance(found, Value) or found.shape != before.shape:
            raise UnsupportedCall("it changes the shape of a tensor in place")
        if found.dtype is not before.dtype:
            found = elementwise(lambda v: cast(v, before.dtype), found)
        cell.write(found)
        return cell

    # ---- Operators ---------------------------------------------------------------------------------------------------

    def _values(self, node: fx.Node, target: OpOverload, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """The operator's results as values of the shapes and types that PyTorch gives them."""
        adapter = find_aten(str(target))
        if adapter is None:
            found = self._decomposed(node, target, args, kwargs)
        else:
            try:
                found = self._cut(lambda: _call_adapter(adapter, target, _read(args), _read(kwargs)))
            except UnsupportedCall as refusal:
                try:
                    found = self._decomposed(node, target, args, kwargs)
                except UnsupportedCall:
                    raise refusal from None
        return _conform(node, target, found, node.meta.get("val"))

    def _decomposed(self, node: fx.Node, target: OpOverload, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """An operator that is not registered, or not for these arguments, as PyTorch's own composition of others."""
        if self._nested:
            raise UnsupportedCall("")
        operands = dict(_operands((node.args, node.kwargs), (args, kwargs)))
        key = call_key(target, node.args, node.kwargs, list(operands))
        if key not in self._decompositions:
            self._decompositions[key] = decompose(target, node.args, node.kwargs, list(operands))
        program = self._decompositions[key]
        if program is None:
            raise UnsupportedCall("")
        inner = Walk(self.graph, nested=True)
        inner._gradients = self._gradients
        bound: dict[str, Any] = {name: Owner(self.graph, constant(data)) for name, data in program.constants.items()}
        bound.update(
            (name, Owner(self.graph, _read(operands[n]))) for name, n in zip(program.inputs, operands, strict=True)
        )
        found = inner.run(program.module, bound)
        if inner.unsupported:
            missing = dict.fromkeys(n.operator + (f" ({n.reason})" if n.reason else "") for n in inner.unsupported)
            raise UnsupportedCall(
                f"PyTorch composes it of operators that are not supported either: {', '.join(missing)}"
            )
        results = [_read(item) for item in found]
        return tuple(results) if program.several else results[0]

    def _cut(self, build: Callable[[], Any]) -> Any:
        """Build; where the program has gradients switched off, no gradient flows through the results."""
        before = len(self.graph.ops)
        found = build()
        if self._gradients:
            return found
        new = {output for op in self.graph.ops[before:] for output in op.outputs}
        return _map_values(found, lambda value: self._without_gradient(value, value in new))

    def _without_gradient(self, value: Value, new: bool) -> Value:
        if not value.dtype.is_float or value.kind in (Kind.INPUT, Kind.BUFFER, Kind.CONSTANT):
            return value
        if not new:
            value = elementwise(lambda v: v, value)
        self.graph.rules[value] = GradientRule((), (value,), lambda *_: ())
        return value

    # ---- Memory ------------------------------------------------------------------------------------------------------

    def _owners(self, found: Any) -> Any:
        if isinstance(found, Value):
            return Owner(self.graph, found)
        return tuple(self._owners(item) for item in found) if isinstance(found, tuple | list) else found

    def _cells(self, node: fx.Node, target: OpOverload, args: list[Any], kwargs: dict[str, Any], found: Any) -> Any:
        """Cells for the results: views where PyTorch's results share memory with the first argument."""
        source = node.args[0] if node.args else None
        before = source.meta.get("val") if isinstance(source, fx.Node) else None
        after = node.meta.get("val")
        first = next(iter(after), None) if isinstance(after, tuple | list) else after
        if not isinstance(before, torch.Tensor) or not isinstance(first, torch.Tensor):
            return self._owners(found)
        if not is_view(target, args, before, first):
            return self._owners(found)

        def look(position: int | None) -> Callable[[Value], Value]:
            def again(parent: Value) -> Value:
                with self._scope(node):
                    result = self._values(node, target, [parent, *args[1:]], kwargs)
                return result if position is None else result[position]  # type: ignore[no-any-return]

            return again

        parent: Cell = args[0]
        if isinstance(found, Value):
            return View(parent, look(None), assignment(target, args, before, after, None), found)
        return tuple(
            View(parent, look(k), assignment(target, args, before, after, k), value) for k, value in enumerate(found)
        )


_WRITES: dict[str, Callable[..., Value]] = {
    "copy_": lambda old, new, *_: broadcast_to(_convert(new, old.dtype), old.shape),
    "fill_": lambda old, new: (
        broadcast_to(_convert(new, old.dtype), old.shape) if isinstance(new, Value) else full(old.shape, new, old.dtype)
    ),
    "zero_": lambda old: full(old.shape, 0, old.dtype),
}


def _convert(value: Value, dtype: DType) -> Value:
    return value if value.dtype is dtype else elementwise(lambda v: cast(v, dtype), value)


def _call_adapter(adapter: Adapter, target: OpOverload, args: list[Any], kwargs: dict[str, Any]) -> Any:
    signature = inspect.signature(adapter)
    if not _binds(signature, args, kwargs):
        kwargs = {key: value for key, value in kwargs.items() if key not in _PLACEMENT}
        if not _binds(signature, args, kwargs):
            given = ", ".join([*map(str, args[1:]), *(f"{key}={value}" for key, value in kwargs.items())])
            raise UnsupportedCall(f"it is not supported with these arguments: {given}")
    try:
        return adapter(*args, **kwargs)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, AssertionError) as error:
        raise InternalError(f"the operator {target} failed: {type(error).__name__}: {error}") from error


def _binds(signature: inspect.Signature, args: list[Any], kwargs: dict[str, Any]) -> bool:
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _conform(node: fx.Node, target: OpOverload, found: Any, expected: Any) -> Any:
    """Compare results with what PyTorch computes: count, shapes and types; integers take PyTorch's width."""
    if isinstance(expected, tuple | list):
        if not isinstance(found, tuple | list) or len(found) < len(expected):
            raise InternalError(f"{target} at node {describe(node)} has {len(expected)} results, got {found}")
        return tuple(_conform(node, target, f, e) for f, e in zip(found, expected, strict=False))
    if not isinstance(expected, torch.Tensor):
        return found
    if isinstance(found, tuple | list):
        found = found[0]
    dtype = dtype_of(expected.dtype)
    if dtype is None and expected.dtype is torch.float64 and packet(target) in _MOVING:
        dtype = DType.F32
    if dtype is None:
        kind = str(expected.dtype).removeprefix("torch.")
        raise UnsupportedCall(f"it computes in {kind}; float32, int32, int64 and bool are supported")
    if not isinstance(found, Value) or found.shape != tuple(expected.shape):
        raise InternalError(
            f"{target} at node {describe(node)} gives {found}, but PyTorch a tensor of shape {tuple(expected.shape)}"
        )
    if found.dtype is dtype:
        return found
    if found.dtype.is_float or dtype.is_float or DType.BOOL in (found.dtype, dtype):
        raise InternalError(f"{target} at node {describe(node)} gives {found.dtype.value}, but PyTorch {dtype.value}")
    return _convert(found, dtype)


# ---- Helpers ---------------------------------------------------------------------------------------------------------


def _check_static(node: fx.Node, expected: Any) -> None:
    symbolic = (torch.SymInt, torch.SymFloat, torch.SymBool)
    items = expected if isinstance(expected, tuple | list) else (expected,)
    for item in items:
        sizes = tuple(item.shape) if isinstance(item, torch.Tensor) else (item,)
        if any(isinstance(size, symbolic) for size in sizes):
            raise ModelError(
                f"node {describe(node)}, {node.target}, has a size or a number that depends on the contents of tensors "
                f"({', '.join(map(str, sizes))}); sizes must be known when the program is compiled: use masks and "
                "torch.where in place of boolean indexing, nonzero, item() and the like"
            )


def _resolve(arg: Any, env: Mapping[fx.Node, Any]) -> Any:
    """An argument with its nodes replaced by what they stand for."""
    if isinstance(arg, fx.Node):
        return env[arg]
    if isinstance(arg, list | tuple):
        return [_resolve(item, env) for item in arg]
    if isinstance(arg, dict):
        return {key: _resolve(item, env) for key, item in arg.items()}
    return arg


def _read(arg: Any) -> Any:
    """An argument with its cells replaced by their current contents."""
    if isinstance(arg, Owner | View):
        return arg.read()
    if isinstance(arg, list):
        return [_read(item) for item in arg]
    if isinstance(arg, tuple):
        return tuple(_read(item) for item in arg)
    if isinstance(arg, dict):
        return {key: _read(item) for key, item in arg.items()}
    return arg


def _map_values(found: Any, change: Callable[[Value], Value]) -> Any:
    if isinstance(found, Value):
        return change(found)
    return tuple(_map_values(item, change) for item in found) if isinstance(found, tuple | list) else found


def _operands(arg: Any, resolved: Any) -> Iterator[tuple[fx.Node, Any]]:
    """The tensors among the arguments: pairs of the node and what it stands for."""
    if isinstance(arg, fx.Node):
        if isinstance(arg.meta.get("val"), torch.Tensor):
            yield arg, resolved
    elif isinstance(arg, list | tuple):
        for item, found in zip(arg, resolved, strict=True):
            yield from _operands(item, found)
    elif isinstance(arg, dict):
        for key, item in arg.items():
            yield from _operands(item, resolved[key])


def describe(node: fx.Node) -> str:
    """A node as messages name it: its name, the module it is in and the line of the model."""
    text = node.name
    path = _module_path(node)
    if path:
        text += f" in {path}"
    lines = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    if lines:
        text += f" ({os.path.basename(lines[-1][0])}:{lines[-1][1]})"
    return text


def origin_of(node: fx.Node) -> str:
    """Where a node comes from: the path of the layer, or that of the module around it and the node's name."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = _module_path(node)
    if not path:
        return node.name
    kind = stack[-1][1]
    name = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
    return path if name.startswith("torch.nn.") else f"{path}.{node.name}"


def _module_path(node: fx.Node) -> str:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack else ""
