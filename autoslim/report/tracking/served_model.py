"""A slimmed model for `mlflow.pyfunc`, as code: MLflow copies this file beside `model.onnx` and runs it; autoslim is not needed.

In: normalised images (B, 3, height, width), float32. Out: logits (B, classes), or the pooled features
(B, D) of a model without classes.
"""

import mlflow
import numpy as np
from mlflow.pyfunc import PythonModel


class ServedModel(PythonModel):
    def load_context(self, context):
        import onnxruntime

        self.session = onnxruntime.InferenceSession(context.artifacts["onnx"], providers=onnxruntime.get_available_providers())

    def predict(self, context, model_input: np.ndarray, params=None):
        return self.session.run([self.session.get_outputs()[0].name], {"images": np.asarray(model_input, np.float32)})[0]


mlflow.models.set_model(ServedModel())
