"""A small resumable training loop: deterministic batches, EMA, one atomic checkpoint file.

Every random draw of a step is a function of (seed, step), so the state of a run is its tensors and its step count: no
generator states are stored, and a killed run continues bit for bit (on the CPU, on the same number of threads).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from softalign.errors import ConfigError, TrainingError
from softalign.shapes.pretraining.batch_loss import BatchLoss, CapturedUpdates
from softalign.shapes.pretraining.recipe import DenoiserConfig, PretrainConfig, TransformerConfig
from softalign.store.files import replacing

logger = logging.getLogger(__name__)

_LOG_EVERY_SECONDS = 20.0
_PROGRESS_KEY = "progress"
_ADAM_STATE = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """Length, rate and checkpoint interval of a run; ``digest`` names the configuration the checkpoint belongs to."""

    num_samples: int
    batch_size: int
    learning_rate: float
    num_warmup_samples: int
    decay_share: float
    ema_decay: float
    checkpoint_every_samples: int
    digest: str
    max_grad_norm: float = 1.0
    betas: tuple[float, float] = (0.9, 0.98)

    @property
    def num_steps(self) -> int:
        """The number of optimizer updates of the whole run."""
        return -(-self.num_samples // self.batch_size)

    def learning_rate_at(self, step: int) -> float:
        """Return the rate: linear warm-up, constant, linear decay to 0 over the last ``decay_share`` of the run."""
        samples_seen = step * self.batch_size
        warmup = min(1.0, (samples_seen + self.batch_size) / max(1, self.num_warmup_samples))
        remaining = (self.num_samples - samples_seen) / max(1.0, self.decay_share * self.num_samples)
        return self.learning_rate * min(warmup, 1.0, max(0.0, remaining))


def denoiser_loop(settings: DenoiserConfig | TransformerConfig, config: PretrainConfig, digest: str) -> LoopSettings:
    """Return the loop's settings for one of the two denoisers."""
    return LoopSettings(
        num_samples=settings.num_samples,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        num_warmup_samples=settings.num_warmup_samples,
        decay_share=settings.decay_share,
        ema_decay=settings.ema_decay,
        checkpoint_every_samples=config.checkpoint_every_samples,
        digest=digest,
        max_grad_norm=settings.max_gradient_norm,
    )


ModelT = TypeVar("ModelT", bound=nn.Module)


class ResumableTraining(Generic[ModelT]):
    """Parameters, their EMA, AdamW and the step count, with ``save``, ``load`` and ``run``.

    Args:
        model: the module to train in place, on the device where it is; on CUDA whole updates are captured.
        settings: see LoopSettings.
        state_path: the checkpoint file (safetensors, replaced atomically); loaded when it exists.

    Raises:
        ConfigError: the checkpoint was written under another configuration.
    """

    def __init__(self, model: ModelT, settings: LoopSettings, state_path: Path) -> None:
        self.model, self.settings, self.state_path = model, settings, state_path
        self.step = 0
        self.ema = {name: p.detach().clone() for name, p in model.named_parameters()}
        self.device = next(model.parameters()).device
        self.optimizer = _optimizer(model, settings, self.device)
        self._captured = CapturedUpdates(self._descend) if self.device.type == "cuda" else None
        if state_path.exists():
            self._load()

    def run(
        self,
        loss_at: Callable[[int], Tensor],
        after_save: Callable[[int], None] | None = None,
        max_steps: int | None = None,
    ) -> None:
        """Train to the end of the settings, or for at most ``max_steps`` more updates.

        Args:
            loss_at: the loss of a step; must depend on the step number and the parameters only.
            after_save: called with the samples seen after every checkpoint.
            max_steps: stop early after that many updates, without a final checkpoint (as if killed).

        Raises:
            TrainingError: a loss is not finite.
        """
        settings = self.settings
        stop = settings.num_steps if max_steps is None else min(settings.num_steps, self.step + max_steps)
        interval = max(1, settings.checkpoint_every_samples // settings.batch_size)
        since, steps_since, loss_sum = time.monotonic(), 0, 0.0
        while self.step < stop:
            loss = float(self._update(loss_at))
            self.step += 1
            steps_since, loss_sum = steps_since + 1, loss_sum + loss
            if time.monotonic() - since > _LOG_EVERY_SECONDS:
                rate = steps_since * settings.batch_size / (time.monotonic() - since)
                seen = self.step * settings.batch_size
                logger.info("samples_seen %d loss %.4f samples/s %.0f", seen, loss_sum / steps_since, rate)
                since, steps_since, loss_sum = time.monotonic(), 0, 0.0
            if self.step % interval == 0 or self.step == settings.num_steps:
                self.save()
                if after_save is not None:
                    after_save(self.step * settings.batch_size)

    def _update(self, loss_at: Callable[[int], Tensor]) -> Tensor:
        self._set_learning_rate(self.settings.learning_rate_at(self.step))
        if self._captured is not None and isinstance(loss_at, BatchLoss):
            loss = self._captured(loss_at, self.step)
        else:
            loss = self._descend(lambda: loss_at(self.step))
        if not torch.isfinite(loss):
            raise TrainingError(
                "the pretraining loss is not finite",
                found=str(loss.item()),
                where=f"step {self.step}",
                fix="lower learning_rate",
            )
        decay = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            parameters = [p.detach() for p in self.model.parameters()]
            torch._foreach_lerp_(list(self.ema.values()), parameters, 1 - decay)
        return loss

    def _descend(self, loss_of: Callable[[], Tensor]) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = loss_of()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
        self.optimizer.step()
        return loss.detach()

    def _set_learning_rate(self, value: float) -> None:
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(value)  # in place: captured updates read it there
            else:
                group["lr"] = value

    def load_ema_into(self, model: nn.Module) -> None:
        """Copy the averaged parameters into ``model`` (buffers are left alone)."""
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(self.ema[name])

    def save(self) -> None:
        """Write parameters, EMA and optimiser state as one file; a reader sees the old file or the new one."""
        tensors = {f"model.{name}": p.detach() for name, p in self.model.named_parameters()}
        tensors |= {f"ema.{name}": tensor for name, tensor in self.ema.items()}
        for name, parameter in self.model.named_parameters():
            state = self.optimizer.state[parameter]
            tensors |= {f"{key}.{name}": state[key] for key in _ADAM_STATE if key in state}
        with replacing(self.state_path) as made:
            save_file(
                {key: tensor.contiguous() for key, tensor in tensors.items()},
                made,
                # One entry: the order of several is not the same in every process, and equal states are equal bytes.
                metadata={_PROGRESS_KEY: json.dumps({"step": self.step, "digest": self.settings.digest})},
            )

    def _load(self) -> None:
        with safe_open(self.state_path, framework="pt") as file:
            metadata = json.loads(file.metadata()[_PROGRESS_KEY])
            if metadata["digest"] != self.settings.digest:
                raise ConfigError(
                    "the pretraining checkpoint belongs to another configuration",
                    expected=self.settings.digest,
                    found=metadata["digest"],
                    where=str(self.state_path),
                    fix="use another --out folder, or restore the configuration the run was started with",
                )
            self.step = metadata["step"]
            keys = set(file.keys())
            with torch.no_grad():
                for name, parameter in self.model.named_parameters():
                    parameter.copy_(file.get_tensor(f"model.{name}"))
                    self.ema[name].copy_(file.get_tensor(f"ema.{name}"))
                    if f"step.{name}" in keys:
                        slots = {k: file.get_tensor(f"{k}.{name}").to(self.device) for k in _ADAM_STATE}
                        self.optimizer.state[parameter] = slots
        logger.info("resumed %s at step %d", self.state_path.name, self.step)


def _optimizer(model: nn.Module, settings: LoopSettings, device: torch.device) -> torch.optim.AdamW:
    """Return AdamW; on CUDA one whose updates can be captured, its rate a tensor there."""
    rate, is_cuda = settings.learning_rate, device.type == "cuda"
    return torch.optim.AdamW(
        model.parameters(),
        lr=torch.tensor(rate, device=device) if is_cuda else rate,
        betas=settings.betas,
        weight_decay=1e-4,
        foreach=True,
        capturable=is_cuda,
    )
