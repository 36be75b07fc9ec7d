"""Hostile pickles, opcode by opcode: name -> (bytes, what the refusal says).

Those that would run something, if anything ran, write the file `CANARY` in the working directory.
"""

from __future__ import annotations

import io
import pickle
import struct

import torch

CANARY = "canary"
_TOUCH = f"open({CANARY!r}, 'w')".encode()
_SHELL = f"touch {CANARY}".encode()
P = b"\x80\x04"  # PROTO 4


def text(value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return b"X" + struct.pack("<I", len(raw)) + raw


def raw(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


def name(module: str, attribute: str) -> bytes:
    return text(module) + text(attribute) + b"\x93"


def call(module: str, attribute: str, argument: bytes) -> bytes:
    return name(module, attribute) + argument + b"\x85R"


def blob(body: bytes) -> bytes:
    """A storage's blob of torch whose object pickle is `body`."""
    buffer = io.BytesIO()
    torch.save(torch.zeros(3).untyped_storage(), buffer, _use_new_zipfile_serialization=False)
    head = buffer.getvalue()
    parts = io.BytesIO(head)
    for _ in range(3):
        pickle.load(parts)
    return head[: parts.tell()] + body


def storage(body: bytes) -> bytes:
    return call("torch.storage", "_load_from_bytes", raw(body))


def zip_blob() -> bytes:
    buffer = io.BytesIO()
    torch.save(torch.zeros(3), buffer)
    return buffer.getvalue()


def tensor(size: bytes, stride: bytes, offset: bytes = b"K\x00") -> bytes:
    buffer = io.BytesIO()
    torch.save(
        torch.zeros(4, dtype=torch.uint8).untyped_storage(),
        buffer,
        _use_new_zipfile_serialization=False,
    )
    arguments = b"(" + storage(buffer.getvalue()) + offset + size + stride + b"\x89}t"
    return name("torch._utils", "_rebuild_tensor_v2") + arguments + b"R"


def long1(value: int) -> bytes:
    data = value.to_bytes(8, "little")
    return b"\x8a\x08" + data


def object_array() -> bytes:
    """A numpy number of type object: numpy would unpickle its bytes."""
    inner = P + call("os", "system", text(_SHELL)) + b"."
    dtype = name("numpy", "dtype") + text("O8") + b"\x89\x88\x87R"
    return name("numpy.core.multiarray", "scalar") + dtype + raw(inner) + b"\x86R"


def laughs(levels: int) -> bytes:
    """[[..., ...], [..., ...]]: 2^levels leaves out of few bytes."""
    out = b"]\x94"
    for level in range(levels):
        again = b"h" + bytes([level])
        out += b"](" + again + again + b"e\x94"
    return out


def doubled_modules(levels: int) -> bytes:
    """A network whose every module has the same two children."""
    out, child = b"", b"N"
    for index in range(levels):
        state = b"}(" + text("_modules") + b"}(" + text("a") + child + text("b") + child + b"uu"
        meta = b"}(" + text("class_name") + text("C") + text("state") + state + b"u"
        out += name("src.torch_utils.persistence", "_reconstruct_persistent_obj")
        out += meta + b"\x85R" + b"q" + bytes([index]) + b"0"
        child = b"h" + bytes([index])
    return out + b"}" + text("G_ema") + child + b"s"


def tuples(levels: int) -> bytes:
    """A key whose hash takes 2^levels steps."""
    out = b"}N"
    for level in range(levels):
        again = b"h" + bytes([level])
        out += b"q" + bytes([level]) + b"0" + again + again + b"\x86"
    return out + b"Ns"


_CALLS = {
    ("os", "system"): text(_SHELL),
    ("posix", "system"): text(_SHELL),
    ("nt", "system"): text(_SHELL),
    ("subprocess", "check_output"): text(_SHELL),
    ("builtins", "eval"): text(_TOUCH),
    ("builtins", "exec"): text(_TOUCH),
    ("__builtin__", "eval"): text(_TOUCH),
    ("builtins", "compile"): text(_TOUCH),
    ("builtins", "__import__"): text("os"),
    ("builtins", "getattr"): text("x"),
    ("builtins", "open"): text(CANARY),
    ("io", "open"): text(CANARY),
    ("operator", "attrgetter"): text("system"),
    ("operator", "methodcaller"): text("system"),
    ("functools", "partial"): text("x"),
    ("runpy", "run_path"): text(CANARY),
    ("importlib", "import_module"): text("os"),
    ("pickle", "loads"): raw(P + call("os", "system", text(_SHELL)) + b"."),
    ("_pickle", "loads"): raw(P + b"N."),
    ("marshal", "loads"): raw(b"N"),
    ("types", "FunctionType"): text("x"),
    ("types", "CodeType"): text("x"),
    ("codecs", "decode"): raw(b"x"),
    ("copyreg", "_reconstructor"): text("x"),
    ("copyreg", "add_extension"): text("x"),
    ("torch", "load"): text(CANARY),
    ("torch.serialization", "load"): text(CANARY),
    ("torch.hub", "load"): text("x"),
    ("torch.jit", "load"): text("x"),
    ("torch._utils", "_rebuild_device_tensor_from_numpy"): text("x"),
    ("torch.storage", "TypedStorage"): text("x"),
    ("numpy", "load"): text(CANARY),
    ("numpy.testing._private.utils", "runstring"): text(_TOUCH),
    ("ctypes", "CDLL"): text("libc.so.6"),
    ("pty", "spawn"): text("sh"),
    ("webbrowser", "open"): text("x"),
    ("src.torch_utils.persistence", "import_hooks"): text("x"),
    ("omegaconf.omegaconf", "OmegaConf.create"): text("${x}"),
    ("collections", "OrderedDict.__init__.__globals__"): text("x"),
    ("collections.OrderedDict", "__init__"): text("x"),
    ("builtins", "dict.__class__"): text("x"),
}

PAYLOADS: dict[str, tuple[bytes, str]] = {
    **{
        f"global {m}.{a}": (P + call(m, a, arg) + b".", f"the global '{m}.{a}' does not belong")
        for (m, a), arg in _CALLS.items()
    },
    "protocol 0": (b"cos\nsystem\n(S'touch canary'\ntR.", "the global 'os.system'"),
    "inst": (P + b"(" + text(_SHELL) + b"ios\nsystem\n.", "opcode INST does not belong"),
    "obj": (P + b"(" + name("collections", "OrderedDict") + b"o.", "opcode OBJ does not belong"),
    "extension": (P + b"\x82\x01.", "opcode EXT1 does not belong"),
    "persistent id": (P + text("x") + b"Q.", "a persistent id does not belong"),
    "persistent text": (P + b"Px\n.", "opcode PERSID does not belong"),
    "dup": (P + b"]2.", "opcode DUP does not belong"),
    "next buffer": (P + b"\x97.", "opcode NEXT_BUFFER does not belong"),
    "unknown opcode": (P + b"\xff.", "opcode 0xff does not belong"),
    "computed name": (
        P + text("os") + b"\x940" + text("system") + b"\x940h\x00h\x01\x93.",
        "the global 'os.system'",
    ),
    "name not text": (P + b"K\x01K\x02\x93.", "whose name is not text"),
    "call of a type": (P + call("builtins", "dict", b"N") + b".", "a type here and nothing"),
    "call of a value": (P + b"}N\x85R.", "a call of something that is not a name"),
    "new from a value": (P + b"]N\x85\x81.", "a call of something that is not a name"),
    "keywords": (
        P + name("torch", "device") + b")}" + text("x") + b"Ns\x92.",
        "an object with keyword arguments",
    ),
    "state of a function": (
        P + name("torch._utils", "_rebuild_parameter") + b"}" + text("__code__") + b"Nsb.",
        "a state for a Global",
    ),
    "state of a dict": (P + b"}}" + text("__class__") + b"Nsb.", "a state for a dict"),
    "items of a function": (
        P + name("torch._utils", "_rebuild_parameter") + text("a") + b"Ns.",
        "keys and values for a Global",
    ),
    "object number": (P + object_array() + b".", "only plain numbers are read"),
    "array of a subtype": (
        P + name("numpy.core.multiarray", "_reconstruct")
        + b"(" + name("os", "system") + b"K\x00\x85C\x01btR.",
        "the global 'os.system'",
    ),
    "codec": (
        P + name("_codecs", "encode") + text("x") + text("zip") + b"\x86R.",
        "encoded in an unexpected way",
    ),
    "storage that calls": (
        P + storage(blob(b"\x80\x02" + call("os", "system", text(_SHELL)) + b".")) + b".",
        "in the storage of the REDUCE at byte 226: the global 'os.system'",
    ),
    "storage in a zip": (P + storage(zip_blob()) + b".", "in the storage"),
    "storage of text": (P + storage(b"hello") + b".", "in the storage"),
    "storage of a storage": (
        P + storage(blob(P + call("torch.storage", "_load_from_bytes", raw(b"x")) + b".")) + b".",
        "the global 'torch.storage._load_from_bytes'",
    ),
    "tensor of terabytes": (
        P + tensor(long1(2**40) + b"\x85", b"K\x00\x85") + b".",
        "over 4 stored numbers",
    ),
    "tensor out of bounds": (
        P + tensor(b"K\x02\x85", b"K\x7f\x85") + b".",
        "ends at number 127 of 4",
    ),
    "tensor before its storage": (
        P + tensor(b"K\x02\x85", b"K\x01\x85", b"J\xff\xff\xff\xff") + b".",
        "sizes are not numbers",
    ),
    "huge text": (P + b"\x8d" + struct.pack("<Q", 2**62) + b"x.", f"truncated: {2**62} bytes"),
    "huge bytes": (P + b"B\xff\xff\xff\xffx.", f"truncated: {2**32 - 1} bytes are announced"),
    "huge byte array": (P + b"\x96" + struct.pack("<Q", 2**63) + b".", f"truncated: {2**63}"),
    "huge frame": (P + b"\x95" + struct.pack("<Q", 2**63) + b"N.", f"truncated: {2**63}"),
    "huge integer": (P + b"\x8b\x00\x00\x00\x40" + b"\x01.", "opcode LONG4 does not belong"),
    "long integer": (P + b"\x8a\xff" + bytes(255) + b".", "an integer of 255 bytes"),
    "hash bomb": (P + tuples(60) + b".", "a key of type tuple"),
    "long key": (P + b"}\x8a\x10" + b"\x7f" * 16 + b"Ns.", "a key of more than 63 bits"),
    "billion laughs": (P + laughs(60) + b".", "there are no networks in it"),
    "doubled modules": (P + doubled_modules(40) + b".", "a network of more than 20000 modules"),
    "deep lists": (P + b"]" * 100_000 + b"a" * 99_999 + b".", "there are no networks in it"),
    "deep marks": (P + b"(" * 200_000 + b"N.", "there are no networks in it"),
    "endless": (P + b")" * 1_000_100 + b".", "more than 1000000 operations"),
    "no stop": (P + b"N", "truncated: 1 bytes are announced, 0 are left"),
    "stack": (P + b"0.", "damaged"),
    "mark": (P + b"e.", "no mark on the stack"),
    "memo": (P + b"h\x07.", "nothing was memorised as 7"),
    "protocol 9": (b"\x80\x09N.", "pickle protocol 9; 2 to 5 are read"),
    "not utf-8": (P + text(b"\xff\xfe") + b".", "damaged"),
    "plain data": (pickle.dumps({"a": [1, 2]}), "there are no networks in it"),
}  # fmt: skip
