"""Explain: what happened to one source or clip, with its scores and the reason."""

from typing import Any

from storage.errors import ConfigError
from storage.snapshot import Snapshot

_CLIP_FACTS = (
    "name", "clip", "is_kept", "reason", "detail", "split", "subject", "emotion", "num_frames", "start_s", "crop_x_px",
    "crop_y_px", "crop_side_px", "shard_id", "row",
)  # fmt: skip


def explain(snapshot: Snapshot, name: str) -> dict[str, Any]:
    """The sources and clips that `name` means: a path or the end of one, a base name, a clip name or key, an id.

    Returns:
        {'snapshot': number, 'sources': [...]}; each source with its state, reason and 'clips', each clip with the
        facts of its cut, 'scores' and, where a threshold applies, 'thresholds'.

    Raises:
        ConfigError: nothing in the snapshot is called so.
    """
    clips = snapshot.rows(kept=False)
    sources = snapshot.source_table.to_pylist()
    chosen_clips = [row for row in clips if name in (row["name"], row["clip"])]
    ids = {row["source_id"] for row in chosen_clips}
    chosen = [row for row in sources if _is_meant(row, name) or (row["source_id"] in ids and row["source_id"])]
    if not chosen:
        raise ConfigError(
            f"snapshot {snapshot.body.number} of {snapshot.body.dataset} knows no source or clip {name!r}; "
            "it may be new (run `talkset refresh`) or not selected in datasets.yaml"
        )
    return {
        "snapshot": snapshot.body.number,
        "sources": [_source(snapshot, row, clips, chosen_clips) for row in chosen],
    }


def _is_meant(row: dict[str, Any], name: str) -> bool:
    names = (row["path"], row["name"], row["source_id"], row["sha256"])
    return bool(name) and (name in names or row["path"].endswith(f"/{name}"))


def _source(
    snapshot: Snapshot, row: dict[str, Any], clips: list[dict[str, Any]], chosen: list[dict[str, Any]]
) -> dict[str, Any]:
    own = [clip for clip in clips if row["source_id"] and clip["source_id"] == row["source_id"]]
    wanted = [clip for clip in own if clip in chosen] or own
    if row["state"] == "duplicate_of":
        wanted = []
    return {**row, "clips": [_clip(snapshot, clip) for clip in wanted]}


def _clip(snapshot: Snapshot, row: dict[str, Any]) -> dict[str, Any]:
    limits = snapshot.body.config["thresholds"]
    scores = {name: value for name, value in row.items() if isinstance(value, float) and name != "start_s"}
    facts = {name: row[name] for name in _CLIP_FACTS}
    return {**facts, "scores": scores, "thresholds": {name: limits[name] for name in limits if name in scores}}
