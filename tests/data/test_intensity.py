from __future__ import annotations

import cv2
import numpy as np
import pytest
from lesion_files import write_data_set  # noqa: F401
