import hashlib
import io
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import Weights, WeightsEnum

from stream.errors import DataError
from trainer.weights import pretrained


def _network(people=3):
    return nn.ModuleDict({"body": nn.Linear(4, 5), "classifier": nn.Linear(5, people)})


def _file(tmp_path, content):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    return str(path)


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda state: state, id="a state dict alone"),
        pytest.param(lambda state: {f"module.{name}": value for name, value in state.items()}, id="of several GPUs"),
        pytest.param(lambda state: {"state_dict": state, "epoch": 3, "rank1": np.float32(0.9)}, id="a checkpoint"),
    ],
)
def test_weights_for_other_people_fill_all_but_the_classifier(tmp_path, wrap):
    given, network = _network(people=7), _network()
    before = network.classifier.weight.clone()
    report = pretrained(_file(tmp_path, wrap(given.state_dict())), network)
    assert torch.equal(network.body.weight, given.body.weight)
    assert torch.equal(network.classifier.weight, before)
    assert report.matched == ("body.weight", "body.bias")
    assert report.skipped == report.missing == ("classifier.weight", "classifier.bias")
    assert str(report) == (
        "2 matched; 2 skipped (classifier.weight, classifier.bias); "
        "2 left as they were (classifier.weight, classifier.bias)"
    )


def test_names_can_be_translated(tmp_path):
    given, network = nn.Linear(4, 5), _network()
    report = pretrained(_file(tmp_path, given.state_dict()), network, rename=lambda name: f"body.{name}")
    assert torch.equal(network.body.weight, given.weight)
    assert report.skipped == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param({"other": torch.zeros(3)}, r"none of its 1 entries fits .*other.*body.weight", id="nothing fits"),
        pytest.param({}, "none of its 0 entries fits", id="empty"),
        pytest.param([1, 2], "holds a list, expected a state dict", id="no dict"),
        pytest.param(SimpleNamespace(a=1), "more than tensors and numbers", id="an object"),
    ],
)
def test_a_file_without_fitting_weights_is_refused_in_one_line(tmp_path, content, message):
    with pytest.raises(DataError, match=message) as caught:
        pretrained(_file(tmp_path, content), _network())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[:100], id="cut short"),
        pytest.param(lambda data: b"hello", id="other bytes"),
        pytest.param(lambda data: b"", id="empty"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path, damage):
    path = tmp_path / "weights.pth"
    torch.save(_network().state_dict(), path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="damaged"):
        pretrained(str(path), _network())


def test_a_flipped_bit_is_refused_wherever_it_matters(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(_network().state_dict(), path)
    whole, said = path.read_bytes(), []
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            pretrained(str(path), _network())
        except DataError as error:
            said.append(str(error))
        else:  # what no reader looks at: times, padding
            torch.testing.assert_close(
                torch.load(path, weights_only=True), torch.load(io.BytesIO(whole), weights_only=True)
            )
    assert len(said) > 20
    assert not any("\n" in each for each in said)


def test_a_file_that_is_not_there_is_said_with_the_ways_out():
    with pytest.raises(DataError, match=r"no such file.*imagenet.*--from-scratch"):
        pretrained("nowhere.pth", _network())


def _published_at(url):
    return WeightsEnum("Published", {"DEFAULT": Weights(url=url, transforms=None, meta={})}).DEFAULT


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Publishes a file as torchvision does, its hash in its name, at an address of the local disk."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def publish(state, digest=None):
        plain = tmp_path / "plain.pth"
        torch.save(state, plain)
        digest = digest or hashlib.sha256(plain.read_bytes()).hexdigest()[:8]
        target = tmp_path / f"network-{digest}.pth"
        shutil.move(plain, target)
        return _published_at(target.as_uri())

    return publish


def test_imagenet_weights_are_downloaded_once_and_checked(published, tmp_path, capsys):
    given, network = _network(), _network()
    weights = published(given.state_dict())
    assert len(pretrained("imagenet", network, imagenet=weights).matched) == 4
    assert torch.equal(network.body.weight, given.body.weight)
    next(tmp_path.glob("network-*.pth")).unlink()
    assert len(pretrained("imagenet", _network(), imagenet=weights).matched) == 4
    assert capsys.readouterr().out == ""


def test_a_download_with_another_hash_is_refused(published):
    with pytest.raises(DataError, match="arrived damaged"):
        pretrained("imagenet", _network(), imagenet=published(_network().state_dict(), digest="0123abcd"))


def test_without_network_the_ways_out_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = _published_at("http://127.0.0.1:9/network-0123abcd.pth")
    with pytest.raises(DataError, match=r"cannot be downloaded .*refused.*--from-scratch") as caught:
        pretrained("imagenet", _network(), imagenet=weights)
    assert "\n" not in str(caught.value)


def test_a_network_without_imagenet_weights_says_so():
    with pytest.raises(DataError, match=r"torchvision has none for this network.*--from-scratch"):
        pretrained("imagenet", _network())
