"""The flow is a density: invertible, its determinant that of autograd, its likelihood the closed form, its samples alike
the data."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.edtalk.networks.pose_flow import PoseFlow, PoseFlowSize, PoseStatistics, pose_noise, pose_statistics
from models.edtalk.networks.speech_encoder import SpeechSize
from storage.errors import ConfigError

SMALL = PoseFlowSize(speech=SpeechSize(width=16, num_layers=1), num_history=4, num_flows=2, num_hidden=8,
                     dropout=0.1)  # fmt: skip
NUM_CODES = 4
# of the AR(1) process: next = MEMORY * last + SIGMA * noise
MEMORY, SIGMA = 0.9, 0.2


def trained_looking(size: PoseFlowSize = SMALL) -> PoseFlow:
    """A flow whose parts all do something, as after training."""
    torch.manual_seed(0)
    statistics = PoseStatistics(torch.zeros(NUM_CODES), torch.rand(NUM_CODES) + 1, torch.rand(NUM_CODES) + 0.2,
                                torch.full((NUM_CODES,), 1e6))  # fmt: skip
    flow = PoseFlow(statistics, size).eval()
    for name, weight in flow.named_parameters():
        if any(part in name for part in ("leave", "gauss", "linear")):
            nn.init.normal_(weight, std=0.3)
    return flow


def windows(batch_size: int, num_frames: int) -> Tensor:
    return torch.randn(batch_size, num_frames, 1, 80, 16)


def test_noise_gives_back_the_motion_it_was_made_of() -> None:
    flow, motion = trained_looking(), torch.randn(2, 15, NUM_CODES)
    with torch.no_grad():
        speech = flow.speech(windows(2, 15))
        noise, _ = flow.noise_of(motion, speech)
        first = torch.zeros(2, 1, NUM_CODES)
        back = flow.sample(speech, torch.cat([first, noise], dim=1), motion[:, 0])
    torch.testing.assert_close(back, motion, atol=2e-4, rtol=0)


def test_the_determinant_is_that_of_the_jacobian() -> None:
    flow = trained_looking().double()
    motion, speech = torch.randn(1, 6, NUM_CODES).double(), flow.speech(windows(1, 6).double())

    def noise(later: Tensor) -> Tensor:
        return flow.noise_of(torch.cat([motion[:, :1], later.view(1, 5, NUM_CODES)], dim=1), speech)[0].flatten()

    jacobian = torch.autograd.functional.jacobian(noise, motion[:, 1:].flatten())
    expected = torch.linalg.slogdet(jacobian).logabsdet  # pyright: ignore[reportArgumentType]
    _, log_det = flow.noise_of(motion, speech)
    torch.testing.assert_close(log_det.sum(), expected, atol=1e-8, rtol=0)
    # what comes later does not matter to a frame: the Jacobian is block triangular, each frame a density of its own
    blocks = jacobian.reshape(5, NUM_CODES, 5, NUM_CODES)  # pyright: ignore[reportAttributeAccessIssue]
    assert all(blocks[t, :, later].abs().max() == 0 for t in range(5) for later in range(t + 1, 5))
    own = torch.stack([torch.linalg.slogdet(blocks[t, :, t]).logabsdet for t in range(5)])
    torch.testing.assert_close(log_det[0].sum(-1), own, atol=1e-8, rtol=0)


def test_the_density_of_one_frame_integrates_to_one() -> None:
    """Summed over a grid of values of a frame with two codes."""
    torch.manual_seed(1)
    ones = torch.ones(2)
    flow = PoseFlow(PoseStatistics(0 * ones, ones, ones, 9 * ones), SMALL).eval()
    for name, weight in flow.named_parameters():
        if any(part in name for part in ("leave", "gauss", "linear")):
            nn.init.normal_(weight, std=0.3)
    line = torch.linspace(-12, 12, 161)
    grid = torch.cartesian_prod(line, line)
    start = torch.tensor([0.3, -0.2]).expand(len(grid), 2)
    audio = windows(1, 2).expand(len(grid), -1, -1, -1, -1)
    with torch.no_grad():
        density = flow(torch.stack([start, grid], dim=1), audio)[:, 0].exp()
    assert (density.sum() * (line[1] - line[0]) ** 2).item() == pytest.approx(1, abs=0.01)


def ar1(num_clips: int, num_frames: int, seed: int) -> list[NDArray[np.float32]]:
    """Clips [N, 2] of a stationary AR(1) process in both codes; the second has ten times the size of the first."""
    rng = np.random.default_rng(seed)
    state = rng.normal(0, SIGMA / math.sqrt(1 - MEMORY**2), (num_clips, 2))
    frames = []
    for _ in range(num_frames):
        frames.append(state)
        state = MEMORY * state + SIGMA * rng.normal(size=state.shape)
    return list((np.stack(frames, axis=1) * (1, 10)).astype(np.float32))


@cache
def test_statistics_leave_frames_without_a_face_out() -> None:
    clips = ar1(3, 60, seed=1)
    expected, gap = pose_statistics(clips), [20, 21, 22]
    kept = np.setdiff1d(np.arange(60), gap)
    mean = clips[0][kept].mean(axis=0)
    clips[0][gap] = np.nan
    found = pose_statistics(clips)
    means = [mean, *(own.mean(axis=0) for own in clips[1:])]
    motion = np.concatenate([clips[0][kept] - mean, *(own - own.mean(axis=0) for own in clips[1:])])
    changes = np.concatenate([np.diff(part, axis=0) for part in (clips[0][:20], clips[0][23:], *clips[1:])])
    np.testing.assert_allclose(found.rest, np.mean(means, axis=0), rtol=1e-4)
    np.testing.assert_allclose(found.spread, np.sqrt(np.square(motion).mean(axis=0)), rtol=1e-4)
    np.testing.assert_allclose(found.step, changes.std(axis=0), rtol=1e-4)
    np.testing.assert_allclose(found.reach, np.abs(motion).max(axis=0), rtol=1e-4)
    assert not torch.equal(found.spread, expected.spread)


def fitted() -> tuple[PoseFlow, list[float]]:
    """A flow fitted to the AR(1) process, and the nats per number of each step's fresh data."""
    torch.manual_seed(0)
    flow = PoseFlow(pose_statistics(ar1(8, 500, seed=1)), SMALL)
    optimizer = torch.optim.Adam(flow.parameters(), lr=5e-3)
    losses = []
    for step in range(150):
        motion = torch.from_numpy(np.stack(ar1(16, 60, seed=2 + step)))
        loss = -flow(motion, windows(16, 60)).mean() / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return flow.eval(), losses


def test_the_likelihood_of_an_ar1_process_reaches_its_closed_form() -> None:
    flow, losses = fitted()
    # entropy of a normal variable; the second code is ten times larger
    entropy = 0.5 * math.log(2 * math.pi * math.e * SIGMA**2) + math.log(10) / 2
    with torch.no_grad():
        found = -flow(torch.from_numpy(np.stack(ar1(64, 200, seed=9999))), windows(64, 200)).mean().item() / 2
    assert losses[0] > entropy + 0.01
    assert found == pytest.approx(entropy, abs=0.02)
    assert found > entropy - 0.005, "no model can do better than the truth"


def test_samples_move_as_much_and_as_smoothly_as_the_data() -> None:
    flow, _ = fitted()
    torch.manual_seed(3)
    with torch.no_grad():
        drawn = flow.sample(flow.speech(windows(64, 300)), pose_noise(64, 300, 2))[:, 50:]
    true = torch.from_numpy(np.stack(ar1(64, 300, seed=77)))[:, 50:]
    for code in range(2):
        ours, theirs = drawn[..., code], true[..., code]
        assert (ours.std() / theirs.std()).item() == pytest.approx(1, abs=0.1)
        assert (ours.diff(dim=1).std() / theirs.diff(dim=1).std()).item() == pytest.approx(1, abs=0.05)
        memory = (ours[:, 1:] * ours[:, :-1]).mean() / ours.square().mean()
        assert memory.item() == pytest.approx(MEMORY, abs=0.03)
        # three frames on an AR(1) process remembers the third power
        memory = (ours[:, 3:] * ours[:, :-3]).mean() / ours.square().mean()
        assert memory.item() == pytest.approx(MEMORY**3, abs=0.05)


def test_the_temperature_scales_the_motion() -> None:
    flow, _ = fitted()
    with torch.no_grad():
        speech, noise = flow.speech(windows(32, 200)), pose_noise(32, 200, 2)
        full, half, none = (flow.sample(speech, noise * heat)[:, 50:] for heat in (1.0, 0.5, 0.0))
    assert (half.std() / full.std()).item() == pytest.approx(0.5, abs=0.1)
    assert none.std() < 0.2 * full.std()


def test_the_sound_decides_where_it_decides() -> None:
    """Heads that nod with the loudness: samples for new audio follow it."""
    rng = np.random.default_rng(0)

    def clips(num: int, num_frames: int) -> tuple[Tensor, Tensor]:
        loud = np.convolve(rng.normal(size=num * num_frames + 20), np.hanning(15) / 3, mode="same")
        loud = torch.from_numpy(loud[10:-10].reshape(num, num_frames)).float()
        audio = loud[..., None, None, None].expand(-1, -1, 1, 80, 16)
        steady = torch.from_numpy(rng.normal(0, 0.1, (num, num_frames, 1))).float()
        return torch.cat([loud[..., None] + 0.1 * torch.randn(num, num_frames, 1), steady], dim=2), audio

    torch.manual_seed(0)
    motion, _ = clips(8, 100)
    flow = PoseFlow(pose_statistics([clip.numpy() for clip in motion]), SMALL)
    optimizer = torch.optim.Adam(flow.parameters(), lr=5e-3)
    for _ in range(120):
        motion, audio = clips(8, 60)
        loss = -flow(motion, audio).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    motion, audio = clips(8, 100)
    with torch.no_grad():
        drawn = flow.eval().sample(flow.speech(audio), pose_noise(8, 100, 2))
    together = torch.corrcoef(torch.stack([drawn[..., 0].flatten(), motion[..., 0].flatten()]))[0, 1]
    assert together > 0.8
    assert torch.corrcoef(torch.stack([drawn[..., 1].flatten(), motion[..., 0].flatten()]))[0, 1].abs() < 0.2


def test_a_longer_sample_begins_like_a_shorter_one() -> None:
    short, long = (pose_noise(1, frames, 6, torch.Generator().manual_seed(5)) for frames in (20, 90))
    assert torch.equal(long[:, :20], short)


def test_no_sample_leaves_the_range_that_was_seen() -> None:
    flow = trained_looking()
    flow.reach.fill_(0.5)
    with torch.no_grad():
        drawn = flow.sample(flow.speech(windows(2, 50)), 10 * pose_noise(2, 50, NUM_CODES))
    assert drawn.abs().max().item() == pytest.approx(0.5)


def test_statistics_are_those_about_each_clips_mean() -> None:
    rng = np.random.default_rng(0)
    clips = [(rng.normal(size=(n, 2)).cumsum(axis=0) * (1, 3) + offset).astype(np.float32)
             for n, offset in ((50, 5), (80, -20))]  # fmt: skip
    found = pose_statistics(clips)
    about = np.concatenate([clip - clip.mean(axis=0) for clip in clips])
    steps = np.concatenate([np.diff(clip, axis=0) for clip in clips])
    np.testing.assert_allclose(found.rest, (clips[0].mean(axis=0) + clips[1].mean(axis=0)) / 2, rtol=1e-5)
    np.testing.assert_allclose(found.spread, np.sqrt(np.square(about).mean(axis=0)), rtol=1e-5)
    np.testing.assert_allclose(found.step, steps.std(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.reach, np.abs(about).max(axis=0), rtol=1e-5)
    with pytest.raises(ConfigError, match="3, must be even"):
        pose_statistics([np.zeros((5, 3), np.float32)])


def test_the_network_is_told_by_its_tensors() -> None:
    size = PoseFlowSize(
        speech=SpeechSize(width=12, num_layers=5), num_history=7, num_flows=3, num_hidden=6, num_layers=4
    )
    flow, motion, audio = trained_looking(size), torch.randn(1, 9, NUM_CODES), windows(1, 9)
    again = PoseFlow.of(flow.state_dict())
    assert torch.equal(flow(motion, audio), again(motion, audio))
