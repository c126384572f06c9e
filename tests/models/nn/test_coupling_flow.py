"""The flow is invertible, preserves volumes, and starts as the identity up to the order of the channels."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.nn.coupling_flow import CouplingFlow


def trained_looking(num_channels: int, num_flows: int = 4, num_hidden: int = 64) -> CouplingFlow:
    """A flow whose couplings shift, as after training."""
    torch.manual_seed(0)
    flow = CouplingFlow(num_channels, 5, num_flows, num_hidden)
    for name, weight in flow.named_parameters():
        if "leave" in name:
            nn.init.normal_(weight, std=0.5)
    return flow


def test_forward_then_inverse_is_the_identity() -> None:
    flow = trained_looking(16)
    latents, condition = torch.randn(3, 16, 20), torch.randn(3, 5, 20)
    mask = (torch.arange(20) < torch.tensor([20, 13, 1])[:, None])[:, None].float()
    noise = flow(latents * mask, condition, mask)
    assert (noise - latents * mask).abs().max() > 0.5
    torch.testing.assert_close(flow.inverse(noise, condition, mask), latents * mask, atol=1e-5, rtol=0)
    torch.testing.assert_close(flow(flow.inverse(latents * mask, condition, mask), condition, mask), latents * mask,
                               atol=1e-5, rtol=0)  # fmt: skip


def log_det(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    jacobian = torch.autograd.functional.jacobian(function, x)
    assert isinstance(jacobian, Tensor)
    return torch.linalg.slogdet(jacobian.reshape(x.numel(), x.numel())).logabsdet


def test_the_log_determinant_of_the_jacobian_is_zero() -> None:
    flow = trained_looking(4, num_flows=3, num_hidden=8).double()
    condition, mask = torch.randn(1, 5, 6).double(), torch.ones(1, 1, 6).double()
    latents = torch.randn(1, 4, 6).double()
    assert abs(log_det(lambda x: flow(x, condition, mask), latents)) < 1e-9
    assert abs(log_det(lambda x: flow.inverse(x, condition, mask), latents)) < 1e-9


def test_the_condition_and_the_other_half_decide_the_shift() -> None:
    flow = trained_looking(4, num_flows=1, num_hidden=8)
    latents, condition, mask = torch.randn(1, 4, 9), torch.randn(1, 5, 9), torch.ones(1, 1, 9)
    noise = flow(latents, condition, mask).flip(1)
    assert torch.equal(noise[:, :2], latents[:, :2])
    shift = noise[:, 2:] - latents[:, 2:]
    assert not torch.allclose((flow(latents, condition + 1, mask).flip(1) - latents)[:, 2:], shift)
    moved = latents + torch.tensor([0.0, 0.0, 3.0, 3.0])[None, :, None]
    torch.testing.assert_close((flow(moved, condition, mask).flip(1) - moved)[:, 2:], shift, atol=1e-5, rtol=0)


def test_a_new_flow_only_reorders_channels() -> None:
    flow = CouplingFlow(16, 5, num_flows=4)
    latents = torch.randn(2, 16, 7)
    assert torch.equal(flow(latents, torch.randn(2, 5, 7), torch.ones(2, 1, 7)), latents)
