"""Frames of one person: the first of each video are learned, the last held out, and the two never mix."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from models.edtalk.data import subject_frames
from models.edtalk.data.face_frames import image_of
from models.edtalk.data.subject_frames import SubjectFrames
from storage.errors import ConfigError
from storage.snapshot import ClipRef, Snapshot
from tests.rich_store import HARD_NAME, build_rich_store
from tests.synthetic_store import build_store

TALKER = "RD_Radio1"


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """RD_Radio1: a talk of two clips of 25 frames each, and another of one; S001, S002: whole takes."""
    return build_rich_store(tmp_path_factory.mktemp("person") / "store")


def part(snapshot: Snapshot, name: str, subject: str = TALKER, seed: int = 0) -> SubjectFrames:
    return SubjectFrames(snapshot, subject, "train" if name == "train" else "held_out", 0.8, 32, seed)


def places(frames: SubjectFrames) -> list[tuple[str, int]]:
    return [(clip.name, frame) for clip, frame in frames.frames]


def test_a_video_is_parted_in_time_whatever_clips_it_was_cut_into(snapshot: Snapshot) -> None:
    first, second, hard = f"{TALKER}#1", f"{TALKER}#2", f"{HARD_NAME}#1"
    talk = [(first, frame) for frame in range(25)] + [(second, frame) for frame in range(15)]
    other = [(hard, frame) for frame in range(20)]
    assert sorted(places(part(snapshot, "train"))) == sorted(talk + other)
    rest = [(second, frame) for frame in range(15, 25)] + [(hard, frame) for frame in range(20, 25)]
    assert sorted(places(part(snapshot, "held_out"))) == sorted(rest)


def test_the_share_is_that_of_every_video(snapshot: Snapshot) -> None:
    train, held_out = places(part(snapshot, "train", "S002")), places(part(snapshot, "held_out", "S002"))
    assert not set(train) & set(held_out)
    for clip in snapshot.clips():
        own = [sum(name == clip.name for name, _ in places) for places in (train, held_out)]
        if clip.name.startswith("S002"):
            num_known = int(snapshot.feature(clip, "landmarks")["landmarks_valid"].sum())
            assert own == [round(0.8 * num_known), num_known - round(0.8 * num_known)]
        else:
            assert own == [0, 0]


def test_references_are_training_frames_and_never_the_target(snapshot: Snapshot) -> None:
    train, held_out = part(snapshot, "train"), part(snapshot, "held_out")
    learned = set(places(train))
    for frames in (train, held_out):
        seen = set()
        for epoch in range(30):
            frames.set_epoch(epoch)
            for index in range(len(frames)):
                clip, frame = frames.reference(index)
                assert (clip.name, frame) in learned
                assert (clip, frame) != frames.frames[index]
                seen.add((clip.name, frame))
        assert seen == learned


def test_images_are_the_chosen_frames(snapshot: Snapshot) -> None:
    frames = part(snapshot, "held_out")
    item = frames[7]
    for name, place in (("reference", frames.reference(7)), ("target", frames.frames[7])):
        assert torch.equal(item[name], image_of(snapshot.frame(*place), 32))


def test_the_choice_depends_on_seed_and_epoch(snapshot: Snapshot) -> None:
    def references(seed: int, epoch: int) -> list[tuple[str, int]]:
        frames = part(snapshot, "train", seed=seed)
        frames.set_epoch(epoch)
        return [(clip.name, frame) for clip, frame in map(frames.reference, range(len(frames)))]

    assert references(0, 1) == references(0, 1)
    assert references(0, 1) != references(0, 2)
    assert references(0, 1) != references(1, 1)


def test_without_a_name_it_is_who_has_the_most_frames_with_a_face(
    snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def most(known: Callable[[ClipRef], np.ndarray]) -> str:
        totals: Counter[str] = Counter()
        for row, clip in zip(snapshot.rows(), snapshot.clips(), strict=True):
            totals[row["subject"]] += int(known(clip).sum())
        return totals.most_common(1)[0][0]

    def stored(clip: ClipRef) -> np.ndarray:
        return snapshot.feature(clip, "landmarks")["landmarks_valid"]

    chosen = part(snapshot, "train", subject="").subject
    assert chosen == most(stored)

    def hidden(clip: ClipRef) -> np.ndarray:
        return stored(clip) & (not clip.name.startswith(chosen.split("#")[0]) and clip.name != f"{HARD_NAME}#1")

    monkeypatch.setattr(subject_frames, "known_faces", lambda snapshot, clips: [hidden(clip) for clip in clips])
    assert part(snapshot, "train", subject="").subject == most(hidden) != chosen


def test_only_frames_with_a_face_are_items_or_references(snapshot: Snapshot) -> None:
    missing = 0
    for subject in ("S000", "S001", "S002"):
        frames = [part(snapshot, name, subject) for name in ("train", "held_out")]
        shown = {
            place
            for own in frames
            for place in (*places(own), *((c.name, f) for c, f in map(own.reference, range(len(own)))))
        }
        for clip in [clip for clip in snapshot.clips() if clip.name.startswith(subject)]:
            valid = snapshot.feature(clip, "landmarks")["landmarks_valid"]
            assert {frame for name, frame in shown if name == clip.name} == set(np.flatnonzero(valid).tolist())
            missing += int((~valid).sum())
    assert missing > 25, "one clip has no face at all, others lack two frames"


def test_views_are_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = build_store(tmp_path / "store", 1, 2, (12,))
    rows = [row | {"view": f"view {number}"} for number, row in enumerate(snapshot.rows())]
    monkeypatch.setattr(snapshot, "rows", lambda split=None: rows)
    frames = SubjectFrames(snapshot, "S000", "train", 0.8, 32, 0)
    for index in range(len(frames)):
        assert frames.reference(index)[0] == frames.frames[index][0]


def test_mistakes_are_one_clear_error(snapshot: Snapshot, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no subject 'nobody' .* RD_Radio1, S000"):
        part(snapshot, "train", "nobody")
    tiny = build_store(tmp_path / "store", 1, 1, (12,))
    with pytest.raises(ConfigError, match=r"'S000' has too few frames with a face for a part 'held_out': 0"):
        SubjectFrames(tiny, "S000", "held_out", 0.99, 32, 0)
    with pytest.raises(ConfigError, match="too few"):
        SubjectFrames(tiny, "S000", "train", 0.05, 32, 0)
