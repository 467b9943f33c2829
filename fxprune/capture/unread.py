"""Parameters that reach no output: heads that only train, layers that inference skips."""

from torch import nn
from torch.fx import GraphModule

from fxprune.graph.nodes import attribute
from fxprune.graph.tensors import owner_of


def drop_unread_parameters(module: GraphModule, model: nn.Module) -> tuple[str, ...]:
    """Delete every parameter that no call reads, and the buffers of layers that lose all they had.

    Args:
        module: the captured graph, without dead code; changed in place.
        model: the copy that was traced.

    Returns:
        notes that name what is gone.
    """
    read = {str(n.target) for n in module.graph.nodes if n.op == "get_attr"}
    used = {id(attribute(module, name)) for name in read}
    held = dict(module.named_parameters(remove_duplicate=False))
    unread = [name for name, tensor in held.items() if id(tensor) not in used]
    for name in unread:
        owner, leaf = owner_of(module, name)
        del owner._parameters[leaf]
    for path in {name.rpartition(".")[0] for name in unread}:
        owner = module.get_submodule(path)
        prefix = f"{path}." if path else ""
        if path and not any(True for _ in owner.parameters()):
            for leaf in [b for b in owner._buffers if prefix + b not in read]:
                del owner._buffers[leaf]
    kept = held.keys() - set(unread)
    lost = [name for name, _ in model.named_parameters() if name not in kept]
    return tuple(f"{name} takes no part in inference and is dropped" for name in lost)
