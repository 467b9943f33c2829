"""Violations that are known and not yet mended."""

KNOWN: tuple[str, ...] = ()
"""Names of abuses (globs)."""
