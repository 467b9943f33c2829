"""Factorize: replace a linear layer or convolution by two with few channels between them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.node import Argument
from torch.fx.passes.infra.pass_base import PassResult

from fxprune.errors import PlanError
from fxprune.graph.convolution import OUTPUTS_FIRST, bias_of, convolution_of
from fxprune.graph.operators import operator_name
from fxprune.graph.tensors import drop_unread, owner_of
from fxprune.label.layers import replaceable
from fxprune.passes.contract import InPlacePass
from fxprune.passes.facts import Facts, tensors_of
from fxprune.plans.factoring import bias_names, is_layers, names


@dataclass(frozen=True, eq=False)
class Factorize(InPlacePass):
    """Place factors that were computed before.

    Requires a graph of ATen calls in which each named weight is read by one convolution or linear
    call; ensures the same graph around them. `conv2` becomes `conv2.0`, without a bias, and
    `conv2.1`, with the bias there was. A weight that is not called `weight` becomes a module of
    two such layers, and the bias stays where it is.

    Attributes:
        factors: by the weight's name the weights of the first and of the second layer, as
            `Factoring.weights` makes them. A kernel axis, with its stride, padding and dilation,
            goes to the layer whose weight has it.
    """

    factors: Mapping[str, tuple[Tensor, Tensor]]

    def requires(self, module: GraphModule) -> None:
        """Each named weight is one layer's own."""
        present = tensors_of(module)
        for name in self.factors:
            readers = _readers(module, name)
            if (
                name not in present
                or len(readers) != 1
                or operator_name(readers[0].target) not in OUTPUTS_FIRST
                or not replaceable(module, name, bias_of(readers[0]))
            ):
                raise PlanError(
                    f"{name} is not the weight of one layer of its own, which could be replaced "
                    "by two. Leave it out of the factors."
                )

    def call(self, module: GraphModule) -> PassResult:
        """Replace one layer after the other."""
        for name, weights in self.factors.items():
            _replace(module, name, weights)
        unread = drop_unread(module)
        return PassResult(module, bool(self.factors) or unread)

    def ensures(self, before: Facts, after: GraphModule) -> None:
        """Two weights stand for each that was named; every other tensor is the one there was,
        biases of replaced layers under the second's name.
        """
        found, moved = tensors_of(after), dict(filter(None, map(bias_names, self.factors)))
        for name, weights in self.factors.items():
            if name in found:
                raise PlanError(f"{name} is still there")
            for part, tensor in zip(names(name), weights, strict=True):
                if part not in found or found[part].shape != tensor.shape:
                    raise PlanError(f"{part} is not a weight of shape {tuple(tensor.shape)}")
        for name in before.tensors.keys() - self.factors.keys():
            if not any(found.get(n) is before.tensors[name] for n in (name, moved.get(name, name))):
                raise PlanError(f"{name} is not the tensor it was")


def _readers(module: GraphModule, name: str) -> list[Node]:
    return [
        user
        for node in module.graph.nodes
        if node.op == "get_attr" and node.target == name
        for user in node.users
    ]


def _replace(module: GraphModule, name: str, weights: tuple[Tensor, Tensor]) -> None:
    """Put two layers into the owner of a weight, and their two calls where its one call is."""
    (node,) = _readers(module, name)
    owner, leaf = owner_of(module, name)
    old = owner.get_parameter(leaf)
    del owner._parameters[leaf]
    if not is_layers(name):
        owner.add_module(leaf, nn.Module())
    for part, tensor in zip(names(name), weights, strict=True):
        path = part.removesuffix(".weight")
        layer = nn.Module()
        weight = nn.Parameter(tensor.to(old.device, old.dtype), requires_grad=old.requires_grad)
        layer.register_parameter("weight", weight)
        module.add_submodule(path, layer)
    settings = _settings(node, tuple(old.shape), weights)
    bias: Argument = node.args[2] if len(node.args) > 2 else None
    own, moved = bias_names(name) or ("", "")
    with module.graph.inserting_before(node):
        if isinstance(bias, Node) and bias.target == own and len(_readers(module, own)) == 1:
            owner.get_submodule("1").register_parameter("bias", owner._parameters.pop("bias"))
            bias = module.graph.get_attr(moved)
        first, second = (module.graph.get_attr(n) for n in names(name))
        assert callable(node.target)
        hidden = module.graph.call_function(node.target, (node.args[0], first, None, *settings[0]))
        result = module.graph.call_function(node.target, (hidden, second, bias, *settings[1]))
    result.meta = dict(node.meta)
    hidden.meta = {k: v for k, v in node.meta.items() if k != "val"}
    node.replace_all_uses_with(result)
    module.graph.erase_node(node)


def _settings(
    node: Node, shape: tuple[int, ...], weights: tuple[Tensor, Tensor]
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Stride, padding, dilation and groups of the two calls."""
    how = convolution_of(node)
    if how is None:
        return (), ()
    first, second = weights
    behind = [size > 1 for size in second.shape[2:]]

    def part(mine: list[bool], count: int) -> tuple[Any, ...]:
        def own(values: tuple[int, ...], neutral: int) -> list[int]:
            return [v if here else neutral for v, here in zip(values, mine, strict=True)]

        padding = how.padding if isinstance(how.padding, str) else own(how.padding, 0)
        return own(how.stride, 1), padding, own(how.dilation, 1), count

    return part([not b for b in behind], shape[1] * how.groups // first.shape[1]), part(
        behind, first.shape[0] // second.shape[1]
    )
