"""Logs of a training: metrics.jsonl (authoritative, synced line by line), TensorBoard events and sample images.

<run>/metrics.jsonl            {"kind": "train", "step": 50, "epoch": 3, "time": "...", "values": {"loss": 0.25}}
<run>/tensorboard/             the same for `tensorboard --logdir`
<run>/pictures/00001000.png    sample image of the averaged modules at step 1000
"""

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from torch import Tensor

from storage import files

METRICS_FILE = "metrics.jsonl"


class MetricsLog:
    """Writes the logs of one session; closes with `close`.

    Args:
        run: folder of the run.
        step: where the session begins; lines that a killed session logged after it are removed and computed again.
    """

    def __init__(self, run: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._run, self._path = run, run / METRICS_FILE
        files.make_dir(run)
        kept = [line for line in read_metrics(run) if line["step"] <= step]
        files.replace_durable(self._path, b"".join(_line(line) for line in kept))
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def scalars(self, kind: Literal["train", "val"], step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Logs metrics durably; values that are not finite become null.

        Raises:
            OutOfSpace: the disk is full.
        """
        time = datetime.now(UTC).isoformat(timespec="seconds")
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        line = _line({"kind": kind, "step": step, "epoch": epoch, "time": time, "values": finite})
        with files.out_of_space(self._path), self._path.open("ab") as stream:
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def image(self, step: int, image: Tensor) -> None:
        """Stores a sample image [3, H, W] 0..1 RGB as PNG."""
        pixels = (image.detach().float().clamp(0, 1) * 255).round().byte().cpu().permute(1, 2, 0).numpy()
        files.make_dir(self._run / "pictures")
        png = cv2.imencode(".png", np.ascontiguousarray(pixels[:, :, ::-1]))[1].tobytes()
        files.replace_durable(self._run / "pictures" / f"{step:08d}.png", png)
        with files.out_of_space(self._run / "tensorboard"):
            self._board.add_image("samples", pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Flushes the TensorBoard events; a full disk is ignored, since they only repeat metrics.jsonl."""
        with suppress(OSError):
            self._board.close()


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl in order, none when there is no file; a last line cut off by a kill is left out."""
    path = run / METRICS_FILE
    whole = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in whole]


def newest_figures(run: Path) -> dict[str, float]:
    """The last validation metrics, or where there are none the last means of training as `train_<name>`."""
    lines = read_metrics(run)
    validated = [line["values"] for line in lines if line["kind"] == "val"]
    trained = [{f"train_{name}": value for name, value in line["values"].items()} for line in lines]
    newest = (validated or trained or [{}])[-1]
    return {name: value for name, value in newest.items() if value is not None}


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, allow_nan=False).encode() + b"\n"
