"""Maps of one's own scenes, of any size, by a trained network."""

from cromss.mapping.predict import MapReport, predict_map
from cromss.mapping.predictor import Predictor, open_predictor

__all__ = ["MapReport", "Predictor", "open_predictor", "predict_map"]
