"""An app's mails: the files of its folder `mails/`, read once, checked, and filled in for each mail.

    mails/overdue.txt       Subject: {{ count }} inspections are overdue
                            (an empty line)
                            Dear {{ person.display_name }}, …
    mails/overdue.html      the same as HTML, where there shall be some
    mails/overdue.de.txt    in another language
    mails/_layout.html      begins with `_`: no mail, but what others extend or include

They are Jinja2 templates in its sandbox. HTML is escaped, and what is not there is an error, not an empty place. In
each, `app` is what the app is called and `url` where its pages are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from jinja2 import DictLoader, StrictUndefined, TemplateError, TemplateSyntaxError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from server.schema.compilation import SchemaError

FOLDER = "mails"
FILES_MAX = 1000
"""Files of the folder."""
FILE_BYTES = 256 << 10
"""Bytes of one file."""
SUBJECT_CHARS = 200
"""Characters of a subject; of a longer one the rest is left out."""
CHARS = 1 << 20
"""Characters of a text, and as many of its HTML."""
_FILE = re.compile(
    r"(?P<name>_?[a-z][a-z0-9_-]{0,62})(\.(?P<language>[a-z]{2,3}(-[A-Za-z0-9]{2,8})?))?\.(?P<kind>txt|html)"
)
_SUBJECT = re.compile(r"Subject:[ \t]*(?P<subject>\S[^\n]*)\n[ \t]*\n(?P<text>.*)", re.DOTALL)


class TemplateFault(Exception):
    """A mail cannot be made of its template and what was given for it; the text says where and why."""


@dataclass(frozen=True, slots=True)
class Written:
    """A template, filled in."""

    subject: str
    text: str
    html: str
    """Empty where the template has none."""


@dataclass(frozen=True, slots=True)
class Template:
    """One mail of the app, in one language, as `transom check` shows it."""

    name: str
    language: str
    """Empty for the one that is taken where there is none of the language asked for."""
    html: bool
    needs: tuple[str, ...]
    """The names that `data` must have, as far as that shows without filling it in."""


class Templates:
    """The mails of an app."""

    def __init__(self, sources: Mapping[str, str] | None = None, *, app: str = "", url: str = "") -> None:
        """`sources` has the text of each file by its name. Check `faults` before anything is made of them."""
        self._faults: list[str] = []
        self._texts: dict[str, str] = {}
        self._subjects: set[str] = set()
        for file, source in sorted((sources or {}).items()):
            self._take(file, source)
        self._environment = _Sandbox(
            loader=DictLoader(self._texts),
            autoescape=lambda name: bool(name) and str(name).endswith(".html"),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.globals |= {"app": app, "url": url.rstrip("/")}
        self._environment.filters["time"] = _time
        self.mails: tuple[Template, ...] = tuple(self._read())
        """All that can be sent, by name and language."""
        self.faults: tuple[str, ...] = tuple(self._faults)
        """What is wrong with the files, a line each."""

    @classmethod
    def of(cls, folder: Path, *, app: str = "", url: str = "") -> Templates:
        """Those of the app in `folder`; none where it has no folder of mails."""
        sources: dict[str, str] = {}
        faults: list[str] = []
        files = sorted(f for f in (folder / FOLDER).glob("*") if f.is_file() and not f.name.startswith("."))
        if len(files) > FILES_MAX:
            faults.append(f"{FOLDER}/: more than {FILES_MAX} files")
        for file in files[:FILES_MAX]:
            raw = file.read_bytes()
            if len(raw) > FILE_BYTES:
                faults.append(f"{FOLDER}/{file.name}: more than {FILE_BYTES >> 10} KiB")
                continue
            try:
                sources[file.name] = raw.decode().replace("\r\n", "\n")
            except UnicodeDecodeError:
                faults.append(f"{FOLDER}/{file.name}: is not UTF-8")
        templates = cls(sources, app=app, url=url)
        templates.faults = (*faults, *templates.faults)
        return templates

    def sound(self) -> Templates:
        """These, where nothing is wrong with them. Raises SchemaError with what is, a line each."""
        if self.faults:
            raise SchemaError("\n".join(self.faults))
        return self

    def write(self, name: str, data: Mapping[str, Any], language: str = "") -> Written:
        """The mail `name` with `data` filled in: values, lists, dicts, and messages, whose fields are read by name.

        `language` (`de`, `de-CH`) takes the files of that language, of the one without its region, or of none, whichever
        are there first. Raises TemplateFault.
        """
        known = {(mail.name, mail.language): mail for mail in self.mails}
        mail = next((known[name, one] for one in _languages(language) if (name, one) in known), None)
        if mail is None:
            names = ", ".join(sorted({mail.name for mail in self.mails})) or "none"
            raise TemplateFault(f"there is no mail {name[:100]!r}; there are: {names}")
        stem = _stem(mail.name, mail.language)
        subject = " ".join(self._filled(f"{stem}.subject", data).split())
        if not subject:
            raise TemplateFault(f"{FOLDER}/{stem}.txt:1: the subject is empty")
        if len(subject) > SUBJECT_CHARS:
            subject = subject[: SUBJECT_CHARS - 1] + "…"
        text = self._filled(f"{stem}.txt", data).strip() + "\n"
        return Written(subject, text, self._filled(f"{stem}.html", data).strip() + "\n" if mail.html else "")

    def _take(self, file: str, source: str) -> None:
        named = _FILE.fullmatch(file)
        if named is None:
            self._faults.append(f"{FOLDER}/{file}: must be called <name>[.<language>].txt or .html, in lower case")
        elif named["kind"] == "txt" and not file.startswith("_"):
            told = _SUBJECT.fullmatch(source)
            if told is None:
                self._faults.append(f"{FOLDER}/{file}:1: must begin with `Subject: …` and an empty line")
            else:
                stem = file.removesuffix(".txt")
                self._subjects.add(stem)
                self._texts[f"{stem}.subject"] = told["subject"]
                # Two empty lines in place of those taken off: errors name the lines of the file.
                self._texts[file] = "\n\n" + told["text"]
        else:
            self._texts[file] = source

    def _read(self) -> list[Template]:
        for file in self._texts:
            stem, _, kind = file.rpartition(".")
            if kind == "html" and not file.startswith("_") and stem not in self._subjects:
                self._faults.append(f"{FOLDER}/{file}: there is no {stem}.txt beside it, for who reads no HTML")
            try:
                # Compiled, too: only that tells of filters and tests that there are not.
                self._environment.get_template(file)
            except TemplateSyntaxError as error:
                self._faults.append(f"{_place(error.name or file, error.lineno)}: {error.message}")
            except TemplateError as error:
                self._faults.append(f"{_place(file, None)}: {error.message}")
        mails = []
        for stem in sorted(self._subjects):
            name, _, language = stem.partition(".")
            html = f"{stem}.html" in self._texts
            needs: set[str] = set()
            for file in (f"{stem}.subject", f"{stem}.txt", *([f"{stem}.html"] if html else [])):
                needs |= self._needs(file, set())
            mails.append(Template(name, language, html, tuple(sorted(needs - set(self._environment.globals)))))
        return mails

    def _needs(self, file: str, seen: set[str]) -> set[str]:
        """The names that a file uses and does not make itself, with what it extends and includes."""
        seen.add(file)
        try:
            tree = self._environment.parse(self._texts[file], file)
            needs = set(meta.find_undeclared_variables(tree))
        except TemplateError:
            return set()  # it is among the faults already
        for other in meta.find_referenced_templates(tree):
            if other is not None and other not in self._texts:
                fault = f"{_place(file, None)}: there is no {FOLDER}/{other}"
                if fault not in self._faults:
                    self._faults.append(fault)
            elif other is not None and other not in seen:
                needs |= self._needs(other, seen)
        return needs

    def _filled(self, file: str, data: Mapping[str, Any]) -> str:
        parts: list[str] = []
        size = 0
        try:
            for part in self._environment.get_template(file).generate(**data):
                parts.append(part)
                size += len(part)
                if size > CHARS:
                    raise TemplateFault(f"{_place(file, None)}: makes more than {CHARS} characters")
        except TemplateFault:
            raise
        except Exception as error:  # whatever an expression of a template may come to
            line = _line(error, file)
            raise TemplateFault(f"{_place(file, line)}: {str(error) or type(error).__name__}") from error
        return "".join(parts)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Templates read messages; none calls what would change one, or turns one inside out."""

    def is_safe_callable(self, obj: Any) -> bool:
        return not isinstance(getattr(obj, "__self__", None), Message) and super().is_safe_callable(obj)


def _time(value: Any, format: str = "%d %B %Y, %H:%M", zone: str = "UTC") -> str:
    """The filter `time`: a moment (of Python or protobuf) as it is written in a time zone."""
    if isinstance(value, Timestamp):
        value = value.ToDatetime(tzinfo=UTC)
    if not isinstance(value, datetime):
        raise TemplateFault(f"time: {type(value).__name__} is no moment")
    try:
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(ZoneInfo(zone)).strftime(format)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise TemplateFault(f"time: there is no time zone {zone[:100]!r}") from error


def _languages(wanted: str) -> Sequence[str]:
    return list(dict.fromkeys((wanted, wanted.partition("-")[0], "")))


def _stem(name: str, language: str) -> str:
    return f"{name}.{language}" if language else name


def _place(file: str, line: int | None) -> str:
    stem, _, kind = file.rpartition(".")
    if kind == "subject":
        file, line = f"{stem}.txt", 1
    return f"{FOLDER}/{file}:{line}" if line else f"{FOLDER}/{file}"


def _line(error: BaseException, file: str) -> int | None:
    """The line of the template where it happened: Jinja2 rewrites tracebacks to name it."""
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename in (file, "<template>", "<unknown>"):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
