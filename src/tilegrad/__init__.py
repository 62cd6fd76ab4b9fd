"""TileGrad compiles the training of neural networks to bare-metal C and proves every number against PyTorch.

::

    import tilegrad as tg

    build = tg.compile(model, example_inputs=(x,), loss=tg.losses.CrossEntropy(), optimizer=tg.optim.SGD(lr=1e-3))
    run = build.run([(x, labels)], steps=4)
    assert tg.verify(model, build, [(x, labels)], steps=4).ok
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tilegrad.errors import (
    DoesNotFitError,
    InternalError,
    ModelError,
    RunError,
    ShapeError,
    TileGradError,
    ToolchainError,
    UnsupportedOperatorError,
    UserError,
)

if TYPE_CHECKING:
    from tilegrad import planning
    from tilegrad.api import Build, Run, State, compile
    from tilegrad.targets import register_target
    from tilegrad.training import losses
    from tilegrad.training import optimizers as optim
    from tilegrad.verification import verify

__version__ = "0.1.0"

#: Loaded on first use, so that the command line starts quickly: name -> (module, attribute or "" for the module).
_LAZY = {
    "Build": ("tilegrad.api", "Build"),
    "Run": ("tilegrad.api", "Run"),
    "State": ("tilegrad.api", "State"),
    "compile": ("tilegrad.api", "compile"),
    "losses": ("tilegrad.training.losses", ""),
    "optim": ("tilegrad.training.optimizers", ""),
    "planning": ("tilegrad.planning", ""),
    "register_target": ("tilegrad.targets", "register_target"),
    "verify": ("tilegrad.verification", "verify"),
}

__all__ = [
    "Build",
    "DoesNotFitError",
    "InternalError",
    "ModelError",
    "Run",
    "RunError",
    "ShapeError",
    "State",
    "TileGradError",
    "ToolchainError",
    "UnsupportedOperatorError",
    "UserError",
    "__version__",
    "compile",
    "losses",
    "optim",
    "planning",
    "register_target",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'tilegrad' has no attribute {name!r}")
    module, attribute = _LAZY[name]
    loaded = importlib.import_module(module)
    value = getattr(loaded, attribute) if attribute else loaded
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
