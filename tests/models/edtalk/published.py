"""What the published checkpoints hold, written down from their description: names and shapes of every tensor."""

Shapes = dict[str, tuple[int, ...]]

SIDES_PX = (8, 16, 32, 64, 128, 256)
CHANNELS = {4: 512, 8: 512, 16: 512, 32: 512, 64: 256, 128: 128, 256: 64}
KERNEL = (4, 4)


def full() -> Shapes:
    """EDTalk.pt, `gen`."""
    head = mlp("exp_fc", (512, 512, 10)) | {"direction_exp.weight": (512, 10)}
    blocks: Shapes = {}
    for level, side in enumerate(SIDES_PX):
        blocks |= expression_block(f"dec.fineadainresblock.{level}", CHANNELS[side])
    return mouth_pose() | head | blocks


def mouth_pose() -> Shapes:
    """EDTalk_lip_pose.pt, `gen`."""
    heads = mlp("lip_fc", (512, 512, 20)) | mlp("pose_fc", (512, 512, 6)) | mlp("fc", (512,) * 4)
    return encoder() | generator() | heads | {"direction_lipnonlip.weight": (512, 26)}


def lia() -> Shapes:
    """LIA's file, `gen`."""
    return encoder() | generator() | mlp("enc.fc", (512, 512, 512, 512, 20)) | {"dec.direction.weight": (512, 20)}


def encoder() -> Shapes:
    """`enc.net_app`."""
    at = "enc.net_app.convs"
    found: Shapes = {
        f"{at}.0.0.weight": (64, 3, 1, 1),
        f"{at}.0.1.bias": (1, 64, 1, 1),
        f"{at}.7.weight": (512, 512, 4, 4),
    }
    sides = (*reversed(SIDES_PX), 4)
    for block in range(1, 7):
        a, b = CHANNELS[sides[block - 1]], CHANNELS[sides[block]]
        found |= {
            f"{at}.{block}.conv1.0.weight": (a, a, 3, 3),
            f"{at}.{block}.conv1.1.bias": (1, a, 1, 1),
            f"{at}.{block}.conv2.0.kernel": KERNEL,
            f"{at}.{block}.conv2.1.weight": (b, a, 3, 3),
            f"{at}.{block}.conv2.2.bias": (1, b, 1, 1),
            f"{at}.{block}.skip.0.kernel": KERNEL,
            f"{at}.{block}.skip.1.weight": (b, a, 1, 1),
        }
    return found


def generator() -> Shapes:
    """`dec` without expression blocks."""
    found: Shapes = {"dec.input.input": (1, 512, 4, 4)} | styled("dec.conv1", 512, 512) | to_rgb("dec.to_rgb1", 512)
    before = 512
    for level, side in enumerate(SIDES_PX):
        after = CHANNELS[side]
        found |= styled(f"dec.convs.{2 * level}", before, after) | {f"dec.convs.{2 * level}.conv.blur.kernel": KERNEL}
        found |= styled(f"dec.convs.{2 * level + 1}", after, after)
        found |= to_rgb(f"dec.to_rgbs.{level}", after) | {f"dec.to_rgbs.{level}.upsample.kernel": KERNEL}
        found |= to_flow(f"dec.to_flows.{level}", after)
        before = after
    return found


def styled(at: str, num_in: int, num_out: int) -> Shapes:
    return {
        f"{at}.conv.weight": (1, num_out, num_in, 3, 3),
        f"{at}.conv.modulation.weight": (num_in, 512),
        f"{at}.conv.modulation.bias": (num_in,),
        f"{at}.noise.weight": (1,),
        f"{at}.activate.bias": (1, num_out, 1, 1),
    }


def to_rgb(at: str, channels: int) -> Shapes:
    return {f"{at}.bias": (1, 3, 1, 1), f"{at}.conv.0.weight": (3, channels, 1, 1), f"{at}.conv.1.bias": (1, 3, 1, 1)}


def to_flow(at: str, channels: int) -> Shapes:
    return {
        f"{at}.bias": (1, 3, 1, 1),
        f"{at}.upsample.kernel": KERNEL,
        f"{at}.conv.weight": (1, 3, channels, 1, 1),
        f"{at}.conv.modulation.weight": (channels, 512),
        f"{at}.conv.modulation.bias": (channels,),
    }


def expression_block(at: str, channels: int) -> Shapes:
    found: Shapes = {}
    for number in (1, 2):
        found |= {f"{at}.conv{number}.weight": (channels, channels, 3, 3), f"{at}.conv{number}.bias": (channels,)}
        for part, rows, columns in (
            ("mlp_shared.0", 128, 512),
            ("mlp_gamma", channels, 128),
            ("mlp_beta", channels, 128),
        ):
            found |= {f"{at}.norm{number}.{part}.weight": (rows, columns), f"{at}.norm{number}.{part}.bias": (rows,)}
    return found


def mlp(at: str, sizes: tuple[int, ...]) -> Shapes:
    """Linear layers that start from 512 numbers."""
    found: Shapes = {}
    for layer, (num_in, num_out) in enumerate(zip((512, *sizes), sizes, strict=False)):
        found |= {f"{at}.{layer}.weight": (num_out, num_in), f"{at}.{layer}.bias": (num_out,)}
    return found


def audio2lip() -> Shapes:
    """Audio2Lip.pt, `audio2lip`."""
    channels = (1, 32, 32, 32, 64, 64, 64, 128, 128, 128, 256, 256, 512, 512)
    found: Shapes = {"mapping.weight": (20, 512), "mapping.bias": (20,)}
    for block in range(13):
        at, num_in, num_out = f"audio_encoder.{block}.conv_block", channels[block], channels[block + 1]
        kernel = 1 if block == 12 else 3
        found |= {f"{at}.0.weight": (num_out, num_in, kernel, kernel), f"{at}.0.bias": (num_out,)}
        found |= {f"{at}.1.{name}": (num_out,) for name in ("weight", "bias", "running_mean", "running_var")}
        found[f"{at}.1.num_batches_tracked"] = ()
    return found
