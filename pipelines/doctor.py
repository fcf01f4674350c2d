"""What is installed, what works here, what lies under the root; beside each fault its cure.

Nothing is believed that can be tried: libraries are imported, decoders decode, the embedded encoder encodes.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cache.errors import StepclipError
from .paths import Layout

if TYPE_CHECKING:
    from rich.console import Group

OK, NOTE, BROKEN = "ok", "note", "broken"
LEAST_DISK, LEAST_MEMORY = 5 * 2**30, 2 * 2**30  # bytes free, under which a note is made
INSTALL = "pip install -c constraints.txt -e '.[cpu,ffmpeg]'"
# distribution -> what it is imported as, where the names differ
MODULES = {
    "ffmpeg-python": "ffmpeg", "huggingface-hub": "huggingface_hub", "pillow": "PIL", "pyyaml": "yaml",
    "scikit-learn": "sklearn", "lightning-fabric": "lightning_fabric",
}  # fmt: skip


@dataclass(frozen=True)
class Check:
    """One thing looked at. `state`: ok; note, something is missing that can be done without; broken."""

    area: str
    name: str
    state: str
    found: str
    cure: str = ""


@dataclass
class Diagnosis:
    """All checks. `sound`: nothing essential is broken."""

    checks: list[Check] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return all(check.state != BROKEN for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        return {"sound": self.sound, "checks": [asdict(check) for check in self.checks]}

    def __rich__(self) -> Group:
        from rich.console import Group
        from rich.text import Text

        from .tables import add, table

        parts: list[Any] = []
        for area in dict.fromkeys(check.area for check in self.checks):
            shown = table(area, "", "found", "cure")
            for check in (each for each in self.checks if each.area == area):
                style = {NOTE: "yellow", BROKEN: "bold red"}.get(check.state)
                add(shown, check.name, check.state, check.found, check.cure, style=style)
            parts.append(shown)
        broken = [check.name for check in self.checks if check.state == BROKEN]
        parts.append(Text(f"broken: {', '.join(broken)}" if broken else "nothing essential is broken"))
        return Group(*parts)


def diagnose(layout: Layout) -> Diagnosis:
    """Look at everything; takes some seconds, for the libraries are loaded. Nothing is changed."""
    found: list[Check] = []
    for area, look in AREAS.items():
        try:
            found += look(layout)
        except Exception as error:  # a doctor that falls ill says so and goes on
            found.append(Check(area, "this check", BROKEN, _said(error), "STEPCLIP_DEBUG=1 and an issue"))
    return Diagnosis(found)


def machine(layout: Layout) -> Iterator[Check]:
    """Python, cores, memory, and the disk under the root."""
    area = "machine"
    yield Check(
        area, "python", OK, f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    )
    free = _free_memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    state = NOTE if free is not None and free < LEAST_MEMORY else OK
    yield Check(
        area, "cores, memory", state, f"{cores} cores, {_size(free)} of memory free",
        "end other programs, or --workers 1" if state == NOTE else "",
    )  # fmt: skip
    there = layout.root.resolve()
    while not there.exists():
        there = there.parent
    room = shutil.disk_usage(there).free
    writable = os.access(there, os.W_OK)
    state = BROKEN if not writable else NOTE if room < LEAST_DISK else OK
    found = f"{layout.root.resolve()}: {_size(room)} free" + ("" if writable else ", not writable")
    yield Check(area, "root", state, found, "" if state == OK else "another --root, or make room")


def libraries(layout: Layout) -> Iterator[Check]:
    """Every library that the package asks for: loaded, and of a version it was asked for."""
    from packaging.requirements import Requirement

    area, bad = "libraries", 0
    try:
        asked = [Requirement(line) for line in metadata.requires("stepclip") or []]
    except metadata.PackageNotFoundError:
        yield Check(area, "stepclip", BROKEN, "not installed: its libraries are not known", INSTALL)
        return
    wanted = [each for each in asked if each.marker is None or each.marker.evaluate({"extra": ""})]
    for each in wanted:
        try:
            version = metadata.version(each.name)
            importlib.import_module(MODULES.get(each.name.lower(), each.name.lower().replace("-", "_")))
        except metadata.PackageNotFoundError:
            yield Check(area, each.name, BROKEN, "not installed", INSTALL)
        except Exception as error:  # a broken wheel raises anything
            optional = each.name.lower() in ("decord", "ffmpeg-python")  # other decoders take their place
            yield Check(area, each.name, NOTE if optional else BROKEN, _said(error), INSTALL)
        else:
            if each.specifier.contains(version, prereleases=True):
                continue
            yield Check(area, each.name, BROKEN, f"{version}; wanted: {each.specifier}", INSTALL)
        bad += 1
    yield Check(
        area,
        "stepclip",
        OK,
        f"{metadata.version('stepclip')}; {len(wanted) - bad} of {len(wanted)} libraries load",
    )
    try:
        from ..evaluate.search import load_faiss

        faiss = load_faiss()
        gpus = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
        yield Check(area, "faiss", OK, f"{faiss.__version__}, {gpus} GPUs")
    except StepclipError as error:
        yield Check(area, "faiss", BROKEN, error.found, error.run)


def devices(layout: Layout) -> Iterator[Check]:
    """Where it can compute; a GPU that the installed torch cannot use is told."""
    import torch

    area = "devices"
    yield Check(area, "cpu", OK, f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(i)
            yield Check(area, f"cuda:{i}", OK, f"{about.name}, {_size(about.total_memory)}")
    elif gpus := _nvidia():
        cure = "a CUDA build of torch" if torch.version.cuda is None else "a driver that fits torch's CUDA"
        yield Check(area, "cuda", NOTE, f"{gpus}, which this torch cannot use", cure)
    else:
        yield Check(area, "cuda", NOTE, "no NVIDIA GPU", "none is needed; --device cpu is what auto takes")
    from ..train.alignment import dtw

    value = float(dtw(torch.tensor([[0.0, 1.0], [1.0, 0.0]])))
    yield Check(area, "alignment", OK if value == 0 else BROKEN, "its kernels run on the CPU")


def decoders(layout: Layout) -> Iterator[Check]:
    """Each decoder reads a small H.264 video that is made for it."""
    from ..extract.decoders import Sampling, backends, get_decoder

    area = "decoders"
    with tempfile.TemporaryDirectory(prefix="stepclip-") as folder:
        try:
            video = _small_video(Path(folder) / "small.mp4")
        except Exception as error:
            yield Check(area, "pyav", BROKEN, f"cannot write a video: {_said(error)}", "pip install av")
            return
        for each in backends():
            missing = BROKEN if each.name == "pyav" else NOTE  # the default; the others are second ones
            if not each.usable:
                yield Check(area, each.name, missing, each.version or "not installed", each.install)
                continue
            try:
                frames = get_decoder(each.name).decode(video, Sampling(fps=4.0))
            except Exception as error:
                yield Check(area, each.name, missing, f"{each.version}: {_said(error)}", each.install)
            else:
                yield Check(area, each.name, OK, f"{each.version}, read {len(frames.times)} frames of H.264")


def encoders(layout: Layout) -> Iterator[Check]:
    """The embedded encoder encodes; others: what could be had, and which weights are here already."""
    import numpy as np

    from ..extract.encoders import NAMES, backends, load_encoder

    area = "encoders"
    for each in backends():
        needed = each.name != "clip"
        state = OK if each.usable else BROKEN if needed else NOTE
        yield Check(
            area, each.name, state, each.version or "not installed", "" if each.usable else each.install
        )
    encoder = load_encoder("embedded", device="cpu")
    feature = np.asarray(encoder.encode_texts(["stir the liquid"]), dtype=np.float32)
    state = OK if feature.any() and np.isfinite(feature).all() else BROKEN
    yield Check(
        area, "embedded, tried", state, f"a text becomes {feature.shape[-1]} numbers; it knows the bench only"
    )
    here = [name for name, hub in NAMES.items() if _in_hub_cache(hub)]
    offline = os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
    found = f"weights here: {', '.join(here) or 'none'}" + ("; offline (HF_HUB_OFFLINE)" if offline else "")
    cure = "" if here else "--encoder ViT-B/16 downloads them once; without a network: --encoder FOLDER"
    yield Check(area, "CLIP", OK if here else NOTE, found, cure)


def artefacts(layout: Layout) -> Iterator[Check]:
    """The caches, runs and indices under the root."""
    area = "under the root"
    if not layout.datasets() and not layout.runs():
        yield Check(area, "data", NOTE, f"nothing under {layout.root}", "stepclip demo, stepclip extract")
    for name in layout.datasets():
        yield _cache(area, layout, name)
    for name in layout.runs():
        yield _run(area, layout, name)
    for folder in sorted(layout.root.glob("indexes/*")):
        yield _index(area, layout, folder)


def _cache(area: str, layout: Layout, name: str) -> Check:
    from .status import cache_status

    paths, label = layout.dataset(name), f"data/{name}"
    cure = f"stepclip cache status --dataset {name}"
    if not (paths.features / "cache.json").is_file():
        return Check(area, label, NOTE, "not extracted yet", f"stepclip extract --dataset {name}")
    try:
        status = cache_status(paths)
    except StepclipError as error:
        return Check(area, label, BROKEN, error.found, error.run or cure)
    failed = sum(map(len, status.failed.values()))
    counts = {
        "damaged": len(status.damaged), "stale": len(status.stale), "failed": failed,
        "missing": len(status.missing), "texts missing": len(status.texts),
    }  # fmt: skip
    faults = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    found = f"{len(status.done)} of {status.inputs} videos, {_size(status.bytes)}" + (
        f"; {faults}" if faults else ""
    )
    if status.damaged:
        return Check(area, label, BROKEN, found, f"stepclip cache repair --dataset {name}")
    return Check(area, label, OK if status.whole else NOTE, found, "" if status.whole else cure)


def _run(area: str, layout: Layout, name: str) -> Check:
    from ..cache.store import FeatureStore
    from ..train.checkpoint import load_checkpoint

    run, label = layout.run(name), f"runs/{name}"
    try:
        checkpoint = load_checkpoint(run.folder)
        dataset = run.dataset
        if dataset in layout.datasets():
            with FeatureStore.open(layout.dataset(dataset).features, expect=checkpoint.fingerprint):
                pass
    except StepclipError as error:
        return Check(area, label, BROKEN, error.found, error.run or "stepclip train --overwrite")
    return Check(
        area,
        label,
        OK,
        f"{checkpoint.recipe.name}, step {checkpoint.step}, of {dataset or 'no dataset on record'}",
    )


def _index(area: str, layout: Layout, folder: Path) -> Check:
    from ..evaluate.search import SearchIndex

    label, cure = f"indexes/{folder.name}", f"stepclip index build --run {folder.name}"
    try:
        count = len(SearchIndex.open(folder))
    except StepclipError as error:
        return Check(area, label, NOTE, error.found, cure)
    return Check(area, label, OK, f"{count} videos")


AREAS: dict[str, Callable[[Layout], Iterator[Check]]] = {
    "machine": machine,
    "libraries": libraries,
    "devices": devices,
    "decoders": decoders,
    "encoders": encoders,
    "under the root": artefacts,
}


def _small_video(path: Path) -> Path:
    import av
    import numpy as np

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for n in range(8):
            image = np.full((48, 64, 3), 20 * n, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def _nvidia() -> str:
    """The names of the GPUs that the driver knows, "" without one."""
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
        return "; ".join(re.sub(r" \(UUID.*", "", line) for line in done.stdout.splitlines() if "GPU" in line)
    return ""


def _in_hub_cache(hub: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    names = ("model.safetensors", "pytorch_model.bin")
    return any(isinstance(try_to_load_from_cache(hub, name), str) for name in names)


def _free_memory() -> int | None:
    with suppress(OSError, ValueError, IndexError):
        text = Path("/proc/meminfo").read_text()
        return int(text.split("MemAvailable:")[1].split()[0]) * 1024
    return None


def _size(count: int | None) -> str:
    if count is None:
        return "an unknown amount"
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _said(error: Exception) -> str:
    """The first line of what an error says."""
    text = error.found if isinstance(error, StepclipError) else str(error)
    return f"{type(error).__name__}: {(text.strip().splitlines() or ['-'])[0]}"
