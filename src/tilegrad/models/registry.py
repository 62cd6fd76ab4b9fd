"""The models of the zoo by name, without importing PyTorch until one is built."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from tilegrad.data import synthetic
from tilegrad.errors import UserError

if TYPE_CHECKING:
    import torch

OptionValue = int | float | str
Samples = tuple[NDArray[Any], NDArray[Any]]


@dataclass(frozen=True)
class ModelOption:
    """One keyword argument of a model's factory.

    Attributes:
        name: the keyword.
        default: the value where none is given; its type is the option's type.
        help: what it means, in a few words.
        choices: the permitted values; empty: any positive number.
    """

    name: str
    default: OptionValue
    help: str
    choices: tuple[OptionValue, ...] = ()

    def check(self, model: str, value: object) -> OptionValue:
        """Return the value, converted from text where it comes from a command line.

        Raises:
            UserError: the value has the wrong type or is not permitted.
        """
        kind = type(self.default)
        expected = f"one of {', '.join(map(str, self.choices))}" if self.choices else f"a positive {kind.__name__}"
        error = UserError(f"{model}: {self.name} is {value!r}, expected {expected}.")
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise error
        if kind is int and isinstance(value, float):  # int() would truncate it
            raise error
        try:
            converted = kind(value)
        except (ValueError, OverflowError):
            raise error from None
        if self.choices:
            permitted = converted in self.choices
        else:
            permitted = isinstance(converted, int | float) and 0 < converted < float("inf")
        if not permitted:
            raise error
        return converted


@dataclass(frozen=True)
class ModelEntry:
    """One model of the zoo.

    Attributes:
        name: the name on the command line.
        summary: one line on what it is.
        factory: ``module:function`` of the factory, imported when the model is built. What the function returns has
            a method ``example_inputs(batch)``.
        options: the factory's keyword arguments.
        data_summary: one line on the synthetic data that stand in where the user brings none.
        data: makes synthetic samples ``(x, y)`` from their number, a seed and the complete options.
    """

    name: str
    summary: str
    factory: str
    options: tuple[ModelOption, ...]
    data_summary: str
    data: Callable[[int, int, Mapping[str, Any]], Samples]

    def complete(self, options: Mapping[str, object]) -> dict[str, OptionValue]:
        """Return all options, the given ones checked and the others with their defaults.

        Raises:
            UserError: an option does not exist or has a value that is not permitted.
        """
        known = {option.name: option for option in self.options}
        for name in options:
            if name not in known:
                raise UserError(f"{self.name} has no option {name!r}; it has {', '.join(known)}.")
        return {name: option.check(self.name, options.get(name, option.default)) for name, option in known.items()}


def _speechnet_data(count: int, seed: int, options: Mapping[str, Any]) -> Samples:
    return synthetic.emg(count, samples=options["samples"], classes=options["classes"], seed=seed)


def _images_data(count: int, seed: int, options: Mapping[str, Any]) -> Samples:
    shape = (3, options["size"], options["size"])
    return synthetic.classification(count, shape, classes=options["classes"], seed=seed)


def _keywords_data(count: int, seed: int, options: Mapping[str, Any]) -> Samples:
    return synthetic.classification(count, (1, 49, 10), classes=options["classes"], seed=seed)


def _features_data(count: int, seed: int, options: Mapping[str, Any]) -> Samples:
    return synthetic.classification(count, (options["features"],), classes=options["classes"], seed=seed)


def _tokens_data(count: int, seed: int, options: Mapping[str, Any]) -> Samples:
    return synthetic.tokens(
        count, options["length"], vocabulary=options["vocabulary"], classes=options["classes"], seed=seed
    )


_PATTERNS = "synthetic: one fixed pattern per class plus noise"

_ENTRIES = {
    entry.name: entry
    for entry in (
        ModelEntry(
            name="speechnet",
            summary="EMG silent-speech recognition (SilentWear), 15,489 parameters",
            factory="tilegrad.models.speechnet:speechnet",
            options=(
                ModelOption("pool", "max", "pooling of the first three blocks", ("max", "avg")),
                ModelOption("samples", 700, "samples per window at 500 Hz", (700, 400)),
                ModelOption("classes", 9, "words and rest"),
            ),
            data_summary="synthetic EMG: band-limited bursts with one spatial pattern per class",
            data=_speechnet_data,
        ),
        ModelEntry(
            name="mlp",
            summary="multi-layer perceptron",
            factory="tilegrad.models.mlp:mlp",
            options=(
                ModelOption("features", 64, "inputs"),
                ModelOption("hidden", 64, "width of the hidden layers"),
                ModelOption("depth", 2, "hidden layers"),
                ModelOption("classes", 10, "outputs"),
            ),
            data_summary=_PATTERNS,
            data=_features_data,
        ),
        ModelEntry(
            name="resnet8",
            summary="ResNet-8, image classification, 32x32",
            factory="tilegrad.models.resnet8:resnet8",
            options=(
                ModelOption("size", 32, "height and width of the images"),
                ModelOption("classes", 10, "outputs"),
            ),
            data_summary=_PATTERNS,
            data=_images_data,
        ),
        ModelEntry(
            name="mobilenet",
            summary="MobileNetV1 at width 0.25, visual wake words, 96x96",
            factory="tilegrad.models.mobilenet:mobilenet",
            options=(
                ModelOption("width", 0.25, "factor on the channel counts"),
                ModelOption("size", 96, "height and width of the images, a multiple of 32"),
                ModelOption("classes", 2, "outputs"),
            ),
            data_summary=_PATTERNS,
            data=_images_data,
        ),
        ModelEntry(
            name="ds_cnn",
            summary="DS-CNN, keyword spotting on 49x10 speech features",
            factory="tilegrad.models.ds_cnn:ds_cnn",
            options=(
                ModelOption("channels", 64, "channels of all blocks"),
                ModelOption("blocks", 4, "separable blocks"),
                ModelOption("classes", 12, "keywords"),
            ),
            data_summary=_PATTERNS,
            data=_keywords_data,
        ),
        ModelEntry(
            name="transformer",
            summary="small transformer encoder, classifies token sequences",
            factory="tilegrad.models.transformer:transformer",
            options=(
                ModelOption("vocabulary", 64, "distinct tokens"),
                ModelOption("length", 16, "tokens per sequence"),
                ModelOption("width", 32, "features per token"),
                ModelOption("heads", 4, "attention heads"),
                ModelOption("layers", 2, "encoder blocks"),
                ModelOption("classes", 4, "outputs"),
            ),
            data_summary="synthetic: one fixed token distribution per class",
            data=_tokens_data,
        ),
    )
}


def list_models() -> list[ModelEntry]:
    """Return all models of the zoo in a fixed order; needs no PyTorch."""
    return list(_ENTRIES.values())


def find_model(name: str) -> ModelEntry:
    """Return the entry of a model; needs no PyTorch.

    Raises:
        UserError: no model has this name.
    """
    if name not in _ENTRIES:
        raise UserError(f"There is no model {name!r} in the zoo; it has {', '.join(_ENTRIES)}.")
    return _ENTRIES[name]


def build_model(
    name: str, *, batch: int = 1, seed: int = 0, **options: object
) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    """Build a model of the zoo in training mode.

    The weights and the example inputs depend on the seed alone; PyTorch's global random state is left as it was.

    Args:
        name: the model's name.
        batch: samples in the example inputs.
        seed: of the initial weights and the example inputs.
        options: the model's own options; `ModelEntry.options` lists them.

    Returns:
        The module and its example inputs, the first axis of each being the batch.

    Raises:
        UserError: the name, an option or the batch size is not permitted, or PyTorch is not installed.
    """
    entry = find_model(name)
    complete = entry.complete(options)
    if batch < 1:
        raise UserError(f"{name}: the batch size is {batch}, expected at least 1.")
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise UserError(
            f"{name} is a PyTorch module and PyTorch is not installed. Install it: pip install 'tilegrad[torch]'"
        ) from error
    module_name, function_name = entry.factory.split(":")
    factory = getattr(importlib.import_module(module_name), function_name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module: Any = factory(**complete)
        inputs: tuple[torch.Tensor, ...] = module.example_inputs(batch)
    return module, inputs


def synthetic_data(name: str, count: int, *, seed: int = 0, **options: object) -> Samples:
    """Make synthetic samples for a model of the zoo; needs no PyTorch.

    The task is fixed by the model's options; the seed draws the samples. So samples of another seed are a test set.

    Args:
        name: the model's name.
        count: number of samples.
        seed: of the samples.
        options: the model's own options, as for `build_model`.

    Returns:
        ``x``, [count, ...] in the dtype and shape of the model's input, and the labels ``y``, int64 [count].

    Raises:
        UserError: the name, an option or the count is not permitted.
    """
    entry = find_model(name)
    return entry.data(count, seed, entry.complete(options))
