"""`loci play`: walk with your own hands, in a browser."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import tempfile
import threading
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from loci.app.walk.saved_walk import SavedWalk
from loci.errors import LociError, check_seed, install_hint
from loci.io.config_files import CONFIG_NAME
from loci.io.images import WALK_ASPECT_RATIO, check_aspect, read_pixels
from loci.io.models import SHIPPED, find_model

if TYPE_CHECKING:
    from loci.world.world import World

LOCAL = ("127.0.0.1", "localhost", "::1")


def play(
    picture: Annotated[
        Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[PICTURE]")
    ] = None,
    *,
    resume: Path | None = None,
    model: str = "doom",
    speed: Literal["exact", "fast", "faster"] = "faster",
    seed: int | None = None,
    host: str = "127.0.0.1",
    port: int = 8765,
    sessions: int = 2,
    autosave: Path | None = None,
    open: Annotated[bool, tyro.conf.arg(help="open the page in a browser")] = True,
) -> None:
    """Walk into a picture with your own hands: opens a page in the browser.

    Args:
        picture: the picture to walk into; the shipped one if left out.
        resume: a saved walk (walk.loci) to go on with.
        model: doom, a model folder, or a hub id.
        speed: speed preset: exact, fast or faster.
        seed: seed of new walks; by default one of the picture's own.
        host: address to listen on; any but this machine's own needs the token that is printed.
        port: port to listen on.
        sessions: how many people play at a time; others wait for their turn.
        autosave: folder for the walks, to go on with after a restart; without it, a temporary one.
    """
    check_seed(seed or 0, "--seed")
    if picture is not None and resume is not None:
        raise LociError("--resume: a saved walk goes on where it was, without a PICTURE")
    if picture is not None:
        check_aspect(read_pixels(picture), WALK_ASPECT_RATIO, str(picture))
    if resume is not None:
        SavedWalk.read(resume)
    find_model(model, CONFIG_NAME)
    if not 0 < port < 65536:
        raise LociError(f"--port: {port}, expected 1 to 65535")
    if sessions < 1:
        raise LociError(f"--sessions: {sessions}, expected at least 1")
    try:
        import starlette  # noqa: F401
        import uvicorn
        import websockets  # noqa: F401
    except ImportError as error:
        raise LociError(f"loci play needs a web server: {install_hint('play')}") from error
    from loci.app.play.server import LOOPBACK, application
    from loci.app.play.sessions import Sessions

    local = host in LOCAL
    token = None if local else secrets.token_urlsafe(16)
    _check_port(host, port)
    folder = autosave or Path(tempfile.mkdtemp(prefix="loci-play-"))
    folder.mkdir(parents=True, exist_ok=True)
    threads = os.cpu_count() or 1
    played = Sessions(
        lambda: load_world(model),
        start_picture(model, picture),
        folder,
        seed,
        speed,
        sessions,
        threads,
        resume,
    )
    hosts = LOOPBACK if local else (*LOOPBACK, host, socket.gethostname())
    shown = "127.0.0.1" if host in ("::1", "0.0.0.0") else host
    address = f"http://{shown}:{port}/" + (f"?token={token}" if token else "")
    print(f"{address}   (Ctrl-C ends it{'' if autosave else '; --autosave DIR keeps the walks'})")
    if open:
        threading.Timer(0.5, webbrowser.open, [address]).start()
    config = uvicorn.Config(
        application(played, hosts, port, token),
        host=host,
        port=port,
        log_level="warning",
        ws="websockets-sansio",
        ws_max_size=65536,
        ws_ping_interval=10.0,
        timeout_graceful_shutdown=5,
    )
    try:
        uvicorn.Server(config).run()
    finally:
        if autosave is None:
            shutil.rmtree(folder, ignore_errors=True)


def load_world(model: str) -> World:
    """The world, with one thread a chunk: sessions share the cores."""
    import torch

    from loci.world.world import World

    torch.set_num_threads(1)
    return World.from_pretrained(model)


def start_picture(model: str, picture: Path | None) -> Path:
    """The picture given, else the model's example, else that of `doom`."""
    if picture is not None:
        return picture
    shipped = SHIPPED / model
    own = (shipped if shipped.is_dir() else Path(model)) / "example.png"
    return own if own.is_file() else SHIPPED / "doom" / "example.png"


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise LociError(f"--host {host} --port {port}: {error.strerror}") from error
