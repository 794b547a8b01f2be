"""Mutation testing: changes one expression at a time and reports which changes no test notices.

    python tools/mutate.py src/loci/flow.py src/loci/acceleration --tests tests/test_flow.py \
        tests/acceleration --count 40 --seed 0 --json mutants.json

A copy of the package in a temporary folder is changed, never the package. A first run without a
mutation notes which test file calls which function. For each mutant a forked process imports the
changed copy and runs the files that call the function around it, the mirroring one first, up to
the first failure; files that start processes run for every mutant. A mutant that takes much longer
than the tests do counts as killed. POSIX only.
"""

import argparse
import ast
import contextlib
import importlib
import importlib.util
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
OPERATORS = {
    ast.Lt: [ast.LtE, ast.Gt], ast.LtE: [ast.Lt, ast.Gt], ast.Gt: [ast.GtE, ast.Lt],
    ast.GtE: [ast.Gt, ast.Lt], ast.Eq: [ast.NotEq], ast.NotEq: [ast.Eq], ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is], ast.In: [ast.NotIn], ast.NotIn: [ast.In], ast.Add: [ast.Sub],
    ast.Sub: [ast.Add], ast.Mult: [ast.Div], ast.Div: [ast.Mult], ast.Pow: [ast.Mult],
    ast.FloorDiv: [ast.Mult], ast.Mod: [ast.Mult], ast.And: [ast.Or], ast.Or: [ast.And],
}  # fmt: skip
SKIPPED = (ast.JoinedStr, ast.Assert, ast.Import, ast.ImportFrom)
"""Texts, type narrowing and imports: changing them says nothing about the tests."""
DELETED = (ast.AugAssign, ast.Raise, ast.Continue, ast.Break)


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes to mutate, without annotations, decorators and messages."""
    yield tree
    if isinstance(tree, ast.Raise):
        return
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list", "type_params", "bases"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, SKIPPED):
                yield from nodes(child)


def variants(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """(kind, replacement) for every mutation of a node."""
    if isinstance(node, ast.Compare):
        for i, old in enumerate(node.ops):
            for op in OPERATORS.get(type(old), []):
                ops = [*node.ops[:i], op(), *node.ops[i + 1 :]]
                yield "comparison", ast.Compare(node.left, ops, node.comparators)
    elif isinstance(node, ast.BinOp):
        for op in OPERATORS.get(type(node.op), []):
            yield "arithmetic", ast.BinOp(node.left, op(), node.right)
    elif isinstance(node, ast.BoolOp):
        yield "boolean", ast.BoolOp(OPERATORS[type(node.op)][0](), node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield "negation", node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        value = node.value
        other = (
            not value if isinstance(value, bool) else value + 1 if value in (0, 1) else 2 * value
        )
        yield "constant", ast.Constant(other)
    elif isinstance(node, ast.IfExp):
        yield "condition", ast.IfExp(node.test, node.orelse, node.body)
    elif isinstance(node, ast.If | ast.While):
        yield "condition", type(node)(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
    elif isinstance(node, ast.Call):
        for i in range(len(node.keywords)):
            rest = node.keywords[:i] + node.keywords[i + 1 :]
            yield "argument", ast.Call(node.func, node.args, rest)
    elif (
        isinstance(node, DELETED)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
        or (isinstance(node, ast.Assign) and not isinstance(node.targets[0], ast.Name | ast.Tuple))
    ):
        yield "deletion", ast.Pass()


def sites(path: Path, text: str) -> list[tuple[Path, int, int]]:
    """(file, node, variant) of every mutant of a file."""
    tree = ast.parse(text)
    return [(path, i, k) for i, n in enumerate(nodes(tree)) for k, _ in enumerate(variants(n))]


def mutate(path: Path, text: str, index: int, variant: int) -> tuple[dict, str]:
    """The description of a mutant, and the file's mutated source."""
    tree = ast.parse(text)
    node = list(nodes(tree))[index]
    kind, new = list(variants(node))[variant]
    about = {"file": str(path.relative_to(ROOT)), "line": getattr(node, "lineno", 0), "kind": kind}
    about |= {"before": ast.unparse(node).split("\n")[0]}
    about |= {"after": ast.unparse(ast.fix_missing_locations(new)).split("\n")[0]}
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is node and parent is not new:
                setattr(parent, name, new)
            elif isinstance(value, list) and parent is not new:
                value[:] = [new if item is node else item for item in value]
    return about, ast.unparse(ast.fix_missing_locations(tree))


def outer_function(text: str, index: int) -> str | None:
    """First line of the outermost function around a node; None in a module's or class's body."""
    tree = ast.parse(text)
    node = list(nodes(tree))[index]
    for outer in ast.walk(tree):  # outer functions come first
        if isinstance(outer, ast.FunctionDef) and any(inner is node for inner in ast.walk(outer)):
            return str(min(x.lineno for x in [outer, *outer.decorator_list]))
    return None


class Recorder:
    """A pytest plugin that notes, for each test file, the functions of a folder that it calls."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = str(folder), ""
        self.calls: dict[str, set[tuple[str, int]]] = defaultdict(set)
        self.seconds: dict[str, float] = defaultdict(float)
        self.spawning: set[str] = set()

    def note(self, frame: FrameType, _: str, __: Any) -> None:
        """A trace function that sees calls and no lines."""
        self.calls[self.file].add((frame.f_code.co_filename, frame.f_code.co_firstlineno))

    def audit(self, event: str, _: Any) -> None:
        if event in ("subprocess.Popen", "os.fork", "os.posix_spawn"):
            self.spawning.add(self.file)

    def pytest_sessionstart(self) -> None:
        threading.settrace(self.note)
        sys.settrace(self.note)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.file, start = str(item.path), time.process_time()
        sys.settrace(self.note)  # a test may have taken it away
        try:
            return (yield)
        finally:
            self.seconds[self.file] += time.process_time() - start

    def called(self) -> dict[str, list[str]]:
        """For each test file ("" for imports) the functions called, as "path:first line"."""
        sys.settrace(None)
        return {
            file: [
                f"{os.path.relpath(path, self.folder)}:{line}"
                for path, line in calls
                if path.startswith(self.folder)
            ]
            for file, calls in self.calls.items()
        }


class Copy:
    """A copy of the package that forked processes import in place of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(ROOT / "src" / "loci", folder / "src" / "loci")
        sys.path.insert(0, str(folder / "src"))
        os.environ["PYTHONPATH"] = str(folder / "src")  # for the processes that tests start
        self.notes: dict[str, Any] = {}

    def write(self, path: Path, source: str) -> None:
        copy = self.folder / path.relative_to(ROOT)
        Path(importlib.util.cache_from_source(str(copy))).unlink(missing_ok=True)
        copy.write_text(source, encoding="utf-8")

    def run(self, tests: list[str], limit: int) -> tuple[int, float]:
        """pytest's exit status in a fork (negative for a signal), and its CPU seconds."""
        pid = os.fork()
        if pid == 0:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
            signal.alarm(5 * limit)
            status = 1
            try:
                status = self.in_fork(tests)
            finally:
                os._exit(status)
        try:
            _, status, usage = os.wait4(pid, 0)
        finally:  # what its tests started and a limit left behind; all of it on Ctrl-C and SIGTERM
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime

    def in_fork(self, tests: list[str]) -> int:
        sink = os.open(self.folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        base = f"--basetemp={self.folder / 'tests'}"
        recorder = Recorder(self.folder)
        plugins = []
        if not self.notes:
            sys.addaudithook(recorder.audit)
            plugins.append(recorder)
        status = int(pytest.main(["-x", "-p", "no:cacheprovider", base, *tests], plugins=plugins))
        if not self.notes:
            own = ("loci", "tests", "conftest", "__main__")
            modules = [m for m in sys.modules if m.partition(".")[0] not in own]
            notes = {
                "calls": recorder.called(),
                "seconds": recorder.seconds,
                "spawning": sorted(recorder.spawning),
                "modules": modules,
            }
            (self.folder / "notes.json").write_text(json.dumps(notes), encoding="utf-8")
        return status

    def record(self, tests: list[str]) -> None:
        """Runs the tests without a mutation; imports what they need of other packages."""
        status, _ = self.run(tests, 10_000)
        if status != 0:
            print((self.folder / "output.txt").read_text(encoding="utf-8")[-3000:])
            raise SystemExit("the tests fail without a mutation")
        self.notes = json.loads((self.folder / "notes.json").read_text(encoding="utf-8"))
        for name in self.notes["modules"]:
            with contextlib.suppress(Exception):
                importlib.import_module(name)

    def survives(self, path: Path, line: str | None) -> tuple[bool, float]:
        """Whether no test notices the mutant of a function (None: of a module) now written."""
        inside = path.relative_to(ROOT / "src" / "loci")
        function = f"{path.relative_to(ROOT)}:{line}"
        calls, seconds = self.notes["calls"], self.notes["seconds"]
        if line is None or function in calls[""]:
            files = list(seconds)
        else:
            files = [f for f in seconds if f in self.notes["spawning"] or function in calls[f]]
        mirror = ROOT / "tests" / inside.parent / f"test_{inside.name}"
        files.sort(key=lambda file: (Path(file) != mirror, seconds[file]))
        if not files:
            return True, 0.0
        status, used = self.run(files, round(2 * sum(seconds[f] for f in files) + 30))
        return status == 0, used


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("sources", nargs="+", type=Path, help="files or folders to mutate")
    parser.add_argument("--tests", nargs="+", required=True, help="what pytest collects")
    parser.add_argument("--count", type=int, default=40, help="mutants to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to write the report")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads do not survive a fork
    files = [f for s in given.sources for f in ([s] if s.is_file() else s.rglob("*.py"))]
    texts = {f.resolve(): f.read_text(encoding="utf-8") for f in sorted(set(files))}
    found = [site for file, text in texts.items() for site in sites(file, text)]
    drawn = random.Random(given.seed).sample(found, min(given.count, len(found)))
    report = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Copy(Path(folder).resolve())
        copy.record(given.tests)
        for file, index, variant in drawn:
            about, source = mutate(file, texts[file], index, variant)
            copy.write(file, source)
            survived, used = copy.survives(file, outer_function(texts[file], index))
            copy.write(file, texts[file])
            report.append(about | {"survived": survived, "cpu_seconds": round(used, 1)})
            if survived:
                print(*about.values(), sep=" | ", flush=True)
            if given.json:
                content = {"mutants_in_all": len(found), "mutants": report}
                given.json.write_text(json.dumps(content, indent=1), encoding="utf-8")
    killed = sum(not about["survived"] for about in report)
    print(f"{killed} of {len(drawn)} killed ({killed / max(1, len(drawn)):.0%})")


if __name__ == "__main__":
    main()
