import os
import signal

from loci.app.interruption import Interruption


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_only_work_at_once_is_cut_short() -> None:
    reached = []
    with Interruption() as ctrl_c:
        press()
        reached.append("after writing")
        assert ctrl_c.asked
        with ctrl_c.at_once():
            press()
            reached.append("rest of the step")
        reached.append("after the step")
    assert reached == ["after writing", "after the step"]


def test_the_handler_comes_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interruption() as ctrl_c:
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) is before
    assert not ctrl_c.asked
