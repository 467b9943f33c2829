"""What a graph module is at one moment: the runner of passes compares before with after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest

from torch import Tensor, nn
from torch.fx import GraphModule


@dataclass(frozen=True)
class Facts:
    """The graph's text and the module's tensors.

    Attributes:
        text: of the graph.
        tensors: every parameter and buffer, under each of its names; the tensors themselves, so
            that none is freed and its identity given to another.
        versions: how often each was written to, as PyTorch counts; a write through `.data` goes
            uncounted.
        shapes: of each, since a tensor can be resized in place.
    """

    text: str
    tensors: Mapping[str, Tensor]
    versions: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, module: GraphModule) -> Facts:
        """What the module is now."""
        tensors = tensors_of(module)
        return cls(
            str(module.graph),
            tensors,
            # Tensors made in inference mode carry no count.
            {n: 0 if t.is_inference() else t._version for n, t in tensors.items()},
            {n: tuple(t.shape) for n, t in tensors.items()},
        )

    def structural_difference(self, after: Facts) -> str:
        """The first difference of graph, names or shapes, in words; empty where there is none."""
        for old, new in zip_longest(self.text.splitlines(), after.text.splitlines(), fillvalue=""):
            if old != new:
                return f"the graph reads {new.strip()!r} where it read {old.strip()!r}"
        for name in self.tensors.keys() | after.tensors.keys():
            if name not in after.tensors:
                return f"{name} is gone"
            if name not in self.tensors:
                return f"{name} is new"
            if self.shapes[name] != after.shapes[name]:
                return f"{name} has shape {after.shapes[name]} where it had {self.shapes[name]}"
        return ""

    def difference(self, after: Facts) -> str:
        """The first difference, of tensors' identities and contents too."""
        structural = self.structural_difference(after)
        if structural:
            return structural
        for name, tensor in self.tensors.items():
            if after.tensors[name] is not tensor:
                return f"{name} is another tensor"
            if after.versions[name] != self.versions[name]:
                return f"{name} was written to"
        return ""


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer, under each of its names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
