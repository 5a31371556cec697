"""Files that are small and become large: refused by their bytes, pixels, rows or claims, before they are unpacked."""

from __future__ import annotations

import io
import resource
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from autoslim.core.job import DatasetSpec
from autoslim.data import prepare_dataset
from autoslim.data.decode import MAX_BYTES, MAX_PIXELS, decode_rgb
from autoslim.data.parquet import MAX_ROWS
from autoslim.data.sources import open_source
from autoslim.errors import DatasetError, WeightsError
from autoslim.models.weights_file import read_state_dict


def memory() -> int:
    """The most this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def png(width: int, height: int, rows: bytes) -> bytes:
    """A PNG that claims a size, whatever it has of it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (MAX_PIXELS + 1, 1), (2**31 - 1, 2**31 - 1), (7072, 7072)])
def test_an_image_of_too_many_pixels_is_refused_before_it_is_unpacked(width: int, height: int) -> None:
    before = memory()
    with pytest.raises(DatasetError):
        decode_rgb(png(width, height, b"\x00" * 1000))
    assert memory() - before < 50 * 2**20


def test_an_image_of_too_many_bytes_is_refused() -> None:
    with pytest.raises(DatasetError, match="larger than 64 MiB"):
        decode_rgb(png(8, 8, b"\x00" * 72) + b"\x00" * MAX_BYTES)


def test_text_chunks_that_unpack_to_much_are_refused() -> None:
    picture = io.BytesIO()
    Image.new("L", (8, 8)).save(picture, "PNG")
    data = picture.getvalue()
    text = b"k\x00\x00" + zlib.compress(b"\x00" * 2**28)
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    before = memory()
    with pytest.raises(DatasetError):
        decode_rgb(data[:33] + chunk + data[33:])
    assert memory() - before < 100 * 2**20


def parquet(path: Path, images: pa.Array, labels: pa.Array, **options: object) -> None:
    table = pa.table(
        {"image": pa.StructArray.from_arrays([images, pa.nulls(len(images), pa.string())], ["bytes", "path"]), "label": labels}
    )
    pq.write_table(table, path, **options)


def test_a_parquet_file_that_unpacks_to_thousands_of_times_its_size_is_refused(tmp_path: Path) -> None:
    images = pa.array([b"\x00" * 2**22] * 64, pa.binary())
    parquet(tmp_path / "bomb.parquet", images, pa.array(np.zeros(64, np.int64)), compression="zstd", use_dictionary=False)
    assert (tmp_path / "bomb.parquet").stat().st_size < 2**20
    with pytest.raises(DatasetError, match="unpacks to 268"):
        open_source(str(tmp_path / "bomb.parquet"), seed=0)


def test_a_parquet_file_of_too_many_rows_is_refused_before_its_labels_are_read(tmp_path: Path) -> None:
    rows = MAX_ROWS + 1
    schema = pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())])
    with pq.ParquetWriter(tmp_path / "rows.parquet", schema) as writer:
        size = 5_000_000
        group = pa.table({"image": pa.nulls(size, schema.field("image").type), "label": pa.array(np.zeros(size, np.int64))})
        for start in range(0, rows, size):
            writer.write_table(group.slice(0, min(size, rows - start)))
    assert (tmp_path / "rows.parquet").stat().st_size < 2**20
    before = memory()
    with pytest.raises(DatasetError, match="allowed: at most 50,000,000"):
        open_source(str(tmp_path / "rows.parquet"), seed=0)
    assert memory() - before < 100 * 2**20


def test_a_dictionary_of_one_large_image_takes_the_memory_of_a_few(tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.effect_noise((900, 900), 100).save(picture, "PNG")
    one = picture.getvalue()
    images = pa.DictionaryArray.from_arrays(pa.array(np.zeros(600, np.int32)), pa.array([one], pa.binary())).cast(pa.binary())
    path = tmp_path / "same.parquet"
    parquet(path, images, pa.array(np.arange(600) % 2), dictionary_pagesize_limit=2**24, compression="none")
    assert path.stat().st_size < 2 * len(one)
    del images
    before = memory()
    source = open_source(str(path), seed=0)
    assert sum(len(row[1]) for row in source.train.rows(np.arange(600))) == 600 * len(one)
    assert memory() - before < 64 * len(one)


def test_a_folder_whose_images_are_all_bombs_is_a_data_set_without_images(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(12):
            (tmp_path / "set" / name / f"{number}.png").write_bytes(png(60_000, 60_000, b""))
    with pytest.raises(DatasetError, match="are unreadable; allowed"):
        prepare_dataset(DatasetSpec(source=str(tmp_path / "set")), tmp_path / "cache", seed=0)


def test_weights_that_claim_more_than_they_have_are_refused(tmp_path: Path) -> None:
    header = b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
    file = tmp_path / "claims.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + b"\x00" * 16)
    (tmp_path / "long.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    before = memory()
    for path in (file, tmp_path / "long.safetensors"):
        with pytest.raises(WeightsError):
            read_state_dict(path)
    assert memory() - before < 50 * 2**20


def test_weights_that_are_a_compressed_archive_are_refused(tmp_path: Path) -> None:
    plain, packed = tmp_path / "plain.pth", tmp_path / "packed.pth"
    torch.save({"a": torch.zeros(2**24)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert packed.stat().st_size < 2**18
    before = memory()
    with pytest.raises(WeightsError):
        read_state_dict(packed)
    assert memory() - before < 2**26
