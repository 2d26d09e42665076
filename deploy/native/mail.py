"""The mail catcher as a program of the stack."""

from __future__ import annotations

import sys

from .place import Place
from .ports import Ports, listening
from .program import Program


class Mail:
    """Where mails go instead of into the world."""

    def __init__(self, place: Place, ports: Ports) -> None:
        self.smtp = f"127.0.0.1:{ports['smtp']}"
        self.url = f"http://127.0.0.1:{ports['mailbox']}"
        self.ports = ports
        self.place, self.folder = place, place.data("mails")

    def programs(self) -> list[Program]:
        ports = [str(self.ports["smtp"]), str(self.ports["mailbox"])]
        return [
            Program(
                name="mail",
                command=[sys.executable, "-m", "deploy.native.mailbox", str(self.folder), *ports],
                env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
                address=self.url,
                prepare=lambda: self.place.make_data("mails"),
                ready=lambda: listening(self.ports["smtp"]),
                outlives=True,
                grace=3,
            )
        ]
