"""A schema nobody here wrote: Google's own services, served unchanged, called by Google's own clients.

Secret Manager lets clients choose ids, names its secrets in two ways, has etags, maps and oneofs, and makes versions by
custom methods only. Essential Contacts chooses ids itself, names its contacts in three ways, and has neither etags nor
times. Their parents (`projects/*`, `folders/*`) are resources of nobody here.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import google_apis
import grpc
import pytest
from google.api_core import exceptions
from google.cloud import essential_contacts_v1 as contacts
from google.cloud import secretmanager_v1 as secret_manager
from google.cloud.essential_contacts_v1.services.essential_contacts_service.transports import (
    EssentialContactsServiceGrpcTransport,
    EssentialContactsServiceRestTransport,
)
from google.cloud.secretmanager_v1.services.secret_manager_service.transports import (
    SecretManagerServiceGrpcTransport,
    SecretManagerServiceRestTransport,
)
from google.oauth2.credentials import Credentials
from google.protobuf import json_format

from deploy.native.stack import EVERYTHING, PROJECT, Stack
from server.schema.compilation import compile_app
from server.schema.model import Schema
from server.schema.reading import read

SERVED = ("google/cloud/secretmanager/v1", "google/cloud/essentialcontacts/v1")

SECRET: dict[str, Any] = {
    "labels": {"team": "a", "tier": "1"},
    "annotations": {"note": "x"},
    "rotation": {"next_rotation_time": "2030-01-01T00:00:00Z"},
    "replication": {"automatic": {}},
    "secret_type": secret_manager.Secret.SecretType.CERTIFICATE,
    "version_aliases": {"big": 2**60},
    "topics": [{"name": "projects/p/topics/t"}],
}
CONTACT: dict[str, Any] = {
    "email": "ann@example.com",
    "notification_category_subscriptions": [
        contacts.NotificationCategory.SECURITY,
        contacts.NotificationCategory.LEGAL,
    ],
    "language_tag": "en",
}


@dataclass(frozen=True)
class Place:
    """Where the two services are, and a key for them."""

    edge: str
    """host:port."""
    key: str


class Bearer(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """Sends a key with every call: Google's own credentials do so over TLS only."""

    def __init__(self, key: str) -> None:
        self.key = key

    def intercept_unary_unary(self, continuation: Any, call: Any, request: Any) -> Any:
        metadata = [*(call.metadata or ()), ("authorization", f"Bearer {self.key}")]
        return continuation(call._replace(metadata=metadata), request)


@dataclass(frozen=True)
class Road:
    """Both clients over one transport, and a project that nobody has used yet."""

    name: str
    secrets: Any
    contacts: Any
    project: str = field(default_factory=lambda: f"projects/{secrets.token_hex(5)}")

    def secret(self) -> Any:
        """A new secret, as in SECRET."""
        return self.secrets.create_secret(parent=self.project, secret_id="My_Secret-1", secret=SECRET)

    def contact(self) -> Any:
        """A new contact, as in CONTACT."""
        return self.contacts.create_contact(parent=self.project, contact=CONTACT)


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with TemporaryDirectory(prefix="transom-google-") as folder:
        Path(folder).chmod(0o755)
        app = google_apis.app(Path(folder) / "app", SERVED)
        with Stack(Path(folder) / "state", app=app, parts=EVERYTHING).running() as stack:
            command = [sys.executable, "-m", "server.cli", "key", "create", "--title", "Google's clients"]
            made = subprocess.run(
                command, cwd=PROJECT, env=os.environ | stack.env, check=True, capture_output=True, text=True
            )
            yield Place(stack.edge.removeprefix("http://"), made.stdout.strip())


@pytest.fixture(scope="module")
def clients(place: Place) -> Iterator[dict[str, tuple[Any, Any]]]:
    secret, contact = secret_manager.SecretManagerServiceClient, contacts.EssentialContactsServiceClient
    rest: dict[str, Any] = {"host": place.edge, "url_scheme": "http", "credentials": Credentials(token=place.key)}
    with grpc.insecure_channel(place.edge) as bare:
        channel = grpc.intercept_channel(bare, Bearer(place.key))
        yield {
            "gRPC": (
                secret(transport=SecretManagerServiceGrpcTransport(channel=channel)),
                contact(transport=EssentialContactsServiceGrpcTransport(channel=channel)),
            ),
            "REST": (
                secret(transport=SecretManagerServiceRestTransport(**rest)),
                contact(transport=EssentialContactsServiceRestTransport(**rest)),
            ),
        }


@pytest.fixture(params=["gRPC", "REST"])
def road(request: pytest.FixtureRequest, clients: dict[str, tuple[Any, Any]]) -> Road:
    return Road(request.param, *clients[request.param])


def plain(message: Any) -> dict[str, Any]:
    """A message of Google's clients as plain data."""
    return dict(type(message).to_dict(message))


# ── What works ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_secret_comes_back_as_it_was_given(road: Road) -> None:
    made = road.secret()
    assert made.name == f"{road.project}/secrets/My_Secret-1"
    assert made.etag
    assert made.create_time
    given = plain(secret_manager.Secret(SECRET))
    assert {name: value for name, value in plain(made).items() if name in SECRET} == {
        name: given[name] for name in SECRET
    }
    assert road.secrets.get_secret(name=made.name) == made


def test_the_same_id_may_be_used_at_every_place_that_has_a_pattern(road: Road) -> None:
    here = road.secret()
    there = road.secrets.create_secret(parent=f"{road.project}/locations/eu", secret_id="My_Secret-1", secret={})
    assert there.name == f"{road.project}/locations/eu/secrets/My_Secret-1"
    assert [s.name for s in road.secrets.list_secrets(parent=road.project)] == [here.name]
    assert [s.name for s in road.secrets.list_secrets(parent=f"{road.project}/locations/eu")] == [there.name]


def test_a_name_may_hold_what_urls_escape(road: Road) -> None:
    parent = f"projects/example.com:{road.project.removeprefix('projects/')}"
    made = road.secrets.create_secret(parent=parent, secret_id="a~b.c", secret={})
    assert road.secrets.get_secret(name=f"{parent}/secrets/a~b.c") == made


def test_a_list_is_walked_page_by_page(road: Road) -> None:
    made = [road.secrets.create_secret(parent=road.project, secret_id=f"s{n}", secret={}).name for n in range(5)]
    asked = {"parent": road.project, "page_size": 2}
    assert [s.name for s in road.secrets.list_secrets(request=asked)] == made
    assert [len(page.secrets) for page in road.secrets.list_secrets(request=asked).pages] == [2, 2, 1]


def test_what_is_deleted_is_gone(road: Road) -> None:
    made = road.secret()
    road.secrets.delete_secret(request={"name": made.name, "etag": made.etag})
    assert list(road.secrets.list_secrets(parent=road.project)) == []
    with pytest.raises(exceptions.NotFound):
        road.secrets.get_secret(name=made.name)


def test_a_secret_has_no_versions_while_nobody_can_add_one(road: Road) -> None:
    assert list(road.secrets.list_secret_versions(parent=road.secret().name)) == []


@pytest.mark.parametrize("parent", ["projects", "folders", "organizations"])
def test_a_contact_lives_from_create_to_delete(parent: str, road: Road) -> None:
    above = f"{parent}/{road.project.removeprefix('projects/')}"
    made = [road.contacts.create_contact(parent=above, contact=CONTACT) for _ in range(3)]
    first = made[0]
    assert all(c.name.startswith(f"{above}/contacts/") for c in made)
    assert [c.name for c in road.contacts.list_contacts(request={"parent": above, "page_size": 2})] == [
        c.name for c in made
    ]
    assert plain(road.contacts.get_contact(name=first.name)) == plain(contacts.Contact({**CONTACT, "name": first.name}))
    german = road.contacts.update_contact(contact={"name": first.name, "language_tag": "de"})
    assert plain(german) == plain(first) | {"language_tag": "de"}
    road.contacts.delete_contact(name=first.name)
    assert [c.name for c in road.contacts.list_contacts(parent=above)] == [c.name for c in made[1:]]


def test_what_is_output_only_is_not_the_clients_to_say(road: Road) -> None:
    said = {"name": f"{road.project}/contacts/mine", "validation_state": contacts.ValidationState.VALID}
    made = road.contacts.create_contact(parent=road.project, contact=CONTACT | said)
    assert made.name != said["name"]
    assert made.validation_state == contacts.ValidationState.VALIDATION_STATE_UNSPECIFIED


# ── Updates ────────────────────────────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class Update:
    """A row of the table: `said` of a new secret, with a mask; what its fields are `then`. The others stay."""

    title: str
    said: dict[str, Any]
    mask: list[str]
    then: dict[str, Any]


OTHER_TIME = "2031-02-03T04:05:06.500Z"

UPDATES = [
    Update("a map as a whole", {"labels": {"new": "n"}}, ["labels"], {"labels": {"new": "n"}}),
    Update("one key of a map", {"labels": {"tier": "2"}}, ["labels.tier"], {"labels": {"team": "a", "tier": "2"}}),
    Update("one key of a map goes", {}, ["labels.tier"], {"labels": {"team": "a"}}),
    Update(
        "a field within a message; its neighbour is INPUT_ONLY, and never told",
        {"rotation": {"next_rotation_time": OTHER_TIME, "rotation_period": "9999s"}},
        ["rotation.next_rotation_time"],
        {"rotation": {"next_rotation_time": OTHER_TIME}},
    ),
    Update("a message goes", {}, ["rotation"], {"rotation": None}),
    Update(
        "several fields at once, and one that is not in the mask",
        {"labels": {"n": "1"}, "version_destroy_ttl": "1.500s", "annotations": {"lost": "1"}},
        ["labels", "version_destroy_ttl"],
        {"labels": {"n": "1"}, "version_destroy_ttl": "1.500s"},
    ),
    Update("one of a oneof", {"expire_time": OTHER_TIME}, ["expire_time"], {"expire_time": OTHER_TIME}),
    Update(
        "every field",
        {"labels": {"n": "1"}, "replication": SECRET["replication"], "secret_type": SECRET["secret_type"]},
        ["*"],
        {"labels": {"n": "1"}, "annotations": {}, "rotation": None, "version_aliases": {}, "topics": []},
    ),
    Update("what is immutable, as it is", {"replication": {"automatic": {}}}, ["replication"], {}),
    Update("what is output only stays", {"create_time": OTHER_TIME}, ["create_time"], {}),
]


@pytest.mark.parametrize("row", UPDATES, ids=lambda r: r.title)
def test_an_update_touches_what_its_mask_names(row: Update, road: Road) -> None:
    before = road.secret()
    after = road.secrets.update_secret(secret={"name": before.name, **row.said}, update_mask={"paths": row.mask})
    old, new, then = plain(before), plain(after), plain(secret_manager.Secret(row.then))
    changed = {name: new.get(name) for name in old | new if new.get(name) != old.get(name)}
    assert changed == {name: then.get(name) for name in row.then} | ({"etag": after.etag} if row.then else {})
    assert road.secrets.get_secret(name=before.name) == after


# ── Refusals ───────────────────────────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class Refused:
    """A row of the table: a call, given a secret that is there; how it is refused, and for which field."""

    title: str
    call: Callable[[Road, Any], Any]
    error: type[exceptions.GoogleAPICallError]
    reason: str
    field: str = ""


Invalid, Missing, Taken = exceptions.InvalidArgument, exceptions.NotFound, exceptions.AlreadyExists
Stale, Nobody = exceptions.Aborted, exceptions.MethodNotImplemented

REFUSED = [
    Refused("get what is not there", lambda r, s: r.secrets.get_secret(name=f"{s.name}x"), Missing, "NOT_FOUND"),
    Refused("delete what is not there", lambda r, s: r.secrets.delete_secret(name=f"{s.name}x"), Missing, "NOT_FOUND"),
    Refused(
        "update what is not there",
        lambda r, s: r.secrets.update_secret(secret={"name": f"{s.name}x"}, update_mask={"paths": ["labels"]}),
        Missing,
        "NOT_FOUND",
    ),
    Refused(
        "list below what is not there",
        lambda r, s: list(r.secrets.list_secret_versions(parent=f"{s.name}x")),
        Missing,
        "NOT_FOUND",
    ),
    Refused(
        "create what is there",
        lambda r, s: r.secrets.create_secret(parent=r.project, secret_id="My_Secret-1", secret={}),
        Taken,
        "ALREADY_EXISTS",
    ),
    Refused(
        "an id is missing",
        lambda r, s: r.secrets.create_secret(parent=r.project, secret={}),
        Invalid,
        "INVALID_REQUEST",
        "secret_id",
    ),
    Refused(
        "an id is none",
        lambda r, s: r.secrets.create_secret(parent=r.project, secret_id="ä b", secret={}),
        Invalid,
        "INVALID_REQUEST",
        "secret_id",
    ),
    Refused(
        "what is required within a message",
        lambda r, s: r.secrets.create_secret(
            parent=r.project, secret_id="a", secret={"replication": {"automatic": {"customer_managed_encryption": {}}}}
        ),
        Invalid,
        "INVALID_REQUEST",
        "secret.replication.automatic.customer_managed_encryption.kms_key_name",
    ),
    Refused(
        "what is required of a contact",
        lambda r, s: r.contacts.create_contact(parent=r.project, contact=CONTACT | {"email": ""}),
        Invalid,
        "INVALID_REQUEST",
        "contact.email",
    ),
    Refused(
        "what is required is cleared",
        lambda r, s: r.contacts.update_contact(contact={"name": r.contact().name}, update_mask={"paths": ["email"]}),
        Invalid,
        "INVALID_REQUEST",
        "contact.email",
    ),
    Refused(
        "what is immutable",
        lambda r, s: r.secrets.update_secret(
            secret={"name": s.name, "replication": {"user_managed": {"replicas": [{"location": "eu"}]}}},
            update_mask={"paths": ["replication"]},
        ),
        Invalid,
        "INVALID_REQUEST",
        "secret.replication",
    ),
    Refused(
        "a mask that leads nowhere",
        lambda r, s: r.secrets.update_secret(secret={"name": s.name}, update_mask={"paths": ["labels", "nothing"]}),
        Invalid,
        "INVALID_REQUEST",
        "update_mask",
    ),
    Refused(
        "a page token of another list",
        lambda r, s: list(r.secrets.list_secrets(request={"parent": r.project, "page_token": "abc"})),
        Invalid,
        "INVALID_REQUEST",
        "page_token",
    ),
    Refused(
        "an update of what has changed since",
        lambda r, s: [
            r.secrets.update_secret(
                secret={"name": s.name, "etag": s.etag, "labels": {"n": n}}, update_mask={"paths": ["labels"]}
            )
            for n in ("first", "second")
        ],
        Stale,
        "STALE_ETAG",
    ),
    Refused(
        "a delete of what has changed since",
        lambda r, s: (
            r.secrets.update_secret(secret={"name": s.name}, update_mask={"paths": ["labels"]}),
            r.secrets.delete_secret(request={"name": s.name, "etag": s.etag}),
        ),
        Stale,
        "STALE_ETAG",
    ),
    Refused(
        "a custom method",
        lambda r, s: r.secrets.add_secret_version(parent=s.name, payload={"data": b"hush"}),
        Nobody,
        "METHOD_NOT_IMPLEMENTED",
    ),
    Refused(
        "a custom method that reads",
        lambda r, s: r.secrets.access_secret_version(name=f"{s.name}/versions/1"),
        Nobody,
        "METHOD_NOT_IMPLEMENTED",
    ),
    Refused(
        "a method that only sounds standard",
        lambda r, s: r.secrets.get_iam_policy(request={"resource": s.name}),
        Nobody,
        "METHOD_NOT_IMPLEMENTED",
    ),
    Refused(
        "a custom method with pages",
        lambda r, s: list(r.contacts.compute_contacts(request={"parent": r.project})),
        Nobody,
        "METHOD_NOT_IMPLEMENTED",
    ),
]


@pytest.mark.parametrize("row", REFUSED, ids=lambda r: r.title)
def test_a_refusal_is_an_exception_of_googles(row: Refused, road: Road) -> None:
    secret = road.secret()
    with pytest.raises(exceptions.GoogleAPICallError) as caught:
        row.call(road, secret)
    error: Any = caught.value
    # Over REST Google's clients go by the HTTP status alone, which several errors share: they raise the base of these.
    assert type(error) is row.error if road.name == "gRPC" else issubclass(row.error, type(error))
    assert (error.code, error.domain, error.reason) == (row.error.code, "transom.dev", row.reason)
    details = [d if isinstance(d, dict) else json_format.MessageToDict(d) for d in error.details]
    fields = [v["field"] for d in details for v in d.get("fieldViolations", ())]
    assert fields == ([row.field] if row.field else [])


def test_nobody_gets_in_without_a_key(place: Place) -> None:
    with grpc.insecure_channel(place.edge) as channel:
        stranger = secret_manager.SecretManagerServiceClient(
            transport=SecretManagerServiceGrpcTransport(channel=channel)
        )
        with pytest.raises(exceptions.Unauthenticated):
            stranger.get_secret(name="projects/p/secrets/s")


# ── What Google's other services are understood as ─────────────────────────────────────────────────────────────────────
SURVEYED = (
    "google/cloud/config/v1",
    "google/cloud/dataproc/v1",
    "google/cloud/dialogflow/v2",
    "google/cloud/kms/v1",
    "google/cloud/scheduler/v1",
    "google/cloud/servicedirectory/v1",
    "google/cloud/speech/v1",
    "google/cloud/talent/v4",
    "google/cloud/tasks/v2",
    "google/cloud/workstations/v1",
    "google/logging/v2",
    "google/monitoring/v3",
    "google/pubsub/v1",
)

VERBS = ("Get", "List", "Create", "Update", "Delete")

STANDARD = {
    "google.cloud.scheduler.v1.CloudScheduler": "ListJobs GetJob CreateJob UpdateJob DeleteJob",
    "google.cloud.tasks.v2.CloudTasks": "ListQueues GetQueue CreateQueue UpdateQueue DeleteQueue "
    "ListTasks GetTask CreateTask DeleteTask",
    "google.cloud.servicedirectory.v1.RegistrationService": "CreateNamespace ListNamespaces GetNamespace UpdateNamespace "
    "DeleteNamespace CreateService ListServices GetService UpdateService DeleteService "
    "CreateEndpoint ListEndpoints GetEndpoint UpdateEndpoint DeleteEndpoint",
    "google.cloud.talent.v4.TenantService": "CreateTenant GetTenant UpdateTenant DeleteTenant ListTenants",
    "google.cloud.speech.v1.Adaptation": "CreatePhraseSet GetPhraseSet ListPhraseSet UpdatePhraseSet DeletePhraseSet "
    "CreateCustomClass GetCustomClass ListCustomClasses UpdateCustomClass DeleteCustomClass",
    "google.cloud.kms.v1.KeyManagementService": "ListKeyRings ListCryptoKeys ListCryptoKeyVersions ListImportJobs "
    "ListRetiredResources GetKeyRing GetCryptoKey GetCryptoKeyVersion GetPublicKey GetImportJob GetRetiredResource "
    "CreateKeyRing CreateCryptoKey CreateCryptoKeyVersion CreateImportJob UpdateCryptoKey UpdateCryptoKeyVersion "
    "DeleteCryptoKey DeleteCryptoKeyVersion",
    "google.cloud.dialogflow.v2.SessionEntityTypes": "ListSessionEntityTypes GetSessionEntityType CreateSessionEntityType "
    "UpdateSessionEntityType DeleteSessionEntityType",
    "google.cloud.dataproc.v1.WorkflowTemplateService": "CreateWorkflowTemplate GetWorkflowTemplate UpdateWorkflowTemplate "
    "ListWorkflowTemplates DeleteWorkflowTemplate",
    "google.cloud.workstations.v1.Workstations": "GetWorkstationCluster ListWorkstationClusters CreateWorkstationCluster "
    "UpdateWorkstationCluster DeleteWorkstationCluster GetWorkstationConfig ListWorkstationConfigs CreateWorkstationConfig "
    "UpdateWorkstationConfig DeleteWorkstationConfig GetWorkstation ListWorkstations CreateWorkstation UpdateWorkstation "
    "DeleteWorkstation",
    "google.logging.v2.ConfigServiceV2": "ListBuckets GetBucket CreateBucket UpdateBucket DeleteBucket "
    "ListViews GetView CreateView UpdateView DeleteView ListSinks CreateSink UpdateSink ListLinks GetLink CreateLink DeleteLink "
    "ListExclusions GetExclusion CreateExclusion UpdateExclusion DeleteExclusion "
    "GetCmekSettings UpdateCmekSettings GetSettings UpdateSettings",
    "google.monitoring.v3.AlertPolicyService": "GetAlertPolicy DeleteAlertPolicy UpdateAlertPolicy",
    "google.pubsub.v1.Publisher": "UpdateTopic",
}
"""All that the service has."""

WHY = {
    "google.cloud.config.v1.Config.DeleteStatefile": "it is not named for what it refers to, Deployment",
    "google.cloud.dataproc.v1.JobController.GetJob": "it answers google.cloud.dataproc.v1.Job, which is not a stored resource",
    "google.cloud.dialogflow.v2.Contexts.DeleteAllContexts": "its request has no string field 'name'",
    "google.cloud.kms.v1.KeyManagementService.UpdateCryptoKeyPrimaryVersion": "it is not named for what it updates",
    "google.cloud.workstations.v1.Workstations.ListUsableWorkstations": "it is not named for what it lists, Workstation",
    "google.logging.v2.LoggingServiceV2.ListLogEntries": "its request has no string field 'parent'",
    "google.logging.v2.ConfigServiceV2.GetSink": "its request has no string field 'name'",
    "google.monitoring.v3.AlertPolicyService.CreateAlertPolicy": "its request has no string field 'parent'",
    "google.pubsub.v1.Publisher.CreateTopic": "its request does not have exactly one field of Topic",
    "google.pubsub.v1.SchemaService.ListSchemaRevisions": "it is not named for what it lists, Schema",
    "google.pubsub.v1.SchemaService.DeleteSchemaRevision": "it is not named for what it refers to, Schema",
}
"""How the reason begins."""


@pytest.fixture(scope="module")
def surveyed(tmp_path_factory: pytest.TempPathFactory) -> Schema:
    return read(compile_app(google_apis.app(tmp_path_factory.mktemp("surveyed"), SURVEYED)))


@pytest.mark.parametrize("service", STANDARD)
def test_standard_methods_are_recognised(service: str, surveyed: Schema) -> None:
    [found] = [s for s in surveyed.services if s.name == service]
    assert {m.name for m in found.methods if m.kind.standard} == set(STANDARD[service].split())


@pytest.mark.parametrize("method", WHY)
def test_what_only_sounds_standard_says_why(method: str, surveyed: Schema) -> None:
    [found] = [m for m in surveyed.methods() if m.full_name == method]
    assert not found.kind.standard
    assert found.why_custom.startswith(WHY[method])


def test_every_method_is_standard_or_custom_with_a_reason(surveyed: Schema) -> None:
    ours = [m for s in surveyed.services if not s.own for m in s.methods]
    assert len(ours) > 300
    sounding = [m for m in ours if m.name.startswith(VERBS)]
    assert [m.full_name for m in sounding if not m.kind.standard and not m.why_custom] == []
    assert [m.full_name for m in ours if m.kind.standard and m not in sounding] == []


def test_resources_of_one_collection_have_a_table_each(surveyed: Schema) -> None:
    package = "google.cloud.dialogflow.v2"
    tables = {m: surveyed.resources[f"{package}.{m}"].table_name for m in ("EntityType", "SessionEntityType")}
    assert tables == {"EntityType": "entity_types", "SessionEntityType": "session_entity_type"}
    assert len({(r.table_schema, r.table_name) for r in surveyed.resources.values()}) == len(surveyed.resources)
