"""The options of what travels between the replicas, and what is refused of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

from tfdist.errors import ConfigError, did_you_mean

Dtype = Literal["float32", "bfloat16", "float16"]
Compression = Literal["powersgd", "topk", "sign", "bfloat16"]
DTYPES: tuple[str, ...] = get_args(Dtype)
COMPRESSIONS: tuple[str, ...] = get_args(Compression)
DEFAULT_RANK = 4
DEFAULT_SHARE = 0.01


class CommunicationOptions(NamedTuple):
    """How gradients travel.

    Attributes:
        dtype: In which dtype travels what is not compressed: `"float32"`, `"bfloat16"` or `"float16"`.
        compression: `"powersgd"`, `"topk"`, `"sign"`, or `""` for none.
        rank: Of the matrices of PowerSGD.
        share: Of its numbers, those that top-k sends.
    """

    dtype: str = "float32"
    compression: str = ""
    rank: int = DEFAULT_RANK
    share: float = DEFAULT_SHARE

    @property
    def is_exact(self) -> bool:
        """Whether gradients travel as they are."""
        return self.dtype == "float32" and not self.compression

    def describe(self) -> str:
        """Returns the options as they are given to `create_strategy`."""
        parts = [] if self.dtype == "float32" else [f"communication_dtype={self.dtype!r}"]
        if self.compression:
            parts.insert(0, f"gradient_compression={self.compression!r}")
        return ", ".join(parts)


def checked_options(
    communication_dtype: str | None,
    gradient_compression: str | None,
    compression_rank: int | None,
    compression_share: float | None,
) -> CommunicationOptions:
    """Returns the options of a strategy.

    Args:
        communication_dtype: A name in `DTYPES`; None is `"float32"`.
        gradient_compression: A name in `COMPRESSIONS`, or None; `"bfloat16"` is `communication_dtype="bfloat16"`.
        compression_rank: At least 1, with `"powersgd"` only.
        compression_share: Above 0 and at most 0.5, with `"topk"` only.

    Raises:
        ConfigError: A value that is not allowed, or an option without the compression that it is about.
    """
    dtype = _among("communication_dtype", communication_dtype or "float32", DTYPES)
    compression = gradient_compression and _among("gradient_compression", gradient_compression, COMPRESSIONS)
    if compression == "bfloat16":
        if communication_dtype not in (None, "bfloat16"):
            raise ConfigError(
                f"gradient_compression='bfloat16' and communication_dtype={communication_dtype!r} exclude each other. "
                "Give one of the two."
            )
        dtype, compression = "bfloat16", None
    _check_belongs("compression_rank", compression_rank, "powersgd", compression)
    _check_belongs("compression_share", compression_share, "topk", compression)
    rank = DEFAULT_RANK if compression_rank is None else compression_rank
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ConfigError(
            f"compression_rank={rank!r} is not possible; give a whole number of at least 1, as 4."
        )
    share = DEFAULT_SHARE if compression_share is None else compression_share
    if not isinstance(share, int | float) or not 0 < share <= 0.5:
        raise ConfigError(
            f"compression_share={share!r} is not possible: it is the part of a gradient's numbers that travel, each "
            "with its place, so that more than half of them save nothing. Give a number above 0 and at most 0.5, as "
            "0.01."
        )
    return CommunicationOptions(dtype, compression or "", rank, float(share))


def _among(name: str, value: Any, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise ConfigError(
            f"{name}={value!r} is not possible; it is one of {list(allowed)}, or None."
            f"{did_you_mean(str(value), allowed)}"
        )
    return str(value)


def _check_belongs(name: str, value: Any, owner: str, compression: str | None) -> None:
    if value is not None and compression != owner:
        raise ConfigError(
            f"{name}={value!r} is an option of gradient_compression={owner!r}, and gradient_compression is "
            f"{compression!r}. Give gradient_compression={owner!r}, or leave {name} out."
        )
