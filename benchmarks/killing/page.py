"""The campaign's table in its page."""

from collections.abc import Sequence
from pathlib import Path

BEGIN, END = "<!-- kills -->", "<!-- end of kills -->"


def put_in(
    page: Path, columns: Sequence[str], rows: Sequence[Sequence[str]], summary: str, seconds: str
) -> None:
    """Replace what lies between the two marks.

    Args:
        page: that has the marks.
        columns, rows: of the table.
        summary: in a sentence.
        seconds: that an undisturbed run takes.
    """
    text = page.read_text()
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"{page} has no marks {BEGIN} and {END}.")
    lines = [columns, ["---", *["--:"] * (len(columns) - 1)], *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    told = f"{summary}. A run that nothing disturbs takes {seconds} s."
    page.write_text(f"{before}{BEGIN}\n{table}\n\n{told}\n{END}{after}")
