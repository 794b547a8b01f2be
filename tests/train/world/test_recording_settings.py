"""What a training takes from its recordings."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loci.codecs.frame import FrameCodec, FrameCodecConfig
from loci.data.mapped import MappedArray
from loci.data.recordings import Recordings
from loci.envs.base import EnvironmentInfo
from loci.errors import LociError
from loci.train.world.recording_settings import (
    check_size,
    frequent_ids,
    with_actions_of,
    with_fov,
    with_recording_settings,
)
from loci.world.config import WorldConfig, doom_world
from tests.world.models import pose_rotary_config, published_like


def film(actions: list[tuple[int, int]], size: tuple[int, int] = (32, 64)) -> Recordings:
    ids = np.array(actions, np.uint8)[None]
    frames = MappedArray([np.zeros((1, len(actions), *size, 3), np.uint8)])
    info = EnvironmentInfo("film", size, 14.985, 39.4, 1.0, 4.0, 10.0)
    return Recordings(frames, ids, None, info)


def test_rate_camera_and_scale_come_from_the_recordings() -> None:
    world = with_recording_settings(doom_world(), film([(1, 3), (9, 9), (0, 0), (2, 0)]))
    assert (world.size, world.fps, world.fov) == ((32, 64), 15, 39.4)
    assert (world.moves, world.views) == ((0, 1, 2), (0, 3))
    assert world.action_scale is not None
    assert world.action_scale.move == pytest.approx(0.1)


def test_actions_that_hardly_occur_are_not_offered_and_no_list_is_empty() -> None:
    ids = np.zeros((2, 1000), np.uint8)
    ids[0, :500], ids[1, 0] = 3, 4
    assert frequent_ids(ids) == (0, 3)
    assert frequent_ids(np.full((1, 20), 9)) == (0,), "an empty list would mean all"


def test_what_the_first_model_knows_stays_known() -> None:
    film = replace(WorldConfig(), moves=(0, 5), views=(0,))
    both = with_actions_of(replace(film, moves=(0, 1), views=()), film)
    assert (both.moves, both.views) == ((0, 1, 5), ())


def test_the_camera_changes_the_addresses_and_nothing_else() -> None:
    model = pose_rotary_config()
    other = with_fov(model, 39.4)
    assert other.pose_rotary is not None
    assert other.pose_rotary.fov == 39.4
    assert model.pose_rotary is not None
    back = replace(other.pose_rotary, fov=model.pose_rotary.fov)
    assert replace(other, pose_rotary=back) == model
    assert with_fov(model, None) == model
    assert with_fov(published_like(), 39.4) == published_like()


def test_frames_that_do_not_divide_into_tokens_are_refused() -> None:
    codec = FrameCodec(FrameCodecConfig(patch_size=8, widths=(16,), norm_groups=4))
    check_size(film([(0, 0)]), codec, pose_rotary_config(), Path("labels"))
    with pytest.raises(LociError, match="labels: frames of 32x72, expected multiples of 16"):
        check_size(film([(0, 0)], (32, 72)), codec, pose_rotary_config(), Path("labels"))
