"""WebAuthn's two ceremonies, registration and sign-in: what is asked, and whether the answer is in order. Pure.

Signatures and encodings are checked by the `webauthn` library; here is what this relying party wants of it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from webauthn import (
    generate_authentication_options,
    generate_registration_options,
    verify_authentication_response,
    verify_registration_response,
)
from webauthn.helpers import parse_attestation_object, parse_authenticator_data
from webauthn.helpers.options_to_json_dict import options_to_json_dict
from webauthn.helpers.structs import (
    AttestationFormat,
    AuthenticatorData,
    AuthenticatorSelectionCriteria,
    AuthenticatorTransport,
    CredentialDeviceType,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

CREDENTIAL_ID_MOST = 1023
"""Bytes of a credential's id (WebAuthn, 4.)."""
PUBLIC_KEY_MOST = 1200
"""Bytes of a public key: RSA of 8192 bits, and what is around it."""

FORMATS = (AttestationFormat.NONE, AttestationFormat.PACKED)
"""We ask for no attestation; browsers then leave only none, or a packed one that the passkey itself has signed."""

_TRANSPORTS = {transport.value: transport for transport in AuthenticatorTransport}


class Flaw(StrEnum):
    """What is wrong with an answer."""

    SHAPE = "shape"
    """It is none of its kind."""
    ORIGIN = "origin"
    """It was made on a page of another origin."""
    EMBEDDED = "embedded"
    """It was made in a page that another site had embedded."""
    DOMAIN = "domain"
    """It was made for another relying party."""
    NOT_VERIFIED = "not_verified"
    """The authenticator did not verify its user."""
    OWNER = "owner"
    """It says another account than the passkey's."""
    BACKUP = "backup"
    """Whether it may be copied has changed since it was made."""
    SIGNATURE = "signature"
    """It was not signed with the passkey."""
    COUNTER = "counter"
    """It was used less often than it was used here: it, or what signed, is a copy."""


class FlawedAnswer(Exception):
    """An answer that is not in order."""

    def __init__(self, flaw: Flaw) -> None:
        super().__init__(flaw.value)
        self.flaw = flaw


@dataclass(frozen=True, slots=True)
class RelyingParty:
    """Who asks: the domain that passkeys are bound to, the name that is shown, the origins that may ask."""

    id: str
    name: str
    origins: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Excluded:
    """A passkey that its authenticator shall not make again."""

    credential_id: bytes
    transports: Sequence[str]


@dataclass(frozen=True, slots=True)
class Attested:
    """A new passkey, as its registration told it."""

    credential_id: bytes
    public_key: bytes
    sign_count: int
    transports: tuple[str, ...]
    backup_eligible: bool
    backed_up: bool


@dataclass(frozen=True, slots=True)
class Asserted:
    """What a passkey told when it was used."""

    sign_count: int
    backed_up: bool


class Answer:
    """A credential as browsers say it in JSON, of the kind `webauthn.create` or `webauthn.get`."""

    def __init__(self, credential: Mapping[str, Any], texts: Sequence[str]) -> None:
        """`texts` are the members of its response that must be there. Raises FlawedAnswer (SHAPE)."""
        response = credential.get("response")
        if not isinstance(response, Mapping) or credential.get("type") != "public-key":
            raise FlawedAnswer(Flaw.SHAPE)
        wanted = [credential.get("id"), credential.get("rawId"), *(response.get(text) for text in texts)]
        if not all(isinstance(text, str) and text for text in wanted):
            raise FlawedAnswer(Flaw.SHAPE)
        self.id = _bytes(credential["id"])
        transports = response.get("transports")
        self.transports = tuple(t for t in _TRANSPORTS if isinstance(transports, list) and t in transports)
        handle = response.get("userHandle")
        self.user_handle = _bytes(handle) if isinstance(handle, str) else b""
        self.plain = {
            "id": credential["id"],
            "rawId": credential["rawId"],
            "type": "public-key",
            "response": {text: response[text] for text in texts},
        }
        """It without what we did not ask for: all the library gets to see."""
        try:
            client = json.loads(_bytes(response["clientDataJSON"]))
            self.origin, self.embedded = (
                str(client["origin"]),
                bool(client.get("crossOrigin") or client.get("topOrigin")),
            )
            self.challenge = _bytes(client["challenge"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as wrong:
            raise FlawedAnswer(Flaw.SHAPE) from wrong

    @classmethod
    def to_registration(cls, credential: Mapping[str, Any]) -> Answer:
        """What `navigator.credentials.create` answered."""
        return cls(credential, ("clientDataJSON", "attestationObject"))

    @classmethod
    def to_sign_in(cls, credential: Mapping[str, Any]) -> Answer:
        """What `navigator.credentials.get` answered."""
        return cls(credential, ("clientDataJSON", "authenticatorData", "signature"))

    def bytes_of(self, text: str) -> bytes:
        """A member of the response."""
        return _bytes(self.plain["response"][text])


def creation_options(
    party: RelyingParty,
    challenge: bytes,
    user_handle: bytes,
    user_name: str,
    display_name: str,
    excluded: Sequence[Excluded],
    milliseconds: int,
) -> dict[str, Any]:
    """What to ask for a new passkey: one that is found without a name, by an authenticator that verifies its user."""
    options = generate_registration_options(
        rp_id=party.id,
        rp_name=party.name,
        user_id=user_handle,
        user_name=user_name,
        user_display_name=display_name or user_name,
        challenge=challenge,
        timeout=milliseconds,
        authenticator_selection=AuthenticatorSelectionCriteria(
            resident_key=ResidentKeyRequirement.REQUIRED, user_verification=UserVerificationRequirement.REQUIRED
        ),
        exclude_credentials=[
            PublicKeyCredentialDescriptor(
                e.credential_id, transports=[_TRANSPORTS[t] for t in e.transports if t in _TRANSPORTS]
            )
            for e in excluded
        ],
    )
    return options_to_json_dict(options)


def request_options(party: RelyingParty, challenge: bytes, milliseconds: int) -> dict[str, Any]:
    """What to ask for a sign-in with any passkey of ours."""
    options = generate_authentication_options(
        rp_id=party.id,
        challenge=challenge,
        timeout=milliseconds,
        user_verification=UserVerificationRequirement.REQUIRED,
    )
    return options_to_json_dict(options)


def attested(party: RelyingParty, answer: Answer, challenge: bytes) -> Attested:
    """The passkey that was made. Raises FlawedAnswer."""
    _same_party(party, answer)
    try:
        attestation = parse_attestation_object(answer.bytes_of("attestationObject"))
        if attestation.fmt not in FORMATS or getattr(attestation.att_stmt, "x5c", None):
            raise FlawedAnswer(Flaw.SHAPE)
        _same_domain(party, attestation.auth_data)
        made = verify_registration_response(
            credential=answer.plain,
            expected_challenge=challenge,
            expected_rp_id=party.id,
            expected_origin=list(party.origins),
            require_user_verification=True,
        )
    except FlawedAnswer:
        raise
    except Exception as wrong:  # the library stumbles over bad encodings in many ways; all of them are the sender's
        raise FlawedAnswer(Flaw.SHAPE) from wrong
    if made.credential_id != answer.id or len(made.credential_id) > CREDENTIAL_ID_MOST:
        raise FlawedAnswer(Flaw.SHAPE)
    if len(made.credential_public_key) > PUBLIC_KEY_MOST:
        raise FlawedAnswer(Flaw.SHAPE)
    return Attested(
        made.credential_id,
        made.credential_public_key,
        made.sign_count,
        answer.transports,
        made.credential_device_type is CredentialDeviceType.MULTI_DEVICE,
        made.credential_backed_up,
    )


def asserted(
    party: RelyingParty, answer: Answer, challenge: bytes, public_key: bytes, owner: bytes, backup_eligible: bool
) -> Asserted:
    """What the passkey with this `public_key` told, made for the account `owner`. Its counter is not compared with the one
    that is kept: the store does so when it keeps the new one. Raises FlawedAnswer."""
    _same_party(party, answer)
    try:
        _same_domain(party, parse_authenticator_data(answer.bytes_of("authenticatorData")))
    except FlawedAnswer:
        raise
    except Exception as wrong:
        raise FlawedAnswer(Flaw.SHAPE) from wrong
    if answer.user_handle != owner:
        raise FlawedAnswer(Flaw.OWNER)
    try:
        told = verify_authentication_response(
            credential=answer.plain,
            expected_challenge=challenge,
            expected_rp_id=party.id,
            expected_origin=list(party.origins),
            credential_public_key=public_key,
            credential_current_sign_count=0,  # judged later, once the signature is known to be good
            require_user_verification=True,
        )
    except Exception as wrong:
        raise FlawedAnswer(Flaw.SIGNATURE) from wrong
    if (told.credential_device_type is CredentialDeviceType.MULTI_DEVICE) is not backup_eligible:
        raise FlawedAnswer(Flaw.BACKUP)
    return Asserted(told.new_sign_count, told.credential_backed_up)


def _same_party(party: RelyingParty, answer: Answer) -> None:
    if answer.origin not in party.origins:
        raise FlawedAnswer(Flaw.ORIGIN)
    if answer.embedded:
        raise FlawedAnswer(Flaw.EMBEDDED)


def _same_domain(party: RelyingParty, told: AuthenticatorData) -> None:
    if told.rp_id_hash != hashlib.sha256(party.id.encode()).digest():
        raise FlawedAnswer(Flaw.DOMAIN)
    if not told.flags.uv:
        raise FlawedAnswer(Flaw.NOT_VERIFIED)


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as wrong:
        raise FlawedAnswer(Flaw.SHAPE) from wrong
