"""The unmodified nvidia-ml-py, and our inventory, on the fake driver library, which the loader finds as it would find the real one."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

NATIVE = Path(__file__).parents[2] / "sidecar" / "native"
TWO_GPUS = """\
# two unlike GPUs
driver version=615.10 cuda=13010
gpu uuid=GPU-aaaa model="NVIDIA H100 80GB HBM3" memory=80Gi reserved=512Mi
gpu uuid=GPU-bbbb model=L4 memory=24576Mi
process gpu=0 pid=123 used=1Gi compute=40 memory=7
process gpu=0 pid=124 used=512Mi
utilisation gpu=0 compute=41 memory=8
"""


@pytest.fixture(scope="session")
def library(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("native")
    subprocess.run(["make", "-s", "-C", str(NATIVE), "fakes", f"OUT={out}"], check=True)
    return out


@pytest.fixture
def gpus(tmp_path) -> Path:
    file = tmp_path / "gpus.conf"
    file.write_text(TWO_GPUS)
    return file


def run(library: Path, gpus: Path, program: str, **environment: str) -> subprocess.CompletedProcess:
    prelude = """
        import asyncio, json, os, pynvml as nvml
        from pathlib import Path
        FILE = Path(os.environ["AIOS_FAKE_GPUS"])
        def rewrite(text):
            new = FILE.with_suffix(".new"); new.write_text(text); new.rename(FILE)
        def error(call, *arguments):
            try:
                call(*arguments)
            except nvml.NVMLError as failure:
                return failure.value
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(prelude) + textwrap.dedent(program)],
        env={**os.environ, "LD_LIBRARY_PATH": str(library), "AIOS_FAKE_GPUS": str(gpus), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def result(library: Path, gpus: Path, program: str):
    done = run(library, gpus, program)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_inventory_memory_and_handles_are_what_the_file_says(library, gpus):
    said = result(
        library,
        gpus,
        """
        nvml.nvmlInit()
        first, second = (nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount()))
        old, new = nvml.nvmlDeviceGetMemoryInfo(first), nvml.nvmlDeviceGetMemoryInfo(first, version=nvml.nvmlMemory_v2)
        pci = nvml.nvmlDeviceGetPciInfo(second)
        same = [nvml.nvmlDeviceGetHandleByUUID("GPU-bbbb")]
        same += [nvml.nvmlDeviceGetHandleByPciBusId(bus) for bus in (pci.busId, "0000:02:00.0")]
        print(json.dumps({
            "driver": nvml.nvmlSystemGetDriverVersion(), "cuda": nvml.nvmlSystemGetCudaDriverVersion(),
            "library": nvml.nvmlSystemGetNVMLVersion(), "names": [nvml.nvmlDeviceGetName(d) for d in (first, second)],
            "uuids": [nvml.nvmlDeviceGetUUID(d) for d in (first, second)],
            "old": [old.total, old.free, old.used], "new": [new.total, new.reserved, new.free, new.used],
            "indices": [nvml.nvmlDeviceGetIndex(d) for d in same], "pci": pci.busId, "bus": pci.bus,
            "unknown": error(nvml.nvmlDeviceGetHandleByUUID, "GPU-cccc"), "beyond": error(nvml.nvmlDeviceGetHandleByIndex, 2),
            "mig": error(nvml.nvmlDeviceGetMigMode, first), "text": str(nvml.NVMLError(15)),
        }))
        nvml.nvmlShutdown()
        assert error(nvml.nvmlDeviceGetCount) == nvml.NVML_ERROR_UNINITIALIZED
        """,
    )
    gib = 1 << 30
    assert said == {
        "driver": "615.10-aios-fake",
        "cuda": 13010,
        "library": "13.615.00-aios-fake",
        "names": ["NVIDIA H100 80GB HBM3", "L4"],
        "uuids": ["GPU-aaaa", "GPU-bbbb"],
        "old": [80 * gib, 78 * gib, 2 * gib],
        "new": [80 * gib, gib // 2, 78 * gib, 3 * gib // 2],
        "indices": [1, 1, 1],
        "pci": "00000000:02:00.0",
        "bus": 2,
        "unknown": 6,
        "beyond": 2,
        "mig": 3,
        "text": "GPU is lost",
    }


def test_processes_and_utilisation_are_what_the_file_says(library, gpus):
    said = result(
        library,
        gpus,
        """
        nvml.nvmlInit()
        busy, idle = (nvml.nvmlDeviceGetHandleByIndex(i) for i in (0, 1))
        rates = nvml.nvmlDeviceGetUtilizationRates(busy)
        samples = nvml.nvmlDeviceGetProcessUtilization(busy, 0)
        print(json.dumps({
            "processes": [[p.pid, p.usedGpuMemory] for p in nvml.nvmlDeviceGetComputeRunningProcesses(busy)],
            "idle": nvml.nvmlDeviceGetComputeRunningProcesses(idle), "graphics": nvml.nvmlDeviceGetGraphicsRunningProcesses(busy),
            "rates": [rates.gpu, rates.memory], "samples": [[s.pid, s.smUtil, s.memUtil] for s in samples],
            "infos": [[s.pid, s.smUtil, s.memUtil] for s in nvml.nvmlDeviceGetProcessesUtilizationInfo(busy, 0)],
            "none_newer": error(nvml.nvmlDeviceGetProcessUtilization, busy, 2**63),
            "none": error(nvml.nvmlDeviceGetProcessUtilization, idle, 0),
            "name": nvml.nvmlSystemGetProcessName(os.getpid()).startswith("python"),
        }))
        """,
    )
    assert said["processes"] == [[123, 1 << 30], [124, 1 << 29]]
    assert said["idle"] == said["graphics"] == []
    assert said["rates"] == [41, 8]
    assert said["samples"] == said["infos"] == [[123, 40, 7], [124, 0, 0]]
    assert said["none_newer"] == said["none"] == 6
    assert said["name"] is True


def test_events_reach_sets_that_were_registered_before_them_once_and_in_order(library, gpus):
    said = result(
        library,
        gpus,
        """
        import threading
        nvml.nvmlInit()
        device = nvml.nvmlDeviceGetHandleByIndex(0)
        text = FILE.read_text() + "event gpu=0 xid=13 at=5\\n"
        rewrite(text)
        events = nvml.nvmlEventSetCreate()
        assert nvml.nvmlDeviceGetSupportedEventTypes(device) == nvml.nvmlEventTypeXidCriticalError
        nvml.nvmlDeviceRegisterEvents(device, nvml.nvmlEventTypeXidCriticalError, events)
        old = error(nvml.nvmlEventSetWait, events, 30)
        threading.Timer(0.2, rewrite, (text + "event gpu=0 xid=94 at=7\\nevent gpu=0 xid=79 at=6\\nevent gpu=1 xid=1 at=8\\n",)).start()
        told = [nvml.nvmlEventSetWait(events, 5000) for _ in range(2)]
        end = error(nvml.nvmlEventSetWait, events, 30)
        nvml.nvmlEventSetFree(events)
        print(json.dumps({
            "old": old, "told": [[nvml.nvmlDeviceGetUUID(e.device), e.eventType, e.eventData] for e in told], "end": end,
            "freed": error(nvml.nvmlEventSetWait, events, 1),
            "unsupported": error(nvml.nvmlDeviceRegisterEvents, device, 1, nvml.nvmlEventSetCreate()),
        }))
        """,
    )
    assert said == {"old": 10, "told": [["GPU-aaaa", 8, 79], ["GPU-aaaa", 8, 94]], "end": 10, "freed": 2, "unsupported": 3}


def test_health_is_what_the_file_says_and_what_it_does_not_say_is_not_told(library, gpus):
    gpus.write_text(TWO_GPUS.replace("model=L4", "model=L4 recovery=2 pending=1 failed=1 events=0"))
    said = result(
        library,
        gpus,
        """
        nvml.nvmlInit()
        said = []
        for device in (nvml.nvmlDeviceGetHandleByIndex(i) for i in (0, 1)):
            action, other = nvml.nvmlDeviceGetFieldValues(device, [nvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION, 1])
            events = nvml.nvmlEventSetCreate()
            said.append([
                action.nvmlReturn, action.value.uiVal, other.nvmlReturn, nvml.nvmlDeviceGetRemappedRows(device),
                nvml.nvmlDeviceGetSupportedEventTypes(device), error(nvml.nvmlDeviceRegisterEvents, device, 8, events),
            ])
        print(json.dumps(said))
        """,
    )
    assert said == [[3, 0, 3, [0, 0, 0, 0], 8, None], [0, 2, 3, [0, 1, 1, 1], 0, 3]]


def test_the_fake_cuda_gives_a_context_that_nvml_tells_of(library, gpus, tmp_path):
    gpus.write_text(TWO_GPUS.replace("model=L4", "model=L4 context=300Mi") + "programs proc=/proc\n")
    said = result(
        library,
        gpus,
        """
        import ctypes
        os.environ["CUDA_VISIBLE_DEVICES"] = "GPU-bbbb"
        cuda = ctypes.CDLL("libcuda.so.1")
        context, device, count, name = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_int(), ctypes.c_char_p()
        def used():
            nvml.nvmlInit()
            processes = nvml.nvmlDeviceGetComputeRunningProcesses(nvml.nvmlDeviceGetHandleByUUID("GPU-bbbb"))
            return {p.pid: p.usedGpuMemory for p in processes}.get(os.getpid())
        early = cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
        codes = [cuda.cuInit(1), cuda.cuInit(0), cuda.cuDeviceGetCount(ctypes.byref(count)), cuda.cuDeviceGet(ctypes.byref(device), 1),
                 cuda.cuDeviceGet(ctypes.byref(device), 0), cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device),
                 cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)]
        with_context = used()
        codes += [cuda.cuDevicePrimaryCtxRelease_v2(device) for _ in range(3)]
        import time; time.sleep(0.1)
        cuda.cuGetErrorName(early, ctypes.byref(name))
        print(json.dumps([early, codes, count.value, with_context, used(), name.value.decode()]))
        """,
    )
    assert said == [3, [1, 0, 0, 101, 0, 0, 0, 0, 0, 101], 1, 300 << 20, None, "CUDA_ERROR_NOT_INITIALIZED"]


def test_what_a_process_of_the_same_number_said_before_is_not_believed(library, gpus):
    gpus.write_text(TWO_GPUS + "programs proc=/proc\n")
    said = result(
        library,
        gpus,
        """
        import time
        from pathlib import Path
        own = Path(f"/tmp/aios-fake-vram/{os.getpid()}")
        def used():
            nvml.nvmlInit()
            time.sleep(0.1)
            processes = nvml.nvmlDeviceGetComputeRunningProcesses(nvml.nvmlDeviceGetHandleByUUID("GPU-bbbb"))
            return {p.pid: p.usedGpuMemory for p in processes}.get(os.getpid())
        own.parent.mkdir(exist_ok=True)
        own.write_text("gpu=GPU-bbbb used=300Mi\\n")
        said = [used()]
        os.utime(own, (time.time() - 60,) * 2)
        said.append(used())
        own.unlink()
        print(json.dumps(said))
        """,
    )
    assert said == [300 << 20, None]


def test_a_change_of_the_file_shows_at_the_next_call_and_a_gpu_that_left_is_lost(library, gpus):
    said = result(
        library,
        gpus,
        """
        nvml.nvmlInit()
        first, second = (nvml.nvmlDeviceGetHandleByIndex(i) for i in (0, 1))
        rewrite('gpu uuid=GPU-cccc model=A memory=1Gi\\ngpu uuid=GPU-bbbb model=L4 memory=24Gi\\n')
        lost, new = error(nvml.nvmlDeviceGetName, first), nvml.nvmlDeviceGetHandleByIndex(0)
        print(json.dumps([lost, nvml.nvmlDeviceGetUUID(second), nvml.nvmlDeviceGetIndex(second), nvml.nvmlDeviceGetUUID(new)]))
        """,
    )
    assert said == [15, "GPU-bbbb", 1, "GPU-cccc"]


def test_the_inventory_gives_what_is_not_reserved_and_knows_a_fake(library, gpus):
    said = result(
        library,
        gpus,
        """
        from dataclasses import asdict
        from aios_sidecar.vram.inventory import NvmlInventory
        async def main():
            inventory = NvmlInventory()
            reports = [await inventory.read()]
            rewrite(FILE.read_text().replace("model=L4", "model=L4 error=15"))
            reports.append(await inventory.read())
            whole = FILE.read_text()
            rewrite(whole.replace("cuda=13010", "cuda=13010 error=9"))
            reports.append(await inventory.read())
            rewrite(whole)
            reports.append(await inventory.read())
            rewrite(whole.replace("error=15", "mig=1"))
            reports.append(await inventory.read())
            FILE.unlink()
            reports.append(await inventory.read())
            await inventory.close()
            print(json.dumps([asdict(r) for r in reports]))
        asyncio.run(main())
        """,
    )
    whole, one_lost, unloaded, loaded_again, partitioned, gone = said
    assert whole["gpus"] == [
        {"uuid": "GPU-aaaa", "model": "NVIDIA H100 80GB HBM3", "index": 0, "memory_mib": 80 * 1024 - 512, "fake": True},
        {"uuid": "GPU-bbbb", "model": "L4", "index": 1, "memory_mib": 24 * 1024, "fake": True},
    ]
    assert (whole["withheld"], whole["absent"], whole["driver_version"]) == ([], None, "615.10-aios-fake")
    assert [gpu["uuid"] for gpu in one_lost["gpus"]] == ["GPU-aaaa"]
    assert one_lost["withheld"] == [{"index": 1, "reason": "the driver gives no answer for it: GPU is lost", "uuid": None}]
    assert unloaded["gpus"] == gone["gpus"] == []
    assert unloaded["absent"] == gone["absent"] == "the NVIDIA driver library gives no answer any more: Driver Not Loaded"
    assert loaded_again == one_lost
    assert partitioned["gpus"] == one_lost["gpus"]
    assert partitioned["withheld"] == [
        {"index": 1, "reason": "MIG mode is enabled on it; only whole GPUs are shared here", "uuid": "GPU-bbbb"}
    ]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("gpu uuid=GPU-x model=A", "memory is missing"),
        ("gpu uuid=GPU-x model=A memory=0", "memory must be a whole number from 1"),
        ("gpu uuid=GPU-x model=A memory=-1Gi", "memory must be"),
        ("gpu uuid=GPU-x model=A memory=99999999999Ti", "memory must be"),
        ("gpu uuid=GPU-x model=A memory=1Gi reserved=2Gi", "reserved must be"),
        ("gpu uuid=GPU-aaaa model=A memory=1Gi", "uuid is that of GPU 0"),
        ("gpu uuid=MIG-x model=A memory=1Gi", "uuid must begin with GPU-"),
        ('gpu uuid=GPU-x model="A memory=1Gi', "the quote of model is not closed"),
        ("gpu uuid=GPU-x model=A memory=1Gi memroy=1", "a gpu has no memroy"),
        ("gpu uuid=GPU-x model=A memory=1Gi memory=1Gi", "memory is given twice"),
        (f"gpu uuid=GPU-{'x' * 100} model=A memory=1Gi", "uuid must have 1 to 79"),
        ("process gpu=2 pid=1 used=1Gi", "gpu must be a whole number from 0 to 1"),
        ("process gpu=0 pid=1 used=80Gi", "used must be"),
        ("event gpu=0 xid=79", "at is missing"),
        ("gpus", "a line begins with"),
    ],
)
def test_a_line_that_makes_no_sense_fails_every_call_and_is_named(library, gpus, line, complaint):
    gpus.write_text(TWO_GPUS + line + "\n")
    done = run(library, gpus, "print(error(nvml.nvmlInit), error(nvml.nvmlInit))")
    assert done.stdout.split() == ["999", "999"]
    assert done.stderr.count("\n") == 1, "said once, not at every call"
    assert f"{gpus}:8: {complaint}" in done.stderr


FUZZ = """
    import random
    from ctypes import c_void_p
    chance = random.Random(20260101)
    seeds = FILE.read_text() + "event gpu=1 xid=79 at=3\\n"
    words = seeds.split() + ["=", '"', "\\0", "gpu=99999999999999999999", "\\n", "used=99999999999Ti"]
    words += ["x" * 5000, "\\xff", "#", "memory=1Ti", "error=15"]
    nvml.nvmlInit()
    good = 0
    for round in range(3000):
        text = list(seeds)
        for _ in range(chance.randrange(4)):
            place = chance.randrange(len(text) + 1)
            text[place:place + chance.choice((0, 0, 1, 5, 40))] = chance.choice(words) + chance.choice(("", " ", "\\n"))
        rewrite("".join(text))
        good += error(nvml.nvmlDeviceGetCount) is None
        for place in range(4):
            device = nvml.c_nvmlDevice_t.from_buffer(c_void_p(chance.choice((0, place + 1, 5000, 2**63))))
            for call in (nvml.nvmlDeviceGetName, nvml.nvmlDeviceGetUUID, nvml.nvmlDeviceGetMemoryInfo, nvml.nvmlDeviceGetPciInfo,
                         nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetUtilizationRates, nvml.nvmlDeviceGetIndex):
                error(call, device)
            error(nvml.nvmlDeviceGetProcessUtilization, device, 0)
            error(nvml.nvmlDeviceGetProcessesUtilizationInfo, device, 0)
        try:
            events = nvml.nvmlEventSetCreate()
            error(nvml.nvmlDeviceRegisterEvents, nvml.nvmlDeviceGetHandleByIndex(0), 8, events)
            error(nvml.nvmlEventSetWait, events, 0)
            nvml.nvmlEventSetFree(events)
        except nvml.NVMLError:
            pass
    print(good)
"""


def test_no_file_crashes_it_and_no_memory_is_touched_that_is_not_its_own(tmp_path, gpus):
    compiler = shutil.which("gcc")
    runtime = (
        compiler and subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout.strip()
    )
    if not runtime or not Path(runtime).is_absolute():
        pytest.skip("no gcc with the address sanitizer")
    sources, built = [NATIVE / "fakes" / name for name in ("nvml.c", "house.c")], tmp_path / "libnvidia-ml.so.1"
    flags = ["-std=c11", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-shared", "-fPIC", "-pthread"]
    subprocess.run([compiler, *flags, "-o", str(built), *map(str, sources)], check=True)
    done = run(tmp_path, gpus, FUZZ, LD_PRELOAD=runtime, ASAN_OPTIONS="detect_leaks=0")
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Sanitizer" not in done.stderr
    assert 300 < int(done.stdout) < 2700, "both kinds of file were tried"
