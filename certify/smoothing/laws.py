"""The table of noise laws, and which one a run uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from certify.results import SmoothingSettings
from certify.smoothing.gaussian import GaussianLaw
from certify.smoothing.gaussian_255 import gaussian_255
from certify.smoothing.noise import NoiseLaw
from certify.smoothing.uniform import UniformLaw
from certify.smoothing.uniform_255 import uniform_255

LAWS: Mapping[str, Callable[[float], NoiseLaw]] = MappingProxyType(
    {"gaussian": GaussianLaw, "gaussian-255": gaussian_255, "uniform": UniformLaw, "uniform-255": uniform_255}
)


def law_name(settings: SmoothingSettings, *, eight_bit: bool) -> str:
    """Return the name of the law: the sound integer one for 8-bit data, unless float noise is asked for.

    Example:
        >>> law_name(SmoothingSettings(sigma=0.5), eight_bit=True)
        'gaussian-255'
    """
    sound = f"{settings.noise}-255"
    return sound if eight_bit and not settings.float_noise and sound in LAWS else settings.noise


def make_law(settings: SmoothingSettings, *, eight_bit: bool) -> NoiseLaw:
    """Return the noise law of a run at its sigma.

    Raises:
        InputError: If sigma is out of the law's range.
    """
    return LAWS[law_name(settings, eight_bit=eight_bit)](settings.sigma)
