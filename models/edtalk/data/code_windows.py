"""CodeWindows: windows of fixed length of motion codes with their audio."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from models.data.clip_dataset import ClipDataset, ClipFilter, ClipOptions, Item, validation_set
from models.data.motion_clips import has_clips, window
from models.edtalk.data.encoded_clips import extract_codes
from models.edtalk.data.face_frames import known_faces
from models.edtalk.networks.edtalk import EDTalk
from models.nn.standardiser import Moments, Standardiser
from models.training.engine.config import TrainConfig
from storage.errors import ConfigError
from storage.snapshot import ClipRef, Snapshot

Kind = Literal["mouth", "pose", "expression"]
MEL = "mel_edtalk"


class Stretch(NamedTuple):
    """Frames first .. last - 1 of a clip, each with a face."""

    first: int
    last: int


class CodeWindows(Dataset[Item]):
    """One window per clip, at a random place in it, with a face in all its frames.

    A window never reaches over a gap: it lies within one stretch of frames with a face, and is padded when that is
    shorter. An item of K frames has

        name      str                                   first     int, frame of the clip at which it begins
        codes     [K, C] float32, zero behind the end   inside    [K] bool, False behind the end of the stretch
        mel       [K, 1, 80, 16] float32                mean      [C] float32, mean codes of the whole clip
        emotion   0..7, -1 unknown                      level     level of the emotion, -1 unknown

    Args:
        clips: whole clips with the fields mel_edtalk and labels.
        codes: [N, C] codes of each of them, NaN in frames without a face.
        num_frames: K.
        seed: seed of the places, which depend on (seed, epoch, index) only; None takes the beginning of each clip's
            longest stretch.
        min_frames: shorter stretches are left out, and clips without a longer one.

    Raises:
        ConfigError: no clip is left.

    Attributes:
        codes: codes of the remaining clips.
    """

    def __init__(
        self, clips: ClipDataset, codes: Sequence[NDArray[np.float32]], num_frames: int, seed: int | None,
        min_frames: int = 1,
    ) -> None:  # fmt: skip
        found = [stretches(own, min_frames) for own in codes]
        self._numbers = [number for number, own in enumerate(found) if own]
        if not self._numbers:
            split = clips.options.split
            raise ConfigError(f"no clip fits: none of split {split!r} shows a face in {min_frames} frames on end")
        self.codes = [codes[number] for number in self._numbers]
        self._stretches = [found[number] for number in self._numbers]
        self._clips, self._num_frames, self._seed = clips, num_frames, seed
        # Shared memory: workers that live on (persistent_workers) see the epoch that the main process sets.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Item:
        clip, codes, count = self._clips[self._numbers[index]], self.codes[index], self._num_frames
        first, last = self._place(index)
        arrays = {
            "codes": window(codes[:last], first, count, 0.0),
            "inside": window(np.ones(last, bool), first, count, False),
            "mel": window(clip[MEL].numpy(), first, count, 0.0),
            "mean": np.nanmean(codes, axis=0),
        }
        plain = {name: clip[name] for name in ("name", "emotion", "level")}
        return plain | {"first": first} | {name: torch.from_numpy(array) for name, array in arrays.items()}

    def set_epoch(self, epoch: int) -> None:
        """Changes the places; call it before a loader is iterated. Running workers follow."""
        self._epoch.fill_(epoch)

    def clip(self, index: int) -> ClipRef:
        """The clip of an item."""
        return self._clips.clip(self._numbers[index])

    def frames(self, index: int) -> NDArray[np.int64]:
        """The frames with a face of an item's clip, ascending."""
        return np.flatnonzero(np.isfinite(self.codes[index]).all(axis=1))

    def labels(self, name: Literal["emotion", "level"]) -> Tensor:
        """[clips] int64 labels of all clips; -1 is unknown."""
        plain = replace(self._clips.options, fields=("labels",))
        clips = ClipDataset(self._clips.snapshot, plain)
        return torch.tensor([clips[number][name] for number in self._numbers])

    def choices(self, index: int, purpose: int = 0) -> np.random.Generator:
        """The generator of an item's random choices; without a seed they are the same in every epoch."""
        epoch = 0 if self._seed is None else int(self._epoch)
        return np.random.default_rng([self._seed or 0, epoch, index, purpose])

    def _place(self, index: int) -> Stretch:
        """The frames of an item's window that show a face."""
        candidates = self._stretches[index]
        sizes = np.array([last - first for first, last in candidates])
        rng = None if self._seed is None else self.choices(index)
        # by their length, so that every frame counts about the same
        number = sizes.argmax() if rng is None else rng.choice(len(sizes), p=sizes / sizes.sum())
        first, last = candidates[int(number)]
        spare = max(0, last - first - self._num_frames)
        first += 0 if rng is None else int(rng.integers(spare + 1))
        return Stretch(first, min(last, first + self._num_frames))


def stretches(codes: NDArray[np.float32], min_frames: int) -> list[Stretch]:
    """The runs of `min_frames` or more finite rows in codes [N, C], in order."""
    is_face = np.isfinite(codes).all(axis=1)
    edges = np.flatnonzero(np.diff(is_face, prepend=False, append=False)).tolist()
    every = [Stretch(first, last) for first, last in zip(edges[::2], edges[1::2], strict=True)]
    return [stretch for stretch in every if stretch.last - stretch.first >= min_frames]


class Windows(NamedTuple):
    """Windows of the splits 'train' and 'val'; None where 'val' has no clip."""

    train: CodeWindows
    val: CodeWindows | None


def audio_windows(
    generator: EDTalk, snapshot: Snapshot, kinds: tuple[Kind, ...], num_frames: int, min_frames: int, train: TrainConfig
) -> Windows:
    """Windows of all clips with audio of their own, with the codes that a generator gives them.

    Args:
        generator: on the CPU.
        snapshot: with the features mel and landmarks.
        kinds: the codes of an item, concatenated.
        num_frames: K.
        min_frames: clips with fewer consecutive frames with a face are left out.
        train: gives the seed, and the number of processes that decode frames.

    Raises:
        ConfigError: the snapshot lacks the mel, or has no such clip in the split 'train'.
    """
    where = ClipFilter(has_audio=True, min_frames=min_frames)
    splits = ("train", "val") if has_clips(snapshot, "val", where) else ("train",)
    sets = [ClipDataset(snapshot, ClipOptions(fields=(MEL, "labels"), split=split, where=where)) for split in splits]
    refs, codes = [clips.clip(index) for clips in sets for index in range(len(clips))], list[NDArray[np.float32]]()
    extracted = extract_codes(generator, snapshot, refs, train.num_workers)
    for own, is_known in zip(extracted, known_faces(snapshot, refs), strict=True):
        codes.append(np.concatenate([getattr(own, kind) for kind in kinds], axis=1))
        codes[-1][~is_known] = np.nan
    count = len(sets[0])
    trained = CodeWindows(sets[0], codes[:count], num_frames, train.seed, min_frames)
    if len(sets) == 1:
        return Windows(trained, None)
    make = partial(CodeWindows, sets[1], codes[count:], num_frames, None, min_frames)
    return Windows(trained, validation_set(make))


def code_scale(codes: Sequence[NDArray[np.float32]]) -> Standardiser:
    """Mean and spread of each code over codes [N, C] of some clips; frames with NaN do not count."""
    moments = Moments(codes[0].shape[1])
    for own in codes:
        moments.add(own[np.isfinite(own).all(axis=1)])
    return moments.standardiser()
