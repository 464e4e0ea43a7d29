"""Networks only: images in, logits out; losses and metrics belong to the tasks."""
