"""Keep the lake's tables small and quick: join files, expire snapshots, join manifests, remove files of dead jobs.

What is done to which table is data (maintenance.yml). Every step is one of Iceberg's own commits, or none: it does not
block a running job, nor is it blocked by one. A step that meets another job's commit is left to the next run;
an ingest that meets one of these commits reads the table's state again (ingest.table_sync).

What jobs record in a snapshot, such as the state of a sync, is looked up through its ancestors: the newest snapshot with
such a record, and the newest that changed rows, are kept however old they are.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import importlib.resources
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pyspark.sql import SparkSession

from moodle_lakehouse.errors import ConfigError, LakehouseError, bullet_list, fault, reason
from moodle_lakehouse.lake import job_runs, snapshots, table_names, tables, worker_pool, writers

log = logging.getLogger(__name__)

FILE = "maintenance.yml"
WORKERS = 4  # tables at a time
MANIFEST_BYTES = 8 * 1024 * 1024  # what Iceberg joins manifests to


class Policy(BaseModel):
    """What happens to one table; maintenance.yml says what each means."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    history_days: float = Field(ge=0)
    keep_snapshots: int = Field(ge=1)
    small_files: int = Field(ge=2)
    manifests: int = Field(ge=2)
    orphan_days: float = Field(ge=1)
    sort: list[str] = []


@dataclass(frozen=True)
class Policies:
    """All of maintenance.yml: the rules of the namespaces, of tables that have their own, and of the sandbox."""

    namespaces: dict[str, Policy]
    tables: dict[str, Policy]
    sandbox: Policy

    def of(self, table: str) -> Policy:
        """Return the policy of namespace.table of the lake."""
        return self.tables.get(table) or self.namespaces[table_names.parts(table)[0]]


@dataclass(frozen=True)
class Size:
    """A table's current snapshot (files of rows and their bytes), and how many snapshots and manifests there are."""

    files: int
    bytes: int
    snapshots: int
    manifests: int


@dataclass(frozen=True)
class TableResult:
    """What was done to namespace.table (sandbox.namespace.table), or would be (then before and after are the same).

    rewritten, written: files that were joined, and what they became; expired: snapshots, expired_files: what they
    alone held, of rows and of metadata; orphans: files that no snapshot named, their paths in a dry run.
    """

    table: str
    before: Size
    after: Size
    rewritten: int = 0
    written: int = 0
    expired: int = 0
    expired_files: int = 0
    manifests_rewritten: int = 0
    orphans: int = 0
    orphan_paths: tuple[str, ...] = ()
    seconds: float = 0.0
    note: str = ""

    @property
    def changed(self) -> bool:
        """Return whether anything was done."""
        return bool(self.rewritten or self.expired or self.manifests_rewritten or self.orphans)


def load() -> Policies:
    """Return the policies that come with this package."""
    text = importlib.resources.files(__package__).joinpath(FILE).read_text(encoding="utf-8")
    return parse(yaml.safe_load(text))


def parse(document: Any) -> Policies:
    """Return the checked policies of a YAML's content; wrong ones are refused with every fault."""
    faults = [f"{name}: missing" for name in table_names.NAMESPACES if name not in document["namespaces"]]
    checked: dict[str, Policy] = {}
    for name, rule in [*document["namespaces"].items(), *document["tables"].items()]:
        namespace = name.split(".")[0]
        if namespace not in table_names.NAMESPACES:
            faults.append(f"{name}: no namespace of the lake; there are: {', '.join(table_names.NAMESPACES)}")
            continue
        try:
            checked[name] = Policy.model_validate({**document["namespaces"].get(namespace, {}), **rule})
        except ValidationError as error:
            faults.extend(fault(one, name) for one in error.errors())
    sandbox: Policy | None = None
    try:
        sandbox = Policy.model_validate(document.get("sandbox"))
    except ValidationError as error:
        faults.extend(fault(one, "sandbox") for one in error.errors())
    if faults or sandbox is None:
        raise LakehouseError(
            "The policies of maintenance are not valid:\n" + bullet_list(sorted(set(faults))),
            where=FILE,
            remedy="correct the named keys; the head of the file says what each means",
        )
    namespaces = {name: policy for name, policy in checked.items() if name in document["namespaces"]}
    return Policies(namespaces, {name: policy for name, policy in checked.items() if name not in namespaces}, sandbox)


def run(
    spark: SparkSession,
    names: Sequence[str] = (),
    *,
    dry_run: bool = False,
    policies: Policies | None = None,
    sandbox: bool = False,
) -> list[TableResult]:
    """Maintain the named tables (namespace.table), or all of the lake; dry_run: only report what would be done.

    sandbox: whether there are tables of analysts, too: sandbox.namespace.table.
    """
    policies = policies or load()
    with job_runs.job(spark, "maintain") as job:
        locations = tables.table_locations(spark)
        found = {
            name: _Maintenance(spark, name, policies.of(name), _shared(name, locations), dry_run=dry_run)
            for name in locations
            if len(place := table_names.parts(name)) == 2 and place[0] in table_names.NAMESPACES
        }
        unreadable: dict[str, str] = {}  # what an analyst left there must not keep the rest from its maintenance
        if sandbox:
            locations = tables.table_locations(spark, table_names.SANDBOX, unreadable)
            found |= {
                f"{table_names.SANDBOX}.{name}": _Maintenance(
                    spark,
                    name,
                    policies.sandbox,
                    _shared(name, locations),
                    dry_run=dry_run,
                    catalog=table_names.SANDBOX,
                )
                for name in locations
            }
        wanted = _chosen(list(found), names)
        work = {name: found[name].run for name in wanted}
        results, failures = worker_pool.each(spark, work, workers=WORKERS, name="maintain")
        failures += [f"{table_names.SANDBOX}.{name}: {why}" for name, why in unreadable.items()]
        job.detail.update(
            dry_run=dry_run,
            tables={r.table: _detail(r) for r in results if r.changed or r.note},
            unchanged=sum(not r.changed for r in results),
        )
        if failures:
            raise LakehouseError(
                f"{len(failures)} of {len(wanted) + len(unreadable)} tables could not be maintained:\n"
                + bullet_list(failures),
                where=table_names.CATALOG,
                remedy="see the reasons above, then run maintain again; what was done to the others is done",
            )
    return results


def _chosen(found: Sequence[str], names: Sequence[str]) -> list[str]:
    existing = sorted(found)
    names = [_full(name) for name in names]
    unknown = [name for name in names if name not in existing]
    if unknown:
        raise ConfigError(
            f"The lake has no table {', '.join(unknown)}",
            remedy=f"name tables with their namespace, such as raw.course; there are: {', '.join(existing)}",
        )
    return list(dict.fromkeys(names)) if names else existing


def _full(name: str) -> str:
    """Return a name that somebody typed as the catalog's are written; what is none stays."""
    try:
        return table_names.full_name(*table_names.parts(name))
    except ValueError:
        return name


def _shared(name: str, locations: Mapping[str, str]) -> list[str]:
    """Return other tables whose files lie in the same folder, or in one inside it: a renamed table keeps its folder."""
    mine = locations[name]
    return sorted(other for other, location in locations.items() if other != name and location.startswith(mine))


class _Maintenance:
    """The steps for one table. shared: other tables that have files in its folder, which would pass for its orphans."""

    def __init__(
        self,
        spark: SparkSession,
        name: str,
        policy: Policy,
        shared: list[str],
        *,
        dry_run: bool,
        catalog: str = table_names.CATALOG,
    ) -> None:
        self.spark, self.policy, self.shared, self.dry_run = spark, policy, shared, dry_run
        self.catalog, self.inside, self.table = catalog, name, f"{catalog}.{name}"
        self.name = name if catalog == table_names.CATALOG else self.table
        self.notes: list[str] = []
        self.done: dict[str, Any] = {}
        self.jvm: Any = spark._jvm
        self.actions = self.jvm.org.apache.iceberg.spark.actions.SparkActions.get(spark._jsparkSession)

    def run(self) -> TableResult:
        started = time.monotonic()
        before = self._size()
        steps = (
            ("joining files", self._join_files),
            ("joining manifests", self._join_manifests),
            ("expiring snapshots", self._expire),
            ("removing orphans", self._remove_orphans),
        )
        for what, step in steps:
            loaded = tables.load(self.spark, self.table)
            try:
                if loaded is not None:
                    step(loaded)
            except Exception as error:
                if not writers.was_overtaken(error):
                    raise
                log.info("%s: %s: %s", self.name, what, reason(error))
                self.notes.append(f"{what} is left to the next run: a job wrote the table meanwhile")
        return TableResult(
            self.name,
            before,
            before if self.dry_run else self._size(),
            **self.done,
            seconds=time.monotonic() - started,
            note="; ".join(self.notes),
        )

    def _size(self) -> Size:
        loaded = tables.load(self.spark, self.table)
        if loaded is None:
            raise LakehouseError("The table is gone since this run began", where=self.table)
        snapshot = loaded.currentSnapshot()
        summary = snapshot.summary() if snapshot is not None else {}
        return Size(
            int(summary.get("total-data-files") or 0),
            int(summary.get("total-files-size") or 0),
            sum(1 for _ in loaded.snapshots()),
            len(_manifests(loaded)),
        )

    def _join_files(self, loaded: Any) -> None:
        if loaded.currentSnapshot() is None:
            return
        options = {"min-input-files": str(self.policy.small_files)}
        planner = self.jvm.org.apache.iceberg.actions.BinPackRewriteFilePlanner(loaded)
        planner.init(options)
        plan = planner.plan()
        if not plan.totalGroupCount():
            return
        if self.dry_run:
            groups = list(plan.groups().iterator())
            self.done.update(
                rewritten=sum(group.inputFileNum() for group in groups),
                written=sum(group.expectedOutputFiles() for group in groups),
            )
            return
        action = (
            self.actions.rewriteDataFiles(loaded).options(options).snapshotProperty(snapshots.RUN_ID, job_runs.run_id())
        )
        if self.policy.sort:
            order = self.jvm.org.apache.iceberg.SortOrder.builderFor(loaded.schema())
            for column in self.policy.sort:
                order = order.asc(column)
            action = action.sort(order.build())
        result = action.execute()
        self.done.update(rewritten=result.rewrittenDataFilesCount(), written=result.addedDataFilesCount())

    def _join_manifests(self, loaded: Any) -> None:
        manifests = _manifests(loaded)
        needed = math.ceil(sum(one.length() for one in manifests) / MANIFEST_BYTES)
        if len(manifests) < self.policy.manifests or len(manifests) <= 2 * needed:
            return
        self.done["manifests_rewritten"] = len(manifests)
        if not self.dry_run:
            self.actions.rewriteManifests(loaded).snapshotProperty(snapshots.RUN_ID, job_runs.run_id()).execute()

    def _expire(self, loaded: Any) -> None:
        if loaded.currentSnapshot() is None:
            return
        older_than = int((time.time() - self.policy.history_days * 86_400) * 1000)
        keep = max(self.policy.keep_snapshots, _needed(loaded))
        doomed = loaded.expireSnapshots().expireOlderThan(older_than).retainLast(keep).apply()
        if not len(doomed):
            return
        self.done["expired"] = len(doomed)
        if self.dry_run:
            return
        result = snapshots.expire(self.spark, loaded, older_than=older_than, keep=keep)
        self.done["expired_files"] = sum(
            int(count)
            for count in (
                result.deletedDataFilesCount(),
                result.deletedPositionDeleteFilesCount(),
                result.deletedEqualityDeleteFilesCount(),
                result.deletedManifestsCount(),
                result.deletedManifestListsCount(),
                result.deletedStatisticsFilesCount(),
            )
        )

    def _remove_orphans(self, _: Any) -> None:
        if self.shared:
            self.notes.append(f"orphans stay: {', '.join(self.shared)} has files in the same folder")
            return
        older_than = dt.datetime.now(dt.UTC) - dt.timedelta(days=self.policy.orphan_days)
        # By the listing of Iceberg's own file access: Hadoop's knows no s3://.
        removed = self.spark.sql(
            f"CALL {table_names.quoted(self.catalog)}.system.remove_orphan_files(table => {table_names.literal(self.inside)},"
            f" prefix_listing => true, older_than => TIMESTAMP '{older_than:%Y-%m-%d %H:%M:%S}', dry_run => {str(self.dry_run).lower()})"
        ).collect()
        self.done["orphans"] = len(removed)
        if self.dry_run:
            self.done["orphan_paths"] = tuple(sorted(row[0] for row in removed))


def _manifests(loaded: Any) -> list[Any]:
    snapshot = loaded.currentSnapshot()
    return [] if snapshot is None else list(snapshot.allManifests(loaded.io()))


def _needed(loaded: Any) -> int:
    """Count how many snapshots, from the current one back, hold the newest rows and the newest record of a job."""
    rows = False
    at_rows = 1
    for number, snapshot in enumerate(snapshots.ancestors(loaded), start=1):
        if not rows and snapshot.operation() != "replace":
            rows, at_rows = True, number
        if rows and snapshots.records_of(snapshot):
            return number
    return at_rows


def _detail(result: TableResult) -> dict[str, Any]:
    shown = {k: v for k, v in dataclasses.asdict(result).items() if k not in ("table", "orphan_paths") and v}
    return {**shown, "seconds": round(result.seconds, 1)}
