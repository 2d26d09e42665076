"""The APIs whose resources live their whole lives in a run, and what is special about each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Api:
    """One version of one API of Google's."""

    folder: str
    """Of its protos, in the package of all."""
    module: str
    """Of Google's Python client."""
    style: str
    """What its schema has that others have not."""

    @property
    def package(self) -> str:
        """The proto package."""
        return self.folder.replace("/", ".")


APIS = (
    Api("google/cloud/secretmanager/v1", "google.cloud.secretmanager_v1", "two patterns, etags, expire_time or ttl"),
    Api("google/cloud/essentialcontacts/v1", "google.cloud.essential_contacts_v1", "three patterns, the server's ids"),
    Api("google/cloud/kms/v1", "google.cloud.kms_v1", "four levels, answers with more than the items"),
    Api("google/cloud/scheduler/v1", "google.cloud.scheduler_v1", "ids in the body"),
    Api("google/cloud/tasks/v2", "google.cloud.tasks_v2", "ids in the body or the server's, views"),
    Api("google/cloud/servicedirectory/v1", "google.cloud.servicedirectory_v1", "filters and orders at every level"),
    Api("google/cloud/talent/v4", "google.cloud.talent_v4", "no ids from clients, jobs in batches"),
    Api("google/cloud/speech/v1", "google.cloud.speech_v1", "a list named in the singular, show_deleted"),
    Api("google/cloud/workstations/v1", "google.cloud.workstations_v1", "operations, allow_missing, validate_only"),
    Api("google/cloud/config/v1", "google.cloud.config_v1", "operations, request ids"),
    Api("google/cloud/apigateway/v1", "google.cloud.apigateway_v1", "operations, metadata of their own"),
    Api(
        "google/cloud/certificatemanager/v1",
        "google.cloud.certificate_manager_v1",
        "operations, five kinds side by side",
    ),
    Api("google/cloud/eventarc/v1", "google.cloud.eventarc_v1", "operations, etags, a singleton"),
    Api("google/cloud/deploy/v1", "google.cloud.deploy_v1", "operations, request ids, etags, three levels"),
    Api("google/cloud/functions/v2", "google.cloud.functions_v2", "operations, filters, orders"),
    Api("google/cloud/memcache/v1", "google.cloud.memcache_v1", "operations, filters"),
    Api("google/cloud/redis/v1", "google.cloud.redis_v1", "operations without validation"),
    Api("google/cloud/gkebackup/v1", "google.cloud.gke_backup_v1", "operations, forced deletion, etags"),
    Api(
        "google/cloud/video/livestream/v1",
        "google.cloud.video.live_stream_v1",
        "operations and direct answers, request ids",
    ),
    Api("google/cloud/video/transcoder/v1", "google.cloud.video.transcoder_v1", "allow_missing, ids for one kind only"),
    Api("google/cloud/retail/v2", "google.cloud.retail_v2", "singletons, multi-level parents without resources"),
    Api("google/cloud/dialogflow/cx/v3", "google.cloud.dialogflowcx_v3", "deep trees, deletion with force, singletons"),
    Api(
        "google/cloud/contactcenterinsights/v1",
        "google.cloud.contact_center_insights_v1",
        "singletons, expire_time or ttl",
    ),
    Api(
        "google/cloud/networkservices/v1",
        "google.cloud.network_services_v1",
        "operations, a dozen kinds in one service",
    ),
    Api("google/devtools/artifactregistry/v1", "google.cloud.artifactregistry_v1", "operations beside direct answers"),
    Api("google/monitoring/dashboard/v1", "google.cloud.monitoring_dashboard_v1", "the whole id in the body, oneofs"),
)
