"""Hostile pickles are refused in one line, run nothing, and stay small."""

from __future__ import annotations

import lzma
import os
import pickle
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from epigraf.errors import CheckpointError
from epigraf.interop.allowed import SNAPSHOT
from epigraf.interop.importer import import_model
from epigraf.interop.unpickler import Budget, Machine
from tests.interop.hostile import CANARY, PAYLOADS
from tests.interop.released import snapshot, write
from tests.interop.test_importer import experiment, roughened

GOLDEN = Path(__file__).parents[1] / "golden" / "snapshot-small.pkl.xz"


@pytest.mark.parametrize("name", PAYLOADS)
def test_hostile_pickles_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    data, message = PAYLOADS[name]
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "a.pkl", data)
    with pytest.raises(CheckpointError) as caught:
        import_model(path, tmp_path / "a.safetensors")
    text = str(caught.value)
    assert message in text
    assert text.startswith(f"import {path}: refused: ")
    assert "\n" not in text
    assert len(text) < 400
    assert not (tmp_path / CANARY).exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pkl"]


def test_the_canary_sings(tmp_path: Path) -> None:
    """The payloads are real: Python's own unpickler runs them."""
    script = "import pickle, sys; pickle.loads(sys.stdin.buffer.read())"
    data = PAYLOADS["global os.system"][0]
    done = subprocess.run([sys.executable, "-c", script], input=data, cwd=tmp_path, check=False)
    assert done.returncode == 0
    assert (tmp_path / CANARY).exists()


def test_refusals_name_the_place() -> None:
    with pytest.raises(CheckpointError, match=r"'os\.system' .*, STACK_GLOBAL at byte 20$"):
        Machine(memoryview(PAYLOADS["global os.system"][0]), SNAPSHOT, Budget()).run()


@pytest.mark.parametrize(
    "value",
    [
        None, True, -1, 2**40, -(2**31), 1.5, "täxt", [1, [2]], {"a": {1: 2}}, (1, 2, 3, (4, 5)),
        {1, 2}, [float("inf"), "x" * 300], {"k" * i: i for i in range(300)},
    ],
)  # fmt: skip
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_data_reads_as_by_python(value: object, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    machine = Machine(memoryview(data), SNAPSHOT, Budget())
    found = machine.run()
    assert found == value
    assert machine.at == len(data)


def test_shared_and_circular_values_stay_so() -> None:
    inner: list[object] = [1]
    inner.append(inner)
    found = Machine(memoryview(pickle.dumps([inner, inner])), SNAPSHOT, Budget()).run()
    assert found[0] is found[1]
    assert found[0][1] is found[0]


def test_files_that_are_none(tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    os.mkfifo(tmp_path / "pipe")
    for path, message in (
        (tmp_path / "nothing.pkl", "no such file"),
        (tmp_path, "not a regular file"),
        (tmp_path / "pipe", "not a regular file"),
        (Path("/dev/zero"), "not a regular file"),
        (write(tmp_path / "empty.pkl", b""), "empty"),
    ):
        with pytest.raises(CheckpointError, match=message):
            import_model(path, out)


@pytest.mark.slow
def test_memory_and_time_are_bounded(tmp_path: Path) -> None:
    """All payloads under a limit of 600 MB above what the libraries take, and of CPU seconds."""
    script = textwrap.dedent("""
        import resource, sys
        from pathlib import Path
        from epigraf.errors import CheckpointError
        from epigraf.interop.importer import import_model
        from tests.interop.hostile import PAYLOADS
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 600 * 2**20,) * 2)
        folder = Path(sys.argv[1])
        for data, _ in PAYLOADS.values():
            (folder / "a.pkl").write_bytes(data)
            try:
                import_model(folder / "a.pkl", folder / "a.safetensors")
            except CheckpointError:
                continue
            raise SystemExit("imported")
    """)
    limit = lambda: resource.setrlimit(resource.RLIMIT_CPU, (60, 60))  # noqa: E731
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=root, preexec_fn=limit, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def small() -> bytes:
    """A snapshot with every part, of 80 kB."""
    torch.set_num_threads(1)
    changes = {"bg_model": {"type": "sphere", "num_steps": 3, "cmax": 8}, "camera_cond": True}
    tree = experiment({**changes, "tri_plane": {"res": 4}}, {"c_dim": 2})
    return snapshot(roughened(tree, 2), tree)


def survives(data: bytes, folder: Path) -> None:
    """Either an import or one clean line."""
    line = ""
    try:
        import_model(write(folder / "a.pkl", data), folder / "a.safetensors")
    except CheckpointError as error:
        line = str(error)
    assert "\n" not in line


Edits = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from(["flip", "opcode", "insert", "delete", "double"]),
              st.integers(0, 255)),
    min_size=1, max_size=4,
)  # fmt: skip


def edited(data: bytes, edits: list[tuple[float, str, int]]) -> bytes:
    """Data with bits flipped, bytes replaced by opcodes, parts left out or repeated."""
    out = bytearray(data)
    for where, kind, byte in edits:
        at = min(int(where * len(out)), len(out) - 1)
        if kind == "flip":
            out[at] ^= 1 << (byte % 8)
        elif kind == "opcode":
            out[at] = b"cR\x93\x81b0]}(tusae.)\x94hjqNKJX\x8cBC"[byte % 27]
        elif kind == "insert":
            out.insert(at, byte)
        elif kind == "delete":
            del out[at : at + 1 + byte]
        else:
            out[at:at] = out[max(0, at - byte) : at]
        if not out:
            return b"."
    return bytes(out)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(edits=Edits)
def test_damaged_snapshots_end_cleanly(
    small: bytes, tmp_path: Path, edits: list[tuple[float, str, int]]
) -> None:
    survives(edited(small, edits), tmp_path)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(share=st.floats(0, 1))
def test_truncated_snapshots_end_cleanly(small: bytes, tmp_path: Path, share: float) -> None:
    cut = write(tmp_path / "a.pkl", small[: int(share * (len(small) - 1))])
    with pytest.raises(CheckpointError, match=r"truncated|empty"):
        import_model(cut, tmp_path / "a.safetensors")


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=64))
def test_noise_ends_cleanly(tmp_path: Path, data: bytes) -> None:
    survives(b"\x80\x04" + data, tmp_path)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(edits=Edits)
def test_the_real_snapshot_damaged_ends_cleanly(
    real: bytes, tmp_path: Path, edits: list[tuple[float, str, int]]
) -> None:
    survives(edited(real, edits), tmp_path)


@pytest.fixture(scope="module")
def real() -> bytes:
    """The official snapshot."""
    return lzma.decompress(GOLDEN.read_bytes())
