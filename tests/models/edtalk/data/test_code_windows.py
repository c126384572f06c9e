"""Windows of codes, and the frames beside them: of the same time, with a face, chosen by (seed, epoch, index)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from models.data.clip_dataset import ClipDataset, ClipFilter, ClipOptions
from models.edtalk.data import code_windows
from models.edtalk.data.code_windows import MEL, CodeWindows, audio_windows, code_scale
from models.edtalk.data.face_frames import image_of
from models.edtalk.networks.edtalk import EDTalk
from models.edtalk.networks.shape import Shape
from models.edtalk.training.talking_frames import TalkingFrames
from models.training.engine.config import TrainConfig
from storage.errors import ConfigError
from storage.snapshot import ClipRef, Snapshot
from storage.timelaw import mel_windows
from tests import synthetic_store
from tests.rich_store import FACELESS, build_rich_store
from tests.synthetic_store import Take, build_store

TRAIN = TrainConfig(max_steps=1, batch_size=1, seed=3)
Items = Dataset[dict[str, Any]]


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """Clips of 12, 30 and 31 frames; the second of each subject lacks a face in frames 3 and 4."""
    return build_store(tmp_path_factory.mktemp("windows") / "store", 4, 3, (12, 30, 31))


def counted(
    snapshot: Snapshot, num_frames: int = 20, seed: int | None = 3, hidden: Callable[[int], Any] | None = None,
    min_frames: int = 1,
) -> CodeWindows:  # fmt: skip
    """Windows whose two codes are the number of the clip and the number of the frame; NaN where hidden(clip) says."""
    clips = ClipDataset(snapshot, ClipOptions(fields=(MEL, "labels"), split="train"))
    lengths = [clips.clip(index).num_frames for index in range(len(clips))]
    codes = [np.stack([np.full(n, index), np.arange(n)], axis=1).astype(np.float32) for index, n in enumerate(lengths)]
    for index, own in enumerate(codes):
        own[hidden(index) if hidden else []] = np.nan
    return CodeWindows(clips, codes, num_frames, seed, min_frames)


def in_stretches(clip: int) -> Any:
    """Clip 0 shows no face, clip 1 none for two frames on end; the others in stretches of 6, 1 and the rest."""
    return slice(None) if clip == 0 else slice(None, None, 2) if clip == 1 else [6, 8]


def test_codes_and_sound_of_a_window_are_of_the_same_frames(snapshot: Snapshot) -> None:
    windows, labels = counted(snapshot), {row["name"]: row["emotion"] for row in snapshot.rows()}
    starts = set()
    for epoch in range(4):
        windows.set_epoch(epoch)
        for index in range(len(windows)):
            item, clip = windows[index], windows.clip(index)
            count = min(20, clip.num_frames)
            frames = torch.arange(item["first"], item["first"] + count)
            assert item["inside"].tolist() == [True] * count + [False] * (20 - count)
            assert torch.equal(item["codes"][:count, 1], frames.float())
            assert (item["codes"][:count, 0] == index).all()
            assert not item["codes"][count:].any()
            mel = mel_windows(snapshot.feature(clip, "mel")["mel"], clip.num_frames)
            expected = torch.from_numpy(mel)[frames].transpose(1, 2)[:, None]
            assert torch.equal(item["mel"][:count], expected)
            assert item["mean"].tolist() == [index, (clip.num_frames - 1) / 2]
            assert (item["name"], item["emotion"] >= 0) == (clip.name, labels[clip.name] != "")
            starts.add((index, item["first"]))
    assert len(starts) > len(windows)


def test_labels_are_those_of_the_items(snapshot: Snapshot) -> None:
    windows = counted(snapshot)
    items = [windows[index] for index in range(len(windows))]
    for name in ("emotion", "level"):
        assert windows.labels(name).tolist() == [item[name] for item in items]


def test_without_a_seed_windows_begin_with_the_clip(snapshot: Snapshot) -> None:
    windows = counted(snapshot, seed=None)
    windows.set_epoch(5)
    assert [windows[index]["first"] for index in range(len(windows))] == [0] * len(windows)


def test_windows_lie_within_stretches_with_a_face(snapshot: Snapshot) -> None:
    every = counted(snapshot)
    windows, seen = counted(snapshot, hidden=in_stretches, min_frames=2), set()
    assert [windows.clip(index) for index in range(len(windows))] == [every.clip(i) for i in range(2, len(every))]
    assert windows.labels("emotion").tolist() == every.labels("emotion").tolist()[2:]
    for epoch in range(60):
        windows.set_epoch(epoch)
        for index in range(len(windows)):
            item, first = windows[index], windows[index]["first"]
            count = int(item["inside"].sum())
            assert item["inside"].tolist() == [True] * count + [False] * (20 - count)
            shown = item["codes"][:count]
            assert shown.tolist() == [[index + 2, frame] for frame in range(first, first + count)], "finite, on end"
            assert not item["codes"][count:].any()
            assert count in (6, min(20, windows.clip(index).num_frames - 9))
            seen |= {(index, frame) for frame in range(first, first + count)}
    frames = {(index, frame) for index in range(len(windows)) for frame in range(windows.clip(index).num_frames)}
    assert frames - seen == {(index, frame) for index in range(len(windows)) for frame in (6, 7, 8)}


def test_frames_without_a_face_count_in_no_figure(snapshot: Snapshot) -> None:
    windows = counted(snapshot, hidden=in_stretches, min_frames=2)
    for index in range(len(windows)):
        known = np.setdiff1d(np.arange(windows.clip(index).num_frames), [6, 8])
        assert windows.frames(index).tolist() == known.tolist()
        np.testing.assert_allclose(windows[index]["mean"], [index + 2, known.mean()], rtol=1e-6)


def test_without_a_seed_it_is_the_beginning_of_the_longest_stretch(snapshot: Snapshot) -> None:
    windows = counted(snapshot, seed=None, hidden=in_stretches, min_frames=2)
    longest = [9 if windows.clip(index).num_frames > 15 else 0 for index in range(len(windows))]
    assert [windows[index]["first"] for index in range(len(windows))] == longest


def test_clips_without_a_stretch_are_one_clear_error(snapshot: Snapshot) -> None:
    with pytest.raises(ConfigError, match="split 'train' shows a face in 5 frames on end"):
        counted(snapshot, hidden=lambda clip: slice(None, None, 5), min_frames=5)


def talking(snapshot: Snapshot, seed: int | None = 3, hidden: Callable[[int], Any] | None = None) -> TalkingFrames:
    return TalkingFrames(counted(snapshot, seed=seed, hidden=hidden, min_frames=5), snapshot, 256)


def test_only_frames_with_a_face_are_shown(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, int]] = []
    items, windows = talking(snapshot, hidden=in_stretches), counted(snapshot, hidden=in_stretches, min_frames=5)
    frame_of = snapshot.frame
    monkeypatch.setattr(
        snapshot, "frame", lambda clip, frame: shown.append((clip.clip, frame)) or frame_of(clip, frame)
    )
    for epoch in range(10):
        items.set_epoch(epoch)
        for index in range(len(items)):
            _ = items[index]
    known = {(windows.clip(at).clip, int(frame)) for at in range(len(windows)) for frame in windows.frames(at)}
    assert len(items) == len(windows) > 2
    assert set(shown) <= known


def test_the_frames_are_those_of_the_codes_beside_them(snapshot: Snapshot) -> None:
    items, windows = talking(snapshot), counted(snapshot)
    places, references = set(), set()
    for epoch in range(6):
        items.set_epoch(epoch)
        for index in range(len(items)):
            item, clip = items[index], windows.clip(index)
            numbers = item["codes"][item["at"] : item["at"] + 5, 1].long().tolist()
            assert numbers == list(range(item["first"] + item["at"], item["first"] + item["at"] + 5))
            for image, number in zip(item["frames"], numbers, strict=True):
                assert torch.equal(image, image_of(snapshot.frame(clip, number), 256))
            # the audio that begins with the first frame: sample 640 r lies at column 80 r / 25
            mel = torch.from_numpy(snapshot.feature(clip, "mel")["mel"])
            columns = torch.arange(80 * numbers[0] // 25, 80 * numbers[0] // 25 + 16).clamp_max(len(mel) - 1)
            assert torch.equal(item["sync_mel"][0], mel[columns].T)
            same = [
                n
                for n in range(clip.num_frames)
                if torch.equal(item["reference"], image_of(snapshot.frame(clip, n), 256))
            ]
            assert same, "the reference is a frame of the clip"
            places.add((index, numbers[0]))
            references.add((index, same[0]))
    assert min(len(places), len(references)) > 3 * len(items)


def test_boxes_are_shares_of_the_image_and_missing_faces_are_marked(snapshot: Snapshot) -> None:
    items, windows, seen = talking(snapshot), counted(snapshot), set()
    for epoch in range(16):
        items.set_epoch(epoch)
        for index in range(len(items)):
            item, clip = items[index], windows.clip(index)
            first = item["first"] + item["at"]
            stored = snapshot.feature(clip, "bbox")["bbox"][first : first + 5]
            assert item["has_face"] == bool(np.isfinite(stored).all())
            if item["has_face"]:
                expected = (stored + np.array([-0.5, -0.5, 0.5, 0.5])) / 256
                np.testing.assert_allclose(item["boxes"], expected, atol=1e-6)
                assert (item["boxes"][:, 2:] > item["boxes"][:, :2]).all()
            else:
                assert item["boxes"].tolist() == [[0, 0, 1, 1]] * 5
            seen.add(item["has_face"])
    assert seen == {True, False}


@pytest.mark.parametrize("make", [counted, talking])
def test_items_depend_on_seed_epoch_and_index_only(snapshot: Snapshot, make: Callable[..., Any]) -> None:
    def drawn(seed: int, epoch: int, num_workers: int = 0) -> list[tuple[int, ...]]:
        items = make(snapshot, seed=seed)
        items.set_epoch(epoch)
        batches = DataLoader(items, 1, num_workers=num_workers, collate_fn=lambda batch: batch[0])
        return [
            (item["first"], item.get("at", 0), int(item.get("reference", torch.zeros(1)).sum() * 100))
            for item in batches
        ]

    first = drawn(3, 1)
    torch.manual_seed(99)
    assert drawn(3, 1, num_workers=1) == first
    assert drawn(3, 2) != first
    assert drawn(4, 1) != first


@contextmanager
def without_audio(patch: pytest.MonkeyPatch, wanted: Callable[[Take], bool]) -> Iterator[None]:
    """Inside it, takes have a stand-in for audio where `wanted`."""
    rows = synthetic_store.clip_rows
    patch.setattr(
        synthetic_store, "clip_rows",
        lambda take: [row | {"has_audio": row["has_audio"] and not wanted(take)} for row in rows(take)],
    )  # fmt: skip
    yield


def generator() -> EDTalk:
    torch.manual_seed(0)
    return EDTalk(Shape(size_px=16, width=1 / 64, latent_dim=48), has_expression=False)


def test_clips_without_audio_and_short_ones_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_silent(take: Take) -> bool:
        return take.source.labels["take"] == "002" or take.source.subject == "S001"

    with monkeypatch.context() as patch, without_audio(patch, is_silent):
        snapshot = build_store(tmp_path / "store", 3, 3, (12, 14, 20))
    windows = audio_windows(generator(), snapshot, ("pose", "mouth"), 10, 13, TRAIN)
    assert windows.val is None, "S001 is the only one of 'val'"
    names = [windows.train.clip(index).name for index in range(len(windows.train))]
    assert len(names) == 1
    assert names[0].endswith("#003")
    codes = windows.train.codes[0]
    assert codes.shape == (20, 26)
    expected = generator()
    with torch.no_grad():
        image = image_of(snapshot.frame(windows.train.clip(0), 7), 16)[None]
        codes_of_frame = expected.codes(expected.encode(image))
    np.testing.assert_allclose(codes[7, :6], codes_of_frame.pose[0], atol=1e-5)
    np.testing.assert_allclose(codes[7, 6:], codes_of_frame.mouth[0], atol=1e-5)


def test_codes_of_frames_without_a_face_are_missing(tmp_path: Path) -> None:
    snapshot = build_rich_store(tmp_path / "store")
    windows = audio_windows(generator(), snapshot, ("mouth", "pose"), 20, 5, TRAIN).train
    names, num_missing = [windows.clip(index).name for index in range(len(windows))], 0
    assert FACELESS in {clip.name for clip in snapshot.clips("train")} - set(names)
    for index, codes in enumerate(windows.codes):
        valid = snapshot.feature(windows.clip(index), "landmarks")["landmarks_valid"]
        np.testing.assert_array_equal(np.isfinite(codes), np.repeat(valid[:, None], 26, axis=1))
        num_missing += int((~valid).sum())
        for epoch in range(5):
            windows.set_epoch(epoch)
            item = windows[index]
            assert valid[item["first"] : item["first"] + int(item["inside"].sum())].all()
    assert num_missing
    assert torch.isfinite(code_scale(windows.codes).std).all()


def test_a_val_split_without_faces_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = build_store(tmp_path / "store", 3, 1, (12,))
    assert audio_windows(generator(), snapshot, ("mouth",), 10, 5, TRAIN).val is not None
    people = {row["clip"]: row["subject"] for row in snapshot.rows()}

    def known(snapshot: Snapshot, clips: list[ClipRef]) -> list[np.ndarray]:
        return [np.full(clip.num_frames, people[clip.clip] != "S001") for clip in clips]

    monkeypatch.setattr(code_windows, "known_faces", known)
    windows = audio_windows(generator(), snapshot, ("mouth",), 10, 5, TRAIN)
    assert (len(windows.train), windows.val) == (1, None)


def test_nothing_to_learn_from_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, without_audio(patch, lambda take: True):
        silent = build_store(tmp_path / "silent", 1, 1, (12,))
    with pytest.raises(ConfigError, match="no clip fits"):
        audio_windows(generator(), silent, ("mouth",), 10, 2, TRAIN)
    with monkeypatch.context() as patch:
        patch.setattr(synthetic_store, "EXTRACTORS", ("landmarks", "quality"))
        deaf = build_store(tmp_path / "deaf", 1, 1, (12,), thresholds={})
    with pytest.raises(ConfigError, match="no field 'mel'"):
        audio_windows(generator(), deaf, ("mouth",), 10, 2, TRAIN)


def test_the_filter_is_that_of_the_clip_table(snapshot: Snapshot) -> None:
    windows = audio_windows(generator(), snapshot, ("mouth",), 10, 13, TRAIN)
    where = ClipFilter(has_audio=True, min_frames=13)
    for split, own in (("train", windows.train), ("val", windows.val)):
        assert own is not None
        wanted = [row["clip"] for row in snapshot.rows(split) if where.accepts(row)]
        assert [own.clip(index).clip for index in range(len(own))] == wanted


def test_the_scale_is_that_of_all_frames_together() -> None:
    rng = np.random.default_rng(0)
    codes = [(rng.normal(size=(n, 3)) * (1, 5, 0.1) + (0, 2, -1)).astype(np.float32) for n in (40, 7)]
    scale = code_scale(codes)
    np.testing.assert_allclose(scale.mean, np.concatenate(codes).mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(scale.std, np.concatenate(codes).std(axis=0), rtol=1e-5)


def test_the_scale_leaves_frames_without_a_face_out() -> None:
    codes = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    gappy = np.insert(codes, [0, 7, 7, 40], np.nan, axis=0)
    for name, value in code_scale([codes]).state_dict().items():
        torch.testing.assert_close(code_scale([gappy]).state_dict()[name], value)
