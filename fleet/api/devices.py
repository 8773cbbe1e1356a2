"""Devices, and how they were looked for."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from fleet.api.caller import FleetOfCaller
from fleet.devices.diagnosis import FleetDiagnosis
from fleet.devices.views import DeviceView, DiscoveryReport, LogView
from fleet.enrolling.views import DepartureView
from fleet.service.protocol import FleetService
from protos.recent_log import MOST_LINES


def routes(of_caller: FleetOfCaller) -> APIRouter:
    router = APIRouter(tags=["devices"])

    @router.get("/devices")
    async def list_devices(fleet: FleetService = Depends(of_caller)) -> list[DeviceView]:
        """Every device known, whatever its state; without its history."""
        return fleet.devices()

    @router.get("/devices/{key}")
    async def show_device(key: str, fleet: FleetService = Depends(of_caller)) -> DeviceView:
        """One device by its id or its name, with the last changes of its state, and why."""
        return fleet.device(key)

    @router.delete("/devices/{key}")
    async def decommission(key: str, force: bool = False, fleet: FleetService = Depends(of_caller)) -> DepartureView:
        """Has the device remove its models and its key, and takes it out of the fleet. `force`: also while a deployment uses it."""
        return await fleet.decommission(key, force=force)

    @router.post("/devices/{key}/revoke")
    async def revoke(key: str, fleet: FleetService = Depends(of_caller)) -> DepartureView:
        """Takes it out of the fleet without asking it: its key opens nothing any more, wherever it is."""
        return await fleet.expel(key)

    @router.post("/devices/{key}/drain")
    async def drain(key: str, fleet: FleetService = Depends(of_caller)) -> DeviceView:
        """It is to be switched off: nothing new goes there, and what is there moves away. `drain` says when it may be."""
        return fleet.device(await fleet.drain(key))

    @router.post("/devices/{key}/undrain")
    async def undrain(key: str, fleet: FleetService = Depends(of_caller)) -> DeviceView:
        """It is used as before."""
        return fleet.device(await fleet.undrain(key))

    @router.get("/discovery")
    async def discovery(fleet: FleetService = Depends(of_caller)) -> DiscoveryReport:
        """Where devices were looked for and what went wrong."""
        return fleet.discovery()

    @router.get("/logs")
    async def logs(
        device: str = "",
        after: Annotated[int, Query(ge=0, le=1 << 62)] = 0,
        most: Annotated[int, Query(ge=1, le=MOST_LINES)] = 100,
        fleet: FleetService = Depends(of_caller),
    ) -> LogView:
        """The last lines of a device's log (its name or id), or of the coordinator's: `most` of those with a number above `after`."""
        return await fleet.logs(device, after, most)

    @router.get("/diagnosis")
    async def diagnosis(fleet: FleetService = Depends(of_caller)) -> FleetDiagnosis:
        """A closer look at every device: why it does not answer, its clock, certificate and memory, multicast. Takes seconds."""
        return await fleet.diagnosis()

    return router
