"""Measured time and memory of models and of single calls.

In: models, workloads. Out: seconds, ratios, tables of layer times, `Benchmark`.
May import: everything up to profile.
"""
