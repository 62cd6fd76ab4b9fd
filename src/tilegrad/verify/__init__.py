"""Verification: reference runs and the comparison of a compiled program with them."""

from tilegrad.verify.tolerances import Tolerances
from tilegrad.verify.verification import Verification, verify

__all__ = ["Tolerances", "Verification", "verify"]
