"""The sources of a dataset as they lie on the disk now."""

from pathlib import Path

from storage.catalog import Dataset
from storage.hash_cache import HashCache
from storage.store_layout import hash_cache_file
from storage.takedowns import load_takedowns
from tasks.inventory import Inventory, header_seconds, take_inventory


def read_inventory(dataset: Dataset, store: Path) -> Inventory:
    """The inventory, by the hashes that the store remembers."""
    cache = HashCache(hash_cache_file(store), header_seconds)
    inventory = take_inventory(dataset, cache, load_takedowns(store))
    cache.save()
    return inventory
