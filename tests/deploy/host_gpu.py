"""A GPU made of host memory, in place of the libraries that a machine without a GPU has not: pycuda and tensorrt.

It is stricter than a real one where order matters: what is put on a stream happens when the stream is waited for and not before, so
a result that is read too early, or a buffer that is filled too early, is wrong for certain; and what a real one bears now and then (see
`Gpu.misused`) fails the test. ONNX Runtime computes, the host's compiler
compiles pixels.cu. It proves our bookkeeping and nothing about TensorRT; which names TensorRT has is tested against its own bindings
(test_tensorrt_names.py).
"""

import ctypes
import itertools
import json
import signal
import sys
import threading
import weakref
from collections.abc import Callable
from enum import IntEnum
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from deploy.backends import cuda as our_cuda
from deploy.backends import tensorrt_api
from tests.deploy import host_kernel


class Gpu:
    """What a test sets and sees."""

    def __init__(self) -> None:
        self.name, self.capability, self.version, self.driver = "Host GPU", (9, 0), "11.4.0.106", 13000
        self.has_nvcc = True
        self.room = 1 << 40
        """Bytes of device memory in all."""
        self.steps = 3
        """Of a build."""
        self.fails: dict[str, str] = {}
        """Name of a CUDA call -> what the driver says when it is made."""
        self.not_taken: set[str] = set()
        """Operators that the parser refuses."""
        self.builds = 0
        self.log: list[str] = []
        """What happened on streams, in its order."""
        self.gone: list[str] = []
        """What was let go of, in its order: contexts, memory, streams, engines, runtimes."""
        self.misused: list[str] = []
        """What went while queued work needed it, and what went where no context was current."""
        self.live: dict[int, np.ndarray] = {}
        """Device memory by address."""
        self.streams = weakref.WeakValueDictionary[int, Stream]()
        self.local = threading.local()

    def needs_context(self, call: str) -> None:
        if call in self.fails:
            raise LogicError(f"{call} failed: {self.fails[call]}")
        if not getattr(self.local, "stack", []):
            raise LogicError(f"{call} failed: invalid device context")

    def tells(self, what: str, of: object) -> None:
        """`gone` gets `what` once nothing holds `of` any more."""
        weakref.finalize(of, self.is_gone, what, id(of))

    def is_gone(self, what: str, key: int) -> None:
        """`key`: what queued work that needs it names."""
        self.gone.append(what)
        if any(key in needs for stream in self.streams.values() for _, needs, _ in stream.queue):
            self.misused.append(f"{what} went while work that needs it was queued")
        if what in ("context", "engine") and not getattr(self.local, "stack", []):
            self.misused.append(f"{what} went where no CUDA context was current")

    def memory(self, address: int, size: int) -> np.ndarray:
        for begin, array in self.live.items():
            if begin <= address and address + size <= begin + array.nbytes:
                return array[address - begin : address - begin + size]
        raise LogicError("cuMemcpy failed: an illegal memory access was encountered")


class Error(Exception): ...


class LogicError(Error): ...


class CompileError(Error): ...


class Stream:
    numbers = itertools.count(1)

    def __init__(self, gpu: Gpu) -> None:
        gpu.needs_context("cuStreamCreate")
        self.gpu, self.handle = gpu, next(self.numbers)
        self.queue: list[tuple[str, tuple[int, ...], Callable[[], None]]] = []
        """What it is, what it needs (addresses, id of a context), the work itself."""
        gpu.streams[self.handle] = self
        gpu.tells("stream", self)

    def put(self, what: str, needs: tuple[int, ...], work: Callable[[], None]) -> None:
        self.gpu.log.append(f"{what} queued on {self.handle}")
        self.queue.append((what, needs, work))

    def synchronize(self) -> None:
        queue, self.queue = self.queue, []  # of a GPU that is lost nothing is left
        self.gpu.needs_context("cuStreamSynchronize")
        for what, _, work in queue:
            work()
            self.gpu.log.append(f"{what} done on {self.handle}")


class Allocation:
    def __init__(self, gpu: Gpu, size: int) -> None:
        gpu.needs_context("cuMemAlloc")
        if sum(array.nbytes for array in gpu.live.values()) + size > gpu.room:
            raise LogicError("cuMemAlloc failed: out of memory")
        array = np.full(size, 0xCD, np.uint8)
        self.gpu, self.address, self.array = gpu, array.ctypes.data, array
        gpu.live[self.address] = array

    def __int__(self) -> int:
        return self.address

    def free(self) -> None:
        self.gpu.needs_context("cuMemFree")
        del self.gpu.live[self.address]
        self.gpu.is_gone("memory", self.address)


def driver_module(gpu: Gpu) -> ModuleType:
    module: Any = ModuleType("pycuda.driver")

    class Context:
        @staticmethod
        def pop() -> None:
            gpu.local.stack.pop()

        def push(self) -> None:
            gpu.local.stack = [*getattr(gpu.local, "stack", []), self]

    class Device:
        def __init__(self, number: int) -> None:
            assert number == 0

        @staticmethod
        def count() -> int:
            return 1

        def name(self) -> str:
            return gpu.name

        def compute_capability(self) -> tuple[int, int]:
            return gpu.capability

        def retain_primary_context(self) -> Context:
            return Context()

    def init() -> None:
        if "cuInit" in gpu.fails:
            raise LogicError(f"cuInit failed: {gpu.fails['cuInit']}")

    def to_device(target: Any, source: np.ndarray, stream: Stream) -> None:
        gpu.needs_context("cuMemcpyHtoDAsync")
        assert source.flags.c_contiguous
        flat = source.reshape(-1).view(np.uint8)
        stream.put("copy in", (int(target),), lambda: np.copyto(gpu.memory(int(target), flat.nbytes), flat))

    def to_host(target: np.ndarray, source: Any, stream: Stream) -> None:
        gpu.needs_context("cuMemcpyDtoHAsync")
        assert target.flags.c_contiguous
        flat = target.reshape(-1).view(np.uint8)
        stream.put("copy out", (int(source),), lambda: np.copyto(flat, gpu.memory(int(source), flat.nbytes)))

    def pinned(shape: Any, dtype: Any) -> np.ndarray:
        gpu.needs_context("cuMemHostAlloc")
        array = np.empty(shape, dtype)
        array.view(np.uint8).fill(0xEE)
        return array

    module.Error, module.LogicError, module.CompileError = Error, LogicError, CompileError
    module.init, module.Device, module.Context = init, Device, Context
    module.get_driver_version = lambda: gpu.driver
    module.Stream = lambda: Stream(gpu)
    module.mem_alloc = lambda size: Allocation(gpu, size)
    module.pagelocked_empty, module.memcpy_htod_async, module.memcpy_dtoh_async = pinned, to_device, to_host
    return module


def compiler_module(gpu: Gpu) -> ModuleType:
    module: Any = ModuleType("pycuda.compiler")

    class SourceModule:
        def __init__(self, source: str, no_extern_c: bool) -> None:
            assert no_extern_c
            if not gpu.has_nvcc:
                raise OSError("nvcc was not found (is it on the PATH?)")
            gpu.needs_context("cuModuleLoad")
            self.library = host_kernel.compiled()

        def get_function(self, name: str) -> Callable[..., None]:
            assert name == "fit_pictures"

            def launch(
                pixels: Any, jobs: Any, batch: Any, height: Any, width: Any, *, block: Any, grid: Any, stream: Any
            ) -> None:
                needs = (int(pixels), int(jobs), int(batch))
                sizes = [ctypes.c_int(int(one)) for one in (height, width, *grid, *block)]
                stream.put("kernel", needs, lambda: self.library.on_host(*map(ctypes.c_void_p, needs), *sizes))

            return launch

    module.SourceModule = SourceModule
    return module


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


UNSEEN = 6
"""Values per picture of an output whose graph does not say how many: as many as `tiny_models.embedder` gives."""


class Dims4(tuple):  # as TensorRT's: made of a sequence
    def __new__(cls, shape: Any) -> "Dims4":
        return super().__new__(cls, shape)


def tensorrt_module(gpu: Gpu) -> ModuleType:
    module: Any = ModuleType("tensorrt")
    module.__version__ = gpu.version
    module.ILogger, module.Dims4 = ILogger, Dims4
    module.IProgressMonitor = type("IProgressMonitor", (), {})
    module.NetworkDefinitionCreationFlag = IntEnum("NetworkDefinitionCreationFlag", ["STRONGLY_TYPED"], start=1)
    module.MemoryPoolType = IntEnum("MemoryPoolType", ["WORKSPACE"])
    module.BuilderFlag = IntEnum("BuilderFlag", ["TF32", "VERSION_COMPATIBLE"])
    module.TensorIOMode = IntEnum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"], start=0)
    module.DataType = IntEnum("DataType", ["FLOAT", "UINT8", "HALF"])
    module.Builder = lambda logger: Builder(gpu, logger, module)
    module.OnnxParser = lambda network, logger: OnnxParser(gpu, network)
    module.Runtime = lambda logger: Runtime(gpu, logger, module)
    return module


class Builder:
    def __init__(self, gpu: Gpu, logger: Any, trt: Any) -> None:
        gpu.needs_context("cudaGetDevice")
        if "Builder" in gpu.fails:
            logger.log(ILogger.ERROR, gpu.fails["Builder"])
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self.gpu, self.logger, self.trt = gpu, logger, trt

    def create_network(self, flags: int = 0) -> SimpleNamespace:
        assert flags == 1 << self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return SimpleNamespace(model=b"")

    def create_builder_config(self) -> "Config":
        return Config(self.trt)

    def create_optimization_profile(self) -> SimpleNamespace:
        profile = SimpleNamespace(shapes=None)
        profile.set_shape = lambda name, least, best, most: setattr(profile, "shapes", (name, least, best, most))
        return profile

    def build_serialized_network(self, network: Any, config: "Config") -> bytes | None:
        self.gpu.needs_context("cudaGetDevice")
        self.gpu.builds += 1
        if not self.steps_done(config.progress_monitor):
            return None
        if "build" in self.gpu.fails:
            self.logger.log(ILogger.ERROR, self.gpu.fails["build"])
            return None
        name, least, best, most = config.profiles[0].shapes
        head = {
            "gpu": self.gpu.name,
            "tensorrt": self.trt.__version__,
            "input": name,
            "profile": [least[0], best[0], most[0]],
            "timing": len(config.cache.data),
            "workspace": config.pools[self.trt.MemoryPoolType.WORKSPACE],
            "flags": [flag.name for flag in sorted(config.flags)],
        }
        config.cache.data += b"measured"
        return json.dumps(head).encode() + b"\n" + network.model

    def steps_done(self, monitor: Any) -> bool:
        """Whether the monitor let them be done. As TensorRT does it: in a thread of its own, while the caller's hears no signal."""
        done: list[bool] = []
        caller_waits = threading.Event()

        def work() -> None:
            caller_waits.wait()
            try:
                monitor.phase_start("Building", None, self.gpu.steps)
                monitor.phase_start("Inner", "Building", 9)
                done.append(all(monitor.step_complete("Building", step) for step in range(self.gpu.steps)))
                monitor.phase_finish("Inner")
                monitor.phase_finish("Building")
            except BaseException:  # as its bindings do: what a callback raises is said on standard error and ends there
                done.append(False)

        deaf = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            worker = threading.Thread(target=work)
            worker.start()
            caller_waits.set()
            worker.join()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, deaf)
        return all(done)


class Config:
    def __init__(self, trt: Any) -> None:
        self.progress_monitor: Any = None
        self.profiles: list[Any] = []
        self.pools: dict[int, int] = {}
        self.flags: set[IntEnum] = {trt.BuilderFlag.TF32}  # it is on unless it is cleared

    def set_memory_pool_limit(self, pool: int, size: int) -> None:
        self.pools[pool] = size

    def set_flag(self, flag: IntEnum) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: IntEnum) -> None:
        self.flags.discard(flag)

    def add_optimization_profile(self, profile: Any) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, data: bytes) -> SimpleNamespace | None:
        if data and not data.startswith(b"measured"):
            return None
        cache = SimpleNamespace(data=data)
        cache.serialize = lambda: cache.data
        return cache

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self.cache


class OnnxParser:
    """Takes what ONNX Runtime takes, but for what a test says, and UINT8, of which it is as strict as TensorRT's."""

    def __init__(self, gpu: Gpu, network: Any) -> None:
        self.gpu, self.network, self.errors = gpu, network, []

    @property
    def num_errors(self) -> int:
        return len(self.errors)

    def get_error(self, place: int) -> SimpleNamespace:
        return self.errors[place]

    def parse(self, data: bytes) -> bool:
        graph = onnx.load_from_string(data).graph
        for node in graph.node:
            wrong = "no importer" if node.op_type in self.gpu.not_taken else ""
            if node.op_type != "Cast" and graph.input[0].name in node.input:
                wrong = "UINT8 input"
            if wrong:
                said = {"node_operator": node.op_type, "node_name": node.name, "desc": wrong}
                self.errors.append(SimpleNamespace(**{call: lambda one=one: one for call, one in said.items()}))
        self.network.model = data
        return not self.errors


class Runtime:
    def __init__(self, gpu: Gpu, logger: Any, trt: Any) -> None:
        gpu.needs_context("cudaGetDevice")
        self.gpu, self.logger, self.trt = gpu, logger, trt
        self.engine_host_code_allowed = False
        gpu.tells("runtime", self)

    def deserialize_cuda_engine(self, plan: bytes) -> "Engine | None":
        head, _, model = plan.partition(b"\n")
        if "deserialize" in self.gpu.fails:
            self.logger.log(ILogger.ERROR, self.gpu.fails["deserialize"])
            return None
        try:
            said = json.loads(head)
            if said["tensorrt"] > self.trt.__version__:  # version-compatible ones load in newer ones alone
                raise ValueError(said["tensorrt"])
            session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        except Exception:
            self.logger.log(
                ILogger.ERROR, "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (magic tag does not match)"
            )
            return None
        return Engine(self.gpu, said, session, self.trt)


class Engine:
    def __init__(self, gpu: Gpu, head: dict[str, Any], session: Any, trt: Any) -> None:
        self.gpu, self.head, self.session, self.trt = gpu, head, session, trt
        self.tensors = {one.name: one for one in (*session.get_inputs(), *session.get_outputs())}
        self.num_io_tensors = len(self.tensors)
        gpu.tells("engine", self)

    def get_tensor_name(self, place: int) -> str:
        return list(self.tensors)[place]

    def get_tensor_mode(self, name: str) -> int:
        return self.trt.TensorIOMode.INPUT if name == self.head["input"] else self.trt.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> int:
        kinds = {"tensor(uint8)": "UINT8", "tensor(float)": "FLOAT", "tensor(float16)": "HALF"}
        return self.trt.DataType[kinds[self.tensors[name].type]]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else -1 for size in self.tensors[name].shape)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert profile == 0
        return [(size, *self.get_tensor_shape(name)[1:]) for size in self.head["profile"]]

    def create_execution_context(self) -> "ExecutionContext":
        self.gpu.needs_context("cudaMalloc")
        return ExecutionContext(self)


class ExecutionContext:
    def __init__(self, engine: Engine) -> None:
        self.engine, self.addresses, self.shape = weakref.proxy(engine), {}, ()  # it does not keep its engine alive
        engine.gpu.tells("context", self)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return name in self.engine.tensors

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self.engine.head["profile"]
        self.shape = shape
        return least <= shape[0] <= most

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.shape[0], *self.engine.get_tensor_shape(name)[1:])

    def get_max_output_size(self, name: str) -> int:
        """Of what it does not see it takes twice what there may be, and may write as far."""
        assert name != self.engine.head["input"]  # of which TensorRT logs an error
        declared = self.engine.tensors[name].shape[1:]
        return 4 * self.shape[0] * int(np.prod([size if isinstance(size, int) else 2 * UNSEEN for size in declared]))

    def execute_async_v3(self, handle: int) -> bool:
        engine, shape, addresses = self.engine, self.shape, dict(self.addresses)
        engine.gpu.needs_context("cuLaunchKernel")
        sizes = {name: self.get_max_output_size(name) for name in addresses if name != engine.head["input"]}

        def compute() -> None:
            pixels = engine.gpu.memory(addresses[engine.head["input"]], int(np.prod(shape))).reshape(shape)
            names = [one.name for one in engine.session.get_outputs()]
            for name, values in zip(
                names, engine.session.run(names, {engine.head["input"]: pixels.copy()}), strict=True
            ):
                written = values.reshape(-1).view(np.uint8)
                engine.gpu.memory(addresses[name], sizes[name])[: written.size] = written

        engine.gpu.streams[handle].put(f"compute of {shape[0]}", (id(self), *addresses.values()), compute)
        return True


@pytest.fixture
def host_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Any:
    """The stand-in, installed; engines are kept below the test's folder."""
    gpu = Gpu()
    parent: Any = ModuleType("pycuda")
    parent.driver, parent.compiler = driver_module(gpu), compiler_module(gpu)
    for module in (parent, parent.driver, parent.compiler, tensorrt_module(gpu)):
        module.__spec__ = ModuleSpec(module.__name__, None)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    our_cuda.device.cache_clear()
    tensorrt_api.logger.cache_clear()
    yield gpu
    assert not gpu.misused
    our_cuda.device.cache_clear()
    tensorrt_api.logger.cache_clear()
