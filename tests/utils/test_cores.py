from __future__ import annotations

import os
import subprocess
import sys

import pytest

from polymask.utils.cores import busy_cores, cpu_quota, num_cores


def test_affinity_is_respected():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert num_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/box/inner\n", {"box/inner/cpu.max": "400000 100000"}, 4.0),
        ("2:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2.0),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("3:memory:/\n", {}, None),
    ],
)
def test_quota_of_control_groups(tmp_path, groups, files, expected):
    (tmp_path / "own").write_text(groups)
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert cpu_quota(tmp_path / "cgroup", tmp_path / "own") == expected


def test_no_control_groups(tmp_path):
    assert cpu_quota(tmp_path, tmp_path / "absent") is None


def test_a_core_that_another_program_keeps_busy_is_seen():
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})  # the program inherits it
    other = subprocess.Popen(
        [sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE
    )
    try:
        other.stdout.readline()
        assert 0.8 < busy_cores() <= 1.0
    finally:
        other.kill()
        other.communicate()
        os.sched_setaffinity(0, before)


def test_cores_are_idle_where_the_system_does_not_tell(tmp_path):
    assert busy_cores(0.0, tmp_path / "absent") == 0.0
    (tmp_path / "stat").write_text("cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n")
    assert busy_cores(0.0, tmp_path / "stat") == 0.0
