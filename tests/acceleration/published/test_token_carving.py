import pytest
import torch

from loci.acceleration.published.token_carving import (
    CarvingConfig,
    PaperCarving,
    ReleasedCarving,
    ReleasedSelection,
    most_salient,
    normalized,
    paper_saliency,
)
from loci.flow import sample
from tests.acceleration.toy import Toy, error, run, times, tokens

SCORES = torch.linspace(0, 1, 40)


def test_released_carves_a_tenth_from_the_third_step_on() -> None:
    exact, _ = run(None, start=tokens())
    ours, toy = run(ReleasedCarving(CarvingConfig(threshold=0.1), SCORES), start=tokens())
    assert toy.parts
    assert set(toy.parts) <= {36, 37, 38, 39, 40}  # 40: every candidate was stale
    assert len(toy.evaluated) - len(toy.parts) == 2
    assert len(toy.evaluated) < 25
    assert error(ours, exact) < 0.5


def test_a_token_is_carved_four_times_in_a_row_at_most() -> None:
    select = ReleasedSelection(SCORES)
    masks = torch.stack([select(torch.ones(40, 4), 10) for _ in range(10)])
    assert masks[:4, :10].logical_not().all()
    assert masks[4].all()
    assert masks[5:9, :10].logical_not().all()


def test_paper_evaluates_a_few_tokens_between_refreshes() -> None:
    exact, _ = run(None, start=tokens())
    ours, toy = run(PaperCarving(CarvingConfig("paper", threshold=0.5), SCORES), start=tokens())
    assert set(toy.parts) == {4}
    assert len(toy.evaluated) == 25
    assert len(toy.parts) < 22
    assert toy.evaluated[-1] == pytest.approx(times()[-1].item())
    assert error(ours, exact) < 0.5


@pytest.mark.parametrize("policy", [ReleasedCarving, PaperCarving])
def test_made_afresh_a_policy_does_the_same_again(policy) -> None:
    """Nothing of a run is left in a class, a module or the settings."""
    config = CarvingConfig("paper" if policy is PaperCarving else "released")
    ends = [run(policy(config, SCORES), start=tokens())[0]["latents"] for _ in range(2)]
    assert torch.equal(*ends)


def test_without_partial_evaluation_all_tokens_are_evaluated() -> None:
    toy = Toy()
    policy = PaperCarving(CarvingConfig("paper"), SCORES)
    end = sample(toy, tokens(), times(), policy=policy, end=1.0)
    exact, _ = run(None, start=tokens())
    assert torch.equal(end["latents"], exact["latents"])


def test_whole_blocks_are_evaluated_by_their_most_salient_token() -> None:
    saliency = torch.tensor([0.1, 0.9, 0.8, 0.2, 0.7, 0.3])
    assert most_salient(saliency, 2, None).tolist() == [1, 2]
    blocks = torch.tensor([5, 5, 5, 8, 8, 9])
    assert most_salient(saliency, 2, blocks).tolist() == [0, 1, 2]
    assert most_salient(saliency, 4, blocks).tolist() == [0, 1, 2, 3, 4]


def test_saliency_of_the_paper() -> None:
    velocity, before = torch.tensor([[3.0, 4.0], [0, 0]]), torch.tensor([[3.0, 4.0], [0, 2.0]])
    ours = paper_saliency(velocity, before, torch.tensor([0.0, 1.0]), gamma=0.7)
    assert ours.tolist() == pytest.approx([2.5, 0.7 + 0.5])
    assert normalized(torch.tensor([2.0, 4.0, 3.0])).tolist() == pytest.approx(
        [0, 1, 0.5], abs=1e-5
    )
