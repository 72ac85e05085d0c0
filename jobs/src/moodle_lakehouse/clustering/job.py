"""Cluster courses by how their resources are used: k-means on robustly scaled shares, named from the centroids.

Courses in which next to nothing happens are set apart by rule first: they would make a cluster of their own
or pull at every other. Compared is how students divide their actions among the types of resources: how much
they do, how many and how steadily follows a course's size and length rather than its kind, and is kept beside
the clusters to describe them. Where a site's log holds no page views at all, what the courses consist of is
compared instead.
"""

from __future__ import annotations

import datetime as dt
import functools
import logging

import pandas as pd
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from moodle_lakehouse.clustering import kmeans, matching, naming
from moodle_lakehouse.clustering.course_profiles import (
    CONTENTS,
    DESCRIBED,
    MIN_VIEWS,
    SHARES,
    TYPES,
    course_profiles,
)
from moodle_lakehouse.config import Config
from moodle_lakehouse.curated.courses import COURSE_CODE
from moodle_lakehouse.lake import input_fingerprint, job_runs, point_in_time, table_names, tables, writers

log = logging.getLogger(__name__)

INACTIVE = "inactive"
# Below these a course is inactive: students' actions per student and week, share of its weeks with any, students.
MIN_RATE, MIN_WEEKS, MIN_STUDENTS = 0.5, 0.25, 3
SOURCE_TABLES = (
    table_names.DIM_COURSE, table_names.DIM_COURSE_VERSION, table_names.FACT_ENROLMENT, table_names.FACT_EVENT,
    table_names.DIM_RESOURCE, table_names.DIM_RESOURCE_VERSION,
)  # fmt: skip


def run(spark: SparkSession, config: Config, as_of: dt.datetime | None) -> None:
    """Append the clusters of the courses that have begun by as_of to marts.course_cluster."""
    moment = point_in_time.utc(as_of) if as_of else dt.datetime.now(dt.UTC)
    code = config.analytics.course_code or COURSE_CODE
    inputs = input_fingerprint.stamp(
        input_fingerprint.rows(spark, SOURCE_TABLES), input_fingerprint.moment(moment), code
    )
    if input_fingerprint.is_current(spark, [table_names.COURSE_CLUSTER], inputs):
        log.info("cluster: nothing new")
        return
    read = functools.partial(tables.read, spark)
    courses, enrolments, events, resources = (
        point_in_time.read(read, name, moment)
        for name in (
            table_names.DIM_COURSE,
            table_names.FACT_ENROLMENT,
            table_names.FACT_EVENT,
            table_names.DIM_RESOURCE,
        )
    )
    profiles = course_profiles(courses, enrolments, events, resources, moment).persist()
    try:
        earlier = tables.read(spark, table_names.COURSE_CLUSTER)
        clustered = matching.keep_names(assign(profiles), earlier)
        result = matching.add_previous_term(clustered, courses, code).select(
            F.lit(job_runs.run_id()).alias("run_id"),
            point_in_time.literal(moment).alias("as_of"),
            "courseid",
            "shortname",
            "cluster",
            "cluster_name",
            "distance",
            "is_active",
            "students",
            *DESCRIBED,
            "code",
            "previous_courseid",
            "previous_cluster",
        )
        writers.append(
            result.coalesce(1),
            table_names.COURSE_CLUSTER,
            run_id=job_runs.run_id(),
            summary=input_fingerprint.summary(inputs),
        )
    finally:
        profiles.unpersist()


def assign(profiles: DataFrame) -> DataFrame:
    """Add is_active, cluster, cluster_name and distance (to the centroid, scaled units) to the profiles.

    Grain: course. Inactive courses are cluster -1 named inactive, without a distance. With too few active courses for
    clusters each of them is in the one cluster 0.
    """
    # Without page views there is no use to tell apart, only contents; a course without any is inactive.
    totals = profiles.agg(F.sum("viewed").alias("viewed"), F.sum("actions").alias("actions")).first()
    if totals is not None and (totals["viewed"] or 0) > MIN_VIEWS * (totals["actions"] or 0):
        active = (
            (F.col("students") >= MIN_STUDENTS)
            & (F.col("actions") >= MIN_RATE * F.col("students") * F.col("weeks"))
            & (F.col("active_weeks") >= MIN_WEEKS * F.col("weeks"))
        )
        columns = SHARES
    else:
        active = sum((F.col(name) for name in CONTENTS), F.lit(0.0)) > 0
        columns = CONTENTS
    marked = profiles.withColumn("is_active", active)
    placed = tables.local_rows(
        profiles.sparkSession,
        _cluster(marked.where("is_active"), columns),
        "courseid bigint, cluster int, cluster_name string, distance double",
    )
    return (
        marked.join(F.broadcast(placed), "courseid", "left")
        .withColumn("cluster", F.coalesce("cluster", F.lit(-1)))
        .withColumn("cluster_name", F.coalesce("cluster_name", F.lit(INACTIVE)))
    )


def _cluster(active: DataFrame, columns: tuple[str, ...]) -> list[tuple[int, int, str, float]]:
    """Return courseid, cluster, name and distance of every active course; as many rows as there are courses.

    columns: what is compared, a column a type of resource in the order of TYPES.
    """
    # Square roots, by which shares differ as much near nothing as they do in the middle (Hellinger's distance).
    roots = active.select("courseid", "rate_all", *[F.sqrt(name).alias(name) for name in columns])
    scaled, compared = kmeans.scale(roots, columns)
    rows: pd.DataFrame = scaled.toPandas().sort_values("courseid", ignore_index=True)  # type: ignore[assignment]
    values = rows[compared].to_numpy(float)
    centroids = kmeans.find_centroids(active.sparkSession, values)
    cluster, distance = kmeans.nearest(values, centroids)
    rates = [float(rows["rate_all"][cluster == number].mean()) for number in range(len(centroids))]
    words = dict(zip(columns, (naming.WORDS[name] for name in TYPES), strict=True))
    names = naming.name_clusters(centroids, [words[name] for name in compared], rates)
    ids = rows["courseid"].tolist()
    return [(int(i), int(c), names[c], float(d)) for i, c, d in zip(ids, cluster, distance, strict=True)]
