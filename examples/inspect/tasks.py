"""What follows from an inspection: its report."""

from __future__ import annotations

import asyncio
from typing import Any

from server.apps import Discard, Event, Order, Work, on, task
from server.errors import Invalid, NotFound, Precondition

from .photos import Photo, reduced
from .reminders import remind_overdue as remind_overdue
from .report import PHOTOS_MAX, Report, in_order

TYPE = "inspect.v1.Inspection"


@on(TYPE, "submitted", retries=8)
async def report_submitted(event: Event, work: Work) -> None:
    """Renders the report, sets it, and mails it to the site's managers. Safe to run twice: the file is the event's."""
    inspection = await _current(event, work)
    if inspection is None:
        return
    site = await work.get(_site_of(inspection.name))
    managers = await _managers(work, site)
    file = await _stored(work, f"report-{event.id}", inspection.inspector, site, inspection, managers)
    work.update(inspection, {"report": file}, event="reported")
    for manager in managers:
        work.mail(manager, _subject(inspection, site), _letter(inspection, site), attachments=[file])


@on(TYPE, "created", retries=8)
async def report_imported(event: Event, work: Work) -> None:
    """The report of an inspection that came into the system when it was submitted already; nobody is told of it."""
    if not event.resource.HasField("submit_time"):
        return
    inspection = await _current(event, work)
    if inspection is None:
        return
    site = await work.get(_site_of(inspection.name))
    managers = await _managers(work, site)
    file = await _stored(work, f"report-{event.id}", inspection.inspector, site, inspection, managers)
    work.update(inspection, {"report": file}, event="reported")


@task("draft_report", retries=3, at_once=4, callable_by="users")
async def draft_report(order: Order, work: Work) -> dict[str, str]:
    """The report of an inspection as it would be now, for a member of its site: `{"inspection": name}` → `{"file": name}`."""
    name = str(order.payload.get("inspection", "")) if isinstance(order.payload, dict) else ""
    try:
        inspection = await work.get(name)
        site = await work.get(_site_of(name))
        if order.caller.startswith(
            "users/"
        ):  # a task reads with the app's rights: whose it is has to be looked at here
            await work.get(f"{site.name}/members/{order.caller.removeprefix('users/')}")
    except (NotFound, Invalid) as fault:
        raise Discard("there is no such inspection for its caller") from fault
    if inspection.DESCRIPTOR.full_name != TYPE:
        raise Discard(f"{name} is no inspection")
    managers = await _managers(work, site)
    return {"file": await _stored(work, f"draft-{order.key}", order.caller, site, inspection, managers)}


async def _current(event: Event, work: Work) -> Any | None:
    """The inspection as it is now; None where it is gone, has its report, or was submitted anew since the event."""
    try:
        inspection = await work.get(event.name)
    except NotFound:
        return None
    same = inspection.uid == event.resource.uid and inspection.submit_time == event.resource.submit_time
    return inspection if same and not inspection.report else None


async def _stored(work: Work, id: str, owner: str, site: Any, inspection: Any, managers: list[str]) -> str:
    """The name of the report's file, rendered and stored; the same for the same id."""
    findings = in_order(await work.list("inspect.v1.Finding", inspection.name))
    report = Report(
        site=site,
        inspection=inspection,
        findings=findings,
        inspector=await _person(work, inspection.inspector),
        managers=managers,
        photos=await _photos(work, findings),
    )
    # Rendering takes some hundred milliseconds of computing: in a thread, so that the consumer goes on meanwhile.
    await work.progress(0.8, "the pages")
    pdf = await asyncio.to_thread(report.pdf)
    name = inspection.name.rpartition("/")[2]
    return await work.store_file(id, f"{name}.pdf", "application/pdf", pdf, owner=owner)


async def _photos(work: Work, findings: list[Any]) -> dict[str, Photo | None]:
    """The findings' photos by name, reduced one by one, so that never more than one is in memory at full size."""
    names = dict.fromkeys(name for finding in findings for name in finding.photos)
    photos: dict[str, Photo | None] = {}
    wanted = list(names)[:PHOTOS_MAX]
    for n, name in enumerate(wanted):
        await work.progress(0.8 * n / len(wanted), f"photo {n + 1} of {len(wanted)}")
        try:
            photos[name] = await asyncio.to_thread(reduced, await work.read_file(name, "medium"))
        except (NotFound, Precondition):
            photos[name] = None  # deleted, never uploaded, or far too large: the report says so in its place
    return photos


async def _managers(work: Work, site: Any) -> list[str]:
    """Addresses of the site's managers, each once."""
    members = await work.list("inspect.v1.Member", site.name)
    accounts = [await work.account(m.user) for m in members if m.role == m.MANAGER]
    return list(dict.fromkeys(a.email for a in accounts if a))


async def _person(work: Work, user: str) -> str:
    """How to call a user on paper: by name, else by address, else as the schema does."""
    account = await work.account(user)
    return (account.display_name or account.email) if account else user


def _site_of(name: str) -> str:
    """`sites/1/inspections/7` → `sites/1`."""
    return "/".join(name.split("/")[:2])


def _subject(inspection: Any, site: Any) -> str:
    """On one line, whatever the title is."""
    return " ".join(f"Inspection submitted: {inspection.title}, {site.display_name}".split())


def _letter(inspection: Any, site: Any) -> str:
    return (
        f"The inspection “{inspection.title}” of {site.display_name} was submitted and waits for your decision.\n\n"
        f"{inspection.summary or 'It has no summary.'}\n\n"
        "The report is attached.\n\n"
        f"{inspection.name}\n"
    )
