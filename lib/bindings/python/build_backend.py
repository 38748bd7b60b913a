"""Builds the wheel with maturin, and finds or asks for what building llama.cpp needs.

What a machine lacks (cmake, libclang) comes from PyPI into the build's own environment. In a checkout
that was prepared by `make tools`, its settings hold instead, so that both share compiled parts.
"""

import glob
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import maturin

_ROOT = Path(__file__).resolve().parents[3]

#: Where systems keep libclang: there the build finds it by itself.
_SYSTEM_LIBCLANG = [
    "/usr/lib/llvm-*/lib/libclang*.so*",
    "/usr/lib/*/libclang*.so*",
    "/usr/lib64/libclang*.so*",
    "/Library/Developer/CommandLineTools/usr/lib/libclang.dylib",
]


def _is_prepared() -> bool:
    return (_ROOT / ".cargo/config.toml").exists()


def _has_libclang() -> bool:
    if "LIBCLANG_PATH" in os.environ:
        return True
    return any(glob.glob(pattern) for pattern in _SYSTEM_LIBCLANG)


def _missing() -> list[str]:
    if _is_prepared():
        return []
    missing = []
    if shutil.which("cmake") is None and "CMAKE" not in os.environ:
        missing.append("cmake>=3.28,<5")
    if not _has_libclang():
        missing.append("libclang==18.1.1")
    return missing


def _prepare() -> None:
    for tool, mend in [
        ("cargo", "install Rust 1.90 or later with rustup, or with your package manager"),
        ("cc", "install a C compiler (Debian: apt-get install build-essential)"),
        ("c++", "install a C++ compiler (Debian: apt-get install build-essential)"),
    ]:
        if shutil.which(tool) is None:
            raise SystemExit(f"error: {tool} is missing: {mend}")
    if _is_prepared():
        return
    # For this machine: llama.cpp's kernels need its instructions to be fast.
    os.environ.setdefault("CARGO_BUILD_RUSTFLAGS", "-C target-cpu=native")
    if not _has_libclang():
        package = importlib.util.find_spec("clang")
        if package is None or not package.submodule_search_locations:
            raise SystemExit("error: libclang is missing: pip install libclang==18.1.1")
        folder = Path(package.submodule_search_locations[0])
        os.environ["LIBCLANG_PATH"] = str(folder / "native")
        # PyPI's libclang comes without the compiler's own headers (stddef.h).
        include = subprocess.check_output(["cc", "-print-file-name=include"], text=True).strip()
        os.environ.setdefault("BINDGEN_EXTRA_CLANG_ARGS", f"-I{include}")


def get_requires_for_build_wheel(config_settings=None):
    return maturin.get_requires_for_build_wheel(config_settings) + _missing()


def get_requires_for_build_editable(config_settings=None):
    return maturin.get_requires_for_build_editable(config_settings) + _missing()


def get_requires_for_build_sdist(config_settings=None):
    return maturin.get_requires_for_build_sdist(config_settings)


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    _prepare()
    return maturin.prepare_metadata_for_build_wheel(metadata_directory, config_settings)


prepare_metadata_for_build_editable = prepare_metadata_for_build_wheel


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    _prepare()
    return maturin.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    _prepare()
    return maturin.build_editable(wheel_directory, config_settings, metadata_directory)


def build_sdist(sdist_directory, config_settings=None):
    return maturin.build_sdist(sdist_directory, config_settings)
