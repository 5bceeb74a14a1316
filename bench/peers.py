"""What other codes reach on the pairs of the common evaluator, for comparison.

Figures are those of the evaluator's own README (one seed each, 1024 x 1024; their
"elapsed" seconds were taken under load and are left out). A figure that the README
does not give is None.
"""

from __future__ import annotations

__all__ = ("COLUMNS", "PEERS")

COLUMNS = ("sigma", "claimed", "ac1", "star", "bias", "scatter", "completeness", "false", "cpu")

# case -> code -> the columns above
PEERS: dict[str, dict[str, tuple[float | None, ...]]] = {
    "std": {
        "oracle, their seed": (1.00, None, 0.000, 0.92, -0.2, 0.97, 0.982, 1, None),
        "HOTPANTS default": (0.69, None, 0.03, 3.8, -0.5, 0.89, 0.965, 13, 3.2),
        "HOTPANTS tuned": (0.68, None, 0.04, 1.4, -1.2, 1.05, 0.947, 14, 2.2),
        "ISIS": (0.69, None, 0.04, 0.88, 0.1, 1.06, 0.965, 2, 3.2),
        "SFFT sparse": (0.69, None, 0.02, 0.84, -0.9, 1.02, 0.965, 2, 45),
        "SFFT decorrelated": (1.00, None, -0.005, 0.88, -0.8, 0.84, 0.982, 1, 27),
        "PyZOGY": (0.99, None, 0.001, 3.7, -0.1, 0.78, 0.982, 19, 14),
        "ip_diffim": (0.983, 0.966, 0.001, 2.3, 11.6, None, 0.965, 23, 2.8),
    },
    "rev": {
        "HOTPANTS default": (None, None, None, None, None, None, None, 40, None),
        "HOTPANTS tuned": (None, None, None, None, None, None, None, 19, None),
        "ISIS": (None, None, None, None, None, None, 0.927, 2, None),
        "SFFT sparse": (None, None, None, None, None, None, 0.927, 1, None),
        "ip_diffim auto": (1.004, 0.970, 0.001, 2.6, 9.7, None, 0.927, 25, 3.0),
    },
    "eq": {
        "HOTPANTS tuned": (None, None, None, 14.7, None, None, None, 71, None),
        "ISIS": (None, None, None, None, None, None, None, 0, None),
        "SFFT sparse": (None, None, None, None, None, None, None, 0, None),
        "ip_diffim": (0.997, 0.972, 0.000, 1.5, 1.4, None, 0.946, 26, 2.4),
    },
    "shift": {
        "HOTPANTS": (None, None, None, None, None, None, None, 10, None),
        "ISIS": (None, None, None, None, None, None, None, 0, None),
        "SFFT sparse": (None, None, None, None, None, None, None, 0, None),
        "PyZOGY": (None, None, None, None, None, None, None, 28, None),
    },
}
