"""The loss of Mask R-CNN with links between slices: a weighted sum of the terms that the network computes."""

from __future__ import annotations

from polymask.losses.weighted import WeightedTerms


class Loss(WeightedTerms):
    """Weighted sum of the terms of He et al., "Mask R-CNN", ICCV 2017, and Ren et al., "Faster R-CNN", 2015.

    With a head that learns which sections belong together there is a sixth, that of Yang et al., "Video
    instance segmentation", ICCV 2019.

    Args:
        loss_objectness: Weight of object or background of each anchor.
        loss_rpn_box_reg: Weight of the anchors' boxes.
        loss_classifier: Weight of the class of each proposal.
        loss_box_reg: Weight of the proposals' boxes.
        loss_mask: Weight of the masks of the proposals' objects.
        loss_embedding: Weight of which object of the neighbouring slice each box belongs to; of no effect
            without that head.

    Raises:
        UserError: A weight is negative or no number.
    """

    gives = frozenset({"volume"})

    def __init__(
        self,
        *,
        loss_objectness: float = 1.0,
        loss_rpn_box_reg: float = 1.0,
        loss_classifier: float = 1.0,
        loss_box_reg: float = 1.0,
        loss_mask: float = 1.0,
        loss_embedding: float = 1.0,
    ) -> None:
        super().__init__(
            loss_objectness=loss_objectness,
            loss_rpn_box_reg=loss_rpn_box_reg,
            loss_classifier=loss_classifier,
            loss_box_reg=loss_box_reg,
            loss_mask=loss_mask,
            loss_embedding=loss_embedding,
        )
