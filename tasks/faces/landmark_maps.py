"""Which landmark is what: the 68 points of iBUG 300-W, and where MediaPipe's 478 points have them.

Left and right are the viewer's: x rises from JAW[0], on the left of the image, to JAW[16].
"""

import numpy as np
from numpy.typing import NDArray

JAW = tuple(range(17))
BROW_LEFT, BROW_RIGHT = tuple(range(17, 22)), tuple(range(22, 27))
NOSE = tuple(range(27, 36))
EYE_LEFT, EYE_RIGHT = tuple(range(36, 42)), tuple(range(42, 48))
MOUTH, LIPS_OUTER, LIPS_INNER = tuple(range(48, 68)), tuple(range(48, 60)), tuple(range(60, 68))
CHIN = 8
# Their distance is the inter-ocular distance (IOD) by which landmark errors are normalised.
EYE_CORNERS_OUTER = (36, 45)

# Point i of a mirrored face is point MIRROR_68[i] of the face.
MIRROR_68 = (
    *range(16, -1, -1),
    *range(26, 16, -1),
    *(27, 28, 29, 30, 35, 34, 33, 32, 31),
    *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
    *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65),
)

# MediaPipe face-mesh point for each of the 68, as the GeneFace line uses them. The two definitions differ by a constant
# offset per point (3.5 to 6.8 % of the IOD in all), most along the jaw.
MEDIAPIPE_68 = (
    *(127, 234, 93, 132, 58, 136, 150, 176, 152, 400, 379, 365, 288, 361, 323, 454, 356),
    *(70, 63, 105, 66, 107, 336, 296, 334, 293, 300),
    *(168, 197, 5, 4, 75, 97, 2, 326, 305),
    *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),
    *(61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91, 78, 81, 13, 311, 308, 402, 14, 178),
)


def from_mediapipe(points: NDArray[np.floating]) -> NDArray[np.float32]:
    """The 68 landmarks among MediaPipe points [..., 478, K]: float32 [..., 68, K]."""
    return points[..., MEDIAPIPE_68, :].astype(np.float32)
