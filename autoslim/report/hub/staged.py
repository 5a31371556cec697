"""The files of a finished model as they are pushed, in a folder of their own.

A repository that timm can read has timm's config.json and model.safetensors at its root, and the folder of autoslim below `autoslim/`.
Any other is the folder itself.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from autoslim.core.confine import confined
from autoslim.errors import WeightsError
from autoslim.export import timm_form, write_checksums
from autoslim.export.artifact import SlimConfig, load_config, write_config
from autoslim.export.folder import CHECKSUMS
from autoslim.report.hub.local_traces import clean_programs, public, public_name, without_paths, without_paths_in
from autoslim.report.hub.metadata import card_metadata, front_matter, license_of
from autoslim.report.picture import PAGE, PNG

CARD = "README.md"
BELOW_TIMM = "autoslim"
"""The folder of autoslim in a repository that timm reads."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Staged:
    """`license` is the one in the metadata, `timm_loads` whether timm alone reads the repository."""

    folder: Path
    license: str
    timm_loads: bool

    @property
    def files(self) -> tuple[str, ...]:
        found = (path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())
        return tuple(sorted(found))


def stage(folder: Path, target: Path, *, repo: str, revision: str | None, license: str | None) -> Staged:
    """Copies the model's files into `target`, which is empty, without what is only known locally.

    Raises:
        WeightsError: `folder` holds no finished model.
        ExportError: a form names files of the machine that has made it, and cannot be cleaned of them.
    """
    config = load_config(folder)
    files = _files_of(folder)
    timm_loads = (folder / timm_form.FOLDER).is_dir()
    own = target / BELOW_TIMM if timm_loads else target
    for name in files:
        within_timm = name.startswith(f"{timm_form.FOLDER}/")
        destination = target / name.partition("/")[2] if within_timm else own / name
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, destination)
    clean_programs(own)
    private = "" if config.made_from is None else config.made_from.dataset.source
    public_config = _public_config(config)
    write_config(own, public_config)
    named = license or license_of(config)
    card = _card((folder / CARD).read_text(encoding="utf-8"), private, repo=repo, revision=revision, timm_loads=timm_loads)
    (own / CARD).unlink()
    metadata = card_metadata(public_config, license=named, timm_loads=timm_loads)
    (target / CARD).write_text(front_matter(card, metadata), encoding="utf-8")
    page = own / PAGE
    if page.is_file():
        page.write_text(without_paths(page.read_text(encoding="utf-8")), encoding="utf-8")
    # Over the whole repository, timm's files and the card among them.
    write_checksums(target)
    return Staged(folder=target, license=named, timm_loads=timm_loads)


def _files_of(folder: Path) -> list[str]:
    """Those with a checksum: a folder of `autoslim slim` holds its request, the dense model and more besides."""
    sums = folder / CHECKSUMS
    if not sums.is_file() or not (folder / CARD).is_file():
        raise WeightsError(
            f"{folder} is not a finished model's folder: it has no {CHECKSUMS} or no {CARD}; allowed: DIR/models/BUDGET"
        )
    names = [line.split("  ", 1)[1] for line in sums.read_text().splitlines() if "  " in line]
    for name in names:
        if confined(folder / name, folder) is None or not (folder / name).is_file():
            raise WeightsError(f"{folder}: {CHECKSUMS} names {name}, which is not a file in the folder; make the model again")
    return names


def _public_config(config: SlimConfig) -> SlimConfig:
    made_from = None if config.made_from is None else public(config.made_from)
    # A class may be called like a path, and weights are chosen by it.
    return SlimConfig.from_dict(without_paths_in(config.replace(made_from=made_from).to_dict())).replace(classes=config.classes)


def _card(card: str, source: str, *, repo: str, revision: str | None, timm_loads: bool) -> str:
    if source:
        card = card.replace(source, public_name(source))
    card = without_paths(card)
    if timm_loads:
        for name in (PNG, PAGE):
            card = card.replace(f"]({name})", f"]({BELOW_TIMM}/{name})")
    head, _, rest = card.partition("\n## ")
    return f"{head}\n{_from_the_hub(repo, revision, timm_loads)}\n## {rest}"


def _from_the_hub(repo: str, revision: str | None, timm_loads: bool) -> str:
    at = "" if revision is None else f', revision="{revision}"'
    below = f' + "/{BELOW_TIMM}"' if timm_loads else ""
    name = repo if revision is None else f"{repo}@{revision}"
    by_timm = (
        f'\nimport timm\n\nmodel = timm.create_model("hf-hub:{name}", pretrained=True)  # the same, with timm alone'
        if timm_loads
        else ""
    )
    return f"""## From the hub

```python
import autoslim
from huggingface_hub import snapshot_download

model = autoslim.load(snapshot_download("{repo}"{at}){below})
{by_timm}
```
"""
