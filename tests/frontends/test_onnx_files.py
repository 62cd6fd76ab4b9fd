"""Models that nobody should trust: each defect is one clear error, and no defect is any other exception."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from tilegrad.errors import ModelError, TileGradError
from tilegrad.frontends.onnx_files import read_model
from tilegrad.frontends.onnx_model import import_onnx
from tilegrad.ir.graph import Graph

FLOAT = TensorProto.FLOAT


def small() -> onnx.ModelProto:
    """Convolution, batch norm, ReLU, pooling and a classifier."""
    data = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(data.uniform(0.5, 1.5, size=shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1, 1, 1, 1], strides=[1, 1]),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"], "bn", epsilon=1e-5),
        helper.make_node("Relu", ["n"], ["r"], "relu"),
        helper.make_node("MaxPool", ["r"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"], "flatten", axis=1),
        helper.make_node("Gemm", ["f", "k", "b"], ["y"], "classifier", alpha=1.0),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", FLOAT, [1, 1, 4, 4])],
        [helper.make_tensor_value_info("y", FLOAT, [1, 3])],
        [
            weight("w", 2, 1, 3, 3),
            *(weight(name, 2) for name in ("scale", "shift", "mean", "var")),
            weight("k", 8, 3),
            weight("b", 3),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def refused(change: Callable[[onnx.ModelProto], object], message: str) -> None:
    """The small model with a change is refused with this message."""
    proto = small()
    change(proto)
    with pytest.raises(ModelError, match=message):
        import_onnx(proto, training=True)


def node(proto: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(each for each in proto.graph.node if each.name == name)


def initializer(proto: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(each for each in proto.graph.initializer if each.name == name)


def attribute(proto: onnx.ModelProto, name: str, key: str) -> onnx.AttributeProto:
    return next(each for each in node(proto, name).attribute if each.name == key)


# ---- Files -----------------------------------------------------------------------------------------------------------


def test_a_missing_file_a_folder_and_a_name_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.onnx' cannot be read: .*No such file"):
        read_model(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="is not a file"):
        read_model(tmp_path)
    with pytest.raises(ModelError, match="cannot be read"):
        read_model("a\0b.onnx")


@pytest.mark.parametrize("content", [b"", b"\x08\x08", b"GIF89a not a model", b"\xff" * 64, b"{}\n"])
def test_files_of_another_kind(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="not an ONNX model"):
        read_model(path)


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(ModelError, match="is not a file"):
        read_model(tmp_path / "pipe.onnx")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    with path.open("wb") as file:
        file.truncate(1 << 31)  # sparse
    with pytest.raises(ModelError, match="at most 2 GiB"):
        read_model(path)


def test_the_error_names_the_file(tmp_path: Path) -> None:
    proto = small()
    proto.graph.node[0].input[0] = "nothing"
    onnx.save(proto, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"m\.onnx': node 'conv' \(Conv\) reads 'nothing', which nothing defines"):
        read_model(tmp_path / "m.onnx")


# ---- External data ---------------------------------------------------------------------------------------------------


def external(folder: Path, location: str, **entries: str) -> Path:
    """The small model with its tensor `b` in another file."""
    proto = small()
    tensor = initializer(proto, "b")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    folder.mkdir(exist_ok=True)
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    return folder / "m.onnx"


DATA = np.array([1.0, 2.0, 3.0], np.float32)


def test_external_data_beside_the_model_is_read(tmp_path: Path) -> None:
    path = external(tmp_path / "model", "sub/b.bin", offset="4", length="12")
    (tmp_path / "model/sub").mkdir()
    (tmp_path / "model/sub/b.bin").write_bytes(b"head" + DATA.tobytes())
    np.testing.assert_array_equal(read_model(path).initializers["b"], DATA)
    (tmp_path / "model/link.bin").symlink_to("sub/b.bin")
    again = external(tmp_path / "model", "link.bin", offset="4")
    np.testing.assert_array_equal(read_model(again).initializers["b"], DATA)


@pytest.mark.parametrize(
    "location", ["../b.bin", "sub/../../b.bin", "{outside}", "link.bin", "", ".", "..\\b.bin", "a\0"]
)
def test_external_data_outside_of_the_folder_is_not_read(tmp_path: Path, location: str) -> None:
    (tmp_path / "b.bin").write_bytes(DATA.tobytes())
    path = external(tmp_path / "model", location.replace("{outside}", str(tmp_path / "b.bin")))
    (tmp_path / "model/link.bin").symlink_to(tmp_path / "b.bin")
    with pytest.raises(
        ModelError, match=r"initializer 'b': its external data .* is not a file inside the model's folder"
    ):
        read_model(path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"offset": "-4"}, "external data at -4"),
        ({"offset": "x"}, "no number"),
        ({"length": "8"}, "has 8 bytes of external data at 0, expected 12"),
        ({"offset": "4"}, "no file of at least 16 bytes"),
        ({"offset": str(1 << 70)}, "no file of at least"),
    ],
)
def test_external_data_of_the_wrong_size(tmp_path: Path, entries: dict[str, str], message: str) -> None:
    path = external(tmp_path, "b.bin", **entries)
    (tmp_path / "b.bin").write_bytes(DATA.tobytes())
    with pytest.raises(ModelError, match=message):
        read_model(path)


def test_external_data_that_is_missing_or_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot be read: .*No such file"):
        read_model(external(tmp_path, "none.bin"))
    os.mkfifo(tmp_path / "pipe.bin")
    with pytest.raises(ModelError, match="no file of at least"):
        read_model(external(tmp_path, "pipe.bin"))


def test_a_model_in_memory_has_no_folder(tmp_path: Path) -> None:
    proto = onnx.ModelProto.FromString(external(tmp_path, "b.bin").read_bytes())
    with pytest.raises(ModelError, match=r"stored in another file, 'b\.bin'; pass the path"):
        read_model(proto)


# ---- Tensors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.COMPLEX64, TensorProto.STRING, TensorProto.UINT8, 77, 0],
)
def test_tensors_of_other_types(kind: int) -> None:
    refused(lambda m: setattr(initializer(m, "b"), "data_type", kind), "initializer 'b' is of type .*, expected float")


def test_contents_that_do_not_match_the_dimensions() -> None:
    refused(lambda m: initializer(m, "b").dims.__setitem__(0, 4), r"of shape \(4,\) has 12 bytes, expected 16")
    refused(lambda m: initializer(m, "b").dims.__setitem__(0, -3), r"negative dimension: \(-3,\)")
    refused(lambda m: initializer(m, "b").dims.extend([1 << 40]), "has more than")
    refused(lambda m: initializer(m, "b").dims.extend([1 << 62] * 40), "has more than")

    def listed(proto: onnx.ModelProto) -> None:
        initializer(proto, "b").ClearField("raw_data")
        initializer(proto, "b").float_data.extend([1.0, 2.0])

    refused(listed, r"of shape \(3,\) has 2 elements, expected 3")

    def misplaced(proto: onnx.ModelProto) -> None:
        initializer(proto, "b").ClearField("raw_data")
        initializer(proto, "b").double_data.extend([1.0, 2.0, 3.0])

    refused(misplaced, "has its elements in double_data, expected float_data")


def test_elements_in_typed_fields_are_read() -> None:
    tensors = [
        helper.make_tensor("f", FLOAT, [2], [1.5, -2.0]),
        helper.make_tensor("i", TensorProto.INT32, [2], [1, -2]),
        helper.make_tensor("l", TensorProto.INT64, [1], [1 << 40]),
        helper.make_tensor("b", TensorProto.BOOL, [2], [True, False]),
        helper.make_tensor("e", FLOAT, [0], []),
    ]
    proto = small()
    for tensor in tensors:
        tensor.name = f"extra {tensor.name}"
    proto.graph.initializer.extend(tensors)
    found = read_model(proto).initializers
    for tensor in tensors:
        wanted = numpy_helper.to_array(tensor)
        assert found[tensor.name].dtype == wanted.dtype
        np.testing.assert_array_equal(found[tensor.name], wanted)


def test_sparse_and_segmented_tensors() -> None:
    refused(lambda m: m.graph.sparse_initializer.add(), "sparse initializers are not supported")
    refused(lambda m: setattr(initializer(m, "b").segment, "begin", 0), "stored in segments")


# ---- Structure -------------------------------------------------------------------------------------------------------


def test_names_that_are_missing_or_given_twice() -> None:
    refused(lambda m: m.graph.initializer.append(initializer(m, "b")), "initializer name 'b' is given twice")
    refused(lambda m: setattr(initializer(m, "b"), "name", ""), "initializer name '' is empty")
    refused(lambda m: m.graph.input.append(m.graph.input[0]), "input name 'x' is given twice")
    refused(lambda m: setattr(m.graph.input[0], "name", ""), "input name '' is empty")
    refused(lambda m: node(m, "relu").output.__setitem__(0, "c"), "node 'relu' defines 'c', which is defined already")
    refused(lambda m: node(m, "relu").output.__setitem__(0, "x"), "node 'relu' defines 'x', which is defined already")
    refused(lambda m: node(m, "relu").output.__setitem__(0, "w"), "node 'relu' defines 'w', which is defined already")
    refused(lambda m: node(m, "relu").input.__setitem__(0, "q"), r"'relu' \(Relu\) reads 'q', which nothing defines")
    refused(lambda m: setattr(m.graph.output[0], "name", "q"), "nothing defines the output 'q'")
    refused(lambda m: m.graph.ClearField("output"), "no outputs")
    refused(lambda m: node(m, "conv").input.__setitem__(1, ""), "node 'conv' .* lacks its input 'W'")
    refused(lambda m: setattr(node(m, "relu"), "op_type", ""), "names no operator")


def test_cycles() -> None:
    refused(lambda m: node(m, "conv").input.__setitem__(0, "p"), "in a cycle: 'conv', 'bn', 'relu', 'pool', 'flatten'")
    refused(lambda m: node(m, "relu").input.__setitem__(0, "r"), "in a cycle: 'relu'")


def test_opsets() -> None:
    refused(lambda m: setattr(m.opset_import[0], "version", 12), "opset 12 is not supported, expected 13 to 23")
    refused(lambda m: setattr(m.opset_import[0], "version", 24), "opset 24 is not supported")
    refused(lambda m: m.ClearField("opset_import"), "no operator set is named")
    refused(lambda m: setattr(m.opset_import[0], "domain", "other"), "'conv' .* default operator set, which")
    refused(lambda m: m.opset_import.add(domain="ai.onnx", version=18), "two versions of the operator set 'ai.onnx'")
    refused(lambda m: m.ClearField("graph"), "there is no graph")


def test_inputs_that_are_no_tensors_of_a_supported_type() -> None:
    refused(lambda m: m.graph.input[0].type.sequence_type.SetInParent(), "input 'x' is no tensor")
    refused(lambda m: m.graph.input[0].ClearField("type"), "input 'x' is no tensor")

    def typed(kind: int) -> Callable[[onnx.ModelProto], None]:
        return lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", kind)

    refused(typed(TensorProto.FLOAT16), "input 'x' is of type float16")
    refused(typed(99), "input 'x' is of type number 99")


@pytest.mark.parametrize("size", [0, -1, 1 << 40, -(1 << 63)])
def test_dimensions_of_inputs_out_of_range(size: int) -> None:
    refused(
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[2], "dim_value", size),
        f"dimension 2 of input 'x' is {size}, expected 1 to",
    )


def test_functions_that_call_themselves() -> None:
    def recursive(proto: onnx.ModelProto) -> None:
        for name, other in (("F", "G"), ("G", "F")):
            body = [helper.make_node(other, ["a"], ["b"], domain="local")]
            proto.functions.append(
                helper.make_function("local", name, ["a"], ["b"], body, [helper.make_opsetid("local", 1)])
            )
        proto.opset_import.add(domain="local", version=1)
        node(proto, "relu").op_type, node(proto, "relu").domain = "F", "local"

    refused(recursive, "the function 'F' of domain 'local' calls itself")


# ---- Attributes ------------------------------------------------------------------------------------------------------


def test_attributes_of_wrong_types_and_values() -> None:
    def retyped(proto: onnx.ModelProto) -> None:
        pads = attribute(proto, "conv", "pads")
        pads.ClearField("ints")
        pads.type = AttributeProto.FLOATS
        pads.floats.extend([float("nan")] * 4)

    refused(retyped, "attribute 'pads' of node 'conv' .* is not a number")

    def floats(proto: onnx.ModelProto) -> None:
        retyped(proto)
        attribute(proto, "conv", "pads").floats[:] = [1.0] * 4

    refused(floats, "attribute 'pads' of node 'conv' .* is of type FLOATS, expected INTS")
    refused(lambda m: attribute(m, "conv", "pads").ints.__setitem__(0, 1 << 62), "'pads' .* is out of range")
    refused(lambda m: setattr(attribute(m, "bn", "epsilon"), "f", float("nan")), "'epsilon' .* is not a number")
    refused(lambda m: setattr(attribute(m, "conv", "pads"), "name", "padding"), "which opset 17 does not define")
    refused(lambda m: node(m, "pool").ClearField("attribute"), "node 'pool' .* lacks its attribute 'kernel_shape'")
    refused(lambda m: node(m, "conv").attribute.append(attribute(m, "conv", "pads")), "attribute 'pads' twice")
    refused(lambda m: setattr(attribute(m, "conv", "pads"), "ref_attr_name", "q"), "refers to 'q'")
    refused(
        lambda m: setattr(attribute(m, "conv", "pads"), "type", AttributeProto.GRAPHS), "type that is not supported"
    )
    refused(lambda m: node(m, "relu").input.append("x"), r"node 'relu' \(Relu\) has 2 inputs, expected 1 to 1")
    refused(lambda m: node(m, "relu").ClearField("output"), r"node 'relu' \(Relu\) has 0 outputs")


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("conv", "pads", [1, 1, 1]),
        ("conv", "pads", [-9, -9, -9, -9]),
        ("conv", "strides", [0, 0]),
        ("conv", "strides", [-1, 1]),
        ("conv", "strides", []),
        ("pool", "kernel_shape", [0, 2]),
        ("pool", "kernel_shape", [1 << 20, 1 << 20]),
        ("pool", "kernel_shape", [2]),
        ("pool", "strides", [0, 0]),
        ("flatten", "axis", 9),
    ],
)
def test_numbers_that_make_no_sense_are_errors_of_the_node(name: str, key: str, value: list[int] | int) -> None:
    proto = small()
    found = attribute(proto, name, key)
    if isinstance(value, int):
        found.i = value
    else:
        found.ints[:] = value
    try:
        import_onnx(proto, training=True)
    except TileGradError as error:
        assert f"'{name}'" in str(error)
    else:
        assert value == []  # an empty list is what leaving the attribute out means


# ---- Anything else ---------------------------------------------------------------------------------------------------

BYTES = small().SerializeToString()


def survives(data: bytes, folder: Path) -> None:
    path = folder / "m.onnx"
    path.write_bytes(data)
    try:
        assert isinstance(import_onnx(path, training=True), Graph)
    except TileGradError as error:
        assert str(error)


def test_the_small_model_itself_is_read(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(BYTES)
    assert import_onnx(tmp_path / "m.onnx", training=True).results[0].shape == (1, 3)


def test_truncated_models(tmp_path: Path) -> None:
    for length in range(0, len(BYTES), 13):
        survives(BYTES[:length], tmp_path)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(flips=st.lists(st.tuples(st.integers(0, len(BYTES) - 1), st.integers(1, 255)), min_size=1, max_size=4))
def test_models_with_flipped_bytes(flips: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory) -> None:
    data = bytearray(BYTES)
    for position, mask in flips:
        data[position] ^= mask
    survives(bytes(data), tmp_path_factory.getbasetemp())
