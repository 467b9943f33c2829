"""Several processes that compress one model together, in a group of torch.distributed.

In: the caller's process group, if there is one. Out: who of how many this process is; values that
all have, sums that have the same bits however many there are, and steps that one of them keeps.
May import: errors, resume, progress, linalg.
"""
