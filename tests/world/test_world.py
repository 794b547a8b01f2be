import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from loci.codecs.frame import FrameCodec
from loci.errors import LociError
from loci.memory.hpmc import published_memory
from loci.memory.poses import ActionScale
from loci.world.config import WorldConfig
from loci.world.walk_file import load_walk, save_walk
from loci.world.world import World
from tests.world.models import randomised, released_like, small_world

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
FORWARD_AND_LEFT = [(1, 0), (1, 0), (0, 3), (1, 3)]


def walked(world: World, chunks: int, seed: int = 0):
    state = world.start(PICTURE, seed=seed)
    made = []
    for _ in range(chunks):
        frames, state = world.step(state, FORWARD_AND_LEFT)
        made.append(frames)
    return np.concatenate(made), state


def test_frames_have_the_promised_shape_and_type() -> None:
    frames, state = walked(small_world(), 3)
    assert frames.shape == (12, 32, 32, 3)
    assert frames.dtype == np.uint8
    assert state.frames == 13
    assert state.chunks == 3
    assert state.memory.length == 12, "the memory lags behind the local frame"


def test_a_walk_depends_on_its_seed_and_nothing_else() -> None:
    world = small_world()
    torch.manual_seed(1)
    first, _ = walked(world, 2)
    torch.manual_seed(2)
    again, _ = walked(world, 2)
    other, _ = walked(world, 2, seed=1)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_stepping_is_pure_so_that_a_walk_can_be_forked() -> None:
    world = small_world()
    _, state = walked(world, 3)
    left, _ = world.step(state, [(0, 3)] * 4)
    right, _ = world.step(state, [(0, 4)] * 4)
    again, _ = world.step(state, [(0, 3)] * 4)
    assert np.array_equal(left, again)
    assert not np.array_equal(left, right)


def test_fewer_actions_give_fewer_frames_and_reckoning_follows_them() -> None:
    world = small_world()
    state = world.start(PICTURE)
    frames, state = world.step(state, [(0, 3), (1, 0)])
    assert len(frames) == 2
    assert state.frames == 3
    assert state.memory.length == 2
    heading, x, y = state.pose[0].tolist()
    assert heading == pytest.approx(np.radians(7.5))
    assert (x, y) == pytest.approx((12 / 128 * np.cos(heading), 12 / 128 * np.sin(heading)))


def test_the_history_may_be_what_the_codec_sees_of_the_frames() -> None:
    world = small_world(reencode=True, lag=False)
    frames, state = walked(world, 2)
    assert state.memory.length == 9
    again = torch.from_numpy(frames[-1:].astype(np.float32) / 127.5 - 1).permute(3, 0, 1, 2)[None]
    seen = world.codec.encode(again)
    assert (state.local - seen).abs().max() < 0.1 * seen.abs().max()


def test_a_saved_walk_goes_on_as_if_never_interrupted(tmp_path: Path) -> None:
    world = small_world()
    whole, _ = walked(world, 5)
    _, state = walked(world, 3)
    save_walk(tmp_path / "walk.loci", state, world)
    resumed = load_walk(tmp_path / "walk.loci", small_world())
    first, resumed = world.step(resumed, FORWARD_AND_LEFT)
    second, _ = world.step(resumed, FORWARD_AND_LEFT)
    assert np.array_equal(np.concatenate([first, second]), whole[12:])


def test_a_walk_file_that_is_none_is_named(tmp_path: Path) -> None:
    world = small_world()
    path = tmp_path / "walk.loci"
    with pytest.raises(LociError, match="no such walk"):
        load_walk(path, world)
    path.write_bytes(b"certainly not a walk")
    with pytest.raises(LociError, match=r"walk\.loci: damaged or no walk"):
        load_walk(path, world)
    _, state = walked(world, 1)
    save_walk(path, state, world)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LociError, match="damaged or no walk"):
        load_walk(path, world)
    path.write_bytes(whole)
    with pytest.raises(LociError, match="a walk in another world"):
        load_walk(path, small_world(reencode=True))
    with pytest.raises(LociError, match=r"another world \(weights differ\)"):
        load_walk(path, small_world(seed=1))


@pytest.mark.parametrize("change", ["list", "memory", "local", "tail"])
def test_a_walk_with_parts_that_do_not_fit_is_damaged(tmp_path: Path, change: str) -> None:
    world, path = small_world(), tmp_path / "walk.loci"
    save_walk(path, walked(world, 1)[1], world)
    with safe_open(path, framework="pt") as file:
        content: Any = json.loads(file.metadata()["walk"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if change == "list":
        content = [content]
    if change == "memory":
        content["memory"] = "none"
    if change == "local":
        tensors["local"] = tensors["local"][0]
    if change == "tail":
        del tensors["memory.tail"]
    save_file(tensors, path, {"format": "loci-walk-1", "walk": json.dumps(content)})
    with pytest.raises(LociError, match=r"walk\.loci: a damaged walk"):
        load_walk(path, world)


def test_weights_saved_as_a_walk_are_foreign(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "x.loci")
    with pytest.raises(LociError, match="expected a walk"):
        load_walk(tmp_path / "x.loci", small_world())


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([], "expected"),
        ([(1, 0)] * 5, "5 actions: expected 1 to 4"),
        ([(1, 12)], "id 12, expected 0 to 9"),
        ([(1, 0, 0)], "expected"),
    ],
)
def test_wrong_actions_are_named(actions, message: str) -> None:
    world = small_world()
    with pytest.raises(LociError, match=message):
        world.step(world.start(PICTURE), actions)


def test_a_prompt_for_a_model_without_text_is_refused() -> None:
    with pytest.raises(LociError, match="trained without text"):
        small_world().start(PICTURE, prompt="a castle")


def test_a_world_saves_and_loads_itself(tmp_path: Path) -> None:
    world = small_world()
    world.save_pretrained(tmp_path / "w")
    loaded = World.from_pretrained(tmp_path / "w")
    assert loaded.config == world.config
    ours, _ = walked(loaded, 2)
    expected, _ = walked(world, 2)
    # Where weights lie in memory decides how sums are rounded.
    assert np.abs(ours.astype(int) - expected).max() <= 1
    with pytest.raises(LociError, match="no such model"):
        World.from_pretrained(tmp_path / "nowhere")


def test_a_world_is_saved_over_an_older_one_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "w"
    small_world().save_pretrained(folder)
    small_world(1).save_pretrained(folder)
    whole = {path: path.read_bytes() for path in folder.rglob("*.*")}
    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(FrameCodec, "save_pretrained", Mock(side_effect=KeyboardInterrupt))
        small_world(2).save_pretrained(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == whole
    (folder / "notes.txt").touch()
    with pytest.raises(LociError, match="holds notes.txt already"):
        small_world().save_pretrained(folder)


def test_a_world_walks_in_bfloat16(tmp_path: Path) -> None:
    small_world().save_pretrained(tmp_path / "w")
    world = World.from_pretrained(tmp_path / "w", dtype=torch.bfloat16)
    ours, state = walked(world, 3)
    assert state.memory.tokens is not None
    assert state.memory.tokens.dtype == torch.bfloat16
    expected, _ = walked(small_world(), 3)
    assert np.abs(ours.astype(int) - expected).mean() < 8


def test_the_released_world_has_the_published_memory() -> None:
    """Exact while the published windows touch, without being asked for."""
    world = World(WorldConfig(), randomised(released_like()), small_world().codec)
    history = torch.randn(1, 16, 90, 2, 2)
    codes = world.memory.tokens(world.memory.append(world.memory.empty(), history))
    expected = published_memory(world.transformer.latent_encoder, history)
    assert torch.equal(codes.tokens, expected)
    assert world.config.memory.exact_limit == 323


def test_a_shipped_name_is_no_folder_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_world().save_pretrained(tmp_path / "shipped" / "doom")
    (tmp_path / "doom").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("loci.io.models.SHIPPED", tmp_path / "shipped")
    assert World.from_pretrained("doom").config == small_world().config
    with pytest.raises(LociError, match=r"infinite_world_model\.ckpt: missing"):
        World.from_pretrained(".")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"action_scale": None}, "go together"),
        ({"overlap": True}, "no overlap"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(changed: dict, said: str) -> None:
    world = small_world()
    with pytest.raises(LociError, match=said):
        World(replace(world.config, **changed), world.transformer, world.codec)
    with pytest.raises(LociError, match="go together"):
        World(WorldConfig(action_scale=ActionScale()), randomised(released_like()), world.codec)


def test_a_walk_with_any_byte_changed_is_damaged(tmp_path: Path) -> None:
    world, path = small_world(), tmp_path / "walk.loci"
    save_walk(path, walked(world, 3)[1], world)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for at in np.random.default_rng(0).integers(header, len(whole), 40):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
        with pytest.raises(LociError, match=r"walk\.loci: a damaged walk"):
            load_walk(path, world)
    path.write_bytes(
        whole[:header].replace(b'\\"chunks\\": 3', b'\\"chunks\\": 4') + whole[header:]
    )
    with pytest.raises(LociError, match=r"walk\.loci: a damaged walk"):
        load_walk(path, world)


def test_a_walk_saved_without_a_hash_is_read_unless_it_is_not_finite(tmp_path: Path) -> None:
    world, path = small_world(), tmp_path / "walk.loci"
    _, state = walked(world, 3)
    save_walk(path, state, world)
    with safe_open(path, framework="pt") as file:
        content: Any = json.loads(file.metadata()["walk"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    content["world"]["world"]["stride"] = content["world"]["world"].pop("action_scale")
    content["world"]["world"]["horizon"] = content["world"]["world"].pop("memory")
    content["world"]["world"].pop("fov")
    transformer = content["world"]["transformer"]
    transformer["reckoned"] = transformer.pop("pose_rotary")
    transformer["reckoned"]["blind"] = transformer["reckoned"].pop("time_only")
    metadata = {"format": "loci-walk-1", "walk": json.dumps(content)}
    save_file(tensors, path, metadata)
    assert torch.equal(load_walk(path, world).local, state.local)
    tensors["memory.tail"][0, 0, 0] = torch.nan
    save_file(tensors, path, metadata)
    with pytest.raises(LociError, match=r"walk\.loci: a damaged walk"):
        load_walk(path, world)
