"""The tables that a shard's cut commits beside its frames, and the clip key that joins them to every other table.

    <object>/frames/            LMDB environment of frames and audio, see storage.frame_store
    <object>/sources.parquet    one row per source of the shard
    <object>/clips.parquet      one row per expected clip, stored or not
    <object>/tracks.parquet     one row per stored clip

Rows keep the order of the shard's sources, and of the clips within a source.
"""

from dataclasses import replace

from storage.tables import Column
from storage.timelaw import FPS

FRAMES_FOLDER = "frames"
CLIPS_FILE = "clips.parquet"
TRACKS_FILE = "tracks.parquet"
SOURCES_FILE = "sources.parquet"

# The first column of every table with one row per clip.
CLIP_KEY = Column("clip", "string", doc="clip key of the row")

SOURCE_COLUMNS = (
    Column("source_id", "string"),
    Column("state", "string", doc="done or rejected"),
    Column("reason", "string", doc="reason code of a rejected source"),
    Column("detail", "string", doc="what was found, for a person"),
    Column("container", "string"),
    Column("codec", "string"),
    Column("width_px", "int32", unit="px"),
    Column("height_px", "int32", unit="px"),
    Column("rotation_deg", "int32", unit="deg"),
    Column("avg_fps", "float64", unit="Hz"),
    Column("is_variable_rate", "bool"),
    Column("has_audio", "bool"),
    Column("num_slots", "int64", doc="25-fps frames of the whole source"),
    Column("num_corrupt", "int64", doc="of those, frames the decoder flagged"),
)
CLIP_COLUMNS = (
    replace(CLIP_KEY, doc="clip key: source_id.window"),
    Column("source_id", "string"),
    Column("window", "int32", doc="1-based among the expected clips of the source"),
    Column("span", "int32", doc="0-based index of the annotated span, 0 without annotations"),
    Column("is_stored", "bool"),
    Column("reason", "string", doc="why an expected clip is not stored"),
    Column("detail", "string"),
    Column("num_frames", "int32"),
    Column("start_s", "float64", unit="s", doc="container time of the first frame"),
    Column("has_audio", "bool"),
    Column("crop_x_px", "int32", unit="px", doc="left edge of the crop in the upright source"),
    Column("crop_y_px", "int32", unit="px"),
    Column("crop_side_px", "int32", unit="px"),
    Column("size_px", "int32", unit="px", doc="side of the stored frames"),
    Column("source_to_crop", "float64", (3, 3), doc="homogeneous transform of pixel coordinates"),
)
TRACK_COLUMNS = (
    replace(CLIP_KEY, doc=""),
    Column("landmarks", "float32", ("N", 68, 2), unit="px in crop", rate_hz=FPS, doc="NaN where not found"),
    Column("source_box", "float32", ("N", 4), unit="px in source", rate_hz=FPS, doc="xyxy, NaN where not found"),
    Column("num_faces", "int16", ("N",), rate_hz=FPS, doc="faces tracked in the source frame"),
    Column("is_corrupt", "bool", ("N",), rate_hz=FPS, doc="the decoder flagged the shown frame"),
)


def clip_key(source_id: str, window: int) -> str:
    """Key of a clip, unique in a store: the id of its source, and its 1-based number among that source's windows."""
    return f"{source_id}.{window:04d}"
