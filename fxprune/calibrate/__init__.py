"""Station 3: calibration examples stream through the graph once; sums and samples stay.

In: the captured graph, its analysis, a loader. Out: second moments of what consumers read, and a
recording of the original's outputs.
May import: errors, progress, linalg, graph, rules, capture, label.
"""
