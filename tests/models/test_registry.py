"""The zoo: what it holds, that it builds deterministically, and that errors say what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tilegrad import models
from tilegrad.errors import UserError
from tilegrad.models import build_model, find_model, list_models, synthetic_data

NAMES = [entry.name for entry in list_models()]


def test_the_zoo_holds_these_models() -> None:
    assert NAMES == ["speechnet", "mlp", "resnet8", "mobilenet", "ds_cnn", "transformer"]


@pytest.mark.parametrize(
    ("name", "parameters", "tensors"),
    [
        ("speechnet", 15_489, 22),
        ("mlp", 8_970, 6),
        ("resnet8", 78_042, 29),
        ("mobilenet", 213_586, 83),
        ("ds_cnn", 23_180, 29),
        ("transformer", 28_164, 30),
    ],
)
def test_parameters(name: str, parameters: int, tensors: int) -> None:
    module, _ = build_model(name)
    assert sum(parameter.numel() for parameter in module.parameters()) == parameters
    assert len(list(module.parameters())) == tensors


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_in_training_mode_and_maps_its_inputs_to_logits(name: str) -> None:
    module, inputs = build_model(name, batch=2)
    assert module.training
    logits = module(*inputs)
    assert logits.shape == (2, find_model(name).complete({})["classes"])
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", NAMES)
def test_synthetic_data_fit_the_model(name: str) -> None:
    module, inputs = build_model(name, batch=3)
    x, y = synthetic_data(name, 3)
    assert torch.from_numpy(x).dtype == inputs[0].dtype
    assert x.shape == inputs[0].shape
    assert y.dtype == np.int64
    loss = torch.nn.functional.cross_entropy(module(torch.from_numpy(x)), torch.from_numpy(y))
    assert torch.isfinite(loss)


@pytest.mark.parametrize("name", NAMES)
def test_every_option_reaches_the_factory(name: str) -> None:
    entry = find_model(name)
    for option in entry.options:
        if option.choices:
            value = option.choices[-1]
        elif isinstance(option.default, int):
            value = option.default * 2
        else:
            value = 0.5
        build_model(name, **{option.name: value})


def test_the_seed_alone_decides_weights_and_inputs() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, first_inputs = build_model("mlp", seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second, second_inputs = build_model("mlp", seed=3)
    other, other_inputs = build_model("mlp", seed=4)
    assert torch.equal(first_inputs[0], second_inputs[0])
    assert not torch.equal(first_inputs[0], other_inputs[0])
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key])
        assert not torch.equal(value, other.state_dict()[key])


def test_options_may_be_text_as_on_a_command_line() -> None:
    assert find_model("mobilenet").complete({"width": "0.5", "size": "64"}) == {"width": 0.5, "size": 64, "classes": 2}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vgg", {}, "no model 'vgg'.*speechnet"),
        ("mlp", {"pool": "max"}, "no option 'pool'.*features"),
        ("speechnet", {"pool": "min"}, "pool is 'min', expected one of max, avg"),
        ("speechnet", {"samples": 500}, "samples is 500, expected one of 700, 400"),
        ("mlp", {"hidden": 0}, "hidden is 0, expected a positive int"),
        ("mlp", {"hidden": "many"}, "hidden is 'many', expected a positive int"),
        ("mlp", {"hidden": 2.5}, "hidden is 2.5"),
        ("mlp", {"hidden": True}, "hidden is True"),
        ("mlp", {"hidden": None}, "hidden is None"),
        ("mobilenet", {"width": float("nan")}, "width is nan"),
        ("mobilenet", {"width": float("inf")}, "width is inf"),
        ("mobilenet", {"size": 50}, "size is 50, expected a positive multiple of 32"),
        ("transformer", {"heads": 5}, "5 heads do not divide the width 32"),
        ("mlp", {"batch": 0}, "batch size is 0"),
    ],
)
def test_errors(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_model(name, **options)


def run_python(program: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(models.__file__).parents[2])}
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment)


def test_the_registry_does_not_import_torch() -> None:
    result = run_python("import sys, tilegrad.models as m\nm.synthetic_data('mlp', 1)\nprint('torch' in sys.modules)")
    assert result.stdout == "False\n", result.stderr


def test_without_torch_the_error_names_the_command_that_installs_it() -> None:
    result = run_python("import sys; sys.modules['torch'] = None\nimport tilegrad.models as m\nm.build_model('mlp')")
    assert "UserError" in result.stderr
    assert "pip install 'tilegrad[torch]'" in result.stderr
