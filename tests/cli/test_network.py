"""No network call of any kind: the kernel ends a process that connects or sends, in whichever library it is.

Opening a socket alone is allowed: urllib3, which diffusers imports, does so to see whether there is IPv6.
"""

from __future__ import annotations

import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

FORBID = """
import ctypes, platform, struct, sys
calls, kind = {  # connect, sendto, sendmsg, sendmmsg
    "x86_64": ((42, 44, 46, 307), 0xC000003E), "aarch64": ((203, 206, 211, 269), 0xC00000B7),
}[platform.machine()]

def step(code, jump_true, jump_false, value):
    return struct.pack("HBBI", code, jump_true, jump_false, value)

LOAD, EQUAL, RETURN, ALLOW, KILL = 0x20, 0x15, 0x06, 0x7FFF0000, 0x80000000
program = b"".join([
    step(LOAD, 0, 0, 4), step(EQUAL, 0, len(calls) + 1, kind), step(LOAD, 0, 0, 0),
    *(step(EQUAL, len(calls) - n, 0, call) for n, call in enumerate(calls)),
    step(RETURN, 0, 0, ALLOW), step(RETURN, 0, 0, KILL),
])

class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("program", ctypes.c_char_p)]

libc = ctypes.CDLL(None, use_errno=True)
held = ctypes.create_string_buffer(program, len(program))
rules = Filter(len(program) // 8, ctypes.cast(held, ctypes.c_char_p))
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(rules), 0, 0):
    print("not allowed here")
    sys.exit(77)
"""

ANIMATE = """
import svdp
source, driving, output = sys.argv[1:]
model = svdp.load_model(device="cpu")
svdp.animate(source, driving, output, model=model, max_frames=2, steps=1)
svdp.animate(source, driving, draft=True, resolution=128, max_side=300, max_frames=1)
print("made")
"""

CONNECT = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('127.0.0.1', 9))"
ASK = "import socket; socket.getaddrinfo('example.invalid', 80)"


def forbidden(code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run `code` in a process that ends by SIGSYS when it connects or sends."""
    command = [sys.executable, "-c", FORBID + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip("this kernel lets no process restrict itself")
    return done


pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"), reason="needs Linux's seccomp"
)


def test_the_restriction_works() -> None:
    assert forbidden(CONNECT).returncode == -signal.SIGSYS
    assert forbidden(ASK).returncode == -signal.SIGSYS
    assert forbidden("import socket; socket.socket(); print('fine')").stdout == "fine\n"


def test_nothing_goes_over_the_network(examples, tmp_path) -> None:
    done = forbidden(ANIMATE, examples.source, examples.driving, tmp_path / "o.mp4")
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    assert done.stdout == "made\n" and (tmp_path / "o.mp4").exists()
