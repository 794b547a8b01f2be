"""The default settings of every training: what `loci train` does without options.

A changed default is a changed result. After a change on purpose, `python -m
tests.train.test_default_settings` writes the file anew; the change goes into CHANGELOG.md.
"""

import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from loci.train.codec import CodecTraining
from loci.train.decoder import DecoderTraining
from loci.train.slat.flow import SlatFlowTraining
from loci.train.slat.vae import SlatVAETraining
from loci.train.structure.flow import StructureTraining
from loci.train.structure.vae import StructureVAETraining
from loci.train.trainer import TrainerConfig
from loci.train.world.config import WorldTraining

SETTINGS = Path(__file__).with_name("default_settings.json")
TRAININGS: list[type[TrainerConfig]] = [
    TrainerConfig,
    CodecTraining,
    DecoderTraining,
    WorldTraining,
    StructureVAETraining,
    StructureTraining,
    SlatVAETraining,
    SlatFlowTraining,
]


def settings(value: object) -> Any:
    """As JSON has them. Without configurations of other rooms, which have tests of their own."""
    if isinstance(value, tuple):
        return [settings(item) for item in value]
    if not is_dataclass(value):
        return value.as_posix() if isinstance(value, Path) else value
    found = ((field.name, getattr(value, field.name)) for field in fields(value))
    return {
        name: settings(item)
        for name, item in found
        if not is_dataclass(item) or type(item).__module__.startswith("loci.train.")
    }


@pytest.mark.parametrize("training", TRAININGS)
def test_default_settings(training: type[TrainerConfig]) -> None:
    assert settings(training()) == json.loads(SETTINGS.read_text())[training.__name__]


if __name__ == "__main__":
    every = {training.__name__: settings(training()) for training in TRAININGS}
    SETTINGS.write_text(json.dumps(every, indent=1) + "\n")
