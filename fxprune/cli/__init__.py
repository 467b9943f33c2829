"""The command line."""

from fxprune.cli.app import app, main

__all__ = ["app", "main"]
