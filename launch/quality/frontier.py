"""The frontier of quality against diversity: the settings that no other one beats in both (Pareto)."""

from __future__ import annotations

import numpy as np


def pareto_front(quality_S: np.ndarray, diversity_S: np.ndarray) -> list[int]:
    """The numbers of the settings that no other equals in both and beats in one, float64 [S] each, the higher the
    better; by falling quality. Settings with a value that is not finite are none of them."""
    finite = np.flatnonzero(np.isfinite(quality_S) & np.isfinite(diversity_S))
    order = finite[np.lexsort((-diversity_S[finite], -quality_S[finite]))]
    front, most_diverse, its_quality = [], -np.inf, np.inf
    for number in order.tolist():
        equal = front and diversity_S[number] == most_diverse and quality_S[number] == its_quality
        if diversity_S[number] > most_diverse or equal:
            front.append(number)
            most_diverse, its_quality = diversity_S[number], quality_S[number]
    return front
