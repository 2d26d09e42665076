"""An explanation as a message."""

from __future__ import annotations

from transom.admin.v1 import admin_pb2 as pb

from server.engine.explanations import ActionFound, Explanation, FieldFound, RuleFound, Why
from server.query.rules.explaining import Part

_WHY = {
    Why.TRUSTED: pb.ActionAccess.TRUSTED,
    Why.SCOPE_MISSING: pb.ActionAccess.SCOPE_MISSING,
    Why.NO_RULE: pb.ActionAccess.NO_RULE,
    Why.RULE: pb.ActionAccess.RULE,
}


def explanation_message(found: Explanation) -> pb.ExplainAccessResponse:
    """The reply of ExplainAccess."""
    caller = found.caller
    return pb.ExplainAccessResponse(
        caller=pb.ExplainedCaller(
            name=caller.name,
            kind=caller.kind.value,
            roles=sorted(caller.roles),
            verified=caller.verified,
            trusted=caller.trusted,
            scopes=None if caller.scopes is None else pb.Scopes(allowed=sorted(caller.scopes)),
            disabled=found.disabled,
        ),
        resource_type=found.resource.type,
        exists=found.row is not None,
        owner=found.row.owner if found.row is not None else "",
        asked=_action(found.asked),
        others=map(_action, found.others),
        fields=map(_field, found.fields),
    )


def _action(found: ActionFound) -> pb.ActionAccess:
    refusal = found.refusal
    return pb.ActionAccess(
        action=found.action,
        allowed=refusal is None,
        why=_WHY[found.why],
        code=refusal.code.name if refusal is not None else "",
        reason=refusal.reason if refusal is not None else "",
        rule=_rule(found.rule),
        field=found.field,
    )


def _field(found: FieldFound) -> pb.FieldAccess:
    return pb.FieldAccess(field=found.field, read=_rule(found.read), write=_rule(found.write))


def _rule(found: RuleFound | None) -> pb.RuleExplanation | None:
    if found is None:
        return None
    part = None if found.part is None else _part(found.part)
    return pb.RuleExplanation(
        where=found.where, text=found.text, holds=found.holds, part=part, condition=found.condition
    )


def _part(part: Part) -> pb.RulePart:
    return pb.RulePart(source=part.source, value=part.value, decides=part.decides, parts=map(_part, part.parts))
