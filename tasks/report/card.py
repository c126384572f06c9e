"""The dataset card: README.md with the YAML head that the Hugging Face Hub reads."""

from typing import Any

import yaml

from storage.snapshot import Snapshot
from tasks.report.accounts import accounts_of
from tasks.report.groups import group_tables
from tasks.report.stored import Stored
from tasks.report.templating import markdown_environment

_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)


def card_text(snapshot: Snapshot, stored: Stored) -> str:
    """README.md of a snapshot: what it is, counts, splits, columns, how made, how to load, limits, licences, misuse."""
    from markupsafe import Markup

    groups = group_tables(snapshot)
    return (
        markdown_environment()
        .get_template("card.md")
        .render(
            head=Markup(yaml.safe_dump(front_matter(snapshot), sort_keys=False, allow_unicode=True).strip()),
            body=snapshot.body,
            snapshot=snapshot,
            accounts=accounts_of(snapshot),
            splits=groups["Split"],
            emotions=[group for group in groups["Emotion"] if group.label],
            stored=stored,
            thresholds=_thresholds(snapshot.body.config),
        )
    )


def front_matter(snapshot: Snapshot) -> dict[str, Any]:
    """The YAML head. The language of the speech is not known and therefore not claimed."""
    name = snapshot.body.dataset
    return {
        "pretty_name": f"{name}, snapshot {snapshot.body.number}",
        "license": "other",
        "license_name": "see-sources",
        "license_details": "the terms of the source videos apply, and those of the weights the features were made with",
        "task_categories": ["image-to-video", "other"],
        "size_categories": [size_category(snapshot.body.counts["clips"]["kept"])],
        "tags": ["talking-head", "lip-sync", "audio-visual", "face", "video", "audio", "talkset"],
        "annotations_creators": ["machine-generated"],
    }


def size_category(num_clips: int) -> str:
    """The Hub's word for that many examples."""
    return next((name for limit, name in _SIZES if num_clips < limit), "10M<n<100M")


def _thresholds(config: dict[str, Any]) -> list[tuple[str, str]]:
    """(score, 'min 60, max 90') of every threshold."""
    return [
        (score, ", ".join(f"{name} {bound:g}" for name, bound in bounds.items() if bound is not None))
        for score, bounds in config["thresholds"].items()
    ]
