from __future__ import annotations

import subprocess
import sys

from protos.errors import InvalidInput


def test_another_hop_keeps_all_else() -> None:
    error = InvalidInput("too long", advice="shorten it", retry_after_seconds=1.0).at("dev-1")
    assert (type(error), error.detail, error.advice, error.retry_after_seconds) == (InvalidInput, "dev-1: too long", "shorten it", 1.0)
    assert str(error) == error.detail


def test_they_are_there_without_grpc() -> None:
    """`glmfleet --help` needs them, and loading gRPC is a fifth of its time."""
    code = "import sys, protos.errors, fleet.cli.main; sys.exit('grpc' in sys.modules or 'google.protobuf' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
