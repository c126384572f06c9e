"""Writes the generated parts of the documentation from what the code discovers: `make docs`.

A generated part of a page stands between `<!-- begin generated: NAME -->` and `<!-- end generated -->`. The rest of the
page is written by hand and stays as it is.
"""

import inspect
import re
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

DOCS = Path(__file__).resolve().parent
_PART = re.compile(r"(<!-- begin generated: (\S+) -->\n).*?(<!-- end generated -->)", re.DOTALL)
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "min_length": "at least so many:"}


def render(page: str) -> str:
    """The text of a page with its generated parts made anew.

    Raises:
        KeyError: a part has a name that is not in PARTS.
    """
    return _PART.sub(lambda match: f"{match[1]}\n{PARTS[match[2]]().strip()}\n\n{match[3]}", page)


def pages() -> list[Path]:
    """Every page that has a generated part, sorted."""
    repository = DOCS.parent
    found = [*repository.glob("*.md"), *DOCS.rglob("*.md")]
    return sorted(path for path in found if _PART.search(path.read_text(encoding="utf-8")))


def main() -> None:
    """Rewrites the pages whose generated parts have changed, and prints their names."""
    for path in pages():
        text = path.read_text(encoding="utf-8")
        if (new := render(text)) != text:
            path.write_text(new, encoding="utf-8")
            print(path.relative_to(DOCS.parent))


# ---- parts


def cli() -> str:
    """Every command with its arguments and options, from the command-line parser itself, after a list of them."""
    from typer.main import get_command

    from flows.cli.main import app

    commands = list(_commands(get_command(app), "talkset", None))
    rows = [(f"[{name}](#{name.replace(' ', '-')})", about.partition("\n\n")[0]) for name, about, _ in commands]
    sections = [f"## {name}\n\n{about}\n\n{options}" for name, about, options in commands]
    return "\n\n".join([_table(("command", "what it does"), rows), *sections])


def datasets_yaml() -> str:
    """The settings of a block of datasets.yaml, one table per nested block."""
    from storage.catalog import Dataset

    blocks = [("DATASET", Dataset), *_nested_blocks(Dataset, "DATASET")]
    return "\n\n".join(
        f"## `{path}`\n\n{_first_paragraph(model)}\n\n{_settings(model, path)}" for path, model in blocks
    )


def features() -> str:
    """Every extractor with its columns and parameters."""
    from tasks.features import discover

    texts = []
    for name, extractor in discover().items():
        columns = [
            (f"`{column.name}`", _shape(column.shape), column.dtype, column.unit, _rate(column.rate_hz), column.doc)
            for column in extractor.COLUMNS
        ]
        needs = ", ".join(f"`{other}`" for other in extractor.REQUIRES)
        about = inspect.cleandoc(extractor.__doc__ or "").removeprefix(f"{name}: ")
        facts = f"Version {extractor.VERSION}." + f" Needs {needs}." * bool(needs)
        table = _table(("column", "shape per clip", "dtype", "unit", "rate", "meaning"), columns)
        texts.append(f"## `{name}`\n\n{_capital(about)}\n\n{facts}\n\n{table}\n\n{_parameters(extractor.Params)}")
    return "\n\n".join(texts)


def reasons() -> str:
    """Every reason with the step that gives it, its meaning, and what to change."""
    from storage.errors import REASONS

    rows = [(f"`{reason}`", text.step, text.meaning, text.change) for reason, text in REASONS.items()]
    return _table(("reason", "given by", "meaning", "what to change"), rows)


def stages() -> str:
    """Every system's stages with their settings and presets, then the nested blocks of these settings."""
    from models.systems import systems
    from models.training.engine.config import TrainConfig
    from models.training.stages import discover

    texts = list[str]()
    for system in systems():
        texts.append(f"## {system}\n\n{_stage_table(system)}")
        blocks = dict[tuple[str, type[BaseModel]], None]()
        for name, stage in discover(system).items():
            blocks |= dict.fromkeys(_nested_blocks(stage.Config, system))
            presets = [(f"`{preset}`", _differences(config)) for preset, config in stage.PRESETS.items()]
            text = f"### {system} `{name}`\n\n{_paragraphs(stage.__doc__)}\n\n{_settings(stage.Config, system)}"
            texts.append(f"{text}\n\n{_table(('preset', 'what it sets'), presets)}")
        for path, block in sorted(blocks, key=lambda found: found[0]):
            if block is not TrainConfig:
                texts.append(f"### `{path}`\n\n{_first_paragraph(block)}\n\n{_settings(block, path)}")
    return "\n\n".join([*texts, f"## `train`\n\n{_first_paragraph(TrainConfig)}\n\n{_settings(TrainConfig, 'train')}"])


def systems() -> str:
    """The stages of every system, and whether it can animate."""
    from models import inference
    from models.systems import systems as names

    texts = list[str]()
    for name in sorted({*names(), *inference.systems()}):
        note = "can animate" if name in inference.systems() else "cannot animate yet"
        texts.append(f"**{name}** ({note})\n\n{_stage_table(name) if name in names() else 'It has no stages.'}")
    return "\n\n".join(texts)


def weights() -> str:
    """Every weight file that a part of talkset can use."""
    from storage.weights import listed

    rows = [
        (
            f"`{name}`", f"`{entry.file}`", entry.used_by, entry.licence,
            "**yes**" if entry.is_noncommercial else "", f"[page]({entry.page})",
        )
        for name, entry in listed().items()
    ]  # fmt: skip
    return _table(("entry", "file", "needed for", "licence", "non-commercial", "from"), rows)


PARTS = {
    "cli": cli, "datasets-yaml": datasets_yaml, "features": features, "reasons": reasons, "stages": stages,
    "systems": systems, "weights": weights,
}  # fmt: skip


# ---- commands


def _commands(command: Any, name: str, parent: Any) -> Iterator[tuple[str, str, str]]:
    """(name, help, usage and options) of a command, or of the sub-commands of a group."""
    context = command.make_context(name.split()[-1], [], parent=parent, resilient_parsing=True)
    if hasattr(command, "list_commands"):
        for child in command.list_commands(context):
            yield from _commands(command.get_command(context, child), f"{name} {child}", context)
        return
    records = [(parameter, parameter.get_help_record(context)) for parameter in command.params]
    rows = [(f"`{record[0]}`", record[1]) for _, record in records if record]
    arguments = [piece.strip("{}").upper() for piece in command.collect_usage_pieces(context) if piece != "[OPTIONS]"]
    needed = [
        record[0] for parameter, record in records if parameter.param_type_name == "option" and parameter.required
    ]
    usage = " ".join([name, *arguments, *needed])
    yield name, _paragraphs(command.help), f"```text\n{usage}\n```\n\n{_table(('argument or option', 'meaning'), rows)}"


# ---- settings


def _settings(model: type[BaseModel], path: str) -> str:
    """A table of the settings of a pydantic model; the meaning is what its docstring says under `Attributes:`.

    Args:
        model: the settings.
        path: heading under which they stand; those of nested blocks begin with it.
    """
    meanings, rows = _attributes(model), []
    for name, field in model.model_fields.items():
        if (path, name) == ("DATASET", "name"):  # the key of the block itself
            continue
        kind, default, meaning = _type(field.annotation, field.metadata), _default(field), meanings.get(name, "")
        if blocks := _models_in(field.annotation):
            is_named = get_origin(field.annotation) is dict
            place = "train" if name == "train" else _place(path, name, field.annotation)
            kind = "mapping of names to a " * is_named + f"[block](#{re.sub(r'[^a-z0-9_]', '', place.lower())})"
            default = default if is_named or field.default is None else ""
            meaning = meaning or _first_paragraph(blocks[0])
        rows.append((f"`{name}`", kind, default, meaning))
    return _table(("key", "value", "default", "meaning"), rows)


def _parameters(model: type[BaseModel]) -> str:
    """The settings of an extractor, after the sentence about them."""
    if not model.model_fields:
        return "It has no parameters."
    return f"Parameters: {_first_paragraph(model)}\n\n{_settings(model, '')}"


def _nested_blocks(model: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """Blocks of settings inside a model: (path, model)."""
    for name, field in model.model_fields.items():
        for block in _models_in(field.annotation):
            place = _place(path, name, field.annotation)
            yield place, block
            yield from _nested_blocks(block, place)


def _place(path: str, name: str, annotation: Any) -> str:
    return f"{path}.{name}" + ".NAME" * (get_origin(annotation) is dict)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_in(inner)]


def _attributes(model: type[BaseModel]) -> dict[str, str]:
    """Setting -> what the docstrings of the model and its bases say of it."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        _, _, listing = inspect.cleandoc(base.__dict__.get("__doc__") or "").partition("Attributes:\n")
        for names, text in re.findall(r"^    (\w[\w, ]*): (.*(?:\n     .*)*)", listing, re.MULTILINE):
            found |= dict.fromkeys(names.split(", "), _capital(" ".join(text.split())))
    return found


def _differences(config: BaseModel, path: str = "") -> str:
    """What a preset sets to other values than the defaults, as `--set` takes it."""
    parts = []
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            parts.append(_differences(value, f"{path}{name}."))
        elif field.is_required() or value != field.default:
            parts.append(f"`{path}{name}={_value(value).strip('`')}`")
    return " ".join(filter(None, parts))


def _type(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """What a setting may be, in words."""
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        inner = [part for note in arguments[1:] for part in (note.metadata if isinstance(note, FieldInfo) else [note])]
        return _type(arguments[0], [*inner, *metadata])
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if get_origin(annotation) in (Union, types.UnionType):
        text = " or ".join(_type(inner) for inner in arguments)
    elif get_origin(annotation) is dict:
        return f"mapping of names to {_type(arguments[1])}"
    elif get_origin(annotation) in (list, tuple):
        return f"list of {_type(arguments[0])}"
    else:
        text = _NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))
    bounds = [
        f"{word} {getattr(note, bound)}" for note in metadata for bound, word in _BOUNDS.items() if _has(note, bound)
    ]
    return ", ".join([text, *bounds])


_NAMES = {
    float: "number",
    int: "whole number",
    str: "text",
    bool: "true or false",
    type(None): "null",
    Any: "any",
    Path: "path",
}


def _has(note: Any, bound: str) -> bool:
    return getattr(note, bound, None) is not None


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True, validated_data={})
    return _value(value)


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return f"`{str(value).lower()}`" if value is not None else "`null`"
    return f"`{value:.6g}`" if isinstance(value, float) else f"`{value}`" if value != "" else "empty"


# ---- stages and text


def _stage_table(system: str) -> str:
    from models.training.stages import discover

    rows = []
    for name, stage in discover(system).items():
        learns = re.sub(r"^Stage \d+: ", "", _first_paragraph(stage).split(". ")[0].rstrip("."))
        parents = ", ".join(f"`{parent}`" for parent in stage.PARENTS)
        published = getattr(stage, "PUBLISHED", "")
        needs = ", ".join(f"`{feature}`" for feature in stage.FEATURES)
        rows.append(
            (f"`{name}`", _capital(learns), parents or "random weights", needs, f"`{published}`" if published else "")
        )
    return _table(("stage", "what it trains", "starts from", "features", "published weights instead"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _shape(shape: Sequence[int | str]) -> str:
    return f"[{', '.join(map(str, shape))}]" if shape else "scalar"


def _rate(rate_hz: float | None) -> str:
    return f"{rate_hz:g} Hz" if rate_hz else ""


def _first_paragraph(documented: Any) -> str:
    return _paragraphs(documented.__doc__).partition("\n\n")[0]


def _paragraphs(text: str | None) -> str:
    """Prose of a docstring without its lists of attributes; a line per paragraph."""
    prose, _, _ = inspect.cleandoc(text or "").partition("\nAttributes:")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in prose.strip().split("\n\n"))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


if __name__ == "__main__":
    main()
