"""What the newer layouts must not open for a tenant: paths out of the data root, names on the hub, plans without an end."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoslim.config import JobSpec
from autoslim.service.catalog import Catalog
from autoslim.service.dry_run import bounds
from autoslim.service.dry_run.faults import SpecFault
from autoslim.service.dry_run.plan import dry_run
from autoslim.service.settings import ServiceSettings

SPEC = {"model": "vit_tiny_patch16_224", "weights": "scratch", "flops": ("50%",)}
LIMITS = {"images": 100, "parameters": 10**9, "attention": 10**12, "recipes": 10**9}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "set").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(b"secret")
    return root


def resolved(root: Path, data: str) -> tuple[JobSpec, list[str]]:
    catalog = Catalog(ServiceSettings(root=root.parent / "service", data_roots=[root]))
    spec, issues = catalog.resolve(JobSpec(data=data, **SPEC), ["vit_tiny_patch16_224"])
    return spec, [str(issue.place[0]) for issue in issues]


@pytest.mark.parametrize(
    "data",
    [
        *("hf:owner/name", "hf:../secret.png", "../{0..1}.tar", "set/train-{0..1}.tar", "/etc/{0..1}.tar"),
        *("s3://bucket/set", "file:///etc", "hf://datasets/owner/name"),
    ],
)
def test_names_that_are_no_paths_under_a_root_are_refused(root: Path, data: str) -> None:
    assert resolved(root, data)[1] == ["data"]


def test_a_manifest_reaches_nothing_outside_of_its_folder(root: Path) -> None:
    (root / "set" / "all.csv").write_text("path,label\n../../secret.png,ant\n../../secret.png,bee\n")
    spec, issues = resolved(root, "set/all.csv")
    assert issues == []
    with pytest.raises(SpecFault, match="leads out of") as fault:
        dry_run({"spec": spec.model_dump(mode="json"), "limits": LIMITS})
    assert fault.value.place == ("data",)


def test_a_configuration_is_the_name_of_a_folder_alone(root: Path) -> None:
    for name in ("large", "small"):
        (root / "set" / name).mkdir()
        (root / "set" / name / "train.parquet").touch()
    spec, _ = resolved(root, "set")
    with pytest.raises(SpecFault, match=r"has no configuration '\.\./\.\./'; allowed for --data-config: large, small") as fault:
        dry_run({"spec": spec.model_copy(update={"data_config": "../../"}).model_dump(mode="json"), "limits": LIMITS})
    assert fault.value.place == ("data",)


@pytest.mark.parametrize("name", ["all.csv", "all.jsonl"])
def test_a_manifest_of_too_many_lines_is_refused_before_it_is_read(root: Path, name: str) -> None:
    (root / "set" / name).write_text("path,label\n" * 200)
    spec, _ = resolved(root, f"set/{name}")
    with pytest.raises(SpecFault, match="has more than 100 images; allowed: at most 100"):
        bounds.check_images(spec, 100)
