"""How supernovae, quasars and variable stars change with time.

Every light curve is a function of time alone (and of the numbers drawn for
the object), so that a visit simulated later agrees with those there are.
"""

from __future__ import annotations

__all__ = ("DampedRandomWalk", "periodic_magnitude", "supernova_shape")

from dataclasses import dataclass

import numpy as np


def supernova_shape(
    days: np.ndarray | float, *, rise: np.ndarray | float, decline: np.ndarray | float
) -> np.ndarray:
    """Return the light of a supernova relative to its peak.

    The form of Bazin et al. (2009, A&A 499, 653, eq. 1),
    ``exp(-t / decline) / (1 + exp(-t / rise))``, scaled and shifted so that
    its maximum of one is at ``days == 0``.

    Parameters
    ----------
    days : array-like
        Days since the peak, in the observer's frame.
    rise, decline : array-like
        Time scales in the same days; ``decline`` must exceed ``rise``.

    Returns
    -------
    shape : `numpy.ndarray`
        Between 0 and 1.
    """
    rise, decline = np.asarray(rise, float), np.asarray(decline, float)
    if np.any(rise <= 0) or np.any(decline <= rise):
        raise ValueError(f"A supernova needs 0 < rise < decline; got rise={rise}, decline={decline}.")
    # The derivative vanishes where exp(-t / rise) == rise / (decline - rise).
    peak_time = rise * np.log(decline / rise - 1.0)
    time = np.asarray(days, float) + peak_time

    def log_shape(t: np.ndarray) -> np.ndarray:
        return -t / decline - np.logaddexp(0.0, -t / rise)

    return np.exp(log_shape(time) - log_shape(peak_time))


def periodic_magnitude(
    mjd: np.ndarray | float,
    *,
    period: np.ndarray | float,
    phase: np.ndarray | float,
    amplitude: np.ndarray | float,
) -> np.ndarray:
    """Return the change in magnitude of a star that varies as a sine.

    Parameters
    ----------
    mjd : array-like
        Time in days.
    period, phase, amplitude : array-like
        Days, radian, and half the range in mag.
    """
    angle = 2 * np.pi * np.asarray(mjd, float) / np.asarray(period) + np.asarray(phase)
    return np.asarray(amplitude) * np.sin(angle)


@dataclass(frozen=True)
class DampedRandomWalk:
    """The magnitude of a quasar, as one realisation on a grid of nights.

    An Ornstein-Uhlenbeck process (Kelly et al. 2009, ApJ 698, 895): variance
    ``sigma**2`` and correlation ``exp(-dt / tau)``.

    Attributes
    ----------
    start : `float`
        Time of the first grid point in days.
    values : `numpy.ndarray`, ``(N,)``
        Magnitude relative to the mean, one a day.
    """

    start: float
    values: np.ndarray

    @classmethod
    def draw_random(
        cls, rng: np.random.Generator, *, start: float, stop: float, tau: float, sigma: float
    ) -> DampedRandomWalk:
        """Draw one realisation that covers ``start`` to ``stop`` (days)."""
        if tau <= 0 or sigma < 0 or stop <= start:
            raise ValueError(
                "A damped random walk needs tau > 0, sigma >= 0 and stop > start; "
                f"got tau={tau}, sigma={sigma}, start={start}, stop={stop}."
            )
        steps = int(np.ceil(stop - start)) + 2
        noise = rng.standard_normal(steps)
        keep = np.exp(-1.0 / tau)
        values = np.empty(steps)
        values[0] = sigma * noise[0]
        kick = sigma * np.sqrt(1.0 - keep**2)
        for i in range(1, steps):
            values[i] = keep * values[i - 1] + kick * noise[i]
        return cls(start=start, values=values)

    def __call__(self, mjd: np.ndarray | float) -> np.ndarray:
        """Return the magnitude relative to the mean (linear between nights)."""
        return np.interp(np.asarray(mjd, float) - self.start, np.arange(len(self.values)), self.values)
