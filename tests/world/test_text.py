"""Prompts: cleaning, padding, and the text encoder on disk."""

import json
from pathlib import Path

import pytest
import torch

from loci.errors import LociError
from loci.world.text import NEGATIVE_PROMPT, TextEncoder, TextEncoderConfig, cleaned, load_tokenizer

pytest.importorskip("transformers", reason="the extra `text` is not installed")

TINY = TextEncoderConfig(
    vocabulary=60, dim=16, heads=2, head_dim=8, ffn_dim=24, layers=2, length=12
)


class Letters:
    """Stands for the tokenizer: one token a letter, 1 at the end, 0 as padding."""

    def __call__(self, prompts: list[str], max_length: int, **asked: object):
        assert asked["padding"] == "max_length"
        assert asked["truncation"]
        rows = [[2 + ord(c) % 50 for c in text][: max_length - 1] + [1] for text in prompts]
        ids = torch.tensor([row + [0] * (max_length - len(row)) for row in rows])
        return type("Tokens", (), {"input_ids": ids, "attention_mask": (ids != 0).long()})


def encoder(tokenizer: object = None) -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(TINY, tokenizer).eval()


@pytest.mark.parametrize(
    ("prompt", "clean"),
    [
        ("  a   quiet\n\troom ", "a quiet room"),
        ("fish &amp;amp; chips", "fish & chips"),
        ("the cafÃ©", "the café"),
        ("Kept: Case, and punctuation!", "Kept: Case, and punctuation!"),
    ],
)
def test_cleaning(prompt: str, clean: str) -> None:
    assert cleaned(prompt) == clean


def test_the_negative_prompt_is_clean() -> None:
    assert cleaned(NEGATIVE_PROMPT) == NEGATIVE_PROMPT


def test_prompts_are_padded_to_one_length() -> None:
    prompt = encoder(Letters()).encode(["room", "a very long corridor"])
    assert prompt.states.shape == (2, 12, 16)
    assert prompt.states.dtype == torch.float32
    assert prompt.mask.sum(1).tolist() == [5, 12]


def test_padding_does_not_change_the_words() -> None:
    short = encoder()(torch.tensor([[5, 6, 1]]), torch.ones(1, 3, dtype=torch.long))
    ids, mask = torch.tensor([[5, 6, 1, 0, 0]]), torch.tensor([[1, 1, 1, 0, 0]])
    torch.testing.assert_close(encoder()(ids, mask)[:, :3], short)


def test_without_a_tokenizer() -> None:
    with pytest.raises(LociError, match="without its tokenizer"):
        encoder().encode(["room"])


def test_a_folder_that_holds_no_encoder(tmp_path: Path) -> None:
    with pytest.raises(LociError, match="expected a UMT5 encoder"):
        TextEncoder.from_pretrained(tmp_path)


def test_saved_and_loaded_with_a_real_tokenizer(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "words")
    encoder(load_tokenizer(tmp_path / "words")).save_pretrained(tmp_path / "saved")
    loaded = TextEncoder.from_pretrained(tmp_path / "saved")
    prompt = loaded.encode(["a room"])
    assert prompt.states.shape == (1, 512, 16)
    words = int(prompt.mask.sum())
    ids = loaded.tokenizer(["a room"]).input_ids[0]
    assert len(ids) == words
    assert ids[-1] == loaded.tokenizer.eos_token_id


def write_tokenizer(folder: Path) -> None:
    """A tokenizer in the published layout that knows a few letters."""
    from tokenizers import Tokenizer
    from tokenizers.models import Unigram

    folder.mkdir()
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *"amor"]
    vocabulary = [(piece, 0.0 if piece.startswith("<") else -1.0) for piece in pieces]
    Tokenizer(Unigram(vocabulary, unk_id=2)).save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def test_encoded_prompts_are_kept_by_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = encoder(Letters())
    prompt = first.encode_cached(["a room"], tmp_path)
    other = encoder(Letters())
    with torch.no_grad():
        next(other.parameters()).add_(1)
    changed = other.encode_cached(["a room"], tmp_path)
    assert not torch.equal(changed.states, prompt.states)
    assert len(list(tmp_path.iterdir())) == 2

    def never(prompts: list[str]) -> None:
        raise AssertionError("encoded again")

    monkeypatch.setattr(first, "encode", never)
    again = first.encode_cached(["  a   room"], tmp_path)
    assert torch.equal(again.states, prompt.states)
    assert torch.equal(again.mask, prompt.mask)
    with pytest.raises(AssertionError, match="encoded again"):
        first.encode_cached(["a house"], tmp_path)
