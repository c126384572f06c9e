import pytest
import torch

from models.edtalk.networks.discriminator import Discriminator, append_batch_deviation
from models.edtalk.networks.shape import Shape


@pytest.mark.parametrize(("batch", "group"), [(1, 1), (2, 2), (3, 3), (4, 4), (6, 3), (8, 4), (5, 1)])
def test_the_added_channel_is_the_mean_deviation_of_each_group(batch: int, group: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(batch, 3, 4, 4)
    out = append_batch_deviation(x)
    assert torch.equal(out[:, :3], x)
    stride = batch // group
    for first in range(stride):
        members = range(first, batch, stride)
        spread = torch.stack([x[i] for i in members])
        expected = torch.sqrt(((spread - spread.mean(0)) ** 2).mean(0) + 1e-8).mean()
        for member in members:
            torch.testing.assert_close(out[member, 3], expected.expand(4, 4))


def test_scores_are_one_per_image_and_depend_on_it() -> None:
    torch.manual_seed(0)
    model, images = Discriminator(Shape(size_px=32, width=1 / 32)), torch.rand(4, 3, 32, 32)
    scores = model(images)
    assert scores.shape == (4, 1)
    changed = images.clone()
    changed[2] = -changed[2]
    assert model(changed)[2] != scores[2]
