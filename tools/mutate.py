"""Mutation testing: changes one expression at a time and reports which changes no test notices.

    python tools/mutate.py src/loci/flow.py src/loci/caching --tests tests/test_flow.py \
        tests/caching --count 40 --seed 0 --json mutants.json

The working tree is copied and never changed. Each mutant runs the tests in a forked process, so
heavy imports happen once; needs a POSIX system. The test file that mirrors the mutated one runs
first, the others only if it passes. A mutant that hangs counts as killed.
"""

import argparse
import ast
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

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


def sites(path: Path) -> list[tuple[Path, int, int]]:
    """(file, node, variant) of every mutant of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [(path, i, k) for i, n in enumerate(nodes(tree)) for k, _ in enumerate(variants(n))]


def mutate(path: Path, index: int, variant: int) -> tuple[dict, str]:
    """The description of a mutant, and the file's mutated source."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
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


def run(tree: Path, tests: list[str], limit: float) -> tuple[bool, float]:
    """Whether the tests pass in a fork, and the seconds that they took."""
    start, pid = time.monotonic(), os.fork()
    if pid == 0:
        os.setpgrp()
        os.chdir(tree)
        sys.path.insert(0, str(tree / "src"))
        sys.path.insert(0, str(tree))
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        import pytest

        os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests])))
    while time.monotonic() - start < limit:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status == 0, time.monotonic() - start
        time.sleep(0.05)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False, time.monotonic() - start


def mirror(path: Path) -> list[list[str]]:
    """The test file of a source file, if there is one."""
    inside = path.relative_to(ROOT / "src" / "loci")
    test = Path("tests", inside.parent, f"test_{inside.name}")
    return [[str(test)]] if (ROOT / test).is_file() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("sources", nargs="+", type=Path, help="files or folders to mutate")
    parser.add_argument("--tests", nargs="+", required=True, help="what pytest runs")
    parser.add_argument("--count", type=int, default=40, help="mutants to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to write the report")
    given = parser.parse_args()
    for name in ("hypothesis", "jaxtyping", "numpy", "PIL.Image", "pytest", "torch"):
        importlib.import_module(name)  # once, before forking
    sys.modules["torch"].set_num_threads(1)
    sys.dont_write_bytecode = True
    files = [f for s in given.sources for f in ([s] if s.is_file() else sorted(s.rglob("*.py")))]
    found = [site for file in files for site in sites(file.resolve())]
    drawn = random.Random(given.seed).sample(found, min(given.count, len(found)))
    report: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        listed = os.popen(f"git -C {ROOT} ls-files -co --exclude-standard").read().splitlines()
        for name in listed:
            if (ROOT / name).is_file():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, tree / name)
        passed, seconds = run(tree, given.tests, 3600)
        if not passed:
            sys.exit("the tests fail without a mutation")
        for site in drawn:
            about, source = mutate(*site)
            path = tree / about["file"]
            original = path.read_text(encoding="utf-8")
            path.write_text(source, encoding="utf-8")
            start, limit = time.monotonic(), 3 * seconds + 20
            survived = all(run(tree, tests, limit)[0] for tests in (*mirror(site[0]), given.tests))
            about |= {"survived": survived, "seconds": round(time.monotonic() - start, 1)}
            path.write_text(original, encoding="utf-8")
            report.append(about)
            if about["survived"]:
                print(*about.values(), sep=" | ", flush=True)
            if given.json:
                content = json.dumps({"mutants_in_all": len(found), "mutants": report}, indent=1)
                given.json.write_text(content, encoding="utf-8")
    killed = sum(not about["survived"] for about in report)
    print(f"{killed} of {len(report)} killed ({killed / max(1, len(report)):.0%})")


if __name__ == "__main__":
    main()
