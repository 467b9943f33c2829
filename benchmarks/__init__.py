"""Commands that measure fxprune on trained networks; every figure in the documentation comes from
here.
"""
