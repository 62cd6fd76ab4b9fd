"""Data to train on: files of the user's, and documented synthetic generators."""

from tilegrad.data.files import batches, load_data
from tilegrad.data.npz import load_npz
from tilegrad.data.silentwear import load_silentwear

__all__ = ["batches", "load_data", "load_npz", "load_silentwear"]
