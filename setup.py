"""Build the Cython extensions over the header-only C++ of csrc/.

SYMPHONY_BUILD picks the build: `release` (default), `debug` (bounds checks and balance counters) or `sanitize`
(AddressSanitizer and UndefinedBehaviorSanitizer; run with the sanitizer runtime preloaded, see the Makefile).
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

BUILDS = {
    "release": ["-O3", "-DNDEBUG"],
    "debug": ["-O1", "-g", "-DSYMPHONY_DEBUG"],
    "sanitize": ["-O1", "-g", "-DSYMPHONY_DEBUG", "-fsanitize=address,undefined", "-fno-omit-frame-pointer"],
}

build = os.environ.get("SYMPHONY_BUILD", "release")
if build not in BUILDS:
    raise SystemExit(f"SYMPHONY_BUILD is {build!r}: choose one of {', '.join(BUILDS)}")

is_release = build == "release"
extensions = [
    Extension(
        ".".join(path.with_suffix("").parts),
        [str(path)],
        include_dirs=["csrc"],
        depends=[str(header) for header in sorted(Path("csrc").rglob("*.h"))],
        language="c++",
        extra_compile_args=["-std=c++17", "-Wall", "-Wno-unused-function", *BUILDS[build]],
        extra_link_args=["-fsanitize=address,undefined"] if build == "sanitize" else [],
    )
    for path in sorted(Path("symphony").rglob("*.pyx"))
]

setup(
    ext_modules=cythonize(
        extensions,
        build_dir=f"build/cython-{build}",
        compiler_directives={
            "language_level": 3,
            "boundscheck": not is_release,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": not is_release,
            "freethreading_compatible": False,
            "embedsignature": True,
        },
    ),
)
