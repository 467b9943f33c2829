"""What commands share beside models and data: how a model is examined, and how rows become a page.

`outputs` and `masked` compare a small model with its original; `examine` does so for one model of
the coverage run, `isolation` in a process of its own, and `row` holds what came out; `opened` is a
network captured and labeled; files named `_page` turn rows into markdown, tables and pictures.
"""
