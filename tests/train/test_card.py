"""The accounts of RUN/card.json, with a clock that the tests turn: what time went into, and what energy is known."""

import json

import pytest
import tiny

from train import processes
from train.attempts import Attempt, settle, settled_attempts
from train.card import Facts, card, energy_of, record_generation, summary
from train.check import check
from train.compilation import CompileTimer
from train.config import PUE, Energy, Grid
from train.energy import Chips, energy_use, merge_readings, total
from train.events import Ended, Evaluated, Measured, Paused, Saved, Started
from train.fields import ConfigError
from train.goodput import KINDS, Account
from train.listeners.card import BEAT, CardFile, Timed, new_attempt

CPU = {
    "kind": "cpu", "count": 2, "platform": "cpu", "chips": 1, "rated_watts": None, "peak_flops": None, "processor": "a",
}  # fmt: skip
UNMEASURED = {"by_device": [], "complete": False}
TOKENS = tiny.BATCH * tiny.LENGTH


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += seconds


class FakeRun:
    """A run's listeners, and events that take time: 10 steps, saved and evaluated every 5."""

    def __init__(self, folder, clock, attempts, first_step=0, experiment=None, reading=UNMEASURED):
        self.experiment, self.folder, self.clock = experiment or tiny.experiment(), folder, clock
        self.account = Account(before=3.0, clock=clock)
        self.reading, self.lines = reading, []
        attempt = new_attempt(len(attempts) + 1, first_step, CPU, self.account)
        facts = Facts("run", "1", 1000, 1000, 6000.0, {"training": []}, self.experiment)
        self.reports: list[str] = []
        self.card = CardFile(
            folder / "card.json", facts, self.account, [*attempts, attempt], lambda: self.reading,
            lambda run: 7.0, self.reports.append, lambda: None,
        )  # fmt: skip
        self.listeners = [
            Timed(self.account, "evaluation", self.evaluate), Timed(self.account, "save", self.save), self.card,
        ]  # fmt: skip

    def emit(self, event) -> None:
        for listener in self.listeners:
            listener(self, event)

    def evaluate(self, run, event) -> None:
        if isinstance(event, Paused):
            self.clock.pass_(2.0)
            self.account.add_compilation(0.5)  # of these two seconds
            run.emit(Evaluated(event.step, {}))
            self.clock.pass_(1.0)

    def save(self, run, event) -> None:
        if isinstance(event, Evaluated):
            self.clock.pass_(0.25)  # a score that is written, within the evaluation
        if isinstance(event, Paused):
            self.clock.pass_(0.75)

    def start(self, step=0) -> None:
        self.clock.pass_(4.0)
        self.account.add_compilation(1.5)
        self.emit(Started(step))

    def step(self, step, seconds=1.0, data_wait=0.25, compiling=0.0) -> None:
        self.clock.pass_(seconds)
        if compiling:
            self.account.add_compilation(compiling)
        self.lines.append({"step": step, "tokens_per_second": TOKENS / seconds, "data_wait": data_wait})
        self.emit(Measured([{"step": step, "seconds": seconds, "data_wait": data_wait, "train/loss": 1.0}]))

    def read(self) -> dict:
        return json.loads((self.folder / "card.json").read_text())

    def write_lines(self) -> None:
        (self.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in self.lines))


def run_to_first_save(run: FakeRun) -> None:
    run.start()
    run.step(1, seconds=5.0, compiling=3.0)
    for step in range(2, 6):
        run.step(step)
    run.emit(Paused(5))


def test_every_second_is_of_one_kind_and_all_add_up(tmp_path):
    """By hand: 3 s before, 4 of starting (1.5 compiling), 5 steps of 9 s (3 compiling, a quarter of 9 waiting), a pause
    of 4 s: evaluation 3 less 0.5 compiling, a score of 0.25 within it, a save of 0.75."""
    run = FakeRun(tmp_path, Clock(), [])
    run_to_first_save(run)
    run.emit(Ended(5, "done"))
    content = run.read()
    assert content["wall_seconds"] == pytest.approx(3 + 4 + 9 + 3.25 + 0.75)
    assert content["goodput"] == pytest.approx(
        {
            "compile": 1.5 + 3 + 0.5, "step": 9 * 0.75 - 3, "data": 9 * 0.25, "evaluation": 2.5, "save": 1.0,
            "lost": 0.0, "other": 3 + 4 - 1.5, "goodput": (9 * 0.75 - 3) / 20,
        }
    )  # fmt: skip
    assert sum(content["goodput"][kind] for kind in (*KINDS, "other")) == pytest.approx(content["wall_seconds"])
    assert content["device"]["hours"] == pytest.approx(2 * 20 / 3600) and content["steps"] == 5
    assert content["attempts"][0]["ended"] == "done" and content["flops"]["formula"] == 6 * 1000 * 5 * TOKENS
    assert run.reports == [summary(content, lambda seconds: f"0:{seconds:.0f}")]


def test_what_a_kill_undoes_is_lost_once_the_run_goes_on(tmp_path):
    """Saved at step 5, killed behind step 8, of which metrics.jsonl has 6 and 7; the next attempt ends it."""
    clock = Clock()
    run = FakeRun(tmp_path, clock, [])
    run_to_first_save(run)
    run.step(6, seconds=2.0)
    run.emit(Saved(5, ""))
    assert run.read()["steps"] == 5 and run.read()["wall_seconds"] == pytest.approx(22)  # it is seen to live
    run.step(7, seconds=2.0)
    run.write_lines()
    run.step(8, seconds=2.0)

    attempts = settled_attempts(tmp_path, 5, TOKENS)
    again = FakeRun(tmp_path, clock, attempts, first_step=5)
    again.start(5)
    for step in range(6, 11):
        again.step(step)
    again.emit(Paused(10))
    again.emit(Saved(10, ""))
    again.emit(Ended(10, "done"))
    content = again.read()
    first, second = content["attempts"]
    assert (first["ended"], second["ended"], first["lost_steps"]) == ("killed", "done", 2)
    assert first["seconds"]["lost"] == pytest.approx(4) and first["wall_seconds"] == pytest.approx(24)
    assert content["wall_seconds"] == pytest.approx(24 + 3 + 4 + 5 + 4)
    assert content["goodput"]["lost"] == pytest.approx(4) and content["lost_steps"] == 2
    assert sum(content["goodput"][kind] for kind in (*KINDS, "other")) == pytest.approx(content["wall_seconds"])
    assert "attempts [1] did between their last line" in content["unknown"][0]


def test_a_sign_of_life_every_minute_bounds_what_a_kill_hides(tmp_path):
    clock = Clock()
    run = FakeRun(tmp_path, clock, [])
    run_to_first_save(run)
    run.step(6)
    run.emit(Saved(5, ""))
    run.step(7, seconds=BEAT + 1)  # of which metrics.jsonl never hears
    run.step(8, seconds=BEAT + 1)
    attempts = settled_attempts(tmp_path, 5, TOKENS)
    assert attempts[0].seconds["lost"] == pytest.approx(1 + 2 * (BEAT + 1))


def test_flops_of_the_program_are_counted_after_a_minute_however_often_the_run_saves(tmp_path):
    run = FakeRun(tmp_path, Clock(), [])
    run_to_first_save(run)
    run.emit(Saved(5, ""))
    for step in range(6, 6 + round(BEAT) // 10):
        run.step(step, seconds=10.0)
        run.emit(Paused(5))
        run.emit(Saved(5, ""))
    assert run.card.program_flops.result() == 7.0
    run.emit(Ended(10, "done"))
    assert run.read()["flops"]["compiled"] == 10 * 7.0


def test_a_card_that_begins_late_says_so(tmp_path):
    run = FakeRun(tmp_path, Clock(), [], first_step=5)
    run.start(5)
    run.emit(Ended(5, "done"))
    assert "what steps 1 to 5 took" in run.read()["unknown"][0]


def test_steps_that_a_published_checkpoint_kept_are_not_lost(tmp_path):
    """Killed before the card heard of its last save."""
    run = FakeRun(tmp_path, Clock(), [])
    run_to_first_save(run)
    run.emit(Saved(5, ""))
    for step in range(6, 12):
        run.step(step)
    run.write_lines()
    attempts = settled_attempts(tmp_path, 10, TOKENS)
    (attempt,) = attempts
    assert attempt.step == 10 and attempt.lost_steps == 1
    assert attempt.seconds["lost"] == pytest.approx(1) and attempt.seconds["step"] == pytest.approx(3.75 + 5 * 0.75)


def test_what_is_behind_a_checkpoint_that_was_damaged_is_lost_by_the_attempt_that_did_it():
    """Two attempts, 0 to 10 and 10 to 20; both of their checkpoints behind 5 are gone."""
    spent = dict.fromkeys(KINDS, 0.0)
    first = Attempt(1, 0.0, 0, 10, CPU, 20.0, 20.0, spent | {"step": 8.0, "data": 2.0}, ended="SIGTERM")
    second = Attempt(2, 0.0, 10, 20, CPU, 20.0, 20.0, spent | {"step": 7.0, "data": 2.0, "compile": 1.0}, ended="done")
    lines = [{"step": step, "tokens_per_second": 100.0, "data_wait": 0.2} for step in range(6, 21)]
    settle([first, second], lines, 5, tokens=100)
    assert (first.seconds["step"], first.seconds["data"], first.seconds["lost"]) == (3, 2, 5)
    assert (second.seconds["step"], second.seconds["compile"], second.seconds["lost"]) == (0, 0, 10)
    assert (first.step, first.lost_steps, second.lost_steps) == (5, 5, 10) and first.wall == second.wall == 20


def test_a_card_that_cannot_be_written_stops_no_run(tmp_path):
    run = FakeRun(tmp_path, Clock(), [])
    (tmp_path / "card.json.written").mkdir()
    run_to_first_save(run)
    run.emit(Saved(5, ""))
    (tmp_path / "card.json.written").rmdir()
    run.emit(Ended(5, "done"))
    assert run.read()["steps"] == 5


def test_a_loop_that_raised_is_on_the_card(tmp_path):
    run = FakeRun(tmp_path, Clock(), [])
    run_to_first_save(run)
    run.emit(Saved(5, ""))
    run.step(6)
    run.card.close()
    (attempt,) = run.read()["attempts"]
    assert attempt["ended"] == "failed" and attempt["step"] == 5 and attempt["seen_seconds"] == pytest.approx(21)
    attempts = settled_attempts(tmp_path, 5, TOKENS)
    assert attempts[0].seconds["lost"] == pytest.approx(1) and attempts[0].ended == "failed"


def test_programs_that_are_traced_within_others_count_once():
    """Intervals as JAX reports them, at their ends: 0 to 1 and 2 to 3 within 0 to 4, then 5 to 6; others' are left."""
    found, clock = [], Clock()
    timer = CompileTimer(found.append, clock)
    try:
        for end, seconds in ((1, 1), (3, 1), (4, 4), (6, 1)):
            clock.now = float(end)
            timer.record("/jax/core/compile/jaxpr_trace_duration", seconds)
        timer.record("/jax/compilation_cache/cache_retrieval_time_sec", 9)
        assert found == [1, 1, 2, 1]
    finally:
        timer.close()


def test_jax_reports_its_compilation_and_nothing_once_it_is_done():
    import jax

    found = []
    timer = CompileTimer(found.append)
    try:
        function = jax.jit(lambda x: jax.nn.softmax(x) @ x)
        function(jax.numpy.ones(37))
        count = len(found)
        function(jax.numpy.ones(37))
        assert count >= 3 and len(found) == count and all(seconds >= 0 for seconds in found)
    finally:
        timer.close()
    jax.jit(lambda x: x * 3)(1.0)
    assert len(found) == count


# --- energy -----------------------------------------------------------------------------------------------------------

PACKAGE = {"device": "package-0", "host": "a", "covers": "processor", "joules": 900.0, "source": "RAPL"}
GPU = {"device": "GPU-1", "host": "a", "covers": "accelerator", "joules": 7000.0, "source": "NVML"}


def test_energy_is_measured_modelled_or_unmeasured_and_never_zero_for_not_known():
    measured = energy_use({"by_device": [GPU, PACKAGE], "complete": True}, Chips("gpu", 1), Energy(), 10, 10)
    assert (measured.joules, measured.method) == (7900, "measured")
    unmeasured = energy_use(UNMEASURED, Chips("cpu", 1), Energy(), 10, 10)
    assert (unmeasured.joules, unmeasured.method) == (None, "unmeasured")
    stated = energy_use(UNMEASURED, Chips("cpu", 2), Energy(chip_watts=100, chip_idle_watts=30), 10, 4)
    assert (stated.joules, stated.method) == (
        2 * (100 * 4 + 30 * 6),
        "modelled",
    ) and "30 W while waiting" in stated.about
    bound = energy_use({"by_device": [PACKAGE], "complete": False}, Chips("tpu", 4, 192.0), Energy(), 10, 4)
    assert bound.joules == 4 * 192 * 10 + 900 and "upper bound" in bound.about
    assert [device["method"] for device in bound.by_device] == ["modelled", "measured"]
    assert total([measured, stated]).method == "modelled" and total([measured, stated]).joules == 7900 + 1160
    assert total([measured, unmeasured])[:2] == (None, "unmeasured")


def test_a_device_that_several_attempts_used_is_listed_once():
    first = energy_use({"by_device": [GPU, PACKAGE], "complete": True}, Chips("gpu", 1), Energy(), 10, 10)
    other = energy_use({"by_device": [GPU | {"host": "b"}], "complete": True}, Chips("gpu", 1), Energy(), 10, 10)
    added = total([first, first, other])
    assert [(device["host"], device["device"], device["joules"]) for device in added.by_device] == [
        ("a", "GPU-1", 14000), ("a", "package-0", 1800), ("b", "GPU-1", 7000),
    ]  # fmt: skip
    assert added.joules == sum(device["joules"] for device in added.by_device) and GPU["joules"] == 7000


class Counters:
    """Counters of this process, of 100 W since the clock's 100 s, and of another process beside it."""

    def __init__(self, monkeypatch, clock, others: int):
        self.clock = clock
        monkeypatch.setattr(processes, "count", lambda: 1 + others)
        theirs = {"by_device": [GPU | {"host": "b", "joules": 50.0}], "complete": True}
        monkeypatch.setattr(processes, "all_gather_json", lambda value: [value, *[theirs] * others])

    def attach(self, run) -> None:
        run.card.read_energy = lambda: {
            "by_device": [PACKAGE | {"joules": 100 * (self.clock.now - 100)}], "complete": True
        }  # fmt: skip


@pytest.mark.parametrize("others", [0, 1])
def test_counters_that_were_read_long_before_a_kill_do_not_count_as_measured(tmp_path, monkeypatch, others):
    """Alone, a process reads them with every sign of life; of several, only as all pause: 122 s before the kill."""
    clock = Clock()
    counters, run = Counters(monkeypatch, clock, others), FakeRun(tmp_path, clock, [])
    counters.attach(run)
    run.start()
    assert len(run.read()["attempts"][0]["reading"]["by_device"]) == 1 + others
    run.step(1, seconds=9.0)
    run.emit(Paused(5))
    run.emit(Saved(5, ""))
    for step in (6, 7):
        run.step(step, seconds=BEAT + 1)
    again = FakeRun(tmp_path, clock, settled_attempts(tmp_path, 5, TOKENS), first_step=5)
    counters.attach(again)
    again.start(5)
    again.emit(Ended(5, "done"))
    content = again.read()
    told = [line for line in content["unknown"] if "drew at their end (122 s)" in line]
    assert content["energy"]["method"] == ("unmeasured" if others else "measured") and len(told) == others
    assert (content["energy"]["joules"] is None) == bool(others)


@pytest.mark.parametrize("others", [0, 1])
def test_counters_are_read_as_a_loop_fails(tmp_path, monkeypatch, others):
    clock = Clock()
    counters, run = Counters(monkeypatch, clock, others), FakeRun(tmp_path, clock, [])
    counters.attach(run)
    run.start()
    clock.pass_(BEAT + 5)
    run.card.close()
    assert run.read()["energy"]["joules"] == (None if others else pytest.approx(100 * (4 + BEAT + 5)))


def test_a_save_that_ends_behind_a_sign_of_life_takes_no_older_reading(tmp_path, monkeypatch):
    clock = Clock()
    counters, run = Counters(monkeypatch, clock, 0), FakeRun(tmp_path, clock, [])
    counters.attach(run)
    run_to_first_save(run)
    run.step(6, seconds=BEAT + 1)
    joules = run.read()["energy"]["joules"]
    run.emit(Saved(5, ""))
    assert run.read()["energy"]["joules"] == joules and run.read()["steps"] == 5


def test_the_card_says_how_long_no_counter_had_begun(tmp_path, monkeypatch):
    clock = Clock()
    counters, run = Counters(monkeypatch, clock, 0), FakeRun(tmp_path, clock, [])
    run.card.attempts[0].counted_from = 2.5
    counters.attach(run)
    run_to_first_save(run)
    run.emit(Ended(5, "done"))
    assert "the counters began 2.5 s after the attempts, which are in none" in run.read()["energy"]["about"]


def test_watts_and_price_are_those_that_each_attempt_began_with(tmp_path):
    """20 s at 180 W and 9 an hour; resumed at 90 W and 18 an hour, then without either."""
    clock = Clock()
    run = FakeRun(tmp_path, clock, [], experiment=tiny.experiment(energy=Energy(180.0), chip_hour=9.0))
    run_to_first_save(run)
    run.emit(Ended(5, "SIGTERM"))
    changed = tiny.experiment(energy=Energy(90.0), chip_hour=18.0)
    again = FakeRun(tmp_path, clock, settled_attempts(tmp_path, 5, TOKENS), 5, changed)
    again.start(5)
    again.emit(Ended(5, "SIGTERM"))
    content = again.read()
    assert content["energy"]["joules"] == pytest.approx(20 * 180 + 7 * 90)
    assert content["money"] == {"amount": pytest.approx((20 * 9 + 7 * 18) / 3600), "chip_hour": None}
    assert "for chip-hours" in summary(content, str)
    last = FakeRun(tmp_path, clock, settled_attempts(tmp_path, 5, TOKENS), 5)
    last.start(5)
    assert last.read()["energy"]["joules"] is None and last.read()["money"] is None
    assert "money: chip_hour not stated for attempts [3]" in last.read()["unknown"]


def test_a_card_of_an_older_skald_is_read_and_takes_over_what_the_config_states(tmp_path):
    """It says neither how far its readings reach nor what was stated: one that was killed is not taken as measured."""
    stated = tiny.experiment(energy=Energy(180.0), chip_hour=9.0)
    run = FakeRun(tmp_path, Clock(), [], experiment=stated, reading={"by_device": [PACKAGE], "complete": True})
    run_to_first_save(run)
    run.emit(Saved(5, ""))
    content = run.read()
    for name in ("counted_from", "counted_to", "stated"):
        del content["attempts"][0][name]
    for ended, method in (("done", "measured"), ("running", "modelled")):
        content["attempts"][0] |= {"ended": ended, "seen_seconds": 3 * BEAT}
        (tmp_path / "card.json").write_text(json.dumps(content))
        again = FakeRun(tmp_path, Clock(), settled_attempts(tmp_path, 5, TOKENS), 5, stated)
        assert again.card.attempts[0].stated == {"chip_watts": 180.0, "chip_idle_watts": None, "chip_hour": 9.0}
        assert energy_of(again.card.attempts[0], tiny.experiment()).method == method


def test_what_processes_of_one_machine_both_read_counts_once():
    mine = {"by_device": [PACKAGE, GPU], "complete": True}
    yours = {"by_device": [{**PACKAGE, "joules": 901.0}, {**PACKAGE, "host": "b"}], "complete": False}
    merged = merge_readings([mine, yours])
    assert sorted(device["joules"] for device in merged["by_device"]) == [900, 901, 7000] and not merged["complete"]


def test_emissions_and_money_are_those_of_the_stated_figures(tmp_path):
    """20 s of one chip at 180 W are 1 Wh; times 1.5 times 400 to 500 g/kWh; 20 s at 9 an hour cost 0.05."""
    energy = Energy(180.0, None, PUE(1.5, 2024, "a survey"), Grid(400.0, 500.0, 2024, "an agency"))
    run = FakeRun(tmp_path, Clock(), [], experiment=tiny.experiment(energy=energy, chip_hour=9.0))
    run_to_first_save(run)
    run.emit(Ended(5, "done"))
    content = run.read()
    assert content["energy"]["joules"] == pytest.approx(3600) and content["energy"]["method"] == "modelled"
    assert content["co2e_grams"] == pytest.approx([0.6, 0.75]) and content["money"]["amount"] == pytest.approx(0.05)
    assert content["pue"] == {"value": 1.5, "year": 2024, "source": "a survey"}
    assert content["grid"] == {"g_per_kwh": [400, 500], "year": 2024, "source": "an agency"}
    assert "0.001 kWh modelled, 0.6 to 0.75 gCO2e, 0.05 at 9 a chip-hour" in run.reports[0]


def test_what_is_not_stated_is_null_with_its_reason(tmp_path):
    run = FakeRun(tmp_path, Clock(), [])
    run_to_first_save(run)
    run.emit(Ended(5, "SIGTERM"))
    content = run.read()
    for name in ("model_flops_utilization", "pue", "grid", "co2e_grams", "joules_per_generated_token", "money"):
        assert content[name] is None
    assert content["energy"]["joules"] is None and content["flops"]["compiled"] is None and run.reports == []
    assert "co2e_grams: energy, energy.pue, energy.grid not known" in content["unknown"]
    unmeasured = {"joules_per_token": None, "method": "unmeasured", "about": "no counter"}
    record_generation(tmp_path, unmeasured)
    assert run.read()["generation"] == unmeasured and "joules_per_generated_token: no counter" in run.read()["unknown"]
    record_generation(tmp_path, {"joules_per_token": 2.5, "method": "modelled"})
    assert run.read()["joules_per_generated_token"] == 2.5
    assert run.read()["unknown"] == [
        "co2e_grams: energy, energy.pue, energy.grid not known",
        "model_flops_utilization: the peak of cpu is not known",
        "money: chip_hour not stated for the run",
    ]


def test_what_is_recorded_while_a_run_goes_on_stays_on_its_card(tmp_path):
    run = FakeRun(tmp_path, Clock(), [])
    run_to_first_save(run)
    record_generation(tmp_path, {"joules_per_token": 2.5, "method": "modelled"})
    run.emit(Ended(5, "done"))
    assert run.read()["attempts"][0]["ended"] == "done" and run.read()["joules_per_generated_token"] == 2.5
    again = FakeRun(tmp_path, Clock(), settled_attempts(tmp_path, 5, TOKENS), 5)
    again.start(5)
    assert again.read()["joules_per_generated_token"] == 2.5 and len(again.read()["attempts"]) == 2


def test_utilization_is_of_the_time_of_steps_and_of_every_machines_peak():
    """10 kept steps of 12.8 kFLOP x 128 tokens in 2 s of 10 TF/s and 3 s of 20 TF/s."""
    spent = dict.fromkeys(KINDS, 0.0)
    attempts = [
        Attempt(
            1, 0.0, 0, 4, CPU | {"kind": "a", "peak_flops": 10e6}, 9.0, 9.0, spent | {"step": 2.0}, ended="SIGTERM"
        ),
        Attempt(
            2,
            0.0,
            4,
            10,
            CPU | {"kind": "b", "peak_flops": 20e6, "chips": 4},
            9.0,
            9.0,
            spent | {"step": 3.0},
            ended="done",
        ),
    ]
    facts = Facts("run", "1", 1000, 1000, 12.8e3, {}, tiny.experiment(chip_hour=8.0))
    content = card(facts, attempts)
    assert content["model_flops_utilization"] == pytest.approx(10 * TOKENS * 12.8e3 / (2 * 10e6 + 3 * 20e6))
    assert content["money"]["amount"] == pytest.approx((9 + 4 * 9) / 3600 * 8)
    assert content["device"]["chip_hours"] == pytest.approx((9 + 4 * 9) / 3600)
    assert content["device"]["hours_by_kind"] == pytest.approx({"a": 2 * 9 / 3600, "b": 2 * 9 / 3600})


@pytest.mark.parametrize(
    "energy, message",
    [
        (Energy(chip_watts=0.0), "energy.chip_watts: must be above 0"),
        (Energy(chip_watts=9.0, chip_idle_watts=10.0), "energy.chip_idle_watts: must be from 0 to energy.chip_watts=9"),
        (Energy(chip_idle_watts=10.0), "from 0 to energy.chip_watts=null"),
        (Energy(pue=PUE(0.9, 2024, "a")), "energy.pue.value: must be at least 1"),
        (Energy(pue=PUE(1.1, 24, "a")), "energy.pue.year: must be a year from 1990"),
        (Energy(grid=Grid(2.0, 1.0, 2024, "a")), "energy.grid: must be gCO2e/kWh from low to high"),
        (Energy(grid=Grid(1.0, 2.0, 2024, " ")), "energy.grid.source: must be who published the figure"),
    ],
)
def test_figures_that_nothing_can_have_are_refused(energy, message):
    with pytest.raises(ConfigError, match=message):
        check(tiny.experiment(energy=energy))
