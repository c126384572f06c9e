"""Networks found by run, by file, and by what they belong to."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from models.edtalk.networks.audio2lip import Audio2Lip
from models.edtalk.networks.edtalk import EDTalk
from models.edtalk.networks.lia import Lia
from models.edtalk.networks.pose_flow import PoseFlow
from models.edtalk.networks.shape import Shape
from models.edtalk.networks.temporal_audio2lip import TemporalAudio2Lip
from models.edtalk.weights import find
from models.edtalk.weights.find import EXPRESSION, GENERATOR, MOUTH, POSE, find_weights, generator
from models.edtalk.weights.import_published import import_published
from storage.errors import ConfigError, StoreCorrupt, WeightsError
from storage.runs import RunRecord
from storage.snapshot import Snapshot
from storage.store_layout import run_folder
from tests.models.edtalk.trained_runs import SMALL, mouth_network, pose_network, save_all_stages, save_trained


@pytest.fixture(autouse=True)
def _nothing_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TALKSET_WEIGHTS", raising=False)


def same(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("options", [{}, {"has_expression": False}, {"has_rgb_residual": True}])
def test_a_generator_comes_back_from_a_file(tmp_path: Path, suffix: str, options: dict[str, bool]) -> None:
    model, path = EDTalk(SMALL, **options), tmp_path / f"model{suffix}"
    if suffix == ".safetensors":
        save_file({f"gen.{key}": value for key, value in model.state_dict().items()}, path)
    else:
        torch.save({"gen": model.state_dict()}, path)
    weights = find_weights(GENERATOR, str(path))
    assert same(generator(weights), model)
    assert (weights.name, len(weights.sha256), weights.run) == (path.name, 64, None)


@pytest.mark.parametrize(
    "shape", [Shape(), SMALL, Shape(size_px=64, width=0.3, latent_dim=40, num_mouth=9, num_pose=8, num_expression=7)]
)
def test_sizes_are_those_of_the_tensors(shape: Shape) -> None:
    with torch.device("meta"):
        model, lia = EDTalk(shape), Lia(shape)
    found = find.shape_of(model.state_dict(), "file")
    assert found.model_copy(update={"width": shape.width}) == shape
    assert found.channels_down == shape.channels_down
    assert find.shape_of(lia.state_dict(), "file").channels_down == shape.channels_down


def test_runs_are_found_by_id_digits_and_folder(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = save_all_stages(store)
    monkeypatch.setenv("TALKSET_STORES", str(store))
    run = runs["expression"]
    for which in (run.id, run.id[:-3], str(run_folder(store, run.id))):
        weights = find_weights(GENERATOR, which)
        assert (weights.name, weights.sha256) == (run.id, run.model().sha256)
        assert generator(weights).has_expression
    assert not generator(find_weights(GENERATOR, runs["mouth_pose"].id)).has_expression
    with pytest.raises(ConfigError, match=r"'edtalk-': no such file, and 7 runs fit it \(known runs: edtalk-"):
        find_weights(GENERATOR, "edtalk-")
    monkeypatch.setenv("TALKSET_STORES", str(store / "nowhere"))
    with pytest.raises(ConfigError, match="0 runs fit it"):
        find_weights(GENERATOR, run.id)
    assert find_weights(GENERATOR, str(run_folder(store, run.id))).name == run.id


@pytest.mark.parametrize("stage", ["mouth_pose", "expression", "finetune"])
def test_networks_for_audio_are_found_by_what_they_started_from(store: Path, stage: str) -> None:
    runs = save_all_stages(store)
    weights = find_weights(GENERATOR, str(run_folder(store, runs[stage].id)))
    assert find_weights(MOUTH, None, weights).name == runs["audio2mouth"].id
    assert find_weights(POSE, None, weights).name == runs["audio2pose"].id
    if stage == "mouth_pose":
        with pytest.raises(
            WeightsError, match=r"no weights for 'expression': no finished run .* drives edtalk-mouth_pose"
        ):
            find_weights(EXPRESSION, None, weights)
    else:
        assert find_weights(EXPRESSION, None, weights).name == runs["audio2expression"].id


def test_a_run_of_another_line_does_not_belong(store: Path) -> None:
    runs = save_all_stages(store)
    weights = find_weights(GENERATOR, str(run_folder(store, runs["reconstruction"].id)))
    with pytest.raises(WeightsError, match="no finished run"):
        find_weights(MOUTH, None, weights)


# ---- runs that started from published weights, as `talkset train edtalk SNAPSHOT --published ...` makes them

LIP_POSE, OTHER_LIP_POSE = ("edtalk_lip_pose", "a" * 64), ("edtalk_lip_pose", "b" * 64)


def save_from(store: Path, stage: str, modules: dict[str, nn.Module], entry: tuple[str, str]) -> RunRecord:
    parent = {"lia": "reconstruction", "edtalk_lip_pose": "mouth_pose", "edtalk": "expression"}[entry[0]]
    return save_trained(Snapshot.open(store), stage, modules, published={parent: entry})


def weights_of(store: Path, run: RunRecord) -> find.Weights:
    return find_weights(GENERATOR, str(run_folder(store, run.id)))


def test_networks_are_found_by_the_published_weights_that_both_started_from(store: Path) -> None:
    expression = save_from(store, "expression", {"gen": EDTalk(SMALL)}, LIP_POSE)
    mouth = save_from(store, "audio2mouth", {"audio2lip": mouth_network()}, LIP_POSE)
    pose = save_from(store, "audio2pose", {"pose_flow": pose_network()}, LIP_POSE)
    finetune = save_trained(Snapshot.open(store), "finetune", {"gen": EDTalk(SMALL)}, {"expression": expression})
    for of in (expression, finetune):
        assert find_weights(MOUTH, None, weights_of(store, of)).name == mouth.id
        assert find_weights(POSE, None, weights_of(store, of)).name == pose.id
    # newer, but from another file under the same name, and from other weights with the same file
    save_from(store, "audio2mouth", {"audio2lip": mouth_network()}, OTHER_LIP_POSE)
    save_from(store, "audio2mouth", {"audio2lip": mouth_network()}, ("edtalk", LIP_POSE[1]))
    assert find_weights(MOUTH, None, weights_of(store, finetune)).name == mouth.id
    other = save_from(store, "expression", {"gen": EDTalk(SMALL)}, ("edtalk_lip_pose", "c" * 64))
    with pytest.raises(WeightsError, match=r"no finished run in .* drives edtalk-expression"):
        find_weights(POSE, None, weights_of(store, other))


@pytest.mark.parametrize("entry", [LIP_POSE, ("edtalk", "c" * 64)])
def test_the_published_mouth_drives_what_started_from_published_weights(
    tmp_path: Path, store: Path, entry: tuple[str, str]
) -> None:
    first = save_from(store, "finetune", {"gen": EDTalk(SMALL)}, entry)
    second = save_trained(Snapshot.open(store), "finetune", {"gen": EDTalk(SMALL)}, {"expression": first})
    for run in (first, second):
        with pytest.raises(WeightsError, match=r"no weights for 'audio2lip'.*`talkset weights import edtalk Audio2Lip"):
            find_weights(MOUTH, None, weights_of(store, run))
    torch.save({"audio2lip": Audio2Lip().state_dict()}, tmp_path / "Audio2Lip.pt")
    import_published("edtalk", tmp_path / "Audio2Lip.pt")
    for run in (first, second):
        assert find_weights(MOUTH, None, weights_of(store, run)).name == "Audio2Lip.safetensors"
    own = save_from(store, "audio2mouth", {"audio2lip": mouth_network()}, entry)
    assert find_weights(MOUTH, None, weights_of(store, second)).name == own.id, "trained here is better"


def test_the_published_mouth_does_not_drive_codes_that_were_learned_here(tmp_path: Path, store: Path) -> None:
    torch.save({"audio2lip": Audio2Lip().state_dict()}, tmp_path / "Audio2Lip.pt")
    import_published("edtalk", tmp_path / "Audio2Lip.pt")
    run = save_from(store, "mouth_pose", {"gen": EDTalk(SMALL, has_expression=False)}, ("lia", "d" * 64))
    with pytest.raises(WeightsError, match="no finished run"):
        find_weights(MOUTH, None, weights_of(store, run))


def test_networks_for_audio_are_built_as_they_were() -> None:
    mouth, pose, compatible = mouth_network(), pose_network(), Audio2Lip()
    made = [
        find.mouth_model(find.Weights(mouth.state_dict(), "a", "")),
        find.pose_model(find.Weights(pose.state_dict(), "b", "")),
        find.mouth_model(find.Weights(compatible.state_dict(), "c", "")),
    ]
    for network, original, kind in zip(
        made, (mouth, pose, compatible), (TemporalAudio2Lip, PoseFlow, Audio2Lip), strict=True
    ):
        assert isinstance(network, kind)
        assert same(network, original)
        assert not network.training
    with pytest.raises(WeightsError, match="b: not the tensors it should hold"):
        find.pose_model(find.Weights({"rest": torch.zeros(6)}, "b", ""))


def test_what_cannot_be_used_is_one_line(tmp_path: Path, store: Path) -> None:
    runs = save_all_stages(store)
    text = tmp_path / "text.safetensors"
    text.write_text("no tensors")
    torch.save({"gen": Lia(SMALL).state_dict()}, tmp_path / "vox.pt")
    torch.save({"gen": {"a": torch.zeros(1)}}, tmp_path / "other.pt")
    torch.save({"audio2lip": Audio2Lip().state_dict()}, tmp_path / "Audio2Lip.pt")
    cases = {
        None: r"no weights for 'gen': .*get EDTalk\.pt from https://huggingface.co/tanhshuai0219/EDTalk \(licence: .*not "
        r"for commercial use\) .*`talkset weights import edtalk EDTalk\.pt`",
        str(tmp_path / "absent.pt"): "absent.pt: no such file",
        str(text): "not a readable checkpoint",
        str(tmp_path / "vox.pt"): "holds LIA's generator",
        str(tmp_path / "other.pt"): "no generator of EDTalk",
        str(tmp_path / "Audio2Lip.pt"): "holds no 'gen'",
        str(run_folder(store, runs["audio2mouth"].id)): "of stage 'audio2mouth' holds no 'gen'",
    }
    for which, message in cases.items():
        with pytest.raises(WeightsError, match=message) as error:
            generator(find_weights(GENERATOR, which))
        assert "\n" not in str(error.value)
    with pytest.raises(WeightsError, match="nobody has published any"):
        find_weights(POSE)


def test_a_damaged_run_is_noticed(store: Path) -> None:
    run = save_all_stages(store)["expression"]
    path = run_folder(store, run.id) / run.model().file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreCorrupt, match="sha256"):
        find_weights(GENERATOR, str(run_folder(store, run.id)))
