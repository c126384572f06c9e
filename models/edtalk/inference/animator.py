"""Animator: one encoded portrait and a code per frame to images, in batches, one after the other.

EDTalk section 3. What does not change from frame to frame is computed once: the directions, the portrait's features,
and those that the expression blocks make of them. Images leave as they are made, so memory does not grow with the
length.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.edtalk.networks.edtalk import EDTalk
from models.edtalk.networks.expression_block import ExpressionBlock
from models.edtalk.networks.generator import IdentityFeatures
from models.edtalk.networks.navigation import Codes
from models.inference import Image, Precision
from models.training.runs.environment import reuse_large_blocks
from storage.errors import ConfigError, WeightsError

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Tracks:
    """Codes that drive N frames; None leaves a part as the portrait shows it, one row holds for all frames.

    Attributes:
        mouth: [N or 1, 20] float32.
        pose: [N or 1, 6].
        expression: [N or 1, 10].
    """

    mouth: Tensor | None = None
    pose: Tensor | None = None
    expression: Tensor | None = None


class Animator:
    """Makes images with a model; not for two threads at once. On the CPU the process keeps the memory of its batches.

        animator = Animator(model, torch.device("cuda"))
        tracks = Tracks(mouth=codes, pose=animator.codes(video).pose)
        for image in animator.animate(portrait, tracks, len(codes)):
            ...

    Args:
        model: moved to the device and put into evaluation mode.
        device: where it runs.
        precision: 'bf16' and 'fp16' run it under autocast.
        batch_size: images at once; the result depends on it by rounding only.
    """

    def __init__(
        self, model: EDTalk, device: torch.device | str = "cpu", precision: Precision = "fp32", batch_size: int = 8
    ) -> None:
        self.model = model.to(device).eval().requires_grad_(False)
        self.device, self.batch_size = torch.device(device), batch_size
        if self.device.type == "cpu":
            reuse_large_blocks()
        self._dtype = _AUTOCAST.get(precision)
        self._directions = model.directions()

    @property
    def size_px(self) -> int:
        """Side of the images it makes."""
        return self.model.shape.size_px

    def codes(self, images: Iterable[Image]) -> Codes:
        """Codes of every image, on the CPU: of square ones, uint8 [S, S, 3], resized where S is not the model's.

        Raises:
            ConfigError: there is no image.
        """
        found: list[Codes] = []
        for batch in batches(images, self.batch_size):
            with torch.inference_mode():
                with self._autocast():
                    latent = self.model.encode(self._tensor(batch))
                codes = self.model.codes(latent.float())
                expression = None if codes.expression is None else codes.expression.cpu()
                found.append(Codes(codes.mouth.cpu(), codes.pose.cpu(), expression))
        if not found:
            raise ConfigError("no image to take codes from")
        mouth, pose = (torch.cat([getattr(codes, part) for codes in found]) for part in ("mouth", "pose"))
        expressions = [codes.expression for codes in found if codes.expression is not None]
        return Codes(mouth, pose, torch.cat(expressions) if expressions else None)

    def animate(self, portrait: Image, tracks: Tracks, num_frames: int) -> Iterator[Image]:
        """Drives one image.

        Args:
            portrait: uint8 [S, S, 3].
            tracks: of `num_frames` rows or one.
            num_frames: N.

        Yields:
            N images, uint8 [S, S, 3].

        Raises:
            ConfigError: a track has neither N rows nor one, or the model has no such bank.
            WeightsError: an image is not finite.
        """
        if tracks.expression is not None and not self.model.has_expression:
            raise ConfigError("this model has no expression bank: leave the expression out, or use a full model")
        for part in ("mouth", "pose", "expression"):
            track = getattr(tracks, part)
            if track is not None and len(track) not in (1, num_frames):
                raise ConfigError(f"{len(track)} {part} codes for {num_frames} frames")
        with torch.inference_mode():
            identity_features, own = self._encode([portrait])
            is_constant = tracks.expression is None or len(tracks.expression) == 1
            if is_constant and own.expression is not None:
                expression = rows(tracks.expression, own.expression, 0, 1)
                identity_features = self.with_expression(identity_features, expression)
        for start in range(0, num_frames, self.batch_size):
            codes = driven(tracks, own, start, min(self.batch_size, num_frames - start))
            yield from self._drawn(identity_features, codes)

    def redraw(self, frames: Iterable[Image], tracks: Tracks) -> Iterator[Image]:
        """Redraws each frame of a video with other codes; parts without a track stay those of that frame.

        Args:
            frames: uint8 [S, S, 3] each; read a batch at a time.
            tracks: with at least as many rows as there are frames, or one.

        Yields:
            An image for each of them.

        Raises:
            WeightsError: an image is not finite.
        """
        start = 0
        for batch in batches(frames, self.batch_size):
            with torch.inference_mode():
                identity_features, own = self._encode(batch)
            yield from self._drawn(identity_features, driven(tracks, own, start, len(batch)))
            start += len(batch)

    def render(self, identity_features: IdentityFeatures, codes: Codes) -> Tensor:
        """[B, 3, S, S] float32, not clamped: the model's `render` with directions that were made once.

        Args:
            identity_features: of one image or B; those of `with_expression` need codes with that same expression.
            codes: of B frames, on the device.
        """
        motion, condition = self.model.motion(codes, self._directions)
        is_adapted = self.model.has_expression and not identity_features.prepared
        with self._autocast():
            return self.model.dec(
                identity_features, identity_features.latent + motion, None if is_adapted else condition
            )

    def with_expression(self, identity_features: IdentityFeatures, expression: Tensor) -> IdentityFeatures:
        """The features as the expression blocks change them for one expression [1, 10], which then costs no more."""
        first = self.model.shape.num_mouth + self.model.shape.num_pose
        condition = expression @ self._directions[:, first:].T
        features, prepared = identity_features.features, identity_features.prepared
        triples = zip(self.model.dec.fineadainresblock, features, prepared, strict=True)
        with self._autocast():
            adapted = tuple(cast(ExpressionBlock, block)(x, ready, condition) for block, x, ready in triples)
        return IdentityFeatures(identity_features.latent, adapted)

    # Codes are float32 under autocast, too: rounded to 8 bits they would make a face tremble.

    def _encode(self, images: Sequence[Image]) -> tuple[IdentityFeatures, Codes]:
        with self._autocast():
            identity_features = self.model.encode_identity(self._tensor(images))
        return identity_features, self.model.codes(identity_features.latent.float())

    def _tensor(self, images: Sequence[Image]) -> Tensor:
        """[B, 3, S, S] float32 in -1..1."""
        batch = torch.from_numpy(np.stack(images)).to(self.device).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
        if batch.shape[-1] == self.size_px:
            return batch
        return functional.interpolate(batch, (self.size_px, self.size_px), mode="bilinear", antialias=True)

    @torch.inference_mode()
    def _drawn(self, identity_features: IdentityFeatures, codes: Codes) -> NDArray[np.uint8]:
        """[B, S, S, 3]: -1 is 0 and 1 is 255 in every image of every video; what lies beyond is cut off."""
        images = self.render(identity_features, codes).float()
        if images.isfinite().logical_not().any().cpu():
            raise WeightsError("the generator made an image of NaN: its weights are damaged, or need precision fp32")
        levels = images.clamp_(-1, 1).add_(1).mul_(127.5).round_()
        return levels.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, self._dtype) if self._dtype else nullcontext()


def driven(tracks: Tracks, own: Codes, start: int, count: int) -> Codes:
    """Codes of `count` frames from `start` on; `own` fills what no track drives."""
    mouth, pose = rows(tracks.mouth, own.mouth, start, count), rows(tracks.pose, own.pose, start, count)
    expression = None if own.expression is None else rows(tracks.expression, own.expression, start, count)
    return Codes(mouth, pose, expression)


def rows(track: Tensor | None, own: Tensor, start: int, count: int) -> Tensor:
    """[count, K] of a track of many rows or one; without a track `own` [count or 1, K]."""
    if track is None:
        return own.expand(count, -1)
    found = track if len(track) == 1 else track[start : start + count]
    return found.to(own.device, own.dtype).expand(count, -1)


def batches(images: Iterable[Image], size: int) -> Iterator[list[Image]]:
    """Lists of `size` images, the last one shorter; reads no further than the list that is asked for."""
    rest = iter(images)
    while batch := list(islice(rest, size)):
        yield batch
