"""Extractors over a real cut: order of rows, subjects, keys, bytes, errors that name the clip."""

import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest

from storage.cut_tables import CLIPS_FILE, FRAMES_FOLDER, TRACKS_FILE
from storage.errors import StoreCorrupt
from storage.objects import ObjectStore
from storage.records import StepResult
from storage.snapshot import FEATURES_TABLE
from storage.tables import read_table, to_numpy
from tasks import features
from tasks.cut import cut_shard
from tasks.extract import extract_shard, load_clips
from tests.scenes import HEAD_CLIPS, dataset_in, heads, hum, scene, sliding, source_at, steady, write_scene

TWICE_ANNA_ONCE_BERT = (0, 1, 0)


@pytest.fixture(scope="module")
def shard(tmp_path_factory, media) -> tuple[ObjectStore, StepResult]:
    """Sources a (Anna, 2 clips), b (Bert, 1 clip and a short rest), c (Anna, enters late, 1 clip); a rejected one."""
    root = tmp_path_factory.mktemp("extract")
    anna, bert = (heads(media / name) for name in HEAD_CLIPS)
    write_scene(root / "a.mp4", scene(75, (anna, steady(60, 20))), hum(75, seed=1))
    write_scene(root / "b.mp4", scene(55, (bert, steady(60, 20))), hum(55, seed=2))
    write_scene(root / "c.mp4", scene(50, (anna, sliding((-220, 20), (60, 20), 5, 30))), hum(50, seed=3))
    write_scene(root / "nobody.mp4", scene(50), hum(50, seed=4))
    sources = [source_at(root / f"{name}.mp4") for name in ("a", "b", "c", "nobody")]
    store = ObjectStore(root / "store")
    return store, cut_shard("shard", sources, dataset_in(root), store)


def run(shard, name: str, needs=None, groups=(*TWICE_ANNA_ONCE_BERT, 2), **changes) -> StepResult:
    store, cut = shard
    params = features.discover()[name].Params(**changes)
    return extract_shard(name, params, cut, needs or {}, list(groups), store)


def table_of(shard, result: StepResult):
    return read_table(shard[0].path(result.key) / FEATURES_TABLE)


def column_of(shard, result: StepResult, column: str) -> list[np.ndarray]:
    table = table_of(shard, result)
    return [to_numpy(table, column, row) for row in range(table.num_rows)]


def stored_clips(shard) -> list[dict]:
    store, cut = shard
    return [row for row in read_table(store.path(cut.key) / CLIPS_FILE).to_pylist() if row["is_stored"]]


def test_the_shard_is_what_the_tests_assume(shard):
    rows = stored_clips(shard)
    assert [(row["window"], row["num_frames"]) for row in rows] == [(1, 50), (2, 25), (1, 50), (1, 50)]
    assert len(shard[1].source_ids) == 4


def test_clips_carry_what_was_cut(shard):
    store, cut = shard
    rows, tracks = stored_clips(shard), read_table(store.path(cut.key) / TRACKS_FILE)
    clips = load_clips(store, cut, {}, [0, 1, 0, 2])
    assert [clip.key for clip in clips] == [row["clip"] for row in rows]
    assert [clip.group for clip in clips] == ["0", "0", "1", "0"]
    for number, (clip, row) in enumerate(zip(clips, rows, strict=True)):
        assert clip.num_frames == row["num_frames"]
        assert clip.source_px_per_crop_px == row["crop_side_px"] / 256
        assert clip.audio.shape == (640 * clip.num_frames,)
        assert clip.frame(clip.num_frames - 1).shape == (256, 256, 3)
        np.testing.assert_array_equal(clip.landmarks, to_numpy(tracks, "landmarks", number))
    assert not clips[3].valid.all(), "Anna enters"


@pytest.mark.parametrize("name", ["landmarks", "mel", "quality"])
def test_rows_are_the_stored_clips_in_their_order(shard, name):
    result = run(shard, name)
    assert result.step == name
    assert result.num_clips == 4
    assert table_of(shard, result)["clip"].to_pylist() == [row["clip"] for row in stored_clips(shard)]
    shard[0].verify(result.key)


def test_lengths_follow_the_time_law(shard):
    frames = [row["num_frames"] for row in stored_clips(shard)]
    mels = column_of(shard, run(shard, "mel"), "mel")
    assert [len(mel) for mel in mels] == [1 + 640 * count // 200 for count in frames]
    landmarks = column_of(shard, run(shard, "landmarks"), "landmarks")
    valid = column_of(shard, run(shard, "landmarks"), "landmarks_valid")
    assert [points.shape for points in landmarks] == [(count, 68, 2) for count in frames]
    for points, is_valid in zip(landmarks, valid, strict=True):
        assert np.array_equal(np.isfinite(points).all(axis=(1, 2)), is_valid)
    assert not valid[3].all()


def test_a_second_run_computes_nothing(shard):
    first, second = run(shard, "mel"), run(shard, "mel")
    assert (second.key, second.digest, second.is_new, second.seconds) == (first.key, first.digest, False, 0.0)


def test_parameters_needs_and_the_cut_decide_the_key(shard):
    plain, other = run(shard, "landmarks"), run(shard, "landmarks", min_face_px=61)
    assert plain.key != other.key
    with_plain = run(shard, "face3d", {"landmarks": plain.key})
    with_other = run(shard, "face3d", {"landmarks": other.key})
    assert with_plain.key != with_other.key


# ---- subjects --------------------------------------------------------------------------------------------------------


def identities(shard, groups) -> tuple[str, np.ndarray]:
    result = run(shard, "face3d", {"landmarks": run(shard, "landmarks").key}, groups)
    return result.key, np.stack(column_of(shard, result, "id"))


def test_clips_of_a_subject_share_one_identity(shard):
    _, found = identities(shard, (0, 1, 0, 2))  # clips: a, a, b, c
    assert np.isfinite(found).all()
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[3]), "another source of the same subject"
    assert not np.allclose(found[0], found[2])


def test_other_subjects_are_another_object_only_where_subjects_matter(shard):
    together, found = identities(shard, (0, 1, 0, 2))
    apart, alone = identities(shard, (0, 1, 2, 3))
    assert together != apart
    assert np.array_equal(found[2], alone[2]), "Bert's identity is his alone either way"
    assert not np.array_equal(alone[0], alone[3])
    assert run(shard, "mel", groups=(0, 1, 0, 2)).key == run(shard, "mel", groups=(0, 1, 2, 3)).key


# ---- determinism, errors ---------------------------------------------------------------------------------------------


def extract_elsewhere(root: Path, cut: StepResult, queue) -> None:
    """Child process: the same features anew, in another order; reports their digests."""
    import cv2

    cv2.setNumThreads(1)
    store = ObjectStore(root)
    for key in [key for key in store.keys() if key != cut.key]:
        store.delete(key)
    shard = (store, cut)
    digests = {name: run(shard, name).digest for name in ("quality", "mel", "landmarks")}
    digests["face3d"] = run(shard, "face3d", {"landmarks": run(shard, "landmarks").key}).digest
    queue.put(digests)


def test_the_same_features_have_the_same_bytes_in_another_process(shard):
    store, cut = shard
    here = {name: run(shard, name).digest for name in ("landmarks", "mel", "quality")}
    here["face3d"] = run(shard, "face3d", {"landmarks": run(shard, "landmarks").key}).digest
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=extract_elsewhere, args=(store.root, cut, queue))
    child.start()
    assert queue.get(timeout=120) == here
    child.join(20)


def breaking_at(clip: str, error: Exception):
    real = features.discover()["mel"].extract

    def extract(found, params, shared):
        if found.key == clip:
            raise error
        return real(found, params, shared)

    return extract


def test_an_error_names_extractor_and_clip_and_commits_nothing(shard, monkeypatch):
    store, _ = shard
    before = set(store.keys())
    clip = stored_clips(shard)[2]["clip"]
    monkeypatch.setattr(features.discover()["mel"], "extract", breaking_at(clip, ZeroDivisionError("by zero")))
    with pytest.raises(RuntimeError, match=rf"mel .*{clip}.*ZeroDivisionError: by zero") as caught:
        run(shard, "mel", pad_mode="constant")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert set(store.keys()) == before
    assert not list((store.root / "staging").iterdir())


def test_a_damaged_cut_is_named_before_any_extractor_runs(shard, tmp_path):
    store, cut = shard
    copy = ObjectStore(tmp_path)
    shutil.copytree(store.path(cut.key), copy.path(cut.key))
    frames = copy.path(cut.key) / FRAMES_FOLDER / "data.mdb"
    frames.chmod(0o644)
    with frames.open("r+b") as file:
        file.truncate(frames.stat().st_size - 4096)
    with pytest.raises(StoreCorrupt, match=r"data\.mdb"):
        run((copy, cut), "mel")
    assert list(copy.keys()) == [cut.key]
