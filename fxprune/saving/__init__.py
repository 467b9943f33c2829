"""A compressed model in one file, and back; nothing of the file is run.

In: a `GraphModule` with its plan and report. Out: safetensors with JSON, and the reverse.
May import: everything up to handover.
"""
