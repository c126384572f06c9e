"""Receptive field, condition and mask of the WaveNet."""

import torch

from models.nn.wavenet import WaveNet


def touched(gradient: torch.Tensor | None) -> list[int]:
    assert gradient is not None
    return gradient[0].abs().sum(0).nonzero().flatten().tolist()


def test_the_receptive_field_is_layers_times_half_the_kernel_to_either_side() -> None:
    for kernel, num_layers in ((5, 4), (3, 2), (5, 8)):
        torch.manual_seed(0)
        net = WaveNet(8, kernel, num_layers, 3).double()
        x = torch.randn(1, 8, 81, dtype=torch.float64, requires_grad=True)
        condition = torch.randn(1, 3, 81, dtype=torch.float64, requires_grad=True)
        net(x, condition, torch.ones(1, 1, 81, dtype=torch.float64))[0, :, 40].sum().backward()
        reach = num_layers * (kernel - 1) // 2
        assert touched(x.grad) == list(range(40 - reach, 41 + reach))
        # the condition enters at each layer, and the first layer's reaches one layer less far
        reach -= (kernel - 1) // 2
        assert touched(condition.grad) == list(range(40 - reach, 41 + reach))


def test_masked_steps_neither_give_nor_get() -> None:
    torch.manual_seed(0)
    net = WaveNet(8, 5, 3, 4)
    x, condition = torch.randn(1, 8, 12), torch.randn(1, 4, 12)
    mask = (torch.arange(12) < 7).float()[None, None]
    output = net(x * mask, condition, mask)
    assert not output[:, :, 7:].any()
    other = condition + 9 * (1 - mask)
    torch.testing.assert_close(net(x * mask, other, mask), output)
    short = net(x[:, :, :7], condition[:, :, :7], mask[:, :, :7])
    torch.testing.assert_close(output[:, :, :7], short)
