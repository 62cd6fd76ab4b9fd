"""PyTorch with the random numbers of the compiled program.

Every form of dropout that PyTorch offers (modules, functions, inside attention and recurrent layers) draws its mask by
one ATen operator, ``bernoulli_``; there the mask of the program is put in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tilegrad.errors import UserError
from tilegrad.operators.random import dropout_mask


class ProgramMasks(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside this context dropout uses the masks of one pass of the compiled program.

    Args:
        seed: the two words of the key.
        step: number of the pass, from 0.
    """

    def __init__(self, seed: Sequence[int], step: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seed, self._step, self._stream = tuple(seed), step, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace the draws of dropout; pass everything else on.

        Raises:
            UserError: if the model draws random numbers in any other way.
        """
        if func is torch.ops.aten.bernoulli_.float:
            mask, keep = args[0], args[1] if len(args) > 1 else (kwargs or {}).get("p", 0.5)
            drawn = dropout_mask(tuple(mask.shape), _drop_probability(keep), self._seed, self._step, self._stream)
            self._stream += 1
            return mask.copy_(torch.from_numpy(drawn))
        if torch.Tag.nondeterministic_seeded in func.tags and not _draws_nothing(func, args, kwargs or {}):
            raise UserError(
                f"the model draws random numbers by {func}, which the reference run cannot repeat; "
                "dropout is the random operator that can be verified"
            )
        return func(*args, **(kwargs or {}))


def _draws_nothing(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operator with dropout inside, such as fused attention, is called without any."""
    for position, argument in enumerate(func._schema.arguments):
        if argument.name == "dropout_p":
            given = args[position] if position < len(args) else kwargs.get("dropout_p", argument.default_value)
            return bool(given == 0.0)
    return False


def _drop_probability(keep: float) -> float:
    """The probability p whose ``1 - p`` PyTorch passes on; the subtraction left rounding errors in the last digits."""
    return float(f"{1.0 - keep:.14g}")
