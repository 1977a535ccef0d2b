#!/bin/bash
# Trainings under a real SLURM, run on demand: tests/slurm/run.sh [FOLDER]
# Wanted: SLURM's commands, a partition that takes two tasks (SLURM_CONF may name its configuration), and .venv/.
# A job of two tasks is left alone; another meets its time limit, is requeued until it has finished, and must end with
# the same weights and curves. Wrong launches must end in one line.
set -euo pipefail
cd "$(dirname "$0")/../.."
home=$(realpath "${1:-$(mktemp -d)}")
python=.venv/bin/python
mkdir -p "$home"
"$python" benchmarks/small_runs.py write "$home/set"

flags=(--model_type tu-test_resnet --crop_size 32 --batch_size 2 --epochs "${EPOCHS:-40}" --validation 0.2
  --label_smoothing --sample_selection --sample_selection_rmdown_epoch 9 --lr_adjust_type rop --lr_adjust 1
  --fusion_type mid --accelerator cpu --num_workers 1 --save_interval 1000 --display_interval 0
  --data_path "$home/set" --save_dir "$home/runs")

job() {  # job NAME MINUTES: submit a run of two tasks and wait for its end
  cat > "$home/$1.sbatch" <<BATCH
#!/bin/bash
#SBATCH --job-name=$1
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=2
#SBATCH --time=$2
#SBATCH --signal=USR1@${NOTICE:-30}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=$home/$1.log
echo "start \${SLURM_RESTART_COUNT:-0} \$(date +%T)"
srun --kill-on-bad-exit=1 $python train_scripts/train_pretrain_mm.py ${flags[*]} --slurm --name $1
BATCH
  sbatch --parsable "$home/$1.sbatch" > "$home/$1.id"
  while squeue -h -j "$(cat "$home/$1.id")" 2> /dev/null | grep -q .; do sleep 2; done
  grep -a "^start\|stopped after\|results" "$home/$1.log"
}

job undisturbed 60
job limited "${MINUTES:-1}"
"$python" benchmarks/small_runs.py compare "$home/runs/undisturbed" "$home/runs/limited"

refused() {  # refused WORDS COMMAND...: it must end with these words within a minute
  local said
  said=$(timeout 60 "${@:2}" 2>&1) && { echo "not refused: ${*:2}"; exit 1; }
  grep -q "$1" <<< "$said" || { echo "other words: $said"; exit 1; }
  echo "refused: $(grep -m1 -o "error: .*" <<< "$said")"
}
train=("$python" train_scripts/train_pretrain_mm.py "${flags[@]}" --name wrong)
refused "start it with srun" env SLURM_NTASKS=2 "${train[@]}"
refused "this is no SLURM task" "${train[@]}" --slurm
refused "ntasks-per-node" srun -n2 "${train[@]}"
refused "leave --devices out" srun --ntasks-per-node=2 "${train[@]}" --devices 3
echo "all held"
