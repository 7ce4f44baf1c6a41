#!/bin/sh
# Trains on several nodes under Slurm, a rank for each socket:
#     sbatch -N 4 training/cluster/slurm.sh --model DIR --data FILE --recipe v1-stage2 --out runs/first
# A run that Slurm ends at its time limit is told 120 s before, saves, and goes on when the same line is
# submitted again.  Build first: make training.
#SBATCH --job-name=tyto-train
#SBATCH --ntasks-per-socket=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --output=%x-%j.log
threads=$((SLURM_CPUS_ON_NODE / ${SLURM_NTASKS_PER_NODE:-2}))
export OMP_NUM_THREADS=1
exec srun --mpi=pmix --cpu-bind=sockets --cpus-per-task="$threads" \
    build/bin/tyto-train-mpi --threads "$threads" --recompute "$@"
