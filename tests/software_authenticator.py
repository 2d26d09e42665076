"""An authenticator in a few lines, for answers that no browser would give."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from dataclasses import dataclass, field
from typing import Any

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

PRESENT, VERIFIED, ELIGIBLE, BACKED_UP, ATTESTED = 1, 4, 8, 16, 64
GOOD = PRESENT | VERIFIED


def text(raw: bytes) -> str:
    """base64url, as browsers write it."""
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


@dataclass
class SoftwareAuthenticator:
    """One credential. What it says can be bent: each argument of `create` and `get` is what a good answer would not have."""

    origin: str
    rp_id: str = "localhost"
    counter: int = 0
    """Of uses; it goes up by itself unless it is None at a call."""
    user_handle: str = ""
    credential_id: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def create(self, options: dict[str, Any], *, flags: int = GOOD, **bent: Any) -> dict[str, Any]:
        """The answer to `navigator.credentials.create`."""
        self.user_handle = options["user"]["id"]
        numbers = self.key.public_key().public_numbers()
        public = {1: 2, 3: -7, -1: 1, -2: numbers.x.to_bytes(32, "big"), -3: numbers.y.to_bytes(32, "big")}
        attested = bytes(16) + len(self.credential_id).to_bytes(2, "big") + self.credential_id + cbor2.dumps(public)
        data = self._data(flags | ATTESTED, self.counter, bent) + bent.get("attested", attested)
        client = self._client("webauthn.create", options, bent)
        if key := bent.get("signed_by"):
            signed = key.sign(data + hashlib.sha256(client).digest(), ec.ECDSA(hashes.SHA256()))
            bent["attestation"] = {"fmt": "packed", "attStmt": {"alg": -7, "sig": signed}}
        attestation = {"fmt": "none", "attStmt": {}, "authData": data} | bent.get("attestation", {})
        return self._answer(
            {
                "clientDataJSON": text(client),
                "attestationObject": text(bent.get("encoded") or cbor2.dumps(attestation)),
                "transports": ["internal", "telepathy"],
            }
        )

    def get(
        self, options: dict[str, Any], *, flags: int = GOOD, counter: int | None = None, **bent: Any
    ) -> dict[str, Any]:
        """The answer to `navigator.credentials.get`."""
        self.counter = self.counter + 1 if counter is None else counter
        client = self._client("webauthn.get", options, bent)
        data = self._data(flags, self.counter, bent)
        signed = data + hashlib.sha256(client).digest()
        key = bent.get("key", self.key)
        return self._answer(
            {
                "clientDataJSON": text(client),
                "authenticatorData": text(data),
                "signature": text(key.sign(signed, ec.ECDSA(hashes.SHA256()))),
                "userHandle": bent.get("user_handle", self.user_handle),
            }
        )

    def _client(self, kind: str, options: dict[str, Any], bent: dict[str, Any]) -> bytes:
        said = {"type": kind, "challenge": options["challenge"], "origin": self.origin, "crossOrigin": False}
        return json.dumps(said | bent.get("client", {})).encode()

    def _data(self, flags: int, counter: int, bent: dict[str, Any]) -> bytes:
        rp_id = bent.get("rp_id", self.rp_id)
        return hashlib.sha256(rp_id.encode()).digest() + bytes([flags]) + counter.to_bytes(4, "big")

    def _answer(self, response: dict[str, Any]) -> dict[str, Any]:
        id = text(self.credential_id)
        return {"id": id, "rawId": id, "type": "public-key", "response": response, "clientExtensionResults": {}}
