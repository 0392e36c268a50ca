"""The table of noise laws, and which one a run uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from certify.errors import InputError
from certify.results import SmoothingSettings
from certify.smoothing.diagonal import DiagonalLaw, diagonal_255
from certify.smoothing.gaussian import GaussianLaw
from certify.smoothing.gaussian_255 import gaussian_255
from certify.smoothing.noise import NoiseLaw
from certify.smoothing.scales import describe_scales
from certify.smoothing.splitting import SplitLaw
from certify.smoothing.uniform import UniformLaw
from certify.smoothing.uniform_255 import uniform_255

LAWS: Mapping[str, Callable[[float], NoiseLaw]] = MappingProxyType(
    {"gaussian": GaussianLaw, "gaussian-255": gaussian_255, "uniform": UniformLaw, "uniform-255": uniform_255}
)


SCALED: Mapping[str, Callable[[float, NDArray[np.float64]], NoiseLaw]] = MappingProxyType(
    {"gaussian-diagonal": DiagonalLaw, "gaussian-diagonal-255": diagonal_255}
)
"""The laws with a scale per coordinate."""


def law_name(settings: SmoothingSettings, *, eight_bit: bool) -> str:
    """Return the name of the law: the sound integer one for 8-bit data, unless float noise is asked for.

    Raises:
        InputError: If splitting is asked for, and the data are not 8-bit.

    Example:
        >>> law_name(SmoothingSettings(sigma=0.5), eight_bit=True)
        'gaussian-255'
    """
    if settings.deterministic and not eight_bit:
        raise InputError(
            "noise split: expected 8-bit data (images, idx files, uint8 arrays), got values of another kind; its "
            "theorem counts whole pixel levels: use --noise uniform for certificates in l1"
        )
    plain = settings.noise if settings.scales is UNSET else f"{settings.noise}-diagonal"
    sound = f"{plain}-255"
    if settings.deterministic:
        return SplitLaw.name
    return sound if eight_bit and not settings.float_noise and sound in {**LAWS, **SCALED} else plain


def make_law(settings: SmoothingSettings, *, eight_bit: bool, scales: NDArray[np.float64] | None = None) -> NoiseLaw:
    """Return the noise law of a run at its sigma, with the scales that its settings name.

    Raises:
        InputError: If sigma is out of the law's range, the law has no scales, or they are not those of the settings.
    """
    name = law_name(settings, eight_bit=eight_bit)
    if settings.scales is UNSET and scales is None:
        if settings.deterministic:
            return SplitLaw(settings.sigma, settings.seed)
        return LAWS[name](settings.sigma)
    if scales is None or settings.scales != describe_scales(scales):
        raise InputError("scales: expected the array that the settings name by its hash, got none or another")
    if name not in SCALED:
        raise InputError(f"scales: expected Gaussian noise, got {settings.noise}; scales per coordinate need it")
    return SCALED[name](settings.sigma, scales)
