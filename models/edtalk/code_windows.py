"""CodeWindows: windows of fixed length of motion codes with the sound that belongs to them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from models.data import ClipDataset, ClipFilter, ClipOptions
from models.edtalk.code_features import extract_codes
from models.edtalk.model import EDTalk
from models.motion_clips import has_clips, window
from models.standardiser import Moments, Standardiser
from models.train_config import TrainConfig
from storage.snapshot import ClipRef, Snapshot

Kind = Literal["mouth", "pose", "expression"]
MEL = "mel_edtalk"


class CodeWindows(Dataset[dict[str, Any]]):
    """One window per clip, at a random place of it.

    An item of K frames has

        name      str                                   first     int, the frame of the clip that it begins with
        codes     [K, C] float32, zero behind the end   inside    [K] bool, False behind the end of a short clip
        mel       [K, 1, 80, 16] float32                mean      [C] float32, of the codes of the whole clip
        emotion   0..7, -1 unknown                      level     of the emotion, -1 unknown

    Args:
        clips: with the fields mel_edtalk and labels, whole.
        codes: [N, C] of each of them.
        num_frames: K.
        seed: of the places, which depend on (seed, epoch, index) only; None takes the beginning of each clip.

    Attributes:
        codes: as given.
    """

    def __init__(
        self, clips: ClipDataset, codes: Sequence[NDArray[np.float32]], num_frames: int, seed: int | None
    ) -> None:
        self.codes = codes
        self._clips, self._num_frames, self._seed = clips, num_frames, seed
        # Shared memory: workers that live on (persistent_workers) see the epoch that the main process sets.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        clip, codes, count = self._clips[index], self.codes[index], self._num_frames
        first = self.first(index)
        arrays = {
            "codes": window(codes, first, count, 0.0),
            "inside": window(np.ones(len(codes), bool), first, count, False),
            "mel": window(clip[MEL].numpy(), first, count, 0.0),
            "mean": codes.mean(axis=0),
        }
        plain = {name: clip[name] for name in ("name", "emotion", "level")}
        return plain | {"first": first} | {name: torch.from_numpy(array) for name, array in arrays.items()}

    def set_epoch(self, epoch: int) -> None:
        """Changes the places; call it before a loader is iterated. Running workers follow."""
        self._epoch.fill_(epoch)

    def clip(self, index: int) -> ClipRef:
        """Where the clip of an item lies."""
        return self._clips.clip(index)

    def labels(self, name: Literal["emotion", "level"]) -> Tensor:
        """[clips] int64 labels of all clips; -1 is unknown."""
        plain = replace(self._clips.options, fields=("labels",))
        clips = ClipDataset(self._clips.snapshot, plain)
        return torch.tensor([clips[index][name] for index in range(len(clips))])

    def first(self, index: int) -> int:
        """The frame that the window of a clip begins with."""
        spare = max(0, len(self.codes[index]) - self._num_frames)
        return 0 if self._seed is None else int(self.choices(index).integers(spare + 1))

    def choices(self, index: int, purpose: int = 0) -> np.random.Generator:
        """What random choices of an item are drawn from; without a seed they are the same in every epoch."""
        epoch = 0 if self._seed is None else int(self._epoch)
        return np.random.default_rng([self._seed or 0, epoch, index, purpose])


class Windows(NamedTuple):
    """Windows of the splits 'train' and 'val'; None where 'val' has no clip."""

    train: CodeWindows
    val: CodeWindows | None


def spoken_windows(
    generator: EDTalk, snapshot: Snapshot, kinds: tuple[Kind, ...], num_frames: int, min_frames: int, train: TrainConfig
) -> Windows:
    """Windows of the codes that a generator finds in all clips with a sound of their own.

    Args:
        generator: on the CPU.
        snapshot: with the feature mel.
        kinds: codes that are set side by side.
        num_frames: K.
        min_frames: shortest clip.
        train: gives the seed, and the number of processes that decode frames.

    Raises:
        ConfigError: the snapshot lacks the mel, or no such clip is there to train on.
    """
    where = ClipFilter(has_audio=True, min_frames=min_frames)
    splits = ("train", "val") if has_clips(snapshot, "val", where) else ("train",)
    sets = [ClipDataset(snapshot, ClipOptions(fields=(MEL, "labels"), split=split, where=where)) for split in splits]
    refs = [clips.clip(index) for clips in sets for index in range(len(clips))]
    found = extract_codes(generator, snapshot, refs, train.num_workers)
    codes = [np.concatenate([getattr(own, kind) for kind in kinds], axis=1) for own in found]
    count = len(sets[0])
    validated = CodeWindows(sets[1], codes[count:], num_frames, seed=None) if len(sets) > 1 else None
    return Windows(CodeWindows(sets[0], codes[:count], num_frames, train.seed), validated)


def code_scale(codes: Sequence[NDArray[np.float32]]) -> Standardiser:
    """Mean and spread of codes [N, C] of some clips, code by code."""
    moments = Moments(codes[0].shape[1])
    for own in codes:
        moments.add(own)
    return moments.standardiser()
