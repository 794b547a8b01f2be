"""Configurations of world training: the model, and stages of histories that get longer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from loci.errors import LociError
from loci.train.trainer import TrainerConfig
from loci.train.world.batches import HistorySpec, local_frames, whole_history
from loci.train.world.self_forcing import shortest_walk
from loci.world.config import WorldConfig, doom_transformer, doom_world
from loci.world.transformer import TransformerConfig


@dataclass(frozen=True)
class TrainingStage:
    """What batches hold up to a share of the budget.

    Attributes:
        until: share of the budget at which the stage ends.
        histories: kinds of history, drawn with equal chance.
        noise: largest deviation of the noise augmentation of the history.
        revisits: share of examples whose targets were seen and are out of sight.
        moves: share of examples chosen for a move.
        self_forcing: share of batches whose history the model generated itself.
        freeze_windows: level-one tokens are made once and cached, and the weights that make them
            stay as they are: a step takes half the time, and long histories cost little more than
            short ones. From one stage on, for all that follow.
    """

    until: float
    histories: tuple[HistorySpec, ...]
    noise: float = 0.2
    revisits: float = 0.6
    moves: float = 0.25
    self_forcing: float = 0.0
    freeze_windows: bool = False


def default_stages() -> tuple[TrainingStage, ...]:
    """Short histories with large turns; then merged tokens; then long histories."""
    short = tuple(
        HistorySpec((n, 0, 0), stride)
        for n, stride in ((2, 1), (4, 1), (4, 2), (6, 6), (6, 3), (0, 1))
    )
    merged = (
        HistorySpec((10, 0, 0), 1),
        HistorySpec((6, 0, 0), 3),
        HistorySpec((2, 4, 0), 1),
        HistorySpec((2, 6, 0), 4),
        HistorySpec((1, 8, 0), 2),
        HistorySpec((1, 2, 1), 2),
        HistorySpec((0, 0, 0), 1),
    )
    # The whole of a long history, as a walk will hold it; small budgets stand for longer ones.
    long = (
        HistorySpec(budget=20),
        HistorySpec(stride=3, budget=20, lengths=(256, 760)),
        HistorySpec(stride=3, budget=20, lengths=(64, 320)),
        HistorySpec(stride=4, budget=12),
        HistorySpec((6, 3, 0), 3),
        HistorySpec((2, 0, 0), 1),
    )
    return (
        TrainingStage(0.15, short, noise=0.15),
        TrainingStage(0.4, merged, noise=0.2),
        TrainingStage(
            1.0,
            long + merged[2:4],
            noise=0.3,
            revisits=0.5,
            moves=0.3,
            self_forcing=0.3,
            freeze_windows=True,
        ),
    )


def finetuning_stages() -> tuple[TrainingStage, ...]:
    """For trained weights: short histories and merged tokens together, then long histories."""
    short, merged, long = default_stages()
    mixed = short.histories[1:] + merged.histories
    return (replace(merged, until=0.4, histories=mixed), long)


@dataclass(frozen=True)
class WorldTraining(TrainerConfig):
    """How to train a world model on recordings of any environment.

    Attributes:
        codec: the trained codec, a folder or hub id; by default that of the model in `init_from`,
            or runs/codec/final.
        more_data: further recordings to train on, folders of the form of `data/train`, of the same
            frame size, length and units.
        init_from: a model whose weights to begin with: a shipped one by name, such as doom, a model
            folder or a hub id; without it, from nothing.
        model: sizes of the transformer and its memory encoder, and how memory is addressed; the
            field of view comes from the recordings.
        world: how the model is walked; size, frame rate, field of view, actions and their scale
            come from the recordings.
        stages: what batches hold, one after the other.
        train_walks: most walks to train on.
        evaluation_walks: most held-out walks to evaluate on.
        logit_mean: mean of the logit-normal noise levels; above 0 prefers noise.
        high_noise: share of the examples drawn near s = 1 (pure noise), where sampling starts.
        faded: share of the examples whose history is faded or without detail, with true targets.
        self_forcing_seconds: seconds of training between two sets of walks that the model
            continues itself.
        label_dropout: share of the examples whose actions are all "uncertain", so that a model
            learns to generate without them as well.
    """

    out: Path = Path("runs/world")
    codec: Path | None = None
    more_data: tuple[Path, ...] = ()
    init_from: Path | None = None
    model: TransformerConfig = field(default_factory=doom_transformer)
    world: WorldConfig = field(default_factory=doom_world)
    stages: tuple[TrainingStage, ...] = field(default_factory=default_stages)
    minutes: float = 290.0
    learning_rate: float = 8e-4
    warmup_steps: int = 50
    final_fraction: float = 0.02
    hold_fraction: float = 0.75
    batch_size: int = 32
    train_walks: int = 320
    evaluation_walks: int = 24
    logit_mean: float = 0.8
    high_noise: float = 0.45
    faded: float = 0.35
    self_forcing_seconds: float = 480.0
    label_dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.label_dropout < 1:
            raise LociError(f"--label-dropout: {self.label_dropout}, expected a share below 1")

    def stage(self, progress: float) -> TrainingStage:
        return next((s for s in self.stages if progress < s.until), self.stages[-1])

    def check_walks(self, length: int) -> None:
        """That walks of `length` latents are long enough for every stage.

        Raises:
            LociError: naming the stage and the lengths.
        """
        for number, stage in enumerate(self.stages, 1):
            name = f"stage {number} of {len(self.stages)}"
            for spec in stage.histories:
                if length < spec.length:
                    raise LociError(
                        f"walks of {length} frames are too short for {name}: {spec} needs at "
                        f"least {spec.length}"
                    )
                if spec.budget:
                    longest = local_frames(length, spec)[-1]
                    try:
                        whole_history(longest, spec.budget)
                    except ValueError as error:
                        raise LociError(f"walks of {length} frames, {name}: {error}") from error
            if stage.self_forcing and length < (least := shortest_walk(self.world)):
                raise LociError(
                    f"walks of {length} frames are too short for self-forcing in {name}, which "
                    f"needs at least {least}"
                )


CONFIGS = {
    "doom": WorldTraining(),
    "doom-time": WorldTraining(model=doom_transformer(False)),
    "doom-finetune": WorldTraining(
        init_from=Path("doom"),
        stages=finetuning_stages(),
        minutes=65.0,
        learning_rate=3e-4,
        hold_fraction=0.6,
    ),
    "film": WorldTraining(
        data=Path("labels"),
        out=Path("runs/film"),
        init_from=Path("doom"),
        stages=finetuning_stages(),
        minutes=25.0,
        learning_rate=3e-4,
        warmup_steps=20,
        hold_fraction=0.5,
        evaluate_seconds=3600.0,
    ),
}
