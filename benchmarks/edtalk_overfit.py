"""How EDTalk's stages 0 and 1 fit the real clips, judged on held-out frames of them; figures without a bar.

    python -m benchmarks.edtalk_overfit [IMAGE.png]

Two real clips of people who talk (TALKSET_MEDIA) go through `talkset refresh`, cut to 5 s; of every 60 frames 12 in a
row are held out. Both stages have their published settings, with small networks at 64 px, a random perceptual network
and no discriminator. Two figures:

    PSNR    held-out frames redrawn from training frames of the same clip, driven by their own codes, against those
            training frames left as they are ("copying"); in dB, mean over all held-out frames
    mouth   a held-out frame drawn with its own codes, and with the mouth codes of the ten held-out frames of the same
            clip whose mouths are opened most differently, one after the other (a single one depends on how well
            landmarks were found there): how far the landmarks of the mouth move, divided by how far the rest (jaw,
            brows, nose, eyes) moves; landmarks by the 68-point predictor, in the same box of both images. The row
            before it has the same of the frames themselves and of them with those other mouths pasted in, at the size
            that is drawn: the figure of a mouth code that carries the whole mouth and nothing else

With a few minutes of two people the published stage 1 separates mouth from head poorly; whether it learns to where the
truth is known is the question of benchmarks.edtalk_drawn, which has a bar. The image shows, per clip: reference,
held-out frame, redrawn, frame that lends its mouth, drawn with that mouth.
"""

import os
import shutil
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

from benchmarks.fitted import fitted
from benchmarks.table import Row, conditions, finish
from models.data.landmark_motion import MOUTH
from models.edtalk.data.face_frames import image_of
from models.edtalk.data.mouth_swap import Face, swap_mouth
from models.edtalk.networks.edtalk import EDTalk
from models.edtalk.networks.navigation import Codes
from models.edtalk.networks.shape import Shape
from models.edtalk.stages import mouth_pose, reconstruction
from models.edtalk.training.image_losses import ImageLossConfig, side_by_side
from models.training.engine.config import TrainConfig
from storage.snapshot import ClipRef, Snapshot
from tasks.faces.backend import load_backend
from tasks.geometry import hog_box

CLIPS = ("cropped_256_25fps_60s.mp4", "head_shoulders_450_25fps.mp4")
# Of every BLOCK x EVERY frames one BLOCK is held out: its middle is a quarter of a second from the training frames.
BLOCK, EVERY, HELD_OUT = 12, 5, 2
NUM_REFERENCES, NUM_LENDERS = 3, 10
LANDMARK_PX = 256
SHAPE = Shape(size_px=64, width=1 / 8, latent_dim=128)
STEPS, BATCH_SIZES = (4000, 2000), (6, 4)
# A random network's features are far apart in sum: with this weight they count like the absolute error.
LOSSES = ImageLossConfig(
    perceptual="random", perceptual_width=1 / 8, perceptual_weight=0.005, gan_weight=0, generator_beta1=0.9,
    generator_lr=0.006,
)  # fmt: skip
_CATALOG = """
clips:
  root: {root}
  layouts:
    files:
      pattern: "{{subject}}.mp4"
      name: "{{subject}}"
      clips: {{length_s: 5.0, min_tail_s: 3.0}}
  features: {{landmarks: {{}}, bbox: {{}}, face3d: {{}}}}
"""


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
    device, began = "cuda" if torch.cuda.is_available() else "cpu", time.perf_counter()
    torch.set_num_threads(os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as folder:
        whole = _refreshed(Path(folder), media)
        seen, held_out = Excerpt(whole, is_held_out=False), Excerpt(whole, is_held_out=True)
        judge = Judge(_trained(seen, device), device)
        clips = [Clip.read(seen, held_out, *pair, judge) for pair in zip(seen.clips(), held_out.clips(), strict=True)]
        finish(_rows(judge, clips, f"{(time.perf_counter() - began) / 60:.0f} min, {conditions()}"))
        for path in (word for word in sys.argv[1:] if word.endswith(".png")):
            cv2.imwrite(path, _sheet(judge, clips))


@dataclass(frozen=True, slots=True)
class Clip:
    """What a clip is judged on; images are [K, 3, S, S] float32 in -1..1.

    Attributes:
        name: its name.
        references: NUM_REFERENCES training frames, evenly spread.
        targets: all held-out frames.
        faces: [K] the same as they are stored, with their landmarks.
        boxes: [K, 4] of the targets' faces in px of LANDMARK_PX, NaN where there is none.
        opening: [K] of their mouths, share of the height of the face.
    """

    name: str
    references: Tensor
    targets: Tensor
    faces: list[Face]
    boxes: NDArray[np.float64]
    opening: NDArray[np.float64]

    @staticmethod
    def read(seen: Excerpt, held_out: Excerpt, clip: ClipRef, hidden: ClipRef, judge: "Judge") -> "Clip":
        """Reads the frames of one clip, as it is in both excerpts."""
        spread = np.linspace(0, clip.num_frames - 1, NUM_REFERENCES).astype(int)
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

    def __init__(self, model: EDTalk, device: str) -> None:
        self._model, self._device = model, device
        self._landmarker = load_backend("dlib")

    def image(self, frame: NDArray[np.uint8]) -> Tensor:
        """[3, S, S] float32 in -1..1 on the device, of a stored frame."""
        return image_of(frame, SHAPE.size_px).to(self._device)

    @torch.no_grad()
    def draw(self, reference: Tensor, mouths: Tensor, poses: Tensor) -> Tensor:
        """[K, 3, S, S] the reference [3, S, S] with mouths and poses of images [K, 3, S, S]."""
        encoded, directions = self._model.encode_identity(reference[None]), self._model.directions()
        parts = []
        for mouth, pose in zip(mouths.split(32), poses.split(32), strict=True):
            codes = [self._model.codes(self._model.encode(images)) for images in (mouth, pose)]
            drawn = self._model.render(encoded, Codes(codes[0].mouth, codes[1].pose), directions)
            parts.append(drawn.clamp(-1, 1))
        return torch.cat(parts)

    def gains(self, clip: Clip) -> NDArray[np.float64]:
        """[K, 2] PSNR in dB of the held-out frames redrawn, and of copying; means over the references."""
        found = []
        for reference in clip.references:
            drawn = self.draw(reference, clip.targets, clip.targets)
            found.append(torch.stack([_psnr_db(drawn, clip.targets), _psnr_db(reference[None], clip.targets)], dim=1))
        return torch.stack(found).mean(0).double().cpu().numpy()

    def moves(self, clip: Clip) -> NDArray[np.float64]:
        """[K NUM_LENDERS, 68] px of LANDMARK_PX that landmarks move when another frame's mouth code is taken."""
        reference, targets = clip.references[NUM_REFERENCES // 2], clip.targets
        frames, _ = clip.lenders()
        own = self.draw(reference, targets[frames], targets[frames])
        return self._moves(clip, own, lambda others: self.draw(reference, targets[others], targets[frames]))

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


def _trained(seen: Excerpt, device: str) -> EDTalk:
    """The averaged mouth-and-pose model after both stages."""
    torch.manual_seed(0)
    trains = [TrainConfig(max_steps=STEPS[at], batch_size=BATCH_SIZES[at], log_every=200) for at in range(2)]
    first = reconstruction.Config(train=trains[0], shape=SHAPE, losses=LOSSES)
    parent = fitted(reconstruction.build(first, seen, {}), first.train, device, "stage 0").exported()
    second = mouth_pose.Config(train=trains[1], shape=SHAPE, losses=LOSSES)
    parents = {mouth_pose.PARENT: {key: value.cpu() for key, value in parent.items()}}
    engine = fitted(mouth_pose.build(second, seen, parents), second.train, device, "stage 1")
    model = EDTalk(SHAPE, has_expression=False).to(device).eval()
    model.load_state_dict(engine.averages["gen"].state_dict())
    return model


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
    gain = float((drawn - copied).mean())
    notes = f"{drawn.mean():.1f} against {copied.mean():.1f} dB; {len(clips)} clips"
    return Row(f"EDTalk, 64 px, held-out frames: PSNR above copying; {how}", f"{gain:.1f} dB", notes=notes)


def _moves_row(what: str, moves: Sequence[NDArray[np.float64]]) -> Row:
    together = np.concatenate(moves)
    mouth, rest = float(together[:, MOUTH].mean()), float(np.delete(together, MOUTH, axis=1).mean())
    what = f"{what}: landmarks of the mouth move, against the rest"
    notes = f"{mouth:.2f} and {rest:.2f} px of {LANDMARK_PX}; {len(together)} pairs of frames"
    return Row(what, f"{mouth / rest:.1f}x", notes=notes)


def _sheet(judge: Judge, clips: Sequence[Clip]) -> NDArray[np.uint8]:
    """A row per clip, BGR."""
    rows = []
    for clip in clips:
        frames, lenders = clip.lenders()
        chosen = int(np.abs(clip.opening[frames] - clip.opening[lenders[:, 0]]).argmax())
        frame, lender = int(frames[chosen]), int(lenders[chosen, 0])
        reference, target, other = clip.references[1], clip.targets[frame][None], clip.targets[lender][None]
        drawn = judge.draw(reference, torch.cat([target, other]), torch.cat([target, target]))
        rows.append(side_by_side(reference[None], target, drawn[:1], other, drawn[1:]))
    image = (torch.cat(rows, dim=1).permute(1, 2, 0) * 255).round().byte().numpy()
    return cv2.cvtColor(image, cv2.COLOR_RGB2BGR).astype(np.uint8, copy=False)


def _refreshed(folder: Path, media: Path) -> Snapshot:
    """The snapshot that the command makes of CLIPS."""
    store, catalog, root = folder / "store", folder / "datasets.yaml", folder / "clips"
    root.mkdir()
    for name in CLIPS:
        shutil.copy(media / name, root)
    catalog.write_text(_CATALOG.format(root=root))
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


if __name__ == "__main__":
    main()
