"""Clip names and list files as EDTalk's training scripts read them.

The number of parts between '#' in a clip's name is its dataset; nothing else in a tree says so:

    M003#angry#level_1#001    four parts: MEAD (identity, emotion, level, take), always seen from the front
    RD_Radio1_000#1           two parts: HDTF (video, segment counted from 1)

The lists are JSON arrays of clip names, one per stage and split:

    train.json, test.json               every clip
    lists/MEAD_HDTF_{split}.json        stage 0, generator: draws a neutral clip of the same identity for a MEAD clip
    lists/HDTF_facial_{split}.json      stage 1, mouth and pose: HDTF clips, with landmarks
    lists/HDTF_{split}_bbox.json        stage 3, audio to mouth: HDTF clips with audio, boxes and a window of frames

The scripts know two splits. A snapshot's val clips have lists of their own; where there are no test clips, the val
clips are in the test lists, too, because the scripts evaluate on those.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from storage.emotions import MEAD_SPELLING, canonical_emotion, emotion_id
from tasks.export.names import safe_name

MEAD_FOLDER, HDTF_FOLDER = "MEAD_front", "HDTF"
MIN_AUDIO2MOUTH_FRAMES = 7  # stage 3 draws the first of its frames below length - 6
_MEAD_PARTS = 4


def edtalk_name(name: str) -> str:
    """The name of a clip in an EDTalk tree.

    Names of four or more parts whose second is an emotion are MEAD's, with the emotion in MEAD's spelling; a later
    window of a long take (`...#001#2`) becomes take `001~2`. Any other clip is a segment `video#k`, by default k = 1.
    """
    parts = name.split("#")
    if len(parts) >= _MEAD_PARTS and emotion_id(parts[1]) >= 0:
        emotion = canonical_emotion(parts[1])
        return safe_name("#".join([parts[0], MEAD_SPELLING.get(emotion, emotion), parts[2], "~".join(parts[3:])]))
    base, _, segment = name.rpartition("#")
    if not base or not segment.isdecimal():
        base, segment = name, "1"
    return f"{safe_name(base, also='#')}#{segment}"


def is_mead(exported: str) -> bool:
    """Whether an exported name is a MEAD clip's."""
    return exported.count("#") == _MEAD_PARTS - 1


def identity(exported: str) -> str:
    """MEAD's identity, or the video of an HDTF segment: what EDTalk groups clips by."""
    return exported.split("#")[0]


def dataset_folder(exported: str) -> str:
    """The folder of the clip's dataset in the tree."""
    return MEAD_FOLDER if is_mead(exported) else HDTF_FOLDER


@dataclass(frozen=True, slots=True)
class Listed:
    """A written clip, as far as the lists depend on it.

    Attributes:
        name: Its name in the export.
        split: One of 'train', 'val' and 'test'.
        num_frames: The number of frames, N.
        has_audio: False when its audio file is silence in place of none.
        has_bbox: True when its box file exists.
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
        files: Path -> clip names, sorted.
        left_out: Path -> clip name -> the reason why it is not in that list.
        notes: Remarks for the user.
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
    judged = {
        f"lists/MEAD_HDTF_{split}.json": {
            clip.name: "" if not is_mead(clip.name) or identity(clip.name) in neutral
            else f"{identity(clip.name)} has no neutral clip in this split to take the source from"
            for clip in clips
        },
        f"lists/HDTF_{split}_bbox.json": {clip.name: _no_speech(clip) for clip in hdtf},
    }  # fmt: skip
    for path, reasons in judged.items():
        lists.files[path] = [name for name, reason in reasons.items() if not reason]
        if left_out := {name: reason for name, reason in reasons.items() if reason}:
            lists.left_out[path] = left_out


def _no_speech(clip: Listed) -> str:
    """Why stage 3 cannot use a clip, '' when it can."""
    if not clip.has_audio:
        return "no audio"
    if not clip.has_bbox:
        return "no frame has a face box"
    if clip.num_frames < MIN_AUDIO2MOUTH_FRAMES:
        return f"{clip.num_frames} frames, fewer than {MIN_AUDIO2MOUTH_FRAMES}"
    return ""
