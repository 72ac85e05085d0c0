"""Courses by how their resources are used: KMeans on robustly scaled features, named from the centroids.

Courses in which next to nothing happens are set apart by rule first: they would make a cluster of their own
or pull at every other. Compared is how students divide their actions among the types of resources: how much
they do, how many and how steadily follows a course's size and length rather than its kind, and is kept beside
the clusters to describe them. Where a site's log holds no page views at all, what the courses consist of is
compared instead.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
from pyspark.ml.clustering import KMeans, KMeansModel
from pyspark.ml.feature import VectorAssembler
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from moodle_lakehouse import asof, features, made_from, ops, tables
from moodle_lakehouse.config import Config
from moodle_lakehouse.errors import LakehouseError

log = logging.getLogger(__name__)

SEED = 7
FEWEST, MOST = 3, 10  # clusters
STARTS = 2  # KMeans finds a local optimum: the best of so many starts counts
FITS_AT_ONCE = 4
# A cluster holds at least this share of the active courses, else it is an oddity and no kind of course.
SMALLEST = 0.08
# Silhouettes this close are alike; of clusterings alike the one that tells more kinds apart is taken.
ALIKE = 0.03
# A course's scaled features are kept within +-FAR: one odd course must not stretch a whole clustering.
FAR = 3.0
INACTIVE = "inactive"

# Below these a course is inactive: students' actions per student and week, share of its weeks with any, students.
LEAST_RATE, LEAST_WEEKS, LEAST_STUDENTS = 0.5, 0.25, 3
# A log in which fewer of the students' actions are views does not show how resources are used.
LEAST_VIEWS = 0.1

# What a resource type is for; types that are not listed count towards the totals only.
TYPES = {
    "file": ("resource", "folder"),
    "page": ("page", "url", "book", "label", "imscp"),
    "forum": ("forum", "chat"),
    "quiz": ("quiz",),
    "assign": ("assign",),
    "collab": ("wiki", "glossary", "data", "workshop"),
    "interactive": ("scorm", "h5pactivity", "hvp", "lesson", "lti"),
}
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
REMARKABLE = 0.5


# What describes a course, the columns that are compared and, of those, the words that name a cluster.
DESCRIBED = (
    *(f"rate_{name}" for name in TYPES),
    *(f"share_{name}" for name in TYPES),
    *(f"breadth_{name}" for name in TYPES),
    "rate_all",
    "write_share",
    "regularity",
    "teacher_rate",
    *(f"mix_{name}" for name in TYPES),
)
SOURCE_TABLES = (tables.DIM_COURSE, tables.FACT_ENROLMENT, tables.FACT_EVENT, tables.DIM_RESOURCE)
USE = {f"share_{name}": WORDS[name] for name in TYPES}
CONTENTS = {f"mix_{name}": WORDS[name] for name in TYPES}


def run(spark: SparkSession, config: Config, as_of: dt.datetime | None) -> None:
    """Append the clusters of the courses that have begun by as_of to marts.course_cluster."""
    moment = asof.utc(as_of) if as_of else dt.datetime.now(dt.UTC)
    inputs = made_from.stamp(spark, SOURCE_TABLES, made_from.moment(moment))
    if made_from.is_current(spark, [tables.COURSE_CLUSTER], inputs):
        log.info("cluster: nothing new")
        return

    def known(table: str) -> DataFrame:
        df = tables.read(spark, table)
        if df is None:
            raise LakehouseError(f"{table} is missing", where="the lake", remedy="run curate first")
        return asof.cut(df, table, moment)

    courses, enrolments, events, resources = (known(table) for table in SOURCE_TABLES)
    profiles = course_profiles(courses, enrolments, events, resources, moment).persist()
    try:
        clustered = assign(profiles)
        result = clustered.select(
            F.lit(ops.run_id()).alias("run_id"),
            asof.literal(moment).alias("as_of"),
            "courseid",
            "shortname",
            "cluster",
            "cluster_name",
            "distance",
            "is_active",
            "students",
            *DESCRIBED,
        )
        tables.append(result.coalesce(1), tables.COURSE_CLUSTER, run_id=ops.run_id(), summary=made_from.summary(inputs))
    finally:
        profiles.unpersist()


def course_profiles(
    courses: DataFrame, enrolments: DataFrame, events: DataFrame, resources: DataFrame, moment: dt.datetime
) -> DataFrame:
    """How each begun course is used. Grain: course. All tables as they stood at the moment.

    courseid, shortname, students; rate_<type>: log1p of students' actions per student and week; share_<type>: of
    students' actions in resources; breadth_<type>: share of students who used any; rate_all likewise of all
    actions; write_share: actions that change something; regularity: share of weeks with actions; teacher_rate:
    log1p of staff's actions per week; mix_<type>: of the course's resources; viewed: page views at all.
    """
    begun = courses.where(F.col("start_at") < asof.literal(moment)).select(
        "courseid",
        "shortname",
        F.unix_timestamp("start_at").alias("start"),
        F.greatest(
            F.ceil(
                (
                    F.least(F.unix_timestamp("end_at"), F.unix_timestamp(asof.literal(moment)))
                    - F.unix_timestamp("start_at")
                )
                / features.WEEK
            ),
            F.lit(1),
        ).alias("weeks"),
    )
    begun = F.broadcast(begun)
    students = (
        enrolments.join(begun.select("courseid"), "courseid", "inner")
        .groupBy("courseid")
        .agg(F.count("*").alias("students"))
    )
    return (
        begun.join(students, "courseid", "left")
        .join(_student_use(events, enrolments, begun), "courseid", "left")
        .join(_teacher_use(events, begun), "courseid", "left")
        .join(_contents(resources, begun), "courseid", "left")
        .na.fill(0)
        .select("courseid", "shortname", "students", "viewed", "actions", "weeks", "active_weeks", *_columns())
    )


def _type_of(modname: str) -> Column:
    return F.coalesce(*[F.when(F.col(modname).isin(*names), F.lit(name)) for name, names in TYPES.items()])


def _student_use(events: DataFrame, enrolments: DataFrame, begun: DataFrame) -> DataFrame:
    """Grain courseid: students' actions by type, who used each, weeks with any. One pass, reduced per student."""
    result = F.col("target").isin(*features.NO_ACTIVITY) | (
        (F.col("target") == "course") & (F.col("action") == "completed")
    )
    at = F.unix_timestamp("occurred_at")
    week = F.floor((at - F.col("start")) / features.WEEK)
    acts = (
        events.where(~F.col("is_staff") & (F.col("edulevel") != features.TEACHING) & ~result)
        .join(begun, "courseid", "inner")
        .select(
            "userid",
            "courseid",
            _type_of("modname").alias("type"),
            (F.col("crud") != "r").cast("int").alias("write"),
            # Weeks as bits: united without a distinct count. Courses longer than a year have 60 that count.
            F.call_function(
                "shiftleft",
                F.lit(1).cast("bigint"),
                F.least(F.greatest(week, F.lit(0)), F.lit(features.MAX_WEEKS)).cast("int"),
            ).alias("week"),
        )
    )
    per_student = (
        acts.groupBy("courseid", "userid")
        .agg(
            F.count("*").alias("actions"),
            F.sum("write").alias("writes"),
            F.bit_or("week").alias("weeks"),
            *[F.count(F.when(F.col("type") == name, 1)).alias(name) for name in TYPES],
        )
        .join(enrolments.select("userid", "courseid"), ["userid", "courseid"], "inner")
    )
    return per_student.groupBy("courseid").agg(
        F.sum("actions").alias("actions"),
        F.sum("writes").alias("writes"),
        F.bit_count(F.bit_or("weeks")).alias("active_weeks"),
        (F.sum("actions") - F.sum("writes")).alias("viewed"),
        *[F.sum(name).alias(f"n_{name}") for name in TYPES],
        *[F.count(F.when(F.col(name) > 0, 1)).alias(f"users_{name}") for name in TYPES],
    )


def _teacher_use(events: DataFrame, begun: DataFrame) -> DataFrame:
    """Grain courseid: staff's actions since the start of the course."""
    return (
        events.where("is_staff")
        .join(begun, "courseid", "inner")
        .where(F.unix_timestamp("occurred_at") >= F.col("start"))
        .groupBy("courseid")
        .agg(F.count("*").alias("teacher_actions"))
    )


def _contents(resources: DataFrame, begun: DataFrame) -> DataFrame:
    """Grain courseid: resources by type, those that students could see."""
    return (
        resources.where(F.col("visible") & ~F.col("is_deleted"))
        .join(begun.select("courseid"), "courseid", "inner")
        .withColumn("type", _type_of("modname"))
        .groupBy("courseid")
        .agg(
            F.count("type").alias("modules"),
            *[F.count(F.when(F.col("type") == name, 1)).alias(f"modules_{name}") for name in TYPES],
        )
    )


def _columns() -> list[Column]:
    typed = sum((F.col(f"n_{name}") for name in TYPES), F.lit(0))

    def ratio(part: Column, whole: Column) -> Column:
        return F.coalesce(part / F.when(whole > 0, whole), F.lit(0.0))

    exposure = F.col("students") * F.col("weeks")
    return [
        *[F.log1p(ratio(F.col(f"n_{name}"), exposure)).alias(f"rate_{name}") for name in TYPES],
        *[ratio(F.col(f"n_{name}"), typed).alias(f"share_{name}") for name in TYPES],
        *[ratio(F.col(f"users_{name}"), F.col("students")).alias(f"breadth_{name}") for name in TYPES],
        F.log1p(ratio(F.col("actions"), exposure)).alias("rate_all"),
        ratio(F.col("writes"), F.col("actions")).alias("write_share"),
        F.least(F.col("active_weeks") / F.col("weeks"), F.lit(1.0)).alias("regularity"),
        F.log1p(F.col("teacher_actions") / F.col("weeks")).alias("teacher_rate"),
        *[ratio(F.col(f"modules_{name}"), F.col("modules")).alias(f"mix_{name}") for name in TYPES],
    ]


def assign(profiles: DataFrame) -> DataFrame:
    """The profiles with is_active, cluster, cluster_name and distance (to the centroid, scaled units).

    Inactive courses are cluster -1 named inactive, without a distance. With too few active courses for
    clusters each of them is in the one cluster 0.
    """
    # Without page views there is no use to tell apart, only contents; a course without any is inactive.
    totals = profiles.agg(F.sum("viewed").alias("viewed"), F.sum("actions").alias("actions")).first()
    if totals is not None and (totals["viewed"] or 0) > LEAST_VIEWS * (totals["actions"] or 0):
        active = (
            (F.col("students") >= LEAST_STUDENTS)
            & (F.col("actions") >= LEAST_RATE * F.col("students") * F.col("weeks"))
            & (F.col("active_weeks") >= LEAST_WEEKS * F.col("weeks"))
        )
        words = USE
    else:
        active = sum((F.col(name) for name in CONTENTS), F.lit(0.0)) > 0
        words = CONTENTS
    marked = profiles.withColumn("is_active", active)
    compared = marked.where("is_active").select("courseid", "rate_all", *words)
    centres, spreads = _scaling(compared, list(words))
    names = [name for name in words if spreads[name] > 0]
    scaled = compared.select(
        "courseid",
        "rate_all",
        *[F.least(F.greatest((F.col(n) - centres[n]) / spreads[n], F.lit(-FAR)), F.lit(FAR)).alias(n) for n in names],
    )
    placed = profiles.sparkSession.createDataFrame(
        _place(scaled, names, words), "courseid bigint, cluster int, cluster_name string, distance double"
    )
    return (
        marked.join(F.broadcast(placed), "courseid", "left")
        .withColumn("cluster", F.coalesce("cluster", F.lit(-1)))
        .withColumn("cluster_name", F.coalesce("cluster_name", F.lit(INACTIVE)))
    )


def _scaling(active: DataFrame, columns: Sequence[str]) -> tuple[dict[str, float], dict[str, float]]:
    """Median and spread of each column: the quartiles' distance in units of a standard deviation.

    Where more than half of the courses agree (no SCORM, say) the quartiles say nothing: the spread is never
    less than half a standard deviation, so that rare types do not drown the others. 0: all courses agree.
    """
    row = active.agg(
        *[F.percentile(name, F.array(F.lit(0.25), F.lit(0.5), F.lit(0.75))).alias(f"q_{name}") for name in columns],
        *[F.stddev_pop(name).alias(f"s_{name}") for name in columns],
    ).first()
    assert row is not None
    centres, spreads = {}, {}
    for name in columns:
        low, middle, high = row[f"q_{name}"] or (0.0, 0.0, 0.0)
        deviation = row[f"s_{name}"] or 0.0
        centres[name] = float(middle)
        spreads[name] = float(max((high - low) / 1.349, deviation / 2)) if deviation > 1e-9 else 0.0
    return centres, spreads


def _place(scaled: DataFrame, names: Sequence[str], words: dict[str, str]) -> list[tuple[int, int, str, float]]:
    """courseid, cluster, name and distance of every active course: as many rows as there are courses."""
    collected: pd.DataFrame = scaled.toPandas()  # type: ignore[assignment]
    rows = collected.sort_values("courseid", ignore_index=True)
    values = rows[list(names)].to_numpy(float)
    centroids = _kmeans(scaled.sparkSession, names, values)
    cluster, distance = _nearest(values, centroids)
    busy = [float(rows["rate_all"][cluster == number].mean()) for number in range(len(centroids))]
    called = name_clusters(centroids, [words[name] for name in names], busy)
    ids = rows["courseid"].tolist()
    return [(int(i), int(c), called[c], float(d)) for i, c, d in zip(ids, cluster, distance, strict=True)]


def _kmeans(spark: SparkSession, names: Sequence[str], values: np.ndarray) -> np.ndarray:
    """The centroids of the chosen number of clusters; one centroid where the courses are too few or too alike.

    values: a row a course, in the courses' order.
    """
    from sklearn.metrics import silhouette_score

    count = len(values)
    one = values.mean(axis=0, keepdims=True) if count else np.zeros((0, len(names)))
    if count < 2 * FEWEST or not names:
        return one
    # Made anew from the values: every job of every fit would carry along the plan that they came from.
    points = spark.createDataFrame(pd.DataFrame(values, columns=list(names))).coalesce(1)
    assembled = (
        VectorAssembler(inputCols=list(names), outputCol="features").transform(points).select("features").persist()
    )
    least = max(2, round(SMALLEST * count))
    found: list[tuple[float, np.ndarray]] = []

    def fit(k: int, start: int) -> KMeansModel:
        return KMeans(k=k, seed=SEED + start, maxIter=30).fit(assembled)

    try:
        # A fit of a few hundred courses is a row of very short Spark jobs: the cluster waits for the driver, so
        # several go on at once.
        with ThreadPoolExecutor(max_workers=FITS_AT_ONCE, thread_name_prefix="kmeans") as pool:
            fits = [
                [pool.submit(fit, k, start) for start in range(STARTS)]
                for k in range(FEWEST, min(MOST, count // 2) + 1)
            ]
        for starts in fits:
            best = min((task.result() for task in starts), key=lambda model: model.summary.trainingCost)
            centroids = np.array(best.clusterCenters())
            cluster, _ = _nearest(values, centroids)
            if len(np.unique(cluster)) < 2 or np.bincount(cluster, minlength=len(centroids)).min() < least:
                continue
            found.append((float(silhouette_score(values, cluster, metric="sqeuclidean")), centroids))
    finally:
        assembled.unpersist()
    if not found:
        return one
    top = max(silhouette for silhouette, _ in found)
    silhouette, chosen = max((pair for pair in found if pair[0] >= top - ALIKE), key=lambda pair: len(pair[1]))
    log.info("%s clusters of courses, silhouette %.2f (best %.2f)", len(chosen), silhouette, top)
    return chosen


def _nearest(values: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place of the nearest centroid and the distance to it, for every row of values."""
    if not len(centroids):
        return np.zeros(0, int), np.zeros(0)
    distances = np.linalg.norm(values[:, None, :] - centroids[None, :, :], axis=2)
    return distances.argmin(axis=1), distances.min(axis=1)


def name_clusters(centroids: np.ndarray, words: Sequence[str], busy: Sequence[float]) -> list[str]:
    """A name per centroid: the types in whose shares it stands out, balanced where in none; unique.

    centroids in scaled units (0: the median course), words of their columns. Of clusters with one name busy
    (students' actions, on any scale) tells them apart.
    """
    names = []
    for centroid in centroids:
        high = sorted(zip(centroid, words, strict=True), reverse=True)
        names.append(" + ".join([word for value, word in high if value > REMARKABLE][:2]) or "balanced")
    for name in sorted({name for name in names if names.count(name) > 1}):
        twins = sorted((i for i, other in enumerate(names) if other == name), key=lambda i: -busy[i])
        for place, twin in enumerate(twins):
            names[twin] = f"{name}, {_degree(place, len(twins))}"
    return names


def _degree(place: int, count: int) -> str:
    if count == 2:
        return ("busy", "quiet")[place]
    return "busy" if place == 0 else "quiet" if place == count - 1 else f"middling {place}" if count > 3 else "middling"


def marks(rows: Sequence[dict[str, Any]], cluster: int) -> list[str]:
    """What marks a cluster, in words: the shares in which its courses differ most from all active ones.

    rows: course_cluster of one run.
    """
    active = [row for row in rows if row["is_active"]]
    own = [row for row in active if row["cluster"] == cluster]
    if not own:
        return []
    # Where the log holds next to no views, contents were compared (see assign).
    acted = [float(np.expm1(row["rate_all"])) for row in active]
    viewed = sum(rate * (1 - row["write_share"]) for rate, row in zip(acted, active, strict=True))
    prefix, what = ("share", "use") if viewed > LEAST_VIEWS * sum(acted) else ("mix", "resources")
    told = []
    for name in TYPES:
        mine = float(np.mean([row[f"{prefix}_{name}"] for row in own]))
        everyone = float(np.mean([row[f"{prefix}_{name}"] for row in active]))
        told.append((abs(mine - everyone), f"{WORDS[name]} {100 * mine:.0f} % of {what} (all: {100 * everyone:.0f} %)"))
    return [words for difference, words in sorted(told, reverse=True)[:2] if difference >= 0.02]
