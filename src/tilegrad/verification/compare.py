"""Comparing tensors: what is granted, and what is found. NaN and infinities never pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilegrad.verification.trajectory import Array, Trajectory

TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class LossRow:
    """One loss.

    Attributes:
        index: which micro-batch, from 0.
        step: which optimizer step it belongs to.
        computed: ours.
        reference: the truth, from float64.
        float32: PyTorch's own in float32 (for models without a module: the interpreter's).
        difference: ours minus the truth.
        ulps: the difference in units of the last place of a float32 of the truth's size.
        allowed: largest difference that passes.
        ok: whether it passes.
    """

    index: int
    step: int
    computed: float
    reference: float
    float32: float
    difference: float
    ulps: float
    allowed: float
    ok: bool


@dataclass(frozen=True)
class TensorRow:
    """One tensor against its truth.

    Attributes:
        name: of the parameter or buffer.
        what: ``gradient``, ``derivation``, ``optimizer``, ``weight``, ``first weight``, ``statistic``, ``frozen``.
        elements: number of elements.
        error: largest absolute error.
        relative: largest error divided by the element's scale (gradients: sum of the magnitudes of the terms;
            optimizer: the update's size; weights: how far they travelled; statistics: their value).
        rms: root mean square of the errors divided by that of the scales.
        share: largest error divided by what is granted to its element; passes up to 1.
        float32_error: largest absolute error of PyTorch's own float32 run (without a module: the interpreter's).
        float32_relative: the same on the scale of `relative`.
        float32_rms: the same as `rms`.
        ok: whether it passes.
        note: why not.
    """

    name: str
    what: str
    elements: int
    error: float
    relative: float
    rms: float
    share: float
    float32_error: float
    float32_relative: float
    float32_rms: float
    ok: bool
    note: str = ""


def failed_row(name: str, what: str, note: str, elements: int = 0) -> TensorRow:
    """A row for a tensor that cannot be compared."""
    nan = float("nan")
    return TensorRow(name, what, elements, nan, nan, nan, nan, nan, nan, nan, False, note)


def compare_tensor(
    name: str, what: str, ours: Array | None, truth: Array, allowed: Array, scale: Array, float32: Array | None
) -> TensorRow:
    """Compare one tensor element by element.

    Args:
        name: its name.
        what: see `TensorRow.what`.
        ours: the compiled program's, or None where it is missing.
        truth: float64.
        allowed: largest absolute error that passes, per element.
        scale: what errors are shown relative to, per element.
        float32: PyTorch's own in float32, shown beside ours.
    """
    if ours is None:
        return failed_row(name, what, "missing")
    if ours.shape != truth.shape:
        return failed_row(name, what, f"shape {ours.shape}, expected {truth.shape}", ours.size)
    bad = int(np.sum(~np.isfinite(ours)))
    if bad:
        return failed_row(name, what, f"{bad} of {ours.size} elements are NaN or infinite", ours.size)
    if not np.all(np.isfinite(truth)):
        return failed_row(name, what, "the reference itself is NaN or infinite", ours.size)
    error = np.abs(ours.astype(np.float64) - truth)
    allowed = np.where(np.isfinite(allowed), allowed, 0.0)  # where training diverges, the spread of runs grants nothing
    share = _largest(_ratio(error, allowed))
    ok = bool(np.all(error <= allowed))
    note = "" if ok else _worst(error, allowed, ours, truth)
    other = (
        np.abs(float32 - truth) if float32 is not None and float32.shape == truth.shape else np.full_like(error, 0.0)
    )
    size = _rms([np.broadcast_to(scale, error.shape)])
    return TensorRow(
        name, what, int(error.size), _largest(error), _largest(_ratio(error, scale)), _rms([error]) / max(size, TINY),
        share, _largest(other), _largest(_ratio(other, scale)), _rms([other]) / max(size, TINY), ok, note,
    )  # fmt: skip


def _worst(error: Array, allowed: Array, ours: Array, truth: Array) -> str:
    ratio = np.nan_to_num(_ratio(error, allowed), nan=np.inf)
    place = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
    where = f"[{', '.join(str(int(k)) for k in place)}]"
    count = int(np.sum(~(error <= allowed)))
    return (
        f"{count} of {error.size} elements are off; the worst, {where}, is {float(ours[place]):.9g} instead of "
        f"{float(truth[place]):.9g} (granted: {float(np.broadcast_to(allowed, error.shape)[place]):.2g})"
    )


def _ratio(error: Array, scale: Array) -> NDArray[np.float64]:
    """``error / scale``, zero where the error is."""
    with np.errstate(all="ignore"):
        return np.where(error == 0, 0.0, error / np.broadcast_to(scale, error.shape))


def _largest(array: Array) -> float:
    return float(np.max(array)) if array.size else 0.0


def compare_frozen(name: str, ours: Array | None, before: Array) -> TensorRow:
    """Compare a tensor that training must not touch, bit by bit."""
    if ours is None:
        return failed_row(name, "frozen", "missing")
    if ours.shape != before.shape:
        return failed_row(name, "frozen", f"shape {ours.shape}, expected {before.shape}", ours.size)
    same = np.ascontiguousarray(ours, np.float32).view(np.uint32) == np.ascontiguousarray(before, np.float32).view(
        np.uint32
    )
    changed = int(np.sum(~same))
    if changed:
        return failed_row(name, "frozen", f"{changed} of {ours.size} elements changed although it is frozen", ours.size)
    return TensorRow(name, "frozen", ours.size, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, True)


class Spread:
    """How far runs with noise of float32's size are from the truth.

    Args:
        truth: the run in float64.
        samples: perturbed runs in float64 and the run in float32.
    """

    def __init__(self, truth: Trajectory, samples: Sequence[Trajectory]) -> None:
        self._truth, self._samples = truth, samples

    def losses(self) -> NDArray[np.float64]:
        """Per micro-batch: the largest distance so far."""
        truth = np.array(self._truth.losses)
        distances = [np.abs(np.array(sample.losses) - truth) for sample in self._samples]
        peak = np.max(distances, axis=0) if distances else np.zeros_like(truth)
        return np.asarray(np.maximum.accumulate(peak))

    def gradient(self, name: str, scale: Array) -> NDArray[np.float64]:
        """Per element: the largest distance, plus the typical distance of the tensor on the elements' scales."""
        peak, distances = self._peak("gradients", name)
        relative = [_ratio(distance, scale) for distance in distances]
        return np.asarray(peak + _rms(relative) * scale)

    def tensor(self, kind: str, name: str) -> NDArray[np.float64]:
        """Per element: the largest distance, plus the typical distance in the tensor."""
        peak, distances = self._peak(kind, name)
        return np.asarray(peak + _rms(distances))

    def _peak(self, kind: str, name: str) -> tuple[Array, list[Array]]:
        truth = _get(self._truth, kind)[name]
        found = [_get(sample, kind).get(name) for sample in self._samples]
        distances = [np.abs(array - truth) for array in found if array is not None]
        return (np.max(distances, axis=0) if distances else np.zeros_like(truth)), distances


def _get(trajectory: Trajectory, kind: str) -> Mapping[str, Array]:
    arrays: Mapping[str, Array] = getattr(trajectory, kind)
    return arrays


def _rms(arrays: Iterable[Array]) -> float:
    squares = [np.square(array[np.isfinite(array)]) for array in arrays]
    count = sum(square.size for square in squares)
    return float(np.sqrt(sum(float(square.sum()) for square in squares) / count)) if count else 0.0


def compare_losses(
    ours: Sequence[float] | NDArray[Any], truth: Trajectory, float32: Trajectory, allowed: Array, accumulate: int
) -> list[LossRow]:
    """Compare the losses; one that is missing is NaN."""
    rows = []
    for index, reference in enumerate(truth.losses):
        computed = float(ours[index]) if index < len(ours) else float("nan")
        difference = computed - reference
        with np.errstate(over="ignore", invalid="ignore"):  # a reference beyond float32 has no unit there: NaN
            unit = float(np.spacing(np.float32(abs(reference))))
        ok = bool(np.isfinite(computed) and abs(difference) <= allowed[index] < np.inf)
        rows.append(
            LossRow(
                index, index // accumulate, computed, reference, float32.losses[index], difference, difference / unit,
                float(allowed[index]), ok,
            )
        )  # fmt: skip
    return rows
