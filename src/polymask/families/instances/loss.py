"""The loss of Mask R-CNN: a weighted sum of the five terms that the network computes itself."""

from __future__ import annotations

from polymask.losses.weighted import WeightedTerms


class Loss(WeightedTerms):
    """Weighted sum of the terms of He et al., "Mask R-CNN", ICCV 2017, and Ren et al., "Faster R-CNN", 2015.

    Args:
        loss_objectness: Weight of object or background of each anchor.
        loss_rpn_box_reg: Weight of the anchors' boxes.
        loss_classifier: Weight of the class of each proposal.
        loss_box_reg: Weight of the proposals' boxes.
        loss_mask: Weight of the masks of the proposals' objects.

    Raises:
        UserError: A weight is negative or no number.
    """

    gives = frozenset({"objects"})

    def __init__(
        self,
        *,
        loss_objectness: float = 1.0,
        loss_rpn_box_reg: float = 1.0,
        loss_classifier: float = 1.0,
        loss_box_reg: float = 1.0,
        loss_mask: float = 1.0,
    ) -> None:
        super().__init__(
            loss_objectness=loss_objectness,
            loss_rpn_box_reg=loss_rpn_box_reg,
            loss_classifier=loss_classifier,
            loss_box_reg=loss_box_reg,
            loss_mask=loss_mask,
        )
