"""A walk in progress: nothing is lost, and any moment can be returned to."""

from pathlib import Path

import av
import numpy as np
import pytest

from loci.app.play import timeline as module
from loci.app.play.timeline import Timeline
from loci.errors import LociError
from loci.world.world import World

from ...world.models import small_world

PICTURE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
ACTIONS = np.array([[1, 0], [1, 3], [0, 3], [0, 0]])


def begun(folder: Path, world: World) -> Timeline:
    state = world.start(PICTURE)
    return Timeline(folder, world, state, world.newest_frame(state)[None])


def walked(timeline: Timeline, chunks: int) -> list[np.ndarray]:
    made = []
    for k in range(chunks):
        frames, state = timeline.world.step(timeline.state, np.roll(ACTIONS, k, axis=0))
        timeline.commit(state, np.roll(ACTIONS, k, axis=0), frames)
        made += list(frames)
    return made


def test_frames_and_actions_are_kept_as_they_were_committed(tmp_path: Path) -> None:
    timeline = begun(tmp_path / "walk", small_world())
    made = walked(timeline, 3)
    assert timeline.length == 13
    assert timeline.moment == 3
    for number, frame in enumerate(made, start=1):
        assert (np.asarray(timeline.frame(number)) == frame).all()
    assert len(timeline.action_list()) == 12
    assert timeline.action_list()[0] == {"move": "go forward", "view": "no-op"}
    for number in (-1, 13):
        with pytest.raises(LociError, match=f"frame {number}: expected 0 to 12"):
            timeline.frame(number)


def test_going_back_forgets_and_the_same_actions_give_the_same_frames(tmp_path: Path) -> None:
    timeline = begun(tmp_path / "walk", small_world())
    made = walked(timeline, 3)
    timeline.go_to(0)
    assert timeline.length == 1
    assert (np.stack(walked(timeline, 3)) == np.stack(made)).all()
    with pytest.raises(LociError, match="expected 0 to 3"):
        timeline.go_to(4)


def test_thinned_states_are_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DENSE", 2)
    monkeypatch.setattr(module, "MAX_STATES", 4)
    timeline = begun(tmp_path / "walk", small_world())
    made = walked(timeline, 9)
    assert len(timeline.states) <= 5
    assert 0 in timeline.states
    gone = next(k for k in range(9) if k not in timeline.states)
    timeline.go_to(gone)
    frames, _ = timeline.world.step(timeline.state, np.roll(ACTIONS, gone, axis=0))
    assert (frames == np.stack(made[4 * gone : 4 * gone + 4])).all()


def test_a_saved_walk_goes_on_as_it_would_have(tmp_path: Path) -> None:
    world = small_world()
    timeline = begun(tmp_path / "walk", world)
    walked(timeline, 2)
    timeline.save()
    expected = walked(timeline, 1)  # committed but not saved: lost in the crash
    timeline.close()
    again = Timeline.restore(tmp_path / "walk", world)
    assert again.length == 9
    assert (np.stack(walked(again, 1)) == np.stack(expected)).all()


def test_a_fork_leaves_the_other_branch_alone(tmp_path: Path) -> None:
    timeline = begun(tmp_path / "a", small_world())
    made = walked(timeline, 2)
    other = timeline.fork(tmp_path / "b")
    other.go_to(1)
    walked(other, 3)
    assert timeline.length == 9
    assert (np.asarray(timeline.frame(8)) == made[-1]).all()


def test_the_video_holds_every_committed_frame(tmp_path: Path) -> None:
    timeline = begun(tmp_path / "walk", small_world())
    walked(timeline, 2)
    timeline.write_video(tmp_path / "walk.mp4")
    with av.open(str(tmp_path / "walk.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 9


def test_a_folder_without_a_walk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LociError, match="no autosaved walk"):
        Timeline.restore(tmp_path, small_world())


def test_a_file_that_lost_frames_is_refused(tmp_path: Path) -> None:
    world = small_world()
    timeline = begun(tmp_path / "walk", world)
    walked(timeline, 2)
    timeline.save()
    timeline.close()
    whole = (tmp_path / "walk" / "frames.bin").read_bytes()
    (tmp_path / "walk" / "frames.bin").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LociError, match=r"frames\.bin: damaged"):
        Timeline.restore(tmp_path / "walk", world)


def test_a_walk_that_began_from_a_saved_one_comes_back(tmp_path: Path) -> None:
    """Its first frame here is the newest of the saved walk; what came before is not kept."""
    world = small_world()
    before = begun(tmp_path / "before", world)
    walked(before, 2)
    timeline = Timeline(
        tmp_path / "walk", world, before.state, np.asarray(before.frame(8).convert("RGB"))[None]
    )
    walked(timeline, 3)
    timeline.save()
    timeline.close()
    again = Timeline.restore(tmp_path / "walk", world)
    assert (again.skipped, again.length, again.moment, again.state.frame_count) == (8, 13, 3, 21)
    with pytest.raises(LociError, match="moment 1: expected 3 to 3"):
        again.go_to(1)
    made = walked(again, 1)
    again.go_to(3)
    assert (np.stack(walked(again, 1)) == np.stack(made)).all()
