"""The house keeps its direction: what stands to the left never imports what stands to the right."""

import ast
from collections import Counter
from pathlib import Path

import loci

SOURCE = Path(loci.__file__).parent
MAX_FILE, MAX_FOLDER = 400, 12
# Left to right; the modules of one group do not import each other.
GROUPS = [
    ["errors"],
    ["io"],
    ["nn", "flow", "actions"],
    ["acceleration"],
    ["memory", "geometry", "codecs"],
    ["world", "objects"],
    ["envs", "gym", "labels"],
    ["data"],
    ["train"],
    ["bench"],
    ["app"],
    ["cli"],
]
# What runs on the device of a model, and the files in it that only meet tensors on the CPU.
MODEL_ROOMS = ("nn", "flow", "acceleration", "memory", "geometry", "codecs", "world", "objects")
ON_CPU = {
    "memory/hierarchical.py": "poses",
    "memory/panorama_merge.py": "poses, brought there by its caller",
    "memory/pose_rotary.py": "poses, brought there by its caller",
    "memory/poses.py": "poses",
    "objects/inputs/pointmap.py": "a file's points",
}
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


def doubles(source: str) -> list[int]:
    """Lines on which numbers become float64 where they may not be on the CPU.

    That is `.double()` or `.to(torch.float64)` of what is not a `.cpu()`, and a new tensor of
    float64 on a device that is named or on that of another tensor.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        given = [ast.unparse(a) for a in (*node.args, *(k.value for k in node.keywords))]
        wide = "torch.float64" in given
        name, of = node.func.attr, ast.unparse(node.func.value)
        if name == "double" or (name in ("to", "type") and wide):
            elsewhere = ".cpu()" not in of
        else:
            placed = any(keyword.arg == "device" for keyword in node.keywords)
            elsewhere = wide and (placed or name.startswith("new_"))
        if elsewhere:
            found.append(node.lineno)
    return found


def test_float64_stays_on_the_cpu() -> None:
    """MPS has none."""
    wrong = [
        f"{path.relative_to(SOURCE)}:{line}"
        for path in FILES
        if room(path) in MODEL_ROOMS and str(path.relative_to(SOURCE)) not in ON_CPU
        for line in doubles(path.read_text(encoding="utf-8"))
    ]
    assert not wrong, "float64 that may not be on the CPU: " + ", ".join(wrong)


def test_the_check_sees_float64() -> None:
    wrong = ["x.double()", "x.to(torch.float64)", "x.new_zeros(3, dtype=torch.float64)"]
    wrong += ["torch.zeros(3, dtype=torch.float64, device=x.device)", "x.double().cpu()"]
    right = ["x.cpu().double()", "x[1:].cpu().to(torch.float64)", "x.to(y)"]
    right += ["torch.arange(3, dtype=torch.float64)", "x.new_zeros(3)"]
    assert doubles("\n".join(wrong + right)) == [1, 2, 3, 4, 5]


def test_the_check_itself_sees_arrows() -> None:
    assert imported_rooms("def f():\n    from loci.world.world import World") == {"world"}
    assert imported_rooms("from loci import errors\nimport loci.data.record_doom") == {
        "errors",
        "data",
    }
    assert wrong_way("nn", "world")
    assert wrong_way("memory", "geometry")
    assert not wrong_way("world", "memory")


def test_every_room_has_its_place() -> None:
    assert {room(path) for path in FILES} <= RANK.keys()


def test_files_stay_small() -> None:
    lengths = {
        str(path.relative_to(SOURCE)): len(path.read_text(encoding="utf-8").splitlines())
        for path in FILES
    }
    assert {name: n for name, n in lengths.items() if n > MAX_FILE} == {}


def test_folders_stay_small() -> None:
    counts = Counter(
        str(path.parent.relative_to(SOURCE)) for path in FILES if path.name != "__init__.py"
    )
    assert {name: n for name, n in counts.items() if n > MAX_FOLDER} == {}
