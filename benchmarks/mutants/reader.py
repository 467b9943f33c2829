"""Single changes of a source that usually break it, found in its syntax tree.

Kinds:
- comparison: one border further or nearer, equal for unequal, in for not in;
- condition: negated;
- connective: `and` for `or`, the other way round;
- arithmetic: the opposite operator;
- number: one more, where it is an integer; doubled, where it is not;
- axis: likewise, where it is a dimension or a place among arguments or sizes;
- flag: True for False, the other way round;
- call: `all` for `any`, `max` for `min` and the like;
- side: inputs for outputs, rows for columns and the like;
- swapped: the first two arguments of a call;
- dropped: a statement that calls or updates something, or skips the rest of a loop;
- early: what an early return gives becomes nothing (None).

Left out are texts (messages, docstrings, names), what only raises, asserts, annotations,
defaults and decorators, tolerances below 1e-3, `strict=` of zip, and swaps where the order does not
matter.
"""

import ast
from collections import Counter

from benchmarks.mutants.fault import Fault

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_PAIRS = (
    ("any", "all"),
    ("min", "max"),
    ("floor", "ceil"),
    ("amin", "amax"),
    ("issubset", "issuperset"),
    ("flatnonzero", "argsort"),
    ("zeros", "ones"),
)
CALLS = {a: b for pair in _PAIRS for a, b in (pair, pair[::-1])}
_SIDES = (
    ("inputs", "outputs"),
    ("rows", "columns"),
    ("before", "after"),
    ("left", "right"),
    ("first", "second"),
)
SIDES = {a: b for pair in _SIDES for a, b in (pair, pair[::-1])}
AXES = (
    "narrow select sum mean any all cat stack index_select size movedim transpose repeat"
).split()
"""Calls whose numbers are dimensions, or places along one."""
UNORDERED = (
    "isinstance hasattr getattr zip print max min unite equal gcd array_equal issubclass print "
    "broadcast_tensors allclose intersection union isdisjoint"
).split()
"""Calls in which a swap of two arguments changes nothing, or is a plain error."""


class _Reader(ast.NodeVisitor):
    """Collects the changes of one file."""

    def __init__(self, path: str, source: bytes):
        self.path, self.source = path, source
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.names: list[str] = []
        self.inside = 0
        self.axis = 0
        self.holder = "", 0
        self.faults: list[Fault] = []
        self.seen = Counter[tuple[str, str, str]]()

    def add(self, kind: str, node: ast.expr | ast.stmt, text: str, code: str = "") -> None:
        """Note that `text` may stand in a node's place, written as `code` where that differs."""
        if not self.inside or node.end_lineno is None or node.end_col_offset is None:
            return
        start = self.starts[node.lineno - 1] + node.col_offset
        end = self.starts[node.end_lineno - 1] + node.end_col_offset
        first, last = self.starts[node.lineno - 1], self.starts[node.end_lineno]
        old = self.source[first:last].decode()
        new = (self.source[first:start] + text.encode() + self.source[end:last]).decode()
        shown = " ".join(old.split()), " ".join(new.split())
        function = ".".join(self.names)
        number = self.seen[(function, *shown)]
        self.seen[(function, *shown)] += 1
        lines = (node.lineno, node.end_lineno)
        self.faults.append(
            Fault(
                self.path,
                function,
                kind,
                self.holder,
                lines,
                start,
                end,
                *shown,
                code or text,
                number,
            )
        )

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.names.append(node.name)
        for part in node.body:
            self.visit(part)
        self.names.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.names.append(node.name)
        self.inside += 1
        if self.inside == 1:
            line = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            self.holder = ".".join(self.names), line
        for part in node.body:
            self.visit(part)
        if isinstance(node.body[-1], ast.Return):
            self.early(node.body[:-1])
        self.inside -= 1
        self.names.pop()

    def early(self, body: list[ast.stmt]) -> None:
        """Returns before the last one."""
        for part in body:
            for node in ast.walk(part):
                returned = node.value if isinstance(node, ast.Return) else None
                if isinstance(returned, (ast.Name, ast.Attribute, ast.Call, ast.Subscript)):
                    self.add("early", returned, "None", f"({ast.unparse(returned)} if 0 else None)")

    def visit_Raise(self, node: ast.Raise) -> None:
        """What an error says."""

    def visit_Assert(self, node: ast.Assert) -> None:
        """What type checkers are told."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """A message."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            self.drop(node)
        self.generic_visit(node)

    def drop(self, node: ast.stmt) -> None:
        """Never run the statement; it stands there still, so that the function closes over the same
        names.
        """
        self.add("dropped", node, "pass", f"if 0: {ast.unparse(node)}")

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.drop(node)
        self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        own = {n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)}
        if any(isinstance(t, ast.Name) and t.id in own for t in node.targets):
            self.drop(node)
        self.generic_visit(node)

    def visit_Continue(self, node: ast.Continue) -> None:
        self.add("dropped", node, "pass")

    def visit_If(self, node: ast.If) -> None:
        self.negate(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        if not isinstance(node.test, ast.Constant):
            self.negate(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.negate(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self.negate(test)
        self.generic_visit(node)

    def negate(self, test: ast.expr) -> None:
        """The opposite condition; comparisons have their own kind."""
        if isinstance(test, ast.Compare) and len(test.ops) == 1:
            return
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            self.add("condition", test, f"({ast.unparse(test.operand)})")
        else:
            self.add("condition", test, f"(not ({ast.unparse(test)}))")

    def visit_Compare(self, node: ast.Compare) -> None:
        for at, op in enumerate(node.ops):
            other = COMPARISONS.get(type(op))
            if other is not None:
                ops = [*node.ops[:at], other(), *node.ops[at + 1 :]]
                self.add(
                    "comparison", node, ast.unparse(ast.Compare(node.left, ops, node.comparators))
                )
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        self.add("connective", node, f"({ast.unparse(ast.BoolOp(other, node.values))})")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        other = OPERATORS.get(type(node.op))
        texts = (ast.JoinedStr, ast.List, ast.Tuple, ast.ListComp)
        sides = (node.left, node.right)
        said = any(isinstance(s, ast.Constant) and isinstance(s.value, str) for s in sides)
        if other is not None and not said and not any(isinstance(s, texts) for s in sides):
            self.add("arithmetic", node, ast.unparse(ast.BinOp(node.left, other(), node.right)))
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self.add("flag", node, str(not value))
        elif isinstance(value, int):
            self.add("axis" if self.axis else "number", node, str(value + 1))
        elif isinstance(value, float) and abs(value) >= 1e-3:
            self.add("number", node, repr(2 * value))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr in SIDES and isinstance(node.ctx, ast.Load):
            self.add("side", node, ast.unparse(_other(node, SIDES)))
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self.visit(node.value)
        self.axis += 1
        self.visit(node.slice)
        self.axis -= 1

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg == "strict":
            return
        self.axis += node.arg in ("dim", "axis")
        self.visit(node.value)
        self.axis -= node.arg in ("dim", "axis")

    def visit_Call(self, node: ast.Call) -> None:
        called = node.func
        name = called.attr if isinstance(called, ast.Attribute) else ""
        name = called.id if isinstance(called, ast.Name) else name
        if name in CALLS:
            self.add("call", called, ast.unparse(_other(called, CALLS)))
        first = node.args[:2]
        plain = not any(isinstance(a, ast.Starred) for a in first)
        if len(first) == 2 and plain and name not in UNORDERED:
            one, two = (ast.unparse(a) for a in first)
            if one != two:
                swapped = [first[1], first[0], *node.args[2:]]
                self.add("swapped", node, ast.unparse(ast.Call(called, swapped, node.keywords)))
        self.visit(called)
        self.axis += name in AXES
        for argument in node.args:
            self.visit(argument)
        self.axis -= name in AXES
        for keyword in node.keywords:
            self.visit(keyword)


def _other(node: ast.expr, names: dict[str, str]) -> ast.expr:
    """A name or attribute with the other one of its pair in its place."""
    if isinstance(node, ast.Attribute):
        return ast.Attribute(node.value, names[node.attr], node.ctx)
    return ast.Name(names[ast.unparse(node)], ast.Load())


def faults_of(path: str, source: bytes) -> list[Fault]:
    """Every fault of a file."""
    reader = _Reader(path, source)
    reader.visit(ast.parse(source))
    return reader.faults
