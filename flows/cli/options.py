"""Exit codes, options that several commands share, and which store a command is about."""

import os
from pathlib import Path
from typing import Annotated

import typer

from storage.errors import ConfigError
from storage.store_layout import store_file

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_PARTIAL, EXIT_LOCKED = range(5)

DatasetArg = Annotated[str, typer.Argument(help="Block of datasets.yaml.")]
StoreOption = Annotated[
    Path | None, typer.Option("--store", help="Folder of the store. [default: $TALKSET_STORE or stores/DATASET]")
]
SnapshotOption = Annotated[str, typer.Option("--snapshot", help="latest, a number, or the first digits of an id.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
CatalogOption = Annotated[Path | None, typer.Option("--catalog", help="Another datasets.yaml.")]


def dataset_store(given: Path | None, dataset: str) -> Path:
    """The dataset's store, which need not exist yet: given, $TALKSET_STORE, or the default place."""
    from storage.stores import default_store

    named = os.environ.get("TALKSET_STORE")
    return (given or (Path(named) if named else default_store(dataset))).absolute()


def existing_store(given: Path | None) -> Path:
    """The store that a command reads: given, $TALKSET_STORE, the working folder, or the only one in stores/.

    Raises:
        ConfigError: the folder is no store, or it is not clear which store is meant.
    """
    from storage.snapshot import store_dataset
    from storage.stores import default_store, known_stores

    named = os.environ.get("TALKSET_STORE")
    if given or named:
        folder = Path(given or str(named)).absolute()
        store_dataset(folder)
        return folder
    if store_file(Path()).is_file():
        return Path.cwd()
    found = known_stores()
    if len(found) == 1:
        return found[0]
    names = ", ".join(str(path) for path in found) or f"none in {default_store('x').parent}"
    raise ConfigError(f"which store? pass --store or set TALKSET_STORE (found: {names})")
