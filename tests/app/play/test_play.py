"""`loci play` from its start: the page first, the world after it."""

import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest

pytest.importorskip("uvicorn", reason="needs the extra play")

from loci.app.play import play

from .pages import free_port

HELD_BACK = """
import builtins, sys, time
from pathlib import Path

really = builtins.__import__

def held_back(name, *rest):
    while name.split(".")[0] == "torch" and not Path(sys.argv[1]).exists():
        time.sleep(0.01)
    return really(name, *rest)

builtins.__import__ = held_back
from loci.cli import main
sys.exit(main(sys.argv[2:]))
"""


def test_the_page_is_served_before_torch_is_imported(tmp_path: Path) -> None:
    """Torch cannot be imported until the page was there: nothing of it waits for that."""
    port, go_on = free_port(), tmp_path / "go-on"
    words = ["play", "--no-open", "--port", str(port), "--autosave", str(tmp_path / "walks")]
    server = subprocess.Popen([sys.executable, "-c", HELD_BACK, str(go_on), *words])
    try:
        ends = time.monotonic() + 60
        page = b""
        while not page:
            assert time.monotonic() < ends, "the page waits for torch"
            assert server.poll() is None
            try:
                page = urlopen(f"http://127.0.0.1:{port}/", timeout=10).read()
            except OSError:
                time.sleep(0.05)
        assert b"<title>Loci" in page
        assert not list((tmp_path / "walks").iterdir()), "no walk before there is a world"
    finally:
        server.kill()
        server.wait()


def test_another_address_is_printed_with_a_token(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("uvicorn.Server.run", lambda self: None)
    tokens = set()
    for _ in range(2):
        play.play(host="0.0.0.0", port=free_port(), open=False)
        address = capsys.readouterr().out.split()[0]
        tokens.add(address.split("/?token=")[1])
    assert len(tokens) == 2
    assert min(map(len, tokens)) >= 20
    play.play(port=free_port(), open=False)
    assert "token" not in capsys.readouterr().out
