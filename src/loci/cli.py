"""The command `loci`. Only the module of the chosen command is imported, so --help is quick."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version

import tyro

from loci.errors import LociError


@dataclass(frozen=True)
class Command:
    """A function that tyro can call, as `module:name`, and its line in the overview."""

    target: str
    summary: str

    def load(self) -> Callable[..., object]:
        module, name = self.target.split(":")
        return getattr(import_module(module), name)

    def stand_in(self) -> Callable[[], None]:
        """Shows the summary where the command is listed but not called."""

        def listed() -> None: ...

        listed.__doc__ = self.summary
        return listed


COMMANDS = {
    "walk": Command("loci.app.walk:walk", "Walk into a picture: generate what is seen on the way."),
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
    "train codec": Command("loci.app.train:codec", "Train the autoencoder of frames."),
    "train world": Command("loci.app.train:world", "Train the world model."),
    "train structure-codec": Command(
        "loci.app.train:structure_codec", "Train the autoencoder of objects' voxels."
    ),
    "train structure": Command(
        "loci.app.train:structure", "Train what finds shape and pose in a picture."
    ),
    "train latent-codec": Command(
        "loci.app.train:latent_codec", "Train the autoencoder of objects' surfaces."
    ),
    "train latents": Command(
        "loci.app.train:latents", "Train what paints an object's voxels from a picture."
    ),
    "train ship-home": Command(
        "loci.app.train:export_home", "Put trained parts together as a model that lifts."
    ),
    "train ship": Command("loci.app.train:ship", "Put trained parts together as one model."),
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


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status: 2 for what the user can mend."""
    argv = sys.argv[1:] if argv is None else argv
    if list(argv) == ["--version"]:
        print(f"loci {version('genius-loci')}")
        return 0
    try:
        about = "Walk into a picture, and lift objects out of it."
        parser(argv).cli(prog="loci", description=about, args=argv)
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
