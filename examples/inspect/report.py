"""The report of an inspection, as PDF: what was found, to be read on paper by somebody who was not there."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from fpdf import FPDF
from fpdf.enums import XPos, YPos
from fpdf.fonts import FontFace
from google.protobuf import json_format

from .lettering import FACE, add_faces, needs_shaping, settable
from .photos import Photo

PHOTOS_MAX = 120
"""Photos of one report: it goes by mail and must stay some megabytes small. What is left out is said."""

_INK, _MUTED, _LINE, _PALE, _ACCENT = (27, 39, 51), (98, 113, 127), (214, 221, 227), (243, 246, 248), (11, 104, 135)
_GREEN, _RED, _WHITE = (38, 122, 76), (160, 16, 32), (255, 255, 255)
_SEVERITIES = {"CRITICAL": _RED, "HIGH": (208, 84, 24), "MEDIUM": (186, 130, 0), "LOW": (84, 124, 148)}
_OUTCOMES = {"PASSED": ("passed", _GREEN), "FAILED": ("failed", _RED), "NOT_APPLICABLE": ("not applicable", _MUTED)}
_MARGIN, _GAP = 16.0, 4.0
_INDENT = 5.0
_PHOTO_SHAPE = 3 / 4
_LINE_HEIGHT = 5.0
"""Of body text, in millimetres, as every length here."""


@dataclass(frozen=True)
class Report:
    """What a report tells. The messages are those of inspect.v1, as they were when it was asked for."""

    site: Any
    inspection: Any
    findings: Sequence[Any]
    inspector: str
    """The inspector, as people write it."""
    managers: Sequence[str] = ()
    photos: Mapping[str, Photo | None] = field(default_factory=dict)
    """By file name; None for one that could not be read."""

    @property
    def text(self) -> str:
        """All that people wrote, in no order: what typefaces must be able to set."""
        messages = (self.site, self.inspection, *self.findings)
        written = [json_format.MessageToJson(m, ensure_ascii=False) for m in messages]
        return "".join((*written, self.inspector, *self.managers))

    def pdf(self) -> bytes:
        """The document, A4; the same report gives the same bytes. Takes some hundred milliseconds of computing."""
        return _Sheets(self).written()


def in_order(findings: Sequence[Any]) -> list[Any]:
    """The findings, the worst first and otherwise by name."""
    return sorted(findings, key=lambda f: (-f.severity, f.name))


class _Sheets(FPDF):
    """The pages of one report, from top to bottom."""

    def __init__(self, report: Report) -> None:
        super().__init__(format="A4")
        self._report = report
        self._zone = _zone(report.site.time_zone)
        self._time = _utc(report.inspection.submit_time) or datetime(2000, 1, 1, tzinfo=UTC)
        self.set_margin(_MARGIN)
        self.c_margin = 0
        self.set_auto_page_break(True, margin=20)
        add_faces(self, report.text)
        self.set_title(settable(f"{report.inspection.title} - {report.site.display_name}"))
        self.set_creator("Inspect")
        self.set_lang("en")
        self.set_creation_date(self._time)
        self.alias_nb_pages()

    def written(self) -> bytes:
        """All pages, as bytes."""
        self.add_page()
        self._title()
        self._facts()
        self._summary()
        self._overview()
        self._checks()
        for number, finding in enumerate(in_order(self._report.findings), 1):
            self._finding(number, finding)
        self._signature()
        return bytes(self.output())

    def cell(  # type: ignore[override]  # the rest is passed on by name
        self, w: float | None = None, h: float | None = None, text: str = "", **how: Any
    ) -> Any:
        """As FPDF's; shapes the text where it must be."""
        self.set_text_shaping(needs_shaping(text))
        return super().cell(w, h, text, **how)

    def multi_cell(  # type: ignore[override]  # as above
        self, w: float, h: float | None = None, text: str = "", **how: Any
    ) -> Any:
        """As FPDF's; shapes the text where it must be."""
        self.set_text_shaping(needs_shaping(text))
        return super().multi_cell(w, h, text, **how)

    # What every page has.

    def header(self) -> None:
        """On all pages but the first: which report this is."""
        if self.page_no() == 1:
            return
        self._font(8, colour=_MUTED)
        self.set_xy(_MARGIN, 9)
        head = _cut(f"{self._report.site.display_name}  ·  {self._report.inspection.title}", 110)
        self.cell(0, 4, settable(head))
        self.set_draw_color(*_LINE)
        self.line(_MARGIN, 14.5, self.w - _MARGIN, 14.5)
        self.set_xy(self.l_margin, 19)

    def footer(self) -> None:
        """The inspection's name, and the page's number."""
        self.set_xy(_MARGIN, -13)
        self._font(8, colour=_MUTED)
        self.cell(150, 4, settable(_cut(self._report.inspection.name, 110)))
        self.cell(0, 4, f"{self.page_no()} / {{nb}}", align="R")

    # The parts, in order.

    def _title(self) -> None:
        inspection, site = self._report.inspection, self._report.site
        self.set_fill_color(*_ACCENT)
        self.rect(0, 0, self.w, 4, style="F")
        self.set_y(14)
        self._font(8.5, "B", _ACCENT)
        self.set_char_spacing(0.6)
        self.cell(0, 5, "INSPECTION REPORT", new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        self.set_char_spacing(0)
        self._font(21, "B")
        self._paragraph(inspection.title, height=8.6)
        self._font(12.5, colour=_MUTED)
        self._paragraph(site.display_name, height=6.5)
        self.ln(3)

    def _facts(self) -> None:
        inspection, site = self._report.inspection, self._report.site
        facts = [
            ("Inspector", self._report.inspector),
            ("Address", _address(site.address)),
            ("Submitted", self._moment(inspection.submit_time)),
            ("Position", _position(site) if site.HasField("location") else ""),
            ("Planned for", self._moment(inspection.scheduled_time)),
            ("Contact", _contact(site.contact)),
            ("Air temperature", f"{inspection.air_temperature:g} °C" if inspection.HasField("air_temperature") else ""),
            ("For the attention of", ", ".join(self._report.managers)),
        ]
        self.set_draw_color(*_LINE)
        self.line(_MARGIN, self.y, self.w - _MARGIN, self.y)
        self.ln(2.5)
        shown = [(name, value) for name, value in facts if value]
        width = (self.epw - _GAP) / 2
        for pair in (shown[i : i + 2] for i in range(0, len(shown), 2)):
            self._room(14)
            top, bottom = self.y, self.y
            for column, (name, value) in enumerate(pair):
                self.set_xy(_MARGIN + column * (width + _GAP), top)
                self._font(8, colour=_MUTED)
                self.cell(width, 4, name, new_x=XPos.LEFT, new_y=YPos.NEXT)
                self._font(10)
                self.multi_cell(width, 4.8, settable(_cut(value, 300)), align="L", new_x=XPos.LEFT, new_y=YPos.NEXT)
                bottom = max(bottom, self.y)
            self.set_xy(_MARGIN, bottom + 1.6)
        self.ln(1)
        self.line(_MARGIN, self.y, self.w - _MARGIN, self.y)
        self.ln(4)

    def _summary(self) -> None:
        if self._report.inspection.summary:
            self._heading("Summary")
            self._font(10)
            self._paragraph(self._report.inspection.summary)
            self.ln(3)

    def _overview(self) -> None:
        findings = in_order(self._report.findings)
        self._heading("Findings")
        if not findings:
            self._font(10, "I", _MUTED)
            self._paragraph("Nothing was found.")
            self.ln(2)
            return
        counts = Counter(_name(f, "severity") for f in findings)
        width = (self.epw - 3 * _GAP) / 4
        self._room(18)
        top = self.y
        for column, (severity, colour) in enumerate(_SEVERITIES.items()):
            x = _MARGIN + column * (width + _GAP)
            count = counts[severity]
            self.set_fill_color(*_PALE)
            self.rect(x, top, width, 14, style="F")
            self.set_fill_color(*(colour if count else _LINE))
            self.rect(x, top, 1.4, 14, style="F")
            self.set_xy(x + 4, top + 1.6)
            self._font(17, "B", colour if count else _MUTED)
            self.cell(width - 5, 7, str(count))
            self.set_xy(x + 4, top + 8.4)
            self._font(8.5, colour=_MUTED)
            self.cell(width - 5, 4, severity.capitalize())
        self.set_xy(_MARGIN, top + 18)
        self._table(findings)
        self.ln(5)

    def _table(self, findings: Sequence[Any]) -> None:
        self._font(9)
        self.set_draw_color(*_LINE)
        self.set_fill_color(*_WHITE)  # of cells that name none
        heading = FontFace(emphasis="BOLD", color=_MUTED, fill_color=_PALE, size_pt=8)
        with self.table(
            col_widths=(7, 20, 84, 33, 24, 16),
            borders_layout="HORIZONTAL_LINES",
            headings_style=heading,
            line_height=4.6,
            text_align="LEFT",
            v_align="TOP",
            padding=(1.2, 1.5),
        ) as table:
            table.row(("#", "Severity", "Finding", "Where", "Due", "Status"))
            for number, finding in enumerate(findings, 1):
                severity = _name(finding, "severity")
                row = table.row()
                row.cell(str(number), style=FontFace(color=_MUTED))
                row.cell(severity.capitalize(), style=FontFace(color=_SEVERITIES.get(severity, _INK), emphasis="BOLD"))
                row.cell(settable(finding.title))
                row.cell(_storey(finding) or _where(finding), style=FontFace(color=_MUTED))
                row.cell(self._day(finding.due_time), style=FontFace(color=_MUTED))
                done = finding.resolved
                row.cell("resolved" if done else "open", style=FontFace(color=_GREEN if done else _MUTED))

    def _checks(self) -> None:
        checks = self._report.inspection.checks
        if not checks:
            return
        self._heading("Checklist")
        for check in checks:
            said, colour = _OUTCOMES.get(_name(check, "outcome"), ("not looked at", _MUTED))
            self._room(7)
            self._font(9.5, "B", colour)
            self.cell(28, _LINE_HEIGHT, said)
            self._font(9.5)
            self.set_x(_MARGIN + 28)
            self.multi_cell(0, _LINE_HEIGHT, settable(check.text), align="L", new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        self.ln(4)

    def _finding(self, number: int, finding: Any) -> None:
        colour = _SEVERITIES.get(_name(finding, "severity"), _MUTED)
        photos = list(finding.photos)
        self.set_left_margin(_MARGIN + _INDENT)
        self._room(30 + (self._photo_size(len(photos))[2] if photos else 0))
        self.set_xy(self.l_margin, self.y + 2)
        top = self.y
        self._font(12, "B")
        self._paragraph(f"{number}. {finding.title}", height=5.8)
        if self.y > top:  # else the title went over to the next page
            self.set_fill_color(*colour)
            self.rect(_MARGIN, top + 0.6, 1.4, self.y - top - 1.2, style="F")
        self._font(8.5, "B", colour)
        severity = _name(finding, "severity").capitalize()
        self.cell(self.get_string_width(severity) + 3, 5, severity)
        self._font(8.5, colour=_MUTED)
        self._paragraph("  ·  ".join(self._details(finding)))
        self.ln(1)
        if finding.description:
            self._font(10)
            self._paragraph(finding.description)
        self._evidence(finding)
        if photos:
            self.ln(2)
            self._photos(photos)
        self.set_left_margin(_MARGIN)
        self.ln(4)

    def _details(self, finding: Any) -> list[str]:
        """What is short enough for the line below the title."""
        details = [_where(finding)]
        if finding.HasField("due_time"):
            details.append(f"mend by {self._day(finding.due_time)}")
        if finding.HasField("expected_effort"):
            details.append(f"takes about {_effort(finding.expected_effort.ToTimedelta())}")
        details.append("resolved" if finding.resolved else "open")
        details += [f"{key}: {value}" for key, value in sorted(finding.labels.items())]
        return [d for d in details if d]

    def _evidence(self, finding: Any) -> None:
        kind = finding.WhichOneof("evidence")
        if kind == "measurement":
            measured = finding.measurement
            over = measured.HasField("limit") and measured.value > measured.limit
            limit = f" (limit {measured.limit:g} {measured.unit})" if measured.HasField("limit") else ""
            self._font(10, "B", _RED if over else _INK)
            self._paragraph(f"Measured: {measured.value:g} {measured.unit}{limit}")
        elif kind == "statement":
            self._font(10, "I", _MUTED)
            self._paragraph(f"“{finding.statement}”")

    def _photos(self, names: Sequence[str]) -> None:
        columns, width, height = self._photo_size(len(names))
        for start in range(0, len(names), columns):
            self._room(height + 2)
            top = self.y
            for column, name in enumerate(names[start : start + columns]):
                x = self.l_margin + column * (width + _GAP)
                self.set_fill_color(*_PALE)
                self.rect(x, top, width, height, style="F")
                if photo := self._report.photos.get(name):
                    picture = io.BytesIO(photo.jpeg)
                    self.image(picture, x, top, width, height, keep_aspect_ratio=True, alt_text=settable(name))
                    continue
                said = "could not be read" if name in self._report.photos else "is in the app"
                self.set_xy(x + 3, top + height / 2 - 5)
                self._font(8, "I", _MUTED)
                self.multi_cell(width - 6, 4, settable(f"{_cut(name, 60)} {said}"), align="C")
            self.set_xy(self.l_margin, top + height + 2)

    def _photo_size(self, count: int) -> tuple[int, float, float]:
        """How many of so many photos stand in a row, and the width and height of each."""
        columns = 2 if count <= 2 else 3
        width = (self.epw - (columns - 1) * _GAP) / columns
        return columns, width, width * _PHOTO_SHAPE

    def _signature(self) -> None:
        self._room(34)
        self.ln(4)
        if self._report.inspection.signature:
            try:
                self.image(io.BytesIO(self._report.inspection.signature), w=52, h=16, keep_aspect_ratio=True)
            except (OSError, ValueError):
                self.ln(16)  # says PNG, is none: the line stays for a pen
        else:
            self.ln(16)
        self.set_draw_color(*_MUTED)
        self.line(_MARGIN, self.y + 1, _MARGIN + 70, self.y + 1)
        self.ln(2)
        self._font(8.5, colour=_MUTED)
        self._paragraph(f"{self._report.inspector}, {self._moment(self._report.inspection.submit_time)}", height=4.4)

    # How things are set.

    def _font(self, size: float, style: str = "", colour: tuple[int, int, int] = _INK) -> None:
        self.set_font(FACE, style, size)
        self.set_text_color(*colour)

    def _heading(self, text: str) -> None:
        self._room(24)
        self._font(13, "B", _ACCENT)
        self.cell(0, 7, text, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        self.ln(1)

    def _paragraph(self, text: str, height: float = _LINE_HEIGHT) -> None:
        self.multi_cell(0, height, settable(text), align="L", new_x=XPos.LMARGIN, new_y=YPos.NEXT)

    def _room(self, height: float) -> None:
        """Goes to the next page where `height` is no longer free on this one."""
        if self.will_page_break(height):
            self.add_page()

    def _moment(self, timestamp: Any) -> str:
        moment = _utc(timestamp)
        return f"{moment.astimezone(self._zone):%d %B %Y, %H:%M %Z}" if moment else ""

    def _day(self, timestamp: Any) -> str:
        moment = _utc(timestamp)
        return f"{moment.astimezone(self._zone):%d %b %Y}" if moment else ""


def _utc(timestamp: Any) -> datetime | None:
    """The timestamp, or None where it is not set."""
    return timestamp.ToDatetime(tzinfo=UTC) if timestamp.seconds or timestamp.nanos else None


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name or "UTC")
    except (ZoneInfoNotFoundError, ValueError):
        return UTC  # the schema checks a time zone's form only


def _name(message: Any, field: str) -> str:
    """The name of an enum field's value; empty for one that this schema does not know."""
    value = message.DESCRIPTOR.fields_by_name[field].enum_type.values_by_number.get(getattr(message, field))
    return value.name if value else ""


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _address(address: Any) -> str:
    town = " ".join(part for part in (address.postal_code, address.locality) if part)
    return ", ".join(part for part in (*address.address_lines, town, address.region_code) if part)


def _contact(contact: Any) -> str:
    return ", ".join(part for part in (contact.display_name, contact.phone_number, contact.email) if part)


def _position(message: Any) -> str:
    return f"{message.location.latitude:.5f}, {message.location.longitude:.5f}"


def _where(finding: Any) -> str:
    """Storey and position, as far as they are known."""
    position = _position(finding) if finding.HasField("location") else ""
    return ", ".join(part for part in (_storey(finding), position) if part)


def _storey(finding: Any) -> str:
    if not finding.HasField("floor"):
        return ""
    return "ground floor" if finding.floor == 0 else f"floor {finding.floor}"


def _effort(time: timedelta) -> str:
    minutes = round(time.total_seconds() / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if rest else f"{hours} h"
