"""What an analyst's notebook does, wherever the store is: read a mart, be refused a write, write the sandbox."""

import pyarrow as pa
from pyiceberg.catalog import load_catalog

risk = load_catalog("lakehouse").load_table("marts.student_risk").scan().to_arrow()
assert risk.num_rows > 0
mine = pa.table({"band": risk["band"], "probability": risk["probability"]})
sandbox = load_catalog("sandbox")
table = sandbox.create_table("default.mine", schema=mine.schema)
table.append(mine)
assert sandbox.load_table("default.mine").scan().count() == risk.num_rows
sandbox.drop_table("default.mine")
print("done")
