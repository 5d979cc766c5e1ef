"""ONNX -> TensorRT engine, through the tensorrt package's own parser."""

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from deploy import engine, engine_check
from deploy.backends import tensorrt_api
from deploy.backends.cuda import Device
from deploy.bundle import Bundle
from deploy.engine import Profile, Target
from deploy.engine_graph import taken_form
from stream.errors import EngineError

if TYPE_CHECKING:
    import tensorrt as trt

Progress = Callable[[str, int, int], None]
"""A phase's name, steps done, steps in all; called by threads of TensorRT's own."""
LOOK_S = 0.1
"""How often the main thread looks for Ctrl-C while an engine is built."""


def target_of(
    bundle: Bundle, device: Device, profile: Profile | None, workspace_mib: int, version_compatible: bool
) -> Target:
    """What an engine of `bundle` on this machine depends on. Raises `UsageError` for a profile that the card does not allow."""
    most = bundle.card.max_batch
    # a stage fills its batches when it is loaded, which is when speed counts
    wanted = profile or Profile(1, most, most)
    wanted.check(most)
    version = tensorrt_api.version()
    return Target(
        model=bundle.card.digest,
        gpu=device.name,
        compute_capability=device.capability,
        tensorrt=version.partition(".")[0] if version_compatible else version,
        driver=device.driver,
        profile=wanted,
        workspace_mib=workspace_mib,
        version_compatible=version_compatible,
    )


def prepared(path: Path) -> onnx.ModelProto:
    """The graph of an ONNX file as the parser is given it. Raises `EngineError` where it is none."""
    return taken_form(engine_check.read(path))


def build_plan(bundle: Bundle, target: Target, device: Device, progress: Progress) -> bytes:
    """The engine; what was measured on the way is kept for the next build on this GPU. Takes minutes.

    Raises `EngineError` where the graph or the profile is not taken, `DeviceError` where the GPU cannot; ``KeyboardInterrupt`` when
    interrupted.
    """
    import tensorrt as trt

    logger, said = tensorrt_api.logger()
    said.clear()
    doing = f"{bundle.card.name}: TensorRT {tensorrt_api.version()} on {device.name}"
    with device.current(doing):
        try:
            builder = trt.Builder(logger)
        except (TypeError, RuntimeError) as error:  # what its bindings make of a null
            raise said.explained(f"{doing} cannot build") from error
        graph = prepared(bundle.model)
        network = tensorrt_api.strongly_typed(builder)
        parser = trt.OnnxParser(network, logger)
        if not parser.parse(graph.SerializeToString()):
            raise EngineError(f"{doing}: {_refused(parser)}")
        config = builder.create_builder_config()
        _configure(builder, config, bundle, graph, target)
        cache = config.create_timing_cache(engine.read_timing(engine.engines(), target))
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
        monitor = _monitor(progress)
        config.progress_monitor = monitor

        def build() -> Any:
            with device.current(doing):  # a context belongs to threads
                return builder.build_serialized_network(network, config)

        plan = _beside(build, monitor)
        if monitor.interrupted:
            raise KeyboardInterrupt
        if plan is None:
            raise said.explained(f"{doing} built no engine")
        measured: Any = config.get_timing_cache().serialize()
        engine.write_timing(engine.engines(), target, bytes(measured))
        return bytes(plan)


def _configure(
    builder: "trt.Builder", config: "trt.IBuilderConfig", bundle: Bundle, graph: onnx.ModelProto, target: Target
) -> None:
    import tensorrt as trt

    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, target.workspace_mib << 20)
    # fp32 means fp32: TF32 keeps 10 bits of a fraction; who wants speed exports fp16
    config.clear_flag(trt.BuilderFlag.TF32)
    if target.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    profile = builder.create_optimization_profile()
    height, width = bundle.card.input_hw
    sizes = (target.profile.least, target.profile.best, target.profile.most)
    least, best, most = (trt.Dims4([size, height, width, 3]) for size in sizes)
    profile.set_shape(_input_name(graph, bundle), least, best, most)
    if config.add_optimization_profile(profile) < 0:
        raise EngineError(f"{bundle.card.name}: TensorRT refuses batches of {sizes[0]} to {sizes[2]}; give other sizes")


def _input_name(model: onnx.ModelProto, bundle: Bundle) -> str:
    names = [value.name for value in model.graph.input]
    if len(names) != 1:
        raise EngineError(f"{bundle.model}: has {len(names)} inputs, expected the one of the house contract")
    return str(names[0])


def _refused(parser: "trt.OnnxParser") -> str:
    """What the parser refuses, node by node."""
    errors = [parser.get_error(place) for place in range(parser.num_errors)]
    nodes = [f"{error.node_operator() or 'the graph'} {error.node_name()}: {error.desc()}" for error in errors[:5]]
    more = f" (and {len(errors) - 5} more)" if len(errors) > 5 else ""
    return (
        f"the parser does not take {'; '.join(nodes) or 'the graph'}{more}; `sightline build --check` lists such nodes"
    )


def _beside(build: Callable[[], Any], monitor: Any) -> Any:
    """What `build` gives, called in a thread of its own: Python runs handlers of signals in the main thread alone, and there only
    between its own steps, of which a call into TensorRT is one that takes minutes."""
    with _heard(monitor), ThreadPoolExecutor(1) as worker:
        built = worker.submit(build)
        while not wait([built], LOOK_S).done:
            pass
    return built.result()


@contextmanager
def _heard(monitor: Any) -> Iterator[None]:
    """Within it Ctrl-C is noted by `monitor`, which ends the build: as an exception TensorRT's callbacks would swallow it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(number: int, frame: object) -> None:
        monitor.interrupted = True

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _monitor(progress: Progress) -> Any:
    """TensorRT's progress, outermost phases only; the build ends once it is `interrupted`."""
    import tensorrt as trt

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, unused-ignore]  # its type is known where TensorRT is installed
        def __init__(self) -> None:
            super().__init__()
            self.interrupted = False
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: Any) -> None:
            if not parent_phase:
                self.steps[phase_name] = int(num_steps)
                progress(phase_name, 0, self.steps[phase_name])

        def step_complete(self, phase_name: str, step: Any) -> bool:
            if phase_name in self.steps:
                progress(phase_name, int(step) + 1, self.steps[phase_name])
            return not self.interrupted

        def phase_finish(self, phase_name: str) -> None:
            if phase_name in self.steps:
                total = self.steps.pop(phase_name)
                progress(phase_name, total, total)

    return Monitor()
