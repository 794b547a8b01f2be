"""The command `loci`. Only the module of the chosen command is imported, so --help is quick."""

import io
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import tyro

from loci.app.flags import plain_dataclasses, plain_function
from loci.app.interruption import signals_as_ctrl_c
from loci.errors import LociError


@dataclass(frozen=True)
class Command:
    """A function that tyro can call, as `module:name`, and its line in the overview.

    With `configs`, a dictionary of named configurations as `module:name`, the function takes one of
    them, of which every field is a flag. `former_flags` are taken as their new names.
    """

    target: str
    summary: str
    configs: str | None = None
    former_flags: Mapping[str, str] = field(default_factory=dict)

    def load(self) -> Callable[..., object]:
        return _imported(self.target)

    def current(self, argv: Sequence[str]) -> list[str]:
        """Arguments with the former names of flags replaced."""
        former = {**(FORMER_FLAGS if self.configs else {}), **self.former_flags}
        return [_current_flag(argument, former) for argument in argv]

    def configure(self, prog: str, argv: Sequence[str]) -> Any:
        """The configuration that `argv` begins with, or the first, changed by the flags in it.

        `--help` shows the flags of the training itself, `--help-all` those of its parts as well.
        """
        assert self.configs is not None
        configs = _imported(self.configs)
        args = self.current(argv)
        if not (args and args[0] in configs):
            args = [next(iter(configs)), *args]
        about = f"{self.summary} Configurations: {', '.join(configs)}."
        listed = {name: (about, config) for name, config in configs.items()}
        shortened = {"-h", "--help"} & set(args)
        args = ["--help" if argument == "--help-all" else argument for argument in args]
        if not shortened:
            return tyro.extras.overridable_config_cli(
                listed, registry=plain_dataclasses(), prog=prog, args=args
            )
        text = io.StringIO()
        try:
            with redirect_stdout(text):
                return tyro.extras.overridable_config_cli(
                    listed, registry=plain_dataclasses(), prog=prog, args=args
                )
        finally:
            print(_first_flags(text.getvalue(), prog))

    def stand_in(self) -> Callable[[], None]:
        """Shows the summary where the command is listed but not called."""

        def listed() -> None: ...

        listed.__doc__ = self.summary
        return listed


FORMER_COMMANDS = {"bench released": "bench published"}
"""Commands by their former names, which are still taken."""
FORMER_FLAGS = {
    "--start": "--init-from",
    "--hold": "--hold-fraction",
    "--floor": "--final-fraction",
    "--sampling.guidance": "--sampling.guidance-strength",
    "--world.sampling.guidance": "--world.sampling.guidance-scale",
}
"""Flags of trainings by their former names, which are still taken."""
PARTS = re.compile(r"^.*?([\w.-]+) options .*$", re.MULTILINE)
"""The head of the flags of one part in a help text."""


def _current_flag(argument: str, former: Mapping[str, str]) -> str:
    flag, equals, value = argument.partition("=")
    return former.get(flag, flag) + equals + value


def _first_flags(text: str, prog: str) -> str:
    """A help text up to the flags of parts, which are named."""
    heads = list(PARTS.finditer(text))
    if not heads:
        return text.rstrip()
    parts = dict.fromkeys(head[1].split(".")[0] for head in heads)
    more = f"More flags, of {', '.join(parts)}: {prog} --help-all"
    return f"{text[: heads[0].start()].rstrip()}\n\n{more}"


def _imported(target: str) -> Any:
    module, name = target.split(":")
    return getattr(import_module(module), name)


COMMANDS = {
    "walk": Command(
        "loci.app.walk.walk:walk",
        "Walk into a picture: generate frames from keys.",
        former_flags={"--memory": "--max-ram"},
    ),
    "play": Command("loci.app.play.play:play", "Walk with the keyboard, in a browser."),
    "lift": Command(
        "loci.app.lift.lift:lift",
        "Lift objects out of a picture: splats, meshes, poses.",
        former_flags={"--memory": "--max-ram"},
    ),
    "label": Command("loci.app.label:label", "Label films with actions, to train on."),
    "data doom": Command(
        "loci.data.record_doom:record_doom",
        "Record walks through generated Doom maps.",
        former_flags={"--recolour": "--recolor", "--no-recolour": "--no-recolor"},
    ),
    "data panoramas": Command(
        "loci.data.panoramas:panoramas", "Record a camera that turns in 360-degree photographs."
    ),
    "data film": Command("loci.data.level_film:film", "Film a Freedoom level by hand."),
    "data encode": Command(
        "loci.data.encode:encode", "Encode recordings before training, by many processes."
    ),
    "data objects": Command(
        "loci.data.objects.make:objects", "Render and voxelise objects for training."
    ),
    "data hold-out": Command(
        "loci.data.objects.splits:hold_out", "Choose the objects held out of training."
    ),
    "data credits": Command(
        "loci.data.objects.splits:write_credits",
        "List the sources and licences of a set of objects.",
    ),
    "data random-checkpoint": Command(
        "loci.data.random_checkpoint:random_checkpoint",
        "Random weights in the published layout, to try a model without its weights.",
    ),
    "train codec": Command(
        "loci.train.codec:train_codec",
        "Train the autoencoder of frames.",
        configs="loci.train.codec:CONFIGS",
    ),
    "train world": Command(
        "loci.train.world.train:train_world",
        "Train the world model.",
        configs="loci.train.world.config:CONFIGS",
    ),
    "train decoder": Command(
        "loci.train.decoder:train_decoder",
        "Finetune a codec's decoder on what a world model generates.",
        configs="loci.train.decoder:CONFIGS",
    ),
    "train structure-vae": Command(
        "loci.train.structure.vae:train_structure_vae",
        "Train the autoencoder of objects' voxels.",
        configs="loci.train.structure.vae:CONFIGS",
    ),
    "train structure": Command(
        "loci.train.structure.flow:train_structure",
        "Train the flow that finds shape and pose in a picture.",
        configs="loci.train.structure.flow:CONFIGS",
        former_flags={"--codec": "--vae"},
    ),
    "train slat-vae": Command(
        "loci.train.slat.vae:train_slat_vae",
        "Train the autoencoder of objects' surfaces, to splats and meshes.",
        configs="loci.train.slat.vae:CONFIGS",
    ),
    "train slat": Command(
        "loci.train.slat.flow:train_slat_flow",
        "Train the flow of an object's voxel latents from a picture.",
        configs="loci.train.slat.flow:CONFIGS",
        former_flags={"--codec": "--vae"},
    ),
    "train export-world": Command(
        "loci.app.export:export_world", "Export a trained world model for loci walk."
    ),
    "train export-home": Command(
        "loci.app.export:export_lifter", "Export a trained image-to-3D model for loci lift."
    ),
    "bench horizon": Command("loci.bench.world.horizon:horizon", "Cost per chunk as a walk grows."),
    "bench memory": Command(
        "loci.bench.world.memory:memory", "Memory of a world: revisits, drift, control."
    ),
    "bench returns": Command(
        "loci.bench.world.returns:returns",
        "Draw revisited views with and without memory.",
    ),
    "bench photographs": Command(
        "loci.bench.world.photographs:photographs",
        "How much of a photograph stays in a walk.",
    ),
    "bench objects": Command(
        "loci.bench.objects.quality:objects",
        "Quality of lifted held-out objects.",
    ),
    "bench claims": Command(
        "loci.bench.claims:claims", "What models learn from a film, and how right its labels are."
    ),
    "bench study-revisits": Command(
        "loci.bench.studies.revisits:study_revisits",
        "What revisit-dense sequences teach a world that only wandered.",
    ),
    "bench labels": Command("loci.bench.labels:labels", "How right the labels of films are."),
    "bench study-labels": Command(
        "loci.bench.studies.labels:study_labels",
        "What labels in three states are worth to a model that learns from them.",
    ),
    "bench walk-parts": Command(
        "loci.bench.world.profile:walk_parts",
        "Profile the parts of a walk; compiled, in bfloat16.",
    ),
    "bench speed": Command(
        "loci.bench.objects.speed:speed", "Speed and loss of presets for lifting."
    ),
    "bench walk-speed": Command(
        "loci.bench.world.speed:walk_speed", "Speed and loss of presets for walks."
    ),
    "bench play": Command("loci.app.play.measure:bench", "Latency from a key to its frame."),
    "bench calibrate": Command(
        "loci.bench.calibrate:calibrate", "Calibrate error tolerances on a model."
    ),
    "bench speed-parts": Command(
        "loci.bench.objects.profile:speed_parts",
        "Profile the parts of SAM 3D Objects.",
    ),
    "bench published": Command(
        "loci.bench.published:published",
        "Share of this machine's matrix-product rate that the published networks reach.",
    ),
    "doctor": Command("loci.app.doctor:doctor", "Look at this machine and at a model."),
    "convert": Command("loci.app.convert:convert", "Convert published weights to a model folder."),
}
GROUPS = {
    "data": "Make training data: recordings and objects.",
    "train": "Train models.",
    "bench": "Measure speed, memory and quality.",
}


def overview() -> tyro.extras.SubcommandApp:
    """All commands by name only."""
    app = tyro.extras.SubcommandApp()
    groups = {name: tyro.extras.SubcommandApp() for name in GROUPS}
    for path, command in COMMANDS.items():
        words = path.split()
        home = groups[words[0]] if len(words) == 2 else app
        home.command(name=words[-1])(command.stand_in())
    for name, group in groups.items():
        app.command(group, name=name, help=GROUPS[name])
    return app


def run(argv: list[str]) -> None:
    """Parses the arguments and calls the command that they begin with."""
    if argv == ["--version"]:
        from importlib.metadata import version

        print(f"loci {version('genius-loci')}")
        return
    former = FORMER_COMMANDS.get(" ".join(argv[:2]))
    argv = argv if former is None else [*former.split(), *argv[2:]]
    for path, command in COMMANDS.items():
        words = path.split()
        prog, rest = f"loci {path}", argv[len(words) :]
        if argv[: len(words)] != words:
            continue
        if command.configs is not None:
            command.load()(command.configure(prog, rest))
        else:
            registry = plain_dataclasses()
            args = command.current(rest)
            tyro.cli(plain_function(command.load()), prog=prog, args=args, registry=registry)
        return
    about = "Walk into a picture, and lift objects out of it."
    overview().cli(prog="loci", description=about, args=argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status: 2 for what the user can put right."""
    argv = sys.argv[1:] if argv is None else argv
    # Large tensors in large pages (Linux): page faults are up to a tenth of an evaluation's time.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        with signals_as_ctrl_c():
            run(list(argv))
            sys.stdout.flush()
    except LociError as error:
        print(f"loci: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the output has left, as `| head` does
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except OSError as error:
        print(f"loci: {error.filename or 'output'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("loci: stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
