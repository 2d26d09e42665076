"""Reminders: what should have been mended by now."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

from server.apps import Tick, Work, every


@every("0 7 * * MON-FRI", tz="Europe/Berlin", catch_up="latest")
async def remind_overdue(tick: Tick, work: Work) -> None:
    """Reminds the managers of each site, on weekday mornings, of findings that should be mended by now."""
    for site in await work.list("inspect.v1.Site"):
        overdue = await _overdue(work, site, tick)
        if not overdue:
            continue
        zone = ZoneInfo(site.time_zone or "UTC")
        findings = [
            {
                "title": finding.title,
                "severity": finding.Severity.Name(finding.severity).lower(),
                "due": f"{finding.due_time.ToDatetime(tzinfo=ZoneInfo('UTC')).astimezone(zone):%d %B %Y}",
                "inspection": inspection.title,
                "name": finding.name,
            }
            for inspection, finding in overdue
        ]
        for manager in await _managers(work, site):
            work.mail(manager.email, template="overdue", data={"site": site, "manager": manager, "findings": findings})


async def _overdue(work: Work, site: Any, tick: Tick) -> list[tuple[Any, Any]]:
    """Inspections of the site and their findings that are not mended, though they should be; the oldest first."""
    found = []
    for inspection in await work.list("inspect.v1.Inspection", site.name):
        for finding in await work.list("inspect.v1.Finding", inspection.name):
            due = finding.HasField("due_time") and finding.due_time.ToSeconds() < tick.time.timestamp()
            if due and not finding.resolved:
                found.append((inspection, finding))
    return sorted(found, key=lambda one: one[1].due_time.ToSeconds())


async def _managers(work: Work, site: Any) -> list[Any]:
    """The accounts of the site's managers, each once."""
    members = await work.list("inspect.v1.Member", site.name)
    accounts = [await work.account(member.user) for member in members if member.role == member.MANAGER]
    return list({account.email: account for account in accounts if account and account.email}.values())
