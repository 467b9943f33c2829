"""What to do where few decisions were kept, in words."""

from fxprune.plans.methods import METHODS
from fxprune.session import Session
from fxprune.verify.agreement import Agreement

FEW = 0.9
"""Share of kept decisions below which something is said."""


def advise(session: Session, agreement: Agreement | None) -> str:
    """What was kept and how to keep more; empty where enough was, or what the caller asked for.

    Args:
        session: the model was made in.
        agreement: on the held-out examples; None where there were none.
    """
    options = session.options
    asked = options.budget.agreement is not None or options.part
    if asked or agreement is None or not agreement.examples or agreement.rate >= FEW:
        return ""
    judge, method = session.judge, options.method
    offers = []
    if judge is not None and judge.question:
        offers.append("say when two outputs are the same decision (decision=)")
    if method.widths:
        offers.append(
            "ask for agreement=, such as 0.95, which gives the smallest model that is sure to keep "
            "that share"
        )
    limits = [f"{name}={limit:g}" for name, limit in options.budget.limits.items() if limit < 1]
    offers.append(f"ask for more than {' and '.join(limits)}" if limits else "plan a larger budget")
    if method.widths and method is not METHODS["auto"]:
        offers.append(f'use method="auto" instead of "{method.name}"')
    offers.append("train what came back with fxprune.recover, without labels")
    offers.append(
        f"give more than these {session.statistics.calibration.size:,} calibration examples"
    )
    return (
        f"Only {agreement.rate:.1%} of {agreement.compared} keep "
        f"their decision: {agreement.decision}. To keep more, {', or '.join(offers)}."
    )


def advise_recovered(agreement: Agreement) -> str:
    """What to do where training did not bring enough decisions back; else empty."""
    if agreement.rate >= FEW:
        return ""
    return (
        f"Only {agreement.rate:.1%} of {agreement.compared} keep "
        f"their decision: {agreement.decision}. To keep more, train longer, give more examples, "
        "or compress less."
    )
