"""An interpreter of pickles that runs nothing: opcodes build plain data, names stay names.

Python's own unpickler imports and calls what the file asks for. This one knows the opcodes that a
snapshot uses, asks a closed list (`allowed.py`) what each imported name stands for, and refuses
everything else with the place in the file. Numbers and byte strings stay where they are, in the
mapped file; lengths are compared with what is left of it before anything is made, and the number
of operations and the amount of text are bounded.

Format: PEP 307 and PEP 3154, and the documentation of the module `pickletools`.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from epigraf.interop.inert import Array, Dtype, Global, Instance, Items, PickleError

MAX_OPERATIONS = 1_000_000  # a small snapshot takes 80 000, one of full size twice that
MAX_TEXT = 2**26  # bytes; each module carries its source text, some 50 kB
MAX_INTEGER = 16  # bytes; the largest that torch writes has 10
_MARK = object()
_NAMES = {ord(op.code): op.name for op in pickletools.opcodes}


@dataclass
class Budget:
    """What is left to spend on one file, nested pickles included."""

    operations: int = MAX_OPERATIONS
    text: int = MAX_TEXT


@dataclass(frozen=True)
class Vocabulary:
    """What the names and the persistent ids of a pickle mean.

    Attributes:
        find: (module, name) to a Global, or None where the name is not allowed.
        call: (Global, arguments, machine) to what a call stands for.
        persistent: a persistent id to what it stands for; None: the pickle may have none.
    """

    find: Callable[[str, str], Global | None]
    call: Callable[[Global, tuple[Any, ...], Machine], Any]
    persistent: Callable[[Any], Any] | None = None


class Machine:
    """Interprets the pickle that begins at `start` of `data`.

    Args:
        data: the whole file, or one byte string of it.
        vocabulary: what names mean.
        budget: shared with the machines of nested pickles.
    """

    def __init__(
        self, data: memoryview, vocabulary: Vocabulary, budget: Budget, start: int = 0
    ) -> None:
        self.data, self.vocabulary, self.budget = data, vocabulary, budget
        self.at = self.opcode_at = start
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The value of the pickle; `at` is then the first byte behind it.

        Raises:
            PickleError: damaged, truncated, too large, or not allowed; says where.
        """
        try:
            while True:
                self.opcode_at = self.at
                code = self._take(1)[0]
                self.budget.operations -= 1
                if self.budget.operations < 0:
                    raise PickleError(f"more than {MAX_OPERATIONS} operations")
                if code == 0x2E:  # STOP
                    return self._pop()
                action = _ACTIONS.get(code)
                if action is None:
                    name = _NAMES.get(code, f"0x{code:02x}")
                    raise PickleError(f"opcode {name} does not belong in a snapshot")
                action(self)
        except PickleError as error:
            text = str(error)
            raise PickleError(text if " at byte " in text else f"{text}, {self.place}") from None
        except (IndexError, KeyError, TypeError, ValueError, OverflowError):
            raise PickleError(f"damaged, {self.place}") from None

    @property
    def place(self) -> str:
        """Where the operation under way begins."""
        code = self.data[self.opcode_at] if self.opcode_at < len(self.data) else 0
        return f"{_NAMES.get(code, 'opcode')} at byte {self.opcode_at}"

    # Bytes of the stream.

    def _take(self, count: int) -> memoryview:
        left = len(self.data) - self.at
        if count > left:
            raise PickleError(f"truncated: {count} bytes are announced, {left} are left")
        self.at += count
        return self.data[self.at - count : self.at]

    def _number(self, width: int) -> int:
        return int.from_bytes(self._take(width), "little")

    def _sized(self, width: int) -> memoryview:
        """Bytes behind their length."""
        return self._take(self._number(width))

    def _text(self, raw: memoryview) -> str:
        self.budget.text -= len(raw)
        if self.budget.text < 0:
            raise PickleError(f"more than {MAX_TEXT >> 20} MB of text")
        return str(raw, "utf-8")

    def _line(self) -> str:
        start = self.at
        while self._number(1) != 0x0A:
            if self.at - start > 256:
                raise PickleError("a name of more than 256 bytes")
        return self._text(self.data[start : self.at - 1])

    # The stack.

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise PickleError("damaged: the stack is empty")
        return self.stack.pop()

    def _top(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise PickleError("damaged: the stack is empty")
        return self.stack[-1]

    def _pop_mark(self) -> list[Any]:
        """Everything above the last mark, which goes too."""
        found: list[Any] = []
        while self.stack:
            value = self.stack.pop()
            if value is _MARK:
                return found[::-1]
            found.append(value)
        raise PickleError("damaged: no mark on the stack")

    # Operations: containers.

    def _tuple(self, count: int) -> None:
        if count:
            self._push(tuple([self._pop() for _ in range(count)][::-1]))
        else:
            self._push(())

    def _append(self, values: list[Any]) -> None:
        target = self._top()
        if isinstance(target, Instance):
            target = target.values
        if not isinstance(target, list):
            raise PickleError(f"damaged: items for a {type(target).__name__}")
        target.extend(values)

    def _set_items(self, flat: list[Any]) -> None:
        target = self._top()
        if isinstance(target, Instance):
            target = target.items
        if not isinstance(target, dict) or len(flat) % 2:
            raise PickleError(f"damaged: keys and values for a {type(target).__name__}")
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            target[checked_key(key)] = value

    def _add_items(self) -> None:
        values = self._pop_mark()
        target = self._top()
        if not isinstance(target, set):
            raise PickleError(f"damaged: members for a {type(target).__name__}")
        target.update(map(checked_key, values))

    def _frozenset(self) -> None:
        self._push(frozenset(map(checked_key, self._pop_mark())))

    # Operations: the memo.

    def _memoize(self, index: int | None = None) -> None:
        self.memo[len(self.memo) if index is None else index] = self._top()

    def _recall(self, index: int) -> None:
        if index not in self.memo:
            raise PickleError(f"damaged: nothing was memorised as {index}")
        self._push(self.memo[index])

    # Operations: names, calls and states.

    def _global(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleError("damaged: a global whose name is not text")
        found = self.vocabulary.find(module, name)
        if found is None:
            shown = f"{module}.{name}"
            shown = shown if len(shown) <= 96 else shown[:96] + "..."
            raise PickleError(f"the global {shown!r} does not belong in a snapshot")
        self._push(found)

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        self._global(module, name)

    def _reduce(self) -> None:
        args, function = self._pop(), self._pop()
        self._push(self._called(function, args))

    def _new_object(self) -> None:
        args, function = self._pop(), self._pop()
        self._push(self._called(function, args))

    def _new_object_keywords(self) -> None:
        keywords = self._pop()
        if keywords != {}:
            raise PickleError("damaged: an object with keyword arguments")
        self._new_object()

    def _called(self, function: Any, args: Any) -> Any:
        if not isinstance(function, Global) or not isinstance(args, tuple):
            raise PickleError("damaged: a call of something that is not a name")
        return self.vocabulary.call(function, args, self)

    def _build(self) -> None:
        state, target = self._pop(), self._top()
        if isinstance(target, Instance) and target.state is None:
            target.state = state
        elif isinstance(target, Array | Dtype):
            target.build(state)
        elif not isinstance(target, Items):
            raise PickleError(f"damaged: a state for a {type(target).__name__}")

    def _persistent(self) -> None:
        if self.vocabulary.persistent is None:
            raise PickleError("a persistent id does not belong in a snapshot")
        self._push(self.vocabulary.persistent(self._pop()))

    # Operations: numbers and the frame of the stream.

    def _integer(self) -> None:
        length = self._number(1)
        if length > MAX_INTEGER:
            raise PickleError(f"an integer of {length} bytes")
        self._push(int.from_bytes(self._take(length), "little", signed=True))

    def _float(self) -> None:
        self._push(struct.unpack(">d", self._take(8))[0])

    def _protocol(self) -> None:
        version = self._number(1)
        if not 2 <= version <= 5:
            raise PickleError(f"pickle protocol {version}; 2 to 5 are read")

    def _frame(self) -> None:
        length, left = self._number(8), len(self.data) - self.at
        if length > left:
            raise PickleError(f"truncated: {length} bytes are announced, {left} are left")


def checked_key(key: Any) -> Any:
    """A key of a mapping: text, a number, an object, a short tuple of text; what is slow to hash
    is refused."""
    if isinstance(key, tuple) and len(key) <= 16 and all(isinstance(k, str) for k in key):
        return key
    if isinstance(key, tuple | frozenset | float | memoryview | list | dict | set):
        raise PickleError(f"a key of type {type(key).__name__}")
    if isinstance(key, int) and not -(2**31) <= key < 2**63:
        raise PickleError("a key of more than 63 bits")
    return key


_ACTIONS: dict[int, Callable[[Machine], object]] = {
    ord("\x80"): Machine._protocol,
    ord("\x95"): Machine._frame,
    ord("("): lambda m: m._push(_MARK),
    ord("0"): lambda m: m._pop_mark() if m.stack[-1] is _MARK else m._pop(),
    ord("1"): Machine._pop_mark,
    ord("N"): lambda m: m._push(None),
    ord("\x88"): lambda m: m._push(True),
    ord("\x89"): lambda m: m._push(False),
    ord("K"): lambda m: m._push(m._number(1)),
    ord("M"): lambda m: m._push(m._number(2)),
    ord("J"): lambda m: m._push(int.from_bytes(m._take(4), "little", signed=True)),
    ord("\x8a"): Machine._integer,
    ord("G"): Machine._float,
    ord("\x8c"): lambda m: m._push(m._text(m._sized(1))),
    ord("X"): lambda m: m._push(m._text(m._sized(4))),
    ord("\x8d"): lambda m: m._push(m._text(m._sized(8))),
    ord("C"): lambda m: m._push(m._sized(1)),
    ord("B"): lambda m: m._push(m._sized(4)),
    ord("\x8e"): lambda m: m._push(m._sized(8)),
    ord("\x96"): lambda m: m._push(m._sized(8)),
    ord("]"): lambda m: m._push([]),
    ord("}"): lambda m: m._push({}),
    ord(")"): lambda m: m._push(()),
    ord("\x8f"): lambda m: m._push(set()),
    ord("a"): lambda m: m._append([m._pop()]),
    ord("e"): lambda m: m._append(m._pop_mark()),
    ord("s"): lambda m: m._set_items([m._pop(), m._pop()][::-1]),
    ord("u"): lambda m: m._set_items(m._pop_mark()),
    ord("\x90"): Machine._add_items,
    ord("\x91"): Machine._frozenset,
    ord("t"): lambda m: m._push(tuple(m._pop_mark())),
    ord("\x85"): lambda m: m._tuple(1),
    ord("\x86"): lambda m: m._tuple(2),
    ord("\x87"): lambda m: m._tuple(3),
    ord("q"): lambda m: m._memoize(m._number(1)),
    ord("r"): lambda m: m._memoize(m._number(4)),
    ord("\x94"): Machine._memoize,
    ord("h"): lambda m: m._recall(m._number(1)),
    ord("j"): lambda m: m._recall(m._number(4)),
    ord("c"): lambda m: m._global(m._line(), m._line()),
    ord("\x93"): Machine._stack_global,
    ord("R"): Machine._reduce,
    ord("\x81"): Machine._new_object,
    ord("\x92"): Machine._new_object_keywords,
    ord("b"): Machine._build,
    ord("Q"): Machine._persistent,
}
