import torch

from loci.train.world.degrade import FIRST_DETAIL, fade


def test_a_share_of_the_examples_fades_and_detail_no_less_than_color() -> None:
    latents = torch.ones(4000, 6, 2, 2)
    faded = fade(latents, 0.4, torch.Generator().manual_seed(0))
    color, detail = faded[:, 0, 0, 0], faded[:, -1, 0, 0]
    assert torch.equal(faded[:, :FIRST_DETAIL], color.view(-1, 1, 1, 1).expand(-1, 3, 2, 2))
    assert (detail <= color).all()
    assert (faded >= 0).all()
    assert 0.25 < (color < 1).float().mean() < 0.4  # one window each: by window an even chance
    assert (detail < color).float().mean() > 0.25


def test_windows_of_an_example_fade_alike_or_each_by_itself() -> None:
    latents = torch.ones(500, 5, 8, 4, 1, 1)
    faded = fade(latents, 1.0, torch.Generator().manual_seed(0))[..., 0, 0, 0]
    assert torch.equal(faded, faded[..., :1].expand_as(faded))  # all frames of a window alike
    factors = faded[..., 0]
    alike = (factors == factors[:, :1]).all(dim=1)
    assert 0.4 < alike.float().mean() < 0.6
    assert (factors[alike] < 1).float().mean() > 0.9  # the rest: no window touched, by chance
    whole = (factors[~alike] == 1).float().mean()
    assert 0.3 < whole < 0.7


def test_without_a_chance_nothing_is_touched() -> None:
    latents = torch.randn(2, 3, 8, 4, 1, 1)
    assert fade(latents, 0.0) is latents
