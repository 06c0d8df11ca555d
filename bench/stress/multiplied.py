"""`python -m bench multiplied`: small bodies that ask for much work or memory, each sent alone to a service.

For each: what was sent, the answer, its time, by how much the process grew at most, and the slowest answer to somebody
else, who asked for one short sequence all the time. Ends with one JSON line.
"""

import argparse
import gzip
import io
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPException
from itertools import repeat
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np

from bench.load.launch import start_service
from service.codecs.binary import arrow, npz
from service.codecs.binary.npy import MAGIC
from service.settings import SHIPPED_MODEL

MOST = 2**25  # bytes that a body may open to
SHORT = {"floats": [[0.0] * 12], "texts": [1, 1]}
SECONDS = 30.0  # for an answer


class Case(NamedTuple):
    """A body before it is compressed, and the path it is sent to."""

    model: str  # "floats" or "texts"
    name: str
    body: bytes
    path: str = "/encode"
    kind: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


def fill(head: str, part: str, tail: str = "", size: int = MOST) -> bytes:
    """Repeat a part between a head and a tail, without its last comma."""
    count = (size - len(head) - len(tail)) // len(part.encode())
    return (head + (part * count).rstrip(",") + tail).encode()


def tensor(name: str, datatype: str, shape: str, data: str) -> str:
    """Write the beginning of an inference request up to a tensor's data."""
    return f'{{"inputs":[{{"name":"{name}","datatype":"{datatype}","shape":[{shape}],{data}'


def list_texts() -> Iterator[Case]:
    """Return what may be asked of a model that reads texts."""
    infer = "/v2/models/texts/infer"
    yield Case("texts", "one text of short words, 4 MB", fill('{"texts":["', "a ", '"]}', 2**22))
    yield Case("texts", "one text of short words, 32 MB", fill('{"texts":["', "a ", '"]}'))
    yield Case("texts", "texts of 60,000 characters, 32 MB", fill('{"texts":[', f'"{"a " * 30_000}",', "]}"))
    yield Case("texts", "16 texts of 60,000 characters", fill('{"texts":[', f'"{"a " * 30_000}",', "]}", 16 * 60_004))
    yield Case("texts", "a text of 60,000 ligatures of 18", fill('{"texts":["', "\ufdfa", '"]}', 180_000))
    yield Case("texts", "empty texts, 32 MB", fill('{"texts":[', '"",', "]}"))
    yield Case("texts", "texts of two characters, 32 MB", fill('{"texts":[', '"ab",', "]}"))
    yield Case("texts", "a long text with one emoji, 32 MB", fill('{"texts":["\U0001f600', "a", '"]}'))
    yield Case("texts", "half a pair after a long text", fill('{"texts":["', "a ", '\\ud800"]}'))
    yield Case("texts", "token ids in one list, 32 MB", fill('{"sequences":[[', "1,", "]]}"))
    yield Case("texts", "openai: one string, 32 MB", fill('{"model":"texts","input":"', "a ", '"}'), "/v1/embeddings")
    yield Case("texts", "openai: empty strings", fill('{"model":"texts","input":[', '"",', "]}"), "/v1/embeddings")
    head = tensor("texts", "BYTES", "1", '"data":["')
    yield Case("texts", "v2: one text, 32 MB", fill(head, "a ", '"]}]}'), infer)
    head = tensor("texts", "BYTES", "8000000", '"data":[')
    yield Case("texts", "v2: empty texts", fill(head, '"",', "]}]}"), infer)
    head = tensor("texts", "BYTES", "8000000", '"parameters":{"binary_data_size":32000000}}]}')
    length = (("Inference-Header-Content-Length", str(len(head))),)
    yield Case("texts", "v2: raw empty texts", head.encode() + bytes(32_000_000), infer, headers=length)
    yield Case("texts", "lines: one text, 32 MB", fill('"', "a ", '"\n'), kind="application/x-ndjson")
    yield Case("texts", "lines: short texts, 250 kB", fill("", '"a a"\n', size=250_000), kind="application/x-ndjson")


def list_json() -> Iterator[Case]:
    """Return JSON for a model that reads numbers."""
    step = json.dumps([0] * 12)
    yield Case("floats", "empty sequences", fill('{"sequences":[', "[],", "]}"))
    yield Case("floats", "100,000 empty sequences", fill('{"sequences":[', "[],", "]}", 300_000))
    yield Case("floats", "lists a million deep", fill('{"sequences":', "["))
    yield Case("floats", "one step of millions of integers", fill('{"sequences":[[[', "999,", "]]]}"))
    yield Case("floats", "integers just under the bound", fill('{"sequences":[[[', "999,", "]]]}", 4 * 3_600_000))
    yield Case("floats", "one step of millions of fractions", fill('{"sequences":[[[', "1.5,", "]]]}"))
    yield Case("floats", "one step of millions of digits", fill('{"sequences":[[[', "1,", "]]]}"))
    yield Case("floats", "one number of 32 MB", fill('{"sequences":[[[', "1", "]]]}"))
    yield Case("floats", "millions of lengths", fill(f'{{"sequences":[[{step}]],"lengths":[', "0,", "]}"))
    yield Case("floats", "millions of wrong lengths", fill(f'{{"sequences":[[{step}]],"lengths":[', '"",', "]}"))
    yield Case("floats", "millions of outputs", fill(f'{{"sequences":[[{step}]],"outputs":[', '"a",', "]}"))
    keys = "".join(f'"{number:x}":0,' for number in range(2_500_000))
    yield Case("floats", "millions of fields", f'{{{keys}"sequences":[[{step}]]}}'.encode())
    yield Case("floats", "a model's name of 32 MB", fill(f'{{"sequences":[[{step}]],"model":"', "a", '"}'))
    yield Case("floats", "objects in objects", fill('{"sequences":', '{"a":', ""))
    yield Case("floats", "openai: empty lists", fill('{"model":"floats","input":[', "[],", "]}"), "/v1/embeddings")
    infer = "/v2/models/floats/infer"
    yield Case("floats", "v2: millions of inputs", fill('{"inputs":[', "{},", "]}"), infer)
    yield Case("floats", "v2: millions of outputs", fill('{"inputs":[],"outputs":[', "{},", "]}"), infer)
    yield Case(
        "floats", "v2: a shape of millions of axes", fill('{"inputs":[{"name":"a","shape":[', "1,", "]}]}"), infer
    )
    yield Case("floats", "v2: wrong axes", fill('{"inputs":[{"name":"a","shape":[', '"",', "]}]}"), infer)
    head = tensor("sequences", "FP32", "1,1,8000000", '"data":[')
    yield Case("floats", "v2: millions of numbers", fill(head, "999,", "]}]}"), infer)
    head = tensor("sequences", "FP32", "2147483647,0,12", '"data":[]}]}')
    yield Case("floats", "v2: two thousand million empty sequences", head.encode(), infer)
    yield Case("floats", "v2: many parameters", fill('{"inputs":[],"parameters":{', '"a":0,', "}}"), infer)
    yield Case("floats", "lines: bad lines, 250 kB", fill("", "1\n", size=250_000), kind="application/x-ndjson")
    yield Case("floats", "lines: blank lines, 32 MB", fill("", "\n"), kind="application/x-ndjson")
    yield Case("floats", "zeros", bytes(MOST))


def list_binary() -> Iterator[Case]:
    """Return bodies of numbers for a model that reads them."""
    values, none = np.zeros((1, 12), np.float32), np.zeros((0, 12), np.float32)
    yield Case("floats", "npz: lengths of zero", _pack(none, np.zeros(4_000_000, np.int64)), kind=npz.MEDIA_TYPE)
    yield Case("floats", "npz: lengths of bytes", _pack(none, np.zeros(MOST - 999, np.int8)), kind=npz.MEDIA_TYPE)
    yield Case("floats", "npz: float16", _pack(np.zeros((1_398_000, 12), np.float16), values), kind=npz.MEDIA_TYPE)
    huge = b"{'descr':'<f4','fortran_order':False,'shape':(0,9223372036854775807,12)}"
    yield Case(
        "floats",
        "npy: a huge shape",
        MAGIC + b"\1\0" + len(huge).to_bytes(2, "little") + huge,
        kind="application/x-npy",
    )
    for name, body in _list_arrow():
        yield Case("floats", f"arrow: {name}", body, kind=arrow.MEDIA_TYPE)


def _pack(values: object, lengths: object) -> bytes:
    file = io.BytesIO()
    np.savez(file, values=values, lengths=lengths)  # type: ignore[arg-type]
    return file.getvalue()


def _list_arrow() -> Iterator[tuple[str, bytes]]:
    """Return streams that tell of more rows than they have bytes for."""
    import pyarrow as pa  # noqa: PLC0415 - an extra

    steps = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(0, np.float32)), 12)
    wide = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(12, np.float32)), 12)
    empty = pa.ListArray.from_arrays(pa.array(np.zeros(8_000_000, np.int32)), steps)
    yield "empty sequences", _stream(pa, {"sequence": empty})
    yield "a column of nothing", _stream(pa, {"sequence": pa.Array.from_buffers(pa.null(), 2**31 - 1, [None])})
    shared = pa.DictionaryArray.from_arrays(pa.array(np.zeros(30_000_000, np.int8)), pa.array(["a" * 1000]))
    yield "a dictionary", _stream(pa, {"sequence": shared})
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([2**31 - 2], pa.int32()), pa.array([1.0], pa.float32()))
    yield "run ends", _stream(pa, {"sequence": runs})
    narrow = pa.Array.from_buffers(pa.list_(pa.float32(), 0), 2**31 - 2, [None], children=[pa.array([], pa.float32())])
    one_long = pa.ListArray.from_arrays(pa.array([0, 2**31 - 2], pa.int32()), narrow)
    yield "steps of no width", _stream(pa, {"sequence": one_long})
    one = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), wide)
    yield "many batches", _stream(pa, {"sequence": one}, 70_000)


def _stream(pa: object, columns: dict[str, object], batches: int = 1) -> bytes:
    batch = pa.record_batch(columns)  # type: ignore[attr-defined]
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batch.schema) as stream:  # type: ignore[attr-defined]
        for _ in repeat(None, batches):
            stream.write_batch(batch)
    return sink.getvalue()


class Found(NamedTuple):
    """What came of a case: the answer, its seconds, megabytes more at most, and the slowest answer to others."""

    status: int
    seconds: float
    megabytes: float
    others_seconds: float
    words: str


def send(url: str, case: Case, pid: int) -> tuple[int, Found]:
    """Send a case, and see what it costs; return the bytes sent as well."""
    is_lines = case.kind == "application/x-ndjson"
    body = case.body if is_lines else gzip.compress(case.body)
    headers = {"Content-Type": case.kind, **dict(case.headers)} | ({} if is_lines else {"Content-Encoding": "gzip"})
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")  # the high-water mark begins anew
    before = read_memory(pid, "VmRSS")
    slowest: list[float] = [0.0]
    is_over = threading.Event()
    other = threading.Thread(target=_ask_all_the_time, args=(url, case.model, slowest, is_over))
    other.start()
    began = time.perf_counter()
    status, words = _ask(url, case.path, body, headers)
    seconds = time.perf_counter() - began
    is_over.set()
    other.join()
    return len(body), Found(status, seconds, (read_memory(pid, "VmHWM") - before) / 1024, slowest[0], words)


def read_memory(pid: int, name: str) -> int:
    """Return a figure of a process's memory, in kB."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))


def _ask(url: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
    connection = HTTPConnection(urlsplit(url).netloc, timeout=SECONDS)
    try:
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        words = response.read(300).decode(errors="replace")
        while response.read(2**16):
            pass
    except (OSError, HTTPException) as error:
        return 0, f"{type(error).__name__}: {error}"
    finally:
        connection.close()
    return response.status, words


def _ask_all_the_time(url: str, model: str, slowest: list[float], is_over: threading.Event) -> None:
    body = json.dumps({"sequences": [SHORT[model]], "model": model}).encode()
    while not is_over.is_set():
        began = time.perf_counter()
        _ask(url, "/encode", body, {"Content-Type": "application/json"})
        slowest[0] = max(slowest[0], time.perf_counter() - began)
        is_over.wait(0.01)


def main() -> None:
    """Send every case to a service of its own model."""
    parser = argparse.ArgumentParser(
        prog="python -m bench multiplied", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--floats", type=Path, default=SHIPPED_MODEL, help="an encoder of 12 features")
    parser.add_argument("--texts", type=Path, help="one of texts; without it, none are sent")
    parser.add_argument("--only", default="", help="send those with this in their names")
    options = parser.parse_args()
    found: list[dict[str, object]] = []
    groups: list[tuple[str, Path | None, Callable[[], Iterator[Case]]]] = [
        ("texts", options.texts, list_texts),
        ("floats", options.floats, list_json),
        ("floats", options.floats, list_binary),
    ]
    print(f"{'':44}{'kB sent':>8}{'status':>7}{'s':>8}{'MB':>8}{'others s':>10}", file=sys.stderr)
    for name, file, make in groups:
        if file is None:
            continue
        with start_service(
            "--model", str(file), "--model-name", name, "--processes", "1", "--log-requests", "false"
        ) as (process, url):
            for case in make():
                if options.only in case.name:
                    size, one = send(url, case, process.pid)
                    found.append({"case": case.name, "bytes": size, **one._asdict()})
                    print(
                        f"{case.name:44}{size / 1000:8.0f}{one.status:7}{one.seconds:8.2f}{one.megabytes:8.0f}"
                        f"{one.others_seconds:10.3f}  {one.words[:0]}",
                        file=sys.stderr,
                    )
    print(json.dumps(found))
