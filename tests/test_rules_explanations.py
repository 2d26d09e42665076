"""Why somebody may do something: asked over the edge and on the command line, of the app that is served by default."""

from __future__ import annotations

import secrets
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from people_ground import Client, People, Refused
from test_admin import admin, key

from deploy.native.stack import Stack
from server.cli.__main__ import main as transom


@pytest.fixture(scope="module")
def people(stack: Stack) -> People:
    return People(stack)


class Site:
    """A site of its own, with a manager, an inspector and an inspection by her."""

    def __init__(self, people: People) -> None:
        self._root = key(people, "service")
        self.name = f"sites/s{secrets.token_hex(5)}"
        self.manager, self.inspector, self.stranger = (people.person(verified=True) for _ in range(3))
        self.make(f"sites?siteId={self.name[6:]}", {"displayName": "Pier 4", "timeZone": "UTC"})
        for who, role in ((self.manager, "MANAGER"), (self.inspector, "INSPECTOR")):
            self.make(f"{self.name}/members?memberId={who.id}", {"user": who.user, "role": role})
        made = self.make(
            f"{self.name}/inspections?inspectionId=spring", {"title": "Spring", "inspector": self.inspector.user}
        )
        self.inspection = made["name"]

    def make(self, path: str, body: Any) -> Any:
        answer = httpx.post(
            f"{self._root.stack.edge}/v1/{path}",
            json=body,
            headers={"authorization": f"Bearer {self._root.token}"},
            trust_env=False,
        )
        assert answer.is_success, answer.text
        return answer.json()


@pytest.fixture(scope="module")
def site(people: People) -> Site:
    return Site(people)


def explained(by: Client, caller: str, action: str, name: str, **more: Any) -> Any:
    return by.post("access:explain", caller=caller, action=action, resourceName=name, **more)


def deciding(part: Any) -> list[str]:
    """The innermost parts that decide, with their values."""
    below = [one for p in part.get("parts", ()) if p.get("decides") for one in deciding(p)]
    return below or [f"{part['source']} is {part['value']}"]


def test_a_rule_is_explained_with_what_decides(people: People, site: Site) -> None:
    root = admin(people)
    found = explained(root, site.inspector.user, "update", site.inspection)
    assert (found["resourceType"], found["exists"]) == ("inspect.transom.dev/Inspection", True)
    assert found["caller"]["kind"] == "user" and found["caller"]["verified"] and not found["caller"]["trusted"]
    asked = found["asked"]
    assert asked["allowed"] and asked["why"] == "RULE" and asked["code"] == ""
    assert (
        asked["rule"]["where"]
        == "inspect/v1/inspection.proto: inspect.v1.Inspection: (transom.schema.v1.resource).update"
    )
    member = 'get("sites/" + path.site + "/members/" + caller.id).role'
    assert deciding(asked["rule"]["part"]) == [
        f"{member} == Member.Role.INSPECTOR is true",
        "resource.inspector == caller.name is true",
        "resource.state in [Inspection.State.DRAFT, Inspection.State.REJECTED] is true",
    ]
    assert {one["action"]: one["allowed"] for one in found["others"]} == {
        "get": True, "list": True, "create": True, "delete": True, "watch": True,
    }  # fmt: skip
    assert all("part" not in one.get("rule", {}) for one in found["others"])
    notes = next(field for field in found["fields"] if field.get("read"))
    assert not notes["read"]["holds"] and notes["read"]["text"] == "manager"


@pytest.mark.parametrize("who", ["manager", "inspector", "stranger", "nobody"])
@pytest.mark.parametrize("action", ["get", "update", "delete"])
def test_what_is_explained_is_what_happens(who: str, action: str, people: People, site: Site) -> None:
    caller = people.nobody if who == "nobody" else getattr(site, who)
    asked = explained(admin(people), caller.user, action, site.inspection)["asked"]
    headers = {"authorization": f"Bearer {caller.token}"} if caller.token else {}
    url = f"{people.stack.edge}/v1/{site.inspection}"
    if action == "get":
        answer = httpx.get(url, headers=headers, trust_env=False)
    elif action == "update":
        answer = httpx.patch(f"{url}?updateMask=title", json={"title": "Spring"}, headers=headers, trust_env=False)
    else:  # with a wrong etag, which is looked at after the rules are
        answer = httpx.delete(f"{url}?etag=%22no%22", headers=headers, trust_env=False)
    said = answer.json()["error"] if not answer.is_success else {"status": "", "details": []}
    if said["status"] == "ABORTED":
        said = {"status": "", "details": []}
    assert (asked["allowed"], asked["code"]) == (said["status"] == "", said["status"])
    reasons = [detail["reason"] for detail in said["details"] if "reason" in detail]
    assert [asked["reason"]] == (reasons or [""])


def test_who_is_not_bound_by_rules_is_said_so(people: People, site: Site) -> None:
    root = admin(people)
    for who, why, allowed, code in [
        (key(people, "service"), "TRUSTED", True, ""),
        (key(people, "service", ["inspect.v1.Inspection:get"]), "TRUSTED", True, ""),
        (key(people, "service", ["inspect.v1.Inspection:list"]), "SCOPE_MISSING", False, "PERMISSION_DENIED"),
        (admin(people), "TRUSTED", True, ""),
    ]:
        found = explained(root, who.user, "get", site.inspection)
        asked = found["asked"]
        assert (asked["why"], asked["allowed"], asked["code"]) == (why, allowed, code)
        assert found["caller"]["trusted"] and not found["fields"] and "rule" not in asked


def test_what_does_not_exist_is_explained_as_such(people: People, site: Site) -> None:
    found = explained(admin(people), site.manager.user, "get", f"{site.name}/inspections/none")
    assert not found["exists"] and found["owner"] == ""
    assert found["asked"]["code"] == "NOT_FOUND" and found["asked"]["rule"]["holds"], "she could get it, were it there"


@pytest.mark.parametrize(
    ("caller", "action", "name", "refused"),
    [
        ("users/nobody-there", "get", "sites/a", Refused("NOT_FOUND", "NOT_FOUND")),
        ("keys/nobody-there", "get", "sites/a", Refused("NOT_FOUND", "NOT_FOUND")),
        ("people/ann", "get", "sites/a", Refused("INVALID_ARGUMENT", "INVALID_REQUEST", ("caller",))),
        ("", "look", "sites/a", Refused("INVALID_ARGUMENT", "INVALID_REQUEST", ("action",))),
        ("", "get", "nothing/like/that", Refused("INVALID_ARGUMENT", "INVALID_REQUEST", ("resource_name",))),
        ("", "get", "sites/" + "a" * 2000, Refused("INVALID_ARGUMENT", "INVALID_REQUEST", ("resource_name",))),
    ],
)  # fmt: skip
def test_what_cannot_be_explained_is_refused(
    caller: str, action: str, name: str, refused: Refused, people: People
) -> None:
    assert explained(admin(people), caller, action, name) == refused


def test_a_session_may_be_supposed_to_be_old(people: People, site: Site) -> None:
    root = admin(people)
    assert explained(root, site.manager.user, "get", site.name, sessionAge="3600s")["asked"]["allowed"]
    assert explained(root, site.manager.user, "get", site.name, sessionAge="-1s").fields == ("session_age",)


def test_values_beyond_the_scopes_of_who_asks_are_left_out(people: People, site: Site) -> None:
    whole = explained(admin(people), site.inspector.user, "update", site.inspection)
    limited = explained(admin(people, "transom.admin.v1.Rule:explain"), site.inspector.user, "update", site.inspection)
    assert site.inspector.user in str(whole["asked"]["rule"]["part"])
    assert site.inspector.user not in str(limited["asked"]["rule"]["part"]) and limited["owner"] == ""
    assert limited["asked"]["allowed"] and deciding(limited["asked"]["rule"]["part"]) == deciding(
        whole["asked"]["rule"]["part"]
    )


def test_a_field_that_refuses_is_named(people: People, site: Site) -> None:
    noted = site.make(
        f"{site.name}/inspections?inspectionId=i{secrets.token_hex(4)}",
        {"title": "Noted", "inspector": site.inspector.user, "internalNote": "mind the dog"},
    )
    found = explained(admin(people), site.inspector.user, "create", noted["name"])["asked"]
    assert (found["allowed"], found["code"], found["field"]) == (False, "PERMISSION_DENIED", "internal_note")
    assert found["rule"]["holds"]


def test_it_is_noted_who_asked(people: People, site: Site) -> None:
    root = admin(people)
    explained(root, site.stranger.user, "watch", site.name)
    rows = people.sql(
        "select target, details from transom.audit where actor = %s and action = 'access_explained'", root.user
    )
    assert rows == [(site.stranger.user, {"action": "watch", "resource": site.name})]


# ------------------------------------------------------------------------------------------------- the command


def told(stack: Stack, *words: str) -> Result:
    return CliRunner().invoke(transom, ["explain", *words], env=stack.env | {"COLUMNS": "200"})


def test_the_command_shows_the_rule_as_a_tree(people: People, site: Site) -> None:
    found = told(people.stack, site.inspector.email, "delete", site.inspection, "--sql")
    assert found.exit_code == 0, found.output
    lines = found.output.splitlines()
    assert lines[0] == f"{site.inspector.user} (user, verified) may delete {site.inspection}"
    assert lines[1] == "  inspect/v1/inspection.proto: inspect.v1.Inspection: (transom.schema.v1.resource).delete"
    assert any(line.endswith("● resource.state == Inspection.State.DRAFT  true") for line in lines)
    assert any(line.endswith("resource.state  DRAFT") for line in lines)
    assert any(line.startswith("  get     yes  inspect/v1/inspection.proto") for line in lines)
    assert any("not seen" in line and "(transom.schema.v1.field).read" in line for line in lines)


def test_the_command_says_who_may_not(people: People, site: Site) -> None:
    found = told(people.stack, "nobody", "get", site.inspection, "--sql")
    assert found.exit_code == 0, found.output
    assert found.output.startswith(f"nobody may not get {site.inspection}\n  NOT_FOUND (NOT_FOUND): inspect/v1/")
    assert "exists (select 1 from" in found.output
    assert (
        told(people.stack, "nobody@example.com", "get", site.inspection).output
        == "Error: There is no account with this address.\n"
    )
    wrong = told(people.stack, "nobody", "get", "what/is/this")
    assert wrong.exit_code == 1 and "is no name of a resource of this schema" in wrong.output
