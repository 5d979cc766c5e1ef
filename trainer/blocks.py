"""Parts that several embedders share."""

from torch import nn

CLASSIFIER_STD = 0.001
"""Of a classifier's first weights: all people start about equally likely."""


class BNNeck(nn.BatchNorm1d):
    """Batch norm between the metric's feature and the classifier's (H. Luo et al., Bag of Tricks, CVPRW 2019, section 3.5).

    (B, D) pooled feature, on which triplet and centre loss stand -> (B, D), on which the classifier stands and which is the
    embedding. The shift stays 0: it is frozen, but counts among "all parameters".
    """

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.bias.requires_grad_(False)


def classifier(features: int, classes: int, *, bias: bool = False) -> nn.Linear:
    """(B, features) -> (B, classes) logits, weights from N(0, 0.001^2), without bias unless asked."""
    layer = nn.Linear(features, classes, bias=bias)
    nn.init.normal_(layer.weight, std=CLASSIFIER_STD)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
