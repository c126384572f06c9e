"""Pending: what is committed under today's keys is found, all else is work; wrong settings are refused by name."""

from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import BaseModel

from storage.catalog import CropRule, Dataset, FaceRule, Threshold
from storage.cut_tables import CLIP_COLUMNS, CLIPS_FILE
from storage.errors import ConfigError
from storage.objects import ObjectStore
from storage.records import Member, Source
from storage.tables import write_table
from tasks.plan import make_plan
from tasks.shard_work import find_work, resolve_features, reusable_shards, subject_groups
from tasks.step_keys import cut_key, feature_key
from tests.synthetic_store import Take, clip_rows, raw_source, synthetic_dataset


@pytest.fixture
def dataset() -> Dataset:
    features = {"landmarks": {}, "mel": {}, "face3d": {}, "quality": {}}
    return synthetic_dataset().model_copy(update={"features": features, "thresholds": {}})


@pytest.fixture
def sources() -> list[Source]:
    return [raw_source(subject, "happy", number, 25, 0) for subject in ("A", "B") for number in (1, 2, 3)]


def known(sources: list[Source]) -> dict[str, Member]:
    return {source.source_id: source.member() for source in sources}


def commit(store: ObjectStore, step: str, key: str, sources: list[Source] | None = None) -> None:
    """An object under this key; that of a cut lists its clips."""
    with store.stage(step, key, {}) as staging:
        rows = [row for source in sources or [] for row in clip_rows(Take(source, 25))]
        write_table(staging.path / CLIPS_FILE, rows, CLIP_COLUMNS)
        staging.commit()


def work_of(sources: list[Source], dataset: Dataset, store: ObjectStore, shard_minutes: float = 0.05):
    plan = make_plan(sources, [], [], shard_minutes)
    return find_work(plan, known(sources), dataset, resolve_features(dataset)[0], store)


def test_an_empty_store_has_everything_to_do(dataset: Dataset, sources: list[Source], tmp_path: Path) -> None:
    work = work_of(sources, dataset, ObjectStore(tmp_path))
    assert [source for item in work for source in item.sources] == sources
    assert all(item.cut is None and item.features == {} for item in work)


def test_what_is_committed_is_found_and_the_rest_is_not(
    dataset: Dataset, sources: list[Source], tmp_path: Path
) -> None:
    store = ObjectStore(tmp_path)
    params: dict[str, BaseModel] = resolve_features(dataset)[0]
    plan = make_plan(sources, [], [], 0.05)
    first = [plan.by_id[source_id] for source_id in plan.shards[0].source_ids]
    members = [source.member() for source in first]
    cut = cut_key(dataset, members)[0]
    commit(store, "cut", cut, first)
    for name in ("mel", "landmarks"):
        commit(store, name, feature_key(name, params[name], cut, {}, subject_groups(members))[0])
    work = work_of(sources, dataset, store)
    assert work[0].cut is not None
    assert (work[0].cut.key, work[0].cut.num_clips, work[0].cut.is_new) == (cut, len(first), False)
    assert set(work[0].features) == {"mel", "landmarks"}
    assert all(item.cut is None for item in work[1:])


def test_a_feature_whose_need_is_missing_is_missing(dataset: Dataset, sources: list[Source], tmp_path: Path) -> None:
    """Its key depends on the key of what it needs, which is not known to be committed."""
    store, params = ObjectStore(tmp_path), resolve_features(dataset)[0]
    members = [source.member() for source in sources]
    cut = cut_key(dataset, members)[0]
    commit(store, "cut", cut, sources)
    landmarks = feature_key("landmarks", params["landmarks"], cut, {}, subject_groups(members))[0]
    face3d = feature_key("face3d", params["face3d"], cut, {"landmarks": landmarks}, subject_groups(members))[0]
    commit(store, "face3d", face3d)
    assert work_of(sources, dataset, store, 10)[0].features == {}
    commit(store, "landmarks", landmarks)
    assert set(work_of(sources, dataset, store, 10)[0].features) == {"landmarks", "face3d"}


def test_a_half_object_is_no_object(dataset: Dataset, sources: list[Source], tmp_path: Path) -> None:
    """K-07: without a manifest there is nothing."""
    store = ObjectStore(tmp_path)
    key = cut_key(dataset, [source.member() for source in sources])[0]
    commit(store, "cut", key, sources)
    (store.path(key) / "manifest.json").unlink()
    assert work_of(sources, dataset, store, 10)[0].cut is None


def test_shards_are_reusable_only_under_todays_rules(dataset: Dataset, sources: list[Source], tmp_path: Path) -> None:
    store, shards = ObjectStore(tmp_path), make_plan(sources, [], [], 10).shards
    assert reusable_shards(shards, known(sources), dataset, store) == []
    commit(store, "cut", cut_key(dataset, [source.member() for source in sources])[0], sources)
    assert reusable_shards(shards, known(sources), dataset, store) == [shards[0].shard_id]
    assert reusable_shards(shards, known(sources[1:]), dataset, store) == []
    other = dataset.model_copy(update={"crop": CropRule(margin=0.3)})
    assert reusable_shards(shards, known(sources), other, store) == []


def test_a_gone_source_stays_a_member_but_is_not_worked_on(
    dataset: Dataset, sources: list[Source], tmp_path: Path
) -> None:
    store, shards = ObjectStore(tmp_path), make_plan(sources, [], [], 10).shards
    commit(store, "cut", cut_key(dataset, [source.member() for source in sources])[0], sources)
    plan = make_plan(sources[1:], shards, [shards[0].shard_id], 10)
    (item,) = find_work(plan, known(sources), dataset, resolve_features(dataset)[0], store)
    assert (len(item.members), item.sources) == (6, tuple(sources[1:]))
    assert item.cut is not None


def test_subjects_are_numbers_by_appearance_within_a_layout() -> None:
    def groups(*labels: str) -> tuple[int, ...]:
        return subject_groups([Member("x", label.split("/")[0], label.split("/")[1]) for label in labels])

    assert groups("raw/A", "raw/B", "raw/A", "talks/A") == (0, 1, 0, 2)
    assert groups("raw/X", "raw/Y", "raw/X", "talks/X") == (0, 1, 0, 2)
    assert groups() == ()


def test_features_come_in_an_order_that_respects_needs_and_skipped_ones_say_why(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TALKSET_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TALKSET_ALLOW_DOWNLOAD", raising=False)
    features = {"face3d": {}, "blendshapes": {}, "landmarks": {}, "mel": {}}
    params, skipped = resolve_features(dataset.model_copy(update={"features": features}))
    assert list(params).index("landmarks") < list(params).index("face3d")
    assert set(skipped) == {"blendshapes"}
    assert skipped["blendshapes"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"features": {"landmarks": {}, "melt": {}}}, ("melt", "mel")),
        ({"features": {"landmarks": {}, "mel": {"pad_mod": "reflect"}}}, ("mel.pad_mod", "pad_mode")),
        ({"features": {"landmarks": {}, "mel": {"pad_mode": 1}}}, ("mel.pad_mode",)),
        ({"thresholds": {"quality_sharp": Threshold(min=1)}}, ("quality_sharp", "quality_sharpness")),
        ({"face": FaceRule(tracking={"cut_treshold": 1})}, ("cut_treshold",)),
    ],
)  # fmt: skip
def test_wrong_settings_are_named_with_what_is_right(dataset: Dataset, change: dict, words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_features(dataset.model_copy(update=change))
    assert all(word in str(caught.value) for word in (dataset.name, *words))


def test_a_threshold_on_a_skipped_feature_is_refused(dataset: Dataset) -> None:
    """Nobody gives the score: every clip would be dropped unseen."""
    with pytest.raises(ConfigError, match="sync_confidence"):
        resolve_features(dataset.model_copy(update={"thresholds": {"sync_confidence": Threshold(min=1)}}))


def test_equal_sources_under_two_subjects_are_one_member(
    dataset: Dataset, sources: list[Source], tmp_path: Path
) -> None:
    twin = replace(sources[0], path="zz.mp4", path_hex=b"zz.mp4".hex(), subject="Z")
    plan = make_plan([*sources, twin], [], [], 10)
    (item,) = find_work(plan, known(sources), dataset, resolve_features(dataset)[0], ObjectStore(tmp_path))
    assert [member.subject for member in item.members] == ["A"] * 3 + ["B"] * 3
