"""The notebook's network in Keras; needs TensorFlow only. Prints images/s as JSON.

python keras_resnet50v2.py FOLDER_OF_JPEGS
"""

import json
import sys
import time

import tensorflow as tf

SIZE, BATCH, ROUNDS = 224, 32, 3


def rate(images, run):
    """Images/s of the best round, after one that warms up."""
    run()
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return images / min(seconds)


images = tf.keras.utils.image_dataset_from_directory(
    sys.argv[1], labels=None, image_size=(SIZE, SIZE), batch_size=BATCH, shuffle=False
)
count = len(images.file_paths)
labelled = images.map(lambda pixels: (pixels, tf.zeros(tf.shape(pixels)[0])))
backbone = tf.keras.applications.ResNet50V2(
    include_top=False, weights=None, input_shape=(SIZE, SIZE, 3), pooling="avg"
)
model = tf.keras.Sequential([backbone, tf.keras.layers.Dense(1, activation="sigmoid")])
model.compile(tf.keras.optimizers.Adam(1e-3), "binary_crossentropy")
rates = {
    "predict": rate(count, lambda: model.predict(images.prefetch(1), verbose=0)),
    "train": rate(count, lambda: model.fit(labelled.prefetch(1), verbose=0)),
}
print(json.dumps(rates))
