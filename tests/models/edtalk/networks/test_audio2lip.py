import torch

from models.edtalk.networks.audio2lip import Audio2Lip


def test_each_window_gives_its_own_codes() -> None:
    torch.manual_seed(0)
    model, windows = Audio2Lip().eval(), torch.randn(2, 5, 1, 80, 16)
    with torch.no_grad():
        codes = model(windows)
        assert codes.shape == (2, 5, 20)
        torch.testing.assert_close(codes[1, 3], model(windows[1, 3][None])[0], atol=1e-5, rtol=1e-4)
        changed = windows.clone()
        changed[0, 2] += 1
        moved = (model(changed) - codes).abs().amax(-1) > 1e-4
    assert moved.nonzero().tolist() == [[0, 2]]


def test_the_encoder_is_frozen_with_its_running_statistics() -> None:
    model = Audio2Lip().train()
    before = {name: value.clone() for name, value in model.audio_encoder.state_dict().items()}
    model(torch.randn(2, 1, 80, 16)).sum().backward()
    assert all(torch.equal(before[name], value) for name, value in model.audio_encoder.state_dict().items())
    trained = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    assert trained == ["mapping.weight", "mapping.bias"]
    assert model.mapping.training


def test_residual_blocks_add_their_input() -> None:
    encoder = Audio2Lip().audio_encoder
    assert [block.is_residual for block in encoder] == [
        False, True, True, False, True, True, False, True, True, False, True, False, False,
    ]  # fmt: skip
    block, x = encoder[1].eval(), torch.randn(1, 32, 80, 16)
    torch.testing.assert_close(block(x), torch.relu(block.conv_block(x) + x))
