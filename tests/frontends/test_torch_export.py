"""PyTorch modules as graphs: state, results, and every way in which a module is refused."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from frontend_harness import check_gradients, check_module
from torch import Tensor, nn
from torch.nn import functional

from tilegrad.errors import InternalError, ModelError, UnsupportedOperatorError, UserError
from tilegrad.frontends.torch_export import import_torch
from tilegrad.ir.builder import full, reshape
from tilegrad.ir.graph import Value
from tilegrad.ir.types import DType, Kind
from tilegrad.models.registry import build_model, list_models
from tilegrad.operators import registry


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Function(nn.Module):
    """A module around a function and other modules."""

    def __init__(self, function: Any, *modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(modules)

    def forward(self, *tensors: Tensor) -> Any:
        return self.function(*self.parts, *tensors)


# ---- Parameters, buffers, constants, inputs, results -----------------------------------------------------------------


def test_parameters_keep_their_names_order_and_contents() -> None:
    module = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3, bias=False))
    graph, _ = check_module(module, torch.randn(2, 4))
    assert list(graph.parameters) == [name for name, _ in module.named_parameters()]
    for name, parameter in module.named_parameters():
        value = graph.parameters[name]
        assert value.name == name and value.kind is Kind.PARAMETER and value.dtype is DType.F32
        np.testing.assert_array_equal(value.data, parameter.detach().numpy())
        assert value.data is not parameter.detach().numpy()
    check_gradients(module, torch.randn(2, 4))


def test_contents_do_not_follow_the_module() -> None:
    module = nn.Linear(2, 2)
    graph = import_torch(module, [torch.randn(1, 2)], training=True)
    before = graph.parameters["weight"].data
    assert before is not None
    copy = before.copy()
    with torch.no_grad():
        module.weight.zero_()
    np.testing.assert_array_equal(before, copy)


def test_strided_parameters_are_stored_row_by_row() -> None:
    module = nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    graph, _ = check_module(module, torch.randn(1, 3, 4, 4))
    data = graph.parameters["weight"].data
    assert data is not None and data.flags.c_contiguous


def test_training_batch_norm_stores_its_statistics() -> None:
    module = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(inplace=True))
    graph, _ = check_module(module, torch.randn(2, 2, 4, 4))
    names = ["1.running_mean", "1.running_var", "1.num_batches_tracked"]
    assert list(graph.buffers) == names
    assert sorted(store.target.name for store in graph.stores) == sorted(names)
    assert [graph.buffers[name].dtype for name in names] == [DType.F32, DType.F32, DType.I64]
    check_gradients(module, torch.randn(2, 2, 4, 4))
    assert not check_module(module.eval(), torch.randn(2, 2, 4, 4), training=False)[0].stores


def test_a_batch_norm_that_is_called_twice_moves_its_statistics_twice() -> None:
    check_module(
        Function(lambda norm, x: norm(norm(x) * 2.0) + norm.running_mean, nn.BatchNorm1d(3)), torch.randn(4, 3)
    )


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(4, 4)
        self.decode = nn.Linear(4, 4, bias=False)
        self.decode.weight = self.encode.weight
        self.register_buffer("offset", torch.ones(4))
        self.register_buffer("again", self.offset, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.decode(torch.relu(self.encode(x))) + self.again
        return y


def test_tied_weights_are_one_value_under_the_first_name() -> None:
    graph, _ = check_module(Tied(), torch.randn(2, 4))
    assert list(graph.parameters) == ["encode.weight", "encode.bias"]
    assert list(graph.buffers) == ["offset"]
    assert graph.aliases == {"decode.weight": "encode.weight", "again": "offset"}
    check_gradients(Tied(), torch.randn(2, 4))


class Overlapping(nn.Module):
    def __init__(self, second: Any) -> None:
        super().__init__()
        self.whole = nn.Parameter(torch.randn(4, 4))
        self.part = nn.Parameter(second(self.whole.data))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.whole + self.part.sum()


def test_parameters_that_overlap_without_being_the_same_are_refused() -> None:
    with pytest.raises(ModelError, match="'part' and 'whole' share memory without being the same tensor"):
        import_torch(Overlapping(lambda whole: whole[1:3]), [torch.randn(2, 4)], training=True)
    with pytest.raises(ModelError, match="share memory"):
        import_torch(Overlapping(lambda whole: whole.t()), [torch.randn(2, 4)], training=True)


def test_disjoint_parts_of_one_memory_are_separate_parameters() -> None:
    module = Function(lambda a, b, x: b(a(x)), nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    memory = torch.randn(18)
    module.parts[0].weight = nn.Parameter(memory[:9].view(3, 3))
    module.parts[1].weight = nn.Parameter(memory[9:].view(3, 3))
    graph, _ = check_module(module, torch.randn(2, 3))
    assert len(graph.parameters) == 2 and not graph.aliases


def test_parameters_that_do_not_require_gradients_are_listed_as_frozen() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[0].requires_grad_(False)
    graph = import_torch(module, [torch.randn(2, 3)], training=True)
    assert graph.frozen == ["0.weight", "0.bias"] and len(graph.parameters) == 4


def test_unused_parameters_are_parameters_too() -> None:
    module = Function(lambda used, unused, x: used(x), nn.Linear(3, 3), nn.Linear(5, 5))
    assert "parts.1.weight" in check_module(module, torch.randn(2, 3))[0].parameters


class Constants(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = torch.arange(4.0)
        self.register_buffer("hidden", torch.tensor([1, 2, 3, 4]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.table + torch.tensor([1.0, 2.0, 3.0, 4.0]) + self.hidden


def test_other_tensors_are_constants_and_hidden_buffers_are_buffers() -> None:
    graph, _ = check_module(Constants(), torch.randn(3, 4))
    assert list(graph.buffers) == ["hidden"] and not graph.parameters


def test_results_of_any_structure_are_flattened() -> None:
    def several(x: Tensor, index: Tensor) -> Any:
        return {"sum": x + index, "more": (x, [None, 3, index], x.split(1, 1))}

    graph, _ = check_module(Function(several), torch.randn(3, 2), torch.tensor([1, 2]))
    assert [value.shape for value in graph.results] == [(3, 2), (3, 2), (), (2,), (3, 1), (3, 1)]
    assert graph.results[1] is graph.inputs[0] and graph.results[3] is graph.inputs[1]


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (np.ones((2, 2)), DType.F32),
        (torch.ones(2, 2, dtype=torch.float64), DType.F32),
        (np.ones((2, 2), np.float32), DType.F32),
        (np.ones((2, 2), np.int32), DType.I32),
        (torch.ones(2, 2, dtype=torch.int64), DType.I64),
        (np.ones((2, 2), bool), DType.BOOL),
    ],
)
def test_types_of_inputs(array: Any, dtype: DType) -> None:
    graph = import_torch(Function(lambda x: torch.where(x > 0, 1.0, 2.0)), [array], training=False)
    assert graph.inputs[0].dtype is dtype and graph.inputs[0].shape == (2, 2)


def test_two_inputs_may_be_the_same_tensor() -> None:
    x = torch.randn(2, 3)
    graph, _ = check_module(Function(lambda a, b: a - 2.0 * b), x, x)
    assert len(graph.inputs) == 2


def test_inputs_that_are_not_used_stay_inputs() -> None:
    assert len(check_module(Function(lambda a, b: a * 2.0), torch.randn(2), torch.randn(3))[0].inputs) == 2


def test_operations_name_the_layer_or_the_node_they_come_from() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.linear(x))

    module = nn.Sequential(Block(), Block())
    origins = [op.origin for op in import_torch(module, [torch.randn(2, 3)], training=True).ops]
    assert list(dict.fromkeys(origins)) == ["0.linear", "0.relu", "1.linear", "1.relu_1"]


def test_the_module_is_not_changed_and_may_be_exported_without_gradients_enabled() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with torch.no_grad():
        graph = import_torch(module, [torch.randn(4, 3)], training=True)
    assert module.training and all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert not any(rule.inputs == () for rule in graph.rules.values())


# ---- Larger modules --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "inputs"),
    [
        (nn.LSTM(3, 4, num_layers=2, batch_first=True), [(2, 3, 3)]),
        (nn.GRU(3, 4, bidirectional=True), [(2, 2, 3)]),
        (nn.RNNCell(3, 4), [(2, 3)]),
        (nn.LSTM(3, 4, proj_size=2), [(2, 2, 3)]),
        (nn.MultiheadAttention(8, 2, batch_first=True), [(2, 3, 8)] * 3),
        (nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), [(2, 3, 8)]),
        (nn.Conv1d(3, 4, 3, padding="same", padding_mode="circular"), [(2, 3, 7)]),
        (nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), [(2, 3)]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_modules_that_export_to_many_operators(module: nn.Module, inputs: list[tuple[int, ...]]) -> None:
    tensors = [torch.randn(*shape) for shape in inputs]
    check_module(module, *tensors)
    check_gradients(module, *tensors)


@pytest.mark.parametrize("name", [entry.name for entry in list_models()])
def test_every_model_of_the_zoo_is_imported_in_both_modes(name: str) -> None:
    module, inputs = build_model(name, batch=2)
    assert import_torch(module.train(), inputs, training=True).results[0].shape[0] == 2
    check_module(module.eval(), *inputs, training=False, tolerance=1e-4)


# ---- Operators that are not registered -------------------------------------------------------------------------------


def test_an_unregistered_operator_is_composed_of_registered_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.randn(3, 4), torch.randn(3, 4)
    module = Function(lambda linear, a, b: torch.addcmul(linear(a), a, b, value=0.5), nn.Linear(4, 4))
    registry.find_aten("")  # load all
    monkeypatch.delitem(registry._ATEN, "aten.addcmul.default")
    graph, _ = check_module(module, x, y)
    assert graph.ops[-1].origin == "addcmul"
    check_gradients(module, x, y)


def test_a_call_that_an_operator_refuses_is_composed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*args: Any, **kwargs: Any) -> Value:
        raise registry.UnsupportedCall("never")

    registry.find_aten("")
    monkeypatch.setitem(registry._ATEN, "aten.addcmul.default", refuses)
    x = torch.randn(3, 4)
    check_module(Function(lambda a: torch.addcmul(a, a, a)), x)
    monkeypatch.setitem(registry._ATEN, "aten.mul.Tensor", refuses)
    with pytest.raises(UnsupportedOperatorError, match=r"aten.addcmul.default \(node .*: never"):
        import_torch(Function(lambda a: torch.addcmul(a, a, a)), [x], training=True)


def test_every_unsupported_node_is_listed_at_once() -> None:
    def forward(x: Tensor) -> Any:
        y = torch.lgamma(x) + 1.0
        return torch.fft.rfft(torch.relu(y)).abs(), torch.lgamma(y).double()

    with pytest.raises(UnsupportedOperatorError) as caught:
        import_torch(Function(forward), [torch.rand(8)], training=False)
    assert caught.value.operators == ("aten.lgamma.default", "aten.fft_rfft.default", "aten.to.dtype")
    assert [node.node.split()[0] for node in caught.value.nodes] == ["lgamma", "fft_rfft", "lgamma_1", "to"]
    assert "(test_torch_export.py:" in caught.value.nodes[0].node
    assert "aten._fft_r2c.default" in caught.value.nodes[1].reason
    assert "float64" in caught.value.nodes[3].reason


def test_control_flow_inside_the_program_is_listed() -> None:
    def forward(x: Tensor) -> Any:
        return torch.cond(x.sum() > 0, lambda v: v + 1, lambda v: v - 1, (x,))

    with pytest.raises(UnsupportedOperatorError, match="control flow"):
        import_torch(Function(forward), [torch.rand(3)], training=False)


def test_results_are_compared_with_the_shapes_and_types_that_pytorch_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.find_aten("")
    for wrong in (lambda x: reshape(x, (6,)), lambda x: full((2, 3), 1, DType.I32)):
        monkeypatch.setitem(registry._ATEN, "aten.relu.default", wrong)
        with pytest.raises(InternalError, match=r"aten.relu.default at node relu .* but PyTorch"):
            import_torch(Function(torch.relu), [torch.rand(2, 3)], training=False)


def test_arguments_that_an_adapter_does_not_take_are_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_tensor(x: Value) -> Value:
        return x

    registry.find_aten("")
    monkeypatch.setitem(registry._ATEN, "aten.gelu.default", only_tensor)
    with pytest.raises(UnsupportedOperatorError, match="not supported with these arguments: approximate=tanh"):
        import_torch(Function(lambda x: functional.gelu(x, approximate="tanh")), [torch.rand(3)], training=False)


# ---- Modules that are refused ----------------------------------------------------------------------------------------


def test_shapes_that_depend_on_contents_name_the_node() -> None:
    with pytest.raises(ModelError, match=r"node index .*aten.index.Tensor, has a size .* depends on the contents"):
        import_torch(Function(lambda x: x[x > 0]), [torch.randn(5)], training=True)
    with pytest.raises(ModelError, match=r"node nonzero .*use masks and torch.where"):
        import_torch(Function(torch.nonzero), [torch.randn(5)], training=True)


def test_a_failing_export_is_one_message(capfd: pytest.CaptureFixture[str]) -> None:
    def branches(x: Tensor) -> Tensor:
        return x * 2.0 if x.sum() > 0 else x

    with pytest.raises(ModelError, match=r"torch.export cannot capture Function: .*data-dependent") as caught:
        import_torch(Function(branches), [torch.randn(5)], training=True)
    assert "must not branch on the contents of tensors" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2
    assert capfd.readouterr() == ("", "")


def test_an_error_of_the_forward_pass_is_shown() -> None:
    with pytest.raises(ModelError, match=r"(?s)cannot capture Linear: RuntimeError: .*2, 5.*must run on the example"):
        import_torch(nn.Linear(3, 4), [torch.randn(2, 5)], training=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.complex64])
def test_parameters_of_other_types(dtype: torch.dtype) -> None:
    kind = str(dtype).removeprefix("torch.")
    module = nn.Linear(2, 2)
    module.weight = nn.Parameter(module.weight.detach().to(dtype))
    with pytest.raises(ModelError, match=f"parameter 'weight' is {kind}, expected float32: .*module.float"):
        import_torch(module, [torch.randn(1, 2)], training=True)


def test_buffers_of_other_types() -> None:
    module = nn.Linear(2, 2)
    module.register_buffer("mask", torch.ones(2, dtype=torch.uint8))
    with pytest.raises(ModelError, match="buffer 'mask' is uint8, expected float32, int32, int64 or bool"):
        import_torch(module, [torch.randn(1, 2)], training=True)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (torch.ones(2, dtype=torch.float16), "example input 0 is float16"),
        (np.ones(2, np.complex64), "example input 0 is complex64"),
        (np.ones(2, np.uint32), "example input 0 is uint32"),
        (np.array(["a"]), "example input 0 is <U1"),
        (torch.ones(2, dtype=torch.uint8), "example input 0 is uint8"),
        ([1.0, 2.0], "example input 0 is a list"),
        (torch.ones(2, 2).to_sparse(), "example input 0 has no dense contents"),
        (torch.ones(2, device="meta"), "example input 0 has no dense contents"),
    ],
)
def test_inputs_of_other_types(example: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        import_torch(nn.ReLU(), [example], training=True)


def test_modules_without_contents() -> None:
    with pytest.raises(ModelError, match="parameter 'weight' has no plain contents"):
        import_torch(nn.Linear(2, 2, device="meta"), [torch.randn(1, 2)], training=True)
    with pytest.raises(ModelError, match="'weight' is not initialised yet: call the module once"):
        import_torch(nn.LazyLinear(2), [torch.randn(1, 2)], training=True)


def test_what_is_no_module_or_no_list_of_inputs() -> None:
    with pytest.raises(UserError, match="the model is a str"):
        import_torch("model", [torch.randn(2)], training=True)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="example_inputs must be a tuple"):
        import_torch(nn.ReLU(), torch.randn(2), training=True)  # type: ignore[arg-type]


def test_missing_pytorch_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"pip install tilegrad\[torch\]"):
        import_torch(nn.ReLU(), [np.ones(2)], training=True)
