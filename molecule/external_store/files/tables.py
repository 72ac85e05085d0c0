"""Print every table of the lake and the sandbox: where it is, its snapshots and its rows, read by PyIceberg as any client would."""

import json
import sys
from pathlib import Path

import yaml
from pyiceberg.catalog import load_catalog

config = yaml.safe_load(Path("/etc/lakehouse/jobs.yml").read_text())
rest = config["catalog"]
found = {}
for name, uri in (("lakehouse", rest["uri"]), ("sandbox", config["sandbox"]["uri"])):
    catalog = load_catalog(
        name,
        **{
            "type": "rest",
            "uri": uri,
            "auth": {
                "type": "basic",
                "basic": {
                    "username": rest["username"],
                    "password": Path(rest["password_file"]).read_text().rstrip("\n"),
                },
            },
            "s3.endpoint": rest["s3_endpoint"],
            "s3.path-style-access": "true",
            "s3.region": "us-east-1",
        },
    )
    for namespace in catalog.list_namespaces():
        for identifier in catalog.list_tables(namespace):
            table = catalog.load_table(identifier)
            found[".".join((name, *identifier))] = {
                "location": table.location(),
                "snapshots": [snapshot.snapshot_id for snapshot in table.snapshots()],
                # The jobs' key reads nothing of the sandbox's.
                "rows": table.scan().count() if name == "lakehouse" and table.current_snapshot() else None,
            }
json.dump(found, sys.stdout, sort_keys=True)
