"""Published weights in place of a stage: found by name, part of the run's identity, and what training starts from."""

from pathlib import Path

import pytest
import torch

from models.edtalk.networks.lia import Lia
from models.edtalk.networks.shape import Shape
from models.edtalk.stages.mouth_pose import Config
from models.edtalk.weights.import_published import import_published
from models.training import stages
from models.training.runs.card import CARD_FILE
from models.training.runs.checkpoint import load_tensors
from models.training.runs.fit import fit_stage
from models.training.runs.job import FitRequest
from models.training.runs.published import Published, find_published
from models.training.stage_selection import chosen_stages, require_used
from storage.errors import ConfigError, WeightsError
from storage.keys import sha256_file
from storage.runs import RunRecord
from storage.snapshot import Snapshot
from storage.store_layout import run_folder
from tests.rich_store import build_rich_store

SHAPE = Shape(size_px=32, width=1 / 32, latent_dim=48)
EDTALK = stages.discover("edtalk")


@pytest.fixture(autouse=True)
def _no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TALKSET_WEIGHTS", raising=False)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return build_rich_store(tmp_path_factory.mktemp("published") / "store")


def import_lia(folder: Path, seed: int) -> Lia:
    """A LIA file in its official form, imported."""
    torch.manual_seed(seed)
    lia = Lia(SHAPE)
    torch.save({"gen": lia.state_dict(), "args": None}, folder / "vox.pt")
    import_published("edtalk", folder / "vox.pt")
    return lia


def fit_mouth_pose(snapshot: Snapshot, parent: Published) -> RunRecord:
    smoke = stages.preset("edtalk", "mouth_pose", "smoke")
    train = smoke.train.model_copy(update={"max_steps": 1, "ema_decay": 0.0})
    config = Config.model_validate(smoke.model_dump() | {"train": train, "shape": SHAPE, "trained": "navigation"})
    parents = {"reconstruction": parent}
    request = FitRequest(
        snapshot.store, snapshot.id, "edtalk", "mouth_pose", config, "smoke", parents, "v", "cpu", is_quiet=True
    )
    return fit_stage(request)


def test_a_stage_starts_from_lia_and_its_run_says_so(tmp_path: Path, snapshot: Snapshot) -> None:
    lia = import_lia(tmp_path, seed=1)
    stage, parent = find_published("edtalk", EDTALK, "lia")
    assert (stage, parent.sha256) == ("reconstruction", sha256_file(parent.path)[0])
    run = fit_mouth_pose(snapshot, parent)
    assert (run.state, run.key.parents) == ("done", {})
    assert run.key.published == {"reconstruction": "lia"}
    assert run.key.weights == {"lia": parent.sha256}
    folder = run_folder(snapshot.store, run.id)
    model = load_tensors(folder, run.model())
    for key, value in lia.enc.net_app.state_dict().items():
        assert torch.equal(model[f"gen.enc.net_app.{key}"], value), f"{key} is frozen in this mode"
    card = (folder / CARD_FILE).read_text()
    assert "1 steps from the published weights lia in place of stage reconstruction;" in card
    assert "| lia | CC BY-NC 4.0: not for commercial use | **yes** |" in card


def test_other_weights_are_another_run_and_equal_ones_the_same(tmp_path: Path, snapshot: Snapshot) -> None:
    import_lia(tmp_path, seed=2)
    first = fit_mouth_pose(snapshot, find_published("edtalk", EDTALK, "LIA")[1])
    assert fit_mouth_pose(snapshot, find_published("edtalk", EDTALK, "LIA")[1]) == first
    import_lia(tmp_path, seed=3)
    assert fit_mouth_pose(snapshot, find_published("edtalk", EDTALK, "LIA")[1]).id != first.id


def test_what_is_not_imported_or_stands_for_nothing_is_one_line() -> None:
    with pytest.raises(WeightsError, match=r"get vox.pt from .*CC BY-NC.*`talkset weights import edtalk vox.pt`"):
        find_published("edtalk", EDTALK, "LIA")
    with pytest.raises(ConfigError, match=r"no published weights 'Audio2Lip' that .* EDTalk, EDTalk_lip_pose, LIA"):
        find_published("edtalk", EDTALK, "Audio2Lip")


@pytest.mark.parametrize(
    ("named", "given", "expected"),
    [
        (None, "reconstruction", set(EDTALK) - {"reconstruction"}),
        (None, "expression", {"finetune", "audio2expression"}),
        (["finetune"], "expression", {"finetune"}),
        (["finetune"], "reconstruction", {"mouth_pose", "expression", "finetune"}),
    ],
)
def test_only_what_starts_from_it_is_trained(named: list[str] | None, given: str, expected: set[str]) -> None:
    chosen = chosen_stages(EDTALK, "edtalk", named or (), {given})
    assert set(chosen) == expected
    assert chosen == [name for name in EDTALK if name in expected]


def test_a_stage_is_not_trained_and_given_at_once() -> None:
    with pytest.raises(ConfigError, match="edtalk expression: published weights stand in for it"):
        chosen_stages(EDTALK, "edtalk", ["expression"], {"expression"})


@pytest.mark.parametrize(
    ("named", "given", "is_used"),
    [
        (None, "expression", True),
        (["finetune"], "expression", True),
        (["audio2pose"], "mouth_pose", True),
        (["audio2pose"], "reconstruction", True),
        (["audio2pose"], "expression", False),
        (["audio2mouth"], "expression", False),
        (["reconstruction"], "mouth_pose", False),
    ],
)
def test_what_nothing_would_start_from_is_refused(named: list[str] | None, given: str, is_used: bool) -> None:
    """Else all stages would be trained from nothing, in spite of it."""
    chosen = chosen_stages(EDTALK, "edtalk", named or (), {given})
    if is_used:
        require_used(EDTALK, "edtalk", chosen, {given})
    else:
        with pytest.raises(ConfigError, match=f"stand in for {given}, from which .* none of these is trained"):
            require_used(EDTALK, "edtalk", chosen, {given})
