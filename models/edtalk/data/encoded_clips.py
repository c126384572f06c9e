"""Codes of all frames of a dataset by a trained generator: training data of the stages that are driven by audio.

The released system has no script for it. Codes are computed once per (generator, shard of frames, choice of clips) and
committed to the store as an object that no snapshot refers to: another stage or session with the same inputs reuses it,
garbage collection removes it. Codes of frames without a face are meaningless; models.edtalk.data.code_windows leaves
them out.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed
from torch.utils.data import DataLoader, Dataset

from models.edtalk.data.face_frames import image_of
from models.edtalk.networks.edtalk import EDTalk
from models.training.engine.batches import to_device
from models.training.runs.environment import chosen_device
from models.training.runs.signals import leave_to_parent
from storage.cut_tables import CLIP_KEY
from storage.keys import library_versions, object_key
from storage.snapshot import ClipRef, Snapshot
from storage.tables import Column, read_table, to_numpy, write_table
from storage.timelaw import FPS

VERSION = 1
STEP = "edtalk_codes"
CODES_FILE = "codes.parquet"
BATCH_SIZE = 32
KINDS = ("mouth", "pose", "expression")
# The parts of a generator on which codes depend.
_PARTS = ("enc.", "fc.", "lip_fc.", "pose_fc.", "exp_fc.")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ClipCodes:
    """Codes of one clip of N frames, float32.

    Attributes:
        mouth: [N, 20].
        pose: [N, 6].
        expression: [N, 10], [N, 0] by a generator without this bank.
    """

    mouth: NDArray[np.float32]
    pose: NDArray[np.float32]
    expression: NDArray[np.float32]


def extract_codes(model: EDTalk, snapshot: Snapshot, clips: Sequence[ClipRef], num_workers: int = 0) -> list[ClipCodes]:
    """The codes of clips, read from the store where they were computed before, else computed and stored.

    Several processes of one training begin with different shards and reuse those that the others have finished.

    Args:
        model: on the CPU; codes are computed on the device chosen for the process.
        snapshot: holds the frames.
        clips: clips of the snapshot.
        num_workers: processes that decode frames.

    Returns:
        The codes in the order of `clips`.

    Raises:
        OutOfSpace: the store has no space for them.
    """
    identity = {"generator": _fingerprint(model), "device": chosen_device().type} | library_versions(["torch"])
    by_shard: dict[str, list[ClipRef]] = {}
    for clip in clips:
        by_shard.setdefault(clip.shard.shard_id, []).append(clip)
    shards, found = list(by_shard.values()), dict[str, ClipCodes]()
    # each process of a training begins elsewhere
    is_shared = distributed.is_initialized()
    start = distributed.get_rank() * len(shards) // distributed.get_world_size() if is_shared else 0
    for members in shards[start:] + shards[:start]:
        found |= _codes_of_shard(model, snapshot, members, identity, num_workers)
    return [found[clip.clip] for clip in clips]


def encode_frames(
    model: EDTalk, snapshot: Snapshot, clips: Sequence[ClipRef], num_workers: int = 0
) -> NDArray[np.float32]:
    """[frames of all clips, 26 or 36] codes of mouth, pose and expression concatenated, computed in batches."""
    device, before = chosen_device(), next(model.parameters()).device
    loader = DataLoader(
        _Frames(snapshot, clips, model.shape.size_px), BATCH_SIZE, num_workers=num_workers,
        worker_init_fn=leave_to_parent,
        # a generator of its own: the weights that a stage draws next must not depend on whether codes were stored
        generator=torch.Generator(),
    )  # fmt: skip
    was_training, parts = model.training, []
    model.eval().to(device)
    try:
        with torch.inference_mode():
            for images in loader:
                codes = model.codes(model.encode(to_device(images, device)))
                banks = [codes.mouth, codes.pose, *([] if codes.expression is None else [codes.expression])]
                parts.append(torch.cat(banks, dim=1).float().cpu().numpy())
    finally:
        model.train(was_training).to(before)
    return np.concatenate(parts)


class _Frames(Dataset[Tensor]):
    """Every frame of some clips, one after the other, as [3, S, S] images."""

    def __init__(self, snapshot: Snapshot, clips: Sequence[ClipRef], size_px: int) -> None:
        self._snapshot, self._clips, self._size_px = snapshot, clips, size_px
        self._ends = np.cumsum([clip.num_frames for clip in clips])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Tensor:
        number = int(np.searchsorted(self._ends, index, side="right"))
        clip = self._clips[number]
        frame = index - int(self._ends[number]) + clip.num_frames
        return image_of(self._snapshot.frame(clip, frame), self._size_px)


def _codes_of_shard(
    model: EDTalk, snapshot: Snapshot, clips: Sequence[ClipRef], identity: Mapping[str, Any], num_workers: int
) -> dict[str, ClipCodes]:
    """Clip key -> codes, for clips of one shard."""
    objects, shard = snapshot.objects, clips[0].shard
    inputs = {**identity, "cut": shard.cut.key, "clips": [clip.clip for clip in clips]}
    key = object_key(STEP, VERSION, inputs)
    if not objects.exists(key):
        _log.info("codes of %d clips of shard %s are computed", len(clips), shard.shard_id)
        codes = encode_frames(model, snapshot, clips, num_workers)
        with objects.stage(STEP, key, inputs) as staging:
            _write(staging.path / CODES_FILE, codes, clips, model)
            staging.commit()
    table, found = read_table(objects.path(key) / CODES_FILE), {}
    for row, clip in enumerate(table.column(CLIP_KEY.name).to_pylist()):
        cells = {kind: to_numpy(table, kind, row) for kind in KINDS if kind in table.column_names}
        found[clip] = ClipCodes(cells["mouth"], cells["pose"], cells.get("expression", cells["pose"][:, :0]))
    return found


def _write(path: Path, codes: NDArray[np.float32], clips: Sequence[ClipRef], model: EDTalk) -> None:
    """Writes a row per clip of the codes [frames of all clips, 26 or 36]."""
    sizes = {"mouth": model.shape.num_mouth, "pose": model.shape.num_pose}
    if model.has_expression:
        sizes["expression"] = model.shape.num_expression
    parts = np.split(codes, np.cumsum([clip.num_frames for clip in clips])[:-1])
    ends = np.cumsum(list(sizes.values()))[:-1]
    rows = [
        {CLIP_KEY.name: clip.clip} | dict(zip(sizes, np.split(part, ends, axis=1), strict=True))
        for clip, part in zip(clips, parts, strict=True)
    ]
    columns = (Column(kind, "float32", ("N", size), rate_hz=FPS) for kind, size in sizes.items())
    write_table(path, rows, (replace(CLIP_KEY, doc=""), *columns))


def _fingerprint(model: EDTalk) -> str:
    """SHA-256 of the size of the images and of every tensor on which codes depend."""
    digest = hashlib.sha256(str(model.shape.size_px).encode())
    for name, value in sorted(model.state_dict().items()):
        if name.startswith(_PARTS):
            digest.update(f"{name} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
