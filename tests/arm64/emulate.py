"""``make test-arm64``: what is exact on x86-64 is so on emulated Raspberry Pis, and a cluster of several knows its limits.

Optional, as root, for it makes a Debian of its own (once) in a cache folder and enters it: qemu runs its programs with a
processor's features, and a /proc/cpuinfo of that processor lies over this machine's, for the runtime chooses kernels by
what stands there. ``python -m tests.arm64.emulate [PROCESSOR ...]``: all of them unless told otherwise.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from gateway_agent.broker import BrokerProcess
from schemas.host.toml import parse
from tests.arm64.bits import drawn

SOURCE = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "deepthings" / "arm64"
ROOT, BINFMT = CACHE / "root", Path("/proc/sys/fs/binfmt_misc")
MIRROR, SUITE = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian"), "bookworm"
INSIDE = "python3,python3-venv,ca-certificates"
TOOLS = {"debootstrap": "debootstrap", "qemu-aarch64-static": "qemu-user-static", "unshare": "util-linux"}
TESTS = "ops random_graphs blocking probe engine litert".split()  # of tests/models
OLD = "fp asimd evtstrm crc32 cpuid"
NEW = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
PATIENCE_S = 900.0  # with a command of an emulated processor, on a busy machine
PROCESSORS = {  # features, variant, part and revision of the core; the board that has it
    "cortex-a53": (OLD, "0x0", "0xd03", "4", "Raspberry Pi 3 Model B Plus Rev 1.3"),
    "cortex-a72": (OLD, "0x0", "0xd08", "3", "Raspberry Pi 4 Model B Rev 1.5"),
    "cortex-a76": (NEW, "0x4", "0xd0b", "1", "Raspberry Pi 5 Model B Rev 1.1"),
}
ENTER = """
for folder in proc dev sys; do mount --bind /$folder $1/$folder; done
mount --bind $2 $1/proc/cpuinfo
mount --bind $3 $1/src
if [ -d $3/../shared ]; then mount --bind $3/../shared $1/shared; fi
root=$1; shift 3
exec chroot $root /bin/sh -c 'cd /src; exec "$@"' sh "$@"
"""


def missing() -> str:
    """What this machine lacks, with the remedy; "" if nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "make test-arm64 needs Linux and root: sudo make test-arm64"
    lacks = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    return f"make test-arm64 needs {', '.join(lacks)}: sudo apt install {' '.join(lacks)}" if lacks else ""


def register() -> None:
    """Has the kernel start programs of arm64 by qemu, as Debian's package does where systemd runs."""
    if not (BINFMT / "register").exists():
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", BINFMT], check=True)
    if not (BINFMT / "qemu-aarch64").exists():
        (BINFMT / "register").write_bytes(Path("/usr/lib/binfmt.d/qemu-aarch64.conf").read_bytes())


def make_root() -> None:
    """The Debian, and the project's packages as constraints.txt pins them; nothing that is there already."""
    if not (ROOT / "src").exists():
        print(f"== making a Debian of arm64 in {ROOT} (about 10 minutes, once)", flush=True)
        shutil.rmtree(ROOT, ignore_errors=True)
        ROOT.mkdir(parents=True)
        subprocess.run(["debootstrap", "--arch=arm64", "--variant=minbase", f"--include={INSIDE}", SUITE, ROOT, MIRROR],
                       check=True, stdout=subprocess.DEVNULL)  # fmt: skip
        (ROOT / "shared").mkdir()
        (ROOT / "src").mkdir()
    for file in ("/etc/resolv.conf", "/etc/ssl/certs/ca-certificates.crt"):
        if Path(file).exists():
            shutil.copy(file, ROOT / file[1:])
    project = parse((SOURCE / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["gateway"], *extras["camera"], *extras["mdns"], "pytest", "hypothesis"]
    wanted = [package for package in wanted if not package.startswith(project["name"])]
    told = hashlib.sha256("\n".join([*wanted, (SOURCE / "constraints.txt").read_text()]).encode()).hexdigest()
    stamp = ROOT / "opt/dt/.installed"
    if not stamp.exists() or stamp.read_text() != told:
        print("== installing into it (about 10 minutes, once)", flush=True)
        if not stamp.parent.exists():
            run("cortex-a76", "/usr/bin/python3", "-m", "venv", "/opt/dt")
        run("cortex-a76", "python", "-m", "pip", "install", "-qq", "--only-binary", ":all:", "-c", "constraints.txt", *wanted)
        stamp.write_text(told)


def cpuinfo(processor: str) -> str:
    """/proc/cpuinfo of a board with four such cores."""
    features, variant, part, revision, model = PROCESSORS[processor]
    core = {"BogoMIPS": "108.00", "Features": features, "CPU implementer": "0x41", "CPU architecture": "8"}
    core |= {"CPU variant": variant, "CPU part": part, "CPU revision": revision}
    cores = ["".join(f"{key}\t: {value}\n" for key, value in {"processor": i, **core}.items()) for i in range(4)]
    return "\n".join([*cores, f"Model\t\t: {model}\n"])


def inside(processor: str, *command: str) -> list[str]:
    """The command line that runs ``command`` as that processor, in the checkout."""
    told = CACHE / f"cpuinfo-{processor}"
    told.write_text(cpuinfo(processor))
    known = ("http_proxy", "https_proxy", "no_proxy", "pip_index_url", "pip_cert", "pip_default_timeout")
    given = {key: value for key, value in os.environ.items() if key.lower() in known}
    given |= {"HOME": "/root", "PATH": "/opt/dt/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "QEMU_CPU": processor}
    given |= {"PYTHONPATH": "/src", "PYTHONDONTWRITEBYTECODE": "1", "DT_CONFIG": "/dev/null"}
    variables = [f"{key}={value}" for key, value in given.items()]
    return ["env", "-i", *variables, "unshare", "-m", "sh", "-ec", ENTER, "sh", str(ROOT), str(told), str(SOURCE), *command]


def run(processor: str, *command: str) -> None:
    subprocess.run(inside(processor, *command), check=True)


def bits(processor: str) -> dict[str, str]:
    """Digests of what it makes of a model, and of its samples, by arithmetic."""
    made = subprocess.run(inside(processor, "python", "-m", "tests.arm64.bits"), check=True, stdout=subprocess.PIPE, text=True)
    said = json.loads(made.stdout.splitlines()[-1])
    print(f"{processor}: {said['kernels']}; tiles {said['bits']}", flush=True)
    samples = dict(word.split("=") for word in said["kernels"].split() if "=" in word)
    return {arithmetic: f"{samples[arithmetic]} {digest}" for arithmetic, digest in said["bits"].items()}


@contextlib.contextmanager
def process(processor: str, log: Path, *words: str) -> "Iterator[subprocess.Popen[bytes]]":
    """A ``dt`` of that processor; its words go to ``log``, and it is ended here."""
    with log.open("wb") as said:
        command = inside(processor, "python", "-m", "dt_cli.main", *words)
        running = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
    try:
        yield running
    finally:
        running.terminate()
        running.wait()


def await_line(running: "subprocess.Popen[bytes]", log: Path, words: str) -> str:
    """The first line with ``words`` of a process that has it to say."""
    deadline, ended = time.monotonic() + PATIENCE_S, False
    while time.monotonic() < deadline and not ended:
        time.sleep(0.2)
        ended = running.poll() is not None
        for line in log.read_text(errors="replace").splitlines():
            if words in line:
                return line
    sys.exit(f"{log.name} did not say {words!r} within {PATIENCE_S:.0f} s:\n{log.read_text(errors='replace')}")


def mixed_cluster(dtype: str, admitted: bool) -> None:
    """A Pi 3 asks a Pi 4 with a model of that arithmetic to let it in; a Pi 5 may join in any case."""
    with tempfile.TemporaryDirectory() as room, contextlib.ExitStack() as stack, BrokerProcess() as broker:
        logs = {name: Path(room) / name for name in ("gateway", "pi3", "pi5")}
        inner = f"/tmp/{Path(room).name}"
        stack.callback(shutil.rmtree, ROOT / inner[1:], ignore_errors=True)
        (ROOT / inner[1:]).mkdir()
        drawn(dtype, ROOT / inner[1:] / f"{dtype}.tflite")
        there = ["--broker", broker.url, "--model", f"{inner}/{dtype}.tflite", "--grid", "2x2", "--state", f"{inner}/gateway"]
        gateway = stack.enter_context(process("cortex-a72", logs["gateway"], "gateway", *there))
        await_line(gateway, logs["gateway"], "ready")
        for name, processor in (("pi5", "cortex-a76"), ("pi3", "cortex-a53")):
            words = ["edge", "--gateway", broker.url, "--name", name, "--cache", f"{inner}/{name}"]
            edge = stack.enter_context(process(processor, logs[name], *words, "--state", f"{inner}/{name}-state"))
            wanted = "joined the cluster" if admitted or name == "pi5" else "other uint8 bits"
            print(f"{name}: {await_line(edge, logs[name], wanted)}", flush=True)


def pytest(processor: str) -> bool:
    """Whether the tests of what tiles and parts rely on pass."""
    files = [f"tests/models/test_{name}.py" for name in TESTS]
    words = ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *files]
    return subprocess.run(inside(processor, *words)).returncode == 0


def main(processors: Sequence[str]) -> int:
    if said := missing():
        print(said, file=sys.stderr)
        return 2
    register()
    make_root()
    made = {processor: bits(processor) for processor in processors}
    for arithmetic in ("float32", "int8", "uint8"):
        alike = {made[p][arithmetic] for p in processors if arithmetic != "uint8" or p != "cortex-a53"}
        if len(alike) > 1 or (arithmetic == "uint8" and "cortex-a53" in made and made["cortex-a53"][arithmetic] in alike):
            print(f"{arithmetic} is not as the documentation tells: {made}", file=sys.stderr)
            return 1
    if len(processors) == len(PROCESSORS):
        mixed_cluster("uint8", admitted=False)
        mixed_cluster("float32", admitted=True)
    failed = [processor for processor in processors if not pytest(processor)]
    print(f"== failed on {', '.join(failed)}" if failed else f"== exact on emulated {', '.join(processors)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(PROCESSORS)))
