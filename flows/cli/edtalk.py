"""`talkset edtalk`: tools of EDTalk."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.output import show, show_tree
from storage.errors import ConfigError

edtalk_app = typer.Typer(help="Tools of EDTalk.", no_args_is_help=True)


@dataclass(frozen=True, slots=True)
class ExpressionWeights:
    """Mean expression codes that were written.

    Attributes:
        out: .npy file, (1, 10) float32.
        emotion, level: of the clips; None took all levels.
        num_clips: that were measured.
        model, sha256: of the generator that measured them.
        snapshot: id of the data.
    """

    out: str
    emotion: str
    level: str | None
    num_clips: int
    model: str
    sha256: str
    snapshot: str


@edtalk_app.callback()
def edtalk() -> None:
    """Tools of EDTalk."""


@edtalk_app.command("expression-weights")
def measure_expression(
    snapshot: Annotated[str, typer.Argument(help="Id or its first digits, DATASET, or DATASET@NUMBER.")],
    emotion: Annotated[str, typer.Argument(metavar="NAME", help="Emotion, as clips are labelled.")],
    out: Annotated[Path | None, typer.Option(help="File to write. (default: NAME.npy)")] = None,
    level: Annotated[str | None, typer.Option(help="Only clips of this level of intensity.")] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(metavar="RUN|FILE", help="Of the generator. (default: what `weights import` has made)"),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write the mean expression codes of the clips with an emotion, for `animate edtalk --expression`."""
    from flows.output_files import check_outputs, save_array
    from flows.reporting.progress import Progress
    from models.edtalk.inference.animator import Animator
    from models.edtalk.inference.named_expressions import mean_expression
    from models.edtalk.weights.find import GENERATOR, find_weights, generator
    from models.training.engine.distributed import Ranks
    from models.training.runs.environment import choose_device
    from storage.stores import find_snapshot

    target = out or Path(f"{emotion}.npy")
    if target.suffix != ".npy":
        raise ConfigError(f"--out {target}: let its name end in .npy")
    check_outputs([target])
    data, weights = find_snapshot(snapshot), find_weights(GENERATOR, checkpoint)
    animator = Animator(generator(weights), choose_device(device, Ranks()))
    progress = Progress(as_json)
    progress.start("codes", 0, "clips")
    codes, num_clips = mean_expression(animator, data, emotion, level, report=progress.set_total("codes"))
    progress.close()
    save_array(target, codes.numpy())
    made = ExpressionWeights(str(target), emotion, level, num_clips, weights.name, weights.sha256, data.id)
    show(asdict(made), as_json, show_tree)
