"""The command line: one thin module per command; each parses, calls the API and prints."""

from tilegrad.cli.app import main

__all__ = ["main"]
