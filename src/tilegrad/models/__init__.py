"""The model zoo: plain PyTorch modules, each in a small file of its own.

Importing this package does not import PyTorch; building a model does.
"""

from tilegrad.models.registry import (
    ModelEntry,
    ModelOption,
    build_model,
    find_model,
    list_models,
    synthetic_data,
)

__all__ = ["ModelEntry", "ModelOption", "build_model", "find_model", "list_models", "synthetic_data"]
