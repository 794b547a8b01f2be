import os
import signal
import subprocess
import sys
import threading

import pytest

from loci.app.interruption import SIGNALS, Interruption, signals_as_ctrl_c


def send(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_only_interruptible_work_is_cut_short(number: int) -> None:
    reached = []
    with Interruption() as ctrl_c:
        send(number)
        reached.append("after writing")
        assert ctrl_c.requested
        with ctrl_c.interruptible():
            send(number)
            reached.append("rest of the step")
        reached.append("after the step")
    assert reached == ["after writing", "after the step"]


def test_what_is_deferred_is_done_whole() -> None:
    reached = []
    with Interruption() as ctrl_c, ctrl_c.interruptible():
        with ctrl_c.deferred():
            send()
            reached.append("rest of what is deferred")
        reached.append("rest of the step")
    assert reached == ["rest of what is deferred"]
    with ctrl_c.deferred():  # nothing is interruptible here, so nothing is raised
        reached.append("after the step")
    assert reached[1:] == ["after the step"]


def test_the_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with Interruption() as ctrl_c:
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert not ctrl_c.requested


@pytest.mark.parametrize("number", SIGNALS)
def test_every_signal_is_as_ctrl_c(number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), signals_as_ctrl_c():
        send(number)
    assert signal.getsignal(number) is before


def test_what_is_ignored_stays_ignored() -> None:
    """As nohup asks for."""
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_as_ctrl_c(), Interruption() as ctrl_c:
            send(signal.SIGHUP)
            assert not ctrl_c.requested
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, old)


def test_other_threads_handle_no_signals() -> None:
    reached = []

    def work() -> None:
        with signals_as_ctrl_c(), Interruption():
            reached.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert reached == [before]


def test_a_command_that_is_terminated_leaves_no_draft(tmp_path) -> None:
    """SIGTERM reaches any command as Ctrl-C does: blocks end, drafts go."""
    code = """
import os, signal, sys
from loci import cli
from loci.io.files import replacing
def command() -> None:
    with replacing(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGTERM)
cli.Command.load = lambda self: command
sys.exit(cli.main(["walk"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (130, "loci: stopped\n")
    assert list(tmp_path.iterdir()) == []
