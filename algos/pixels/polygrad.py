"""PolyGRAD from pixels: its diffusion world model on the latents of an autoencoder of frames.

Neither the paper (Rigter et al. 2023, arXiv 2312.08533) nor its code has this. The parts are
published each on its own: the world model is `algos.polygrad`, unchanged, and the autoencoder is
the one of Diff-SR's code for pixels (haotiansun14/rl-rep d4dd78a, `agent/diffsrdrq`), which
joins the latents of stacked frames in the same way. With x_f a frame and a stack of k:

    VAE     q(z|x) = N(m(x), diag v(x)),  mean[ |D(z) - x|² + w KL(q ‖ N(0, I)) ]
    state   s = ( m(x_{f-k+1}), .., m(x_f) )

What PolyGRAD knows as an observation is s everywhere: in the windows that the denoiser learns
from, in the states they start from, in actor and critic. Only the VAE's own loss trains the VAE.

The VAE changes all the time, and three things follow from that:

* The memory keeps frames, never latents, and encodes what it hands out with the VAE as it is now.
* The normaliser of latents cannot count all data, as that of rewards and actions does. It is
  an exponential average over the batches of the VAE, one for all k frames of a stack.
* Coordinates that the KL has switched off hardly vary; their scale has a floor (`DriftingMoments`).

Before anything else learns, the VAE learns alone for a while, as in Diff-SR's code. Steps are
agent steps: with an action repeat of 2 one is two frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from algos.parts.blocks import Rows
from algos.parts.config import option
from algos.parts.episodes import EpisodeMemory, end_rows
from algos.parts.normaliser import DriftingMoments, Normaliser
from algos.parts.optim import adam, step
from algos.parts.rng import ReplicaRng
from algos.parts.types import Array, Spaces
from algos.parts.vision import FRAME, FrameVAE, sample_normal
from algos.polygrad import PolyGRAD, PolyGRADConfig


@dataclass(frozen=True, kw_only=True)
class PixelPolyGRADConfig(PolyGRADConfig):
    """Options of PolyGRAD on latents; `Diff-SR` is haotiansun14/rl-rep, agent/diffsrdrq."""

    replay_capacity: int = option(1_000_000, "steps kept, with a frame each", low=2)
    latent_dim: int = option(
        32, "coordinates of a frame's latent (own choice; Diff-SR 256, too wide for windows)", low=1
    )
    vae_pretraining: int = option(
        1000, "updates of the VAE before anything else learns (own choice; Diff-SR 5000)", low=0
    )
    vae_updates: int = option(
        4, "updates of the VAE at each of these times (own choice: one per step)", low=1
    )
    vae_batch: int = option(256, "frames in one of them (own choice)", low=1)
    vae_learning_rate: float = option(3e-4, "Adam of the VAE (Diff-SR, there AdamW)", low=0.0)
    kl_weight: float = option(
        0.1, "weight w of the KL (typoverflow/spectral-rl2; Diff-SR 1.0)", low=0.0
    )
    latent_rate: float = option(
        0.01, "rate of the latents' normaliser per update of the VAE (own choice)", low=1e-6, high=1
    )


class FrameEpisodes:
    """`EpisodeMemory` of pixels: hands out states of latents, keeps each frame once as uint8.

    A step and the newest frame of its observation share a number. The first frame of an
    episode stands in for those before it. Windows and starts are those of `EpisodeMemory`.

    Args:
        spaces: observations are uint8 stacks `[3 * k, H, W]`, oldest frame first.
        config: options of PolyGRAD.
        device: where states go; frames stay in main memory or on disk.
        encode: latents `[1, N, L]` of frames `[1, N, 3, H, W]`.
    """

    def __init__(
        self,
        spaces: Spaces,
        config: PixelPolyGRADConfig,
        device: torch.device,
        encode: Callable[[Tensor], Tensor],
    ) -> None:
        c, self.device, self.encode = config, device, encode
        self.steps = EpisodeMemory.of(c, 0, spaces.action_dim, device)
        self.stack = spaces.obs_shape[0] // FRAME
        self.obs_dim = self.stack * c.latent_dim
        self.latents = DriftingMoments(c.latent_dim, c.latent_rate, device)
        # The oldest step that is kept has older frames in its stack.
        kept = c.replay_capacity + self.stack - 1
        self.frames = Rows((FRAME, *spaces.obs_shape[1:]), np.uint8, kept)
        # Steps since the beginning of the episode.
        self.age: NDArray[np.int64] = np.zeros(c.replay_capacity, np.int64)

    def __len__(self) -> int:
        """Windows that can be drawn."""
        return len(self.steps)

    @property
    def stored(self) -> int:
        """Steps in memory, those of the running episode too."""
        return min(self.steps.total, self.steps.capacity)

    @property
    def moments(self) -> Normaliser[Tensor]:
        """What normalises the rows that `sample` gives."""
        parts = [*[self.latents] * self.stack, self.steps.moments]
        center, scale = (torch.cat([getattr(p, k) for p in parts]) for k in ("center", "scale"))
        return Normaliser(center, scale)

    def add(
        self,
        obs: Array,
        action: Array,
        reward: float,
        terminated: bool,
        truncated: bool,
    ) -> None:
        """Store one step; `obs` is `[3 * k, H, W]`, the rest as in `EpisodeMemory.add`."""
        number = self.steps.total
        self.age[number % self.steps.capacity] = number - self.steps.episode
        self.frames.append(obs[-FRAME:])
        self.steps.add(np.empty(0), action, reward, terminated, truncated)

    def sample(self, count: int, rng: ReplicaRng) -> Tensor:
        """Draw `count` windows uniformly, raw rows `[1, count, H, S + 2 + A]`."""
        number, past = self.steps.windows(count, rng)
        facts = self.steps.rows[number % self.steps.capacity]
        return end_rows(torch.cat([self.states(number), facts], dim=-1), past, self.obs_dim)

    def start_states(self, count: int, rng: ReplicaRng) -> Tensor:
        """Return states `[1, count, S]` at the beginning of `count` windows drawn uniformly."""
        return self.states(self.steps.start_steps(count, rng))

    def states(self, number: Tensor) -> Tensor:
        """Return states `[..., S]` at steps `[...]`; each frame among them is encoded once."""
        steps = number.cpu().numpy()[..., None]
        back = np.arange(self.stack - 1, -1, -1)
        stacks = steps - np.minimum(back, self.age[steps % self.steps.capacity])
        frames, place = np.unique(stacks, return_inverse=True)
        latents = self.encode(self._gather(frames))[0]
        return latents[torch.from_numpy(place.reshape(stacks.shape)).to(self.device)].flatten(-2)

    def random_frames(self, count: int, rng: ReplicaRng) -> Tensor:
        """Return frames `[1, count, 3, H, W]` of steps drawn uniformly."""
        number = self.steps.total - 1 - rng.integers(self.stored, count)[0]
        return self._gather(number.cpu().numpy())

    def _gather(self, numbers: Array) -> Tensor:
        return torch.from_numpy(self.frames.gather(numbers)).to(self.device).unsqueeze(0)

    def state_dict(self) -> dict[str, Any]:
        """Return steps, frames as blocks that a checkpoint writes once, and the normaliser."""
        return {
            "steps": self.steps.state_dict(),
            "frames": self.frames.state_dict(),
            "age": torch.from_numpy(self.age[: self.stored].copy()),
            "latents": self.latents.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the memory; what can be drawn keeps its order."""
        self.steps.load_state_dict(state["steps"])
        self.frames.load_state_dict(state["frames"])
        self.age[: self.stored] = state["age"].numpy()
        self.latents.load_state_dict(state["latents"])


class PixelPolyGRAD(PolyGRAD):
    """PolyGRAD whose observations are the latents of stacked frames."""

    Config = PixelPolyGRADConfig
    config: PixelPolyGRADConfig
    observation_kinds = ("pixels",)
    presets = {
        **PolyGRAD.presets,
        "quick": {
            **PolyGRAD.presets["quick"],
            "latent_dim": 16,
            "vae_pretraining": 200,
            "vae_updates": 1,
            "vae_batch": 16,
            "vae_learning_rate": 1e-3,
            "denoiser_updates": 1,
            "batch_size": 24,
            "imagined_batch": 48,
        },
    }
    task_overrides = {}  # those of PolyGRAD are for vectors

    def make_memory(self) -> FrameEpisodes:
        """Make the VAE, and episodes of frames that it encodes."""
        c, size = self.config, self.spaces.obs_shape[1:]
        self.vae = FrameVAE(self.rng, size, c.latent_dim, self.dtype)
        self.vae_optimizer = adam(self.vae.parameters(), c.vae_learning_rate)
        return FrameEpisodes(self.spaces, c, self.device, self.encode)

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """Return posterior means `[R, N, L]` of uint8 frames `[R, N, 3, H, W]`."""
        return self.vae.encode(frames)[0]

    def see(self, obs: Tensor) -> Tensor:
        """Return states `[R, N, S]` of stacks `[R, N, 3 * k, H, W]`."""
        with torch.no_grad():
            return self.vae.states(obs)

    def learn(self, act: bool) -> dict[str, Tensor]:
        """Update the VAE first; then do, on its latents, what PolyGRAD does."""
        return self.update_vae() | super().learn(act)

    def update_vae(self) -> dict[str, Tensor]:
        """Do `vae_updates` steps on random frames, and before the first of them the pretraining."""
        c = self.config
        count = c.vae_updates + (0 if self.counters.updates else c.vae_pretraining)
        for _ in range(count):
            frames = self.memory.random_frames(c.vae_batch, self.rng)
            mean, log_var = self.vae.encode(frames)
            latent = sample_normal(mean, log_var, self.rng)
            error, kl = self.vae.loss(frames, mean, log_var, latent)
            step(self.vae_optimizer, (error + c.kl_weight * kl).sum())
            self.memory.latents.add(mean.detach()[0])
        return {"vae_error": error.detach(), "vae_kl": kl.detach()}
