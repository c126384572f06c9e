"""Frames with a face: which they are, and how the head is turned."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.edtalk.data.face_frames import FaceFrames, image_of, known_faces, nose_place
from storage.errors import ConfigError
from storage.snapshot import Snapshot
from tests.rich_store import FACELESS, build_rich_store
from tests.synthetic_store import build_store, neutral_face


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """With face3d; one clip shows no face at all, several lack frames 3 and 4."""
    return build_rich_store(tmp_path_factory.mktemp("faces") / "store")


def turned(yaw: float, pitch: float) -> np.ndarray:
    """[1, 68, 2] an upright face with a nose that stands out, seen from the front after a turn."""
    depth = np.zeros(68)
    depth[27:36] = 30
    points = np.concatenate([neutral_face() - (127.5, 140), depth[:, None]], axis=1)
    about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]])
    return (points @ (about_x @ about_y).T)[None, :, :2]


def test_the_turn_is_that_of_the_head_alone() -> None:
    straight = nose_place(turned(0, 0))
    steps = np.linspace(-0.5, 0.5, 7)
    yaws = np.concatenate([nose_place(turned(yaw, 0)) for yaw in steps])
    pitches = np.concatenate([nose_place(turned(0, pitch)) for pitch in steps])
    assert (np.diff(yaws[:, 1]) > 0.03).all()
    assert (np.diff(pitches[:, 0]) > 0.03).all()
    angle = np.deg2rad(25)
    roll = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    np.testing.assert_allclose(nose_place(turned(0, 0) @ roll.T * 1.4 + (20, -9)), straight, atol=1e-6)
    mouth = turned(0, 0)
    mouth[:, 48:] += 10
    np.testing.assert_array_equal(nose_place(mouth), straight)


def test_a_frame_without_landmarks_has_no_turn() -> None:
    points = np.repeat(turned(0, 0), 3, axis=0)
    points[1, 5] = np.nan
    assert np.isfinite(nose_place(points)).all(axis=1).tolist() == [True, False, True]


def test_only_frames_whose_face_is_known_are_listed(rich: Snapshot) -> None:
    clips = rich.clips()
    faces = FaceFrames(rich, clips)
    assert [clip.name for clip in faces.clips] == [clip.name for clip in clips if clip.name != FACELESS]
    num_missing = 0
    for clip, frames, turns in zip(faces.clips, faces.frames, faces.turns, strict=True):
        valid = rich.feature(clip, "landmarks", ["landmarks_valid"])["landmarks_valid"]
        fit = rich.feature(clip, "face3d", ["euler", "face3d_valid"])
        np.testing.assert_array_equal(frames, np.flatnonzero(valid & fit["face3d_valid"]))
        np.testing.assert_array_equal(turns, fit["euler"][frames, :2])
        num_missing += clip.num_frames - len(frames)
    assert num_missing


def test_without_face3d_the_landmarks_tell(tmp_path: Path) -> None:
    plain = build_store(tmp_path / "store", 1, 2, (12,))
    assert "face3d" not in plain.body.shards[0].features
    faces = FaceFrames(plain, plain.clips())
    assert [len(frames) for frames in faces.frames] == [12, 10]
    landmarks = plain.feature(faces.clips[1], "landmarks", ["landmarks"])["landmarks"]
    np.testing.assert_array_equal(faces.turns[1], nose_place(landmarks)[faces.frames[1]])


def test_whether_a_face_is_known_is_said_by_the_landmarks(rich: Snapshot) -> None:
    clips = rich.clips()
    for clip, known in zip(clips, known_faces(rich, clips), strict=True):
        points = rich.feature(clip, "landmarks", ["landmarks"])["landmarks"]
        np.testing.assert_array_equal(known, np.isfinite(points).all(axis=(1, 2)))
        assert known.any() == (clip.name != FACELESS)
    shard = clips[0].shard
    bare = replace(clips[0], shard=shard.model_copy(update={"features": {"mel": shard.features["mel"]}}))
    with pytest.raises(ConfigError, match=r"no feature 'landmarks'.* has mel"):
        known_faces(rich, [bare])


def test_clips_with_too_few_are_left_out(rich: Snapshot) -> None:
    every, long = FaceFrames(rich, rich.clips()), FaceFrames(rich, rich.clips(), fewest=26)
    expected = [clip for clip, frames in zip(every.clips, every.frames, strict=True) if len(frames) >= 26]
    assert long.clips == expected
    assert 0 < len(expected) < len(every.clips)
    assert FaceFrames(rich, []).clips == []


def test_bytes_become_minus_one_to_one_and_channels_come_first() -> None:
    frame = np.zeros((4, 4, 3), np.uint8)
    frame[1, 2] = (255, 51, 204)
    image = image_of(frame, 4)
    assert (image.shape, image.dtype) == ((3, 4, 4), torch.float32)
    torch.testing.assert_close(image[:, 1, 2], torch.tensor([1.0, -0.6, 0.6]))
    assert (image[:, 0] == -1).all()


def test_other_sizes_are_resized_without_aliasing() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = image_of(stripes, 16)
    assert small.shape == (3, 16, 16)
    assert small[:, 2:-2, 2:-2].abs().max() < 0.05, "fine stripes become grey"
