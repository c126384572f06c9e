"""Stage 3 at a tiny size: it learns mouth codes from audio, leaves frozen parts alone, survives a resume."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.edtalk.data import code_windows
from models.edtalk.data.encoded_clips import ClipCodes
from models.edtalk.inference.audio_codes import mouth_codes
from models.edtalk.networks.audio2lip import Audio2Lip
from models.edtalk.networks.discriminator import Discriminator
from models.edtalk.networks.edtalk import EDTalk
from models.edtalk.networks.shape import Shape
from models.edtalk.networks.speech_encoder import SpeechSize, frame_windows
from models.edtalk.networks.syncnet import SyncNet
from models.edtalk.networks.temporal_audio2lip import TemporalAudio2Lip
from models.edtalk.stages import audio2mouth
from models.edtalk.stages.audio2mouth import Audio2MouthLearner, Config, correlation
from models.edtalk.training.image_losses import ImageLossConfig
from models.edtalk.training.rendered_mouths import render_mouths
from models.edtalk.training.sync_loss import SyncLoss
from models.edtalk.weights import wav2lip
from models.edtalk.weights.mouth_networks import mouth_network, randomise
from models.training import stages
from models.training.engine.engine import Engine
from models.training.evaluate import sample_image, validate
from storage.errors import WeightsError
from storage.snapshot import ClipRef, Snapshot
from storage.timelaw import mel_windows
from tests.synthetic_store import build_store

SHAPE = Shape(size_px=32, width=1 / 32, latent_dim=48)
LOSSES = ImageLossConfig(perceptual="random", perceptual_width=1 / 16)


def tiny(images: ImageLossConfig | None = LOSSES, train: dict[str, Any] | None = None, **changes: Any) -> Config:
    sizes = {"shape": SHAPE, "speech": SpeechSize(width=16, num_layers=3), "num_frames": 12, "learning_rate": 3e-3}
    settings = {"max_steps": 3, "batch_size": 2, "val_batches": 1} | (train or {})
    return Config.model_validate({"train": settings, "images": images, "syncnet": "off"} | sizes | changes)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """Subjects 0 and 1 are 'train', 2 is 'val', with voices of their own."""
    return build_store(tmp_path_factory.mktemp("mouth") / "store", 4, 4, (40, 40, 44))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def parents() -> dict[str, dict[str, Tensor]]:
    """A model file of stage 1 whose generator follows its mouth codes visibly."""
    torch.manual_seed(0)
    modules = {"gen": EDTalk(SHAPE, has_expression=False), "dis": Discriminator(SHAPE)}
    state = {f"{name}.{key}": value.clone() for name, module in modules.items()
             for key, value in module.state_dict().items()}  # fmt: skip
    state["gen.lip_fc.2.weight"] *= 20
    return {"mouth_pose": state}


def build(snapshot: Snapshot, config: Config) -> Audio2MouthLearner:
    torch.manual_seed(config.train.seed)
    return audio2mouth.build(config, snapshot, parents())


def trained(learner: Audio2MouthLearner, config: Config) -> Engine:
    engine = Engine(learner, config.train)
    for batch in engine.batches():
        engine.advance(batch)
    return engine


def test_the_stage_is_found_with_its_presets() -> None:
    stage = stages.find("edtalk", "audio2mouth")
    assert stage.PARENTS == ("mouth_pose",)
    assert stage.FEATURES == ("mel", "landmarks", "bbox")
    paper, smoke, compatible = (stage.PRESETS[name] for name in ("paper", "smoke", "compatible"))
    assert (paper.network, compatible.network, compatible.num_frames) == ("temporal", "compatible", 5)
    assert (paper.code_weight, paper.change_weight, paper.face_weight, paper.sync_weight) == (1, 0.1, 1, 5)
    assert paper.shape == Shape()
    assert smoke.weights() == ()
    assert "vgg19" in paper.weights()


def spoken(mel: np.ndarray, num_frames: int, lag: int) -> np.ndarray:
    """[N, 20] codes that are a known function of the mel `lag` frames earlier: the levels of 20 groups of bands."""
    levels = mel_windows(mel, num_frames)[:, 5:9].mean(axis=1).reshape(num_frames, 20, 4).mean(axis=2)
    earlier = levels[np.maximum(np.arange(num_frames) - lag, 0)]
    return np.tanh(earlier / 2).astype(np.float32)


def replace_codes(patch: pytest.MonkeyPatch, lag: int) -> None:
    def extracted(model: EDTalk, snapshot: Snapshot, clips: Sequence[ClipRef], num_workers: int) -> list[ClipCodes]:
        mels = [snapshot.feature(clip, "mel")["mel"] for clip in clips]
        mouths = [spoken(mel, clip.num_frames, lag) for mel, clip in zip(mels, clips, strict=True)]
        return [ClipCodes(mouth, mouth[:, :6], mouth[:, :0]) for mouth in mouths]

    patch.setattr(code_windows, "extract_codes", extracted)


def correlation_on(learner: Audio2MouthLearner, snapshot: Snapshot, clips: list[ClipRef], lag: int) -> float:
    """Correlation with the truth, over some clips, of codes made as inference makes them."""
    network, found, wanted = mouth_network(learner.modules["audio2lip"].state_dict()), [], []
    for clip in clips:
        mel = snapshot.feature(clip, "mel")["mel"]
        for codes, parts in ((mouth_codes(network, mel, clip.num_frames), found),
                             (torch.from_numpy(spoken(mel, clip.num_frames, lag)), wanted)):  # fmt: skip
            parts.append(codes - codes.mean(0))
    pair = torch.stack([torch.cat(found).flatten(), torch.cat(wanted).flatten()])
    return torch.corrcoef(pair)[0, 1].item()


@pytest.mark.parametrize(("lag", "num_steps"), [(0, 100), (4, 220)])
def test_a_known_mapping_is_learned_and_holds_for_another_voice(
    snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, lag: int, num_steps: int
) -> None:
    replace_codes(monkeypatch, lag)
    config = tiny(None, {"max_steps": num_steps, "batch_size": 4}, num_frames=40)
    learner = build(snapshot, config)
    engine = trained(learner, config)
    assert correlation_on(learner, snapshot, snapshot.clips("val"), lag) > 0.9
    figures = validate(engine)
    assert figures["codes"] < figures["codes_still"]
    assert figures["correlation"] > 0.8


def test_the_published_network_learns_the_same_but_not_what_is_further_away(
    snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_codes(monkeypatch, lag=0)
    learner = build(snapshot, tiny(None, network="compatible", encoder="random"))
    network = cast(Audio2Lip, learner.modules["audio2lip"])
    *clips, held_out = snapshot.clips("train")
    mels = [(snapshot.feature(clip, "mel")["mel"], clip.num_frames) for clip in clips]
    with torch.no_grad():
        features = torch.cat([network.audio_encoder(frame_windows(mel, 0, n)).flatten(1) for mel, n in mels])
    found = {}
    for lag in (0, 4):
        nn.init.zeros_(network.mapping.weight)
        wanted = torch.cat([torch.from_numpy(spoken(mel, n, lag)) for mel, n in mels])
        optimizer = torch.optim.Adam(network.mapping.parameters(), lr=1e-3)
        for _ in range(300):
            loss = (network.mapping(features) - wanted).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found[lag] = correlation_on(learner, snapshot, [held_out], lag)
    assert found[0] > 0.9
    assert found[4] < 0.7


@pytest.mark.parametrize(("network", "rate"), [("temporal", 0.01), ("compatible", 0.0016)])
def test_the_loss_falls_on_a_fixed_batch(snapshot: Snapshot, network: Any, rate: float) -> None:
    config = tiny(None, network=network, encoder="random", num_frames=6, learning_rate=rate)
    learner = build(snapshot, config)
    engine = Engine(learner, config.train)
    batch = learner.collate([learner.train_set[index] for index in range(2)])
    losses = []
    for _ in range(20):
        engine.advance(batch)
        losses.append(engine.take_means()["codes"])
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("network", ["temporal", "compatible"])
def test_frozen_parts_stay_bit_equal_and_the_others_learn(snapshot: Snapshot, network: Any) -> None:
    config = tiny(network=network, encoder="random", num_frames=6)
    learner = build(snapshot, config)
    lip = learner.modules["audio2lip"]
    frozen = dict(learner.modules["gen"].state_dict())
    if isinstance(lip, Audio2Lip):
        frozen |= {f"lip.{name}": value for name, value in lip.audio_encoder.state_dict().items()}
    before = {name: value.clone() for name, value in frozen.items()}
    moving = [p for name in ("audio2lip", "dis") for p in learner.modules[name].parameters() if p.requires_grad]
    old = [p.detach().clone() for p in moving]
    engine = trained(learner, config)
    assert all(torch.equal(value, before[name]) for name, value in frozen.items())
    assert sum(torch.equal(p, q) for p, q in zip(moving, old, strict=True)) <= len(moving) // 20
    assert engine.exported().keys() == {f"audio2lip.{name}" for name in lip.state_dict()}


def test_images_alone_move_the_codes_towards_the_truth(snapshot: Snapshot) -> None:
    """The gradient passes the frozen generator: frames that it drew itself are drawn again from better codes."""
    config = tiny(LOSSES.model_copy(update={"gan_weight": 0.0}), code_weight=0, change_weight=0, learning_rate=0.01)
    learner = build(snapshot, config)
    engine = Engine(learner, config.train)
    batch = dict(learner.collate([learner.train_set[index] for index in range(2)]))
    with torch.no_grad():
        generator = cast(EDTalk, learner.modules["gen"])
        batch["frames"] = render_mouths(generator, batch, batch["codes"][..., :20]).unflatten(0, (2, 5))
    errors = []
    for _ in range(25):
        learner.train_step(batch, engine)
        with torch.no_grad():
            mouth = learner.modules["audio2lip"](batch["mel"], batch["inside"])
        five = batch["at"][:, None] + torch.arange(5)
        rows = torch.arange(2)[:, None]
        errors.append((mouth - batch["codes"][..., :20])[rows, five].square().mean().item())
    assert min(errors[-5:]) < 0.7 * errors[0]


def test_the_sync_loss_judges_rendered_faces_with_their_own_sound(
    snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    heard = []

    class Listening(SyncLoss):
        def __call__(self, faces: Tensor, mel: Tensor, is_counted: Tensor) -> Tensor:
            heard.append((faces, mel, is_counted))
            return super().__call__(faces, mel, is_counted)

    torch.manual_seed(1)
    monkeypatch.setattr(audio2mouth, "load_sync_loss", lambda: Listening(SyncNet()))
    monkeypatch.setattr(wav2lip, "is_at_hand", lambda name: True)
    config = tiny(syncnet="auto", sync_weight=5)
    learner = build(snapshot, config)
    engine = Engine(learner, config.train)
    batch = learner.collate([learner.train_set[index] for index in range(2)])
    scalars = learner.train_step(batch, engine)
    assert scalars["sync"] > 0
    ((faces, mel, is_counted),) = heard
    assert faces.shape == (2, 5, 3, 96, 96)
    rows = torch.arange(2)
    assert torch.equal(mel, batch["mel"][rows, batch["at"] + 2])
    assert torch.equal(is_counted, batch["has_face"])
    assert "without sync loss" not in caplog.text


def test_without_a_syncnet_it_is_off_and_said_so(
    snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wav2lip, "is_at_hand", lambda name: False)
    config = tiny(syncnet="auto")
    with caplog.at_level(logging.WARNING):
        learner = build(snapshot, config)
    assert "trained without sync loss" in caplog.text
    assert wav2lip.SYNCNET not in config.weights()
    batch = learner.collate([learner.train_set[index] for index in range(2)])
    assert "sync" not in learner.train_step(batch, Engine(learner, config.train))


def test_weights_that_are_asked_for_and_missing_are_one_clear_error(snapshot: Snapshot) -> None:
    with pytest.raises(WeightsError, match="wav2lip"):
        build(snapshot, tiny(None, network="compatible", encoder="wav2lip"))
    with pytest.raises(WeightsError, match="wav2lip_syncnet"):
        build(snapshot, tiny(syncnet="wav2lip"))
    with pytest.raises(WeightsError, match="of another shape"):
        build(snapshot, tiny(shape=SHAPE.model_copy(update={"latent_dim": 40})))


def test_resuming_gives_the_same_weights(snapshot: Snapshot) -> None:
    config = tiny(train={"max_steps": 4})

    def start() -> Engine:
        return Engine(build(snapshot, config), config.train)

    unbroken, first, second = start(), start(), start()
    for batch in unbroken.batches():
        unbroken.advance(batch)
    for _, batch in zip(range(3), first.batches(), strict=False):
        first.advance(batch)
    second.restore(*first.state())
    for batch in second.batches():
        second.advance(batch)
    expected, found = unbroken.state()[0], second.state()[0]
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_figures_and_images(snapshot: Snapshot) -> None:
    learner = build(snapshot, tiny())
    engine = Engine(learner, tiny().train)
    figures = validate(engine)
    assert set(figures) == {"codes", "codes_still", "correlation", "l1", "l1_codes", "psnr_db"}
    image = sample_image(engine)
    assert image is not None
    assert image.shape == (3, 4 * 32, 4 * 32)
    plain = Engine(build(snapshot, tiny(None)), tiny().train)
    assert set(plain.learner.modules) == {"audio2lip"}
    curves = sample_image(plain)
    assert curves is not None
    assert (curves.shape, curves.min() < 1) == ((3, 4 * 128, 512), True)


def test_true_codes_draw_what_the_validation_calls_best(snapshot: Snapshot) -> None:
    learner = build(snapshot, tiny())
    batch = learner.collate([learner.val_set[index] for index in range(2)])  # pyright: ignore[reportOptionalSubscript]

    class Knowing(nn.Module):
        def forward(self, mel: Tensor, inside: Tensor) -> Tensor:
            return batch["codes"][..., :20]

    with torch.no_grad():
        figures = learner.validate(batch, {**learner.modules, "audio2lip": Knowing()})
    assert figures["codes"] == 0
    assert figures["correlation"].item() == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(figures["l1"], figures["l1_codes"])


def test_the_correlation_is_pearsons_about_each_clips_mean() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(1, 30, 1), torch.randn(1, 30, 1)
    inside = torch.arange(30)[None] < 20
    expected = torch.corrcoef(torch.stack([a[0, :20, 0], b[0, :20, 0]]))[0, 1]
    torch.testing.assert_close(correlation(a, b + 5, inside), expected, atol=1e-5, rtol=0)


def test_a_random_encoder_is_alive() -> None:
    torch.manual_seed(0)
    network, windows = Audio2Lip().train(), 3 * torch.randn(64, 1, 80, 16)
    randomise(network.audio_encoder, windows)
    assert not any(module.training for module in network.audio_encoder.modules())
    with torch.no_grad():
        features = network.audio_encoder(windows).flatten(1)
    assert features.std(0).median() > 0.3
    assert torch.linalg.matrix_rank(features - features.mean(0)) > 50


def test_a_state_tells_which_network_it_belongs_to(snapshot: Snapshot) -> None:
    learner = build(snapshot, tiny(None))
    temporal = mouth_network(learner.modules["audio2lip"].state_dict())
    assert isinstance(temporal, TemporalAudio2Lip)
    assert isinstance(mouth_network(Audio2Lip(7).state_dict()), Audio2Lip)
    with pytest.raises(WeightsError):
        mouth_network({"a": torch.zeros(1)})
