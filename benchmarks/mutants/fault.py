"""One change of one file."""

from dataclasses import dataclass

from benchmarks.mutants.areas import area_of


@dataclass(frozen=True)
class Fault:
    """One change of one file.

    Attributes:
        path: of the file, from the root.
        function: qualified name of the innermost function that it lies in.
        kind: of the change.
        holder: qualified name and first line of the outermost function that it lies in.
        lines: first and last line of what changes.
        start, end: of the bytes that are replaced.
        old, new: the line before and after (the first one, where it spans several).
        text: what stands there instead.
        number: counts changes of equal words within one function.
    """

    path: str
    function: str
    kind: str
    holder: tuple[str, int]
    lines: tuple[int, int]
    start: int
    end: int
    old: str
    new: str
    text: str
    number: int = 0

    @property
    def name(self) -> str:
        """The same as long as the function is: no line numbers."""
        number = f" ({self.number + 1})" if self.number else ""
        return f"{self.path}:{self.function}: {self.old} -> {self.new}{number}"

    @property
    def area(self) -> str:
        """What it breaks."""
        return area_of(self.path) or ""

    def planted(self, source: bytes) -> bytes:
        """The file's source with the fault in it."""
        return source[: self.start] + self.text.encode() + source[self.end :]
