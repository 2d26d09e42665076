"""What an app's own code imports: `methods.py` implements custom RPCs, `tasks.py` acts on events.

    from server.apps import Call, method
    from server.apps import Discard, Event, Work, on
    from server.apps import Cancel, Order, Retry, Snooze, task
    from server.apps import Rejected, Upload, on_upload

The folder of the app is imported as one package, so its files reach each other by `from .report import render`.
"""

from server.apps.declarations import method, on
from server.apps.named import Backoff, Order, task
from server.apps.outcomes import Cancel, Discard, Retry, Snooze
from server.apps.schedules import every
from server.apps.uploads import Rejected, Upload, on_upload
from server.apps.work import Call, Event, Work
from server.engine.schedules import Tick

__all__ = [
    "Backoff",
    "Call",
    "Cancel",
    "Discard",
    "Event",
    "Order",
    "Rejected",
    "Retry",
    "Snooze",
    "Tick",
    "Upload",
    "Work",
    "every",
    "method",
    "on",
    "on_upload",
    "task",
]
