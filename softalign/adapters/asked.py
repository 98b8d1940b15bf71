"""How an adapter's tokens are asked for, once it is known that this means something."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from softalign.config.evaluation import UnconditionalBank
from softalign.errors import ConfigError


@dataclass(frozen=True, slots=True)
class AskedTokens:
    """How tokens are to be attached: see ``load_soft_tokens``.

    Raises:
        ConfigError: there is no such bank, ``divide_by_guidance`` is no bool, or tokens would be attached both in the
            place of others and beside them.
    """

    scale: float
    force: bool
    use_ema: bool
    unconditional_bank: UnconditionalBank
    divide_by_guidance: bool
    replace: bool
    compose: bool

    def __post_init__(self) -> None:
        banks = get_args(UnconditionalBank)
        if self.unconditional_bank not in banks:
            raise ConfigError(
                "There is no such bank of soft tokens.",
                expected=" or ".join(map(repr, banks)),
                found=repr(self.unconditional_bank)[:100],
                where="unconditional_bank",
                fix="load the tokens with one of these",
            )
        if not isinstance(self.divide_by_guidance, bool):
            raise ConfigError(
                "Whether guidance divides the tokens' strength is said by True or False.",
                expected="True or False",
                found=repr(self.divide_by_guidance)[:100],
                where="divide_by_guidance",
                fix="load the tokens with one of these",
            )
        if self.replace and self.compose:
            raise ConfigError(
                "Soft tokens are attached in the place of others or beside them.",
                expected="replace=True or compose=True",
                found="both",
            )
