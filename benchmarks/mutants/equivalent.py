"""Faults that break nothing, by name, and why: no test could notice them."""

EQUIVALENT: dict[str, str] = {
    "passes/lift.py:_place: for name, parameter in owner.named_parameters(recurse=False): -> "
    "for name, parameter in owner.named_parameters(recurse=True):": (
        "What is lifted holds no modules (`_holds_only`)."
    ),
    "passes/facts.py:Facts.of: {n: 0 if t.is_inference() else t._version for n, t in "
    "tensors.items()}, -> {n: 1 if t.is_inference() else t._version for n, t in "
    "tensors.items()},": ("Any constant stands for the count that such a tensor does not have."),
    "fxprune/linalg/interpolation.py:interpolation: if len(dropped) and len(kept): -> "
    "if (len(dropped) or len(kept)):": (
        "A short cut: with nothing on one side, what follows writes no entry."
    ),
    "passes/lift.py:_place: for name, buffer in owner.named_buffers(recurse=False): -> "
    "for name, buffer in owner.named_buffers(recurse=True):": (
        "What is lifted holds no modules (`_holds_only`)."
    ),
    "fxprune/label/survivors.py:kept_axes: result[key] = ids[mask].reshape(len(ids), -1) -> "
    "result[key] = ids[mask].reshape(len(ids), -2)": (
        "NumPy takes any negative size for the one that follows from the others."
    ),
    "passes/layers.py:_embedding: padding = argument(node, 2, -1) -> "
    "padding = argument(node, 2, -2)": "Any negative number says that there is no padding row.",
    'passes/lift.py:_lift: if not isinstance(source, Node) or source.op != "get_attr": -> '
    "if (not isinstance(source, Node) and source.op != 'get_attr'):": (
        "An argument that is no weight of this layer is told by its name in the next line."
    ),
    "fxprune/label/trial.py:_Trial.__init__: super().__init__(module, lambda name: False) -> "
    "super().__init__(module, lambda name: True)": (
        "A trial reads its parameters in a way of its own, which never asks."
    ),
    "fxprune/label/checker.py:Checker.blockwise: return (name, axis) in self.given and "
    "self.given[(name, axis)].ndim == 2 -> return ((name, axis) in self.given or "
    "self.given[name, axis].ndim == 2)": (
        "Inputs of a grouped convolution without labels for each group are all pinned, and with "
        "what is pinned a trial compares nothing."
    ),
    "fxprune/rules/recorder.py:Recorder.unite: left, right = left.narrow(dim, 0, 1), "
    "right.narrow(dim, 0, 1) -> left, right = left.narrow(dim, 0, 1), right.narrow(0, dim, 1)": (
        "Never run: what neither side changes along is of size 1 by then."
    ),
    "fxprune/rules/pointwise.py:glu: call.record.block(torch.stack([vector(first, dim), "
    "vector(second, dim)])) -> pass": (
        "The halves are united one by one and keep equally many channels anyway; beside fixed "
        "channels the block only makes more of them stay."
    ),
    "fxprune/capture/canonical.py:_one_name_each: node.target = names.get(str(node.target), "
    "node.target) -> node.target = names.get(node.target, str(node.target))": (
        "What a graph reads is named by a text already."
    ),
    "fxprune/rules/recorder.py:_pairs: if len(left) <= 1024: -> if len(left) < 1024:": (
        "Both ways of noting pairs give the same pairs; the border is one of speed."
    ),
    "fxprune/calibrate/split.py:draw_split: total, units = int(groups.max(initial=-1)) + 1, "
    "independent(groups) -> total, units = int(groups.max(initial=-2)) + 1, "
    "independent(groups)": "Read where there are no examples only, and then nothing is drawn.",
}
