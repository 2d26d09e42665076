"""`transom explain`: why somebody may do something with a resource, or not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from ._chosen import port_option, settings_of

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    from server.app import Parts
    from server.engine.explanations import ActionFound, Explanation, RuleFound
    from server.query.rules.explaining import Part

ACTIONS = ("get", "list", "create", "update", "delete", "watch")
NOBODY = "nobody"
MOST = 1000
"""Accounts looked at for an address."""
WIDE = 10_000
"""Characters of a line that nobody looks at in a terminal."""


@click.command()
@click.argument("caller", metavar="CALLER")
@click.argument("action", type=click.Choice(ACTIONS), metavar="ACTION")
@click.argument("name", metavar="NAME")
@click.option("--age", type=click.FloatRange(0), default=0.0, help="Seconds since the session proved who it is.")
@click.option("--sql", "condition", is_flag=True, help="Show the condition that the database judges pages by, too.")
@port_option
def command(caller: str, action: str, name: str, age: float, condition: bool, port: int | None) -> None:
    """Explain why CALLER may do ACTION with the resource NAME, or not.

    CALLER is an e-mail address, users/..., keys/... or nobody; ACTION is get, list, create, update, delete or watch.

    \b
    transom explain ines@example.com update sites/pier/inspections/spring
    transom explain nobody get sites/pier

    Shows the rule with the value of each of its parts, those that decide marked; what would become of the other actions;
    and which fields are hidden. It is the engine itself that is asked. An update is judged as one that changes nothing,
    a creation as one of what is stored. Rules of methods are not part of it.

    Noted in the audit log. Works on the stack with edge port --port, or on what TRANSOM_POSTGRES and the other settings
    name.
    """
    found = _found(port, caller, action, name, age)
    _show(found, condition)


def _found(port: int | None, caller: str, action: str, name: str, age: float) -> Explanation:
    from server.app import opened
    from server.caller import OPERATOR
    from server.errors import Refusal
    from server.schema.compilation import SchemaError
    from server.services.current import CURRENT, Current

    async def main() -> Explanation:
        call = Current("transom explain")
        call.caller = OPERATOR  # so says the audit log
        CURRENT.set(call)
        async with opened(settings_of(port), replica_reads=False) as parts:
            return await parts.explanations.explain(OPERATOR, await _named(parts, caller), action, name, age)

    try:
        return asyncio.run(main())
    except Refusal as refusal:
        raise click.ClickException(refusal.message) from refusal
    except (SchemaError, OSError) as fault:
        raise click.ClickException(str(fault)) from fault


async def _named(parts: Parts, caller: str) -> str:
    """The resource name of the caller; empty for nobody."""
    from server.caller import OPERATOR
    from server.engine.text import email_key
    from server.errors import NotFound

    if caller == NOBODY:
        return ""
    if "@" not in caller:
        return caller
    key = email_key(caller)
    users, _ = await parts.admins.list(OPERATOR, MOST, "", email=key or caller)
    for one in users:
        if key is not None and email_key(one.email) == key:
            return one.name
    raise NotFound("There is no account with this address.")


def _show(found: Explanation, condition: bool) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDE
    asked, caller = found.asked, found.caller
    about = [caller.kind.value, *sorted(caller.roles), *(["verified"] if caller.verified else [])]
    about += ["disabled: cannot call at all"] if found.disabled else []
    may = Text("may", "bold green") if asked.refusal is None else Text("may not", "bold red")
    who = f"{_plain(caller.name)} ({', '.join(about)}) " if caller.known else "nobody "
    there = "" if found.row is not None else ", which does not exist"
    console.print(Text(who) + may + Text(f" {asked.action} {_plain(found.name)}{there}"))
    console.print(Text(f"  {_why(asked)}"))
    if asked.rule is not None:
        _show_rule(console, asked.rule, condition)
    console.print()
    for one in found.others:
        console.print(Text(f"  {one.action:8}") + _mark(one.refusal is None) + Text(f"  {_why(one)}"))
    for field in found.fields:
        for what, rule in (("seen", field.read), ("written", field.write)):
            if rule is not None:
                told = f"  field {_plain(field.field)}: {what if rule.holds else f'not {what}'}  {_plain(rule.where)}"
                console.print(Text(told, "" if rule.holds else "yellow"))


def _show_rule(console: Console, rule: RuleFound, condition: bool) -> None:
    from rich.text import Text
    from rich.tree import Tree

    console.print()
    if rule.part is not None:
        tree = Tree(_line(rule.part), guide_style="dim")
        _grow(tree, rule.part)
        console.print(tree)
    if condition and rule.condition:
        console.print()
        console.print(Text(_plain(rule.condition), "dim"))


def _grow(tree: Tree, part: Part) -> None:
    for below in part.parts:
        _grow(tree.add(_line(below)), below)


def _line(part: Part) -> Text:
    from rich.text import Text

    style = {"true": "green", "false": "red"}.get(part.value, "magenta" if part.value.startswith("error") else "cyan")
    mark = "● " if part.decides else "  "
    return Text(f"{mark}{_plain(part.source)}", "bold" if part.decides else "") + Text(
        f"  {_plain(part.value)}", f"not bold {style}"
    )


def _mark(allowed: bool) -> Text:
    from rich.text import Text

    return Text("yes", "green") if allowed else Text("no ", "red")


def _why(found: ActionFound) -> str:
    told = f"{found.refusal.code.name} ({found.refusal.reason}): " if found.refusal is not None else ""
    if found.rule is None:
        return f"{told}{_SAID[found.why.value]}"
    if found.field:
        return f"{told}the rule holds, but not that of the field {_plain(found.field)}"
    if found.rule.holds and found.refusal is not None:
        return f"{told}the rule holds, but the caller may not even get it"
    return f"{told}{_plain(found.rule.where)}"


_SAID = {
    "trusted": "no rule binds this caller",
    "scope missing": "no rule binds this caller, but its scopes do",
    "no rule": "no rule speaks of it",
    "rule": "",
}


def _plain(text: str) -> str:
    # Values of strangers are among them: nothing of it is for the terminal to obey.
    return "".join(c if c.isprintable() else " " for c in text)
