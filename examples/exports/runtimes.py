"""Exported files, opened by the programs that run them on devices: functions of images.

Each returns a function from images, float32 (B, ...), to what the file computes of them, (B, K).
"""

import keras
import numpy as np


def open_saved_model(path):
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    return lambda images: loaded.serve(images).numpy()


def open_onnx(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def open_litert(path):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path)
    place, shape = interpreter.get_input_details()[0]["index"], None

    def run(images):
        nonlocal shape
        if images.shape != shape:
            interpreter.resize_tensor_input(place, images.shape)
            interpreter.allocate_tensors()
            shape = images.shape
        interpreter.set_tensor(place, images)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    return run


def open_openvino(path):
    import openvino

    compiled = openvino.Core().compile_model(path, "CPU")
    return lambda images: np.array(compiled(images)[0])


def open_keras(path):
    model = keras.saving.load_model(path, compile=False)
    return lambda images: np.asarray(model.predict(images, verbose=0))


# Format as Keras calls it: the ending of its files, what opens them, the package that it needs.
FORMATS = {
    "litert": (".tflite", open_litert, "ai-edge-litert"),
    "onnx": (".onnx", open_onnx, "onnxruntime"),
    "openvino": (".xml", open_openvino, "openvino"),
    "tf_saved_model": ("", open_saved_model, "tensorflow"),
}
