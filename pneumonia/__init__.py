"""Pneumonia on pediatric chest X-rays: train, evaluate, explain. Not a medical device."""

__version__ = "0.1.0"
