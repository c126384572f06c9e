"""The sync loss is the closed form, looks at the right pixels, and at the audio that begins with its first frame."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.edtalk.networks.syncnet import SyncNet
from models.edtalk.training.sync_loss import WINDOW_LEAD_FRAMES, SyncLoss, cosine_bce, face_crops, syncnet_faces
from models.edtalk.weights import wav2lip
from models.edtalk.weights.wav2lip import is_at_hand, load_wav2lip
from storage import weights
from storage.errors import WeightsError
from storage.timelaw import mel_windows
from tasks.features.mel import edtalk_mel


class Embeddings(nn.Module):
    """A SyncNet with fixed embeddings; the mouth's vector depends on the image's mean."""

    def __init__(self, audio: Tensor, mouth: Tensor) -> None:
        super().__init__()
        self.audio, self.mouth = nn.Parameter(audio), nn.Parameter(mouth)

    def forward(self, mel: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
        return self.audio, functional.normalize(self.mouth + 0 * faces.mean(), dim=1)


def test_the_loss_is_minus_the_log_of_the_cosine() -> None:
    angles = torch.tensor([0.1, 0.7, 1.3])
    audio = torch.tensor([[1.0, 0.0]]).expand(3, 2)
    mouth = torch.stack([angles.cos(), angles.sin()], dim=1)
    together, apart = (cosine_bce(audio, mouth, torch.full((3,), value)) for value in (1.0, 0.0))
    torch.testing.assert_close(together, -angles.cos().log())
    torch.testing.assert_close(apart, -(1 - angles.cos()).log())
    loss = SyncLoss(Embeddings(audio, mouth))  # pyright: ignore[reportArgumentType]
    counted = torch.tensor([True, False, True])
    faces, mel = torch.zeros(3, 5, 3, 96, 96), torch.zeros(3, 1, 80, 16)
    expected = -(math.log(math.cos(0.1)) + math.log(math.cos(1.3))) / 2
    assert loss(faces, mel, counted).item() == pytest.approx(expected, rel=1e-5)
    assert loss(faces, mel, torch.zeros(3, dtype=torch.bool)) == 0


def test_vectors_that_share_nothing_have_a_finite_gradient() -> None:
    mouth = torch.tensor([[0.0, 1.0]], requires_grad=True)
    loss = cosine_bce(torch.tensor([[1.0, 0.0]]), mouth, torch.ones(1))
    loss.sum().backward()
    assert math.isfinite(loss.item())
    assert mouth.grad is not None
    assert torch.isfinite(mouth.grad).all()


def test_the_faces_learn_and_the_judge_does_not() -> None:
    torch.manual_seed(0)
    judge = SyncNet()
    before = {name: value.clone() for name, value in judge.state_dict().items()}
    loss = SyncLoss(judge.train())
    faces = torch.rand(1, 5, 3, 96, 96, requires_grad=True)
    value = loss(faces, torch.randn(1, 1, 80, 16), torch.ones(1, dtype=torch.bool))
    audio, mouth = judge(torch.randn(1, 1, 80, 16), syncnet_faces(faces))
    assert (audio.min(), mouth.min()) >= (0, 0), "ReLU embeddings: the cosine is in 0..1"
    value.backward()
    assert faces.grad is not None
    assert faces.grad[..., 48:, :].abs().max() > 0
    assert faces.grad[..., :48, :].abs().max() == 0, "the upper half is not looked at"
    assert all(parameter.grad is None for parameter in judge.parameters())
    assert all(torch.equal(value, before[name]) for name, value in judge.state_dict().items())


def test_syncnet_sees_bgr_from_0_to_1_of_the_lower_half_frame_by_frame() -> None:
    faces = torch.zeros(1, 5, 3, 96, 96)
    for frame in range(5):
        for channel in range(3):
            faces[0, frame, channel, 48:] = (10 * frame + channel) / 100
    faces[..., :48, :] = 1
    seen = syncnet_faces(faces)
    assert seen.shape == (1, 15, 48, 96)
    expected = [(1 + (10 * frame + channel) / 100) / 2 for frame in range(5) for channel in (2, 1, 0)]
    assert seen[0, :, 0, 0].tolist() == pytest.approx(expected)
    assert seen[0, :, -1, -1].tolist() == pytest.approx(expected)


def test_crops_show_what_lies_in_the_box() -> None:
    # a image whose pixels say where they are: the centre of column k lies at (k + 0.5) / 64 of the width
    line = (torch.arange(64) + 0.5) / 64
    image = torch.stack([line.expand(64, 64), line[:, None].expand(64, 64)])[None]
    left, top, right, bottom = 0.25, 0.125, 0.75, 0.5
    crop = face_crops(image, torch.tensor([[left, top, right, bottom]]))
    steps = (torch.arange(96) + 0.5) / 96
    torch.testing.assert_close(crop[0, 0], (left + steps * (right - left)).expand(96, 96), atol=1e-6, rtol=0)
    torch.testing.assert_close(crop[0, 1], (top + steps * (bottom - top))[:, None].expand(96, 96), atol=1e-6, rtol=0)


def test_the_whole_image_at_96_px_is_itself() -> None:
    image = torch.rand(2, 3, 96, 96)
    crop = face_crops(image, torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(2, 4))
    torch.testing.assert_close(crop, image, atol=1e-5, rtol=0)


@pytest.mark.parametrize("event_frame", [10, 14, 21])
def test_five_frames_hear_the_clap_in_their_own_time(event_frame: int) -> None:
    """A clap in the middle of a frame is in the windows of the spans that hold the frame, and in no other."""
    num_frames = 40
    audio = np.zeros(640 * num_frames, np.float32)
    audio[640 * event_frame + 320] = 1
    windows = mel_windows(edtalk_mel(audio), num_frames)

    def is_heard(frame: int) -> bool:
        # the spectrum of a column reaches 25 ms to either side: what counts is where the clap is loudest
        columns = windows[frame].mean(axis=1)
        return bool(columns.max() > windows.mean(axis=2).max() - 0.1)

    spans = [first for first in range(num_frames - 4) if is_heard(first + WINDOW_LEAD_FRAMES)]
    assert spans == [first for first in range(num_frames - 4) if first <= event_frame <= first + 4]
    # paired with the window of their own first frame, as released, they hear what was two frames earlier
    early = [first for first in range(num_frames - 4) if is_heard(first)]
    assert early == [first + 2 for first in spans]


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """storage/weights.toml with entries for files of Wav2Lip in an empty folder; the path of its own weights."""
    entry = 'file = "w.pth"\nurl = ""\npage = "p"\nsha256 = ""\nbytes = 1\nlicence = "l"\nis_noncommercial = true\n'
    listing = tmp_path / "weights.toml"
    others = entry.replace("w.pth", "s.pth")
    listing.write_text(f'[wav2lip]\n{entry}used_by = "tests"\n[wav2lip_syncnet]\n{others}used_by = "tests"\n')
    monkeypatch.setattr(weights, "LIST", listing)
    monkeypatch.setenv("TALKSET_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TALKSET_ALLOW_DOWNLOAD", raising=False)
    return tmp_path / "w.pth"


def test_a_part_of_a_published_file_is_loaded(listed: Path) -> None:
    reference, target = nn.Linear(3, 2), nn.Linear(3, 2)
    state = {f"module.audio_encoder.{name}": value for name, value in reference.state_dict().items()}
    torch.save({"state_dict": state | {"module.other": torch.zeros(1)}, "global_step": 5, "optimizer": None}, listed)
    assert is_at_hand(wav2lip.AUDIO_ENCODER)
    load_wav2lip(wav2lip.AUDIO_ENCODER, target, "audio_encoder.")
    assert torch.equal(reference.weight, target.weight)
    assert torch.equal(reference.bias, target.bias)


def test_weights_that_cannot_be_had_are_one_clear_line(listed: Path) -> None:
    assert not is_at_hand(wav2lip.AUDIO_ENCODER)
    assert not is_at_hand(wav2lip.SYNCNET)
    with pytest.raises(WeightsError, match="weights 'wav2lip' not found"):
        load_wav2lip(wav2lip.AUDIO_ENCODER, nn.Linear(1, 1))
    torch.save({"state_dict": {"a": torch.zeros(1)}}, listed)
    with pytest.raises(WeightsError, match="missing"):
        load_wav2lip(wav2lip.AUDIO_ENCODER, nn.Linear(1, 1))
    listed.write_bytes(b"broken")
    with pytest.raises(WeightsError, match="not a checkpoint of Wav2Lip"):
        load_wav2lip(wav2lip.AUDIO_ENCODER, nn.Linear(1, 1))
