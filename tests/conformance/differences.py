"""What Google's APIs do that Transom, by the AIPs, does not; each with the AIP or the reason."""

from __future__ import annotations

import re

from tests.conformance.lives import Step

EXPLAINED: tuple[tuple[str, str], ...] = (
    (
        r"^google\.cloud\.kms\.v1 PublicKey: get: ValueError",
        "over REST Google's client sends the name of the version, which is not that of what it answers (AIP-131)",
    ),
    (
        r": ValueError: Invalid request\. .*HTTP binding",
        "Google's REST binding has no path for names of this pattern; over gRPC they are served (AIP-127)",
    ),
    (
        r"^google\.devtools\.artifactregistry\.v1 Tag: create: .*Package",
        "packages come by uploads, which are custom methods: nothing else creates what a tag lives below (AIP-136)",
    ),
    (
        r"^google\.cloud\.dialogflow\.cx\.v3 GenerativeSettings: get: .*language_code",
        "the request needs a language_code, to which no AIP gives a meaning: what is not understood is refused (AIP-131)",
    ),
)
"""A pattern of `api resource: verb: fault`, and why it is so."""


def explained(step: Step) -> str:
    """Why the step went otherwise than with Google; empty where nothing explains it."""
    text = f"{step.api} {step.resource}: {step.verb}: {step.fault}"
    return next((why for pattern, why in EXPLAINED if re.search(pattern, text)), "")
