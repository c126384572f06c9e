"""LIA, the system that EDTalk starts from: the same encoder and generator with one undivided bank of directions.

Wang et al., "Latent Image Animator", ICLR 2022.
"""

from torch import Tensor, nn

from models.edtalk.networks.encoder import Encoder
from models.edtalk.networks.generator import Generator, IdentityFeatures
from models.edtalk.networks.navigation import Bank, linear_head, orthonormal
from models.edtalk.networks.shape import Shape
from models.nn.stylegan import no_autocast

NUM_DIRECTIONS = 20


class LiaEncoder(Encoder):
    """Encoder with the head of the motion code."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.fc = linear_head(shape.latent_dim, 5, NUM_DIRECTIONS)


class LiaGenerator(Generator):
    """Generator with the bank of directions."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.direction = Bank(shape.latent_dim, NUM_DIRECTIONS)


class Lia(nn.Module):
    """Drives the face of one image with that of another, absolutely.

    Args:
        shape: sizes; the defaults fit published weights.
    """

    def __init__(self, shape: Shape | None = None) -> None:
        super().__init__()
        self.shape = shape or Shape()
        self.enc = LiaEncoder(self.shape)
        self.dec = LiaGenerator(self.shape)

    def forward(self, reference: Tensor, driving: Tensor) -> Tensor:
        """Reference and driving images [B, 3, S, S] in -1..1 -> [B, 3, S, S] float32 about -1..1, not clamped."""
        return self.render(IdentityFeatures(*self.enc(reference)), self.enc(driving)[0], self.directions())

    def directions(self) -> Tensor:
        """[D, 20] float32 orthonormal."""
        return orthonormal(self.dec.direction)

    def render(self, identity: IdentityFeatures, driving: Tensor, directions: Tensor) -> Tensor:
        """As `forward`, from an encoded reference, latents [B, D] of the driving images and `directions()`."""
        with no_autocast(driving):
            motion = self.enc.fc(driving.float()) @ directions.T
        return self.dec(identity, identity.latent + motion)
