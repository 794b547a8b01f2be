"""The command `loci`. Only the module of the chosen command is imported, so --help is quick."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import tyro

from loci.errors import LociError


@dataclass(frozen=True)
class Command:
    """A function that tyro can call, as `module:name`, and its line in the overview.

    With `configs`, a dictionary of named configurations as `module:name`, the function takes one of
    them, of which every field is a flag.
    """

    target: str
    summary: str
    configs: str | None = None

    def load(self) -> Callable[..., object]:
        return _imported(self.target)

    def configure(self, prog: str, argv: Sequence[str]) -> Any:
        """The configuration that `argv` begins with, or the first, changed by the flags in it."""
        assert self.configs is not None
        configs = _imported(self.configs)
        named = bool(argv) and argv[0] in configs
        about = f"{self.summary} Configurations: {', '.join(configs)}."
        return tyro.extras.overridable_config_cli(
            {name: (about, config) for name, config in configs.items()},
            prog=prog,
            args=argv if named else [next(iter(configs)), *argv],
        )

    def stand_in(self) -> Callable[[], None]:
        """Shows the summary where the command is listed but not called."""

        def listed() -> None: ...

        listed.__doc__ = self.summary
        return listed


def _imported(target: str) -> Any:
    module, name = target.split(":")
    return getattr(import_module(module), name)


COMMANDS = {
    "walk": Command("loci.app.walk:walk", "Walk into a picture: generate what is seen on the way."),
    "play": Command("loci.app.play.play:play", "Walk with your own hands, in a browser."),
    "lift": Command("loci.app.lift:lift", "Lift objects out of a picture: splats, meshes, poses."),
    "data doom": Command("loci.data.record:record", "Record walks through generated Doom maps."),
    "data objects": Command(
        "loci.data.objects.make:objects", "Render and voxelise objects to learn from."
    ),
    "data hold-out": Command(
        "loci.data.objects.splits:hold_out", "Choose the objects that nothing is trained on."
    ),
    "data credits": Command(
        "loci.data.objects.splits:write_credits",
        "List the sources and licences of a set of objects.",
    ),
    "train codec": Command(
        "loci.train.codec:train_codec",
        "Train the autoencoder of frames.",
        configs="loci.train.codec:CONFIGS",
    ),
    "train world": Command(
        "loci.train.world.train:train_world",
        "Train the world model.",
        configs="loci.train.world.train:CONFIGS",
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
    ),
    "train export-world": Command(
        "loci.app.train:export_world", "Put a trained codec and world together as one model."
    ),
    "train export-home": Command(
        "loci.app.train:export_home", "Put trained parts together as a model that lifts."
    ),
    "bench horizon": Command("loci.bench.world.horizon:horizon", "Cost per chunk as a walk grows."),
    "bench memory": Command(
        "loci.bench.world.memory:memory", "Does it remember? Revisits, drift, control."
    ),
    "bench returns": Command(
        "loci.bench.world.returns:returns",
        "A picture of views that come back, and of those that do not.",
    ),
    "bench objects": Command(
        "loci.bench.objects.quality:objects", "What becomes of objects nothing was trained on?"
    ),
    "bench walk-parts": Command(
        "loci.bench.world.profile:walk_parts", "Where the time of a walk goes; compiled, halved."
    ),
    "bench speed": Command(
        "loci.bench.objects.speed:speed", "What skipping saves, and at what loss?"
    ),
    "bench walk-speed": Command(
        "loci.bench.world.speed:walk_speed", "The same for walks, and does it last?"
    ),
    "bench calibrate": Command(
        "loci.bench.calibrate:calibrate", "What does a tolerance mean for a model?"
    ),
    "bench speed-parts": Command(
        "loci.bench.objects.profile:speed_parts", "Seconds of the released model's parts."
    ),
    "convert": Command("loci.app.train:convert", "Turn published weights into safetensors."),
}
GROUPS = {
    "data": "Make worlds and objects to learn from.",
    "train": "Train the small models.",
    "bench": "Measure cost, memory and shapes.",
}


def parser(argv: Sequence[str]) -> tyro.extras.SubcommandApp:
    """All commands; the one that `argv` begins with in full, the others by name only."""
    app = tyro.extras.SubcommandApp()
    groups = {name: tyro.extras.SubcommandApp() for name in GROUPS}
    for path, command in COMMANDS.items():
        words = path.split()
        chosen = list(argv[: len(words)]) == words
        function = command.load() if chosen else command.stand_in()
        home = groups[words[0]] if len(words) == 2 else app
        home.command(name=words[-1])(function)
    for name, group in groups.items():
        app.command(group, name=name, help=GROUPS[name])
    return app


def run(argv: Sequence[str]) -> None:
    """Parses the arguments and calls the command that they begin with."""
    for path, command in COMMANDS.items():
        words = path.split()
        if command.configs is not None and list(argv[: len(words)]) == words:
            command.load()(command.configure(f"loci {path}", argv[len(words) :]))
            return
    about = "Walk into a picture, and lift objects out of it."
    parser(argv).cli(prog="loci", description=about, args=argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status: 2 for what the user can mend."""
    argv = sys.argv[1:] if argv is None else argv
    if list(argv) == ["--version"]:
        from importlib.metadata import version

        print(f"loci {version('genius-loci')}")
        return 0
    try:
        run(list(argv))
    except LociError as error:
        print(f"loci: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except OSError as error:
        what = error.filename or error.strerror
        print(f"loci: {what}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("loci: stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
