"""Guidance by a measurement y = A(x_0) + n: what the likelihood is taken to be once x_0 is known by a belief alone.

``dps``, ``pigdm`` and ``moment_matching`` change the belief, and go with any sampler. The steps of the papers that
change the state instead (the sampler ``DPS``, say) are in ``samplers.inverse``.
"""

from __future__ import annotations

from .base import Measured, check_measurement, check_rows
from .dps import dps
from .moment_matching import moment_matching
from .pigdm import pigdm

__all__ = ["Measured", "check_measurement", "check_rows", "dps", "moment_matching", "pigdm"]
