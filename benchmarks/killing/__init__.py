"""What `python -m benchmarks.kills` does to a run: the run in a process of its own, what disturbs
it, and the judge of what is left.
"""
