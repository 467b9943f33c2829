"""The command that measures several processes."""

from pathlib import Path

import pytest

from benchmarks.scale import BEGIN, END, Spent, put_in, row


def test_a_row_tells_the_busiest_rank_and_refuses_other_bytes(tmp_path: Path) -> None:
    alone = {"solves": 1.0, "exchanges": 0.0}
    one = Spent({"fit": 6.0, "capture": 1.0}, alone, 7.0, layers=3, digest="a")
    first, second = {"solves": 1.0, "exchanges": 0.2}, {"solves": 0.0, "exchanges": 0.4}
    two = [
        Spent({"fit": 3.0}, first, 4.0, {"fits": 3_000_000}, 3, 80_000_000, "a"),
        Spent({"fit": 2.0}, second, 5.0, {"products": 6_000_000}, 3, 90_000_000, "a"),
    ]
    line = row("net", two, one)
    assert line == "| net | 2 | 5.0 | 3.0 | 2.00 | 2.0 | 2.50 | 1.0 | 0.4 | 90 | 6.0 | 2000 |"
    with pytest.raises(SystemExit, match="do not make the bytes"):
        row("net", [*two, Spent(digest="b")], one)
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    put_in(page, line)
    assert page.read_text() == f"before\n{BEGIN}\n{line}\n{END}\nafter\n"
