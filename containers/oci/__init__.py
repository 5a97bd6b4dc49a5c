"""The OCI runtime front door: `vmm-oci create|start|state|kill|delete|exec|run ...` over runtime-spec
bundles.

docker, containerd and podman drive it as they drive runc. A bundle says everything by itself, so it does
not pass through ContainerSpec: config.json -> plan (the same kind of operations, printable) -> effects in
the child.
"""
