"""Which samples have a wrong class or mask: a review by predictions of models that never saw them."""
