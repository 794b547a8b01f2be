"""Segment Anything: where prompts go and masks come from, and what is no checkpoint."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from loci.errors import LociError
from loci.objects.inputs import sam

PIXELS = np.zeros((60, 80, 3), np.uint8)
PIXELS[10:40, 20:70] = 200
BOX = (18, 8, 72, 42)


class Bright:
    """In place of the network: what is bright inside the prompt, in a frame of 128 pixels; of
    three masks the second is right and trusted most."""

    config = SimpleNamespace(vision_config=SimpleNamespace(image_size=128))

    def __init__(self) -> None:
        self.prompts: dict[str, Any] = {}

    def __call__(self, pixel_values: torch.Tensor, **prompts: Any) -> SimpleNamespace:
        self.prompts = prompts
        bright = torch.nn.functional.avg_pool2d(pixel_values, 4)[0, 0]
        assert pixel_values.shape == (1, 3, 128, 128)
        right = torch.where(bright > 0, 5.0, -5.0)
        masks = torch.stack([-right, right, torch.full_like(right, -5)])
        if not prompts["multimask_output"]:
            masks = masks[1:2]
        trust = torch.tensor([0.2, 0.9, 0.5])[None, None, : len(masks)]
        return SimpleNamespace(pred_masks=masks[None, None], iou_scores=trust)


def iou(found: np.ndarray) -> float:
    truth = PIXELS[:, :, 0] > 0
    return float((found & truth).sum() / (found | truth).sum())


def test_a_box_and_a_point_are_told_in_the_frame_of_the_network() -> None:
    network = Bright()
    assert iou(sam.mask_from_box(network, PIXELS, BOX)) > 0.9
    expected = torch.tensor(BOX).float() * 128 / 80
    torch.testing.assert_close(network.prompts["input_boxes"][0, 0], expected)
    assert "input_points" not in network.prompts
    assert iou(sam.mask_from_point(network, PIXELS, (40, 20))) > 0.9
    expected = torch.tensor([40.5, 20.5]) * 128 / 80
    torch.testing.assert_close(network.prompts["input_points"][0, 0, 0], expected)
    assert network.prompts["input_labels"].tolist() == [[[1]]]


def test_what_lies_outside_or_is_empty_is_named() -> None:
    with pytest.raises(LociError, match="box 0 0 81 9: expected x0 < x1"):
        sam.mask_from_box(Bright(), PIXELS, (0, 0, 81, 9))
    with pytest.raises(LociError, match="point 80 0: expected inside the picture of 80 x 60"):
        sam.mask_from_point(Bright(), PIXELS, (80, 0))
    with pytest.raises(LociError, match="box 1 1 9 9: no object found there; give a --mask"):
        sam.mask_from_box(Bright(), np.zeros_like(PIXELS), (1, 1, 9, 9))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SAM with random weights."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.SamConfig(
        vision_config={
            "hidden_size": 16,
            "output_channels": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 16,
            "window_size": 2,
            "num_pos_feats": 8,
            "mlp_dim": 16,
            "global_attn_indexes": [0],
        },
        prompt_encoder_config={
            "hidden_size": 16,
            "image_size": 64,
            "patch_size": 16,
            "image_embedding_size": 4,
        },
        mask_decoder_config={
            "hidden_size": 16,
            "mlp_dim": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )
    path = tmp_path_factory.mktemp("sam")
    transformers.SamModel(config).save_pretrained(path)
    return path


def test_a_checkpoint_runs_on_boxes_and_points(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = sam.load_sam(folder)
    forward, seen = network.forward, []

    def half_inside(*args: Any, **kwargs: Any) -> Any:
        """What the network says, less its median: random weights find all of a picture or none."""
        found = forward(*args, **kwargs)
        seen.append(found.pred_masks.shape)
        found.pred_masks = (
            found.pred_masks - found.pred_masks.flatten(2).median(2).values[..., None, None, None]
        )
        return found

    monkeypatch.setattr(network, "forward", half_inside)
    for mask in (
        sam.mask_from_box(network, PIXELS, BOX),
        sam.mask_from_point(network, PIXELS, (40, 20)),
    ):
        assert mask.shape == PIXELS.shape[:2]
        assert mask.dtype == bool
    assert [shape[:3] for shape in seen] == [(1, 1, 1), (1, 1, 3)]


def test_what_is_no_checkpoint_is_named(folder: Path, tmp_path: Path) -> None:
    weights = tmp_path / "sam_vit_b.pth"
    weights.touch()
    other, cut = tmp_path / "other", tmp_path / "cut"
    for path in (other, cut):
        path.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (cut / "config.json").write_bytes((folder / "config.json").read_bytes())
    tensors = (folder / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(tensors[: len(tensors) // 2])
    for path, message in (
        (weights, "sam_vit_b.pth: a file, expected the folder of a SAM"),
        (tmp_path / "none", "none: no such folder, expected the folder"),
        (other, "other: no config.json of one, expected the folder of a SAM"),
        (cut, r"cut: cannot be loaded \(SafetensorError\), expected the folder"),
        (tmp_path, "no config.json of one, expected the folder"),
    ):
        with pytest.raises(LociError, match=message) as caught:
            sam.load_sam(path)
        assert "\n" not in str(caught.value)
