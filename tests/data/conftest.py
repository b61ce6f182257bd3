"""DICOM files made to measure."""

import warnings
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

MakeDicom = Callable[..., bytes]

NATIVE = {ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian}


@pytest.fixture(scope="session")
def make_dicom() -> MakeDicom:
    """Writes a DICOM file: pixels of 8 or 16 bits [H, W], and attributes by keyword.

    An attribute of None is left out. `syntax` is a transfer syntax that pydicom can write, and
    `stream` pixels that are compressed already.
    """

    def make(
        pixels: np.ndarray, syntax: str = ExplicitVRLittleEndian, stream: bytes = b"", **attributes
    ) -> bytes:
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"  # computed radiography
        dataset.SOPInstanceUID = "1.2.3.4"
        bits = 8 * pixels.dtype.itemsize
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.SamplesPerPixel = 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.BitsAllocated = bits
        dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
        dataset.BitsStored = attributes.pop("BitsStored", bits)
        dataset.HighBit = dataset.BitsStored - 1
        if stream:
            dataset.PixelData = encapsulate([stream])
            dataset["PixelData"].VR = "OB"
            dataset.file_meta.TransferSyntaxUID = syntax
        else:
            order = ">" if syntax == ExplicitVRBigEndian else "<"
            data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
            dataset.PixelData = data + b"\0" * (len(data) % 2)
            dataset["PixelData"].VR = "OW" if bits == 16 else "OB"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of wrong values, which are wanted here
            for keyword, value in attributes.items():
                if value is None:
                    delattr(dataset, keyword)
                else:
                    setattr(dataset, keyword, value)
        if not stream:
            if syntax in NATIVE or str(syntax).endswith(".99"):
                dataset.file_meta.TransferSyntaxUID = syntax
            else:
                dataset.compress(syntax)
        file = BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset.save_as(
                file,
                implicit_vr=syntax == ImplicitVRLittleEndian,
                little_endian=syntax != ExplicitVRBigEndian,
                enforce_file_format=True,
            )
        return file.getvalue()

    return make
