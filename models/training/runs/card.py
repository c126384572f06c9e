"""The model card of a run: README.md with the YAML head of the Hugging Face Hub; a run whose card lacks a field fails.

Its facts come from the run record and the snapshot: the data with hours, clips, identities and exclusions by reason,
the training and its cost, figures, the licences of all weights involved, limits and misuse.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from storage import weights
from storage.errors import PreflightError
from storage.runs import RunKey, RunRecord, load_run
from storage.snapshot import Snapshot
from storage.timelaw import FPS

CARD_FILE = "README.md"
LIMITS = (
    "Trained on the clips named here and measured on the split named here only. Faces, languages, poses and lighting "
    "that these data lack are not covered; figures of a small split say little about other data."
)
MISUSE = (
    "The model makes or drives images of talking people. Do not use it to show a person saying what they did not "
    "say, to impersonate, to deceive or to harass. Obtain the consent of everyone whose face or voice is used, label "
    "what is made as synthetic, and obey the law of the place. Consent can be withdrawn: the run record names every "
    "source behind the weights."
)
Text = Annotated[str, Field(min_length=1)]


class SplitFacts(BaseModel):
    """One split of the data: kept clips, their hours, different identities, clips by emotion."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clips: PositiveInt
    hours: PositiveFloat
    identities: PositiveInt
    emotions: dict[str, int]

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> "SplitFacts":
        """The facts of one split's rows of the clip table."""
        return cls(
            clips=len(rows),
            hours=sum(row["num_frames"] for row in rows) / FPS / 3600,
            identities=len({row["subject"] for row in rows}),
            emotions=dict(sorted(Counter(row["emotion"] for row in rows if row["emotion"]).items())),
        )


class DataFacts(BaseModel):
    """The snapshot as the card shows it.

    Attributes:
        splits: 'train' and the others that are not empty.
        split_rule: how clips were assigned.
        excluded: reason code -> number of sources and clips left out for it.
        weights: entries of weights.toml that the features were made with.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: Text
    snapshot: Text
    number: PositiveInt
    splits: Annotated[dict[str, SplitFacts], Field(min_length=1)]
    split_rule: Text
    excluded: dict[str, int]
    weights: tuple[str, ...]


class ModelCard(BaseModel):
    """Everything a card must say; a missing or empty field is an error.

    Attributes:
        purpose: first line of the stage's docstring.
        metrics: name -> value; means over `num_measured` items of the split `metrics_of` ('val', 'train').
        cost_h: hours of all finished sessions, times their processes.
        hardware: of the last session.
        weights: name -> licence, of the run and of its data; `noncommercial` names those that forbid commercial use.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: Text
    system: Text
    stage: Text
    purpose: Text
    data: DataFacts
    config: Annotated[dict[str, Any], Field(min_length=1)]
    steps: PositiveInt
    seed: int
    code_version: Text
    packages_sha256: Text
    sessions: PositiveInt
    cost_h: Annotated[float, Field(ge=0)]
    hardware: Annotated[dict[str, Any], Field(min_length=1)]
    parents: dict[str, str]
    published: dict[str, str]
    continued_from: str
    metrics: Annotated[dict[str, float], Field(min_length=1)]
    metrics_of: Text
    num_measured: PositiveInt
    weights: dict[str, Text]
    noncommercial: tuple[str, ...]
    limits: Text = LIMITS
    misuse: Text = MISUSE


def data_facts(snapshot: Snapshot) -> DataFacts:
    """What a card states about a snapshot.

    Raises:
        PreflightError: a fact is not known; the fields are named.
    """
    rows, body, rule = snapshot.rows(), snapshot.body, snapshot.body.config["split"]
    splits = {name: [row for row in rows if row["split"] == name] for name in ("train", "val", "test")}
    listed = f"{len(rule['val'])} identities are listed as val and {len(rule['test'])} as test"
    shares = f"{rule['val_share']:g} are val and {rule['test_share']:g} test by a hash of the label"
    keys = [ref.key for shard in body.shards for ref in (shard.cut, *shard.features.values())]
    used = {name for key in keys for name in snapshot.objects.manifest(key).key_inputs.get("weights", {})}
    with _complete():
        return DataFacts(
            dataset=body.dataset,
            snapshot=snapshot.id,
            number=body.number,
            splits={name: SplitFacts.of(own) for name, own in splits.items() if own},
            split_rule=f"Split by identity, never within one: {listed}; of the others {shares}.",
            excluded=dict(sorted((Counter(body.counts["rejected"]) + Counter(body.counts["dropped"])).items())),
            weights=tuple(sorted(used)),
        )


def inherited_weights(store: Path, key: RunKey) -> set[str]:
    """Entries of weights.toml that the runs which a run starts from were made with, and those before them."""
    runs = [parent.run for parent in key.parents.values()]
    runs += [key.continued_from.run] if key.continued_from else []
    keys = [record.key for run in runs if (record := load_run(store, run))]
    return {name for found in keys for name in (*found.weights, *inherited_weights(store, found))}


def make_card(
    record: RunRecord, data: DataFacts, purpose: str, step: int, num_measured: int, inherited: Iterable[str] = ()
) -> ModelCard:
    """The card of a run that has reached its last step.

    Args:
        record: of the run, its last session still open or not.
        data: see `data_facts`.
        purpose: what the stage trains.
        step: steps done.
        num_measured: items the metrics are means over.
        inherited: see `inherited_weights`.

    Raises:
        PreflightError: a field that a card must have is missing; the fields are named.
    """
    names = sorted({*record.key.weights, *data.weights, *inherited})
    entries = {name: entry for name, entry in weights.listed().items() if name in names}
    began, cost_h = record.key.continued_from, 0.0
    for session in record.sessions:
        if session.ended_at:
            span = datetime.fromisoformat(session.ended_at) - datetime.fromisoformat(session.started_at)
            cost_h += span.total_seconds() / 3600 * session.num_ranks
    with _complete():
        return ModelCard(
            run=record.id, system=record.key.system, stage=record.key.stage, purpose=purpose, data=data,
            config=record.key.config, steps=step, seed=record.seed, code_version=record.code_version,
            packages_sha256=record.packages_sha256, sessions=len(record.sessions), cost_h=cost_h,
            hardware=record.sessions[-1].hardware if record.sessions else {},
            parents={stage: parent.run for stage, parent in record.key.parents.items()}, published=record.key.published,
            continued_from=f"run {began.run}, step {began.step}, snapshot {began.snapshot}" if began else "",
            metrics=record.metrics,
            metrics_of="train" if all(name.startswith("train_") for name in record.metrics) else "val",
            num_measured=num_measured,
            weights={name: entries[name].licence if name in entries else "" for name in names},
            noncommercial=tuple(name for name in names if name in entries and entries[name].is_noncommercial),
        )  # fmt: skip


@contextmanager
def _complete() -> Iterator[None]:
    """Turns the error of a record that lacks fields into one line that names them."""
    try:
        yield
    except ValidationError as error:
        missing = ", ".join(".".join(map(str, fault["loc"])) for fault in error.errors())
        raise PreflightError(f"the model card cannot be written, it lacks: {missing}") from None


def render(card: ModelCard) -> str:
    """The text of README.md: front matter and body."""
    metrics = [{"type": name, "name": name, "value": value} for name, value in sorted(card.metrics.items())]
    dataset = {
        "name": card.data.dataset, "type": card.data.dataset, "revision": card.data.snapshot, "split": card.metrics_of
    }  # fmt: skip
    result = {"task": {"type": "other", "name": card.stage}, "dataset": dataset, "metrics": metrics}
    front = {
        "license": "other",
        "license_name": "see-data-and-weights",
        "library_name": "talkset",
        "tags": ["talking-head", card.system, card.stage, "talkset"] + ["non-commercial"] * bool(card.noncommercial),
        "model-index": [{"name": card.run, "results": [result]}],
    }
    head = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    title = f"# {card.system} {card.stage}, run {card.run}"
    return "\n\n".join((f"---\n{head}---", title, card.purpose, *filter(None, _sections(card)))) + "\n"


def _sections(card: ModelCard) -> list[str]:
    data = card.data
    splits = [(name, f.clips, f"{f.hours:.3f}", f.identities, _counts(f.emotions)) for name, f in data.splits.items()]
    measured = [(name, f"{value:.6g}") for name, value in sorted(card.metrics.items())]
    licences = [(name, text, "**yes**" if name in card.noncommercial else "no") for name, text in card.weights.items()]
    warning = "Their licences apply to this model, too." if card.weights else "None."
    if card.noncommercial:
        warning = f"**Not for commercial use as it stands**, because of {', '.join(card.noncommercial)}."
    return [
        f"## Data\n\nDataset `{data.dataset}`, snapshot {data.number} (`{data.snapshot}`). {data.split_rule}",
        _table(("split", "clips", "hours", "identities", "clips by emotion"), splits),
        f"Left out, by reason: {_counts(data.excluded) or 'nothing'}.",
        f"## Training\n\n{_training(card)}",
        f"```yaml\n{yaml.safe_dump(card.config, sort_keys=True)}```",
        f"## Figures\n\nMeans over {card.num_measured} items of split `{card.metrics_of}`.",
        _table(("figure", "value"), measured),
        f"## Third-party weights\n\n{warning}",
        _table(("name", "licence", "non-commercial only"), licences) if licences else "",
        f"## Limits\n\n{card.limits}",
        f"## Misuse\n\n{card.misuse}",
    ]


def _training(card: ModelCard) -> str:
    begins = [f"stage {stage} of run {run}" for stage, run in card.parents.items()]
    begins += [f"the published weights {name} in place of stage {stage}" for stage, name in card.published.items()]
    begin = card.continued_from or ", ".join(begins) or "random weights"
    hardware = ", ".join(f"{name} {value}" for name, value in card.hardware.items())
    return (
        f"{card.steps} steps from {begin}; seed {card.seed}; {card.cost_h:.3f} process hours in {card.sessions} "
        f"sessions, those that were killed not counted. Last on: {hardware}. "
        f"Code {card.code_version}, packages {card.packages_sha256[:12]}."
    )


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
