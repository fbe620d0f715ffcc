"""Counters of energy, against a tree as Linux's powercap shows it and a library that answers as NVML does."""

import ctypes
import types

import pytest

from launch.machine import chips, counters
from launch.machine.counters import NVML, GPUEnergy, GPUPower, gpu_counters, rapl_zones
from launch.machine.energy import EnergyMeter
from train.config import Energy
from train.energy import per_token

RANGE = 262_143_328_850  # microjoules: max_energy_range_uj of an Intel Xeon


def zone(root, name: str, kind: str, microjoules: int, range_: int = RANGE) -> None:
    folder = root / name
    folder.mkdir(parents=True)
    for file, content in (("name", kind), ("energy_uj", microjoules), ("max_energy_range_uj", range_)):
        (folder / file).write_text(f"{content}\n")


@pytest.fixture
def powercap(tmp_path):
    """A server of two packages with memory, a laptop's psys, and the same package by its memory-mapped registers."""
    zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    zone(tmp_path, "intel-rapl:0:0", "core", 3_000_000)
    zone(tmp_path, "intel-rapl:0:1", "dram", 1_000_000)
    zone(tmp_path, "intel-rapl:1", "package-1", RANGE - 1_000_000)
    zone(tmp_path, "intel-rapl:2", "psys", 9_000_000)
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 5_000_000)
    (tmp_path / "intel-rapl").mkdir()
    return tmp_path


def test_packages_and_their_memory_add_up_over_the_end_of_the_counter(powercap):
    zones = rapl_zones(powercap)
    assert [zone.device for zone in zones] == ["package-0", "package-0 dram", "package-1"]
    (powercap / "intel-rapl:0/energy_uj").write_text("7500000")
    (powercap / "intel-rapl:0:1/energy_uj").write_text("1250000")
    (powercap / "intel-rapl:1/energy_uj").write_text("3000000")  # once past its end
    for each in zones:
        each.update()
    assert [zone.joules for zone in zones] == pytest.approx([2.5, 0.25, 4.0])


def test_what_is_roots_alone_or_no_counter_is_left_out(powercap, monkeypatch):
    (powercap / "intel-rapl:1/max_energy_range_uj").write_text("none")
    read = counters.Path.read_text

    def refuse(path, *arguments, **options):
        if path == powercap / "intel-rapl:0/energy_uj":
            raise PermissionError(path)
        return read(path, *arguments, **options)

    monkeypatch.setattr(counters.Path, "read_text", refuse)  # root, as tests often are, may read all
    assert rapl_zones(powercap) == [] and rapl_zones(powercap / "nowhere") == []


@pytest.mark.parametrize("file", ["energy_uj", "max_energy_range_uj", "name"])
def test_of_several_packages_all_are_counted_or_none(powercap, file):
    """Memory that can't be read is left out alone."""
    (powercap / "intel-rapl:0:1" / "max_energy_range_uj").write_text("none")
    assert [zone.device for zone in rapl_zones(powercap)] == ["package-0", "package-1"]
    (powercap / "intel-rapl:1" / file).unlink()
    assert rapl_zones(powercap) == []


class Library:
    """libnvidia-ml with two GPUs, by the signatures of NVML's API reference. `missing`: functions that answer with
    NVML_ERROR_NOT_SUPPORTED."""

    def __init__(self, missing=()):
        self.millijoules, self.milliwatts, self.missing = {1: 4_000, 2: 70_000}, 300_000, missing

    def __getattr__(self, name):
        if name not in type(self).FUNCTIONS:
            raise AttributeError(name)
        if name in self.missing:
            return lambda *arguments: 3
        return lambda *arguments: type(self).FUNCTIONS[name](self, *arguments) or 0

    def by_index(self, index, handle):
        if index.value > 1:
            return 2  # NVML_ERROR_INVALID_ARGUMENT
        handle._obj.value = index.value + 1
        return 0

    def by_uuid(self, uuid, handle):
        handle._obj.value = {b"GPU-aa": 1, b"GPU-bb": 2}[uuid]

    def name(self, handle, buffer, length):
        buffer.value = b"NVIDIA H200"

    def uuid(self, handle, buffer, length):
        buffer.value = {1: b"GPU-aa", 2: b"GPU-bb"}[handle.value]

    def energy(self, handle, value):
        assert isinstance(value._obj, ctypes.c_ulonglong)
        value._obj.value = self.millijoules[handle.value]

    def power(self, handle, value):
        assert isinstance(value._obj, ctypes.c_uint)
        value._obj.value = self.milliwatts

    FUNCTIONS = {  # noqa: RUF012
        "nvmlInit_v2": lambda self: 0,
        "nvmlDeviceGetHandleByIndex_v2": by_index,
        "nvmlDeviceGetHandleByUUID": by_uuid,
        "nvmlDeviceGetName": name,
        "nvmlDeviceGetUUID": uuid,
        "nvmlDeviceGetTotalEnergyConsumption": energy,
        "nvmlDeviceGetPowerUsage": power,
    }


@pytest.mark.parametrize(
    "visible, indices, expected",
    [(None, [0, 1], ["GPU-aa", "GPU-bb"]), ("1", [0], ["GPU-bb"]), ("GPU-bb, 0", [0, 1], ["GPU-bb", "GPU-aa"])],
)
def test_the_gpus_that_are_counted_are_those_that_cuda_shows(visible, indices, expected, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    library = Library()
    found = gpu_counters(indices, lambda name: library)
    assert [counter.device for counter in found] == [f"NVIDIA H200 {uuid}" for uuid in expected]
    library.millijoules = {1: 5_500, 2: 90_000}
    for counter in found:
        counter.update()
    joules = {"GPU-aa": 1.5, "GPU-bb": 20.0}
    assert [counter.joules for counter in found] == pytest.approx([joules[uuid] for uuid in expected])
    library.millijoules = {1: 250, 2: 250}  # the driver was loaded anew
    found[0].update()
    assert found[0].joules == pytest.approx(joules[expected[0]] + 0.25)


def test_a_gpu_without_a_counter_of_energy_has_its_power_added_up():
    library, seconds = Library(missing=["nvmlDeviceGetTotalEnergyConsumption"]), [0.0]
    counter = NVML(library).counter("0")
    assert isinstance(counter, GPUPower) and counter.interval == 1
    counter = GPUPower("a", counter.read, lambda: seconds[0])
    for seconds[0], library.milliwatts in ((1.0, 500_000), (3.0, 100_000)):  # 300 to 500 W in 1 s, to 100 W in 2 s
        counter.update()
    assert counter.joules == pytest.approx(400 + 600)


@pytest.mark.parametrize(
    "library, indices",
    [
        (Library(["nvmlInit_v2"]), [0]),
        (Library(["nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage"]), [0]),
        (Library(), [0, 5]),
        (types.SimpleNamespace(), [0]),
    ],
)
def test_where_nvml_does_not_answer_there_are_no_counters(library, indices, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpu_counters(indices, lambda name: library) == []


def test_a_machine_without_the_library_has_no_counters():
    def load(name):
        raise OSError(f"{name}: cannot open shared object file")

    assert gpu_counters([0], load) == []


def device(platform: str, kind: str, **more):
    return types.SimpleNamespace(platform=platform, device_kind=kind, process_index=0, id=0, **more)


class Counter:
    """A counter that adds 5 J at each update, and breaks at the third where it is to."""

    device, source, interval, joules = "a", "a test", None, 0.0

    def __init__(self, covers: str, breaks: bool = False):
        self.covers, self.breaks = covers, breaks

    def update(self) -> None:
        self.joules += 5.0
        if self.breaks and self.joules > 10:
            raise OSError("gone")


def test_a_meter_says_how_it_knows():
    h200 = [device("gpu", "NVIDIA H200")]
    with EnergyMeter(h200, found=[Counter("accelerator"), Counter("processor")]) as meter:
        pass
    assert (meter.use().joules, meter.use().method) == (10.0, "measured")  # closed: nothing more is counted
    assert per_token(meter.use(), 4)["joules_per_token"] == 2.5
    with EnergyMeter(h200, found=[Counter("processor")]) as meter:
        pass
    assert meter.use().method == "modelled" and "700 W a chip (the maker's rated power)" in meter.use().about
    with EnergyMeter([device("cpu", "cpu")], found=[]) as meter:
        pass
    assert meter.use()[:2] == (None, "unmeasured") and per_token(meter.use(), 4)["joules_per_token"] is None
    with EnergyMeter([device("cpu", "cpu")], Energy(chip_watts=50.0), found=[]) as meter:
        pass
    assert meter.use().joules == pytest.approx(50 * meter.seconds) and meter.use().method == "modelled"


def test_a_counter_that_breaks_is_not_taken_for_the_whole():
    meter = EnergyMeter([device("cpu", "cpu")], found=[Counter("processor"), Counter("processor", breaks=True)])
    assert meter.reading()["complete"] and meter.reading()["complete"]
    reading = meter.reading()
    assert not reading["complete"] and [d["joules"] for d in reading["by_device"]] == [15.0]


def test_a_thread_reads_counters_that_would_run_over():
    counter = Counter("processor")
    counter.interval = 0.01
    meter = EnergyMeter([device("cpu", "cpu")], found=[counter])
    deadline = meter.stop.wait
    while counter.joules < 15:
        deadline(0.01)
    meter.close()


def test_chips_are_counted_as_they_are_priced():
    """Two devices of one TPU7x, four of two processes on CPU, two GPUs, one chip on each of two slices."""
    tpu = [device("tpu", "TPU7x", coords=(0, 0, 0)), device("tpu", "TPU7x", coords=(0, 0, 0))]
    cpu = [device("cpu", "cpu") for _ in range(4)]
    cpu[2].process_index = cpu[3].process_index = 1
    gpu = [device("gpu", "NVIDIA H200"), device("gpu", "NVIDIA H200")]
    gpu[1].id = 1
    slices = [device("tpu", "TPU v4", coords=(0, 0, 0), slice_index=i) for i in range(2)]
    assert [chips.count_chips(each) for each in (tpu, cpu, gpu, slices)] == [1, 2, 2, 2]


def test_a_counter_of_millijoules_needs_no_thread():
    assert GPUEnergy("a", lambda: 1).interval is None
