"""Lift objects out of a picture: pixels and masks in, splats, meshes and poses out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool

from loci.caching.calibration import ModelCalibration
from loci.caching.presets import Preset
from loci.caching.stats import Stats
from loci.errors import LociError
from loci.io.config import load_config, save_config
from loci.io.models import pretrained_folder
from loci.objects.asset import Asset, Scene
from loci.objects.inputs.observation import Mask, ObservedPicture, Picture, Pointmap, mask_names
from loci.objects.inputs.pointmap import Frame
from loci.objects.parts import ALL_DECODERS, Parts, SavedParts, save_parts
from loci.objects.pipeline import LIFTER_NAME, LifterConfig, LiftPipeline, PartLoader, Progress
from loci.objects.released import ReleasedParts
from loci.objects.sampling import SamplerRunner

SHIPPED = Path(__file__).parents[1] / "shipped"


def shipped_folder(source: str | Path) -> Path | None:
    """Where the shipped model of a name is; None if there is none of that name."""
    folder = SHIPPED / source
    named = Path(source).name == str(source)
    return folder if named and (folder / LIFTER_NAME).is_file() else None


class Lifter:
    """A model that lifts objects out of pictures.

    Nothing is loaded before the first run. Its parts come in when their stage begins and go when
    it has ended, so that memory holds one of them at a time; with `keep` they stay for the next
    run. One instance may be used again and again: a run leaves nothing behind in it. `laws` say
    what a tolerance means for this model.
    """

    def __init__(
        self,
        config: LifterConfig,
        parts: Parts,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        keep: bool = False,
        laws: ModelCalibration | None = None,
    ) -> None:
        self.config, self.laws = config, laws or ModelCalibration()
        self.stages = PartLoader(parts, torch.device(device), dtype, keep)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path = "home",
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        keep: bool = False,
    ) -> Lifter:
        """A shipped model by name, a folder written by `save_pretrained`, a hub id of such a
        folder, or the folder of the published SAM 3D Objects checkpoints.

        Args:
            source: which model.
            device: where to compute.
            dtype: to compute in: float32, or bfloat16 where the device is made for it.
            keep: keep parts in memory between runs.

        Raises:
            LociError: when there is no such model, or one of its parts is not there. That a part's
                tensors fit is checked when it is loaded.
        """
        folder = shipped_folder(source)
        if folder is None:
            folder = pretrained_folder(source)
            if (released := ReleasedParts.find(folder)) is not None:
                return cls(
                    LifterConfig(), released, device, dtype, keep, ModelCalibration.beside(folder)
                )
        config = load_config(folder / LIFTER_NAME, LifterConfig)
        unknown = set(config.decoders) - set(ALL_DECODERS)
        if unknown or not config.decoders:
            known = " or ".join(ALL_DECODERS)
            raise LociError(f"{folder / LIFTER_NAME}: decoders, expected {known}")
        parts = SavedParts(folder)
        parts.check(config.parts)
        return cls(config, parts, device, dtype, keep, ModelCalibration.beside(folder))

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write a folder that `from_pretrained` reads; floating weights as `dtype` if given."""
        save_parts(Path(folder), self.stages.parts, self.config.parts, dtype)
        save_config(Path(folder) / LIFTER_NAME, self.config)
        self.laws.write(Path(folder))

    def __call__(
        self,
        image: Picture,
        mask: Mask,
        pointmap: Pointmap | None = None,
        seed: int = 0,
        **options: Any,
    ) -> Asset:
        """Lift one object; `options` as for `scene` and `lift`.

        Args:
            image: a file, a Pillow image, or RGB pixels uint8 `[h, w, 3]`.
            mask: True on the object: a file, a Pillow image, or an array `[h, w]` of booleans,
                bytes (0..255, or 0 and 1) or floats in [0, 1].
            pointmap: where each pixel's surface lies, if known: a `.npy` file or an array of
                points `[h', w', 3]` (x left, y up, z forward; NaN is unknown; any unit), or of
                depths `[h', w']`. Without one the object's distance is taken as 1.
            seed: of the noise.

        Raises:
            LociError: naming what is wrong with an input, or that nothing was found.
        """
        return self.scene(image, [mask], pointmap, seed, **options).objects[0]

    def scene(
        self,
        image: Picture,
        masks: Sequence[Mask],
        pointmap: Pointmap | None = None,
        seed: int = 0,
        *,
        frame: Frame = "pytorch3d",
        fov: float | None = None,
        **options: Any,
    ) -> Scene:
        """Lift several objects of one picture; each as it would be lifted alone.

        Args:
            image: as for a single object, like `pointmap` and `seed`.
            masks: one for each object.
            frame: of the pointmap's points.
            fov: horizontal field of view in degrees, for depths and where there is no pointmap;
                50 is assumed.
            options: as for `lift`.

        Raises:
            LociError: as for a single object.
        """
        view = ObservedPicture.read(image, pointmap, frame, fov)
        names = mask_names(list(masks))
        # Every mask is read and checked before the long work on any begins.
        inside = [view.mask(mask, name) for mask, name in zip(masks, names, strict=True)]
        return self.lift(view, inside, names, seed, **options)

    def lift(
        self,
        view: ObservedPicture,
        masks: Sequence[Bool[np.ndarray, "h w"]],
        names: Sequence[str],
        seed: int = 0,
        *,
        decoders: Sequence[str] | None = None,
        guesses: int | None = None,
        speed: str | Preset | None = None,
        ledger: Stats | None = None,
        verify: bool = False,
        progress: Callable[[Progress], None] | None = None,
    ) -> Scene:
        """Lift objects out of a picture that was read before.

        Args:
            view: the picture and its geometry.
            masks: checked by `view.mask`.
            names: what errors call the objects.
            seed: of the noise.
            decoders: which of the model's decoders to run: its own by default. Where it has a
                gaussian_decoder_4, that may stand in the place of gaussian_decoder.
            guesses: of so many shapes the one that covers mask and depths best is gone on with;
                as the model's configuration says by default.
            speed: what may be spared, or its name: "exact" (the same to the last bit as none),
                "fast", "faster", or one of your own (docs/acceleration.md).
            ledger: written with what is done and spared.
            verify: run both flows once more, exactly, and write the error into the ledger.
            progress: called before every step of every stage.

        Raises:
            LociError: when nothing was found, a part does not fit, there is no such speed or
                decoder, or there is not one guess.
        """
        if not masks:
            raise LociError("masks: none, expected one for each object")
        subjects = [
            view.subject(mask, name, seed, self.config)
            for mask, name in zip(masks, names, strict=True)
        ]
        pace = SamplerRunner(speed, ledger, verify, self.laws)
        run = LiftPipeline(
            self._configured(decoders, guesses), self.stages, subjects, pace, progress
        )
        found = run.run()
        return Scene(tuple(replace(view.asset(one), costs=tuple(run.costs)) for one in found))

    def _configured(self, decoders: Sequence[str] | None, guesses: int | None) -> LifterConfig:
        config = self.config
        if guesses is not None:
            if guesses < 1:
                raise LociError(f"guesses: {guesses}, expected at least 1")
            config = replace(config, guesses=guesses)
        if decoders is None:
            return config
        there = [n for n in ALL_DECODERS if n in config.decoders or self.stages.parts.has(n)]
        absent = [name for name in decoders if name not in there]
        if absent or not decoders:
            known = " or ".join(there)
            raise LociError(f"decoders: {', '.join(absent) or 'none'}, expected {known}")
        try:
            return replace(config, decoders=tuple(dict.fromkeys(decoders)))
        except ValueError as error:
            raise LociError(str(error)) from error
