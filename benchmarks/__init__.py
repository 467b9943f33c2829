"""Commands that measure fxprune; every figure in the documentation comes from here.

Each file is a command, `python -m benchmarks.<name>`. What commands share lies in folders:
`models/`, `datasets/` and `examination/`.
"""
