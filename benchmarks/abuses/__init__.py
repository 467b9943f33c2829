"""What `python -m benchmarks.abuse` tries: odd values, models, loaders and command lines, and the
judge of what came of them.
"""
