"""Make the model card: what a run of train or score did and how good the model is.

A card is one document of plain values; it is shown as a page (model_card_html), as a summary in MLflow, and as rows of
lakehouse.marts.model_card.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pyspark.sql import SparkSession

from moodle_lakehouse.config import Config
from moodle_lakehouse.dropout import blend, dataset, labels, learner, metrics
from moodle_lakehouse.dropout.promotion import Check
from moodle_lakehouse.lake import contracts, job_runs, point_in_time, table_names, writers

DOCUMENT = "model_card.json"
# The weeks in which groups are compared and which the summary shows
WEEKS = (0, 4, 8, 12, 16, 20)
# What no table can tell, whatever the site
OVERWRITTEN = (
    "What Moodle overwrites (dates, visibility, own due dates, grades without a history) is known since the lake first read it:"
    " older weeks have it as it stood then"
)
# The most lines that a list of the summary has
MAX_ITEMS = 6


def trained(
    config: Config,
    as_of: dt.datetime | None,
    snapshots: Mapping[str, int],
    model: learner.Model,
    found: labels.Finished,
    measured: dict[str, Any],
    checks: Sequence[Check],
) -> dict[str, Any]:
    """Return the card of a training; version, champion, groups and refusals are added once they are known."""
    courses = found.courses
    starts = [point_in_time.utc(course.start_at) for course in courses]
    students, positives = sum(c.students for c in courses), sum(c.positives for c in courses)
    return {
        **_head("train", config, as_of, snapshots),
        "protocol": {
            "label": f"{model.spec.label}: {labels.NAMES[model.spec.label]}",
            "rows": "an enrolment at the end of each week, of those still enrolled then; features from strictly before",
            "overwritten": OVERWRITTEN,
            "split": f"measured on {measured['held_out']}",
            "calibration": f"{blend.METHOD}, "
            + ("of one term after another" if dataset.holdout(courses).latest_term else "of one course after another"),
            "capacity": f"precision and recall of the {config.analytics.capacity} most probable of each course and week",
            "intervals": metrics.INTERVALS,
            "demographics": "used" if config.analytics.demographics else "not used",
            "learner": ", ".join(f"{name} {value}" for name, value in learner.chosen(model.spec).items()),
            "features": ", ".join(model.spec.features),
        },
        "window": {
            "courses": len(courses),
            "terms": "; ".join(dataset.describe(term) for term in dataset.terms(courses)),
            "enrolments": students,
            "base_rate": positives / students,
            "first_start": min(starts).isoformat(),
            "last_start": max(starts).isoformat(),
            "outcomes": dataset.describe_outcomes(courses),
            "left_out": "; ".join(dataset.describe_left_out(found.left_out)) or "no course",
            "known_until": point_in_time.utc(as_of).isoformat() if as_of else "now",
        },
        "courses": [dataclasses.asdict(course) for course in courses],
        "measures": {**measured["per_week"]},
        "overall": measured["overall"],
        "calibration": measured["calibration"],
        "checks": [
            {"against": c.against, "measure": c.measure, "gain": c.gain, "passed": c.passed, "text": str(c)} for c in checks
        ],
    }  # fmt: skip


def refused(config: Config, as_of: dt.datetime | None, snapshots: Mapping[str, int], reason: str) -> dict[str, Any]:
    """Return the card of a training that was refused."""
    protocol = {"label": f"{config.analytics.label}: {labels.NAMES[config.analytics.label]}"}
    return {**_head("train", config, as_of, snapshots), "protocol": protocol, "refusals": [reason]}


def scored(
    config: Config,
    as_of: dt.datetime | None,
    snapshots: Mapping[str, int],
    version: str,
    students: int,
    moved: list[dict[str, Any]],
    refusals: list[str],
) -> dict[str, Any]:
    """Return what a run of score adds to the champion's card. students: rows compared with the training."""
    found = {"drift": moved, "drift_students": students, "score_refusals": refusals}
    return {**_head("score", config, as_of, snapshots), "version": version, **found}


def _head(job: str, config: Config, as_of: dt.datetime | None, snapshots: Mapping[str, int]) -> dict[str, Any]:
    own = {
        "run_id": job_runs.run_id(),
        "as_of": point_in_time.utc(as_of).isoformat() if as_of else None,
        "written_at": dt.datetime.now(dt.UTC).isoformat(),
        "snapshots": {table: snapshots[table] for table in sorted(snapshots)},
    }
    return {"job": job, "model": config.mlflow.model, "version": None, job: own}


def some_weeks(weeks: Sequence[int]) -> Sequence[int]:
    """Return those of the weeks that groups and the summary show; all of them where none is in WEEKS."""
    return [week for week in WEEKS if week in weeks] or weeks


def write(spark: SparkSession, card: dict[str, Any]) -> None:
    """Append the card's rows to marts.model_card: those of the job that made it."""
    own = card[card["job"]]
    head = (
        own["run_id"], card["job"], dt.datetime.fromisoformat(own["as_of"]) if own["as_of"] else None,
        dt.datetime.fromisoformat(own["written_at"]), card["version"],
    )  # fmt: skip
    rows = [(*head, *row) for row in _rows(card)]
    writers.append_rows(
        spark, rows, contracts.schema(table_names.MODEL_CARD), table_names.MODEL_CARD, run_id=job_runs.run_id()
    )


Row = tuple[str, str | None, str, int | None, float | None, float | None, float | None, str | None]


def _rows(card: dict[str, Any]) -> Iterator[Row]:
    """Yield section, subject, name, week, value, low, high and text of each row."""
    for table, snapshot in card[card["job"]]["snapshots"].items():
        yield "snapshot", table, "snapshot_id", None, None, None, None, str(snapshot)
    for section in ("protocol", "window"):
        for name, value in card.get(section, {}).items():
            number = float(value) if isinstance(value, (int, float)) else None
            yield section, None, name, None, number, None, None, None if number is not None else str(value)
    for course in card.get("courses", []):
        share, text = course["positives"] / course["students"], f"{course['students']} students"
        yield "course", course["shortname"], course["outcome"], None, share, None, None, text
    for subject, weeks in card.get("measures", {}).items():
        for week in weeks:
            yield from _values("measure", subject, week["week"], week, [name for name in week if name != "week"])
    for row in card.get("calibration", []):
        subject, text = f"{row['probability']:.3f}", f"{row['students']} rows"
        yield "calibration", subject, "share", None, row["share"], *row["share_ci"], text
    for field in card.get("groups", []):
        for week in field["weeks"]:
            for row in week["groups"]:
                subject, names = f"{field['field']}={row['group']}", ("students", *metrics.GAPS)
                yield from _values("group", subject, week["week"], row, names, row["note"])
    for check in card.get("checks", []):
        yield "champion", check["against"], f"{check['measure']}_gain", None, check["gain"], None, None, check["text"]
    if card.get("champion") is not None:
        yield "champion", None, "became_champion", None, float(card["champion"]), None, None, None
    for row in card.get("drift", []):
        before = f"{row['missing_then']:.3f} in training"
        yield "drift", row["feature"], "shift", None, row["shift"], None, None, None
        yield "drift", row["feature"], "missing", None, row["missing"], None, None, before
    for text in (*card.get("refusals", []), *card.get("score_refusals", [])):
        yield "refusal", None, "reason", None, None, None, None, text


def _values(
    section: str, subject: str, week: int, values: Mapping[str, Any], names: Iterable[str], text: str | None = None
) -> Iterator[Row]:
    """Yield a row of each measure that has a value, with its interval where it has one."""
    for name in names:
        if not name.endswith("_ci") and values[name] is not None:
            low, high = values.get(f"{name}_ci") or (None, None)
            yield section, subject, name, week, float(values[name]), low, high, text


def markdown(card: dict[str, Any], link: str) -> str:
    """Render the card's summary, as MLflow shows it with a run: what is predicted, from what, how well, within which limits.

    Its first lines are all that a list shows, as they stand here. link leads to the whole card.
    """
    link, protocol = f"[The whole model card]({link})", card["protocol"]
    if "measures" not in card:
        lines = [f"No model was trained. {link}", *card["refusals"], f"**It would predict** {protocol['label']}."]
        return "\n\n".join(lines)
    window, measures, overall = card["window"], card["measures"], card["overall"]
    verdict = "It became champion" if card["champion"] else "It did not become champion"
    shown = some_weeks([week["week"] for week in measures["model"]])
    rows = [
        (str(week[0]["week"]), f"{week[0]['students']:,}", *[_pair(found) for found in week])
        for week in zip(*measures.values(), strict=True)  # the model's first
        if week[0]["week"] in shown
    ]
    rows.append(("all", "", *[_pair(overall[name]) for name in measures]))
    head = ("after week", "students", *[name.replace("_", " ") for name in measures])
    lines = [head, tuple("---" for _ in head), *rows]
    limits = [
        f"It knows courses like these: {window['terms']}.",
        f"Demographic attributes are {protocol['demographics']}.",
        f"{OVERWRITTEN}.",
        "A probability is a reason to look at somebody, not a verdict; of who is listed, some will make it.",
        *card.get("refusals", []),
    ]
    failed = [check["text"] for check in card["checks"] if not check["passed"]]
    return "\n\n".join(
        [
            f"{verdict}: AUC / Brier score {_pair(overall['model'])}. {link}",
            *([_items(failed)] if failed else []),
            f"**It predicts** {protocol['label']}, for each student at the end of each week of a course.",
            f"**It learnt from** {window['courses']:,} courses with {window['enrolments']:,} enrolments, of which"
            f" {window['base_rate']:.0%} had this outcome.",
            f"**AUC / Brier score** beside the baselines', {protocol['split']}:",
            "\n".join(f"| {' | '.join(line)} |" for line in lines),
            "**Limits**",
            _items(limits),
        ]
    )


def _pair(measures: Mapping[str, Any]) -> str:
    auc, brier = measures["auc"], measures["brier"]
    return f"{'none' if auc is None else format(auc, '.3f')} / {'none' if brier is None else format(brier, '.3f')}"


def _items(lines: Sequence[str]) -> str:
    more = [f"and {len(lines) - MAX_ITEMS} more, which the whole card names"] if len(lines) > MAX_ITEMS else []
    return "\n".join(f"- {line}" for line in [*lines[:MAX_ITEMS], *more])
