"""Small classifiers with every kind of head, and the parts to build more."""

import keras
from keras import layers, ops
from library_classifiers import NUM_CLASSES


def features(name=None):
    """Input and a map of 6x6 positions."""
    inputs = keras.Input((12, 12, 3), name=name)
    x = layers.Conv2D(6, 3, strides=2, padding="same", activation="relu")(inputs)
    return inputs, layers.BatchNormalization()(x)


def functional(*head):
    inputs, x = features()
    for layer in head:
        x = layer(x)
    return keras.Model(inputs, x)


def dense(activation=None, **kwargs):
    return layers.Dense(NUM_CLASSES, activation, **{"name": "predictions"} | kwargs)


def average(**kwargs):
    return layers.GlobalAveragePooling2D(**{"name": "pool"} | kwargs)


def convolution_head(activation):
    return functional(
        average(keepdims=True),
        layers.Dropout(0.5),
        layers.Conv2D(NUM_CLASSES, 1, padding="same", name="predictions"),
        layers.Reshape((NUM_CLASSES,)),
        layers.Activation(activation, name="activation"),
    )


def base(pooling=None):
    """A model without a classifier, to be nested."""
    inputs, x = features()
    return keras.Model(inputs, average()(x) if pooling else x, name="base")


def sequential(*parts):
    return keras.Sequential([keras.Input((12, 12, 3)), *parts])


def nested_in_inference_mode(activation):
    inputs = keras.Input((12, 12, 3))
    x = average()(base()(inputs, training=False))
    return keras.Model(inputs, dense(activation)(x))


def nested_twice(activation):
    inner = keras.Sequential([base(pooling="avg"), layers.Dropout(0.2)], name="inner")
    inputs = keras.Input((12, 12, 3))
    head = keras.Sequential([dense(activation)], name="head")
    return keras.Model(inputs, head(keras.Sequential([inner], name="outer")(inputs)))


def nested_between_layers(activation):
    """Preprocessing before, the head after a nested model with several outputs."""
    inputs, x = features()
    trunk = keras.Model(inputs, [layers.Flatten()(x), x, average()(x)], name="trunk")
    images = keras.Input((24, 24, 3))
    outputs = trunk(layers.AveragePooling2D(2)(images))
    return keras.Model(images, dense(activation)(outputs[2]))


def called_twice(activation):
    """A base called on two inputs, of which the second counts."""
    inputs, shared = keras.Input((12, 12, 3)), base(pooling="avg")
    shared(layers.Rescaling(5.0)(inputs))
    return keras.Model(inputs, dense(activation)(shared(layers.Rescaling(0.5)(inputs))))


def ops_head(activation):
    inputs, x = features()
    x = ops.reshape(ops.mean(x, axis=(-2, 1), keepdims=True), (-1, 6))
    logits = dense()(ops.cast(x, "float32"))
    return keras.Model(inputs, ops.softmax(logits) if activation else logits)


def squeezed_head(activation):
    inputs, x = features()
    x = ops.squeeze(average(keepdims=True)(x), axis=(1, 2))
    return keras.Model(inputs, dense(activation)(x))


def dict_input(activation):
    inputs, x = features(name="image")
    return keras.Model({"image": inputs}, dense(activation)(average()(x)))


def functional_subclass(activation):
    class Classifier(keras.Model):
        def __init__(self):
            inputs, x = features()
            super().__init__(inputs, dense(activation)(average()(x)))

    return Classifier()


# Name: builder of the classifier with an activation, None or "softmax".
OWN_MODELS = {
    "functional": lambda a: functional(average(), dense(a)),
    "dropout": lambda a: functional(average(), layers.Dropout(0.5), dense(a)),
    "noise": lambda a: functional(
        average(), layers.GaussianNoise(1.0), layers.GaussianDropout(0.5), dense(a)
    ),
    "linear activations": lambda a: functional(
        average(), layers.Activation("linear"), layers.Identity(), dense(a), layers.Identity()
    ),
    "two linear layers": lambda a: functional(average(), layers.Dense(7), dense(a)),
    "no bias": lambda a: functional(average(), dense(a, use_bias=False)),
    "not square": lambda a: functional(layers.Cropping2D((1, 0)), average(), dense(a)),
    "activation layer": lambda a: functional(average(), dense(), layers.Activation(a)),
    "softmax layer": lambda a: functional(
        average(), dense(), layers.Softmax(axis=1) if a else layers.Identity()
    ),
    "ops.softmax as activation": lambda a: functional(average(), dense(a and ops.softmax)),
    "ops": ops_head,
    "squeeze": squeezed_head,
    "average pooling and flatten": lambda a: functional(
        layers.AveragePooling2D(6), layers.Flatten(), dense(a)
    ),
    "convolution": convolution_head,
    "convolution with activation": lambda a: functional(
        average(keepdims=True), layers.Conv2D(NUM_CLASSES, 1, activation=a), layers.Flatten()
    ),
    "sequential": lambda a: sequential(layers.Conv2D(4, 3), average(), dense(a)),
    "sequential around a base": lambda a: sequential(base(), average(), dense(a)),
    "sequential around a pooled base": lambda a: sequential(base("avg"), dense(a)),
    "sequential of sequentials": lambda a: sequential(
        keras.Sequential([layers.Conv2D(4, 3), layers.ReLU()]),
        keras.Sequential([average(), layers.Dropout(0.1)]),
        keras.Sequential([dense(a)]),
    ),
    "nested in inference mode": nested_in_inference_mode,
    "nested twice": nested_twice,
    "nested between layers": nested_between_layers,
    "called twice": called_twice,
    "dict input": dict_input,
    "functional subclass": functional_subclass,
}


def token_classifier(activation, tokens=16, class_token=False):
    """A small vision transformer on 4x4 patches."""
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 4, strides=4)(inputs)
    x = layers.Reshape((tokens, 128 // tokens))(x)
    if class_token:
        x = layers.ZeroPadding1D((1, 0))(x)
    x = x + layers.MultiHeadAttention(2, 4)(x, x)
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model(inputs, dense(activation)(x))


@keras.saving.register_keras_serializable(package="test_heads")
class Projection(layers.Layer):
    """A linear classifier that Keras does not know."""

    def __init__(self, activation=None, **kwargs):
        super().__init__(**kwargs)
        self.activation = keras.activations.get(activation)

    def build(self, input_shape):
        self.matrix = self.add_weight(shape=(input_shape[-1], NUM_CLASSES), name="matrix")

    def call(self, inputs):
        return self.activation(ops.matmul(inputs, self.matrix) / 3.0)

    def get_config(self):
        activation = keras.activations.serialize(self.activation)
        return super().get_config() | {"activation": activation}


def halved():
    inputs, x = features()
    return keras.Model(inputs, dense()(average()(x)) / 2.0)
