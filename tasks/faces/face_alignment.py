"""The networks of the `face_alignment` package as a backend: S3FD finds faces, 2DFAN-4 their landmarks.

Only the package's network definitions are used: its own loader downloads what it misses and compiles for minutes. The
weights `s3fd` and `2dfan4` come through storage.weights. Made for a GPU: on one CPU core a frame takes about a second.

Papers: Zhang et al., "S3FD: Single Shot Scale-invariant Face Detector" (ICCV 2017); Bulat and Tzimiropoulos, "How far
    are we from solving the 2D & 3D face alignment problem?" (ICCV 2017).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from storage import weights
from storage.errors import WeightsError
from storage.keys import library_versions, sha256_hex
from tasks.faces.backend import Detection
from tasks.faces.landmark_maps import MIRROR_68
from tasks.geometry import iou

if TYPE_CHECKING:
    import torch

CODE_FILES = ("faces/face_alignment.py", "faces/landmark_maps.py")
LIBRARIES = ("face-alignment", "torch")
WEIGHT_FILES = ("2dfan4", "s3fd")

MEAN_BGR = (104.0, 117.0, 123.0)  # what S3FD's training subtracted
SEARCH_FACE_PX = 40  # the smallest wanted face after scaling
MIN_SCORE, VERIFY_SCORE, VERIFY_IOU = 0.5, 0.3, 0.35
NMS_IOU = 0.3
CROP_PX, HEATMAP_PX = 256, 64  # FAN's input and output
REFERENCE_PX = 195.0  # width + height of the box of a face that fills 200 px of FAN's input ...
RAISE = 0.12  # ... which is centred this share of the box height above the box's centre

# S3FD's box from the square one that dlib draws, in sides of the latter (medians over real clips): down by -0.10, 1.03
# wide, 1.42 high.
DOWN, WIDE, HIGH = -0.10, 1.03, 1.42


class FaceAlignmentBackend:
    """S3FD and 2DFAN-4. Boxes are handed out and taken as dlib's detector would draw them, as the tracker expects.

    Attributes:
        name: "face_alignment".
        identity: version of the package and hashes of both weight files.
    """

    name = "face_alignment"

    def __init__(self, device: str | None = None) -> None:
        """Load both networks to `device` (default: the GPU if there is one).

        Raises:
            WeightsError: a weight file is absent or does not fit its network.
        """
        import torch
        from face_alignment.detection.sfd.net_s3fd import s3fd
        from face_alignment.models import FAN

        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._detector = _loaded(s3fd(), "s3fd", self._device)
        self._aligner = _loaded(FAN(4), "2dfan4", self._device)
        version = library_versions(["face-alignment"])["face-alignment"]
        prints = f"{weights.fingerprint('s3fd')} {weights.fingerprint('2dfan4')}"
        self.identity = {"name": self.name, "version": version, "sha256": sha256_hex(prints.encode())}

    def detect(self, gray: NDArray[np.uint8], min_face_px: int) -> list[Detection]:
        """Every face of at least `min_face_px`, surest first."""
        import cv2

        scale = min(1.0, SEARCH_FACE_PX / max(min_face_px, 1))
        height, width = gray.shape
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = cv2.resize(np.ascontiguousarray(gray), size, interpolation=cv2.INTER_AREA)
        found = self._search(image, MIN_SCORE)  # pyright: ignore[reportArgumentType]
        boxes = ((to_hog_box(row[:4].astype(np.float64) / scale), float(row[4])) for row in found)
        return [Detection(box.astype(np.float32), score) for box, score in boxes if box[2] - box[0] >= min_face_px]

    def verify(self, gray: NDArray[np.uint8], box: NDArray[np.floating]) -> bool:
        """Whether S3FD finds a face of about this place and size in the crop around `box`."""
        side = float(max(box[2] - box[0], 1.0))
        centre = (np.asarray(box[:2], np.float64) + box[2:]) / 2
        crop = _square(gray, centre, 2.4 * side, 128)
        scale, corner = 128 / (2.4 * side), centre - 1.2 * side
        wanted = (np.asarray(box, np.float64) - np.tile(corner, 2)) * scale
        return any(float(iou(to_hog_box(row[:4]), wanted)) >= VERIFY_IOU for row in self._search(crop, VERIFY_SCORE))

    def landmarks(self, gray: NDArray[np.uint8], box: NDArray[np.floating]) -> NDArray[np.float32]:
        """68 landmarks of the face in `box`, float32 [68, 2] px."""
        return self.landmarks_batch([gray], np.asarray(box)[None])[0]

    def landmarks_batch(self, grays: Sequence[NDArray[np.uint8]], boxes: NDArray[np.floating]) -> NDArray[np.float32]:
        """Landmarks of one face in each of B images, boxes [B, 4], in one pass of the network: float32 [B, 68, 2] px.

        Each crop is shown as it is and mirrored, and the heatmaps are averaged, as the package does.
        """
        import torch

        places = [_fan_square(np.asarray(box, np.float64)) for box in boxes]
        crops = np.stack(
            [_square(gray, centre, side, CROP_PX) for gray, (centre, side) in zip(grays, places, strict=True)]
        )
        images = torch.from_numpy(crops).to(self._device, torch.float32)[:, None].expand(-1, 3, -1, -1) / 255
        with torch.inference_mode():
            straight, mirrored = self._aligner(torch.cat([images, images.flip(-1)]))[-1].chunk(2)
            heatmaps = straight + mirrored[:, list(MIRROR_68)].flip(-1)
        peaks = heatmap_peaks(heatmaps.float().cpu().numpy())
        centres, sides = np.array([c for c, _ in places])[:, None], np.array([s for _, s in places])[:, None, None]
        return (centres + ((peaks + 0.5) / HEATMAP_PX - 0.5) * sides).astype(np.float32)

    def _search(self, gray: NDArray[np.uint8], min_score: float) -> NDArray[np.float32]:
        """S3FD boxes with scores, [K, 5], surest first, overlapping ones removed."""
        import torch

        image = torch.from_numpy(np.ascontiguousarray(gray)).to(self._device, torch.float32)
        image = image[None, None] - torch.tensor(MEAN_BGR, device=self._device).view(1, 3, 1, 1)
        with torch.inference_mode():
            maps = [level.float().cpu() for level in self._detector(image)]
        return suppressed(decode_s3fd(maps, min_score))


def load(device: str | None = None) -> FaceAlignmentBackend:
    """The backend, ready to use."""
    return FaceAlignmentBackend(device)


def decode_s3fd(maps: Sequence["torch.Tensor"], min_score: float) -> NDArray[np.float32]:
    """Candidate boxes (xyxy px) with scores of one image, float32 [K, 5].

    `maps` are S3FD's outputs: six pairs of classes [1, 2, h, w] and offsets [1, 4, h, w].
    Level i has a stride of 2 ** (i + 2) px and one square anchor per cell, 4 strides wide.
    """
    found = []
    for level, (classes, offsets) in enumerate(zip(maps[::2], maps[1::2], strict=True)):
        stride = 2 ** (level + 2)
        scores = classes.softmax(dim=1)[0, 1].numpy()
        y, x = np.nonzero(scores > min_score)
        anchors = (np.stack([x, y], axis=1) + 0.5) * stride
        shift = offsets[0].numpy()[:, y, x].T
        # 0.1 and 0.2 are the variances that the offsets are scaled by.
        centres = anchors + shift[:, :2] * 0.1 * 4 * stride
        halves = 4 * stride * np.exp(shift[:, 2:] * 0.2) / 2
        found.append(np.column_stack([centres - halves, centres + halves, scores[y, x]]))
    return np.concatenate(found).astype(np.float32)


def suppressed(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Boxes [K, 5] by falling score, without those that overlap a surer one by more than NMS_IOU."""
    waiting, kept = boxes[np.argsort(-boxes[:, 4], kind="stable")], []
    while len(waiting):
        kept.append(waiting[0])
        waiting = waiting[1:][iou(waiting[1:, :4], waiting[0, :4]) <= NMS_IOU]
    return np.stack(kept) if kept else boxes[:0]


def heatmap_peaks(heatmaps: NDArray[np.float32]) -> NDArray[np.float64]:
    """Maxima (x, y) of heatmaps [B, K, S, S], moved a quarter cell towards the higher neighbours: float64 [B, K, 2]."""
    size = heatmaps.shape[-1]
    y, x = np.divmod(heatmaps.reshape(*heatmaps.shape[:2], -1).argmax(axis=-1), size)
    b, k = np.ogrid[: heatmaps.shape[0], : heatmaps.shape[1]]
    left, right = (heatmaps[b, k, y, np.clip(x + d, 0, size - 1)] for d in (-1, 1))
    up, down = (heatmaps[b, k, np.clip(y + d, 0, size - 1), x] for d in (-1, 1))
    is_inside = (x > 0) & (x < size - 1) & (y > 0) & (y < size - 1)
    step = 0.25 * np.stack([np.sign(right - left), np.sign(down - up)], axis=-1) * is_inside[..., None]
    return np.stack([x, y], axis=-1) + step.astype(np.float64)


def to_hog_box(box: NDArray[np.floating]) -> NDArray[np.float64]:
    """The square box that dlib would draw for the face in an S3FD box."""
    side = float(box[3] - box[1]) / HIGH
    centre = (np.asarray(box[:2], np.float64) + box[2:4]) / 2 - np.array([0.0, DOWN]) * side
    return np.concatenate([centre - side / 2, centre + side / 2])


def _loaded(network: Any, name: str, device: "torch.device") -> Any:
    """The network with its weights, on the device, ready for inference."""
    import pickle

    import torch

    path = weights.resolve(name)
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (RuntimeError, pickle.UnpicklingError, EOFError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{path}: not the weights {name!r} ({str(error).splitlines()[0]}); get the file again"
        ) from error
    return network.to(device).eval()


def _fan_square(box: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Centre and side px of FAN's input for a dlib-like box."""
    side = float(max(box[2] - box[0], 1.0))
    centre = (box[:2] + box[2:]) / 2 + np.array([0.0, DOWN - RAISE * HIGH]) * side
    return centre, 200.0 * (WIDE + HIGH) * side / REFERENCE_PX


def _square(gray: NDArray[np.uint8], centre: NDArray[np.float64], side: float, size: int) -> NDArray[np.uint8]:
    """Square of `side` px around `centre`, scaled to [size, size]; black outside the image."""
    import cv2

    step = side / size
    corner = centre - side / 2 + step / 2
    to_source = np.array([[step, 0, corner[0]], [0, step, corner[1]]])
    image = np.ascontiguousarray(gray)
    return cv2.warpAffine(image, to_source, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)  # pyright: ignore[reportReturnType]
