"""The model of photographs that ships with the package: data, training, evaluation (README.md)."""
