"""What a device says of itself so that others can find out what is wrong: its clock, its certificate, its machine's memory, its ears."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import psutil
from cryptography import x509

from device.agent.hearing import Hearing
from device.hardware import Hardware
from protos.net.credentials import Credentials
from protos.v1 import device_pb2 as pb


@dataclass
class SelfKnowledge:
    """`now` in unix seconds; `coordinator_at`: when a coordinator was heard last, 0 when never."""

    credentials: Credentials | None
    hardware: Hardware
    now: Callable[[], float]
    hearing: Hearing | None
    coordinator_at: float = 0.0

    def called(self) -> None:
        """A coordinator is here."""
        self.coordinator_at = self.now()

    @property
    def certificate_not_after(self) -> float:
        """In unix seconds; 0 without a certificate."""
        if self.credentials is None:
            return 0.0
        return x509.load_pem_x509_certificate(self.credentials.certificate).not_valid_after_utc.timestamp()

    @property
    def memory_available_bytes(self) -> int | None:
        """None of a simulated board: its memory is not this machine's."""
        return None if self.hardware.info.simulated else int(psutil.virtual_memory().available)

    @property
    def heard(self) -> pb.Hearing | None:
        return self.hearing.message() if self.hearing is not None else None
