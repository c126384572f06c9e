"""Common parts of the stages that train on exchanged mouths: settings, pairs of faces, errors of the mouths."""

from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from models.edtalk.data.mouth_swap import SwapOptions
from models.edtalk.data.swap_pairs import PartnerChoice, SwapPairs
from models.edtalk.training.image_losses import ImageStageConfig
from storage.snapshot import Snapshot


class SwapStageConfig(ImageStageConfig):
    """Settings beside those of ImageStageConfig.

    Attributes:
        mouth_weight: weight of the mean absolute error of the mouths alone; 0, as published, leaves it out.
        num_candidates: number of frames of which the one with the most similar pose is the partner; 1 takes any frame.
        own_share: share of the pairs that are two frames of one clip, for data with few people; 0 as published.
        swap: how mouths are set into other faces.
    """

    mouth_weight: NonNegativeFloat = 0.0
    num_candidates: PositiveInt = 16
    own_share: float = Field(default=0.0, ge=0, le=1)
    swap: SwapOptions = SwapOptions()

    def pairs(self, snapshot: Snapshot, split: str) -> SwapPairs:
        """The pairs of a split.

        Raises:
            ConfigError: no clip shows a face in two frames.
        """
        partners = PartnerChoice(self.num_candidates, self.own_share)
        return SwapPairs(snapshot, split, self.shape.size_px, self.train.seed, partners, self.swap)


def mouth_l1(images: Tensor, target: Tensor, mouth: Tensor) -> Tensor:
    """Mean absolute error of the mouths.

    Args:
        images, target: [B, 3, S, S].
        mouth: [B, 1, S, S] share of each pixel of the target that is mouth, 0..1.
    """
    return ((images - target).abs() * mouth).sum() / (target.shape[1] * mouth.sum()).clamp_min(1)
