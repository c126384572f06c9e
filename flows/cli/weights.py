"""Weight files of others on this machine: those that are listed, and what was made of published files of EDTalk."""

from typing import Any

from storage.weights import at_hand, listed


def weights_at_hand() -> dict[str, Any]:
    """Listed files and whether they are at hand (hashes are not checked), imported ones, EDTalk's named expressions."""
    from models.edtalk.inference.named_expressions import names
    from models.edtalk.weights.import_published import imported

    taken = imported()
    found = {*at_hand(), *(entry["name"].lower() for entry in taken)}
    files = [
        {
            "name": name, "file": entry.file, "is_at_hand": name in found, "page": entry.page,
            "licence": entry.licence, "is_noncommercial": entry.is_noncommercial, "used_by": entry.used_by,
        }
        for name, entry in listed().items()
    ]  # fmt: skip
    return {"files": files, "imported": taken, "expressions": list(names())}
