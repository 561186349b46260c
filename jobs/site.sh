# shellcheck shell=bash disable=SC2034 # read by loop.sh, not run
# What differs from site to site: edit it here, once. A value in the environment goes first:
#   LAUNCHER=mpirun sbatch jobs/train.sbatch RUN.yaml

# What lockstep needs before it can be started, here and in the job.
site_setup()
{
    : # module load openmpi hdf5-parallel
}

# Options of sbatch for every job that submits itself (jobs/train.sbatch RUN.yaml); those on the
# command line go first.
: "${SITE_SBATCH=}" # --account=my-project --partition=batch

# GPUs, where jobs use them; either convention is understood:
#   --gpus-per-node=4   every rank sees the GPUs of its node and takes the one of its local rank
#   --gpus-per-task=1   every rank sees its own GPU only. Not under mpirun, which has no tasks; and
#                       where cgroups hide the others, NCCL cannot use NVLink between the ranks
: "${SITE_GPUS=}" # --gpus-per-node=4

# How ranks are started: srun, mpirun, or auto: srun where Slurm has PMIx, else mpirun.
: "${LAUNCHER=auto}"

# The two commands; number of ranks, cores and nodes are added. srun returns the largest exit code
# of the ranks: not ending all at the first code keeps it the one they agreed on, and if only one
# rank ends, the others are ended after --wait seconds.
: "${SRUN=srun --mpi=pmix --kill-on-bad-exit=0 --wait=30}"
: "${MPIRUN=mpirun --bind-to none}"

# Where to look which file systems ought to be mounted, and how many seconds to wait for the files
# of a run whose file system is not there (yet). 0: not at all.
: "${FSTAB=/etc/fstab}"
: "${FILES_WAIT=300}"

# How many seconds a job tries to be requeued while Slurm's controller does not answer, or refuses;
# not beyond the job's end.
: "${REQUEUE_WAIT=600}"

# The program; empty: the one that was installed or built with these scripts, else from the PATH.
: "${LOCKSTEP=}"
