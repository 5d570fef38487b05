"""U-Net (Ronneberger, Fischer, Brox: "U-Net: Convolutional Networks for Biomedical Image
Segmentation", MICCAI 2015, figure 1), with "same" padding, so that logits have the input's size.

Any height and width will do: pooling rounds up, and what the decoder makes too large is cropped
to its skip connection.
"""

import torch
import torch.nn.functional as F
from torch import nn

MOST_CHANNELS = 2**15


class DoubleConv(nn.Sequential):
    """(3x3 convolution, norm, ReLU) twice: (N, in_channels, H, W) to (N, out_channels, H, W)."""

    def __init__(self, in_channels, out_channels, norm="batch"):
        layers = []
        for channels in (in_channels, out_channels):
            layers.append(nn.Conv2d(channels, out_channels, 3, padding=1, bias=norm == "none"))
            if norm == "batch":
                layers.append(nn.BatchNorm2d(out_channels))
            layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)


class Down(nn.Module):
    """Halve the size, rounding up, and double the channels: (N, C, H, W) to (N, 2C, H/2, W/2)."""

    def __init__(self, channels, norm):
        super().__init__()
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.conv = DoubleConv(channels, 2 * channels, norm)

    def forward(self, x):
        return self.conv(self.pool(x))


class Up(nn.Module):
    """Double the size, halve the channels, join the skip connection by concatenation or addition."""

    def __init__(self, channels, norm, skip):
        super().__init__()
        self.skip, self.channels = skip, channels
        self.up = nn.ConvTranspose2d(2 * channels, channels, 2, stride=2)
        self.conv = DoubleConv(2 * channels if skip == "concat" else channels, channels, norm)

    def forward(self, x, skip):
        """x (N, 2C, h, w) and skip (N, C, H, W), H in {2h, 2h - 1}, W likewise, to (N, C, H, W)."""
        x = crop(self.up(x), skip.shape[-2:])
        return convolve_joined(self.conv, skip, x, self.channels) if self.skip == "concat" else self.conv(skip + x)


class UNet(nn.Module):
    """Images (N, in_channels, H, W) to logits (N, out_channels, H, W).

    width: channels of the first level, doubled at each of `depth` poolings.
    norm: "batch", or "none" as in the paper.
    skip: "concat" as in the paper, or "add".
    dropout: share of the channels dropped at the end of the contracting path (paper, section 3.1).
    Raises ValueError for more than MOST_CHANNELS channels at the bottom, or a dropout outside [0, 1].
    """

    def __init__(self, in_channels=3, out_channels=1, width=64, depth=4, norm="batch", skip="concat", dropout=0.0):
        super().__init__()
        if width < 1 or not 0 <= depth <= 16 or width << depth > MOST_CHANNELS:
            raise ValueError(f"a width of {width} doubled {depth} times is not 1 to {MOST_CHANNELS:,} channels")
        widths = [width * 2**level for level in range(depth)]
        self.stem = DoubleConv(in_channels, width, norm)
        self.downs = nn.ModuleList(Down(channels, norm) for channels in widths)
        if not 0 <= dropout <= 1:  # nan, too, which Dropout2d takes
            raise ValueError(f"a dropout of {dropout} is not from 0 to 1")
        self.dropout = nn.Dropout2d(dropout)
        self.ups = nn.ModuleList(Up(channels, norm, skip) for channels in reversed(widths))
        self.head = nn.Conv2d(width, out_channels, 1)
        self.apply(init_weights)

    def forward(self, x):
        x = self.stem(x)
        skips = []
        for down in self.downs:
            skips.append(x)
            x = down(x)
        x = self.dropout(x)
        for up in self.ups:
            x = up(x, skips.pop())
        return self.head(x)


def convolve_joined(layers, first, second, channels):
    """layers(torch.cat([first, second], dim=1)), without the joined copy, which costs time (benchmarks/README.md).

    layers: first of all a 3x3 convolution; it is the sum of what its weights make of each. channels: of `first`, as a
    plain number, which tracing then takes for one.
    """
    conv, *others = layers
    x = F.conv2d(first, conv.weight[:, :channels], conv.bias, padding=conv.padding)
    x.add_(F.conv2d(second, conv.weight[:, channels:], padding=conv.padding))
    for layer in others:
        x = layer(x)
    return x


def crop(x, size):
    """(N, C, h, w) to its first H rows and W columns; size is (H, W)."""
    if torch.compiler.is_exporting():  # a slice would fix which sizes are odd to those of the example
        rows, columns = (torch.arange(length, device=x.device) for length in size)
        return x.index_select(2, rows).index_select(3, columns)
    return x[..., : size[0], : size[1]]


def init_weights(module):
    """Normal weights of standard deviation sqrt(2 / fan) (paper, section 3; He et al. 2015), zero biases."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and module.bias is not None:
        nn.init.zeros_(module.bias)


def options_of(weights: dict) -> dict:
    """The options of the U-Net that a state_dict is of. Raises KeyError, AttributeError or ValueError."""
    width, in_channels = weights["stem.0.weight"].shape[:2]
    return {
        "in_channels": in_channels,
        "out_channels": weights["head.weight"].shape[0],
        "width": width,
        "depth": len({key.split(".")[1] for key in weights if key.startswith("downs.")}),
        "norm": "none" if "stem.0.bias" in weights else "batch",
    }
