"""Commands about EDTalk's inference: `animate`, `edtalk expression-weights`, `weights import`, `weights list`.

app.command()(animate_cli.animate)
app.add_typer(animate_cli.edtalk_app, name="edtalk")
app.add_typer(animate_cli.weights_app, name="weights")
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from flows.cli.output import show, show_tree
from storage.errors import ConfigError

Length = Literal["hold", "mirror", "mirror-drop-tail"]

edtalk_app = typer.Typer(help="Tools of EDTalk.", no_args_is_help=True)
weights_app = typer.Typer(help="Weight files of others.", no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
CheckpointOption = Annotated[
    str | None, typer.Option(metavar="RUN|FILE", help="Of the generator. (default: what `weights import` has made)")
]


def animate(
    source: Annotated[Path, typer.Argument(help="Picture or video of the face.")],
    out: Annotated[Path, typer.Option(help="mp4 file to write.")],
    system: Annotated[Literal["edtalk"], typer.Option(help="What animates it.")] = "edtalk",
    audio: Annotated[Path | None, typer.Option(help="Drives the mouth, and is heard.")] = None,
    mouth: Annotated[
        str | None, typer.Option(metavar="VIDEO|IMAGE|FILE.npy|own|fixed", help="Drives the mouth instead.")
    ] = None,
    pose: Annotated[
        str | None,
        typer.Option(metavar="VIDEO|IMAGE|FILE.npy|own|fixed|generated", help="Drives the head. (default: own)"),
    ] = None,
    expression: Annotated[
        str | None,
        typer.Option(
            metavar="VIDEO|IMAGE|FILE.npy|NAME|own|fixed|generated[+NAME]",
            help='Names also over time: "0:happy, 2.5:sad*0.5, 4:own". (default: own)',
        ),
    ] = None,
    intensity: Annotated[float, typer.Option(help="Of the expression: 0 is the portrait's own, 1 as it is.")] = 1.0,
    checkpoint: CheckpointOption = None,
    mouth_checkpoint: Annotated[str | None, typer.Option(metavar="RUN|FILE", help="Sound to mouth.")] = None,
    pose_checkpoint: Annotated[str | None, typer.Option(metavar="RUN|FILE", help="Sound to head motion.")] = None,
    expression_checkpoint: Annotated[str | None, typer.Option(metavar="RUN|FILE", help="Sound to expression.")] = None,
    mouth_length: Annotated[Length, typer.Option(help="When the video is shorter than the result.")] = "hold",
    pose_length: Annotated[Length, typer.Option(help="The same.")] = "hold",
    expression_length: Annotated[Length, typer.Option(help="The same.")] = "mirror-drop-tail",
    source_length: Annotated[Length, typer.Option(help="The same, when the source is a video.")] = "mirror",
    relative: Annotated[bool, typer.Option("--relative", help="Videos change the portrait's own codes.")] = False,
    margin: Annotated[float, typer.Option(help="Room around the face, a share of its size on each side.")] = 0.1,
    largest_face: Annotated[bool, typer.Option("--largest-face", help="Where there are several.")] = False,
    cropped: Annotated[bool, typer.Option("--cropped", help="All inputs are square crops already.")] = False,
    paste_back: Annotated[bool, typer.Option("--paste-back", help="Into the whole source.")] = False,
    enhance: Annotated[bool, typer.Option("--enhance", help="Twice the size, by an installed enhancer.")] = False,
    seconds: Annotated[float | None, typer.Option(help="Length of the result, at most.")] = None,
    seed: Annotated[int, typer.Option(help="Of generated motion.")] = 0,
    pose_temperature: Annotated[
        float, typer.Option(help="Of generated head motion: 1 as in the training clips, 0 none by chance.")
    ] = 1.0,
    device: DeviceOption = "auto",
    precision: Annotated[Literal["fp32", "bf16", "fp16"], typer.Option(help="Of the networks.")] = "fp32",
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at once.")] = 8,
    face_backend: Annotated[str, typer.Option(help="dlib, face_alignment or mediapipe, as for training.")] = "dlib",
    save_codes: Annotated[Path | None, typer.Option(help="Folder for the codes used, as .npy files.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Animate a portrait by sound, videos, pictures, named expressions or codes; the result is marked as synthetic."""
    from flows.animate import AnimateOptions
    from flows.animate import animate as make

    given = _valid(
        AnimateOptions, source=source, out=out, audio=audio, mouth=mouth, pose=pose, expression=expression,
        intensity=intensity, checkpoint=checkpoint, mouth_checkpoint=mouth_checkpoint, pose_checkpoint=pose_checkpoint,
        expression_checkpoint=expression_checkpoint, mouth_length=mouth_length, pose_length=pose_length,
        expression_length=expression_length, source_length=source_length, is_relative=relative, margin=margin,
        takes_largest=largest_face, is_cropped=cropped, has_paste_back=paste_back, is_enhanced=enhance, seconds=seconds,
        seed=seed, pose_temperature=pose_temperature, device=device, precision=precision, batch_size=batch_size,
        face_backend=face_backend, save_codes=save_codes, is_quiet=as_json,
    )  # fmt: skip
    show(make(given), as_json, show_tree)


@edtalk_app.command("expression-weights")
def expression_weights(
    snapshot: Annotated[str, typer.Argument(help="Id or its first digits, DATASET, or DATASET@NUMBER.")],
    name: Annotated[str, typer.Argument(help="Emotion, as clips are labelled.")],
    out: Annotated[Path | None, typer.Option(help="File to write. (default: NAME.npy)")] = None,
    level: Annotated[str | None, typer.Option(help="Only clips of this level of intensity.")] = None,
    checkpoint: CheckpointOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Write the mean expression codes of the clips with an emotion, for `animate --expression`."""
    from flows.cli.edtalk import measure_expression

    target = out or Path(f"{name}.npy")
    show(measure_expression(snapshot, name, target, level, checkpoint, device, as_json), as_json, show_tree)


@weights_app.command("import")
def import_weights(
    system: Annotated[str, typer.Argument(help="Whose they are: edtalk.")],
    file: Annotated[
        Path, typer.Argument(help="EDTalk.pt, EDTalk_lip_pose.pt, Audio2Lip.pt, LIA's vox.pt, or happy.npy and so on.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Take a published checkpoint into use: read without running code in it, checked, kept as safetensors."""
    from models.edtalk.weights.import_published import import_published

    show(import_published(system, file), as_json, show_tree)


@weights_app.command("list")
def list_weights(as_json: JsonOption = False) -> None:
    """Weight files that parts of this can use: whether they are at hand, their licences."""
    from flows.cli.weights import weights_at_hand

    show(weights_at_hand(), as_json, _show_weights)


def _show_weights(answer: dict[str, Any]) -> None:
    for entry in answer["files"]:
        state = "at hand" if entry["is_at_hand"] else f"absent; get {entry['file']} from {entry['page']}"
        flag = " (not for commercial use)" if entry["is_noncommercial"] else ""
        print(f"{entry['name']}: {state}\n  {entry['used_by']}\n  {entry['licence']}{flag}")
    for entry in answer["imported"]:
        print(f"{entry['name']}: {entry['path']}\n  {entry['licence']}")
    print(f"expressions of EDTalk: {', '.join(answer['expressions']) or 'none'}")


def _valid(kind: type[Any], **given: Any) -> Any:
    """The options, or the first thing wrong with them in one line."""
    from pydantic import ValidationError

    try:
        return kind(**given)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + ".".join(map(str, first["loc"])).replace("_", "-")
        raise ConfigError(f"{option} {first['input']}: {first['msg']}") from None
