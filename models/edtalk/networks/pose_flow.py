"""PoseFlow: head motion from audio, as a distribution: p(pose of a frame | poses before it, audio around it).

A conditional normalising flow over one frame at a time, as MoGlow (Henter et al., "MoGlow: Probabilistic and
Controllable Motion Synthesis Using Normalising Flows", SIGGRAPH Asia 2020). A frame's change is first standardised by a
mean and a spread that depend on the audio and the last frames, then coupling layers (Dinh et al., "NICE", 2014) turn
the result into unit normal noise. Sampling runs the other way, frame after frame, each with noise of its own.

Motion is the pose codes less those at rest: in training the mean of the clip, in use those of the portrait, so that
the head moves about where the portrait has it. The first frame is given; the frames before it are taken to equal it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from models.edtalk.networks.speech_encoder import SpeechEncoder, SpeechSize
from models.nn.coupling_flow import CouplingFlow
from models.nn.standardiser import MIN_STD, Moments, Standardiser
from models.nn.stylegan import no_autocast
from storage.errors import ConfigError

# Bounds of the logarithm of the spread, in units of the usual step; without them a clip that stands still would have
# an infinite density.
MAX_LOG_STD = 6.0
_BLOCK = 16


class PoseFlowSize(BaseModel):
    """Sizes of a PoseFlow.

    Attributes:
        speech: sizes of the audio encoder.
        num_history: previous frames that a frame depends on.
        num_flows, num_hidden, num_layers: sizes of the coupling layers.
        dropout: dropout rate of the encoded audio and of the condition; a flow that overfits a few clips has too
            small a spread, and moves too little.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    speech: SpeechSize = SpeechSize(width=128)
    num_history: int = Field(default=12, ge=2)
    num_flows: PositiveInt = 4
    num_hidden: PositiveInt = 64
    num_layers: PositiveInt = 2
    dropout: float = Field(default=0.5, ge=0, lt=1)


@dataclass(frozen=True, slots=True)
class PoseStatistics:
    """Statistics of the training clips' pose codes.

    Attributes:
        rest: [C] mean of the clips' means.
        spread: [C] root mean square of the codes about their clip's mean.
        step: [C] standard deviation of their change from frame to frame.
        reach: [C] largest distance from the clip's mean.
    """

    rest: Tensor
    spread: Tensor
    step: Tensor
    reach: Tensor


def pose_statistics(codes: Sequence[NDArray[np.float32]]) -> PoseStatistics:
    """The statistics of pose codes [N, C] of some clips, all with finite frames; frames with NaN do not count.

    Raises:
        ConfigError: C is odd.
    """
    num_codes = codes[0].shape[1]
    if num_codes % 2:
        raise ConfigError(f"the flow halves the pose codes; their number, {num_codes}, must be even")
    spread, step, reach = Moments(num_codes), Moments(num_codes), np.zeros(num_codes)
    means = [np.nanmean(own, axis=0) for own in codes]
    for own, mean in zip(codes, means, strict=True):
        motion = _known(own - mean)
        spread.add(motion)
        step.add(_known(np.diff(own, axis=0)))
        reach = np.maximum(reach, np.abs(motion).max(axis=0))
    rest = np.mean(means, axis=0)
    return PoseStatistics(
        torch.from_numpy(rest).float(), spread.standardiser(is_centred=False).std, step.standardiser().std,
        torch.from_numpy(np.maximum(reach, MIN_STD)).float(),
    )  # fmt: skip


def _known(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The finite ones of rows [n, C]."""
    return rows[np.isfinite(rows).all(axis=1)]


class PoseFlow(nn.Module):
    """The distribution of the pose codes of a frame.

    Args:
        statistics: those of the training clips.
        size: sizes.
    """

    rest: Tensor
    step: Tensor
    reach: Tensor

    def __init__(self, statistics: PoseStatistics, size: PoseFlowSize) -> None:
        super().__init__()
        self.register_buffer("rest", statistics.rest.clone())
        self.register_buffer("reach", statistics.reach.clone())
        self.register_buffer("step", statistics.step.clone())
        self.scale = Standardiser(torch.zeros_like(statistics.spread), statistics.spread)
        num_codes, width = len(statistics.rest), size.speech.width
        self.num_history, self.dropout = size.num_history, nn.Dropout(size.dropout)
        self.speech = SpeechEncoder(size.speech)
        self.history = nn.Linear(num_codes * size.num_history, width)
        # 'heard' is the name in state dicts
        self.heard = nn.Linear(width, width)
        self.gauss = nn.Linear(width, 2 * num_codes)
        # the exact mean change of linear processes
        self.linear = nn.Linear(num_codes * size.num_history, num_codes, bias=False)
        self.flow = CouplingFlow(num_codes, width, size.num_flows, size.num_hidden, 1, size.num_layers)
        for layer in (self.gauss, self.linear):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.gauss.bias)

    @staticmethod
    def of(state: Mapping[str, Tensor]) -> "PoseFlow":
        """The network of a state dict, in eval mode."""
        num_codes = len(state["rest"])
        size = PoseFlowSize(
            speech=SpeechSize.of(state),
            num_history=state["history.weight"].shape[1] // num_codes,
            num_flows=len({name.split(".")[2] for name in state if name.startswith("flow.couplings.")}),
            num_hidden=len(state["flow.couplings.0.enter.bias"]),
            num_layers=len({name.split(".")[5] for name in state if name.startswith("flow.couplings.0.body.gates.")}),
        )
        network = PoseFlow(PoseStatistics(*[torch.ones(num_codes)] * 4), size)
        network.load_state_dict(dict(state))
        return network.eval()

    def forward(self, motion: Tensor, windows: Tensor, inside: Tensor | None = None) -> Tensor:
        """[B, T - 1] logarithm of the density, in nats, of each frame except the first.

        Args:
            motion: [B, T, C] pose codes less those at rest.
            windows: [B, T, 1, 80, 16] mel windows (field `mel_edtalk`).
            inside: [B, T] bool, False behind the end of a clip; None is True everywhere.
        """
        noise, log_det = self.noise_of(motion, self.speech(windows, inside))
        log_normal = -0.5 * (noise.square() + math.log(2 * math.pi))
        return (log_normal + log_det).sum(-1)

    def noise_of(self, motion: Tensor, speech: Tensor) -> tuple[Tensor, Tensor]:
        """The noise from which `sample` makes this motion, and the logarithm of its derivative, number by number.

        Args:
            motion: [B, T, C].
            speech: [B, T, W] from `self.speech`.

        Returns:
            [B, T - 1, C] each, of all frames except the first.
        """
        with no_autocast(motion):
            scaled = self.scale(motion)
            history = self._histories(scaled)
            condition = self._condition(history, speech[:, 1:].to(scaled))
            mean, log_std = self._gauss(history, condition)
            rest = (self._steps(scaled) - mean) * torch.exp(-log_std)
            noise = self.flow(rest.mT, condition.mT, torch.ones_like(rest[:, None, :, 0])).mT
            return noise, -log_std - torch.log(self.step)

    @torch.no_grad()
    def sample(self, speech: Tensor, noise: Tensor, start: Tensor | None = None) -> Tensor:
        """Motion [B, T, C].

        Args:
            speech: [B, T, W] from `self.speech`.
            noise: [B, T, C], see `pose_noise`, times a temperature; the first frame's is not used.
            start: [B, C] motion of the first frame; None is at rest.
        """
        current = self.scale(torch.zeros_like(noise[:, 0]) if start is None else start)
        limit, change = self.reach / self.scale.std, self.step / self.scale.std
        steps = torch.zeros(len(noise), self.num_history - 1, noise.shape[2], device=noise.device)
        frames, ones = [current], torch.ones_like(noise[:, :1, :1])
        with parametrize.cached():
            for frame in range(1, noise.shape[1]):
                history = torch.cat([current[:, None], steps], dim=1).flatten(1)
                condition = self._condition(history, speech[:, frame])
                mean, log_std = self._gauss(history, condition)
                rest = self.flow.inverse(noise[:, frame, :, None], condition[..., None], ones)[..., 0]
                moved = (current + change * (mean + torch.exp(log_std) * rest)).clamp(-limit, limit)
                steps = torch.cat([steps[:, 1:], ((moved - current) / change)[:, None]], dim=1)
                current = moved
                frames.append(current)
        return self.scale.undo(torch.stack(frames, dim=1))

    def _steps(self, scaled: Tensor) -> Tensor:
        """[B, T - 1, C] changes of [B, T, C] in units of the usual one."""
        return (scaled[:, 1:] - scaled[:, :-1]) * (self.scale.std / self.step)

    def _histories(self, scaled: Tensor) -> Tensor:
        """[B, T - 1, H C] history of each frame except the first: the previous frame, and the changes up to it."""
        steps = self._steps(scaled)
        # before the first frame nothing moved
        past = functional.pad(steps[:, :-1], (0, 0, self.num_history - 1, 0))
        recent = past.unfold(1, self.num_history - 1, 1)
        return torch.cat([scaled[:, :-1, None], recent.mT], dim=2).flatten(2)

    def _condition(self, history: Tensor, speech: Tensor) -> Tensor:
        """[.., W] condition of the coupling layers."""
        return self.dropout(functional.gelu(self.history(history) + self.heard(self.dropout(speech))))

    def _gauss(self, history: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the spread [.., C] of the change, in units of the usual one."""
        mean, log_std = self.gauss(condition).chunk(2, dim=-1)
        return mean + self.linear(history), MAX_LOG_STD * torch.tanh(log_std / MAX_LOG_STD)


def pose_noise(batch_size: int, num_frames: int, num_codes: int, generator: torch.Generator | None = None) -> Tensor:
    """[B, T, C] unit normal noise, on the CPU, drawn frame by frame: a prefix does not depend on the clip's length."""
    # torch draws in blocks of 16 and draws the last block anew where it is not full
    num_drawn = -(-num_codes // _BLOCK) * _BLOCK
    drawn = torch.randn(num_frames, batch_size, num_drawn, generator=generator)
    return drawn[..., :num_codes].transpose(0, 1).contiguous()
