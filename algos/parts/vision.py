"""Encode images for agents on pixels: one augmentation, one encoder, one autoencoder of frames.

Sizes, initial weights and the shift are DrQ-v2's (Yarats et al. 2021, arXiv 2107.09645;
facebookresearch/drqv2 c0c650b, `drqv2.py`): four convolutions of 3 x 3 with 32 channels,
the first of stride 2, and a trunk Linear -> LayerNorm -> tanh that every network which
reads images begins with. The autoencoder has the same convolutions, mirrored for its
decoder (haotiansun14/rl-rep d4dd78a, `agent/diffsrdrq`).

Images are uint8 in memory and `x / 255 - 0.5` in networks. As in `algos.parts.layers` there is
a leading axis of replicas, whose weights never mix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algos.parts.layers import Initialiser, Layers, StackedLinear, StackedNorm, orthogonal_init
from algos.parts.rng import ReplicaRng

CHANNELS = 32  # of every convolution
STRIDES = (2, 1, 1, 1)
KERNEL = 3
SHIFT = 4  # pixels
TRUNK = 50  # features of a trunk
FRAME = 3  # channels of one frame
PIECE = 64  # images that go through convolutions at a time on a CPU


def random_shift(images: Tensor, rng: ReplicaRng, pad: int = SHIFT) -> Tensor:
    """Move each image by whole pixels, up to `pad` in both directions; edges are repeated.

    This is DrQ-v2's augmentation. Its interpolation hits pixels exactly, so an index does.

    Args:
        images: `[R, B, C, H, W]`; the C channels of one image move together.
        rng: source of the shifts.
        pad: largest shift.
    """
    height, width = images.shape[-2:]
    shift = rng.integers(2 * pad + 1, images.shape[1], 2) - pad
    rows = torch.arange(height, device=images.device) + shift[..., :1]
    columns = torch.arange(width, device=images.device) + shift[..., 1:]
    rows, columns = rows.clamp_(0, height - 1), columns.clamp_(0, width - 1)
    moved = images.gather(3, rows[:, :, None, :, None].expand_as(images))
    return moved.gather(4, columns[:, :, None, None, :].expand_as(images))


def normalise(images: Tensor, dtype: torch.dtype) -> Tensor:
    """X / 255 - 0.5."""
    return images.to(dtype) / 255.0 - 0.5


class StackedConv(nn.Module):
    """S convolutions of 3 x 3 without padding, or transposed ones, on `[S, B, C, H, W]`.

    Args:
        rng: where initial weights come from: orthogonal with gain sqrt(2), zero bias.
        fan_in: input channels.
        fan_out: output channels.
        stride: step of the kernel.
        transposed: map back from the small image to the large one.
        output_padding: rows and columns that a transposed convolution adds at the end.
    """

    def __init__(
        self,
        rng: ReplicaRng,
        fan_in: int,
        fan_out: int,
        stride: int = 1,
        transposed: bool = False,
        output_padding: int = 0,
    ) -> None:
        super().__init__()
        # Torch lays the weights of a transposed convolution out as [in, out, k, k].
        out, into = (fan_in, fan_out) if transposed else (fan_out, fan_in)
        flat, _ = orthogonal_init(rng, 1, into * KERNEL**2, out)
        weight = flat.transpose(1, 2).reshape(-1, out, into, KERNEL, KERNEL) * math.sqrt(2.0)
        self.weight = nn.Parameter(weight.contiguous())
        self.bias = nn.Parameter(torch.zeros(weight.shape[0], fan_out, device=rng.device))
        self.stride, self.transposed, self.output_padding = stride, transposed, output_padding

    def forward(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Map `[S, B, in, H, W]` to `[S, B, out, H', W']` in `dtype`."""
        x, weight, bias = x.to(dtype), self.weight.to(dtype), self.bias.to(dtype)
        if len(x) == 1 or dtype != torch.bfloat16 or x.device.type != "cpu":
            return self._convolve(x, weight, bias)
        # A CPU's bfloat16 kernels fill up groups of few channels with 0 times the channels of
        # the next, so that what is not finite in one network would reach another. One by one
        # takes no longer (measured).
        parts = zip(x.split(1), weight.split(1), bias.split(1), strict=True)
        return torch.cat([self._convolve(*part) for part in parts])

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        stack, weight, bias = x.shape[0], weight.flatten(0, 1), bias.flatten()
        # The stack becomes groups of channels, which never mix. With the channels of a pixel
        # side by side the transposed ones take half the time on a CPU (measured).
        x = x.transpose(0, 1).flatten(1, 2).contiguous(memory_format=torch.channels_last)
        if self.transposed:
            y = F.conv_transpose2d(
                x, weight, bias, self.stride, 0, self.output_padding, groups=stack
            )
        else:
            y = F.conv2d(x, weight, bias, self.stride, groups=stack)
        return y.unflatten(1, (stack, -1)).transpose(0, 1)


def small_size(size: int) -> int:
    """Side of the encoder's last feature map for an image of side `size`: 35 of 84, 25 of 64."""
    for stride in STRIDES:
        size = (size - KERNEL) // stride + 1
    return size


def in_pieces(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return `function` of `x` `[R, B, ...]`, on a CPU for `PIECE` of the B at a time.

    Beyond that size each layer's result is fresh memory from the system, page by page: half of
    the time of a decoder at 84 x 84 (measured).
    """
    if x.device.type != "cpu" or x.shape[1] <= PIECE:
        return function(x)
    return torch.cat([function(piece) for piece in x.split(PIECE, dim=1)], dim=1)


class ConvEncoder(nn.Module):
    """Images to the flat features of four convolutions.

    Args:
        rng: where initial weights come from.
        shape: `(C, H, W)` of an image.
        dtype: arithmetic of the convolutions, and type of the features.
    """

    def __init__(self, rng: ReplicaRng, shape: Sequence[int], dtype: torch.dtype) -> None:
        super().__init__()
        channels = [shape[0], *[CHANNELS] * len(STRIDES)]
        self.layers = Layers(
            StackedConv(rng, channels[k], channels[k + 1], stride)
            for k, stride in enumerate(STRIDES)
        )
        self.dim = CHANNELS * small_size(shape[1]) * small_size(shape[2])
        self.dtype = dtype

    def forward(self, images: Tensor) -> Tensor:
        """Features `[R, B, dim]` of uint8 images `[R, B, C, H, W]`."""
        return in_pieces(self._features, images)

    def _features(self, images: Tensor) -> Tensor:
        x = normalise(images, self.dtype)
        for layer in self.layers:
            x = F.relu(layer(x, self.dtype))
        return x.flatten(2)


class ConvDecoder(nn.Module):
    """Flat features of `ConvEncoder`'s size to images: its layers mirrored.

    Three transposed convolutions, one of stride 2 that brings the size back, and one plain
    convolution to `channels`; the code ends with a convolution of width 3 and padding 1.
    """

    def __init__(
        self, rng: ReplicaRng, shape: Sequence[int], channels: int, dtype: torch.dtype
    ) -> None:
        super().__init__()
        height, width = shape[1:]
        self.small = (CHANNELS, small_size(height), small_size(width))
        self.size = (height, width)
        self.layers = Layers(
            [
                *(StackedConv(rng, CHANNELS, CHANNELS, transposed=True) for _ in STRIDES[1:]),
                StackedConv(rng, CHANNELS, CHANNELS, STRIDES[0], True, output_padding=1),
            ]
        )
        self.last = StackedConv(rng, CHANNELS, channels)
        self.dtype = dtype

    def forward(self, features: Tensor) -> Tensor:
        """Images `[R, B, channels, H, W]` float32, in units of x / 255 - 0.5."""
        return in_pieces(self._images, features)

    def _images(self, features: Tensor) -> Tensor:
        x = features.unflatten(-1, self.small)
        for layer in self.layers:
            x = F.relu(layer(x, self.dtype))
        # A padding of 1 keeps the size in the last layer; an odd side is one row too large here.
        grow = [1 + self.size[axis] - x.shape[3 + axis] for axis in (1, 0)]
        x = F.pad(x.flatten(0, 1), (1, grow[0], 1, grow[1])).unflatten(0, x.shape[:2])
        return cast(Tensor, self.last(x, self.dtype)).float()


class Trunk(nn.Module):
    """Linear -> LayerNorm -> tanh: what stands between an encoder and a network behind it."""

    def __init__(
        self,
        rng: ReplicaRng,
        fan_in: int,
        dim: int = TRUNK,
        dtype: torch.dtype = torch.float32,
        init: Initialiser = orthogonal_init,
    ) -> None:
        super().__init__()
        self.linear = StackedLinear(rng, 1, fan_in, dim, init)
        self.norm = StackedNorm(rng, dim)
        self.dim, self.dtype = dim, dtype

    def forward(self, x: Tensor) -> Tensor:
        """Map `[R, B, fan_in]` to `[R, B, dim]` float32 in (-1, 1)."""
        return torch.tanh(self.norm(self.linear(x, self.dtype)))


class Vision(nn.Module):
    """Encoder and trunk of an agent that otherwise reads vectors.

    The critic's loss trains it; the policy reads its features without gradients, and a
    target network those of the present encoder (both as in DrQ-v2).

    Args:
        rng: where initial weights come from.
        shape: `(C, H, W)` of an observation.
        dtype: arithmetic of the large products.
    """

    def __init__(self, rng: ReplicaRng, shape: Sequence[int], dtype: torch.dtype) -> None:
        super().__init__()
        self.encoder = ConvEncoder(rng, shape, dtype)
        self.trunk = Trunk(rng, self.encoder.dim, dtype=dtype)
        self.dim = self.trunk.dim

    def forward(self, images: Tensor) -> Tensor:
        """Features `[R, B, dim]` float32 of uint8 images `[R, B, C, H, W]`."""
        return cast(Tensor, self.trunk(self.encoder(images)))


class FrameVAE(nn.Module):
    """Variational autoencoder of single frames with a normal latent vector.

    Encoder: convolutions -> Linear -> LayerNorm -> SiLU -> Linear to mean and log variance,
    this clamped to [-30, 20]. Decoder: Linear -> ReLU -> transposed convolutions. Sizes are
    those of haotiansun14/rl-rep d4dd78a, `agent/diffsrdrq`.

    Args:
        rng: where initial weights come from.
        size: `(H, W)` of a frame.
        latent_dim: size of the latent vector.
        dtype: arithmetic of the large products.
    """

    LOG_VAR_LOW, LOG_VAR_HIGH = -30.0, 20.0

    def __init__(
        self, rng: ReplicaRng, size: Sequence[int], latent_dim: int, dtype: torch.dtype
    ) -> None:
        super().__init__()
        shape = (FRAME, *size)
        self.encoder = ConvEncoder(rng, shape, dtype)
        self.squeeze = StackedLinear(rng, 1, self.encoder.dim, latent_dim)
        self.norm = StackedNorm(rng, latent_dim)
        self.moments = StackedLinear(rng, 1, latent_dim, 2 * latent_dim)
        self.widen = StackedLinear(rng, 1, latent_dim, self.encoder.dim)
        self.decoder = ConvDecoder(rng, shape, FRAME, dtype)
        self.latent_dim, self.dtype = latent_dim, dtype

    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance `[R, B, latent]` float32 of uint8 frames `[R, B, 3, H, W]`."""
        h = F.silu(self.norm(self.squeeze(self.encoder(frames), self.dtype)))
        mean, log_var = self.moments(h).chunk(2, dim=-1)
        return mean, log_var.clamp(self.LOG_VAR_LOW, self.LOG_VAR_HIGH)

    def states(self, stacks: Tensor) -> Tensor:
        """Return posterior means `[R, B, k * latent]` of the frames of stacks, side by side.

        Args:
            stacks: uint8 `[R, B, 3 * k, H, W]`.
        """
        return join_frames(self.encode(split_frames(stacks))[0], stacks.shape[2] // FRAME)

    def decode(self, latent: Tensor) -> Tensor:
        """Frames `[R, B, 3, H, W]` float32, in units of x / 255 - 0.5."""
        return cast(Tensor, self.decoder(F.relu(self.widen(latent, self.dtype))))

    def images(self, latent: Tensor) -> Tensor:
        """Return uint8 frames `[R, B, 3, H, W]`."""
        return ((self.decode(latent) + 0.5) * 255.0).round_().clamp_(0.0, 255.0).to(torch.uint8)

    def loss(
        self, frames: Tensor, mean: Tensor, log_var: Tensor, latent: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Squared error summed over pixels and KL to N(0, I) summed over coordinates.

        Args:
            frames: the frames that were encoded, uint8 `[R, B, 3, H, W]`.
            mean: `[R, B, latent]`.
            log_var: `[R, B, latent]`.
            latent: a sample of that distribution.

        Returns:
            Both terms `[R]`, averaged over frames.
        """
        error = self.decode(latent) - normalise(frames, torch.float32)
        kl = 0.5 * (mean.square() + log_var.exp() - 1.0 - log_var)
        return error.square().flatten(2).sum(-1).mean(-1), kl.sum(-1).mean(-1)


def split_frames(stacks: Tensor) -> Tensor:
    """Single frames `[R, B * k, 3, H, W]` of stacks `[R, B, 3 * k, H, W]`, oldest first."""
    return stacks.unflatten(2, (-1, FRAME)).flatten(1, 2)


def join_frames(latents: Tensor, stack: int) -> Tensor:
    """Return latents of stacks `[R, B, k * n]` from those of their k frames `[R, B * k, n]`."""
    return latents.unflatten(1, (-1, stack)).flatten(2)


def sample_normal(mean: Tensor, log_var: Tensor, rng: ReplicaRng) -> Tensor:
    """Draw from N(mean, exp(log_var)) by reparameterisation; both `[R, B, n]`."""
    return torch.addcmul(mean, (0.5 * log_var).exp(), rng.normal(*mean.shape[1:]))
