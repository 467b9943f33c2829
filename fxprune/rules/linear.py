"""Which operators are linear in each tensor they take and treat channels that lie side by side
alike: what may stand between the weights that write rotated channels and those that read them.

By families, as the rules are. That an operator is named here is necessary and not sufficient: the
arguments decide (a product with itself is no linear map), so that every call is tried out as well
(`fxprune.label.rotatable`). What is not named is not linear as far as is known.
"""

from fxprune.graph.convolution import CONVOLUTIONS, GENERAL, TRANSPOSED
from fxprune.rules.movement import MOVEMENT

CONTRACTIONS = frozenset(
    {
        *CONVOLUTIONS,
        *TRANSPOSED,
        GENERAL,
        *(f"aten.{name}" for name in ("linear", "matmul", "mm", "bmm", "addmm", "baddbmm")),
        "aten.einsum",
        # Linear in the values; queries and keys meet in an inner product.
        "aten.scaled_dot_product_attention",
    }
)
"""What sums over an axis of two tensors."""

SUMS = frozenset(
    f"aten.{name}"
    for name in (
        "add sub subtract neg mul multiply div divide true_divide sum mean cumsum masked_fill where"
    ).split()
)
"""Sums, and products with what is the same for all channels."""

UNCHANGED = frozenset(
    f"aten.{name}"
    for name in (
        "clone contiguous dropout feature_dropout alpha_dropout detach alias _to_copy to type_as "
        "float lift_fresh lift_fresh_copy"
    ).split()
)
"""What gives its input back (dropout in eval mode)."""

RESAMPLING = frozenset(
    [
        f"aten.{kind}{rank}d"
        for kind in ("avg_pool", "adaptive_avg_pool", "_adaptive_avg_pool", "upsample_nearest")
        for rank in (1, 2, 3)
    ]
    + [
        f"aten.{name}"
        for name in (
            "_upsample_nearest_exact2d upsample_linear1d upsample_bilinear2d upsample_trilinear3d "
            "upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa grid_sampler "
            "grid_sampler_2d"
        ).split()
    ]
)
"""Weighted averages over positions."""

JOINING = frozenset(
    f"aten.{name}"
    for name in (
        "cat concat concatenate stack constant_pad_nd pad reflection_pad1d reflection_pad2d "
        "reflection_pad3d replication_pad1d replication_pad2d replication_pad3d"
    ).split()
)
"""What puts tensors, or margins, side by side."""

PICKING = frozenset(
    f"aten.{name}" for name in ("index", "index_select", "embedding", "slice_scatter")
) | {"_operator.getitem"}
"""What takes some of the elements."""

NORMS = frozenset({"aten.rms_norm"})
"""What commutes with orthonormal changes of basis of all that it normalizes over."""

LINEAR = frozenset(
    {
        *CONTRACTIONS,
        *SUMS,
        *UNCHANGED,
        *RESAMPLING,
        *JOINING,
        *PICKING,
        *MOVEMENT,
    }
)
"""All of these but the norms."""
