"""transom.schedules.v1: requests → engine → replies."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from transom.schedules.v1 import schedules_pb2 as pb
from transom.schedules.v1 import schedules_pb2_grpc

from server.engine.schedules import COLLECTION, Schedule, Schedules
from server.services.current import caller


class SchedulesService(schedules_pb2_grpc.SchedulesServiceServicer):
    """What is due, and when; paused, resumed, run."""

    def __init__(self, schedules: Schedules) -> None:
        self._schedules = schedules

    async def ListSchedules(self, request: pb.ListSchedulesRequest, context: Any) -> pb.ListSchedulesResponse:
        schedules, following = await self._schedules.list(caller(), request.page_size, request.page_token)
        return pb.ListSchedulesResponse(schedules=map(_schedule, schedules), next_page_token=following)

    async def GetSchedule(self, request: pb.GetScheduleRequest, context: Any) -> pb.Schedule:
        return _schedule(await self._schedules.get(caller(), request.name))

    async def PauseSchedule(self, request: pb.PauseScheduleRequest, context: Any) -> pb.Schedule:
        return _schedule(await self._schedules.pause(caller(), request.name))

    async def ResumeSchedule(self, request: pb.ResumeScheduleRequest, context: Any) -> pb.Schedule:
        return _schedule(await self._schedules.resume(caller(), request.name))

    async def RunSchedule(self, request: pb.RunScheduleRequest, context: Any) -> pb.RunScheduleResponse:
        run = await self._schedules.run(caller(), request.name)
        return pb.RunScheduleResponse(run=run.tick, task=run.task)


def _schedule(schedule: Schedule) -> pb.Schedule:
    stored, spec = schedule.stored, schedule.spec
    message = pb.Schedule(
        name=f"{COLLECTION}/{stored.name}",
        description=stored.description,
        catch_up=pb.Schedule.CatchUp.Value(spec.catch_up.name),
        state=pb.Schedule.RETIRED if stored.retired else pb.Schedule.PAUSED if stored.paused else pb.Schedule.ACTIVE,
        next_times=map(_time, schedule.next_times),
        last_tick_time=_time(stored.last_tick) if stored.last_tick else None,
        last_run=stored.last_run,
        last_task=stored.last_task,
        missed_ticks=stored.missed,
        overlap=spec.overlap,
        create_time=_time(stored.create_time),
    )
    if spec.cadence.interval is None:
        message.cron, message.time_zone = spec.cadence.cron, spec.cadence.time_zone
    else:
        message.interval.FromTimedelta(spec.cadence.interval)
    return message


def _time(time: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp
