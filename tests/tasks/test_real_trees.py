"""MEAD and HDTF trees in their real layouts, made of real clips, from raw files to a published snapshot."""

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from storage.catalog import load_dataset
from storage.hash_cache import HashCache
from storage.objects import ObjectStore
from storage.records import ShardResults
from storage.snapshot import bind_store
from tasks.cut import cut_shard
from tasks.extract import extract_shard
from tasks.inventory import take_inventory
from tasks.media.audio import read_audio
from tasks.media.encode import VideoFormat, VideoWriter, write_audio_file
from tasks.media.video import iter_slots
from tasks.plan import make_plan
from tasks.publish import RefreshResults, publish_snapshot
from tasks.shard_work import feature_params

CATALOG = Path(__file__).resolve().parents[2] / "datasets.yaml"


def recast(
    source: Path, target: Path, size: tuple[int, int], box: tuple[int, int, int], fps: int, seconds: float, sound: bool
):
    """Re-films `source`: scaled to a square `box` (x, y, side) on a gray canvas of `size` (w, h), at another rate."""
    width, height = size
    x, y, side = box
    frames = [(frame.y.copy(), frame.u.copy(), frame.v.copy()) for frame in iter_slots(source)]
    audio = read_audio(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(target, VideoFormat(width, height, Fraction(fps), 16000 if sound else None)) as writer:
        for index in range(int(seconds * fps)):
            planes = frames[min(len(frames) - 1, index * 25 // fps)]
            writer.write_yuv(*(_place(plane, width, height, x, y, side, at > 0) for at, plane in enumerate(planes)))
        if sound:
            writer.write_audio(audio.samples[: int(seconds * 16000)])
    return audio


def _place(plane, width, height, x, y, side, is_chroma):
    if is_chroma:
        width, height, x, y, side = width // 2, height // 2, x // 2, y // 2, side // 2
    canvas = np.full((height, width), 128 if is_chroma else 90, np.uint8)
    canvas[y : y + side, x : x + side] = cv2.resize(plane, (side, side))
    return canvas


def refresh(name: str, root: Path, store: Path):
    dataset = load_dataset(name, CATALOG).model_copy(
        update={"root": root, "features": {"landmarks": {}}, "thresholds": {}}
    )
    inventory = take_inventory(dataset, HashCache(store.parent / "cache.json", lambda path: 5.0))
    plan = make_plan(inventory.sources, [], [], dataset.shard_minutes)
    bind_store(store, dataset.name)
    objects, results = ObjectStore(store), []
    for shard in plan.shards:
        sources = [plan.by_id[source_id] for source_id in shard.source_ids]
        cut = cut_shard(shard.shard_id, sources, dataset, objects)
        assert not cut.failed
        params = feature_params(dataset, "landmarks")
        table = extract_shard("landmarks", params, cut, {}, [0] * len(sources), objects)
        results.append(ShardResults(shard, tuple(s.member() for s in sources), cut, {"landmarks": table}))
    return publish_snapshot(dataset, store, RefreshResults(inventory, plan, results), "test")[0]


@pytest.fixture(scope="module")
def mead(media, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mead")
    root = folder / "raw"
    clip = media / "surprise_512_25fps_3s.mp4"
    for subject, emotion, left in (("M003", "surprised", 520), ("W011", "happy", 400)):
        raw = root / subject / "video" / "front" / emotion / "level_1" / "001.mp4"
        audio = recast(clip, raw, (1920, 1080), (left, 100, 880), 30, 3.6, sound=False)
        beside = root / subject / "audio" / emotion / "level_1" / "001.m4a"
        beside.parent.mkdir(parents=True)
        write_audio_file(beside, audio.samples, 16000)
        (raw.parents[3] / "left_30").mkdir()
    other = root / "M003/video/left_30/surprised/level_1"
    other.mkdir(parents=True)
    (other / "001.mp4").write_bytes(b"another view")
    recast(clip, root / "M009#sad#level_2#017.mp4", (512, 512), (0, 0, 512), 25, 3.6, sound=True)
    return refresh("mead", root, folder / "store")


def test_mead_gives_one_clip_per_take_under_its_edtalk_name(mead):
    rows = {row["name"]: row for row in mead.rows()}
    assert set(rows) == {"M003#surprised#level_1#001", "W011#happy#level_1#001", "M009#sad#level_2#017"}
    assert {row["num_frames"] for row in rows.values()} == {90}
    assert {name.split("#")[0]: row["split"] for name, row in rows.items()}["M003"] == "test"
    assert rows["M003#surprised#level_1#001"]["emotion"] == "surprise"
    assert mead.body.counts["not_selected"] == 1
    assert mead.body.counts["sources"]["done"] == 3


def test_mead_clips_have_the_sound_of_the_file_beside_them(mead, media):
    audio = read_audio(media / "surprise_512_25fps_3s.mp4")
    stored = mead.audio(mead.clip("W011#happy#level_1#001"))
    assert len(stored) == 640 * 90
    # AAC changes samples, not loudness over time: the envelopes agree without any shift.
    expected = np.abs(audio.samples[: len(stored)]).reshape(-1, 640).mean(axis=1)
    assert np.corrcoef(np.abs(stored).reshape(-1, 640).mean(axis=1), expected)[0, 1] > 0.99


@pytest.fixture(scope="module")
def hdtf(media, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hdtf")
    root = folder / "raw"
    clip = media / "head_shoulders_450_25fps.mp4"
    # Annotated on a 360-row copy, downloaded with 720 rows: the speaker fills the square at x 280, of side 720.
    recast(clip, root / "RD" / "Radio7.mp4", (1280, 720), (280, 0, 720), 25, 16.0, sound=True)
    recast(clip, root / "WDA_AnyBody0_000.mp4", (720, 720), (0, 0, 720), 30, 6.0, sound=True)
    lists = root / "HDTF_dataset"
    lists.mkdir()
    (lists / "RD_annotion_time.txt").write_text("Radio7.mp4 00:01-00:07 0:00:09-0:00:14\n")
    (lists / "RD_crop_wh.txt").write_text("Radio7_0.mp4 140 360 0 360\nRadio7_1.mp4 0 60 0 60\n")
    (lists / "RD_resolution.txt").write_text("Radio7.mp4 360\n")
    return refresh("hdtf", root, folder / "store")


def test_hdtf_spans_become_five_second_clips_at_the_annotated_times(hdtf):
    rows = {row["name"]: row for row in hdtf.rows(kept=False)}
    assert rows["RD_Radio7_000#1"]["start_s"] == pytest.approx(1.0)
    assert (rows["RD_Radio7_000#1"]["num_frames"], rows["RD_Radio7_000#1"]["is_kept"]) == (125, True)
    assert rows["RD_Radio7_000#2"]["reason"] == "TOO_SHORT"
    assert (rows["WDA_AnyBody0_000#1"]["num_frames"], rows["WDA_AnyBody0_000#1"]["subject"]) == (125, "WDA_AnyBody")


def test_hdtf_boxes_are_rescaled_to_the_real_resolution(hdtf):
    rows = {row["name"]: row for row in hdtf.rows(kept=False)}
    crop = rows["RD_Radio7_000#1"]
    centre_x = crop["crop_x_px"] + crop["crop_side_px"] / 2
    assert 280 < centre_x < 1000
    # The second span's box is a corner without a face in it: nobody there may be taken for the speaker.
    second = next(row for name, row in rows.items() if name.startswith("RD_Radio7_001"))
    assert (second["reason"], second["start_s"]) == ("NO_FACE", pytest.approx(9.0))
