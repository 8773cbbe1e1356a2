"""A PostgreSQL server of the tests' own, where the machine has its programs."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def missing() -> str:
    """What a server here would need; "" when all is there."""
    if importlib.util.find_spec("psycopg") is None:
        return "psycopg is not installed: pip install 'glmfleet[postgresql]'"
    if _programs() is None:
        return "no PostgreSQL server on this machine: apt-get install postgresql"
    if os.geteuid() == 0 and _account() is None:
        return "PostgreSQL does not run as root, and there is no account postgres"
    return ""


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The URL of an empty database, on loopback; all of it in `folder`, which is made."""
    programs, account = _programs(), _account() if os.geteuid() == 0 else None
    assert programs is not None
    folder.mkdir(mode=0o755)
    if account is not None:
        os.chown(folder, account.pw_uid, account.pw_gid)

    def run(program: str, *arguments: str) -> None:
        command = [str(programs / program), *arguments]
        log = subprocess.DEVNULL  # a pipe would stay open with the server
        subprocess.run(command, check=True, stdin=log, stdout=log, stderr=log, cwd=folder, user=account.pw_uid if account else None)

    data, port = folder / "data", _free_port()
    run("initdb", "-D", str(data), "-U", "fleet", "-A", "trust", "--no-sync", "--encoding", "UTF8", "--no-locale")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
    run("pg_ctl", "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options, "start")
    try:
        yield f"postgresql://fleet@127.0.0.1:{port}/postgres"
    finally:
        run("pg_ctl", "-D", str(data), "-w", "-m", "immediate", "stop")


def _programs() -> Path | None:
    """The folder of initdb and pg_ctl: Debian keeps them off the path."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "pg_ctl").exists()), None)


def _account() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        assert isinstance(port, int)
        return port
