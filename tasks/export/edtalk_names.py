"""Clip names as EDTalk's code reads them: the number of parts between '#' tells the dataset.

    M003#angry#level_1#001    four parts: MEAD (identity, emotion, level, take), always seen from the front
    RD_Radio1_000#1           two parts: HDTF (video, segment counted from 1)

Nothing else in a tree says which dataset a clip belongs to.
"""

from storage.emotions import MEAD_SPELLING, canonical_emotion, emotion_id
from tasks.export.names import safe_name

MEAD_FOLDER, HDTF_FOLDER = "MEAD_front", "HDTF"
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
