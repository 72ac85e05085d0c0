"""Names of clusters, and what distinguishes one from the others, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from moodle_lakehouse.clustering.course_profiles import MIN_VIEWS, TYPES

WORDS = {
    "file": "files",
    "page": "pages",
    "forum": "forum",
    "quiz": "quizzes",
    "assign": "assignments",
    "collab": "wikis and the like",
    "interactive": "interactive content",
}

# A cluster is named after the shares in which it lies this far (in scaled units) above all active courses.
MIN_STANDOUT = 0.5
# A share that differs by less from that of all active courses distinguishes nothing.
MIN_DIFFERENCE = 0.02


def name_clusters(centroids: np.ndarray, words: Sequence[str], busy: Sequence[float]) -> list[str]:
    """Name each centroid after the types in whose shares it stands out, "balanced" where in none; names are unique.

    centroids: in scaled units (0: the median course), a row a cluster; words: of their columns; busy: students' actions
    per cluster, on any scale, which distinguishes clusters that would have the same name.
    """
    names = []
    for centroid in centroids:
        high = sorted(zip(centroid, words, strict=True), reverse=True)
        names.append(" + ".join([word for value, word in high if value > MIN_STANDOUT][:2]) or "balanced")
    for name in sorted({name for name in names if names.count(name) > 1}):
        twins = sorted((i for i, other in enumerate(names) if other == name), key=lambda i: -busy[i])
        for place, twin in enumerate(twins):
            names[twin] = f"{name}, {_degree(place, len(twins))}"
    return names


def _degree(place: int, count: int) -> str:
    if count == 2:
        return ("busy", "quiet")[place]
    return "busy" if place == 0 else "quiet" if place == count - 1 else f"middling {place}" if count > 3 else "middling"


def distinguishing_shares(rows: Sequence[dict[str, Any]], cluster: int) -> list[str]:
    """Describe the (at most two) shares in which a cluster's courses differ most from all active ones.

    rows: course_cluster of one run.
    """
    active = [row for row in rows if row["is_active"]]
    own = [row for row in active if row["cluster"] == cluster]
    if not own:
        return []
    # Where the log holds next to no views, contents were compared (see kmeans.assign).
    acted = [float(np.expm1(row["rate_all"])) for row in active]
    viewed = sum(rate * (1 - row["write_share"]) for rate, row in zip(acted, active, strict=True))
    prefix, what = ("share", "use") if viewed > MIN_VIEWS * sum(acted) else ("mix", "resources")
    found = []
    for name in TYPES:
        mine = float(np.mean([row[f"{prefix}_{name}"] for row in own]))
        everyone = float(np.mean([row[f"{prefix}_{name}"] for row in active]))
        found.append(
            (abs(mine - everyone), f"{WORDS[name]} {100 * mine:.0f} % of {what} (all: {100 * everyone:.0f} %)")
        )
    return [words for difference, words in sorted(found, reverse=True)[:2] if difference >= MIN_DIFFERENCE]
