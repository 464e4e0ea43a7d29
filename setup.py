"""What pyproject.toml cannot say: the wheel carries the top-level config/ folder as polymask/config."""

from setuptools import find_namespace_packages, setup

setup(
    packages=[
        *find_namespace_packages("src", include=["polymask*"], exclude=["*.templates"]),
        "polymask.config",
    ],
    package_dir={"": "src", "polymask.config": "config"},
    package_data={"polymask.config": ["**/*.yaml"], "polymask.reporting.page": ["templates/*"]},
)
