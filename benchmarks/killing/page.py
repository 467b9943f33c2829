"""The campaign's table in its page."""

from collections.abc import Sequence
from pathlib import Path


def marks(ranks: int) -> tuple[str, str]:
    """What the table of a campaign with so many processes a run stands between."""
    name = "kills" if ranks == 1 else "kills of ranks"
    return f"<!-- {name} -->", f"<!-- end of {name} -->"


def put_in(
    page: Path,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    summary: str,
    seconds: str,
    ranks: int = 1,
) -> None:
    """Replace what lies between the two marks.

    Args:
        page: that has the marks.
        columns, rows: of the table.
        summary: in a sentence.
        seconds: that an undisturbed run takes.
        ranks: processes of a run.
    """
    begin, end = marks(ranks)
    text = page.read_text()
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{page} has no marks {begin} and {end}.")
    lines = [columns, ["---", *["--:"] * (len(columns) - 1)], *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    told = f"{summary}. A run that nothing disturbs takes {seconds} s."
    page.write_text(f"{before}{begin}\n{table}\n\n{told}\n{end}{after}")
