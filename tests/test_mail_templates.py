"""An app's mails: what is read of them, what is refused, and what becomes of them when they are filled in."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from google.protobuf.timestamp_pb2 import Timestamp

from server.apps.templates import FILE_BYTES, SUBJECT_CHARS, TemplateFault, Templates
from server.schema.compilation import SchemaError

APP = Path(__file__).parent / "consumers_app"
DUE = datetime(2026, 7, 1, 6, tzinfo=UTC)


def fault(**files: str) -> str:
    """What is said of an app's files; `a_txt` is a.txt."""
    return "\n".join(
        Templates(
            {
                name.replace("__", ".").replace("_txt", ".txt").replace("_html", ".html"): text
                for name, text in files.items()
            }
        ).faults
    )


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a_txt": "Dear Ann"}, "mails/a.txt:1: must begin with `Subject: …` and an empty line"),
        ({"a_txt": "Subject: x\nDear Ann"}, "mails/a.txt:1: must begin"),
        ({"a_txt": "Subject: x\n\n{% if %}"}, "mails/a.txt:3: Expected an expression"),
        ({"a_txt": "Subject: {{ }}\n\nx"}, "mails/a.txt:1: Expected an expression"),
        ({"a_txt": "Subject: x\n\n{{ a|shout }}"}, "mails/a.txt:3: No filter named 'shout'"),
        ({"a_txt": "Subject: x\n\n{% include '_b.txt' %}"}, "mails/a.txt: there is no mails/_b.txt"),
        ({"a_html": "<p>"}, "mails/a.html: there is no a.txt beside it"),
        ({"a_txt": "Subject: x\n\ny", "A_txt": "Subject: x\n\ny"}, "mails/A.txt: must be called"),
        ({"a__eng1_txt": "Subject: x\n\ny"}, "mails/a.eng1.txt: must be called"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_template_is_said_with_its_place(files: dict[str, str], said: str) -> None:
    assert said in fault(**files)


def test_files_that_are_too_large_or_no_text_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "mails"
    folder.mkdir()
    (folder / "a.txt").write_bytes(b"Subject: x\n\n" + b"x" * FILE_BYTES)
    (folder / "b.txt").write_bytes(b"Subject: \xff\n\nx")
    with pytest.raises(SchemaError, match=r"(?s)mails/a.txt: more than 256 KiB.*mails/b.txt: is not UTF-8"):
        Templates.of(tmp_path).sound()
    assert Templates.of(tmp_path / "none").sound().mails == ()


DATA = {"count": 2, "who": "Ann & <Ben>", "since": DUE, "things": [{"name": "things/1"}, {"name": "<things/2>"}]}


def test_a_template_is_filled_in_as_text_and_as_escaped_html() -> None:
    written = Templates.of(APP, app="Depot", url="https://depot.example/").sound().write("overdue", DATA)
    assert written.subject == "2 things of Ann & <Ben> are overdue"
    assert written.text == (
        "Dear Ann & <Ben>,\n\n- things/1, since 01 July 2026, 08:00\n- <things/2>, since 01 July 2026, 08:00\n\n"
        "https://depot.example/things\n"
    )
    assert "<h1>Depot</h1><p>Dear Ann &amp; &lt;Ben&gt;,</p>" in written.html
    assert "<li>&lt;things/2&gt;</li>" in written.html


@pytest.mark.parametrize("language", ["de", "de-CH"])
def test_the_language_that_comes_nearest_is_taken(language: str) -> None:
    templates = Templates.of(APP)
    assert templates.write("overdue", DATA, language).subject == "2 Dinge sind überfällig"
    assert templates.write("overdue", DATA, language).html == ""  # of that language there is none
    assert templates.write("overdue", DATA, "fr").subject.startswith("2 things")


def test_messages_are_read_and_neither_called_nor_turned_inside_out() -> None:
    def write(text: str) -> str:
        return Templates({"a.txt": f"Subject: x\n\n{text}"}).write("a", {"due": Timestamp(seconds=3, nanos=5)}).text

    assert write("{{ due.seconds }} {{ due | time('%H:%M:%S') }}") == "3 00:00:03\n"
    for harm in (
        "{{ due.Clear() }}",
        "{{ due.__class__ }}",
        "{{ due.FromJsonString('x') }}",
        "{{ ().__class__.__mro__ }}",
    ):
        with pytest.raises(TemplateFault, match=r"mails/a\.txt:3: "):
            write(harm)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{ nobody }}", r"mails/a\.txt:3: 'nobody' is undefined"),
        ("\n{{ who.name }}", r"mails/a\.txt:4: .*no attribute 'name'"),
        ("{{ 1 / 0 }}", r"mails/a\.txt:3: division by zero"),
        ("{{ who | time }}", "time: str is no moment"),
        ("{{ due | time(zone='Mars/Olympus') }}", "there is no time zone 'Mars/Olympus'"),
        ("{{ who * 2000000 }}", "more than 1048576 characters"),
        (
            "{% for i in range(99999) %}{% for i in range(99999) %}{{ who }}{% endfor %}{% endfor %}",
            "1048576 characters",
        ),
        ("{% for i in range(999999) %}{% endfor %}", "Range too big"),
    ],
)
def test_what_cannot_be_filled_in_says_where(text: str, said: str) -> None:
    templates = Templates({"a.txt": f"Subject: x\n\n{text}"}).sound()
    with pytest.raises(TemplateFault, match=said):
        templates.write("a", {"who": "Ann", "due": DUE})


def test_subjects_are_one_line_and_bounded() -> None:
    templates = Templates({"a.txt": "Subject: {{ title }}\n\nx"})
    assert templates.write("a", {"title": "two\r\nBcc: all@example.com"}).subject == "two Bcc: all@example.com"
    long = templates.write("a", {"title": "x" * 1000}).subject
    assert len(long) == SUBJECT_CHARS and long.endswith("…")
    with pytest.raises(TemplateFault, match="the subject is empty"):
        templates.write("a", {"title": " "})
    with pytest.raises(TemplateFault, match="there is no mail 'b'; there are: a"):
        templates.write("b", {})


def test_the_command_shows_and_fills_in_the_mails_of_an_app() -> None:
    from server.cli.mail import command

    run = CliRunner().invoke(
        command,
        ["render", "overdue", str(APP), "--language", "de", "--data", '{"count": 1, "things": [{"name": "x"}]}'],
    )
    assert run.exit_code == 0 and run.output == "Subject: 1 Dinge sind überfällig\n\n- x\n"
    run = CliRunner().invoke(command, ["render", "overdue", str(APP)])
    assert run.exit_code == 1 and "'count' is undefined" in run.output


def test_a_mail_that_cannot_be_read_is_refused_before_anything_is_served_and_a_change_is_noticed(
    tmp_path: Path,
) -> None:
    from deploy.native.sources import digest
    from server.cli.check import command

    app = tmp_path / "app"
    shutil.copytree(APP, app)
    before = digest(app)
    good = CliRunner().invoke(command, [str(app)])
    assert good.exit_code == 0 and "overdue" in good.output and "count since things who" in good.output
    (app / "mails" / "overdue.html").write_text("{% extends 'layout.html' %}")
    assert digest(app) != before
    bad = CliRunner().invoke(command, [str(app)])
    assert bad.exit_code == 1 and "mails/overdue.html: there is no mails/layout.html" in bad.output
