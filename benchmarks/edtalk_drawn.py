"""Whether EDTalk's stage 1 separates mouth from head pose, on drawn faces whose every pixel is known.

    python -m benchmarks.edtalk_drawn [IMAGE.png]

Four drawn people, whose heads are moved and whose mouths are opened at will; stages 0 and 1 learn from endless random
drawings, at 64 px and with small networks, by the mean absolute error alone. Mouths are exchanged by drawing them, so
that nothing but the learning is judged. On drawings that were not trained on, a face is drawn with its own codes, and
with the mouth code of another person whose mouth is open where its own is closed, or closed where it is open:

    mouth       how far the pixels of the mouth's area change, against all others: the bar of stage 1, at least 10 times
    amplitude   how far they change, against the drawings themselves

The image shows: reference, target, redrawn, who lends the mouth, drawn with that mouth, and how it should be.
"""

import os
import sys
import time
from dataclasses import dataclass, replace
from typing import Any, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from benchmarks.fitted import fitted
from benchmarks.table import Row, conditions, finish
from models.edtalk.data.face_frames import image_of
from models.edtalk.networks.edtalk import EDTalk
from models.edtalk.networks.navigation import Codes
from models.edtalk.networks.shape import Shape
from models.edtalk.stages import mouth_pose, reconstruction
from models.edtalk.training.image_losses import ImageLossConfig, ImageStageConfig, side_by_side
from models.training.engine.config import TrainConfig

MIN_RATIO, MIN_AMPLITUDE = 10.0, 0.5
SHAPE = Shape(size_px=64, width=1 / 16, latent_dim=64)
STEPS, BATCH_SIZES, LEARNING_RATES = (1200, 4000), (6, 2), (0.008, 0.005)
NUM_DRAWINGS, NUM_JUDGED = 1000, 64
# RGB of skin, hair and background
PEOPLE = (
    ((200, 140, 90), (60, 40, 40), (30, 60, 30)),
    ((220, 170, 120), (40, 30, 20), (40, 60, 90)),
    ((140, 90, 60), (10, 10, 10), (140, 150, 150)),
    ((235, 190, 150), (120, 80, 30), (90, 40, 60)),
)
EYE, PUPIL, LIPS, INSIDE = (245, 245, 245), (20, 20, 20), (160, 50, 60), (30, 10, 15)
# Drawn four times as large, then averaged: edges are soft, and a face moves by parts of a pixel.
_SCALE = 4


@dataclass(frozen=True, slots=True)
class Face:
    """What is drawn.

    Attributes:
        person: number of PEOPLE.
        x_px, y_px: where the head is, px of 64 from the middle; up to 8 and 6 are used.
        opening: of the mouth, 0..1.
    """

    person: int
    x_px: float
    y_px: float
    opening: float

    @staticmethod
    def random(rng: np.random.Generator, person: int) -> "Face":
        """A face anywhere, its mouth opened anyhow."""
        return Face(person, rng.uniform(-8, 8), rng.uniform(-6, 6), rng.uniform())

    def image(self) -> Tensor:
        """[3, S, S] float32 in -1..1."""
        skin, hair, background = PEOPLE[self.person]
        canvas = np.full((SHAPE.size_px * _SCALE, SHAPE.size_px * _SCALE, 3), background, np.uint8)
        self._ellipse(canvas, 0, -3, 19, 25, hair)
        self._ellipse(canvas, 0, 0, 16, 21, skin)
        for side in (-6, 6):
            self._ellipse(canvas, side, -5, 2.5, 1.8, EYE)
            self._ellipse(canvas, side, -5, 1.2, 1.2, PUPIL)
        self._ellipse(canvas, 0, 3, 1.5, 3, cast(tuple[int, int, int], tuple(value * 4 // 5 for value in skin)))
        self._ellipse(canvas, 0, 11, 7, 1.6 + 4 * self.opening, LIPS)
        self._ellipse(canvas, 0, 11, 5.5, 4 * self.opening, INSIDE)
        return image_of(canvas, SHAPE.size_px)

    def mouth(self) -> Tensor:
        """[1, S, S] float32: 1 where a mouth can be, else 0."""
        canvas = np.zeros((SHAPE.size_px * _SCALE, SHAPE.size_px * _SCALE, 3), np.uint8)
        self._ellipse(canvas, 0, 11, 9, 7, (255, 255, 255))
        return (image_of(canvas, SHAPE.size_px)[:1] > 0).float()

    def _ellipse(
        self, canvas: NDArray[np.uint8], x_px: float, y_px: float, half_width_px: float, half_height_px: float,
        color: tuple[int, int, int],
    ) -> None:  # fmt: skip
        scale = len(canvas) / 64
        centre = round((32 + self.x_px + x_px) * scale), round((32 + self.y_px + y_px) * scale)
        axes = round(half_width_px * scale), round(half_height_px * scale)
        if min(axes) > 0:
            cv2.ellipse(canvas, centre, axes, 0, 0, 360, color, -1)


class Drawings(Dataset[dict[str, Tensor]]):
    """Items of stage 0: the same person twice; see models.edtalk.data.frame_pairs.FramePairs."""

    def __init__(self) -> None:
        self._epoch = 0

    def __len__(self) -> int:
        return NUM_DRAWINGS

    def set_epoch(self, epoch: int) -> None:
        """Other drawings in each."""
        self._epoch = epoch

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = self._rng(index)
        person = int(rng.integers(len(PEOPLE)))
        return {name: Face.random(rng, person).image() for name in ("reference", "target")}

    def _rng(self, index: int) -> np.random.Generator:
        return np.random.default_rng([self._epoch, index])


class SwappedDrawings(Drawings):
    """Items of stage 1: two people, each also with the mouth of the other; see swap_pairs.SwapPairs."""

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = self._rng(index)
        people = [int(person) for person in rng.choice(len(PEOPLE), 2, replace=False)]
        targets = [Face.random(rng, person) for person in people]
        swapped = [replace(one, opening=other.opening) for one, other in (targets, targets[::-1])]
        return {
            "reference": torch.stack([Face.random(rng, person).image() for person in people]),
            "target": torch.stack([face.image() for face in targets]),
            "swapped": torch.stack([face.image() for face in swapped]),
            "mouth": torch.stack([face.mouth() for face in targets]),
        }


def main() -> None:
    """Trains, judges."""
    device, began = "cuda" if torch.cuda.is_available() else "cpu", time.perf_counter()
    torch.set_num_threads(os.cpu_count() or 1)
    model = _trained(device)
    minutes = (time.perf_counter() - began) / 60
    finish(_rows(_judged(model, device), f"{minutes:.0f} min, {conditions()}"))
    for path in (word for word in sys.argv[1:] if word.endswith(".png")):
        cv2.imwrite(path, _sheet(model, device))


def _trained(device: str) -> EDTalk:
    """The averaged mouth-and-pose model after both stages."""
    torch.manual_seed(0)
    first = reconstruction.Config(**_settings(0))
    learner = reconstruction.ReconstructionLearner(first, cast(Any, Drawings()), None)
    parent = {key: value.cpu() for key, value in fitted(learner, first.train, device, "stage 0").exported().items()}
    second = mouth_pose.Config(
        **_settings(1), trained="all", feature_weight=0.0, mouth_weight=1.0, has_rgb_residual=True
    )
    learner = mouth_pose.MouthPoseLearner(second, cast(Any, SwappedDrawings()), None, parent)
    engine = fitted(learner, second.train, device, "stage 1")
    model = EDTalk(SHAPE, has_expression=False, has_rgb_residual=True).to(device).eval()
    model.load_state_dict(engine.averages["gen"].state_dict())
    return model


def _settings(stage: int) -> dict[str, Any]:
    """Arguments of the Config of a stage."""
    train = TrainConfig(max_steps=STEPS[stage], batch_size=BATCH_SIZES[stage], log_every=200)
    losses = ImageLossConfig(
        perceptual="random", perceptual_weight=0, gan_weight=0, generator_beta1=0.9,
        generator_lr=LEARNING_RATES[stage],
    )  # fmt: skip
    return dict(ImageStageConfig(train=train, shape=SHAPE, losses=losses))


@dataclass(frozen=True, slots=True)
class Case:
    """One exchange; every face is a drawing that was not trained on.

    Attributes:
        reference, target, lender: who is drawn, as whom, with whose mouth.
        wanted: the target with that mouth.
    """

    reference: Face
    target: Face
    lender: Face
    wanted: Face

    @staticmethod
    def numbered(number: int) -> "Case":
        """The case with that number: the mouth is to open, or to close."""
        rng = np.random.default_rng([1, 0, number])
        person, other = (int(chosen) for chosen in rng.choice(len(PEOPLE), 2, replace=False))
        target = replace(Face.random(rng, person), opening=float(number % 2))
        lender = replace(Face.random(rng, other), opening=1 - target.opening)
        return Case(Face.random(rng, person), target, lender, replace(target, opening=lender.opening))


@torch.no_grad()
def _drawn(model: EDTalk, case: Case, device: str) -> tuple[Tensor, Tensor]:
    """[3, S, S] each: the target by its own codes, and with the mouth code of the lender."""
    images = [face.image()[None].to(device) for face in (case.target, case.lender)]
    own, lent = (model.codes(model.encode(image)) for image in images)
    reference = model.encode_identity(case.reference.image()[None].to(device))
    drawn = [model.render(reference, codes) for codes in (own, Codes(lent.mouth, own.pose))]
    return drawn[0][0].clamp(-1, 1).cpu(), drawn[1][0].clamp(-1, 1).cpu()


def _judged(model: EDTalk, device: str) -> NDArray[np.float64]:
    """[3] mean change of the mouth's area and of the rest when drawn, and of the mouth's area in the drawings."""
    found = []
    for case in map(Case.numbered, range(NUM_JUDGED)):
        own, lent = _drawn(model, case, device)
        area, changes = case.target.mouth()[0] > 0, (lent - own).abs().mean(0)
        true_changes = (case.wanted.image() - case.target.image()).abs().mean(0)
        found.append([float(part.mean()) for part in (changes[area], changes[~area], true_changes[area])])
    return np.mean(found, axis=0)


def _rows(judged: NDArray[np.float64], how: str) -> list[Row]:
    mouth, rest, true_mouth = (float(value) for value in judged)
    ratio, amplitude = mouth / rest, mouth / true_mouth
    notes = f"{mouth:.3f} and {rest:.4f} of 2, mean absolute; {NUM_JUDGED} faces; {how}"
    what = "EDTalk on drawn faces, another person's mouth code: "
    return [
        Row(f"{what}the mouth's area changes, against the rest", f"{ratio:.1f}x", f">= {MIN_RATIO:.0f}x",
            ratio >= MIN_RATIO, notes),
        Row(f"{what}the mouth's area changes, against the truth", f"{amplitude:.0%}", f">= {MIN_AMPLITUDE:.0%}",
            amplitude >= MIN_AMPLITUDE, f"{true_mouth:.3f} in the drawings"),
    ]  # fmt: skip


def _sheet(model: EDTalk, device: str) -> NDArray[np.uint8]:
    """A row per case, BGR, twice as large."""
    rows = []
    for case in map(Case.numbered, range(6)):
        own, lent = _drawn(model, case, device)
        faces = [face.image() for face in (case.reference, case.target, case.lender, case.wanted)]
        shown = [faces[0], faces[1], own, faces[2], lent, faces[3]]
        rows.append(side_by_side(*(image[None] for image in shown)))
    image = (torch.cat(rows, dim=1).permute(1, 2, 0) * 255).round().byte().numpy()
    return cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), None, fx=2, fy=2).astype(np.uint8, copy=False)


if __name__ == "__main__":
    main()
