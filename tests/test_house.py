"""The house keeps its direction: what stands to the left never imports what stands to the right."""

import ast
from pathlib import Path

import loci

SOURCE = Path(loci.__file__).parent
LONGEST_FILE = 400
# Left to right; the modules of one group do not import each other.
GROUPS = [
    ["errors"],
    ["files", "picture"],
    ["layers"],
    ["flow"],
    ["acceleration"],
    ["memory", "actions", "geometry"],
    ["world", "objects"],
    ["presets", "presets_objects"],
    ["data"],
    ["train"],
    ["bench"],
    ["app"],
    ["cli"],
]
RANK = {module: rank for rank, group in enumerate(GROUPS) for module in group}
FILES = [p for p in sorted(SOURCE.rglob("*.py")) if p != SOURCE / "__init__.py"]


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_rooms(source: str) -> set[str]:
    """The rooms of loci that a file imports from, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import: write the name in full"
            names.add(
                f"{node.module}.{node.names[0].name}"
                if node.module == "loci"
                else node.module or ""
            )
    return {name.split(".")[1] for name in names if name.startswith("loci.")}


def wrong_way(importer: str, imported: str) -> bool:
    return importer != imported and RANK[imported] >= RANK[importer]


def test_imports_go_one_way() -> None:
    wrong = [
        f"{path.relative_to(SOURCE)} -> {imported}"
        for path in FILES
        for imported in sorted(imported_rooms(path.read_text(encoding="utf-8")))
        if wrong_way(room(path), imported)
    ]
    assert not wrong, "imports against the direction of the house: " + "; ".join(wrong)


def test_the_check_itself_sees_arrows() -> None:
    assert imported_rooms("def f():\n    from loci.world.world import World") == {"world"}
    assert imported_rooms("from loci import errors\nimport loci.data.video") == {"errors", "data"}
    assert wrong_way("layers", "world")
    assert wrong_way("memory", "actions")
    assert not wrong_way("world", "memory")


def test_every_room_has_its_place() -> None:
    assert {room(path) for path in FILES} <= RANK.keys()


def test_files_stay_small() -> None:
    lengths = {
        str(path.relative_to(SOURCE)): len(path.read_text(encoding="utf-8").splitlines())
        for path in FILES
    }
    assert {name: n for name, n in lengths.items() if n > LONGEST_FILE} == {}
