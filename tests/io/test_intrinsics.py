"""Camera intrinsics in every form, and what is none of a camera."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from loci.errors import LociError
from loci.io.intrinsics import Intrinsics, read_intrinsics

MATRIX = np.array([[50.0, 0, 30], [0, 50, 12], [0, 0, 1]])
EXPECTED = Intrinsics(math.degrees(2 * math.atan(40 / 50)), (30 / 80, 12 / 40))


def files(folder: Path) -> list[Path]:
    np.save(folder / "k.npy", MATRIX)
    np.savetxt(folder / "k.txt", MATRIX)
    (folder / "four.txt").write_text("50, 50, 30, 12\n")
    (folder / "k.json").write_text(json.dumps(MATRIX.tolist()))
    (folder / "named.json").write_text(json.dumps({"camera_matrix": MATRIX.tolist()}))
    return sorted(folder.iterdir())


def test_all_forms_mean_the_same(tmp_path: Path) -> None:
    forms = [(50, 50, 30, 12), [50.0, 50.0, 30.0, 12.0], MATRIX, torch.from_numpy(MATRIX)]
    for form in [*forms, MATRIX.tolist(), *files(tmp_path), str(tmp_path / "k.npy"), EXPECTED]:
        found = read_intrinsics(form, 40, 80)
        assert found.fov == pytest.approx(EXPECTED.fov), form
        assert found.principal == pytest.approx(EXPECTED.principal), form


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ((50, 50, 30), "shape [3], expected FX FY CX CY or a 3x3"),
        ((50, 60, 30, 12), "focal lengths 50 and 60, expected square pixels"),
        ((-50, -50, 30, 12), "expected more than 0"),
        ((50, 50, 3000, 12), "principal point 3000 12, expected pixels of the picture of 80 x 40"),
        ((0.8, 0.8, 0.5, 0.5), "focal length 0.8, expected pixels of the picture"),
        ((math.nan, 50, 30, 12), "not finite"),
        (np.ones((3, 3)), "3x3 but no camera matrix"),
        (MATRIX + [[0, 9, 0], [0, 0, 0], [0, 0, 0]], "skew 9, expected none"),
        ("50 50 30 12", "50 50 30 12: cannot be read"),
        ({"K": 1}, "dict, expected FX FY CX CY"),
        (["a", "b"], "no numbers"),
        (50.0, "float, expected FX FY CX CY"),
    ],
)
def test_what_is_none_is_named(source: Any, message: str) -> None:
    with pytest.raises(LociError) as caught:
        read_intrinsics(source, 40, 80)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 200


def test_files_that_hold_none_are_named(tmp_path: Path) -> None:
    contents = {"a.npy": b"\x93NUMPY", "a.txt": b"\xff\xfe\x00", "b.txt": b"none", "c.json": b"{}"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(LociError, match=f"{name}: .*expected"):
            read_intrinsics(tmp_path / name, 40, 80)
