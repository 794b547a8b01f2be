"""`Lifter`: pixels and masks in, objects with Gaussians, meshes and poses out.

Data flow: `inputs/observation.py` reads the picture and makes a request for each object,
`pipeline.py` runs the requests through the networks in `models/` (sampled by `sampling.py`, under a
preset) and decides on voxels and poses in `placement/`, and `asset.py` and
`scene.py` hold and export the result.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool

from loci.acceleration.calibration import CALIBRATION_NAME, ModelCalibration
from loci.acceleration.presets import Preset
from loci.acceleration.stats import Stats
from loci.errors import LociError, check_seed
from loci.io.config_files import load_config, save_config
from loci.io.files import replacing_folder
from loci.io.models import pretrained_folder, shipped_folder
from loci.nn.device import automatic_dtype, available_device
from loci.nn.placement import WeightPlacement
from loci.objects.asset import Asset
from loci.objects.config import LIFTER_NAME, LifterConfig
from loci.objects.inputs.cleaning import overlaps
from loci.objects.inputs.masks import check_not_picture
from loci.objects.inputs.observation import Mask, ObservedPicture, Picture, Pointmap, mask_names
from loci.objects.inputs.pointmap import PointmapFrame
from loci.objects.parts import (
    ALL_DECODERS,
    FORMER_PARTS,
    PARTS,
    PartLoader,
    Parts,
    SavedParts,
    save_parts,
)
from loci.objects.pipeline import LiftPipeline, Progress
from loci.objects.published_files import Sam3dCheckpoint
from loci.objects.sampling import PresetSampler
from loci.objects.scene import Scene

SAVED = {*PARTS, *ALL_DECODERS, *FORMER_PARTS.values(), LIFTER_NAME, CALIBRATION_NAME}
"""What `save_pretrained` writes, and may replace."""


class Lifter:
    """A model that lifts objects out of pictures.

    Parts are loaded when their stage begins and freed when it has ended, so that memory holds one
    at a time; with `keep` they stay for the next run. A run leaves no state behind.

    Args:
        config: how the parts are run.
        parts: where they come from.
        device: where to compute.
        dtype: to compute in; float32 or bfloat16.
        keep: keep parts in memory between runs.
        calibration: of the model, for presets with a tolerance.
        weights: where the blocks of the flows are: resident, streamed from disk, or int8.

    Raises:
        LociError: for a device that this machine does not have, or another dtype.
    """

    def __init__(
        self,
        config: LifterConfig,
        parts: Parts,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        keep: bool = False,
        calibration: ModelCalibration | None = None,
        weights: WeightPlacement = "resident",
    ) -> None:
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise LociError(f"dtype: {dtype!r}, expected torch.float32 or torch.bfloat16")
        self.config, self.calibration = config, calibration or ModelCalibration()
        self.loader = PartLoader(parts, available_device(device), dtype, keep, weights)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path = "home",
        device: str | torch.device = "cpu",
        dtype: torch.dtype | Literal["auto"] = torch.float32,
        keep: bool = False,
        weights: WeightPlacement = "resident",
    ) -> Lifter:
        """Load a model.

        Args:
            source: the name of a shipped model, a folder written by `save_pretrained`, the hub id
                of one, or the folder of the published SAM 3D Objects checkpoints.
            device: where to compute.
            dtype: to compute in. "auto" is bfloat16 for large models on CUDA devices that compute
                in it natively, and float32 otherwise.
            keep: keep parts in memory between runs.
            weights: where the blocks of the flows are: "resident" in memory, "streamed" from disk
                with the same results, or "int8", with slightly other ones.

        Raises:
            LociError: when there is no such model or a part is missing. The tensors of a part are
                checked when it is loaded.
        """
        if not isinstance(source, str | Path):
            raise LociError(f"model: {source!r}, expected a name, a folder or a hub id")
        folder = shipped_folder(source, LIFTER_NAME) or pretrained_folder(source)
        device = available_device(device)
        if dtype == "auto":
            dtype = automatic_dtype(folder, device)
        calibration = ModelCalibration.load_from(folder)
        is_saved = (folder / LIFTER_NAME).is_file()
        if not is_saved and (published := Sam3dCheckpoint.find(folder)) is not None:
            return cls(LifterConfig(), published, device, dtype, keep, calibration, weights)
        config = load_config(folder / LIFTER_NAME, LifterConfig)
        if not config.decoders or not set(config.decoders) <= set(ALL_DECODERS):
            known = " or ".join(ALL_DECODERS)
            raise LociError(f"{folder / LIFTER_NAME}: decoders, expected {known}")
        parts = SavedParts(folder)
        parts.check(config.parts)
        return cls(config, parts, device, dtype, keep, calibration, weights)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write a folder that `from_pretrained` reads, whole or not at all.

        Args:
            folder: new, empty, or written by this function before.
            dtype: to write floating-point weights in; their own by default.

        Raises:
            LociError: when the folder holds anything else, or cannot be written.
        """
        with replacing_folder(folder, SAVED.__contains__) as draft:
            save_parts(draft, self.loader.parts, self.config.parts, dtype)
            save_config(draft / LIFTER_NAME, self.config)
            self.calibration.write(draft)

    def __call__(
        self,
        picture: Picture,
        mask: Mask | None = None,
        pointmap: Pointmap | None = None,
        seed: int = 0,
        **options: Any,
    ) -> Asset:
        """Lift one object.

        Args:
            picture: a file, a Pillow image, RGB pixels uint8 `[h, w, 3]`, or a tensor of bytes or
                of floats in [0, 1], `[h, w, 3]` or `[3, h, w]`.
            mask: True on the object: a file, a Pillow image, an array or tensor `[h, w]` or
                `[1, h, w]` of booleans, bytes (0..255, or 0 and 1), floats in [0, 1] or logits
                (positive inside), or a COCO mask (run lengths or an annotation). None takes what
                is opaque in a picture with transparency.
            pointmap: the 3-D point of each pixel, if known: a `.npy` or `.npz` file, an array or
                a tensor of points `[h', w', 3]` (x left, y up, z forward; NaN is unknown; any
                unit) or of depths `[h', w']`. Without one the object is put at distance 1.
            seed: of the noise.
            options: as of `scene` and `lift`.

        Raises:
            LociError: naming the argument at fault, or when the object has no voxels.
        """
        return self.scene(picture, [mask], pointmap, seed, **options).objects[0]

    def scene(
        self,
        picture: Picture,
        masks: Sequence[Mask | None],
        pointmap: Pointmap | None = None,
        seed: int = 0,
        *,
        pointmap_frame: PointmapFrame = "pytorch3d",
        fov: float | None = None,
        intrinsics: Any = None,
        **options: Any,
    ) -> Scene:
        """Lift several objects of one picture, each as it would be lifted alone.

        Args:
            picture: as of `__call__`, like `pointmap` and `seed`.
            masks: a list with one for each object.
            pointmap_frame: axes of the pointmap's points.
            fov: horizontal field of view in degrees, for depths and without a pointmap; 50 by
                default.
            intrinsics: in place of `fov`, also for cropped pictures: FX, FY, CX, CY or a 3x3
                camera matrix in pixels of the picture, or a file of either
                (`loci.io.intrinsics.read_intrinsics`). Without them the principal point is fitted
                to the pointmap, or the picture's centre.
            options: as of `lift`.

        Raises:
            LociError: as `__call__`.
        """
        check_seed(seed)
        known = inspect.signature(self.lift).parameters
        if unknown := options.keys() - known.keys():
            expected = ", ".join([*known][4:])
            raise LociError(f"{min(unknown)}: no such option, expected one of {expected}")
        if isinstance(masks, str | Path | Mapping) or not isinstance(masks, Iterable):
            raise LociError(f"masks: {type(masks).__name__}, expected a list, one for each object")
        observed = ObservedPicture.read(picture, pointmap, pointmap_frame, fov, intrinsics)
        masks = list(masks)
        names = mask_names(masks)
        # All masks are checked before the work on any object begins.
        checked = []
        for mask, name in zip(masks, names, strict=True):
            check_not_picture(mask, picture, name)
            checked.append(observed.mask(mask, name))
        for note in overlaps(checked, names):
            warnings.warn(note, stacklevel=2)
        return self.lift(observed, checked, names, seed, **options)

    def lift(
        self,
        picture: ObservedPicture,
        masks: Sequence[Bool[np.ndarray, "h w"]],
        names: Sequence[str],
        seed: int = 0,
        *,
        decoders: Sequence[str] | None = None,
        guesses: int | None = None,
        speed: str | Preset | None = None,
        stats: Stats | None = None,
        verify: bool = False,
        photo: bool = True,
        open_mesh: bool = False,
        progress: Callable[[Progress], None] | None = None,
    ) -> Scene:
        """Lift objects out of a picture that has been read.

        Args:
            picture: with its geometry.
            masks: one for each object, from `picture.mask`.
            names: what errors call the objects.
            seed: of the noise.
            decoders: those to run; the model's default ones if None. `gaussian_decoder_4`, where
                the model has it, replaces `gaussian_decoder`.
            guesses: shapes to sample per object, of which the one that fits mask and depths best
                is decoded; the model's default if None.
            speed: a preset or its name: "exact" (default), "fast" or "faster"
                (docs/acceleration.md).
            stats: to write evaluations, savings and seconds to.
            verify: run both flows a second time, exactly, and write the error to `stats`.
            photo: paint the objects in the picture's colours where its camera saw them
                (`Asset.painted`); False keeps the generated colours.
            open_mesh: keep the decoder's surface as it is instead of closing it.
            progress: called before every step of every stage.

        Raises:
            LociError: when an object has no voxels, the weights of a part do not fit, or an
                argument is out of range.
        """
        if not masks:
            raise LociError("masks: none, expected one for each object")
        check_seed(seed)
        config = self._configured(decoders, guesses)
        sampler = PresetSampler(speed, stats, verify, self.calibration)
        requests = [
            picture.request(mask, name, seed, config.input_size)
            for mask, name in zip(masks, names, strict=True)
        ]
        pipeline = LiftPipeline(config, self.loader, requests, sampler, progress)
        results = pipeline.run()
        if not results:
            raise LociError("the model made no object, expected one for each mask")
        assets = []
        for result, mask, name in zip(results, masks, names, strict=True):
            asset = replace(Asset.from_result(picture, result), costs=tuple(pipeline.costs))
            if not open_mesh:
                asset = asset.closed()
            if photo:
                pixels = torch.from_numpy(picture.pixels.copy())
                asset = asset.painted(pixels, torch.from_numpy(mask), name)
            assets.append(asset)
        return Scene(tuple(assets))

    def _configured(self, decoders: Sequence[str] | None, guesses: int | None) -> LifterConfig:
        config = self.config
        if guesses is not None:
            if not isinstance(guesses, int) or guesses < 1:
                raise LociError(f"guesses: {guesses}, expected at least 1")
            config = replace(config, guesses=guesses)
        if decoders is None:
            return config
        if isinstance(decoders, str):
            decoders = (decoders,)
        known = [n for n in ALL_DECODERS if n in config.decoders or self.loader.parts.has(n)]
        unknown = [name for name in decoders if name not in known]
        if unknown or not decoders:
            asked = ", ".join(unknown) or "none"
            raise LociError(f"decoders: {asked}, expected {' or '.join(known)}")
        try:
            return replace(config, decoders=tuple(dict.fromkeys(decoders)))
        except ValueError as error:
            raise LociError(str(error)) from error
