"""`python -m fxprune` is the `fxprune` command."""

from fxprune.cli.app import main

main()
