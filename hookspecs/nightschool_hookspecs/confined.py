"""Runs Python text that nobody vouches for in a locked-down child. Where the lock cannot be had, nothing is run.

The child is a Python of its own without site packages, with an empty environment. Before it sees the text it takes
from itself, for good, without needing root:

- time, memory, file size and open files, by resource limits, and `no_new_privs`;
- every capability;
- all files but the standard library and the system's shared libraries, to be read, by Landlock;
- by a seccomp filter: sockets, processes and threads, signals to others, changes of owners and modes, mounts,
  namespaces, tracing, keys, and every system call that is newer than the filter.

Namespaces of its own for users, network, IPC and mounts come on top where the machine allows them; its working
directory is then a small file system in memory that it may write to, else an empty directory that it may not.

Landlock and the filter are required: Linux 5.13 or newer on x86-64. On another machine `run_confined` raises
`ConfinementUnavailable`. It guards this machine, not the verdict: a text can always lie about itself.
"""

import json
import math
import os
import platform
import signal
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

OUTPUT_BYTES = 64 * 1024
"""Of the end of the child's output that is read; the rest is dropped."""
START_S = 3.0
"""What the child may take beside its own time limit to start and to lock itself."""
UNLOCKED = 97
"""Exit code of a child that could not lock itself, and ran nothing."""


class ConfinementUnavailable(RuntimeError):
    """This machine cannot lock a child down, so nothing was run. The message says what is missing."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a locked-down child may use."""

    seconds: float = 5.0
    """Of its processor time, and of the clock."""
    memory_bytes: int = 512 * 1024 * 1024
    file_bytes: int = 1024 * 1024
    """The largest file, its output included."""
    open_files: int = 64


@dataclass(frozen=True, kw_only=True)
class Confined:
    """How a locked-down child ended."""

    output: str
    """What it wrote to standard output and standard error, cut."""
    problem: str
    """Why it did not end by itself, in words; empty where it did."""
    is_out_of_time: bool = False
    """Whether the clock ended it while others had the processors: what only slept had all the time that it may have."""


def run_confined(source: str, *, payload: str = "", limits: Limits | None = None) -> Confined:
    """Run Python text in a locked-down child. `payload` is there as the name `PAYLOAD`.

    Raises `ConfinementUnavailable` where the child cannot be locked; the text was not run then.
    """
    limits = limits or Limits()
    _require_machine()
    with tempfile.TemporaryDirectory(prefix="nightschool-") as room, tempfile.TemporaryFile() as output:
        child = subprocess.Popen(
            [sys.executable, "-S", "-s", "-P", "-B", "-X", "utf8", "-c", _CHILD],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=room,
            env={"PYTHONHASHSEED": "0"},
            start_new_session=True,
        )
        try:
            child.communicate(_order(source, payload, limits), timeout=limits.seconds + START_S)
            problem, is_out_of_time = _problem(child.returncode), False
        except subprocess.TimeoutExpired:
            problem, is_out_of_time = f"it took longer than {limits.seconds:g} s", _waited_s(child.pid) > START_S
        finally:
            child.kill()
            child.wait()
        output.seek(max(0, output.seek(0, os.SEEK_END) - OUTPUT_BYTES))
        text = output.read(OUTPUT_BYTES).decode("utf-8", "replace")
    if child.returncode == UNLOCKED:
        raise ConfinementUnavailable(text.strip() or "the child could not lock itself")
    return Confined(output=text, problem=problem, is_out_of_time=is_out_of_time)


def _waited_s(process: int) -> float:
    """Seconds that a process has waited for a processor, all its threads together; where nobody knows, for ever."""
    try:
        told = [(task / "schedstat").read_text() for task in Path(f"/proc/{process}/task").iterdir()]
        return sum(int(one.split()[1]) for one in told) / 1e9
    except (OSError, IndexError, ValueError):
        # the kernel keeps no such statistics
        return math.inf


def why_unavailable() -> str | None:
    """Why this machine cannot lock a child down; None where it can. Starts one to see."""
    try:
        run_confined("")
    except ConfinementUnavailable as error:
        return str(error)
    return None


def _require_machine() -> None:
    if sys.platform != "linux" or platform.machine() != "x86_64" or sys.maxsize < 2**32:
        raise ConfinementUnavailable(f"code is run on Linux on x86-64 only, this is {platform.platform()}")


def _order(source: str, payload: str, limits: Limits) -> bytes:
    order = {
        "source": source,
        "payload": payload,
        "seconds": max(1, round(limits.seconds)),
        "memory": limits.memory_bytes,
        "file": limits.file_bytes,
        "files": limits.open_files,
        "readable": _readable(),
    }
    return json.dumps(order).encode("utf-8")


def _readable() -> list[str]:
    """What the child may read: the standard library, and shared libraries that its modules load."""
    standard = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), str(Path(os.__file__).parent)}
    system = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo", "/dev/null")
    own_libraries = sysconfig.get_config_var("LIBDIR")
    return sorted({*standard, *system, *([own_libraries] if isinstance(own_libraries, str) else [])})


def _problem(code: int | None) -> str:
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return "it used up its time or its memory"
    if code is not None and code < 0:
        return f"it was ended by signal {-code}"
    return ""


_CHILD = r'''
import ctypes, json, os, resource, struct, sys

order = json.loads(sys.stdin.buffer.read())
libc = ctypes.CDLL(None, use_errno=True)


def call(number, *arguments):
    """A raw system call; raises OSError."""
    passed = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    answer = libc.syscall(ctypes.c_long(number), *passed)
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer


def prctl(option, *arguments):
    values = [ctypes.c_ulong(one) if isinstance(one, int) else one for one in (*arguments, 0, 0, 0, 0)[:4]]
    if libc.prctl(option, *values) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def limit():
    for what, most in ((resource.RLIMIT_CPU, order["seconds"]), (resource.RLIMIT_AS, order["memory"]),
                       (resource.RLIMIT_FSIZE, order["file"]), (resource.RLIMIT_NOFILE, order["files"]),
                       (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


def separate():
    """Namespaces of its own, and a small file system in memory as working directory. Whether it has them."""
    room, user, group = os.getcwd(), os.getuid(), os.getgid()
    try:
        call(272, 0x10000000 | 0x00020000 | 0x40000000 | 0x08000000 | 0x04000000)
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
        if libc.mount(b"none", b"/", None, 0x4000 | 0x40000, None) != 0:
            return False
        options = b"size=16m,nr_inodes=1k,mode=700"
        if libc.mount(b"tmpfs", room.encode(), b"tmpfs", 0x2 | 0x4 | 0x8, options) != 0:
            return False
        os.chdir(room)
    except OSError:
        return False
    return True


def drop_capabilities():
    header = struct.pack("Ii", 0x20080522, 0)
    call(126, ctypes.create_string_buffer(header), ctypes.create_string_buffer(bytes(24)))


def shut_files(writable):
    """Landlock: everything is shut but what may be read, and the working directory where that is its own."""
    version = call(444, None, 0, 1)
    known = (1 << 13) - 1 | (1 << 13 if version >= 2 else 0) | (1 << 14 if version >= 3 else 0)
    known |= 1 << 15 if version >= 5 else 0
    handled = ctypes.create_string_buffer(struct.pack("Q", known), 8)
    rules = call(444, handled, 8, 0)
    reading, in_a_file = 1 << 0 | 1 << 2 | 1 << 3, 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14
    allowed = [(path, reading) for path in order["readable"]]
    allowed += [(".", known & ~(1 << 0 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11))] if writable else []
    for path, rights in allowed:
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        rights &= known if os.path.isdir(path) else known & in_a_file
        call(445, rules, 1, ctypes.create_string_buffer(struct.pack("=Qi", rights, place), 12), 0)
        os.close(place)
    call(446, rules, 0)
    os.close(rules)


# shared memory, semaphores and queues; sockets; processes; signals; tracing and kernel logs; users and groups; modes,
# owners, times and attributes of files; devices; mounts and roots; clocks, swap, names and modules of the kernel; keys;
# performance counters; handles; namespaces; memory of others; filters; limits and priorities
REFUSED = (
    29, 30, 31, 64, 65, 66, 68, 69, 70, 71, 240, 41, 53, 56, 57, 58, 59, 322, 62, 129, 200, 234, 297, 101, 103,
    105, 106, 113, 114, 116, 117, 119, 122, 123, 90, 91, 92, 93, 94, 260, 268, 132, 235, 261, 280, 188, 189, 190, 197,
    198, 199, 76, 133, 259, 165, 166, 155, 161, 159, 163, 164, 227, 305, 167, 168, 169, 170, 171, 174, 175, 176, 179,
    246, 313, 320, 248, 249, 250, 298, 303, 304, 272, 308, 310, 311, 312, 317, 321, 323, 300, 253, 254, 294, 319, 135,
    154, 172, 173, 141, 142, 144, 160, 203, 251, 302, 314, 237, 238, 256, 279,
)
NEWEST, NEWER_BUT_HARMLESS = 424, (436, 437, 439)


def shut_calls():
    """A seccomp filter: what is refused fails with EPERM, what is unknown with ENOSYS."""
    fits, refuse, unknown, kill = 0x7FFF0000, 0x00050000 | 1, 0x00050000 | 38, 0x80000000
    load, equal, above, give = 0x20, 0x15, 0x35, 0x06
    program = [(load, 0, 0, 4), (equal, 1, 0, 0xC000003E), (give, 0, 0, kill), (load, 0, 0, 0)]
    for number in NEWER_BUT_HARMLESS:
        program += [(equal, 0, 1, number), (give, 0, 0, fits)]
    program += [(above, 0, 1, NEWEST), (give, 0, 0, unknown)]
    for number in REFUSED:
        program += [(equal, 0, 1, number), (give, 0, 0, refuse)]
    program += [(give, 0, 0, fits)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in program))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
    prctl(22, 2, header)


def lock():
    prctl(1, 9)
    limit()
    writable = separate()
    drop_capabilities()
    prctl(38, 1)
    prctl(4, 0)
    shut_files(writable)
    shut_calls()


def prove():
    """What must be refused is tried once."""
    import errno
    tries = (lambda: call(41, 2, 1, 0), lambda: call(57), lambda: os.open("/proc/self/environ", os.O_RDONLY),
             lambda: os.open("/etc/passwd", os.O_RDONLY), lambda: os.open("/tmp", os.O_RDONLY | os.O_DIRECTORY))
    for one in tries:
        try:
            one()
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EACCES, errno.ENOENT):
                continue
        raise PermissionError("the lock does not hold")


try:
    lock()
    prove()
except BaseException as error:
    print(f"the child cannot be locked down on this machine: {error}", flush=True)
    os._exit(97)
space = {"__name__": "__confined__", "PAYLOAD": order["payload"]}
source = order["source"]
del order, libc
exec(compile(source, "<confined>", "exec"), space)
'''
