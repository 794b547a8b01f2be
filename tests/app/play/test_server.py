"""The server of `loci play`: who is let in, what a socket says, and that nothing is lost."""

import asyncio
import io
import json
import struct
import sys
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette", reason="needs the extra play")

import torch
from PIL import Image
from starlette.testclient import TestClient, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from loci.app.play import WALK
from loci.app.play.player import Player
from loci.app.play.server import application
from loci.app.play.sessions import Session, Sessions
from loci.cli import main
from loci.errors import LociError
from loci.world.walk_file import load_walk
from loci.world.world import World

from ...world.models import small_world
from .test_timeline import PICTURE

HERE = "http://127.0.0.1:8765"
SOCKET = "ws://127.0.0.1:8765/ws"


@pytest.fixture(autouse=True)
def _a_quick_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks are begun and exchanged as late as they can be, however busy the machine is."""
    monkeypatch.setattr(Player, "ahead", 1)
    monkeypatch.setattr(Player, "margin", 1)


@contextmanager
def served(
    folder: Path, most: int = 2, token: str | None = None, world: World | None = None
) -> Iterator[TestClient]:
    world = world or small_world()
    sessions = Sessions(lambda: world, PICTURE, folder, 0, "exact", most, threads=2)
    app = application(sessions, token=token)
    with TestClient(app, base_url=HERE, headers={"origin": HERE}) as client:
        yield client


def until(socket: WebSocketTestSession, kind: str) -> Any:
    """The next message of a kind ("frames" for binary ones), others dropped."""
    while True:
        message = socket.receive()
        if message.get("bytes") is not None:
            if kind == "frames":
                return message["bytes"]
        elif message.get("text") is not None:
            content = json.loads(message["text"])
            if content["type"] == kind:
                return content
        else:
            raise AssertionError(f"closed before {kind}: {message}")


def read(data: bytes) -> tuple[int, list[bytes], int]:
    first, count, answers, _ = struct.unpack_from("<IHId", data)
    at, parts = 18, []
    for _ in range(count):
        (length,) = struct.unpack_from("<I", data, at)
        parts.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    assert at == len(data)
    return first, parts, answers


def entered(socket: WebSocketTestSession, session: str | None = None) -> dict[str, Any]:
    socket.send_json({"type": "hello", "session": session})
    ready = until(socket, "ready")
    until(socket, "frames")
    return ready


def chunk(socket: WebSocketTestSession, keys: str, number: int, painted: int) -> list[bytes]:
    """Hold keys for one chunk, and let go once all of it is painted."""
    socket.send_json({"type": "keys", "keys": keys, "id": number, "painted": painted})
    parts: list[bytes] = []
    while len(parts) < 4:
        first, more, answers = read(until(socket, "frames"))
        assert answers == number
        assert first == painted + 1 + len(parts)
        parts += more
    let_go = {"type": "keys", "keys": "", "id": number, "painted": painted + len(parts)}
    socket.send_json(let_go)
    return parts


def test_the_page_comes_with_a_strict_policy(tmp_path: Path) -> None:
    with served(tmp_path) as client:
        page = client.get("/")
        assert page.status_code == 200
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe-inline" not in policy
        assert "unsafe-eval'" not in policy.replace("wasm-unsafe-eval'", "")
        for path in ("style.css", "js/main.js", "vendor/three/LICENSE"):
            assert client.get(f"/static/{path}").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "127.0.0.1:9999"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
    ],
)
def test_foreign_hosts_and_origins_are_refused(tmp_path: Path, headers: dict[str, str]) -> None:
    with served(tmp_path) as client:
        assert client.get("/", headers=headers).status_code == 403
        with (
            pytest.raises(WebSocketDisconnect) as refused,
            client.websocket_connect(SOCKET, headers=headers),
        ):
            pass
        assert refused.value.code == 4403


def test_another_address_needs_its_token(tmp_path: Path) -> None:
    with served(tmp_path, token="secret") as client:
        assert client.get("/").status_code == 403
        assert client.get("/?token=wrong").status_code == 403
        assert client.get("/?token=secret").status_code == 200
        assert client.get("/").status_code == 200, "the browser keeps it as a cookie"


def test_a_walk_and_an_undo_give_the_same_bytes(tmp_path: Path) -> None:
    with served(tmp_path) as client, client.websocket_connect(SOCKET) as socket:
        ready = entered(socket)
        assert (ready["fps"], ready["chunk"], ready["size"]) == (15, 4, [32, 32])
        made = []
        for k in range(3):
            made += chunk(socket, "w", k + 1, 4 * k)
        socket.send_json({"type": "go_to", "undo": 3})
        assert until(socket, "moment")["frame"] == 0
        again = []
        for k in range(3):
            again += chunk(socket, "w", 100 + k, 4 * k)
        assert again == made


def test_two_tabs_walk_as_each_would_alone(tmp_path: Path) -> None:
    with served(tmp_path / "alone") as client, client.websocket_connect(SOCKET) as socket:
        entered(socket)
        alone = chunk(socket, "w", 1, 0)
    with (
        served(tmp_path / "both") as client,
        client.websocket_connect(SOCKET) as one,
        client.websocket_connect(SOCKET) as two,
    ):
        assert entered(one)["session"] != entered(two)["session"]
        turned = chunk(two, "j", 1, 0)
        assert chunk(one, "w", 1, 0) == alone
        assert turned != alone


def test_four_walk_as_each_would_alone(tmp_path: Path) -> None:
    alone = []
    for keys in "wjal":
        with (
            served(tmp_path / keys) as client,
            client.websocket_connect(SOCKET) as socket,
        ):
            entered(socket)
            alone.append([chunk(socket, keys, 1, 0), chunk(socket, "w", 2, 4)])
    with served(tmp_path / "all", most=4) as client, ExitStack() as stack:
        sockets = [stack.enter_context(client.websocket_connect(SOCKET)) for _ in range(4)]
        assert len({entered(socket)["session"] for socket in sockets}) == 4
        firsts = [chunk(socket, keys, 1, 0) for socket, keys in zip(sockets, "wjal", strict=True)]
        together = [
            [first, chunk(socket, "w", 2, 4)] for first, socket in zip(firsts, sockets, strict=True)
        ]
    assert together == alone


def test_one_too_many_waits_for_its_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loci.app.play.connection.BUSY_SECONDS", 0.05)
    monkeypatch.setattr("loci.app.play.sessions.AWAY_SECONDS", 0.1)
    with served(tmp_path, most=1) as client, client.websocket_connect(SOCKET) as one:
        entered(one)
        with client.websocket_connect(SOCKET) as two:
            two.send_json({"type": "hello", "session": None})
            assert until(two, "busy")["place"] == 1
            one.close()
            assert until(two, "ready")["session"]


def test_who_leaves_the_queue_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loci.app.play.connection.BUSY_SECONDS", 0.05)
    monkeypatch.setattr("loci.app.play.sessions.AWAY_SECONDS", 0.1)
    with served(tmp_path, most=1) as client, client.websocket_connect(SOCKET) as one:
        entered(one)
        with client.websocket_connect(SOCKET) as two:
            two.send_json({"type": "hello", "session": None})
            assert until(two, "busy")["place"] == 1
        with client.websocket_connect(SOCKET) as three:
            three.send_json({"type": "hello", "session": None})
            places = [until(three, "busy")["place"] for _ in range(4)]
            assert places[-1] == 1, "the second one is gone"
            one.close()
            assert until(three, "ready")["session"]


def test_a_walk_that_was_left_keeps_its_place_while_nobody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loci.app.play.sessions.AWAY_SECONDS", 0.0)
    with served(tmp_path, most=2) as client:
        with client.websocket_connect(SOCKET) as one:
            left = entered(one)["session"]
            chunk(one, "w", 1, 0)
        with client.websocket_connect(SOCKET) as two:
            entered(two)
            with client.websocket_connect(SOCKET) as again:
                assert entered(again, left)["frames"] == 5


def test_a_walk_opened_a_second_time_goes_on_there(tmp_path: Path) -> None:
    """As a browser does when it duplicates a tab, or reconnects before the old socket is dead."""
    with served(tmp_path) as client, client.websocket_connect(SOCKET) as one:
        session = entered(one)["session"]
        first = chunk(one, "w", 1, 0)
        with client.websocket_connect(SOCKET) as two:
            assert entered(two, session)["session"] == session
            until(one, "elsewhere")
            one.send_json({"type": "keys", "keys": "w", "id": 9, "painted": 4})
            second = chunk(two, "w", 2, 4)
            third = chunk(two, "w", 3, 8)
    with served(tmp_path / "alone") as client, client.websocket_connect(SOCKET) as alone:
        entered(alone)
        parts = [chunk(alone, "w", number + 1, 4 * number) for number in range(3)]
    assert parts == [first, second, third]


def test_a_connection_that_ends_leaves_alone_the_chunk_of_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled: list[bool] = []
    autosave = Session.autosave

    def recorded(self: Session, now: float, settle: bool = False) -> None:
        settled.append(settle)
        autosave(self, now, settle)

    monkeypatch.setattr(Session, "autosave", recorded)
    monkeypatch.setattr("loci.app.play.connection.IDLE_SECONDS", 600.0)
    with served(tmp_path) as client, client.websocket_connect(SOCKET) as one:
        session = entered(one)["session"]
        with client.websocket_connect(SOCKET) as two:
            entered(two, session)
            until(one, "elsewhere")
            one.send_json({"type": "keys", "keys": "", "id": 9, "painted": 0})
            while not settled:
                time.sleep(0.01)
            assert settled == [False]


def test_a_dead_upload_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loci.app.play.server.UPLOAD_SECONDS", 0.1)

    async def stalled() -> AsyncIterator[dict[str, Any]]:
        yield {"type": "http.request", "body": b"\x89PNG", "more_body": True}
        await asyncio.sleep(60)

    with served(tmp_path) as client, client.websocket_connect(SOCKET) as socket:
        session = entered(socket)["session"]
        headers = [(b"host", HERE.removeprefix("http://").encode())]
        scope = {"type": "http", "method": "POST", "headers": headers, "query_string": b""}
        scope |= {"path": f"/api/sessions/{session}/picture", "root_path": "", "app": client.app}
        parts, answers = stalled(), []

        async def send(message: Any) -> None:
            answers.append(message)

        asyncio.run(client.app(scope, lambda: anext(parts), send))  # pyright: ignore
        assert answers[0]["status"] == 408
        assert chunk(socket, "w", 1, 0)


def test_a_fork_leaves_its_sibling_as_it_was(tmp_path: Path) -> None:
    with served(tmp_path) as client, client.websocket_connect(SOCKET) as socket:
        session = entered(socket)["session"]
        chunk(socket, "w", 1, 0)
        socket.send_json({"type": "fork"})
        ready = until(socket, "ready")
        assert (ready["branches"], ready["active"]) == (["a", "b"], "b")
        until(socket, "frames")
        chunk(socket, "j", 3, 4)
        socket.send_json({"type": "branch", "name": "a"})
        assert until(socket, "ready")["active"] == "a"
        actions = client.get(f"/api/sessions/{session}/actions.json").json()
        assert [action["move"] for action in actions] == ["go forward"] * 4


def test_branches_are_compared_from_where_they_part(tmp_path: Path) -> None:
    with served(tmp_path) as client, client.websocket_connect(SOCKET) as socket:
        session = entered(socket)["session"]
        chunk(socket, "w", 1, 0)
        socket.send_json({"type": "fork"})
        until(socket, "ready")
        until(socket, "frames")
        chunk(socket, "j", 3, 4)
        chunk(socket, "w", 4, 8)
        socket.send_json({"type": "branch", "name": "a"})
        until(socket, "ready")
        until(socket, "frames")
        chunk(socket, "l", 5, 4)
        socket.send_json({"type": "compare", "name": "b"})
        compared = until(socket, "compare")
        assert (compared["branches"], compared["lengths"]) == (["a", "b"], [9, 13])
        assert compared["part"] == 5
        base = f"/api/sessions/{session}"
        frames = [
            client.get(f"{base}/{name}/frames/{k}.jpg").content for k in (4, 5) for name in "ab"
        ]
        assert frames[0] == frames[1]
        assert frames[2] != frames[3]
        socket.send_json({"type": "compare", "name": "z"})
        assert "expected one of a, b" in until(socket, "error")["why"]


def test_downloaded_actions_walk_the_same_walk(tmp_path: Path) -> None:
    """In `loci walk`: its state afterwards is that of the walk that was played."""
    world = small_world()
    world.save_pretrained(tmp_path / "model")
    Image.fromarray(PICTURE).save(tmp_path / "picture.png")
    with served(tmp_path / "walks", world=world) as client, client.websocket_connect(SOCKET) as to:
        session = entered(to)["session"]
        chunk(to, "w", 1, 0)
        to.send_json({"type": "keys", "keys": "j", "id": 2, "painted": 4})
        until(to, "frames")
        to.send_json({"type": "keys", "keys": "wd", "id": 3, "painted": 5})
        until(to, "memory")
        base = f"/api/sessions/{session}"
        (tmp_path / "played.loci").write_bytes(client.get(f"{base}/walk.loci").content)
        (tmp_path / "actions.json").write_bytes(client.get(f"{base}/actions.json").content)
    words = ["walk", "picture.png", "--model", "model", "--actions", "actions.json"]
    words += ["--out", "walk.mp4", "--save", "walked.loci", "--speed", "exact", "--seed", "0"]
    paths = ("picture.png", "model", "actions.json", "walk.mp4", "walked.loci")
    assert main([str(tmp_path / word) if word in paths else word for word in words]) == 0
    played = load_walk(tmp_path / "played.loci", world)
    walked = load_walk(tmp_path / "walked.loci", world)
    assert played.frame_count == walked.frame_count >= 9
    assert torch.equal(played.pose, walked.pose)
    assert played.pose[0, 0] > 0
    torch.testing.assert_close(played.newest_latent, walked.newest_latent, atol=1e-5, rtol=0)
    for name, tensor in played.memory.tensors.items():
        torch.testing.assert_close(tensor, walked.memory.tensors[name], atol=1e-5, rtol=0)


def test_an_object_is_lifted_from_the_start_picture_at_its_own_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(lifter_of_nothing(tmp_path)))
    with served(tmp_path / "walks") as client, client.websocket_connect(SOCKET) as socket:
        session = entered(socket)["session"]
        chunk(socket, "w", 1, 0)
        buffer = io.BytesIO()
        Image.new("RGB", (640, 480), "red").save(buffer, format="PNG")
        path = f"/api/sessions/{session}"
        assert client.post(f"{path}/picture", content=buffer.getvalue()).json() == {"ok": True}
        shown = Image.open(io.BytesIO(client.get(f"{path}/picture").content))
        assert shown.size == (640, 480)
        for box, source, words in (
            ([0.1, 0.1, 0.5, 0.5], "picture", "--box 64 48 320 240"),
            ([0, 0, 0.5, 1], "frame", "--box 0 0 16 32"),
        ):
            asked = {"box": box, "source": source, "frame": 0}
            job = client.post(f"{path}/lift", json=asked).json()["job"]
            progress = client.get(f"/api/lifts/{job}").json()
            while not progress["done"]:
                assert progress["error"] is None
                progress = client.get(f"/api/lifts/{job}").json()
            assert words in client.get(f"/api/lifts/{job}/pose.json").text
        for selection in ({"point": [1.2, 0]}, {"box": [0, 0, 0.01, 0.01]}, {"frame": 1}):
            asked = {"source": "picture", **selection}
            assert client.post(f"{path}/lift", json=asked).status_code == 422


def lifter_of_nothing(folder: Path) -> Path:
    """In place of Python: writes the words it was called with as the result of a lift."""
    script = folder / "lifter.sh"
    script.write_text(
        "#!/bin/sh\n"
        'for word; do last="$word"; done\n'
        'mkdir -p "$last" && echo "$@" > "$last/pose.json"\n'
    )
    script.chmod(0o755)
    return script


def test_what_was_walked_comes_back_after_the_server_is_gone(tmp_path: Path) -> None:
    world = small_world()
    with served(tmp_path, world=world) as client, client.websocket_connect(SOCKET) as socket:
        session = entered(socket)["session"]
        chunk(socket, "w", 1, 0)
        chunk(socket, "w", 2, 4)
    assert [path.parts[-3] for path in tmp_path.glob(f"*/a/{WALK}")] == [session]
    with served(tmp_path, world=world) as client, client.websocket_connect(SOCKET) as socket:
        socket.send_json({"type": "hello", "session": session})
        assert until(socket, "ready")["session"] == session
        first, _, _ = read(until(socket, "frames"))
        assert first == 8
        memory = until(socket, "memory")
        assert memory["moment"] == 2


def test_downloads(tmp_path: Path) -> None:
    with served(tmp_path) as client, client.websocket_connect(SOCKET) as socket:
        session = entered(socket)["session"]
        chunk(socket, "wj", 1, 0)
        base = f"/api/sessions/{session}"
        assert client.get(f"{base}/walk.loci").content[8:9] == b"{"
        frame = Image.open(io.BytesIO(client.get(f"{base}/a/frames/2.jpg").content))
        assert frame.size == (32, 32)
        assert client.get(f"{base}/a/frames/99.jpg").status_code == 404
        assert client.get(f"{base}/a/frames/99.jpg?thumbnail").status_code == 204
        assert client.get(f"{base}/b/frames/2.jpg").status_code == 404
        assert client.get(f"{base}/walk.mp4").content[4:8] == b"ftyp"
        assert len(client.get(f"{base}/actions.json").json()) == 4
        for path in ("/api/sessions/nobody/walk.mp4", f"{base}/..%2f..%2fetc", "/api/lifts/x/y"):
            assert client.get(path).status_code == 404


def test_bad_messages_are_answered_and_the_server_lives(tmp_path: Path) -> None:
    with served(tmp_path) as client:
        with client.websocket_connect(SOCKET) as socket:
            entered(socket)
            for message in (
                {"type": "dance"},
                {"type": "go_to", "moment": 7},
                {"type": "go_to", "moment": "x"},
                {"type": "peek", "turns": 10_000},
                {"type": "keys"},
                {"type": "branch", "name": "../../etc"},
                {"type": "restart", "speed": "warp"},
            ):
                socket.send_json(message)
                assert until(socket, "error")["why"]
            assert chunk(socket, "w", 1, 0)
        with client.websocket_connect(SOCKET) as socket:
            entered(socket)
            socket.send_text("x" * 70_000)
            with pytest.raises((WebSocketDisconnect, AssertionError)):
                until(socket, "ready")
        assert client.get("/").status_code == 200


def test_pictures(tmp_path: Path) -> None:
    with served(tmp_path) as client, client.websocket_connect(SOCKET) as socket:
        session = entered(socket)["session"]
        path = f"/api/sessions/{session}/picture"
        bomb = client.post(path, content=huge_png(50_000))
        assert bomb.status_code == 422
        assert "picture" in bomb.json()["error"]
        assert client.post(path, content=b"no picture").status_code == 422
        assert client.post(path, content=bytes(21 * 2**20)).status_code == 413
        buffer = io.BytesIO()
        Image.fromarray(255 - PICTURE).resize((640, 480)).save(buffer, format="PNG")
        assert client.post(path, content=buffer.getvalue()).json() == {"ok": True}
        socket.send_json({"type": "picture"})
        assert until(socket, "ready")["session"] == session
        until(socket, "frames")
        assert chunk(socket, "w", 1, 0)


def huge_png(side: int) -> bytes:
    """A PNG whose header says that it is enormous."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, data in chunks:
        parts.append(struct.pack(">I", len(data)) + name + data)
        parts.append(struct.pack(">I", zlib.crc32(name + data)))
    return b"".join(parts)


def test_a_world_that_cannot_be_loaded_is_said_so(tmp_path: Path) -> None:
    def fails() -> World:
        raise LociError("nowhere: no such model")

    sessions = Sessions(fails, PICTURE, tmp_path, 0, "exact", 1, threads=1)
    with (
        TestClient(application(sessions), base_url=HERE) as client,
        client.websocket_connect(SOCKET) as socket,
    ):
        socket.send_json({"type": "hello"})
        assert until(socket, "failed")["why"] == "nowhere: no such model"


def test_memory_stays_flat_however_long_one_plays(tmp_path: Path) -> None:
    """States and offsets grow by a few bytes a frame; frames go to the disk."""

    async def play() -> tuple[int, int]:
        sessions = Sessions(small_world, PICTURE, tmp_path, 0, "exact", 1, threads=1)
        await sessions.load()
        session = await sessions.enter(None)
        assert not isinstance(session, int)
        player = session.player
        most = 0
        for k in range(260):
            player.press("wj" if k % 3 else "l", k, player.last)
            player.act()
            player.paint(player.last)
            most = max(most, len(player.timeline.states))
        held = sum(state.memory.nbytes for state in player.timeline.states.values())
        session.close()
        return most, held

    most, held = asyncio.run(play())
    assert most <= 201
    assert held < 201 * 100_000
    assert np.isfinite(held)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{text}"], "text.jpg"),
        (["nope.jpg"], "nope.jpg"),
        (["--resume", "{text}"], "text.jpg: damaged or no walk"),
        (["--model", "nowhere"], "nowhere: no such model folder"),
        (["{text}", "--resume", "{text}"], "without a PICTURE"),
        (["--port", "99999"], "--port: 99999"),
        (["--seed", "-1"], "seed"),
    ],
    ids=str,
)
def test_the_command_refuses_before_it_serves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    filled = [word.format(text=tmp_path / "text.jpg") for word in words]
    assert main(["play", *filled, "--no-open"]) == 2
    assert said in capsys.readouterr().err


def test_no_more_branches_than_there_is_memory_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loci.app.play.sessions.MAX_BRANCHES", 2)
    with served(tmp_path) as client, client.websocket_connect(SOCKET) as socket:
        entered(socket)
        socket.send_json({"type": "fork"})
        assert until(socket, "ready")["branches"] == ["a", "b"]
        socket.send_json({"type": "fork"})
        assert "there are 2 branches" in until(socket, "error")["why"]
        chunk(socket, "w", 1, 0)
