"""Clip: what an extractor receives of one clip, read from the committed shard; light until a frame is decoded."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Clip:
    """One clip of N frames, everything aligned by frame index.

    Attributes:
        key: content-derived clip key, unique in the store.
        num_frames: N.
        size_px: side of the square crop.
        group: opaque id shared by the clips of one subject within the shard.
        audio: [640 N] float32 mono 16 kHz in [-1, 1]; zeros when the dataset allows silent sources and there is none.
        has_audio: False when `audio` is such a stand-in.
        landmarks: [N, 68, 2] float32 px in the crop, NaN rows where the speaker was not found.
        num_faces: [N] int16, faces tracked in the source frame.
        is_corrupt: [N] bool, the decoder flagged the shown frame.
        source_px_per_crop_px: scale of the crop (2.0: the crop halves the source).
        read_jpeg: index -> JPEG bytes of the stored frame.
        features: output columns of the extractors named in REQUIRES, merged: column name -> array.
    """

    key: str
    num_frames: int
    size_px: int
    group: str
    audio: NDArray[np.float32]
    has_audio: bool
    landmarks: NDArray[np.float32]
    num_faces: NDArray[np.int16]
    is_corrupt: NDArray[np.bool_]
    source_px_per_crop_px: float
    read_jpeg: Callable[[int], bytes]
    features: Mapping[str, NDArray] = field(default_factory=dict)

    @property
    def valid(self) -> NDArray[np.bool_]:
        """[N] bool: the speaker's landmarks are known in this frame."""
        return np.asarray(np.isfinite(self.landmarks).all(axis=(1, 2)), dtype=np.bool_)

    def frame(self, index: int) -> NDArray[np.uint8]:
        """Stored frame `index` as [S, S, 3] RGB uint8."""
        return self._decode(index, "RGB")

    def gray(self, index: int) -> NDArray[np.uint8]:
        """Stored frame `index` as [S, S] luma uint8."""
        return self._decode(index, "gray")

    def _decode(self, index: int, colours: Literal["RGB", "gray"]) -> NDArray[np.uint8]:
        import cv2

        data = np.frombuffer(self.read_jpeg(index), dtype=np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR if colours == "RGB" else cv2.IMREAD_GRAYSCALE)
        if image is None:
            raise ValueError(f"clip {self.key}: frame {index} is not a JPEG; run `talkset verify`")
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if colours == "RGB" else image  # pyright: ignore[reportReturnType]
