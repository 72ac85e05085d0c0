"""What a notebook of the stack can do, tried in kernels of its own: docker exec --interactive jupyterlab python - <this file."""

from __future__ import annotations

import functools
import http.client
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_client.manager import start_new_kernel
from lakehouse_notebooks import limits, spark, sql

FOLDER = Path("/home/notebooks/notebooks/checks")
PUBLIC = os.environ["LAKEHOUSE_PUBLIC_URL"]
TOKEN = Path(os.environ["JUPYTER_TOKEN_FILE"]).read_text(encoding="utf-8").strip()
READ_ONLY = ("The main catalog is read-only for analysts", "sandbox.default.NAME", "load_catalog(")


@dataclass
class Done:
    """What a cell came to."""

    status: str
    text: str
    html: str

    def failed_with(self, *words: str) -> None:
        """Assert that the cell counts as failed and says this, in a few lines and without Java's trace."""
        assert self.status == "error", f"it did not fail: {self}"
        assert all(word in self.text for word in words), f"{words}: {self}"
        assert "\tat org.apache" not in self.text, f"a trace of Java's: {self}"
        assert "Traceback" not in self.text, f"a trace: {self}"
        assert self.text.count("\n") < 15, f"too long: {self}"


class Kernel:
    """A kernel as a notebook has it."""

    def __init__(self) -> None:
        self.manager, self.client = start_new_kernel(kernel_name="python3", cwd=str(FOLDER))

    def run(self, cell: str) -> Done:
        """Run a cell, whatever becomes of it."""
        text, page = [], []

        def hook(message: dict[str, Any]) -> None:
            content = message["content"]
            text.append(content.get("text", ""))
            text.extend(content.get("traceback", []))
            text.append(content.get("data", {}).get("text/plain", ""))
            page.append(content.get("data", {}).get("text/html", ""))

        reply = self.client.execute_interactive(cell, output_hook=hook, timeout=120)
        return Done(reply["content"]["status"], "\n".join(filter(None, text)), "\n".join(filter(None, page)))

    def ok(self, cell: str) -> Done:
        """Run a cell that must work."""
        done = self.run(cell)
        assert done.status == "ok", f"{cell}\n{done.text}"
        return done

    def end(self) -> None:
        """Take it away."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


def words() -> None:
    """How %sql reads its line, and what is left of an error."""
    assert sql.parse("--var x --limit 3 SELECT 1", None) == ("x", 3, "SELECT 1")
    assert sql.parse("--limit=3", "SELECT 1\n-- two\n") == (None, 3, "SELECT 1\n-- two")
    assert sql.parse("-- all of it", "SELECT 1")[2] == "-- all of it\nSELECT 1"
    assert sql.with_variables("SELECT {a}, '{}', '{b}'", {"a": 1}) == ("SELECT {a}, '{{}}', '{{b}}'", {"a": 1})
    assert sql.with_variables("SELECT '{b}'", {"a": 1}) == ("SELECT '{b}'", {})
    for line in ("", "--var 1x SELECT 1", "--limit 0 SELECT 1", "--limit x SELECT 1", "--nothing x SELECT 1"):
        try:
            sql.parse(line, None)
        except sql.SqlError:
            continue
        raise AssertionError(f"%sql {line} was taken")
    assert (
        spark.words(Exception("[NO] no such table; line 1 pos 3;\n'Project [*]")) == "[NO] no such table; line 1 pos 3"
    )
    shown = repr(sql.Result(["a"], [["<b>"], [None]], cut=True))
    assert shown.splitlines()[:3] == ["a", "<b>", "NULL"]
    assert "&lt;b&gt;" in sql.Result(["a"], [["<b>"]], cut=False)._repr_html_()


def ask(path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    """Send a request to Jupyter."""
    connection = http.client.HTTPConnection("127.0.0.1", 8888, timeout=20)
    connection.request(method, os.environ["JUPYTER_BASE_URL"] + path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode("utf-8", "replace")


def edge_alone() -> None:
    """Jupyter answers whoever has edge's token, has it in no page, and stays guarded against other sites' pages."""
    socket = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "x" * 16,
    }
    for given in (
        {},
        {"Authorization": "token wrong"},
        {"Authorization": f"Bearer {TOKEN}"},
        {"Cookie": f"token={TOKEN}"},
    ):
        for path in ("/lab", "/api/contents", "/api/kernels", "/spark-4040/", f"/lab?token={TOKEN}"):
            status, _ = ask(path, **given)
            assert status in (401, 403), f"{path} with {list(given)}: {status}"
        for path in ("/terminals/websocket/1", "/api/events/subscribe"):
            status, _ = ask(path, **given, **socket)
            assert status in (401, 403), f"{path} with {list(given)}: {status}"
    known = {"Authorization": f"token {TOKEN}"}
    status, page = ask("/lab", **known)
    assert status == 200, status
    assert '"token": ""' in page, "the page holds a token"
    assert ask("/api")[0] == 200, "the health check needs a token"
    assert ask("/api/terminals", "POST", **known)[0] == 403, "a request without Jupyter's own proof was taken"
    assert ask("/api/events/subscribe", **known, **socket, Origin="http://elsewhere")[0] == 403, "another site's socket"


def sql_cells(kernel: Kernel) -> None:
    """%sql and %%sql in all their forms."""
    done = kernel.ok("%sql SHOW NAMESPACES")
    assert "<td>curated</td>" in done.html, done
    done = kernel.ok(
        "%%sql --var courses --limit 2\nSELECT courseid, shortname\nFROM curated.dim_course ORDER BY courseid"
    )
    assert done.html.count("<tr>") == 3, done
    assert "there are more" in done.html, done
    assert kernel.ok("courses.count() > 2, type(courses).__name__").text == "(True, 'DataFrame')"
    assert "\n41 " in kernel.ok("answer = 41\n%sql SELECT {answer} AS a, {answer} + 1 AS b FROM {courses} LIMIT 1").text
    assert kernel.ok("%sql CREATE NAMESPACE IF NOT EXISTS sandbox.default").html == ""
    kernel.run("%sql SELECT * FROM curated.there").failed_with("[TABLE_OR_VIEW_NOT_FOUND]", "`curated`.`there`")
    kernel.run("%sql SELECT * FROM raw.course").failed_with("Analysts read the namespaces curated, features and marts")
    kernel.run("%%sql\nSELEC 1").failed_with("[PARSE_SYNTAX_ERROR]")
    kernel.run("%sql SELECT raise_error('as it was said')").failed_with("as it was said")
    kernel.run("%sql --limit 0 SELECT 1").failed_with("--limit must be 1 or more")
    kernel.ok("from pyspark.sql import SparkSession\nspark = SparkSession.builder.getOrCreate()")
    kernel.run("spark.table('curated.there')").failed_with("[TABLE_OR_VIEW_NOT_FOUND]")
    kernel.run("spark.sql(\"SELECT raise_error('as it was said')\").show()").failed_with("as it was said")
    assert f'href="{PUBLIC}/jupyter/spark-40' in kernel.ok("spark").html
    # The application's pages and ports are for this container, from which Jupyter passes them on.
    listening = {line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if " 0A " in line}
    beyond = {int(place[-4:], 16) for place in listening if not place.startswith("0100007F")} - {8888}
    own = {
        port for port in beyond if not any(place == f"0B00007F:{port:04X}" for place in listening)
    }  # Docker's resolver
    assert not own, f"ports that others reach: {own}"


def catalogs(kernel: Kernel) -> None:
    """PyIceberg reaches the lake by every name."""
    for name in ("", "'default'", "'lakehouse'"):
        cell = f"from pyiceberg.catalog import load_catalog\nload_catalog({name}).load_table('curated.dim_course').scan().count()"
        assert int(kernel.ok(cell).text) > 2
    assert "('default',)" in kernel.ok("load_catalog('sandbox').list_namespaces()").text


def read_only(kernel: Kernel) -> None:
    """Whoever writes to the main catalog, by whatever means, is told where to write instead, and nothing changes."""
    course = "curated.dim_course"
    prepare = f"""
lake = load_catalog()
table = lake.load_table("{course}")
rows = table.scan().to_arrow()
frame = spark.table("{course}")
snapshot, metadata = table.current_snapshot(), table.metadata_location
"""
    kernel.ok(prepare)
    for cell in (
        "%sql CREATE TABLE curated.mine AS SELECT 1 AS a",
        "%sql CREATE TABLE curated.mine (a INT)",
        "%sql CREATE VIEW curated.mine AS SELECT 1 AS a",
        "%sql CREATE NAMESPACE mine",
        f"%sql INSERT INTO {course} SELECT * FROM {course}",
        f"%%sql\nUPDATE {course} SET shortname = 'x'",
        f"%%sql\nDELETE FROM {course} WHERE courseid > 1",
        f"%sql DELETE FROM {course}",
        f"%%sql\nMERGE INTO {course} t USING {course} s ON t.courseid = s.courseid WHEN MATCHED THEN UPDATE SET t.shortname = 'x'",
        f"%sql ALTER TABLE {course} CREATE BRANCH mine",
        f"%sql ALTER TABLE {course} ADD COLUMN mine INT",
        f"%sql DROP TABLE {course} PURGE",
        f"%sql CALL lakehouse.system.rewrite_data_files(table => '{course}', options => map('rewrite-all', 'true'))",
        f"%sql CALL lakehouse.system.expire_snapshots('{course}', TIMESTAMP '2035-01-01 00:00:00', 1)",
        "spark.range(3).writeTo('curated.mine').create()",
        f"frame.writeTo('{course}').append()",
        f"frame.write.mode('overwrite').insertInto('{course}')",
        "table.append(rows)",
        "table.overwrite(rows)",
        "table.delete()",
        "table.delete('courseid > 1')",
        "with table.transaction() as transaction:\n    transaction.append(rows)",
        "with table.transaction() as transaction:\n    transaction.set_properties(mine='1')",
        "lake.create_table('curated.mine', table.schema())",
        f"lake.drop_table('{course}')",
        f"lake.rename_table('{course}', 'curated.mine')",
        "lake.create_namespace('mine')",
    ):
        kernel.run(cell).failed_with(*READ_ONLY)
    kernel.ok(f"assert lake.load_table('{course}').metadata_location == metadata")
    for cell in ("%sql SELECT * FROM raw.user", "spark.table('raw.user').count()", "lake.load_table('raw.user')"):
        kernel.run(cell).failed_with("Analysts read the namespaces curated, features and marts")


def sandbox(kernel: Kernel) -> None:
    """Tables of one's own: made by Spark, %sql and PyIceberg, each seen by the others; and what is easily got wrong."""
    for name in ("numbers", "people"):
        kernel.ok(f"%sql DROP TABLE IF EXISTS sandbox.default.checks_{name} PURGE")
    kernel.ok("spark.range(3).writeTo('sandbox.default.checks_numbers').create()")
    kernel.ok("%sql INSERT INTO sandbox.default.checks_numbers VALUES (7)")
    kernel.ok("""
mine = load_catalog("sandbox")
numbers = mine.load_table("default.checks_numbers")
numbers.append(numbers.scan(row_filter="id = 7").to_arrow())
import pyarrow
schema = pyarrow.schema([pyarrow.field("id", pyarrow.int32(), nullable=False), pyarrow.field("name", pyarrow.string())])
people = mine.create_table("default.checks_people", schema)
people.append(pyarrow.Table.from_pylist([{"id": 1, "name": "a"}, {"id": 2, "name": "b"}], schema))
done = people.upsert(pyarrow.Table.from_pylist([{"id": 2, "name": "c"}, {"id": 3, "name": "d"}], schema), join_cols=["id"])
assert (done.rows_updated, done.rows_inserted) == (1, 1)
""")
    assert "\n5 " in kernel.ok("%sql SELECT count(*) AS n, max(id) AS most FROM sandbox.default.checks_numbers").text
    # A view joins what is one's own with the lake.
    kernel.ok("""%%sql
CREATE OR REPLACE VIEW sandbox.default.checks_view AS
SELECT p.name, c.courseid FROM sandbox.default.checks_people p CROSS JOIN lakehouse.curated.dim_course c""")
    assert int(kernel.ok("spark.table('sandbox.default.checks_view').count()").text) > 8
    # Lists of files are made by Iceberg's own client: Spark has no other for the object store.
    orphans = "CALL sandbox.system.remove_orphan_files(table => 'default.checks_numbers'"
    kernel.run(f"%sql {orphans})").failed_with("prefix_listing => true")
    kernel.ok(f"%sql {orphans}, prefix_listing => true)")
    for cell in ("%sql CREATE TABLE sandbox.mine AS SELECT 1 AS a", "spark.range(3).writeTo('sandbox.mine').create()"):
        kernel.run(cell).failed_with("sandbox.default.NAME")
    kernel.ok("%sql DROP VIEW sandbox.default.checks_view")
    for name in ("numbers", "people"):
        kernel.ok(f"%sql DROP TABLE sandbox.default.checks_{name} PURGE")


def files(kernel: Kernel) -> None:
    """Spark sees the files beside the notebook, and what it saves there is whole."""
    Path(FOLDER, "people.csv").write_text("name,age\nA,1\nB,2\n", encoding="utf-8")
    assert kernel.ok("spark.read.csv('people.csv', header=True, inferSchema=True).count()").text == "2"
    kernel.ok("spark.range(5).write.parquet('numbers.parquet')")
    assert "\n5\n" in kernel.ok("%sql SELECT count(*) AS n FROM parquet.`numbers.parquet`").text
    kernel.ok("""
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.feature import VectorAssembler
rows = [(float(i % 7), float(i % 3), i % 2) for i in range(40)]
data = spark.createDataFrame(rows, ["x", "y", "label"])
parts = [VectorAssembler(inputCols=["x", "y"], outputCol="features"), LogisticRegression(maxIter=3)]
pipeline = Pipeline(stages=parts).fit(data)
pipeline.save("pipeline")
again = PipelineModel.load("pipeline")
assert again.transform(data).select("prediction").collect() == pipeline.transform(data).select("prediction").collect()
""")


def models(kernel: Kernel) -> None:
    """Models of three kinds are logged with signature and example, registered, loaded and asked; the link is the public one."""
    kernel.ok(f"""
import mlflow, mlflow.sklearn, mlflow.spark, mlflow.xgboost, xgboost
from mlflow.models import infer_signature
from sklearn.linear_model import LogisticRegression as Regression
experiment = mlflow.set_experiment("checks {time.time_ns()}")
frame, label = data.select("x", "y").toPandas(), [row[2] for row in rows]
sign = infer_signature(frame, label)
""")
    for kind, model, place in (
        ("sklearn", "Regression().fit(frame, label)", "name"),
        ("xgboost", "xgboost.XGBClassifier(n_estimators=3).fit(frame, label)", "name"),
        ("spark", "pipeline", "artifact_path"),
    ):
        done = kernel.ok(f"""
model = {model}
with mlflow.start_run():
    logged = mlflow.{kind}.log_model(
        model, {place}="model", signature=sign, input_example=frame.head(2), registered_model_name="checks-{kind}")
native = mlflow.{kind}.load_model("models:/checks-{kind}/1")
assert len(mlflow.pyfunc.load_model(logged.model_uri).predict(frame)) == len(frame)
info = mlflow.models.get_model_info("models:/checks-{kind}/1")
assert info.signature is not None and info.saved_input_example_info is not None
mlflow.MlflowClient().delete_registered_model("checks-{kind}")
""")
        assert f"at: {PUBLIC}/mlflow/#/experiments/" in done.text, done
    kernel.ok("mlflow.delete_experiment(experiment.experiment_id)")


def sizes(kernel: Kernel) -> None:
    """A whole table comes by Arrow; what is too large is an error with its size, and the kernel lives."""
    cell = "whole = spark.table('curated.fact_event'); frame = whole.toPandas(); len(frame) == whole.count()"
    assert kernel.ok(cell).text == "True"
    assert "datetime64" in kernel.ok("str(frame.dtypes['occurred_at'])").text
    kernel.ok("del frame")
    most = limits.allowed()  # of this process, which has as much to itself as that kernel
    cell = f"spark.range({most // 300}).selectExpr('id', \"concat(repeat('x', 300), id) AS s\").toPandas()"
    kernel.run(cell).failed_with("MiB", "Fetch less")
    cell = f"spark.range({most // 250}).selectExpr('id', \"concat('student ', id) AS s\").collect()"
    kernel.run(cell).failed_with("rows with 2 columns do not fit", "MiB", "Fetch less")
    done = kernel.run(f"import numpy\nnumpy.ones({most} // 8)")
    assert done.status == "error", done
    assert "MemoryError" in done.text, done
    assert kernel.ok("int(spark.range(3).toPandas().id.sum())").text == "3"


def ending(kernel: Kernel) -> None:
    """The JVM of a session that is stopped has ended, for its memory is for others; its page says that it is no more."""
    port = kernel.ok("spark.sparkContext.uiWebUrl").text.rstrip("/'").rsplit("-", 1)[1]
    java = "!cat /proc/[0-9]*/comm | grep -c java"
    assert kernel.ok(f"spark.stop()\n{java}").text.strip() == "0"
    status, page = ask(f"/spark-{port}/", Authorization=f"token {TOKEN}")
    assert (status, "This Spark application has ended" in page) == (410, True), (status, page)


def cluster(kernel: Kernel) -> None:
    """Where Spark is a cluster, as an inventory may have it, files are refused at once, whoever asks for them."""
    # A cluster's master that knows of no workers; it is no notebook's Spark, which the limits would take it for.
    kernel.ok("import os\nos.environ.pop('LAKEHOUSE_SPARK_MB')")
    kernel.ok("""
from pyspark.ml import PipelineModel
from pyspark.ml.feature import VectorAssembler
spark = (
    SparkSession.builder.master("spark://127.0.0.1:7078").config("spark.cores.max", "1")
    .config("spark.authenticate.secret", "checks").getOrCreate()
)
""")
    assert f'href="{PUBLIC}/jupyter/spark-40' in kernel.ok("spark").html
    for cell in (
        "spark.read.csv('people.csv')",
        "spark.read.format('json').load('file:///home/notebooks/notebooks/checks/people.csv')",
        "spark.sql('SELECT * FROM parquet.`numbers.parquet`')",
        "%sql SELECT * FROM csv.`people.csv`",
        "spark.range(3).write.parquet('more.parquet')",
        "spark.sparkContext.textFile('people.csv').count()",
        "VectorAssembler(inputCols=['x'], outputCol='f').save('assembler')",
        "PipelineModel.load('pipeline')",
    ):
        started = time.monotonic()
        kernel.run(cell).failed_with("Spark runs on a cluster", "spark.createDataFrame(pandas.read_csv(...))")
        assert time.monotonic() - started < 5, f"{cell} took its time"
    assert not Path(FOLDER, "more.parquet").exists()
    kernel.ok("spark.createDataFrame([(1,)], ['a']).createOrReplaceTempView('t')\nspark.stop()")


def with_master(check: Callable[[Kernel], None]) -> Callable[[Kernel], None]:
    """Give a check a master of a cluster, in this container."""

    @functools.wraps(check)
    def checked(kernel: Kernel) -> None:
        arguments = ["--host", "127.0.0.1", "--port", "7078", "--webui-port", "8082"]
        options = {"SPARK_DAEMON_MEMORY": "128m", "SPARK_MASTER_OPTS": "-Dspark.authenticate.secret=checks"}
        master = subprocess.Popen(
            ["spark-class", "org.apache.spark.deploy.master.Master", *arguments], env=os.environ | options
        )
        try:
            started = time.monotonic()
            while subprocess.run(["http-ok", "http://127.0.0.1:8082/"], capture_output=True, check=False).returncode:
                assert master.poll() is None, "the master has ended"
                assert time.monotonic() - started < 60, "the master does not answer"
                time.sleep(0.3)
            check(kernel)
        finally:
            master.terminate()
            master.wait(20)

    return checked


def packages(kernel: Kernel) -> None:
    """Whoever installs a package is told how a site gets one; git and an editor are there."""
    wanted = 'lakehouse_notebook_packages: ["polars>=1", "humanize"]'
    kernel.run("%pip install 'polars>=1' humanize").failed_with(wanted, "./lakehouse up INVENTORY --tags images,stack")
    assert wanted in kernel.ok("!pip install 'polars>=1' humanize").text
    done = subprocess.run(
        ["bash", "-ic", "pip install humanize; echo code $?; git --version; nano --version"],
        capture_output=True,
        text=True,
        check=False,
    )
    for word in ("code 1", "git version", "GNU nano"):
        assert word in done.stdout, done
    assert 'lakehouse_notebook_packages: ["humanize"]' in done.stderr, done


def main() -> None:
    """Run the command."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    failed = []
    kernel = Kernel()
    try:
        with_kernel: list[Callable[[Kernel], None]] = [
            sql_cells,
            sizes,
            catalogs,
            read_only,
            sandbox,
            files,
            models,
            packages,
            ending,
            with_master(cluster),
        ]
        checks: list[tuple[str, Callable[[], None]]] = [("words", words), ("edge_alone", edge_alone)]
        checks += [(check.__name__, lambda check=check: check(kernel)) for check in with_kernel]  # type: ignore[misc]
        for name, check in checks:
            started = time.monotonic()
            try:
                check()
            except Exception:
                failed.append(f"{name}: {traceback.format_exc()}")
            print(f"{name}: {time.monotonic() - started:.1f} s", flush=True)
    finally:
        kernel.end()
        shutil.rmtree(FOLDER, ignore_errors=True)
    sys.exit("\n".join(failed) if failed else 0)


if __name__ == "__main__":
    main()
