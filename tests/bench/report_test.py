#!/usr/bin/python3
"""report_test.py MEASURE: tools/bench/run's statistics and forms of output from canned samples, and a short native run."""
import json
import os
import subprocess
import sys
import tempfile
import unittest
import xml.dom.minidom

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
RUN = f"{TOP}/tools/bench/run"
sys.dont_write_bytecode = True
sys.path.insert(0, f"{TOP}/tools/bench")
# pylint: disable=wrong-import-position
from benchmark import campaign, catalogue, jobs, page, processes, systems, table, units
from benchmark.report import Cell, Report, Row, SystemState, ratio, summarize

MEASURE = ""
NULL = Row("null", "Operations", "null call", "ns")
PIPE = Row("pipe", "Operations", "pipe <ping>", "ns")
SQLITE = Row("sqlite", "Programs", "sqlite", "ns")


def canned():
    states = [SystemState("native", [], "/dev/shm"), SystemState("ringfence:kvm", ["rf"], "/tmp", "there is no /dev/kvm"),
              SystemState("ringfence:trap", ["rf"], "/tmp"), SystemState("runsc:systrap", ["runsc"], "/tmp")]
    report = Report("2026-01-02T03:04:05+00:00", {"rounds": 3}, {"cpu": "a CPU", "cores": 2, "kernel": "6"}, {}, states,
                    [NULL, PIPE, SQLITE])
    for system, samples in (("native", [100, 90, 130]), ("ringfence:trap", [400, 410, 390]),
                            ("runsc:systrap", [20000, 22000, 21000])):
        report.cells.setdefault("null", {})[system] = Cell(samples=[float(value) for value in samples])
        report.cell("sqlite", system).status = "absent"
        report.cell("sqlite", system).reason = "sqlite3 is not installed"
    report.cell("pipe", "native").add(18000.0, {})
    report.cell("pipe", "ringfence:trap").add(36000.0, {})
    report.cell("pipe", "ringfence:trap").fail("pipe: <Bad> descriptor\nmore")
    return report


class StatisticsTest(unittest.TestCase):
    def test_median_and_extremes(self):
        summary = summarize(Cell(samples=[5.0, 1.0, 2.0]))
        self.assertEqual((summary.median, summary.low, summary.high, summary.count), (2.0, 1.0, 5.0, 3))
        self.assertEqual(summary.spread, 1.0)

    def test_what_failed_or_is_empty_has_no_number(self):
        cell = Cell(samples=[1.0])
        cell.fail("first line\nsecond")
        self.assertEqual(cell.reason, "first line")
        for without in (cell, Cell(), None):
            self.assertIsNone(summarize(without))

    def test_no_ratio_to_nothing(self):
        one, zero = summarize(Cell(samples=[1.0])), summarize(Cell(samples=[0.0]))
        self.assertEqual(ratio(zero, one), 0.0)
        self.assertIsNone(ratio(one, zero))
        self.assertIsNone(ratio(one, None))

    def test_quantities(self):
        for value, unit, text in ((215.4, "ns", "215 ns"), (12345, "ns", "12.3 µs"), (999.7, "ns", "1.00 µs"),
                                  (0, "percent", "0 %"), (11.9e6, "bytes", "11.9 MB")):
            self.assertEqual(units.quantity(value, unit), text)


class FormTest(unittest.TestCase):
    def test_table_shows_medians_ratios_failures_and_what_is_absent(self):
        text = table.render(canned())
        lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
        for part in ("100 ns", "400 ns", "4.00×", "21.0 µs", "210×", "52.5×"):
            self.assertIn(part, lines["null"])
        self.assertIn("failed", lines["pipe"])
        self.assertNotIn("36.0", lines["pipe"])
        self.assertIn("failed: pipe in ringfence:trap: pipe: <Bad> descriptor\n", text)
        self.assertIn("absent: ringfence:kvm: there is no /dev/kvm\n", text)
        self.assertIn("absent: sqlite: sqlite3 is not installed\n", text)

    def test_json_holds_every_sample_and_reads_back(self):
        data = json.loads(json.dumps(canned().to_json()))
        self.assertEqual(data["cells"]["null"]["native"]["samples"], [100, 90, 130])
        self.assertEqual(data["summaries"]["null"]["native"]["median"], 100)
        self.assertNotIn("ringfence:trap", data["summaries"]["pipe"])
        self.assertEqual(table.render(Report.from_json(data)), table.render(canned()))

    def test_page_is_self_contained_and_escapes_what_it_quotes(self):
        text = page.render(canned())
        for outside in ("http:", "https:", "src=", "<script", "<link", "<Bad>", "pipe <ping>"):
            self.assertNotIn(outside, text)
        self.assertIn("ringfence:trap failed: pipe: &lt;Bad&gt; descriptor", text)
        self.assertNotIn("36.0 µs", text)
        start = 0
        while (start := text.find("<svg", start)) >= 0:
            end = text.index("</svg>", start) + len("</svg>")
            xml.dom.minidom.parseString(text[start:end])
            start = end


class FakeJob(jobs.Job):
    rows = (NULL,)

    def __init__(self):
        self.order = []

    def command(self, place):
        return "fake"

    def take(self, place, system):
        self.order.append(system.name)
        if system.name == "b" and self.order.count("b") == 2:
            raise jobs.Failure("b broke")
        return {"null": jobs.Sample(1.0, {})}


class CampaignTest(unittest.TestCase):
    def test_systems_take_turns_and_a_failed_row_is_not_tried_again(self):
        job, report = FakeJob(), canned()
        report.cells.clear()
        chosen = [systems.System(name, (), "/tmp") for name in "abc"]
        place = jobs.Place("measure", "/tmp", True, 1, 1, 0)
        campaign.run(report, [job], chosen, chosen[0], place, 3, lambda text: None)
        self.assertEqual("".join(job.order), "abcbcaca")
        self.assertEqual((report.cells["null"]["b"].status, report.cells["null"]["b"].reason), ("failed", "b broke"))
        self.assertEqual(len(report.cells["null"]["a"].samples), 3)

    def test_a_program_that_prints_something_else_has_no_number(self):
        self.assertIsNone(jobs.same_number("1001\n", "1000\n"))
        self.assertIsNotNone(jobs.same_number("900\n", "1000\n"))
        self.assertIsNotNone(jobs.same("a", "b"))

    def test_unknown_rows_are_refused(self):
        with self.assertRaises(ValueError):
            catalogue.jobs(["no_such_row"])


class ProcessTest(unittest.TestCase):
    def test_a_name_with_parentheses_is_read_right(self):
        line = "12 (a) b (c) S 7 " + " ".join(str(number) for number in range(5, 40))
        process = processes.parse_stat(line)
        self.assertEqual((process.pid, process.name, process.state, process.parent), (12, "a) b (c", "S", 7))
        self.assertEqual(process.begun, 22)

    def test_complaints(self):
        self.assertIsNone(processes.Outcome(0, "", "a warning").complaint(5))
        self.assertEqual(processes.Outcome(1, "", "\n why\nmore").complaint(5), "why")
        self.assertEqual(processes.Outcome(None, "", "").complaint(5), "no end within 5 s")


class NativeTest(unittest.TestCase):
    def test_native_run_gives_numbers_and_the_absent_system_its_reason(self):
        with tempfile.TemporaryDirectory() as directory:
            done = subprocess.run(
                [RUN, "--measure", MEASURE, "--ringfence", "/nonexistent", "--systems", "native,ringfence:trap", "--rows",
                 "null,pipe,run.true,idle_rss", "--quick", "--rounds", "1", "--json", f"{directory}/j", "--html",
                 f"{directory}/h"], capture_output=True, text=True, timeout=120, check=False)
            self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
            with open(f"{directory}/j", encoding="utf-8") as file:
                data = json.load(file)
            self.assertEqual(set(data["summaries"]), {"null", "pipe", "run.true", "idle_rss"})
            self.assertIn("absent: ringfence:trap: /nonexistent is not there", done.stdout)
            again = subprocess.run([RUN, "--from", f"{directory}/j"], capture_output=True, text=True, timeout=60, check=False)
            self.assertEqual(again.stdout, done.stdout)


if __name__ == "__main__":
    MEASURE = os.path.abspath(sys.argv.pop(1))
    unittest.main()
