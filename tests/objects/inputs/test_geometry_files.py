"""Depths and points of EXR files, as renderers and scanners write them."""

import sys
from pathlib import Path

import numpy as np
import pytest

from loci.errors import LociError
from loci.objects.inputs.geometry_files import read_geometry

DEPTHS = np.linspace(1, 3, 12, dtype=np.float32).reshape(3, 4)
POINTS = np.stack([DEPTHS, -DEPTHS, DEPTHS + 1], axis=2)


def written(path: Path, **channels: np.ndarray) -> Path:
    exr = pytest.importorskip("OpenEXR")
    header = {"compression": exr.ZIP_COMPRESSION, "type": exr.scanlineimage}
    with exr.File(header, {name.replace("_", "."): x for name, x in channels.items()}) as file:
        file.write(str(path))
    return path


def test_depths_are_found_by_their_name(tmp_path: Path) -> None:
    far = DEPTHS.copy()
    far[0, 0], far[0, 1] = 1e10, np.inf
    alone = np.stack([DEPTHS] * 3, axis=2)
    for path in (
        written(tmp_path / "z.exr", Z=DEPTHS),
        written(tmp_path / "v.exr", V=DEPTHS),
        written(tmp_path / "layers.exr", Layer_Depth_Z=DEPTHS, Layer_Combined_R=-DEPTHS),
        written(tmp_path / "grey.exr", RGB=alone),
        written(tmp_path / "rgbz.exr", RGB=POINTS, Z=DEPTHS),
    ):
        assert np.array_equal(read_geometry(path), DEPTHS), path.name
    found = read_geometry(written(tmp_path / "far.exr", Z=far))
    assert np.isnan(found).sum() == 2
    assert np.array_equal(found[1:], DEPTHS[1:])


def test_points_are_three_channels(tmp_path: Path) -> None:
    x, y, z = np.moveaxis(POINTS, 2, 0)
    for path in (
        written(tmp_path / "xyz.exr", X=x.copy(), Y=y.copy(), Z=z.copy()),
        written(tmp_path / "rgb.exr", RGB=POINTS),
    ):
        assert np.array_equal(read_geometry(path), POINTS), path.name


def test_what_is_no_geometry_is_named(tmp_path: Path) -> None:
    with pytest.raises(LociError, match="a.exr: channels A, B, expected Z, or X, Y and Z"):
        read_geometry(written(tmp_path / "a.exr", A=DEPTHS, B=DEPTHS))
    (tmp_path / "text.exr").write_text("no picture")
    with pytest.raises(LociError, match="text.exr: cannot be read as EXR, expected points"):
        read_geometry(tmp_path / "text.exr")


def test_without_the_package_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(LociError, match="d.exr: EXR is read with the package OpenEXR: pip install"):
        read_geometry(tmp_path / "d.exr")
