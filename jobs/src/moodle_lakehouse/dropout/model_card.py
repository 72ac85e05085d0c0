"""The model's card: what a run of train or score did and how good it is, as a page for people and rows for SQL.

A card is one document of plain values. Its page is one file with its pictures in it; its rows are lakehouse.marts.model_card.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql import types as T

from moodle_lakehouse.config import Config
from moodle_lakehouse.dropout import drift, labels, metrics
from moodle_lakehouse.dropout import learner as learn
from moodle_lakehouse.dropout.promotion import Check
from moodle_lakehouse.lake import job_runs, point_in_time, table_names, writers

DOCUMENT = "model_card.json"
# The weeks in which groups are compared and which the summary shows
WEEKS = (0, 4, 8, 12, 16, 20)
# How many lines a list of the summary has
MOST = 6

# Grain: run, job, section, subject, name and week. value with its interval low to high, or text.
SCHEMA = T.StructType(
    [
        T.StructField("run_id", T.StringType(), False),
        T.StructField("job", T.StringType(), False),
        T.StructField("as_of", T.TimestampType(), True),
        T.StructField("written_at", T.TimestampType(), False),
        T.StructField("model_version", T.StringType(), True),
        T.StructField("section", T.StringType(), False),
        T.StructField("subject", T.StringType(), True),
        T.StructField("name", T.StringType(), False),
        T.StructField("week", T.IntegerType(), True),
        T.StructField("value", T.DoubleType(), True),
        T.StructField("low", T.DoubleType(), True),
        T.StructField("high", T.DoubleType(), True),
        T.StructField("text", T.StringType(), True),
    ]
)


def trained(
    config: Config,
    as_of: dt.datetime | None,
    snapshots: Mapping[str, int],
    model: learn.Model,
    courses: Sequence[learn.Course],
    measured: dict[str, Any],
    checks: Sequence[Check],
) -> dict[str, Any]:
    """The card of a training; version, champion, groups and refusals are added once they are known."""
    starts = [point_in_time.utc(course.start_at) for course in courses]
    students, positives = sum(c.students for c in courses), sum(c.positives for c in courses)
    return {
        **_head("train", config, as_of, snapshots),
        "protocol": {
            "label": f"{model.spec.label}: {labels.NAMES[model.spec.label]}",
            "rows": "an enrolment at the end of each week, of those still enrolled then; features from strictly before",
            "split": f"measured on {measured['held_out']}",
            "calibration": f"{learn.CALIBRATION}, "
            + ("on the latest term held out from the trees" if learn.can_hold_out_term(courses) else "out of fold by course"),
            "capacity": f"precision and recall of the {config.analytics.capacity} most probable of each course and week",
            "intervals": metrics.INTERVALS,
            "demographics": "used" if config.analytics.demographics else "not used",
            "learner": ", ".join(f"{name} {value}" for name, value in learn.XGB_PARAMS.items()),
            "features": ", ".join(model.spec.features),
        },
        "window": {
            "courses": len(courses),
            "terms": "; ".join(learn.describe(term) for term in learn.terms(courses)),
            "enrolments": students,
            "base_rate": positives / students,
            "first_start": min(starts).isoformat(),
            "last_start": max(starts).isoformat(),
            "known_until": point_in_time.utc(as_of).isoformat() if as_of else "now",
        },
        "measures": {**measured["per_week"]},
        "overall": measured["overall"],
        "calibration": measured["calibration"],
        "checks": [
            {"against": c.against, "measure": c.measure, "gain": c.gain, "passed": c.passed, "text": str(c)} for c in checks
        ],
    }  # fmt: skip


def refused(config: Config, as_of: dt.datetime | None, snapshots: Mapping[str, int], reason: str) -> dict[str, Any]:
    """The card of a training that was refused."""
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
    """What a run of score adds to the champion's card. students: rows compared with the training."""
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
    return [week for week in WEEKS if week in weeks] or weeks


def write(spark: SparkSession, card: dict[str, Any]) -> None:
    """Append the card's rows to marts.model_card: those of the job that made it."""
    own = card[card["job"]]
    head = (
        own["run_id"], card["job"], dt.datetime.fromisoformat(own["as_of"]) if own["as_of"] else None,
        dt.datetime.fromisoformat(own["written_at"]), card["version"],
    )  # fmt: skip
    rows = [(*head, *row) for row in _rows(card)]
    writers.append_rows(spark, rows, SCHEMA, table_names.MODEL_CARD, run_id=job_runs.run_id())


Row = tuple[str, str | None, str, int | None, float | None, float | None, float | None, str | None]


def _rows(card: dict[str, Any]) -> Iterator[Row]:
    """section, subject, name, week, value, low, high, text."""
    for table, snapshot in card[card["job"]]["snapshots"].items():
        yield "snapshot", table, "snapshot_id", None, None, None, None, str(snapshot)
    for section in ("protocol", "window"):
        for name, value in card.get(section, {}).items():
            number = float(value) if isinstance(value, (int, float)) else None
            yield section, None, name, None, number, None, None, None if number is not None else str(value)
    for subject, weeks in card.get("measures", {}).items():
        for week in weeks:
            for name, value in week.items():
                if name != "week" and not name.endswith("_ci") and value is not None:
                    low, high = week.get(f"{name}_ci") or (None, None)
                    yield "measure", subject, name, week["week"], float(value), low, high, None
    for row in card.get("calibration", []):
        low, high = row["share_ci"]
        yield (
            "calibration",
            f"{row['probability']:.3f}",
            "share",
            None,
            row["share"],
            low,
            high,
            f"{row['students']} rows",
        )
    for field in card.get("groups", []):
        for week in field["weeks"]:
            for row in week["groups"]:
                subject = f"{field['field']}={row['group']}"
                for name in ("students", *metrics.GAPS):
                    if not name.endswith("_ci") and row[name] is not None:
                        low, high = row.get(f"{name}_ci") or (None, None)
                        yield "group", subject, name, week["week"], float(row[name]), low, high, row["note"]
    for check in card.get("checks", []):
        yield "champion", check["against"], f"{check['measure']}_gain", None, check["gain"], None, None, check["text"]
    if card.get("champion") is not None:
        yield "champion", None, "became_champion", None, float(card["champion"]), None, None, None
    for row in card.get("drift", []):
        yield "drift", row["feature"], "shift", None, row["shift"], None, None, None
        yield (
            "drift",
            row["feature"],
            "missing",
            None,
            row["missing"],
            None,
            None,
            f"{row['missing_then']:.3f} in training",
        )
    for text in (*card.get("refusals", []), *card.get("score_refusals", [])):
        yield "refusal", None, "reason", None, None, None, None, text


STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}th,td{padding:.15rem .6rem;border-bottom:1px solid #ddd;text-align:right}
th:first-child,td:first-child{text-align:left}.no{color:#a11}svg{max-width:100%;height:auto}
dt{font-weight:600}dd{margin:0 0 .4rem 1rem;overflow-wrap:anywhere}"""


def html(card: dict[str, Any]) -> str:
    """The card as one page that loads nothing from anywhere."""
    version = f" version {card['version']}" if card["version"] else ""
    parts = [f"<h1>{escape(card['model'] + version)}</h1>", _verdict(card)]
    if card.get("refusals") or card.get("score_refusals"):
        reasons = [*card.get("refusals", []), *card.get("score_refusals", [])]
        items = "".join(f"<li>{escape(text).replace(chr(10), '<br/>')}</li>" for text in reasons)
        parts.append(f"<h2>Refusals</h2><ul>{items}</ul>")
    if "protocol" in card:
        parts.append("<h2>Protocol</h2>" + _terms(card["protocol"]))
    if "window" in card:
        parts.append("<h2>Data</h2>" + _terms(card["window"]))
    if "measures" in card:
        measures = card["measures"]
        parts += [
            "<h2>Measures by week</h2>",
            auc_plot(measures),
            *[_measures(name, measures[name]) for name in measures],
        ]
        parts += ["<h2>Calibration</h2>", calibration_plot(card["calibration"])]
    for field in card.get("groups", []):
        parts.append(f"<h2>Groups by {escape(field['field'])}</h2>" + _groups(field))
    if "drift" in card:
        parts.append(
            f"<h2>Drift against the training data</h2><p>{card['drift_students']:,} students of the running courses, as of"
            f" {escape(str(card['score']['as_of']))}. Shift in standard deviations: below {drift.SOME} nothing has moved, above {drift.MUCH} much has.</p>"
            + _table(
                ("feature", "shift", "missing now", "missing in training"),
                [(r["feature"], f"{r['shift']:.3f}", f"{r['missing']:.3f}", f"{r['missing_then']:.3f}") for r in card["drift"]],
            )
        )  # fmt: skip
    for job in ("train", "score"):
        if job in card:
            own = card[job]
            table = _table(("table", "snapshot"), [(table, str(number)) for table, number in own["snapshots"].items()])
            parts.append(
                f"<h2>Snapshots read by {job}</h2><p>Run {escape(own['run_id'])}, as of {own['as_of']},"
                f" written {own['written_at']}.</p>" + table
            )
    title = escape(card["model"] + version)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def markdown(card: dict[str, Any], link: str) -> str:
    """The card's essence, as MLflow shows it with a run: what is predicted, from what, how well, within which limits.

    Its first lines are all that a list shows, as they stand here. link leads to the whole card.
    """
    link, protocol = f"[The whole model card]({link})", card["protocol"]
    if "measures" not in card:
        told = [f"No model was trained. {link}", *card["refusals"], f"**It would predict** {protocol['label']}."]
        return "\n\n".join(told)
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
    more = [f"and {len(lines) - MOST} more, which the whole card names"] if len(lines) > MOST else []
    return "\n".join(f"- {line}" for line in [*lines[:MOST], *more])


def _verdict(card: dict[str, Any]) -> str:
    if card.get("champion") is None:
        return ""
    told = "It became champion." if card["champion"] else "It did not become champion."
    items = "".join(
        f'<li class="{"" if check["passed"] else "no"}">{escape(check["text"])}</li>' for check in card["checks"]
    )
    return f"<p>{told}</p><ul>{items}</ul>"


def _terms(values: Mapping[str, Any]) -> str:
    def shown(value: Any) -> str:
        return f"{value:,.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)

    pairs = "".join(f"<dt>{escape(k.replace('_', ' '))}</dt><dd>{escape(shown(v))}</dd>" for k, v in values.items())
    return f"<dl>{pairs}</dl>"


def _measures(name: str, weeks: Sequence[Mapping[str, Any]]) -> str:
    columns = ("week", "students", "base rate", "AUC", "PR-AUC", "Brier", "ECE", "precision", "recall")
    rows = [
        (
            str(week["week"]), f"{week['students']:,}", _figure(week["base_rate"]),
            _figure(week["auc"], week["auc_ci"]), _figure(week["pr_auc"]), _figure(week["brier"], week["brier_ci"]),
            _figure(week["ece"]), _figure(week["precision"], week["precision_ci"]),
            _figure(week["recall"], week["recall_ci"]),
        )
        for week in weeks
    ]  # fmt: skip
    return f"<h3>{escape(name.replace('_', ' '))}</h3>" + _table(columns, rows)


def _groups(field: Mapping[str, Any]) -> str:
    columns = ("week", "group", "students", "base rate", "mean risk", "AUC", "gap", "ABROCA", "note")
    rows = [
        (
            str(week["week"]), str(row["group"]), f"{row['students']:,}", _figure(row["base_rate"]),
            _figure(row["probability"]), _figure(row["auc"], row["auc_ci"]), _figure(row["auc_gap"], row["auc_gap_ci"]),
            _figure(row["abroca"]), row["note"] or "",
        )
        for week in field["weeks"]
        for row in week["groups"]
    ]  # fmt: skip
    return _table(columns, rows)


def _figure(value: float | None, interval: Sequence[float] | None = None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else "")


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(value)}</td>" for value in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


# The plots' frame in pixels: the picture's size and the margins of its axes.
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 340, 50, 170, 15, 40
COLOURS = {"model": "#1f5fa8", "logistic_regression": "#c0671b", "days_since_last_access": "#6b6b6b"}


class _Plot:
    """A small SVG picture with a linear scale on both axes."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float], labels: tuple[str, str]) -> None:
        self._x, self._y = x, y
        right, floor = WIDTH - RIGHT, HEIGHT - BOTTOM
        self.parts = [f'<path d="M{LEFT} {TOP}V{floor}H{right}" fill="none" stroke="#333"/>']
        self.text((LEFT + right) / 2, HEIGHT - 6, labels[0], "middle")
        self.parts.append(
            f'<text x="14" y="{(TOP + floor) / 2}" text-anchor="middle" transform="rotate(-90 14 {(TOP + floor) / 2})">'
            f"{escape(labels[1])}</text>"
        )

    def at(self, x: float, y: float) -> tuple[float, float]:
        width, height = WIDTH - RIGHT - LEFT, HEIGHT - BOTTOM - TOP
        span = [(high - low) or 1.0 for low, high in (self._x, self._y)]
        return LEFT + (x - self._x[0]) / span[0] * width, TOP + (self._y[1] - y) / span[1] * height

    def text(self, x: float, y: float, words: str, anchor: str = "start", colour: str = "#333") -> None:
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(words)}</text>'
        )

    def ticks(self, xs: Sequence[float], ys: Sequence[float], form: tuple[str, str]) -> None:
        for x in xs:
            self.text(self.at(x, self._y[0])[0], HEIGHT - BOTTOM + 15, format(x, form[0]), "middle")
        for y in ys:
            self.text(LEFT - 6, self.at(self._x[0], y)[1] + 4, format(y, form[1]), "end")

    def line(self, points: Sequence[tuple[float, float]], colour: str, dashes: str = "") -> None:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.at(*point) for point in points))
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}"/>'
        )

    def area(self, points: Sequence[tuple[float, float]], colour: str) -> None:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.at(*point) for point in points))
        self.parts.append(f'<polygon points="{path}" fill="{colour}" fill-opacity="0.18"/>')

    def dot(self, x: float, y: float, size: float, colour: str) -> None:
        left, top = self.at(x, y)
        self.parts.append(f'<circle cx="{left:.1f}" cy="{top:.1f}" r="{size:.1f}" fill="{colour}"/>')

    def svg(self, title: str) -> str:
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img"'
            f' font-size="12" font-family="sans-serif"><title>{escape(title)}</title>{"".join(self.parts)}</svg>'
        )


def auc_plot(measures: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """AUC by week of the model, with its interval, and of what it has to beat."""
    lines = {
        name: [(week["week"], week["auc"]) for week in weeks if week["auc"] is not None]
        for name, weeks in measures.items()
        if name in COLOURS
    }
    points = [point for line in lines.values() for point in line]
    if not points:
        return "<p>No week has both outcomes.</p>"
    last = max(max(x for x, _ in points), 1)
    plot = _Plot((0, last), (min(0.5, min(y for _, y in points)), 1.0), ("end of week", "AUC"))
    step = max(1, last // 10)
    plot.ticks(range(0, last + 1, step), [0.5, 0.6, 0.7, 0.8, 0.9, 1.0], ("d", ".1f"))
    band = [week for week in measures["model"] if week["auc_ci"] is not None]
    edge = [(week["week"], week["auc_ci"][1]) for week in band] + [(w["week"], w["auc_ci"][0]) for w in reversed(band)]
    plot.area(edge, COLOURS["model"])
    for place, (name, line) in enumerate(lines.items()):
        plot.line(line, COLOURS[name], "" if name == "model" else "5 4")
        plot.text(WIDTH - RIGHT + 12, TOP + 14 + 18 * place, name.replace("_", " "), colour=COLOURS[name])
    return plot.svg("AUC by week")


def calibration_plot(bins: Sequence[Mapping[str, Any]]) -> str:
    """Of those given a probability, the share that had the outcome, with its interval; the diagonal is perfect."""
    plot = _Plot((0.0, 1.0), (0.0, 1.0), ("probability", "share with the outcome"))
    tenths = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    plot.ticks(tenths, tenths, (".1f", ".1f"))
    plot.line([(0, 0), (1, 1)], "#999", "5 4")
    most = max((row["students"] for row in bins), default=1)
    for row in bins:
        low, high = row["share_ci"]
        plot.line([(row["probability"], low), (row["probability"], high)], COLOURS["model"])
        plot.dot(row["probability"], row["share"], 3 + 5 * (row["students"] / most) ** 0.5, COLOURS["model"])
    plot.text(WIDTH - RIGHT + 12, TOP + 14, "larger: more rows")
    return plot.svg("Calibration")
