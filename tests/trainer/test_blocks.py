import torch

from trainer.blocks import BNNeck, classifier


def test_the_neck_learns_its_scale_but_not_its_shift():
    neck = BNNeck(8)
    neck(torch.randn(4, 8)).square().sum().backward()
    assert neck.weight.grad is not None
    assert neck.bias.grad is None
    assert (neck.weight == 1).all()
    assert (neck.bias == 0).all()
    assert sum(p.numel() for p in neck.parameters()) == 16
    assert sum(p.numel() for p in neck.parameters() if p.requires_grad) == 8


def test_the_neck_normalises_over_the_batch():
    out = BNNeck(8)(3 + 5 * torch.randn(400, 8))
    assert torch.allclose(out.mean(0), torch.zeros(8), atol=1e-5)
    assert torch.allclose(out.std(0), torch.ones(8), atol=1e-2)


def test_a_classifier_begins_small_and_without_bias():
    torch.manual_seed(0)
    layer = classifier(256, 100)
    assert layer.bias is None
    assert 0.00095 < float(layer.weight.detach().std()) < 0.00105
    assert (classifier(4, 3, bias=True).bias == 0).all()
