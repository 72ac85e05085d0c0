"""The last rows of lakehouse.ops.job_run as JSON lines, read without Spark. Run in the image jobs by `./lakehouse status`."""

import json

from moodle_lakehouse import config
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.exceptions import NoSuchTableError

catalog = config.load().catalog
lake = RestCatalog(
    "lakehouse",
    uri=catalog.uri,
    auth={"type": "basic", "basic": {"username": catalog.username, "password": catalog.password()}},
    **{"s3.endpoint": catalog.s3_endpoint},
)
try:
    rows = lake.load_table("ops.job_run").scan().to_arrow().to_pylist()
except NoSuchTableError:
    rows = []
for row in sorted(rows, key=lambda row: row["started_at"])[-12:]:
    error = json.loads(row["detail"] or "{}").get("error", "")
    seconds = (row["finished_at"] - row["started_at"]).total_seconds()
    print(
        json.dumps(
            {
                "started": f"{row['started_at']:%Y-%m-%d %H:%M:%S}",
                "job": row["job"],
                "status": row["status"],
                "seconds": round(seconds),
                "reason": error,
            }
        )
    )
