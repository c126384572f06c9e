import re
from pathlib import Path

import pytest
import yaml

from storage.catalog import ClipRule, load_catalog, load_dataset
from storage.errors import ConfigError

MINIMAL = {
    "root": "/data",
    "layouts": {"a": {"pattern": "{subject}.mp4", "name": "{subject}"}},
    "features": {"landmarks": {}},
}


def write(tmp_path: Path, **changes: object) -> Path:
    file = tmp_path / "datasets.yaml"
    file.write_text(yaml.safe_dump({"mine": {**MINIMAL, **changes}}))
    return file


def test_the_shipped_catalog_is_valid_and_has_the_promised_blocks():
    catalog = load_catalog(Path(__file__).resolve().parents[2] / "datasets.yaml")
    assert {"mead", "hdtf", "demo", "videos"} <= set(catalog)
    assert catalog["mead"].split.test == ["M003", "M030", "W009", "W015"]
    assert catalog["hdtf"].layouts["flat"].clips.frames == 125


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"pattern": "{subject}.mp4", "name": "{subjct}"}, "did you mean 'subject'"),
        ({"pattern": "{subject}.mp4", "name": "{subject}", "audio": {"path": "{take}.wav"}}, "audio.path uses {take}"),
        ({"pattern": "{subject}.mp4", "name": "{subject}", "select": {"veiw": ["front"]}}, "select uses {veiw}"),
        ({"pattern": "{subject:[}.mp4", "name": "x", "subject": "x"}, "no valid pattern"),
        ({"pattern": "{subject}.mp4", "name": "{subject}_{span}"}, "name uses {span}"),
    ],
)
def test_templates_may_only_use_groups_of_the_pattern(tmp_path, layout, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_catalog(write(tmp_path, layouts={"a": layout}))


@pytest.mark.parametrize(
    ("changes", "key", "nearest"),
    [
        ({"fetures": {}}, "mine.fetures", "features"),
        ({"crop": {"size": 256}}, "mine.crop.size", "size_px"),
        ({"layouts": {"a": {**MINIMAL["layouts"]["a"], "audo": {}}}}, "mine.layouts.a.audo", "audio"),
        ({"thresholds": {"quality_blur": {"minimum": 1}}}, "mine.thresholds.quality_blur.minimum", "min"),
    ],
)
def test_unknown_keys_are_named_with_the_nearest_valid_one(tmp_path, changes, key, nearest):
    with pytest.raises(ConfigError) as error:
        load_catalog(write(tmp_path, **changes))
    assert f"'{key}'" in str(error.value)
    assert f"did you mean '{nearest}'" in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"crop": {"size_px": 300}}, {"crop": {"jpeg_quality": 50}}, {"layouts": {}}, {"shard_minutes": -1},
        {"features": {"mel": {}}}, {"thresholds": {"a_b": {"min": 2, "max": 1}}},
        {"layouts": {"a": {**MINIMAL["layouts"]["a"], "clips": {"length_s": 0}}}}, {"split": {"val_share": 1.5}},
        {"shard_minutes": 10**400},
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused_with_their_place(tmp_path, changes):
    with pytest.raises(ConfigError, match="mine"):
        load_catalog(write(tmp_path, **changes))


@pytest.mark.parametrize(
    "text", ["a: [", "- 1", "mine: 3", "!!python/object/apply:os.system ['touch /tmp/owned']", "\x00"]
)
def test_what_is_no_catalog_is_refused_without_running_anything(tmp_path, text):
    file = tmp_path / "datasets.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        load_catalog(file)


def test_variables_are_filled_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("RAW", "/somewhere")
    monkeypatch.delenv("ELSE", raising=False)
    assert load_dataset("mine", write(tmp_path, root="${RAW}/x")).root == Path("/somewhere/x")
    assert load_dataset("mine", write(tmp_path, root="${ELSE:-/fallback}")).root == Path("/fallback")
    assert load_dataset("mine", write(tmp_path, root="${ELSE}")).root == Path("${ELSE}")


def test_an_unknown_dataset_names_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'mine'"):
        load_dataset("mien", write(tmp_path))


def test_clip_rule_in_frames():
    assert (ClipRule().frames, ClipRule().min_frames) == (125, 75)
    assert ClipRule(length_s="whole", max_s=60).frames == 1500
    assert ClipRule(length_s=2.0, min_tail_s=3.0).min_frames == 50
