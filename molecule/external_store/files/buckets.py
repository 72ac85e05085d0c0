"""Make the buckets of a lakehouse in a store of any make and say who may do what there: buckets.py ENDPOINT KEY SECRET."""

import json
import sys

import boto3

endpoint, key, secret = sys.argv[1:]
s3 = boto3.client(
    "s3", endpoint_url=endpoint, aws_access_key_id=key, aws_secret_access_key=secret, region_name="us-east-1"
)

WHOLE = ["s3:*"]
READ = ["s3:GetObject"]


def statement(user: str, actions: list[str], resources: list[str]) -> dict[str, object]:
    """Return one statement of a policy."""
    return {
        "Effect": "Allow",
        "Principal": {"AWS": [user]},
        "Action": actions,
        "Resource": [f"arn:aws:s3:::{resource}" for resource in resources],
    }


POLICIES = {
    "warehouse": [
        statement("jobs", WHOLE, ["warehouse", "warehouse/*"]),
        statement("analyst", READ, [f"warehouse/{name}/*" for name in ("curated", "features", "marts")]),
    ],
    "mlflow": [statement("jobs", WHOLE, ["mlflow", "mlflow/*"])],
    "sandbox": [
        statement("jobs", WHOLE, ["sandbox", "sandbox/*"]),
        statement("analyst", WHOLE, ["sandbox", "sandbox/*"]),
    ],
}
for bucket, statements in POLICIES.items():
    s3.create_bucket(Bucket=bucket)
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": statements}))
