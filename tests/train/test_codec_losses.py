"""What each loss of a sharp decoder sees, and what it does not."""

import torch

from loci.objects.models.efficientnet import LiteFeatures
from loci.train.codec_losses import (
    PatchDiscriminator,
    discriminator_loss,
    energy_loss,
    high_pass,
    matching_loss,
    perceptual_loss,
)


def texture(seed: int) -> torch.Tensor:
    return 0.2 * torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def test_high_pass_leaves_nothing_of_a_plain_image() -> None:
    torch.testing.assert_close(high_pass(torch.full((1, 3, 8, 8), 0.7)), torch.zeros(1, 3, 8, 8))
    assert high_pass(texture(0)).std() > 0.1


def test_energy_minds_how_much_texture_there_is_and_not_which() -> None:
    other, smooth = energy_loss(texture(1), texture(0)), energy_loss(0 * texture(1), texture(0))
    assert other < 0.25 * smooth


def test_features_tell_another_picture_from_the_same() -> None:
    torch.manual_seed(0)
    features = LiteFeatures().eval()
    assert perceptual_loss(features, texture(0), texture(0)) == 0
    output = texture(1).requires_grad_()
    loss = perceptual_loss(features, output, texture(0))
    loss.backward()
    assert loss > 0.01
    assert output.grad is not None
    assert output.grad.abs().sum() > 0


def test_a_discriminator_learns_to_tell_texture_from_none() -> None:
    torch.manual_seed(0)
    model = PatchDiscriminator()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    losses = []
    for step in range(30):
        loss = discriminator_loss(model(texture(step))[0], model(0.1 * texture(step))[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    scores, maps = model(texture(99))
    assert scores.mean() > model(0.1 * texture(99))[0].mean()
    assert [m.shape[-1] for m in maps] == [16, 8, 4]
    assert matching_loss(maps, maps) == 0
    assert matching_loss(maps, model(texture(98))[1]) > 0
