"""The contract: all that two programs, or two machines, must agree on."""

import os

# gRPC tells each connection that a far side ends ("Got goaway [2] err=…") on stderr, among what people read. It reads this when it is
# loaded, and only modules of this package load it first.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
