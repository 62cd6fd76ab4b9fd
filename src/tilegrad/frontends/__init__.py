"""Frontends: PyTorch programs and ONNX models as graphs."""
