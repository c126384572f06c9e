"""The list files of EDTalk's training scripts: JSON arrays of clip names, one per stage and split.

    train.json, test.json               every clip
    lists/MEAD_HDTF_{split}.json        stage 0, generator: draws a neutral clip of the same identity for a MEAD clip
    lists/HDTF_facial_{split}.json      stage 1, mouth and pose: HDTF clips, with landmarks
    lists/HDTF_{split}_bbox.json        stage 3, audio to mouth: HDTF clips with sound, boxes and a window of frames

The scripts know two splits. A snapshot's val clips have lists of their own; where there are no test clips, the val
clips are in the test lists, too, because the scripts evaluate on those.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.export.edtalk_names import identity, is_mead

MIN_AUDIO2MOUTH_FRAMES = 7  # stage 3 draws the first of its frames below length - 6


@dataclass(frozen=True, slots=True)
class Listed:
    """What the lists must know of a written clip.

    Attributes:
        name: in the export.
        split: 'train', 'val' or 'test'.
        num_frames: N.
        has_audio: False when its sound is a stand-in of silence.
        has_bbox: its box file exists.
    """

    name: str
    split: str
    num_frames: int
    has_audio: bool
    has_bbox: bool


@dataclass(frozen=True, slots=True)
class ClipLists:
    """List files by relative path.

    Attributes:
        files: path -> clip names, sorted.
        left_out: path -> clip name -> why it is not in a list of its kind.
        notes: what a user must know.
    """

    files: dict[str, list[str]]
    left_out: dict[str, dict[str, str]]
    notes: list[str]


def clip_lists(clips: Sequence[Listed]) -> ClipLists:
    """All list files of an export."""
    by_split = {split: [clip for clip in clips if clip.split == split] for split in ("train", "val", "test")}
    notes = [] if by_split["train"] else ["there are no train clips: the train lists are empty"]
    if not by_split["test"]:
        by_split["test"] = by_split["val"]
        notes.append(f"there are no test clips: the test lists hold the {len(by_split['val'])} val clips")
    lists = ClipLists({}, {}, notes)
    for split, members in by_split.items():
        if members or split != "val":
            _add_lists(lists, split, sorted(members, key=lambda clip: clip.name))
    return lists


def _add_lists(lists: ClipLists, split: str, clips: Sequence[Listed]) -> None:
    neutral = {identity(clip.name) for clip in clips if is_mead(clip.name) and clip.name.split("#")[1] == "neutral"}
    hdtf = [clip for clip in clips if not is_mead(clip.name)]
    lists.files[f"{split}.json"] = [clip.name for clip in clips]
    lists.files[f"lists/HDTF_facial_{split}.json"] = [clip.name for clip in hdtf]
    pairs = {clip.name: _no_neutral(clip, neutral) for clip in clips}
    _add(lists, f"lists/MEAD_HDTF_{split}.json", pairs)
    _add(lists, f"lists/HDTF_{split}_bbox.json", {clip.name: _no_speech(clip) for clip in hdtf})


def _add(lists: ClipLists, path: str, reasons: dict[str, str]) -> None:
    lists.files[path] = [name for name, reason in reasons.items() if not reason]
    left_out = {name: reason for name, reason in reasons.items() if reason}
    if left_out:
        lists.left_out[path] = left_out


def _no_neutral(clip: Listed, neutral: set[str]) -> str:
    has_partner = not is_mead(clip.name) or identity(clip.name) in neutral
    return "" if has_partner else f"{identity(clip.name)} has no neutral clip in this split to take the source from"


def _no_speech(clip: Listed) -> str:
    if not clip.has_audio:
        return "no sound"
    if not clip.has_bbox:
        return "no frame has a face box"
    if clip.num_frames < MIN_AUDIO2MOUTH_FRAMES:
        return f"{clip.num_frames} frames, fewer than {MIN_AUDIO2MOUTH_FRAMES}"
    return ""
