"""What every backend promises, over each of them."""

import functools
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from deploy import backends
from deploy.backends.onnxruntime import OnnxRuntimeBackend
from deploy.backends.reference import ReferenceDetector, ReferenceEmbedder
from deploy.bundle import SHIPPED, load_bundle
from stream.model import Backend
from tests.deploy import tiny_models


def _shipped(name: str) -> Backend:
    return backends.load(load_bundle(name))


BACKENDS = [
    pytest.param(ReferenceDetector, id="reference detector"),
    pytest.param(ReferenceEmbedder, id="reference embedder"),
    pytest.param(lambda: OnnxRuntimeBackend(tiny_models.embedder(), tiny_models.embedder_card()), id="onnxruntime"),
    pytest.param(
        lambda: OnnxRuntimeBackend(tiny_models.embedder(batch=1), tiny_models.embedder_card(max_batch=1)),
        id="onnxruntime pinned to one image",
    ),
    *(
        pytest.param(functools.partial(_shipped, card.parent.name), id=f"onnxruntime, {card.parent.name}")
        for card in sorted(SHIPPED.glob("*/card.json"))
    ),
]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    make: Callable[[], Backend] = request.param
    return make()


def pictures(backend: Backend, n: int) -> NDArray[np.uint8]:
    return tiny_models.pictures(n, backend.card.input_hw)


@pytest.mark.parametrize("n", [0, 1, 3, 11])
def test_outputs_are_those_of_the_card_with_the_batch_in_front(backend: Backend, n: int) -> None:
    outputs = backend.infer(pictures(backend, n))
    assert {name: array.shape for name, array in outputs.items()} == {
        name: (n, *shape) for name, shape in backend.card.outputs.items()
    }
    assert all(array.dtype == np.float32 for array in outputs.values())


def test_an_image_in_a_batch_equals_itself_alone_to_the_bit(backend: Backend) -> None:
    images = pictures(backend, 9)
    together = backend.infer(images)
    for place in range(9):
        for name, alone in backend.infer(images[place : place + 1]).items():
            np.testing.assert_array_equal(alone[0], together[name][place])


def test_its_input_is_left_as_it_was(backend: Backend) -> None:
    images = pictures(backend, 3)
    before = images.copy()
    backend.infer(images)
    np.testing.assert_array_equal(images, before)


def test_it_takes_views_that_are_not_contiguous(backend: Backend) -> None:
    images = pictures(backend, 6)
    for name, array in backend.infer(images[::2]).items():
        np.testing.assert_array_equal(array, backend.infer(images[::2].copy())[name])


def test_closing_twice_is_safe(backend: Backend) -> None:
    backend.close()
    backend.close()


def test_vectors_have_unit_length(backend: Backend) -> None:
    vectors = backend.infer(pictures(backend, 4)).get("embedding", np.ones((4, 1)))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
