"""Compare the rows of every Moodle table with those of its copy in raw, read by PyIceberg as any client would."""

import json
import sys
from pathlib import Path

import pymysql
import yaml
from pyiceberg.catalog import load_catalog
from pyiceberg.exceptions import NoSuchTableError

config = yaml.safe_load(Path("/etc/lakehouse/jobs.yml").read_text())
moodle, rest = config["moodle"], config["catalog"]
catalog = load_catalog(
    "lakehouse",
    **{
        "type": "rest",
        "uri": rest["uri"],
        "auth": {
            "type": "basic",
            "basic": {"username": rest["username"], "password": Path(rest["password_file"]).read_text().rstrip("\n")},
        },
        "s3.endpoint": rest["s3_endpoint"],
        "s3.path-style-access": "true",
        "s3.region": "us-east-1",
    },
)
connection = pymysql.connect(
    host=moodle["host"],
    port=moodle["port"],
    database=moodle["database"],
    user=moodle["user"],
    password=Path(moodle["password_file"]).read_text().rstrip("\n"),
)
different, compared = {}, 0
not_copied = {moodle["prefix"] + "config"}  # of which ingest reads what tells one site from another
with connection, connection.cursor() as cursor:
    cursor.execute("SHOW FULL TABLES WHERE Table_type = 'BASE TABLE'")
    for name in [
        row[0] for row in cursor.fetchall() if row[0].startswith(moodle["prefix"]) and row[0] not in not_copied
    ]:
        cursor.execute(f"SELECT COUNT(*) FROM `{name}`")
        source = cursor.fetchone()[0]
        try:
            copy = catalog.load_table(("raw", name.removeprefix(moodle["prefix"]))).scan().count()
        except NoSuchTableError:
            copy = 0  # a plugin's table that the site does not use
        compared += source
        if copy != source:
            different[name] = [source, copy]
json.dump({"rows": compared, "different": different}, sys.stdout)
