"""Whether EDTalk really learns: stages 0 and 1 fitted to the real clips, judged on frames of them that were held out.

    python -m benchmarks.edtalk_overfit [PICTURE.png]

The clips (TALKSET_MEDIA) go through `talkset refresh`; of every 60 frames 12 in a row are held out. Two figures:

    PSNR    held-out frames redrawn from training frames of the same clip, driven by their own codes, against those
            training frames left as they are ("copying the source"); in dB, mean over all held-out frames
    mouth   a held-out frame drawn with its own codes, and with the mouth codes of the ten held-out frames of the same
            clip whose mouths are opened most differently, one after the other (of one alone it would depend on how
            well landmarks were found there): how far the landmarks of the mouth move, divided by how far the rest
            (jaw, brows, nose, eyes) moves; landmarks by the 68-point predictor, in the same box of both pictures.
            The row before it has the same of the frames themselves and of them with those other mouths pasted in, at
            the size that is drawn: what a mouth code that carries the whole mouth and nothing else would reach

With a GPU the networks have their published size and are trained against a discriminator on all clips; without one
they are small, draw 64 px, have no adversary, and learn two clips of people who talk. Clips are cut closely, as a mouth
is a few pixels of the picture, and what stages 0 and 1 can do for mouths beyond the publication is on. The picture
shows, per clip: source, held-out frame, redrawn, frame that lends its mouth, drawn with that mouth.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.closeup import Closeup
from benchmarks.fitted import fitted
from benchmarks.pool import Pool
from benchmarks.table import Row, conditions, finish
from models.data.landmark_motion import MOUTH
from models.edtalk.data.images import image_of
from models.edtalk.data.mouth_swap import Face, swap_mouth
from models.edtalk.networks.edtalk import EDTalk
from models.edtalk.networks.navigation import Codes
from models.edtalk.networks.shape import Shape
from models.edtalk.stages import mouth_pose, reconstruction
from models.edtalk.training.image_losses import GENERATOR_LR, ImageLossConfig
from models.edtalk.training.pictures import side_by_side
from models.training.engine.config import TrainConfig
from models.training.engine.engine import Engine
from storage.snapshot import ClipRef, Snapshot
from tasks.faces.backend import load_backend
from tasks.geometry import hog_box

MIN_GAIN_DB, MIN_RATIO = 6.0, 3.0
# Of every BLOCK x EVERY frames one BLOCK is held out: its middle is a quarter of a second from what was seen. While the
# settings below were chosen it was the last one, so these frames chose nothing.
BLOCK, EVERY, HELD_OUT = 12, 5, 2
NUM_SOURCES, NUM_LENDERS, NUM_ITEMS = 3, 10, 2000
LANDMARK_PX = 256
_CATALOG = """
clips:
  root: {root}
  layouts:
    files:
      pattern: "{{subject}}.{{extension:mp4|mov}}"
      name: "{{subject}}"
      clips: {{length_s: whole, min_tail_s: 1.0}}
      audio: {{required: false}}
  features: {{landmarks: {{}}, bbox: {{}}, face3d: {{}}}}
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes of an experiment.

    Attributes:
        subjects: whose clips; none takes all.
        shape, losses, precision: of both stages.
        steps, batch_size, generator_lr: of stage 0 and of stage 1; a batch holds pairs of faces.
    """

    subjects: tuple[str, ...]
    shape: Shape
    losses: ImageLossConfig
    precision: Any
    steps: tuple[int, int]
    batch_size: tuple[int, int]
    generator_lr: tuple[float, float]

    def settings(self, stage: int) -> dict[str, Any]:
        """Arguments of the Config of a stage."""
        train = TrainConfig(
            max_steps=self.steps[stage], batch_size=self.batch_size[stage], precision=self.precision, log_every=200
        )
        losses = self.losses.model_copy(update={"generator_lr": self.generator_lr[stage]})
        return {"train": train, "shape": self.shape, "losses": losses}


CPU = Plan(
    ("cropped_256_25fps_60s", "head_shoulders_450_25fps"),
    Shape(size_px=64, width=1 / 8, latent_dim=128),
    # a random network's features are far from each other in sum: this weight makes them count like the absolute error
    ImageLossConfig(
        perceptual="random", perceptual_width=1 / 8, perceptual_weight=0.005, gan_weight=0, generator_beta1=0.9
    ),
    # after the start in closed form each step of the decoder takes mouths back to the middle, faster with a higher rate
    "bf16", (11_000, 25), (3, 4), (0.006, 0.0004),
)  # fmt: skip
# not run yet: no GPU was at hand
GPU = Plan(
    (), Shape(), ImageLossConfig(perceptual="random"), "bf16", (12_000, 3000), (3, 4), (GENERATOR_LR, GENERATOR_LR)
)  # fmt: skip


# Few people: half of the mouths are their own.
PAIRS: dict[str, Any] = {"own_share": 0.5, "num_candidates": 4}
RECONSTRUCTION = PAIRS | {
    "mouth_weight": 4.0, "first_mouth_step": 3000, "change_weight": 1.0, "first_change_step": 9000
}  # fmt: skip
# Codes stay as they start, so that their likeness is no matter: trained along, they give up the mouth before the
# generator has learned to leave the rest of the face alone.
MOUTH_POSE = PAIRS | {
    "trained": "decoder", "feature_weight": 0.0, "mouth_weight": 3.0, "change_weight": 2.0, "has_rgb_residual": True,
    "start_pairs": 1000,
}  # fmt: skip


class Excerpt(Snapshot):
    """The held-out frames of all kept clips of a snapshot, or all other frames, as if there were no more of them."""

    def __init__(self, whole: Snapshot, is_held_out: bool) -> None:
        super().__init__(whole.store, whole.id, whole.created_at, whole.body)
        self._whole = whole
        self._numbers = {row["clip"]: _part(row["num_frames"], is_held_out) for row in whole.rows()}

    def rows(self, split: str | None = None, kept: bool = True) -> list[dict[str, Any]]:
        """All kept clips, for the split 'train' (or no split) alone."""
        rows = self._whole.rows() if split in (None, "train") else []
        return [row | {"num_frames": len(self._numbers[row["clip"]])} for row in rows]

    def frame(self, clip: ClipRef, index: int) -> NDArray[np.uint8]:
        """As Snapshot."""
        return self._whole.frame(clip, int(self._numbers[clip.clip][index]))

    def feature(self, clip: ClipRef, extractor: str, columns: list[str] | None = None) -> dict[str, Any]:
        """As Snapshot, for columns per frame."""
        return self._taken(clip, self._whole.feature(clip, extractor, columns))

    def features(self, clips: Sequence[ClipRef], extractor: str, columns: list[str]) -> list[dict[str, Any]]:
        """As Snapshot, for columns per frame."""
        found = self._whole.features(clips, extractor, columns)
        return [self._taken(clip, values) for clip, values in zip(clips, found, strict=True)]

    def _taken(self, clip: ClipRef, values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value[self._numbers[clip.clip]] for name, value in values.items()}


def main() -> None:
    """Makes the snapshot, trains, judges."""
    media = Path(os.environ.get("TALKSET_MEDIA", "../shared/media")) / "sources"
    if not media.is_dir():
        sys.exit(f"{media} is absent: set TALKSET_MEDIA to the folder with the real clips")
    has_gpu, began = torch.cuda.is_available(), time.perf_counter()
    plan, device = (GPU, "cuda") if has_gpu else (CPU, "cpu")
    torch.set_num_threads(os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as folder:
        whole = Closeup(_refreshed(Path(folder), media), plan.subjects)
        seen, held_out = Excerpt(whole, is_held_out=False), Excerpt(whole, is_held_out=True)
        judge = Judge(_trained(plan, seen, device), plan.shape.size_px, device)
        clips = [Clip.read(seen, held_out, *pair, judge) for pair in zip(seen.clips(), held_out.clips(), strict=True)]
        minutes = (time.perf_counter() - began) / 60
        finish(_rows(judge, clips, f"{plan.shape.size_px} px, {minutes:.0f} min on {_hardware(has_gpu)}"))
        for path in (word for word in sys.argv[1:] if word.endswith(".png")):
            cv2.imwrite(path, _sheet(judge, clips))


@dataclass(frozen=True, slots=True)
class Clip:
    """What a clip is judged on; images are [K, 3, S, S] float32 in -1..1.

    Attributes:
        name: of the clip.
        sources: NUM_SOURCES training frames, evenly spread.
        targets: all held-out frames.
        faces: [K] the same as they are stored, with their landmarks.
        boxes: [K, 4] of the targets' faces in px of LANDMARK_PX, NaN where there is none.
        opening: [K] of their mouths, share of the height of the face.
    """

    name: str
    sources: Tensor
    targets: Tensor
    faces: list[Face]
    boxes: NDArray[np.float64]
    opening: NDArray[np.float64]

    @staticmethod
    def read(seen: Excerpt, held_out: Excerpt, clip: ClipRef, hidden: ClipRef, judge: "Judge") -> "Clip":
        """Reads the frames of one clip, as it is in both excerpts."""
        spread = np.linspace(0, clip.num_frames - 1, NUM_SOURCES).astype(int)
        points = held_out.feature(hidden, "landmarks", ["landmarks"])["landmarks"].astype(np.float64)
        faces = [Face(held_out.frame(hidden, i), own) for i, own in enumerate(points)]
        size_px = len(faces[0].image)
        boxes = np.stack([hog_box((own + 0.5) * LANDMARK_PX / size_px - 0.5) for own in points])
        return Clip(
            clip.name,
            torch.stack([judge.image(seen.frame(clip, int(i))) for i in spread]),
            torch.stack([judge.image(face.image) for face in faces]),
            faces,
            boxes,
            (points[:, 66, 1] - points[:, 62, 1]) / np.ptp(points[:, :, 1], axis=1),
        )

    def lenders(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """[K] all frames with a face; [K, NUM_LENDERS] of each those whose mouths are opened most differently."""
        frames = np.flatnonzero(np.isfinite(self.opening))
        opening = self.opening[frames]
        order = np.argsort(-np.abs(opening - opening[:, None]), axis=1, kind="stable")
        return frames, frames[order[:, :NUM_LENDERS]]


class Judge:
    """Draws with a trained model and measures."""

    def __init__(self, model: EDTalk, size_px: int, device: str) -> None:
        self._model, self._size_px, self._device = model, size_px, device
        self._landmarker = load_backend("dlib")

    def image(self, frame: NDArray[np.uint8]) -> Tensor:
        """A stored frame as the model sees it."""
        return image_of(frame, self._size_px).to(self._device)

    @torch.no_grad()
    def draw(self, source: Tensor, mouths: Tensor, poses: Tensor) -> Tensor:
        """[K, 3, S, S] the source [3, S, S] with mouths and poses of images [K, 3, S, S]."""
        encoded, directions = self._model.encode_source(source[None]), self._model.directions()
        parts = []
        for mouth, pose in zip(mouths.split(32), poses.split(32), strict=True):
            codes = [self._model.codes(self._model.encode(images)) for images in (mouth, pose)]
            drawn = self._model.render(encoded, Codes(codes[0].mouth, codes[1].pose), directions)
            parts.append(drawn.clamp(-1, 1))
        return torch.cat(parts)

    def gains(self, clip: Clip) -> NDArray[np.float64]:
        """[K, 2] PSNR in dB of the held-out frames redrawn, and of copying; means over the sources."""
        found = []
        for source in clip.sources:
            drawn = self.draw(source, clip.targets, clip.targets)
            found.append(torch.stack([_psnr_db(drawn, clip.targets), _psnr_db(source[None], clip.targets)], dim=1))
        return torch.stack(found).mean(0).double().cpu().numpy()

    def moves(self, clip: Clip) -> NDArray[np.float64]:
        """[K NUM_LENDERS, 68] px of LANDMARK_PX that landmarks move when another frame's mouth code is taken."""
        source, targets = clip.sources[NUM_SOURCES // 2], clip.targets
        frames, _ = clip.lenders()
        own = self.draw(source, targets[frames], targets[frames])
        return self._moves(clip, own, lambda others: self.draw(source, targets[others], targets[frames]))

    def pasted_moves(self, clip: Clip) -> NDArray[np.float64]:
        """As `moves`, of the frames themselves with the other frame's mouth pasted in."""
        frames, _ = clip.lenders()

        def lent(others: NDArray[np.int64]) -> Tensor:
            """[K, 3, S, S] the frames with the mouths of these."""
            pairs = [(clip.faces[frame], clip.faces[other]) for frame, other in zip(frames, others, strict=True)]
            return torch.stack([self.image(swap_mouth(own, lender)) for own, lender in pairs])

        return self._moves(clip, clip.targets[frames], lent)

    def _moves(self, clip: Clip, own: Tensor, lent: Callable[[NDArray[np.int64]], Tensor]) -> NDArray[np.float64]:
        frames, lenders = clip.lenders()
        before = self._points(own, clip.boxes[frames])
        after = [self._points(lent(others), clip.boxes[frames]) for others in lenders.T]
        return np.concatenate([np.linalg.norm(points - before, axis=2) for points in after])

    def _points(self, images: Tensor, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        pairs = zip((_gray(image) for image in images), boxes, strict=True)
        return np.stack([self._landmarker.landmarks(gray, box).astype(np.float64) for gray, box in pairs])


def _trained(plan: Plan, seen: Excerpt, device: str) -> EDTalk:
    """The averaged mouth-and-pose model after both stages."""
    torch.manual_seed(0)
    first = reconstruction.Config.model_validate(plan.settings(0) | RECONSTRUCTION)
    second = mouth_pose.Config.model_validate(plan.settings(1) | MOUTH_POSE)
    # the same pairs for both: cutting mouths out takes as long as learning from them
    pool = Pool(first.pairs(seen, "train"), NUM_ITEMS)
    parent = _fitted(reconstruction.build(first, seen, {}), pool, first.train, device, "stage 0").exported()
    parent = {key: value.cpu() for key, value in parent.items()}
    learner = mouth_pose.build(second, seen, {mouth_pose.PARENT: parent})
    engine = _fitted(learner, pool, second.train, device, "stage 1")
    model = EDTalk(plan.shape, has_expression=False, has_rgb_residual=True).to(device).eval()
    model.load_state_dict(engine.averages["gen"].state_dict())
    return model


def _fitted(learner: Any, pool: Pool, config: TrainConfig, device: str, name: str) -> Engine:
    learner.train_set = pool
    return fitted(learner, config, device, name)


def _rows(judge: Judge, clips: Sequence[Clip], how: str) -> list[Row]:
    gains, moves = [judge.gains(clip) for clip in clips], [judge.moves(clip) for clip in clips]
    pasted = [judge.pasted_moves(clip) for clip in clips]
    return [
        _gain_row(gains, clips, how),
        _moves_row("another mouth pasted in", pasted),
        _moves_row("EDTalk, another mouth code", moves),
    ]


def _gain_row(gains: Sequence[NDArray[np.float64]], clips: Sequence[Clip], how: str) -> Row:
    drawn, copied = np.concatenate(gains).T
    gain, each = float((drawn - copied).mean()), zip(clips, gains, strict=True)
    notes = "; ".join(f"{clip.name} {own[:, 0].mean():.1f} against {own[:, 1].mean():.1f} dB" for clip, own in each)
    what = f"EDTalk, held-out frames: PSNR above copying the source; {how}"
    return Row(what, f"{gain:.1f} dB", f">= {MIN_GAIN_DB:.0f} dB", gain >= MIN_GAIN_DB, notes)


def _moves_row(what: str, moves: Sequence[NDArray[np.float64]]) -> Row:
    together = np.concatenate(moves)
    mouth, rest = float(together[:, MOUTH].mean()), float(np.delete(together, MOUTH, axis=1).mean())
    what = f"{what}: landmarks of the mouth move, against the rest"
    notes = f"{mouth:.2f} and {rest:.2f} px of {LANDMARK_PX}; {len(together)} pairs of frames"
    return Row(what, f"{mouth / rest:.1f}x", f">= {MIN_RATIO:.0f}x", mouth >= MIN_RATIO * rest, notes)


def _sheet(judge: Judge, clips: Sequence[Clip]) -> NDArray[np.uint8]:
    """A row per clip, BGR."""
    rows = []
    for clip in clips:
        frames, lenders = clip.lenders()
        chosen = int(np.abs(clip.opening[frames] - clip.opening[lenders[:, 0]]).argmax())
        frame, lender = int(frames[chosen]), int(lenders[chosen, 0])
        source, target, other = clip.sources[NUM_SOURCES // 2], clip.targets[frame][None], clip.targets[lender][None]
        drawn = judge.draw(source, torch.cat([target, other]), torch.cat([target, target]))
        rows.append(side_by_side(source[None], target, drawn[:1], other, drawn[1:]))
    image = (torch.cat(rows, dim=1).permute(1, 2, 0) * 255).round().byte().numpy()
    return cv2.cvtColor(image, cv2.COLOR_RGB2BGR).astype(np.uint8, copy=False)


def _refreshed(folder: Path, media: Path) -> Snapshot:
    """The snapshot that the command makes of the clips, each whole."""
    store, catalog = folder / "store", folder / "datasets.yaml"
    catalog.write_text(_CATALOG.format(root=media))
    command = ["refresh", "clips", "--store", str(store), "--catalog", str(catalog), "--no-server"]
    subprocess.run([sys.executable, "-m", "flows", *command], check=True, stdout=sys.stderr)
    return Snapshot.open(store)


def _part(num_frames: int, is_held_out: bool) -> NDArray[np.int64]:
    """Numbers of the held-out frames of a clip, or of the others."""
    numbers = np.arange(num_frames)
    return numbers[((numbers // BLOCK) % EVERY == HELD_OUT) == is_held_out]


def _psnr_db(images: Tensor, targets: Tensor) -> Tensor:
    """[K] of images in -1..1."""
    return 10 * torch.log10(4 / (images - targets).square().flatten(1).mean(1))


def _gray(image: Tensor) -> NDArray[np.uint8]:
    """[LANDMARK_PX, LANDMARK_PX] of an image [3, S, S]."""
    pixels = ((image + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
    enlarged = cv2.resize(pixels, (LANDMARK_PX, LANDMARK_PX), interpolation=cv2.INTER_CUBIC)
    return cv2.cvtColor(enlarged, cv2.COLOR_RGB2GRAY).astype(np.uint8, copy=False)


def _hardware(has_gpu: bool) -> str:
    return torch.cuda.get_device_name() if has_gpu else conditions()


if __name__ == "__main__":
    main()
