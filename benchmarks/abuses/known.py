"""Violations that are known and not yet mended."""

KNOWN = ("compress under meta device",)
"""Names of abuses (globs)."""
