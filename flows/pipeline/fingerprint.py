"""Fingerprint of a finished refresh: equal inputs and equal code mean there is nothing to do, known in a moment.

Everything that could change a result is in it: the inventory, the dataset's block, every source file of this package,
the versions of all installed distributions, and the weight files at hand.
"""

import json
import os
from importlib import metadata
from pathlib import Path

from flows.code_version import code_version
from storage.catalog import Dataset
from storage.files import make_dir, replace_durable
from storage.keys import canonical_json, sha256_hex
from storage.objects import ObjectStore
from storage.snapshot import Snapshot, latest
from storage.store_layout import last_refresh_file
from storage.weights import at_hand
from tasks.inventory import Inventory


def remember_fingerprint(
    store: Path, dataset: Dataset, inventory: Inventory, snapshot: Snapshot, is_complete: bool
) -> None:
    """Records that `snapshot` is the result for this fingerprint; with failed sources nothing is recorded."""
    file = last_refresh_file(store)
    make_dir(file.parent)
    content = {"fingerprint": _fingerprint(dataset, inventory), "snapshot": snapshot.id}
    replace_durable(file, canonical_json(content if is_complete else {}))


def unchanged_snapshot(store: Path, dataset: Dataset, inventory: Inventory) -> Snapshot | None:
    """The latest snapshot when a refresh could only give it again; None when there is work to do."""
    try:
        content = json.loads(last_refresh_file(store).read_bytes())
    except (OSError, ValueError):
        return None
    snapshot = latest(store)
    if snapshot is None or content.get("snapshot") != snapshot.id:
        return None
    if content.get("fingerprint") != _fingerprint(dataset, inventory):
        return None
    objects = ObjectStore(store)
    return snapshot if all(objects.exists(ref.key) for ref in snapshot.body.objects()) else None


def _fingerprint(dataset: Dataset, inventory: Inventory) -> str:
    rows = [[s.path_hex, s.layout, s.name, s.subject, s.sha256, s.audio_sha256, s.reason, s.detail, s.error,
             [[span.start_s, span.end_s, span.box] for span in s.spans]] for s in inventory.sources]  # fmt: skip
    installed = sorted(f"{found.name}=={found.version}" for found in metadata.distributions())
    parts = {
        "dataset": dataset.data_settings(),
        "root": os.fsencode(dataset.root.expanduser().absolute()).hex(),
        "sources": rows,
        "taken_down": inventory.taken_down,
        "counts": [inventory.num_not_selected, inventory.num_ignored],
        "code": code_version(),
        "installed": installed,
        "weights": at_hand(),
    }
    return sha256_hex(canonical_json(parts))
