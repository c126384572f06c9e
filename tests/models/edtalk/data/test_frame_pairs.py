"""Pairs of frames: which clips they come from, and that nothing but (seed, epoch, index) decides."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from models.data.clip_dataset import ClipFilter
from models.edtalk.data.frame_pairs import FramePairs
from storage.errors import ConfigError
from storage.snapshot import Snapshot
from tests.rich_store import FACELESS, build_rich_store
from tests.synthetic_store import build_store


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """S000 to S004 are 'train': takes angry to sad and so on, seven each; a talk without emotions in two clips."""
    return build_store(tmp_path_factory.mktemp("pairs") / "store", 4, 6, (12, 14), with_trouble=True, thresholds={})


def emotions(snapshot: Snapshot) -> dict[str, tuple[str, str]]:
    return {row["name"]: (row["subject"], row["emotion"]) for row in snapshot.rows()}


def test_the_target_is_the_items_clip_and_the_reference_a_neutral_one_of_the_person(snapshot: Snapshot) -> None:
    pairs, labels = FramePairs(snapshot, "train", 256, seed=1), emotions(snapshot)
    clips = snapshot.clips("train")
    assert len(pairs) == len(clips)
    neutral_people = {subject for subject, emotion in (labels[clip.name] for clip in clips) if emotion == "neutral"}
    assert neutral_people
    assert neutral_people != {subject for subject, _ in labels.values()}
    kinds = Counter()
    for epoch in range(5):
        pairs.set_epoch(epoch)
        for index, clip in enumerate(clips):
            (reference, reference_frame), (target, target_frame) = pairs.choose(index)
            subject, emotion = labels[clip.name]
            assert target.name == clip.name
            assert 0 <= target_frame < target.num_frames
            assert 0 <= reference_frame < reference.num_frames
            assert labels[reference.name][0] == subject
            assert (reference.name, reference_frame) != (target.name, target_frame)
            if not emotion:
                assert reference.name == target.name
            elif subject in neutral_people:
                assert labels[reference.name][1] == "neutral"
            kinds["unlabelled" if not emotion else "neutral" if subject in neutral_people else "any"] += 1
    assert set(kinds) == {"unlabelled", "neutral", "any"}


def test_without_a_neutral_clip_every_clip_of_the_person_serves(snapshot: Snapshot) -> None:
    where = ClipFilter(emotions=("angry", "contempt", "disgust"), subjects=("S000",))
    pairs = FramePairs(snapshot, "train", 256, seed=1, where=where)
    seen = set()
    for epoch in range(30):
        pairs.set_epoch(epoch)
        seen.add(pairs.choose(0)[0][0].name)
    assert len(seen) == len(pairs) == 3


def test_all_frames_are_reached_and_never_one_frame_twice(snapshot: Snapshot) -> None:
    pairs, clips = FramePairs(snapshot, "train", 256, seed=1), snapshot.clips("train")
    index = next(i for i, clip in enumerate(clips) if not emotions(snapshot)[clip.name][1])
    references, targets = set(), set()
    for epoch in range(400):
        pairs.set_epoch(epoch)
        (_, reference), (_, target) = pairs.choose(index)
        assert reference != target
        references.add(reference)
        targets.add(target)
    assert references == targets == set(range(clips[index].num_frames))


def test_only_frames_with_a_face_are_chosen(tmp_path: Path) -> None:
    rich = build_rich_store(tmp_path / "store")
    pairs = FramePairs(rich, "train", 64, seed=1)
    known = {clip.clip: rich.feature(clip, "landmarks")["landmarks_valid"] for clip in rich.clips("train")}
    seen: set[tuple[str, int]] = set()
    names = [pairs.choose(index)[1][0].name for index in range(len(pairs))]
    assert {clip.name for clip in rich.clips("train")} - set(names) == {FACELESS}
    for epoch in range(200):
        pairs.set_epoch(epoch)
        for index in range(len(pairs)):
            places = pairs.choose(index)
            assert all(known[clip.clip][frame] for clip, frame in places)
            seen.add((places[1][0].clip, places[1][1]))
    assert seen == {(clip, int(frame)) for clip, own in known.items() for frame in np.flatnonzero(own)}
    assert any(own.any() and not own.all() for own in known.values())


def test_views_are_not_mixed() -> None:
    from models.edtalk.data.frame_pairs import reference_clips

    def row(view: str, emotion: str) -> dict[str, object]:
        return {"subject": "M003", "view": view, "emotion": emotion}

    rows = [
        row("front", "neutral"),
        row("left_30", "neutral"),
        row("front", "happy"),
        row("left_30", "sad"),
        row("down", "sad"),
    ]
    assert reference_clips(rows) == [[0], [1], [0], [1], [4]]


def test_images_are_the_stored_frames_in_minus_one_to_one(snapshot: Snapshot) -> None:
    pairs = FramePairs(snapshot, "train", 256, seed=1)
    (reference, reference_frame), (target, target_frame) = pairs.choose(3)
    item = pairs[3]
    for image, clip, frame in ((item["reference"], reference, reference_frame), (item["target"], target, target_frame)):
        assert image.dtype == torch.float32
        stored = torch.from_numpy(snapshot.frame(clip, frame))
        assert torch.equal(((image + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0), stored)


def test_other_sizes_are_resized(snapshot: Snapshot) -> None:
    small, large = (FramePairs(snapshot, "train", size, seed=1)[3]["target"] for size in (64, 256))
    assert small.shape == (3, 64, 64)
    torch.testing.assert_close(small.mean(), large.mean(), atol=0.01, rtol=0)
    pooled = torch.nn.functional.avg_pool2d(large, 4)
    assert (small - pooled).abs().mean() < 0.01


def test_items_depend_on_seed_epoch_and_index_only(snapshot: Snapshot) -> None:
    def order(seed: int, epoch: int, num_workers: int) -> list[torch.Tensor]:
        pairs = FramePairs(snapshot, "train", 64, seed)
        pairs.set_epoch(epoch)
        return [batch["target"] for batch in DataLoader(pairs, 4, num_workers=num_workers)]

    first = order(0, 2, 0)
    torch.manual_seed(99)
    assert all(torch.equal(a, b) for a, b in zip(first, order(0, 2, 2), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, order(0, 3, 0), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, order(1, 2, 0), strict=True))


def test_running_workers_follow_the_epoch(snapshot: Snapshot) -> None:
    pairs = FramePairs(snapshot, "train", 64, seed=0)
    loader = DataLoader(pairs, 4, num_workers=1, persistent_workers=True)
    epochs = []
    for epoch in range(2):
        pairs.set_epoch(epoch)
        epochs.append(next(iter(loader))["reference"])
        assert torch.equal(epochs[-1], torch.stack([pairs[index]["reference"] for index in range(4)]))
    assert not torch.equal(*epochs)


def test_a_split_without_clips_is_one_clear_error(snapshot: Snapshot) -> None:
    with pytest.raises(ConfigError, match="no clip in split 'train'"):
        FramePairs(snapshot, "train", 256, 0, ClipFilter(subjects=("nobody",)))
