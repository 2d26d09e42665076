"""transom.accounts.v1, deletion and export: requests → engine → replies."""

from __future__ import annotations

from typing import Any

from google.protobuf.empty_pb2 import Empty
from transom.accounts.v1 import account_data_pb2 as pb
from transom.accounts.v1 import account_data_pb2_grpc

from server.engine.account_data import AccountData, Export
from server.services.cookies import clear_cookie
from server.services.current import caller, current
from server.services.sign_in_answers import time_message


class AccountDataService(account_data_pb2_grpc.AccountDataServiceServicer):
    """Delete accounts, think better of it, and copy what belongs to them."""

    def __init__(self, data: AccountData) -> None:
        self._data = data

    async def DeleteAccount(self, request: pb.DeleteAccountRequest, context: Any) -> pb.DeleteAccountResponse:
        farewell = await self._data.delete(caller(), request.name, request.password, current().address)
        if request.name in ("", caller().name):
            await clear_cookie(context)
        return pb.DeleteAccountResponse(delete_time=time_message(farewell.delete_time), word=farewell.word)

    async def CancelAccountDeletion(self, request: pb.CancelAccountDeletionRequest, context: Any) -> Empty:
        await self._data.spare(request.word)
        return Empty()

    async def RestoreAccount(self, request: pb.RestoreAccountRequest, context: Any) -> Empty:
        await self._data.restore(caller(), request.name)
        return Empty()

    async def ExportAccount(self, request: pb.ExportAccountRequest, context: Any) -> pb.Export:
        return _export(await self._data.export(caller(), request.name))

    async def GetExport(self, request: pb.GetExportRequest, context: Any) -> pb.Export:
        return _export(await self._data.get_export(caller(), request.name))

    async def ListExports(self, request: pb.ListExportsRequest, context: Any) -> pb.ListExportsResponse:
        return pb.ListExportsResponse(exports=map(_export, await self._data.list_exports(caller(), request.user)))


def _export(export: Export) -> pb.Export:
    return pb.Export(
        name=export.name,
        user=export.user,
        state=export.state,
        file=export.file,
        create_time=time_message(export.create_time),
        complete_time=time_message(export.complete_time) if export.complete_time else None,
        expire_time=time_message(export.expire_time) if export.expire_time else None,
    )
