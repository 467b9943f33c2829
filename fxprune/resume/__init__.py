"""What a run has done so far, kept in a folder, so that a run that was killed goes on.

In: named steps, their outcomes, and what must be the same for these to be used. Out: the outcomes.
May import: errors. What several processes keep together is `fxprune.distributed.steps`.

`steps` keeps outcomes, `identity` compares what they belong to, `typed` writes frozen values as
JSON and tensors, `tensor_file` writes and checks one file of them, `folder` makes files that are
there whole or not at all, and keeps a folder to one process.
"""
