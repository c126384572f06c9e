"""Sizes of the EDTalk networks; the defaults are those of the published weights."""

from typing import Self

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt, model_validator

from storage.errors import ConfigError

# Side of the smallest features, at which the generator starts and the encoder's blocks end.
CORE_PX = 4


class Shape(BaseModel):
    """Sizes that all networks of a model share.

    Attributes:
        size_px: side of the images, a power of two, 8 or more.
        width: number of channels as a share of the published networks'.
        latent_dim: length of the latent vectors and of the directions.
        num_mouth, num_pose, num_expression: directions of each bank.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size_px: PositiveInt = 256
    width: PositiveFloat = 1.0
    latent_dim: PositiveInt = 512
    num_mouth: PositiveInt = 20
    num_pose: PositiveInt = 6
    num_expression: PositiveInt = 10

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.size_px < 2 * CORE_PX or self.size_px & (self.size_px - 1):
            raise ConfigError(f"size_px is {self.size_px}; it must be a power of two, {2 * CORE_PX} or more")
        num_directions = self.num_mouth + self.num_pose + self.num_expression
        if self.latent_dim < num_directions:
            raise ConfigError(f"latent_dim is {self.latent_dim}; {num_directions} orthonormal directions need as much")
        return self

    def channels(self, side_px: int) -> int:
        """Channels of features whose side is `side_px`: 64 at 256 px, twice as many at each half, at most 512."""
        return max(1, round(min(512, 2**14 // side_px) * self.width))

    @property
    def channels_down(self) -> tuple[int, ...]:
        """Channels of the features from the images' own size down to 4 px, one number per halving."""
        return tuple(self.channels(side) for side in (*reversed(self.sides_px), CORE_PX))

    @property
    def sides_px(self) -> tuple[int, ...]:
        """Sides of the feature maps that the generator takes from the encoder, coarse to fine: 8, 16, ... size_px."""
        return tuple(2**power for power in range(3, self.size_px.bit_length()))


# Sizes of the presets `smoke`, which run on a CPU in a minute.
SMALL = Shape(width=1 / 16, latent_dim=64)
