"""Students' grades, submissions and finished attempts."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from moodle_lakehouse.curated.raw_tables import to_timestamp

# grade_categories.aggregation, of which the others (mean, median, ...) have no weights.
WEIGHTED_MEAN, SIMPLE_WEIGHTED_MEAN, MEAN_WITH_EXTRA_CREDIT, NATURAL = 10, 11, 12, 13

# What gives a student, or the members of a group, a due date of their own; by the part of Moodle that logs it.
_OF_STUDENT, _OF_GROUP = (
    tuple(
        rf"\{module}\event\{of}_override_{done}"
        for module in ("mod_assign", "mod_quiz")
        for done in ("created", "updated")
    )
    for of in ("user", "group")
)
EXTENDED = r"\mod_assign\event\extension_granted"
LIFECYCLE_EVENTS = (*_OF_STUDENT, *_OF_GROUP, EXTENDED)


def fact_grade(
    grades: DataFrame, history: DataFrame, items: DataFrame, resources: DataFrame, students: DataFrame
) -> DataFrame:
    """Return students' final grades of activities and manual items. Grain: (itemid, user_key).

    Unenrolling deletes a person's grades: they are taken from grade_grades_history, where the deletion's
    source is userdelete, since whoever has no grades would otherwise be known to leave. A grade of the history has the
    range of its own time, for a teacher may have changed the item's since. Excluded grades count for nothing: they are none.
    itemid, courseid, cmid bigint; cmid and modname null for manual items; user_key string; fraction double, the grade's
    place between the lowest (0) and the highest (1) possible; weight double and is_extra_credit boolean as of
    weighted_items(); submitted_at timestamp, null when not known; graded_at timestamp, when it was last set. UTC.
    Source: grade_grades, grade_grades_history, weighted_items(), dim_resource, enrolments.students().
    """
    return _placed(_final_grades(grades, history, items), resources, students).select(
        "itemid", "courseid", "cmid", F.col("itemmodule").alias("modname"), "user_key",
        "fraction", "weight", "is_extra_credit",
        to_timestamp("submitted").alias("submitted_at"), to_timestamp("graded").alias("graded_at"),
    )  # fmt: skip


def fact_grade_change(
    grades: DataFrame,
    history: DataFrame,
    items: DataFrame,
    resources: DataFrame,
    students: DataFrame,
    earlier: DataFrame,
) -> DataFrame:
    """Return what grades were from when on. Grain: (itemid, user_key, changed_at).

    Moodle overwrites a grade: what it was before stands in grade_grades_history, where a site keeps that, and else in the
    table until now (earlier), as far as an ingest has seen it; what nobody has seen is not known, and the grade is there from
    when its last value was set. A grade that went with an enrolment (userdelete) stays what it was.
    itemid, courseid, cmid, modname, user_key, weight and is_extra_credit as of fact_grade(); changed_at timestamp UTC;
    fraction double, null from when on there was no grade any more, or it was excluded. Source: as of fact_grade().
    """
    is_removal = F.col("action") == 3
    value = F.when(~is_removal & (F.coalesce("excluded", F.lit(0)) == 0), F.col("finalgrade"))
    logged = history.where(~is_removal | (F.coalesce("source", F.lit("")) != "userdelete")).select(
        "itemid", "userid", "id", F.lit(False).alias("is_last"), F.col("timemodified").alias("changed"),
        value.alias("value"), F.col("rawgrademin").alias("own_min"), F.col("rawgrademax").alias("own_max"),
    )  # fmt: skip
    nothing = F.lit(None).cast("decimal(10,5)")
    present = grades.select(
        "itemid", "userid", F.lit(0).cast("bigint").alias("id"), F.lit(True).alias("is_last"),
        F.coalesce("timemodified", "timecreated").alias("changed"),
        F.when(F.coalesce("excluded", F.lit(0)) == 0, F.col("finalgrade")).alias("value"),
        nothing.alias("own_min"), nothing.alias("own_max"),
    )  # fmt: skip
    in_order = Window.partitionBy("itemid", "userid").orderBy("is_last", "changed", "id")
    at_once = Window.partitionBy("itemid", "userid", "at").orderBy(F.desc("is_last"), F.desc("id"))
    fraction = _fraction("value")
    is_other = ~F.col("fraction").eqNullSafe(F.lag("fraction").over(in_order))
    known = (
        logged.unionByName(present)
        .join(F.broadcast(items), how="inner", on="itemid")
        .withColumn("fraction", F.round(fraction, 9))
        .where("changed is not null")
        .withColumn("at", F.max("changed").over(in_order))
        .withColumn("is_other", is_other)
        .where("is_other")
        .withColumn("place", F.row_number().over(at_once))
        .where("place = 1")
    )
    placed = _placed(known, resources, students).select(
        "itemid", "courseid", "cmid", F.col("itemmodule").alias("modname"), "user_key",
        to_timestamp("at").alias("changed_at"), "fraction", "weight", "is_extra_credit",
    )  # fmt: skip
    return _with_forgotten(placed, earlier)


def _placed(grades: DataFrame, resources: DataFrame, students: DataFrame) -> DataFrame:
    """Return the rows of students, with their pseudonym and the course module of the grade item, null for a manual one."""
    places = resources.where("not is_deleted").select(
        "cmid", F.col("modname").alias("itemmodule"), F.col("instance").alias("iteminstance")
    )
    return grades.join(F.broadcast(places), how="left", on=["itemmodule", "iteminstance"]).join(
        students.select("userid", "courseid", "user_key"), how="inner", on=["userid", "courseid"]
    )


def _with_forgotten(known: DataFrame, earlier: DataFrame) -> DataFrame:
    """Return the changes of grades with those from before the first that Moodle still knows of the same grade."""
    of_grade = Window.partitionBy("itemid", "user_key")
    first = F.min(F.when(F.col("is_known"), F.col("changed_at"))).over(of_grade)
    rows = known.withColumn("is_known", F.lit(True)).unionByName(earlier.withColumn("is_known", F.lit(False)))
    newest = F.max_by(F.struct("courseid", "cmid", "modname", "weight", "is_extra_credit"), F.col("is_known"))
    kept = rows.withColumn("first", first).withColumn("now", newest.over(of_grade))
    return kept.where("is_known or changed_at < first").select(
        "itemid", "now.courseid", "now.cmid", "now.modname", "user_key", "changed_at", "fraction", "now.weight",
        "now.is_extra_credit",
    )  # fmt: skip


def fact_course_grade(grades: DataFrame, history: DataFrame, items: DataFrame, students: DataFrame) -> DataFrame:
    """Return students' totals of courses, of who left included, as of fact_grade(). Grain: (courseid, user_key).

    courseid bigint; user_key string; fraction double, the total's place between the lowest (0) and the highest (1)
    possible; pass_fraction double, the place of the grade to pass, null where Moodle has none (0 is none); graded_at
    timestamp UTC, when the total was last set. Source: grade_grades, grade_grades_history, grade_items, students().
    """
    totals = items.where("itemtype = 'course' and grademax > coalesce(grademin, 0)").select(
        F.col("id").alias("itemid"), "courseid", F.coalesce("grademin", F.lit(0)).alias("grademin"), "grademax",
        F.when(F.col("gradepass") > 0, F.col("gradepass")).cast("double").alias("to_pass"),
    )  # fmt: skip
    extent = F.col("high") - F.col("low")
    newest = F.struct("graded", "itemid")
    return (
        _final_grades(grades, history, totals)
        .join(students.select("userid", "courseid", "user_key"), how="inner", on=["userid", "courseid"])
        .groupBy("courseid", "user_key")
        .agg(
            F.max_by("fraction", newest).alias("fraction"),
            F.max_by((F.col("to_pass") - F.col("low")) / extent, newest).alias("pass_fraction"),
            F.max("graded").alias("graded"),
        )
        .select("courseid", "user_key", "fraction", "pass_fraction", to_timestamp("graded").alias("graded_at"))
    )


def _final_grades(grades: DataFrame, history: DataFrame, items: DataFrame) -> DataFrame:
    """Return the grades that count, with the range they lie in. Grain: (itemid, userid).

    items: itemid, grademin, grademax and what else of them is wanted; it stays. low, high, fraction double; submitted, graded
    bigint, seconds since 1970.
    """
    is_graded = F.col("finalgrade").isNotNull() & (F.coalesce("excluded", F.lit(0)) == 0)
    nothing = F.lit(None).cast("decimal(10,5)")
    present = grades.where(is_graded).select(
        "itemid", "userid", "finalgrade", nothing.alias("own_min"), nothing.alias("own_max"),
        F.col("timecreated").alias("submitted"), F.col("timemodified").alias("graded"),
    )  # fmt: skip
    latest = Window.partitionBy("itemid", "userid").orderBy(F.col("timemodified").desc(), F.col("id").desc())
    deleted = (
        history.join(grades.select("itemid", "userid"), how="left_anti", on=["itemid", "userid"])
        .withColumn("last_action", F.first(F.struct("action", "source")).over(latest))
        .where("last_action.action = 3 and last_action.source = 'userdelete' and action != 3")
        .withColumn("place", F.row_number().over(latest))
        .where((F.col("place") == 1) & is_graded)
        .select(
            "itemid", "userid", "finalgrade", F.col("rawgrademin").alias("own_min"), F.col("rawgrademax").alias("own_max"),
            F.lit(None).cast("bigint").alias("submitted"), F.col("timemodified").alias("graded"),
        )
    )  # fmt: skip
    low, high = _range()
    return (
        present.unionByName(deleted)
        .join(F.broadcast(items), how="inner", on="itemid")
        .withColumns({"low": low, "high": high, "fraction": _fraction("finalgrade")})
    )


def _range() -> tuple[Column, Column]:
    """Return the lowest and the highest grade possible: the grade's own, else the item's."""
    has_own = F.coalesce(F.col("own_max") > F.col("own_min"), F.lit(False))
    low = F.when(has_own, F.col("own_min")).otherwise(F.col("grademin")).cast("double")
    return low, F.when(has_own, F.col("own_max")).otherwise(F.col("grademax")).cast("double")


def _fraction(value: str) -> Column:
    """Return a grade's place between the lowest, 0, and the highest possible, 1."""
    low, high = _range()
    return (F.col(value).cast("double") - low) / (high - low)


def weighted_items(items: DataFrame, categories: DataFrame) -> DataFrame:
    """Return the grade items of activities and manual ones that have numbers, with their weight. Grain: itemid.

    How a category of grades is aggregated says what an item's columns mean: a weighted mean has its weights in
    aggregationcoef; natural weighting has them in aggregationcoef2, and aggregationcoef marks extra credit, as it does in
    the simple weighted mean and the mean with extra credit. An item's share of its category is multiplied along the
    categories around it. Where Moodle's categories are not known, natural weighting is told by aggregationcoef2.
    itemid, courseid bigint; itemmodule string, iteminstance bigint; grademin, grademax decimal; weight double, percent of
    the course's total, where the categories are not known the item's own column, 0 when unknown; is_extra_credit
    boolean, it adds to the total and is no part of it. Source: grade_items, grade_categories.
    """
    places = categories.select(F.col("id").alias("categoryid"), "aggregation", "path")
    parents = categories.select(F.col("id").alias("iteminstance"), F.col("parent").alias("around"))
    of_categories = (
        items.where("itemtype = 'category'").drop("categoryid").join(parents, how="inner", on="iteminstance")
    )
    of_categories = of_categories.withColumnRenamed("around", "categoryid")
    members = items.where("itemtype in ('mod', 'manual') and coalesce(gradetype, 1) in (1, 2)").unionByName(
        of_categories
    )
    in_course, in_category = Window.partitionBy("courseid"), Window.partitionBy("courseid", "categoryid")
    coef, coef2 = (
        F.coalesce(F.col(name).cast("double"), F.lit(0.0)) for name in ("aggregationcoef", "aggregationcoef2")
    )
    extent = F.coalesce(F.col("grademax") - F.coalesce("grademin", F.lit(0)), F.lit(0)).cast("double")
    is_natural = (F.col("how") == NATURAL) | (F.col("how").isNull() & (F.max(coef2).over(in_course) > 0))
    is_extra = (is_natural | F.col("how").isin(SIMPLE_WEIGHTED_MEAN, MEAN_WITH_EXTRA_CREDIT)) & (coef > 0)
    own = (
        F.when(is_natural, coef2)
        .when(F.col("how").isNull() | (F.col("how") == WEIGHTED_MEAN), coef)
        .when(F.col("how") == SIMPLE_WEIGHTED_MEAN, extent)
        .otherwise(1.0)
    )
    total = F.sum(F.when(~F.col("is_extra"), F.col("own"))).over(in_category)
    share = F.when(total > 0, F.col("own") / total).otherwise(F.lit(0.0))
    weighed = (
        members.join(F.broadcast(places), how="left", on="categoryid")
        .withColumn("how", F.col("aggregation"))
        .withColumn("is_extra", F.coalesce(is_extra, F.lit(False)))
        .withColumn("own", own)
        .withColumn("share", F.when(F.col("how").isNotNull(), share))
    )
    # /1/5/ is the path of a category: those around it and itself; the course's own has no share of another.
    around = (
        places.select("categoryid", F.explode(F.split("path", "/").cast("array<bigint>")).alias("iteminstance"))
        .join(
            weighed.where("itemtype = 'category'").select("iteminstance", "share", "is_extra"), "iteminstance", "inner"
        )
        .groupBy("categoryid")
        .agg(F.product("share").alias("outer_share"), F.max("is_extra").alias("outer_extra"))
    )
    percent = 100 * F.col("share") * F.coalesce("outer_share", F.lit(1.0))
    return (
        weighed.where("itemtype != 'category' and grademax > coalesce(grademin, 0)")
        .join(F.broadcast(around), how="left", on="categoryid")
        .select(
            F.col("id").alias("itemid"), "courseid", "itemmodule", "iteminstance",
            F.coalesce("grademin", F.lit(0)).cast("decimal(10,5)").alias("grademin"), "grademax",
            F.coalesce(percent, F.col("own")).alias("weight"),
            (F.col("is_extra") | F.coalesce("outer_extra", F.lit(False))).alias("is_extra_credit"),
        )
    )  # fmt: skip


def assignments(assign_submission: DataFrame, assign: DataFrame, teams: DataFrame) -> DataFrame:
    """Return what was handed in. Grain: (assignment, user, attempt, status).

    A team's submission counts for each of its members (teams). Drafts are none.
    modname string (assign); instance, userid bigint; attempt int from 1; submitted, known, due bigint, seconds since 1970,
    known: since when it counts for the student, who may have joined the team later; status string. Source: assign_submission, assign, teams().
    """
    columns = ("assignment", "userid", "attemptnumber", "timemodified", "joined", "status")
    handed_in = assign_submission.where("status = 'submitted' and coalesce(attemptnumber, 0) >= 0")
    of_teams = handed_in.where("userid = 0").drop("userid").join(teams, how="inner", on=["assignment", "groupid"])
    return (
        handed_in.where("userid > 0")
        .withColumn("joined", F.lit(None).cast("bigint"))
        .select(*columns)
        .unionByName(of_teams.select(*columns))
        .groupBy("assignment", "userid", "attemptnumber", "status")
        .agg(
            F.min("timemodified").alias("submitted"), F.min(F.greatest("timemodified", "joined")).alias("known")
        )
        .join(assign.select(F.col("id").alias("assignment"), F.col("duedate").alias("due")), how="inner", on="assignment")
        .select(
            F.lit("assign").alias("modname"), F.col("assignment").alias("instance"), "userid",
            (F.coalesce("attemptnumber", F.lit(0)) + 1).cast("int").alias("attempt"), "submitted", "known", "due", "status",
        )
    )  # fmt: skip


def teams(
    assign: DataFrame,
    groups: DataFrame,
    groupings_groups: DataFrame,
    groups_members: DataFrame,
    students: DataFrame,
) -> DataFrame:
    """Return the teams of assignments that are handed in by teams. Grain: (assignment, userid).

    A student's team is the one group of the course (of the assignment's grouping, where it has one) that the student is
    in. Who is in none, or in several, belongs to the default team, 0, unless the assignment forbids it; whoever has left
    the course is in no team, since Moodle forgets their groups.
    assignment, groupid, userid bigint; joined bigint, when the student came into the group, seconds since 1970. Source: assign, groups, groupings_groups, groups_members, enrolments.students().
    """
    by_teams = F.broadcast(
        assign.where("teamsubmission = 1").select(
            F.col("id").alias("assignment"), F.col("course").alias("courseid"),
            F.coalesce("teamsubmissiongroupingid", F.lit(0)).alias("groupingid"),
            (F.coalesce("preventsubmissionnotingroup", F.lit(0)) == 1).alias("needs_group"),
        )
    )  # fmt: skip
    of_course = groups.select(F.col("id").alias("groupid"), "courseid")
    allowed = (
        by_teams.where("groupingid = 0")
        .join(of_course, how="inner", on="courseid")
        .select("assignment", "groupid")
        .unionByName(
            by_teams.where("groupingid > 0")
            .join(groupings_groups, how="inner", on="groupingid")
            .select("assignment", "groupid")
        )
    )
    member = allowed.join(groups_members.select("groupid", "userid", "timeadded"), how="inner", on="groupid")
    own = member.groupBy("assignment", "userid").agg(
        F.countDistinct("groupid").alias("groups"), F.min("groupid").alias("only"), F.max("timeadded").alias("joined")
    )
    present = students.where("is_present").select("userid", "courseid")
    is_in_one = F.coalesce(F.col("groups") == 1, F.lit(False))
    return (
        by_teams.join(present, how="inner", on="courseid")
        .join(own, how="left", on=["assignment", "userid"])
        .where(is_in_one | ~F.col("needs_group"))
        .select(
            "assignment", F.when(is_in_one, F.col("only")).otherwise(F.lit(0)).alias("groupid"), "userid",
            F.when(is_in_one, F.col("joined")).alias("joined"),
        )
    )  # fmt: skip


def own_due_dates(
    assign: DataFrame,
    assign_overrides: DataFrame,
    assign_user_flags: DataFrame,
    quiz: DataFrame,
    quiz_overrides: DataFrame,
    groups_members: DataFrame,
) -> DataFrame:
    """Return the due dates of single users that are not everybody's. Grain: (modname, instance, userid).

    A user's own override comes before those of the user's groups, and these before the activity's date. Of several groups
    an assignment takes the first by sortorder, a quiz the latest date. An extension of an assignment then moves its date.
    modname string; instance, userid bigint; own_due bigint, seconds since 1970, 0 for none; joined bigint, when the student
    came into the group that the date is of, null for no group's.
    Source: assign, assign_overrides, assign_user_flags, quiz, quiz_overrides, groups_members.
    """
    members = groups_members.select("groupid", "userid", "timeadded")

    def of_users(overrides: DataFrame, due: str) -> DataFrame:
        own = overrides.where("userid > 0 and coalesce(groupid, 0) = 0")
        return own.groupBy("instance", "userid").agg(F.max(due).alias("of_user"))

    def of_groups(overrides: DataFrame, due: Column) -> DataFrame:
        own = overrides.where("groupid > 0").drop("userid").join(members, how="inner", on="groupid")
        return own.groupBy("instance", "userid").agg(due.alias("of_group"), F.max("timeadded").alias("joined"))

    in_assign = assign_overrides.withColumnRenamed("assignid", "instance")
    in_quiz = quiz_overrides.withColumnRenamed("quiz", "instance")
    extended = (
        assign_user_flags.where("extensionduedate > 0")
        .groupBy(F.col("assignment").alias("instance"), "userid")
        .agg(F.max("extensionduedate").alias("extension"))
    )
    first_group = F.min_by("duedate", F.coalesce("sortorder", F.lit(0)))
    latest = F.when(F.min("timeclose") == 0, F.lit(0)).otherwise(F.max("timeclose"))
    found = []
    for modname, activity, due, overrides, group_due, flags in (
        ("assign", assign, "duedate", in_assign, first_group, extended),
        ("quiz", quiz, "timeclose", in_quiz, latest, extended.limit(0)),
    ):
        everybodys = activity.select(F.col("id").alias("instance"), F.coalesce(due, F.lit(0)).alias("due"))
        date = F.coalesce("of_user", "of_group", "due")
        own = (
            of_users(overrides, due)
            .join(of_groups(overrides, group_due), how="full", on=["instance", "userid"])
            .join(flags, how="full", on=["instance", "userid"])
            .join(F.broadcast(everybodys), how="inner", on="instance")
            .withColumn("own_due", F.when(date > 0, F.greatest(date, "extension")).otherwise(F.lit(0)))
        )
        found.append(
            own.where("own_due != due").select(
                F.lit(modname).alias("modname"), "instance", "userid", "own_due",
                F.when(F.col("of_user").isNull() & (F.col("of_group") != F.col("due")), F.col("joined")).alias("joined"),
            )
        )  # fmt: skip
    return found[0].unionByName(found[1])


def granted(lifecycle: DataFrame, groups_members: DataFrame) -> DataFrame:
    """Return when students were last given a due date of their own. Grain: (cmid, userid).

    granted bigint, seconds since 1970. Source: log events extension_granted, user_override_created, _updated and
    group_override_created, _updated, of assignments and quizzes; groups_members.
    """
    events = lifecycle.withColumn("cmid", F.col("contextinstanceid"))
    of_students = events.where(F.col("eventname").isin(*_OF_STUDENT, EXTENDED)).select(
        "cmid", F.col("relateduserid").alias("userid"), "timecreated"
    )
    of_groups = (
        events.where(F.col("eventname").isin(*_OF_GROUP))
        .select("cmid", F.get_json_object("other", "$.groupid").cast("bigint").alias("groupid"), "timecreated")
        .join(groups_members.select("groupid", "userid"), how="inner", on="groupid")
        .select("cmid", "userid", "timecreated")
    )
    both = of_students.unionByName(of_groups)
    return both.groupBy("cmid", "userid").agg(F.max("timecreated").alias("granted"))


def due_date_exception(
    own_due_dates: DataFrame, granted: DataFrame, resources: DataFrame, students: DataFrame
) -> DataFrame:
    """Return the due dates of single students that are not everybody's. Grain: (assessment module, user).

    courseid, cmid bigint; user_key string; due_at timestamp UTC, null: none for this student; known_at timestamp UTC, since
    when it was so, null when that is not known. Source: own_due_dates(), granted(), dim_resource, enrolments.students().
    """
    places = resources.where("not is_deleted").select("cmid", "courseid", "modname", "instance")
    return (
        own_due_dates.join(F.broadcast(places), how="inner", on=["modname", "instance"])
        .join(students.select("userid", "courseid", "user_key"), how="inner", on=["userid", "courseid"])
        .join(granted, how="left", on=["cmid", "userid"])
        .select(
            "courseid", "cmid", "user_key", to_timestamp("own_due").alias("due_at"),
            to_timestamp(F.greatest("granted", "joined")).alias("known_at"),
        )
    )  # fmt: skip


def attempts(quiz_attempts: DataFrame, quiz: DataFrame) -> DataFrame:
    """Return finished attempts at quizzes. Grain: (quiz, user, attempt).

    Attempts under way and teachers' previews are none. Columns as of assignments(). Source: quiz_attempts, quiz.
    """
    return (
        quiz_attempts.where("coalesce(preview, 0) = 0 and state = 'finished' and attempt >= 1")
        .join(quiz.select(F.col("id").alias("quiz"), F.col("timeclose").alias("due")), how="inner", on="quiz")
        .select(
            F.lit("quiz").alias("modname"), F.col("quiz").alias("instance"), "userid", "attempt",
            F.col("timefinish").alias("submitted"), F.col("timefinish").alias("known"), "due", F.col("state").alias("status"),
        )
    )  # fmt: skip


def fact_submission(
    assignments: DataFrame, attempts: DataFrame, own_due_dates: DataFrame, resources: DataFrame, students: DataFrame
) -> DataFrame:
    """Return students' submissions and finished attempts. Grain: (assessment module, user, attempt).

    courseid, cmid bigint; modname string (assign, quiz); user_key string; attempt int from 1;
    submitted_at timestamp; known_at timestamp, since when it counts for the student; due_at timestamp, the student's own,
    null when not set; status string. UTC.
    Source: assignments(), attempts(), own_due_dates(), dim_resource, enrolments.students().
    """
    places = resources.where("not is_deleted").select("cmid", "courseid", "modname", "instance")
    return (
        assignments.unionByName(attempts)
        .join(own_due_dates, how="left", on=["modname", "instance", "userid"])
        .withColumn("due", F.coalesce("own_due", "due"))
        .join(F.broadcast(places), how="inner", on=["modname", "instance"])
        .join(students.select("userid", "courseid", "user_key"), how="inner", on=["userid", "courseid"])
        .select(
            "courseid", "cmid", "modname", "user_key", "attempt", to_timestamp("submitted").alias("submitted_at"),
            to_timestamp("known").alias("known_at"), to_timestamp("due").alias("due_at"), "status",
        )
    )  # fmt: skip
