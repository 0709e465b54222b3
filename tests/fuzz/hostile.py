"""Hostile messages and headers, made from a seed."""

import json
import math
import struct

import msgpack
from pamqp.commands import Basic


def task(pick, name="ml_inference", args=("double", {"x": [[1.0, 2.0, 3.0, 4.0]]}), **changed):
    return {
        "task_id": f"{pick.getrandbits(128):032x}",
        "task_name": name,
        "labels": {},
        "labels_types": None,
        "args": list(args),
        "kwargs": {},
    } | changed


# ---- headers, as bytes: our library would not write most of them -------------------------


class RawProperties(Basic.Properties):
    """Properties that are written as they are given."""

    def __init__(self, flags, data):
        super().__init__()
        self.written = struct.pack(">H", flags) + data

    def marshal(self):
        return self.written


def table(*fields):
    data = b"".join(bytes([len(name)]) + name + value for name, value in fields)
    return struct.pack(">I", len(data)) + data


def headers(*fields):
    return RawProperties(0x2000, table(*fields))


def text(value):
    return b"S" + struct.pack(">I", len(value)) + value


def array(*values):
    data = b"".join(values)
    return b"A" + struct.pack(">I", len(data)) + data


def nested(depth):
    value = b"V"
    for _ in range(depth):
        value = b"F" + table((b"a", value))
    return value


def hostile_headers(queue):
    """Each with its name; the body that they come with decides what becomes of the message."""
    far = struct.pack(">Q", 2**63 - 1)
    every_type = [b"t\1", b"b\x80", b"B\xff", b"s\x80\0", b"u\xff\xff", b"I\x80\0\0\0"]
    every_type += [b"i\xff\xff\xff\xff", b"l\x80" + b"\0" * 7, b"f" + b"\x7f" * 4, b"D\xff\0\0\0\1"]
    every_type += [b"T" + b"\0" * 8, b"x\0\0\0\1\xff", b"V", array(b"V", text(b"a")), nested(3)]
    return {
        "none": Basic.Properties(),
        "every type": headers(*((b"h%d" % i, it) for i, it in enumerate(every_type))),
        "a date that is none": headers((b"at", b"T" + far)),
        "a timestamp that is none": RawProperties(0x0040, far),
        "a name that is no text": headers((b"\xff\xfe", b"V")),
        "a value that is no text": headers((b"a", text(b"\xff\xfe"))),
        "a content type that is no text": RawProperties(0x8000, b"\2\xff\xfe"),
        "a number beyond single precision": headers((b"a", b"d" + struct.pack(">d", 1e308))),
        "deep": headers((b"a", nested(3000))),
        "many": headers((b"a", array(*[b"V"] * 100_000))),
        "as long as a frame": headers((b"a", text(b"x" * 130_000))),
        "copies": headers((b"CC", array(text(queue)))),
        "blind copies": headers((b"BCC", array(text(queue)))),
        "a count": headers((b"x-delivery-count", b"l" + far)),
        "attempts": headers((b"x-bridge-attempts", b"I\0\0\0\x63"), (b"x-bridge-reason", b"V")),
        "a death": headers((b"x-death", array(b"F" + table((b"queue", text(queue)))))),
        "gzip": Basic.Properties(content_encoding="gzip", content_type="application/x-pickle"),
        "a priority": Basic.Properties(priority=255, message_id="x" * 255, app_id="x"),
        "a reply queue": Basic.Properties(reply_to="taskiq_ml", correlation_id="x" * 255),
    }


# ---- messages ---------------------------------------------------------------------------

DEEP = json.loads("[" * 200 + "]" * 200)
VALUES = [None, True, -1, 2**63, 1e308, math.nan, "", "x" * 5000, "\ud800", "\0", [], {}, DEEP]
NAMES = [*VALUES, "../double", "double/../../x", "nobody", "d\u043euble", "double\n", "x" * 100_000]
SHAPES = [*VALUES, [2**62, 4], [-1, 4], [1, 4], [0, 4], [True, 4], [1.0, 4], ["1", 4], [1] * 40]
SHAPES += [[2**63 - 1] * 16, [2**62, 0], [1, 3]]
RAWS = [*VALUES, "AAAA", "A" * 21 + "===", "no base64", "A" * 24 + "\n", "/" * 22 + "=="]
LISTS = [*VALUES, [[1, 2, 3]], [[1, 2, 3, "a"]], [[1, 2, 3, 2**70]], [1, 2, 3, 4], [[[[1]]]]]
LISTS += [[[1, 2, 3, 4]] * 9, [[0.0] * 3 + ["x" * 50_000]], [[1, 2, 3, math.inf]], [[1, 2], [3]]]
LABELS = [
    *({name: value} for name in ("timeout", "reply_to", "ack_type", "n") for value in VALUES),
    {"timeout": "1e308"},
    {"timeout": "-1"},
    {"content_type": "application/msgpack"},
    {"content_type": "application/x-python-pickle"},
    {"takes_references": "1", "reply_to": "../../x"},
    {"delay": "3600", "priority": "9", "queue_name": "x", "retry_on_error": True},
    {"big": "x" * 100_000},
    {str(i): i for i in range(5000)},
]
KEYS = ["../" + "0" * 32, "1800000000-t-" + "0" * 32, "s3://other/bucket"]


def tensor(pick):
    kind = pick.randrange(4)
    if kind == 0:
        return pick.choice(LISTS)
    entry = {"datatype": pick.choice(["FP32", "FP32", "BYTES", "os", None, []])}
    entry["shape"] = pick.choice(SHAPES)
    if kind == 1:
        return entry | {"raw": pick.choice(RAWS)}
    if kind == 2:
        return entry | {"data": pick.choice(LISTS)}
    size = pick.choice([16, 0, -1, 2**62, "16"])
    return entry | {"ref": {"key": pick.choice(KEYS), "size": size, "sha256": "0" * 64}}


def structured(pick):
    model = pick.choice([*NAMES, *["double"] * 9, "add_int", "echo_text"])
    inputs = {name: tensor(pick) for name in pick.sample(["x", "x", "a", "b", "text"], 2)}
    version = pick.choice([[], [], [], ["1"], ["../1"], ["\u0663"], [10**30], [-1], ["1", "more"]])
    made = task(pick, args=[model, pick.choice([*[inputs] * 40, *VALUES]), *version])
    for _ in range(pick.randrange(3)):
        labels = pick.choice(LABELS)
        made |= pick.choice(
            [
                {"labels": labels},
                {"labels": labels, "labels_types": {it: pick.randrange(-1, 9) for it in labels}},
                {"task_name": pick.choice(["os.system", "builtins:eval", "x" * 9000, "\ud800"])},
                {"kwargs": {pick.choice(["version", "context", "self", "\ud800"]): "1"}},
                {pick.choice(list(made)): pick.choice(VALUES)},
                {"task_name": "train_model"},
            ]
        )
    return made


def mutated(pick, body):
    body = bytearray(body)
    for _ in range(pick.randrange(1, 4)):
        at = pick.randrange(max(1, len(body) - 1))
        kind = pick.randrange(4)
        if kind == 0:
            body[at : at + 1] = bytes([pick.randrange(256)])
        elif kind == 1:
            del body[at : at + pick.randrange(1, 9)]
        elif kind == 2:
            body[at:at] = pick.choice([b"[", b"{", b'"', b"\\", b"\xff", b"9" * 5000, b"\xdd" * 5])
        else:
            del body[max(1, at) :]
    return bytes(body)


def hostile(pick):
    kind = pick.randrange(8)
    if kind == 0:
        return mutated(pick, json.dumps(task(pick)).encode())
    if kind == 1:
        return mutated(pick, msgpack.packb(task(pick)))
    if kind == 2:
        return pick.randbytes(pick.randrange(200))
    if kind < 5:
        plain = json.loads(json.dumps(structured(pick)))
        return msgpack.packb(plain, unicode_errors="surrogatepass", default=str)
    return json.dumps(structured(pick)).encode()
