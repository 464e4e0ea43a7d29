"""The loss of a batch: weighted terms on masks plus weighted terms on classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict, cast

import torch
from torch import Tensor, nn

from polymask.errors import UserError, choose, number
from polymask.losses.classification import SCHEMES, log_prior

WEIGHTINGS = ("fixed", "uncertainty")

# Part of the loss -> key of its logits among the outputs, keys of its target and its rows in the batch.
_PARTS = {
    "segmentation": ("mask_logits", "mask", "mask_rows"),
    "classification": ("class_logits", "label", "label_rows"),
}


class WeightedTerm(TypedDict):
    """A summand of a part: `term(logits, target)` returns a scalar that counts `weight` times."""

    weight: float
    term: nn.Module


class Loss(nn.Module):
    """Sum of two parts, segmentation and classification, each a weighted sum L of named terms.

    With part weights w, `fixed` is the sum of w L; `uncertainty` is the sum of w (exp(-s) L + s / 2) with
    a learned log variance s per part, 0 at first (Kendall et al., "Multi-task learning using uncertainty to
    weigh losses for scene geometry and semantics", CVPR 2018).

    Samples without a mask or label do not count in that part. A part that no sample of the batch has adds 0
    (no s / 2 either); a part whose logits the network does not give is left out.

    Args:
        segmentation: Name to weighted term on mask logits, see `polymask.losses.segmentation`.
        classification: Name to weighted term on class logits, see `polymask.losses.classification`.
        weighting: `fixed` or `uncertainty`.
        segmentation_weight: w of segmentation, >= 0.
        classification_weight: w of classification, >= 0.
        class_weights: Name of a scheme; the family computes the weights by it, since it knows the classes.
        weight_of_class: (K,) float32, assigned to every classification term; None leaves these as they are.
        class_counts: Class to number of training images, for terms that adjust logits by them; None when
            the network will not be trained.

    Attributes:
        balancing: What makes up for classes of different size, as key=value, or "".

    Raises:
        UserError: A weight is negative, `weighting` is unknown, a term is not given as {weight, term}, two
            terms share a name, a classification term has no class weights, or two things make up for rare
            classes.
    """

    gives = frozenset({"mask", "label"})

    def __init__(
        self,
        *,
        segmentation: Mapping[str, WeightedTerm],
        classification: Mapping[str, WeightedTerm],
        weighting: str = "fixed",
        segmentation_weight: float = 1.0,
        classification_weight: float = 1.0,
        class_weights: str = "none",
        weight_of_class: Tensor | None = None,
        class_counts: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        parts = {"segmentation": segmentation, "classification": classification}
        _check_names(parts)
        self.terms = nn.ModuleDict({part: _modules(part, terms) for part, terms in parts.items()})
        self.term_names = {part: list(terms) for part, terms in parts.items()}
        self.term_weights = {
            name: entry["weight"] for terms in parts.values() for name, entry in terms.items()
        }
        self.part_weights = {
            "segmentation": number("loss.segmentation_weight", segmentation_weight, least=0.0),
            "classification": number("loss.classification_weight", classification_weight, least=0.0),
        }
        learned = _PARTS if choose("loss.weighting", weighting, WEIGHTINGS) == "uncertainty" else ()
        self.log_variances = nn.ParameterDict({part: nn.Parameter(torch.zeros(())) for part in learned})
        choose("loss.class_weights", class_weights, SCHEMES)
        of_classes = cast(nn.ModuleDict, self.terms["classification"])
        self.balancing = _balancing(of_classes, class_weights)
        if weight_of_class is not None:
            _assign_weights(of_classes, weight_of_class)
        if class_counts is not None:
            _assign_priors(of_classes, class_counts)

    def forward(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Compute the loss in float32, whatever the autocast around it, without waiting for the device.

        Args:
            outputs: `mask_logits` (B, C, H, W), `class_logits` (B, K), or both.
            batch: For `mask_logits`: `mask` (B, H, W) int64 or uint8, 255 = ignore, and `mask_rows`, the
                rows that have a mask, int64, or None when all have. For `class_logits`: `label` (B,) int64
                and `label_rows` likewise. Of mixed images both may be soft: (B, C, H, W) and (B, K) float32.

        Returns:
            Scalars: `loss`; and detached, `loss_segmentation` and `loss_classification` before part weights,
            `loss_{name}` of each term before its weight, and with `uncertainty` `log_variance_{part}`.

        Raises:
            UserError: There are logits of a part without terms.
        """
        # Zero times all log variances: DistributedDataParallel wants a gradient of those left out, too.
        summands = [0.0 * log_variance for log_variance in self.log_variances.values()]
        values: dict[str, Tensor] = {}
        for part, (logits, target, rows) in _PARTS.items():
            if logits in outputs:
                part_values = self._part(part, outputs[logits], batch[target], batch[rows])
                present = batch[rows] is None or len(batch[rows]) > 0
                summands.append(self._weigh(part, part_values[f"loss_{part}"], present))
                values |= part_values
        # Copies: the optimizer changes the parameters in place before their values are logged.
        values |= {f"log_variance_{part}": value.clone() for part, value in self.log_variances.items()}
        loss = torch.stack(summands).sum()
        return {"loss": loss, **{name: value.detach() for name, value in values.items()}}

    def _part(self, part: str, logits: Tensor, target: Tensor, rows: Tensor | None) -> dict[str, Tensor]:
        """Return `loss_{part}`, still with its graph, and `loss_{name}` of each of its terms."""
        terms = cast(nn.ModuleDict, self.terms[part])
        if len(terms) == 0:
            raise UserError(
                f"loss.{part} holds no term, but the network has outputs for {part}: add a term as in "
                f"config/loss/dice_bce_ce.yaml, or choose a task without {part}."
            )
        if rows is not None:
            # By index, since a bool mask would wait for the device to learn how many rows there are.
            logits, target = logits.index_select(0, rows), target.index_select(0, rows)
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.float()
            target = target if target.is_floating_point() else target.long()
            # The sum of an empty selection is 0 and keeps a graph, so that every parameter has a gradient.
            losses = {
                name: term(logits, target) if len(target) else logits.sum() for name, term in terms.items()
            }
        summed = torch.stack([self.term_weights[name] * loss for name, loss in losses.items()]).sum()
        return {f"loss_{part}": summed, **{f"loss_{name}": loss for name, loss in losses.items()}}

    def hard_terms(self, part: str) -> list[str]:
        """Return the names of the terms of a part that take no soft targets."""
        terms = cast(nn.ModuleDict, self.terms[part])
        return [name for name, term in terms.items() if not getattr(term, "soft_targets", False)]

    def _weigh(self, part: str, loss: Tensor, present: bool) -> Tensor:
        """Return what the part adds to the loss of the batch."""
        if part in self.log_variances and present:
            log_variance = self.log_variances[part]
            loss = torch.exp(-log_variance) * loss + log_variance / 2
        return self.part_weights[part] * loss


def _modules(part: str, terms: Mapping[str, WeightedTerm]) -> nn.ModuleDict:
    """Return the modules of well-formed terms."""
    for name, entry in terms.items():
        well_formed = isinstance(entry, Mapping) and entry.keys() == {"weight", "term"}
        if not well_formed or not isinstance(entry["term"], nn.Module):
            raise UserError(
                f"loss.{part}.{name} is not a weighted term: write {{weight: 1.0, term: {{_target_: ...}}}} "
                "as in config/loss/dice_bce_ce.yaml."
            )
        number(f"loss.{part}.{name}.weight", entry["weight"], least=0.0)
    return nn.ModuleDict({name: entry["term"] for name, entry in terms.items()})


def _check_names(parts: Mapping[str, Mapping[str, WeightedTerm]]) -> None:
    """Refuse terms whose logged values would overwrite each other."""
    names = [*parts, *(name for terms in parts.values() for name in terms)]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(
            f"loss terms are logged as loss_<name>, so the name {', '.join(repeated)} can stand only once in "
            "loss.segmentation and loss.classification: rename one term, for example to pixel_ce."
        )


def _assign_weights(terms: nn.ModuleDict, weight_of_class: Tensor) -> None:
    """Set the buffer of every term, so that the weights move between devices with it."""
    for name, term in terms.items():
        if "weight_of_class" not in term._buffers:
            raise UserError(
                f"loss.classification.{name} cannot weigh classes: use the terms of "
                "polymask.losses.classification, or set loss.class_weights=none."
            )
        term.weight_of_class = weight_of_class


def _adjustments(terms: nn.ModuleDict) -> dict[str, nn.Module]:
    """Return the terms that adjust logits by the shares of classes, by the key that says so."""
    adjusting = {name: term for name, term in terms.items() if getattr(term, "logit_adjustment", 0)}
    return {f"loss.classification.{name}.term.logit_adjustment": term for name, term in adjusting.items()}


def _balancing(terms: nn.ModuleDict, class_weights: str) -> str:
    """Return what makes up for classes of different size, as key=value, or "".

    Raises:
        UserError: Both class weights and adjusted logits do.
    """
    ways = [f"loss.class_weights={class_weights}"] if class_weights != "none" else []
    ways += [f"{key}={term.logit_adjustment}" for key, term in _adjustments(terms).items()]
    if class_weights != "none" and len(ways) > 1:
        raise UserError(
            f"{ways[0]} and {ways[1]} both balance the classes, so rare classes would count twice over; set "
            "one of the two back (none, 0)."
        )
    return ways[0] if ways else ""


def _assign_priors(terms: nn.ModuleDict, class_counts: Mapping[str, int]) -> None:
    """Tell the terms that adjust logits how frequent the classes are."""
    for key, term in _adjustments(terms).items():
        term.log_prior = log_prior(list(class_counts.values()), key, class_names=list(class_counts))
