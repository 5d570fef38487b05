"""U-Net (Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015,
figure 1), with "same" padding, so that the logits have the input's size.

Accepts any input size: pooling rounds up, and decoder features are cropped to the size of the skip connection.
"""

import torch
import torch.nn.functional as F
from torch import nn


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
    """Double the size, halve the channels, and merge the skip connection by concatenation or addition."""

    def __init__(self, channels, norm, skip):
        super().__init__()
        self.adds, self.channels = skip == "add", channels
        self.up = nn.ConvTranspose2d(2 * channels, channels, 2, stride=2)
        self.conv = DoubleConv(channels if self.adds else 2 * channels, channels, norm)

    def forward(self, x, skip):
        """Merge x (N, 2C, h, w) and skip (N, C, H, W), H in {2h, 2h - 1}, W likewise: (N, C, H, W)."""
        x = crop(self.up(x), skip.shape[-2:])
        if self.adds:
            return self.conv(skip + x)
        return convolve_joined(self.conv, skip, x, self.channels)


class UNet(nn.Module):
    """Images (N, in_channels, H, W) to logits (N, out_channels, H, W).

    width: channels of the first level, doubled at `depth` more levels. norm: "batch", or "none" as in the paper.
    skip: "concat" as in the paper, or "add". dropout: fraction of channels dropped at the bottleneck (paper, section
    3.1). Raises ValueError for more than 32,768 channels.
    """

    plain_layers = True  # no state outside state_dict; batch norms follow convolutions; see checkpoint.restore_model

    def __init__(self, in_channels=3, out_channels=1, width=64, depth=4, norm="batch", skip="concat", dropout=0.0):
        super().__init__()
        if width < 1 or not 0 <= depth <= 16 or width << depth > 2**15:
            raise ValueError(f"a width of {width} doubled {depth} times is not 1 to 32,768 channels")
        widths = [width * 2**level for level in range(depth)]
        self.stem = DoubleConv(in_channels, width, norm)
        self.downs = nn.ModuleList(Down(channels, norm) for channels in widths)
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

    @staticmethod
    def options_of(weights: dict) -> dict:
        """Return the options of a state_dict's U-Net. Raises LookupError, AttributeError or ValueError."""
        width, in_channels = weights["stem.0.weight"].shape[:2]
        return {
            "in_channels": in_channels,
            "out_channels": weights["head.weight"].shape[0],
            "width": width,
            "depth": len({key.split(".")[1] for key in weights if key.startswith("downs.")}),
            "norm": "none" if "stem.0.bias" in weights else "batch",
        }


def convolve_joined(layers, first, second, channels):
    """Compute layers(torch.cat([first, second], dim=1)) without the concatenation, which costs time.

    layers: a convolution, which is applied to `first` and `second` separately and summed, then other layers.
    channels: how many `first` has, an int so that tracing treats it as a constant.
    """
    conv, *others = layers
    x = F.conv2d(first, conv.weight[:, :channels], conv.bias, padding=conv.padding)
    x.add_(F.conv2d(second, conv.weight[:, channels:], padding=conv.padding))
    for layer in others:
        x = layer(x)
    return x


def crop(x, size):
    """Crop (N, C, h, w) to its first H rows and W columns; size is (H, W)."""
    if torch.compiler.is_exporting():  # a slice would allow only sizes that are odd or even like the example's
        rows, columns = (torch.arange(length, device=x.device) for length in size)
        return x.index_select(2, rows).index_select(3, columns)
    return x[..., : size[0], : size[1]]


def init_weights(module):
    """Draw Conv2d weights, normal with std sqrt(2 / fan_out) (He et al. 2015; U-Net's paper: fan_in); zero biases."""
    if any(weight.is_meta for weight in module.parameters(recurse=False)):
        return  # initializing would only import torch._dynamo (three seconds)
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and module.bias is not None:
        nn.init.zeros_(module.bias)
