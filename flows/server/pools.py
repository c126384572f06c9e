"""Names of the work pools and of the limit that deployments, workers and flows agree on."""

CPU_POOL = "cpu"
GPU_POOL = "gpu"
# A global concurrency limit with as many slots as there are GPUs.
GPU_LIMIT = "gpu"
