"""``make sbom`` writes what is locked, as a CycloneDX document that the field's own schema accepts."""

import json
import os
import subprocess

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from deploy.local import ROOT
from deploy.sbom import problems


def test_make_sbom_writes_a_valid_document_of_the_locked_packages() -> None:
    ran = subprocess.run(["make", "sbom"], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    text = (ROOT / "var" / "sbom.json").read_text()

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert problems(json.loads(text), (ROOT / "requirements.lock").read_text()) == []
    assert str(ROOT) not in text
