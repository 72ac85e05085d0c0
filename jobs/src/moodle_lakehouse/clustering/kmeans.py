"""K-means over courses' shares: how many kinds of courses there are, and which course belongs to which."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from pyspark.ml.clustering import KMeans, KMeansModel
from pyspark.ml.evaluation import ClusteringEvaluator
from pyspark.ml.feature import VectorAssembler
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from sklearn.metrics import adjusted_rand_score

from moodle_lakehouse.lake import tables

log = logging.getLogger(__name__)

SEED = 7
MIN_CLUSTERS, MAX_CLUSTERS = 3, 10
STARTS, FINAL_STARTS = 3, 6  # k-means ends in local optima: the best of as many starts is taken
MAX_ITERATIONS = 30
# A cluster holds at least this share of the active courses, else it is an oddity and no kind of course: the same course,
# given again each term, must not become a kind of its own.
MIN_SHARE = 1 / 8
# With a share of the courses left out, so many times, the clusters must be the same ones at least to this mean adjusted
# Rand index. Of courses without any kinds it is 0.6 at most.
DRAWS, LEFT_OUT, MIN_STABILITY = 8, 1 / 8, 0.7
# Silhouettes that differ by less are alike; of clusterings alike the one with the most clusters is taken.
SILHOUETTE_TOLERANCE = 0.03
# A course's scaled features are kept within +-MAX_SCALED: one odd course must not stretch a whole clustering.
MAX_SCALED = 3.0


@dataclass(frozen=True)
class Clustering:
    """A clustering of the rows of typical, those that belong to no oddity; labels: the cluster of each."""

    centroids: np.ndarray
    typical: np.ndarray
    labels: np.ndarray
    silhouette: float


def scale(active: DataFrame, columns: Sequence[str]) -> tuple[DataFrame, list[str]]:
    """Scale columns by their medians and spreads, and name those in which courses differ at all.

    A spread is the quartiles' distance in units of a standard deviation. Where more than half of the courses agree (no
    SCORM, say) the quartiles say nothing: the spread is never less than half a standard deviation, so that rare types
    do not drown the others.
    """
    quartiles = F.array(F.lit(0.25), F.lit(0.5), F.lit(0.75))
    row = active.agg(
        *[F.percentile(name, quartiles).alias(f"q_{name}") for name in columns],
        *[F.stddev_pop(name).alias(f"s_{name}") for name in columns],
    ).first()
    assert row is not None
    scaled = {}
    for name in columns:
        deviation = row[f"s_{name}"] or 0.0
        if deviation > 1e-9:
            low, middle, high = row[f"q_{name}"]
            value = (F.col(name) - float(middle)) / float(max((high - low) / 1.349, deviation / 2))
            scaled[name] = F.least(F.greatest(value, F.lit(-MAX_SCALED)), F.lit(MAX_SCALED))
    return active.withColumns(scaled), list(scaled)


def find_centroids(spark: SparkSession, values: np.ndarray) -> np.ndarray:
    """Return the centroids of as many clusters as there are kinds of courses; one for rows too few or too alike.

    values: a row a course in a fixed order, scaled. Of the numbers of clusters that are large enough and stable, the
    greatest whose silhouette is (nearly) the best.
    """
    count = len(values)
    if not count:
        return np.zeros((0, values.shape[1]))
    numbers = range(MIN_CLUSTERS, min(MAX_CLUSTERS, count // 2) + 1) if values.shape[1] else ()
    found = [clustering for k in numbers if (clustering := _cluster(spark, values, k)) is not None]
    # Stability takes the most fits: it is checked last, and once for each clustering.
    stable = functools.cache(lambda place: _is_stable(spark, found[place]))
    by_silhouette = sorted(range(len(found)), key=lambda place: -found[place].silhouette)
    best = next((found[place] for place in by_silhouette if stable(place)), None)
    if best is None:
        return values.mean(axis=0, keepdims=True)
    alike = [place for place in range(len(found)) if found[place].silhouette >= best.silhouette - SILHOUETTE_TOLERANCE]
    # Of equally many clusters those of the smallest k: they have the fewest oddities.
    alike.sort(key=lambda place: -len(found[place].centroids))
    chosen = next(found[place] for place in alike if stable(place))
    log.info(
        "%s clusters of courses, silhouette %.2f (best %.2f)",
        len(chosen.centroids), chosen.silhouette, best.silhouette,
    )  # fmt: skip
    return _with_oddities(spark, values, chosen)


def nearest(values: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the place of the nearest centroid and the distance to it, for every row of values."""
    if not len(centroids):
        return np.zeros(0, int), np.zeros(0)
    distances = np.linalg.norm(values[:, None, :] - centroids[None, :, :], axis=2)
    return distances.argmin(axis=1), distances.min(axis=1)


def _cluster(spark: SparkSession, values: np.ndarray, k: int) -> Clustering | None:
    """Cluster the rows and set oddities apart; None where these are too many, or too few clusters remain."""
    centroids = _fits(spark, values, k, STARTS)[0]
    labels, _ = nearest(values, centroids)
    sizes = np.bincount(labels, minlength=len(centroids))
    smallest = max(2, math.ceil(MIN_SHARE * len(values)))
    # A course or two unlike all others are no kind, and must not hide the kinds that there are.
    odd = sizes < smallest
    if (~odd).sum() < MIN_CLUSTERS or sizes[odd].sum() >= smallest:
        return None
    kept, typical = centroids[~odd], values[~odd[labels]]
    labels, _ = nearest(typical, kept)
    silhouette = ClusteringEvaluator(predictionCol="label").evaluate(_points(spark, typical, labels))
    return Clustering(kept, typical, labels, silhouette)


def _with_oddities(spark: SparkSession, values: np.ndarray, chosen: Clustering) -> np.ndarray:
    """Return the centroids of the same clusters over all rows, those of oddities included.

    Of several starts the one that agrees most with the chosen clustering; where none does, oddities move no centroid.
    """
    if len(chosen.typical) == len(values):
        return chosen.centroids
    labels, _ = nearest(values, chosen.centroids)
    fits = _fits(spark, values, len(chosen.centroids), FINAL_STARTS)
    agreement = [adjusted_rand_score(labels, nearest(values, centroids)[0]) for centroids in fits]
    best = int(np.argmax(agreement))
    return fits[best] if agreement[best] >= MIN_STABILITY else chosen.centroids


def _fits(spark: SparkSession, values: np.ndarray, k: int, starts: int) -> list[np.ndarray]:
    """Return the centroids of some starts of k-means, the best first; fewer than k where fewer rows differ."""
    points = _points(spark, values, np.zeros(len(values), int))

    def fit(start: int) -> KMeansModel:
        return KMeans(k=k, seed=SEED + start, maxIter=MAX_ITERATIONS, solver="row").fit(points)

    # So few rows take each job next to no work: what takes time is that jobs wait for one another.
    with ThreadPoolExecutor(max_workers=starts, thread_name_prefix="kmeans") as pool:
        models = list(pool.map(fit, range(starts)))
    return [np.array(model.clusterCenters()) for model in sorted(models, key=lambda one: one.summary.trainingCost)]


def _points(spark: SparkSession, values: np.ndarray, labels: np.ndarray) -> DataFrame:
    """Return the rows as features and label, in one partition and in order: k-means' starts depend on both."""
    names = [f"x{i}" for i in range(values.shape[1])]
    rows = [(*row, label) for row, label in zip(values.tolist(), labels.tolist(), strict=True)]
    points = tables.local_rows(spark, rows, ", ".join([*(f"{name} double" for name in names), "label int"]))
    return VectorAssembler(inputCols=names, outputCol="features").transform(points).select("features", "label")


def _is_stable(spark: SparkSession, clustering: Clustering) -> bool:
    """Return whether the courses get the same clusters when some of them are left out."""
    rng, values = np.random.default_rng(SEED), clustering.typical
    left_out = max(1, int(LEFT_OUT * len(values)))
    drawn = [values[rng.permutation(len(values))[left_out:]] for _ in range(DRAWS)]

    def agreement(some: np.ndarray) -> float:
        labels, _ = nearest(values, _fits(spark, some, len(clustering.centroids), starts=1)[0])
        return float(adjusted_rand_score(clustering.labels, labels))

    with ThreadPoolExecutor(max_workers=DRAWS // 2, thread_name_prefix="stability") as pool:
        return float(np.mean(list(pool.map(agreement, drawn)))) >= MIN_STABILITY
