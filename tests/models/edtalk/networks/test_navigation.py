"""Directions and codes."""

import pytest
import torch

from models.edtalk.networks.navigation import Bank, linear_head, orthonormal


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_directions_are_orthonormal_and_span_the_banks() -> None:
    first, second = Bank(512, 26), Bank(512, 10)
    directions = orthonormal(first, second)
    torch.testing.assert_close(directions.T @ directions, torch.eye(36), atol=1e-5, rtol=0)
    weight = torch.cat([first.weight, second.weight], dim=1)
    torch.testing.assert_close(directions @ (directions.T @ weight), weight, atol=1e-4, rtol=0)


def test_the_first_directions_depend_on_the_first_bank_only() -> None:
    first, second = Bank(512, 26), Bank(512, 10)
    alone, together = orthonormal(first), orthonormal(first, second)
    torch.testing.assert_close(together[:, :26], alone, atol=1e-5, rtol=0)


def test_directions_are_q_of_lapacks_qr_of_the_offset_weights() -> None:
    """A zero bank is where the offset decides: all its entries are then 1e-8."""
    bank = Bank(64, 4)
    expected = torch.linalg.qr(bank.weight + 1e-8)[0]
    assert torch.equal(orthonormal(bank), expected)
    # Householder reflections: the first direction points against the first column
    torch.testing.assert_close(expected[:, 0], -bank.weight[:, 0] / bank.weight[:, 0].norm() * bank.weight[0, 0].sign())
    with torch.no_grad():
        bank.weight[:, 0] = 0
    torch.testing.assert_close(orthonormal(bank)[:, 0], torch.full((64,), -1 / 8))


def test_gradients_reach_the_banks() -> None:
    banks = Bank(64, 5), Bank(64, 3)
    probe = torch.randn(64, 8)
    (orthonormal(*banks) * probe).sum().backward()
    for bank in banks:
        assert bank.weight.grad is not None
        assert bank.weight.grad.abs().max() > 0


def test_mixed_precision_leaves_directions_exact() -> None:
    bank = Bank(64, 8)
    with torch.autocast("cpu", torch.bfloat16):
        rough = orthonormal(bank)
    assert torch.equal(rough, orthonormal(bank))


def test_heads_are_affine() -> None:
    head = linear_head(32, 4, 7)
    for layer in head:
        torch.nn.init.normal_(layer.bias)
    a, b = torch.randn(5, 32), torch.randn(5, 32)
    torch.testing.assert_close(head(0.3 * a + 0.7 * b), 0.3 * head(a) + 0.7 * head(b))
    assert head(a).shape == (5, 7)
