"""Who can read which bucket: every pair of user and bucket, and a wrong secret. Secrets come as JSON on standard input."""

import json
import sys

from pyarrow.fs import FileSelector, S3FileSystem

REFUSALS = ("ACCESS_DENIED", "SIGNATURE_DOES_NOT_MATCH", "INVALID_ACCESS_KEY_ID")


def answer(user: str, secret: str, bucket: str) -> int | str | None:
    """Return how many objects the user sees at the bucket's top, or None when the store refuses."""
    store = S3FileSystem(
        access_key=user, secret_key=secret, endpoint_override="minio:9000", scheme="http", region="us-east-1"
    )
    try:
        return len(store.get_file_info(FileSelector(bucket)))
    except OSError as error:
        return None if any(refusal in str(error) for refusal in REFUSALS) else str(error)


secrets = json.load(sys.stdin)
result = {
    f"{user} {bucket}": answer(user, secrets[user], bucket) for user in secrets for bucket in ("warehouse", "mlflow")
}
result["wrong"] = answer("spark", "wrong-secret", "warehouse")
result["stranger"] = answer("stranger", "wrong-secret", "warehouse")
json.dump(result, sys.stdout)
