"""The networks that the commands measure.

`nets` and `nets3d` are this repository's; `timed` are those whose time is measured; `zoo`,
`zoo_detectors` and `zoo_transformers` are other libraries', one `entry` each and all of them in
`entries`; `peer` holds what Torch-Pruning makes of a network.
"""
