"""The demo's known motion against what the pipeline extracts from it: the whole way from raw file to feature table."""

import json
from pathlib import Path

import numpy as np
import pytest

from storage.catalog import load_dataset
from storage.cut_tables import CLIPS_FILE
from storage.hash_cache import HashCache
from storage.objects import ObjectStore
from storage.snapshot import FEATURES_TABLE
from storage.tables import read_table, to_numpy
from tasks.cut import cut_shard
from tasks.demo import make_demo
from tasks.extract import extract_shard
from tasks.inventory import take_inventory
from tasks.shard_work import feature_params

CATALOG = Path(__file__).resolve().parents[2] / "datasets.yaml"


def run_pipeline(root: Path, store: Path):
    """[(path, start_s, landmarks [N, 68, 2], sync offset)] of every stored clip of a demo tree."""
    dataset = load_dataset("demo", CATALOG).model_copy(update={"root": root})
    inventory = take_inventory(dataset, HashCache(store.parent / "c", lambda path: 1.0))
    path_of = {source.source_id: source.path for source in inventory.sources}
    objects = ObjectStore(store)
    cut = cut_shard("demo", inventory.sources, dataset, objects)
    assert not cut.failed
    groups = [0] * len(cut.source_ids)
    tables = {}
    for name in ("landmarks", "sync"):
        result = extract_shard(name, feature_params(dataset, name), cut, {}, groups, objects)
        tables[name] = read_table(objects.path(result.key) / FEATURES_TABLE)
    clips = [row for row in read_table(objects.path(cut.key) / CLIPS_FILE).to_pylist() if row["is_stored"]]
    return [
        (
            path_of[row["source_id"]],
            row["start_s"],
            to_numpy(tables["landmarks"], "landmarks", at),
            int(to_numpy(tables["sync"], "offset_frames", at)),
        )
        for at, row in enumerate(clips)
    ]


@pytest.fixture(scope="module", params=[0, 4, -4])
def demo(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"demo{request.param}")
    make_demo(folder / "raw", size="small", av_offset_frames=request.param)
    return request.param, folder / "raw", run_pipeline(folder / "raw", folder / "store")


def test_every_take_is_cut(demo):
    _, root, clips = demo
    videos = {path.relative_to(root).as_posix() for path in root.rglob("*.mp4")}
    assert {path for path, *_ in clips} == videos


def test_the_offset_found_is_the_offset_put_in(demo):
    offset, _, clips = demo
    assert {path: found for path, _, _, found in clips} == {path: offset for path, *_ in clips}


def test_the_mouth_opening_follows_the_truth(demo):
    offset, root, clips = demo
    if offset:
        pytest.skip("the picture does not depend on the offset of the sound")
    for path, start_s, landmarks, _ in clips:
        truth = json.loads((root / "truth" / path).with_suffix(".json").read_text())
        times_s = start_s + np.arange(len(landmarks)) / 25
        expected = np.interp(times_s, truth["times_s"], truth["mouth_opening"])
        gap = np.linalg.norm(landmarks[:, 61:64] - landmarks[:, [67, 66, 65]], axis=2).mean(axis=1)
        eyes = np.linalg.norm(landmarks[:, 36] - landmarks[:, 45], axis=1)
        assert np.corrcoef(gap / eyes, expected)[0, 1] >= 0.9, path
