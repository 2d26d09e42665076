"""Signed URLs as of a time that is not now: the same for everybody who asks in a while, so that what they lead to is cached.

AWS Signature Version 4 in a query (https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html); botocore signs
as of now only.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

_ALGORITHM = "AWS4-HMAC-SHA256"
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Since:
    """From when on a URL is good, at most seven days before now (S3's own limit), and by which method."""

    time: datetime
    method: str = "GET"


def signed_since(url: str, secret_key: str, since: Since) -> str:
    """The signed `url` of botocore's, signed anew: it is good from then on for as long as it says."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True))
    del query["X-Amz-Signature"]
    access_key, _, *where = query["X-Amz-Credential"].split("/")
    stamp = f"{since.time.astimezone(UTC):%Y%m%dT%H%M%SZ}"
    scope = "/".join([stamp[:8], *where])
    query |= {"X-Amz-Date": stamp, "X-Amz-Credential": f"{access_key}/{scope}"}
    asked = "&".join(sorted(f"{_quoted(name)}={_quoted(value)}" for name, value in query.items()))
    host = parts.netloc if parts.port != _PORTS.get(parts.scheme) else str(parts.hostname)
    request = f"{since.method}\n{parts.path}\n{asked}\nhost:{host}\n\n{query['X-Amz-SignedHeaders']}\nUNSIGNED-PAYLOAD"
    signing = f"{_ALGORITHM}\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{secret_key}".encode()
    for step in (stamp[:8], *where, signing):
        key = hmac.digest(key, step.encode(), "sha256")
    return urlunsplit(parts._replace(query=f"{asked}&X-Amz-Signature={key.hex()}"))


def _quoted(text: str) -> str:
    return quote(text, safe="-_.~")
