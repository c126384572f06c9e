"""Settings beside a preset: read as JSON or text, put in their place, checked by the stage's own Config."""

import pytest

from flows.train_options import TrainOptions, parse_settings
from models.training import stages
from storage.errors import ConfigError

SMOKE = stages.preset("edtalk", "finetune", "smoke")


def test_values_are_json_and_what_is_no_json_is_text() -> None:
    given = ["a.x=3", "a.y=1e-4", "a.z=M003", "b.on=false", 'b.list=["p", 2]', "b.none=null", "a.text=k=v", 'a.q="3"']
    assert parse_settings(given) == {
        "a.x": 3, "a.y": 1e-4, "a.z": "M003", "b.on": False, "b.list": ["p", 2], "b.none": None, "a.text": "k=v",
        "a.q": "3",
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"--set a.x: write STAGE.KEY=VALUE"):
        parse_settings(["a.x"])


def test_settings_of_a_stage_change_it_and_only_it() -> None:
    options = TrainOptions(
        "edtalk",
        "latest",
        settings={
            "finetune.losses.gan_weight": 0,
            "finetune.train.max_steps": 7,
            "finetune.subject": "M003",
            "other.x": 1,
        },
    )
    changed = options.config("finetune", SMOKE)
    assert type(changed) is type(SMOKE)
    expected = SMOKE.model_dump()
    expected["losses"]["gan_weight"], expected["train"]["max_steps"], expected["subject"] = 0, 7, "M003"
    assert changed.model_dump() == expected
    assert SMOKE.train.max_steps == 12
    assert TrainOptions("edtalk", "latest").config("finetune", SMOKE) == SMOKE


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("finetune.loses.gan_weight", 0, r"no setting 'loses'; the nearest is 'losses'; there are train, "),
        ("finetune.losses.gan", 0, "no setting 'gan'; there are|the nearest is"),
        ("finetune.losses.gan_weight", -1, "finetune.losses.gan_weight=-1: .*greater than or equal to 0"),
        ("finetune.subject.name", "x", "no setting 'name'; there are none"),
        ("finetune.shape.size_px", 48, "size_px is 48; it must be a power of two"),
    ],
)
def test_what_does_not_fit_is_one_line(key: str, value: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        TrainOptions("edtalk", "latest", settings={key: value}).config("finetune", SMOKE)
    assert "\n" not in str(caught.value)
