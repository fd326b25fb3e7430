# SPDX-License-Identifier: Apache-2.0
"""The GPU module of Sluice called from Python on torch tensors, for side-by-side figures.

Only benchmarks use this: the structures below follow src/backend/{backend,ops}.h.
"""
import ctypes as C
import os
import re

OPS = None
CALLS = ["destroy", "mem_alloc", "mem_free", "queue_create", "queue_destroy",
         "queue_sync", "event_create", "event_destroy", "event_record", "queue_wait",
         "event_test", "event_sync", "upload", "fetch", "prepare", "describe"]
F32, BF16 = 0, 1


class Err(C.Structure):
    _fields_ = [("code", C.c_int), ("rank", C.c_int), ("line", C.c_int),
                ("file", C.c_char_p), ("text", C.c_char * 512)]


class Options(C.Structure):
    _fields_ = [("threads", C.c_int), ("local_rank", C.c_int), ("attention_bytes", C.c_int64)]


class Queue(C.Structure):
    _fields_ = [("b", C.c_void_p), ("error", Err), ("cuda", C.c_void_p),
                ("stream", C.c_void_p)]


class Backend:
    """slc_backend_cuda_create, its ops by name: run("matmul", c=..., a=...)."""

    prefix, row_align = "slc_cuda_", 128

    def __init__(self, module, ops_h, attention_bytes):
        self.lib = C.CDLL(module)
        self.read(ops_h)
        create = self.lib.slc_backend_cuda_create
        create.restype = C.c_void_p
        e = Err()
        abi = C.c_int.in_dll(self.lib, "slc_cuda_abi").value
        self.b = create(C.c_int(abi), C.byref(Options(0, 0, attention_bytes)), C.byref(e))
        if not self.b:
            raise RuntimeError(e.text.decode())
        table = (C.c_void_p * (1 + len(CALLS))).from_address(self.b)
        self.calls = dict(zip(CALLS, table[1:]))
        self.q = None
        self.renew_queue()

    def renew_queue(self):
        """A queue that has no scratch of earlier calls."""
        e = Err()
        if self.q:
            C.CFUNCTYPE(None, C.c_void_p)(self.calls["queue_destroy"])(self.q)
        queue = C.CFUNCTYPE(C.c_void_p, C.c_void_p, C.c_void_p)(self.calls["queue_create"])
        self.q = queue(self.b, C.byref(e))
        if not self.q:
            raise RuntimeError(e.text.decode())
        self.stream = Queue.from_address(self.q).stream

    def read(self, ops_h):
        self.structs = read_structs(ops_h)
        self.names = {op: {f[0] for f in s._fields_} for op, s in self.structs.items()}

    def run(self, op, **fields):
        args = self.structs[op]()
        for name, value in fields.items():
            if name not in self.names[op]:
                raise TypeError(f"{op} has no argument {name}")
            setattr(args, name, value.data_ptr() if hasattr(value, "data_ptr") else value)
        getattr(self.lib, self.prefix + op)(C.c_void_p(self.q), C.byref(args))

    def sync(self):
        e = Err()
        f = C.CFUNCTYPE(C.c_int, C.c_void_p, C.c_void_p)(self.calls["queue_sync"])
        if f(self.q, C.byref(e)):
            raise RuntimeError(e.text.decode())

    def describe(self):
        text = C.create_string_buffer(200)
        C.CFUNCTYPE(None, C.c_void_p, C.c_char_p, C.c_size_t)(self.calls["describe"])(
            self.b, text, 200)
        return text.value.decode()


class Oracle(Backend):
    """kernels/ref on host memory, to try a script without a GPU."""
    prefix = "slc_ref_"

    def __init__(self, library, ops_h):
        self.lib = C.CDLL(library)
        self.read(ops_h)
        self.memory = Queue()
        self.q = C.addressof(self.memory)

    def sync(self):
        pass

    def describe(self):
        return "kernels/ref"


KINDS = {"int32_t": C.c_int32, "int64_t": C.c_int64, "uint64_t": C.c_uint64,
         "float": C.c_float, "double": C.c_double, "bool": C.c_bool,
         "enum slc_dtype": C.c_int, "enum slc_qk_norm": C.c_int}


def fields_of(body):
    fields = []
    for line in body.split(";"):
        line = " ".join(line.replace("const ", "").split())
        if not line:
            continue
        kind = re.match(r"(enum \w+|struct \w+|\w+)", line).group(1)
        for name in line[len(kind):].split(","):
            fields.append((name.replace("*", "").strip(),
                           C.c_void_p if "*" in name else KINDS[kind]))
    return fields


def read_structs(path):
    """struct slc_OP_args of ops.h as ctypes structures, and struct slc_rows."""
    text = re.sub(r"/\*.*?\*/", "", open(path).read(), flags=re.S)
    make = lambda name, body: type(name, (C.Structure,), {"_fields_": fields_of(body)})
    body = re.search(r"struct slc_rows \{(.*?)\};", text, flags=re.S).group(1)
    KINDS.setdefault("struct slc_rows", make("Rows", body))  # of all backends that are open
    return {op: make(op, body) for op, body in
            re.findall(r"struct slc_(\w+)_args \{(.*?)\};", text, flags=re.S)}


def Rows(data, stride, ids, scalars, meta_stride, first, count):
    """A struct slc_rows of these, the rest zero."""
    return KINDS["struct slc_rows"](data=data, stride=stride, ids=ids, scalars=scalars,
                                    meta_stride=meta_stride, first=first, count=count)


def open_backend(attention_bytes=0):
    """The GPU's, its memory for the scores of attention's backward (0: as it comes); kernels/ref
    where SLUICE_REF names a library of it:
    cc -shared -fPIC -O2 -Isrc -I. kernels/ref/*.c src/base/err.c -lm -o ref.so"""
    here = os.path.dirname(os.path.abspath(__file__))
    if "SLUICE_REF" in os.environ:
        return Oracle(os.environ["SLUICE_REF"], os.path.join(here, "../../src/backend/ops.h"))
    module = os.path.join(os.environ["SLUICE_MODULE_DIR"], "sluice-cuda.so")
    ops_h = os.environ.get("SLUICE_OPS_H", os.path.join(here, "../../src/backend/ops.h"))
    return Backend(module, ops_h, attention_bytes)
