"""What a pickle of tensors says, told by a machine that knows the two dozen opcodes which those take, and runs nothing.

`pickle` calls whatever a file names. Here the names are those of torch's own records, and stand for plain data.
"""

from __future__ import annotations

import pickletools  # nosec B403 # it reads pickles and runs none
from collections.abc import Callable, Mapping
from typing import IO, BinaryIO, TypeAlias, cast

from protos.errors import InvalidInput
from quantize.checkpoints.torch_records import ORDERED_DICT, REBUILD_TENSOR, Name, Storage, StoredTensor, is_allowed, rebuilt, storage

# A tensor takes about 30 opcodes and 300 bytes: room for 10,000 tensors, and an end to what a hostile file costs (1 s, 50 MB).
MOST_OPCODES = 300_000
MOST_BYTES = 16 << 20
ADVICE = "only plain files of tensors are read; save the model as safetensors where it came from"


class _Mark:
    """Where MARK was met."""


Value: TypeAlias = (
    "bool | int | float | str | Name | Storage | StoredTensor | _Mark | tuple[Value, ...] | list[Value] | dict[str, Value] | None"
)


def read_pickle(file: BinaryIO, source: str) -> Value:
    """The next pickle of `file`, which then stands right behind it. `source` names it in errors.

    Raises InvalidInput for anything but plain values, ordered dicts and tensors; in bounded time and memory whatever the file holds.
    """
    machine, reads, start = _Machine(), _ShortReads(file), file.tell()
    try:
        for _ in range(MOST_OPCODES):
            code = reads.read(1)
            opcode = pickletools.code2op.get(code.decode("latin-1"))  # type: ignore[attr-defined]
            if opcode is None:
                raise ValueError(f"has the unknown opcode {code!r}" if code else "has no end")
            if opcode.name == "STOP":
                return machine.result()
            if opcode.name not in _RUN and opcode.name not in _PUSHES:
                raise ValueError(f"has the opcode {opcode.name}, which no tensor needs")
            machine.run(opcode.name, opcode.arg.reader(cast("IO[bytes]", reads)) if opcode.arg else None)
            if file.tell() - start > MOST_BYTES:
                break
        raise ValueError("is too long")
    except (ValueError, OverflowError) as error:
        raise InvalidInput(f"{source} holds a pickle that we do not read: it {_line(error)}", advice=ADVICE) from error


def state_dict(value: Value, source: str) -> dict[str, StoredTensor]:
    """Tensors by name. Raises InvalidInput when `value` is not a dict of tensors."""
    if not isinstance(value, dict) or not value:
        raise InvalidInput(f"{source} holds no state dict", advice=ADVICE)
    tensors = {name: entry for name, entry in value.items() if isinstance(entry, StoredTensor)}
    if others := [name for name in value if name not in tensors]:
        raise InvalidInput(f"{source}: {others[0][:80]!r} is no tensor", advice=ADVICE)
    return tensors


class _ShortReads:
    """A file of which nothing long is read at once: opcodes state their arguments' lengths."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.tell = file.tell

    def read(self, count: int) -> bytes:
        if not 0 <= count <= MOST_BYTES:
            raise ValueError("is too long")
        return self._file.read(count)

    def readline(self) -> bytes:
        line = self._file.readline(1024)
        if b"\\" in line:  # an escape, which no name has
            raise ValueError("has a name that is none")
        return line


class _Machine:
    """The stack and memo of one pickle: all that it makes is in proportion to the opcodes run. Raises ValueError."""

    def __init__(self) -> None:
        self._stack: list[Value] = []
        self._memo: dict[int, Value] = {}

    def result(self) -> Value:
        if len(self._stack) != 1:
            raise ValueError("ends with values left over")
        return self._stack[0]

    def run(self, opcode: str, argument: object) -> None:
        if opcode in _PUSHES:
            assert isinstance(argument, int | float | str)
            self._stack.append(argument)
        else:
            _RUN[opcode](self, argument)

    def push(self, value: Value) -> None:
        self._stack.append(value)

    def pop(self) -> Value:
        if not self._stack:
            raise ValueError("takes a value that is not there")
        return self._stack.pop()

    def pop_to_mark(self) -> list[Value]:
        for index in range(len(self._stack) - 1, -1, -1):
            if isinstance(self._stack[index], _Mark):
                items = self._stack[index + 1 :]
                del self._stack[index:]
                return items
        raise ValueError("has no mark where one must be")

    def pack(self, count: int) -> None:
        self._stack.append(tuple(reversed([self.pop() for _ in range(count)])))

    def append(self, items: list[Value]) -> None:
        target = self._top()
        if not isinstance(target, list):
            raise ValueError("appends to what is no list")
        target.extend(items)

    def set_items(self, items: list[Value]) -> None:
        target = self._top()
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError("sets items of what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str):
                raise ValueError("has a dict whose keys are no names")
            target[key] = value

    def keep(self, index: object) -> None:
        assert isinstance(index, int)
        self._memo[index] = self._top()

    def keep_next(self) -> None:
        self._memo[len(self._memo)] = self._top()

    def recall(self, index: object) -> None:
        assert isinstance(index, int)
        if index not in self._memo:
            raise ValueError("recalls a value that it never kept")
        self._stack.append(self._memo[index])

    def name(self, module: Value, name: Value) -> None:
        """The only place where names get in."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("has a name that is none")  # not told: a value that holds itself twice over doubles as text
        if not is_allowed(Name(module, name)):
            raise ValueError(f"needs {module[:40]}.{name[:40]}, which is no tensor")
        self._stack.append(Name(module, name))

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        if function == ORDERED_DICT and arguments == ():
            self._stack.append({})
        elif function == REBUILD_TENSOR:
            self._stack.append(rebuilt(arguments))
        else:
            raise ValueError("calls what makes no tensor")

    def set_state(self) -> None:
        """Attributes of an ordered dict: torch keeps versions of modules there, of which nothing is needed."""
        self.pop()
        if not isinstance(self._top(), dict):
            raise ValueError("sets the state of what is no dict")

    def _top(self) -> Value:
        if not self._stack:
            raise ValueError("takes a value that is not there")
        return self._stack[-1]


# Those that push their argument, and what the others do.
_PUSHES = {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
_RUN: Mapping[str, Callable[[_Machine, object], None]] = {
    "PROTO": lambda machine, version: None,
    "FRAME": lambda machine, size: None,
    "MARK": lambda machine, _: machine.push(_Mark()),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, _: machine.pack(1),
    "TUPLE2": lambda machine, _: machine.pack(2),
    "TUPLE3": lambda machine, _: machine.pack(3),
    "APPEND": lambda machine, _: machine.append([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.pop_to_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "BINPUT": _Machine.keep,
    "LONG_BINPUT": _Machine.keep,
    "MEMOIZE": lambda machine, _: machine.keep_next(),
    "BINGET": _Machine.recall,
    "LONG_BINGET": _Machine.recall,
    "GLOBAL": lambda machine, names: machine.name(*str(names).split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name(*[machine.pop(), machine.pop()][::-1]),
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.set_state(),
    "BINPERSID": lambda machine, _: machine.push(storage(machine.pop())),
}


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
