"""What is passed around: run lengths, crops, objects, layers, samples. It imports nothing above utils."""
