"""Rendering, voxelising and sampling meshes into a data set of objects: `loci data objects`."""

import json
import os
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from loci.data.objects.cameras import ViewConfig, random_camera, random_lights
from loci.data.objects.cleaning import UnusableObject, check_name, normalized
from loci.data.objects.dataset import SUFFIX, SURFACE, write_object
from loci.data.objects.render import ObjectRenderer
from loci.data.objects.simple_shapes import simple as simple_source
from loci.data.objects.simple_shapes import turned as turned_source
from loci.data.objects.sources import MeshSource, find_sources
from loci.data.objects.splits import Split, held_out, split_of
from loci.data.objects.surface import (
    GRID,
    need_scipy,
    occupied,
    pack,
    signed_distance,
    uniform_samples,
    visible_surface,
)
from loci.data.objects.synthetic import composed as composed_source
from loci.data.objects.synthetic import stretched as stretched_source
from loci.errors import LociError, check_seed
from loci.io.files import replacing

VERSION = 1
MAX_SYNTHETIC = 9999
META = "meta.json"
DROPPED = "dropped.json"
MORE = "more"
SIMPLE = "simple"
TESTS = ("test", "aside", "packs", SIMPLE)  # what benchmarks measure on
SPLITS = ("train", MORE, *TESTS)


@dataclass(frozen=True)
class ObjectsConfig:
    """How objects are rendered, and how many synthetic ones are added.

    Attributes:
        views: pictures of every object.
        size: side of the pictures, in pixels.
        seed: seed of cameras and lights.
        cameras: the range of random views.
        stretched: copies of each training object in other proportions.
        composed: objects of random solids.
        turned: vessels, rings, pipes and other turned shapes (see `simple_shapes`).
        simple: boxes, tori, mugs and cylinders to test with.
        test_views: pictures of every object to test with; as of the others if None.
        distances: whether objects to train on have signed distances, which only stage 2 needs and
            which take half of the time.
    """

    views: int = 16
    size: int = 192
    seed: int = 1
    cameras: ViewConfig = ViewConfig()
    stretched: int = 0
    composed: int = 0
    turned: int = 0
    simple: int = 0
    test_views: int | None = None
    distances: bool = True

    def of_split(self, split: str) -> "ObjectsConfig":
        """Objects to test with have all arrays and their own number of views."""
        if split not in TESTS:
            return self
        return replace(self, views=self.test_views or self.views, distances=True)


@dataclass(frozen=True)
class GenerationReport:
    """What a call of `generate` did.

    Attributes:
        made: objects that are new.
        total: objects now in the data set.
        dropped: objects left out, by name, and why.
        seconds: of this call.
    """

    made: int
    total: int
    dropped: dict[str, str]
    seconds: float


def objects(
    source: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[SOURCE]")] = None,
    *,
    out: Path,
    views: int = 16,
    size: int = 192,
    seed: int = 1,
    limit: int | None = None,
    stretched: int = 0,
    composed: int = 0,
    turned: int = 0,
    simple: int = 0,
    test_views: int | None = None,
    distances: bool = True,
    workers: int = os.cpu_count() or 1,
) -> None:
    """Render, voxelise and sample objects from meshes (.sh3f, .obj, .glb, .gltf).

    Running the command again resumes it. Held-out objects go to the folder "test", near-duplicates
    of them to "aside", whole held-out packs to "packs", stretched, composed and turned objects to
    "more", simple shapes to "simple", all others to "train".

    Args:
        source: a file or a folder of files; none for composed, turned and simple objects only.
        out: folder for the objects.
        views: pictures of every object.
        size: side of the pictures, in pixels.
        seed: seed of cameras and lights.
        limit: use only this many objects, spread evenly over the source.
        stretched: copies of each training object in other proportions.
        composed: objects of random solids.
        turned: vessels, rings, pipes and other turned shapes.
        simple: boxes, tori, mugs and cylinders to test with.
        test_views: pictures of every object to test with; as of the others by default.
        distances: whether objects to train on have signed distances, which only stage 2 needs.
        workers: number of processes.
    """
    config = ObjectsConfig(
        views,
        size,
        seed,
        stretched=stretched,
        composed=composed,
        turned=turned,
        simple=simple,
        test_views=test_views,
        distances=distances,
    )
    done = generate(source, out, config, limit, workers)
    reasons = Counter(reason.split(",")[0] for reason in done.dropped.values())
    left = "".join(f"\n  left out {count}: {reason}" for reason, count in reasons.most_common())
    print(f"{out}: {done.total} objects ({done.made} new, {done.seconds:.0f} s){left}")


def generate(
    source: Path | None,
    out: Path,
    config: ObjectsConfig | None = None,
    limit: int | None = None,
    workers: int = 1,
) -> GenerationReport:
    """Makes the objects that a data set lacks.

    Raises:
        LociError: for numbers out of range, no meshes, a missing package, no OpenGL, or when `out`
            cannot be written or holds other data.
    """
    config = config or ObjectsConfig()
    for name, value, most in (
        ("views", config.views, 4096),
        ("test_views", config.test_views or 1, 4096),
        ("size", config.size, 2048),
        ("workers", workers, 1024),
        ("limit", 1 if limit is None else limit, 1_000_000),
    ):
        if not 1 <= value <= most:
            raise LociError(f"{name} {value}, expected 1 to {most}")
    for name in ("stretched", "composed", "turned", "simple"):
        value = getattr(config, name)
        if not 0 <= value <= MAX_SYNTHETIC:
            raise LociError(f"{name} {value}, expected 0 to {MAX_SYNTHETIC}")
    check_seed(config.seed, "--seed")
    need_scipy()
    began = time.perf_counter()
    if source is None and not (config.composed or config.turned or config.simple):
        raise LociError("SOURCE: none, expected meshes, or --composed, --turned or --simple")
    sources = [] if source is None else list(_spread(find_sources(source), limit))
    _begin(out, config)
    dropped = _read_json(out / DROPPED) if (out / DROPPED).exists() else {}
    splits = held_out()
    jobs = []
    for split, item in _planned(sources, splits, config):
        path = out / split / (item.name + SUFFIX)
        _move_from_other_split(path)
        if not path.exists() and item.name not in dropped:
            jobs.append((item, path, config.of_split(split)))
    # Shuffled, so that an unfinished data set is a fair sample.
    jobs.sort(key=lambda job: zlib.crc32(job[0].name.encode()))
    made = 0
    for name, reason in _run(jobs, workers):
        made += reason is None
        if reason is not None:
            dropped[name] = reason
            _write_json(out / DROPPED, dropped)
    total = sum(1 for split in SPLITS for _ in (out / split).glob("[!.]*" + SUFFIX))
    return GenerationReport(made, total, dropped, time.perf_counter() - began)


def make_object(
    renderer: ObjectRenderer, source: MeshSource, config: ObjectsConfig
) -> dict[str, np.ndarray]:
    """The arrays of one object (see `dataset`); deterministic.

    Raises:
        UnusableObject: when its file is damaged or has no usable surface.
    """
    check_name(source.title, source.opening)
    try:
        submeshes = source.read()
    except LociError as error:
        raise UnusableObject(f"damaged, {error}") from error
    renderer.load(normalized(submeshes))
    rng = np.random.default_rng([config.seed, zlib.crc32(source.name.encode())])
    visible, areas, views = visible_surface(renderer)
    surface = uniform_samples(visible, areas, SURFACE, rng)
    arrays = _views(renderer, surface.points[: SURFACE // 8], source.size, config, rng)
    arrays |= {"surface": surface.table(), "occupancy": pack(occupied(visible.points, GRID))}
    return arrays | ({"sdf": signed_distance(visible, views)} if config.distances else {})


def _views(
    renderer: ObjectRenderer,
    points: np.ndarray,
    size: float | None,
    config: ObjectsConfig,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    rows = []
    for _ in range(config.views):
        camera = random_camera(rng, points, size, config.cameras)
        buffers = renderer.draw(camera, config.size, random_lights(rng))
        row = {"rgba": buffers.lit, "even": buffers.even[..., :3], "depth": buffers.depth}
        row |= {"fov": camera.fov, "rotation": camera.rotation}
        rows.append(row | {"translation": camera.translation, "scale": camera.scale})
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _run(jobs: list, workers: int) -> Iterator[tuple[str, str | None]]:
    """Makes objects; yields each name and, when it was left out, the reason."""
    if workers == 1 or len(jobs) < 2:
        yield from _work(jobs)
        return
    # Spawned: OpenGL contexts do not survive a fork.
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        try:
            chunks = [jobs[start : start + 2] for start in range(0, len(jobs), 2)]
            for results in pool.map(_work_chunk, chunks):
                yield from results
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _work_chunk(jobs: list) -> list[tuple[str, str | None]]:
    return list(_work(jobs))


def _work(jobs: Iterable) -> Iterator[tuple[str, str | None]]:
    with ObjectRenderer() as renderer:
        for source, path, config in jobs:
            try:
                write_object(path, make_object(renderer, source, config), source.header())
            except UnusableObject as reason:
                yield source.name, str(reason)
            else:
                yield source.name, None


def _planned(
    sources: Sequence[MeshSource], splits: Mapping[str, Split], config: ObjectsConfig
) -> Iterator[tuple[str, MeshSource]]:
    """Every source and synthetic object, with its folder."""
    for item in sources:
        split = split_of(item.name, splits)
        yield split, item
        if split == "train":
            for number in range(1, config.stretched + 1):
                yield MORE, stretched_source(item, number, config.seed)
    for number in range(1, config.composed + 1):
        yield MORE, composed_source(number, config.seed)
    for number in range(1, config.turned + 1):
        yield MORE, turned_source(number, config.seed)
    for number in range(1, config.simple + 1):
        yield SIMPLE, simple_source(number, config.seed)


def _spread(sources: list[MeshSource], limit: int | None) -> Iterable[MeshSource]:
    """`limit` sources spread over the list, without those that their names rule out."""
    if limit is None:
        return sources
    usable = []
    for source in sources:
        try:
            check_name(source.title, source.opening)
            usable.append(source)
        except UnusableObject:
            continue
    places = np.linspace(0, len(usable) - 1, min(limit, len(usable))).round().astype(int)
    return [usable[place] for place in places]


def _begin(out: Path, config: ObjectsConfig) -> None:
    described = {
        "version": VERSION,
        "views": config.views,
        "size": config.size,
        "seed": config.seed,
        "grid": GRID,
        "surface": SURFACE,
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for split in SPLITS:
            for draft in (out / split).glob(".*.part"):  # of a run that was killed
                draft.unlink(missing_ok=True)
    except OSError as error:
        raise LociError(f"{out}: cannot be written ({error.strerror})") from error
    if (out / META).exists():
        held = _read_json(out / META)
        for name, value in described.items():
            if held.get(name) != value:
                text = f"{name} {held.get(name)}, expected {value} to go on with it"
                raise LociError(f"{out}: holds other data: {text}")
        return
    _write_json(out / META, described)


def _move_from_other_split(path: Path) -> None:
    """Moves an object to its folder when the list of held-out objects has changed."""
    for split in SPLITS:
        other = path.parent.parent / split / path.name
        if other != path and other.exists():
            path.parent.mkdir(exist_ok=True)
            os.replace(other, path)


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise LociError(f"{path}: damaged, expected what loci data objects wrote")
    return content


def _write_json(path: Path, content: dict) -> None:
    with replacing(path) as draft:
        draft.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
