"""Makes the bucket that files live in, open to browsers with a signed URL: `python -m deploy.compose.bucket`.

Safe to run any number of times. Waits a minute for an S3 server that is starting.
"""

from __future__ import annotations

import sys
import time

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from deploy.native.s3 import CORS
from server.settings import Settings

PATIENCE = 60.0


def make_bucket(settings: Settings) -> None:
    """The bucket is there, with its CORS rules. Raises what boto3 raises."""
    client = boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key,
        aws_secret_access_key=settings.s3_secret_key.get_secret_value(),
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}, read_timeout=5),
    )
    if settings.s3_bucket not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket=settings.s3_bucket)
    client.put_bucket_cors(Bucket=settings.s3_bucket, CORSConfiguration=CORS)


def main() -> int:
    """The exit code."""
    settings = Settings()
    until = time.monotonic() + PATIENCE
    while True:
        try:
            make_bucket(settings)
        except (BotoCoreError, ClientError) as fault:
            if time.monotonic() > until:
                print(f"no bucket: {type(fault).__name__}", file=sys.stderr)
                return 1
            time.sleep(0.5)
        else:
            print(f"bucket {settings.s3_bucket} is there")
            return 0


if __name__ == "__main__":
    sys.exit(main())
