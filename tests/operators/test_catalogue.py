"""Every registered operator in compiled C: bits, values, wrong addresses, derived gradients.

The cases of `tests.operators.catalogue` are built into a few graphs, forward and backward. The plain C at -O0 is the
oracle of bits; the interpreter and PyTorch, in float64, are those of values.
"""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from aten_harness import aten_op
from numpy.typing import NDArray
from tests.compiled import Project, same_bits, write_graph
from tests.operators.case import Buffer, Known, leaves, rebuild, smooth_points
from tests.operators.catalogue import GROUPS, Bundle, Part, bundle, catalogue, family, uncovered

from tilegrad.ir.types import Kind

Array = NDArray[Any]

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc on this machine")

#: The largest error of compiled C against float64, by family, in units in the last place: of the element, of the median
#: magnitude of its tensor, or of 1 (or of the largest magnitude below), whichever is largest.
LARGEST_ERROR = {
    "activation": 4, "adaptive_pool": 1.5, "arithmetic": 2.5, "attention": 4, "conversion": 2, "conv": 16,
    "creation": 0, "dropout": 0.5, "einsum": 4, "extrema": 0.5, "functions": 3.5, "gather": 1, "linear": 8, "loss": 3,
    "norm": 4.5, "padding": 2.5, "pointwise_loss": 1.5, "pool": 3, "recurrent": 6, "reduction": 4, "resize": 3,
    "scatter": 2, "selection": 2, "shape": 1.5, "slicing": 1,
    # Numbers around 128 with variance 1: float32 holds their mean to 32 units of what is left.
    "batch_norm": 100,
    # Logits up to 30: the gradient of a probability next to 1 is a difference of nearly equal numbers.
    "softmax": 22,
}  # fmt: skip


class Programs:
    """The C projects of the groups, and what the plain ones compute; every one is made on first use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.optimised = functools.cache(self._optimised)
        self.oracle = functools.cache(self._oracle)

    def _optimised(self, group: str) -> Project:
        whole = bundle(group)
        return write_graph(whole.graph, whole.outputs, self.folder / group)

    def _oracle(self, group: str) -> list[Array]:
        whole = bundle(group)
        plain = write_graph(whole.graph, whole.outputs, self.folder / f"{group}.plain", optimize=False)
        return plain.run(whole.feeds, optimization="-O0")

    def assert_bits(self, group: str, **options: Any) -> None:
        """The optimised project, built as `options` say, has the oracle's bits."""
        found = self.optimised(group).run(bundle(group).feeds, **options)
        names = [f"{part.name}: {what}" for part in bundle(group).parts for what in part.outputs]
        differ = [n for n, a, b in zip(names, found, self.oracle(group), strict=True) if not same_bits(a, b)]
        assert not differ


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    return Programs(tmp_path_factory.mktemp("catalogue"))


def test_every_registered_operator_has_a_case() -> None:
    assert not uncovered(catalogue())


def test_every_family_is_compiled() -> None:
    grouped = [name for families in GROUPS.values() for name in families]
    assert len(set(grouped)) == len(grouped)
    assert {family(case) for case in catalogue()} == set(grouped)
    assert set(LARGEST_ERROR) == set(grouped)


def test_float32_holds_the_numbers_of_all_cases() -> None:
    for case in catalogue():
        for leaf in leaves(case.arguments):
            array = leaf.array if isinstance(leaf, Known | Buffer) else leaf
            if array.dtype.kind == "f":
                assert np.array_equal(array, array.astype(np.float32), equal_nan=True), case.operator


@pytest.mark.parametrize("group", GROUPS)
def test_values(programs: Programs, group: str) -> None:
    whole = bundle(group)
    wanted, found = whole.interpret(), iter(programs.oracle(group))
    worst: dict[str, tuple[float, str]] = dict.fromkeys(GROUPS[group], (0.0, ""))
    for part in whole.parts:
        for what, value in part.outputs.items():
            error = _error(next(found), np.asarray(wanted[value]), f"{part.name}: {what}")
            worst[part.family] = max(worst[part.family], (error, f"{part.name}: {what}"))
    for name, (error, where) in worst.items():
        assert error <= LARGEST_ERROR[name], where


def _error(found: Array, wanted: Array, where: str) -> float:
    """The largest error in the units of `LARGEST_ERROR`; NaN, infinities and integers must be the same."""
    if found.dtype.kind != "f":
        np.testing.assert_array_equal(found, wanted, err_msg=where)
        return 0.0
    with np.errstate(over="ignore"):
        rounded = wanted.astype(np.float32)
    finite = np.isfinite(rounded)
    np.testing.assert_array_equal(found[~finite], rounded[~finite], err_msg=where)
    magnitude = np.abs(wanted[finite])
    if not magnitude.any():
        np.testing.assert_array_equal(found[finite], 0.0, err_msg=where)
        return 0.0
    least = max(float(np.median(magnitude[magnitude > 0])), min(1.0, float(magnitude.max())))
    _, exponent = np.frexp(np.maximum(magnitude, least))
    return float((np.abs(found[finite] - wanted[finite]) / np.ldexp(1.0, exponent - 24)).max())


@pytest.mark.parametrize("group", GROUPS)
def test_optimised_code_has_the_bits_of_the_plain_code(programs: Programs, group: str) -> None:
    programs.assert_bits(group)


@needs_gcc
@pytest.mark.parametrize("group", GROUPS)
def test_gcc_gives_the_same_bits(programs: Programs, group: str) -> None:
    programs.assert_bits(group, cc="gcc")


@needs_gcc
@pytest.mark.parametrize("group", GROUPS)
def test_nothing_is_read_out_of_bounds_or_undefined(programs: Programs, group: str) -> None:
    """AddressSanitizer and UBSan watch the optimised project; without optimisation they see every access."""
    programs.assert_bits(group, cc="gcc", sanitize=True, optimization="-O0")


@pytest.mark.parametrize("group", GROUPS)
def test_gradients_are_central_differences(group: str) -> None:
    """All cases move along one random direction at once; numbers written by hand, kinks and ties, stay where they are.

    Results that are NaN or infinite do not count, nor does what they make of gradients.
    """
    whole, step = bundle(group), 1e-6
    here = whole.interpret()
    counted = {s: np.where(np.isfinite(here[r]), whole.feeds[s], 0.0) for p in whole.parts for r, s in p.seeds.items()}
    here = whole.interpret(counted)
    rng = np.random.default_rng(5)
    moved = {}
    for part in whole.parts:
        for value in part.operands:
            if value.kind is Kind.PARAMETER:
                moves = smooth_points(whole.feeds[value]) & np.isfinite(here.get(part.gradients.get(value), 0.0))
                moved[value] = np.where(moves, rng.choice([-1.0, 1.0], value.shape), 0.0)
    ahead, behind = (
        whole.interpret({value: whole.feeds[value] + sign * step * d for value, d in moved.items()}) for sign in (1, -1)
    )
    for part in whole.parts:
        if part.case.differentiable:
            changes = [_product(ahead[r], counted[s]) - _product(behind[r], counted[s]) for r, s in part.seeds.items()]
            expected = sum(float(change.sum()) for change in changes) / (2 * step)
            terms = [_product(here[g], moved[v]) for v, g in part.gradients.items()]
            derived, scale = (sum(float(of(term).sum()) for term in terms) for of in (np.asarray, np.abs))
            assert abs(derived - expected) <= 1e-6 * max(1.0, scale), part.name


def _product(numbers: Array, factors: Array) -> Array:
    """The product where the factor is not 0: what meets a 0 may be NaN."""
    return np.where(factors == 0, 0.0, factors) * np.where(factors == 0, 0.0, numbers)


@pytest.mark.parametrize("group", GROUPS)
def test_pytorch(group: str) -> None:
    whole = bundle(group)
    env = whole.interpret()
    for part in whole.parts:
        if part.case.comparable and part.case.call is None:
            _compare_with_pytorch(whole, part, env)


def _compare_with_pytorch(whole: Bundle, part: Part, env: dict[Any, Array]) -> None:
    tensors = [
        torch.tensor(getattr(leaf, "array", leaf), requires_grad=v in part.gradients)
        for v, leaf in zip(part.operands, leaves(part.case.arguments), strict=True)
    ]
    operator = aten_op(part.case.operator.removeprefix("aten."))
    found = operator(*rebuild(part.case.arguments, iter(tensors)), **part.case.keywords)
    results = list(found) if isinstance(found, tuple | list) else [found]
    assert len(results) == len(part.results), part.name
    for k, (mine, theirs) in enumerate(zip(part.results, results, strict=True)):
        assert mine.shape == tuple(theirs.shape), part.name
        _assert_close(np.asarray(env[mine]) if mine.size else np.zeros(mine.shape), theirs, f"{part.name}: result {k}")
    of = dict(zip(part.results, results, strict=True))
    total = sum((of[r] * torch.tensor(whole.feeds[s])).sum() for r, s in part.seeds.items() if of[r].requires_grad)
    if isinstance(total, torch.Tensor):
        total.backward()
    for value, tensor in zip(part.operands, tensors, strict=True):
        if tensor.grad is not None:
            # At NaN and infinity PyTorch's vectorised and scalar gradients disagree with each other.
            finite = np.isfinite(whole.feeds[value])
            mine = np.where(finite, env[part.gradients[value]], 0.0)
            _assert_close(mine, tensor.grad.masked_fill(~torch.tensor(finite), 0.0), f"{part.name}: d {value.name}")


def _assert_close(mine: Array, theirs: torch.Tensor, where: str) -> None:
    wanted = theirs.numpy(force=True)
    np.testing.assert_allclose(mine, wanted, rtol=1e-6, atol=1e-6, err_msg=where)
