"""Coverage-guided fuzzing of what reads messages: `make fuzz`.

Each target takes bytes of any content. What it lets through must be what it says; what it refuses,
it must refuse with the error that its callers expect. Everything else is a finding.
"""

import json
import math
import random
import sys
import tempfile
from pathlib import Path

import atheris
import msgpack
from taskiq import TaskiqResult

with atheris.instrument_imports(include=["bridge"]):
    from bridge import errors
    from bridge.forms import parse_tensor
    from bridge.messages import Formatter, decode_result, encode_result, read_labels, wire
    from bridge.references import own_keys, parse_stored
    from bridge.results import decode_push
    from bridge.settings import Settings
    from bridge.tensors import DTYPES, TensorSpec, unpack_bytes
    from bridge.training.request import parse_request

HERE = Path(__file__).parent
SEEDS = 300
sys.path.insert(0, str(HERE))
import hostile  # noqa: E402 - beside this file

FORMATTER = Formatter(2**20)
SPECS = [TensorSpec("x", datatype, (-1, 4)) for datatype in DTYPES]
NOWHERE = Settings(dataset_root=Path(tempfile.mkdtemp()))


def message(data):
    """A message has a result in its own format, or is refused."""
    try:
        made = FORMATTER.loads(data)
        read_labels(made)
    except errors.MalformedMessageError as error:
        assert len(str(error)) < 400
        return
    error = errors.UnknownTaskError(f"{made.task_name[:128]!r}")
    result = TaskiqResult.model_construct(
        is_err=True, return_value=made.args, execution_time=0.0, labels=made.labels, error=error
    )
    assert decode_result(encode_result(result)).is_err


def task(data):
    """The same with every field in its place, each of any content."""
    try:
        values = wire.unpack(data, bounded=True)
    except ValueError:
        return
    fields = ["labels", "labels_types", "args", "kwargs", "task_id", "task_name"]
    given = dict(zip(fields, values if isinstance(values, list) else [values], strict=False))
    plain = {"labels": {}, "args": [], "kwargs": {}, "task_id": "a", "task_name": "t"}
    message(_packed(plain | given))


def tensor(data):
    """The first byte chooses the datatype, the others are the entry in JSON or msgpack."""
    spec = SPECS[data[0] % len(SPECS)] if data else SPECS[0]
    try:
        value = wire.unpack(data[1:], bounded=True)
    except ValueError:
        return
    own_keys({"x": value})
    try:
        made = parse_tensor(value, spec)[0]
    except errors.InvalidInputError as error:
        assert len(str(error)) < 1000
    else:
        count = math.prod(made.shape)
        if spec.datatype == "BYTES":
            assert len(unpack_bytes("x", made.data)) == count
        else:
            assert len(made.data) == count * DTYPES[spec.datatype].itemsize
    if isinstance(value, dict):
        try:
            parse_stored(value, spec)
        except errors.InvalidInputError as error:
            assert len(str(error)) < 1000


def result(data):
    """A result's error is of our own tree, whatever it claims to be."""
    for read in (decode_result, decode_push):
        try:
            made = read(data)
        except errors.MalformedMessageError:
            continue
        if read is decode_result:
            assert made.error is None or isinstance(made.error, errors.BridgeError)


def request(data):
    """No training is asked for where there are no datasets; the refusal is short."""
    try:
        values = wire.unpack(data, bounded=True)
    except ValueError:
        return
    arguments = [*values, None, None, None][:3] if isinstance(values, list) else [values] * 3
    try:
        parse_request(*arguments, NOWHERE)
    except errors.TrainingError as error:
        assert len(str(error)) < 10_000
        return
    raise AssertionError("there are no datasets")


TARGETS = {it.__name__: it for it in (message, task, tensor, result, request)}


def seeds(name, folder):
    """Something of each kind to begin with."""
    pick = random.Random(1)  # noqa: S311 - the same each time
    for number in range(SEEDS):
        made = hostile.hostile(pick)[:4096]
        if name == "task":
            fields = hostile.structured(pick)
            fields |= {"labels": pick.choice(hostile.LABELS[:-2]), "labels_types": {"timeout": 4}}
            made = _packed([fields["labels"], fields["labels_types"], [1], {}])
        elif name == "tensor":
            entry = json.loads(json.dumps(hostile.tensor(pick)))
            made = bytes([number % 256])
            made += json.dumps(entry).encode() if number % 2 else _packed(entry)
        elif name == "result":
            error = {"exc_type": "ShapeError", "exc_module": "bridge.errors", "exc_message": ["x"]}
            fields = {"is_err": True, "return_value": [1.5], "labels": {}, "error": error}
            made = json.dumps(fields).encode() if number % 2 else _packed(fields)
        elif name == "request":
            model = {"architecture": "mlp", "input": "x", "options": {"hidden": [8]}}
            made = json.dumps(["digits", model, {"epochs": number, "learning_rate": 0.1}]).encode()
        (folder / f"seed-{number}").write_bytes(made[:4096])


def _packed(value):
    return msgpack.packb(value, default=str, unicode_errors="surrogatepass")


def main():
    """`atheris_targets.py TARGET [libFuzzer's own arguments]`."""
    name, arguments = sys.argv[1], sys.argv[2:]
    folder = Path("build", "fuzz", name)
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    seeds(name, corpus)
    if not any(Path(it).is_file() for it in arguments):  # else it runs that file alone
        arguments = [str(corpus), *arguments]
    options = [f"-artifact_prefix={folder}/", "-max_len=4096", "-timeout=5", "-rss_limit_mb=2048"]
    atheris.Setup([sys.argv[0], *options, *arguments], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
