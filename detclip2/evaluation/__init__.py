"""Detectron2 evaluators of open-vocabulary detection."""
