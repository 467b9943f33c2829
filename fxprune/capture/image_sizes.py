"""Which calls of a trace stand in the way of free image sizes."""

import torch
from torch import Tensor
from torch.fx import Node

RESHAPES = frozenset({"view", "reshape", "_unsafe_view", "expand", "unflatten", "repeat"})
CUTS = frozenset(
    {
        "slice",
        "narrow",
        "split",
        "split_with_sizes",
        "chunk",
        "select",
        "roll",
        "unfold",
        "index_select",
    }
)
MAKERS = frozenset(
    {
        "arange",
        "zeros",
        "ones",
        "full",
        "linspace",
        "meshgrid",
        "im2col",
        "col2im",
        "affine_grid_generator",
        "pad",
    }
)


def holds_image_size(node: Node) -> bool:
    """Whether a call of a trace may hold the example's image size as a number."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    name, val = node.target._opname, node.meta.get("val")
    if name in RESHAPES and isinstance(val, Tensor):
        return val.dim() > 2 and any(isinstance(s, int) and s > 1 for s in val.shape[2:])
    if name in CUTS:
        dim = (
            node.args[2]
            if name.startswith(("split", "roll")) and len(node.args) > 2
            else node.args[1]
            if len(node.args) > 1
            else 0
        )
        return not isinstance(dim, int) or dim not in (0, 1)
    if name.startswith("avg_pool"):
        source, kernel = node.args[0].meta["val"], list(node.args[1])  # type: ignore[union-attr, arg-type]
        return tuple(source.shape[-len(kernel) :]) == tuple(kernel)
    return name in MAKERS or name.startswith(
        ("upsample", "_upsample", "constant_pad", "grid_sampler")
    )


def attends(node: Node) -> bool:
    """A product of two activations."""
    name = getattr(node.target, "_opname", "")
    if not name.startswith(
        ("matmul", "bmm", "einsum", "scaled_dot_product", "_scaled_dot_product")
    ):
        return False
    return all(n.op == "call_function" for n in node.all_input_nodes[:2])


def splits_image(node: Node) -> bool:
    """A reshape that splits image axes, as into windows or patches."""
    if getattr(node.target, "_opname", "") not in RESHAPES or not isinstance(node.args[0], Node):
        return False
    before, after = node.args[0].meta["val"].shape, node.meta["val"].shape
    image = len(before) > 2 and any(s != 1 for s in before[2:])
    return image and len(after) > len(before) and tuple(before[-2:]) != tuple(after[-2:])
