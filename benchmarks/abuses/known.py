"""Violations that are known and not yet mended."""

KNOWN = (
    "compress under meta device",
    "*(model=no channels)",
    "*(example=no example)",
    "*(example=an empty first batch)",
    "*(example=sparse)",
    "*(calib_loader=sparse)",
    "*(calib_loader=meta)",
    "*(calib_loader=fails in the middle)",
    "*(calib_loader=no iterator)",
)
"""Names of abuses (globs)."""
