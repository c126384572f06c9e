import torch

from models.edtalk.training.code_plot import LANE_PX, WIDTH_PX, code_curves


def is_red(image: torch.Tensor) -> torch.Tensor:
    """[H, W] bool"""
    return image[0] > image[1] + 0.2


def is_grey(image: torch.Tensor) -> torch.Tensor:
    """[H, W] bool"""
    return (image.amax(0) - image.amin(0) < 0.02) & (image[0] < 0.8)


def test_curves_rise_where_the_codes_rise_and_red_is_on_top() -> None:
    truth = torch.zeros(1, 50, 6)
    truth[0, :, 4] = torch.linspace(-1, 1, 50)
    image = code_curves(truth, -truth, torch.ones(1, 50, dtype=torch.bool))
    assert image.shape == (3, 4 * LANE_PX, WIDTH_PX)
    lane = image[:, :LANE_PX]
    for is_color, is_rising in ((is_grey, True), (is_red, False)):
        found = is_color(lane)
        left, right = (found[:, part].nonzero()[:, 0].float().mean() for part in (slice(5, 60), slice(450, 500)))
        assert (right < left - 10) == is_rising, "the row above has the smaller number"
        assert (right > left + 10) != is_rising
    same = code_curves(truth, truth, torch.ones(1, 50, dtype=torch.bool))
    assert is_red(same[:, :LANE_PX]).any()
    assert not is_grey(same[:, :LANE_PX]).any()


def test_what_lies_behind_the_end_is_not_drawn_and_four_clips_are_enough() -> None:
    torch.manual_seed(0)
    truth = torch.randn(6, 30, 6)
    inside = (torch.arange(30) < 20).expand(6, -1)
    image = code_curves(truth, truth + 0.1, inside)
    assert image.shape == (3, 4 * 4 * LANE_PX, WIDTH_PX)
    changed = truth.clone()
    changed[:, 20:] = torch.nan
    assert torch.equal(code_curves(changed, changed + 0.1, inside), image)


def test_a_model_that_has_gone_astray_is_drawn_too() -> None:
    truth = torch.randn(1, 10, 6)
    image = code_curves(truth, torch.full_like(truth, torch.inf), torch.ones(1, 10, dtype=torch.bool))
    assert image.shape == (3, 128, 512)
