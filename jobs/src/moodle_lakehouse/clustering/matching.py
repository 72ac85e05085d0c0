"""Continuity of clusters: from one run to the next, and of a course from one term to the next."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from scipy.optimize import linear_sum_assignment

from moodle_lakehouse.clustering.course_profiles import CONTENTS, SHARES
from moodle_lakehouse.curated import activity
from moodle_lakehouse.curated import courses as curated_courses
from moodle_lakehouse.lake import point_in_time, tables

# Clusters of two runs are one kind of course when their mean shares are at most this far apart.
MAX_DISTANCE = 0.2


def keep_names(clustered: DataFrame, earlier: DataFrame | None) -> DataFrame:
    """Give the clusters the numbers and names that the latest earlier run gave to the same kinds of courses.

    earlier: course_cluster. Two clusters are the same kind when their courses' mean shares of use and of contents are
    at most MAX_DISTANCE apart; a new kind gets a number and a name that none of the others has.
    """
    if earlier is None:
        return clustered
    last = earlier.join(earlier.agg(F.max("run_id").alias("run_id")), "run_id")
    before, now = _kinds(last), _kinds(clustered)
    if before.empty or now.empty:
        return clustered
    kept = tables.local_rows(clustered.sparkSession, _match(before, now), "cluster int, kept int, kept_name string")
    return clustered.join(F.broadcast(kept), "cluster", "left").withColumns(
        {"cluster": F.coalesce("kept", "cluster"), "cluster_name": F.coalesce("kept_name", "cluster_name")}
    )


def _match(before: pd.DataFrame, now: pd.DataFrame) -> list[tuple[int, int, str]]:
    """Match the clusters of two runs; return the number, the number to keep and the name of each cluster of now."""
    shares = [*SHARES, *CONTENTS]
    distances = np.linalg.norm(now[shares].to_numpy()[:, None] - before[shares].to_numpy(), axis=2)
    rows = [
        (int(now["cluster"][new]), int(before["cluster"][old]), str(before["cluster_name"][old]))
        for new, old in zip(*linear_sum_assignment(distances), strict=True)
        if distances[new, old] <= MAX_DISTANCE
    ]
    matched = {row[0] for row in rows}
    for number, name in now[["cluster", "cluster_name"]].itertuples(index=False):
        if number not in matched:
            free = next(n for n in itertools.count() if n not in [row[1] for row in rows])
            taken = [row[2] for row in rows]
            rows.append((int(number), free, name if name not in taken else f"{name}, new"))
    return rows


def _kinds(clustered: DataFrame) -> pd.DataFrame:
    """Return the mean shares of each cluster's active courses. Grain: (cluster, cluster_name)."""
    means = [F.mean(name).alias(name) for name in (*SHARES, *CONTENTS)]
    kinds: pd.DataFrame = (
        clustered.where("is_active").groupBy("cluster", "cluster_name").agg(*means).orderBy("cluster").toPandas()
    )  # type: ignore[assignment]
    return kinds


def add_previous_term(clustered: DataFrame, courses: DataFrame, pattern: str) -> DataFrame:
    """Add to each course the code that it has in every term, and its cluster in the term before. Grain: course.

    code: what the pattern's group finds in the short name, null where it finds nothing; previous_courseid and
    previous_cluster: of the latest course with this code that began more than TERM_DAYS earlier.
    """
    start = F.unix_timestamp("start_at")
    last = (
        Window.partitionBy("code")
        .orderBy("start")
        .rangeBetween(Window.unboundedPreceding, -point_in_time.TERM_DAYS * activity.DAY - 1)
    )
    previous = F.max(F.struct("start", "courseid", "cluster")).over(last)
    return (
        clustered.join(F.broadcast(courses.select("courseid", start.alias("start"))), "courseid", "left")
        .withColumn("code", curated_courses.code("shortname", pattern))
        .withColumn("previous", F.when(F.col("code").isNotNull(), previous))
        .withColumns({"previous_courseid": F.col("previous.courseid"), "previous_cluster": F.col("previous.cluster")})
        .drop("start", "previous")
    )


def changes_of_cluster(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Count the courses whose cluster changed from one term to the next.

    rows: course_cluster of one run. again: courses that were given in an earlier term; stayed: those whose cluster is the same; moves: the others by the
    names of the two clusters, the most frequent first.
    """
    names = {row["cluster"]: row["cluster_name"] for row in rows}
    again = [row for row in rows if row["previous_cluster"] is not None]
    moved: dict[tuple[str, str], list[str]] = {}
    for row in again:
        if row["cluster"] != row["previous_cluster"]:
            moved.setdefault((names[row["previous_cluster"]], row["cluster_name"]), []).append(row["shortname"])
    return {
        "again": len(again),
        "stayed": len(again) - sum(len(courses) for courses in moved.values()),
        "moves": [
            {"from": before, "to": now, "courses": sorted(courses)}
            for (before, now), courses in sorted(moved.items(), key=lambda item: (-len(item[1]), item[0]))
        ],
    }
