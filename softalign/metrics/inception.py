"""Inception v3 as the Fréchet Inception distance has it: TensorFlow's graph of 2015, by the names of PyTorch weights.

The weights' file is the user's to name: ``weights-inception-2015-12-05-6726825d.pth`` of torch-fidelity, which is
``pt_inception-2015-12-05-6726825d.pth`` of pytorch-fid. The graph differs from torchvision's in its poolings, its
resizing and its scale. The package torch-fidelity is not used: it needs torchvision, and unpickles the weights.

Shape legend: B images, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import nn
from torch.nn import functional

SIDE_PX = 299
NUM_FEATURES = 2048
NUM_CLASSES = 1008
Pool = Literal["average", "maximum", "halving"]


@dataclass(frozen=True, slots=True)
class Conv:
    """One convolution: the channels it makes, and its kernel (height, width); it keeps the size unless it halves."""

    name: str
    channels: int
    kernel: tuple[int, int] = (1, 1)
    is_halving: bool = False


Step = tuple[Conv, ...]
"""Convolutions side by side: one, or two of the same input that are joined."""
Branch = tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """Branches whose outputs are joined; the last branch pools first, and may have a convolution after it."""

    branches: tuple[Branch, ...]
    pool: Pool
    after_pool: int | None


def _chain(*convs: Conv) -> Branch:
    return tuple((conv,) for conv in convs)


def _block_a(pool_channels: int) -> Block:
    return Block(
        (
            _chain(Conv("branch1x1", 64)),
            _chain(Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5))),
            _chain(Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, (3, 3)), Conv("branch3x3dbl_3", 96, (3, 3))),
        ),
        "average",
        pool_channels,
    )


def _block_c(inner: int) -> Block:
    long = [("1", inner, (1, 1)), ("2", inner, (7, 1)), ("3", inner, (1, 7)), ("4", inner, (7, 1)), ("5", 192, (1, 7))]
    return Block(
        (
            _chain(Conv("branch1x1", 192)),
            _chain(Conv("branch7x7_1", inner), Conv("branch7x7_2", inner, (1, 7)), Conv("branch7x7_3", 192, (7, 1))),
            _chain(*(Conv(f"branch7x7dbl_{place}", channels, kernel) for place, channels, kernel in long)),
        ),
        "average",
        192,
    )


def _block_e(pool: Pool) -> Block:
    def both(name: str) -> Step:
        return Conv(f"{name}a", 384, (1, 3)), Conv(f"{name}b", 384, (3, 1))

    return Block(
        (
            _chain(Conv("branch1x1", 320)),
            ((Conv("branch3x3_1", 384),), both("branch3x3_2")),
            ((Conv("branch3x3dbl_1", 448),), (Conv("branch3x3dbl_2", 384, (3, 3)),), both("branch3x3dbl_3")),
        ),
        pool,
        192,
    )


BLOCKS: Mapping[str, Block] = {
    "Mixed_5b": _block_a(32),
    "Mixed_5c": _block_a(64),
    "Mixed_5d": _block_a(64),
    "Mixed_6a": Block(
        (
            _chain(Conv("branch3x3", 384, (3, 3), is_halving=True)),
            _chain(
                Conv("branch3x3dbl_1", 64),
                Conv("branch3x3dbl_2", 96, (3, 3)),
                Conv("branch3x3dbl_3", 96, (3, 3), is_halving=True),
            ),
        ),
        "halving",
        None,
    ),
    "Mixed_6b": _block_c(128),
    "Mixed_6c": _block_c(160),
    "Mixed_6d": _block_c(160),
    "Mixed_6e": _block_c(192),
    "Mixed_7a": Block(
        (
            _chain(Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, (3, 3), is_halving=True)),
            _chain(
                Conv("branch7x7x3_1", 192),
                Conv("branch7x7x3_2", 192, (1, 7)),
                Conv("branch7x7x3_3", 192, (7, 1)),
                Conv("branch7x7x3_4", 192, (3, 3), is_halving=True),
            ),
        ),
        "halving",
        None,
    ),
    "Mixed_7b": _block_e("average"),
    "Mixed_7c": _block_e("maximum"),
}
"""By the names of the weights, in their order. The second E block pools by its maximum: the graph of 2015 does."""


class ConvNorm(nn.Module):
    """A convolution without bias, normalised, and what is below 0 cut off."""

    def __init__(self, num_in: int, num_out: int, kernel: tuple[int, int], *, stride: int = 1, padding: str | int = 0):
        super().__init__()
        self.conv = nn.Conv2d(num_in, num_out, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(num_out, eps=0.001)

    def forward(self, x_BCHW: Float[torch.Tensor, "B C H W"]) -> Float[torch.Tensor, "B K h w"]:
        """Return the new channels."""
        return functional.relu(self.bn(self.conv(x_BCHW)))


class Mixed(nn.Module):
    """One block, by its description."""

    def __init__(self, num_in: int, block: Block) -> None:
        super().__init__()
        self.block = block
        self.num_out = num_in if block.after_pool is None else block.after_pool
        for branch in block.branches:
            channels = num_in
            for step in branch:
                for conv in step:
                    self.add_module(conv.name, _made(channels, conv))
                channels = sum(conv.channels for conv in step)
            self.num_out += channels
        if block.after_pool is not None:
            self.add_module("branch_pool", ConvNorm(num_in, block.after_pool, (1, 1)))

    def forward(self, x_BCHW: Float[torch.Tensor, "B C H W"]) -> Float[torch.Tensor, "B K h w"]:
        """Return the branches' channels, joined in their order, the pooled ones last."""
        joined = []
        for branch in self.block.branches:
            y = x_BCHW
            for step in branch:
                y = torch.cat([self.get_submodule(conv.name)(y) for conv in step], dim=1)
            joined.append(y)
        pooled = _POOLS[self.block.pool](x_BCHW)
        joined.append(pooled if self.block.after_pool is None else self.get_submodule("branch_pool")(pooled))
        return torch.cat(joined, dim=1)


def _made(num_in: int, conv: Conv) -> ConvNorm:
    if conv.is_halving:
        return ConvNorm(num_in, conv.channels, conv.kernel, stride=2)
    return ConvNorm(num_in, conv.channels, conv.kernel, padding="same")


_POOLS = {
    "average": partial(functional.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False),
    "maximum": partial(functional.max_pool2d, kernel_size=3, stride=1, padding=1),
    "halving": partial(functional.max_pool2d, kernel_size=3, stride=2),
}


class Inception(nn.Module):
    """From images to the 2048 features before the classes."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, (3, 3), stride=2)
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, (3, 3))
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, (3, 3), padding=1)
        self.Conv2d_3b_1x1 = ConvNorm(64, 80, (1, 1))
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, (3, 3))
        channels = 192
        for name, block in BLOCKS.items():
            mixed = Mixed(channels, block)
            self.add_module(name, mixed)
            channels = mixed.num_out
        self.fc = nn.Linear(channels, NUM_CLASSES)  # of the weights' file; features come before it

    def forward(self, images_BCHW: UInt8[torch.Tensor, "B 3 H W"]) -> Float[torch.Tensor, "B 2048"]:
        """Return the features of images of one size."""
        x = (resized(images_BCHW.float()) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(_POOLS["halving"](x)))
        x = _POOLS["halving"](x)
        for name in BLOCKS:
            x = self.get_submodule(name)(x)
        return x.mean(dim=(2, 3))


def resized(x_BCHW: Float[torch.Tensor, "B C H W"]) -> Float[torch.Tensor, "B C 299 299"]:
    """Return images at the network's size, as TensorFlow 1 scaled: corners on corners at the left and top only."""
    for axis in (2, 3):
        size = x_BCHW.shape[axis]
        places = torch.arange(SIDE_PX, device=x_BCHW.device, dtype=torch.float32) * (size / SIDE_PX)
        below = places.floor().long().clamp(max=size - 1)
        above = (below + 1).clamp(max=size - 1)
        share = (places - below).view((-1, 1) if axis == 2 else (-1,))
        low, high = x_BCHW.index_select(axis, below), x_BCHW.index_select(axis, above)
        x_BCHW = low + (high - low) * share
    return x_BCHW
