"""What every backend promises, over each of them that runs on a processor. TensorRT and torch's graphs need a GPU: `make gpu-check`."""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from deploy import backends
from deploy.backends.onnxruntime import OnnxRuntimeBackend
from deploy.backends.openvino import OpenVinoBackend, Precision, precisions
from deploy.backends.reference import ReferenceDetector, ReferenceEmbedder
from deploy.bundle import SHIPPED, load_bundle
from stream.model import Backend
from tests.deploy import tiny_models

Make = Callable[[], Backend]


def _onnxruntime(batch: int | str = "n", max_batch: int = 4) -> Backend:
    return OnnxRuntimeBackend(tiny_models.embedder(batch=batch), tiny_models.embedder_card(max_batch=max_batch))


def _openvino(precision: Precision, batch: int | str = "n", max_batch: int = 4) -> Backend:
    card = tiny_models.embedder_card(max_batch=max_batch)
    return OpenVinoBackend(tiny_models.embedder(batch=batch), card, precision=precision)


def _openvino_shipped(name: str, precision: Precision) -> Backend:
    bundle = load_bundle(name)
    return OpenVinoBackend(bundle.model, bundle.card, precision=precision)


def _torch() -> Backend:
    import torch

    from deploy.backends.torch import TorchRuntime
    from trainer import checkpoint
    from trainer.methods import osnet

    recipe = osnet.OSNetRecipe(width=0.25, input_hw=(64, 32))
    torch.manual_seed(0)
    network = osnet.embedder(recipe)
    card = msgspec.structs.replace(
        tiny_models.embedder_card((64, 32), 512), outputs={"embedding": (512,)}, embedding_size=512
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pt"
        checkpoint.save(path, checkpoint.Checkpoint(recipe.model_dump(mode="json"), 1.0, 1, network.state_dict()))
        return TorchRuntime(path, card)


FASTEST: Precision = precisions()[-1]
BACKENDS: list[tuple[str, Make]] = [
    ("reference detector", ReferenceDetector),
    ("reference embedder", ReferenceEmbedder),
    ("onnxruntime", _onnxruntime),
    ("onnxruntime pinned to one image", functools.partial(_onnxruntime, 1, 1)),
    ("torch", _torch),
    *((f"openvino {precision}", functools.partial(_openvino, precision)) for precision in precisions()),
    ("openvino pinned to one image", functools.partial(_openvino, "fp32", 1, 1)),
    (f"openvino {FASTEST}, osnet-x0.25", functools.partial(_openvino_shipped, "osnet-x0.25", FASTEST)),
    ("openvino fp32, person-detector", functools.partial(_openvino_shipped, "person-detector", "fp32")),
    *(
        (f"onnxruntime, {card.parent.name}", lambda name=card.parent.name: backends.load(load_bundle(name)))
        for card in sorted(SHIPPED.glob("*/card.json"))
    ),
]
EACH = [pytest.param(make, id=name) for name, make in BACKENDS]

pytestmark = pytest.mark.usefixtures("one_thread")


@functools.cache
def _made(make: Make) -> Backend:
    return make()


@pytest.fixture(params=EACH)
def backend(request: pytest.FixtureRequest) -> Backend:
    """One per module and kind: compiling takes seconds. Who closes one makes its own."""
    return _made(request.param)


def pictures(backend: Backend, n: int) -> NDArray[np.uint8]:
    return tiny_models.pictures(n, backend.card.input_hw)


@pytest.mark.parametrize("n", [0, 1, 3, 11])
def test_outputs_are_those_of_the_card_with_the_batch_in_front(backend: Backend, n: int) -> None:
    outputs = backend.infer(pictures(backend, n))
    assert {name: array.shape for name, array in outputs.items()} == {
        name: (n, *shape) for name, shape in backend.card.outputs.items()
    }
    assert all(array.dtype == np.float32 for array in outputs.values())


def test_an_image_in_a_batch_equals_itself_alone_to_the_bit(backend: Backend, request: pytest.FixtureRequest) -> None:
    images = pictures(backend, 9)
    together = backend.infer(images)
    exact = "torch" not in request.node.callspec.id  # its libraries choose kernels by the batch
    for place in range(9):
        for name, alone in backend.infer(images[place : place + 1]).items():
            np.testing.assert_allclose(alone[0], together[name][place], rtol=0, atol=0 if exact else 1e-5)


def test_its_input_is_left_as_it_was(backend: Backend) -> None:
    images = pictures(backend, 3)
    before = images.copy()
    backend.infer(images)
    np.testing.assert_array_equal(images, before)


def test_what_it_gave_stays_when_it_infers_again(backend: Backend) -> None:
    first = backend.infer(pictures(backend, 3))
    kept = {name: array.copy() for name, array in first.items()}
    backend.infer(255 - pictures(backend, 3))
    for name, array in first.items():
        np.testing.assert_array_equal(array, kept[name])


def test_it_takes_views_that_are_not_contiguous(backend: Backend) -> None:
    images = pictures(backend, 6)
    for name, array in backend.infer(images[::2]).items():
        np.testing.assert_array_equal(array, backend.infer(images[::2].copy())[name])


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda images: images.astype(np.float32), id="floats"),
        pytest.param(lambda images: images.transpose(0, 3, 1, 2), id="channels first"),
        pytest.param(lambda images: images[:, :-1], id="a row short"),
        pytest.param(lambda images: images[0], id="no batch axis"),
    ],
)
@pytest.mark.parametrize("kind", ["onnxruntime", f"openvino {FASTEST}", "torch"])
def test_pictures_of_another_kind_are_refused_in_one_line(kind: str, wrong: Callable[..., NDArray[np.generic]]) -> None:
    backend = _made(dict(BACKENDS)[kind])
    with pytest.raises(ValueError, match=r"^[^\n]*takes \(N, \d+, \d+, 3\) uint8, got [^\n]*$"):
        backend.infer(wrong(pictures(backend, 2)))  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [p for p in EACH if "shipped" not in str(p.id) and "," not in str(p.id)])
def test_closing_twice_is_safe(make: Make) -> None:
    backend = make()
    backend.close()
    backend.close()


@pytest.mark.parametrize("kind", ["onnxruntime", "openvino fp32", "torch"])
def test_a_closed_backend_says_so(kind: str) -> None:
    backend = dict(BACKENDS)[kind]()
    backend.close()
    with pytest.raises(ValueError, match="the backend is closed"):
        backend.infer(pictures(backend, 1))


def test_vectors_have_unit_length(backend: Backend, request: pytest.FixtureRequest) -> None:
    vectors = backend.infer(pictures(backend, 4)).get("embedding", np.ones((4, 1)))
    half = "16" in request.node.callspec.id.split(",")[0]  # computes the length in half precision, too
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3 if half else 1e-5)


@pytest.mark.parametrize("name", ["osnet-x0.25", "person-detector"])
def test_the_shipped_bundles_give_their_golden_outputs_in_openvino(name: str) -> None:
    from deploy.backends.auto import verify

    precision: Precision = FASTEST if name == "osnet-x0.25" else "fp32"
    backend = _made(dict(BACKENDS)[f"openvino {precision}, {name}"])
    verify(backend, load_bundle(name), precision)
