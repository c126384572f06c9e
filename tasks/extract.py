"""Extract: one extractor over all clips of one committed shard; one Parquet row per clip."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from storage.cut_tables import CLIP_KEY, CLIPS_FILE, FRAMES_FOLDER, TRACKS_FILE
from storage.errors import TalksetError
from storage.keys import canonical_json
from storage.objects import ObjectStore
from storage.records import StepResult
from storage.snapshot import FEATURES_TABLE
from storage.tables import read_table, to_numpy, write_table
from tasks import features
from tasks.clip import Clip
from tasks.step_keys import feature_key


def extract_shard(
    name: str, params: BaseModel, cut: StepResult, needs: Mapping[str, str], groups: Sequence[int], store: ObjectStore
) -> StepResult:
    """Runs extractor `name` over the shard and commits its table; rows are in the order of the cut's stored clips.

    Args:
        name: extractor, a file in tasks/features.
        params: its parameters.
        cut: result of the shard's cut.
        needs: required extractor -> key of its committed object for this shard.
        groups: one number per source of `cut.source_ids`; equal numbers are the same subject.
        store: object store of the cut and of the table.
    """
    began = time.monotonic()
    key, inputs = feature_key(name, params, cut.key, needs, groups)
    is_new = not store.exists(key)
    if is_new:
        with store.stage(name, key, inputs) as staging:
            clips = load_clips(store, cut, needs, groups)
            rows = _rows(name, params, clips)
            columns = features.discover()[name].COLUMNS
            metadata = {"extractor": name, "params": canonical_json(features.key_params(name, params)).decode()}
            write_table(staging.path / FEATURES_TABLE, rows, (CLIP_KEY, *columns), metadata)
            staging.commit(timing={"seconds": round(time.monotonic() - began, 3)})
    ref = store.open(key)
    seconds = time.monotonic() - began if is_new else 0.0
    return StepResult(
        name, cut.shard_id, cut.source_ids, key, ref.digest, ref.num_bytes, cut.num_clips, seconds, is_new
    )


def load_clips(store: ObjectStore, cut: StepResult, needs: Mapping[str, str], groups: Sequence[int]) -> list[Clip]:
    """The stored clips of a shard, in order; frames are read when asked for."""
    from storage.frame_store import FrameStore

    folder = store.path(cut.key)
    expected = store.manifest(cut.key).files.get(f"{FRAMES_FOLDER}/data.mdb")
    frames = FrameStore(folder / FRAMES_FOLDER, expected.bytes if expected else None)
    meta = [row for row in read_table(folder / CLIPS_FILE).to_pylist() if row["is_stored"]]
    tracks = read_table(folder / TRACKS_FILE)
    required = {name: read_table(store.path(key) / FEATURES_TABLE) for name, key in needs.items()}
    group_of = dict(zip(cut.source_ids, groups, strict=True))
    out = []
    for row, info in enumerate(meta):
        clip = info["clip"]
        out.append(
            Clip(
                key=clip,
                num_frames=info["num_frames"],
                size_px=info["size_px"],
                group=str(group_of[info["source_id"]]),
                audio=frames.audio(clip),
                has_audio=info["has_audio"],
                landmarks=to_numpy(tracks, "landmarks", row),
                num_faces=to_numpy(tracks, "num_faces", row),
                is_corrupt=to_numpy(tracks, "is_corrupt", row),
                source_px_per_crop_px=info["crop_side_px"] / info["size_px"],
                read_jpeg=lambda index, clip=clip: frames.jpeg(clip, index),
                features={
                    column: to_numpy(table, column, row)
                    for table in required.values()
                    for column in table.column_names
                    if column != CLIP_KEY.name
                },
            )
        )
    return out


def _rows(name: str, params: BaseModel, clips: Sequence[Clip]) -> list[dict[str, Any]]:
    extractor = features.discover()[name]
    shared = {
        group: features.prepare(name, [clip for clip in clips if clip.group == group], params)
        for group in sorted({clip.group for clip in clips})
    }
    rows = []
    for clip in clips:
        try:
            rows.append({CLIP_KEY.name: clip.key, **extractor.extract(clip, params, shared[clip.group])})
        except TalksetError:
            raise
        except Exception as error:
            # The message begins with the clip's name; the error itself stays chained.
            raise RuntimeError(
                f"extractor {name} failed on clip {clip.key}: {type(error).__name__}: {error}"
            ) from error
    return rows
