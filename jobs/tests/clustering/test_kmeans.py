"""K-means: kinds of courses are found whatever the order of starts, oddities and noise are none."""

from __future__ import annotations

import numpy as np
from moodle_lakehouse.clustering import kmeans
from pyspark.sql import SparkSession
from sklearn.metrics import adjusted_rand_score

KINDS = np.array([[2.0, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 2]])


def courses(each: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    kinds = np.repeat(np.arange(len(KINDS)), each)
    return KINDS[kinds] + rng.normal(0, 0.3, (len(kinds), KINDS.shape[1])), kinds


def test_kinds_are_found_beside_an_oddity(spark: SparkSession) -> None:
    values, kinds = courses()
    values = np.vstack([values, [[-3.0, -3, -3, -3]]])
    centroids = kmeans.find_centroids(spark, values)
    assert len(centroids) == len(KINDS), "a single course is no kind, and hides none"
    labels, distances = kmeans.nearest(values, centroids)
    assert adjusted_rand_score(kinds, labels[:-1]) == 1
    assert distances[-1] > distances[:-1].max()


def test_courses_without_kinds_are_one_cluster(spark: SparkSession) -> None:
    values = np.random.default_rng(3).normal(size=(20, 5))
    assert kmeans.find_centroids(spark, values).tolist() == [values.mean(axis=0).tolist()]


def test_scaled_values_are_bounded_and_columns_without_difference_left_out(spark: SparkSession) -> None:
    rows = [(float(i), 1.0, 1000.0 if i == 9 else 0.0) for i in range(10)]
    scaled, names = kmeans.scale(
        spark.createDataFrame(rows, "a double, same double, rare double"), ["a", "same", "rare"]
    )
    assert names == ["a", "rare"]
    found = scaled.orderBy("a").collect()
    assert [row["rare"] for row in found] == [0.0] * 9 + [kmeans.MAX_SCALED]
    assert abs(found[4]["a"] + found[5]["a"]) < 1e-9
