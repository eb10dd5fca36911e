"""Small synthetic images in the Hugging Face hub's form and, the same, as records of the binary version.

    python -m venv venv && venv/bin/pip install numpy pillow pyarrow
    venv/bin/python crates/data/testdata/make_parquet_fixtures.py
"""

import io
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

HERE = pathlib.Path(__file__).parent
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def images(count):
    """[N, 3, 32, 32]: ramps that differ along rows, columns, channels and images."""
    n, c, y, x = np.indices((count, 3, 32, 32))
    return (40 * n + 60 * c + 5 * y + 2 * x + x * y // 16).astype(np.uint8)


def png(image):
    out = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(out, "PNG")
    return {"bytes": out.getvalue(), "path": None}


def write(name, images, labels):
    columns = {"img": pa.array([png(image) for image in images], IMAGE)}
    columns |= {key: pa.array(values, pa.int64()) for key, values in labels.items()}
    # The hub's files have several row groups and are compressed.
    pq.write_table(pa.table(columns), HERE / f"{name}.parquet", row_group_size=2, compression="snappy")
    # The binary version has the coarse label first.
    bytes_of_labels = np.array(list(labels.values())[::-1], dtype=np.uint8).T
    records = np.concatenate([bytes_of_labels, images.reshape(len(images), -1)], axis=1)
    records.tofile(HERE / f"{name}.bin")


write("cifar100", images(5), {"fine_label": [0, 99, 7, 50, 1], "coarse_label": [19, 0, 3, 7, 11]})
write("cifar10", images(3), {"label": [9, 0, 4]})
