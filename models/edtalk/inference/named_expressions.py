"""Expressions by name: mean codes, published for eight emotions, or measured on a snapshot.

    <folder>/<name>.npy     (1, 10) float32

The folder is `edtalk` in $TALKSET_WEIGHTS or in the cache of weights. Names in published files: angry, contempt,
disgusted, fear, happy, neutral, sad, surprised.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from models.data.clip_dataset import ClipFilter
from models.edtalk.data.face_frames import known_faces
from models.edtalk.inference.animator import Animator
from models.edtalk.weights.published_checkpoints import read_codes
from storage.emotions import EMOTIONS, MEAD_SPELLING, canonical_emotion
from storage.errors import ConfigError, WeightsError
from storage.snapshot import ClipRef, Snapshot
from storage.weights import imported_folders, listed

SYSTEM = "edtalk"


def names() -> tuple[str, ...]:
    """Expressions that are at hand, sorted."""
    return tuple(sorted({path.stem for folder in imported_folders(SYSTEM) for path in folder.glob("*.npy")}))


def expression(name: str, num_codes: int = 10) -> Tensor:
    """[1, 10] float32 codes; a spelling of storage.emotions does as well.

    Raises:
        ConfigError: not the name of an emotion, and none of the files.
        WeightsError: an emotion, but its file is nowhere.
    """
    plain = canonical_emotion(name)
    spellings = dict.fromkeys((name, plain, MEAD_SPELLING.get(plain, plain)))
    places = []
    for folder in imported_folders(SYSTEM):
        stems = {path.stem for path in folder.glob("*.npy")}  # exact spelling, also on file systems that ignore case
        places += [folder / f"{spelling}.npy" for spelling in spellings if spelling in stems]
    if places:
        return read_codes(places[0], num_codes)
    have = ", ".join(names()) or "none"
    if plain not in EMOTIONS:
        known = ", ".join(MEAD_SPELLING.get(emotion, emotion) for emotion in EMOTIONS)
        raise ConfigError(f"no expression {name!r}: neither a file, nor one of {known}; at hand are {have}")
    raise WeightsError(
        f"no codes for expression {name!r}: get {MEAD_SPELLING.get(plain, plain)}.npy from"
        f" {listed()['edtalk_expressions'].page} and import it with `talkset weights import edtalk`, or make"
        f" your own with `talkset edtalk expression-weights` (at hand: {have})"
    )


def mean_expression(
    animator: Animator, snapshot: Snapshot, emotion: str, level: str | None = None, frames_per_clip: int = 8,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Tensor, int]:  # fmt: skip
    """Mean expression codes of the clips with an emotion that show a face, whatever their split; all weigh the same.

    Args:
        animator: with a model that has an expression bank.
        snapshot: with the feature landmarks.
        emotion: label, see storage.emotions.
        level: of intensity, as the snapshot's table has it; None takes all.
        frames_per_clip: frames taken of each, at equal distances among those with a face.
        report: called with (clips done, clips) after each.

    Returns:
        [1, 10] float32, and the number of clips.

    Raises:
        ConfigError: the model has no expression bank, no clip has that label (those there are are named), or none of
            them shows a face.
    """
    if not animator.model.has_expression:
        raise ConfigError("this model has no expression bank: use a full model")
    clips = _clips(snapshot, canonical_emotion(emotion), level)
    known = zip(clips, known_faces(snapshot, clips), strict=True)
    shown = [(clip, np.flatnonzero(faces)) for clip, faces in known if faces.any()]
    if not shown:
        raise ConfigError(f"snapshot {snapshot.body.number}: no clip labelled {emotion!r} shows a face")
    total = torch.zeros(1, animator.model.shape.num_expression)
    for done, (clip, frames) in enumerate(shown, start=1):
        at = np.unique(np.linspace(0, len(frames) - 1, min(frames_per_clip, len(frames))).round().astype(int))
        codes = animator.codes(snapshot.frame(clip, int(index)) for index in frames[at])
        assert codes.expression is not None
        total += codes.expression.mean(0, keepdim=True)
        report(done, len(shown))
    return total / len(shown), len(shown)


def _clips(snapshot: Snapshot, emotion: str, level: str | None) -> list[ClipRef]:
    pairs = list(zip(snapshot.rows(), snapshot.clips(), strict=True))
    wanted = ClipFilter(emotions=(emotion,))
    found = [clip for row, clip in pairs if wanted.accepts(row) and level in (None, row["level"])]
    if not found:
        have = sorted({f"{row['emotion'] or 'no emotion'} (level {row['level'] or '-'})" for row, _ in pairs})
        at = "" if level is None else f" at level {level}"
        raise ConfigError(
            f"snapshot {snapshot.body.number} has no clip labelled {emotion!r}{at}; it has {', '.join(have)}"
        )
    return found
