"""Every operator of torch's own test database between two layers, for `benchmarks.operators`: nets
made of its samples, the labels' claims about them checked by perturbation, and the page.
"""
