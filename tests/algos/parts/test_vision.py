"""What agents for pixels share: the shift, the convolutions, the autoencoder of frames."""

from __future__ import annotations

import pytest
import torch
import torch.distributions as td
import torch.nn.functional as F

from algos.parts.optim import adam, step
from algos.parts.rng import ReplicaRng
from algos.parts.vision import (
    ConvDecoder,
    ConvEncoder,
    FrameVAE,
    StackedConv,
    Trunk,
    Vision,
    random_shift,
    sample_normal,
    split_frames,
)
from tests.helpers.pixels import CPU, SIDE, pictures, stream

WIDE = torch.float32


def drqv2_shift(images: torch.Tensor, shift: torch.Tensor, pad: int) -> torch.Tensor:
    """`RandomShiftsAug` of DrQ-v2's code on `[B, C, n, n]`, by given (x, y) shifts `[B, 2]`."""
    side = images.shape[-1]
    padded = F.pad(images, (pad,) * 4, "replicate")
    eps = 1.0 / (side + 2 * pad)
    line = torch.linspace(-1.0 + eps, 1.0 - eps, side + 2 * pad)[:side]
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)
    moves = shift[:, None, None, :] * (2.0 / (side + 2 * pad))
    return F.grid_sample(padded, grid + moves, padding_mode="zeros", align_corners=False)


@pytest.mark.parametrize(("side", "pad"), [(84, 4), (20, 4), (20, 2)])
def test_the_shift_is_that_of_the_released_code(side: int, pad: int) -> None:
    images = pictures(2, 8, 9, side, side)
    shift = stream(0, 1).integers(2 * pad + 1, 8, 2).float()
    moved = random_shift(images, stream(0, 1), pad)
    assert moved.dtype == torch.uint8
    for r in range(2):
        # The code draws columns first, this project rows.
        expected = drqv2_shift(images[r].float(), shift[r].flip(-1), pad)
        # The code's interpolation is off by rounding only.
        torch.testing.assert_close(moved[r].float(), expected, atol=0.05, rtol=0.0)


def test_shifts_are_uniform_and_independent_in_both_directions() -> None:
    rows = torch.arange(SIDE, dtype=torch.uint8)
    image = torch.stack([rows[:, None].expand(SIDE, SIDE), rows.expand(SIDE, SIDE)])
    moved = random_shift(image.expand(1, 5000, 2, SIDE, SIDE), stream())[0, :, :, 10, 10].long()
    shifts = moved - 10
    counts = torch.zeros(9, 9).index_put_(tuple((shifts + 4).T), torch.ones(5000), True)
    assert float(counts.sum()) == 5000.0
    # The largest of 81 counts of mean 62 and deviation 8; far less than any dependence.
    assert float((counts - 5000 / 81).abs().max()) < 4.5 * (5000 / 81) ** 0.5


@pytest.mark.parametrize(("side", "dim"), [(84, 39_200), (64, 20_000), (20, 288)])
def test_the_encoder_is_that_of_the_released_code(side: int, dim: int) -> None:
    encoder = ConvEncoder(stream(), (9, side, side), WIDE)
    assert encoder.dim == dim
    images = pictures(1, 2, 9, side, side)
    x = images[0].float() / 255.0 - 0.5
    for stride, layer in zip((2, 1, 1, 1), encoder.layers, strict=True):
        assert not layer.bias.any()
        x = F.relu(F.conv2d(x, layer.weight[0], layer.bias[0], stride))
    torch.testing.assert_close(encoder(images)[0], x.flatten(1))


@pytest.mark.parametrize("transposed", [False, True])
def test_convolutions_start_as_in_the_released_code(transposed: bool) -> None:
    """`nn.init.orthogonal_` with gain sqrt(2): W Wᵀ = 2, with rows for the first axis."""
    layer = StackedConv(stream(0, 1), 9, 32, transposed=transposed)
    expected = (9, 32, 3, 3) if transposed else (32, 9, 3, 3)
    for weight in layer.weight:
        assert weight.shape == expected
        rows = weight.flatten(1)
        torch.testing.assert_close(rows @ rows.T, 2.0 * torch.eye(len(rows)), atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("size", [(84, 84), (64, 64), (20, 20), (21, 21), (21, 24)])
def test_the_decoder_gives_the_size_back(size: tuple[int, int]) -> None:
    shape = (3, *size)
    encoder = ConvEncoder(stream(), shape, WIDE)
    decoder = ConvDecoder(stream(), shape, 3, WIDE)
    features = encoder(pictures(1, 2, *shape))
    assert decoder(features).shape == (1, 2, *shape)
    # Every pixel depends on the features: no edge is made of padding alone.
    assert bool((decoder(features) != 0.0).all())


def test_the_decoder_is_the_mirrored_encoder() -> None:
    """Against plain torch, where the size is even as in the released code."""
    decoder = ConvDecoder(stream(), (3, 20, 20), 3, WIDE)
    features = stream(5).normal(2, 288)
    x = features[0].view(2, 32, 3, 3)
    for stride, layer in zip((1, 1, 1, 2), decoder.layers, strict=True):
        pad = stride - 1
        x = F.relu(F.conv_transpose2d(x, layer.weight[0], layer.bias[0], stride, 0, pad))
    expected = F.conv2d(x, decoder.last.weight[0], decoder.last.bias[0], padding=1)
    torch.testing.assert_close(decoder(features)[0], expected)


class Encoders(torch.nn.Module):
    """Everything here that has weights, as one function of images."""

    def __init__(self, rng: ReplicaRng) -> None:
        super().__init__()
        self.vision = Vision(rng, (3, 21, 21), WIDE)
        self.vae = FrameVAE(rng, (21, 21), 5, WIDE)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features and decoded frames, `[R, B, n]`."""
        frames = self.vae.decode(self.vae.encode(images)[0])
        return torch.cat([self.vision(images), frames.flatten(2)], dim=-1)


def test_a_replica_in_a_group_equals_itself_alone() -> None:
    images = pictures(2, 3, 3, 21, 21)
    group = Encoders(stream(3, 8))
    together = group(images)
    assert not torch.allclose(together[0], group(images.flip(0))[1])
    together.square().sum().backward()
    for r, seed in enumerate((3, 8)):
        single = Encoders(stream(seed))
        alone = single(images[r : r + 1])
        torch.testing.assert_close(together[r], alone[0], atol=1e-5, rtol=1e-4)
        alone.square().sum().backward()
        for p, q in zip(group.parameters(), single.parameters(), strict=True):
            assert q.grad.any()
            torch.testing.assert_close(p.grad[r], q.grad[0], atol=1e-3, rtol=1e-3)


def test_the_trunk_is_linear_layernorm_tanh() -> None:
    trunk = Trunk(stream(), 30, 7)
    with torch.no_grad():
        trunk.norm.weight.copy_(torch.linspace(0.5, 2.0, 7))
        trunk.norm.bias.fill_(0.3)
    x = stream(1).normal(4, 30)
    h = x[0] @ trunk.linear.weight[0] + trunk.linear.bias[0]
    expected = torch.tanh(F.layer_norm(h, (7,), trunk.norm.weight[0, 0], trunk.norm.bias[0, 0]))
    torch.testing.assert_close(trunk(x)[0], expected)


def test_the_loss_of_frames_is_the_sum_of_squares_and_the_closed_form_of_kl() -> None:
    vae = FrameVAE(stream(0, 1), (SIDE, SIDE), 5, WIDE)
    frames = pictures(2, 4, 3, SIDE, SIDE)
    mean, log_var = (stream(2, 3).normal(4, 5) for _ in range(2))
    with torch.no_grad():
        latent = sample_normal(mean, log_var, stream(4, 5))
        error, kl = vae.loss(frames, mean, log_var, latent)
        image = vae.decode(latent)
    q = td.Normal(mean, (0.5 * log_var).exp())
    torch.testing.assert_close(kl, td.kl_divergence(q, td.Normal(0.0, 1.0)).sum(-1).mean(-1))
    expected = (image - (frames / 255.0 - 0.5)).square().sum((2, 3, 4)).mean(-1)
    torch.testing.assert_close(error, expected)


def test_samples_have_the_moments_that_were_asked_for() -> None:
    mean = torch.tensor([1.0, -2.0]).expand(1, 40_000, 2)
    log_var = torch.tensor([0.0, -2.0]).expand(1, 40_000, 2)
    z = sample_normal(mean, log_var, stream())[0]
    torch.testing.assert_close(z.mean(0), mean[0, 0], atol=0.02, rtol=0.0)
    torch.testing.assert_close(z.std(0), (0.5 * log_var[0, 0]).exp(), atol=0.02, rtol=0.0)


def test_the_log_variance_is_clamped() -> None:
    vae = FrameVAE(stream(), (SIDE, SIDE), 2, WIDE)
    with torch.no_grad():
        vae.moments.bias[0, 0, 2:] = torch.tensor([-1e3, 1e3])
    _, log_var = vae.encode(pictures(1, 1, 3, SIDE, SIDE))
    assert log_var.flatten().tolist() == [-30.0, 20.0]


@pytest.mark.extended
def test_the_autoencoder_learns_a_handful_of_frames() -> None:
    """Pictures of one bright block each, which one constant picture cannot tell apart."""
    frames = torch.zeros(1, 6, 3, SIDE, SIDE, dtype=torch.uint8)
    for k in range(6):
        frames[0, k, k % 3, 6 * (k // 2) : 6 * (k // 2) + 8, 4 : 16 - 4 * (k % 2)] = 255
    vae = FrameVAE(stream(), (SIDE, SIDE), 16, WIDE)
    optimizer, rng, errors = adam(vae.parameters(), 1e-3), stream(1), []
    for _ in range(400):
        mean, log_var = vae.encode(frames)
        error, kl = vae.loss(frames, mean, log_var, sample_normal(mean, log_var, rng))
        step(optimizer, (error + kl).sum())
        errors.append(float(error.detach()))
    best_constant = float((frames / 255.0).var(1, unbiased=False).sum())
    assert errors[0] > best_constant
    assert errors[-1] < 0.25 * best_constant


def test_stacks_come_apart_oldest_frame_first() -> None:
    stacks = pictures(2, 4, 9, 5, 5)
    frames = split_frames(stacks)
    assert frames.shape == (2, 12, 3, 5, 5)
    assert torch.equal(frames[1, 3 * 2 + 1], stacks[1, 2, 3:6])
    assert frames.device == CPU
