"""Targets: what the compiler knows about a machine, how a project is built for it and how the program is driven."""

from __future__ import annotations

from tilegrad.targets.base import Memory, Program, Session, Target, Transaction
from tilegrad.targets.doctor import Check, doctor
from tilegrad.targets.registry import get_target, list_targets, register_target, unregister_target

__all__ = [
    "Check",
    "Memory",
    "Program",
    "Session",
    "Target",
    "Transaction",
    "doctor",
    "get_target",
    "list_targets",
    "register_target",
    "unregister_target",
]
