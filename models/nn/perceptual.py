"""VGG-19 features and the perceptual loss on an image pyramid.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2015; Johnson et al.,
"Perceptual Losses", 2016; the pyramid and its anti-aliasing follow Siarohin et al., "First Order Motion Model", 2019.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from storage.errors import WeightsError
from storage.weights import resolve

WEIGHTS = "vgg19"
# Output channels of the convolutions between two poolings, up to the last one that is read.
STAGES = ((64, 64), (128, 128), (256, 256, 256, 256), (512, 512, 512, 512), (512,))
SCALES = (1, 2, 4, 8)
LAYER_WEIGHT = 10.0
MIN_SIDE_PX = 16
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class VggFeatures(nn.Module):
    """The first 13 convolutions of VGG-19, frozen; parameters are named as in torchvision's state dict.

    Args:
        width: share of the channels that is built; only 1.0 fits published weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        self.features = nn.ModuleList(_layers(width))
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> list[Tensor]:
        """relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1 of [B, 3, H, W] images in -1..1 (clamped)."""
        x = ((images.clamp(-1, 1) + 1) / 2 - self.mean) / self.std
        found, is_first = [], True
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.ReLU) and is_first:
                found.append(x)
                is_first = False
            is_first |= isinstance(layer, nn.MaxPool2d)
        return found


def _layers(width: float) -> Iterator[nn.Module]:
    num_in = 3
    for number, stage in enumerate(STAGES):
        if number:
            yield nn.MaxPool2d(2)
        for channels in stage:
            num_out = max(1, round(channels * width))
            yield nn.Conv2d(num_in, num_out, 3, padding=1)
            yield nn.ReLU()
            num_in = num_out


def load_vgg() -> VggFeatures:
    """VGG-19 trained on ImageNet, entry 'vgg19' of storage/weights.toml.

    Raises:
        WeightsError: the file is missing, or it holds something else.
    """
    path = resolve(WEIGHTS)
    vgg = VggFeatures()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        vgg.load_state_dict({name: state[name] for name in vgg.state_dict()})
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{path}: not the state dict of torchvision's VGG-19 ({reason}); get it again") from error
    return vgg


def random_vgg(seed: int = 0, width: float = 1.0) -> VggFeatures:
    """The same network with random weights that depend on the seed only: for tests and tiny runs without weights."""
    vgg, generator = VggFeatures(width), torch.Generator().manual_seed(seed)
    for parameter in vgg.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter, generator=generator)
        else:
            nn.init.zeros_(parameter)
    return vgg


def downscale(images: Tensor, factor: int) -> Tensor:
    """Every `factor`-th pixel of [B, C, H, W] after a Gaussian of sigma (factor - 1) / 2 px; zeros lie outside."""
    if factor == 1:
        return images
    sigma = (factor - 1) / 2
    radius = round(4 * sigma)
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    taps = torch.exp(-offsets.square() / (2 * sigma**2))
    taps = (taps / taps.sum()).expand(images.shape[1], 1, 1, -1)
    # rows, then columns; only those that are kept are computed
    rows = functional.conv2d(images, taps.mT, stride=(factor, 1), padding=(radius, 0), groups=images.shape[1])
    return functional.conv2d(rows, taps, stride=(1, factor), padding=(0, radius), groups=images.shape[1])


class PerceptualLoss:
    """Sum over scales and layers of 10 times the mean absolute difference of VGG features.

    It is no module of a learner: its weights are constants that need no place in a checkpoint.

    Args:
        vgg: the features.
        scales: divisors of the image size; those that leave less than 16 px, too few for four poolings, are not used.
    """

    def __init__(self, vgg: VggFeatures, scales: tuple[int, ...] = SCALES) -> None:
        self.vgg, self.scales = vgg, scales

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Scalar loss of [B, 3, H, W] images in -1..1; gradients flow into `output` only."""
        self.vgg.to(output.device)
        scales = [scale for scale in self.scales if min(output.shape[-2:]) >= scale * MIN_SIDE_PX]
        losses = []
        for scale in scales:
            with torch.no_grad():
                wanted = self.vgg(downscale(target.detach(), scale))
            pairs = zip(self.vgg(downscale(output, scale)), wanted, strict=True)
            losses.append(
                LAYER_WEIGHT * torch.stack([functional.l1_loss(a.float(), b.float()) for a, b in pairs]).sum()
            )
        return torch.stack(losses).sum()
