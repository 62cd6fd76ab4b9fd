"""Verification: reference runs and the comparison of a compiled program with them."""

from tilegrad.verification.tolerances import Tolerances
from tilegrad.verification.verification import Verification, verify

__all__ = ["Tolerances", "Verification", "verify"]
