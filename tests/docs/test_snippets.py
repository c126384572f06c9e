"""The Python blocks of the README and of the page on the store's layout do what they say, on a small store."""

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from storage import store_layout
from storage.snapshot import Snapshot
from tests.conftest import REPOSITORY
from tests.docs.markdown import blocks
from tests.synthetic_store import build_store

LAYOUT = REPOSITORY / "docs" / "reference" / "store-layout.md"
FIRST = "S000#angry#level_1#001"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with stores/demo."""
    home = tmp_path_factory.mktemp("home")
    build_store(home / "stores" / "demo", clips_per_subject=2)
    return home


@pytest.fixture
def snapshot(home: Path) -> Snapshot:
    return Snapshot.open(home / "stores" / "demo")


def test_the_readme_reads_a_clip(home: Path, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    found: dict[str, Any] = {}
    (block,) = blocks(REPOSITORY / "README.md", "python")
    assert "M003#happy#level_3#001" in block.text
    text = block.text.replace("M003#happy#level_3#001", FIRST)
    exec(compile(text, "README.md", "exec"), found)
    num_frames = snapshot.clip(FIRST).num_frames
    assert (found["frame"].shape, found["frame"].dtype) == ((256, 256, 3), np.uint8)
    assert (found["audio"].shape, found["audio"].dtype) == ((640 * num_frames,), np.float32)
    assert (found["mel"].shape, found["mel"].dtype) == ((1 + 640 * num_frames // 200, 80), np.float32)
    assert set(found["train"][0]) >= {"frames", "mel_windows", "landmarks", "emotion", "subject", "level"}


# ---- the page on the store's layout


@pytest.fixture(scope="module")
def page(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the blocks of the page leave behind, run one after the other in one namespace; under 'kept' the landmarks
    that each library has read by itself.
    """
    # A copy: LMDB opens a file once per process, and other tests may still hold those of `home`.
    shutil.copytree(home, here := tmp_path_factory.mktemp("page") / "home")
    names: dict[str, Any] = {}
    kept: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        for block in blocks(LAYOUT, "python"):
            exec(compile(block.text, str(LAYOUT), "exec"), names)
            for library in ("pandas", "polars", "duckdb"):
                if f"import {library}" in block.text:
                    kept[library] = names["landmarks"]
    return names | {"kept": kept}


def test_three_libraries_read_the_same_landmarks(page: dict[str, Any], snapshot: Snapshot) -> None:
    assert page["shape"] == ["N", 68, 2]
    assert page["unit"] == "px"
    expected = snapshot.feature(snapshot.clip(page["row"]["name"]), "landmarks")["landmarks"]
    assert sorted(page["kept"]) == ["duckdb", "pandas", "polars"]
    np.testing.assert_array_equal(page["kept"]["pandas"], expected)
    np.testing.assert_array_equal(page["kept"]["polars"], expected)
    named = snapshot.feature(snapshot.clip(page["name"]), "landmarks")["landmarks"]
    np.testing.assert_array_equal(page["kept"]["duckdb"], named)
    assert page["valid"].dtype == bool
    assert sum(count for _, count, _ in page["minutes"]) == len(snapshot.clips())


def test_plain_lmdb_reads_the_same_frame_and_audio(page: dict[str, Any], snapshot: Snapshot) -> None:
    clip = snapshot.clip(page["clip"])
    assert page["num_frames"] == clip.num_frames
    np.testing.assert_array_equal(page["image"], snapshot.frame(clip, 3))
    np.testing.assert_allclose(page["audio"], snapshot.audio(clip), atol=1e-7)


def test_a_padded_batch_has_the_masks_of_the_page(page: dict[str, Any]) -> None:
    batch = page["batch"]
    longest = int(batch["num_frames"].max())
    assert batch["frames"].shape == (2, longest, 3, 256, 256)
    assert batch["audio"].shape == batch["mask_640N"].shape == (2, 640 * longest)
    assert batch["mask"].sum(1).tolist() == batch["num_frames"].tolist()
    assert not batch["frames"][~batch["mask"]].any()
    assert batch["emotion"].dtype == torch.int64


def test_every_column_is_named_on_the_page(snapshot: Snapshot) -> None:
    text = LAYOUT.read_text()
    objects, shard = snapshot.objects, snapshot.body.shards[0]
    folders = [objects.path(snapshot.body.tables.key), objects.path(shard.cut.key)]
    files = [path for folder in folders for path in folder.glob("*.parquet")]
    assert sorted(path.name for path in files) == [
        "clips.parquet", "clips.parquet", "sources.parquet", "sources.parquet", "tracks.parquet",
    ]  # fmt: skip
    scores = tuple(f"{extractor}_" for extractor in shard.features)
    columns = {name for path in files for name in pq.read_schema(path).names if not name.startswith(scores)}
    assert [name for name in sorted(columns) if f"`{name}`" not in text] == []


def test_everything_in_a_store_is_on_the_page() -> None:
    text = LAYOUT.read_text()
    listed = re.findall(r"^    <store>/([\w.]+(?:, [\w.]+)*)", str(store_layout.__doc__), re.MULTILINE)
    assert len(listed) > 8
    names = [name for names in listed for name in names.split(", ")]
    assert [name for name in names if f"<store>/{name}" not in text and f", {name}" not in text] == []


# ---- the extractor of the how-to


def test_the_extractor_of_the_how_to_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put beside the others it is found, and its columns fit its schema."""
    from tasks import features
    from tests.fake_clips import encode, fake_clip

    (block,) = blocks(REPOSITORY / "docs" / "how-to" / "add-an-extractor.md", "python")
    (tmp_path / "luma.py").write_text(block.text)
    monkeypatch.setattr(features, "__path__", [*features.__path__, str(tmp_path)])
    features.discover.cache_clear()
    try:
        extractor = features.discover()["luma"]
    finally:
        features.discover.cache_clear()
        sys.modules.pop("tasks.features.luma")
    gray = encode(np.full((256, 256, 3), 90, np.uint8))
    found = extractor.extract(fake_clip(3, read_jpeg=lambda index: gray), extractor.Params(), None)
    assert set(found) == {column.name for column in extractor.COLUMNS}
    np.testing.assert_allclose(np.asarray(found["luma"]), [90, 90, 90], atol=1)
    assert np.asarray(found["luma"]).dtype == np.float32
    assert found["mean_luma"] == pytest.approx(90, abs=1)


# ---- the system of the how-to


def test_the_system_of_the_how_to_animates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put beside the others it is found, has its options, and draws as many images as it says."""
    import models
    from models import inference

    options, system = blocks(REPOSITORY / "docs" / "how-to" / "add-a-system.md", "python")
    folder = tmp_path / "models" / "fade" / "inference"
    folder.mkdir(parents=True)
    for package in (folder.parent, folder):
        (package / "__init__.py").touch()
    (folder / "options.py").write_text(options.text)
    (folder / "system.py").write_text(system.text)
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path / "models")])
    try:
        assert "fade" in inference.systems()
        own = inference.options_of("fade")(brightness=0.5)
        renderer = inference.open_system("fade", own, torch.device("cpu"), "fp32")
    finally:
        for name in [name for name in sys.modules if name.startswith("models.fade")]:
            del sys.modules[name]
    rendering = renderer.prepare(inference.Inputs(None, None, 3, lambda path: pytest.fail(str(path))))
    images = list(rendering.draw(iter([np.full((4, 4, 3), 200, np.uint8)])))
    assert [int(image[0, 0, 0]) for image in images] == [200, 150, 100]
    assert rendering.num_frames == 3
