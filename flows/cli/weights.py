"""`talkset weights`: third-party weight files, their import and their list."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.output import show, show_tree

weights_app = typer.Typer(help="Third-party weight files.", no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True, slots=True)
class ListedFile:
    """An entry of weights.toml.

    Attributes:
        name, file, page, licence, is_noncommercial, used_by: see storage.weights.WeightFile.
        is_at_hand: whether the file, or one imported from it, is on this machine; its hash is not checked.
    """

    name: str
    file: str
    is_at_hand: bool
    page: str
    licence: str
    is_noncommercial: bool
    used_by: str


@dataclass(frozen=True, slots=True)
class WeightsAtHand:
    """Weight files on this machine.

    Attributes:
        files: every listed one.
        imported: name, licence, source_sha256 and path of each that was imported.
        expressions: named ones of EDTalk.
    """

    files: tuple[ListedFile, ...]
    imported: list[dict[str, str]]
    expressions: tuple[str, ...]


@weights_app.command("import")
def import_weights(
    system: Annotated[str, typer.Argument(help="Whose they are: edtalk.")],
    file: Annotated[
        Path, typer.Argument(help="EDTalk.pt, EDTalk_lip_pose.pt, Audio2Lip.pt, LIA's vox.pt, or happy.npy and so on.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Import a published checkpoint: read without running code in it, checked, kept as safetensors."""
    from models.edtalk.weights.import_published import import_published

    show(import_published(system, file), as_json, show_tree)


@weights_app.command("list")
def list_weights(as_json: JsonOption = False) -> None:
    """List the weight files that can be used: whether they are at hand, their licences."""
    from models.edtalk.inference.named_expressions import names
    from models.edtalk.weights.import_published import imported
    from storage.weights import at_hand, listed

    taken = imported()
    found = {*at_hand(), *(entry["name"].lower() for entry in taken)}
    files = tuple(
        ListedFile(
            name=name, file=entry.file, is_at_hand=name in found, page=entry.page, licence=entry.licence,
            is_noncommercial=entry.is_noncommercial, used_by=entry.used_by,
        )
        for name, entry in listed().items()
    )  # fmt: skip
    show(asdict(WeightsAtHand(files, taken, names())), as_json, show_weights)


def show_weights(answer: dict[str, Any]) -> None:
    """Prints the list for people."""
    for entry in answer["files"]:
        state = "at hand" if entry["is_at_hand"] else f"absent; get {entry['file']} from {entry['page']}"
        flag = " (not for commercial use)" if entry["is_noncommercial"] else ""
        print(f"{entry['name']}: {state}\n  {entry['used_by']}\n  {entry['licence']}{flag}")
    for entry in answer["imported"]:
        print(f"{entry['name']}: {entry['path']}\n  {entry['licence']}")
    print(f"expressions of EDTalk: {', '.join(answer['expressions']) or 'none'}")
