"""What an app's own code imports: `methods.py` implements custom RPCs, `tasks.py` acts on events.

    from server.apps import Call, method
    from server.apps import Discard, Event, Work, on
    from server.apps import Rejected, Upload, on_upload

The folder of the app is imported as one package, so its files reach each other by `from .report import render`.
"""

from server.apps.declarations import method, on
from server.apps.outcomes import Discard
from server.apps.schedules import every
from server.apps.uploads import Rejected, Upload, on_upload
from server.apps.work import Call, Event, Work
from server.engine.schedules import Tick

__all__ = ["Call", "Discard", "Event", "Rejected", "Tick", "Upload", "Work", "every", "method", "on", "on_upload"]
