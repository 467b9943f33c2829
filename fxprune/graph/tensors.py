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


def drop_unread(module: GraphModule) -> bool:
    """Erase reads of parameters that no call uses any more; whether there were any."""
    unread = [n for n in reversed(module.graph.nodes) if n.op == "get_attr" and not n.users]
    for node in unread:
        module.graph.erase_node(node)
    return bool(unread)
