"""Which columns the features of a snapshot have, by extractor; taken from the schemas of its own tables."""

from storage.cut_tables import CLIP_KEY
from storage.errors import ConfigError
from storage.snapshot import FEATURES_TABLE, Snapshot
from storage.tables import Column, columns_of, read_schema


def feature_columns(snapshot: Snapshot) -> dict[str, tuple[Column, ...]]:
    """Extractor -> its columns without the clip key, for the extractors that every shard has; sorted by name.

    Raises:
        StoreCorrupt: a feature table is missing or damaged.
    """
    shards = snapshot.body.shards
    names = set(shards[0].features).intersection(*(shard.features for shard in shards)) if shards else set()
    return {name: _columns(snapshot, shards[0].features[name].key) for name in sorted(names)}


def find_column(columns: dict[str, tuple[Column, ...]], name: str) -> tuple[str, Column]:
    """(extractor, column) of a field `column` or `extractor.column`.

    Raises:
        ConfigError: no extractor has it, or several have; those that exist are named.
    """
    wanted = name.rpartition(".")
    found = [
        (extractor, column)
        for extractor, own in columns.items()
        for column in own
        if column.name == wanted[2] and wanted[0] in ("", extractor)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        choices = " or ".join(f"{extractor}.{name}" for extractor, _ in found)
        raise ConfigError(f"field {name!r} is in several features; write {choices}")
    have = "; ".join(f"{extractor}: {', '.join(column.name for column in own)}" for extractor, own in columns.items())
    raise ConfigError(f"the snapshot has no field {name!r}; its features are {have or 'none'}")


def _columns(snapshot: Snapshot, key: str) -> tuple[Column, ...]:
    schema = read_schema(snapshot.objects.path(key) / FEATURES_TABLE)
    return tuple(column for column in columns_of(schema) if column.name != CLIP_KEY.name)
