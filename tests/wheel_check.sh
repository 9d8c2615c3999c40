#!/usr/bin/env bash
# Checks that the built wheel is whole: builds the sdist and from it the wheel, installs that in an
# empty environment, and runs a study and every command in an empty folder away from the checkout.
#
#   bash tests/wheel_check.sh PYTHON
set -euo pipefail
python=$1
checkout=$(cd "$(dirname "$0")/.." && pwd)
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
export JAX_PLATFORMS=cpu
unset PYTHONPATH

"$python" -m venv "$temporary/build"
"$temporary/build/bin/pip" install -qq build
"$temporary/build/bin/python" -m build --outdir "$temporary/dist" "$checkout" >"$temporary/log" 2>&1 ||
  { tail -n 20 "$temporary/log"; exit 1; }
wheel=$(ls "$temporary"/dist/*.whl)
"$python" -m venv "$temporary/empty"
"$temporary/empty/bin/pip" install -qq "$wheel[export]"
mkdir "$temporary/elsewhere"
cd "$temporary/elsewhere"
PATH="$temporary/empty/bin:$PATH"

squeeze-jax --version

tried=(launch)
run() {
  tried+=("$1")
  echo "squeeze-jax $*"
  squeeze-jax "$@" >"$temporary/log" 2>&1 || { cat "$temporary/log"; exit 1; }
}

short=(--config.seeds=1 --config.train.steps=4 --compilation_cache="$temporary/cache")
echo "squeeze-jax launch"
squeeze-jax launch >"$temporary/log"
grep -q '^sr_sweep ' "$temporary/log"
squeeze-jax launch sr_sweep "${short[@]}" >"$temporary/log" 2>&1 || { cat "$temporary/log"; exit 1; }
cat >mine.py <<'PYTHON'
"""Does a wider net learn faster?"""

from squeeze_jax.configs import base


def get_config(preset="digits"):
    return base.get_config(preset, "mine")


def sweep(config):
    yield {"model.base_e": 16}
PYTHON
squeeze-jax launch mine.py "${short[@]}" >"$temporary/log" 2>&1 || { cat "$temporary/log"; exit 1; }

trial=$(ls -d runs/sr_sweep-digits/trials/*squeeze_ratio=0.125*)
python - <<'PYTHON'
import numpy as np
from PIL import Image
Image.fromarray(np.full((40, 50, 3), 200, np.uint8)).save("photo.png")
PYTHON
python - <<'PYTHON'
from pathlib import Path

import numpy as np
from PIL import Image

random = np.random.default_rng(0)
for name, colour in {"red": (180, 60, 60), "blue": (60, 60, 180)}.items():
    Path("colours", name).mkdir(parents=True)
    for i in range(40):
        pixels = np.clip(random.normal(colour, 40, (40, 48, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(f"colours/{name}/{i}.png")
PYTHON
mkdir -p photos/one photos/two
for i in 1 2; do cp photo.png "photos/one/$i.png"; cp photo.png "photos/two/$i.png"; done
run data photos
run prepare prepared --data-dir photos --workers 1
run report runs/sr_sweep-digits
run report runs/sr_sweep-digits --watch
grep -q '#trial/' runs/sr_sweep-digits/report.html  # the page's script travels with the package
run summary squeezenet_v1_0
run hardware squeezenext_23_v5 --array 8x8 --buffer-kb 32
run evaluate "$trial"
run sensitivity "$trial" --fractions 0.5 --max-drop 100
run predict "$trial" photo.png
for suffix in onnx tflite stablehlo safetensors; do
  run export "$trial" --format "$suffix" -o "net.$suffix"
done
run export "$trial" --format c -o firmware
make -C firmware test >"$temporary/log" 2>&1 || { cat "$temporary/log"; exit 1; }
run evaluate net.onnx --data digits
run import net.safetensors -o imported
run serve-demo imported -o demo
run compress imported -o net.sqz --bits 6
run decompress net.sqz -o decompressed
run firmware colours --flash 32K --ram 32K --search-epochs 4 --epochs 4 -o device \
  "--config.image_sizes=(32,)" --config.train.min_steps=0 "--config.widths=(8,)"
run compare device/search --min-designs 1 --figure edf.png
make -C device/firmware test >"$temporary/log" 2>&1 || { cat "$temporary/log"; exit 1; }

python - "${tried[@]}" <<'PYTHON'
import sys
from importlib.metadata import version

import squeeze_jax
from squeeze_jax.cli.main import COMMANDS

assert squeeze_jax.__version__ == version("squeeze_jax")
missing = {"launch", *COMMANDS} - set(sys.argv[1:])
assert not missing, f"commands not tried: {missing}"
assert len(squeeze_jax.read_study("runs/mine-digits")) == 1
PYTHON
echo "the wheel is whole: $(basename "$wheel"), $(stat -c %s "$wheel") bytes"
