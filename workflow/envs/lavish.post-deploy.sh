# Runs inside the new environment, in the working directory of Snakemake: the root of the repository.
set -euo pipefail
python -m pip install --requirement requirements.lock
python -m pip install --no-deps --editable .
