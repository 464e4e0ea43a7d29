from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from PIL import Image

from polymask.data.decoder_messages import listen
from polymask.data.images import read_image
from polymask.errors import UserError


def photograph() -> Image.Image:
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:240, :320]
    smooth = np.stack([20 + 0.5 * columns, 30 + 0.6 * rows, 200 - 0.3 * columns], axis=-1)
    return Image.fromarray((smooth + rng.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8))


FORMS = {
    "jpg": {"quality": 90},
    "progressive.jpg": {"quality": 90, "progressive": True},
    "lzw.tif": {"compression": "tiff_lzw"},
    "png": {},
}


def encoded(form: str) -> bytes:
    buffer = io.BytesIO()
    kinds = {"jpg": "JPEG", "tif": "TIFF", "png": "PNG"}
    photograph().save(buffer, kinds[form.rpartition(".")[2]], **FORMS[form])
    return buffer.getvalue()


def overwritten(content: bytes, share: float) -> bytes:
    """The content with 300 random bytes in place of its own."""
    noise = np.random.default_rng(int(share * 100)).integers(0, 256, 300, dtype=np.uint8).tobytes()
    start = int(share * len(content))
    return content[:start] + noise + content[start + 300 :]


@pytest.mark.parametrize("form", FORMS)
def test_files_damaged_in_the_middle_are_found_and_whole_ones_are_not(tmp_path, form, capfd):
    path = tmp_path / f"image.{form}"
    path.write_bytes(encoded(form))
    read_image(path)
    found = 0
    for share in np.arange(0.15, 0.9, 0.05):
        path.write_bytes(overwritten(encoded(form), share))
        try:
            read_image(path)
        except UserError as error:
            assert "cannot read image" in str(error)  # noqa: PT017
            found += 1
    assert found >= 14  # of 15: damage may happen to leave a JPEG of the right length
    assert capfd.readouterr().err == ""


def test_the_decoders_reason_is_told(tmp_path):
    path = tmp_path / "image.jpg"
    path.write_bytes(overwritten(encoded("jpg"), 0.4))
    with pytest.raises(UserError, match=r"damaged \(.+\); replace or remove it"):
        read_image(path)


def test_padding_before_the_end_of_a_whole_jpeg_is_no_damage(tmp_path):
    content = encoded("jpg")
    (tmp_path / "image.jpg").write_bytes(content)
    (tmp_path / "padded.jpg").write_bytes(content[:-2] + b"\0\0\0" + content[-2:])
    np.testing.assert_array_equal(read_image(tmp_path / "padded.jpg"), read_image(tmp_path / "image.jpg"))


def test_threads_keep_their_files_apart(tmp_path, capfd):
    good, bad = encoded("jpg"), overwritten(encoded("jpg"), 0.4)
    names = []
    for index in range(60):
        names.append(tmp_path / f"{index}.jpg")
        names[-1].write_bytes(bad if index % 7 == 3 else good)

    def is_damaged(path):
        try:
            read_image(path)
        except UserError:
            return True
        return False

    with ThreadPoolExecutor(6) as pool:
        verdicts = list(pool.map(is_damaged, names))
    assert verdicts == [index % 7 == 3 for index in range(60)]
    assert capfd.readouterr().err == ""


def test_what_others_write_meanwhile_comes_out_afterwards(capfd):
    inside, written = threading.Event(), threading.Event()

    def decode() -> int:
        inside.set()
        assert written.wait(5)
        os.write(2, b"Corrupt JPEG data: premature end of data segment\n")
        return 7

    def other() -> None:
        assert inside.wait(5)
        os.write(2, b"a log line\n")
        written.set()

    thread = threading.Thread(target=other)
    thread.start()
    # The second hearing of a damaged file is alone.
    assert listen(decode) == (7, "premature end of data segment")
    thread.join()
    assert capfd.readouterr().err == "a log line\n"


def test_a_forked_process_has_its_own_standard_error():
    code = (
        "import os\n"
        "from polymask.data.decoder_messages import listen\n"
        "def fork():\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        os.write(2, b'from the child')\n"
        "        os._exit(0)\n"
        "    os.waitpid(pid, 0)\n"
        "listen(fork)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "from the child"


def test_a_process_without_standard_error_decodes(tmp_path):
    cv2.imwrite(str(tmp_path / "image.png"), np.zeros((4, 4), np.uint8))
    code = (
        "import os, sys\n"
        "os.close(2)\n"
        "from polymask.data.images import read_image\n"
        "print(read_image(sys.argv[1]).shape)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "image.png")], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "(4, 4, 3)"
