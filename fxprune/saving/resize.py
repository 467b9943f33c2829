"""The weights of a compressed graph, put into a copy of the user's own class."""

import copy
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from fxprune.capture.copying import copy_model
from fxprune.capture.parametrizations import fold_parametrizations
from fxprune.errors import StorageError
from fxprune.graph.tensors import AS_LAYERS, COUNTER, is_made, names_of, shared_names
from fxprune.handover.report import attach, plan_of, report
from fxprune.label.kept_statistics import KEPT
from fxprune.plans.factoring import is_layers
from fxprune.plans.plan import Plan, reduced_shape
from fxprune.saving.attributes import ATTRIBUTES, set_sizes

M = TypeVar("M", bound=nn.Module)
HARD = (nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase, nn.Bilinear)
"""Layers whose forward knows their sizes apart from their tensors."""


def load_into(module: M, small: GraphModule, device: torch.device | None) -> M:
    """A copy of `module` with the tensors and sizes of `small`, by name. Nothing is run.

    Args:
        module: an instance of the class that was compressed; not changed. Its values do not matter
            and may be on the meta device.
        small: carries its report and plan.
        device: of the result; by default where the module's tensors are.

    Raises:
        StorageError: names and shapes differ from those of the model that was compressed; says
            which.
    """
    plan, notes = plan_of(small), report(small).notes
    _check_norms(module, plan, notes)
    sizes = plan.settings.get(ATTRIBUTES, {})
    result = place_into(module, small, plan, notes, device, sizes)
    if not hasattr(result, "meta"):
        result.meta = {}  # type: ignore[assignment]
    if isinstance(result.meta, dict):
        attach(result, report(small), plan)
    return result


def place_into(
    module: M,
    small: GraphModule,
    plan: Plan,
    notes: tuple[str, ...],
    device: torch.device | None,
    sizes: Mapping[str, Mapping[str, int]],
) -> M:
    """A copy of `module` with the tensors and sizes of `small`, whose norms may be others.

    Args:
        module, small, device: as for `load_into`.
        plan: of the graph.
        notes: of its report.
        sizes: attributes of modules to set, by the path of the module and by name.

    Raises:
        StorageError: as `load_into`.
    """
    result = copy_model(module)
    fold_parametrizations(result)
    for name in filter(is_layers, plan.factorings):
        _replace_layer(result, name.rpartition(".")[0], small)
    state = {
        **dict(small.named_parameters(remove_duplicate=False)),
        **dict(small.named_buffers(remove_duplicate=False)),
    }
    shared = shared_names(small)
    state = {name: tensor for name, tensor in state.items() if name not in shared}
    names = names_of(small)
    problems = [
        problem
        for name, tensor in state.items()
        if (problem := _problem(result, name, names[name], tensor, plan, notes))
    ]
    problems += [
        f"{name} of the module is not in the file"
        for name, _ in result.named_parameters(remove_duplicate=False)
        if name not in state and not any(note.startswith(f"{name} takes no part") for note in notes)
    ]
    if problems:
        more = f", and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise StorageError(
            f"The file's weights do not fit into this {type(module).__name__}: "
            f"{'; '.join(problems[:4])}{more}. Pass an instance made "
            "like the one that was compressed, or load without into=."
        )
    placed: dict[int, Tensor] = {}
    for name, tensor in state.items():
        _place(result, name, tensor, device, placed)
    for path, owner in result.named_modules():
        if any(
            name.startswith(f"{path}." if path else "")
            and "." not in name[len(path) + bool(path) :]
            for name in state
        ):
            _resize(owner, path, small)
    set_sizes(result, sizes)
    return result


def _check_norms(module: nn.Module, plan: Plan, notes: tuple[str, ...]) -> None:
    """A norm of fewer channels computes other statistics than the compressed one, and one that was
    folded is another norm.

    Raises:
        StorageError: there is such a norm.
    """
    if plan.streams:
        raise StorageError(
            "Norms of the compressed model were folded into the layers around them, and norms of "
            f"a {type(module).__name__} compute others ({', '.join(plan.streams)} rotated). Load "
            "without into=, or compress with keep_class=True."
        )
    for note in notes:
        if KEPT in note:
            raise StorageError(
                f"The compressed model's norms or means are not those of a "
                f"{type(module).__name__} with fewer channels: {note}. Load without into=, or "
                "compress with ignore= naming these norms, whose channels then stay."
            )


def _replace_layer(module: nn.Module, path: str, small: GraphModule) -> None:
    """Put the two layers of a compressed graph in place of one; where that cannot be, `_problem`
    finds it later.
    """
    parent, _, leaf = path.rpartition(".")
    try:
        pair = [small.get_submodule(f"{path}.{part}") for part in "01"]
        original, owner = module.get_submodule(path), module.get_submodule(parent)
    except AttributeError:
        return
    if isinstance(original, (nn.Linear, _ConvNd)) and all(
        isinstance(layer, type(original)) for layer in pair
    ):
        setattr(owner, leaf, nn.Sequential(*copy.deepcopy(pair)).train(original.training))


def _slot(module: nn.Module, name: str) -> tuple[nn.Module, str] | None:
    """The module that holds, or could hold, a tensor of this name."""
    path, _, leaf = name.rpartition(".")
    for part in path.split(".") if path else ():
        child = module._modules.get(part)
        if child is None:
            return None
        module = child
    registered = leaf in module._parameters or leaf in module._buffers
    return (module, leaf) if registered or isinstance(vars(module).get(leaf), Tensor) else None


def _held(owner: nn.Module, leaf: str) -> Tensor | None:
    """A module's tensor, registered or a plain attribute; None where its place is empty."""
    for slots in (owner._parameters, owner._buffers, vars(owner)):
        if leaf in slots:
            return slots[leaf]
    return None


def _problem(
    module: nn.Module, name: str, first: str, tensor: Tensor, plan: Plan, notes: tuple[str, ...]
) -> str | None:
    """Why a tensor cannot be placed, or None; `first` is the name that the plan knows it by."""
    if any(note.startswith(f"{name}: the weight that is computed") for note in notes):
        return (
            f"{name} is computed from other parameters in the module, and folded into one in "
            "the file"
        )
    slot = _slot(module, name)
    if slot is None:
        # Constants that the trace made are the forward's own, unless channels were removed from
        # them; a counter came with a lifted norm.
        own = is_made(name) or name.rpartition(".")[2] == COUNTER
        return None if own and name not in plan.kept else f"the module has no {name}"
    owner, leaf = slot
    current = _held(owner, leaf)
    if current is None or current.shape == tensor.shape:
        return None
    single = isinstance(owner, nn.RNNBase) and owner.num_layers == 1
    if isinstance(owner, HARD) and not single:
        return f"{name} belongs to a {type(owner).__name__}, whose forward knows its sizes"
    wanted = reduced_shape(first, tuple(current.shape), plan)
    if plan.shapes.get(first) != tuple(current.shape) or wanted != tuple(tensor.shape):
        original = plan.shapes.get(first, tuple(tensor.shape))
        return (
            f"{name} has the shape {tuple(current.shape)}, in the compressed model "
            f"{tuple(original)}"
        )
    return None


def _place(
    module: nn.Module,
    name: str,
    tensor: Tensor,
    device: torch.device | None,
    shared: dict[int, Tensor],
) -> None:
    slot = _slot(module, name)
    if slot is None:
        return
    owner, leaf = slot
    current, parameter = _held(owner, leaf), leaf in owner._parameters
    where = device or (
        current.device if current is not None and not current.is_meta else tensor.device
    )
    # Shared in the file, shared in the module.
    if id(tensor) not in shared:
        moved = tensor.detach().to(where)
        grad = tensor.requires_grad if current is None else current.requires_grad
        shared[id(tensor)] = nn.Parameter(moved, grad) if parameter else moved.clone()
    slots: tuple[dict[str, Any], ...] = (owner._parameters, owner._buffers, vars(owner))
    next(held for held in slots if leaf in held)[leaf] = shared[id(tensor)]


def _resize(owner: nn.Module, path: str, small: GraphModule) -> None:
    """Set a layer's size attributes by its tensors."""
    if isinstance(owner, nn.RNNBase):
        _resize_recurrent(owner)
        return
    weight = owner._parameters.get("weight")
    if weight is None:
        mean = owner._buffers.get("running_mean")
        if isinstance(owner, _NormBase) and mean is not None:
            owner.num_features = len(mean)
        return
    rows, columns = weight.shape[0], weight.shape[1] if weight.dim() > 1 else 0
    if isinstance(owner, nn.Linear):
        owner.out_features, owner.in_features = rows, columns
    elif isinstance(owner, _ConvNd):
        groups = _groups(owner.groups, path, small, 6)
        down, up = (
            (columns * groups, rows)
            if not isinstance(owner, _ConvTransposeNd)
            else (rows, columns * groups)
        )
        owner.in_channels, owner.out_channels, owner.groups = down, up, groups
    elif isinstance(owner, _NormBase):
        owner.num_features = rows
    elif isinstance(owner, nn.GroupNorm):
        owner.num_channels, owner.num_groups = rows, _groups(owner.num_groups, path, small, 1)
    elif isinstance(owner, (nn.LayerNorm, nn.RMSNorm)):
        owner.normalized_shape = tuple(weight.shape)
    elif isinstance(owner, (nn.Embedding, nn.EmbeddingBag)):
        owner.num_embeddings, owner.embedding_dim = rows, columns
    elif isinstance(owner, nn.PReLU):
        owner.num_parameters = rows


def _resize_recurrent(owner: nn.RNNBase) -> None:
    """Sizes of a recurrent layer, which keeps its tensors in a list too. A stack of several keeps
    its sizes, or was refused.
    """
    if owner.num_layers == 1:
        read, recur = owner.get_parameter("weight_ih_l0"), owner.get_parameter("weight_hh_l0")
        gates = {"GRU": 3, "LSTM": 4}.get(owner.mode, 1)
        owner.input_size, owner.hidden_size = read.shape[1], len(read) // gates
        owner.proj_size = recur.shape[1] if owner.proj_size else 0
    owner._init_flat_weights()


def _groups(before: int, path: str, small: GraphModule, position: int) -> int:
    """Groups of a convolution or GroupNorm in the compressed graph: of its layer, of one that
    shares its weight, or of the call that reads it.
    """
    module: nn.Module | None = small
    for part in path.split("."):
        module = module._modules.get(part) if module is not None else None
    weight = module._parameters.get("weight") if module is not None else None
    sharing = small._modules.get(AS_LAYERS)
    for layer in (module, *(sharing.children() if sharing is not None else ())):
        if layer is module or layer is not None and layer._parameters.get("weight") is weight:
            if isinstance(layer, _ConvNd):
                return layer.groups
            if isinstance(layer, nn.GroupNorm):
                return int(layer.num_groups)
    for node in small.graph.nodes:
        if node.op == "get_attr" and node.target == f"{path}.weight":
            for user in node.users:
                if (
                    len(user.args) > position
                    and isinstance(user.args[position], int)
                    and hasattr(user.target, "_opname")
                ):
                    return int(user.args[position])
                if "conv" in getattr(user.target, "_opname", ""):
                    return 1
    return before
