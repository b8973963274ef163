#!/bin/sh
# Writes the files beside it from pyproject.toml and constraints.txt: what the image installs, each
# with the hashes of all its wheels. Run again after a change of either, from the repository root:
#
#   pip install uv && sh deployments/locks/make.sh
#
# image.txt  the extras pipeline and s3, without torch: other builds of it have other hashes
# torch.txt  torch with CUDA, as the package index has it, and what it brings
# build.txt  what makes the wheel
set -eu
folder=deployments/locks
lock() {
    uv pip compile "$@" --python-version 3.11 --python-platform linux --generate-hashes \
        --no-header --no-annotate --quiet
}
torch_alone=$(sed -n 's/^torch==/torch==/p' constraints.txt)
all=$(lock pyproject.toml --extra pipeline --extra s3 --constraints constraints.txt)
cuda=$(printf '%s\n' "$all" | sed -nE 's/^(torch|triton|nvidia-[^=]*|cuda-[^=]*)==.*/\1/p')
without=$(for name in $cuda; do printf ' --no-emit-package %s' "$name"; done)
# shellcheck disable=SC2086 (one word for each package)
lock pyproject.toml --extra pipeline --extra s3 --constraints constraints.txt $without >"$folder/image.txt"
image=$(sed -nE 's/^([A-Za-z0-9._-]+)==.*/\1/p' "$folder/image.txt")
without=$(for name in $image; do printf ' --no-emit-package %s' "$name"; done)
printf '%s\n' "$torch_alone" | lock - --constraints constraints.txt $without >"$folder/torch.txt"
echo 'hatchling' | lock - >"$folder/build.txt"
