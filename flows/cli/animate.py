"""`talkset animate SYSTEM ...`: a sub-command for each inference system that is found, made of its options.

Nothing of a system is imported before `talkset animate` itself is called, and no networks before it is known that the
options are right.
"""

import inspect
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from flows.cli.output import show, show_tree
from storage.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo


class Systems(TyperGroup):
    """The sub-commands: the systems that can animate."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Their names; imports none of them."""
        from models.inference import systems

        return list(systems())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of one of them.

        Raises:
            ConfigError: there is no such system; those that exist are named.
        """
        return system_command(cmd_name)


animate_app = typer.Typer(
    cls=Systems, no_args_is_help=True, help="Animate a portrait or a person; the result is marked as synthetic."
)


def system_command(system: str) -> Any:
    """A command whose parameters are the common options and those of the system.

    Raises:
        ConfigError: there is no such system.
    """
    from flows.animate_options import PORTRAIT_OPTIONS, AnimateOptions
    from models.inference import options_of

    own = options_of(system)
    hidden = {"is_quiet", *(() if own.needs_portrait else PORTRAIT_OPTIONS)}
    common = [name for name in AnimateOptions.model_fields if name not in hidden]

    def command(**given: Any) -> None:
        from flows.animate import animate

        as_json = given.pop("as_json")
        options = validated(AnimateOptions, {name: given.pop(name) for name in common} | {"is_quiet": as_json})
        answer = asdict(animate(system, options, validated(own, given)))
        if not as_json:
            del answer["warnings"]  # they were printed when they were found
        show(answer, as_json, show_tree)

    fields = {name: AnimateOptions.model_fields[name] for name in common} | own.model_fields
    parameters = [parameter(name, field) for name, field in fields.items()]
    flag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
    parameters.append(inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=flag))
    command.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    command.__doc__ = (own.__doc__ or "").partition("\n")[0]
    app = typer.Typer(add_completion=False)
    app.command(system)(command)
    return typer.main.get_command(app)


def parameter(name: str, field: "FieldInfo") -> inspect.Parameter:
    """The parameter of a command for a field of its options: the portrait is an argument, all others are options."""
    more = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    about: dict[str, Any] = {"help": field.description, "metavar": more.get("metavar")}
    if name == "portrait":
        kind, annotation, default = typer.Argument(**about), Path, inspect.Parameter.empty
    else:
        kind, annotation = typer.Option("--" + name.replace("_", "-"), **about), field.annotation
        default = inspect.Parameter.empty if field.is_required() else field.default
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, keyword, default=default, annotation=Annotated[annotation, kind])


def validated(kind: "type[BaseModel]", given: dict[str, Any]) -> Any:
    """The options.

    Raises:
        ConfigError: the first thing that is wrong with them, in one line that names the option.
    """
    from pydantic import ValidationError

    try:
        return kind(**given)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + ".".join(map(str, first["loc"])).replace("_", "-")
        raise ConfigError(f"{option} {first['input']}: {first['msg']}") from None
