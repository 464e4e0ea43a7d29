"""The mask of one image: python src/predict.py --image a.jpg --output a.png."""

import argparse
import logging
import sys

import polymask
from polymask.errors import UserError

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Predict the mask of one image; nothing found is an empty mask."
    )
    parser.add_argument("--image", required=True, help="an image file")
    parser.add_argument("--output", required=True, help="file for the mask, 0 and 255: .png, .tif or .bmp")
    parser.add_argument("--overlay", help="file for the mask drawn on the image")
    parser.add_argument(
        "--run", help="name of a run or a checkpoint; models/final_lesion_segmenter.pth or newest"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        polymask.predict_mask(
            chosen.image, chosen.output, run=chosen.run, overlay=chosen.overlay, device=chosen.device
        )
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
