"""Which processor this is and the widest instructions it has: what a figure of speed is worth little without.

launch/commands/bench.py prints it. Read from what the system says, without JAX.
"""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

from launch.machine.detection import cores

# From the widest on: the flag that stands for a set of instructions, its name, and what it may have beside it.
INSTRUCTION_SETS = (
    ("amx_tile", "AMX", {"amx_bf16": "bf16", "amx_int8": "int8", "amx_fp16": "fp16"}),
    ("avx512f", "AVX-512", {"avx512_bf16": "bf16", "avx512_fp16": "fp16", "avx512_vnni": "vnni"}),
    ("avx2", "AVX2", {"avx_vnni": "vnni"}),
    ("asimd", "NEON", {"bf16": "bf16", "i8mm": "i8mm", "sve": "sve"}),
)


def processor() -> str:
    """The processor's name, its widest instructions and the cores that this process may use, in one line."""
    name, flags = read_flags()
    return f"{name or platform.machine()}, {widest_instructions(flags)}, {cores()} core{'s' * (cores() > 1)}"


def multiplies_bfloat16() -> bool:
    """Whether the processor has AVX-512's products of bfloat16, and so twice as many a second as of float32."""
    return "avx512_bf16" in read_flags()[1]


def read_flags() -> tuple[str, set[str]]:
    """The processor's name, and the flags of its instructions as Linux spells them."""
    return read_sysctl() if platform.system() == "Darwin" else read_cpuinfo(Path("/proc/cpuinfo"))


def widest_instructions(flags: set[str]) -> str:
    """The widest instruction set for vectors and matrices among a processor's flags, as Linux spells them."""
    for flag, name, extensions in INSTRUCTION_SETS:
        if flag in flags:
            found = [extension for flag, extension in extensions.items() if flag in flags]
            return f"{name} with {' and '.join(found)}" if found else name
    return "no wide instructions known"


def read_cpuinfo(file: Path) -> tuple[str, set[str]]:
    """Name and flags of the first processor of Linux's list; ARM's lists have no name."""
    try:
        lines = [line.partition(":") for line in file.read_text(errors="replace").splitlines()]
    except OSError:
        return "", set()
    values = {key.strip(): value.strip() for key, _, value in reversed(lines)}
    return values.get("model name", ""), set((values.get("flags") or values.get("Features") or "").split())


def read_sysctl() -> tuple[str, set[str]]:
    """Name and flags on macOS, spelled as Linux does. Apple's own matrix unit has no flag, and is left out."""
    names = ["machdep.cpu.brand_string", "machdep.cpu.leaf7_features"]  # the second is Intel's alone
    name, *features = [
        subprocess.run(["sysctl", "-n", name], capture_output=True, text=True).stdout.strip() for name in names
    ]
    return name, {"asimd"} if platform.machine() == "arm64" else set(features[0].lower().split())
