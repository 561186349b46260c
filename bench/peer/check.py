#!/usr/bin/env python3
"""The same questions about a table, asked of pandas and of lockstep check.

    bench/peer/check.py BUILD [--rows N] [--columns F] [--file TABLE.h5] [--ranks R]

Makes a clean table of random columns (BUILD/tests/maketable), then runs
  lockstep  `lockstep check` with all three levels, from the file: digests, values, duplicates and
            overlap, labels, quantiles, correlations, leakage
  pandas    describe(), corr() and duplicated() on a float32 frame of the training split that is
            already in memory; reading it is not counted
each in a process of its own, and prints seconds of wall clock and of processor, and the largest
memory. The mean, deviation, quantiles and correlations of both are compared. Needs pandas and
h5py; BUILD is a build directory after `make lockstep tests/maketable`.
"""
import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

QUANTILES = [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99]


def measured(command, env=None):
    """(output, wall seconds, processor seconds, peak MiB) of a command that ends with a verdict."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False, env=env)
    wall = time.monotonic() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 1, 2):
        sys.exit(f"{command[0]} ended with {done.returncode}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.stdout, wall, cpu, after.ru_maxrss / 1024


def pandas_part(path):
    """Run in a process of its own: the three calls, their times and results."""
    import h5py
    import pandas

    with h5py.File(path) as file:
        names = [n.decode() if isinstance(n, bytes) else n for n in file.attrs["columns"]]
        frame = pandas.DataFrame(file["train/features"][:], columns=names)
    seconds = {}

    def timed(name, call):
        start, cpu = time.monotonic(), time.process_time()
        result = call()
        seconds[name] = (time.monotonic() - start, time.process_time() - cpu)
        return result

    described = timed("describe", lambda: frame.describe(percentiles=QUANTILES))
    matrix = timed("corr", frame.corr)
    copies = int(timed("duplicated", frame.duplicated).sum())
    json.dump({"seconds": seconds, "copies": copies, "matrix": matrix.values.tolist(),
               "mean": described.loc["mean"].tolist(), "sd": described.loc["std"].tolist(),
               "quantiles": described.iloc[4:4 + len(QUANTILES)].T.values.tolist(),
               "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}, sys.stdout)


def compare(mine, theirs):
    """Largest differences: means, deviations and quantiles in deviations, correlations."""
    worst = {"mean": 0.0, "sd": 0.0, "quantile": 0.0, "correlation": 0.0}
    for i, feature in enumerate(mine["features"]):
        sd = theirs["sd"][i]
        worst["mean"] = max(worst["mean"], abs(feature["mean"] - theirs["mean"][i]) / sd)
        worst["sd"] = max(worst["sd"], abs(feature["sd"] - sd) / sd)
        for a, b in zip(feature["quantiles"], theirs["quantiles"][i]):
            worst["quantile"] = max(worst["quantile"], abs(a - b) / sd)
        for a, b in zip(mine["correlation"]["matrix"][i], theirs["matrix"][i]):
            worst["correlation"] = max(worst["correlation"], abs(a - b))
    return worst


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--columns", type=int, default=32)
    parser.add_argument("--file", help="keep the table here, or use the one that is there")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--pandas", action="store_true", help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.pandas:
        pandas_part(o.build)
        return
    folder = tempfile.TemporaryDirectory()
    path = o.file or os.path.join(folder.name, "table.h5")
    if not os.path.exists(path):
        subprocess.run([f"{o.build}/tests/maketable", path, str(o.rows), str(o.columns), "10", "1"],
                       check=True)
    cores = len(os.sched_getaffinity(0))
    print(f"{path}: {os.path.getsize(path) / 2**20:.0f} MiB, {cores} cores")
    command = [f"{o.build}/lockstep", "check", path, "--json"]
    env = dict(os.environ)
    if o.ranks > 1:
        command = ["mpirun", "-np", str(o.ranks), "--oversubscribe"] + command
        env["OMP_NUM_THREADS"] = str(max(1, cores // o.ranks))
    out, wall, cpu, mib = measured(command, env)
    mine = json.loads(out)
    print(f"lockstep check          {wall:8.2f} s  {cpu:8.2f} s of processor  {mib:7.0f} MiB")
    out, _, _, _ = measured([sys.executable, os.path.abspath(__file__), path, "--pandas"])
    theirs = json.loads(out)
    total = [sum(x) for x in zip(*theirs["seconds"].values())]
    for name, (a, b) in theirs["seconds"].items():
        print(f"pandas {name:16s} {a:8.2f} s  {b:8.2f} s of processor")
    print(f"pandas together         {total[0]:8.2f} s  {total[1]:8.2f} s of processor  "
          f"{theirs['mib']:7.0f} MiB")
    print(f"lockstep takes 1/{total[0] / wall:.1f} of the time, 1/{total[1] / cpu:.1f} of the "
          f"processor, 1/{theirs['mib'] / mib:.1f} of the memory")
    print("largest differences: " + ", ".join(f"{k} {v:.2g}" for k, v in
                                              compare(mine, theirs).items()) +
          " (correlations as they are, others in deviations)")
    copies = mine["splits"]["train"]["duplicates"]["count"]
    print(f"duplicates: {copies} and {theirs['copies']}")


if __name__ == "__main__":
    main()
