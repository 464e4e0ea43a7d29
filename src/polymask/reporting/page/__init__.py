"""The page and the model card of a results folder: `report.html` and `model_card.md`, made from its files."""
