"""Finished runs of EDTalk with small, untrained networks in them, saved as real runs save theirs."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from models.edtalk.networks.edtalk import EDTalk
from models.edtalk.networks.expression_predictor import EmotionTable, ExpressionPredictor
from models.edtalk.networks.lia import Lia
from models.edtalk.networks.pose_flow import PoseFlow, PoseFlowSize, PoseStatistics
from models.edtalk.networks.shape import Shape
from models.edtalk.networks.speech_encoder import SpeechSize
from models.edtalk.networks.temporal_audio2lip import TemporalAudio2Lip
from models.nn.standardiser import Standardiser
from models.training.runs.checkpoint import Identity, save_checkpoint
from storage.catalog import FaceCrop
from storage.runs import RunRecord, save_run
from storage.snapshot import Snapshot
from storage.store_layout import run_folder
from tests.run_records import finished_run

SMALL = Shape(size_px=32, width=1 / 32, latent_dim=48)
SPEECH = SpeechSize(width=8, num_layers=2)


def save_trained(
    snapshot: Snapshot,
    stage: str,
    modules: Mapping[str, nn.Module],
    parents: Mapping[str, RunRecord] | None = None,
    published: Mapping[str, tuple[str, str]] | None = None,
) -> RunRecord:
    """A finished run whose model file holds these modules; see tests.run_records.finished_run."""
    record = finished_run(snapshot, stage, parents, published=published)
    folder = run_folder(snapshot.store, record.id)
    tensors = {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    face_crop = FaceCrop.of(snapshot.body.config)
    identity = Identity(run=record.id, snapshot=snapshot.id, config_sha256=record.key.digest(), face_crop=face_crop)
    saved = save_checkpoint(folder, "model", 10, identity, tensors)
    record = record.model_copy(update={"checkpoints": (saved,)})
    save_run(snapshot.store, record)
    return record


def save_all_stages(store: Path) -> dict[str, RunRecord]:
    """Stage -> run; they start from each other as the real ones do."""
    torch.manual_seed(0)
    snapshot = Snapshot.open(store)
    runs = {"reconstruction": save_trained(snapshot, "reconstruction", {"gen": Lia(SMALL)})}
    plan: list[tuple[str, str, dict[str, nn.Module]]] = [
        ("mouth_pose", "reconstruction", {"gen": EDTalk(SMALL, has_expression=False), "dis": nn.Linear(2, 2)}),
        ("expression", "mouth_pose", {"gen": EDTalk(SMALL), "dis": nn.Linear(2, 2)}),
        ("audio2mouth", "mouth_pose", {"audio2lip": mouth_network()}),
        ("audio2pose", "mouth_pose", {"pose_flow": pose_network()}),
        ("audio2expression", "expression", {"expression": expression_network()}),
        ("finetune", "expression", {"gen": EDTalk(SMALL)}),
    ]
    for stage, parent, modules in plan:
        runs[stage] = save_trained(snapshot, stage, modules, {parent: runs[parent]})
    return runs


def mouth_network() -> TemporalAudio2Lip:
    return TemporalAudio2Lip(Standardiser(torch.zeros(20), torch.ones(20)), SPEECH)


def pose_network() -> PoseFlow:
    ones = torch.full((6,), 0.1)
    statistics = PoseStatistics(torch.zeros(6), ones, ones / 10, ones * 3)
    return PoseFlow(statistics, PoseFlowSize(speech=SPEECH, num_history=3, num_flows=2, num_hidden=8))


def expression_network() -> ExpressionPredictor:
    """Trained, it says, on angry and happy clips."""
    counts = torch.tensor([3, 0, 0, 0, 5, 0, 0, 0])
    table = EmotionTable(torch.ones(10), torch.randn(8, 10) * (counts > 0)[:, None], counts)
    network = ExpressionPredictor(Standardiser(torch.ones(10), torch.full((10,), 2.0)), SPEECH, table)
    nn.init.normal_(network.leave.weight)
    return network
