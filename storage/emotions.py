"""The eight emotions of MEAD, alphabetical; the same ids 0..7 for EDTalk, EmoGene and RealTalk."""

EMOTIONS = ("angry", "contempt", "disgust", "fear", "happy", "neutral", "sad", "surprise")

_ALIASES = {"disgusted": "disgust", "surprised": "surprise"} | {name[:3]: name for name in EMOTIONS}

# The spelling in MEAD's folders and in EDTalk's list files.
MEAD_SPELLING = {"disgust": "disgusted", "surprise": "surprised"}


def canonical_emotion(text: str) -> str:
    """`disgusted`, `dis` or `Disgust` as 'disgust'; '' stays ''; an unknown label is kept in lower case."""
    lower = text.strip().lower()
    return _ALIASES.get(lower, lower)


def emotion_id(text: str) -> int:
    """0..7, or -1 for a clip without one of the eight emotions."""
    name = canonical_emotion(text)
    return EMOTIONS.index(name) if name in EMOTIONS else -1
