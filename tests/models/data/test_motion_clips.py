"""Clips of a real snapshot as motion and sound."""

import pickle

import numpy as np
import pytest

from models.data.clip_dataset import ClipFilter
from models.data.motion_clips import MotionClips, audio_column, has_clips, window
from storage.emotions import EMOTIONS
from storage.errors import ConfigError
from storage.snapshot import Snapshot
from tests.rich_store import FACELESS, build_rich_store


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return build_rich_store(tmp_path_factory.mktemp("motion") / "store")


def test_a_clip_equals_the_snapshots_readers(snapshot: Snapshot) -> None:
    clips = MotionClips(snapshot, "train", "mel50", ClipFilter(emotions=EMOTIONS))
    for index in range(len(clips)):
        clip = clips[index]
        ref = snapshot.clip(clip.name)
        face, sound = snapshot.feature(ref, "face3d"), snapshot.feature(ref, "mel50")
        np.testing.assert_array_equal(clip.lm3d, face["lm3d"])
        np.testing.assert_array_equal(clip.exp, face["exp"])
        np.testing.assert_array_equal(clip.valid, face["face3d_valid"])
        np.testing.assert_array_equal(clip.audio, sound["mel50"])
        np.testing.assert_array_equal(clip.f0_hz, sound["f0_hz"])
        assert clip.audio.shape == (2 * len(clip), 80)
        subject, emotion, _, take = clip.name.split("#")
        label = clips.labels[index]
        assert (label.subject, label.emotion, label.take) == (subject, emotion, take)
        assert (EMOTIONS[clip.emotion], clip.level) == (emotion, 1)


def test_missing_faces_are_marked(snapshot: Snapshot) -> None:
    clips = MotionClips(snapshot, "train", "mel50", ClipFilter())
    by_name = {clips[index].name: clips[index] for index in range(len(clips))}
    assert not by_name[FACELESS].valid.any()
    assert np.isnan(by_name[FACELESS].lm3d).all()
    gap = by_name["S000#contempt#level_1#002"]
    assert not gap.valid[3:5].any()
    assert gap.valid[5:].all()


def test_auto_takes_what_the_snapshot_holds_and_the_absent_is_named(snapshot: Snapshot) -> None:
    assert audio_column(snapshot, "auto") == audio_column(snapshot, "mel50") == "mel50"
    with pytest.raises(ConfigError, match="hubert"):
        audio_column(snapshot, "hubert")


def test_splits_without_clips_are_known_beforehand(snapshot: Snapshot) -> None:
    assert has_clips(snapshot, "val", ClipFilter(emotions=("disgust",)))
    assert not has_clips(snapshot, "val", ClipFilter(emotions=("neutral",)))


def test_clips_travel_to_workers(snapshot: Snapshot) -> None:
    clips = MotionClips(snapshot, "train", "mel50", ClipFilter())
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(clips))[0].lm3d, clips[0].lm3d)


def test_spread_covers_the_whole_and_repeats_nothing(snapshot: Snapshot) -> None:
    clips = MotionClips(snapshot, "train", "mel50", ClipFilter())
    assert clips.spread(100) == list(range(len(clips)))
    assert clips.spread(2) == [0, len(clips) - 1]


def test_a_window_is_filled_behind_the_end() -> None:
    rows = np.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(window(rows, 1, 4, np.nan), [[2, 3], [4, 5], [np.nan] * 2, [np.nan] * 2])
    np.testing.assert_array_equal(window(np.array([True, True]), 0, 3, False), [True, True, False])
    np.testing.assert_array_equal(window(rows, 0, 2, 0.0), rows[:2])
