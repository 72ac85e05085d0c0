"""Render a model card as one HTML page that loads nothing from anywhere: its plots are SVG within it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from moodle_lakehouse.dropout import drift

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}th,td{padding:.15rem .6rem;border-bottom:1px solid #ddd;text-align:right}
th:first-child,td:first-child{text-align:left}.no{color:#a11}svg{max-width:100%;height:auto}
dt{font-weight:600}dd{margin:0 0 .4rem 1rem;overflow-wrap:anywhere}"""


def render(card: dict[str, Any]) -> str:
    """Return the page of a card; it shows the sections that the card has."""
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
            f" {escape(str(card['score']['as_of']))}. Shift in standard deviations: below {drift.DRIFT_LOW} nothing has moved, above {drift.DRIFT_HIGH} much has.</p>"
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


def _verdict(card: dict[str, Any]) -> str:
    if card.get("champion") is None:
        return ""
    verdict = "It became champion." if card["champion"] else "It did not become champion."
    items = "".join(
        f'<li class="{"" if check["passed"] else "no"}">{escape(check["text"])}</li>' for check in card["checks"]
    )
    return f"<p>{verdict}</p><ul>{items}</ul>"


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
    """Draw the AUC by week of the model, with its interval, and of what it has to beat."""
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
    """Draw, of those given a probability, the share that had the outcome, with its interval; the diagonal is perfect."""
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
