"""Reports: JSON both ways, what is refused, and the text of the tables."""

import copy
import json
import pickle
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fxprune.errors import PlanError
from fxprune.handover.report import Report, attach, plan_of, report
from fxprune.handover.rows import AloneRow, GroupRow, Point
from fxprune.plans.plan import Plan
from fxprune.verify.agreement import Agreement, OutputAgreement
from fxprune.verify.by_class import Changed, ClassAgreement
from fxprune.verify.pictures import Picture

COUNTS = st.integers(0, 10**12)
SIZES = st.floats(0, 1e15)
TEXTS = st.text(max_size=20)
REPORTS = st.builds(
    Report,
    st.tuples(SIZES, SIZES),
    st.tuples(COUNTS, COUNTS),
    st.tuples(COUNTS, COUNTS),
    st.none()
    | st.builds(
        Agreement,
        SIZES,
        SIZES,
        COUNTS,
        SIZES,
        TEXTS,
        st.lists(
            st.builds(OutputAgreement, TEXTS, TEXTS, SIZES, SIZES, st.booleans()), max_size=2
        ).map(tuple),
        st.lists(st.builds(ClassAgreement, TEXTS, COUNTS, SIZES, SIZES, SIZES), max_size=2).map(
            tuple
        ),
        st.lists(st.builds(Changed, COUNTS, TEXTS, TEXTS), max_size=2).map(tuple),
    ),
    st.lists(
        st.builds(
            GroupRow,
            *(TEXTS, st.lists(TEXTS).map(tuple), COUNTS, COUNTS, SIZES),
            st.none() | SIZES,
        ),
        max_size=3,
    ).map(tuple),
    st.lists(st.builds(AloneRow, TEXTS, COUNTS, TEXTS), max_size=3).map(tuple),
    st.dictionaries(TEXTS, SIZES, max_size=3),
    COUNTS,
    st.lists(TEXTS, max_size=3).map(tuple),
    TEXTS,
    st.dictionaries(TEXTS, TEXTS, max_size=3),
    st.lists(st.builds(Point, SIZES, SIZES, SIZES, COUNTS, SIZES), max_size=2).map(tuple),
)


@given(REPORTS)
def test_json_both_ways(wanted: Report) -> None:
    assert Report.from_json(wanted.to_json()) == wanted


def example() -> Report:
    return Report(
        (2e6, 1e6),
        (4000, 3000),
        (16000, 12000),
        Agreement(**AGREEMENT),
        (
            GroupRow("first", ("first.weight[0]", "norm.weight[0]", "first.bias[0]"), 8, 6, 0.0125),
            GroupRow("hidden", ("hidden.weight[0]",), 16, 4, 0.25),
        ),
        (AloneRow("head.weight[0]", 4, "the model's output"),),
        {"capture": 0.5, "fit": 1.25},
        123_000_000,
        ("layers stay whole",),
        "auto",
    )


AGREEMENT: dict[str, Any] = {"rate": 0.995, "bound": 0.99, "examples": 200, "error": 0.001}


def test_text_of_the_tables() -> None:
    lines = [line.rstrip() for line in str(example()).splitlines()]
    assert lines == GOLDEN.strip("\n").splitlines()


def test_the_first_line_says_what_a_decision_is() -> None:
    outputs = (
        OutputAgreement("a", "largest class along axis 1 (argmax)", 1.0, 0.0),
        OutputAgreement("b", "same side of 0 (sign)", 0.995, 0.01),
    )
    told = Agreement(**AGREEMENT, decision="a: one thing; b: another", outputs=outputs)
    lines = str(replace(example(), agreement=told)).splitlines()
    assert lines[0] == "Decision: a: one thing; b: another."
    assert (
        "b: 99.50% of the examples agree in same side of 0 (sign); relative error "
        "1.00e-02." in " ".join(line.strip() for line in lines)
    )


def test_without_agreement_and_without_rows() -> None:
    bare = Report((1, 1), (1, 1), (0, 0), None, (), (), {}, 0, (), "uniform")
    text = str(bare)
    assert "held-out" not in text
    assert "Left alone" not in text
    assert "fxprune: uniform" in text
    assert bare.predicted_error == 0


def mutate(path: str, value: Any) -> str:
    document: Any = json.loads(example().to_json())
    place = document
    *parents, last = path.split(".")
    for part in parents:
        place = place[int(part) if isinstance(place, list) else part]
    place[int(last) if isinstance(place, list) else last] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        "[" * 100_000,
        mutate("flops", [1.0]),
        mutate("flops", [1.0, 2.0, 3.0]),
        mutate("flops", "ab"),
        mutate("flops.0", "1"),
        mutate("flops.0", True),
        mutate("params.0", 1.5),
        mutate("params.0", False),
        mutate("agreement", []),
        mutate("agreement.examples", None),
        mutate("agreement.rate", "1.0"),
        mutate("groups", {}),
        mutate("groups.0", ["first"]),
        mutate("groups.0.members.1", 3),
        mutate("groups.0.__class__", "x"),
        mutate("alone.0.size", "4"),
        mutate("seconds", [1.0]),
        mutate("seconds.fit", "long"),
        mutate("notes", "text"),
        mutate("method", None),
        mutate("extra", 1),
    ],
    ids=lambda text: text[:24],
)
def test_what_to_json_did_not_write_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match=r"^This is not a report: .*Pass what Report\.to_json"):
        Report.from_json(text)


def test_modules_carry_their_report_and_plan() -> None:
    module, plan = nn.Linear(1, 1), Plan({}, {}, {})
    for read, what in ((report, "report"), (plan_of, "plan")):
        with pytest.raises(PlanError, match=f"^This Linear carries no fxprune {what}: pass what"):
            read(module)
    module.meta = {"other": 1}  # type: ignore[assignment]
    with pytest.raises(PlanError):
        report(module)
    attach(module, example(), plan)
    assert report(module) == example()
    assert plan_of(module) is plan
    module.meta = 3  # type: ignore[assignment]
    with pytest.raises(PlanError):
        plan_of(module)


GOLDEN = """
fxprune: auto
┏━━━━━━━━━━━━━━━━━━━┳━━━━━━━━┳━━━━━━━━┳━━━━━━━┓
┃                   ┃ before ┃  after ┃  kept ┃
┡━━━━━━━━━━━━━━━━━━━╇━━━━━━━━╇━━━━━━━━╇━━━━━━━┩
│ FLOPs per example │  2.0 M │  1.0 M │ 50.0% │
│ parameters        │  4.0 k │  3.0 k │ 75.0% │
│ bytes             │ 16.0 k │ 12.0 k │ 75.0% │
└───────────────────┴────────┴────────┴───────┘
Same decision on 99.50% of 200 held-out calibration examples; at least 99.00%
with 95 % confidence. Relative output error 1.00e-03 (2.63e-01 predicted before
fitting).
Channel groups
┏━━━━━━━━┳━━━━━━━━┳━━━━━━━┳━━━━━━━━━━━┳━━━━━━━━━━┓
┃ group  ┃ before ┃ after ┃ predicted ┃ measured ┃
┡━━━━━━━━╇━━━━━━━━╇━━━━━━━╇━━━━━━━━━━━╇━━━━━━━━━━┩
│ first  │      8 │     6 │   1.3e-02 │          │
│ hidden │     16 │     4 │   2.5e-01 │          │
└────────┴────────┴───────┴───────────┴──────────┘
Left alone
┏━━━━━━━━━━━━━━━━━━━━┳━━━━━━━┳━━━━━━┓
┃ why: what          ┃ count ┃ size ┃
┡━━━━━━━━━━━━━━━━━━━━╇━━━━━━━╇━━━━━━┩
│ the model's output │       │      │
│   head.weight[0]   │     1 │    4 │
└────────────────────┴───────┴──────┘
Time: capture 0.50 s, fit 1.25 s. Peak memory 123 MB.
Note: layers stay whole.
"""


def judged(**changes: Any) -> Report:
    asked = {"flops": "0.5", "method": "auto"}
    agreement = Agreement(**AGREEMENT | {"decision": "largest class (argmax)"} | changes)
    return replace(example(), asked=asked, agreement=agreement)


def test_pictures_are_not_written_down() -> None:
    changed = (Changed(3, "1", "2", Picture(1, 1, 1, b"7")),)
    found = judged(changed=changed)
    assert "picture" not in found.to_json()
    again = Report.from_json(found.to_json())
    assert again == found == pickle.loads(pickle.dumps(found))
    assert copy.deepcopy(found).agreement.changed[0].picture is not None  # type: ignore[union-attr]


def test_reports_of_before_are_read() -> None:
    document = json.loads(example().to_json())
    for key in ("asked", "curve"):
        del document[key]
    for key in ("classes", "changed"):
        del document["agreement"][key]
    for row in document["groups"]:
        del row["measured"]
    assert Report.from_json(json.dumps(document)) == example()


def test_a_model_with_compressed_parts_has_one_report() -> None:
    whole = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    for name, part in whole.named_children():
        part.meta = {}  # type: ignore[assignment]
        attach(part, replace(judged(), method=("auto", "uniform")[int(name)]), Plan({}, {}, {}))
    found = report(whole)
    assert found.flops == (4e6, 2e6)
    assert found.params == (13 + 2000, 13)
    assert found.bytes == (52 + 8000, 52)
    assert [row.name for row in found.groups] == ["0.first", "0.hidden", "1.first", "1.hidden"]
    assert found.alone[0].name == "0.head.weight[0]"
    assert found.seconds == {"capture": 1.0, "fit": 2.5}
    assert found.method == "auto, uniform"
    assert found.asked["targets"] == "0, 1"
    assert "1: layers stay whole" in found.notes
    assert report(nn.Sequential(whole)).flops == (4e6, 2e6)
    assert Report.from_json(found.to_json()) == found
    with pytest.raises(PlanError, match=r"its compressed parts do, such as .*'0'"):
        plan_of(whole)
