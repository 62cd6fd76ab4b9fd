"""`tilegrad train`: what it prints, writes and refuses."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_harness import SOURCE, invoke, refused, start
from tests.cli.conftest import save_onnx

import tilegrad
from tilegrad.api import Build, Run

REQUIRED_KEYS = {
    "ok", "losses", "reference_losses", "errors", "train_cycles", "opt_cycles", "weight_bytes", "memory", "seconds",
}  # fmt: skip


def load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(), parse_constant=pytest.fail)
    return found


def test_speechnet_trains_from_pytorch_to_c_and_everything_agrees(tmp_path: Path) -> None:
    process = start("train", "speechnet", "--steps", "4", "--json", "result.json", "--out", "kept", cwd=tmp_path)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    losses = re.findall(r"^\[loss (\d)\] computed=(\d\.\d{6})  ref=(\d\.\d{6})  diff=0\.00000\d$", out, re.MULTILINE)
    assert [index for index, *_ in losses] == ["0", "1", "2", "3"]
    assert "\nErrors: 0 out of 4\n" in out
    assert re.search(r"^BENCH train_cycles=0 opt_cycles=0 weight_sram=61956$", out, re.MULTILINE)
    for part in ("data: synthetic EMG", "15,489 parameters", "ULP", "blocks.0.conv.weight", "lower bound", "write C"):
        assert part in out
    stages = [line.split(" ...")[0] for line in err.splitlines()]
    assert stages.index("importing the model") < stages.index("deriving the training graph") < stages.index("writing C")
    found = load(tmp_path / "result.json")
    assert found["ok"] is True
    assert found.keys() >= REQUIRED_KEYS
    np.testing.assert_allclose(found["losses"], found["reference_losses"], rtol=1e-5)
    assert found["errors"] == 0
    assert found["weight_bytes"] == 61956
    assert found["train_cycles"] is None
    assert found["memory"]["ram"]["peak"] >= found["memory"]["ram"]["lower_bound"] > 61956
    assert found["synthetic"] is True
    reported = found["seconds_by_stage"].keys()
    assert reported >= {"load", "import", "derive", "plan", "write", "build", "run", "reference", "total"}
    assert (tmp_path / "kept" / "include" / "tilegrad_model.h").is_file()
    assert sorted(os.listdir(tmp_path)) == ["kept", "result.json"]


def test_every_training_option_reaches_the_compiler(user_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    compile_model = tilegrad.compile

    def record(*arguments: Any, **options: Any) -> Build:
        seen.update(options)
        return compile_model(*arguments, **options)

    monkeypatch.setattr(tilegrad, "compile", record)
    result = invoke(
        "train", f"{user_file}:make", "--steps", 2, "--seed", 7, "--loss", "ce", "--label-smoothing", 0.1,
        "--ignore-index", 1, "--optimizer", "adamw", "--lr", 0.01, "--betas", "0.8,0.99", "--eps", 1e-6,
        "--weight-decay", 0.02, "--accumulate", 2, "--accumulate-mode", "sum", "--freeze", "second.*",
        "--freeze", "nothing*", "--train-only", "*weight", "--train-only", "first*", "--bn", "frozen",
        "--clip-norm", 0.5,
    )  # fmt: skip
    refused(result, "no parameter matches 'nothing*'")
    expected = {
        "trainable": ["*weight", "first*"], "freeze": ["second.*", "nothing*"], "accumulate": 2, "seed": 7,
        "accumulate_mode": "sum", "bn": "frozen", "clip_norm": 0.5, "fuse_update": False, "sanitize": False, "cc": None,
    }  # fmt: skip
    assert {name: seen[name] for name in expected} == expected
    assert (seen["loss"].label_smoothing, seen["loss"].ignore_index) == (0.1, 1)
    optimizer = seen["optimizer"]
    assert isinstance(optimizer, tilegrad.optim.AdamW)
    assert (optimizer.lr, optimizer.betas, optimizer.eps, optimizer.weight_decay) == (0.01, (0.8, 0.99), 1e-6, 0.02)


def test_a_users_model_trains_on_random_batches_that_are_called_synthetic(user_file: Path, tmp_path: Path) -> None:
    result = invoke(
        "train", f"{user_file}:make", "--steps", 2, "--loss", "mse", "--optimizer", "sgd", "--momentum", 0.9,
        "--nesterov", "--accumulate", 2, "--train-only", "second.*", "--json", tmp_path / "r.json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "data: synthetic" in result.stdout
    assert "Errors: 0 out of 4" in result.stdout
    found = load(tmp_path / "r.json")
    assert found["weight_bytes"] == 4 * (8 * 3 + 3)
    assert [row["name"] for row in found["tensor_errors"]["gradients"]] == ["second.weight", "second.bias"]


def test_an_onnx_model_trains_on_a_users_data_without_pytorch(tmp_path: Path) -> None:
    model = save_onnx(tmp_path / "net.onnx", "n", 6)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", x=rng.normal(size=(10, 6)).astype(np.float32), y=rng.integers(0, 5, 10))
    code = "import sys; sys.modules['torch'] = None; from tilegrad.cli import main; main()"
    arguments = ["train", model, "--batch", "4", "--steps", "3", "--data", tmp_path / "d.npz"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"data: {tmp_path / 'd.npz'}: 10 samples, 2 batches of 4 used" in done.stdout
    assert "synthetic" not in done.stdout
    assert "Errors: 0 out of 3" in done.stdout


def test_one_wrong_weight_exits_with_1_and_everything_is_still_written(
    tmp_path: Path, user_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Build.run

    def run_wrongly(*arguments: Any, **options: Any) -> Run:
        done = run(*arguments, **options)
        done.parameters["second.bias"][1] += 1e-4
        return done

    monkeypatch.setattr(Build, "run", run_wrongly)
    result = invoke("train", f"{user_file}:make", "--steps", 2, "--json", tmp_path / "r.json")
    assert result.exit_code == 1
    assert "wrong: weight second.bias" in result.stdout
    assert "does NOT agree" in result.stdout
    assert "Errors: 1 out of 2" in result.stdout
    found = load(tmp_path / "r.json")
    assert found["ok"] is False
    assert found["errors"] == 1
    assert found["failures"]
    assert found.keys() >= REQUIRED_KEYS


def test_a_training_that_diverges_to_nan_exits_with_1(tmp_path: Path) -> None:
    result = invoke("train", "mlp", "--features", 4, "--hidden", 4, "--lr", 1e30, "--json", tmp_path / "r.json")
    assert result.exit_code == 1
    assert "nan" in load(tmp_path / "r.json")["losses"]


def test_labels_become_one_hot_targets_for_other_losses() -> None:
    result = invoke("train", "mlp", "--features", 4, "--hidden", 4, "--loss", "bce", "--steps", 1)
    assert result.exit_code == 0, result.output
    assert "labels one-hot" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["mlp", "--pool", "max"], ["mlp has no option --pool", "speechnet"]),
        (["speechnet", "--pool", "min"], ["pool is 'min'", "max, avg"]),
        (["speechnet", "--samples", "500"], ["samples is '500'", "700, 400"]),
        (["mlp", "--optimizer", "adam", "--momentum", "0.9"], ["--momentum does not go with --optimizer adam", "sgd"]),
        (["mlp", "--betas", "0.9", "0.99"], ["--betas does not go with --optimizer sgd", "adam and adamw"]),
        (["mlp", "--loss", "mse", "--label-smoothing", "0.1"], ["--label-smoothing does not go with --loss mse", "ce"]),
        (["mlp", "--target", "hots"], ["no target 'hots'", "did you mean 'host'?"]),
        (["mlp", "--train-only", "nope*"], ["no parameter matches 'nope*'", "head.weight"]),
        (["mlp", "--freeze", "*"], ["nothing is left to train"]),
        (["mlp", "--lr", "-1"], ["learning rate", "-1"]),
        (["mlp", "--clip-norm", "0"], ["clip_norm must be positive"]),
        (["mlp", "--cc", "no-such-compiler"], ["no-such-compiler", "zig, gcc or clang"]),
        (["mlp", "--data", "missing.npz"], ["missing.npz", "does not exist"]),
        (["mlp", "--steps", "0"], ["--steps", "0"]),
        (["mlp", "--json", "missing/r.json"], ["missing/r.json", "No such file or directory"]),
        (["mlp", "--out", "/proc/nowhere/project"], ["/proc/nowhere/project"]),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], parts: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(invoke("train", *arguments), *parts)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("x", "y", "parts"),
    [
        (np.zeros((4, 7), np.float32), np.zeros(4, np.int64), ["(2, 7)", "(2, 6)"]),
        (np.zeros((4, 6), np.float32), np.zeros(4, np.float32), ["integer labels"]),
        (np.zeros((4, 6), np.float32), np.full(4, 9), ["label 9", "5 classes"]),
        (np.zeros((1, 6), np.float32), np.zeros(1, np.int64), ["batch size is 2", "1 samples"]),
    ],
)
def test_data_that_does_not_fit_is_refused(tmp_path: Path, x: Any, y: Any, parts: list[str]) -> None:
    model = save_onnx(tmp_path / "net.onnx", 2, 6)
    np.savez(tmp_path / "d.npz", x=x, y=y)
    refused(invoke("train", model, "--data", tmp_path / "d.npz"), *parts)


@pytest.mark.parametrize(
    ("shape", "arguments", "parts"),
    [
        ((2, 6), ["--batch", 3], ["--batch 3 does not fit", "[2, 6]"]),
        (("n", "m", 6), [], ["axis 1 is dynamic (m)", "example_inputs"]),
        ((2, 6), ["--pool", "max"], ["no option --pool"]),
    ],
)
def test_an_onnx_model_whose_shape_does_not_fit_is_refused(
    tmp_path: Path, shape: tuple[int | str, ...], arguments: list[object], parts: list[str]
) -> None:
    refused(invoke("train", save_onnx(tmp_path / "net.onnx", *shape), *arguments), *parts)


def test_a_broken_onnx_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"not a model")
    refused(invoke("train", tmp_path / "net.onnx"), "net.onnx")
    refused(invoke("train", tmp_path / "absent.onnx"), "absent.onnx")


def test_all_unsupported_operators_are_listed_with_their_lines(user_file: Path) -> None:
    refused(invoke("train", f"{user_file}:fourier"), "aten.fft_fft", "aten.real", "user.py:")


def test_a_mistake_in_a_users_forward_is_told_with_its_line(user_file: Path) -> None:
    refused(invoke("train", f"{user_file}:broken"), "AttributeError", "in forward", "return self.third(x)")


def test_a_full_disk_under_the_result_is_one_error(user_file: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    result = invoke("train", f"{user_file}:make", "--steps", 1, "--json", "/dev/full")
    assert result.exit_code == 2
    assert "No space left on device" in result.stderr


def test_models_of_the_zoo_say_how_to_install_pytorch(monkeypatch: pytest.MonkeyPatch, user_file: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    refused(invoke("train", "speechnet"), "pip install 'tilegrad[torch]'")
    refused(invoke("train", f"{user_file}:make"), "pip install 'tilegrad[torch]'")


def test_ctrl_c_ends_with_130_and_leaves_nothing(tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = start("train", "speechnet", "--json", "r.json", cwd=tmp_path, TMPDIR=str(temporary))
    assert process.stderr is not None
    assert process.stderr.readline() == "loading the model ...\n"
    assert process.stderr.readline() == "importing the model ...\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith("interrupted\n")
    assert "Traceback" not in err
    assert os.listdir(temporary) == []
    assert os.listdir(tmp_path) == ["temporary"]
