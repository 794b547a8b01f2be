"""Mutation testing: changes one expression at a time and reports which changes no test notices.

    python tools/mutate.py src/loci/flow.py src/loci/caching --tests tests/test_flow.py \
        tests/caching --count 40 --seed 0 --json mutants.json

Nothing on disk is changed. Tests are imported once; for each mutant a forked process replaces the
code of the imported functions and runs them, those of the mirroring test file first, up to the
first failure. A mutant that takes much longer than the tests do counts as killed. POSIX only.
"""

import argparse
import ast
import importlib
import json
import os
import random
import resource
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _pytest.main import pytest_runtestloop

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
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        for op in OPERATORS.get(type(node.ops[0]), []):
            yield "comparison", ast.Compare(node.left, [op()], node.comparators)
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


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")


def patch(path: Path, source: str) -> None:
    """Gives the functions, classes and constants of an imported module their mutated form."""
    module = sys.modules[module_name(path)]
    mutated = types.ModuleType(module.__name__)
    mutated.__file__ = module.__file__
    sys.modules[module.__name__] = mutated  # dataclasses look their module up
    exec(compile(source, str(path), "exec"), mutated.__dict__)
    sys.modules[module.__name__] = module
    for name, new in vars(mutated).items():
        old = vars(module).get(name)
        if name.startswith("__") or isinstance(new, types.ModuleType):
            continue
        if getattr(new, "__module__", module.__name__) == module.__name__ and update(old, new):
            continue
        if isinstance(new, int | float | str | tuple | frozenset) and new != old:
            for user in list(sys.modules.values()):
                if vars(user).get(name) is old:
                    setattr(user, name, new)


def update(old: Any, new: Any) -> bool:
    """Replaces the code of a function, or of the methods of a class; False for other objects."""
    if isinstance(old, types.FunctionType) and isinstance(new, types.FunctionType):
        if len(old.__code__.co_freevars) == len(new.__code__.co_freevars):
            old.__code__ = new.__code__
        old.__defaults__, old.__kwdefaults__ = new.__defaults__, new.__kwdefaults__
        if hasattr(old, "__wrapped__"):
            update(old.__wrapped__, new.__wrapped__)
    elif isinstance(old, property | staticmethod | classmethod) or hasattr(old, "func"):
        inner = "fget" if isinstance(old, property) else "__func__"
        inner = "func" if hasattr(old, "func") else inner
        update(getattr(old, inner), getattr(new, inner))
    elif isinstance(old, type) and isinstance(new, type):
        for name, value in list(vars(new).items()):
            simple = isinstance(value, int | float | str | tuple) and not name.startswith("__")
            if not update(vars(old).get(name), value) and simple:
                setattr(old, name, value)
    else:
        return False
    return True


class Mutator:
    """A pytest plugin that runs the collected tests once for each mutant."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.report = given, []

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        files = [f for s in self.given.sources for f in ([s] if s.is_file() else s.rglob("*.py"))]
        files = sorted({file.resolve() for file in files})
        for file in files:
            importlib.import_module(module_name(file))
        texts = {file: file.read_text(encoding="utf-8") for file in files}
        found = [site for file, text in texts.items() for site in sites(file, text)]
        drawn = random.Random(self.given.seed).sample(found, min(self.given.count, len(found)))
        unchanged = [(file, ast.unparse(ast.parse(text))) for file, text in texts.items()]
        passed, seconds = self.run(session, unchanged, 10_000)
        if not passed:
            print("the tests fail without a mutation")
            return True
        for file, index, variant in drawn:
            about, source = mutate(file, texts[file], index, variant)
            survived, used = self.run(session, [(file, source)], round(3 * seconds + 10))
            self.report.append(about | {"survived": survived, "cpu_seconds": round(used, 1)})
            if survived:
                print(*about.values(), sep=" | ", flush=True)
            if self.given.json:
                content = {"mutants_in_all": len(found), "mutants": self.report}
                self.given.json.write_text(json.dumps(content, indent=1), encoding="utf-8")
        killed = sum(not about["survived"] for about in self.report)
        print(f"{killed} of {len(drawn)} killed ({killed / max(1, len(drawn)):.0%})")
        return True

    def run(
        self, session: pytest.Session, changed: list[tuple[Path, str]], limit: int
    ) -> tuple[bool, float]:
        """Whether the tests pass in a fork, and its CPU seconds."""
        pid = os.fork()
        if pid == 0:
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
            sink = os.open(os.devnull, os.O_WRONLY)
            os.dup2(sink, 1)
            os.dup2(sink, 2)
            try:
                for path, source in changed:
                    patch(path, source)
                inside = changed[0][0].relative_to(ROOT / "src" / "loci")
                mirror = ROOT / "tests" / inside.parent / f"test_{inside.name}"
                session.items.sort(key=lambda item: item.path != mirror)
                session.config.option.maxfail = 1
                pytest_runtestloop(session)
                os._exit(int(session.testsfailed > 0))
            except BaseException:
                os._exit(1)
        _, status, usage = os.wait4(pid, 0)
        return status == 0, usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("sources", nargs="+", type=Path, help="files or folders to mutate")
    parser.add_argument("--tests", nargs="+", required=True, help="what pytest collects")
    parser.add_argument("--count", type=int, default=40, help="mutants to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to write the report")
    given = parser.parse_args()
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)  # threads do not survive a fork
    pytest.main(["-q", "-s", "-p", "no:cacheprovider", *given.tests], plugins=[Mutator(given)])


if __name__ == "__main__":
    main()
