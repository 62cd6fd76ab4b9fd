"""The synthetic generators: shapes, determinism, and tasks that can be learned."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tilegrad.data import synthetic
from tilegrad.errors import UserError


def nearest_centroid_accuracy(
    train: NDArray[np.float64], labels: NDArray[np.int64], test: NDArray[np.float64], truth: NDArray[np.int64]
) -> float:
    centroids = np.stack([train[labels == label].mean(axis=0) for label in range(labels.max() + 1)])
    distance = ((test[:, None] - centroids) ** 2).sum(axis=2)
    return float((distance.argmin(axis=1) == truth).mean())


def loudness(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the logarithmic power per channel and tenth of the window."""
    parts = x.astype(np.float64).reshape(len(x), x.shape[2], 10, -1)
    return np.log((parts**2).mean(axis=3)).reshape(len(x), -1)


@pytest.mark.parametrize("samples", [700, 400])
def test_emg_has_the_shape_of_the_network_input(samples: int) -> None:
    x, y = synthetic.emg(5, samples=samples)
    assert (x.shape, x.dtype) == ((5, 1, 14, samples), np.float32)
    assert (y.shape, y.dtype) == ((5,), np.int64)
    assert np.isfinite(x).all()


def test_emg_is_a_task_that_another_seed_shares() -> None:
    x, y = synthetic.emg(200, seed=1)
    other_x, other_y = synthetic.emg(100, seed=2)
    assert set(y) == set(range(9))
    assert nearest_centroid_accuracy(loudness(x), y, loudness(other_x), other_y) > 0.95


def test_emg_of_words_is_louder_than_rest_and_has_no_power_above_200_hertz() -> None:
    x, y = synthetic.emg(100)
    words, rest = x[y > 0, 0], x[y == 0, 0]
    assert rest.std() == pytest.approx(0.1, rel=0.05)
    assert words.std() > 2 * rest.std()
    frequency = np.fft.rfftfreq(700, 1 / synthetic.EMG_RATE)
    power = (np.abs(np.fft.rfft(words)) ** 2).mean(axis=(0, 1))
    assert power[(frequency > 60) & (frequency < 100)].mean() > 20 * power[frequency > 210].mean()


@pytest.mark.parametrize("shape", [(20,), (3, 16, 16), (1, 49, 10)])
def test_classification_is_a_task_that_another_seed_shares(shape: tuple[int, ...]) -> None:
    x, y = synthetic.classification(200, shape, classes=5, seed=1)
    other_x, other_y = synthetic.classification(100, shape, classes=5, seed=2)
    assert (x.shape, x.dtype, y.dtype) == ((200, *shape), np.float32, np.int64)
    flat, other = (array.astype(np.float64).reshape(len(array), -1) for array in (x, other_x))
    assert nearest_centroid_accuracy(flat, y, other, other_y) > 0.9


def test_tokens_are_a_task_that_another_seed_shares() -> None:
    x, y = synthetic.tokens(400, 16, vocabulary=32, classes=4, seed=1)
    other_x, other_y = synthetic.tokens(100, 16, vocabulary=32, classes=4, seed=2)
    assert (x.shape, x.dtype, y.dtype) == ((400, 16), np.int64, np.int64)
    assert x.min() >= 0
    assert x.max() < 32
    counts, other = ((array[:, :, None] == np.arange(32)).mean(axis=1) for array in (x, other_x))
    assert nearest_centroid_accuracy(counts, y, other, other_y) > 0.9


def test_the_same_seed_gives_the_same_samples() -> None:
    for draw in (
        lambda seed: synthetic.emg(3, seed=seed),
        lambda seed: synthetic.classification(3, (4,), classes=3, seed=seed),
        lambda seed: synthetic.tokens(3, 8, vocabulary=9, classes=2, seed=seed),
    ):
        first, again, other = draw(5), draw(5), draw(6)
        assert np.array_equal(first[0], again[0])
        assert np.array_equal(first[1], again[1])
        assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize(
    ("loss", "shape", "dtype"),
    [("ce", (2, 5), np.int64), ("mse", (2, 3, 5), np.float32), ("bce", (2, 3, 5), np.float32)],
)
def test_random_batches_fit_inputs_and_loss(loss: str, shape: tuple[int, ...], dtype: type) -> None:
    inputs = [np.zeros((2, 4), np.float32), np.array([[7, 9], [7, 11]], np.int64)]
    result = synthetic.random_batches(inputs, (2, 3, 5), loss, 3, seed=1)
    assert len(result) == 3
    for x, chosen, target in result:
        assert (x.shape, x.dtype) == ((2, 4), np.float32)
        assert (chosen.shape, chosen.dtype) == ((2, 2), np.int64)
        assert set(chosen.reshape(-1)) <= {7, 9, 11}
        assert (target.shape, target.dtype) == (shape, dtype)
        if loss == "ce":
            assert set(target.reshape(-1)) <= {0, 1, 2}
        if loss == "bce":
            assert set(target.reshape(-1)) <= {0.0, 1.0}
    assert not np.array_equal(result[0][0], result[1][0])


def test_errors() -> None:
    with pytest.raises(UserError, match="count is 0, expected at least 1"):
        synthetic.emg(0)
    with pytest.raises(UserError, match=r"shape\[1\] is 0"):
        synthetic.classification(1, (3, 0), classes=2)
    with pytest.raises(UserError, match="seed is -1"):
        synthetic.tokens(1, 4, vocabulary=4, classes=2, seed=-1)
    with pytest.raises(UserError, match="loss 'hinge'; expected ce, mse or bce"):
        synthetic.random_batches([np.zeros((1, 2), np.float32)], (1, 2), "hinge", 1)
    with pytest.raises(UserError, match=r"\[batch, classes, ...\]; the model's has shape \[2\]"):
        synthetic.random_batches([np.zeros((1, 2), np.float32)], (2,), "ce", 1)
