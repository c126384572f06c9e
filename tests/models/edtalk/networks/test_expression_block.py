"""Expression blocks."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from models.edtalk.networks.expression_block import AdaptiveNorm, ExpressionBlock


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def run(block: ExpressionBlock, features: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
    return block(features, block.prepare(features), condition)


def test_the_first_convolution_and_norm_have_no_effect() -> None:
    block, features, condition = ExpressionBlock(6, 16), torch.randn(2, 6, 8, 8), torch.randn(2, 16)
    before = run(block, features, condition)
    for unused in (block.conv1, block.norm1):
        for parameter in unused.parameters():
            nn.init.zeros_(parameter)
    assert torch.equal(run(block, features, condition), before)


def test_the_second_convolution_reads_the_blocks_input() -> None:
    block, features, condition = ExpressionBlock(6, 16), torch.randn(2, 6, 8, 8), torch.randn(2, 16)
    hidden = torch.relu(functional.linear(condition, block.norm2.mlp_shared[0].weight, block.norm2.mlp_shared[0].bias))
    gamma, beta = block.norm2.mlp_gamma(hidden), block.norm2.mlp_beta(hidden)
    convolved = functional.conv2d(features, block.conv2.weight, block.conv2.bias, padding=1)
    mean, spread = convolved.mean((2, 3), keepdim=True), convolved.var((2, 3), correction=0, keepdim=True)
    normal = (convolved - mean) / torch.sqrt(spread + 1e-5)
    expected = features + normal * (1 + gamma[..., None, None]) + beta[..., None, None]
    torch.testing.assert_close(run(block, features, condition), expected, atol=1e-5, rtol=1e-4)


def test_one_prepared_reference_serves_many_expressions() -> None:
    block, features, conditions = ExpressionBlock(6, 16), torch.randn(1, 6, 8, 8), torch.randn(3, 16)
    together = run(block, features, conditions)
    alone = torch.cat([run(block, features, condition[None]) for condition in conditions])
    torch.testing.assert_close(together, alone)
    assert not torch.allclose(together[0], together[1])


def test_the_norm_sets_mean_and_spread_by_the_condition() -> None:
    norm, condition = AdaptiveNorm(3, 16), torch.randn(1, 16)
    normal = functional.instance_norm(torch.randn(1, 3, 32, 32))
    out = norm(normal, condition)
    hidden = norm.mlp_shared(condition)
    torch.testing.assert_close(out.mean((2, 3)), norm.mlp_beta(hidden), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.std((2, 3)), (1 + norm.mlp_gamma(hidden)).abs(), atol=1e-2, rtol=0)
