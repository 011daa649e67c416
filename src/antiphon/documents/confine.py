"""What a worker process may take and touch from now on. Knows no document.

Two layers. Limits of the kernel (POSIX): memory, CPU, files. And on Linux a seccomp filter that lets through only what
computing and writing to open pipes need: no file can be opened, no socket made, no process started or signalled.
It takes no privilege. Where a kernel has none, or on another processor, it is left out, and the limits stand alone.
"""

import ctypes
import errno
import platform
import resource
import struct
import sys

FILES_MAX = 32
"""While the libraries are imported; what is inherited are three pipes."""

# Numbers of system calls (Linux: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h).
CALLS = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "getpid": (39, 172),
    "exit": (60, 93),
    "gettimeofday": (96, 169),
    "sigaltstack": (131, 132),
    "gettid": (186, 178),
    "futex": (202, 98),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "exit_group": (231, 94),
    "getrandom": (318, 278),
}
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Which column of the table, and AUDIT_ARCH."""

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM


def limit(*, memory_bytes: int, cpu_s: int) -> None:
    """Hard limits, which nothing in this process can raise again."""
    for kind, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_NOFILE, FILES_MAX),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))


def isolate() -> bool:
    """From here on nothing is opened, connected or started. False where this kernel cannot promise it."""
    column, arch = MACHINES.get(platform.machine(), (0, 0))
    if sys.platform != "linux" or not arch or struct.calcsize("P") != 8:
        return False
    code = _program([numbers[column] for numbers in CALLS.values()], arch)
    block = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(block)))
    prctl = ctypes.CDLL(None).prctl
    unused = (ctypes.c_ulong(0),) * 2
    if prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), ctypes.c_ulong(0), *unused) != 0:
        return False
    mode = ctypes.c_ulong(SECCOMP_MODE_FILTER)
    return bool(prctl(PR_SET_SECCOMP, mode, ctypes.c_void_p(ctypes.addressof(program)), *unused) == 0)


def _program(allowed: list[int], arch: int) -> bytes:
    """Classic BPF over seccomp_data (nr at 0, arch at 4): a call made for another architecture ends the process."""
    steps = [(LOAD, 0, 0, 4), (JUMP_IF_EQUAL, 1, 0, arch), (RETURN, 0, 0, KILL), (LOAD, 0, 0, 0)]
    left = len(allowed)
    for number in allowed:
        steps.append((JUMP_IF_EQUAL, left, 0, number))  # to the last step; each is one closer to it
        left -= 1
    steps += [(RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("HBBI", *step) for step in steps)
