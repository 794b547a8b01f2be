import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from loci.actions import to_ids
from loci.codecs import CODECS
from loci.codecs.frame import FrameCodec
from loci.errors import LociError
from loci.memory.hpmc import published_memory
from loci.memory.poses import ActionScale, dead_reckon
from loci.world.config import WorldConfig
from loci.world.sampling import chunk_noise
from loci.world.walk_file import load_walk, save_walk
from loci.world.world import World
from tests.world.models import published_like, randomised, small_world, with_keyframes

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
    assert state.frame_count == 13
    assert state.chunk_count == 3
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


def test_without_a_seed_every_picture_has_its_own() -> None:
    world = small_world()
    states = [world.start(picture) for picture in (PICTURE, PICTURE.copy(), PICTURE[::-1])]
    assert states[0].seed == states[1].seed != states[2].seed
    assert all(0 <= state.seed < 1_000_000 for state in states)
    assert world.start(PICTURE, seed=0).seed == 0


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
    assert state.frame_count == 3
    assert state.memory.length == 2
    heading, x, y = state.pose[0].tolist()
    assert heading == pytest.approx(np.radians(7.5))
    assert (x, y) == pytest.approx((12 / 128 * np.cos(heading), 12 / 128 * np.sin(heading)))


def test_the_history_may_be_what_the_codec_sees_of_the_frames() -> None:
    world = small_world(reencode=True, memory_excludes_local=False)
    frames, state = walked(world, 2)
    assert state.memory.length == 9
    again = torch.from_numpy(frames[-1:].astype(np.float32) / 127.5 - 1).permute(3, 0, 1, 2)[None]
    seen = world.codec.encode(again)
    assert (state.newest_latent - seen).abs().max() < 0.1 * seen.abs().max()


def test_a_saved_walk_goes_on_as_if_never_interrupted(tmp_path: Path) -> None:
    world = small_world()
    whole, _ = walked(world, 5)
    _, state = walked(world, 3)
    save_walk(tmp_path / "walk.loci", state, world)
    resumed = load_walk(tmp_path / "walk.loci", small_world())
    first, resumed = world.step(resumed, FORWARD_AND_LEFT)
    second, _ = world.step(resumed, FORWARD_AND_LEFT)
    assert np.array_equal(np.concatenate([first, second]), whole[12:])


def test_a_walk_goes_on_with_another_sampler(tmp_path: Path) -> None:
    world = small_world()
    _, state = walked(world, 1)
    save_walk(tmp_path / "walk.loci", state, world)
    other = small_world()
    sampling = replace(other.config.sampling, log_snr=(-3.0, 3.0))
    other.config = replace(other.config, sampling=sampling)
    resumed = load_walk(tmp_path / "walk.loci", other)
    assert resumed.frame_count == state.frame_count
    assert other.step(resumed, FORWARD_AND_LEFT)[0].any()


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


def test_actions_fill_whole_latents() -> None:
    world = small_world()
    world.temporal_factor = 2
    with pytest.raises(LociError, match="3 actions: .* groups of 2, expected a multiple"):
        world.step(world.start(PICTURE), [(1, 0)] * 3)


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


def test_the_published_world_has_the_published_memory() -> None:
    """Exact while the published windows touch, without being asked for."""
    world = World(WorldConfig(), randomised(published_like()), small_world().codec)
    history = torch.randn(1, 16, 90, 2, 2)
    codes = world.memory.tokens(world.memory.append(world.memory.empty(), history))
    expected = published_memory(world.transformer.memory_encoder, history)
    assert torch.equal(codes.tokens, expected)
    assert world.config.memory.published_limit == 323


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
        ({"action_scale": None}, "set both or neither"),
        ({"overlap": True}, "no overlap"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(changed: dict, said: str) -> None:
    world = small_world()
    with pytest.raises(LociError, match=said):
        World(replace(world.config, **changed), world.transformer, world.codec)
    with pytest.raises(LociError, match="set both or neither"):
        World(WorldConfig(action_scale=ActionScale()), randomised(published_like()), world.codec)


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
    assert torch.equal(load_walk(path, world).newest_latent, state.newest_latent)
    tensors["memory.tail"][0, 0, 0] = torch.nan
    save_file(tensors, path, metadata)
    with pytest.raises(LociError, match=r"walk\.loci: a damaged walk"):
        load_walk(path, world)


def test_a_seed_stands_for_the_same_noise_for_ever() -> None:
    """Walks are known by their seeds: the generator's is worked out by hand here."""
    expected = torch.randn(2, generator=torch.Generator().manual_seed(6437609823154028466))
    assert torch.equal(chunk_noise(3, 2, (2,), torch.device("cpu")), expected)


def test_every_chunk_of_every_walk_has_noise_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[torch.Tensor] = []

    def sampled(model, noise, *given, **options):
        drawn.append(noise)
        return noise

    monkeypatch.setattr("loci.world.latent_world.sample_with_preset", sampled)
    for seed in (0, 1, 2**63 - 1):
        walked(small_world(), 3, seed)
    assert len(drawn) == 9
    for noise, other in combinations(drawn, 2):
        correlation = torch.corrcoef(torch.stack([noise.flatten(), other.flatten()]))[0, 1]
        assert abs(correlation) < 0.2
    assert torch.equal(drawn[1], chunk_noise(0, 1, drawn[1].shape, torch.device("cpu")))


def test_remembered_latents_keep_the_poses_at_which_they_were_seen() -> None:
    """The memory lags one frame behind, and so do its poses."""
    world = small_world()
    assert world.config.memory_excludes_local
    states = [world.start(PICTURE)]
    actions = torch.tensor([[1, 0], [1, 3], [0, 3], [3, 0], [1, 4], [1, 0], [1, 3]])
    for part in actions.split(4):
        states.append(world.step(states[-1], part.numpy())[1])
    memory = states[-1].memory
    assert memory.tail is not None
    assert memory.tail_poses is not None
    scale = world.config.action_scale
    assert scale is not None
    poses = dead_reckon(states[0].pose, actions[None, :, 0], actions[None, :, 1], scale)
    poses = torch.cat([states[0].pose[:, None], poses], dim=1)
    torch.testing.assert_close(memory.tail_poses, poses[:, :7])
    torch.testing.assert_close(states[-1].pose, poses[:, 7])
    assert torch.equal(memory.tail[:, :, :1], states[0].newest_latent)
    assert torch.equal(memory.tail[:, :, 4:5], states[1].newest_latent)


def test_memory_is_as_old_as_the_latents_between_it_and_the_local_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, given = small_world(), []
    context = type(world.transformer).context

    def seen(self, memory, local, actions, prompt, poses):
        given.append(poses)
        return context(self, memory, local, actions, prompt, poses)

    monkeypatch.setattr(type(world.transformer), "context", seen)
    state = world.start(PICTURE)
    for count in (4, 3, 1):
        _, state = world.step(state, [(1, 3)] * count)
    assert given[0].memory_ages.shape == (1, 0)
    assert given[1].memory_ages.tolist() == [[0]], (
        "latents 0 to 3 come right before the local frame"
    )
    assert given[2].memory_ages.tolist() == [[3, 0]]
    torch.testing.assert_close(given[2].local, given[1].target[:, 2])


def test_a_walk_of_any_length_is_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    world = small_world()
    state = world.start(PICTURE)
    actions = np.array(FORWARD_AND_LEFT * 2 + [(1, 0)] * 2)
    chunks = list(world.walk(state, actions))
    assert [len(frames) for frames, _ in chunks] == [4, 4, 2]
    stepped = state
    for (frames, reached), at in zip(chunks, (0, 4, 8), strict=True):
        part = actions[at : at + 4]
        expected, stepped = world.step(stepped, part)
        assert np.array_equal(frames, expected)
        assert torch.equal(reached.newest_latent, stepped.newest_latent)
    following: list = []
    step = World.step

    def noted(self, state, some, after):
        following.append(None if after is None else after.tolist())
        return step(self, state, some, after)

    monkeypatch.setattr(World, "step", noted)
    list(world.walk(state, actions))
    assert following == [[1, 0], [1, 0], None]


def test_a_walk_is_refused_before_its_first_chunk() -> None:
    world = small_world()
    world.config = replace(world.config, moves=(0, 1), views=(0, 3))
    with pytest.raises(LociError, match="frame 10 has the move 'go back'"):
        world.walk(world.start(PICTURE), [(1, 0)] * 9 + [(2, 0)])


@pytest.mark.parametrize("memory_excludes_local", [True, False])
def test_a_known_history_is_remembered_up_to_the_local_frame(memory_excludes_local: bool) -> None:
    world, latents = (
        small_world(memory_excludes_local=memory_excludes_local),
        torch.randn(1, 16, 3, 4, 4),
    )
    poses = torch.randn(1, 3, 3, dtype=torch.float64)
    state = world.start_from_latents(latents, poses)
    assert state.memory.length == 3 - memory_excludes_local
    assert state.memory.tail_poses is not None
    assert torch.equal(state.memory.tail_poses, poses[:, : 3 - memory_excludes_local])
    assert torch.equal(state.newest_latent, latents[:, :, -1:])
    assert torch.equal(state.pose, poses[:, -1])


def test_latents_of_several_walks_are_those_of_each() -> None:
    world = small_world()
    latents = torch.randn(2, 16, 3, 4, 4)
    poses = torch.randn(2, 3, 3, dtype=torch.float64)
    actions = torch.tensor([FORWARD_AND_LEFT * 2, [(0, 4)] * 8])
    both = list(world.walk_latents(world.start_from_latents(latents, poses, seed=5), actions))
    assert [chunk.shape for chunk, _ in both] == [(2, 16, 4, 4, 4)] * 2
    assert both[-1][1].frame_count == 3 + 8
    assert not torch.allclose(both[0][0][0], both[0][0][1])
    with torch.no_grad():
        alone = world.start_from_latents(latents[:1], poses[:1], seed=5)
        known = both[0][1].memory.tail
        assert known is not None
        assert torch.equal(known[:1, :, :2], latents[:1, :, :2])
        state = next(iter(world.walk_latents(alone, actions[:1])))[1]
    torch.testing.assert_close(state.pose, both[0][1].pose[:1])


def test_latents_of_a_walk_that_ends_within_a_chunk_are_as_many_as_its_actions() -> None:
    world = small_world()
    state = world.start_from_latents(torch.randn(1, 16, 1, 4, 4))
    walked = list(world.walk_latents(state, torch.tensor([FORWARD_AND_LEFT * 2])[:, :6]))
    assert [latents.shape[2] for latents, _ in walked] == [4, 2]
    assert torch.equal(walked[-1][0][:, :, -1:], walked[-1][1].newest_latent)


@pytest.mark.parametrize("seed", [-1, 2**63, 2**64, 1.5, "1", True])
def test_seeds_out_of_range_are_refused(seed: Any) -> None:
    with pytest.raises(LociError, match="expected a whole number from 0 to"):
        small_world().start(PICTURE, seed=seed)


def test_wrong_types_are_named() -> None:
    world = small_world()
    state = world.start(PICTURE)
    for call, words in (
        (lambda: world.start(None), "a picture of type NoneType"),  # pyright: ignore
        (lambda: world.start(torch.zeros(3, 8, 8)), "a picture of type Tensor"),  # pyright: ignore
        (lambda: world.step(state, 1), "expected"),
        (lambda: world.step(state, None), "expected"),  # pyright: ignore
        (lambda: world.step(state, torch.tensor([[1.0, 0.0]])), "expected integer ids"),
        (lambda: world.step(state, [[1, 0], [1]]), "expected"),
        (lambda: world.step(None, [(1, 0)]), "expected the WalkState"),  # pyright: ignore
        (lambda: world.at_speed(0.1), "speed 0.1: expected exact, fast, faster"),  # pyright: ignore
        (lambda: World.from_pretrained("doom", "cuda:99"), "device: there is no cuda:99"),
        (lambda: World.from_pretrained("doom", "gpu"), "device: 'gpu', expected cpu"),
    ):
        with pytest.raises(LociError, match=words):
            call()
    frames, _ = world.step(state, torch.tensor([[1, 0], [0, 3]]))
    assert len(frames) == 2


def test_worlds_of_several_threads_count_apart() -> None:
    world = small_world()

    def evaluations(_: int) -> int:
        own = world.at_speed("exact")
        walked(own, 2)
        return own.stats.stage("sampling").evaluations

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(evaluations, range(8))) == [4] * 8
    assert world.stats.stage("sampling").evaluations == 0


def test_codecs_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class OwnCodec(FrameCodec):
        pass

    world = small_world()
    world.config = replace(world.config, codec="own")
    world.save_pretrained(tmp_path)
    with pytest.raises(LociError, match="codec 'own': expected frame or wan"):
        World.from_pretrained(tmp_path)
    monkeypatch.setitem(CODECS, "own", OwnCodec)
    assert isinstance(World.from_pretrained(tmp_path).codec, OwnCodec)


def test_a_chunk_attends_to_the_keyframes_near_its_own_poses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, given = with_keyframes(small_world(), keyframes=24, attended=4), []
    state = world.start(PICTURE)
    for _ in range(40):
        _, state = world.step(state, [(1, 3)] * 4)
    assert len(state.memory.keyframe_spans) == 24
    context = type(world.transformer).context

    def seen(self, memory, local, actions, prompt, poses):
        given.append(poses)
        return context(self, memory, local, actions, prompt, poses)

    monkeypatch.setattr(type(world.transformer), "context", seen)
    for actions in ([(0, 3)] * 4, [(1, 0)] * 4):
        world.step(state, actions)
    left, ahead = (poses.memory for poses in given)
    assert left.shape == ahead.shape
    assert left.shape[1] <= world.config.memory.attended
    assert not torch.equal(left, ahead)


def test_a_static_world_repeats_its_newest_frame_while_it_stands_still() -> None:
    plain = small_world()
    world = World(replace(plain.config, static=True), plain.transformer, plain.codec)
    _, state = world.step(world.start(PICTURE, seed=3), "wj*4")
    newest = world.newest_frame(state)
    still, after = world.step(state, ".*3")
    assert (still == newest).all()
    assert world.stats.stage("sampling").steps == plain.config.sampling.steps, "of the first chunk"
    assert (after.frame_count, after.chunk_count) == (state.frame_count + 3, state.chunk_count + 1)
    assert torch.equal(after.pose, state.pose)
    assert after.memory.length == state.memory.length + 3
    generated, _ = plain.step(state, ".*3")
    assert not (generated == newest).all()
    moved, _ = world.step(after, "w*4")
    assert not (moved == newest).all()


def test_walks_that_stand_still_among_others_are_as_by_themselves() -> None:
    plain = small_world()
    world = World(replace(plain.config, static=True), plain.transformer, plain.codec)
    states = [world.step(world.start(PICTURE, seed=n), "j*4")[1] for n in range(3)]
    keys = ["w*4", ".*4", "l*4"]
    for found, state, key in zip(world.generate_chunks(states, keys), states, keys, strict=True):
        frames, after = world.step(state, key)
        assert np.abs(found.frames().astype(int) - frames).max() <= 1
        torch.testing.assert_close(
            found.state_after().newest_latent, after.newest_latent, atol=1e-5, rtol=0
        )
    together = world.start_from_latents(
        torch.cat([state.newest_latent for state in states]),
        torch.cat([state.pose for state in states])[:, None],
    )
    ids = torch.from_numpy(np.stack([to_ids(key) for key in keys]))
    (latents, _), *_ = world.walk_latents(together, ids)
    assert torch.equal(latents[1], states[1].newest_latent[0].expand(-1, 4, -1, -1))
    assert not torch.equal(latents[0], states[0].newest_latent[0].expand(-1, 4, -1, -1))


def test_a_static_world_needs_to_know_what_moves() -> None:
    world = small_world()
    config = replace(world.config, static=True, action_scale=None)
    transformer = randomised(replace(world.transformer.config, pose_rotary=None))
    with pytest.raises(LociError, match="action_scale"):
        World(config, transformer, world.codec)


@pytest.mark.parametrize("independent", [True, False])
def test_a_codec_says_whether_frames_can_be_decoded_by_themselves(
    independent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = small_world()
    decode, decoded = world.codec.decode, []

    def counted(latents: torch.Tensor) -> torch.Tensor:
        decoded.append(latents.shape[2])
        return decode(latents)

    monkeypatch.setattr(world.codec, "decode", counted)
    monkeypatch.setattr(world.codec, "frames_are_independent", independent)
    chunk = world.generate_chunk(world.start(PICTURE), "w*4")
    some = chunk.video(1, 3)
    assert decoded == ([2] if independent else [4])
    torch.testing.assert_close(some, chunk.video()[:, :, 1:3], atol=1e-5, rtol=0)
