"""Synthetic data, for demonstrations and tests. Nothing here was measured on a person or a device.

In every generator the *task* (patterns, bands, distributions) is fixed by the shapes and the number of classes, and the
seed only draws the samples: two seeds give a training set and a test set of the same task.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilegrad.errors import UserError

EMG_RATE = 500
"""Sampling rate of the synthetic EMG in Hz."""

# The generators' own streams: the first word of every seed, so that no two share their draws.
_EMG_TASK, _EMG_SAMPLES, _PATTERN_TASK, _PATTERN_SAMPLES, _TOKEN_TASK, _TOKEN_SAMPLES, _RANDOM = range(1, 8)


def emg(
    count: int, *, samples: int = 700, channels: int = 14, classes: int = 9, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Make windows of synthetic surface EMG.

    A window is sensor noise on every channel. Class 0 is rest: nothing more. Every other class is a *word*: muscle
    activity in one to three bursts. A word fixes
      - where it is seen: a gain per channel, two Gaussian bumps on the ring of electrodes;
      - its spectrum: white noise cut to a band that starts between 20 and 60 Hz and ends between 100 and 200 Hz;
      - when the bursts come (raised-cosine envelopes at fixed fractions of the window).
    A window varies in the noise itself, in loudness (log-normal, sigma 0.2), in each channel's contact (sigma 0.1) and
    in the bursts' timing (up to 3 % of the window).

    Args:
        count: number of windows.
        samples: samples per window at 500 Hz.
        channels: electrodes.
        classes: rest and the words.
        seed: draws the windows; the words are the same for every seed.

    Returns:
        ``x``, float32 [count, 1, channels, samples], and ``y``, int64 [count], drawn uniformly from the classes.

    Raises:
        UserError: a number is less than 1, or the seed is negative.
    """
    _check_positive(count=count, samples=samples, channels=channels, classes=classes)
    words = [_Word(index, channels, classes) for index in range(1, classes)]
    rng = _generator(_EMG_SAMPLES, seed)
    y = rng.integers(classes, size=count)
    x = np.empty((count, 1, channels, samples), np.float32)
    for window, label in zip(x[:, 0], y, strict=True):
        signal = 0.1 * rng.standard_normal((channels, samples))
        if label:
            signal += words[label - 1].say(samples, rng)
        window[...] = signal
    return x, y


class _Word:
    """The fixed properties of one word, and how a window of it is drawn."""

    def __init__(self, index: int, channels: int, classes: int) -> None:
        rng = np.random.default_rng([_EMG_TASK, channels, classes, index])
        ring = np.arange(channels)
        self.gain = np.full(channels, 0.1)
        # The first bump walks round the ring with the word, so that no two words share it.
        for centre in (index * channels / classes, rng.uniform(0, channels)):
            distance = np.abs(ring - centre)
            distance = np.minimum(distance, channels - distance)
            self.gain += rng.uniform(0.6, 1.0) * np.exp(-0.5 * (distance / 1.5) ** 2)
        self.band = (rng.uniform(20, 60), rng.uniform(100, 200))
        bursts = int(rng.integers(1, 4))
        self.centres = (np.arange(bursts) + rng.uniform(0.3, 0.7, bursts)) / bursts
        self.length = rng.uniform(0.5, 0.9) / bursts

    def say(self, samples: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return the muscle activity of one window, [channels, samples]."""
        channels = len(self.gain)
        spectrum = np.fft.rfft(rng.standard_normal((channels, samples)))
        frequency = np.fft.rfftfreq(samples, 1 / EMG_RATE)
        spectrum[:, (frequency < self.band[0]) | (frequency > self.band[1])] = 0
        activity = np.fft.irfft(spectrum, samples)
        # Bring the band's share of the power back to unit variance.
        activity *= math.sqrt(EMG_RATE / 2 / (self.band[1] - self.band[0]))
        time = (np.arange(samples) + 0.5) / samples
        envelope = np.zeros(samples)
        for centre in self.centres + rng.uniform(-0.03, 0.03, len(self.centres)):
            phase = np.clip((time - centre) / self.length, -0.5, 0.5)
            envelope += 0.5 + 0.5 * np.cos(2 * np.pi * phase)
        contact = self.gain * rng.lognormal(0, 0.2) * rng.lognormal(0, 0.1, channels)
        return np.asarray(contact[:, None] * envelope * activity)


def classification(
    count: int, shape: Sequence[int], *, classes: int, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Make samples of a fixed pattern per class, plus standard normal noise.

    The pattern of a feature vector is a standard normal vector. The pattern of an image or a signal (channels first)
    is constant over patches, four to an axis, so that convolutional networks can find it.

    Args:
        count: number of samples.
        shape: shape of one sample.
        classes: number of classes.
        seed: draws the samples; the patterns are the same for every seed.

    Returns:
        ``x``, float32 [count, ...], and ``y``, int64 [count], drawn uniformly from the classes.

    Raises:
        UserError: a number is less than 1, or the seed is negative.
    """
    _check_positive(count=count, classes=classes, **{f"shape[{axis}]": size for axis, size in enumerate(shape)})
    task = np.random.default_rng([_PATTERN_TASK, classes, *shape])
    grid = [size if axis == 0 else min(size, 4) for axis, size in enumerate(shape)]
    pattern = task.standard_normal((classes, *grid))
    for axis, (size, cells) in enumerate(zip(shape, grid, strict=True)):
        pattern = np.take(pattern, np.arange(size) * cells // size, axis=axis + 1)
    rng = _generator(_PATTERN_SAMPLES, seed)
    y = rng.integers(classes, size=count)
    x = pattern[y] + rng.standard_normal((count, *shape))
    return x.astype(np.float32), y


def tokens(
    count: int, length: int, *, vocabulary: int, classes: int, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Make token sequences, each token drawn from a distribution that the class fixes.

    Args:
        count: number of sequences.
        length: tokens per sequence.
        vocabulary: number of distinct tokens.
        classes: number of classes.
        seed: draws the sequences; the distributions are the same for every seed.

    Returns:
        ``x``, int64 [count, length] below the vocabulary size, and ``y``, int64 [count].

    Raises:
        UserError: a number is less than 1, or the seed is negative.
    """
    _check_positive(count=count, length=length, vocabulary=vocabulary, classes=classes)
    task = np.random.default_rng([_TOKEN_TASK, vocabulary, classes])
    weight = np.exp(2 * task.standard_normal((classes, vocabulary)))
    cumulative = np.cumsum(weight / weight.sum(axis=1, keepdims=True), axis=1)
    rng = _generator(_TOKEN_SAMPLES, seed)
    y = rng.integers(classes, size=count)
    draws = rng.random((count, length))
    x = np.stack([np.searchsorted(cumulative[label], row, side="right") for label, row in zip(y, draws, strict=True)])
    # The last sum may round to less than one.
    return np.minimum(x, vocabulary - 1).astype(np.int64), y


def random_batches(
    example_inputs: Sequence[NDArray[Any]], output_shape: Sequence[int], loss: str, count: int, *, seed: int = 0
) -> list[tuple[NDArray[Any], ...]]:
    """Make random batches for a model of which nothing but the shapes is known.

    Floating-point inputs are standard normal. Other inputs (token numbers, masks) are drawn from the values of the
    example, the only ones known to be legal.

    Args:
        example_inputs: one array per input, with its batch.
        output_shape: shape of the model's output for them: [batch, classes, ...] for cross-entropy.
        loss: ``ce`` (labels int64, the output's shape without its axis 1), ``mse`` (standard normal float32 in the
            output's shape) or ``bce`` (0 or 1, float32, in the output's shape).
        count: number of batches.
        seed: of everything.

    Returns:
        ``count`` tuples (inputs..., target).

    Raises:
        UserError: the loss is not known, cross-entropy is asked for of an output without a class axis, the count
            is less than 1, or the seed is negative.
    """
    _check_positive(count=count)
    shape = tuple(output_shape)
    if loss not in ("ce", "mse", "bce"):
        raise UserError(f"There are no random targets for the loss {loss!r}; expected ce, mse or bce.")
    if loss == "ce" and len(shape) < 2:
        raise UserError(f"Cross-entropy needs an output [batch, classes, ...]; the model's has shape {list(shape)}.")
    rng = _generator(_RANDOM, seed)
    result: list[tuple[NDArray[Any], ...]] = []
    for _ in range(count):
        inputs = [
            rng.standard_normal(example.shape).astype(example.dtype)
            if np.issubdtype(example.dtype, np.floating)
            else rng.choice(example.reshape(-1), example.shape)
            for example in example_inputs
        ]
        if loss == "ce":
            target: NDArray[Any] = rng.integers(shape[1], size=(shape[0], *shape[2:]))
        elif loss == "mse":
            target = rng.standard_normal(shape).astype(np.float32)
        else:
            target = rng.integers(2, size=shape).astype(np.float32)
        result.append((*inputs, target))
    return result


def _generator(stream: int, seed: int) -> np.random.Generator:
    if seed < 0:
        raise UserError(f"Synthetic data: the seed is {seed}, expected at least 0.")
    return np.random.default_rng([stream, seed])


def _check_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise UserError(f"Synthetic data: {name} is {number}, expected at least 1.")
