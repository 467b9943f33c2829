"""`python -m fxprune` is the `fxprune` command."""

from fxprune.cli import main

main()
