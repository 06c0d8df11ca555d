"""`python -m bench distil ARTIFACT ...`: distilled students beside their teacher and beside averaged word vectors.

All turn the sentences of STS-B's test pairs into vectors, tokenizing included, sorted by length, in batches, on as many
threads: artifacts in the session that serves them, the teacher in ONNX Runtime too, and of every word the teacher's own
vector, weighted and averaged by numpy, as static embeddings such as model2vec's are. Each is timed several times in
turn with the others. Prints a table and ends with one JSON line.
"""

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from tokenizers import Tokenizer

from bench.speed.bert import Bert
from model.data.teachers import find_teacher, open_teacher
from model.data.text_datasets import read_sts_b_splits, sts_b_sentences
from model.data.texts import tokenize
from model.tasks.similarity import average, correlate, measure_cosines, sif_weights
from service.encoder.sequences import pad_batch
from service.encoder.session import open_session

BATCH = 32
WIDTHS = {"spearman": 9, "dim": 5, "megabytes": 10, "sentences_per_second": 21}

Vectors: TypeAlias = npt.NDArray[Any]  # (n, D)


@dataclass(frozen=True, slots=True)
class Contestant:
    """What turns sentences into vectors.

    Attributes:
        name: the row's name.
        megabytes: what its weights take.
        encode: n sentences to `(n, D)`, row i for sentence i.
    """

    name: str
    megabytes: float
    encode: Callable[[Sequence[str]], Vectors]


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench distil", description=__doc__)
    parser.add_argument("artifacts", nargs="*", type=Path, metavar="ARTIFACT", help="exported text encoders")
    parser.add_argument("--teacher", default="all-minilm-l6-v2", help="a BERT's folder, or a name the project knows")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    pairs = read_sts_b_splits()["test"]
    scores = np.array([score for _, _, score in pairs])
    sentences = [first for first, _, _ in pairs] + [second for _, second, _ in pairs]
    contestants = [make_teacher(options.teacher, options.threads), make_static(options.teacher)]
    contestants += [make_student(path, options.threads) for path in options.artifacts]
    seconds: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    found: dict[str, Vectors] = {}
    for _ in range(options.rounds):
        for contestant in contestants:
            began = time.process_time()
            found[contestant.name] = contestant.encode(sentences)
            seconds[contestant.name].append(time.process_time() - began)
    rows = {}
    for contestant in contestants:
        first, second = np.split(found[contestant.name].astype(np.float64), 2)
        rows[contestant.name] = {
            "spearman": round(correlate(measure_cosines(first, second), scores)["spearman"], 4),
            "dim": first.shape[1],
            "megabytes": round(contestant.megabytes, 1),
            "sentences_per_second": round(len(sentences) / statistics.median(seconds[contestant.name])),
        }
    print(f"{len(sentences)} sentences, {options.threads} threads, sentences a second of CPU time")
    print(f"{'':32}", *(f"{name:>{width}}" for name, width in WIDTHS.items()))
    for name, row in rows.items():
        print(f"{name:32}", *(f"{row[column]:>{width}}" for column, width in WIDTHS.items()))
    print(json.dumps(rows))


def make_teacher(name: str, threads: int) -> Contestant:
    """Export a BERT with mean pooling to ONNX Runtime."""
    folder = find_teacher(name)
    ids = torch.ones(2, 3, dtype=torch.int64)
    axes = {"ids": {0: "batch", 1: "time"}, "mask": {0: "batch", 1: "time"}}
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no other package is the old one
        path = Path(place) / "teacher.onnx"
        torch.onnx.export(
            Bert(folder).eval(),
            (ids, ids),
            path,
            input_names=list(axes),
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )
        written = path.read_bytes()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(written, options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()
    tokenizer.no_truncation()

    def run(texts: Sequence[str]) -> Vectors:
        encodings = tokenizer.encode_batch(list(texts))
        asked = {
            "ids": np.array([encoding.ids for encoding in encodings]),
            "mask": np.array([encoding.attention_mask for encoding in encodings]),
        }
        return np.asarray(session.run(None, asked)[0])

    return Contestant(f"teacher, {name}", len(written) / 1e6, lambda texts: _in_batches(texts, run))


def make_student(path: Path, threads: int) -> Contestant:
    """Open an artifact of a text encoder."""
    session = open_session(path, threads=threads)
    assert session.manifest is not None
    definition = session.manifest.input.tokenizer or ""

    def encode(texts: Sequence[str]) -> Vectors:
        ids = tokenize(definition, texts)
        return _in_batches(ids, lambda some: session.run(pad_batch(list(some))))

    return Contestant(path.stem, path.stat().st_size / 1e6, encode)


def make_static(name: str) -> Contestant:
    """Weigh the teacher's vector of every word by SIF; the common component of sentences goes, as in SIF."""
    dataset = sts_b_sentences()
    definition, size = dataset.tokenizer or "", dataset.vocabulary or 0
    tokenizer = Tokenizer.from_str(definition)
    vectors = open_teacher(name).encode([tokenizer.decode([place]) for place in range(2, size)])
    table = np.vstack([np.zeros((2, vectors.shape[1])), vectors]) * sif_weights(dataset.train.sequences, size)[:, None]
    _, _, axes = np.linalg.svd(average(table, dataset.train.sequences), full_matrices=False)
    served = (table - table @ axes[:1].T @ axes[:1]).astype(np.float32)  # of an average, the average of these

    def encode(texts: Sequence[str]) -> Vectors:
        return np.stack([served[ids].mean(axis=0) for ids in tokenize(definition, texts)])

    return Contestant("its word vectors, averaged", served.nbytes / 1e6, encode)


def _in_batches(items: Sequence[Any], run: Callable[[Sequence[Any]], Vectors]) -> Vectors:
    """Run items alike in length together; row i is for item i."""
    order = sorted(range(len(items)), key=lambda place: len(items[place]))
    parts = [run([items[place] for place in order[at : at + BATCH]]) for at in range(0, len(order), BATCH)]
    vectors: Vectors = np.concatenate(parts)[np.argsort(order)]
    return vectors


if __name__ == "__main__":
    main()
