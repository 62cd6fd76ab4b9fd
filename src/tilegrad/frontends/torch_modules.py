"""What is done to PyTorch modules before they are exported or run as a reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def freeze_batch_norm(module: nn.Module) -> None:
    """Put every batch and instance normalisation that tracks running statistics into inference mode, in place.

    The rest of the module keeps its mode, so that dropout goes on.
    """
    from torch.nn.modules.batchnorm import _NormBase

    for part in module.modules():
        if isinstance(part, _NormBase) and part.track_running_stats:
            part.eval()
