"""Courses by how their resources are used: KMeans on robustly scaled features, named from the centroids.

Courses in which next to nothing happens are set apart by rule first: they would make a cluster of their own
or pull at every other. Compared is how students divide their actions among the types of resources: how much
they do, how many and how steadily follows a course's size and length rather than its kind, and is kept beside
the clusters to describe them. Where a site's log holds no page views at all, what the courses consist of is
compared instead.
"""

from __future__ import annotations

import datetime as dt
import itertools
import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from pyspark.mllib.clustering import KMeans, KMeansModel
from pyspark.mllib.linalg import Vectors
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from scipy.optimize import linear_sum_assignment
from threadpoolctl import threadpool_limits

from moodle_lakehouse.config import Config
from moodle_lakehouse.curated import job as curated_job
from moodle_lakehouse.dropout import features
from moodle_lakehouse.errors import LakehouseError
from moodle_lakehouse.lake import input_fingerprint, job_runs, point_in_time, table_names, tables, writers

log = logging.getLogger(__name__)

SEED = 7
FEWEST, MOST = 3, 10  # clusters
STARTS = 20
# A cluster holds at least this share of the active courses, else it is an oddity and no kind of course: the same course,
# given again each term, must not become a kind of its own.
SMALLEST = 1 / 8
# Of courses drawn anew this many times, the clusters must be the same ones at least to this mean adjusted Rand index.
DRAWS, LEAST_STABILITY = 20, 0.7
# Silhouettes this close are alike; of clusterings alike the one that tells more kinds apart is taken.
ALIKE = 0.03
# A course's scaled features are kept within +-FAR: one odd course must not stretch a whole clustering.
FAR = 3.0
INACTIVE = "inactive"

# Clusters of two runs are one kind of course when their mean shares are this near to each other.
SAME_KIND = 0.2

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

# What stays the same in the short name of a course that is given again: what stands before the year and the season's
# name, as in C01-2024A and BIO 1 WiSe 2024/25.
CODE = r"^(.+?)[\s._/-]+\(?(?:[A-Za-z]{1,8}[\s._/-]?)?(?:19|20)\d\d"

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
SOURCE_TABLES = (table_names.DIM_COURSE, table_names.FACT_ENROLMENT, table_names.FACT_EVENT, table_names.DIM_RESOURCE)
USE = {f"share_{name}": WORDS[name] for name in TYPES}
CONTENTS = {f"mix_{name}": WORDS[name] for name in TYPES}


def run(spark: SparkSession, config: Config, as_of: dt.datetime | None) -> None:
    """Append the clusters of the courses that have begun by as_of to marts.course_cluster."""
    moment = point_in_time.utc(as_of) if as_of else dt.datetime.now(dt.UTC)
    code = config.analytics.course_code or CODE
    inputs = input_fingerprint.stamp(
        input_fingerprint.rows(spark, SOURCE_TABLES), input_fingerprint.moment(moment), code
    )
    if input_fingerprint.is_current(spark, [table_names.COURSE_CLUSTER], inputs):
        log.info("cluster: nothing new")
        return

    def known(table: str) -> DataFrame:
        df = tables.read(spark, table)
        if df is None:
            raise LakehouseError(f"{table} is missing", where="the lake", remedy="run curate first")
        return point_in_time.cut(df, table, moment)

    courses, enrolments, events, resources = (known(table) for table in SOURCE_TABLES)
    profiles = course_profiles(courses, enrolments, events, resources, moment).persist()
    try:
        clustered = as_before(assign(profiles), tables.read(spark, table_names.COURSE_CLUSTER))
        result = given_again(clustered, courses, code).select(
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


def course_profiles(
    courses: DataFrame, enrolments: DataFrame, events: DataFrame, resources: DataFrame, moment: dt.datetime
) -> DataFrame:
    """How each begun course is used. Grain: course. All tables as they stood at the moment.

    courseid, shortname, students; rate_<type>: log1p of students' actions per student and week; share_<type>: of
    students' actions in resources; breadth_<type>: share of students who used any; rate_all likewise of all
    actions; write_share: actions that change something; regularity: share of weeks with actions; teacher_rate:
    log1p of staff's actions per week; mix_<type>: of the course's resources; viewed: page views at all.
    """
    begun = courses.where(F.col("start_at") < point_in_time.literal(moment)).select(
        "courseid",
        "shortname",
        F.unix_timestamp("start_at").alias("start"),
        F.greatest(
            F.ceil(
                (
                    F.least(F.unix_timestamp("end_at"), F.unix_timestamp(point_in_time.literal(moment)))
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
    at = F.unix_timestamp("occurred_at")
    week = F.floor((at - F.col("start")) / features.WEEK)
    acts = (
        features.by_students(events)
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
        events.where(F.col("role") == curated_job.STAFF)
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
    # Square roots, by which shares differ as much near nothing as they do in the middle (Hellinger's distance).
    compared = marked.where("is_active").select("courseid", "rate_all", *[F.sqrt(name).alias(name) for name in words])
    centres, spreads = _scaling(compared, list(words))
    names = [name for name in words if spreads[name] > 0]
    scaled = compared.select(
        "courseid",
        "rate_all",
        *[F.least(F.greatest((F.col(n) - centres[n]) / spreads[n], F.lit(-FAR)), F.lit(FAR)).alias(n) for n in names],
    )
    placed = tables.local_rows(
        profiles.sparkSession,
        _place(scaled, names, words),
        "courseid bigint, cluster int, cluster_name string, distance double",
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
    centroids = _kmeans(scaled, names, values)
    cluster, distance = _nearest(values, centroids)
    busy = [float(rows["rate_all"][cluster == number].mean()) for number in range(len(centroids))]
    called = name_clusters(centroids, [words[name] for name in names], busy)
    ids = rows["courseid"].tolist()
    return [(int(i), int(c), called[c], float(d)) for i, c, d in zip(ids, cluster, distance, strict=True)]


def _kmeans(scaled: DataFrame, names: Sequence[str], values: np.ndarray) -> np.ndarray:
    """The centroids that MLlib finds from those of the chosen clusters; one where the courses are too few or too alike.

    scaled: a row a course; values: the same rows, on the driver.
    """
    with threadpool_limits(1):  # threads would wait for each other over so few rows: ten times as long
        start = _choose(values)
    if len(start) < 2:
        return start
    points = scaled.select(*names).rdd.map(lambda row: Vectors.dense(list(row)))
    model = KMeans.train(points, len(start), maxIterations=30, initialModel=KMeansModel([list(c) for c in start]))
    return np.array(model.clusterCenters)


def _choose(values: np.ndarray) -> np.ndarray:
    """Centroids for as many clusters as there are kinds of courses; one for rows that are too few or too alike.

    Of the numbers whose clusters are large enough and stable, the greatest whose silhouette is (nearly) the best.
    Each is tried from many starts, since k-means ends in local optima: quick here, a row of short Spark jobs there.
    """
    from sklearn.cluster import KMeans as LocalKMeans
    from sklearn.metrics import silhouette_score

    count = len(values)
    if count < 2 * FEWEST or not values.shape[1]:
        return values.mean(axis=0, keepdims=True) if count else np.zeros((0, values.shape[1]))
    least = max(2, math.ceil(SMALLEST * count))
    found: list[tuple[float, np.ndarray]] = []
    for k in range(FEWEST, min(MOST, count // 2) + 1):
        fit = LocalKMeans(k, n_init=STARTS, random_state=SEED).fit(values)
        sizes = np.bincount(fit.labels_, minlength=k)
        # A course or two unlike all others are no kind, and must not hide the kinds that there are.
        odd = sizes < least
        if (~odd).sum() < FEWEST or sizes[odd].sum() >= least:
            continue
        centroids, typical = fit.cluster_centers_[~odd], values[~odd[fit.labels_]]
        labels, _ = _nearest(typical, centroids)
        if _stability(typical, labels, len(centroids)) >= LEAST_STABILITY:
            found.append((float(silhouette_score(typical, labels, metric="sqeuclidean")), centroids))
    if not found:
        return values.mean(axis=0, keepdims=True)
    top = max(silhouette for silhouette, _ in found)
    silhouette, chosen = max((pair for pair in found if pair[0] >= top - ALIKE), key=lambda pair: len(pair[1]))
    log.info("%s clusters of courses, silhouette %.2f (best %.2f)", len(chosen), silhouette, top)
    return chosen


def _stability(values: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Mean adjusted Rand index of the clusters and those that courses drawn with replacement give the same rows."""
    from sklearn.cluster import KMeans as LocalKMeans
    from sklearn.metrics import adjusted_rand_score

    rng = np.random.default_rng(SEED)
    drawn = [values[rng.integers(0, len(values), len(values))] for _ in range(DRAWS)]
    again = [LocalKMeans(k, n_init=2, random_state=SEED).fit(rows).predict(values) for rows in drawn]
    return float(np.mean([adjusted_rand_score(labels, other) for other in again]))


def _nearest(values: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place of the nearest centroid and the distance to it, for every row of values."""
    if not len(centroids):
        return np.zeros(0, int), np.zeros(0)
    distances = np.linalg.norm(values[:, None, :] - centroids[None, :, :], axis=2)
    return distances.argmin(axis=1), distances.min(axis=1)


def as_before(clustered: DataFrame, earlier: DataFrame | None) -> DataFrame:
    """The clusters with the numbers and names that the latest earlier run gave to the same kinds of courses.

    earlier: course_cluster. Two clusters are the same kind when their courses' mean shares of use and of contents lie
    next to each other (SAME_KIND at most); a new kind gets a number and a name that none of the others has.
    """
    if earlier is None:
        return clustered
    last = earlier.join(earlier.agg(F.max("run_id").alias("run_id")), "run_id")
    before, now = _kinds(last), _kinds(clustered)
    if before.empty or now.empty:
        return clustered
    rows: list[tuple[int, int, str]] = []
    distances = np.linalg.norm(
        now[[*USE, *CONTENTS]].to_numpy()[:, None] - before[[*USE, *CONTENTS]].to_numpy(), axis=2
    )
    for new, old in zip(*linear_sum_assignment(distances), strict=True):
        if distances[new, old] <= SAME_KIND:
            rows.append((int(now["cluster"][new]), int(before["cluster"][old]), str(before["cluster_name"][old])))
    for number, name in now[["cluster", "cluster_name"]].itertuples(index=False):
        if number not in [row[0] for row in rows]:
            free = next(n for n in itertools.count() if n not in [row[1] for row in rows])
            taken = [row[2] for row in rows]
            rows.append((int(number), free, name if name not in taken else f"{name}, new"))
    kept = tables.local_rows(clustered.sparkSession, rows, "cluster int, kept int, kept_name string")
    return clustered.join(F.broadcast(kept), "cluster", "left").withColumns(
        {"cluster": F.coalesce("kept", "cluster"), "cluster_name": F.coalesce("kept_name", "cluster_name")}
    )


def _kinds(clustered: DataFrame) -> pd.DataFrame:
    """Mean shares of each cluster's courses. Grain: (cluster, cluster_name) of active courses."""
    means = [F.mean(name).alias(name) for name in (*USE, *CONTENTS)]
    kinds: pd.DataFrame = (
        clustered.where("is_active").groupBy("cluster", "cluster_name").agg(*means).orderBy("cluster").toPandas()
    )  # type: ignore[assignment]
    return kinds


def given_again(clustered: DataFrame, courses: DataFrame, pattern: str) -> DataFrame:
    """The clusters with what each course is called in every term, and what it was in the term before. Grain: course.

    code: what the pattern's group finds in the short name, null where it finds nothing; previous_courseid and
    previous_cluster: of the latest course with this code that began more than TERM_DAYS earlier.
    """
    code = F.regexp_extract("shortname", pattern, 1)
    start = F.unix_timestamp("start_at")
    last = (
        Window.partitionBy("code")
        .orderBy("start")
        .rangeBetween(Window.unboundedPreceding, -point_in_time.TERM_DAYS * features.DAY - 1)
    )
    previous = F.max(F.struct("start", "courseid", "cluster")).over(last)
    return (
        clustered.join(F.broadcast(courses.select("courseid", start.alias("start"))), "courseid", "left")
        .withColumn("code", F.when(code != "", code))
        .withColumn("previous", F.when(F.col("code").isNotNull(), previous))
        .withColumns({"previous_courseid": F.col("previous.courseid"), "previous_cluster": F.col("previous.cluster")})
        .drop("start", "previous")
    )


def moves(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How the kinds of courses changed from one term to the next; rows: course_cluster of one run.

    again: courses that were given in an earlier term; stayed: those whose cluster is the same; moves: the others by the
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
