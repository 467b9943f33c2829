"""Measured time and memory of models and of single calls.

In: models, workloads. Out: seconds, ratios, tables of layer times, `Benchmark`.
`workload` and `clock` are how anything is measured; `layer_times`, `latency_model`,
`latency_probe` and `latency_target` are latency as a budget; `benchmark` is the public report.
May import: everything up to profile.
"""
