"""Operators: named functions on values, one module per family."""
