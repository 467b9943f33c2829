"""What `python -m benchmarks.mutations` plants and how it is found.

`reader` finds single changes that break a source, each a `fault`; `drawing` draws from those in the
files of `areas`; `reach` says which tests run a line, which `recorder` has seen; `trying` plants a
fault and runs those tests; `equivalent` lists changes that break nothing; `page` counts.
"""
