"""Random networks, and what shall hold of each: takes a seed, gives an outcome to replay.

`program` writes a network as Python source, statement by statement; the files of families
(`convolutions`, `joining`, ...) hold the constructs; `recipe` draws which are chained; `tracing`
makes a graph of it, `judge` reduces it and compares; `shrink` makes a failing one small; `ledger`
adds up the shards.
"""
