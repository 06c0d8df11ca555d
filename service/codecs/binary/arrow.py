"""Arrow IPC streams: a column `sequence` in, the columns `embedding` and `length` out.

pyarrow is an extra: it is imported with the first stream, which takes longer than any answer.
"""

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from service.codecs.binary.arrays import assemble
from service.codecs.options import AnswerOptions
from service.codecs.question import Format, Written
from service.encoder.sequences import Answer, Features, InputSpec, Kind, Sequences, make_zeros
from service.errors import InvalidField, MalformedBody

MEDIA_TYPE = "application/vnd.apache.arrow.stream"

COLUMN = "sequence"

# Places in the tables of Arrow's FlatBuffers (format/Message.fbs): Message.header, RecordBatch.compression.
MESSAGE_HEADER, BATCH_COMPRESSION = 2, 3


def read(body: bytes, spec: InputSpec, _limit: int) -> Sequences:
    """Read the column `sequence`: list<fixed_size_list<float>[F]>, or list<int64> of token ids.

    Lists may be large ones. Nothing is copied if there is one record batch. Compressed batches are refused: their
    buffers say themselves how large they will be.

    Raises:
        InvalidRequest: one of its subclasses: it is not such a stream, or does not hold sequences of the model's.
    """
    import pyarrow as pa  # noqa: PLC0415 - only if Arrow is spoken

    try:
        messages = pa.ipc.MessageReader.open_stream(pa.py_buffer(body))
        schema = pa.ipc.read_schema(_require(messages.read_next_message(), "schema"))
        if schema.get_field_index(COLUMN) < 0:
            raise InvalidField(COLUMN, "missing", f"a column {COLUMN}, once")
        parts = [
            _split_column(
                pa.ipc.read_record_batch(_require_plain(_require(message, "record batch")), schema).column(COLUMN),
                spec.kind,
            )
            for message in messages
        ]
    except (pa.ArrowException, OSError, ValueError) as error:  # pyarrow raises them all
        raise MalformedBody("Arrow", str(error).partition("\n")[0][:200]) from error
    except StopIteration:
        raise MalformedBody("Arrow", "it ends before its schema") from None
    if len(parts) == 1:
        values, lengths = parts[0]
    else:
        values = np.concatenate(
            [values for values, _ in parts] or [make_zeros(spec.kind, 0)]
        )  # of as many features as the schema says
        lengths = np.concatenate([np.empty(0, np.int64), *(lengths for _, lengths in parts)])
    return assemble(values, lengths, spec)


def write(answer: Answer, _options: AnswerOptions) -> Written:
    """Write the columns `embedding`, fixed_size_list<float>[D], and `length`, int64, in one record batch."""
    import pyarrow as pa  # noqa: PLC0415 - only if Arrow is spoken

    embeddings = answer.embeddings
    rows = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1)), embeddings.shape[1])
    batch = pa.record_batch([rows, pa.array(answer.lengths, pa.int64())], ["embedding", "length"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return sink.getvalue().to_pybytes(), ((b"content-type", MEDIA_TYPE.encode()),)


def _require(message: Any, kind: str) -> Any:
    """Refuse a message of another kind; pyarrow would read it as this one, and anything may come of that."""
    if message.type != kind:
        raise MalformedBody("Arrow", f"a message is a {message.type}: expected one schema, then record batches only")
    return message


def _require_plain(message: Any) -> Any:
    """Refuse a record batch whose buffers are compressed; return any other."""
    metadata = memoryview(message.metadata)
    (root,) = struct.unpack_from("<I", metadata)
    header = _find(metadata, root, MESSAGE_HEADER)
    (offset,) = struct.unpack_from("<I", metadata, header)
    if _find(metadata, header + offset, BATCH_COMPRESSION):
        raise MalformedBody("Arrow", "its buffers are compressed: compress the body by Content-Encoding instead")
    return message


def _find(metadata: memoryview, table: int, place: int) -> int:
    """Return the place of a field of a FlatBuffers table, 0 if it has none; pyarrow has checked that all is within."""
    (back,) = struct.unpack_from("<i", metadata, table)
    (size,) = struct.unpack_from("<H", metadata, table - back)
    if 4 + 2 * place >= size:
        return 0
    (offset,) = struct.unpack_from("<H", metadata, table - back + 4 + 2 * place)
    return table + offset if offset else 0


def _split_column(column: Any, kind: Kind) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the steps of a column's lists, end to end, and their lengths."""
    import pyarrow.types as kinds  # noqa: PLC0415 - only if Arrow is spoken

    column.validate(full=True)  # its offsets are what the client says they are
    has_lists = isinstance(kind, Features)
    wanted = f"list<fixed_size_list<float>[{kind.features}]>" if has_lists else "list<int64>"
    mismatch = InvalidField(COLUMN, f"a column of {str(column.type)[:80]}", wanted)
    if not (kinds.is_list(column.type) or kinds.is_large_list(column.type)):
        raise mismatch
    steps, offsets = column.values, column.offsets.to_numpy()
    numbers = steps
    if has_lists:
        if not kinds.is_fixed_size_list(steps.type) or not kinds.is_float32(steps.type.value_type):
            raise mismatch
        numbers = steps.values
    elif not kinds.is_int64(steps.type):
        raise mismatch
    for level, name in ((column, "a sequence"), (steps, "a step"), (numbers, "a number")):
        if level.null_count:
            raise InvalidField(COLUMN, f"null where {name} belongs", f"{wanted} without nulls")
    values = numbers.to_numpy()
    if has_lists:
        values = values[: len(steps) * steps.type.list_size].reshape(len(steps), steps.type.list_size)
    return values[offsets[0] : offsets[-1]] if len(column) else values[:0], np.diff(offsets)


FORMAT = Format(
    MEDIA_TYPE,
    body="A column `sequence` of list<fixed_size_list<float>[features]>, or list<int64> of token ids. "
    "If the service has the extra `arrow`.",
    answer="The columns `embedding`, fixed_size_list<float>[dim], and `length`, int64.",
    read=read,
    write=write,
    module="pyarrow.ipc",
    extra="arrow",
)
