"""Devices, and how they were looked for."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, Depends

from fleet.api.caller import FleetOfCaller
from fleet.devices.diagnosis import FleetDiagnosis
from fleet.devices.views import DeviceView, DiscoveryReport
from fleet.enrolling.views import DepartureView
from fleet.service.protocol import FleetService
from protos.errors import Conflict, NotFound


def routes(of_caller: FleetOfCaller) -> APIRouter:
    router = APIRouter(tags=["devices"])

    @router.get("/devices")
    async def list_devices(fleet: FleetService = Depends(of_caller)) -> list[DeviceView]:
        """Every device known, whatever its state."""
        return fleet.devices()

    @router.get("/devices/{key}")
    async def show_device(key: str, fleet: FleetService = Depends(of_caller)) -> DeviceView:
        """One device by its id or its name."""
        return find_device(fleet.devices(), key)

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
        return find_device(fleet.devices(), await fleet.drain(key))

    @router.post("/devices/{key}/undrain")
    async def undrain(key: str, fleet: FleetService = Depends(of_caller)) -> DeviceView:
        """It is used as before."""
        return find_device(fleet.devices(), await fleet.undrain(key))

    @router.get("/discovery")
    async def discovery(fleet: FleetService = Depends(of_caller)) -> DiscoveryReport:
        """Where devices were looked for and what went wrong."""
        return fleet.discovery()

    @router.get("/diagnosis")
    async def diagnosis(fleet: FleetService = Depends(of_caller)) -> FleetDiagnosis:
        """A closer look at every device: why it does not answer, its clock, certificate and memory, multicast. Takes seconds."""
        return await fleet.diagnosis()

    return router


def find_device(devices: Sequence[DeviceView], key: str) -> DeviceView:
    """By id, else by name. Raises NotFound, and Conflict when several share the name."""
    for device in devices:
        if device.device_id == key:
            return device
    named = [device for device in devices if device.name == key]
    if len(named) > 1:
        raise Conflict(f"{len(named)} devices are named {key}", advice=f"use an id: {', '.join(device.device_id for device in named)}")
    if not named:
        known = ", ".join(sorted(device.name for device in devices)[:20]) or "none"
        raise NotFound(f"no device {key}", advice=f"devices here: {known}")
    return named[0]
