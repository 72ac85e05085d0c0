"""Names of clusters."""

from __future__ import annotations

import numpy as np
import pytest
from moodle_lakehouse.clustering import naming


@pytest.mark.parametrize(
    ("centroids", "names"),
    [
        ([[2, 0], [0, 2], [0, 0]], ["files", "forum", "balanced"]),
        ([[2, 1.5]], ["files + forum"]),
        ([[2, 0], [3, 0]], ["files, quiet", "files, busy"]),
        ([[2, 0], [3, 0], [4, 0]], ["files, quiet", "files, middling", "files, busy"]),
    ],
)
def test_names_are_telling_and_unique(centroids: list[list[float]], names: list[str]) -> None:
    busy = [float(i) for i in range(len(centroids))]
    assert naming.name_clusters(np.array(centroids, float), ["files", "forum"], busy) == names
