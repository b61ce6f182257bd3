"""The table of images."""

import numpy as np
import pytest

from pneumonia.data.manifest import Manifest


@pytest.fixture
def samples() -> Manifest:
    paths = ["IM-0001-0001.jpeg", "person1_virus_1.jpeg", "person1_virus_2.jpeg"]
    return Manifest.identified([*paths, "person2_bacteria_1.jpeg"], [0, 1, 1, 1])


def test_every_row_has_path_label_patient_and_subtype(samples):
    assert len(samples) == 4
    assert samples.paths[1] == "person1_virus_1.jpeg"
    assert samples.labels.tolist() == [0, 1, 1, 1]
    assert samples.patients.tolist() == ["IM/1", "virus/1", "virus/1", "bacteria/2"]
    assert samples.numbers.tolist() == [1, 1, 1, 2]
    assert samples.subtypes.tolist() == ["normal", "viral", "viral", "bacterial"]


def test_rows_are_taken_by_mask_and_by_index_with_all_columns(samples):
    assert samples.take(samples.labels == 0).paths.tolist() == ["IM-0001-0001.jpeg"]
    assert samples.take(np.array([3, 0])).patients.tolist() == ["bacteria/2", "IM/1"]


def test_tables_add_up_even_with_longer_names(samples):
    longer = Manifest.identified(["NORMAL2-IM-123456-0001-0002-0003.jpeg"], [0])
    both = samples + longer
    assert len(both) == 5
    assert both.paths[-1] == longer.paths[0]
    assert both.patients[-1] == "NORMAL2-IM/123456"


def test_the_summary_counts_images_patients_classes_and_subtypes(samples):
    assert samples.class_counts() == (1, 3)
    assert samples.summary() == (
        "4 images of 3 patients: 1 NORMAL, 3 PNEUMONIA (1 bacterial, 2 viral)"
    )
