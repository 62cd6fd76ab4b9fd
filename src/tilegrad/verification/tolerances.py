"""How far results may be from the truth; docs/verification.md gives the reasons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Distance of 1 from the next float32.
EPS = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Tolerances:
    """What a comparison grants, in units that do not depend on the model.

    Attributes:
        rounding: float32 roundings granted to every sum, besides one per square root of its length.
        noise: size of the noise in the perturbed reference runs, in float32 roundings.
        samples: number of perturbed reference runs.
        factor: how many times the spread of the perturbed runs a result may be off.
        update: relative error of one optimizer step, given the gradients.
        clipped_update: the same with clipping, whose norm is one long sum.
        statistics: float32 roundings granted to running statistics, relative to their values.
        derivation: relative error of the derived gradient in float64, whose constants are float32 numbers.
        direction: relative error of a central difference.
    """

    rounding: float = 16.0
    noise: float = 16.0
    samples: int = 6
    factor: float = 4.0
    update: float = 1e-5
    clipped_update: float = 1e-4
    statistics: float = 64.0
    derivation: float = 2e-6
    direction: float = 1e-5

    def sum_error(self, chain: int) -> float:
        """Error granted to a float32 sum, relative to the sum of the magnitudes of its terms."""
        return (self.rounding + float(np.sqrt(chain))) * EPS
