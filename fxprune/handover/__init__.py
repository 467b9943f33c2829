"""Station 8: calls become layers again, and the report tells what happened.

In: the fitted graph and everything decided. Out: an ordinary `GraphModule` with plan and report;
`masked` checks it against the original.
May import: everything up to allocate.
"""
