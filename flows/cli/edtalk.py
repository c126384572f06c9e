"""Expression weights: the mean expression codes of a snapshot's clips with one emotion, as a file that has a name."""

from pathlib import Path
from typing import Any

from flows.output_files import check_outputs, save_array
from flows.reporting.progress import Progress
from storage.errors import ConfigError
from storage.stores import find_snapshot


def measure_expression(
    snapshot: str, emotion: str, out: Path, level: str | None = None, checkpoint: str | None = None,
    device: str = "auto", is_quiet: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Writes (1, 10) float32.

    Args:
        snapshot: see storage.stores.find_snapshot.
        emotion: label of the clips.
        out: .npy file.
        level: of intensity, None takes all.
        checkpoint: of the generator, see models.edtalk.weights.find.find_weights.
        device: see models.training.runs.environment.choose_device.
        is_quiet: no progress on the terminal.

    Returns:
        out, emotion, level, num_clips, model, sha256 of it, snapshot.

    Raises:
        ConfigError: no such snapshot or clips, the model has no expression bank, or `out` is no .npy file.
        WeightsError: weights are missing or damaged.
        PreflightError: the file cannot be written.
        OutOfSpace: the disk is full.
    """
    from models.edtalk.inference.animator import Animator
    from models.edtalk.inference.named_expressions import mean_expression
    from models.edtalk.weights.find import GENERATOR, find_weights, generator
    from models.training.engine.distributed import Ranks
    from models.training.runs.environment import choose_device

    if out.suffix != ".npy":
        raise ConfigError(f"--out {out}: let its name end in .npy")
    check_outputs([out])
    data, weights = find_snapshot(snapshot), find_weights(GENERATOR, checkpoint)
    animator = Animator(generator(weights), choose_device(device, Ranks()))
    progress = Progress(is_quiet)
    progress.start("codes", 0, "clips")
    codes, num_clips = mean_expression(animator, data, emotion, level, report=progress.set_total("codes"))
    progress.close()
    save_array(out, codes.numpy())
    return {
        "out": str(out), "emotion": emotion, "level": level, "num_clips": num_clips, "model": weights.name,
        "sha256": weights.sha256, "snapshot": data.id,
    }  # fmt: skip
