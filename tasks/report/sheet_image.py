"""The contact sheet as one small picture, for places that show pictures but no pages."""

import base64

import cv2
import numpy as np
from numpy.typing import NDArray

from storage.snapshot import Snapshot
from tasks.report.contact_sheet import Picture, contact_sheet

NUM_SHOWN = 12
COLUMNS = 6
TILE_PX = 160
_QUALITY = 80
_COLORS_BGR = {
    "jaw": (90, 200, 90),
    "brow": (230, 160, 60),
    "nose": (60, 200, 230),
    "eye": (230, 90, 200),
    "lip": (80, 80, 240),
}
_BOX_BGR = (255, 255, 255)


def sheet_image(snapshot: Snapshot) -> str | None:
    """A JPEG as a data URI: frames of kept clips with landmarks and face box drawn; None without stored frames."""
    pictures = contact_sheet(snapshot)["kept"]
    # They are in the order of the table, subject after subject: every second or third shows all of them.
    pictures = pictures[:: -(-len(pictures) // NUM_SHOWN) or 1]
    if not pictures:
        return None
    rows = -(-len(pictures) // COLUMNS)
    sheet = np.full((rows * TILE_PX, min(len(pictures), COLUMNS) * TILE_PX, 3), 24, np.uint8)
    for number, picture in enumerate(pictures):
        top, left = number // COLUMNS * TILE_PX, number % COLUMNS * TILE_PX
        sheet[top : top + TILE_PX, left : left + TILE_PX] = _tile(picture)
    data = cv2.imencode(".jpg", sheet, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def _tile(picture: Picture) -> NDArray[np.uint8]:
    encoded = np.frombuffer(base64.b64decode(picture.image.split(",", 1)[1]), np.uint8)
    frame = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
    image = np.asarray(cv2.resize(frame, (TILE_PX, TILE_PX), interpolation=cv2.INTER_AREA), np.uint8)
    scale = TILE_PX / picture.size_px
    for stroke in picture.strokes:
        points = np.array([pair.split(",") for pair in stroke.points.split()], np.float64) * scale
        cv2.polylines(image, [np.rint(points).astype(np.int32)], False, _COLORS_BGR[stroke.kind], 1, cv2.LINE_AA)
    if picture.box:
        x, y, width, height = (round(value * scale) for value in picture.box)
        cv2.rectangle(image, (x, y), (x + width, y + height), _BOX_BGR, 1)
    return image
