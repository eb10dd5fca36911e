#!/usr/bin/env python3
"""Tests of `run` without a GPU: programs that stand in for the real ones. usage: python3 tools/gpu/test_run.py"""
import importlib.machinery
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).resolve().parent / "run"
LOADED = importlib.machinery.SourceFileLoader("gpu_run", str(SCRIPT))
run = importlib.util.module_from_spec(importlib.util.spec_from_loader("gpu_run", LOADED))
sys.dont_write_bytecode = True
LOADED.exec_module(run)

STEP = """import json, sys
seconds = {seconds} / (1 if "--loader" not in sys.argv else {share})
print(json.dumps(dict(seconds_per_step=seconds, images_per_second=128 / seconds, peak_bytes={peak})))"""
TRAIN = """import pathlib, sys
out = pathlib.Path(sys.argv[sys.argv.index("--resume" if "--resume" in sys.argv else "--out") + 1])
out.mkdir(exist_ok=True)
(out / "recipe.toml").write_text("")
if "--resume" not in sys.argv and {stops}:
    import time
    time.sleep(60)
(out / "metrics.csv").write_text("epoch,test_top1\\n1,0.05\\n2,0.2\\n")"""


class Run(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.addCleanup(setattr, run, "HERE", run.HERE)
        run.HERE = self.here = pathlib.Path(folder.name)
        for name in ("bin", "golden", "data", "results"):
            (self.here / name).mkdir()
        (self.here / "golden/a.safetensors").touch()
        self.program("devices", 'print("test cuda::a ... ok\\ntest result: ok. 1 passed")')
        self.program("verify", 'print(\'{"file": "a", "ok": true}\')')
        self.steps(0.020, 0.97, 100)
        (self.here / "torch_peer.py").write_text(STEP.format(seconds=0.040, share=1, peak=200))
        self.program("cifar100", TRAIN.format(stops=False))

    def program(self, name, code):
        path = self.here / "bin" / name
        path.write_text(f"#!{sys.executable}\n{code}\n")
        path.chmod(0o755)

    def steps(self, seconds, share, peak):
        self.program("throughput", STEP.format(seconds=seconds, share=share, peak=peak))

    def results(self, limit=30):
        results = self.here / "results"
        parts = {}
        for part in run.PARTS:
            more = [results] if part == "training" else []
            parts[part] = getattr(run, part)(limit, {}, *more)
            (results / f"{part}.json").write_text(json.dumps(parts[part]))
        return parts, run.table(results)

    def test_all_is_well(self):
        parts, table = self.results()
        self.assertEqual([part for part in parts if not parts[part]["ok"]], [])
        self.assertIn("| WRN-34-10, batch 128, bf16 | 20.0 ms | 40.0 ms | 2.00 | >= 1.3 <= 26 ms | 0 / 0 | ok |", table)
        self.assertIn("| loader, WRN-16-4, bf16 | 20.6 ms |  | 0.970 | >= 0.95 of fixed |  | ok |", table)
        self.assertIn("top-1 0.2000 after 2 epochs", table)
        self.assertNotIn("NO", table)

    def test_goals_that_are_missed_show(self):
        self.steps(0.030, 0.9, 300)
        parts, table = self.results()
        self.assertFalse(parts["throughput"]["ok"] or parts["loader"]["ok"])
        self.assertEqual(table.count("| NO |"), 6)

    def test_failures_are_results(self):
        self.program("throughput", "import sys\nsys.exit('no such device')")
        self.program("devices", 'import sys\nprint("test cuda::a ... FAILED\\ntest result: FAILED")\nsys.exit(101)')
        self.program("verify", "import sys\nsys.exit(1)")
        parts, table = self.results()
        self.assertEqual(parts["tests"]["failures"], ["cuda::a"])
        self.assertIn("no such device", parts["throughput"]["rows"][0]["ours"]["error"])
        self.assertEqual(table.count("| NO |"), 1 + 3 + 4 + 2)

    def test_tests_that_run_nothing_do_not_pass(self):
        self.program("devices", 'print("test result: ok. 0 passed")')
        self.assertFalse(self.results()[0]["tests"]["ok"])

    def test_a_training_that_was_stopped_goes_on(self):
        self.program("cifar100", TRAIN.format(stops=True))
        results = self.here / "results"
        self.assertTrue(run.training(1, {}, results)["unfinished"])
        self.assertTrue(run.training(30, {}, results)["ok"])

    def test_without_a_driver_it_says_so(self):
        try:
            run.check_driver()
            self.skipTest("there is a driver here")
        except run.Failed as error:
            self.assertIn("NVIDIA driver", str(error))
        ended = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True)
        self.assertEqual(ended.returncode, 1)
        self.assertTrue(ended.stderr.startswith("error: ") and "driver" in ended.stderr, ended.stderr)
        self.assertNotIn("Traceback", ended.stderr)

    def test_an_empty_table_says_what_was_not_run(self):
        self.assertEqual(run.table(self.here / "results").count("not run"), 5)


if __name__ == "__main__":
    unittest.main()
