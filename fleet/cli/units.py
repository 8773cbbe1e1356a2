"""systemd units for the agent and the coordinator: as text, locked down to what they need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Service = Literal["device", "serve"]
# RestartSteps and RestartMaxDelaySec came with this version of systemd; an older one would log that it does not know them.
BACK_OFF_SINCE = 254

_DESCRIPTIONS: Mapping[Service, str] = {"device": "glmfleet agent", "serve": "glmfleet coordinator"}

# What needs no file system of its own, so that the manager of a user can give it too.
_LIMITS = """
# What it may do: compute, its own files, and the network. Netlink tells which addresses this machine has.
NoNewPrivileges=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM
UMask=0077
# What it may take. By itself the agent gives models at most 80 % of the memory.
MemoryMax=90%
TasksMax=1024
LimitNOFILE=65536
LimitCORE=0
"""
# The coordinator's user stays: an operator imports models as this user (PrivateUsers would give its state to nobody).
_USERS: Mapping[Service, str] = {"device": "DynamicUser=yes\nUser={name}\nPrivateUsers=yes", "serve": "User={name}\nGroup={name}"}
_CONFINEMENT = """
# Whom it runs as, and what it sees of the machine: a user of its own, nobody's files, and its state as the only place to write to.
{user}
StateDirectory={name}
StateDirectoryMode=0700
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
DevicePolicy=closed
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RemoveIPC=yes
KeyringMode=private
CapabilityBoundingSet=
AmbientCapabilities=
"""


@dataclass(frozen=True)
class Unit:
    """A service of this machine, or of one user. `python` runs it with `options`; `home` is its state folder."""

    service: Service
    python: str
    home: str
    options: tuple[str, ...] = ()
    for_user: bool = False
    systemd: int = BACK_OFF_SINCE  # version
    secrets: str = ""  # a file with variables that no other user may read; "": none

    @property
    def name(self) -> str:
        return f"glmfleet-{self.service}"

    @property
    def file_name(self) -> str:
        return f"{self.name}.service"

    def text(self) -> str:
        """The unit file.

        >>> text = Unit("device", "/opt/glmfleet/bin/python", "/var/lib/glmfleet-device", ("--memory", "2GiB")).text()
        >>> [line for line in text.splitlines() if line.startswith("ExecStart=")]
        ['ExecStart="/opt/glmfleet/bin/python" -P -m fleet.cli device run --memory 2GiB']
        """
        words = ["serve"] if self.service == "serve" else ["device", "run"]
        command = " ".join([quoted(self.python, always=True), "-P", "-m", "fleet.cli", *words, *map(quoted, self.options)])
        back_off = "RestartSteps=5\nRestartMaxDelaySec=60\n" if self.systemd >= BACK_OFF_SINCE else ""
        environment = "".join(
            f"Environment={quoted(f'{name}={value}', always=True).replace('$$', '$')}\n"  # nothing is put in for it there
            for name, value in self._environment()
        )
        secrets = f"EnvironmentFile=-{quoted(self.secrets)}\n" if self.secrets else ""
        confinement = "" if self.for_user else _CONFINEMENT.format(name=self.name, user=_USERS[self.service].format(name=self.name))
        # A user's manager has no network-online.target; both programs wait for addresses by themselves.
        network = "" if self.for_user else "Wants=network-online.target\nAfter=network-online.target\n"
        target = "default.target" if self.for_user else "multi-user.target"
        return (
            f"# Written by glmfleet service install; glmfleet service uninstall {self.service} removes it.\n"
            f"[Unit]\nDescription={_DESCRIPTIONS[self.service]}\n{network}StartLimitIntervalSec=0\n\n"
            f"[Service]\nType=exec\nExecStart={command}\n{environment}{secrets}"
            f"Restart=on-failure\nRestartSec=2\n{back_off}TimeoutStopSec=20\n{_LIMITS}{confinement}\n"
            f"[Install]\nWantedBy={target}\n"
        )

    def _environment(self) -> Sequence[tuple[str, str]]:
        return [("GLMFLEET_HOME", self.home), ("HOME", self.home)] if not self.for_user else [("GLMFLEET_HOME", self.home)]


def quoted(word: str, *, always: bool = False) -> str:
    """One word of a unit file, taken as it is.

    >>> quoted("plain"), quoted("100% $HOME"), quoted('say "x"')
    ('plain', '"100%% $$HOME"', '"say \\\\"x\\\\""')
    """
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$").replace("\n", "\\n")
    return f'"{escaped}"' if always or not word or escaped != word or not word.isascii() or any(mark in word for mark in " \t';#") else word
