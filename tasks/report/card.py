"""The dataset card: README.md with the YAML head that the Hugging Face Hub and `datasets.load_dataset` read."""

import os
from pathlib import Path
from typing import Any

import yaml

from storage.cut_tables import TRACKS_FILE
from storage.snapshot import CLIPS_TABLE, FEATURES_TABLE, SOURCES_TABLE, Snapshot
from tasks.report.accounts import accounts_of
from tasks.report.groups import group_tables
from tasks.report.stored import Stored, extractors
from tasks.report.templating import environment

_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)


# The tables are not divided by split; the column `split` of clips.parquet says which a clip is in.
DATA_SPLIT = "all_splits"


def card_text(snapshot: Snapshot, stored: Stored, folder: Path) -> str:
    """README.md of a snapshot: what it is, counts, splits, columns, how made, how to load, limits, licences, misuse.

    Args:
        snapshot: The snapshot.
        stored: The sums over its objects.
        folder: The folder of the card; the paths of its tables are relative to it.
    """
    from markupsafe import Markup

    groups = group_tables(snapshot)
    head = front_matter(snapshot, folder)
    bounds = snapshot.body.config["thresholds"].items()
    return (
        environment(is_html=False)
        .get_template("card.md")
        .render(
            head=Markup(yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=200).strip()),
            body=snapshot.body,
            snapshot=snapshot,
            accounts=accounts_of(snapshot),
            splits=groups["Split"],
            emotions=[group for group in groups["Emotion"] if group.label],
            stored=stored,
            thresholds=[
                (score, ", ".join(f"{name} {bound:g}" for name, bound in limits.items() if bound is not None))
                for score, limits in bounds
            ],
            configs=[config["config_name"] for config in head.get("configs", ())],
            data_split=Markup(DATA_SPLIT),
        )
    )


def front_matter(snapshot: Snapshot, folder: Path) -> dict[str, Any]:
    """The YAML head of a card in `folder`. The language of the speech is not known and therefore not claimed."""
    name = snapshot.body.dataset
    head = {
        "pretty_name": f"{name}, snapshot {snapshot.body.number}",
        "license": "other",
        "license_name": "see-sources",
        "license_details": "the terms of the source videos apply, and those of the weights the features were made with",
        "task_categories": ["image-to-video", "other"],
        "size_categories": [size_category(snapshot.body.counts["clips"]["kept"])],
        "tags": ["talking-head", "lip-sync", "audio-visual", "face", "video", "audio", "talkset"],
        "annotations_creators": ["machine-generated"],
    }
    # Elsewhere the way to the tables is one of this machine, which a card must not hold.
    is_in_store = folder.absolute().is_relative_to(snapshot.store.absolute())
    return head | ({"configs": table_configs(snapshot, folder)} if is_in_store else {})


def table_configs(snapshot: Snapshot, folder: Path) -> list[dict[str, Any]]:
    """Every Parquet table of a snapshot as a `configs` entry, so that `load_dataset(folder, NAME)` opens it.

    The tables are clips, sources, tracks, and each extractor; the last two have one file per shard.

    Args:
        snapshot: The snapshot.
        folder: The folder of the card; paths are relative to it.
    """
    tables, shards = snapshot.body.tables, snapshot.body.shards
    files = {"clips": [(tables, CLIPS_TABLE)], "sources": [(tables, SOURCES_TABLE)]}
    if all(TRACKS_FILE in snapshot.objects.manifest(shard.cut.key).files for shard in shards):
        files["tracks"] = [(shard.cut, TRACKS_FILE) for shard in shards]
    files |= {name: [(ref, FEATURES_TABLE) for ref in refs] for name, refs in extractors(snapshot).items()}
    start = folder.absolute()
    return [
        {
            "config_name": name,
            "data_files": [
                {
                    "split": DATA_SPLIT,
                    "path": [
                        Path(os.path.relpath(snapshot.objects.path(ref.key).absolute() / file, start)).as_posix()
                        for ref, file in parts
                    ],
                }
            ],
        }
        | ({"default": True} if name == "clips" else {})
        for name, parts in files.items()
        if parts
    ]


def size_category(num_clips: int) -> str:
    """The Hub's word for that many examples."""
    return next((name for limit, name in _SIZES if num_clips < limit), "10M<n<100M")
