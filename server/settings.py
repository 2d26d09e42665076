"""The one typed object of settings, and the only reader of the environment.

Every setting is an environment variable `TRANSOM_<NAME>`; every process of the
system (API server, relay, consumers, CLI) reads the same set.
"""

import re
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from server.providers import Provider
from server.rates import Rate, rate, rates

SECRET_LEAST = 32
"""Characters of an installation's secret: what it seals must outlive a stolen backup."""


def _split(given: object) -> object:
    """A setting of several words: they are written with commas between them."""
    return tuple(word for part in given.split(",") if (word := part.strip())) if isinstance(given, str) else given


def _rate(given: object) -> object:
    return rate(given) if isinstance(given, str) else given


def _rates(given: object) -> object:
    return rates(given) if isinstance(given, str) else given


Limit = Annotated[Rate | None, NoDecode, BeforeValidator(_rate)]
MethodLimits = Annotated[dict[str, Rate], NoDecode, BeforeValidator(_rates)]
_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?")


def _tls(given: object) -> object:
    """`true` and `false` were said before there was a choice."""
    return {"true": "starttls", "1": "starttls", "false": "off", "0": "off"}.get(str(given).lower(), given)


SmtpTls = Annotated[Literal["off", "starttls", "tls"], BeforeValidator(_tls)]
Several = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode, BeforeValidator(_split)]
Secrets = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_split)]


class Settings(BaseSettings):
    """What a Transom process needs to know to start."""

    model_config = SettingsConfigDict(env_prefix="TRANSOM_", extra="ignore", frozen=True, hide_input_in_errors=True)

    # The app.
    app: Path = Field(Path("examples/inspect"), description="Folder of the app: proto/, methods.py, tasks.py, seed/.")
    descriptor: Path = Field(Path("descriptor.binpb"), description="The app's compiled FileDescriptorSet.")

    # Where this process listens.
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(50051, description="gRPC port of an API server.")
    wire: Literal["loop", "aio"] = Field(
        "loop", description="Who serves gRPC: grpcio's core on the event loop (loop), or grpc.aio."
    )
    metrics_port: int = Field(0, description="Port of the Prometheus metrics; 0 turns them off.")
    metrics_host: str = Field("127.0.0.1", description="Address of the Prometheus metrics.")
    instance: str = Field("api", description="Name of this process in logs and metrics.")

    # What it works with.
    postgres: SecretStr = Field(
        SecretStr("postgresql://transom:transom@127.0.0.1:5432/transom"), description="The primary."
    )
    replica: SecretStr | None = Field(None, description="The streaming replica, if there is one.")
    redis: SecretStr = Field(SecretStr("redis://127.0.0.1:6379/0"), description="Redis.")
    amqp: SecretStr = Field(SecretStr("amqp://transom:transom@127.0.0.1:5672/%2F"), description="RabbitMQ.")
    s3_endpoint: str = Field("http://127.0.0.1:8333", description="S3 as this process reaches it.")
    s3_public_endpoint: str | None = Field(
        None, description="S3 as clients reach it, for signed URLs; default s3_endpoint."
    )
    s3_region: str = "us-east-1"
    s3_bucket: str = "transom"
    s3_access_key: str = "transom"
    s3_secret_key: SecretStr = SecretStr("transom-secret")
    smtp: str = Field("127.0.0.1:1025", description="host:port of the SMTP server.")
    smtp_user: str | None = Field(None, description="Who signs in to it; not without TLS, but on this machine.")
    smtp_password: SecretStr | None = None
    smtp_tls: SmtpTls = Field(
        "off", description="starttls: from a plain beginning, before anything is said; tls: from the first byte; off."
    )
    smtp_ca: Path | None = Field(
        None, description="Certificates (PEM) that its TLS is checked against, in place of the well-known ones."
    )
    mail_from: str = "Transom <transom@localhost>"
    mail_bounces: str = Field(
        "",
        max_length=200,
        pattern=r"^$|^[A-Za-z0-9._-]{1,30}@[A-Za-z0-9.-]+$",
        description="Where bounces shall go, as bounces+<word>@<domain>; pipe what comes there into `transom mail bounce`. "
        "Empty: to mail_from.",
    )
    mail_days: int = Field(90, ge=1, le=3650, description="Days that mails, and what became of them, are kept.")
    mailbox: str | None = Field(None, description="Where the mail catcher shows what it caught, in development.")

    # Who signs up, and what mails say.
    public_url: str = Field(
        "http://localhost:8080",
        max_length=200,
        pattern=r"^https?://[^\s#?]+$",
        description="Where the app's own pages are; mails link to account/verify, account/reset and account/join there.",
    )
    sign_up: Literal["open", "domains", "invite", "closed"] = Field(
        "open",
        description="Who may make an account: anybody, addresses of sign_up_domains, who was invited, nobody. All but the "
        "last take invitations, too.",
    )
    sign_up_domains: Several = Field((), description="Domains of addresses, with commas between them.")
    sign_up_verify: bool = Field(
        True,
        description="An account is made once its address is proved: signing up answers alike for every address. Else it "
        "is made at once, and who signs up learns whether the address has an account.",
    )
    anonymous: bool = Field(False, description="Whether one may use the app with an account that nobody signs in to.")

    # Who signs in.
    secret: Secrets = Field(
        (),
        description="Seals what must be read again (secrets of authenticator apps). 32 or more random characters; several "
        "with commas between them to change it: the first seals, all open. Without one there is no second factor.",
    )
    relying_party_id: str = Field(
        "localhost",
        description="Domain that passkeys are bound to: that of the web app or one above it. Never change it.",
    )
    relying_party_name: str = Field("Transom", description="What browsers, authenticator apps and mails call the app.")
    relying_party_origins: Several = Field(
        ("http://localhost:8080",),
        description="Origins whose pages may use passkeys, with commas between them; an Android app's is "
        "android:apk-key-hash:...",
    )

    # How long they stay signed in, and from which pages.
    session_lifetime: float = Field(
        43_200.0, ge=300, description="Seconds after which a session ends that shall not be remembered."
    )
    session_idle: float = Field(7_200.0, ge=300, description="Seconds without a call after which it ends before that.")
    remembered_lifetime: float = Field(
        2_592_000.0, ge=300, description="Seconds after which a session ends that shall be remembered."
    )
    remembered_idle: float = Field(
        1_209_600.0, ge=300, description="Seconds without a call after which it ends before that."
    )
    allowed_origins: Several = Field(
        (),
        description="Web origins (https://app.example) whose pages may call with a cookie, with commas between them; no "
        "others may call at all then. None: any page may call, and none with a cookie but those served from here.",
    )
    cookie_secure: bool = Field(
        True,
        description="Web pages keep their session in __Host-transom_session, over TLS alone. Off, for development "
        "without TLS, in transom_session.",
    )

    # Whose word for who somebody is is taken (docs/identity.md, OIDC).
    oidc: tuple[Provider, ...] = Field(
        (),
        max_length=20,
        description='OpenID Connect issuers, as JSON: [{"id": "google", "client_ids": ["..."], "client_secret": "...", '
        '"redirect_uris": ["https://app.example/signed-in"]}].',
    )
    oidc_ca: Path | None = Field(
        None, description="Certificates (PEM) that issuers' TLS is checked against, beside the well-known ones."
    )
    oidc_keys_fresh: float = Field(
        600.0, gt=0, le=3600, description="Seconds an issuer's keys are used before it is asked for them again."
    )

    # Limits.
    page_size: int = Field(50, description="Resources of a page when the caller does not say.")
    page_size_max: int = Field(1000, description="Larger wishes are lowered to this (AIP-158).")
    message_bytes_max: int = Field(1 << 20, description="Largest request message.")
    upload_bytes_max: int = Field(100 << 20, gt=0, le=5 << 30, description="Largest file of one upload.")
    multipart_bytes_max: int = Field(5 << 30, gt=0, le=5 << 40, description="Largest file that is uploaded in parts.")
    owner_files_max: int = Field(100_000, ge=0, description="Files that one account may have. 0: no bound.")
    owner_bytes_max: int = Field(
        10 << 30, ge=0, description="Bytes of the files that one account may have. 0: no bound."
    )
    files_processed: Literal["none", "media", "all"] = Field(
        "media",
        description="Uploaded files that workers look at before they are READY: pictures, PDF, sound and film (media), which "
        "takes transom[media] there; all, which an app's own checks ask for; none. The same for all processes.",
    )
    replica_lag_max: float = Field(1.0, description="Seconds behind the primary beyond which the replica is not read.")

    limit_caller: Limit = Field(
        Rate(12_000, 60),
        description="Calls of one account: so many at once, and as many again in that time. Empty: no limit.",
    )
    limit_key: Limit = Field(Rate(120_000, 60), description="Calls of one service key.")
    limit_address: Limit = Field(
        Rate(30_000, 60), description="Calls from one address (IPv6: /64) without a service key, of all accounts."
    )
    limit_methods: MethodLimits = Field(
        default_factory=lambda: {
            "transom.accounts.v1.AccountsService/SignUp": Rate(100, 60),
            "transom.accounts.v1.AccountsService/SignIn": Rate(300, 60),
            "transom.accounts.v1.AccountsService/SignInWithCode": Rate(300, 60),
            "transom.accounts.v1.AccountsService/SignInAnonymously": Rate(100, 60),
            "transom.accounts.v1.AccountsService/RequestSignInCode": Rate(100, 60),
            "transom.accounts.v1.AccountsService/RequestPasswordReset": Rate(100, 60),
            "transom.accounts.v1.AccountsService/VerifyEmail": Rate(300, 60),
            "transom.accounts.v1.AccountsService/ResetPassword": Rate(100, 60),
            "transom.accounts.v1.PasskeysService/BeginSignIn": Rate(300, 60),
            "transom.accounts.v1.PasskeysService/FinishSignIn": Rate(300, 60),
            "transom.accounts.v1.SecondFactorsService/SignInWithSecondFactor": Rate(300, 60),
            "transom.accounts.v1.IdentitiesService/SignInWithIdToken": Rate(300, 60),
            "transom.accounts.v1.IdentitiesService/StartAuthorization": Rate(300, 60),
            "transom.accounts.v1.IdentitiesService/CompleteAuthorization": Rate(300, 60),
            "transom.accounts.v1.PasskeysService/BeginRegistration": Rate(60, 60),
        },
        description="package.Service/Method=600/60s, with commas between them: calls of one method by one account, or "
        "from one address where it is not known who calls. In place of those that are set by default.",
    )
    attempts_address: Limit = Field(
        Rate(100, 3600),
        description="Wrong passwords (or codes) from one address, at whatever accounts; not where its owner usually is.",
    )
    attempts_account: Limit = Field(
        Rate(60, 3600),
        description="Wrong passwords at one account, from whatever addresses; of codes a third. Not for the addresses "
        "where its owner usually is.",
    )
    audit_days: int = Field(365, ge=0, description="Days that the audit log is kept; 0 keeps it for good.")

    # What was written may be asked for again (docs/data.md, Safe to repeat and Operations).
    request_hours: float = Field(
        24.0, gt=0, le=720, description="Hours for which a request that is repeated with its id gets its answer again."
    )
    operation_days: float = Field(30.0, gt=0, le=365, description="Days that operations can be asked for.")

    # How long what was done can be followed (docs/events.md, The event log).
    event_days: float = Field(7.0, gt=0, le=365, description="Days that events are kept once they were published.")
    event_bytes_max: int = Field(
        10 << 30,
        ge=0,
        description="Bytes that the event log may have, about; beyond it the oldest published events go sooner. 0: no bound.",
    )

    # Whom it is posted to (docs/webhooks.md).
    webhook_networks: Networks = Field(
        (),
        description="Networks (10.1.0.0/16) that webhooks may be posted to though they are not public, and without TLS, with "
        "commas between them. The same for all processes.",
    )
    webhook_hours: float = Field(
        72.0,
        gt=0,
        le=720,
        description="Hours for which a webhook that fails is tried again, and for which the event log is kept longer for an "
        "endpoint that has yet to be told.",
    )
    webhook_days: float = Field(14.0, gt=0, le=365, description="Days that what became of webhooks is kept.")

    # What becomes of accounts (docs/identity.md, Deletion and export).
    account_delete_after: float = Field(
        0.0,
        ge=0,
        le=365,
        description="Days that an account whose deletion was asked for waits, and can be kept, before its data are removed.",
    )
    export_days: float = Field(7.0, gt=0, le=365, description="Days that an export of an account is kept.")
    export_files_bytes_max: int = Field(
        1 << 30,
        ge=0,
        le=3 << 30,
        description="Bytes of the files in one export, together; of others it says what they are.",
    )

    # Life.
    drain_notice: float = Field(1.5, description="Seconds between health NOT_SERVING and the listener closing.")
    drain_grace: float = Field(10.0, description="Seconds calls in flight may take to finish.")
    log_level: str = "info"

    @model_validator(mode="after")
    def _not_overheard(self) -> "Settings":
        host, _, port = self.smtp.rpartition(":")
        if not host or not port.isdecimal():
            raise ValueError("smtp is host:port")
        if self.smtp_user and self.smtp_tls == "off" and host not in ("127.0.0.1", "::1", "[::1]", "localhost"):
            raise ValueError("smtp_user needs smtp_tls: a password is not sent in the clear")
        return self

    @field_validator("secret")
    @classmethod
    def _long(cls, given: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(len(secret.get_secret_value()) < SECRET_LEAST for secret in given):
            raise ValueError(f"each secret has at least {SECRET_LEAST} characters")
        return given

    @field_validator("allowed_origins")
    @classmethod
    def _origins(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for origin in given:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is not scheme://host or scheme://host:port, as browsers write it")
        return given

    @field_validator("oidc")
    @classmethod
    def _told_apart(cls, given: tuple[Provider, ...]) -> tuple[Provider, ...]:
        names = [name for provider in given for name in (provider.issuer, *provider.issuer_names)]
        if len({provider.id for provider in given}) < len(given) or len(set(names)) < len(names):
            raise ValueError("each id and each issuer is given once")
        return given
