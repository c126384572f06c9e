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


# ---- S-04: catalogs that mean harm

BLOCK = "mine:\n  root: /data\n  layouts: {a: {pattern: '{subject}.mp4', name: '{subject}'}}\n"
LAUGHS = "".join(f"    x{n}: &x{n} {{{', '.join(f'k{k}: *x{n - 1}' for k in range(10))}}}\n" for n in range(1, 10))
CHAIN = "".join(f"    x{n}: &x{n} {{k: *x{n - 1}}}\n" for n in range(1, 1000))


def refused(tmp_path: Path, text: str) -> str:
    """The one line that says what is wrong, and in which file."""
    file = tmp_path / "datasets.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_catalog(file)
    message = str(error.value)
    assert message.startswith(f"{file}: ")
    assert "\n" not in message
    assert len(message) < 1000
    return message


@pytest.mark.parametrize(
    "tag",
    [
        "python/object/apply:os.system", "python/object/new:os.system", "python/object:os.system", "python/name:os.system",
        "python/module:os", "python/tuple",
    ],
)  # fmt: skip
def test_no_tag_makes_an_object(tmp_path, tag):
    owned = tmp_path / "owned"
    assert tag.partition(":")[0] in refused(tmp_path, f"{BLOCK}  features: !!{tag} ['touch {owned}']\n")
    assert not owned.exists()


@pytest.mark.parametrize(
    "text",
    [
        f"{BLOCK}  features:\n    landmarks: {{}}\n    x0: &x0 {{a: lol}}\n{LAUGHS}",
        f"{BLOCK}  features:\n    landmarks: {{}}\n    x0: &x0 {{a: lol}}\n{CHAIN}",
        f"{BLOCK}  features: &f\n    landmarks: *f\n",
        "mine: &m {root: [*m]}\n",
    ],
    ids=["a billion laughs", "a chain", "a circle", "a circle through a list"],
)
def test_aliases_do_not_unfold_without_bound(tmp_path, text):
    assert "alias" in refused(tmp_path, text)


def test_nesting_is_refused_before_it_exhausts_the_stack(tmp_path):
    assert "YAML" in refused(tmp_path, f"{BLOCK}  features: {'[' * 5000}{']' * 5000}\n")


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        (f"shard_minutes: {10**30}", "mine.shard_minutes"),
        (f"limits: {{max_pixels: {'9' * 4000}}}", "mine.limits.max_pixels"),
        (f"limits: {{max_seconds: 1{':59' * 3000}}}", "mine.limits.max_seconds"),
        ("shard_minutes: .inf", "mine.shard_minutes"),
        ("thresholds: {quality_blur: {min: .nan}}", "mine.thresholds.quality_blur.min"),
        ("thresholds: {quality_blur: {max: -.inf}}", "mine.thresholds.quality_blur.max"),
        ("face: {tracking: {detect_every: 1e400}}", "mine.face.tracking.detect_every"),
        ("split: {test: [A, 1]}", "mine.split.test.1"),
        ("shard_minutes: inf", "mine.shard_minutes"),
        ("1: 2", "mine.1"),
        ("split: {test: [2024-01-01]}", "mine.split.test.0"),
    ],
)
def test_numbers_no_setting_can_have_are_refused_with_their_key(tmp_path, setting, key):
    assert key in refused(tmp_path, f"{BLOCK}  features: {{landmarks: {{}}}}\n  {setting}\n")


@pytest.mark.parametrize("value", ["9" * 5000, "2024-99-99"], ids=["digits", "date"])
def test_scalars_that_yaml_itself_cannot_read_are_refused(tmp_path, value):
    assert "cannot be read as YAML" in refused(tmp_path, f"{BLOCK}  features: {{landmarks: {{}}}}\n  root: {value}\n")
