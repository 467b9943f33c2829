"""Names that follow one pattern."""

from fxprune.graph.names import break_at_dots, put_together


def patterns(names: list[str], most: int) -> dict[str, int]:
    return {row.name: len(row.items) for row in put_together(names, str, most=most)}


NAMES = [
    *(f"layer{stage}.{block}.conv{i}" for stage in (1, 2) for block in (0, 1) for i in (1, 2)),
    "fc",
]


def test_few_names_stand_one_by_one() -> None:
    assert patterns(NAMES, 9) == dict.fromkeys(NAMES, 1)


def test_names_differ_no_further_than_rows_ask() -> None:
    within = {f"layer{stage}.*.conv{i}": 2 for stage in (1, 2) for i in (1, 2)}
    assert patterns(NAMES, 8) == {**within, "fc": 1}
    assert patterns(NAMES, 4) == {"layer*.*.conv1": 4, "layer*.*.conv2": 4, "fc": 1}
    assert patterns(NAMES, 2) == {"layer*.*.conv*": 8, "fc": 1}


def test_only_what_differs_becomes_a_star() -> None:
    assert patterns([f"net.7.block.{i}" for i in range(5)], 2) == {"net.7.block.*": 5}


def test_axes_stay_and_numbers_of_calls_do_not_matter() -> None:
    axes = [f"{i}.weight[{axis}]" for axis in (0, 1) for i in range(9)]
    assert patterns(axes, 3) == {"*.weight[0]": 9, "*.weight[1]": 9}
    calls = ["reads (0: linear)", "reads (1: linear_1)", "reads (2: linear_20)"]
    assert patterns(calls, 2) == {"reads (*: linear*)": 3}


def test_what_is_to_stay_apart_does() -> None:
    rows = put_together(["a.0", "a.1", "a.2"], str, lambda name: name == "a.1", most=1)
    assert [(row.name, row.items) for row in rows] == [("a.*", ("a.0", "a.2")), ("a.1", ("a.1",))]


def test_lines_end_at_dots_and_spaces() -> None:
    assert break_at_dots("encoder.layer.0.attention", 12) == "encoder.\n  layer.0.\n  attention"
    assert break_at_dots("short.name", 12) == "short.name"
    assert break_at_dots("unbreakable_name", 5) == "unbreakable_name"
    assert break_at_dots("three short words", 9, "  ") == "  three\n    short\n    words"
