"""Make the archive that Spark's JVMs map their classes from (Java's class data sharing), while the image is built.

Two fifths of the processor time of a short session were Java's reading, checking and linking of some 15,000 classes. A small
application is run on a cluster of one worker, and what its driver and its executor loaded is archived. The object store, the
catalog and the database it asks for are not there: their clients' classes are loaded nevertheless.

Writes beside Spark's own files: classpath.jar (no content but a manifest that names the jars, in an order that is the same on
every host) and classes.jsa. java-options tells the JVMs of both.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

SPARK = Path(os.environ["SPARK_HOME"]).resolve()
CLASS_PATH = Path(os.environ["SPARK_HOME"]) / "classpath.jar"
ARCHIVE = Path(os.environ["SPARK_HOME"]) / "classes.jsa"


def write_class_path() -> None:
    """Write the jar whose manifest lists Spark's; a line of a manifest holds 72 bytes, the next begins with a space."""
    entry = "Class-Path: " + " ".join(f"jars/{jar.name}" for jar in sorted((SPARK / "jars").glob("*.jar")))
    lines = [entry[:72], *(f" {entry[at : at + 71]}" for at in range(72, len(entry), 71))]
    with zipfile.ZipFile(CLASS_PATH, "w") as jar:
        jar.writestr("META-INF/MANIFEST.MF", "\r\n".join(["Manifest-Version: 1.0", *lines, "", ""]))


@contextlib.contextmanager
def refused() -> Iterator[None]:
    """Expect what asks a server that is not there to fail."""
    try:
        yield
    except Exception as error:
        print(f"share-classes: as expected: {str(error).splitlines()[0][:120]}", file=sys.stderr)
    else:
        raise SystemExit("share-classes: a server answered that should not be there")


def work(driver: Path, executor: Path, scratch: Path) -> None:
    """Run an application that does what jobs do, and write the names of the classes of its two JVMs."""
    common = f"-cp {CLASS_PATH}:{SPARK}/conf/ -XX:TieredStopAtLevel=1"
    os.environ["SPARK_SUBMIT_OPTS"] = f"{common} -XX:+UseSerialGC -XX:DumpLoadedClassList={driver}"
    from pyspark.ml.clustering import KMeans
    from pyspark.ml.feature import StandardScaler, VectorAssembler
    from pyspark.sql import SparkSession

    catalog = "org.apache.iceberg.spark.SparkCatalog"
    nowhere = "http://127.0.0.1:9"
    spark = (
        SparkSession.builder.master("local-cluster[1,2,1024]")
        .config("spark.executor.extraJavaOptions", f"{common} -XX:DumpLoadedClassList={executor}")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.sql.catalogImplementation", "in-memory")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.sql.execution.arrow.pyspark.enabled", "true")
        .config("spark.eventLog.enabled", "true")
        .config("spark.eventLog.compress", "true")
        .config("spark.eventLog.dir", scratch.as_uri())
        .config("spark.sql.extensions", "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions")
        .config("spark.sql.catalog.here", catalog)
        .config("spark.sql.catalog.here.type", "hadoop")
        .config("spark.sql.catalog.here.warehouse", str(scratch / "lake"))
        .config("spark.sql.catalog.far", catalog)
        .config("spark.sql.catalog.far.type", "rest")
        .config("spark.sql.catalog.far.uri", nowhere)
        .config("spark.sql.catalog.far.rest.auth.type", "basic")
        .config("spark.sql.catalog.far.rest.auth.basic.username", "nobody")
        .config("spark.sql.catalog.far.rest.auth.basic.password", "none")
        .getOrCreate()
    )
    rows = "SELECT id, id % 7 AS person, CAST(id AS string) AS name, timestamp_seconds(id * 3600) AS at, sqrt(id) AS x FROM range({}, {})"
    spark.sql(f"CREATE TABLE here.a.t USING iceberg PARTITIONED BY (months(at)) AS {rows.format(0, 5000)}")
    spark.sql(
        f"MERGE INTO here.a.t AS t USING ({rows.format(2500, 7500)}) AS s ON t.id = s.id"
        " WHEN MATCHED THEN UPDATE SET x = s.x WHEN NOT MATCHED THEN INSERT *"
    )
    spark.sql("DELETE FROM here.a.t WHERE id = 3")
    table = spark.table("here.a.t")
    table.where("at < '1970-02-01'").writeTo("here.a.t").overwritePartitions()
    spark.sql(
        "SELECT person, count(*), count(DISTINCT name), avg(x), max(at), collect_list(x)[0], percentile(x, 0.5),"
        " sum(sum(x)) OVER (ORDER BY person) FROM here.a.t GROUP BY person ORDER BY person"
    ).toPandas()
    spark.sql("SELECT * FROM here.a.t.snapshots").collect()
    spark.sql("CALL here.system.rewrite_data_files(table => 'a.t')").collect()
    counted = table.join(table.groupBy("person").count(), "person")
    kept = counted.mapInPandas(lambda frames: frames, counted.schema).persist()
    assembled = VectorAssembler(inputCols=["person", "x"], outputCol="raw").transform(kept)
    scaled = StandardScaler(inputCol="raw", outputCol="features").fit(assembled).transform(assembled)
    KMeans(k=2, maxIter=2).fit(scaled).transform(scaled).groupBy("prediction").count().collect()
    with refused():
        spark.sql("SHOW NAMESPACES IN far").collect()
    with refused():
        spark.read.jdbc("jdbc:mariadb://127.0.0.1:9/none", "t", properties={"driver": "org.mariadb.jdbc.Driver"})
    with refused():
        files = spark._jvm.org.apache.iceberg.aws.s3.S3FileIO()
        options = {"s3.endpoint": nowhere, "s3.path-style-access": "true", "client.region": "none"}
        files.initialize({**options, "s3.access-key-id": "nobody", "s3.secret-access-key": "none"})
        files.newInputFile("s3://nowhere/nothing").getLength()
    java = spark.sparkContext._gateway.proc
    spark.stop()
    java.stdin.close()
    java.wait(60)


def main() -> None:
    """Run the command."""
    write_class_path()
    with tempfile.TemporaryDirectory() as folder:
        lists = [Path(folder) / "driver", Path(folder) / "executor"]
        work(lists[0], lists[1], Path(folder))
        names = dict.fromkeys(line for each in lists for line in each.read_text().splitlines())
        together = Path(folder) / "together"
        together.write_text("\n".join(names) + "\n")
        command = ["java", "-Xshare:dump", "-Xlog:disable", "-Xlog:all=error", f"-XX:SharedClassListFile={together}"]
        subprocess.run([*command, f"-XX:SharedArchiveFile={ARCHIVE}", "-cp", str(CLASS_PATH)], check=True)
    ARCHIVE.chmod(0o644)
    print(f"share-classes: {len(names)} lines, {ARCHIVE.stat().st_size >> 20} MiB", file=sys.stderr)


main()
