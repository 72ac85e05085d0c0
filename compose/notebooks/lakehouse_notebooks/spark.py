"""Spark in a notebook: its session, what it says when something fails, and what it must not try."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lakehouse_notebooks import frames, limits, readonly
from lakehouse_notebooks.imported import when_imported

# On a cluster Hadoop is told to read and write files by a class of this name, which does not exist.
NO_FILES = "lakehouse.FilesAreNotShared"

FILES_ADVICE = (
    "Spark runs on a cluster, whose workers do not see the files of this notebook: it can neither read nor write them.\n"
    "To read one, use pandas: spark.createDataFrame(pandas.read_csv(...)). To keep data, write a table of the sandbox: "
    'df.writeTo("sandbox.default.name").create(). To keep a model, use scikit-learn or XGBoost, whose models are whole here and in '
    "MLflow; one of Spark ML would leave its parts on the workers."
)


# Iceberg reads and writes the object store itself; what Hadoop lists there, it cannot.
NO_CLIENT = 'No FileSystem for scheme "s3"'
NO_CLIENT_ADVICE = (
    "Spark reads and writes tables in the object store, not files. CALL sandbox.system.remove_orphan_files lists them by "
    "Iceberg's own client when it is told prefix_listing => true."
)
# A table's name in a catalog whose namespace was left out
NO_NAMESPACE = "Invalid table identifier"
NO_NAMESPACE_ADVICE = (
    "A table has three names: catalog, namespace and its own. Your own tables are sandbox.default.NAME."
)


class FileNotSharedError(Exception):
    """Raised when Spark on a cluster is asked for a file of the notebook's."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def page(context: Any) -> str | None:
    """Return an application's page for browsers: behind Jupyter, wherever its tasks run."""
    own = context._jsc.sc().uiWebUrl()
    if not own.nonEmpty():
        return None
    public = os.environ.get("LAKEHOUSE_PUBLIC_URL")
    if not public:
        return str(own.get())
    return f"{public}{os.environ.get('JUPYTER_BASE_URL', '')}/spark-{urlsplit(own.get()).port}/"


def session() -> Any:
    """Return the notebook's session, made at its first use."""
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

    builder = SparkSession.builder
    if SparkContext._active_spark_context is None:
        builder = builder.appName(Path(os.environ.get("JPY_SESSION_NAME", "notebook")).stem)
    return builder.getOrCreate()


def words(error: BaseException) -> str:
    """Return what an error of Spark's says, without Java's trace and Spark's plan."""
    java = getattr(error, "java_exception", None)
    text = str(error)
    if java is not None:
        causes: list[str] = []
        while java is not None and len(causes) < 20:
            causes.append(str(java.toString()))
            java = java.getCause()
        text = causes[-1] if "aborted" not in causes[0] else causes[0]
    text = re.split(r"\n\s*at |\nDriver stacktrace:|\n\nJVM stacktrace:|;\n(?=[ +:']*[A-Za-z])", text, maxsplit=1)[0]
    text = re.sub(r"^(?:[a-z]\w*\.)+(\w+): ", "", text.strip())
    text = re.sub(r"(Job aborted due to stage failure: )Task .*? most recent failure: Lost task [^:]*: ", r"\1", text)
    if text == "Forbidden: Forbidden":  # of a question whether something exists, whose answer has no words
        text = f"Forbidden: this is not among what analysts read. {readonly.ADVICE}"
    for said, advice in (
        ("spark.driver.maxResultSize", frames.ADVICE),
        (NO_CLIENT, NO_CLIENT_ADVICE),
        (NO_NAMESPACE, NO_NAMESPACE_ADVICE),
    ):
        if said in text:
            text = f"{text}\n{advice}"
    return text


def _is_refused_write(java: Any) -> bool:
    """Tell whether the object store refused to write a file, here or in a task, whose trace is part of the message."""
    from pyspark import SparkContext

    trace = SparkContext._jvm.org.apache.spark.util.Utils.exceptionString(java)
    return all(word in trace for word in ("awssdk.services.s3", "Status Code: 403", "S3OutputStream"))


def has_ended() -> bool:
    """Tell whether Spark's JVM is no more."""
    from pyspark import SparkContext

    process = getattr(SparkContext._gateway, "proc", None)
    return process is not None and process.poll() is not None


def _end() -> None:
    """End the JVM of a session that was stopped: the memory is for others."""
    from pyspark import SparkContext

    gateway, SparkContext._gateway, SparkContext._jvm = SparkContext._gateway, None, None
    if gateway is not None:
        gateway.shutdown()
        gateway.proc.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            gateway.proc.wait(10)


def unanswered(error: Exception) -> str:
    """Return what to say when Spark's JVM did not answer."""
    from pyspark import SparkContext

    with contextlib.suppress(AttributeError, subprocess.TimeoutExpired):
        SparkContext._gateway.proc.wait(1)  # it may be about to end
    return forget() if has_ended() else f"{type(error).__name__}: {error}"


def forget() -> str:
    """Make the next session start another JVM, and say so."""
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

    SparkContext._gateway = SparkContext._jvm = SparkContext._active_spark_context = None
    SparkSession._instantiatedSession = None
    return (
        "Spark has ended, most likely because its memory (spark.driver.memory) did not suffice. The kernel and its variables are "
        f"still there; the next SparkSession.builder.getOrCreate() or %sql starts Spark again. {frames.ADVICE}"
    )


def _in_sql(module: Any) -> None:
    start, get = module.SparkSession.__init__, module.SparkSession.Builder.getOrCreate

    def got(self: Any) -> Any:
        if has_ended():
            forget()
        if not module.SparkSession._instantiatedSession:
            limits.check_room()
        return get(self)

    def started(self: Any, context: Any, *args: Any, **kwargs: Any) -> None:
        start(self, context, *args, **kwargs)
        limits.apply()
        if not context.master.startswith("local"):
            _share_no_files(self)

    stop = module.SparkSession.stop

    def stopped(self: Any) -> None:
        stop(self)
        _end()

    module.SparkSession.__init__ = started
    module.SparkSession.stop = stopped
    module.SparkSession.Builder.getOrCreate = got


def _share_no_files(session: Any) -> None:
    # Spark's own catalogue of views makes a folder when it is first asked for: that comes before.
    session._jsparkSession.sharedState().externalCatalog()
    configuration = session.sparkContext._jsc.hadoopConfiguration()
    configuration.set("fs.file.impl", NO_FILES)
    configuration.setBoolean("fs.file.impl.disable.cache", True)


def _in_context(module: Any) -> None:
    module.SparkContext.uiWebUrl = property(page)
    # These send a file of the notebook's to the workers.
    for name in ("addFile", "addPyFile", "addArchive"):
        setattr(module.SparkContext, name, _with_files(getattr(module.SparkContext, name)))


def _with_files(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def called(context: Any, *args: Any, **kwargs: Any) -> Any:
        configuration = context._jsc.hadoopConfiguration()
        kept = configuration.get("fs.file.impl")
        configuration.unset("fs.file.impl")
        try:
            return method(context, *args, **kwargs)
        finally:
            if kept:
                configuration.set("fs.file.impl", kept)

    return called


def _in_errors(module: Any) -> None:
    convert = module.convert_exception

    def converted(error: Any) -> Any:
        cause = error
        while cause is not None:
            if NO_FILES in str(cause.toString()):
                return FileNotSharedError(FILES_ADVICE)
            cause = cause.getCause()
        if _is_refused_write(error):
            return readonly.ReadOnlyError(readonly.ADVICE)
        return convert(error)

    module.convert_exception = converted
    module.CapturedException._render_traceback_ = lambda self: [f"{type(self).__name__}: {words(self)}"]


def _in_py4j(module: Any) -> None:
    module.Py4JJavaError._render_traceback_ = lambda self: [f"Spark: {words(self)}"]
    module.Py4JError._render_traceback_ = lambda self: [unanswered(self)]


def register(shell: Any) -> None:
    """Change Spark's classes when they are imported."""
    when_imported("pyspark.sql", _in_sql)
    when_imported("pyspark.context", _in_context)
    when_imported("pyspark.errors.exceptions.captured", _in_errors)
    when_imported("py4j.protocol", _in_py4j)
