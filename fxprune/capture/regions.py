"""Regions of a trace that are graphs of their own become part of the graph around them."""

import operator

from torch.fx import GraphModule

REGIONS = {"wrap_with_set_grad_enabled": (0, 1), "wrap_with_autocast": (2, 4)}
"""By operator the argument that says whether the region is switched on, and the one that is its
graph.
"""


def inline_regions(module: GraphModule) -> None:
    """Gradient and disabled autocast regions, traced as calls of a graph of their own, become part
    of the graph.

    An enabled autocast region stays: its calls run in another element type than they say.
    """
    graph = module.graph
    for node in list(graph.nodes):
        name = getattr(node.target, "__name__", "")
        if node.op != "call_function" or name not in REGIONS:
            continue
        flag, place = REGIONS[name]
        if "autocast" in name and node.args[flag]:
            continue
        inner = getattr(module, node.args[place].target)
        inputs = [n for n in inner.graph.nodes if n.op == "placeholder"]
        values = dict(zip(inputs, node.args[place + 1 :], strict=True))
        with graph.inserting_before(node):
            results = graph.graph_copy(inner.graph, values)
        for user in list(node.users):
            if user.target is operator.getitem and isinstance(results, (tuple, list)):
                user.replace_all_uses_with(results[user.args[1]])
                graph.erase_node(user)
        if node.users:
            node.replace_all_uses_with(results)
        graph.erase_node(node)
