"""The passes together, on a network: what is left of a training pass, and that plain code gives the same bits."""

from __future__ import annotations

import numpy as np
import pytest

import tilegrad as tg
from tilegrad.ir.graph import Graph, Store, StructuredOp, Value, clone
from tilegrad.ir.types import DType, Kind
from tilegrad.ir.verifier import verify_graph
from tilegrad.models import build_model, synthetic_data
from tilegrad.transforms.pipeline import transform


@pytest.fixture(scope="module")
def build() -> tg.Build:
    """SpeechNet with its gradients."""
    module, inputs = build_model("speechnet", seed=1)
    module.train()
    return tg.compile(module, inputs, tg.losses.CrossEntropy(), tg.optim.SGD(lr=1e-3))


@pytest.fixture(scope="module")
def graph(build: tg.Build) -> Graph:
    """Forward and backward pass behind all transformations."""
    passes = clone(build.training_graph, "train")
    for name, value in build.gradient_values.items():
        passes.stores.append(Store(Value(f"{name}.grad", value.shape, value.dtype, Kind.GRADIENT), value))
    transform(passes)
    verify_graph(passes)
    return passes


def stored(graph: Graph, shape: tuple[int, ...]) -> list[str]:
    return [
        output.name
        for op in graph.ops
        if isinstance(op, StructuredOp)
        for output in op.outputs
        if output.shape == shape
    ]


def test_of_the_first_block_only_the_convolution_and_its_gradient_are_stored(graph: Graph) -> None:
    """Not the normalised value, not the activation, not the gradient that pooling spreads over its windows."""
    assert stored(graph, (1, 8, 14, 701)) == ["blocks.0.conv.1", "blocks.0.norm.23"]


def test_where_sums_cross_rows_the_spread_gradient_is_stored(graph: Graph) -> None:
    """The sums of the third block run over rows and columns, of which 20 of 23 are pooled."""
    assert "d.blocks.2.relu_2" in stored(graph, (1, 16, 14, 23))


def test_convolutions_store_their_bias_and_positions_take_one_byte(graph: Graph) -> None:
    ops = {output.name: op for op in graph.ops for output in op.outputs}
    for block in range(5):
        op = ops[f"blocks.{block}.conv.1"]
        assert isinstance(op, StructuredOp) and op.nests[0].results[0].final is not None
    for block in range(3):
        maximum, position = ops[f"blocks.{block}.pool"].outputs
        assert (maximum.dtype, position.dtype) == (DType.F32, DType.U8)


def test_the_sums_of_the_normalisation_are_one_pass(graph: Graph) -> None:
    (op,) = (op for op in graph.ops if any(o.name.startswith("blocks.1.norm.15.partial") for o in op.outputs))
    assert [output.name.split(".partial")[0] for output in op.outputs] == ["blocks.1.norm.15", "blocks.1.norm.16"]


def test_a_network_trains_with_the_bits_of_the_plain_code(build: tg.Build) -> None:
    module, inputs = build_model("speechnet", seed=1)
    module.train()
    plain = tg.compile(module, inputs, tg.losses.CrossEntropy(), tg.optim.SGD(lr=1e-3), optimize=False)
    x, y = synthetic_data("speechnet", 2, seed=4)
    batches = [(x[k : k + 1], y[k : k + 1]) for k in range(2)]
    a, b = plain.run(batches, 2), build.run(batches, 2)
    assert np.asarray(a.losses).tobytes() == np.asarray(b.losses).tobytes()
    for name, array in (a.parameters | a.buffers).items():
        assert array.tobytes() == (b.parameters | b.buffers)[name].tobytes(), name
