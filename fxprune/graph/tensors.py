"""A graph module's tensors and their names."""

from torch import nn
from torch.fx import GraphModule


def names_of(module: nn.Module) -> dict[str, str]:
    """Every name of a parameter or buffer, and the first name of the same tensor."""
    first: dict[int, str] = {}
    held = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    return {name: first.setdefault(id(tensor), name) for name, tensor in held}


def drop_unread(module: GraphModule) -> None:
    """Erase reads of parameters that no call uses any more; check and recompile."""
    for node in reversed(module.graph.nodes):
        if node.op == "get_attr" and not node.users:
            module.graph.erase_node(node)
    module.graph.lint()
    module.recompile()
