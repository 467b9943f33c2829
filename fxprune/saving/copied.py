"""What came out as a copy of the caller's model: of its class, with smaller layers."""

from dataclasses import replace

import torch
from torch import nn
from torch.fx import GraphModule

from fxprune.errors import UnsupportedError
from fxprune.handover.report import attach, plan_of, report
from fxprune.plans.plan import keep_mask_of
from fxprune.saving.attributes import ATTRIBUTES
from fxprune.saving.configured import build_of, changes_of, find_config
from fxprune.saving.own_class import Suited, difference
from fxprune.saving.resize import load_into
from fxprune.verify.outputs import floating


def in_own_class(suited: Suited, model: nn.Module, small: GraphModule) -> nn.Module:
    """What came out as a copy of the caller's model, compared on the held-out examples.

    Args:
        suited: whose groups were narrowed.
        model: the caller's.
        small: what was handed over.

    Raises:
        UnsupportedError: the copy gives something else.
    """
    session, plan = suited.session, plan_of(small)
    sizes = suited.attributes(keep_mask_of(session.analysis, plan))
    plan = replace(plan, settings={**plan.settings, ATTRIBUTES: sizes} if sizes else plan.settings)
    attach(small, report(small), plan)
    if suited.by_config:
        own = build_of(model, find_config(model, small, changes_of(plan)), small)
        own.meta = {}  # type: ignore[assignment]
        attach(own, report(small), plan)
    else:
        own = load_into(model, small, None).eval()
    home = session.captured.example.tensors()[0].device
    with torch.no_grad():
        for batch in session.statistics.batches(session.split.held_out):
            # A class of the caller's runs as it is written, where its weights are.
            batch = batch.map(lambda t: t.to(home))
            wanted, found = (floating(m(*batch.args, **batch.kwargs)) for m in (small, own))
            problem = difference(wanted, found)
            if problem:
                raise UnsupportedError(
                    f"keep_class=True: the copy of {type(model).__name__} does not give what the "
                    f"graph gives on a held-out batch: {problem}. Leave keep_class out."
                )
    return own
