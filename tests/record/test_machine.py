from __future__ import annotations

import json
import subprocess
import sys

from agito.record import machine


def test_the_facts_name_commit_versions_and_machine_and_are_json() -> None:
    found = machine.facts()
    assert json.loads(json.dumps(found)) == found
    assert set(found) == {"commit", "versions", "machine"}
    assert machine.versions()["python"] == sys.version.split()[0]
    assert isinstance(machine.machine()["cores"], int)


def test_finding_out_does_not_load_torch() -> None:
    script = "import sys; from agito.record import machine; machine.facts(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=60).returncode == 0
