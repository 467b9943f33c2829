"""Pictures: `fxprune.plot`.

In: what `sweep`, `compress` and `analyze` gave. Out: a matplotlib Figure that notebooks show by
itself, and a file. `lanes` says where things lie, without matplotlib; `style` how all pictures
look. matplotlib is an extra, imported where something is drawn, and pyplot never is.
"""
