"""Use NVIDIA's GPUs through ONNX Runtime: which versions fit, what is missing on this machine, and how a session opens.

`fits` is the table of versions, `driver` asks the driver, `libraries` loads CUDA's libraries, `obstacles` says why a
GPU cannot be used and what helps, `sessions` opens sessions, and `bound` runs them. Nothing here is imported for a CPU.
"""
