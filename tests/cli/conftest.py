"""Models that command-line tests train, small enough to compile in a moment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

USER_FILE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))

class Fourier(Net):
    def forward(self, x):
        return torch.fft.fft(super().forward(x)).real

class Broken(Net):
    def forward(self, x):
        return self.third(x)

def make():
    return Net(), (torch.randn(4, 6),)

def fourier():
    return Fourier(), (torch.randn(4, 6),)

def broken():
    return Broken(), (torch.randn(4, 6),)
"""


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    path = tmp_path / "user.py"
    path.write_text(USER_FILE)
    return path


def save_onnx(path: Path, *shape: int | str) -> Path:
    """A linear layer and a ReLU on an input of this shape, whose last axis is 6."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.normal(size=(6, 5)).astype(np.float32), "weight"),
        numpy_helper.from_array(rng.normal(size=5).astype(np.float32), "bias"),
    ]
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "weight", "bias"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (*shape[:-1], 5))],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path
