"""The nets as PyTorch modules, written from the papers with other libraries' parameter names.

References that share no code with ours.
"""

import torch
from torch import nn

torch.set_num_threads(1)  # its threads and JAX's would wait for each other


class TorchFire(nn.Module):
    """A Fire module under torchvision's names."""

    def __init__(self, inputs, squeeze, expand):
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x):
        x = torch.relu(self.squeeze(x))
        return torch.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))


class TorchSqueezeNet(nn.Module):
    """SqueezeNet v1.0 or v1.1 under torchvision's names; conv10_pad is 1 in the released v1.0."""

    def __init__(self, version="1.0", num_classes=1000, conv10_pad=0):
        super().__init__()
        pool = lambda: nn.MaxPool2d(3, 2, ceil_mode=True)  # noqa: E731
        fires = [
            (16, 64),
            (16, 64),
            (32, 128),
            (32, 128),
            (48, 192),
            (48, 192),
            (64, 256),
            (64, 256),
        ]
        channels, kernel, pools = (
            (96, 7, (2, 6)) if version == "1.0" else (64, 3, (1, 3))
        )  # Fire modules with a pool behind them
        layers = [nn.Conv2d(3, channels, kernel, 2), nn.ReLU(), pool()]
        for i, (squeeze, expand) in enumerate(fires):
            layers += [TorchFire(channels, squeeze, expand)] + ([pool()] if i in pools else [])
            channels = 2 * expand
        self.features = nn.Sequential(*layers)
        last = nn.Conv2d(channels, num_classes, 1, padding=conv10_pad)
        self.classifier = nn.Sequential(nn.Dropout(), last, nn.ReLU(), nn.AdaptiveAvgPool2d(1))

    def forward(self, x):
        return self.classifier(self.features(x)).flatten(1)


class Block(nn.Sequential):
    """Convolution, BatchNorm, ReLU under pytorchcv's names."""

    def __init__(self, inputs, outputs, kernel=(1, 1), stride=1, padding=None, bias=False):
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, padding or (kernel[0] // 2, kernel[1] // 2), bias=bias
        )
        self.bn = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()


class Unit(nn.Module):
    """A SqueezeNext block; `start` says whether its shortcut is a convolution."""

    def __init__(self, inputs, outputs, start, stride, kernels, bias):
        super().__init__()
        half, quarter = outputs // 2, outputs // 4
        if start:
            self.identity_conv = Block(inputs, outputs, stride=stride, bias=bias)
        self.conv1 = Block(inputs, half, stride=stride, bias=bias)
        self.conv2 = Block(half, quarter, bias=bias)
        self.conv3 = Block(quarter, half, kernels[0], bias=bias)
        self.conv4 = Block(half, half, kernels[1], bias=bias)
        self.conv5 = Block(half, outputs, bias=bias)

    def forward(self, x):
        shortcut = self.identity_conv(x) if hasattr(self, "identity_conv") else x
        return torch.relu(shortcut + self.conv5(self.conv4(self.conv3(self.conv2(self.conv1(x))))))


class TorchSqueezeNext(nn.Module):
    """1.0-SqNxt-23 of the paper, or of pytorchcv (`theirs`), under pytorchcv's names."""

    def __init__(self, theirs, num_classes=1000, blocks=(6, 6, 8, 1)):
        super().__init__()
        self.features = nn.Module()
        self.features.init_block = nn.Module()
        self.features.init_block.conv = Block(
            3, 64, (7, 7), 2, padding=(int(theirs), int(theirs)) if theirs else "valid", bias=theirs
        )
        channels, number, self.stages = 64, 0, []
        for stage, (count, width) in enumerate(
            zip(blocks, (32, 64, 128, 256), strict=True), start=1
        ):
            units = nn.Sequential()
            for index in range(count):
                number += 1
                kernels = [(1, 3), (3, 1)] if theirs or number % 2 == 0 else [(3, 1), (1, 3)]
                stride = 2 if stage > 1 and index == 0 else 1
                units.add_module(
                    f"unit{index + 1}", Unit(channels, width, index == 0, stride, kernels, theirs)
                )
                channels = width
            self.features.add_module(f"stage{stage}", units)
        self.features.final_block = Block(channels, 128, bias=theirs)
        self.output = nn.Linear(128, num_classes, bias=theirs)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.features.init_block.conv(x), 3, 2, ceil_mode=True)
        for stage in range(1, 5):
            x = getattr(self.features, f"stage{stage}")(x)
        return self.output(self.features.final_block(x).mean((2, 3)))


def randomise(module, seed=0):
    """Random weights and BatchNorm statistics under which the logits differ and neither vanish nor
    explode; in evaluation mode.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.ndim > 1:
                tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
            elif name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif name.endswith("bn.weight"):
                tensor.uniform_(0.2, 0.6, generator=generator)
            elif tensor.is_floating_point():
                tensor.normal_(0, 0.1, generator=generator)
    return module.eval()


def logits(module, images):
    """Of NHWC images, as NumPy arrays both."""
    with torch.no_grad():
        return module(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
