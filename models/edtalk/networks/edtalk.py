"""The EDTalk model: encoder, navigation modules, banks and generator, with or without the expression bank."""

import torch
from torch import Tensor, nn

from models.edtalk.networks.encoder import Encoder
from models.edtalk.networks.generator import Generator, IdentityFeatures
from models.edtalk.networks.navigation import Bank, Codes, linear_head, orthonormal
from models.edtalk.networks.shape import Shape
from models.nn.stylegan import no_autocast


class EDTalk(nn.Module):
    """Images and codes to images.

        identity = model.encode_identity(image)              # once per portrait
        directions = model.directions()                      # once per model
        codes = model.codes(model.encode(frames))
        video = model.render(identity, codes, directions)

    Args:
        shape: sizes; the defaults fit published weights.
        has_expression: False gives the mouth-and-pose model.
        has_rgb_residual: see models.edtalk.networks.generator.RgbResidual; off in published weights.
    """

    def __init__(self, shape: Shape | None = None, has_expression: bool = True, has_rgb_residual: bool = False) -> None:
        super().__init__()
        self.shape = shape = shape or Shape()
        dim = shape.latent_dim
        self.enc = Encoder(shape)
        self.fc = linear_head(dim, 4, dim)
        self.lip_fc = linear_head(dim, 3, shape.num_mouth)
        self.pose_fc = linear_head(dim, 3, shape.num_pose)
        self.direction_lipnonlip = Bank(dim, shape.num_mouth + shape.num_pose)
        if has_expression:
            self.exp_fc = linear_head(dim, 3, shape.num_expression)
            self.direction_exp = Bank(dim, shape.num_expression)
        self.has_expression = has_expression
        self.dec = Generator(shape, has_expression, has_rgb_residual)

    def forward(self, reference: Tensor, target: Tensor) -> tuple[Tensor, Codes]:
        """Renders references with the mouth, pose and expression of other images, for training.

        Args:
            reference, target: images [B, 3, S, S] in -1..1.

        Returns:
            [B, 3, S, S] images, and the codes of the targets that drove them.
        """
        codes = self.codes(self.encode(target))
        return self.render(self.encode_identity(reference), codes), codes

    def encode(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] -> [B, D] latents."""
        return self.enc(images)[0]

    def encode_identity(self, images: Tensor) -> IdentityFeatures:
        """[B, 3, S, S] -> everything that rendering needs of the portraits; B is 1 to drive one with many frames."""
        return self.dec.prepare(IdentityFeatures(*self.enc(images)))

    def codes(self, latent: Tensor) -> Codes:
        """[B, D] latents -> the codes of every bank."""
        # Codes are float32 in mixed precision, too: rounded to 8 bits they make faces tremble.
        with no_autocast(latent):
            shared = self.fc(latent.float())
            expression = self.exp_fc(shared) if self.has_expression else None
            return Codes(self.lip_fc(shared), self.pose_fc(shared), expression)

    def directions(self) -> Tensor:
        """[D, 26 or 36] float32 orthonormal: mouth, pose and expression, in this order."""
        return orthonormal(self.direction_lipnonlip, *([self.direction_exp] if self.has_expression else []))

    def motion(self, codes: Codes, directions: Tensor) -> tuple[Tensor, Tensor | None]:
        """[B, D] sum of all weighted directions, and that of the expression alone (None without this bank)."""
        num_plain = self.shape.num_mouth + self.shape.num_pose
        with no_autocast(directions):
            plain = torch.cat([codes.mouth, codes.pose], dim=1).float() @ directions[:, :num_plain].T
            if not self.has_expression:
                return plain, None
            if codes.expression is None:
                return plain, torch.zeros_like(plain)
            expression = codes.expression.float() @ directions[:, num_plain:].T
            return plain + expression, expression

    def render(self, identity: IdentityFeatures, codes: Codes, directions: Tensor | None = None) -> Tensor:
        """[B, 3, S, S] float32 images about -1..1, not clamped, of one portrait or B portraits driven by B codes."""
        motion, expression = self.motion(codes, self.directions() if directions is None else directions)
        return self.dec(identity, identity.latent + motion, expression)
