"""Who can write and read in which bucket: every pair of user and bucket, and a wrong secret.

The argument is the store's host and port. Standard input has each user's secret as JSON.
"""

import json
import sys

from pyarrow.fs import S3FileSystem

REFUSALS = ("ACCESS_DENIED", "SIGNATURE_DOES_NOT_MATCH", "INVALID_ACCESS_KEY_ID")
ENDPOINT = sys.argv[1]


def answer(user: str, secret: str, bucket: str) -> str:
    """Return what the user reads back of what it wrote, "refused", or another error's text."""
    store = S3FileSystem(
        access_key=user, secret_key=secret, endpoint_override=ENDPOINT, scheme="http", region="us-east-1"
    )
    path = f"{bucket}/check/{user}"
    try:
        with store.open_output_stream(path) as stream:
            stream.write(b"kept")
        with store.open_input_stream(path) as stream:
            return stream.read().decode()
    except OSError as error:
        return "refused" if any(refusal in str(error) for refusal in REFUSALS) else str(error)


secrets = json.load(sys.stdin)
result = {
    f"{user} {bucket}": answer(user, secrets[user], bucket) for user in secrets for bucket in ("warehouse", "mlflow")
}
result["wrong"] = answer("spark", "wrong-secret", "warehouse")
result["stranger"] = answer("stranger", "wrong-secret", "warehouse")
json.dump(result, sys.stdout)
