import torch

from models.edtalk.networks.syncnet import SyncNet


def test_it_embeds_five_lower_half_faces_and_a_mel_window_as_unit_vectors() -> None:
    model = SyncNet().eval()
    with torch.no_grad():
        audio, image = model(torch.randn(2, 1, 80, 16), torch.rand(2, 15, 48, 96))
    for vectors in (audio, image):
        assert vectors.shape == (2, 512)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))


def test_names_of_its_parts() -> None:
    with torch.device("meta"):
        names = set(SyncNet().state_dict())
    assert {name.split(".conv_block")[0] for name in names} == {
        *(f"face_encoder.{number}" for number in range(17)),
        *(f"audio_encoder.{number}" for number in range(14)),
    }
