"""Items of ClipDataset against the snapshot's own readers, in this process and in forked and spawned workers."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from models.data.clip_dataset import ClipDataset, ClipFilter, ClipOptions, validation_set
from models.training.engine.sampler import ElasticSampler
from storage.emotions import EMOTIONS
from storage.errors import ConfigError, StoreCorrupt
from storage.snapshot import Snapshot
from storage.timelaw import mel_windows
from tests.rich_store import FACELESS, build_rich_store
from tests.synthetic_store import build_store

ALL_FIELDS = (
    "frames", "audio", "mel_windows", "mel_edtalk", "mel", "mel50", "f0_hz", "landmarks", "landmarks_valid", "bbox",
    "labels", "coefficients",
)  # fmt: skip
FRAME_FIELDS = tuple(name for name in ALL_FIELDS if name != "mel")


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return build_rich_store(tmp_path_factory.mktemp("rich") / "store")


def dataset(snapshot: Snapshot, **changes: Any) -> ClipDataset:
    return ClipDataset(snapshot, replace(ClipOptions(fields=ALL_FIELDS), **changes))


def assert_same(first: Any, second: Any) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        if isinstance(value, torch.Tensor):
            assert value.dtype == second[name].dtype, name
            torch.testing.assert_close(value, second[name], rtol=0, atol=0, equal_nan=True, msg=name)
        else:
            assert value == second[name], name


def test_a_whole_clip_equals_the_snapshots_readers(snapshot: Snapshot) -> None:
    clips = dataset(snapshot, has_float_frames=False)
    for index in range(len(clips)):
        item, clip = clips[index], clips.clip(index)
        assert (item["name"], item["num_frames"]) == (clip.name, clip.num_frames)
        pictures = [snapshot.frame(clip, number) for number in range(clip.num_frames)]
        np.testing.assert_array_equal(item["frames"].permute(0, 2, 3, 1), pictures)
        np.testing.assert_array_equal(item["audio"], snapshot.audio(clip))
        for extractor, column in {
            "landmarks": "landmarks",
            "bbox": "bbox",
            "mel": "mel",
            "mel50": "f0_hz",
            "face3d": "exp",
        }.items():
            np.testing.assert_array_equal(item[column], snapshot.feature(clip, extractor)[column])
        np.testing.assert_array_equal(item["id"], snapshot.feature(clip, "face3d")["id"])


def test_lengths_obey_the_time_law(snapshot: Snapshot) -> None:
    for count in (None, 1, 7):
        for item in dataset(snapshot, num_frames=count):
            frames = item["num_frames"]
            assert count in (None, frames)
            assert len(item["audio"]) == 640 * frames
            assert len(item["mel"]) == 1 + 640 * frames // 200
            assert len(item["mel50"]) == len(item["f0_hz"]) == 2 * frames
            assert item["mel_windows"].shape == (frames, 16, 80)
            assert item["mel_edtalk"].shape == (frames, 1, 80, 16)
            assert all(len(item[name]) == frames for name in ("frames", "landmarks", "bbox", "exp", "euler", "trans"))


def test_windows_of_all_fields_cover_the_same_time(snapshot: Snapshot) -> None:
    whole, windows = dataset(snapshot), dataset(snapshot, num_frames=7, seed=3)
    assert len({int(item["frame"][0]) for item in windows}) > 1
    for item, full in zip(windows, whole, strict=True):
        first = int(item["frame"][0])
        rows = slice(first, first + 7)
        assert item["frame"].tolist() == list(range(first, first + 7))
        for name in ("frames", "landmarks", "bbox", "mel_windows", "mel_edtalk", "exp"):
            torch.testing.assert_close(item[name], full[name][rows], rtol=0, atol=0, equal_nan=True)
        assert torch.equal(item["audio"], full["audio"][640 * first : 640 * (first + 7)])
        assert torch.equal(item["mel50"], full["mel50"][2 * first : 2 * (first + 7)])
        assert torch.equal(item["mel"], full["mel"][int(3.2 * first) :][:23])


def test_single_frames_carry_their_own_sound(snapshot: Snapshot) -> None:
    clips = dataset(snapshot, fields=FRAME_FIELDS, mode="frame", num_frames=4)
    item, clip = clips[1], clips.clip(1)
    chosen = item["frame"].numpy()
    assert len(set(chosen.tolist())) == 4
    np.testing.assert_array_equal(item["audio"], snapshot.audio(clip).reshape(-1, 640)[chosen])
    mel = snapshot.feature(clip, "mel")["mel"]
    np.testing.assert_array_equal(item["mel_windows"], mel_windows(mel, clip.num_frames)[chosen])
    np.testing.assert_array_equal(item["mel_edtalk"][:, 0], item["mel_windows"].transpose(1, 2))
    f0_hz = snapshot.feature(clip, "mel50")["f0_hz"].reshape(-1, 2)[chosen]
    np.testing.assert_array_equal(item["f0_hz"].reshape(-1, 2), f0_hz)


def test_float_frames_are_the_bytes_scaled(snapshot: Snapshot) -> None:
    floats, raw = (
        dataset(snapshot, fields=("frames",), has_float_frames=value)[0]["frames"] for value in (True, False)
    )
    assert (floats.dtype, raw.dtype) == (torch.float32, torch.uint8)
    assert -1 <= floats.min() < floats.max() <= 1
    assert torch.equal(((floats + 1) * 127.5).round().to(torch.uint8), raw)


def test_labels_are_ids_that_no_split_changes(snapshot: Snapshot) -> None:
    every, train = dataset(snapshot, split=None, fields=("labels",)), dataset(snapshot, fields=("labels",))
    rows = {row["name"]: row for row in snapshot.rows()}
    for item in every:
        row = rows[item["name"]]
        assert item["emotion"] == (EMOTIONS.index(row["emotion"]) if row["emotion"] else -1)
        assert every.subjects[item["subject"]] == row["subject"]
        assert item["level"] == (int(row["level"]) if row["level"] else -1)
    assert train.subjects == every.subjects
    assert {item["name"] for item in train} == {clip.name for clip in snapshot.clips("train")}


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_give_what_this_process_gives(snapshot: Snapshot, method: str) -> None:
    clips = dataset(snapshot, num_frames=5, seed=1)
    clips.set_epoch(2)
    here = [clips[index] for index in range(len(clips))]  # also: stores are open before the fork
    loader = DataLoader(clips, batch_size=None, num_workers=2, multiprocessing_context=method)
    for ours, theirs in zip(here, loader, strict=True):
        assert_same(ours, theirs)


def test_random_frames_depend_on_seed_epoch_and_index_only(snapshot: Snapshot) -> None:
    def drawn(num_workers: int, epoch: int, seed: int = 0) -> list[list[int]]:
        clips = dataset(snapshot, fields=(), mode="frame", num_frames=3, seed=seed)
        clips.set_epoch(epoch)
        return [item["frame"].tolist() for item in DataLoader(clips, batch_size=None, num_workers=num_workers)]

    assert drawn(0, 1) == drawn(1, 1) == drawn(2, 1)
    assert drawn(0, 1) != drawn(0, 2)
    assert drawn(0, 1) != drawn(0, 1, seed=5)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_that_live_on_follow_the_epoch(snapshot: Snapshot, method: str) -> None:
    clips = dataset(snapshot, fields=(), mode="frame", num_frames=3)
    loader = DataLoader(clips, batch_size=None, num_workers=1, persistent_workers=True, multiprocessing_context=method)
    for epoch in (0, 1):
        clips.set_epoch(epoch)
        theirs = [item["frame"].tolist() for item in loader]
        assert theirs == [clips[index]["frame"].tolist() for index in range(len(clips))]


def test_clips_of_equal_length_get_frames_of_their_own_none_twice(snapshot: Snapshot) -> None:
    clips = dataset(snapshot, fields=(), mode="frame", num_frames=25)
    drawn = [clips[index]["frame"].tolist() for index in range(len(clips)) if clips.clip(index).num_frames == 25]
    assert len(drawn) > 1
    assert all(sorted(frames) == list(range(25)) for frames in drawn)
    assert len({tuple(frames) for frames in drawn}) == len(drawn)


def test_every_frame_is_drawn_over_the_epochs(snapshot: Snapshot) -> None:
    clips = dataset(snapshot, fields=(), mode="frame")
    seen: set[int] = set()
    for epoch in range(200):
        clips.set_epoch(epoch)
        seen.update(clips[0]["frame"].tolist())
    assert seen == set(range(clips.clip(0).num_frames))


def test_a_pickled_copy_gives_the_same_items(snapshot: Snapshot) -> None:
    clips = dataset(snapshot, num_frames=2)
    clips.set_epoch(4)
    before = clips[0]
    assert_same(pickle.loads(pickle.dumps(clips))[0], before)


def test_clips_of_unequal_length_are_padded_with_masks(snapshot: Snapshot) -> None:
    clips = dataset(snapshot)
    items = [clips[index] for index in range(len(clips))]
    batch = clips.collate()(items)
    longest = max(item["num_frames"] for item in items)
    assert batch["frames"].shape == (len(items), longest, 3, 256, 256)
    assert batch["mask"].sum(1).tolist() == batch["num_frames"].tolist() == [item["num_frames"] for item in items]
    assert batch["mask_640N"].sum(1).tolist() == [640 * item["num_frames"] for item in items]
    assert batch["mask_2N"].shape[1] == 2 * longest
    assert batch["mask_T80"].sum(1).tolist() == [len(item["mel"]) for item in items]
    for row, item in enumerate(items):
        torch.testing.assert_close(batch["exp"][row][batch["mask"][row]], item["exp"], rtol=0, atol=0, equal_nan=True)
        assert not batch["landmarks"][row][~batch["mask"][row]].any()
    assert batch["name"] == [item["name"] for item in items]
    assert batch["emotion"].tolist() == [item["emotion"] for item in items]


def test_filters(snapshot: Snapshot) -> None:
    def names(**where: Any) -> set[str]:
        chosen = dataset(snapshot, fields=(), split=None, where=ClipFilter(**where))
        return {chosen.clip(index).name for index in range(len(chosen))}

    rows = snapshot.rows()
    assert names(emotions=("fear", "neutral")) == {r["name"] for r in rows if r["emotion"] in ("fear", "neutral")}
    assert names(subjects=("S001",)) == {r["name"] for r in rows if r["subject"] == "S001"}
    assert names(layouts=("talks",)) == {r["name"] for r in rows if r["layout"] == "talks"}
    assert names(min_frames=30) == {r["name"] for r in rows if r["num_frames"] >= 30}
    assert names(scores={"quality_valid_share": (0.5, None)}) == {r["name"] for r in rows} - {FACELESS}
    with pytest.raises(ConfigError, match=r"no score 'beauty'.*quality_valid_share"):
        names(scores={"beauty": (0, 1)})


def test_clips_shorter_than_the_window_are_counted(snapshot: Snapshot) -> None:
    clips = dataset(snapshot, fields=(), num_frames=26)
    too_short = [clip for clip in snapshot.clips("train") if clip.num_frames < 26]
    assert too_short
    assert clips.num_too_short == len(too_short)
    assert len(clips) == len(snapshot.clips("train")) - len(too_short)


def test_errors_name_what_is_there(snapshot: Snapshot, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no field 'hubert'.*landmarks_valid"):
        dataset(snapshot, fields=("hubert",))
    with pytest.raises(ConfigError, match="mode='clip'"):
        dataset(snapshot, fields=("mel",), mode="frame")
    with pytest.raises(ConfigError, match="fewer than 1000 frames"):
        dataset(snapshot, fields=(), num_frames=1000)
    with pytest.raises(ConfigError, match="num_frames"):
        ClipOptions(num_frames=0)
    poor = build_store(tmp_path / "store", with_media=False)
    with pytest.raises(ConfigError, match=r"no field 'mel'.*quality"):
        dataset(poor, fields=("mel_edtalk",))


def test_negative_indices_and_the_end(snapshot: Snapshot) -> None:
    clips = dataset(snapshot, fields=())
    assert_same(clips[-1], clips[len(clips) - 1])
    with pytest.raises(IndexError):
        clips[len(clips)]


def test_a_sampler_feeds_the_loader(snapshot: Snapshot) -> None:
    clips = dataset(snapshot, fields=("labels", "landmarks"))
    sampler = ElasticSampler(len(clips), 2, seed=1)
    loader = DataLoader(clips, batch_sampler=sampler, collate_fn=clips.collate(), num_workers=2)
    assert [batch["index"].tolist() for batch in loader] == list(sampler)


def test_a_validation_set_is_what_was_made_or_none_where_nothing_fits() -> None:
    def empty() -> int:
        raise ConfigError("no clip fits")

    assert validation_set(lambda: 3) == 3
    assert validation_set(empty) is None


def test_other_failures_of_a_validation_set_are_not_hidden() -> None:
    def damaged() -> int:
        raise StoreCorrupt("x")

    with pytest.raises(StoreCorrupt):
        validation_set(damaged)
