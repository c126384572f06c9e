"""The report is checked against the store itself: numbers by plain loops over the rows, images by the frames."""

import base64
import glob
import itertools
import math
import os
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import cv2
import duckdb
import numpy as np
import pandas
import polars
import pyarrow as pa
import pytest
import yaml
from pyarrow import dataset

from storage.catalog import Threshold
from storage.errors import Reason
from storage.records import Source
from storage.snapshot import Snapshot
from tasks.inventory import Inventory
from tasks.plan import make_plan
from tasks.publish import RefreshResults, publish_snapshot
from tasks.report import ReportFiles, write_report
from tasks.report.accounts import accounts_of, issues_of
from tasks.report.card import DATA_SPLIT, size_category
from tasks.report.changes import changes_of
from tasks.report.contact_sheet import (
    NUM_DROPPED,
    NUM_KEPT,
    NUM_TILES,
    TILE_PX,
    TILES_PER_ROW,
    contact_sheet,
    sheet_image,
    spread,
)
from tasks.report.groups import NUM_SHOWN, group_tables
from tasks.report.histograms import NUM_BINS, NUM_HISTOGRAMS, bin_edges, histograms
from tasks.report.speech import NUM_CLIPS, speech_charts
from tasks.report.stored import stored_facts
from tasks.report.templating import escape_markdown, percent, size_text
from tests.synthetic_store import THRESHOLDS, TRUE_LAG_FRAMES, build_store, synthetic_dataset

VOID = {"meta", "img", "link", "br", "hr", "input"}
LIMITS = {**THRESHOLDS, "sync_offset_frames": Threshold(min=-4, max=4)}
HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Snapshot 1: three subjects, no trouble. Snapshot 2: one more take each, every trouble, one more threshold."""
    path = tmp_path_factory.mktemp("report") / "store"
    build_store(path)
    build_store(
        path, clips_per_subject=3, with_trouble=True, thresholds=LIMITS, skipped_features={"blendshapes": "<none>"}
    )
    return path


@pytest.fixture
def snapshot(store: Path) -> Snapshot:
    return Snapshot.open(store)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """Two thousand clips of a hundred subjects, without media."""
    path = tmp_path_factory.mktemp("large") / "store"
    return build_store(path, 100, 20, num_frames=(125,), with_media=False, shard_minutes=60)


@pytest.fixture(scope="module")
def files(store: Path, tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    return write_report(Snapshot.open(store), tmp_path_factory.mktemp("out"))


@pytest.fixture(scope="module")
def page(files: ReportFiles) -> str:
    return files.page.read_text()


@pytest.fixture(scope="module")
def card(files: ReportFiles) -> str:
    return files.card.read_text()


class Reader(HTMLParser):
    """Collects elements and complains about tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)


# ---- the page as a whole


def test_page_asks_nothing_of_the_network(page: str) -> None:
    for tag, attributes in Reader(page).elements:
        assert tag not in {"script", "link", "iframe", "object", "form"}
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#"))
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_page_can_be_read_without_seeing(page: str) -> None:
    elements = Reader(page).elements
    assert all(attributes.get("alt") for tag, attributes in elements if tag == "img")
    svgs = [attributes for tag, attributes in elements if tag == "svg"]
    assert svgs
    assert all(svg.get("aria-hidden") or (svg["role"] == "img" and svg["aria-label"]) for svg in svgs)
    assert all(attributes.get("scope") for tag, attributes in elements if tag == "th")
    assert page.count("<table") == page.count("<thead")


def test_targets_of_links_exist(page: str) -> None:
    elements = Reader(page).elements
    ids = Counter(attributes["id"] for _, attributes in elements if attributes.get("id"))
    links = {href[1:] for tag, a in elements if tag in ("a", "use") and (href := a.get("href") or a.get("xlink:href"))}
    assert links
    assert links <= set(ids)


def test_page_names_everything_a_person_looks_for(page: str, snapshot: Snapshot) -> None:
    text = " ".join(Reader(page).words)
    for word in (snapshot.id, snapshot.body.parent, snapshot.body.code_version, "Since snapshot 1", "BELOW_THRESHOLD"):
        assert str(word) in text
    assert "talkset explain T003/video/front/sad/level_1/003.mp4" in text
    assert "Input/output error" in text
    assert "blendshapes" in text
    assert "<none>" in text


def test_same_snapshot_same_bytes_and_an_old_report_is_replaced(
    snapshot: Snapshot, files: ReportFiles, tmp_path: Path
) -> None:
    (tmp_path / "index.html").write_text("old")
    again = write_report(snapshot, tmp_path)
    assert again.page.read_bytes() == files.page.read_bytes()
    assert again.card.read_bytes() == files.card.read_bytes()


def test_names_cannot_write_html(snapshot: Snapshot, tmp_path: Path) -> None:
    clips, sources = snapshot.clip_table, snapshot.source_table
    for column in ("name", "subject", "emotion", "reason", "detail", "layout"):
        clips = with_text(clips, column, HOSTILE)
    for column in ("path", "name", "detail"):
        sources = with_text(sources, column, HOSTILE)
    snapshot.__dict__["clip_table"], snapshot.__dict__["source_table"] = clips, sources
    files = write_report(snapshot, tmp_path)
    page = Reader(files.page.read_text())
    assert not [tag for tag, attributes in page.elements if tag == "script" or "onerror" in attributes]
    assert HOSTILE in "".join(page.words)
    assert "<script" not in files.card.read_text()
    assert "<img" not in files.card.read_text()


def with_text(table: pa.Table, column: str, text: str) -> pa.Table:
    """The table with another text in all rows of a column."""
    return table.set_column(table.column_names.index(column), column, pa.array([text] * table.num_rows))


def test_many_clips_make_no_large_page(large: Snapshot, tmp_path: Path) -> None:
    files = write_report(large, tmp_path)
    page = files.page.read_text()
    assert len(page) < 500_000
    assert "No frames are stored." in page
    assert size_category(large.body.counts["clips"]["kept"]) == "1K<n<10K"


def test_pictures_are_read_of_few_clips_only(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    frame = Snapshot.frame
    monkeypatch.setattr(Snapshot, "frame", lambda self, clip, index: seen.append(clip.name) or frame(self, clip, index))
    monkeypatch.setattr("tasks.report.contact_sheet.NUM_KEPT", 5)
    monkeypatch.setattr("tasks.report.contact_sheet.NUM_DROPPED", 2)
    contact_sheet(snapshot)
    assert len(seen) == 7


# ---- numbers


def test_accounts_are_those_of_the_tables(snapshot: Snapshot) -> None:
    accounts = accounts_of(snapshot)
    rows, sources = snapshot.rows(kept=False), snapshot.source_table.to_pylist()
    states = Counter(row["state"].removesuffix("_of") for row in sources)
    assert {line.label: line.count for line in accounts.sources} == states
    dropped = Counter(row["reason"] for row in rows if not row["is_kept"])
    assert {line.label: line.count for line in accounts.dropped} == dropped
    assert math.isclose(accounts.keep_rate, sum(row["is_kept"] for row in rows) / len(rows))
    assert accounts.num_stored == sum(row["row"] >= 0 for row in rows) == len(rows) - dropped["TOO_SHORT"]
    assert math.isclose(accounts.minutes_kept, sum(row["num_frames"] for row in rows if row["is_kept"]) / 1500)
    assert all(is_true for _, is_true in accounts.sums)
    assert math.isclose(sum(line.share for line in accounts.sources), 1)


@pytest.mark.parametrize(("group", "name"), [("sources", "done"), ("clips", "kept"), ("dropped", "TOO_SHORT")])
def test_a_sum_that_does_not_close_is_said(snapshot: Snapshot, tmp_path: Path, group: str, name: str) -> None:
    counts = {**snapshot.body.counts, group: {**snapshot.body.counts[group], name: 1000}}
    snapshot.body = snapshot.body.model_copy(update={"counts": counts})
    assert not all(is_true for _, is_true in accounts_of(snapshot).sums)
    assert "does not hold" in write_report(snapshot, tmp_path).page.read_text()


@pytest.mark.parametrize("column", ["split", "emotion", "layout", "subject"])
def test_groups_are_those_of_a_plain_loop(snapshot: Snapshot, column: str) -> None:
    rows = snapshot.rows(kept=False)
    for group in group_tables(snapshot)[column.title()]:
        mine = [row for row in rows if row[column] == group.label]
        kept = [row for row in mine if row["is_kept"]]
        assert (group.expected, group.kept) == (len(mine), len(kept))
        assert math.isclose(group.minutes, sum(row["num_frames"] for row in kept) / 25 / 60)
        assert column == "subject" or group.subjects == len({row["subject"] for row in kept})
    assert sum(group.expected for group in group_tables(snapshot)[column.title()]) == len(rows)


def test_splits_stand_in_their_order(snapshot: Snapshot) -> None:
    assert [group.label for group in group_tables(snapshot)["Split"]] == ["train", "val", "test"]


def test_subjects_beyond_forty_are_summed_up(large: Snapshot) -> None:
    groups = group_tables(large)["Subject"]
    assert len(groups) == NUM_SHOWN + 1
    assert groups[-1].label == "60 others"
    assert groups[-1].expected == 60 * 20
    assert sum(group.kept for group in groups) == large.body.counts["clips"]["kept"]


def test_issues_are_listed_and_counted(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.report.accounts.NUM_ISSUES_SHOWN", 2)
    issues = issues_of(snapshot)
    assert {state: (found.total, len(found.rows)) for state, found in issues.items()} == {
        "failed": (2, 2), "rejected": (3, 2), "duplicate_of": (1, 1),
    }  # fmt: skip
    assert issues["rejected"].rows[0]["command"] == "talkset explain '<script>alert(1)</script>.mp4'"


def test_changes_against_the_parent(store: Path, snapshot: Snapshot) -> None:
    changes = changes_of(snapshot)
    assert changes is not None
    before = {row["clip"] for row in Snapshot.open(store, 1).rows()}
    now = {row["clip"] for row in snapshot.rows()}
    assert (changes.added, changes.removed, changes.same) == (len(now - before), len(before - now), len(now & before))
    assert changes.settings == (
        ("thresholds.sync_offset_frames.max", None, 4.0), ("thresholds.sync_offset_frames.min", None, -4.0),
    )  # fmt: skip
    assert changes_of(Snapshot.open(store, 1)) is None


def test_a_snapshot_in_which_nothing_could_be_used_has_a_report(tmp_path: Path) -> None:
    """A tree of other files: every source is refused, no shard exists, and that is what the page says."""
    odd = Source("odd.mp4", b"odd.mp4".hex(), "", "", "", {}, 1, "f" * 64, reason=Reason.BAD_NAME, detail="no pattern")
    block = synthetic_dataset()
    inventory = Inventory((odd,), 0, 0)
    plan = make_plan([odd], [], [], block.shard_minutes)
    snapshot, _ = publish_snapshot(block, tmp_path, RefreshResults(inventory, plan, []), "0")
    assert snapshot.body.shards == ()
    page = write_report(snapshot, tmp_path / "out").page.read_text()
    assert "odd.mp4" in page
    assert "BAD_NAME" in page


def test_a_parent_that_is_gone_is_said(tmp_path: Path) -> None:
    store = tmp_path / "store"
    build_store(store, 2, 1, with_media=False)
    build_store(store, 2, 2, with_media=False)
    (store / "snapshots" / "000001.json").unlink()
    page = write_report(Snapshot.open(store), tmp_path / "out").page.read_text()
    assert "snapshot 1 or its tables cannot be read any more" in page


def test_bytes_and_seconds_are_those_of_the_objects(store: Path, snapshot: Snapshot) -> None:
    facts = stored_facts(snapshot)
    assert facts.total_bytes == sum(ref.num_bytes for ref in snapshot.body.objects())
    lmdb = sum(path.stat().st_size for path in store.glob("objects/*/*/frames/data.mdb"))
    assert 0 < facts.bytes_by_kind["frames and audio"] <= lmdb
    seconds = [source.seconds for source in facts.slowest]
    assert seconds == sorted(seconds, reverse=True)
    assert facts.slowest[0].path == "T001/video/front/fear/level_1/003.mp4"  # 75 frames, one of the two longest
    assert "dlib68" in facts.weights
    assert [feature.name for feature in facts.features] == ["bbox", "landmarks", "mel", "quality", "sync"]


# ---- charts and pictures


def test_histograms_show_thresholds_first_and_count_failures(snapshot: Snapshot) -> None:
    found = histograms(snapshot)
    assert [item.score for item in found[:3]] == list(LIMITS)
    assert len(found) <= NUM_HISTOGRAMS
    stored = [row for row in snapshot.rows(kept=False) if row["row"] >= 0]
    assert [item.num_failing for item in found[:3]] == [
        sum(row["quality_face_size_px"] < 60 for row in stored),
        sum(row["quality_valid_share"] < 0.8 for row in stored),
        sum(abs(row["sync_offset_frames"]) > 4 for row in stored),
    ]
    assert found[2].limits == "min -4, max 4"
    assert "min -4" in found[2].svg
    assert found[0].doc


def test_every_value_falls_into_a_bin() -> None:
    values = np.random.default_rng(0).standard_cauchy(2000)
    edges = bin_edges(values, {"min": -30.0}, is_whole=False)
    assert len(edges) == NUM_BINS + 1
    assert edges[0] < -30 < edges[-1]
    assert np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0].sum() == 2000


@pytest.mark.parametrize("values", [[0.0, 0, 1, -2], [5.0], list(range(500))])
def test_whole_numbers_stand_in_the_middle_of_their_bins(values: list[float]) -> None:
    edges = bin_edges(np.array(values), {}, is_whole=True)
    assert len(edges) <= NUM_BINS + 2
    assert np.allclose(edges % 1, 0.5)
    assert edges[0] < np.quantile(values, 0.005)
    assert edges[-1] > np.quantile(values, 0.995)


def test_spread_takes_what_differs_first() -> None:
    rows = [(split, subject, emotion) for split, subject in (("train", "a"), ("train", "b"), ("test", "c"))
            for emotion in ("happy", "sad") for _ in range(10)]  # fmt: skip
    columns = dict(zip(("split", "subject", "emotion"), map(list, zip(*rows, strict=True)), strict=True))
    table = pa.table({**columns, "reason": [""] * len(rows), "name": [str(i) for i in range(len(rows))]})
    chosen = spread(table, 6)
    assert {(row["subject"], row["emotion"]) for row in chosen} == {row[1:] for row in rows}
    assert spread(table, 6) == chosen
    assert len(spread(table, 1000)) == len(rows)
    assert spread(table.slice(0, 0), 6) == []


def test_contact_sheet_shows_the_stored_frame_and_landmarks(snapshot: Snapshot) -> None:
    sheet = contact_sheet(snapshot)
    kept = {row["name"] for row in snapshot.rows()}
    assert {picture.name for picture in sheet["kept"]} <= kept
    assert len(sheet["kept"]) == min(NUM_KEPT, len(kept))
    assert 0 < len(sheet["dropped"]) <= NUM_DROPPED
    assert all(picture.reason and picture.name not in kept for picture in sheet["dropped"])
    for picture in (sheet["kept"][0], sheet["dropped"][0]):
        clip = snapshot.clip(picture.name)
        frame = snapshot.frame(clip, clip.num_frames // 2).astype(float)
        shown = cv2.imdecode(np.frombuffer(base64.b64decode(picture.image.split(",")[1]), np.uint8), cv2.IMREAD_COLOR)
        assert shown is not None
        assert np.abs(shown[..., ::-1] - frame).mean() < 3
        points = snapshot.feature(clip, "landmarks")["landmarks"][clip.num_frames // 2]
        jaw = np.array([pair.split(",") for pair in picture.strokes[0].points.split()], float)
        assert np.abs(jaw - points[:17]).max() < 0.06
        assert picture.box is not None
        x, y, width, height = picture.box
        assert x - 1 <= points[:, 0].min()
        assert y + height + 1 >= points[:, 1].max()
        assert width > 50


def test_a_frame_without_landmarks_is_shown_and_said(
    snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feature = Snapshot.feature

    def unknown(self, clip, extractor, columns=None):
        return {name: np.full_like(array, np.nan) for name, array in feature(self, clip, extractor, columns).items()}

    monkeypatch.setattr(Snapshot, "feature", unknown)
    monkeypatch.setattr("tasks.report.page.speech_charts", lambda _: [])
    picture = contact_sheet(snapshot)["kept"][0]
    assert picture.strokes == ()
    assert picture.box is None
    page = write_report(snapshot, tmp_path).page.read_text()
    assert f"of clip {picture.name}, without landmarks" in page
    assert "<polyline" not in page


def test_speech_begins_with_the_clip_that_is_farthest_off(snapshot: Snapshot) -> None:
    pictures = speech_charts(snapshot)
    assert 1 < len(pictures) <= NUM_CLIPS
    assert pictures[0].name == "T001#fear#level_1#003"
    assert pictures[0].offset_frames == TRUE_LAG_FRAMES
    assert pictures[0].reason
    assert all(picture.offset_frames == 0 and not picture.reason for picture in pictures[1:])
    assert all("data:image/png;base64" in picture.svg for picture in pictures)


def decoded(uri: str) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(base64.b64decode(uri.split(",", 1)[1]), np.uint8), cv2.IMREAD_COLOR)


def test_tiles_of_the_sheet_image_are_its_frames_with_their_landmarks(snapshot: Snapshot) -> None:
    uri = sheet_image(snapshot)
    assert uri is not None
    image = decoded(uri)
    frames = contact_sheet(snapshot)["kept"]
    shown = min(len(frames), NUM_TILES)
    assert image.shape == (-(-shown // TILES_PER_ROW) * TILE_PX, min(shown, TILES_PER_ROW) * TILE_PX, 3)
    frame = cv2.resize(decoded(frames[0].image), (TILE_PX, TILE_PX), interpolation=cv2.INTER_AREA)
    difference = np.abs(image[:TILE_PX, :TILE_PX].astype(int) - frame).max(axis=2)
    assert np.median(difference) < 8
    points = np.array([pair.split(",") for stroke in frames[0].strokes for pair in stroke.points.split()], float)
    x, y = np.rint(points * TILE_PX / frames[0].size_px).astype(int).clip(0, TILE_PX - 1).T
    assert np.mean(difference[y, x] > 30) > 0.6


def test_nothing_kept_gives_no_sheet_image(tmp_path: Path) -> None:
    empty = build_store(tmp_path, thresholds={"quality_face_size_px": Threshold(min=1e6)})
    assert empty.body.counts["clips"]["kept"] == 0
    assert sheet_image(empty) is None


# ---- the card


def test_card_has_the_head_the_hub_reads(card: str) -> None:
    head, body = card.removeprefix("---\n").split("\n---\n", 1)
    fields = yaml.safe_load(head)
    assert fields["license"] == "other"
    assert fields["size_categories"] == ["n<1K"]
    assert set(fields) >= {"pretty_name", "tags", "task_categories", "license_details"}
    for title in (
        "Counts",
        "Splits",
        "Columns",
        "How it was made",
        "How to load",
        "Known limits",
        "Licences",
        "Misuse",
    ):
        assert f"\n## {title}\n" in body
    assert "non-commercial" in body


def test_card_lists_every_column_with_its_shape(snapshot: Snapshot, card: str) -> None:
    assert "| landmarks | landmarks | float32 | N × 68 × 2 | px | 25 Hz |" in card
    for feature in stored_facts(snapshot).features:
        for column in feature.columns:
            assert f"| {feature.name} | {escape_markdown(column.name)} | {column.dtype} |" in card


def test_paths_in_the_card_exist(store: Path, card: str) -> None:
    paths = set(re.findall(r"STORE/(\S+?\.parquet)", card))
    assert paths
    assert all((store / path).is_file() for path in paths)


def configs_of(card: Path) -> dict[str, list[Path]]:
    """Config name -> files, resolved as `datasets` does: each path relative to the card's folder, joined and globbed."""
    configs = yaml.safe_load(card.read_text().split("---\n")[1])["configs"]
    assert [config["config_name"] for config in configs if config.get("default")] == ["clips"]
    found = {}
    for config in configs:
        (data,) = config["data_files"]
        assert data["split"] == DATA_SPLIT
        assert all(not Path(path).is_absolute() for path in data["path"])
        matches = [glob.glob(os.path.join(card.parent, path)) for path in data["path"]]
        assert all(len(match) == 1 for match in matches)
        found[config["config_name"]] = [Path(match[0]) for match in matches]
    return found


def test_configs_of_the_card_open_every_table(store: Path, snapshot: Snapshot, tmp_path: Path) -> None:
    """Also after the store was moved: the ways are relative."""
    card = write_report(snapshot, store / "reports" / "000002").card.read_text()
    assert f'load_dataset(folder, "clips", split="{DATA_SPLIT}")' in card
    moved = tmp_path / "elsewhere"
    shutil.copytree(store, moved)
    files = configs_of(moved / "reports" / "000002" / "README.md")
    assert list(files) == ["clips", "sources", "tracks", "bbox", "landmarks", "mel", "quality", "sync"]
    opened = {name: dataset.dataset(paths).to_table() for name, paths in files.items()}
    assert opened["clips"]["clip"].equals(snapshot.clip_table["clip"])
    assert opened["sources"]["path"].equals(snapshot.source_table["path"])
    stored = {row["clip"] for row in snapshot.rows(kept=False) if row["row"] >= 0}
    for name in list(files)[2:]:
        assert stored <= set(opened[name]["clip"].to_pylist())
        assert len(files[name]) == len(snapshot.body.shards)
    landmarks = polars.read_parquet(files["landmarks"])
    assert len(landmarks.filter(polars.col("clip").is_in(stored))) == len(stored)
    kept = duckdb.sql(f"SELECT count(*) FROM '{files['clips'][0]}' WHERE is_kept").fetchall()
    assert kept == [(snapshot.body.counts["clips"]["kept"],)]
    assert pandas.read_parquet(files["quality"][0]).columns[0] == "clip"


def test_a_card_outside_the_store_names_no_folder_of_this_machine(card: str) -> None:
    assert "configs" not in yaml.safe_load(card.split("---\n")[1])
    assert "load_dataset" not in card


def test_tables_of_the_card_are_whole(card: str) -> None:
    lines = card.splitlines()
    for above, line in itertools.pairwise(lines):
        if above.startswith("|") and line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", above)) == len(re.findall(r"(?<!\\)\|", line))


def test_escape_markdown() -> None:
    assert escape_markdown("a_b|c\n<d> [e](f)") == "a\\_b\\|c &lt;d&gt; \\[e\\](f)"


@pytest.mark.parametrize(("share", "text"), [(0, "0 %"), (1, "100 %"), (0.5, "50.0 %"), (0.0001, "0.01 %"),
                                             (0.99996, "99.99 %"), (0.9997, "99.97 %"), (math.nan, "–")])  # fmt: skip
def test_percent(share: float, text: str) -> None:
    assert percent(share) == text


def test_size_text() -> None:
    assert [size_text(value) for value in (0, 999, 1500, 2.5e9, 3e12)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "2.5 GB",
        "3.00 TB",
    ]
