"""A submitted notebook: which of its statements define something, and what they define when only these are executed.

Statements are chosen by their syntax tree. Imports, functions, classes and constants define; what trains, plots,
prints or waits for Ray does not, nor does what is made of its results.
"""

from __future__ import annotations
import __future__

import ast
import json
import linecache
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from course.errors import described
from course.roles import KINDS, plain
from tabular.simulated_ray import NotSimulated

LARGEST = 300_000_000  # bytes of a file
TRAINING = {"learn_and_evaluate", "learn", "train", "evaluate", "fit", "run", "test", "remote"}  # methods
PLAYING = TRAINING | {"step"}  # of a function, not of a class, which may be an env
FILLING = {"append", "extend", "insert", "update", "add", "setdefault"}  # methods that complete a constant
IDLE = {"print", "input", "open", "exec", "eval", "compile", "display", "exit", "quit", "breakpoint", "get_ipython"}
PICTURES = ("matplotlib", "seaborn", "plotly", "IPython")
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
AGENTS = {alias for aliases in KINDS.values() for alias in aliases}  # classes that are made to train
LINE_MAGIC = re.compile(r"^\s*(pip3?|conda|apt(-get)?|cd|ls|pwd)\s+\S|^\s*[%!]|\?\s*$")
KEPT_CELLS = re.compile(r"^%%(time|timeit|capture|prun)\b")


class Unreadable(ValueError):
    """A file is no notebook: the message says why."""


class Statement(NamedTuple):
    """A statement that defines something."""

    cell: int  # the number of its cell among the code cells, from 1
    node: ast.stmt
    line: str  # its first line, as it was written

    @property
    def place(self) -> str:
        """Where it stands, for people."""
        return f"code cell {self.cell}, line {self.node.lineno}"


class Broken(NamedTuple):
    """A cell that does not compile."""

    cell: int
    reason: str


class Loop(NamedTuple):
    """A loop that was left out, in a cell that defines something."""

    cell: int
    line: int
    endless: bool  # for sure: what follows it in the notebook is never reached


def code_cells(path: Path) -> list[str]:
    """The sources of a notebook's code cells; Unreadable where the file is no notebook."""
    if path.stat().st_size > LARGEST:
        raise Unreadable(f"the file has more than {LARGEST // 1_000_000} MB")
    data = path.read_bytes()
    if not data.strip():
        raise Unreadable("the file is empty")
    try:
        notebook = json.loads(data)
    except (ValueError, RecursionError):
        raise Unreadable("the file is not a notebook: it is not JSON") from None
    if not isinstance(notebook, dict):
        raise Unreadable("the file is not a notebook: it has no cells")
    sheets = notebook.get("worksheets")  # before version 4 of the format
    sources = [notebook, *(sheets if isinstance(sheets, list) else [])]
    lists = [source.get("cells") for source in sources if isinstance(source, dict)]
    if not any(isinstance(cells, list) for cells in lists):
        raise Unreadable("the file is not a notebook: it has no cells")
    cells = [cell for cells in lists if isinstance(cells, list) for cell in cells if isinstance(cell, dict)]
    return [_text(cell.get("source", cell.get("input", ""))) for cell in cells if cell.get("cell_type") == "code"]


def _text(source) -> str:
    """A cell's source, which may be a list of lines."""
    if isinstance(source, list):
        source = "".join(line for line in source if isinstance(line, str))
    return source if isinstance(source, str) else ""


def parsed(source: str) -> ast.Module:
    """A cell's syntax tree, without its magics; SyntaxError or ValueError where it does not compile."""
    try:
        return _compiled(source)
    except SyntaxError:
        first, _, rest = source.lstrip().partition("\n")
        if first.startswith("%%"):  # cells of shell commands, HTML and the like define nothing
            return parsed("\n" + rest) if KEPT_CELLS.match(first) else ast.parse("")
        lines = [re.sub(r"\S.*", "pass", line) if LINE_MAGIC.search(line) else line for line in source.split("\n")]
        lines = [re.sub(r"=\s*[%!].*", "= None", line) for line in lines]
        if lines == source.split("\n"):
            raise
        return _compiled("\n".join(lines))


def _compiled(source: str) -> ast.Module:
    """A syntax tree of what compiles: `return` outside of a function is parsed, but does not."""
    tree = ast.parse(source)
    compile(tree, "<cell>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    return tree


def read(cells: list[str]) -> tuple[list[Statement], list[Broken]]:
    """The statements of a notebook that define something, in order, and the cells that do not compile."""
    trees, broken = [], []
    for number, source in enumerate(cells, 1):
        try:
            trees.append((number, source.split("\n"), parsed(source)))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            line = f"line {error.lineno}: " if getattr(error, "lineno", None) else ""
            broken.append(Broken(number, f"{line}{getattr(error, 'msg', None) or type(error).__name__}"))
    sieve = Sieve([node for _, _, tree in trees for node in tree.body])
    statements = []
    for number, lines, tree in trees:
        for node in tree.body:
            kept = sieve.kept(node)
            if kept is not None:
                statements.append(Statement(number, kept, lines[node.lineno - 1].strip()))
    return statements, broken


def loops_left_out(cells: list[str], statements: list[Statement]) -> list[Loop]:
    """The `while` loops of the cells that these statements are from, which are never among the statements."""
    found = []
    for number in sorted({one.cell for one in statements}):
        for node in parsed(cells[number - 1]).body:
            found += [Loop(number, loop.lineno, loop is node and _is_endless(loop)) for loop in _loops(node)]
    return found


def _loops(node: ast.AST) -> Iterator[ast.While]:
    """The `while` loops of a statement, not those within functions and classes, nor within one another."""
    if isinstance(node, ast.While):
        yield node
    elif not isinstance(node, FUNCTIONS):
        for child in ast.iter_child_nodes(node):
            yield from _loops(child)


def _is_endless(loop: ast.While) -> bool:
    """Whether a loop ends by an error at most."""
    return isinstance(loop.test, ast.Constant) and bool(loop.test.value) and not any(map(_breaks, loop.body))


def _breaks(node: ast.AST) -> bool:
    """Whether a statement leaves the loop that it stands in."""
    if isinstance(node, FUNCTIONS):
        return False
    within = node.orelse if isinstance(node, ast.For | ast.AsyncFor | ast.While) else ast.iter_child_nodes(node)
    return isinstance(node, ast.Break) or any(map(_breaks, within))


class Sieve:
    """Keeps what defines, of statements given in their order."""

    def __init__(self, nodes: list[ast.stmt]):
        self.unmade: set[str] = set()  # names that a statement would have made that was left out
        self.modules = _modules(nodes)
        self.training = _training(nodes)

    def kept(self, node: ast.stmt) -> ast.stmt | None:
        """The statement, or what is left of it; None where it defines nothing."""
        kept = self._part(node)
        if kept is None:
            self.unmade |= _stored(node)
        elif not isinstance(node, ast.AugAssign):
            self.unmade -= _stored(kept)
        return kept

    def _part(self, node: ast.stmt) -> ast.stmt | None:
        if isinstance(node, ast.ImportFrom) and node.module == "course.nbgrader":
            return None  # a test cell of the hand-out
        if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            return node
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
            return node if self._makes(node) else None
        if isinstance(node, ast.Expr):
            return node if _fills(node.value) and self._makes(node) else None
        if isinstance(node, ast.If):
            return self._branches(node, ("body", "orelse")) if self._makes(node.test) else None
        if isinstance(node, ast.Try):
            return self._branches(node, ("body", "orelse", "finalbody"))
        if isinstance(node, ast.With):
            return self._branches(node, ("body",)) if all(self._makes(item) for item in node.items) else None
        if isinstance(node, ast.For) and self._makes(node.iter):
            whole = all(self._part(child) is child for child in [*node.body, *node.orelse])
            return node if whole else None
        return None

    def _branches(self, node: ast.stmt, fields: tuple[str, ...]) -> ast.stmt | None:
        """A compound statement with what is left of its branches; None where nothing is."""
        branches = {name: [self._part(child) for child in getattr(node, name)] for name in fields}
        branches = {name: [child for child in children if child is not None] for name, children in branches.items()}
        if not any(branches.values()):
            return None
        if isinstance(node, ast.Try):
            for handler in node.handlers:
                children = [self._part(child) for child in handler.body]
                handler.body = [child for child in children if child is not None] or [ast.Pass()]
        for name, children in branches.items():
            setattr(node, name, children or ([ast.Pass()] if name == "body" else []))
        return ast.fix_missing_locations(node)

    def _makes(self, node: ast.AST) -> bool:
        """Whether what is computed here is a constant: no call that trains, nothing of what was left out."""
        for child in ast.walk(node):
            if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Load) and child.id in self.unmade:
                return False
            if isinstance(child, ast.Call) and not self._constant_call(child.func):
                return False
        return True

    def _constant_call(self, function: ast.expr) -> bool:
        """Whether a call makes a constant, by the function that is called."""
        if isinstance(function, ast.Name):
            if plain(function.id) in AGENTS:
                return False  # whether or not the class could be read
            return function.id not in IDLE | self.training and not self._module(function).startswith(PICTURES)
        if isinstance(function, ast.Attribute):
            module = self._module(function.value)
            if module.partition(".")[0] == "ray":
                return function.attr == "remote"
            return not module.startswith(PICTURES) and (bool(module) or function.attr not in TRAINING)
        return not isinstance(function, ast.Call) or self._constant_call(function.func)

    def _module(self, node: ast.expr) -> str:
        """The module that a name stands for, or is from; "" where it is of none."""
        while isinstance(node, ast.Attribute):
            node = node.value
        return self.modules.get(node.id, "") if isinstance(node, ast.Name) else ""


def _fills(value: ast.expr) -> bool:
    """Whether an expression completes a constant, or a class."""
    if not isinstance(value, ast.Call):
        return False
    function = value.func
    return (isinstance(function, ast.Attribute) and function.attr in FILLING) or (
        isinstance(function, ast.Name) and function.id == "setattr"
    )


def _modules(nodes: list[ast.stmt]) -> dict[str, str]:
    """The module behind each name that is imported anywhere."""
    modules = {}
    for node in (child for top in nodes for child in ast.walk(top)):
        if isinstance(node, ast.Import):
            modules |= {alias.asname or alias.name.partition(".")[0]: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules |= {alias.asname or alias.name: node.module or "" for alias in node.names}
    return modules


def _training(nodes: list[ast.stmt]) -> set[str]:
    """The names of functions and classes that train when they are called, or whose methods do."""
    bodies = {}
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            attributes, names = TRAINING if isinstance(node, ast.ClassDef) else PLAYING, set()
            trains = False
            for child in ast.walk(node):
                if isinstance(child, ast.Call) and isinstance(child.func, ast.Attribute):
                    trains = trains or child.func.attr in attributes
                elif isinstance(child, ast.Name):
                    names.add(child.id)
            bodies[node.name] = trains, names
    training = {name for name, (trains, _) in bodies.items() if trains}
    while more := {name for name, (_, names) in bodies.items() if names & training} - training:
        training |= more
    return training


def _stored(node: ast.AST) -> set[str]:
    """The names that a statement makes where it stands, not those within functions and classes."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.alias):
        return {node.asname or node.name.partition(".")[0]}
    if isinstance(node, ast.Name):
        return {node.id} if isinstance(node.ctx, ast.Store) else set()
    return set().union(*map(_stored, ast.iter_child_nodes(node)))


# Execution ----------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """What became of a statement when it was executed."""

    error: str  # what it raised, or ""
    simulated: bool = True  # False: it asks for something that the simulated Ray does not have


class Absent:
    """Something that the simulated Ray does not have, or that needs it: whoever uses it gets NotSimulated."""

    def __init__(self, why: str):
        vars(self)["why"] = why

    def __getattr__(self, name: str):
        raise NotSimulated(self.why)

    def __call__(self, *_, **__):
        raise NotSimulated(self.why)

    def __mro_entries__(self, bases):
        raise NotSimulated(self.why)


def execute(statements: list[Statement], cells: list[str], names: dict) -> Iterator[Outcome]:
    """Execute statements one after another in a namespace: what became of each, when it is done.

    What they raise is caught, SystemExit and the like too. What the simulated Ray does not have is there, but Absent.
    """
    for number, source in enumerate(cells, 1):  # for tracebacks, and for code that asks for its own source
        name = _file_of(number)
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    flags = 0
    for statement in statements:
        node = statement.node
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            for alias in node.names:
                flags |= getattr(getattr(__future__, alias.name, None), "compiler_flag", 0)
        try:
            module = ast.Module([node], [])
            exec(compile(module, _file_of(statement.cell), "exec", flags=flags, dont_inherit=True), names)
        except BaseException as error:
            simulated = not (isinstance(error, NotSimulated) or (isinstance(error, ImportError) and _of_ray(node)))
            if not simulated:
                names.update((name, Absent(str(error))) for name in _stored(node))
            yield Outcome(described(error) if simulated else str(error), simulated)
        else:
            yield Outcome("")


def _of_ray(node: ast.stmt) -> bool:
    """Whether a statement imports parts of Ray."""
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").partition(".")[0] == "ray"
    return isinstance(node, ast.Import) and any(alias.name.startswith("ray.") for alias in node.names)


def _file_of(cell: int) -> str:
    """The name of the file that a cell's code is said to be from."""
    return f"<code cell {cell}>"
