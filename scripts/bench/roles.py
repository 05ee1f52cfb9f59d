"""What the roles cost: CPU microseconds per event of ``agents.roles.execute``, one core, the weather year.

The baseline runs in the same minute on the same records: plain ``orjson.loads`` and ``orjson.dumps`` of each. Below
the weather policy as it is stands the same with three rules of an operator's own.

    python scripts/bench/roles.py [--batch 500] [--rounds 3] [--profile]
"""

import argparse
import cProfile
import csv
import gzip
import json
import pstats
import sys
import time
from pathlib import Path
from typing import Any

import orjson

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from agents.policy import policy_document  # noqa: E402
from agents.roles import BatchOutput, execute  # noqa: E402
from protocols.identifiers import record_line  # noqa: E402

# two expressions over the event and one over the event before, whose values the context carries
RULES: dict[str, Any] = {
    "memory": {"key": ["station"], "keep": ["temperatureC"]},
    "rules": [
        {"name": "dew point", "check": "data.dewPointC <= data.temperatureC + 0.5", "severity": "warning"},
        {"name": "gusts", "when": "data.windGustMps != null", "check": "data.windGustMps >= data.windSpeedMps"},
        {"name": "calm", "check": "abs(data.temperatureC - last.temperatureC) < 12", "severity": "warning"},
    ],
}


def weather_records() -> list[bytes]:
    """The year's readings as records: numbers where the file has numbers, null for NA."""

    def value(name: str, text: str) -> Any:
        if text == "NA":
            return None
        if name in ("origin", "time_hour"):
            return text
        number = float(text)  # the file writes 1,000 hPa as 1e3
        return int(number) if number.is_integer() else number

    with gzip.open(ROOT / "configs/samples/nyc-weather-2013.csv.gz", "rt", encoding="utf-8") as file:
        rows = [{name: value(name, text) for name, text in row.items()} for row in csv.DictReader(file)]
    return [
        record_line(
            data=row,
            event_type="weather.observation",
            external_id=f"{row['origin']}-{row['time_hour']}",
            previous=None,
            timestamp=row["time_hour"],
        )
        for row in rows
    ]


def run_year(batches: list[bytes], policy: bytes) -> list[BatchOutput]:
    outputs: list[BatchOutput] = []
    context = b"{}"
    for payload in batches:
        outputs.append(execute(network="bench", source_id="weather", payload=payload, policy=policy, context=context))
        context = outputs[-1].context_out
    return outputs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    records = weather_records()
    starts = range(0, len(records), options.batch)
    batches = [b"\n".join(records[start : start + options.batch]) for start in starts]
    policy = policy_document(json.loads((ROOT / "configs/policies/weather.json").read_bytes()))
    ruled = policy_document({**json.loads(policy), **RULES})
    plain, roles, rules = [], [], []
    for _ in range(options.rounds):
        began = time.process_time()
        for line in records:
            orjson.dumps(orjson.loads(line))
        plain.append((time.process_time() - began) / len(records) * 1e6)
        began = time.process_time()
        outputs = run_year(batches, policy)
        roles.append((time.process_time() - began) / len(records) * 1e6)
        began = time.process_time()
        run_year(batches, ruled)
        rules.append((time.process_time() - began) / len(records) * 1e6)
    invalid = sum(output.invalid for output in outputs)
    print(f"events {len(records)}  batch {options.batch}  invalid {invalid}")
    print(f"plain orjson loads+dumps  {min(plain):6.2f} us per event (best of {options.rounds})")
    print(f"roles.execute             {min(roles):6.2f} us per event, {max(roles):.2f} worst")
    print(f"with three more rules     {min(rules):6.2f} us per event, {max(rules):.2f} worst")
    print(f"ratio                     {min(roles) / min(plain):6.1f}")
    if options.profile:
        profile = cProfile.Profile()
        profile.runcall(run_year, batches, policy)
        pstats.Stats(profile).sort_stats("tottime").print_stats(15)


if __name__ == "__main__":
    main()
