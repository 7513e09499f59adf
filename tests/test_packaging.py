"""What a wheel would hold. `make test-versions` builds one, installs it and runs an experiment from it."""

from __future__ import annotations

import configparser

from processes import ROOT


def test_every_room_and_data_file_is_installed():
    told = configparser.ConfigParser()
    told.read(ROOT / "setup.cfg")
    rooms = {".".join(path.relative_to(ROOT).parts) for path in (ROOT / "mow_jax").rglob("*") if any(path.glob("*.py"))}
    assert set(told["options"]["packages"].split()) == {"mow_jax", "mow_jax.experiments", *rooms}
    others = {path for path in (ROOT / "mow_jax").rglob("*.*") if path.suffix not in (".py", ".pyc")}
    data = {name: patterns.split() for name, patterns in told["options.package_data"].items()}
    held = {path for name in data for part in data[name] for path in ROOT.joinpath(*name.split(".")).glob(part)}
    assert others == held
