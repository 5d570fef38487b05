"""ResNet-34 encoder (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, table 1) with a U-Net
decoder (Ronneberger et al. 2015). Reports: see benchmarks/README.md.

The encoder's `state_dict` fits torchvision's `resnet34` without `fc`, so published weights load. Accepts any input
size: strided layers round up, and decoder features are cropped to the skip connection's size.
"""

from torch import nn

from models.unet import DoubleConv, convolve_joined, crop, init_weights

DECODERS = {"transposed": 4, "nearest": 5, "upconv": 5}  # form: number of blocks


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (figure 5, left): (N, C, H, W) to (N, channels, H/stride, W/stride)."""

    def __init__(self, in_channels, channels, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride != 1 or in_channels != channels:
            shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(channels))

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + shortcut)


class ResNet34Encoder(nn.Module):
    """Images (N, in_channels, H, W) to features of 64, 64, 128, 256, 512 channels at 1/2 to 1/32 of the size."""

    def __init__(self, in_channels=3):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = self._layer(64, 64, 3, stride=1)
        self.layer2 = self._layer(64, 128, 4, stride=2)
        self.layer3 = self._layer(128, 256, 6, stride=2)
        self.layer4 = self._layer(256, 512, 3, stride=2)

    @staticmethod
    def _layer(in_channels, channels, blocks, stride):
        rest = (BasicBlock(channels, channels) for _ in range(blocks - 1))
        return nn.Sequential(BasicBlock(in_channels, channels, stride), *rest)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        features = [x]
        x = self.maxpool(x)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            features.append(x)
        return features


class DecoderBlock(nn.Module):
    """Double the size, concatenate the skip connection if there is one, and convolve.

    form: "transposed": transposed convolution, then two conv-ReLU without norm (report 2);
          "nearest": nearest upsampling, then two conv-BN-ReLU (report 4);
          "upconv": transposed convolution, then one conv-BN-ReLU (report 5).
    """

    def __init__(self, in_channels, skip_channels, out_channels, form):
        super().__init__()
        self.channels = in_channels if form == "nearest" else out_channels  # after upsampling
        joined = self.channels + skip_channels
        if form == "nearest":
            self.up = nn.Upsample(scale_factor=2, mode="nearest")
        else:
            self.up = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
        if form == "upconv":
            conv = nn.Conv2d(joined, out_channels, 3, padding=1, bias=False)
            self.conv = nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))
        else:
            self.conv = DoubleConv(joined, out_channels, norm="none" if form == "transposed" else "batch")

    def forward(self, x, skip, size):
        """Upsample x (N, C, h, w) to size (H, W), and merge skip (N, S, H, W), if any: (N, out_channels, H, W)."""
        x = crop(self.up(x), size)
        if skip is None:
            return self.conv(x)
        return convolve_joined(self.conv, x, skip, self.channels)


class ResNet34UNet(nn.Module):
    """Images (N, in_channels, H, W) to logits (N, out_channels, H, W).

    decoder: the form of its blocks (see DecoderBlock). "nearest" and "upconv" have five, the last without a
    skip connection; "transposed" has four, then interpolates the logits bilinearly to the input's size.
    """

    plain_layers = True  # no state outside state_dict; batch norms follow convolutions; see checkpoint.restore_model

    def __init__(self, in_channels=3, out_channels=1, decoder="nearest"):
        super().__init__()
        self.encoder = ResNet34Encoder(in_channels)
        widths = (512, 256, 128, 64, 32, 16)
        skips = (256, 128, 64, 64, 0)
        blocks = DECODERS[decoder]
        self.blocks = nn.ModuleList(DecoderBlock(widths[i], skips[i], widths[i + 1], decoder) for i in range(blocks))
        self.head = nn.Conv2d(widths[blocks], out_channels, 1)
        self.apply(init_weights)

    def forward(self, x):
        size = x.shape[-2:]
        *skips, x = self.encoder(x)
        for block in self.blocks:
            skip = skips.pop() if skips else None
            x = block(x, skip, size if skip is None else skip.shape[-2:])
        x = self.head(x)
        if len(self.blocks) == 4:  # at half size
            x = nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
        return x

    @staticmethod
    def options_of(weights: dict) -> dict:
        """Return the options of a state_dict's ResNet34-U-Net. Raises LookupError or AttributeError."""
        decoder = "nearest" if "blocks.4.conv.0.weight" in weights else "transposed"
        if "blocks.4.up.weight" in weights:
            decoder = "upconv"
        return {
            "in_channels": weights["encoder.conv1.weight"].shape[1],
            "out_channels": weights["head.weight"].shape[0],
            "decoder": decoder,
        }
